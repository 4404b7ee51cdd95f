"""Layout operations: views of the same elements under other shapes and strides, and what is composed of them."""

from __future__ import annotations

import builtins
import math

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import layout
from mlxr.core.dispatch import apply, as_operand, broadcast_shapes
from mlxr.core.dtype import promote_types
from mlxr.core.layout import normalize_axes
from mlxr.core.tensor import normalize_axis
from mlxr.errors import AxisError, InvalidValueError, ShapeError
from mlxr.ops.declare import EVERY, Refusal, Sample, operation, primitive, spread
from mlxr.ops.elementwise import astype, contiguous

__all__ = [
    "as_strided", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_arrays", "broadcast_to", "concat",
    "concatenate", "diag", "diagonal", "expand_dims", "flatten", "flip", "matrix_transpose", "meshgrid", "moveaxis",
    "pad", "permute_dims", "repeat", "reshape", "roll", "split", "squeeze", "stack", "swapaxes", "tile",
    "transpose", "unflatten", "unstack", "view",
]


def _transpose_back(needs, g, out, x, axes):
    inverse = [0] * len(axes)
    for position, axis in enumerate(axes):
        inverse[axis] = position
    return transpose(g, tuple(inverse))


def _slice_back(needs, g, out, x, starts, shape, steps):
    return apply(slice_update_p, (ops.zeros(x.shape, g.dtype, device=x.device), g), (starts, shape, steps))


def _slice_update_back(needs, g, out, x, update, starts, shape, steps):
    dx = du = None
    if needs[0]:
        hole = ops.zeros((1,) * len(shape), g.dtype, device=x.device)
        dx = apply(slice_update_p, (g, broadcast_to(hole, shape)), (starts, shape, steps))
    if needs[1]:
        du = layout.slice_view(slice_p, g, starts, shape, steps)
    return dx, du


def _as_strided_back(needs, g, out, x, shape, strides, offset):
    positions = ops.arange(x.size, device=x.device)
    flat = reshape(layout.as_strided(as_strided_p, positions, shape, strides, offset), (-1,))
    zeros = ops.zeros((x.size,), g.dtype, device=x.device)
    return reshape(zeros.at[flat].add(reshape(g, (-1,))), x.shape)


identity_p = primitive("identity", "layout", vjp=lambda needs, g, out, x: g, linear=True)
reshape_p = primitive("reshape", "layout", vjp=lambda needs, g, out, x, shape: reshape(g, x.shape), linear=True)
transpose_p = primitive("transpose", "layout", vjp=_transpose_back, linear=True)
broadcast_to_p = primitive(
    "broadcast_to", "layout", vjp=lambda needs, g, out, x, shape: sum_to_shape(g, x.shape), linear=True
)
slice_p = primitive("slice", "layout", vjp=_slice_back, linear=True)
as_strided_p = primitive("as_strided", "layout", vjp=_as_strided_back, linear=True)
view_p = primitive("view", "layout")
slice_update_p = primitive(
    "slice_update", "indexing", lambda inputs, params: (inputs[0].shape, inputs[0].dtype), vjp=_slice_update_back
)


def sum_to_shape(g, shape):
    """Return `g` summed over the axes along which `shape` would be broadcast: the transpose of broadcasting."""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + axis for axis, n in enumerate(shape) if n == 1 and g.shape[lead + axis] != 1
    )
    return reshape(ops.sum(g, axes) if axes else g, shape)


def _samples(*cases):
    def samples(rng):
        for shape, *args in cases:
            yield Sample((spread(rng, shape, -2, 2), *args))
        for shape, *args in cases[:1]:
            yield Sample((spread(rng, shape[::-1], -2, 2).T, *args))

    return samples


@operation("layout", primitive=reshape_p, reference=np.reshape, dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((4, 6), (3, 8)), ((4, 6), (-1,)), ((), (1, 1)), ((0, 3), (3, 0)), ((2, 3, 4), (2, -1))),
           refusals=(Refusal((np.ones((2, 3)), (4,)), ShapeError), Refusal((np.ones((2, 3)), (-1, -1)), ShapeError)))
def reshape(a, /, shape, *, stream=None):
    """Return the elements of `a`, in row-major order, under another shape.

    Parameters
    ----------
    a : Tensor
    shape : int or sequence of int
        One extent may be -1: it takes what is left.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        A view wherever the strides allow.

    Raises
    ------
    ShapeError
        If the number of elements differs.
    """
    a = as_operand(a, "reshape")
    return layout.reshape(reshape_p, a, layout.resolve_shape(a, shape), contiguous)


@operation("layout", primitive=transpose_p, reference=np.transpose, dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((4, 6),), ((2, 3, 4), (2, 0, 1)), ((3,),), ((),), ((2, 0, 3), (1, -1, 0))),
           refusals=(Refusal((np.ones((2, 3)), (0, 0)), AxisError), Refusal((np.ones((2, 3)), (0, 2)), AxisError)))
def transpose(a, /, axes=None, *, stream=None):
    """Return a view with the axes permuted.

    Parameters
    ----------
    a : Tensor
    axes : sequence of int, optional
        ``axes[k]`` is the axis of `a` that becomes axis k. By default the order is reversed.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If `axes` is not a permutation.
    """
    return layout.transpose(transpose_p, as_operand(a, "transpose"), axes)


permute_dims = transpose


def matrix_transpose(a, /, *, stream=None):
    """Return a view with the last two axes exchanged.

    Parameters
    ----------
    a : Tensor
        Of at least two axes.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "matrix_transpose")
    if a.ndim < 2:
        raise ShapeError(f"[matrix_transpose] needs at least two axes, got shape {a.shape}", op="matrix_transpose",
                         shapes=(a.shape,))
    return swapaxes(a, -1, -2)


@operation("layout", reference=np.swapaxes, dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((4, 6), 0, 1), ((2, 3, 4), -1, 0)),
           refusals=(Refusal((np.ones((2, 3)), 0, 2), AxisError),))
def swapaxes(a, /, axis1, axis2, *, stream=None):
    """Return a view with two axes exchanged.

    Parameters
    ----------
    a : Tensor
    axis1, axis2 : int
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    return layout.swapaxes(transpose_p, as_operand(a, "swapaxes"), axis1, axis2)


@operation("layout", reference=np.moveaxis, dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((4, 6), 0, 1), ((2, 3, 4), -1, 0), ((2, 3, 4), 0, 2)),
           refusals=(Refusal((np.ones((2, 3)), 0, 2), AxisError),))
def moveaxis(a, /, source, destination, *, stream=None):
    """Return a view with one axis moved to another place.

    Parameters
    ----------
    a : Tensor
    source, destination : int
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "moveaxis")
    i, j = normalize_axis(source, a.ndim, "moveaxis"), normalize_axis(destination, a.ndim, "moveaxis")
    order = [axis for axis in range(a.ndim) if axis != i]
    order.insert(j, i)
    return transpose(a, order)


@operation("layout", primitive=broadcast_to_p, reference=np.broadcast_to, dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((4, 1), (4, 3)), ((3,), (2, 3)), ((), (2, 2)), ((1,), (0,)), ((2, 1, 3), (5, 2, 4, 3))),
           refusals=(Refusal((np.ones((2, 3)), (3, 3)), ShapeError), Refusal((np.ones((2, 3)), (3,)), ShapeError)))
def broadcast_to(a, /, shape, *, stream=None):
    """Return a view repeated to `shape`.

    Parameters
    ----------
    a : scalar or Tensor
    shape : int or sequence of int
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
        Strides of 0 along repeated axes.

    Raises
    ------
    ShapeError
        If `a` cannot be broadcast to `shape`.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return layout.broadcast_to(broadcast_to_p, as_operand(a, "broadcast_to"), shape)


def broadcast_arrays(*arrays, stream=None):
    """Return all arrays broadcast to their common shape.

    Parameters
    ----------
    *arrays : Tensor
    stream : Stream or Device, optional

    Returns
    -------
    list of Tensor
    """
    arrays = [as_operand(a, "broadcast_arrays") for a in arrays]
    shape = broadcast_shapes(*(a.shape for a in arrays))
    return [broadcast_to(a, shape) for a in arrays]


@operation("layout", reference=lambda a, axis: np.expand_dims(a, axis), dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((4, 6), 0), ((4, 6), -1), ((3,), (0, 2)), ((), 0)),
           refusals=(Refusal((np.ones((2, 3)), 4), AxisError), Refusal((np.ones((2, 3)), (0, 0)), AxisError)))
def expand_dims(a, /, axis, *, stream=None):
    """Return a view with axes of extent 1 added.

    Parameters
    ----------
    a : Tensor
    axis : int or sequence of int
        Where the new axes stand in the result.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "expand_dims")
    axes = (axis,) if hasattr(axis, "__index__") else tuple(axis)
    new = normalize_axes(axes, a.ndim + len(axes), "expand_dims")
    return layout.reshape(reshape_p, a, layout.with_unit_axes(a.shape, new), contiguous)


@operation("layout", reference=np.squeeze, dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((4, 1, 6, 1),), ((4, 1, 6, 1), 1), ((1, 3, 1), (0, -1))),
           refusals=(Refusal((np.ones((2, 3)), 0), ShapeError), Refusal((np.ones((2, 1)), 4), AxisError)))
def squeeze(a, /, axis=None, *, stream=None):
    """Return a view without axes of extent 1.

    Parameters
    ----------
    a : Tensor
    axis : int or sequence of int, optional
        Which ones; all by default.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If a named axis has another extent.
    """
    a = as_operand(a, "squeeze")
    shape = a.shape
    if axis is None:
        axes = tuple(k for k, n in enumerate(shape) if n == 1)
    else:
        axes = normalize_axes(axis, a.ndim, "squeeze")
        for k in axes:
            if shape[k] != 1:
                raise ShapeError(f"[squeeze] cannot squeeze axis {k} with size {shape[k]}", op="squeeze", axis=k,
                                 shapes=(shape,))
    return layout.reshape(reshape_p, a, layout.without_axes(shape, axes), contiguous)


@operation("layout", dtypes=EVERY, differentiable=(0,), ulps=0,
           reference=lambda a, start_axis=0, end_axis=-1: a.reshape(
               *a.shape[:start_axis], -1, *(a.shape[end_axis % a.ndim + 1:] if a.ndim else ())),
           samples=_samples(((4, 6),), ((2, 3, 4), 1), ((2, 3, 4, 2), 1, 2), ((),)),
           refusals=(Refusal((np.ones((2, 3)), 3), AxisError),))
def flatten(a, /, start_axis=0, end_axis=-1, *, stream=None):
    """Return a view in which a run of axes has become one.

    Parameters
    ----------
    a : Tensor
    start_axis, end_axis : int
        First and last axis of the run.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
        A view where strides allow; a scalar gets one axis.

    Raises
    ------
    AxisError
        If an axis is out of range, or the run is empty.
    """
    a = as_operand(a, "flatten")
    if a.ndim == 0:
        return reshape(a, (1,))
    # Like slices, axes before the first or behind the last are cut off at the ends.
    start = max(start_axis + a.ndim, 0) if start_axis < 0 else start_axis
    end = end_axis + a.ndim if end_axis < 0 else min(end_axis, a.ndim - 1)
    if start >= a.ndim or end < start:
        raise AxisError(f"[flatten] axes {start_axis} to {end_axis} are no run of axes of shape {a.shape}",
                        op="flatten", axis=(start_axis, end_axis), ndim=a.ndim)
    return reshape(a, (*a.shape[:start], math.prod(a.shape[start : end + 1]), *a.shape[end + 1 :]))


@operation(
    "layout",
    dtypes=EVERY,
    differentiable=(0,),
    ulps=0,
    samples=_samples(((4, 6), 1, (2, 3)), ((12,), 0, (3, -1))),
    reference=lambda a, axis, shape: a.reshape(*a.shape[:axis], *shape, *a.shape[axis + 1 :]),
    refusals=(Refusal((np.ones((2, 3)), 1, (2, 2)), ShapeError), Refusal((np.ones((2, 3)), 2, (1,)), AxisError)),
)
def unflatten(a, /, axis, shape, *, stream=None):
    """Return a view in which one axis has become several.

    Parameters
    ----------
    a : Tensor
    axis : int
    shape : sequence of int
        The extents that take its place; one may be -1.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "unflatten")
    axis = normalize_axis(axis, a.ndim, "unflatten")
    shape = tuple(shape)
    if not shape:
        raise ShapeError("[unflatten] shape cannot be empty", op="unflatten", shapes=(a.shape, shape))
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) > 1 or (a.shape[axis] % known if known and -1 in shape else known != a.shape[axis]):
        raise ShapeError(f"[unflatten] cannot unflatten axis {axis} of shape {a.shape} into {shape}", op="unflatten",
                         shapes=(a.shape, shape))
    shape = tuple(a.shape[axis] // known if n == -1 and known else n for n in shape)
    return reshape(a, a.shape[:axis] + shape + a.shape[axis + 1:])


@operation("layout", primitive=as_strided_p, dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((12,), (3, 4), (4, 1), 0), ((10,), (4, 3), (2, 1), 1), ((6,), (6,), (-1,), 5)),
           reference=lambda a, shape, strides, offset: np.lib.stride_tricks.as_strided(
               a.reshape(-1)[offset:], shape, [s * a.itemsize for s in strides]),
           refusals=(Refusal((np.ones(4), (5,), (1,), 0), InvalidValueError),))
def as_strided(a, /, shape=None, strides=None, offset=0, *, stream=None):
    """Return a view of the row-major elements of `a` with any shape and strides.

    Parameters
    ----------
    a : Tensor
    shape : sequence of int, optional
        That of `a` by default.
    strides : sequence of int, optional
        In elements; row-major by default.
    offset : int
        Element of `a` at index (0, 0, ...).
    stream : Stream or Device, optional

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If the view would reach outside `a`.
    """
    a = contiguous(as_operand(a, "as_strided"))
    shape = a.shape if shape is None else tuple(shape)
    if strides is None:
        strides = tuple(math.prod(shape[k + 1:]) for k in range(len(shape)))
    return layout.as_strided(as_strided_p, a, shape, tuple(strides), offset)


def view(a, dtype, *, stream=None):
    """Return the bytes of `a` as another dtype.

    Parameters
    ----------
    a : scalar or Tensor
    dtype : Dtype
        If its size differs, the last axis grows or shrinks accordingly.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
        A view; row-major first if the last axis has gaps.

    Raises
    ------
    ShapeError
        If the last axis does not divide.
    """
    a = as_operand(a, "view")
    if a.dtype is dtype:
        return a
    return layout.reinterpret(view_p, contiguous(a), dtype)


def _diagonal_reference(a, offset=0, axis1=0, axis2=1):
    return np.diagonal(a, offset, axis1, axis2)


@operation("layout", reference=_diagonal_reference, dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((4, 6),), ((4, 6), 1), ((4, 6), -2), ((2, 3, 4), 0, 0, 2), ((3, 3), 7)),
           refusals=(Refusal((np.ones(3),), ShapeError),))
def diagonal(a, /, offset=0, axis1=0, axis2=1, stream=None):
    """Return the diagonal of matrices, as the last axis.

    Parameters
    ----------
    a : Tensor
        Of at least two axes.
    offset : int
        Which diagonal: above the main one if positive.
    axis1, axis2 : int
        The axes of the matrices.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "diagonal")
    if a.ndim < 2:
        raise ShapeError(f"[diagonal] needs at least two axes, got shape {a.shape}", op="diagonal", shapes=(a.shape,))
    i, j = normalize_axis(axis1, a.ndim, "diagonal"), normalize_axis(axis2, a.ndim, "diagonal")
    if i == j:
        raise AxisError(
            "[diagonal] axis1 and axis2 cannot be the same", op="diagonal", axis=(axis1, axis2), ndim=a.ndim
        )
    rows, columns = a.shape[i], a.shape[j]
    first = (max(-offset, 0), max(offset, 0))
    n = max(0, min(rows - first[0], columns - first[1]))
    # The diagonal is a strided view of the matrix cut down to the rows and columns that it meets.
    rest = [k for k in range(a.ndim) if k not in (i, j)]
    moved = transpose(a, [*rest, i, j])
    if n == 0:
        return ops.zeros((*(a.shape[k] for k in rest), 0), a.dtype, device=a.device)
    square = moved[..., first[0]:first[0] + n, first[1]:first[1] + n]
    # In a row-major n by n matrix the diagonal is every (n + 1)-th element.
    return reshape(contiguous(square), (*square.shape[:-2], n * n))[..., :: n + 1]


def diag(a, /, k=0, *, stream=None):
    """Return a diagonal of a matrix, or a matrix with a diagonal.

    Parameters
    ----------
    a : Tensor
        Of one axis (gives a matrix) or two (gives a vector).
    k : int
        Which diagonal.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `a` has another number of axes.
    """
    a = as_operand(a, "diag")
    if a.ndim == 2:
        return diagonal(a, k)
    if a.ndim != 1:
        raise ShapeError(f"[diag] needs one or two axes, got shape {a.shape}", op="diag", shapes=(a.shape,))
    n = a.size + builtins.abs(k)
    start = k if k >= 0 else -k * n
    flat = ops.zeros((n * n,), a.dtype, device=a.device)
    if a.size:
        params = ((start,), (a.size,), (n + 1,))
        flat = apply(slice_update_p, (flat, a), params)
    return reshape(flat, (n, n))


@operation("layout", dtypes=EVERY, differentiable=(0,), ulps=0, reference=np.flip,
           samples=_samples(((4, 6),), ((4, 6), 1), ((2, 3, 4), (0, -1))))
def flip(a, /, axis=None, *, stream=None):
    """Return a view with axes in reverse order.

    Parameters
    ----------
    a : Tensor
    axis : int or sequence of int, optional
        All axes by default.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "flip")
    axes = normalize_axes(axis, a.ndim, "flip")
    starts = tuple(max(n - 1, 0) if k in axes else 0 for k, n in enumerate(a.shape))
    return layout.slice_view(slice_p, a, starts, a.shape, tuple(-1 if k in axes else 1 for k in range(a.ndim)))


def atleast_1d(*arys, stream=None):
    """Return the arrays with at least one axis; a list if there are several.

    Parameters
    ----------
    *arys : Tensor
    stream : Stream or Device, optional

    Returns
    -------
    Tensor or list of Tensor
    """
    results = [reshape(a, (1,)) if a.ndim == 0 else a for a in (as_operand(a, "atleast_1d") for a in arys)]
    return results[0] if len(results) == 1 else results


def atleast_2d(*arys, stream=None):
    """Return the arrays with at least two axes, new ones in front; a list if there are several."""
    results = [
        reshape(a, (1,) * (2 - a.ndim) + a.shape) if a.ndim < 2 else a
        for a in (as_operand(a, "atleast_2d") for a in arys)
    ]
    return results[0] if len(results) == 1 else results


def atleast_3d(*arys, stream=None):
    """Return the arrays with at least three axes; a matrix gets a last one. A list if there are several."""
    results = []
    for a in (as_operand(a, "atleast_3d") for a in arys):
        shape = {0: (1, 1, 1), 1: (1, *a.shape, 1), 2: (*a.shape, 1)}.get(a.ndim, a.shape)
        results.append(reshape(a, shape))
    return results[0] if len(results) == 1 else results


# ------------------------------------------------------------------ joining and splitting

def _concatenate_infer(inputs, params):
    (axis,) = params
    shape = inputs[0].shape
    joined = builtins.sum([x.shape[axis] for x in inputs])
    return (*shape[:axis], joined, *shape[axis + 1:]), inputs[0].dtype


def _concatenate_back(needs, g, out, *args):
    *inputs, axis = args
    grads, start = [], 0
    for need, x in zip(needs, inputs, strict=True):
        stop = start + x.shape[axis]
        starts = tuple(start if k == axis else 0 for k in range(x.ndim))
        grads.append(layout.slice_view(slice_p, g, starts, x.shape, (1,) * x.ndim) if need else None)
        start = stop
    return tuple(grads)


concatenate_p = primitive("concatenate", "indexing", _concatenate_infer, vjp=_concatenate_back, linear=True)


@operation("indexing", primitive=concatenate_p, reference=lambda arrays, axis=0: np.concatenate(arrays, axis),
           dtypes=EVERY, ulps=0, samples=lambda rng: iter([
               Sample(([spread(rng, (2, 3), -1, 1), spread(rng, (4, 3), -1, 1)],)),
               Sample(([spread(rng, (2, 3), -1, 1), spread(rng, (5, 2), -1, 1).T, spread(rng, (2, 0), -1, 1)], -1)),
               Sample(([spread(rng, (3,), -1, 1)], 0)),
           ]),
           refusals=(Refusal(([np.ones((2, 3)), np.ones((2, 4))], 0), ShapeError), Refusal(([],), InvalidValueError)))
def concatenate(arrays, axis=0, *, stream=None):
    """Join arrays along an axis.

    Parameters
    ----------
    arrays : sequence of Tensor
        Shapes agree except along `axis`; dtypes are promoted.
    axis : int, optional
        None joins the flattened arrays.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If there are no arrays.
    ShapeError
        If shapes do not agree.
    """
    arrays = [as_operand(a, "concatenate") for a in arrays]
    if not arrays:
        raise InvalidValueError("[concatenate] No arrays provided for concatenation", op="concatenate")
    if axis is None:
        arrays, axis = [reshape(a, (-1,)) for a in arrays], 0
    axis = normalize_axis(axis, arrays[0].ndim, "concatenate")
    first, dtype = arrays[0].shape, arrays[0].dtype
    rest = layout.without_axes(first, (axis,))
    for a in arrays[1:]:
        shape = a.shape
        dtype = promote_types(dtype, a.dtype)
        if len(shape) != len(first) or layout.without_axes(shape, (axis,)) != rest:
            raise ShapeError(
                f"[concatenate] shapes {', '.join(str(x.shape) for x in arrays)} differ outside axis {axis}",
                op="concatenate", shapes=tuple(x.shape for x in arrays),
            )
    if len(arrays) == 1:
        return arrays[0]
    return apply(concatenate_p, tuple([a if a.dtype is dtype else astype(a, dtype) for a in arrays]), (axis,), stream)


concat = concatenate


@operation("indexing", reference=lambda arrays, axis=0: np.stack(arrays, axis), dtypes=EVERY, ulps=0,
           samples=lambda rng: iter([
               Sample(([spread(rng, (2, 3), -1, 1), spread(rng, (2, 3), -1, 1)],)),
               Sample(([spread(rng, (2, 3), -1, 1), spread(rng, (3, 2), -1, 1).T], -1)),
           ]),
           refusals=(Refusal(([np.ones(2), np.ones(3)],), ShapeError), Refusal(([],), InvalidValueError)))
def stack(arrays, axis=0, *, stream=None):
    """Join arrays of one shape along a new axis.

    Parameters
    ----------
    arrays : sequence of Tensor
    axis : int
        Where the new axis stands in the result.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If there are no arrays.
    ShapeError
        If shapes differ.
    """
    arrays = [as_operand(a, "stack") for a in arrays]
    if not arrays:
        raise InvalidValueError("[stack] No arrays provided for stacking", op="stack")
    shapes = [a.shape for a in arrays]
    if shapes.count(shapes[0]) != len(shapes):
        raise ShapeError(f"[stack] shapes differ: {', '.join(map(str, shapes))}", op="stack", shapes=tuple(shapes))
    axis = normalize_axis(axis, len(shapes[0]) + 1, "stack")
    shape = layout.with_unit_axes(shapes[0], (axis,))
    return concatenate([layout.reshape(reshape_p, a, shape, contiguous) for a in arrays], axis, stream=stream)


@operation("layout", reference=lambda a, n, axis=0: np.split(a, n, axis), dtypes=EVERY, ulps=0,
           samples=_samples(((4, 6), 2), ((4, 6), 3, 1), ((4, 6), (1, 4), -1), ((5,), (2, 2))),
           refusals=(Refusal((np.ones((2, 3)), 2, 1), ShapeError), Refusal((np.ones((2, 3)), 0), InvalidValueError)))
def split(a, /, indices_or_sections, axis=0, *, stream=None):
    """Cut an array along an axis into views.

    Parameters
    ----------
    a : Tensor
    indices_or_sections : int or sequence of int
        The number of equal parts, or where to cut.
    axis : int
    stream : Stream or Device, optional

    Returns
    -------
    list of Tensor

    Raises
    ------
    ShapeError
        If the axis does not divide into that many parts.
    """
    a = as_operand(a, "split")
    axis = normalize_axis(axis, a.ndim, "split")
    shape = a.shape
    n = shape[axis]
    if hasattr(indices_or_sections, "__index__"):
        parts = indices_or_sections.__index__()
        if parts <= 0:
            raise InvalidValueError(f"[split] the number of parts must be positive, got {parts}", op="split")
        if n % parts:
            raise ShapeError(f"[split] axis {axis} of shape {shape} does not divide into {parts} equal parts",
                             op="split", shapes=(shape,), axis=axis)
        cuts = [k * (n // parts) for k in range(1, parts)]
    else:
        cuts = [min(max(c + n if c < 0 else c, 0), n) for c in indices_or_sections]
    before, after, steps = (0,) * axis, (0,) * (len(shape) - axis - 1), (1,) * len(shape)
    result = []
    for start, stop in zip([0, *cuts], [*cuts, n], strict=True):
        extents = (*shape[:axis], max(0, stop - start), *shape[axis + 1:])
        result.append(layout.slice_view(slice_p, a, (*before, start, *after), extents, steps))
    return result


def unstack(x, /, *, axis=0, stream=None):
    """Return the slices of `x` along an axis, as views without that axis.

    Parameters
    ----------
    x : Tensor
    axis : int
    stream : Stream or Device, optional

    Returns
    -------
    tuple of Tensor
    """
    x = as_operand(x, "unstack")
    axis = normalize_axis(axis, x.ndim, "unstack")
    return tuple(squeeze(part, axis) for part in split(x, x.shape[axis], axis)) if x.shape[axis] else ()


@operation("indexing", reference=lambda a, reps: np.tile(a, reps), dtypes=EVERY, differentiable=(0,), ulps=0,
           samples=_samples(((2, 3), 2), ((2, 3), (2, 1, 3)), ((3,), (0,)), ((2, 3), (2, 2))))
def tile(a, reps, /, *, stream=None):
    """Repeat an array along its axes.

    Parameters
    ----------
    a : Tensor
    reps : int or sequence of int
        How often along each axis; counted from the last.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "tile")
    reps = (reps,) if hasattr(reps, "__index__") else tuple(reps)
    if any(r < 0 for r in reps):
        raise InvalidValueError(f"[tile] repetitions cannot be negative, got {reps}", op="tile")
    ndim = max(a.ndim, len(reps))
    reps = (1,) * (ndim - len(reps)) + reps
    shape = (1,) * (ndim - a.ndim) + a.shape
    # (n, m) repeated (r, s) times is (r, n, s, m) broadcast from (1, n, 1, m).
    spaced = reshape(a, tuple(k for n in shape for k in (1, n)))
    repeated = broadcast_to(spaced, tuple(k for r, n in zip(reps, shape, strict=True) for k in (r, n)))
    return reshape(repeated, tuple(r * n for r, n in zip(reps, shape, strict=True)))


@operation("indexing", reference=lambda array, repeats, axis=None: np.repeat(array, repeats, axis), dtypes=EVERY,
           differentiable=(0,), ulps=0, samples=_samples(((2, 3), 2), ((2, 3), 3, 0), ((2, 3), 2, -1), ((3,), 0)))
def repeat(array, repeats, axis=None, *, stream=None):
    """Repeat each element along an axis.

    Parameters
    ----------
    array : Tensor
    repeats : int
    axis : int, optional
        By default the array is flattened first.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(array, "repeat")
    if repeats < 0:
        raise InvalidValueError(f"[repeat] repetitions cannot be negative, got {repeats}", op="repeat")
    if axis is None:
        a, axis = reshape(a, (-1,)), 0
    axis = normalize_axis(axis, a.ndim, "repeat")
    spaced = broadcast_to(expand_dims(a, axis + 1), (*a.shape[:axis + 1], repeats, *a.shape[axis + 1:]))
    return reshape(spaced, (*a.shape[:axis], a.shape[axis] * repeats, *a.shape[axis + 1:]))


@operation("indexing", reference=lambda a, shift, axis=None: np.roll(a, shift, axis), dtypes=EVERY,
           differentiable=(0,), ulps=0,
           samples=_samples(((2, 3), 1), ((4, 3), -1, 0), ((4, 3), (1, 2), (0, 1)), ((0,), 3)))
def roll(a, shift, axis=None, *, stream=None):
    """Shift elements along axes; what leaves at one end comes in at the other.

    Parameters
    ----------
    a : Tensor
    shift : int or sequence of int
    axis : int or sequence of int, optional
        By default the flattened array is shifted.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    a = as_operand(a, "roll")
    if axis is None:
        total = builtins.sum(shift) if not hasattr(shift, "__index__") else shift
        return reshape(roll(reshape(a, (-1,)), total, 0), a.shape)
    axes = (axis,) if hasattr(axis, "__index__") else tuple(axis)
    shifts = (shift,) * len(axes) if hasattr(shift, "__index__") else tuple(shift)
    if len(shifts) != len(axes):
        raise InvalidValueError(f"[roll] {len(shifts)} shifts for {len(axes)} axes", op="roll")
    for s, k in zip(shifts, axes, strict=True):
        k = normalize_axis(k, a.ndim, "roll")
        n = a.shape[k]
        if n and s % n:
            cut = n - s % n
            head, tail = split(a, [cut], k)
            a = concatenate([tail, head], k)
    return a


def meshgrid(*arrays, sparse=False, indexing="xy", stream=None):
    """Return coordinate arrays of a grid.

    Parameters
    ----------
    *arrays : Tensor
        The coordinates along each axis.
    sparse : bool
        Keep extents of 1 instead of broadcasting.
    indexing : {"xy", "ij"}
        Cartesian (the first two axes exchanged) or matrix order.
    stream : Stream or Device, optional

    Returns
    -------
    list of Tensor
    """
    if indexing not in ("xy", "ij"):
        raise InvalidValueError(f"[meshgrid] indexing is 'xy' or 'ij', got {indexing!r}", op="meshgrid")
    arrays = [reshape(as_operand(a, "meshgrid"), (-1,)) for a in arrays]
    n = len(arrays)
    order = list(range(n))
    if indexing == "xy" and n > 1:
        order[0], order[1] = 1, 0
    grids = [
        reshape(a, tuple(a.size if axis == order[k] else 1 for axis in range(n))) for k, a in enumerate(arrays)
    ]
    return grids if sparse or n < 2 else broadcast_arrays(*grids)


def _pad_width(width, ndim):
    if hasattr(width, "__index__"):
        return [(width, width)] * ndim
    width = list(width)
    if width and hasattr(width[0], "__index__"):
        if len(width) == 1:
            width *= 2
        return [tuple(width)] * ndim
    return [tuple(w) * 2 if len(w) == 1 else tuple(w) for w in (width * ndim if len(width) == 1 else width)]


@operation(
    "indexing",
    dtypes=EVERY,
    differentiable=(0,),
    ulps=0,
    reference=lambda a, width, mode="constant", constant_values=0: np.pad(
        a, width, mode, **({"constant_values": constant_values} if mode == "constant" else {})
    ),
    samples=_samples(
        ((2, 3), 1), ((2, 3), ((1, 0), (2, 3))), ((3,), 2, "edge"), ((2, 3), ((0, 1), (1, 1)), "constant", 2)
    ),
    refusals=(
        Refusal((np.ones((2, 3)), ((1, 1), (1, 1), (1, 1))), ShapeError),
        Refusal((np.ones((2, 3)), -1), InvalidValueError),
    ),
)
def pad(a, pad_width, mode="constant", constant_values=0, *, stream=None):
    """Add elements around an array.

    Parameters
    ----------
    a : Tensor
    pad_width : int, pair of int, or sequence of pairs
        How many before and behind, for all axes or for each.
    mode : {"constant", "edge"}
        Fill with `constant_values`, or repeat the outermost element.
    constant_values : scalar or Tensor
    stream : Stream or Device, optional

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If a width is negative or the mode unknown.
    ShapeError
        If there is not one pair per axis.
    """
    a = as_operand(a, "pad")
    widths = _pad_width(pad_width, a.ndim)
    if len(widths) != a.ndim:
        raise ShapeError(f"[pad] {len(widths)} pairs of widths for shape {a.shape}", op="pad", shapes=(a.shape,))
    if any(w < 0 for pair in widths for w in pair):
        raise InvalidValueError(f"[pad] widths cannot be negative, got {pad_width}", op="pad")
    shape = tuple(n + low + high for n, (low, high) in zip(a.shape, widths, strict=True))
    if mode == "constant":
        base = ops.full(shape, constant_values, a.dtype, device=a.device)
        starts = tuple(low for low, _ in widths)
        return apply(slice_update_p, (base, a), (starts, a.shape, (1,) * a.ndim)) if a.size else base
    if mode != "edge":
        raise InvalidValueError(f"[pad] mode is 'constant' or 'edge', got {mode!r}", op="pad", mode=mode)
    for axis, (low, high) in enumerate(widths):
        if not low and not high:
            continue
        n = a.shape[axis]
        first, last = split(a, [1], axis)[0], split(a, [n - 1], axis)[1]
        a = concatenate([*[first] * low, a, *[last] * high], axis)
    return a
