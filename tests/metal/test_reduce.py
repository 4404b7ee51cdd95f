"""Reductions on the stand-in against the CPU backend: ops, dtypes, axes, layouts, parts of long rows, orders."""

import numpy as np
import pytest
from metal_plans import agree, on, values

import mlxr as mx
from mlxr.backends.metal.launch import PLANS

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
REAL = (
    mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64, *FLOATS,
)
ORDERS = ("forward", "reverse", "shuffled")
EXACT = {"max": mx.max, "min": mx.min, "all": mx.all, "any": mx.any}
POSITIONS = {"argmax": mx.argmax, "argmin": mx.argmin}
AXES = (None, 0, 1, 2, (0, 1), (0, 2), (1, 2))


def some(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    if dtype.kind == "f":
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)
    return mx.reshape(values(dtype, rng, max(n, 64))[:n], shape)


def close(expected, got, magnitude):
    """Sums of floats: both sides round partial sums, relative to the largest that occur."""
    agree(expected, got, 8 if expected.dtype is mx.float32 else 1, magnitude)


@pytest.mark.parametrize("dtype", REAL, ids=lambda d: d.name)
def test_ops_and_axes(dtype, device):
    x = some(dtype, (5, 12, 33))
    (a,) = on(device, x)
    for axes in AXES:
        for function in EXACT.values():
            agree(function(x, axes), function(a, axes))
        if dtype.kind == "f":
            close(mx.sum(x, axes), mx.sum(a, axes), 20.0)
            agree(mx.prod(1 + x / 64, axes), mx.prod(1 + a / 64, axes), 100 if dtype is mx.float32 else 2)
        else:
            agree(mx.sum(x, axes), mx.sum(a, axes))
            agree(mx.prod(x, axes), mx.prod(a, axes))
        close(mx.mean(x, axes), mx.mean(a, axes), max(1.0, abs(float(mx.max(mx.abs(x.astype(mx.float32)))))))
        agree(mx.logsumexp(x, axes), mx.logsumexp(a, axes), 4 if mx.logsumexp(x).dtype is mx.float32 else 1, 1.0)
        for function in POSITIONS.values():
            if not isinstance(axes, tuple):
                agree(function(x, axes), function(a, axes))


@pytest.mark.parametrize("dtype", [*FLOATS, mx.int16, mx.bool_], ids=lambda d: d.name)
def test_variance(dtype, device):
    x = some(dtype, (6, 7, 30), 1)
    x = x + 100 if dtype is mx.float32 else mx.abs(x) % 50 if dtype is mx.int16 else x
    (a,) = on(device, x)
    for axes in AXES:
        for ddof in (0, 1):
            agree(mx.var(x, axes, ddof=ddof), mx.var(a, axes, ddof=ddof), 30 if dtype is not mx.float16 else 1)
    agree(mx.var(x[:1, :1, :1], ddof=1), mx.var(a[:1, :1, :1], ddof=1))
    agree(mx.std(x, 0), mx.std(a, 0), 30)


@pytest.mark.parametrize("order", ORDERS)
def test_layouts(order, device, backend):
    backend.order = order
    x = some(mx.float32, (8, 9, 40), 2)
    (a,) = on(device, x)
    views = [
        lambda x: x.transpose(2, 0, 1), lambda x: x[::-1, ::2, ::-3], lambda x: mx.broadcast_to(x[:, :1], (8, 3, 40)),
        lambda x: x[2, :, 5], lambda x: mx.diagonal(x, 0, 0, 1),
    ]
    for view in views:
        for axis in range(view(x).ndim):
            agree(mx.max(view(x), axis), mx.max(view(a), axis))
            agree(mx.argmin(view(x), axis), mx.argmin(view(a), axis))
            close(mx.sum(view(x), axis), mx.sum(view(a), axis), 10.0)
        close(mx.sum(view(x)), mx.sum(view(a)), 100.0)


@pytest.mark.parametrize("order", ORDERS)
def test_long_reductions_are_cut_into_parts(order, device, backend):
    backend.order = order
    for shape, axes in [((50001,), None), ((2, 20000), 1), ((3000, 40), 0), ((2, 1500, 33), 1)]:
        x = some(mx.float32, shape, 3)
        (a,) = on(device, x)
        for function in (mx.max, mx.min, mx.argmax, mx.argmin):
            agree(function(x, axes), function(a, axes))
        close(mx.sum(x, axes), mx.sum(a, axes), 300.0)
        close(mx.mean(x, axes), mx.mean(a, axes), 0.1)
        agree(mx.var(x, axes), mx.var(a, axes), 16)
        agree(mx.logsumexp(x, axes), mx.logsumexp(a, axes), 8)
        n = (x > 0).astype(mx.int8)
        agree(mx.sum(n, axes), mx.sum(*on(device, n), axes))
        agree(mx.all(n > -1, axes), mx.all(on(device, n)[0] > -1, axes))
    x, out = mx.zeros((50001,)), mx.zeros(())
    assert [launch.grid for launch in PLANS["sum"]((x,), (out,), ((0,),))] == [(1, 6, 1), (1, 1, 1)]


def test_positions_of_equals_and_nan(device):
    rows = np.zeros((6, 300), np.float32)
    rows[1, [40, 200]] = 5
    rows[2, [299, 7]] = np.nan
    rows[3] = -np.inf
    rows[4] = np.inf
    rows[5, 100:] = -1
    x = mx.array(rows)
    (a,) = on(device, x)
    for axis in (0, 1):
        for function in (mx.argmax, mx.argmin, mx.max, mx.min):
            agree(function(x, axis), function(a, axis))
    long = np.ones(40000, np.float32)
    for spots in ([39999], [100, 30000], []):
        long[spots] = np.nan
        agree(mx.argmax(mx.array(long)), mx.argmax(mx.array(long, device=device)))
        agree(mx.argmin(mx.array(-long)), mx.argmin(mx.array(-long, device=device)))


def test_special_values(device):
    for row in ([np.inf, -np.inf], [-np.inf, -np.inf], [np.inf, 1.0], [np.nan, 1.0], [0.0, -0.0], [200.0, 200.0]):
        x = mx.array(np.array(row, np.float32))
        (a,) = on(device, x)
        for function in (mx.sum, mx.prod, mx.max, mx.min, mx.mean, mx.logsumexp, mx.var, mx.all, mx.any):
            agree(function(x), function(a), 1)


def test_nothing_to_reduce(device):
    for dtype in (mx.float32, mx.int8, mx.uint16, mx.bool_):
        x = mx.zeros((0, 3), dtype)
        (a,) = on(device, x)
        for function in (mx.sum, mx.prod, mx.all, mx.any, mx.logsumexp, mx.mean):
            agree(function(x, 0), function(a, 0))
            agree(function(x, 1), function(a, 1))


def test_complex_is_refused(device):
    x = mx.array(np.ones(3, np.complex64), device=device)
    with pytest.raises(mx.errors.UnsupportedOpError, match="complex64"):
        mx.sum(x)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.int8, mx.uint64], ids=lambda d: d.name)
def test_checker_finds_nothing(dtype, device, backend):
    backend.checked = True
    x = some(dtype, (3, 4, 40), 4)
    (a,) = on(device, x)
    for axes in (None, 0, 2):
        agree(mx.max(x, axes), mx.max(a, axes))
        agree(mx.argmax(x, axes), mx.argmax(a, axes))
        close(mx.sum(x, axes), mx.sum(a, axes), 20.0)
    if dtype is mx.float32:
        x = some(dtype, (17000,), 5)
        (a,) = on(device, x)
        close(mx.sum(x), mx.sum(a), 200.0)
        agree(mx.argmin(x), mx.argmin(a))
        agree(mx.var(x), mx.var(a), 16)
