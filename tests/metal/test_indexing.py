"""Gather and scatter on the stand-in against the CPU backend: dtypes, modes, duplicates, layouts, wrong indices."""

import numpy as np
import pytest
from metal_plans import agree, on, values

import mlxr as mx
from mlxr.backends.metal.launch import PLANS, Fault
from mlxr.core.dispatch import apply
from mlxr.core.primitive import registry

REAL = (
    mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64, mx.float16,
    mx.bfloat16, mx.float32,
)
INDEX = (mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64)
ORDERS = ("forward", "reverse", "shuffled")


def some(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    if dtype is mx.complex64:
        return mx.array((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64))
    if dtype.kind == "f":
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)
    return mx.reshape(values(dtype, rng, max(n, 64))[:n], shape)


def picks(shape, extent, dtype=mx.int32, seed=1):
    low = 0 if dtype.kind == "u" else -extent
    return mx.array(np.random.default_rng(seed).integers(low, extent, shape)).astype(dtype)


@pytest.mark.parametrize("dtype", [*REAL, mx.complex64], ids=lambda d: d.name)
def test_take(dtype, device):
    x = some(dtype, (7, 5, 9))
    i, j = picks((4, 3), 5), picks((6,), 9, mx.int64)
    a, b, c = on(device, x, i, j)
    agree(mx.take(x, i, 1), mx.take(a, b, 1))
    agree(mx.take(x, j, -1), mx.take(a, c, -1))
    agree(x[:, i], a[:, b])
    agree(x[i[:, 0] % 5, :, j[:4]], a[b[:, 0] % 5, :, c[:4]])
    agree(x[picks((2,), 7)], a[on(device, picks((2,), 7))[0]])
    k = picks((7, 2, 9), 5, seed=2)
    agree(mx.take_along_axis(x, k, 1), mx.take_along_axis(a, on(device, k)[0], 1))


@pytest.mark.parametrize("index", INDEX, ids=lambda d: d.name)
def test_dtypes_of_indices(index, device):
    x = some(mx.float32, (11, 4))
    i = picks((13,), 11, index)
    a, b = on(device, x, i)
    agree(mx.take(x, i, 0), mx.take(a, b, 0))
    agree(x.at[i].add(1.0), a.at[b].add(1.0))


@pytest.mark.parametrize("order", ORDERS)
def test_layouts(order, device, backend):
    backend.order = order
    x, i = some(mx.float32, (6, 8, 10)), picks((5, 4), 6)
    a, b = on(device, x, i)
    views = [
        lambda x: x.transpose(1, 0, 2)[:6], lambda x: x[::-1, ::2, ::-3],
        lambda x: mx.broadcast_to(x[:, :1], (6, 3, 10)),
    ]
    for view in views:
        agree(mx.take(view(x), i.T, 0), mx.take(view(a), b.T, 0))
        agree(mx.take(view(x), i[::-1, 0] % 3, 1), mx.take(view(a), b[::-1, 0] % 3, 1))
        k = picks((2, *view(x).shape[1:]), 6)
        agree(mx.take_along_axis(view(x), k[::-1], 0), mx.take_along_axis(view(a), on(device, k)[0][::-1], 0))
    assert mx.take(a, mx.zeros((0,), mx.int32, device=device), 0).shape == (0, 8, 10)


@pytest.mark.parametrize("dtype", REAL, ids=lambda d: d.name)
def test_updates_in_order(dtype, device):
    """Repeated indices take every update, one after another, with the CPU's bits in every mode."""
    x, updates = some(dtype, (9, 4)), some(dtype, (25, 4), 3)
    i = picks((25,), 9)
    a, u, j = on(device, x, updates, i)
    for mode in ("add", "multiply", "maximum", "minimum"):
        agree(getattr(x.at[i], mode)(updates), getattr(a.at[j], mode)(u))
    x[i], a[j] = updates, u
    agree(x, a)


@pytest.mark.parametrize("order", ORDERS)
def test_scatter_layouts(order, device, backend):
    backend.order = order
    x = some(mx.bfloat16, (5, 6, 300))
    i, j = picks((4, 7), 5), picks((4, 7), 6, seed=4)
    updates = some(mx.bfloat16, (300, 7, 4), 5).T
    a, u, k, m = on(device, x, mx.contiguous(updates), i, j)
    agree(x.at[i, j].add(updates), a.at[k, m].add(u))
    agree(x.at[:, j[0]].add(1.5), a.at[:, m[0]].add(1.5))
    agree(x.at[i[::-1].T, j[::-1].T].maximum(0.25), a.at[k[::-1].T, m[::-1].T].maximum(0.25))
    agree(x[::2].at[i % 3, 1].add(2.0), a[::2].at[k % 3, 1].add(2.0))


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.int8, mx.complex64], ids=lambda d: d.name)
def test_put_along_axis(dtype, device):
    x, updates = some(dtype, (6, 7, 5)), some(dtype, (6, 9, 5), 6)
    i = picks((6, 9, 5), 7)
    a, u, j = on(device, x, updates, i)
    agree(mx.put_along_axis(x, i, updates, 1), mx.put_along_axis(a, j, u, 1))
    if dtype is not mx.complex64:
        put = registry["put_along_axis"]
        for mode in ("add", "prod", "max", "min"):
            agree(apply(put, (x, i, updates), (1, mode)), apply(put, (a, j, u), (1, mode)))
    agree(mx.put_along_axis(x.T, i.T, updates.T, 1), mx.put_along_axis(a.T, j.T, u.T, 1))


def test_many_updates_are_merged(device):
    x, updates, i = mx.zeros((50,)), some(mx.float32, (3000,), 7), picks((3000,), 50, seed=8)
    a, u, j = on(device, x, updates, i)
    agree(x.at[i].add(updates), a.at[j].add(u))


def test_wrong_indices_raise_and_touch_nothing(device):
    x = some(mx.float32, (5, 6))
    (a,) = on(device, x)
    for bad in (5, -6, 2**40, -(2**62)):
        i = mx.array(np.array([0, bad, 2]), device=device)
        for function in (
            lambda i=i: mx.take(a, i, 0),
            lambda i=i: a[i],
            lambda i=i: a.at[i].add(1.0),
            lambda i=i: mx.take_along_axis(a, i[:, None], 0),
            lambda i=i: mx.put_along_axis(a, i[:, None], mx.ones((3, 1), device=device), 0),
        ):
            with pytest.raises(mx.errors.BoundsError, match=f"index {bad} is out of bounds for axis 0") as e:
                function()
            assert (e.value.facts["index"], e.value.facts["axis"], e.value.facts["size"]) == (bad, 0, 5)
    agree(x, a)
    huge = mx.array(np.array([2**64 - 1], np.uint64), device=device)
    with pytest.raises(mx.errors.BoundsError):
        mx.take(a, huge, 0)
    with pytest.raises(mx.errors.BoundsError, match="axis 1 with size 6"):
        a[mx.array([1], device=device), mx.array([6], device=device)]


def test_masks(device):
    x = some(mx.float32, (40, 70))
    (a,) = on(device, x)
    agree(x[x > 0.5], a[a > 0.5])
    agree(x[x[:, 0] > 0], a[a[:, 0] > 0])
    agree(x.T[x.T > 1], a.T[a.T > 1])
    x[x < -1], a[a < -1] = 0.0, 0.0
    agree(x, a)
    long = mx.array(np.random.default_rng(9).random(300_000) > 0.7)
    agree(mx.array(np.arange(300_000))[long], mx.array(np.arange(300_000), device=device)[on(device, long)[0]])


def test_gradients_of_embeddings(device):
    table, tokens = some(mx.float32, (20, 16)), picks((3, 30), 20)
    a, b = on(device, table, tokens)
    loss = lambda t, i: mx.sum(mx.square(mx.take(t, i, 0)))  # noqa: E731
    agree(mx.grad(loss)(table, tokens), mx.grad(loss)(a, b))


def test_slices_that_can_overlap_are_refused():
    x, i, updates = mx.zeros((9,)), mx.zeros((2,), mx.int32), mx.zeros((2, 3))
    with pytest.raises(mx.errors.UnsupportedOpError, match="overlap"):
        PLANS["scatter"]((x, i, updates), (x,), ((0,), (3,), "add"))


def test_slices_longer_than_one(device):
    x, i = some(mx.float32, (9, 4)), mx.array(3)
    updates = some(mx.float32, (3, 4), 10)
    a, j, u = on(device, x, i, updates)
    agree(apply(registry["gather"], (x, i), ((0,), (3, 2))), apply(registry["gather"], (a, j), ((0,), (3, 2))))
    params = ((0,), (3, 4), "add")
    agree(apply(registry["scatter"], (x, i, updates), params), apply(registry["scatter"], (a, j, u), params))
    with pytest.raises(mx.errors.BoundsError):
        apply(registry["gather"], (a, mx.array(7, device=device)), ((0,), (3, 2)))


def test_record_of_a_fault():
    fault = Fault("take", (0, 1), (5, 6))
    assert fault.error(bytes(16)) is None
    error = fault.error(b"\1\0\0\0\1\0\0\0" + (-9).to_bytes(8, "little", signed=True))
    assert error.facts == {"op": "take", "index": -9, "axis": 1, "size": 6}


@pytest.mark.parametrize("dtype", [mx.float32, mx.uint8, mx.int64], ids=lambda d: d.name)
def test_checker_finds_nothing(dtype, device, backend):
    backend.checked = True
    x, updates, i = some(dtype, (9, 4)), some(dtype, (12, 4), 3), picks((12,), 9)
    a, u, j = on(device, x, updates, i)
    agree(mx.take(x, i, 0), mx.take(a, j, 0))
    agree(x.at[i].add(updates), a.at[j].add(u))
    agree(mx.put_along_axis(x, i[:, None], updates[:, :1], 0), mx.put_along_axis(a, j[:, None], u[:, :1], 0))
    agree(x[x > 3], a[a > 3])
    with pytest.raises(mx.errors.BoundsError):
        a[mx.array([1, 99, 98], device=device)]
