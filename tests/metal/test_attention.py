"""Attention and its gradients against the CPU backend."""

from __future__ import annotations

import numpy as np
import pytest
from metal_launches import check, tensor

import mlxr as mx

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
FORWARD, BACKWARD = "scaled_dot_product_attention", "scaled_dot_product_attention_vjp"


def operands(rng, b, hq, hk, tq, tk, d, dv, dtype=mx.float32):
    return tensor(rng, (b, hq, tq, d), dtype), tensor(rng, (b, hk, tk, d), dtype), tensor(rng, (b, hk, tk, dv), dtype)


def both(rng, qkv, extra=(), scale=0.4, causal=False, mask=False, sinks=False, ulps=16):
    """Check the result and the gradients."""
    dtype = qkv[0].dtype
    params = (scale, causal, mask, sinks, dtype)
    check(FORWARD, (*qkv, *extra), params, ulps=ulps, scale=1.0)
    g = tensor(rng, (*qkv[0].shape[:3], qkv[2].shape[3]), dtype)
    check(BACKWARD, (*qkv, g, *extra), params, ulps=2 * ulps, scale=2.0)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1, 1, 1), (2, 2, 1, 5, 7, 8, 6), (1, 4, 2, 40, 37, 20, 20),
                                   (1, 2, 2, 3, 33, 64, 64), (1, 4, 1, 1, 50, 100, 90), (1, 2, 1, 17, 20, 130, 256),
                                   (1, 2, 1, 2, 20, 130, 256)])
def test_shapes(dtype, shape):
    rng = np.random.default_rng(0)
    both(rng, operands(rng, *shape, dtype))
    both(rng, operands(rng, *shape, dtype), causal=True)


@pytest.mark.parametrize("tq", [1, 3, 9])
def test_masks(tq):
    rng = np.random.default_rng(tq)
    tk = 12
    qkv = operands(rng, 2, 4, 2, tq, tk, 8, 8)
    seen = mx.array(rng.random((2, 4, tq, tk)) > 0.4)
    both(rng, qkv, (seen,), mask=True)
    both(rng, qkv, (mx.broadcast_to(seen[:1, :1], seen.shape),), mask=True)
    for dtype in FLOATS:
        both(rng, qkv, (mx.broadcast_to(tensor(rng, (tq, tk), dtype), seen.shape),), mask=True)
    both(rng, qkv, (tensor(rng, (2, tq, 4, tk)).swapaxes(1, 2)[..., ::-1],), mask=True)


@pytest.mark.parametrize("tq", [2, 11])
def test_queries_that_see_nothing(tq):
    rng = np.random.default_rng(tq)
    qkv = operands(rng, 1, 2, 1, tq, 6, 8, 8)
    both(rng, qkv, (mx.zeros((1, 2, tq, 6), dtype=mx.bool_),), mask=True)
    check(FORWARD, (*qkv, mx.full((1, 2, tq, 6), -np.inf)), (0.4, False, True, False, mx.float32))


def test_more_queries_than_keys():
    rng = np.random.default_rng(0)
    both(rng, operands(rng, 1, 2, 1, 50, 9, 8, 8), causal=True)
    both(rng, operands(rng, 1, 2, 1, 4, 2, 8, 8), causal=True)


@pytest.mark.parametrize("tq", [1, 10])
@pytest.mark.parametrize("dtype", FLOATS)
def test_sinks(tq, dtype):
    rng = np.random.default_rng(tq)
    qkv = operands(rng, 2, 4, 2, tq, 12, 8, 8, dtype)
    sinks = tensor(rng, (8,), dtype)[::-2]
    both(rng, qkv, (sinks,), sinks=True)
    both(rng, qkv, (sinks,), sinks=True, causal=True)
    both(rng, qkv, (mx.array(rng.random((2, 4, tq, 12)) > 0.4), sinks), sinks=True, mask=True)


@pytest.mark.parametrize("tq", [2, 20])
def test_layouts(tq):
    rng = np.random.default_rng(0)
    q = tensor(rng, (2, tq, 4, 16)).transpose(0, 2, 1, 3)
    k = tensor(rng, (2, 30, 2, 32)).transpose(0, 2, 1, 3)[:, :, ::-2, ::2]
    v = tensor(rng, (2, 2, 16, 15)).swapaxes(2, 3)
    both(rng, (q, k, v))
    both(rng, (q, k, v), causal=True)


def test_many_keys_are_shared_by_threadgroups():
    rng = np.random.default_rng(0)
    q, k, v = operands(rng, 1, 6, 1, 1, 700, 16, 24)
    sinks = tensor(rng, (6,))
    check(FORWARD, (q, k, v), (0.4, False, False, False, mx.float32), ulps=16, scale=1.0)
    check(FORWARD, (q, k, v, sinks), (0.4, False, False, True, mx.float32), ulps=16, scale=1.0)
    seen = mx.array(rng.random((1, 6, 1, 700)) > 0.5)
    check(FORWARD, (q, k, v, seen), (0.4, False, True, False, mx.float32), ulps=16, scale=1.0)


def test_mixed_dtypes():
    rng = np.random.default_rng(0)
    for tq in (2, 9):
        q, k, v = operands(rng, 1, 2, 1, tq, 10, 8, 8)
        qkv = (q, k.astype(mx.float16), v.astype(mx.bfloat16))
        check(FORWARD, qkv, (0.4, False, False, False, mx.float32), ulps=16, scale=1.0)
        check(BACKWARD, (*qkv, tensor(rng, q.shape)), (0.4, False, False, False, mx.float32), ulps=32, scale=2.0)


def test_a_row_of_nan_stays_alone():
    rng = np.random.default_rng(0)
    q, k, v = operands(rng, 1, 1, 1, 12, 40, 8, 8)
    q[0, 0, 5, 3] = np.nan
    check(FORWARD, (q, k, v), (0.4, False, False, False, mx.float32), ulps=16, scale=1.0)


@pytest.mark.parametrize(("batch", "tq"), [(0, 3), (2, 0)])
def test_nothing_to_attend_for(batch, tq):
    rng = np.random.default_rng(0)
    both(rng, operands(rng, batch, 4, 2, tq, 5, 8, 8))


def test_long_rows_are_refused():
    x = mx.ones((1, 1, 2, 257))
    with pytest.raises(mx.errors.UnsupportedOpError):
        check(FORWARD, (x, x, x), (1.0, False, False, False, mx.float32))
