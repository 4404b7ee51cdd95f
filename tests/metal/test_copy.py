"""Copies on the stand-in against the CPU backend: layouts, casts, transposes, ranges, parts of results, writes."""

import itertools

import numpy as np
import pytest
from metal_plans import agree, on, values

import mlxr as mx
from mlxr.backends.metal.copy import View, copies, view_of
from mlxr.backends.metal.launch import PLANS

REAL = (
    mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64, mx.float16,
    mx.bfloat16, mx.float32,
)
ORDERS = ("forward", "reverse", "shuffled")


def some(dtype, shape, seed=0):
    """Return a CPU tensor of any dtype."""
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    if dtype is mx.complex64:
        return mx.array((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64))
    return mx.reshape(values(dtype, rng, max(n, 64))[:n], shape)


VIEWS = {
    "transposed": lambda x: x.transpose(2, 0, 1),
    "reversed": lambda x: x[::-1, :, ::-1],
    "stepped": lambda x: x[:, 1::2, ::3],
    "broadcast": lambda x: mx.broadcast_to(x[:, :1], (4, *x[:, :1].shape)),
    "scalar": lambda x: mx.broadcast_to(x[1, 1, 1], (3, 5)),
    "diagonal": lambda x: mx.diagonal(x, 0, 1, 2),
    "empty": lambda x: x[:, 2:2].T,
    "window": lambda x: mx.as_strided(x, (5, 4), (3, 2), 7),
}


@pytest.mark.parametrize("dtype", [*REAL, mx.complex64], ids=lambda d: d.name)
def test_layouts(dtype, device):
    x = some(dtype, (4, 6, 7))
    (there,) = on(device, x)
    for view in VIEWS.values():
        got = mx.contiguous(view(there))
        assert got.is_contiguous
        agree(mx.contiguous(view(x)), got)


@pytest.mark.parametrize("source", [*REAL, mx.complex64], ids=lambda d: d.name)
def test_casts(source, device):
    x = some(source, (300,), 1)
    (there,) = on(device, x)
    for target in (*REAL, mx.complex64):
        agree(x.astype(target), there.astype(target))
        agree(x[::-2].astype(target), there[::-2].astype(target))


def test_casts_of_numbers_that_do_not_fit(device):
    edges = [2.0**31, 2.0**31 - 128, -(2.0**31), 2.0**32, 2.0**63, 2.0**64, -(2.0**63), 3e38, np.inf, -np.inf, np.nan,
             255.5, 256.0, 65535.9, -1.5, -0.5, 1e-40]
    x = mx.array(np.array(edges, np.float32))
    (there,) = on(device, x)
    for target in REAL:
        agree(x.astype(target), there.astype(target))


@pytest.mark.parametrize("order", ORDERS)
def test_transposes_through_tiles(order, device, backend):
    backend.order = order
    cases = [(mx.float32, (70, 45)), (mx.int8, (33, 64)), (mx.float16, (3, 40, 17)), (mx.complex64, (2, 32, 31))]
    for dtype, shape in cases:
        x = some(dtype, shape, 2)
        (there,) = on(device, x)
        agree(mx.contiguous(mx.swapaxes(x, -1, -2)), mx.contiguous(mx.swapaxes(there, -1, -2)))
        if len(shape) == 3:
            agree(mx.contiguous(x.T), mx.contiguous(there.T))
    launches = PLANS["copy"]((there.T,), (mx.zeros((31, 32, 2), mx.complex64),), ())
    assert launches[0].function.startswith("copy")  # two columns are not worth a tile
    launches = copies("copy", view_of(mx.zeros((64, 48)).T), view_of(mx.zeros((48, 64))))
    assert [launch.function for launch in launches] == ["transpose_4"]
    assert launches[0].grid == (2, 2, 1)


def test_ranges(device):
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        for start, stop, step in [(0, 10, 0.7), (-3.3, 5, 0.1), (1e6, 1e6 + 40, 0.25), (5, -5, -0.3), (0, 1, 1)]:
            expected = mx.arange(start, stop, step, dtype)
            agree(expected, mx.arange(start, stop, step, dtype, device=device), 1, max(abs(start), abs(stop)))
    for dtype in (mx.int8, mx.uint8, mx.int16, mx.uint32, mx.int64, mx.uint64):
        for start, stop, step in [(0, 300, 1), (50, -50, -7), (2, 9, 3)]:
            agree(mx.arange(start, stop, step, dtype), mx.arange(start, stop, step, dtype, device=device))
        agree(mx.arange(0.5, 9.9, 1.7, dtype), mx.arange(0.5, 9.9, 1.7, dtype, device=device))
    # beyond 2**24, float32 has no room for the index: the sum is rounded once nevertheless
    (launch,) = PLANS["arange"]((), (mx.zeros(2**25),), (0.0, 0.1))
    assert launch.grid == (2**25 // 1024, 1, 1)


def test_long_ranges_are_rounded_once(device):
    agree(mx.arange(0, 70000 * 0.1, 0.1), mx.arange(0, 70000 * 0.1, 0.1, device=device), 1)


def test_constants(device):
    for dtype in (*REAL, mx.complex64):
        agree(mx.full((3, 5), 1, dtype), mx.full((3, 5), 1, dtype, device=device))
    agree(mx.eye(5, 7, k=1), mx.eye(5, 7, k=1, device=device))
    agree(mx.tri(6, k=-1, dtype=mx.int32), mx.tri(6, k=-1, dtype=mx.int32, device=device))
    assert mx.full((0, 3), 2.0, device=device).shape == (0, 3)


@pytest.mark.parametrize("order", ORDERS)
def test_parts_of_results(order, device, backend):
    backend.order = order
    for dtype in (mx.float32, mx.bfloat16, mx.uint8, mx.complex64):
        x, y = some(dtype, (4, 5, 6), 3), some(dtype, (4, 2, 6), 4)
        a, b = on(device, x, y)
        for axis, first, second in [(1, lambda x: x, lambda y: y), (0, lambda x: x[:, :2], lambda y: y[::-1]),
                                    (-1, lambda x: x[:, 1:3].transpose(1, 0, 2), lambda y: y.transpose(1, 0, 2))]:
            agree(mx.concatenate([first(x), second(y)], axis), mx.concatenate([first(a), second(b)], axis))
        agree(mx.pad(x, [(1, 0), (0, 2), (3, 1)]), mx.pad(a, [(1, 0), (0, 2), (3, 1)]))
        agree(mx.stack([x, x[::-1]], 1), mx.stack([a, a[::-1]], 1))
        agree(mx.roll(x, 2, 1), mx.roll(a, 2, 1))
        agree(mx.repeat(x, 3, 2), mx.repeat(a, 3, 2))
        agree(mx.tile(x, (2, 1, 2)), mx.tile(a, (2, 1, 2)))


def test_writes_in_place(device):
    for dtype in (mx.float32, mx.int8, mx.complex64):
        x = some(dtype, (6, 7), 5)
        (a,) = on(device, x)
        x, a = mx.contiguous(x + x), mx.contiguous(a if dtype is mx.complex64 else a + a)
        if dtype is mx.complex64:
            x = some(dtype, (6, 7), 5)
        for change in (
            lambda t: t.__setitem__((slice(1, 4), slice(None, None, 2)), 3),
            lambda t: t.__setitem__(slice(None, None, -2), t[0]),
            lambda t: t.__setitem__((Ellipsis, 2), t[1, 1]),
            lambda t: t.__setitem__((slice(4, 0, -1), slice(5, 1, -3)), t[:4, :2]),
        ):
            change(x)
            change(a)
            agree(x, a)


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_checker_finds_nothing(itemsize, device, backend):
    backend.checked = True
    dtype = {1: mx.uint8, 2: mx.float16, 4: mx.float32, 8: mx.int64}[itemsize]
    x = some(dtype, (35, 18), 6)
    (a,) = on(device, x)
    for view in (lambda x: x.T, lambda x: x[::-1], lambda x: x[1:, ::2], lambda x: mx.broadcast_to(x[2], (3, 18))):
        agree(mx.contiguous(view(x)), mx.contiguous(view(a)))
        agree(view(x).astype(mx.int16), view(a).astype(mx.int16))
    agree(mx.arange(9, dtype=dtype), mx.arange(9, dtype=dtype, device=device))


def test_plans_move_what_they_must():
    x = mx.zeros((4, 5, 6))
    (launch,) = copies("copy", view_of(x[:, ::-1]), view_of(mx.zeros((4, 5, 6))))
    at = launch.arguments[0]
    assert (at.tensor.shape, at.offset) == ((4, 5, 6), -4 * 6 * 4)
    assert copies("copy", view_of(x[:0]), view_of(mx.zeros((0, 5, 6)))) == []
    far = View(x, mx.float32, (2, 2), (2**31, 1))
    with pytest.raises(mx.errors.UnsupportedOpError, match="2\\*\\*31"):
        copies("copy", far, view_of(mx.zeros((2, 2))))


def test_every_pair_of_layouts_agrees(device):
    """Copies into strided targets, from strided sources: what slice updates are made of."""
    x = mx.zeros((6, 8), mx.int32)
    (a,) = on(device, x)
    update = mx.reshape(mx.arange(12, dtype=mx.int32), (3, 4))
    (b,) = on(device, update)
    rows, columns = [slice(0, 3), slice(1, 6, 2), slice(5, 2, -1)], [slice(0, 4), slice(None, None, 2), slice(7, 3, -1)]
    for r, c in itertools.product(rows, columns):
        for value, other in [(update, b), (update[::-1], b[::-1]), (update[:, :1], b[:, :1]), (update[1], b[1])]:
            agree(x.at[r, c].add(value), a.at[r, c].add(other))
