"""Matrix products: one declaration each."""

from __future__ import annotations

import math

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core.dispatch import apply, as_operand, product, product_shape
from mlxr.core.dtype import promote_types
from mlxr.errors import DtypeError, InvalidValueError, ShapeError
from mlxr.ops.declare import COMPLEX, FLOATING, Refusal, Sample, operation, primitive, spread
from mlxr.ops.elementwise import astype, conjugate, multiply
from mlxr.ops.layout import (
    broadcast_to,
    expand_dims,
    normalize_axes,
    reshape,
    squeeze,
    sum_to_shape,
    swapaxes,
    transpose,
)

__all__ = ["addmm", "inner", "matmul", "outer", "tensordot", "vecdot"]


def _product_shape(a, b, op):
    """Return the shape of the product of two stacks of matrices."""
    shape = product_shape(a, b)
    if shape is not None:
        return shape
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"[{op}] Last dimension of first input with shape {a.shape} must match second to last dimension of second "
            f"input with shape {b.shape}.", op=op, shapes=(a.shape, b.shape),
        )
    raise ShapeError(f"[{op}] the stacks of shapes {a.shape} and {b.shape} cannot be broadcast", op=op,
                     shapes=(a.shape, b.shape))


def _product_like(like, x, y):
    """Return ``x @ y`` with rows or columns contiguous, as those of `like` are; the bits are the same."""
    # So a step that combines the two, as an optimizer's, walks both in the order of memory.
    rows, columns = like.strides[-2:]
    if rows == 1 and columns != 1:
        return swapaxes(apply(matmul_p, (swapaxes(y, -1, -2), swapaxes(x, -1, -2))), -1, -2)
    return apply(matmul_p, (x, y))


def _matmul_back(needs, g, out, a, b):
    # The cotangent in a is g @ b^H; with a matrix shared by the whole stack, rows of the stack are rows of one product.
    da = db = None
    if needs[0]:
        da = sum_to_shape(_product_like(a, g, conjugate(swapaxes(b, -1, -2))), a.shape)
    if needs[1]:
        if b.ndim == 2 and a.ndim > 2:
            rows = reshape(a, (-1, a.shape[-1]))
            db = _product_like(b, conjugate(swapaxes(rows, -1, -2)), reshape(g, (-1, g.shape[-1])))
        else:
            db = sum_to_shape(_product_like(b, conjugate(swapaxes(a, -1, -2)), g), b.shape)
    return da, db


def _addmm_back(needs, g, out, c, a, b, alpha, beta):
    da, db = _matmul_back(needs[1:], multiply(g, alpha) if alpha != 1 else g, out, a, b)
    dc = None
    if needs[0]:
        dc = sum_to_shape(multiply(g, beta) if beta != 1 else g, c.shape)
    return dc, da, db


matmul_p = primitive(
    "matmul", "matmul", lambda inputs, params: (_product_shape(inputs[0], inputs[1], "matmul"), inputs[0].dtype),
    vjp=_matmul_back,
)
addmm_p = primitive(
    "addmm", "matmul", lambda inputs, params: (_product_shape(inputs[1], inputs[2], "addmm"), inputs[0].dtype),
    vjp=_addmm_back,
)


def _factors(a, b, op):
    """Return two operands as stacks of matrices of one floating dtype, and which axes to drop from the product."""
    a, b = as_operand(a, op), as_operand(b, op)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"[{op}] Got 0 dimension input. Inputs must have at least one dimension.", op=op,
                         shapes=(a.shape, b.shape))
    dtype = promote_types(a.dtype, b.dtype)
    if dtype.kind not in "fc":
        raise DtypeError(
            f"[{op}] Only inexact types are supported but {a.dtype.name} and {b.dtype.name} were provided which "
            f"results in {dtype.name}, which is not inexact.", op=op, dtypes=(a.dtype, b.dtype),
        )
    drop = []
    if a.ndim == 1:
        a = expand_dims(a, 0)
        drop.append(-2)
    if b.ndim == 1:
        b = expand_dims(b, 1)
        drop.append(-1)
    return a if a.dtype is dtype else astype(a, dtype), b if b.dtype is dtype else astype(b, dtype), tuple(drop)


def _matmul_samples(rng):
    for a, b in [
        ((3, 4), (4, 5)), ((4,), (4,)), ((4,), (4, 3)), ((2, 4), (4,)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (3, 4, 2)),
        ((1, 1), (1, 1)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((17, 33), (33, 19)), ((5, 70), (70, 3)),
    ]:
        yield Sample((spread(rng, a, -1, 1), spread(rng, b, -1, 1)))
    yield Sample((spread(rng, (4, 3), -1, 1).T, spread(rng, (5, 4), -1, 1).T))
    yield Sample((spread(rng, (3, 8), -1, 1)[:, ::2], spread(rng, (4, 5), -1, 1)))


def _magnitude(a, b, **_):
    return np.abs(a) @ np.abs(b)


@operation("matmul", primitive=matmul_p, samples=_matmul_samples, reference=np.matmul, dtypes=FLOATING + COMPLEX,
           differentiable=(0, 1), ulps=4, scale=_magnitude,
           refusals=(Refusal((np.ones((2, 3), np.float32), np.ones((4, 2), np.float32)), ShapeError),
                     Refusal((np.ones((), np.float32), np.ones(2, np.float32)), ShapeError),
                     Refusal((np.ones((2, 2), np.int32), np.ones((2, 2), np.int32)), DtypeError)))
def matmul(a, b, /, *, stream=None):
    """Return the matrix product.

    Parameters
    ----------
    a, b : Tensor
        Shapes (..., M, K) and (..., K, N); leading axes broadcast. A vector is a row on the left, a column on the
        right, and its axis is left out of the result.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of shape (..., M, N).

    Raises
    ------
    ShapeError
        If the shapes do not fit, or an operand has no axis.
    DtypeError
        If the promoted dtype is not floating or complex.

    Notes
    -----
    Operands of any strides are read where they lie. Every element is summed over k in one fixed order: see
    docs/numerics.md.
    """
    result = product(matmul_p, a, b, stream)
    if result is not None:
        return result
    a, b, drop = _factors(a, b, "matmul")
    result = apply(matmul_p, (a, b), (), stream)
    return squeeze(result, drop) if drop else result


def _addmm_samples(rng):
    yield Sample((spread(rng, (5,), -1, 1), spread(rng, (3, 4), -1, 1), spread(rng, (4, 5), -1, 1)))
    yield Sample((spread(rng, (3, 5), -1, 1), spread(rng, (3, 4), -1, 1), spread(rng, (5, 4), -1, 1).T),
                 {"alpha": 0.5, "beta": 2.0})
    yield Sample((spread(rng, (), -1, 1), spread(rng, (2, 3, 4), -1, 1), spread(rng, (4, 5), -1, 1)))


@operation(
    "matmul",
    primitive=addmm_p,
    samples=_addmm_samples,
    dtypes=FLOATING,
    differentiable=(0, 1, 2),
    reference=lambda c, a, b, alpha=1.0, beta=1.0: alpha * (a @ b) + beta * c,
    ulps=4,
    scale=lambda c, a, b, alpha=1.0, beta=1.0: abs(alpha) * _magnitude(a, b) + abs(beta) * np.abs(c),
    refusals=(Refusal((np.ones(4, np.float32), np.ones((2, 3), np.float32), np.ones((3, 5), np.float32)), ShapeError),),
)
def addmm(c, a, b, /, alpha=1.0, beta=1.0, *, stream=None):
    """Return ``alpha * (a @ b) + beta * c``, in one pass over the result.

    Parameters
    ----------
    c : Tensor
        Broadcast to the shape of the product.
    a, b : Tensor
        As for :func:`matmul`.
    alpha, beta : float
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError, DtypeError
        As :func:`matmul`; also if `c` cannot be broadcast to the product.
    """
    a, b, drop = _factors(a, b, "addmm")
    c = as_operand(c, "addmm")
    if a.dtype is not c.dtype:
        dtype = promote_types(a.dtype, c.dtype)
        a, b, c = astype(a, dtype), astype(b, dtype), astype(c, dtype)
    shape = _product_shape(a, b, "addmm")
    for axis in sorted(drop):  # where a vector's axis will be dropped, c has none
        if c.ndim:
            c = expand_dims(c, c.ndim + 1 + axis if c.ndim + 1 + axis > 0 else 0)
    c = broadcast_to(c, shape)
    result = apply(addmm_p, (c, a, b), (float(alpha), float(beta)), stream)
    return squeeze(result, drop) if drop else result


@operation("matmul", samples=lambda rng: iter([Sample((spread(rng, (3, 4), -1, 1), spread(rng, (2, 4), -1, 1)))]),
           reference=np.inner, differentiable=(0, 1), scale=lambda a, b: np.inner(np.abs(a), np.abs(b)),
           refusals=(Refusal((np.ones(3, np.float32), np.ones(4, np.float32)), ShapeError),))
def inner(a, b, /, *, stream=None):
    """Return the inner products over the last axes.

    Parameters
    ----------
    a, b : Tensor
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
        Of shape ``a.shape[:-1] + b.shape[:-1]``.
    """
    a, b = as_operand(a, "inner"), as_operand(b, "inner")
    if a.ndim == 0 or b.ndim == 0:
        return multiply(a, b, stream=stream)
    return tensordot(a, b, ([-1], [-1]), stream=stream)


@operation("matmul", samples=lambda rng: iter([Sample((spread(rng, (3,), -1, 1), spread(rng, (2, 2), -1, 1)))]),
           reference=np.outer, differentiable=(0, 1), ulps=1)
def outer(a, b, /, *, stream=None):
    """Return the outer product of the flattened operands.

    Parameters
    ----------
    a, b : Tensor
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
        Of shape (a.size, b.size).
    """
    a, b = as_operand(a, "outer"), as_operand(b, "outer")
    return multiply(reshape(a, (-1, 1)), reshape(b, (1, -1)), stream=stream)


@operation("matmul", differentiable=(0, 1), reference=lambda a, b, axes=2: np.tensordot(a, b, axes),
           scale=lambda a, b, axes=2: np.tensordot(np.abs(a), np.abs(b), axes),
           samples=lambda rng: iter([
               Sample((spread(rng, (2, 3, 4), -1, 1), spread(rng, (3, 4, 5), -1, 1))),
               Sample((spread(rng, (2, 3, 4), -1, 1), spread(rng, (4, 2), -1, 1)), {"axes": ([0, 2], [1, 0])}),
               Sample((spread(rng, (2,), -1, 1), spread(rng, (3,), -1, 1)), {"axes": 0}),
           ]),
           refusals=(Refusal((np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), 1), ShapeError),))
def tensordot(a, b, /, axes=2, *, stream=None):
    """Return the sum of products over pairs of axes.

    Parameters
    ----------
    a, b : Tensor
    axes : int or pair of sequences of int
        The last `axes` axes of `a` with the first ones of `b`; or the axes of each, in pairs.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
        The remaining axes of `a`, then those of `b`.

    Raises
    ------
    ShapeError
        If the extents of a pair differ.
    """
    a, b = as_operand(a, "tensordot"), as_operand(b, "tensordot")
    if hasattr(axes, "__index__"):
        n = axes.__index__()
        if n < 0 or n > min(a.ndim, b.ndim):
            raise InvalidValueError(f"[tensordot] axes {axes} for arrays with {a.ndim} and {b.ndim} dimensions",
                                    op="tensordot", axes=axes)
        left, right = list(range(a.ndim - n, a.ndim)), list(range(n))
    else:
        left, right = (list(x) if not hasattr(x, "__index__") else [x] for x in axes)
        left = [normalize_axes(k, a.ndim, "tensordot")[0] for k in left]
        right = [normalize_axes(k, b.ndim, "tensordot")[0] for k in right]
    if len(left) != len(right) or any(a.shape[i] != b.shape[j] for i, j in zip(left, right, strict=True)):
        raise ShapeError(f"[tensordot] axes {left} of {a.shape} do not match axes {right} of {b.shape}", op="tensordot",
                         shapes=(a.shape, b.shape))
    rest_a = [k for k in range(a.ndim) if k not in left]
    rest_b = [k for k in range(b.ndim) if k not in right]
    k = math.prod(a.shape[i] for i in left)
    rows = reshape(transpose(a, rest_a + left), (math.prod(a.shape[i] for i in rest_a), k))
    columns = reshape(transpose(b, right + rest_b), (k, math.prod(b.shape[i] for i in rest_b)))
    result = matmul(rows, columns, stream=stream)
    return reshape(result, tuple(a.shape[i] for i in rest_a) + tuple(b.shape[i] for i in rest_b))


def vecdot(a, b, /, axis=-1, *, stream=None):
    """Return the sum of products along an axis, with the complex conjugate of `a`.

    Parameters
    ----------
    a, b : Tensor
        Broadcast against each other.
    axis : int
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    product = multiply(conjugate(a), b, stream=stream)
    return ops.sum(product, axis)
