"""Quantized matrices and products with them against the CPU backend."""

from __future__ import annotations

import numpy as np
import pytest
from metal_launches import check, run, tensor

import mlxr as mx
from mlxr.backends.metal.launch import PLANS

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
WIDTHS = (1, 2, 3, 4, 5, 6, 8)


def quantized(rng, shape, bits, group_size, dtype=mx.float32):
    words = mx.array(rng.integers(0, 2**32, (*shape[:-1], shape[-1] * bits // 32), np.uint32))
    groups = (*shape[:-1], shape[-1] // group_size)
    scales = mx.array(rng.uniform(0.25, 1.0, groups).astype(np.float32) * np.float32(2.0**-bits)).astype(dtype)
    return words, scales, tensor(rng, groups, dtype)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_quantize_and_back(bits, group_size):
    rng = np.random.default_rng(bits)
    for dtype in FLOATS:
        x = tensor(rng, (3, 256), dtype)
        check("quantize", (x,), (group_size, bits), ulps=1)
        check("dequantize", quantized(rng, (2, 3, 128), bits, group_size, dtype), (group_size, bits, dtype), ulps=1)
    check("quantize", (tensor(rng, (2, 256, 6))[::-1, :, ::2].swapaxes(1, 2),), (group_size, bits), ulps=1)
    w, scales, biases = quantized(rng, (6, 128), bits, group_size)
    check("dequantize", (w[::2], scales[::2], biases[::2].astype(mx.float16)), (group_size, bits, mx.bfloat16), ulps=1)
    check("quantize", (mx.zeros((2, 128)),), (group_size, bits), ulps=1)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("m", [1, 3, 5, 37])
def test_products(bits, transpose, m):
    rng = np.random.default_rng(bits)
    for dtype in FLOATS if bits in (4, 8) else FLOATS[:1]:
        for rows, columns, group_size in ((5, 64, 32), (40, 384, 128)):
            w = quantized(rng, (rows, columns), bits, group_size, dtype)
            k = columns if transpose else rows
            check("quantized_matmul", (tensor(rng, (m, k), dtype), *w), (transpose, group_size, bits), ulps=8,
                  scale=k / 4)


@pytest.mark.parametrize("transpose", [True, False])
def test_layouts(transpose):
    rng = np.random.default_rng(0)
    for m in (2, 6):
        w, scales, biases = quantized(rng, (2, 1, 10, 64), 4, 32)
        inner = 64 if transpose else 5
        parts = [mx.broadcast_to(t[:, :, ::2], (2, 3, 5, t.shape[-1])) for t in (w, scales, biases.astype(mx.float16))]
        x = tensor(rng, (3, 2, inner, 2 * m)).transpose(1, 0, 3, 2)[:, :, ::-2]
        check("quantized_matmul", (x, *parts), (transpose, 32, 4), ulps=12, scale=8.0)
        check("quantized_matmul", (x.astype(mx.bfloat16), *parts), (transpose, 32, 4), ulps=12, scale=8.0)


@pytest.mark.parametrize("transpose", [True, False])
def test_gathered(transpose):
    rng = np.random.default_rng(0)
    lhs, rhs = mx.array([0, 2, 1, 2], dtype=mx.uint32), mx.array([4, 0, 3, 3], dtype=mx.uint32)
    for m in (1, 6):
        w = quantized(rng, (5, 7, 64), 4, 32)
        x = tensor(rng, (3, m, 64 if transpose else 7))
        check("gather_qmm", (x, *w, lhs, rhs), (transpose, 32, 4), ulps=12, scale=8.0)


@pytest.mark.parametrize("m", [2, 6])
def test_an_index_out_of_bounds_is_an_error(m):
    w = quantized(np.random.default_rng(0), (3, 5, 64), 4, 32)
    indices = mx.array([0, 1], dtype=mx.uint32), mx.array([2, 3], dtype=mx.uint32)
    with pytest.raises(mx.errors.BoundsError) as caught:
        run(PLANS["gather_qmm"]((mx.ones((2, m, 64)), *w, *indices), (mx.zeros((2, m, 5)),), (True, 32, 4)))
    assert (caught.value.index, caught.value.size) == (3, 3)


def test_empty():
    w = quantized(np.random.default_rng(0), (0, 64), 4, 32)
    for m in (2, 9):
        check("quantized_matmul", (mx.ones((m, 64)), *w), (True, 32, 4))
        check("quantized_matmul", (mx.ones((m, 0)), *w), (False, 32, 4))
