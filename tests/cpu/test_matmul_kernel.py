"""The order of operations of the matmul kernels, element by element, and their paths against each other.

The order is the one stated in mlxr/cpu/kernels/matmul.pxd. The shapes are chosen to take every path of the plan: dot,
matrix-vector both ways round, few rows, few columns, tall slices, several passes over k, quantized rows.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

import mlxr as mx
from mlxr.cpu import select

BLOCK = 512
fused = pytest.mark.skipif(select.choose() == "v2", reason="v2 has no fused multiply-add")


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def fma(a, b, c) -> np.float32:
    return np.float32(float(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))))


def element(row, column) -> np.float32:
    """Return one element of a product, by the order that is promised."""
    total = None
    for start in range(0, len(row), BLOCK):
        part = np.float32(0)
        for a, b in zip(row[start : start + BLOCK], column[start : start + BLOCK], strict=True):
            part = fma(a, b, part)
        total = part if total is None else np.float32(total + part)
    return total


@fused
@pytest.mark.parametrize("k", [1, 17, BLOCK, 2 * BLOCK + 6])
def test_an_element_is_the_promised_chain(k):
    a, b = numbers(3, k), numbers(k, 5, seed=1)
    product = np.array(mx.array(a) @ mx.array(b))
    for i, j in itertools.product(range(3), (0, 4)):
        assert product[i, j] == element(a[i], b[:, j])


def paired_element(row, column) -> np.float32:
    """Return one element of a product of bfloat16 matrices: odd k before even, subnormals taken as zero."""

    def flushed(x) -> np.float32:
        return np.float32(0) if abs(x) < np.finfo(np.float32).tiny else np.float32(x)

    row, column = ([flushed(x) for x in values] + [np.float32(0)] * (len(values) % 2) for values in (row, column))
    total = None
    for start in range(0, len(row), BLOCK):
        part = np.float32(0)
        for k in range(start, min(start + BLOCK, len(row)), 2):
            part = flushed(fma(row[k + 1], column[k + 1], part))
            part = flushed(fma(row[k], column[k], part))
        total = part if total is None else flushed(np.float32(total + part))
    return total


def bfloat16(x: np.ndarray) -> mx.array:
    return mx.array(x).astype(mx.bfloat16)


# (M, N, K) of products that read the right operand where it lies, from a panel, transposed, and as single columns.
@fused
@pytest.mark.parametrize("shape", [(3, 40, 1), (3, 40, 17), (1, 40, 2 * BLOCK + 7), (50, 40, BLOCK), (1, 1, 3 * BLOCK)])
@pytest.mark.parametrize("scale", [1.0, 2.0**-60])
def test_an_element_of_a_bfloat16_product_is_the_promised_chain_of_pairs(shape, scale):
    """The small scale makes products of normal numbers that are subnormal, and sums of them that are not."""
    m, n, k = shape
    a, b = bfloat16(numbers(m, k) * np.float32(scale)), bfloat16(numbers(k, n, seed=1) * np.float32(2.0**-2 * scale))
    left, right = np.array(a.astype(mx.float32)), np.array(b.astype(mx.float32))
    for product in (a @ b, mx.contiguous(a.T).T @ mx.contiguous(b.T).T):
        values = np.array(product.astype(mx.float32))
        for i, j in itertools.product({0, m - 1}, {0, n - 1}):
            expected = bfloat16(paired_element(left[i], right[:, j]))
            assert values[i, j] == np.array(expected.astype(mx.float32))


@fused
@pytest.mark.parametrize("shape", [(1, 64), (5, 64), (40, 64), (1, 1), (64, 1)])
@pytest.mark.parametrize("k", [38, BLOCK + 40])
def test_the_last_bit_of_a_sum_of_bfloat16_products(shape, k):
    """The sum of the first element is cancelled but for its last eight bits, which bfloat16 then shows."""
    m, n = shape
    a, b = np.array(bfloat16(numbers(m, k)).astype(mx.float32)), np.array(bfloat16(numbers(k, n)).astype(mx.float32))
    a[0, -2:] = 0
    total = paired_element(a[0], b[:, 0])
    high = np.array(bfloat16(total).astype(mx.float32))
    a[0, -1], a[0, -2] = high, np.array(bfloat16(total - high).astype(mx.float32))
    b[-2:, 0] = -1
    rest = paired_element(a[0], b[:, 0])
    assert rest != 0
    x, y = bfloat16(a), bfloat16(b)
    for product in (x @ y, mx.contiguous(x.T).T @ mx.contiguous(y.T).T):
        assert float(product[0, 0]) == rest


@fused
def test_alpha_and_beta_come_last():
    a, b, c = numbers(2, 600), numbers(600, 3, seed=1), numbers(2, 3, seed=2)
    out = np.array(mx.addmm(mx.array(c), mx.array(a), mx.array(b), alpha=0.7, beta=1.3))
    scaled = np.float32(0.7) * element(a[1], b[:, 2])
    assert out[1, 2] == fma(np.float32(1.3), c[1, 2], scaled)


SHAPES = [(1, 1, 1500), (1, 700, 600), (1, 80, 9), (1, 24, 5), (700, 1, 600), (5, 1900, 90), (33, 700, 1100),
          (100, 800, 70), (130, 150, 600), (600, 3, 40), (2100, 20, 40), (3, 4, 9000), (30, 40, 9000), (300, 300, 1)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "complex64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_path_gives_the_bits_of_a_row_times_a_matrix(shape, dtype):
    m, n, k = shape
    a = mx.array(numbers(m, k)).astype(getattr(mx, dtype))
    b = mx.array(numbers(k, n, seed=1)).astype(getattr(mx, dtype))
    if dtype == "complex64":
        a, b = a * (1 + 0.5j), b * (1 - 0.25j)
    wide = np.complex128 if dtype == "complex64" else np.float64

    def values(x):
        return np.array(x if dtype in ("float64", "complex64") else x.astype(mx.float32)).astype(wide)

    whole = values(a @ b)
    assert np.array_equal(whole, values(mx.contiguous(a.T).T @ mx.contiguous(b.T).T))
    for i in {0, m // 2, m - 1}:
        assert np.array_equal(whole[i : i + 1], values(a[i : i + 1] @ b))
    for j in {0, n - 1}:
        assert np.array_equal(whole[:, j : j + 1], values(a @ b[:, j : j + 1]))
    exact, size = values(a) @ values(b), np.abs(values(a)) @ np.abs(values(b))
    bound = {"float64": 1e-13, "float16": 2e-3, "bfloat16": 1e-2}.get(dtype, 1e-5)
    assert np.max(np.abs(whole - exact) / size) < bound


def test_nothing_is_skipped_and_nothing_is_left():
    zeros, bad = np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32)
    bad[1, 1], bad[0, 2] = np.nan, np.inf
    assert np.isnan(np.array(mx.array(zeros) @ mx.array(bad))).tolist() == [[False, True, True]] * 3
    assert not np.array(mx.zeros((3, 0)) @ mx.zeros((0, 40))).any()
    assert (mx.zeros((0, 3)) @ mx.zeros((3, 5))).shape == (0, 5)


@fused
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("m", [1, 7, 70])
def test_a_quantized_product_is_the_product_with_weights_rounded_once(bits, m):
    words, scales, biases = mx.quantize(mx.array(numbers(40, 640)), 64, bits)
    stream = np.unpackbits(np.array(words).view(np.uint8), axis=-1, bitorder="little").reshape(40, 640, bits)
    q = (stream.astype(np.float64) * 2.0 ** np.arange(bits)).sum(-1)
    scale, bias = (np.array(x).astype(np.float64).repeat(64, -1) for x in (scales, biases))
    w = mx.array((scale * q + bias).astype(np.float32))
    x = mx.array(numbers(m, 640, seed=1))
    product = mx.quantized_matmul(x, words, scales, biases, True, 64, bits)
    assert np.array_equal(np.array(product), np.array(x @ w.T))
    y = mx.array(numbers(m, 40, seed=2))
    product = mx.quantized_matmul(y, words, scales, biases, False, 64, bits)
    assert np.array_equal(np.array(product), np.array(y @ w))
