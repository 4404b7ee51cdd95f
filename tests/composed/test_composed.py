"""Composed ops: against upstream where it is installed, and what their declarations do not sample."""
import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import InvalidValueError


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("n", [1, 2, 12, 20, 24, 28, 80, 112, 256, 1024])
def test_hadamard_equals_upstream(n):
    upstream = pytest.importorskip("mlx.core")
    x = random(3, n)
    expected = np.array(upstream.hadamard_transform(upstream.array(x), stream=upstream.cpu))
    np.testing.assert_allclose(np.array(mx.hadamard_transform(mx.array(x))), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [16, 40, 56, 2048])
def test_hadamard_is_orthonormal(n):
    x = mx.array(random(2, n))
    norms = mx.sum(mx.hadamard_transform(x) ** 2, -1)
    np.testing.assert_allclose(np.array(norms), np.array(mx.sum(x**2, -1)), rtol=1e-5)


def test_fp8_equals_upstream():
    upstream = pytest.importorskip("mlx.core")
    x = np.concatenate([random(1000) * 10.0**k for k in range(-3, 4)] + [np.array([np.inf, -np.inf, np.nan, -0.0])])
    x = x.astype(np.float32)
    for name in ("float32", "float16", "bfloat16"):
        mine = mx.to_fp8(mx.array(x, getattr(mx, name)))
        theirs = upstream.to_fp8(upstream.array(x, getattr(upstream, name)), stream=upstream.cpu)
        np.testing.assert_array_equal(np.array(mine), np.array(theirs))
    codes = np.arange(256, dtype=np.uint8)
    theirs = np.array(upstream.from_fp8(upstream.array(codes), upstream.float32, stream=upstream.cpu))
    np.testing.assert_array_equal(np.array(mx.from_fp8(mx.array(codes), mx.float32)), theirs)


def test_dtype_questions_equal_upstream():
    upstream = pytest.importorskip("mlx.core")
    names = ["bool_", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16",
             "float32", "float64", "complex64"]
    kinds = ["bool", "signed integer", "unsigned integer", "integral", "real floating", "complex floating", "numeric"]
    for a in names:
        x, y = getattr(mx, a), getattr(upstream, a)
        assert [mx.isdtype(x, kind) for kind in kinds] == [upstream.isdtype(y, kind) for kind in kinds]
        for b in names:
            other, theirs = getattr(mx, b), getattr(upstream, b)
            assert mx.can_cast(x, other) == upstream.can_cast(y, theirs)
            assert mx.result_type(x, other).name == str(upstream.result_type(y, theirs)).rsplit(".", 1)[1].rstrip("_")
    assert mx.isdtype(mx.float32, (mx.int8, "real floating"))
    assert mx.result_type(mx.zeros(2, mx.int8), mx.float16) is mx.float16
    for call in (lambda: mx.result_type(), lambda: mx.result_type(1.0), lambda: mx.isdtype(mx.int8, "decimal")):
        with pytest.raises(InvalidValueError):
            call()


def test_einsum_path_is_the_cheap_order():
    path, text = mx.einsum_path("ij,jk,kl->il", mx.ones((100, 2)), mx.ones((2, 100)), mx.ones((100, 3)))
    assert path == [(1, 2), (0, 1)]
    assert "scaling" in text


def test_einsum_broadcasts_extents_of_one():
    x, y = random(2, 1), random(4, 5)
    np.testing.assert_allclose(np.array(mx.einsum("ij,jk->ik", mx.array(x), mx.array(y))), np.einsum("ij,jk->ik", x, y),
                               rtol=1e-5)
    z = random(1, 3, 2)
    np.testing.assert_allclose(np.array(mx.einsum("b...,b...->b", mx.array(z), mx.array(z))), np.sum(z * z, (1, 2))[:1],
                               rtol=1e-5)


def test_einsum_of_integers_without_a_contraction():
    assert mx.einsum("i,j->ij", mx.array([1, 2]), mx.array([3, 4])).tolist() == [[3, 4], [6, 8]]
    assert mx.einsum("ij->j", mx.array([[1, 2], [3, 4]])).tolist() == [4, 6]


@pytest.mark.parametrize("name", ["bartlett", "blackman", "hamming", "hanning"])
def test_windows_equal_upstream(name):
    upstream = pytest.importorskip("mlx.core")
    for m in (-3, 0, 1, 2, 7, 100):
        np.testing.assert_allclose(np.array(getattr(mx, name)(m)), np.array(getattr(upstream, name)(m)), atol=2e-6)


def test_scans_convert_first():
    x = mx.array([100, 100], mx.int8)
    assert mx.cumsum(x, dtype=mx.int32).tolist() == [100, 200]
    assert mx.cumprod(x, dtype=mx.float32).dtype is mx.float32


def test_depends_gives_its_inputs_back():
    x = mx.ones(2)
    assert mx.depends(x, mx.zeros(1)) is x
    after = mx.depends((x, x), [mx.zeros(1)])
    assert isinstance(after, list)
    assert all(y is x for y in after)


def test_trace_in_another_dtype():
    x = mx.arange(12).reshape(3, 4)
    assert mx.trace(x, dtype=mx.float32).dtype is mx.float32
    assert mx.trace(x.astype(mx.int8)).dtype is mx.int32
    assert mx.trace(x, 1).item() == 18
