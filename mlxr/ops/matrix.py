"""Parts and products of matrices composed of other ops: triangles, trace, differences, Kronecker, Hadamard."""

from __future__ import annotations

import functools

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core.dispatch import as_operand
from mlxr.core.tensor import Tensor
from mlxr.errors import AxisError, DtypeError, InvalidValueError, ShapeError
from mlxr.ops.declare import EVERY, FLOATING, NUMERIC, Refusal, Sample, operation, spread
from mlxr.ops.elementwise import astype, logical_not, multiply, not_equal, subtract, where
from mlxr.ops.layout import normalize_axis, reshape

__all__ = ["diff", "hadamard_transform", "kron", "trace", "tril", "triu"]


def _triangle_samples(rng):
    for shape, k in [((3, 4), 0), ((4, 3), 1), ((3, 3), -1), ((2, 3, 3), 0), ((3, 3), 9), ((0, 3), 0)]:
        yield Sample((spread(rng, shape, -9, 9),), {"k": k})


def _triangle(x, op):
    x = as_operand(x, op)
    if x.ndim < 2:
        raise ShapeError(f"[{op}] array must be at least 2-D", op=op, shapes=(x.shape,))
    return x


@operation("elementwise", samples=_triangle_samples, reference=np.tril, dtypes=EVERY, differentiable=(0,), ulps=0,
           refusals=(Refusal((np.ones(3),), ShapeError),))
def tril(x, k=0, *, stream=None):
    """Return matrices with zeros above a diagonal.

    Parameters
    ----------
    x : Tensor
        Of shape (..., rows, columns).
    k : int
        Which diagonal: above the main one if positive.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If there are no matrices.
    """
    x = _triangle(x, "tril")
    keep = ops.tri(*x.shape[-2:], k, dtypes.bool_, device=x.device)
    return where(keep, x, ops.zeros_like(x), stream=stream)


@operation("elementwise", samples=_triangle_samples, reference=np.triu, dtypes=EVERY, differentiable=(0,), ulps=0,
           refusals=(Refusal((np.ones(3),), ShapeError),))
def triu(x, k=0, *, stream=None):
    """Return matrices with zeros below a diagonal; parameters as :func:`tril`."""
    x = _triangle(x, "triu")
    keep = logical_not(ops.tri(*x.shape[-2:], k - 1, dtypes.bool_, device=x.device))
    return where(keep, x, ops.zeros_like(x), stream=stream)


@operation("reduce", dtypes=EVERY, differentiable=(0,), reference=lambda a, offset=0, axis1=0, axis2=1: np.trace(
               a.astype(int) if a.dtype == bool else a, offset, axis1, axis2),
           scale=lambda a, **kw: np.trace(np.abs(a), **kw),
           samples=lambda rng: (Sample((spread(rng, shape, 0, 5),), kw) for shape, kw in [
               ((3, 4), {}), ((3, 4), {"offset": 1}), ((3, 4), {"offset": -9}), ((2, 3, 4), {"axis1": -1, "axis2": 0}),
           ]),
           refusals=(Refusal((np.ones(3),), ShapeError), Refusal((np.ones((3, 3)), 0, 1, 1), AxisError),
                     Refusal((np.ones((3, 3)), 0, 0, 2), AxisError)))
def trace(a, /, offset=0, axis1=0, axis2=1, dtype=None, *, stream=None):
    """Return the sum along a diagonal.

    Parameters
    ----------
    a : Tensor
    offset : int
        Which diagonal: above the main one if positive.
    axis1, axis2 : int
        Rows and columns.
    dtype : Dtype, optional
        That of :func:`sum` by default.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError, AxisError
        If there are no two such axes.
    """
    a = as_operand(a, "trace")
    if a.ndim < 2:
        raise ShapeError(f"[trace] Array must have at least two dimensions, but got {a.ndim} dimensions.", op="trace",
                         shapes=(a.shape,))
    if normalize_axis(axis1, a.ndim, "trace") == normalize_axis(axis2, a.ndim, "trace"):
        raise AxisError("[trace] axis1 and axis2 cannot be the same axis", op="trace", axis=axis1, ndim=a.ndim)
    line = ops.diagonal(a, offset, axis1, axis2)
    if dtype is None:
        return ops.sum(line, -1, stream=stream)
    return astype(ops.sum(astype(line, dtype), -1, stream=stream), dtype)


@operation("elementwise", dtypes=NUMERIC, differentiable=(0, 1), ulps=1,
           reference=lambda a, b: np.kron(a, b),
           samples=lambda rng: (Sample((spread(rng, a, -3, 3), spread(rng, b, -3, 3))) for a, b in [
               ((2, 3), (3, 2)), ((2,), (3, 4)), ((), (2, 2)), ((2, 1, 2), (3,))]),
           refusals=(Refusal((np.ones((0, 2)), np.ones(2)), ShapeError),))
def kron(a, b, *, stream=None):
    """Return the Kronecker product: each element of `a` times all of `b`.

    Parameters
    ----------
    a, b : Tensor
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Each extent is the product of the operands'.

    Raises
    ------
    ShapeError
        If an operand is empty.
    """
    a, b = as_operand(a, "kron"), as_operand(b, "kron")
    if not a.size or not b.size:
        raise ShapeError(f"[kron] Input arrays cannot be empty: shapes {a.shape} and {b.shape}", op="kron",
                         shapes=(a.shape, b.shape))
    ndim = max(a.ndim, b.ndim)
    outer, inner = ((1,) * (ndim - t.ndim) + t.shape for t in (a, b))
    left = reshape(a, [n for extent in outer for n in (extent, 1)])
    right = reshape(b, [n for extent in inner for n in (1, extent)])
    return reshape(multiply(left, right, stream=stream), [m * n for m, n in zip(outer, inner, strict=True)])


@operation("elementwise", dtypes=EVERY, differentiable=(0,), reference=lambda a, n=1, axis=-1: np.diff(a, n, axis),
           ulps=4, scale=lambda a, n=1, axis=-1: 2.0**n * np.max(np.abs(a)),
           samples=lambda rng: (Sample((spread(rng, (4, 5), 0, 9),), kw) for kw in [
               {}, {"n": 0}, {"n": 2}, {"n": 9}, {"axis": 0}]),
           refusals=(Refusal((np.ones(3), -1), InvalidValueError), Refusal((np.ones(3),), AxisError, {"axis": 1}),
                     Refusal((np.ones(()),), AxisError)))
def diff(a, /, n=1, axis=-1, *, stream=None):
    """Return differences between neighbours along an axis.

    Parameters
    ----------
    a : Tensor
    n : int
        How often to take differences.
    axis : int
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Shorter by `n`. Booleans tell where neighbours differ.

    Raises
    ------
    InvalidValueError
        If `n` is negative.
    AxisError
        If there is no such axis.
    """
    a = as_operand(a, "diff")
    if n < 0:
        raise InvalidValueError("[diff] Order `n` must be non-negative.", op="diff", n=n)
    axis = normalize_axis(axis, a.ndim, "diff")
    minus = not_equal if a.dtype is dtypes.bool_ else subtract
    behind, front = ((*(slice(None),) * axis, part) for part in (slice(1, None), slice(0, -1)))
    for _ in range(min(n, a.shape[axis])):
        a = minus(a[behind], a[front], stream=stream)
    return a


# ------------------------------------------------------------------ Hadamard

# Hadamard matrices of orders that are no powers of two: one number per row, its highest bit the first column, 1 for +1.
_SEEDS = {
    12: "bff 2aa ec3 896 fb0 a25 cec 989 c3b 962 f0e a58",
    20: "84336 4238b 211d5 108fa 866d 7c139 ba29c d914e e88a7 f0653 35a0f 1ad17 8d49b c685d 6343e 49a10 a0d08 54484 "
        "2e042 93021",
    28: "818694c 41c14a6 20e2a13 1071549 838ae4 41e532 30d299 3d019d2 1e82ca9 8e43654 c621b2a e210d95 f00a6ca 7807325 "
        "5b3201e ac9900f 564c847 ab24463 d590271 6ac8178 b4640bc 66b70c0 b35b820 d8adc10 6d54e08 37a8704 9ad4382 "
        "cd6a181",
}


@functools.cache
def _hadamard(n):
    """Return the Hadamard matrix of order `n`, as an ndarray of +1 and -1."""
    if n in _SEEDS:
        rows = [[int(row, 16) >> (n - 1 - k) & 1 for k in range(n)] for row in _SEEDS[n].split()]
        return 2.0 * np.array(rows) - 1.0
    return np.array([[1.0]]) if n == 1 else np.kron([[1.0, 1.0], [1.0, -1.0]], _hadamard(n // 2))


def _factors(n):
    """Return orders whose Hadamard matrices have that of order `n` as their Kronecker product, or None."""
    power = n & -n
    seed = n // power
    if seed > 1:  # 12, 20 and 28 are 3, 5 and 7 times 4
        seed, power = 4 * seed, power // 4
    if not power or (seed > 1 and seed not in _SEEDS):
        return None
    found = [seed] if seed > 1 else []
    while power > 1:
        found.append(min(power, 64))
        power //= found[-1]
    return found


def _hadamard_reference(a, scale=None):
    n = a.shape[-1]
    matrix = functools.reduce(np.kron, (_hadamard(f) for f in _factors(n)), np.ones((1, 1)))
    return a @ matrix.T * (n**-0.5 if scale is None else scale)


@operation("matmul", dtypes=FLOATING, differentiable=(0,), reference=_hadamard_reference, ulps=8,
           scale=lambda a, scale=None: np.sum(np.abs(a), -1, keepdims=True) * (scale or a.shape[-1]**-0.5),
           samples=lambda rng: (Sample((spread(rng, shape, -1, 1),), kw) for shape, kw in [
               ((8,), {}), ((2, 12), {}), ((1, 40), {"scale": 2.0}), ((2, 3, 28), {}), ((2, 256), {}), ((3, 1), {})]),
           refusals=(Refusal((np.ones(3),), ShapeError), Refusal((np.ones(14),), ShapeError),
                     Refusal((np.ones((2, 0)),), ShapeError), Refusal((np.ones(8, np.complex64),), DtypeError)))
def hadamard_transform(a, scale=None, stream=None):
    """Return the Walsh-Hadamard transform along the last axis.

    Parameters
    ----------
    a : Tensor
        Its last extent is a power of two times 1, 12, 20 or 28.
    scale : float, optional
        What the product with the Hadamard matrix is multiplied by: ``1 / sqrt(extent)`` by default, which makes the
        transform orthonormal.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Integers are transformed as float32.

    Raises
    ------
    ShapeError
        If there is no such matrix.
    DtypeError
        If the dtype is complex.
    """
    a = as_operand(a, "hadamard_transform")
    if a.dtype.kind == "c":
        raise DtypeError("[hadamard_transform] is not defined for complex64", op="hadamard_transform",
                         dtypes=(a.dtype,))
    if not a.size:
        raise ShapeError("[hadamard_transform] Does not support empty arrays.", op="hadamard_transform",
                         shapes=(a.shape,))
    n = a.shape[-1] if a.ndim else 1
    factors = _factors(n)
    if factors is None:
        raise ShapeError("[hadamard] Only supports n = m*2^k where m in (1, 12, 20, 28).", op="hadamard_transform",
                         shapes=(a.shape,))
    result = a.dtype if a.dtype.kind == "f" else dtypes.float32
    lanes = dtypes.float64 if result is dtypes.float64 else dtypes.float32
    x, behind = astype(a, lanes), n
    for order in factors:
        behind //= order
        matrix = Tensor(_hadamard(order), lanes, device=a.device)
        x = ops.matmul(matrix, reshape(x, (a.size // (order * behind), order, behind)), stream=stream)
    return reshape(astype(multiply(x, n**-0.5 if scale is None else scale), result), a.shape)
