# cython: language_level=3, binding=True, boundscheck=False, wraparound=False
"""Executes the primitives of the sort family on the CPU kernels."""
from mlxr.backends.cpu cimport CpuBackend
from mlxr.core.primitive cimport Primitive
from mlxr.core.tensor cimport Tensor
from mlxr.cpu.kernels.sort cimport SortTable

from mlxr.errors import OutOfMemoryError

cdef const SortTable *table = NULL


cdef int checked(int status, Primitive p) except -1:
    if status:
        raise OutOfMemoryError(f"[{p.name}] no memory for scratch space", op=p.name)
    return 0


cdef int _sort(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef int axis = params[0], threads = self.threads, status
    self.give_storage(out)
    with nogil:
        status = table.sort(&x.ref, axis, &out.ref, threads)
    return checked(status, p)


cdef int _argsort(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef int axis = params[0], threads = self.threads, status
    self.give_storage(out)
    with nogil:
        status = table.argsort(&x.ref, axis, &out.ref, threads)
    return checked(status, p)


cdef int _partition(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef Py_ssize_t kth = params[0]
    cdef int axis = params[1], threads = self.threads, status
    self.give_storage(out)
    with nogil:
        status = table.partition(&x.ref, kth, axis, &out.ref, threads)
    return checked(status, p)


cdef int _argpartition(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor x = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef Py_ssize_t kth = params[0]
    cdef int axis = params[1], threads = self.threads, status
    self.give_storage(out)
    with nogil:
        status = table.argpartition(&x.ref, kth, axis, &out.ref, threads)
    return checked(status, p)


cdef int _searchsorted(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor ordered = <Tensor>inputs[0], values = <Tensor>inputs[1], out = <Tensor>outputs[0]
    cdef bint right = params[0]
    cdef int threads = self.threads, status
    self.give_storage(out)
    with nogil:
        status = table.searchsorted(&ordered.ref, &values.ref, right, &out.ref, threads)
    return checked(status, p)


def register(CpuBackend backend not None):
    """Add this family's handlers to the backend."""
    global table
    table = <const SortTable *>backend.table("sort")
    backend.bind("sort", _sort)
    backend.bind("argsort", _argsort)
    backend.bind("partition", _partition)
    backend.bind("argpartition", _argpartition)
    backend.bind("searchsorted", _searchsorted)
