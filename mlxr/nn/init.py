"""Initializers: functions that return an array of the shape of the one that they are given.

Each is made by a function of the distribution's parameters. Random numbers come from mlxr.random's global state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import mlxr as mx
from mlxr.errors import InvalidValueError, ShapeError

__all__ = [
    "constant",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "normal",
    "orthogonal",
    "sparse",
    "uniform",
]

Initializer = Callable[..., mx.array]
FanMode = Literal["fan_in", "fan_out"]


def constant(value: float, dtype: mx.Dtype = mx.float32) -> Initializer:
    """Return an initializer that fills with `value`."""

    def initializer(a: mx.array) -> mx.array:
        return mx.full(a.shape, value, dtype=dtype)

    return initializer


def normal(mean: float = 0.0, std: float = 1.0, dtype: mx.Dtype = mx.float32) -> Initializer:
    """Return an initializer that draws from a normal distribution."""

    def initializer(a: mx.array) -> mx.array:
        return mx.random.normal(a.shape, dtype=dtype, loc=mean, scale=std)

    return initializer


def uniform(low: float = 0.0, high: float = 1.0, dtype: mx.Dtype = mx.float32) -> Initializer:
    """Return an initializer that draws uniformly from ``[low, high)``."""

    def initializer(a: mx.array) -> mx.array:
        return mx.random.uniform(low, high, a.shape, dtype=dtype)

    return initializer


def identity(dtype: mx.Dtype = mx.float32) -> Initializer:
    """Return an initializer that makes an identity matrix (``ShapeError`` unless the array is a square matrix)."""

    def initializer(arr: mx.array) -> mx.array:
        if arr.ndim != 2 or arr.shape[0] != arr.shape[1]:
            raise ShapeError(f"identity takes a square matrix, not the shape {arr.shape}", shapes=[arr.shape])
        return mx.eye(arr.shape[0], dtype=dtype)

    return initializer


def _fans(a: mx.array) -> tuple[int, int]:
    """Return how many inputs reach one output and how many outputs one input reaches.

    The first axis are the outputs, the last one the inputs, and those between the positions of a kernel.
    """
    if a.ndim < 2:
        raise ShapeError(f"Glorot and He initialization take at least 2 dimensions, not {a.ndim}", shapes=[a.shape])
    positions = math.prod(a.shape[1:-1])
    return a.shape[-1] * positions, a.shape[0] * positions


def _fan(a: mx.array, mode: str) -> int:
    fan_in, fan_out = _fans(a)
    fans = {"fan_in": fan_in, "fan_out": fan_out}
    if mode not in fans:
        raise InvalidValueError(f"mode must be 'fan_in' or 'fan_out', not {mode!r}", mode=mode)
    return fans[mode]


def glorot_normal(dtype: mx.Dtype = mx.float32) -> Initializer:
    r"""Return an initializer ``f(a, gain=1.0)`` that draws from a normal distribution.

    Its standard deviation is :math:`\text{gain} \sqrt{2 / (\text{fan\_in} + \text{fan\_out})}`.
    """

    def initializer(a: mx.array, gain: float = 1.0) -> mx.array:
        return mx.random.normal(a.shape, dtype=dtype, scale=gain * math.sqrt(2.0 / sum(_fans(a))))

    return initializer


def glorot_uniform(dtype: mx.Dtype = mx.float32) -> Initializer:
    r"""Return an initializer ``f(a, gain=1.0)`` that draws uniformly.

    Its limit is :math:`\text{gain} \sqrt{6 / (\text{fan\_in} + \text{fan\_out})}`.
    """

    def initializer(a: mx.array, gain: float = 1.0) -> mx.array:
        limit = gain * math.sqrt(6.0 / sum(_fans(a)))
        return mx.random.uniform(-limit, limit, a.shape, dtype=dtype)

    return initializer


def he_normal(dtype: mx.Dtype = mx.float32) -> Initializer:
    r"""Return an initializer ``f(a, mode="fan_in", gain=1.0)`` that draws from a normal distribution.

    Its standard deviation is :math:`\text{gain} / \sqrt{\text{fan}}`.
    """

    def initializer(a: mx.array, mode: FanMode = "fan_in", gain: float = 1.0) -> mx.array:
        return mx.random.normal(a.shape, dtype=dtype, scale=gain / math.sqrt(_fan(a, mode)))

    return initializer


def he_uniform(dtype: mx.Dtype = mx.float32) -> Initializer:
    r"""Return an initializer ``f(a, mode="fan_in", gain=1.0)`` that draws uniformly.

    Its limit is :math:`\text{gain} \sqrt{3 / \text{fan}}`.
    """

    def initializer(a: mx.array, mode: FanMode = "fan_in", gain: float = 1.0) -> mx.array:
        limit = gain * math.sqrt(3.0 / _fan(a, mode))
        return mx.random.uniform(-limit, limit, a.shape, dtype=dtype)

    return initializer


def sparse(sparsity: float, mean: float = 0.0, std: float = 1.0, dtype: mx.Dtype = mx.float32) -> Initializer:
    """Return an initializer that draws from a normal distribution and sets a share of every row to zero.

    Parameters
    ----------
    sparsity
        The share, rounded up to whole elements.
    mean, std
        Of the normal distribution.
    dtype
        Of the result.

    Returns
    -------
    callable
        The initializer; it takes matrices (``ShapeError`` otherwise).
    """

    def initializer(a: mx.array) -> mx.array:
        if a.ndim != 2:
            raise ShapeError(f"sparse takes a matrix, not the shape {a.shape}", shapes=[a.shape])
        zeros = math.ceil(sparsity * a.shape[1])
        # The ranks of random numbers are a random permutation of each row.
        order = mx.argsort(mx.random.uniform(shape=a.shape), axis=1)
        values = mx.random.normal(a.shape, dtype=dtype, loc=mean, scale=std)
        return mx.put_along_axis(values, order[:, :zeros], mx.array(0, dtype), axis=1)

    return initializer


def orthogonal(gain: float = 1.0, dtype: mx.Dtype = mx.float32) -> Initializer:
    """Return an initializer that makes rows or columns (whichever are fewer) orthogonal and of the length `gain`.

    Returns
    -------
    callable
        The initializer; it takes matrices (``ShapeError`` otherwise).
    """

    def initializer(a: mx.array) -> mx.array:
        if a.ndim != 2:
            raise ShapeError(f"orthogonal takes a matrix, not the shape {a.shape}", shapes=[a.shape])
        rows, columns = a.shape
        size = max(rows, columns)
        q, r = mx.linalg.qr(mx.random.normal((size, size)), stream=mx.cpu)
        # Which signs QR gives is a matter of the library; those of R's diagonal make Q uniformly distributed.
        q = q * mx.sign(mx.diag(r))
        return (gain * q[:rows, :columns]).astype(dtype)

    return initializer
