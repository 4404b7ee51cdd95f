# cython: language_level=3, binding=True, embedsignature=True, boundscheck=False, wraparound=False
"""Layout: views of a tensor's storage under another shape, other strides or another dtype. No element is touched.

The functions here make unrecorded views; ``mlxr.ops.layout`` declares the ops around them. Must not know about kernels.
"""
from mlxr.core.abi cimport MAX_NDIM
from mlxr.core.dtype cimport ITEMSIZES, Dtype, as_dtype
from mlxr.core.primitive cimport Primitive
from mlxr.core.tape cimport record
from mlxr.core.tensor cimport (
    Tensor, describe_shape, finish_view, new_view, normalize_axis, shape_tuple
)

from mlxr.errors import ArgumentTypeError, AxisError, InvalidValueError, ShapeError


cdef Tensor strided_view(Tensor x, tuple shape, tuple strides, Py_ssize_t offset):
    """Return the view with these extents and strides, `offset` elements from the first element of `x`."""
    cdef Tensor view = new_view(x, <int>len(shape))
    cdef int axis
    for axis in range(view.ref.ndim):
        view.ref.shape[axis] = shape[axis]
        view.ref.strides[axis] = strides[axis]
    view.offset = x.offset + offset * ITEMSIZES[x.ref.dtype]
    finish_view(view)
    return view


cdef Tensor sliced_view(Tensor x, tuple starts, tuple shape, tuple steps):
    """Return ``x[start : : step]`` with `shape` elements along each axis; bounds are the caller's business."""
    cdef Tensor view = new_view(x, x.ref.ndim)
    cdef int axis
    cdef Py_ssize_t step, offset = 0
    for axis in range(x.ref.ndim):
        step = steps[axis]
        view.ref.shape[axis] = shape[axis]
        view.ref.strides[axis] = x.ref.strides[axis] * step
        if view.ref.shape[axis] > 0:
            offset += <Py_ssize_t>starts[axis] * x.ref.strides[axis]
    view.offset = x.offset + offset * ITEMSIZES[x.ref.dtype]
    finish_view(view)
    return view


cdef Tensor broadcast_view(Tensor x, tuple shape):
    """Return `x` repeated to `shape` by strides of 0, or raise ShapeError."""
    cdef int ndim = <int>len(shape), axis, source
    cdef Tensor view
    if ndim < x.ref.ndim:
        _refuse_broadcast(x, shape)
    view = new_view(x, ndim)
    for axis in range(ndim):
        source = axis - ndim + x.ref.ndim
        view.ref.shape[axis] = shape[axis]
        if source < 0 or x.ref.shape[source] == 1:
            view.ref.strides[axis] = 0
        elif x.ref.shape[source] == view.ref.shape[axis]:
            view.ref.strides[axis] = x.ref.strides[source]
        else:
            _refuse_broadcast(x, shape)
        if view.ref.shape[axis] < 0:
            raise ShapeError(f"[broadcast_to] negative dimensions are not allowed: {shape}", op="broadcast_to",
                             shapes=(shape,))
    finish_view(view)
    return view


cdef int _refuse_broadcast(Tensor x, tuple shape) except -1:
    raise ShapeError(
        f"[broadcast_to] shape {describe_shape(x)} cannot be broadcast to {shape}",
        op="broadcast_to", shapes=(shape_tuple(x), shape),
    )


cdef bint _reshape_strides(Tensor x, int ndim, const Py_ssize_t *shape, Py_ssize_t *strides) noexcept:
    """Find strides under which `x` has `shape` without moving elements. False if there are none.

    Axes of both shapes are matched in groups of equal products; a group needs no copy if its axes of `x` follow each
    other in memory.
    """
    cdef Py_ssize_t extents[MAX_NDIM]
    cdef Py_ssize_t steps[MAX_NDIM]
    cdef Py_ssize_t have, want, step
    cdef int n = 0, axis, i = 0, j = 0, first, k
    for axis in range(x.ref.ndim):
        if x.ref.shape[axis] != 1:
            extents[n] = x.ref.shape[axis]
            steps[n] = x.ref.strides[axis]
            n += 1
    while i < n and j < ndim:
        first = i
        axis = j
        have = extents[i]
        want = shape[j]
        while have != want:
            if have < want:
                i += 1
                have *= extents[i]
            else:
                j += 1
                want *= shape[j]
        for k in range(first, i):
            if steps[k] != extents[k + 1] * steps[k + 1]:
                return False
        step = steps[i]
        for k in range(j, axis - 1, -1):
            strides[k] = step
            step *= shape[k]
        i += 1
        j += 1
    for k in range(j, ndim):        # what is left are extents of 1
        strides[k] = 1
    return True


def normalize_axes(axes, int ndim, op):
    """Return `axes` (an int, a sequence of ints, or None for all) as a sorted tuple counted from the front.

    Raises
    ------
    AxisError
        If one is out of range or occurs twice.
    ShapeError
        If `ndim` is more than a tensor can have.
    """
    cdef unsigned long seen = 0
    cdef int axis
    if ndim > MAX_NDIM:
        raise ShapeError(f"[{op}] a tensor has at most {MAX_NDIM} axes, got {ndim}", op=op, ndim=ndim)
    if axes is None:
        return tuple([axis for axis in range(ndim)])
    if isinstance(axes, int) or hasattr(axes, "__index__"):
        return (normalize_axis(axes, ndim, op),)
    for value in axes:
        axis = normalize_axis(value, ndim, op)
        if seen >> axis & 1:
            raise AxisError(f"[{op}] repeated axis in {tuple(axes)}", op=op, axis=tuple(axes), ndim=ndim)
        seen |= <unsigned long>1 << axis
    return tuple([axis for axis in range(ndim) if seen >> axis & 1])


def without_axes(tuple shape not None, tuple axes not None):
    """Return the extents of the other axes: the shape of a reduction over `axes`."""
    cdef Py_ssize_t axis
    if len(axes) == 1:
        axis = axes[0]
        return shape[:axis] + shape[axis + 1:]
    return tuple([shape[axis] for axis in range(len(shape)) if axis not in axes])


def with_unit_axes(tuple shape not None, tuple axes not None):
    """Return `shape` with extents of 1 put in at `axes` of the result."""
    cdef int axis, old = 0
    cdef list result = []
    for axis in range(len(shape) + len(axes)):
        if axis in axes:
            result.append(1)
        else:
            result.append(shape[old])
            old += 1
    return tuple(result)


def resolve_shape(Tensor x not None, shape):
    """Return `shape` (an int or a sequence with at most one -1) as a tuple that holds x.size elements.

    Raises
    ------
    ShapeError
        If the sizes differ or two extents are open.
    """
    cdef int unknown = -1, axis = 0
    if isinstance(shape, int):
        shape = (shape,)
    try:
        result = [int(n) if isinstance(n, int) else n.__index__() for n in shape]
    except (TypeError, AttributeError):
        raise ArgumentTypeError(f"[reshape] a shape is a sequence of ints, got {shape!r}", op="reshape") from None
    if len(result) > MAX_NDIM:
        raise ShapeError(f"[reshape] a tensor has at most {MAX_NDIM} axes, got {len(result)}", op="reshape")
    total = 1
    for value in result:
        if value == -1:
            if unknown >= 0:
                raise ShapeError("[reshape] only one extent can be -1", op="reshape", shapes=(tuple(result),))
            unknown = axis
        elif value < 0:
            raise ShapeError(f"[reshape] negative dimensions are not allowed: {tuple(result)}", op="reshape",
                             shapes=(tuple(result),))
        else:
            total *= value
        axis += 1
    if unknown >= 0:
        if total > 0 and x.ref.size % total == 0:
            result[unknown] = x.ref.size // total
            total = x.ref.size
        elif total == 0 and x.ref.size == 0:
            raise ShapeError("[reshape] cannot infer the shape of an empty array", op="reshape",
                             shapes=(shape_tuple(x), tuple(result)))
        else:
            total = -1
    if total != x.ref.size:
        text = ",".join([str(n) for n in result])
        raise ShapeError(
            f"[reshape] Cannot reshape array of size {x.ref.size} into shape ({text}).",
            op="reshape", shapes=(shape_tuple(x), tuple(result)),
        )
    return tuple(result)


def reshape(Primitive p not None, Tensor x not None, tuple shape, contiguous):
    """Return `x` under `shape` (as :func:`resolve_shape` gave it), recorded as `p`.

    Shares the storage where strides allow; otherwise the elements are first put in row-major order by the function
    `contiguous`, which is an op and records itself.
    """
    cdef Py_ssize_t extents[MAX_NDIM]
    cdef Py_ssize_t strides[MAX_NDIM]
    cdef int ndim = <int>len(shape), axis
    cdef Tensor source = x, view
    cdef Py_ssize_t step = 1
    for axis in range(ndim):
        extents[axis] = shape[axis]
    if x.ref.contiguous or x.ref.size == 0:
        for axis in range(ndim - 1, -1, -1):
            strides[axis] = step
            step *= extents[axis] if extents[axis] > 0 else 1
    elif not _reshape_strides(x, ndim, extents, strides):
        source = contiguous(x)
        return reshape(p, source, shape, contiguous)
    view = new_view(source, ndim)
    for axis in range(ndim):
        view.ref.shape[axis] = extents[axis]
        view.ref.strides[axis] = strides[axis]
    finish_view(view)
    if x.node is not None:
        record(p, (x,), (view,), (shape,))
    return view


def transpose(Primitive p not None, Tensor x not None, axes):
    """Return `x` with its axes permuted (reversed if `axes` is None), recorded as `p`."""
    cdef int ndim = x.ref.ndim, axis
    cdef int order[MAX_NDIM]
    cdef unsigned long seen = 0
    if axes is None:
        for axis in range(ndim):
            order[axis] = ndim - 1 - axis
        return _permuted(p, x, order)
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    if len(given) != ndim:
        raise AxisError(
            f"[transpose] got {len(given)} axes for an array with {ndim} dimensions", op="transpose", axis=given,
            ndim=ndim,
        )
    for axis in range(ndim):
        order[axis] = normalize_axis(given[axis], ndim, "transpose")
        if seen >> order[axis] & 1:
            raise AxisError(f"[transpose] repeated axis in {given}", op="transpose", axis=given, ndim=ndim)
        seen |= <unsigned long>1 << order[axis]
    return _permuted(p, x, order)


def swapaxes(Primitive p not None, Tensor x not None, axis1, axis2):
    """Return `x` with two axes exchanged, recorded as `p`, a transposition."""
    cdef int ndim = x.ref.ndim, axis, i = normalize_axis(axis1, ndim, "swapaxes")
    cdef int j = normalize_axis(axis2, ndim, "swapaxes")
    cdef int order[MAX_NDIM]
    for axis in range(ndim):
        order[axis] = j if axis == i else i if axis == j else axis
    return _permuted(p, x, order)


cdef Tensor _permuted(Primitive p, Tensor x, const int *order):
    """Return the view whose axis k is axis ``order[k]`` of `x`."""
    cdef int ndim = x.ref.ndim, axis
    cdef Tensor view = new_view(x, ndim)
    for axis in range(ndim):
        view.ref.shape[axis] = x.ref.shape[order[axis]]
        view.ref.strides[axis] = x.ref.strides[order[axis]]
    finish_view(view)
    if x.node is not None:
        record(p, (x,), (view,), (tuple([order[axis] for axis in range(ndim)]),))
    return view


def broadcast_to(Primitive p not None, Tensor x not None, tuple shape):
    """Return `x` broadcast to `shape`, recorded as `p`."""
    cdef Tensor view
    if shape_tuple(x) == shape:
        return x
    view = broadcast_view(x, shape)
    if x.node is not None:
        record(p, (x,), (view,), (shape,))
    return view


def slice_view(Primitive p not None, Tensor x not None, tuple starts, tuple shape, tuple steps):
    """Return the elements ``starts[k] + i * steps[k]``, ``0 <= i < shape[k]``, of every axis k, recorded as `p`."""
    cdef int axis
    cdef Py_ssize_t first, last, n
    for axis in range(x.ref.ndim):
        n = shape[axis]
        first = starts[axis]
        last = first + (n - 1) * <Py_ssize_t>steps[axis]
        if n < 0 or (n > 0 and (first < 0 or last < 0 or first >= x.ref.shape[axis] or last >= x.ref.shape[axis])):
            raise InvalidValueError(
                f"[slice] elements {first} to {last} are out of bounds for axis {axis} of shape {describe_shape(x)}",
                op="slice", axis=axis, shape=shape_tuple(x),
            )
    cdef Tensor view = sliced_view(x, starts, shape, steps)
    if x.node is not None:
        record(p, (x,), (view,), (starts, shape, steps))
    return view


def as_strided(Primitive p not None, Tensor x not None, tuple shape, tuple strides, Py_ssize_t offset):
    """Return a view of x's elements (x is contiguous) with any strides, all within bounds, recorded as `p`."""
    cdef Py_ssize_t low = offset, high = offset, reach
    cdef bint empty = False
    if len(shape) != len(strides):
        raise ShapeError(f"[as_strided] {len(shape)} extents and {len(strides)} strides", op="as_strided",
                         shapes=(shape,), strides=strides)
    for n, step in zip(shape, strides):
        if n < 0:
            raise ShapeError(f"[as_strided] negative dimensions are not allowed: {shape}", op="as_strided",
                             shapes=(shape,))
        if n == 0:
            empty = True
            continue
        reach = (n - 1) * step
        if reach < 0:
            low += reach
        else:
            high += reach
    if not empty and (low < 0 or high >= x.ref.size):
        raise InvalidValueError(
            f"[as_strided] shape {shape} with strides {strides} and offset {offset} reaches elements {low} to {high} "
            f"of an array of {x.ref.size}", op="as_strided", shape=shape, strides=strides, offset=offset,
        )
    cdef Tensor view = strided_view(x, shape, strides, 0 if empty else offset)
    if x.node is not None:
        record(p, (x,), (view,), (shape, strides, offset))
    return view


def reinterpret(Primitive p not None, Tensor x not None, dtype):
    """Return the bytes of `x` as another dtype; the last axis scales with the item sizes. Recorded as `p`."""
    cdef Dtype target = as_dtype(dtype)
    cdef int ndim = x.ref.ndim, axis
    cdef Py_ssize_t have = ITEMSIZES[x.ref.dtype], want = target.itemsize
    cdef Tensor view = new_view(x, ndim)
    for axis in range(ndim):
        view.ref.shape[axis] = x.ref.shape[axis]
        view.ref.strides[axis] = x.ref.strides[axis]
    if have != want:
        if ndim == 0:
            raise ShapeError(
                f"[view] changing the size of {x.dtype.name} to {target.name} needs at least one axis", op="view",
                shapes=((),),
            )
        if x.ref.shape[ndim - 1] * have % want:
            raise ShapeError(
                f"[view] the last axis of {describe_shape(x)} {x.dtype.name} does not divide into {target.name}",
                op="view", shapes=(shape_tuple(x),),
            )
        view.ref.shape[ndim - 1] = x.ref.shape[ndim - 1] * have // want
        for axis in range(ndim - 1):
            view.ref.strides[axis] = x.ref.strides[axis] * have // want
    view.ref.dtype = target.code
    finish_view(view)
    if x.node is not None:
        record(p, (x,), (view,), (target,))
    return view
