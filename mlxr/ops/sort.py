"""Sorting, selection by rank, and search in sorted elements: one declaration each.

Numbers ascend and NaN comes last; complex numbers are ordered by real part, then imaginary part. Every sort and
partition is stable, so each result is one particular permutation of its input.
"""

from __future__ import annotations

import math

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core.dispatch import apply, as_operand
from mlxr.core.dtype import promote_types
from mlxr.errors import AxisError, InvalidValueError, ShapeError
from mlxr.ops.declare import EVERY, FLOATING, INTEGER, REAL, Refusal, Sample, operation, primitive, spread
from mlxr.ops.elementwise import add, astype, isnan, less, minimum, multiply, not_equal, subtract, where
from mlxr.ops.indexing import ADD, put_along_axis_p
from mlxr.ops.layout import normalize_axes, normalize_axis, reshape, transpose

__all__ = ["argpartition", "argsort", "median", "partition", "searchsorted", "sort", "topk", "unique"]


def _permuted_back(g, x, order, axis):
    """Give each element the cotangent of the place that a permutation moved it to."""
    zeros = ops.zeros(x.shape, g.dtype, device=x.device)
    return apply(put_along_axis_p, (zeros, order, g), (axis, ADD))


def _ranks(inputs, params):
    return inputs[0].shape, dtypes.uint32


def _values(inputs, params):
    return inputs[0].shape, inputs[0].dtype


argsort_p = primitive("argsort", "sort", _ranks)
argpartition_p = primitive("argpartition", "sort", _ranks)
sort_p = primitive(
    "sort", "sort", _values,
    vjp=lambda needs, g, out, x, axis: _permuted_back(g, x, apply(argsort_p, (x,), (axis,)), axis),
)
partition_p = primitive(
    "partition", "sort", _values,
    vjp=lambda needs, g, out, x, kth, axis: _permuted_back(g, x, apply(argpartition_p, (x,), (kth, axis)), axis),
)
searchsorted_p = primitive("searchsorted", "sort", lambda inputs, params: (inputs[1].shape, dtypes.uint32))


def _along(a, axis, op):
    """Return the operand, flattened if `axis` is None, and the axis counted from the front."""
    a = as_operand(a, op)
    if axis is None:
        a, axis = reshape(a, (-1,)), 0
    axis = normalize_axis(axis, a.ndim, op)
    if a.shape[axis] >= 1 << 32:
        raise ShapeError(f"[{op}] indices are uint32: an axis of {a.shape[axis]} elements is too long", op=op,
                         shapes=(a.shape,))
    return a, axis


def _samples(rng):
    for shape, kwargs in [
        ((7,), {}), ((4, 5), {}), ((4, 5), {"axis": 0}), ((2, 3, 4), {"axis": 1}), ((4, 5), {"axis": None}), ((1,), {}),
        ((2, 300), {"axis": -1}), ((3, 0), {}), ((0, 3), {}),
    ]:
        yield Sample((spread(rng, shape, -20, 20),), kwargs)
    yield Sample((spread(rng, (5, 4), -20, 20).T,), {"axis": 0})
    yield Sample((spread(rng, (3, 8), -20, 20)[:, ::2],))


_REFUSALS = (
    Refusal((np.ones((2, 3)),), AxisError, {"axis": 2}), Refusal((np.ones((2, 3)),), AxisError, {"axis": -3}),
    Refusal((np.ones(()),), AxisError),
)


@operation("sort", primitive=sort_p, samples=_samples, reference=lambda a, axis=-1: np.sort(a, axis), dtypes=EVERY,
           differentiable=(0,), refusals=_REFUSALS, ulps=0)
def sort(a, /, axis=-1, *, stream=None):
    """Return the elements in ascending order, NaN last.

    Parameters
    ----------
    a : Tensor
    axis : int or None
        None sorts the flattened array.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If there is no such axis.
    """
    a, axis = _along(a, axis, "sort")
    return apply(sort_p, (a,), (axis,), stream)


@operation("sort", primitive=argsort_p, dtypes=EVERY, refusals=_REFUSALS, ulps=0,
           samples=lambda rng: iter([*_samples(rng), Sample((np.array([2.0, 1.0, 2.0, 1.0, 0.0]),))]),
           reference=lambda a, axis=-1: np.argsort(a, axis, kind="stable"))
def argsort(a, /, axis=-1, *, stream=None):
    """Return the indices that sort an array; equal elements keep their order.

    Parameters as :func:`sort`.

    Returns
    -------
    Tensor
        Of dtype uint32.
    """
    a, axis = _along(a, axis, "argsort")
    return apply(argsort_p, (a,), (axis,), stream)


def _kth(a, kth, axis, op):
    a, axis = _along(a, axis, op)
    n = a.shape[axis]
    if not -n <= kth < n:
        raise InvalidValueError(f"[{op}] Received invalid kth {kth} along axis {axis} for array with shape: {a.shape}",
                                op=op, kth=kth, axis=axis)
    return a, kth.__index__() % n, axis


def _ordered_partition(a, kth, axis=-1):
    """Partition on ndarrays: ranks below that of the k-th, its equals, the rest, each in the order of the input."""
    return np.take_along_axis(a, _ordered_argpartition(a, kth, axis), axis)


def _ordered_argpartition(a, kth, axis=-1):
    if axis is None:
        a, axis = a.ravel(), 0
    pivot = np.take(np.sort(a, axis), [kth], axis)
    nan = np.isnan(a)
    group = np.where(nan & ~np.isnan(pivot) | (a > pivot), 2, np.where((a == pivot) | (nan & np.isnan(pivot)), 1, 0))
    return np.argsort(group, axis, kind="stable")


def _partition_samples(rng):
    yield Sample((spread(rng, (9,), -20, 20), 3))
    yield Sample((spread(rng, (4, 5), -20, 20), -2), {"axis": 1})
    yield Sample((spread(rng, (50, 3), -20, 20), 20), {"axis": 0})
    yield Sample((spread(rng, (4, 5), -20, 20), 11), {"axis": None})


_KTH_REFUSALS = (
    Refusal((np.ones((2, 3)), 3), InvalidValueError), Refusal((np.ones((2, 3)), -4), InvalidValueError),
    Refusal((np.ones((2, 3)), 0), AxisError, {"axis": 2}),
)


@operation("sort", primitive=partition_p, samples=_partition_samples, reference=_ordered_partition,
           dtypes=FLOATING + INTEGER, differentiable=(0,), refusals=_KTH_REFUSALS, ulps=0)
def partition(a, /, kth, axis=-1, *, stream=None):
    """Return the elements with that of rank `kth` in its sorted place: none before it is larger, none behind smaller.

    Parameters
    ----------
    a : Tensor
    kth : int
        Counted from the largest if negative.
    axis : int or None
        None partitions the flattened array.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Smaller elements, equal ones, larger ones, each in the order of `a`.

    Raises
    ------
    InvalidValueError
        If there is no such rank.
    AxisError
        If there is no such axis.
    """
    a, kth, axis = _kth(a, kth, axis, "partition")
    return apply(partition_p, (a,), (kth, axis), stream)


@operation("sort", primitive=argpartition_p, reference=_ordered_argpartition, dtypes=FLOATING + INTEGER,
           samples=lambda rng: iter([*_partition_samples(rng), Sample((np.array([2.0, 1.0, 2.0, 1.0, 0.0]), 2))]),
           refusals=_KTH_REFUSALS, ulps=0)
def argpartition(a, /, kth, axis=-1, *, stream=None):
    """Return the indices that :func:`partition` an array; parameters as there.

    Returns
    -------
    Tensor
        Of dtype uint32.
    """
    a, kth, axis = _kth(a, kth, axis, "argpartition")
    return apply(argpartition_p, (a,), (kth, axis), stream)


def _topk_reference(a, k, axis=-1):
    if axis is None:
        a, axis = a.ravel(), 0
    n = a.shape[axis]
    if k in (0, n):
        return np.take(a, range(k), axis)
    return np.take(_ordered_partition(a, n - k, axis), range(n - k, n), axis)


@operation("sort", reference=_topk_reference, dtypes=FLOATING + INTEGER, differentiable=(0,), ulps=0,
           samples=lambda rng: iter([
               Sample((spread(rng, (9,), -20, 20), 3)), Sample((spread(rng, (4, 5), -20, 20), 2), {"axis": 0}),
               Sample((spread(rng, (4, 5), -20, 20), 7), {"axis": None}), Sample((spread(rng, (3,), -2, 2), 0)),
               Sample((spread(rng, (3,), -2, 2), 3)),
           ]),
           refusals=(Refusal((np.ones((2, 3)), 4), InvalidValueError),
                     Refusal((np.ones((2, 3)), -1), InvalidValueError)))
def topk(a, /, k, axis=-1, *, stream=None):
    """Return the `k` largest elements, the smallest of them first and the others in no order.

    Parameters
    ----------
    a : Tensor
    k : int
    axis : int or None
        None takes the flattened array.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If there are not so many.
    """
    a, axis = _along(a, axis, "topk")
    n = a.shape[axis]
    if not 0 <= k <= n:
        raise InvalidValueError(f"[topk] Received invalid k={k} along axis {axis} for array with shape: {a.shape}",
                                op="topk", k=k, axis=axis)
    if k == n:
        return a
    place = [slice(None)] * a.ndim
    place[axis] = slice(n - k, n)
    return (partition(a, n - k, axis, stream=stream) if k else a)[tuple(place)]


@operation("sort", primitive=searchsorted_p, dtypes=REAL, ulps=0,
           reference=lambda a, v, side="left": np.searchsorted(a, v, side),
           samples=lambda rng: iter([
               Sample((np.array([1.0, 2.0, 2.0, 4.0]), np.array([[0.0, 2.0], [3.0, 5.0]])), {"side": side})
               for side in ("left", "right")
           ] + [Sample((np.sort(spread(rng, (50,), 0, 90)), spread(rng, (33,), 0, 99))),
                Sample((np.zeros(0), np.ones(3)))]),
           refusals=(Refusal((np.ones((2, 3)), np.ones(2)), ShapeError),
                     Refusal((np.ones(3), np.ones(2)), InvalidValueError, {"side": "middle"})))
def searchsorted(sorted_sequence, values, /, side="left", *, stream=None):
    """Return where values would have to be inserted to keep a sequence sorted.

    Parameters
    ----------
    sorted_sequence : Tensor
        One-dimensional and ascending.
    values : Tensor
    side : {"left", "right"}
        Before or behind elements that are equal.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of dtype uint32 and the shape of `values`.

    Raises
    ------
    ShapeError
        If the sequence has not one axis.
    InvalidValueError
        If `side` is neither.
    """
    ordered, values = as_operand(sorted_sequence, "searchsorted"), as_operand(values, "searchsorted")
    if ordered.ndim != 1:
        raise ShapeError(f"[searchsorted] The sorted sequence must be 1-D but has {ordered.ndim} dimensions.",
                         op="searchsorted", shapes=(ordered.shape,))
    if side not in ("left", "right"):
        raise InvalidValueError(f"[searchsorted] side must be 'left' or 'right', got {side!r}", op="searchsorted",
                                side=side)
    dtype = promote_types(ordered.dtype, values.dtype)
    return apply(searchsorted_p, (astype(ordered, dtype), astype(values, dtype)), (side == "right",), stream)


@operation("sort", dtypes=FLOATING + INTEGER, differentiable=(0,), ulps=2,
           reference=lambda a, axis=None, keepdims=False: np.median(
               a, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims),
           samples=lambda rng: iter([
               Sample((spread(rng, (7,), -20, 20),)),
               Sample((spread(rng, (4, 5), -20, 20),), {"axis": 0}),
               Sample((spread(rng, (4, 5), -20, 20),), {"axis": 1, "keepdims": True}),
               Sample((spread(rng, (2, 3, 4), -20, 20),), {"axis": [0, 2]}),
           ]),
           refusals=(Refusal((np.ones((0, 3)),), ShapeError, {"axis": 0}),
                     Refusal((np.ones((2, 3)),), AxisError, {"axis": 2})))
def median(a, /, axis=None, keepdims=False, *, stream=None):
    """Return the middle of the sorted elements, or the mean of the two in the middle; NaN if there is one.

    Parameters
    ----------
    a : Tensor
    axis : int or sequence of int, optional
        All axes by default.
    keepdims : bool
        Keep the reduced axes with extent 1.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Integers are averaged as float32.

    Raises
    ------
    ShapeError
        If there is nothing to choose from.
    """
    a = as_operand(a, "median")
    axes = normalize_axes(axis, a.ndim, "median")
    n = math.prod(a.shape[k] for k in axes)
    if n == 0:
        raise ShapeError("[median] Cannot take median along empty axis.", op="median", shapes=(a.shape,))
    kept = tuple(1 if k in axes else extent for k, extent in enumerate(a.shape))
    rest = [k for k in range(a.ndim) if k not in axes]
    if a.dtype.kind not in "fc":
        a = astype(a, dtypes.float32)
    rows = sort(reshape(transpose(a, rest + list(axes)), (*(a.shape[k] for k in rest), n)), stream=stream)
    middle = rows[..., n // 2] if n % 2 else multiply(add(rows[..., n // 2 - 1], rows[..., n // 2]), 0.5)
    last = rows[..., -1]
    middle = where(isnan(last), last, middle)
    return reshape(middle, kept if keepdims else tuple(a.shape[k] for k in rest))


def _unique_reference(a, size, return_index=False, return_inverse=False, return_counts=False, fill_value=None):
    values, index, inverse, counts = np.unique(a.ravel(), True, True, True)
    pad = size - values.size
    fit = lambda x, fill: x[:size] if pad <= 0 else np.concatenate([x, np.full(pad, fill, x.dtype)])  # noqa: E731
    found = [
        fit(values, values[0] if fill_value is None else fill_value), fit(index, index[0]),
        np.minimum(inverse.reshape(a.shape), max(size - 1, 0)), fit(counts, 0),
    ]
    wanted = (True, return_index, return_inverse, return_counts)
    chosen = tuple(x for x, want in zip(found, wanted, strict=True) if want)
    return chosen if len(chosen) > 1 else chosen[0]


@operation("sort", dtypes=EVERY, reference=_unique_reference, ulps=0,
           samples=lambda rng: iter([
               *(Sample((np.array([[3.0, 1.0, 2.0], [1.0, 3.0, 3.0]]), size), dict.fromkeys(names, True))
                 for size in (0, 2, 3, 5) for names in ((), ("return_index", "return_inverse", "return_counts"))),
               Sample((np.array([3.0, 1.0, 2.0, 1.0]), 5), {"fill_value": 7}),
           ]),
           refusals=(Refusal((np.ones(3), -1), InvalidValueError), Refusal((np.ones(0), 2), InvalidValueError)))
def unique(a, /, size, return_index=False, return_inverse=False, return_counts=False, fill_value=None, *, stream=None):
    """Return the distinct elements of an array in ascending order.

    Parameters
    ----------
    a : Tensor
    size : int
        Elements of the result: if there are more distinct elements, the largest are left out; if fewer, the rest is
        filled.
    return_index : bool
        Also return where each first occurs in the flattened array.
    return_inverse : bool
        Also return, in the shape of `a`, where in the result each element is.
    return_counts : bool
        Also return how often each occurs; 0 for filled elements.
    fill_value : scalar or Tensor, optional
        By default the first of the result.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor or tuple of Tensor
        Values, and what was asked for in the order of the parameters.

    Raises
    ------
    InvalidValueError
        If `size` is negative, or the array is empty and there is nothing to fill with.
    """
    a = as_operand(a, "unique")
    if size < 0:
        raise InvalidValueError(f"[unique] Received negative size {size}.", op="unique", size=size)
    flat = reshape(a, (-1,))
    n = flat.size
    if n == 0 and size > 0 and fill_value is None:
        raise InvalidValueError("[unique] A fill value is required for an empty input with a non-zero size.",
                                op="unique", size=size)
    order = argsort(flat, stream=stream)
    ordered = ops.take(flat, order)
    starts_run = not_equal(ordered[1:], ordered[:-1])
    zero = ops.zeros((min(n, 1),), dtypes.int32, device=a.device)
    rank = ops.cumsum(ops.concatenate([zero, astype(starts_run, dtypes.int32)]))
    # Runs of equal elements begin and end where their rank does; a rank that does not occur begins at n.
    wanted = ops.arange(size, dtype=dtypes.int32, device=a.device)
    begin = searchsorted(rank, wanted)
    exists = less(begin, n)
    if n:
        first = where(exists, begin, astype(0, begin.dtype))
        values, index = ops.take(ordered, first), ops.take(order, first)
    else:
        values, index = ops.zeros((size,), a.dtype, device=a.device), begin
    if fill_value is not None:
        values = where(exists, values, astype(as_operand(fill_value, "unique"), a.dtype))
    found = [values]
    if return_index:
        found.append(index)
    if return_inverse:
        zeros = ops.zeros((n,), dtypes.uint32, device=a.device)
        place = astype(minimum(rank, max(size - 1, 0)), dtypes.uint32)
        inverse = apply(put_along_axis_p, (zeros, order, place), (0, ADD))
        found.append(reshape(inverse, a.shape))
    if return_counts:
        found.append(astype(subtract(searchsorted(rank, wanted, "right"), begin), dtypes.int32))
    return tuple(found) if len(found) > 1 else values
