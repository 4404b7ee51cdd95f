"""Matrix products against the CPU backend."""

from __future__ import annotations

import numpy as np
import pytest
from metal_launches import check, run, tensor

import mlxr as mx
from mlxr.backends.metal.launch import PLANS

FLOATS = (mx.float32, mx.float16, mx.bfloat16)


def swapped(rng, shape, dtype):
    """A matrix of this shape whose columns are contiguous."""
    return tensor(rng, (*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2)


def gaps(rng, shape, dtype):
    """A matrix of this shape with gaps between its elements, walked backwards."""
    return tensor(rng, (*shape[:-2], 2 * shape[-2], 3 * shape[-1]), dtype)[..., ::-2, ::-3]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 8), (3, 5, 2), (33, 31, 17), (70, 40, 100), (2, 3, 600),
                                   (65, 2, 48)])
def test_matmul(dtype, shape):
    m, n, k = shape
    rng = np.random.default_rng(m)
    for make_a in (tensor, swapped, gaps):
        for make_b in (tensor, swapped, gaps):
            check("matmul", (make_a(rng, (m, k), dtype), make_b(rng, (k, n), dtype)), ulps=12, scale=k**0.5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_tiles(dtype):
    rng = np.random.default_rng(0)
    check("matmul", (tensor(rng, (16, 97, 20), dtype), swapped(rng, (16, 20, 66), dtype)), ulps=4, scale=4.0)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 5, 40, 300])
@pytest.mark.parametrize("k", [1, 7, 130])
def test_one_row_and_one_column(dtype, n, k):
    rng = np.random.default_rng(n)
    for make in (tensor, swapped, gaps):
        check("matmul", (make(rng, (1, k), dtype), make(rng, (k, n), dtype)), ulps=12, scale=k**0.5)
        check("matmul", (make(rng, (n, k), dtype), make(rng, (k, 1), dtype)), ulps=12, scale=k**0.5)


def test_stacks():
    rng = np.random.default_rng(0)
    for a, b in [((3, 4, 5), (3, 5, 6)), ((3, 1, 4, 5), (2, 5, 6)), ((4, 5), (2, 3, 5, 6)), ((2, 1, 4), (2, 4, 7)),
                 ((2, 2, 6, 4), (2, 1, 4, 1)), ((1, 4, 5), (1, 5, 6))]:
        check("matmul", (tensor(rng, a), tensor(rng, b)), ulps=4, scale=2.0)
    a = tensor(rng, (3, 4, 2, 5)).transpose(2, 0, 1, 3)
    check("matmul", (a, tensor(rng, (5, 3, 2, 6)).transpose(2, 1, 0, 3)), ulps=4, scale=2.0)


def test_empty():
    for a, b in [((0, 3), (3, 2)), ((3, 0), (0, 2)), ((3, 0), (0, 1)), ((1, 0), (0, 40)), ((2, 0, 3), (3, 2)),
                 ((40, 0), (0, 40))]:
        check("matmul", (mx.ones(a), mx.ones(b)))
    check("addmm", (mx.ones((3, 2)), mx.ones((3, 0)), mx.ones((0, 2))), (2.0, 3.0))


@pytest.mark.parametrize("dtype", FLOATS)
def test_addmm(dtype):
    rng = np.random.default_rng(0)
    for shape in ((33, 40, 9), (1, 40, 9), (33, 1, 9), (5, 6, 700)):
        m, n, k = shape
        a, b = tensor(rng, (2, m, k), dtype), swapped(rng, (k, n), dtype)
        for c in ((), (n,), (m, 1), (m, n), (2, 1, n), (2, m, n)):
            for added in (tensor(rng, c, dtype), tensor(rng, c, dtype)[..., ::-1] if c else tensor(rng, c, dtype)):
                added = mx.broadcast_to(added, (2, m, n))
                check("addmm", (added, a, b), (0.5, -2.0), ulps=12, scale=k**0.5 + 2)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gathered(dtype):
    rng = np.random.default_rng(0)
    lhs, rhs = mx.array([0, 2, 1, 2], dtype=mx.uint32), mx.array([4, 0, 3, 3], dtype=mx.uint32)
    for make_a in (tensor, swapped, gaps):
        for make_b in (tensor, swapped, gaps):
            for m, k, n in ((5, 20, 40), (1, 3, 2), (2, 0, 3)):
                a, b = make_a(rng, (3, m, k), dtype), make_b(rng, (5, k, n), dtype)
                check("gather_mm", (a, b, lhs, rhs), ulps=12, scale=4.0)


def test_an_index_out_of_bounds_is_an_error():
    a, b = mx.ones((2, 3, 4)), mx.ones((3, 4, 5))
    out = mx.zeros((2, 3, 5))
    for indices, index, size in (([0, 2], 2, 2), ([0, 1], 7, 3)):
        lhs, rhs = mx.array(indices, dtype=mx.uint32), mx.array([1, 7 if size == 3 else 2], dtype=mx.uint32)
        with pytest.raises(mx.errors.BoundsError) as caught:
            run(PLANS["gather_mm"]((a, b, lhs, rhs), (out,), ()))
        assert (caught.value.index, caught.value.size) == (index, size)


def test_other_dtypes_are_refused():
    with pytest.raises(mx.errors.UnsupportedOpError):
        check("matmul", (mx.ones((2, 2), dtype=mx.float64), mx.ones((2, 2), dtype=mx.float64)))
    with pytest.raises(mx.errors.UnsupportedOpError):
        check("matmul", (mx.ones((2, 2), dtype=mx.complex64), mx.ones((2, 2), dtype=mx.complex64)))
