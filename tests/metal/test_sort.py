"""Sorts and searches on the stand-in against the CPU backend: dtypes, ties, NaN, long rows, layouts, orders."""

import numpy as np
import pytest
from metal_plans import agree, on, values

import mlxr as mx
from mlxr.backends.metal.launch import PLANS

REAL = (
    mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64, mx.float16,
    mx.bfloat16, mx.float32,
)


def same_bits(expected, got):
    """Stable sorts keep the bits of what they move: signs of zeros and NaN."""
    agree(expected, got)
    if expected.dtype.kind == "f":
        word = {2: mx.uint16, 4: mx.uint32}[expected.dtype.itemsize]
        agree(expected.view(word), got.view(word))


@pytest.mark.parametrize("dtype", REAL, ids=lambda d: d.name)
def test_dtypes(dtype, device):
    rng = np.random.default_rng(1)
    x = mx.reshape(values(dtype, rng, 240), (6, 40))
    (a,) = on(device, x)
    for axis in (0, 1):
        same_bits(mx.sort(x, axis), mx.sort(a, axis))
        agree(mx.argsort(x, axis), mx.argsort(a, axis))


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
def test_lengths_and_ties(order, device, backend):
    backend.order = order
    rng = np.random.default_rng(2)
    for n in (1, 2, 3, 31, 33, 64, 1000, 1025, 2500, 5000):
        x = mx.array(rng.integers(0, max(2, n // 3), n).astype(np.int32))
        (a,) = on(device, x)
        agree(mx.sort(x), mx.sort(a))
        agree(mx.argsort(x), mx.argsort(a))
    x = mx.array(rng.standard_normal((2, 1500)).astype(np.float16))
    (a,) = on(device, x)
    agree(mx.argsort(x), mx.argsort(a))
    x = mx.array(rng.integers(-9, 9, (3, 1100)))
    (a,) = on(device, x)
    agree(mx.sort(x), mx.sort(a))


def test_layouts(device):
    rng = np.random.default_rng(3)
    x = mx.array(rng.standard_normal((5, 6, 7)).astype(np.float32))
    (a,) = on(device, x)
    views = [lambda x: x.transpose(2, 0, 1), lambda x: x[::-1, :, ::-2], lambda x: mx.broadcast_to(x[:1], (3, 6, 7))]
    for view in views:
        for axis in range(3):
            agree(mx.sort(view(x), axis), mx.sort(view(a), axis))
            agree(mx.argsort(view(x), axis), mx.argsort(view(a), axis))
    assert mx.sort(a[:0]).shape == (0, 6, 7)


@pytest.mark.parametrize("dtype", [mx.float32, mx.uint8, mx.int64, mx.bfloat16], ids=lambda d: d.name)
def test_partitions(dtype, device):
    rng = np.random.default_rng(4)
    x = mx.reshape(values(dtype, rng, 270), (3, 90))
    x = mx.concatenate([x, x[:, ::-3]], 1)  # with equals
    (a,) = on(device, x)
    for k in (0, 20, 89, 119):
        same_bits(mx.partition(x, k), mx.partition(a, k))
        agree(mx.argpartition(x, k), mx.argpartition(a, k))
        same_bits(mx.partition(x.T, k, 0), mx.partition(a.T, k, 0))
    agree(mx.topk(x, 5), mx.topk(a, 5))
    x = mx.reshape(values(dtype, rng, 2200), (2, 1100))
    (a,) = on(device, x)
    agree(mx.argpartition(x, 300), mx.argpartition(a, 300))


def test_search(device):
    rng = np.random.default_rng(5)
    for dtype in (mx.float32, mx.int8, mx.uint64, mx.bfloat16):
        ordered, wanted = mx.sort(values(dtype, rng, 200)), mx.reshape(values(dtype, rng, 60), (4, 15))
        a, b = on(device, ordered, wanted)
        for side in ("left", "right"):
            agree(mx.searchsorted(ordered, wanted, side), mx.searchsorted(a, b, side))
            agree(mx.searchsorted(ordered[::2], wanted.T, side), mx.searchsorted(a[::2], b.T, side))


def test_short_rows_take_one_launch():
    x, out = mx.zeros((7, 1000)), mx.zeros((7, 1000))
    assert [launch.grid for launch in PLANS["sort"]((x,), (out,), (1,))] == [(1, 7, 1)]
    x, out = mx.zeros((5000,)), mx.zeros((5000,))
    names = [launch.function for launch in PLANS["sort"]((x,), (out,), (0,))]
    assert names == ["sort_blocks_uint"] + ["merge_runs_uint"] * 3


@pytest.mark.parametrize("dtype", [mx.float32, mx.uint8, mx.int64], ids=lambda d: d.name)
def test_checker_finds_nothing(dtype, device, backend):
    backend.checked = True
    rng = np.random.default_rng(6)
    x = mx.reshape(values(dtype, rng, 100), (2, 50))
    (a,) = on(device, x)
    for axis in (0, 1):
        agree(mx.sort(x, axis), mx.sort(a, axis))
        agree(mx.partition(x, 1, axis), mx.partition(a, 1, axis))
    agree(mx.searchsorted(mx.sort(x[0]), x[1]), mx.searchsorted(mx.sort(a[0]), a[1]))
    if dtype is mx.float32:
        x = values(dtype, rng, 2100)
        agree(mx.argsort(x), mx.argsort(*on(device, x)))
