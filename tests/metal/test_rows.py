"""The kernels on rows against the CPU backend."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from metal_launches import agree, check, run, tensor

import mlxr as mx
from mlxr.backends.metal import rows

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
LENGTHS = (1, 7, 256, 300, 9000)


def layouts(rng, n, dtype=mx.float32):
    """Rows that lie as they come, transposed, with gaps, backwards, and one row for all."""
    count = 3 if n < 1000 else 2
    yield tensor(rng, (count, n), dtype)
    if n < 1000:
        yield tensor(rng, (n, count), dtype).T
        yield tensor(rng, (2, count, 2 * n), dtype)[:, ::2, ::2]
        yield mx.broadcast_to(tensor(rng, (n,), dtype), (2, count, n))
        yield tensor(rng, (2, 9, n), dtype).transpose(1, 0, 2)
        yield tensor(rng, (count, n), dtype)[::-1, ::-1]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax(n, dtype):
    rng = np.random.default_rng(n)
    for x in layouts(rng, n, dtype):
        check("softmax", (x,), ulps=6)
        y = mx.softmax(x, -1)
        check("softmax_vjp", (y, tensor(rng, x.shape, dtype)), ulps=8)


def test_softmax_of_what_is_not_finite():
    inf, nan = np.inf, np.nan
    x = np.zeros((6, 40), np.float32)
    x[1, 3], x[2, :], x[3, 5], x[4, :39], x[5, 7] = -inf, -inf, nan, -inf, inf
    check("softmax", (mx.array(x),))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_norms(n, dtype):
    rng = np.random.default_rng(n)
    eps = 1e-3
    for x in layouts(rng, n, dtype):
        w, b, g = tensor(rng, (n,), dtype, 0.5, 1.5), tensor(rng, (n,), dtype), tensor(rng, x.shape, dtype)
        for has_w, has_b in itertools.product((True, False), repeat=2):
            inputs = (x, *((w,) if has_w else ()), *((b,) if has_b else ()))
            check("layer_norm", inputs, (eps, has_w, has_b, dtype), ulps=16, scale=4.0)
        check("rms_norm", (x, w), (eps, True, dtype), ulps=8)
        check("rms_norm", (x,), (eps, False, dtype), ulps=8)
        for has_w in (True, False):
            inputs = (x, g, *((w,) if has_w else ()))
            # A row of one element is divided by about itself: the terms cancel, and are as large as this.
            scale = 100.0 if n == 1 else 8.0
            check("layer_norm_vjp", inputs, (eps, has_w), ulps=16, scale=scale)
            check("rms_norm_vjp", inputs, (eps, has_w), ulps=16, scale=scale)


def test_norms_of_mixed_dtypes():
    rng = np.random.default_rng(0)
    x, w, b = tensor(rng, (3, 70), mx.float16), tensor(rng, (70,)), tensor(rng, (70,), mx.bfloat16)
    g = tensor(rng, (3, 70), mx.bfloat16)
    check("layer_norm", (x, w, b), (1e-3, True, True, mx.float32), ulps=16, scale=4.0)
    check("layer_norm_vjp", (x, g, w), (1e-3, True), ulps=16, scale=8.0)


def test_as_many_rows_as_columns():
    rng = np.random.default_rng(0)
    x, w = tensor(rng, (5, 5)), tensor(rng, (5,))
    check("layer_norm", (x, w, w[::-1]), (1e-3, True, True, mx.float32), ulps=16, scale=4.0)
    check("layer_norm", (x, w), (1e-3, False, True, mx.float32), ulps=16, scale=4.0)


def test_weights_of_no_rows_have_gradient_zero():
    x, w = mx.zeros((0, 40)), mx.ones((40,))
    check("layer_norm_vjp", (x, x, w), (1e-3, True))
    check("rms_norm_vjp", (x, x, w), (1e-3, True))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_cross_entropy(n, dtype):
    rng = np.random.default_rng(n)
    for x in layouts(rng, n, dtype):
        targets = mx.array(rng.integers(-n, n, x.shape[:-1]).astype(np.int32))
        g = mx.broadcast_to(tensor(rng, x.shape[:1], dtype).reshape(-1, *(1,) * (x.ndim - 2)), x.shape[:-1])
        check("cross_entropy", (x, targets), ulps=8, scale=4.0)
        check("cross_entropy_vjp", (x, targets, g), ulps=8)


@pytest.mark.parametrize("dtype", [mx.uint8, mx.int16, mx.uint32, mx.int64, mx.uint64, mx.int8, mx.uint16])
def test_targets_of_any_integer_dtype(dtype):
    rng = np.random.default_rng(0)
    x, targets = tensor(rng, (4, 9)), mx.array([0, 8, 3, 5]).astype(dtype)
    check("cross_entropy", (x, targets), scale=4.0)
    check("cross_entropy_vjp", (x, targets, tensor(rng, (4,))))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("dims", [8, 6])
def test_rope(dtype, traditional, dims):
    rng = np.random.default_rng(dims)
    offsets = mx.array([3, 40000], dtype=mx.int32)
    freqs = mx.array([1.0, 3.0, np.inf, 1000.0][: dims // 2])
    for x in (tensor(rng, (2, 5, 3, 8), dtype), tensor(rng, (2, 3, 5, 8), dtype).transpose(0, 2, 1, 3),
              tensor(rng, (2, 2, 3, 8), dtype)[::-1, ::2, ::-1, ::-1], tensor(rng, (2, 7, 8), dtype),
              tensor(rng, (2, 2, 3, 2, 8), dtype).transpose(0, 2, 1, 3, 4)):
        for inverse in (False, True):
            check("rope", (x,), (dims, traditional, 10000.0, 1.0, 100000, "", inverse), ulps=8)
        check("rope", (x, offsets), (dims, traditional, 10000.0, 0.37, 0, "o", False), ulps=8)
        check("rope", (x, offsets[1:]), (dims, traditional, 10000.0, 1.0, 0, "o", False), ulps=8)
        check("rope", (x, freqs), (dims, traditional, 0.0, 0.37, 7, "f", False), ulps=8)
        check("rope", (x, freqs, offsets.astype(mx.int64)), (dims, traditional, 0.0, 0.37, 0, "fo", False), ulps=8)


@pytest.mark.parametrize("dtype", FLOATS)
def test_masked_softmax(dtype):
    rng = np.random.default_rng(0)
    x = tensor(rng, (2, 5, 9), dtype)
    out = mx.zeros(x.shape, dtype=dtype)
    visible = mx.tri(5, 9, 4, dtype=mx.bool_)
    expected = mx.softmax(mx.where(visible, x, mx.finfo(dtype).min), -1)
    added = tensor(rng, (5, 9), dtype)
    for mask, causal, wanted in ((visible, False, expected), (None, True, expected),
                                 (added, False, mx.softmax(x.astype(mx.float32) + added, -1).astype(dtype))):
        mask = None if mask is None else mx.broadcast_to(mask, x.shape)
        run(rows.softmax_plan(x, out, mask, causal))
        agree(wanted, out, 8, 1.0, "masked softmax")


def test_other_dtypes_are_refused():
    x = mx.zeros((2, 3), dtype=mx.float64)
    with pytest.raises(mx.errors.UnsupportedOpError):
        rows.softmax_plan(x, x)


def test_axes_that_do_not_join_are_refused():
    x = mx.zeros((4,) * 8)[tuple(slice(None, None, 2) for _ in range(8))]
    with pytest.raises(mx.errors.UnsupportedOpError, match="make the operand contiguous"):
        rows.softmax_plan(x, mx.zeros(x.shape))
