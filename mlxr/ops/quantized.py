"""Quantized matrices, and products of matrices that are gathered, masked or cut into segments.

An affine-quantized matrix is words, scales and biases: a group of `group_size` neighbours in a row shares a scale and a
bias, and an element is ``scale * q + bias``, its q an unsigned integer of `bits` bits in the row's stream of words.
"""

from __future__ import annotations

import math

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core.dispatch import apply, as_operand, broadcast_shapes
from mlxr.core.dtype import Dtype, promote_types
from mlxr.core.tensor import Tensor
from mlxr.errors import BoundsError, DtypeError, InvalidValueError, ShapeError, UnsupportedOpError
from mlxr.ops.declare import Refusal, Sample, operation, primitive, spread
from mlxr.ops.elementwise import (
    add,
    astype,
    bitwise_and,
    bitwise_or,
    contiguous,
    left_shift,
    multiply,
    right_shift,
    where,
)
from mlxr.ops.indexing import ADD, scatter_p
from mlxr.ops.layout import broadcast_to, expand_dims, reshape, swapaxes

__all__ = [
    "block_masked_mm", "dequantize", "from_fp8", "gather_mm", "gather_qmm", "quantize", "quantized_matmul",
    "segmented_mm", "to_fp8",
]

GROUP_SIZE, BITS = 64, 4
GROUP_SIZES, WIDTHS = (32, 64, 128), (1, 2, 3, 4, 5, 6, 8)
LANES = (dtypes.float32, dtypes.float16, dtypes.bfloat16)


# ------------------------------------------------------------------ what a quantized matrix holds

def _unpacked(w, bits, dtype):
    """Return the integers in rows of words, composed of ops."""
    position = ops.multiply(ops.arange(w.shape[-1] * 32 // bits, dtype=dtypes.int32, device=w.device), bits)
    word, shift = ops.floor_divide(position, 32), astype(ops.remainder(position, 32), dtypes.uint64)
    wide = astype(w, dtypes.uint64)
    behind = ops.take(wide, ops.minimum(ops.add(word, 1), w.shape[-1] - 1), -1)
    both = bitwise_or(ops.take(wide, word, -1), left_shift(behind, 32))
    return astype(bitwise_and(right_shift(both, shift), (1 << bits) - 1), dtype)


def _in_groups(x, group_size):
    return reshape(x, (*x.shape[:-1], x.shape[-1] // group_size, group_size))


def _composed(w, scales, biases, group_size, bits, dtype):
    """Return the matrix that words, scales and biases stand for, composed of ops."""
    q = _in_groups(_unpacked(w, bits, dtype), group_size)
    values = add(multiply(expand_dims(astype(scales, dtype), -1), q), expand_dims(astype(biases, dtype), -1))
    return reshape(values, (*w.shape[:-1], w.shape[-1] * 32 // bits))


def _parameter_cotangents(needs, g, w, scales, biases, group_size, bits):
    """Return the cotangents of scales and biases for that of the matrix, `g`."""
    grouped = _in_groups(g, group_size)
    q = _in_groups(_unpacked(w, bits, g.dtype), group_size)
    ds = astype(ops.sum(multiply(grouped, q), -1), scales.dtype) if needs[0] else None
    db = astype(ops.sum(grouped, -1), biases.dtype) if needs[1] else None
    return ds, db


# ------------------------------------------------------------------ primitives

def _quantize_infer(inputs, params):
    (x,), (group_size, bits) = inputs, params
    front, n = x.shape[:-1], x.shape[-1]
    groups = ((*front, n // group_size), x.dtype)
    return ((*front, n * bits // 32), dtypes.uint32), groups, groups


def _dequantize_infer(inputs, params):
    w, (_, bits, dtype) = inputs[0], params
    return (*w.shape[:-1], w.shape[-1] * 32 // bits), dtype


def _dequantize_back(needs, g, out, w, scales, biases, group_size, bits, dtype):
    return None, *_parameter_cotangents(needs[1:], g, w, scales, biases, group_size, bits)


def _expanded(shape, bits, transpose):
    """Return the last two extents of the right operand of a product, for the shape of its words."""
    rows, columns = shape[-2], shape[-1] * 32 // bits
    return (columns, rows) if transpose else (rows, columns)


def _quantized_matmul_infer(inputs, params):
    x = inputs[0]
    return (*x.shape[:-1], _expanded(inputs[1].shape, params[2], params[0])[1]), x.dtype


def _quantized_matmul_back(needs, g, out, x, w, scales, biases, transpose, group_size, bits):
    dx = ds = db = None
    if needs[0]:
        dx = _product(g, w, scales, biases, not transpose, group_size, bits, None)
    if needs[2] or needs[3]:
        dw = ops.matmul(swapaxes(g, -1, -2), x) if transpose else ops.matmul(swapaxes(x, -1, -2), g)
        ds, db = _parameter_cotangents(needs[2:], dw, w, scales, biases, group_size, bits)
    return dx, None, ds, db


def _gather_mm_infer(inputs, params):
    a, b, lhs, _ = inputs
    return (lhs.shape[0], a.shape[1], b.shape[2]), a.dtype


def _scattered(parts, indices, like):
    """Return the sums of the matrices that came from each entry of a stack."""
    zeros = ops.zeros(like.shape, parts.dtype, device=like.device)
    return apply(scatter_p, (zeros, indices, expand_dims(parts, 1)), ((0,), (1, *like.shape[1:]), ADD))


def _each(indices):
    return ops.arange(indices.shape[0], dtype=dtypes.uint32, device=indices.device)


def _gather_mm_back(needs, g, out, a, b, lhs, rhs):
    da = db = None
    if needs[0]:
        da = _scattered(apply(gather_mm_p, (g, swapaxes(b, 1, 2), _each(rhs), rhs)), lhs, a)
    if needs[1]:
        db = _scattered(apply(gather_mm_p, (swapaxes(a, 1, 2), g, lhs, _each(lhs))), rhs, b)
    return da, db, None, None


def _gather_qmm_infer(inputs, params):
    x, w, lhs = inputs[0], inputs[1], inputs[4]
    transpose, _, bits = params
    return (lhs.shape[0], x.shape[1], _expanded(w.shape, bits, transpose)[1]), x.dtype


def _gather_qmm_back(needs, g, out, x, w, scales, biases, lhs, rhs, transpose, group_size, bits):
    dx = ds = db = None
    if needs[0]:
        parts = apply(gather_qmm_p, (g, w, scales, biases, _each(rhs), rhs), (not transpose, group_size, bits))
        dx = _scattered(parts, lhs, x)
    if needs[2] or needs[3]:
        left, right = (g, x) if transpose else (x, g)
        indices = (_each(lhs), lhs) if transpose else (lhs, _each(lhs))
        parts = apply(gather_mm_p, (swapaxes(left, 1, 2), right, *indices))
        dw = _scattered(parts, rhs, ops.zeros((w.shape[0], *parts.shape[1:]), g.dtype, device=g.device))
        ds, db = _parameter_cotangents(needs[2:], dw, w, scales, biases, group_size, bits)
    return dx, None, ds, db, None, None


quantize_p = primitive("quantize", "matmul", _quantize_infer)
dequantize_p = primitive("dequantize", "matmul", _dequantize_infer, vjp=_dequantize_back)
quantized_matmul_p = primitive("quantized_matmul", "matmul", _quantized_matmul_infer, vjp=_quantized_matmul_back)
gather_mm_p = primitive("gather_mm", "matmul", _gather_mm_infer, vjp=_gather_mm_back)
gather_qmm_p = primitive("gather_qmm", "matmul", _gather_qmm_infer, vjp=_gather_qmm_back)


# ------------------------------------------------------------------ arguments

def _settings(group_size, bits, mode, op):
    """Return group size and bits, with their defaults."""
    if mode in ("mxfp4", "mxfp8", "nvfp4"):
        raise UnsupportedOpError(f"[{op}] mode {mode!r} has no kernel here: only 'affine'", op=op, mode=mode,
                                 backend="cpu")
    if mode != "affine":
        raise InvalidValueError(f"[{op}] Invalid quantization mode {mode!r}.", op=op, mode=mode)
    group_size = GROUP_SIZE if group_size is None else group_size
    bits = BITS if bits is None else bits
    if group_size not in GROUP_SIZES:
        raise InvalidValueError(f"[{op}] The requested group size {group_size} is not supported. The supported group "
                                f"sizes are 32, 64, and 128.", op=op, group_size=group_size)
    if bits not in WIDTHS:
        raise InvalidValueError(f"[{op}] The requested number of bits {bits} is not supported. The supported bits are "
                                "1, 2, 3, 4, 5, 6 and 8.", op=op, bits=bits)
    return group_size, bits


def _with_words(x):
    """Return `x` with the elements of its last axis side by side."""
    return x if x.is_contiguous or x.strides[-1] == 1 else contiguous(x)


def _quantized(w, scales, biases, group_size, bits, op):
    """Return words, scales and biases, checked against each other."""
    if biases is None:
        raise InvalidValueError(f"[{op}] Biases must be provided for affine quantization.", op=op)
    w, scales, biases = as_operand(w, op), as_operand(scales, op), as_operand(biases, op)
    if w.dtype is not dtypes.uint32:
        raise DtypeError(f"[{op}] The weight matrix should be uint32 but received {w.dtype.name}", op=op,
                         dtypes=(w.dtype,))
    for t in (scales, biases):
        if t.dtype.kind != "f":
            raise DtypeError(f"[{op}] scales and biases are floating, got {t.dtype.name}", op=op, dtypes=(t.dtype,))
    shape, groups = w.shape, scales.shape
    if len(shape) < 2:
        raise ShapeError(f"[{op}] The quantized matrix must have at least 2 dimension but it has only {w.ndim}.", op=op,
                         shapes=(shape, groups, biases.shape))
    if biases.shape != groups or groups[:-1] != shape[:-1] or groups[-1] * group_size * bits != shape[-1] * 32:
        raise ShapeError(
            f"[{op}] Shape of scales and biases does not match the matrix given the quantization parameters. Provided "
            f"matrix of shape {shape} and scales {groups}, biases {biases.shape} with group_size={group_size} and "
            f"bits={bits}.", op=op, shapes=(shape, groups, biases.shape),
        )
    return _with_words(w), _with_words(scales), _with_words(biases)


def _left_operand(x, scales, biases, op):
    """Return the left operand of a product in the dtype of the result."""
    x = as_operand(x, op)
    dtype = promote_types(promote_types(scales.dtype, biases.dtype), x.dtype)
    if dtype.kind != "f":
        raise DtypeError(f"[{op}] Only real floating types are supported but x.dtype() == {x.dtype.name}.", op=op,
                         dtypes=(x.dtype,))
    if x.ndim < 1:
        raise ShapeError(f"[{op}] the left operand needs an axis", op=op, shapes=(x.shape,))
    return astype(x, dtype)


def _check_inner(x, w, transpose, bits, op):
    inner, columns = _expanded(w.shape, bits, transpose)
    if x.shape[-1] != inner:
        raise ShapeError(
            f"[{op}] Last dimension of first input with shape {x.shape} does not match the expanded quantized matrix "
            f"({inner}, {columns}) computed from shape {w.shape} with bits={bits} and transpose={transpose}", op=op,
            shapes=(x.shape, w.shape),
        )


# ------------------------------------------------------------------ references

def _reference_q(w, bits):
    position = np.arange(w.shape[-1] * 32 // bits) * bits
    wide = np.concatenate([w, np.zeros((*w.shape[:-1], 1), w.dtype)], -1).astype(np.uint64)
    both = wide[..., position // 32] | (wide[..., position // 32 + 1] << np.uint64(32))
    return (both >> (position % 32).astype(np.uint64) & np.uint64((1 << bits) - 1)).astype(np.float64)


def _reference_dequantize(w, scales, biases, group_size=None, bits=None, **_):
    group_size, bits = group_size or GROUP_SIZE, bits or BITS
    return scales.repeat(group_size, -1) * _reference_q(w, bits) + biases.repeat(group_size, -1)


def _reference_product(x, w, scales, biases, transpose=True, group_size=None, bits=None):
    matrix = _reference_dequantize(w, scales, biases, group_size, bits)
    return x @ (np.swapaxes(matrix, -1, -2) if transpose else matrix)


def _product_scale(x, w, scales, biases, transpose=True, group_size=None, bits=None):
    return _reference_product(np.abs(x), w, np.abs(scales), np.abs(biases), transpose, group_size, bits)


def _random_quantized(rng, shape, group_size, bits):
    w = rng.integers(0, 2**32, (*shape[:-1], shape[-1] * bits // 32), np.uint32)
    scales = spread(rng, (*shape[:-1], shape[-1] // group_size), 0.25, 1) * 2.0**-bits
    return w, scales, spread(rng, scales.shape, -0.5, 0.0)


def _dequantize_samples(rng):
    for bits in WIDTHS:
        yield Sample(_random_quantized(rng, (3, 128), 64, bits), {"bits": bits})
    for group_size in (32, 128):
        yield Sample(_random_quantized(rng, (2, 2, 128), group_size, 4), {"group_size": group_size})
    yield Sample(_random_quantized(rng, (0, 64), 64, 4))


def _product_samples(rng):
    for bits in WIDTHS:
        yield Sample((spread(rng, (3, 64), -1, 1), *_random_quantized(rng, (4, 64), 32, bits)),
                     {"bits": bits, "group_size": 32})
        yield Sample((spread(rng, (2, 5), -1, 1), *_random_quantized(rng, (5, 64), 64, bits)),
                     {"bits": bits, "transpose": False})
    yield Sample((spread(rng, (64,), -1, 1), *_random_quantized(rng, (4, 64), 64, 4)))
    yield Sample((spread(rng, (2, 3, 64), -1, 1), *_random_quantized(rng, (4, 64), 64, 4)))
    yield Sample((spread(rng, (2, 3, 64), -1, 1), *_random_quantized(rng, (2, 4, 64), 64, 4)))


_W, _S = np.zeros((8, 16), np.uint32), np.ones((8, 2), np.float32)
_X = np.ones((3, 128), np.float32)


# ------------------------------------------------------------------ functions

def _reference_quantize(w, group_size=None, bits=None):
    """Quantize ndarrays by upstream's rule, in its float32: the edge farther from zero is exact, and so is zero."""
    group_size, bits = group_size or GROUP_SIZE, bits or BITS
    x, steps = _as_groups(w.astype(np.float32), group_size), np.float32((1 << bits) - 1)
    low, high = x.min(-1), x.max(-1)
    below = np.abs(low) > np.abs(high)
    scales, biases = np.maximum((high - low) / steps, np.float32(1e-7)), low
    if bits > 1:  # one bit tells the edges apart, and there is no step for zero
        scales, biases = scales * np.where(below, np.float32(1), np.float32(-1)), np.where(below, low, high)
        zero = np.rint(biases / scales)
        scales = np.where(zero == 0, scales, biases / np.where(zero == 0, np.float32(1), zero))
        biases = np.where(zero == 0, np.float32(0), biases)
    q = np.clip(np.rint((x - biases[..., None]) / scales[..., None]), 0, steps).astype(np.uint8)
    stream = np.unpackbits(q[..., None], -1, count=bits, bitorder="little").reshape(*w.shape[:-1], -1)
    return np.packbits(stream, -1, bitorder="little").view(np.uint32), scales, biases


def _as_groups(x, group_size):
    return x.reshape(*x.shape[:-1], x.shape[-1] // group_size, group_size)


@operation("matmul", primitive=quantize_p, dtypes=(dtypes.float32,), reference=_reference_quantize, ulps=1,
           samples=lambda rng: (Sample((spread(rng, (3, 128), -2, 1),), {"bits": bits, "group_size": group_size})
                                for bits in WIDTHS for group_size in GROUP_SIZES),
           refusals=(Refusal((_X, 64, 7), InvalidValueError), Refusal((_X, 16), InvalidValueError),
                     Refusal((_X[:, :100],), ShapeError), Refusal((_X[0],), ShapeError), Refusal((_W,), DtypeError),
                     Refusal((_X,), InvalidValueError, {"mode": "binary"}),
                     Refusal((_X,), UnsupportedOpError, {"mode": "mxfp4"})))
def quantize(w, /, group_size=None, bits=None, mode="affine", *, global_scale=None, stream=None):
    """Quantize the rows of a matrix.

    Parameters
    ----------
    w : Tensor
        Of shape (..., rows, columns), floating.
    group_size : int, optional
        Neighbours that share scale and bias: 32, 64 or 128; 64 by default. Divides the columns.
    bits : int, optional
        Bits of an element: 1, 2, 3, 4, 5, 6 or 8; 4 by default.
    mode : str
        "affine".
    global_scale : Tensor, optional
        Not for affine quantization.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    tuple of Tensor
        Words, scales and biases.

    Raises
    ------
    ShapeError
        If there are no rows, or their groups do not fit.
    DtypeError
        If the dtype is not floating.
    InvalidValueError, UnsupportedOpError
        If there is no such quantization.
    """
    group_size, bits = _settings(group_size, bits, mode, "quantize")
    if global_scale is not None:
        raise InvalidValueError("[quantize] Global scale is only supported for 'nvfp4' quantization mode.",
                                op="quantize")
    w = as_operand(w, "quantize")
    if w.dtype.kind != "f":
        raise DtypeError(f"[quantize] Only real floating types can be quantized but w has type {w.dtype.name}.",
                         op="quantize", dtypes=(w.dtype,))
    if w.ndim < 2:
        raise ShapeError("[quantize] The matrix to be quantized must have at least 2 dimension but it has only "
                         f"{w.ndim}.", op="quantize", shapes=(w.shape,))
    if w.shape[-1] % group_size:
        raise ShapeError("[quantize] The last dimension of the matrix needs to be divisible by the quantization group "
                         f"size {group_size}. However the provided matrix has shape {w.shape}", op="quantize",
                         shapes=(w.shape,))
    if w.dtype is dtypes.float64:
        raise UnsupportedOpError("[quantize] float64 has no kernel", op="quantize", dtypes=(w.dtype,), backend="cpu")
    return apply(quantize_p, (w,), (group_size, bits), stream)


@operation("matmul", primitive=dequantize_p, samples=_dequantize_samples, reference=_reference_dequantize, ulps=2,
           differentiable=(1, 2),
           scale=lambda w, scales, biases, **kw: _reference_dequantize(w, np.abs(scales), np.abs(biases), **kw),
           refusals=(Refusal((_W, _S), InvalidValueError), Refusal((_W, _S, _S), ShapeError, {"bits": 8}),
                     Refusal((_W.astype(np.int32), _S, _S), DtypeError), Refusal((_W[0], _S[0], _S[0]), ShapeError),
                     Refusal((_W, _S, _S), DtypeError, {"dtype": dtypes.int32})))
def dequantize(w, /, scales, biases=None, group_size=None, bits=None, mode="affine", global_scale=None, dtype=None, *,
               stream=None):
    """Return the matrix that words, scales and biases stand for.

    Parameters
    ----------
    w, scales, biases : Tensor
        As :func:`quantize` returns them.
    group_size, bits, mode, global_scale
        As given to :func:`quantize`.
    dtype : Dtype, optional
        That of the scales and biases by default.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError, DtypeError, InvalidValueError
        If the operands do not fit each other.
    """
    group_size, bits = _settings(group_size, bits, mode, "dequantize")
    w, scales, biases = _quantized(w, scales, biases, group_size, bits, "dequantize")
    dtype = promote_types(scales.dtype, biases.dtype) if dtype is None else dtype
    if not isinstance(dtype, Dtype) or dtype.kind != "f":
        raise DtypeError(f"[dequantize] Only real floating types are supported but output dtype == {dtype}.",
                         op="dequantize", dtypes=(dtype,))
    if dtypes.float64 in (dtype, scales.dtype, biases.dtype):
        return astype(_composed(w, scales, biases, group_size, bits, dtypes.float64), dtype)
    return apply(dequantize_p, (w, scales, biases), (group_size, bits, dtype), stream)


def _product(x, w, scales, biases, transpose, group_size, bits, stream):
    """Multiply checked operands."""
    if x.dtype is dtypes.float64:  # no kernel: the matrix is made
        matrix = _composed(w, scales, biases, group_size, bits, x.dtype)
        return ops.matmul(x, swapaxes(matrix, -1, -2) if transpose else matrix, stream=stream)
    params = (bool(transpose), group_size, bits)
    if w.ndim == 2:  # one matrix for all rows
        rows = reshape(x, (-1, x.shape[-1])) if x.ndim != 2 else x
        result = apply(quantized_matmul_p, (rows, w, scales, biases), params, stream)
        return reshape(result, (*x.shape[:-1], result.shape[-1])) if x.ndim != 2 else result
    if x.ndim == 1:
        return ops.squeeze(_product(expand_dims(x, 0), w, scales, biases, transpose, group_size, bits, stream), -2)
    parts = broadcast_shapes(x.shape[:-2], w.shape[:-2])
    operands = (broadcast_to(t, (*parts, *t.shape[-2:])) for t in (x, w, scales, biases))
    return apply(quantized_matmul_p, tuple(operands), params, stream)


@operation("matmul", primitive=quantized_matmul_p, samples=_product_samples, reference=_reference_product, ulps=4,
           scale=_product_scale, differentiable=(0, 2, 3),
           refusals=(Refusal((_X, _W, _S), InvalidValueError), Refusal((_X[:, :64], _W, _S, _S), ShapeError),
                     Refusal((_X, _W, _S, _S), ShapeError, {"transpose": False}),
                     Refusal((_X, _W, _S[:, :1], _S[:, :1]), ShapeError), Refusal((_X, _W, _S, _S[:4]), ShapeError),
                     Refusal((_X, _X, _S, _S), DtypeError), Refusal((_X.astype(np.complex64), _W, _S, _S), DtypeError)))
def quantized_matmul(x, w, /, scales, biases=None, transpose=True, group_size=None, bits=None, mode="affine", *,
                     stream=None):
    """Return the product with a quantized matrix.

    Parameters
    ----------
    x : Tensor
        Of shape (..., K) or (..., M, K).
    w, scales, biases : Tensor
        As :func:`quantize` returns them; leading axes broadcast with those of `x`.
    transpose : bool
        Multiply by the transpose of the matrix: its rows are the columns of the result.
    group_size, bits, mode
        As given to :func:`quantize`.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError, DtypeError, InvalidValueError
        If the operands do not fit each other.
    """
    group_size, bits = _settings(group_size, bits, mode, "quantized_matmul")
    w, scales, biases = _quantized(w, scales, biases, group_size, bits, "quantized_matmul")
    x = _left_operand(x, scales, biases, "quantized_matmul")
    _check_inner(x, w, transpose, bits, "quantized_matmul")
    return _product(x, w, scales, biases, transpose, group_size, bits, stream)


# ------------------------------------------------------------------ gathered products

def _stack(x):
    """Return the matrices of `x` as a stack with one leading axis."""
    return reshape(x, (math.prod(x.shape[:-2]), *x.shape[-2:]))


def _indices(lhs, rhs, left, right, op):
    """Return both index arrays, broadcast and flat, and the shape that they broadcast to."""
    found = []
    for indices, stack in ((lhs, left), (rhs, right)):
        parts = stack.shape[:-2]
        if indices is None:
            indices = reshape(ops.arange(math.prod(parts), dtype=dtypes.uint32, device=stack.device), parts)
        indices = as_operand(indices, op)
        if indices.dtype.kind not in "ui":
            raise DtypeError(f"[{op}] Got indices with invalid dtype. Indices must be integral.", op=op,
                             dtypes=(indices.dtype,))
        found.append(astype(indices, dtypes.uint32))
    shape = broadcast_shapes(*(t.shape for t in found))
    return *(contiguous(reshape(broadcast_to(t, shape), (-1,))) for t in found), shape


def _gather_mm_reference(a, b, lhs_indices=None, rhs_indices=None, **_):
    def chosen(x, indices):
        parts = x.reshape(-1, *x.shape[-2:])
        return parts[np.arange(len(parts)).reshape(x.shape[:-2]) if indices is None else indices]

    return chosen(a, lhs_indices) @ chosen(b, rhs_indices)


@operation("matmul", primitive=gather_mm_p, reference=_gather_mm_reference, differentiable=(0, 1), ulps=4,
           scale=lambda a, b, **kw: _gather_mm_reference(np.abs(a), np.abs(b), **kw),
           samples=lambda rng: (Sample((spread(rng, a, -1, 1), spread(rng, b, -1, 1)), kw) for a, b, kw in [
               ((2, 3, 4), (5, 4, 2), {"lhs_indices": np.array([0, 1, 0]), "rhs_indices": np.array([4, 1, 4])}),
               ((2, 3, 4), (2, 4, 2), {}), ((2, 1, 4), (3, 4, 2), {"rhs_indices": np.array([2, 2])}),
               ((2, 2, 1, 3), (3, 3, 2), {"rhs_indices": np.array([[2, 0], [1, 2]])}), ((3, 4), (4, 2), {}),
               ((2, 3, 4), (2, 4, 2), {"lhs_indices": np.array([[1], [0]]), "rhs_indices": np.array([0, 1, 0])}),
           ]),
           refusals=(Refusal((np.ones((2, 3, 4), np.float32), np.ones((5, 4, 2), np.float32)), BoundsError,
                             {"rhs_indices": np.array([0, 5])}),
                     Refusal((np.ones((2, 3, 4), np.float32), np.ones((5, 4, 2), np.float32)), DtypeError,
                             {"rhs_indices": np.array([0.0, 1.0], np.float32)}),
                     Refusal((np.ones((2, 3, 4), np.int32), np.ones((2, 4, 2), np.int32)), DtypeError),
                     Refusal((np.ones((2, 3, 4), np.float32), np.ones((2, 3, 2), np.float32)), ShapeError)))
def gather_mm(a, b, /, lhs_indices=None, rhs_indices=None, *, sorted_indices=False, stream=None):
    """Return products of matrices that are chosen by index.

    Parameters
    ----------
    a, b : Tensor
        Stacks of matrices, (..., M, K) and (..., K, N).
    lhs_indices, rhs_indices : Tensor of integers, optional
        Positions in the flattened leading axes of `a` and `b`; they broadcast. By default all of them, in order.
    sorted_indices : bool
        Accepted for MLX's sake: what it may speed up there makes no difference here.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of the shape of the indices, then (M, N).

    Raises
    ------
    BoundsError
        If an index is out of range.
    ShapeError, DtypeError
        If the operands do not fit each other.
    """
    a, b = as_operand(a, "gather_mm"), as_operand(b, "gather_mm")
    dtype = promote_types(a.dtype, b.dtype)
    if dtype.kind != "f":
        raise DtypeError(f"[gather_mm] Only real floating point types are supported but {a.dtype.name} and "
                         f"{b.dtype.name} were provided.", op="gather_mm", dtypes=(a.dtype, b.dtype))
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"[gather_mm] shapes {a.shape} and {b.shape} are no matrices that can be multiplied",
                         op="gather_mm", shapes=(a.shape, b.shape))
    lhs, rhs, shape = _indices(lhs_indices, rhs_indices, a, b, "gather_mm")
    result = apply(gather_mm_p, (_stack(astype(a, dtype)), _stack(astype(b, dtype)), lhs, rhs), (), stream)
    return reshape(result, (*shape, *result.shape[1:]))


def _gather_qmm_reference(x, w, scales, biases, lhs_indices=None, rhs_indices=None, transpose=True, group_size=None,
                          bits=None):
    matrices = _reference_dequantize(w, scales, biases, group_size, bits)
    return _gather_mm_reference(x, np.swapaxes(matrices, -1, -2) if transpose else matrices, lhs_indices, rhs_indices)


@operation("matmul", primitive=gather_qmm_p, reference=_gather_qmm_reference, differentiable=(0, 2, 3), ulps=4,
           scale=lambda x, w, s, b, **kw: _gather_qmm_reference(np.abs(x), w, np.abs(s), np.abs(b), **kw),
           samples=lambda rng: iter([
               Sample((spread(rng, (3, 1, 64), -1, 1), *_random_quantized(rng, (2, 4, 64), 64, 4)),
                      {"rhs_indices": np.array([0, 1, 1])}),
               Sample((spread(rng, (2, 2, 5), -1, 1), *_random_quantized(rng, (3, 5, 32), 32, 8)),
                      {"lhs_indices": np.array([0, 1, 0]), "rhs_indices": np.array([2, 1, 1]), "transpose": False,
                       "group_size": 32, "bits": 8}),
           ]),
           refusals=(Refusal((_X[:, None], _W[None], _S[None], _S[None]), BoundsError, {"rhs_indices": np.array([1])}),
                     Refusal((_X[:, None, :64], _W[None], _S[None], _S[None]), ShapeError)))
def gather_qmm(x, w, /, scales, biases=None, lhs_indices=None, rhs_indices=None, transpose=True, group_size=None,
               bits=None, mode="affine", global_scale=None, *, sorted_indices=False, stream=None):
    """Return products with quantized matrices that are chosen by index: :func:`gather_mm` of :func:`quantized_matmul`.

    Parameters
    ----------
    x : Tensor
        Stack of matrices (..., M, K).
    w, scales, biases : Tensor
        As :func:`quantize` returns them.
    lhs_indices, rhs_indices : Tensor of integers, optional
        Positions in the flattened leading axes of `x` and `w`; they broadcast. By default all of them, in order.
    transpose, group_size, bits, mode
        As for :func:`quantized_matmul`.
    global_scale : Tensor, optional
        Not for affine quantization.
    sorted_indices : bool
        Accepted for MLX's sake: what it may speed up there makes no difference here.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of the shape of the indices, then (M, N).

    Raises
    ------
    BoundsError
        If an index is out of range.
    ShapeError, DtypeError, InvalidValueError
        If the operands do not fit each other.
    """
    op = "gather_qmm"
    group_size, bits = _settings(group_size, bits, mode, op)
    w, scales, biases = _quantized(w, scales, biases, group_size, bits, op)
    x = _left_operand(x, scales, biases, op)
    _check_inner(x, w, transpose, bits, op)
    if x.ndim < 2:
        raise ShapeError(f"[{op}] the left operand is a stack of matrices, got shape {x.shape}", op=op,
                         shapes=(x.shape,))
    lhs, rhs, shape = _indices(lhs_indices, rhs_indices, x, w, op)
    if x.dtype is dtypes.float64:  # no kernel: the matrices are made
        matrices = _composed(w, scales, biases, group_size, bits, x.dtype)
        matrices = _stack(swapaxes(matrices, -1, -2) if transpose else matrices)
        result = apply(gather_mm_p, (_stack(x), matrices, lhs, rhs), (), stream)
    else:
        stacks = (_stack(t) for t in (x, w, scales, biases))
        result = apply(gather_qmm_p, (*stacks, lhs, rhs), (bool(transpose), group_size, bits), stream)
    return reshape(result, (*shape, *result.shape[1:]))


# ------------------------------------------------------------------ masked and segmented products

def _masked(x, mask, block_size, role):
    """Return `x` with each block multiplied by its element of `mask` (a boolean one selects)."""
    if mask is None:
        return x
    mask = as_operand(mask, "block_masked_mm")
    rows, columns = x.shape[-2:]
    blocks = (*x.shape[:-2], -(-rows // block_size), -(-columns // block_size))
    try:
        mask = broadcast_to(mask, blocks)
    except ShapeError:
        raise ShapeError(f"[block_masked_mm] mask_{role} of shape {mask.shape} does not fit {blocks} blocks of "
                         f"{block_size}", op="block_masked_mm", shapes=(mask.shape, x.shape)) from None
    spread_out = ops.repeat(ops.repeat(mask, block_size, -2), block_size, -1)[..., :rows, :columns]
    if mask.dtype is dtypes.bool_:
        return where(spread_out, x, ops.zeros_like(x))
    return multiply(x, astype(spread_out, x.dtype))


def _block_reference(a, b, block_size=64, mask_out=None, mask_lhs=None, mask_rhs=None):
    def masked(x, mask):
        if mask is None:
            return x
        grown = np.repeat(np.repeat(mask, block_size, -2), block_size, -1)[..., :x.shape[-2], :x.shape[-1]]
        return x * grown

    return masked(masked(a, mask_lhs) @ masked(b, mask_rhs), mask_out)


@operation("matmul", reference=_block_reference, differentiable=(0, 1), ulps=4,
           scale=lambda a, b, *args, **kw: _block_reference(np.abs(a), np.abs(b), *args),
           samples=lambda rng: iter([
               Sample((spread(rng, (5, 6), -1, 1), spread(rng, (6, 3), -1, 1), 2, spread(rng, (3, 2), 0, 1),
                       spread(rng, (3, 3), 0, 1), spread(rng, (3, 2), 0, 1))),
               Sample((spread(rng, (4, 4), -1, 1), spread(rng, (4, 4), -1, 1), 2,
                       np.array([[True, False], [True, True]]))),
               Sample((spread(rng, (2, 4, 4), -1, 1), spread(rng, (4, 4), -1, 1), 4)),
               # Blocks larger than the matrix, of a size that upstream takes.
               Sample((spread(rng, (5, 6), -1, 1), spread(rng, (6, 3), -1, 1), 32)),
               Sample((spread(rng, (5, 6), -1, 1), spread(rng, (6, 3), -1, 1), 64, np.array([[True]]),
                       np.array([[True]]), np.array([[False]]))),
           ]),
           refusals=(Refusal((_X, _X.T, 32, np.ones((3, 3), np.float32)), ShapeError),
                     Refusal((_X, _X.T, 0), InvalidValueError)))
def block_masked_mm(a, b, /, block_size=64, mask_out=None, mask_lhs=None, mask_rhs=None, *, stream=None):
    """Return the matrix product of operands, and with a result, whose blocks are masked.

    Parameters
    ----------
    a, b : Tensor
        As for :func:`matmul`, with at least two axes.
    block_size : int
        Rows and columns of a block.
    mask_out, mask_lhs, mask_rhs : Tensor, optional
        One element per block: a boolean tells whether the block counts, a number multiplies it.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If shapes do not fit.
    """
    a, b = as_operand(a, "block_masked_mm"), as_operand(b, "block_masked_mm")
    if block_size < 1:
        raise InvalidValueError(f"[block_masked_mm] a block has at least one row, got {block_size}",
                                op="block_masked_mm", block_size=block_size)
    if a.ndim < 2 or b.ndim < 2:
        raise ShapeError("[block_masked_mm] both operands need at least two axes", op="block_masked_mm",
                         shapes=(a.shape, b.shape))
    a, b = _masked(a, mask_lhs, block_size, "lhs"), _masked(b, mask_rhs, block_size, "rhs")
    product = ops.matmul(a, b, stream=stream)
    return _masked(product, mask_out, block_size, "out")


def _segmented_reference(a, b, segments):
    parts = [a[:, start:stop] @ b[start:stop] for start, stop in segments.reshape(-1, 2)]
    return np.stack(parts).reshape(*segments.shape[:-1], a.shape[0], b.shape[1])


@operation("matmul", reference=_segmented_reference, differentiable=(0, 1), ulps=4,
           scale=lambda a, b, segments: _segmented_reference(np.abs(a), np.abs(b), segments),
           samples=lambda rng: (
               Sample((spread(rng, (3, 9), -1, 1), spread(rng, (9, 2), -1, 1), segments))
               for segments in (np.array([[0, 4], [4, 9], [3, 3]]), np.array([[[2, 5]], [[0, 9]]]))),
           refusals=(Refusal((_X[None], _X.T, np.array([[0, 1]])), ShapeError),
                     Refusal((_X, _X.T, np.array([0, 1, 2])), ShapeError),
                     Refusal((_X, _X.T, np.array([[0.0, 1.0]], np.float32)), DtypeError)))
def segmented_mm(a, b, /, segments, *, stream=None):
    """Return products over segments of the axis that is contracted.

    Parameters
    ----------
    a, b : Tensor
        Matrices (M, K) and (K, N).
    segments : Tensor of integers
        Of shape (..., 2): start and stop of each segment.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of shape (..., M, N).

    Raises
    ------
    ShapeError, DtypeError
        If the operands do not fit each other.
    """
    a, b, segments = (as_operand(t, "segmented_mm") for t in (a, b, segments))
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError("[segmented_mm] Batched matmul not supported", op="segmented_mm", shapes=(a.shape, b.shape))
    if segments.dtype.kind not in "ui":
        raise DtypeError("[segmented_mm] Got segments with invalid dtype. Segments must be integral.",
                         op="segmented_mm", dtypes=(segments.dtype,))
    if segments.ndim < 1 or segments.shape[-1] != 2:
        raise ShapeError(f"[segmented_mm] segments are pairs, got shape {segments.shape}", op="segmented_mm",
                         shapes=(segments.shape,))
    pairs = reshape(segments, (-1, 2)).tolist()
    parts = [ops.matmul(a[:, start:stop], b[start:stop], stream=stream) for start, stop in pairs]
    shape = (*segments.shape[:-1], a.shape[0], b.shape[1])
    if not parts:
        return ops.zeros(shape, promote_types(a.dtype, b.dtype), device=a.device)
    return reshape(ops.stack(parts), shape)


# ------------------------------------------------------------------ 8-bit floats

def _fp8_magnitudes():
    """Return the values of the codes 0 to 126 of e4m3: four bits of exponent with bias 7, three of mantissa."""
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    return np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))


def _fp8_bounds():
    """Return, for each code but the last, the largest float32 that rounds to it: halfway; just below for odd codes."""
    values = _fp8_magnitudes()
    halfway = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    return np.where(np.arange(126) % 2 == 0, halfway, np.nextafter(halfway, np.float32(0)))


_FP8_VALUES = np.concatenate([_fp8_magnitudes(), [np.nan]])
_FP8_VALUES = np.concatenate([_FP8_VALUES, -_FP8_VALUES]).astype(np.float32)
_FP8_BOUNDS = _fp8_bounds()


@operation("elementwise", dtypes=LANES, ulps=0,
           reference=lambda x: np.searchsorted(_FP8_BOUNDS, np.abs(x)) + 128 * np.signbit(x),
           samples=lambda rng: iter([
               Sample((np.concatenate([_FP8_VALUES[:127], -_FP8_VALUES[:127]]),)),
               Sample((spread(rng, (3, 50), -500, 500),)),
               Sample((np.array([17.0, 19.0, 2.0**-10, 3 * 2.0**-10, np.inf, -1e9, -0.0]),)),
           ]),
           refusals=(Refusal((np.ones(2, np.int32),), DtypeError),))
def to_fp8(x, *, stream=None):
    """Round to 8-bit floats of four exponent and three mantissa bits (e4m3), to nearest even.

    Parameters
    ----------
    x : Tensor
        Floating. What is out of range, infinite or NaN becomes the largest number, 448, with its sign.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Of dtype uint8.

    Raises
    ------
    DtypeError
        If the dtype is not floating.
    """
    x = as_operand(x, "to_fp8")
    if x.dtype.kind != "f":
        raise DtypeError(f"[to_fp8] Only real floating types are supported but x.dtype() == {x.dtype.name}.",
                         op="to_fp8", dtypes=(x.dtype,))
    x = contiguous(astype(x, dtypes.float32))
    bounds = Tensor(_FP8_BOUNDS, dtypes.float32, device=x.device)
    code = ops.searchsorted(bounds, ops.abs(x), stream=stream)
    sign = left_shift(right_shift(ops.view(x, dtypes.uint32), 31), 7)
    return astype(bitwise_or(code, sign), dtypes.uint8)


@operation("elementwise", dtypes=(dtypes.float32,), ulps=0, reference=lambda x, dtype=None: _FP8_VALUES[x],
           samples=lambda rng: (Sample((np.arange(256, dtype=np.uint8).reshape(16, 16), dtype)) for dtype in LANES),
           refusals=(Refusal((np.ones(2, np.int32),), DtypeError),
                     Refusal((np.ones(2, np.uint8), dtypes.int32), DtypeError)))
def from_fp8(x, dtype=dtypes.bfloat16, *, stream=None):
    """Return the numbers that 8-bit floats (e4m3) stand for.

    Parameters
    ----------
    x : Tensor
        Of dtype uint8.
    dtype : Dtype
        Floating.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    DtypeError
        If a dtype is another one.
    """
    x = as_operand(x, "from_fp8")
    if x.dtype is not dtypes.uint8:
        raise DtypeError(f"[from_fp8] Input must have type uint8 but x.dtype() == {x.dtype.name}.", op="from_fp8",
                         dtypes=(x.dtype,))
    if not isinstance(dtype, Dtype) or dtype.kind != "f":
        raise DtypeError(f"[from_fp8] Only real floating types are supported but dtype == {dtype}.", op="from_fp8",
                         dtypes=(dtype,))
    return ops.take(Tensor(_FP8_VALUES, dtype, device=x.device), x, stream=stream)
