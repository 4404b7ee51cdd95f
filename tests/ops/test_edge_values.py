"""Zeros, infinities, NaN and tiny numbers through elementwise functions, wherever in a vector they stand."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import mlxr as mx
from mlxr.ops.declare import REGISTRY

ODD = ["sin", "tan", "arcsin", "arctan", "sinh", "tanh", "arcsinh", "arctanh", "expm1", "log1p", "sqrt", "erf",
       "erfinv", "round", "floor", "ceil", "degrees", "radians"]
DTYPES = [mx.float32, mx.float64, mx.float16, mx.bfloat16]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_zero_keeps_its_sign(name, dtype) -> None:
    got = oracle.numpy_of(getattr(mx, name)(mx.array([0.0, -0.0] * 20, dtype)))
    assert got.tolist() == [0.0] * 40
    assert np.signbit(got).tolist() == [False, True] * 20


@pytest.mark.parametrize("name", ["nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.gelu_sigmoid"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_activations_keep_the_sign_of_zero(name, dtype) -> None:
    got = oracle.numpy_of(REGISTRY[name].function(mx.array([0.0, -0.0] * 20, dtype)))
    assert np.signbit(got).tolist() == [False, True] * 20


def test_gelu_underflows_to_zeros_of_its_sign() -> None:
    got = np.array(REGISTRY["nn.gelu"].function(mx.array([1e-45, -1e-45] * 20)))
    assert np.signbit(got).tolist() == [False, True] * 20


@pytest.mark.parametrize("name", ODD[:10])
@pytest.mark.parametrize(("dtype", "tiny"), [(mx.float32, 1e-30), (mx.float32, 1e-42), (mx.float64, 1e-300)])
def test_tiny_numbers_are_themselves(name, dtype, tiny) -> None:
    x = mx.array([tiny, -tiny] * 20, dtype)
    assert oracle.bits_of(getattr(mx, name)(x)) == oracle.bits_of(x)


LIMITS = {
    "exp": {-np.inf: 0.0, np.inf: np.inf, -1e30: 0.0, 1e30: np.inf},
    "log": {0.0: -np.inf, np.inf: np.inf, -1.0: np.nan},
    "expm1": {-np.inf: -1.0, np.inf: np.inf}, "log1p": {-1.0: -np.inf, np.inf: np.inf, -2.0: np.nan},
    "tanh": {-np.inf: -1.0, np.inf: 1.0, 50.0: 1.0}, "sigmoid": {-np.inf: 0.0, np.inf: 1.0, 200.0: 1.0},
    "erf": {-np.inf: -1.0, np.inf: 1.0, 30.0: 1.0}, "erfinv": {1.0: np.inf, -1.0: -np.inf, 2.0: np.nan},
    "sqrt": {np.inf: np.inf, -1.0: np.nan, -np.inf: np.nan}, "rsqrt": {0.0: np.inf, np.inf: 0.0, -1.0: np.nan},
    "reciprocal": {0.0: np.inf, np.inf: 0.0, -np.inf: 0.0}, "sin": {np.inf: np.nan}, "cos": {-np.inf: np.nan},
    "arctan": {np.inf: np.pi / 2, -np.inf: -np.pi / 2}, "arcsin": {1.5: np.nan},
    "arccosh": {0.5: np.nan, np.inf: np.inf},
    "arctanh": {1.0: np.inf, -1.0: -np.inf, 1.5: np.nan}, "sinh": {np.inf: np.inf, -np.inf: -np.inf},
    "cosh": {-np.inf: np.inf}, "floor": {np.inf: np.inf}, "round": {0.5: 0.0, 1.5: 2.0, 2.5: 2.0, -np.inf: -np.inf},
    "abs": {-np.inf: np.inf}, "log2": {8.0: 3.0, 0.0: -np.inf}, "log10": {1000.0: 3.0},
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_limits(name, dtype) -> None:
    cases = {**LIMITS[name], np.nan: np.nan}
    x = mx.array(list(cases) * 9, dtype)
    got = oracle.numpy_of(getattr(mx, name)(x))
    for value, wanted in zip(got.tolist(), list(cases.values()) * 9, strict=True):
        assert oracle.worst_ulps(np.array([value]), np.array([wanted]), dtype) <= 1


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_nan_wins_in_extremes_wherever_it_stands(dtype) -> None:
    for n in (1, 7, 64, 1000):
        for at in {0, n // 2, n - 1}:
            values = np.arange(n, dtype=np.float64)
            values[at] = np.nan
            x = mx.array(values, dtype)
            assert np.isnan([mx.max(x).item(), mx.min(x).item(), mx.sum(x).item(), mx.mean(x).item()]).all()
            assert np.isnan(oracle.numpy_of(mx.maximum(x, 0))[at])
            assert np.isnan(oracle.numpy_of(mx.softmax(x, -1))).all()


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_wrap_around(name) -> None:
    limits = np.iinfo(name)
    a = np.array([limits.max, limits.min, limits.max, 3], name)
    b = np.array([1, 1, limits.max, 5], name)
    x, y = mx.array(a), mx.array(b)
    with np.errstate(over="ignore"):
        for got, wanted in ((x + y, a + b), (x - y, a - b), (x * y, a * b), (-x, -a), (mx.square(x), a * a)):
            assert got.dtype is x.dtype
            np.testing.assert_array_equal(np.array(got), wanted)
    assert (x // 0).tolist() == [0] * 4
    assert (x % 0).tolist() == a.tolist()
