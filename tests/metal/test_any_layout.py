"""General kernels on random views against the CPU backend: transposed, stepped, reversed, broadcast in any order."""

import numpy as np
import pytest
from metal_plans import agree, on, values

import mlxr as mx

DTYPES = (mx.bool_, mx.uint8, mx.int16, mx.int32, mx.int64, mx.float16, mx.bfloat16, mx.float32)
ORDERS = ("forward", "reverse", "shuffled")


def some(dtype, shape, rng):
    size = int(np.prod(shape))
    return mx.reshape(values(dtype, rng, max(size, 64))[:size], shape)


def random_view(ndim, shape, rng):
    """Return a function that makes one more view of a tensor of this shape."""
    kind = rng.integers(4)
    if kind == 0:
        axes = [int(k) for k in rng.permutation(ndim)]
        return lambda x: x.transpose(*axes)
    if kind == 1:
        starts = [1 if extent > 1 and rng.random() < 0.3 else None for extent in shape]
        index = tuple(slice(start, None, 2 if start else int(rng.choice([1, 2, -1, -2]))) for start in starts)
        return lambda x: x[index]
    if kind == 2 and ndim < 6:
        extent = int(rng.integers(1, 4))
        return lambda x: mx.broadcast_to(x[None], (extent, *x.shape))
    first = tuple(slice(0, 1) if k == int(rng.integers(ndim)) else slice(None) for k in range(ndim))
    return lambda x: mx.broadcast_to(x[first], x.shape)


def operands(dtype, rng, device):
    """Return a view on the CPU and the same view on the device."""
    shape = tuple(int(n) for n in rng.integers(1, 6, rng.integers(1, 5)))
    if rng.random() < 0.2:
        shape = (*shape[:-1], int(rng.integers(30, 200)))
    x = some(dtype, shape, rng)
    (a,) = on(device, x)
    for _ in range(rng.integers(0, 4)):
        view = random_view(x.ndim, x.shape, rng)
        x, a = view(x), view(a)
    return x, a


def copied(x, a, axis, rng, device):
    agree(mx.contiguous(x), mx.contiguous(a))


def combined(x, a, axis, rng, device):
    agree(mx.maximum(x, x[::-1]), mx.maximum(a, a[::-1]))


def cast(x, a, axis, rng, device):
    to = DTYPES[rng.integers(len(DTYPES))]
    agree(x.astype(to), a.astype(to))


def reduced(x, a, axis, rng, device):
    axes = tuple(int(k) for k in rng.permutation(x.ndim)[: rng.integers(1, x.ndim + 1)])
    agree(mx.max(x, axes), mx.max(a, axes))
    agree(mx.argmin(x, axis), mx.argmin(a, axis))
    if x.dtype.kind != "f":
        agree(mx.sum(x, axes), mx.sum(a, axes))


def scanned(x, a, axis, rng, device):
    way = {"reverse": bool(rng.integers(2)), "inclusive": bool(rng.integers(2))}
    agree(mx.cummax(x, axis, **way), mx.cummax(a, axis, **way))


def ordered(x, a, axis, rng, device):
    agree(mx.argsort(x, axis), mx.argsort(a, axis))


def taken(x, a, axis, rng, device):
    extent = x.shape[axis]
    indices = mx.array(rng.integers(-extent, extent, rng.integers(1, 4, rng.integers(0, 3))).astype(np.int32))
    agree(mx.take(x, indices, axis), mx.take(a, *on(device, indices), axis))


def updated(x, a, axis, rng, device):
    indices = mx.array(rng.integers(0, x.shape[0], 5).astype(np.int32))
    updates = some(x.dtype, (5, *x.shape[1:]), rng)
    i, u = on(device, indices, updates)
    agree(x.at[indices].add(updates), a.at[i].add(u))


def written(x, a, axis, rng, device):
    y = some(x.dtype, x.shape, rng)
    (b,) = on(device, y)
    part = tuple(slice(None, None, int(rng.choice([1, -1, 2]))) for _ in x.shape)
    y[part], b[part] = x[part], a[part]
    agree(y, b)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "check", [copied, combined, cast, reduced, scanned, ordered, taken, updated, written], ids=lambda f: f.__name__
)
def test_random_views(check, order, device, backend):
    backend.order = order
    rng = np.random.default_rng([ORDERS.index(order), *check.__name__.encode()])
    for _ in range(25):
        x, a = operands(DTYPES[rng.integers(len(DTYPES))], rng, device)
        check(x, a, int(rng.integers(x.ndim)), rng, device)
