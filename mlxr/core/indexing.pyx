# cython: language_level=3, binding=True, embedsignature=True, boundscheck=False, wraparound=False
"""The quick path of indexing (ints, slices, None and ``...``), and assignment in place.

``mlxr.ops.indexing`` has the rest. Must not know about kernels.
"""
from cpython.object cimport PyObject
from cpython.slice cimport PySlice_Check

from mlxr.core.dtype cimport ITEMSIZES
from mlxr.core.layout cimport sliced_view
from mlxr.core.tape cimport is_traced
from mlxr.core.tensor cimport Tensor, finish_view, new_view, overwrite
from mlxr.backends.base cimport Backend

from mlxr.errors import ArgumentTypeError, BoundsError, InvalidValueError

cdef extern from "Python.h":
    int PySlice_Unpack(object slice, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t *step) except -1
    Py_ssize_t PySlice_AdjustIndices(Py_ssize_t length, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t step)
    Py_ssize_t Py_REFCNT(PyObject *o)

builtin_slice = slice


def resolve_slice(item, Py_ssize_t n):
    """Return (start, count, step) of a slice of an axis of extent `n`."""
    cdef Py_ssize_t start, stop, step, count
    try:
        PySlice_Unpack(item, &start, &stop, &step)
    except TypeError:
        raise ArgumentTypeError("slice indices must be integers or None", op="index", index=item) from None
    except ValueError:
        raise InvalidValueError("a slice step cannot be zero", op="index", index=item) from None
    count = PySlice_AdjustIndices(n, &start, &stop, step)
    return (start if count else 0), count, step


cdef inline bint _is_int(object item):
    return isinstance(item, int) and not isinstance(item, bool)


cdef Tensor basic_view(Tensor x, index):
    """Return ``x[index]`` as a view if `index` is made of ints, slices, None and one ``...``; else None."""
    cdef tuple items = <tuple>index if isinstance(index, tuple) else (index,)
    cdef Py_ssize_t covered = 0, start, step, count, k, n
    cdef int axis = 0, out = 0, new_axes = 0, fill
    cdef bint ellipsis = False
    cdef Tensor view
    for item in items:
        if item is None:
            new_axes += 1
        elif item is Ellipsis:
            if ellipsis:
                return None
            ellipsis = True
        elif _is_int(item) or PySlice_Check(item):
            covered += 1
        else:
            return None
    if covered > x.ref.ndim:
        return None
    # An upper bound for the rank; ints take away from it below.
    view = new_view(x, x.ref.ndim + new_axes)
    fill = x.ref.ndim - <int>covered
    for item in items:
        if item is None:
            view.ref.shape[out] = 1
            view.ref.strides[out] = 0
            out += 1
        elif item is Ellipsis:
            for _ in range(fill):
                view.ref.shape[out] = x.ref.shape[axis]
                view.ref.strides[out] = x.ref.strides[axis]
                axis += 1
                out += 1
            fill = 0
        elif _is_int(item):
            n = x.ref.shape[axis]
            try:
                k = item
            except OverflowError:
                raise BoundsError(f"index {item} is out of bounds for axis {axis} with size {n}", index=item, axis=axis,
                                  size=n) from None
            if k < -n or k >= n:
                raise BoundsError(f"index {k} is out of bounds for axis {axis} with size {n}", index=k, axis=axis,
                                  size=n)
            view.offset += (k + n if k < 0 else k) * x.ref.strides[axis] * ITEMSIZES[x.ref.dtype]
            axis += 1
        else:
            start, count, step = resolve_slice(item, x.ref.shape[axis])
            view.ref.shape[out] = count
            view.ref.strides[out] = x.ref.strides[axis] * step
            view.offset += start * x.ref.strides[axis] * ITEMSIZES[x.ref.dtype]
            axis += 1
            out += 1
    while axis < x.ref.ndim:
        view.ref.shape[out] = x.ref.shape[axis]
        view.ref.strides[out] = x.ref.strides[axis]
        axis += 1
        out += 1
    view.ref.ndim = out
    finish_view(view)
    return view


def basic_getitem(Tensor x not None, index):
    """Return ``x[index]`` as a view if `index` is basic and `x` is not marked by a transform; else None."""
    return basic_view(x, index) if x.node is None else None


def assign(Tensor target not None, Tensor value not None):
    """Make `target` the value that an indexed assignment computed."""
    overwrite(target, value)


cdef bint is_writable(Tensor x, Tensor value) except -1:
    """Whether `value` may be written into x's memory: nobody else can see that, and no transform has to."""
    cdef Backend backend = <Backend>x.device_.require_backend()
    if not backend.host or is_traced(x) or is_traced(value) or x.storage.readonly or not x.storage.block:
        return False
    if value.storage is x.storage or value.device_ is not x.device_:
        return False
    # One reference is x's own. Another one belongs to a view, to NumPy or to a consumer of DLPack.
    return Py_REFCNT(<PyObject *>x.storage) == 1 and x.ref.contiguous


def basic_setitem(Tensor x not None, index, Tensor value not None):
    """Write `value` to ``x[index]`` in place if `index` is basic, `value` broadcasts as it is, and nobody else can see
    x's memory; tell whether that was done."""
    cdef Tensor view
    cdef int axis, lead
    if not is_writable(x, value):
        return False
    view = basic_view(x, index)
    if view is None or value.ref.ndim > view.ref.ndim:
        return False
    lead = view.ref.ndim - value.ref.ndim
    for axis in range(value.ref.ndim):
        if value.ref.shape[axis] != view.ref.shape[lead + axis] and value.ref.shape[axis] != 1:
            return False
    (<Backend>x.device_.require_backend()).write(view, value)
    return True


def write_slice(Tensor x not None, Tensor value not None, tuple starts, tuple shape, tuple steps):
    """Write `value` into a slice of `x` in place, if nobody else can see x's memory; tell whether that was done."""
    if not is_writable(x, value):
        return False
    (<Backend>x.device_.require_backend()).write(sliced_view(x, starts, shape, steps), value)
    return True
