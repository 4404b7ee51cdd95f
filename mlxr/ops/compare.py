"""Comparison of whole arrays, composed of elementwise ops and reductions."""

from __future__ import annotations

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core.dispatch import as_operands
from mlxr.errors import ShapeError
from mlxr.ops.declare import EVERY, Refusal, Sample, operation, spread
from mlxr.ops.elementwise import (
    abs,
    add,
    equal,
    isfinite,
    isnan,
    less_equal,
    logical_and,
    logical_or,
    multiply,
    subtract,
)

__all__ = ["allclose", "array_equal", "isclose"]

_SPECIAL = np.array([1.0, np.inf, -np.inf, np.nan, np.inf, 2.0])
_OTHER = np.array([1.0 + 1e-7, np.inf, np.inf, np.nan, 3.0, np.inf])


def _close_samples(rng):
    yield Sample((_SPECIAL, _OTHER))
    yield Sample((_SPECIAL, _OTHER), {"equal_nan": True})
    yield Sample((spread(rng, (4, 5), -1, 1), spread(rng, (5,), -1, 1)), {"rtol": 0.3, "atol": 0.25})


@operation("elementwise", samples=_close_samples, dtypes=(dtypes.float32, dtypes.float64), reference=np.isclose, ulps=0,
           refusals=(Refusal((np.ones(3), np.ones(2)), ShapeError),))
def isclose(a, b, /, rtol=1e-05, atol=1e-08, *, equal_nan=False, stream=None):
    """Tell where ``abs(a - b) <= atol + rtol * abs(b)``, or both are the same infinity.

    Parameters
    ----------
    a, b : Tensor or scalar
        Broadcast against each other.
    rtol, atol : float
        Relative and absolute tolerance.
    equal_nan : bool
        Whether NaN is close to NaN.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of dtype bool.

    Raises
    ------
    ShapeError
        If the shapes cannot be broadcast.
    """
    a, b = as_operands(a, b, "isclose")
    tolerance = add(atol, multiply(rtol, _floating(abs(b, stream=stream))))
    near = less_equal(_floating(abs(subtract(_floating(a), _floating(b)))), tolerance)
    result = logical_or(equal(a, b), logical_and(near, logical_and(isfinite(a), isfinite(b))))
    return logical_or(result, logical_and(isnan(a), isnan(b))) if equal_nan else result


def _floating(x):
    return x if x.dtype.kind in "fc" else ops.astype(x, dtypes.float32)


@operation("reduce", samples=_close_samples, dtypes=(dtypes.float32, dtypes.float64), reference=np.allclose, ulps=0,
           refusals=(Refusal((np.ones(3), np.ones(2)), ShapeError),))
def allclose(a, b, /, rtol=1e-05, atol=1e-08, *, equal_nan=False, stream=None):
    """Tell whether all elements are close; parameters as :func:`isclose`.

    Returns
    -------
    Tensor
        One boolean.
    """
    return ops.all(isclose(a, b, rtol, atol, equal_nan=equal_nan, stream=stream))


@operation("reduce", dtypes=EVERY, ulps=0, reference=np.array_equal,
           samples=lambda rng: iter([
               Sample((spread(rng, (4, 5), 0, 9),) * 2), Sample((np.arange(4.0), np.arange(4.0) + 1)),
               Sample((np.ones(3), np.ones((1, 3)))), Sample((np.ones(0), np.ones(0))),
           ]))
def array_equal(a, b, equal_nan=False, stream=None):
    """Tell whether two arrays have the same shape and equal elements.

    Parameters
    ----------
    a, b : Tensor or scalar
    equal_nan : bool
        Whether NaN equals NaN.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        One boolean.
    """
    a, b = as_operands(a, b, "array_equal")
    if a.shape != b.shape:
        return ops.full((), False, dtypes.bool_, device=a.device)
    same = equal(a, b, stream=stream)
    return ops.all(logical_or(same, logical_and(isnan(a), isnan(b))) if equal_nan else same)
