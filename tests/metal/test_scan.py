"""Scans on the stand-in against the CPU backend: ops, dtypes, directions, layouts, long rows, orders."""

import itertools

import numpy as np
import pytest
from metal_plans import agree, on, values

import mlxr as mx
from mlxr.backends.metal.launch import PLANS

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
REAL = (mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64, *FLOATS)
EXACT = (mx.cummax, mx.cummin)
ORDERS = ("forward", "reverse", "shuffled")
WAYS = [{"reverse": r, "inclusive": i} for r, i in itertools.product((False, True), (False, True))]


def some(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    if dtype.kind == "f":
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)
    return mx.reshape(values(dtype, rng, max(n, 64))[:n], shape)


def close(expected, got, magnitude):
    agree(expected, got, 16 if expected.dtype is mx.float32 else 1, magnitude)


@pytest.mark.parametrize("dtype", REAL, ids=lambda d: d.name)
def test_ops_and_directions(dtype, device):
    x = some(dtype, (5, 40, 34))
    (a,) = on(device, x)
    for axis, way in itertools.product((0, 1, 2), WAYS):
        for function in EXACT:
            agree(function(x, axis, **way), function(a, axis, **way))
        if dtype.kind == "f":
            close(mx.cumsum(x, axis, **way), mx.cumsum(a, axis, **way), 16.0)
            agree(mx.cumprod(1 + x / 64, axis, **way), mx.cumprod(1 + a / 64, axis, **way), 40)
            close(mx.logcumsumexp(x, axis, **way), mx.logcumsumexp(a, axis, **way), 4.0)
        else:
            agree(mx.cumsum(x, axis, **way), mx.cumsum(a, axis, **way))
            agree(mx.cumprod(x, axis, **way), mx.cumprod(a, axis, **way))


@pytest.mark.parametrize("order", ORDERS)
def test_lengths(order, device, backend):
    backend.order = order
    for n in (1, 2, 31, 32, 129, 1024, 1025, 3000, 40000):
        x = some(mx.int32, (n,), n)
        y = some(mx.float32, (n,), n)
        a, b = on(device, x, y)
        for way in WAYS:
            agree(mx.cumsum(x, **way), mx.cumsum(a, **way))
            agree(mx.cummax(y, **way), mx.cummax(b, **way))
        close(mx.cumsum(y), mx.cumsum(b), 300.0)
        close(mx.logcumsumexp(y), mx.logcumsumexp(b), 16.0)
    x = some(mx.int64, (3, 20000), 1)
    (a,) = on(device, x)
    for way in WAYS:
        agree(mx.cumsum(x, 1, **way), mx.cumsum(a, 1, **way))


def test_layouts(device):
    x = some(mx.float32, (6, 7, 40), 2)
    (a,) = on(device, x)
    views = [
        lambda x: x.transpose(2, 0, 1), lambda x: x[::-1, ::2, ::-3], lambda x: mx.broadcast_to(x[:, :1], (6, 3, 40)),
        lambda x: x[2, :, 5],
    ]
    for view in views:
        for axis in range(view(x).ndim):
            agree(mx.cummin(view(x), axis, reverse=True), mx.cummin(view(a), axis, reverse=True))
            close(mx.cumsum(view(x), axis), mx.cumsum(view(a), axis), 16.0)
    assert mx.cumsum(a[:0], 0).shape == (0, 7, 40)


def test_special_values(device):
    row = np.array([1, -np.inf, 2, np.inf, 3, np.nan, 4], np.float32)
    for cut in (3, 5, 7):
        x = mx.array(row[:cut])
        (a,) = on(device, x)
        for function in (mx.cumsum, mx.cumprod, mx.cummax, mx.cummin, mx.logcumsumexp):
            for way in WAYS:
                agree(function(x, **way), function(a, **way), 4)


def test_long_rows_are_cut_into_chunks():
    x, out = mx.zeros((40000,)), mx.zeros((40000,))
    launches = PLANS["cumsum"]((x,), (out,), (0, False, True))
    assert [launch.grid for launch in launches] == [(5, 1, 1), (1, 1, 1), (5, 1, 1)]
    x, out = mx.zeros((200, 40000)), mx.zeros((200, 40000))
    assert [launch.grid for launch in PLANS["cumsum"]((x,), (out,), (1, False, True))] == [(1, 200, 1)]
    assert PLANS["cumsum"]((x,), (out,), (0, False, True))[0].function == "scan_columns_float"


@pytest.mark.parametrize("dtype", [mx.float32, mx.uint8, mx.int64], ids=lambda d: d.name)
def test_checker_finds_nothing(dtype, device, backend):
    backend.checked = True
    x = some(dtype, (3, 1100), 3)
    (a,) = on(device, x)
    agree(mx.cummax(x, 1), mx.cummax(a, 1))
    agree(mx.cummin(x, 0, inclusive=False), mx.cummin(a, 0, inclusive=False))
    if dtype is mx.int64:
        x = some(dtype, (17000,), 4)
        agree(mx.cumsum(x, reverse=True), mx.cumsum(*on(device, x), reverse=True))
