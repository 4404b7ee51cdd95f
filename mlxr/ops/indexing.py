"""Indexing: reading and writing elements by ints, slices, None, ``...``, integer arrays, boolean masks and mixtures.

The semantics are NumPy's, which upstream follows where it supports them. Ints, slices and None make views; index arrays
gather. An index out of range is an error, where upstream returns whatever lies there.
"""

from __future__ import annotations

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core import indexing as core
from mlxr.core import layout
from mlxr.core.dispatch import apply, as_operand, broadcast_shapes
from mlxr.core.primitive import Primitive
from mlxr.core.tensor import Tensor
from mlxr.errors import ArgumentTypeError, BoundsError, DtypeError, InvalidValueError, ShapeError
from mlxr.ops.declare import EVERY, Refusal, Sample, operation, primitive, spread
from mlxr.ops.elementwise import astype, where
from mlxr.ops.layout import (
    broadcast_to,
    normalize_axis,
    reshape,
    slice_p,
    slice_update_p,
    transpose,
)

__all__ = ["ArrayAt", "getitem", "put_along_axis", "setitem", "slice", "slice_update", "take", "take_along_axis"]

_slice = core.builtin_slice

# ------------------------------------------------------------------ primitives

ASSIGN, ADD, PROD, MAX, MIN = "assign", "add", "prod", "max", "min"


def _gather_infer(inputs, params):
    x, indices = inputs[0], inputs[1:]
    _, sizes = params
    return indices[0].shape + sizes, x.dtype


def _gather_back(needs, g, out, x, *rest):
    *indices, axes, sizes = rest
    zeros = ops.zeros(x.shape, g.dtype, device=x.device)
    return (apply(scatter_p, (zeros, *indices, g), (axes, sizes, ADD)), *(None for _ in indices))


def _scatter_infer(inputs, params):
    return inputs[0].shape, inputs[0].dtype


def _scatter_back(needs, g, out, x, *rest):
    *indices, updates, axes, sizes, mode = rest
    nothing = tuple(None for _ in indices)
    gather = lambda t: apply(gather_p, (t, *indices), (axes, sizes))  # noqa: E731
    dx = du = None
    if mode == ADD:
        return g if needs[0] else None, *nothing, gather(g) if needs[-1] else None
    if mode == ASSIGN:
        # With repeated indices the last update wins: the others have no gradient. Number the updates to find it.
        order = reshape(ops.arange(updates.size, device=x.device), updates.shape)
        nobody = ops.full(x.shape, -1, dtypes.int32, device=x.device)
        winner = apply(scatter_p, (nobody, *indices, order), (axes, sizes, ASSIGN))
        if needs[0]:
            dx = where(ops.equal(winner, -1), g, ops.zeros_like(g))
        if needs[-1]:
            du = where(ops.equal(gather(winner), order), gather(g), ops.zeros_like(updates))
        return dx, *nothing, du
    if mode in (MAX, MIN):
        # The gradient goes to whatever holds the extreme; x keeps it on a tie.
        if needs[0]:
            dx = where(ops.equal(out, x), g, ops.zeros_like(g))
        if needs[-1]:
            wins = ops.logical_and(ops.equal(gather(out), updates), ops.not_equal(gather(out), gather(x)))
            du = where(wins, gather(g), ops.zeros_like(updates))
        return dx, *nothing, du
    if needs[0]:
        factor = apply(scatter_p, (ops.ones_like(x), *indices, updates), (axes, sizes, PROD))
        dx = ops.multiply(g, factor)
    if needs[-1]:
        du = ops.divide(gather(ops.multiply(g, out)), updates)
    return dx, *nothing, du


def _take_infer(inputs, params):
    x, indices = inputs
    (axis,) = params
    return x.shape[:axis] + indices.shape + x.shape[axis + 1:], x.dtype


def _take_back(needs, g, out, x, indices, axis):
    # Rows along `axis` receive what was taken from them: a scatter with whole slices along the other axes.
    front = list(range(axis, axis + indices.ndim))
    rest = [k for k in range(g.ndim) if k not in front]
    sizes = tuple(1 if k == axis else n for k, n in enumerate(x.shape))
    updates = reshape(transpose(g, front + rest), indices.shape + sizes)
    zeros = ops.zeros(x.shape, g.dtype, device=x.device)
    return apply(scatter_p, (zeros, indices, updates), ((axis,), sizes, ADD)), None


gather_p = primitive("gather", "indexing", _gather_infer, vjp=_gather_back)
scatter_p = primitive("scatter", "indexing", _scatter_infer, vjp=_scatter_back)
take_p = primitive("take", "indexing", _take_infer, vjp=_take_back)
take_along_axis_p = primitive(
    "take_along_axis", "indexing", lambda inputs, params: (inputs[1].shape, inputs[0].dtype),
    vjp=lambda needs, g, out, x, indices, axis: (
        apply(put_along_axis_p, (ops.zeros(x.shape, g.dtype, device=x.device), indices, g), (axis, ADD)), None,
    ),
)


def _put_along_axis_back(needs, g, out, x, indices, updates, axis, mode):
    du = apply(take_along_axis_p, (g, indices), (axis,))
    if mode == ADD:
        return g, None, du
    order = reshape(ops.arange(updates.size, device=x.device), updates.shape)
    nobody = ops.full(x.shape, -1, dtypes.int32, device=x.device)
    winner = apply(put_along_axis_p, (nobody, indices, order), (axis, ASSIGN))
    dx = where(ops.equal(winner, -1), g, ops.zeros_like(g))
    won = ops.equal(apply(take_along_axis_p, (winner, indices), (axis,)), order)
    return dx, None, where(won, du, ops.zeros_like(du))


put_along_axis_p: Primitive = primitive("put_along_axis", "indexing", _scatter_infer, vjp=_put_along_axis_back)
nonzero_p = primitive("nonzero", "indexing", lambda inputs, params: ((params[0],), dtypes.int64))


# ------------------------------------------------------------------ what an index means

class _Plan:
    """An index, taken apart against the shape of the tensor.

    Attributes
    ----------
    starts, shape, steps : tuple of int
        The slice of every axis. Axes with an index array keep their whole extent.
    drop : set of int
        Axes that an int removes.
    arrays : dict of int to Tensor
        Index array of each gathered axis.
    layout : list
        The axes of the result, in order: an axis number, None for a new axis, or "arrays" for the gathered axes.
    """

    __slots__ = ("arrays", "drop", "layout", "shape", "starts", "steps")


def _integers(index, axis_size, axis):
    """Return an int index counted from the front, or raise BoundsError."""
    if not -axis_size <= index < axis_size:
        raise BoundsError(
            f"index {index} is out of bounds for axis {axis} with size {axis_size}", index=index, axis=axis,
            size=axis_size,
        )
    return index + axis_size if index < 0 else index


def _positions(mask):
    """Return one index array per axis of a boolean mask: where it is true, in row-major order."""
    flat = reshape(mask, (-1,))
    count = int(ops.sum(flat).item()) if mask.size else 0
    where_true = apply(nonzero_p, (flat,), (count,))
    result = []
    for n in reversed(mask.shape):
        result.insert(0, ops.remainder(where_true, max(n, 1)))
        where_true = ops.floor_divide(where_true, max(n, 1))
    return result


def _as_index_array(item):
    """Return an index item as an integer or boolean tensor, or None if it is no array."""
    if isinstance(item, Tensor):
        array = item
    elif isinstance(item, (list, np.ndarray)) or (hasattr(item, "__array__") and not np.isscalar(item)):
        array = Tensor(np.asarray(item, dtype=np.int32) if isinstance(item, list) and not item else item)
    else:
        return None
    if array.dtype.kind not in "bui":
        raise DtypeError(f"an index array is integer or boolean, got {array.dtype.name}", op="index",
                         dtypes=(array.dtype,))
    return array


def _plan(x, index):
    """Take `index` apart; see :class:`_Plan`."""
    items = list(index) if isinstance(index, tuple) else [index]
    # First pass: arrays to tensors, masks counted by the axes that they cover.
    covered = 0
    ellipsis = None
    for k, item in enumerate(items):
        if item is None:
            continue
        if item is Ellipsis:
            if ellipsis is not None:
                raise InvalidValueError("an index can only have a single ellipsis (...)", op="index")
            ellipsis = k
            continue
        array = _as_index_array(item)
        if array is not None:
            item = items[k] = array
        if isinstance(item, (bool, np.bool_)) or (array is not None and array.dtype is dtypes.bool_ and not array.ndim):
            raise ArgumentTypeError("a single boolean is no index; use mlxr.where", op="index", index=item)
        covered += item.ndim if isinstance(item, Tensor) and item.dtype is dtypes.bool_ else 1
    if covered > x.ndim:
        raise BoundsError(f"too many indices ({covered}) for an array with {x.ndim} dimensions", op="index",
                          ndim=x.ndim)
    fill = [_slice(None)] * (x.ndim - covered)
    if ellipsis is None:
        items += fill
    else:
        items[ellipsis:ellipsis + 1] = fill

    has_arrays = any(isinstance(item, Tensor) for item in items)
    plan = _Plan()
    starts, shape, steps = [], [], []
    plan.drop, plan.arrays, plan.layout = set(), {}, []
    runs = []  # positions in the index at which arrays stand, to see whether they are neighbours
    axis = 0
    for position, item in enumerate(items):
        if item is None:
            plan.layout.append(None)
            continue
        n = x.shape[axis] if axis < x.ndim else 0
        if isinstance(item, Tensor):
            runs.append(position)
            parts = _positions(item) if item.dtype is dtypes.bool_ else [item]
            if item.dtype is dtypes.bool_ and item.shape != x.shape[axis:axis + item.ndim]:
                raise ShapeError(
                    f"a mask of shape {item.shape} does not fit axes {axis} and following of shape {x.shape}",
                    op="index", shapes=(item.shape, x.shape),
                )
            for part in parts:
                plan.arrays[axis] = part
                starts.append(0)
                shape.append(x.shape[axis])
                steps.append(1)
                plan.layout.append("arrays")
                axis += 1
            continue
        if isinstance(item, _slice):
            start, count, step = core.resolve_slice(item, n)
            starts.append(start)
            shape.append(count)
            steps.append(step)
            plan.layout.append(axis)
        elif hasattr(item, "__index__"):
            k = _integers(item.__index__(), n, axis)
            if has_arrays:  # among arrays an int is an array without axes, as NumPy has it
                runs.append(position)
                plan.arrays[axis] = k
                starts.append(0)
                shape.append(n)
                steps.append(1)
                plan.layout.append("arrays")
            else:
                starts.append(k)
                shape.append(1)
                steps.append(1)
                plan.drop.add(axis)
        else:
            raise ArgumentTypeError(
                f"an index is made of ints, slices, None, ... and integer or boolean arrays, not {type(item).__name__}",
                op="index", index=item,
            )
        axis += 1
    plan.starts, plan.shape, plan.steps = tuple(starts), tuple(shape), tuple(steps)
    if plan.arrays:
        # Neighbouring arrays leave their axes in place; others put them first.
        together = runs[-1] - runs[0] + 1 == len(runs)
        first = plan.layout.index("arrays")
        rest = [entry for entry in plan.layout if entry != "arrays"]
        plan.layout = [*plan.layout[:first], "arrays", *rest[first:]] if together else ["arrays", *rest]
        for k, part in plan.arrays.items():
            if not isinstance(part, Tensor):
                plan.arrays[k] = Tensor(part, dtypes.int32 if part < 2**31 else dtypes.int64, device=x.device)
    return plan


def _index_arrays(plan):
    """Return the axes with index arrays, and the arrays broadcast to one shape."""
    axes = tuple(sorted(plan.arrays))
    arrays = [plan.arrays[axis] for axis in axes]
    shape = broadcast_shapes(*(a.shape for a in arrays))
    return axes, [broadcast_to(a, shape) for a in arrays], shape


def _result_shape(plan, base, shape):
    """Return the shape of ``x[index]``: `base` are the sliced extents, `shape` the extents of the index arrays."""
    result = []
    for entry in plan.layout:
        if entry is None:
            result.append(1)
        elif entry == "arrays":
            result.extend(shape)
        else:
            result.append(base[entry])
    return tuple(result)


def _gather_order(plan, arrays_ndim):
    """Return how the axes (index axes first, then kept axes) of a gather are permuted into the result's order."""
    kept = [entry for entry in plan.layout if isinstance(entry, int)]
    place = {axis: arrays_ndim + k for k, axis in enumerate(kept)}
    order = []
    for entry in plan.layout:
        if entry == "arrays":
            order.extend(range(arrays_ndim))
        elif isinstance(entry, int):
            order.append(place[entry])
    return order


def _sliced(x, plan):
    """Return the view of `x` that the slices of the plan select."""
    if plan.shape == x.shape and all(step == 1 for step in plan.steps):
        return x
    return layout.slice_view(slice_p, x, plan.starts, plan.shape, plan.steps)


def getitem(x, index):
    """Return ``x[index]``.

    Parameters
    ----------
    x : Tensor
    index : int, slice, None, ..., Tensor, array, list, or a tuple of them

    Returns
    -------
    Tensor
        A view unless index arrays occur.

    Raises
    ------
    BoundsError
        If an index is out of range.
    ArgumentTypeError, DtypeError
        If something is no index.
    """
    view = core.basic_getitem(x, index)
    if view is not None:
        return view
    if isinstance(index, Tensor) and index.dtype.kind in "ui" and x.ndim:
        return apply(take_p, (x, index), (0,))  # what the plan comes down to for rows of a table
    plan = _plan(x, index)
    base = _sliced(x, plan)
    if not plan.arrays:
        return reshape(base, _result_shape(plan, plan.shape, ()))
    axes, arrays, shape = _index_arrays(plan)
    if len(axes) == 1:
        taken = apply(take_p, (base, arrays[0]), axes)
        front = list(range(axes[0], axes[0] + len(shape)))
        taken = transpose(taken, front + [k for k in range(taken.ndim) if k not in front])
    else:
        sizes = tuple(1 if axis in axes else n for axis, n in enumerate(base.shape))
        taken = apply(gather_p, (base, *arrays), (axes, sizes))
        taken = reshape(taken, shape + tuple(n for axis, n in enumerate(base.shape) if axis not in axes))
    taken = transpose(taken, _gather_order(plan, len(shape)))
    return reshape(taken, _result_shape(plan, plan.shape, shape))


# ------------------------------------------------------------------ writing

def _updates(value, plan, base, axes, shape, dtype):
    """Return `value` in the order of a scatter into `base`: index axes, then one extent per axis of `base`."""
    target = _result_shape(plan, base.shape, shape)
    value = astype(_fit(value, target), dtype)
    # Drop new axes, then undo the permutation of a gather.
    value = reshape(value, tuple(
        n for entry in plan.layout if entry is not None
        for n in (shape if entry == "arrays" else (base.shape[entry],))
    ))
    order = _gather_order(plan, len(shape))
    inverse = [0] * len(order)
    for position, axis in enumerate(order):
        inverse[axis] = position
    sizes = tuple(1 if axis in axes else n for axis, n in enumerate(base.shape))
    return reshape(transpose(value, inverse), shape + sizes), sizes


def _fit(value, shape):
    """Return `value` broadcast to `shape`; leading extents of 1 may be too many, as upstream allows."""
    extra = value.ndim - len(shape)
    if extra > 0 and all(n == 1 for n in value.shape[:extra]):
        value = reshape(value, value.shape[extra:])
    return broadcast_to(value, shape)


def _as_value(x, value):
    """Return what is to be stored in `x` as a tensor of its dtype."""
    if not isinstance(value, Tensor):
        value = Tensor(value, x.dtype if isinstance(value, (bool, int, float, complex)) else None, device=x.device)
    return astype(value, x.dtype) if value.dtype is not x.dtype else value


def _scattered(x, plan, value, mode):
    """Return `x` with the elements at the plan's index arrays combined with `value`."""
    axes, arrays, shape = _index_arrays(plan)
    base = _sliced(x, plan)
    updates, sizes = _updates(value, plan, base, axes, shape, x.dtype)
    if base is x:
        return apply(scatter_p, (x, *arrays, updates), (axes, sizes, mode))
    changed = apply(scatter_p, (base, *arrays, updates), (axes, sizes, mode))
    return apply(slice_update_p, (x, changed), (plan.starts, plan.shape, plan.steps))


def setitem(x, index, value):
    """Store `value` in the elements that `index` selects; only this tensor changes.

    Parameters
    ----------
    x : Tensor
    index : as for reading
    value : scalar, Tensor or array
        Broadcast to the shape of ``x[index]`` and cast to x's dtype. With repeated indices the last one stays.

    Raises
    ------
    BoundsError
        If an index is out of range; `x` is unchanged.
    ShapeError
        If `value` cannot be broadcast; `x` is unchanged.
    """
    value = _as_value(x, value)
    if core.basic_setitem(x, index, value):
        return
    mask = index if isinstance(index, Tensor) else None
    if mask is not None and mask.dtype is dtypes.bool_ and value.size == 1 and mask.ndim <= x.ndim \
            and mask.shape == x.shape[:mask.ndim]:
        spread_mask = reshape(mask, mask.shape + (1,) * (x.ndim - mask.ndim))
        core.assign(x, where(spread_mask, reshape(value, ()), x))
        return
    plan = _plan(x, index)
    if plan.arrays:
        core.assign(x, _scattered(x, plan, value, ASSIGN))
        return
    target = _result_shape(plan, plan.shape, ())
    value = _fit(value, target)
    # Give every axis of x, dropped ones as extents of 1, its place again, and lose new axes.
    value = reshape(value, plan.shape)
    if not core.write_slice(x, value, plan.starts, plan.shape, plan.steps):
        core.assign(x, apply(slice_update_p, (x, value), (plan.starts, plan.shape, plan.steps)))


class ArrayAt:
    """Updates of indexed elements that return a new tensor; repeated indices take every update.

    Made by ``x.at``; ``x.at[index]`` selects elements, and the methods combine them with a value.

    Parameters
    ----------
    x : Tensor
    """

    __slots__ = ("_index", "_x")

    def __init__(self, x, index=None):
        self._x = x
        self._index = index

    def __getitem__(self, index):
        return ArrayAt(self._x, (index,))

    def _apply(self, mode, op, value):
        if self._index is None:
            raise InvalidValueError("x.at needs an index: x.at[index].add(value)", op="at")
        x, index = self._x, self._index[0]
        value = _as_value(x, value)
        plan = _plan(x, index)
        if plan.arrays:
            return _scattered(x, plan, value, mode)
        old = getitem(x, index)
        new = astype(op(old, _fit(value, old.shape)), x.dtype)
        return apply(slice_update_p, (x, reshape(new, plan.shape)), (plan.starts, plan.shape, plan.steps))

    def add(self, value):
        """Return the tensor with `value` added to the selected elements."""
        return self._apply(ADD, ops.add, value)

    def subtract(self, value):
        """Return the tensor with `value` subtracted from the selected elements."""
        value = _as_value(self._x, value)
        return self._apply(ADD, ops.add, ops.negative(value))

    def multiply(self, value):
        """Return the tensor with the selected elements multiplied by `value`."""
        return self._apply(PROD, ops.multiply, value)

    def divide(self, value):
        """Return the tensor with the selected elements divided by `value`."""
        return self._apply(PROD, ops.multiply, ops.reciprocal(_as_value(self._x, value)))

    def maximum(self, value):
        """Return the tensor with the larger of the selected elements and `value`."""
        return self._apply(MAX, ops.maximum, value)

    def minimum(self, value):
        """Return the tensor with the smaller of the selected elements and `value`."""
        return self._apply(MIN, ops.minimum, value)


# ------------------------------------------------------------------ functions

def _index_operand(indices, op):
    array = as_operand(indices, op) if not isinstance(indices, list) else Tensor(indices)
    if array.dtype.kind not in "ui":
        raise DtypeError(f"[{op}] indices are integers, got {array.dtype.name}", op=op, dtypes=(array.dtype,))
    return array


def _take_samples(rng):
    x = spread(rng, (4, 5), -2, 2)
    yield Sample((x, np.array([3, 0, -1])), {"axis": 0})
    yield Sample((x, np.array([[1, 2], [4, 0]])), {"axis": 1})
    yield Sample((x, np.array([0, 7, -2])), {})
    yield Sample((x.T, np.array([2, 2])), {"axis": -1})
    yield Sample((x, np.array([], np.int32)), {"axis": 0})


@operation("indexing", primitive=take_p, samples=_take_samples, dtypes=EVERY, differentiable=(0,), ulps=0,
           reference=lambda a, indices, axis=None: np.take(a, indices.astype(np.int64), axis),
           refusals=(Refusal((np.ones((2, 3), np.float32), np.array([2])), BoundsError, {"axis": 0}),))
def take(a, /, indices, axis=None, *, stream=None):
    """Return elements along an axis.

    Parameters
    ----------
    a : Tensor
    indices : int or Tensor of integers
        Negative ones count from the end.
    axis : int, optional
        By default indices count the elements of the flattened array.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of a's shape with `axis` replaced by the axes of `indices`.

    Raises
    ------
    BoundsError
        If an index is out of range.
    """
    a = as_operand(a, "take")
    indices = _index_operand(indices, "take")
    if axis is None:
        a, axis = reshape(a, (-1,)), 0
    return apply(take_p, (a, indices), (normalize_axis(axis, a.ndim, "take"),), stream)


def _along(a, indices, axis, op):
    a, indices = as_operand(a, op), _index_operand(indices, op)
    if axis is None:
        a, indices, axis = reshape(a, (-1,)), reshape(indices, (-1,)), 0
    if a.ndim != indices.ndim:
        raise ShapeError(f"[{op}] indices of shape {indices.shape} for an array of shape {a.shape}", op=op,
                         shapes=(a.shape, indices.shape))
    axis = normalize_axis(axis, a.ndim, op)
    shape = broadcast_shapes(
        *(tuple(1 if k == axis else n for k, n in enumerate(t.shape)) for t in (a, indices))
    )
    fit = lambda t: broadcast_to(t, tuple(t.shape[k] if k == axis else n for k, n in enumerate(shape)))  # noqa: E731
    return fit(a), fit(indices), axis


def _take_along_samples(rng):
    x = spread(rng, (4, 5), -2, 2)
    yield Sample((x, np.array([[0, 1, 3, 2, -1]])), {"axis": 0})
    yield Sample((x, rng.integers(0, 5, (4, 2))), {"axis": 1})
    yield Sample((x, np.array([19, 3])), {"axis": None})


@operation(
    "indexing",
    primitive=take_along_axis_p,
    samples=_take_along_samples,
    dtypes=EVERY,
    differentiable=(0,),
    ulps=0,
    reference=lambda a, indices, axis=None: np.take_along_axis(a, indices.astype(np.int64), axis),
    refusals=(
        Refusal((np.ones((2, 3), np.float32), np.array([[5]])), BoundsError, {"axis": 0}),
        Refusal((np.ones((2, 3), np.float32), np.array([0])), ShapeError, {"axis": 0}),
    ),
)
def take_along_axis(a, /, indices, axis=None, *, stream=None):
    """Return, for each position of `indices`, the element of `a` at that index along an axis.

    Parameters
    ----------
    a : Tensor
    indices : Tensor of integers
        As many axes as `a`; the other axes broadcast.
    axis : int or None
        None uses the flattened arrays.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    BoundsError
        If an index is out of range.
    ShapeError
        If shapes do not fit.
    """
    a, indices, axis = _along(a, indices, axis, "take_along_axis")
    return apply(take_along_axis_p, (a, indices), (axis,), stream)


def _put_along_reference(a, indices, values, axis=None):
    out = a.copy()
    np.put_along_axis(out, indices.astype(np.int64), values, axis)
    return out


def _put_along_samples(rng):
    x = spread(rng, (4, 5), -2, 2)
    yield Sample((x, np.array([[0, 1, 3, 2, 0]]), spread(rng, (1, 5), 3, 4)), {"axis": 0})
    yield Sample((x, np.array([[1, 0]] * 4), spread(rng, (4, 2), 3, 4)), {"axis": 1})


@operation(
    "indexing",
    primitive=put_along_axis_p,
    samples=_put_along_samples,
    reference=_put_along_reference,
    dtypes=EVERY,
    differentiable=(0, 2),
    ulps=0,
    refusals=(
        Refusal((np.ones((2, 3), np.float32), np.array([[5]]), np.ones((1, 1), np.float32)), BoundsError, {"axis": 0}),
    ),
)
def put_along_axis(a, /, indices, values, axis=None, *, stream=None):
    """Return `a` with, for each position of `indices`, a value stored at that index along an axis.

    Parameters
    ----------
    a : Tensor
    indices : Tensor of integers
    values : scalar or Tensor
        Broadcast to the shape of `indices`.
    axis : int or None
        None uses the flattened array.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    BoundsError
        If an index is out of range.
    """
    a = as_operand(a, "put_along_axis")
    original = a.shape
    values = _as_value(a, values)
    if axis is None:
        values = reshape(values, (-1,)) if values.ndim else values
    whole, indices, axis = _along(a, indices, axis, "put_along_axis")
    result = apply(put_along_axis_p, (whole, indices, _fit(values, indices.shape)), (axis, ASSIGN), stream)
    return reshape(result, original)


def _slice_arguments(a, start_indices, axes, op):
    axes = (axes,) if hasattr(axes, "__index__") else tuple(axes)
    axes = tuple(normalize_axis(axis, a.ndim, op) for axis in axes)
    starts = [int(s) for s in np.asarray(start_indices).reshape(-1)]
    if len(starts) != len(axes):
        raise ShapeError(f"[{op}] {len(starts)} start indices for {len(axes)} axes", op=op, shapes=(a.shape,))
    return starts, axes


def slice(a, start_indices, axes, slice_size, *, stream=None):
    """Return a block of `a` whose place is given by a tensor.

    Parameters
    ----------
    a : Tensor
    start_indices : Tensor of integers
        One for each of `axes`.
    axes : int or sequence of int
    slice_size : sequence of int
        Extents of the block, one per axis of `a`.
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
        A view. The block is moved inside `a` where it would reach outside.

    Raises
    ------
    ShapeError
        If the block is larger than `a`.
    """
    a = as_operand(a, "slice")
    starts, axes = _slice_arguments(a, start_indices, axes, "slice")
    size = tuple(slice_size)
    if len(size) != a.ndim or any(m > n for m, n in zip(size, a.shape, strict=True)):
        raise ShapeError(f"[slice] a block of {size} does not fit shape {a.shape}", op="slice", shapes=(a.shape, size))
    begin = [0] * a.ndim
    for start, axis in zip(starts, axes, strict=True):
        begin[axis] = min(max(start, 0), a.shape[axis] - size[axis])
    return layout.slice_view(slice_p, a, tuple(begin), size, (1,) * a.ndim)


def slice_update(a, update, start_indices, axes, *, stream=None):
    """Return `a` with a block, whose place is given by a tensor, replaced by `update`.

    Parameters
    ----------
    a, update : Tensor
    start_indices : Tensor of integers
        One for each of `axes`.
    axes : int or sequence of int
    stream : Stream or Device, optional

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `update` is larger than `a`.
    """
    a = as_operand(a, "slice_update")
    update = _as_value(a, update)
    starts, axes = _slice_arguments(a, start_indices, axes, "slice_update")
    if update.ndim < a.ndim:
        update = reshape(update, (1,) * (a.ndim - update.ndim) + update.shape)
    if update.ndim != a.ndim or any(m > n for m, n in zip(update.shape, a.shape, strict=True)):
        raise ShapeError(f"[slice_update] an update of {update.shape} does not fit shape {a.shape}", op="slice_update",
                         shapes=(a.shape, update.shape))
    begin = [0] * a.ndim
    for start, axis in zip(starts, axes, strict=True):
        begin[axis] = min(max(start, 0), a.shape[axis] - update.shape[axis])
    return apply(slice_update_p, (a, update), (tuple(begin), update.shape, (1,) * a.ndim), stream)
