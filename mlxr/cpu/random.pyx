# cython: language_level=3, binding=True, boundscheck=False, wraparound=False
"""Executes the primitives of the random family on the CPU kernels."""
from mlxr.backends.cpu cimport CpuBackend
from mlxr.core.abi cimport GIL_WORK
from mlxr.core.primitive cimport Primitive
from mlxr.core.tensor cimport Tensor
from mlxr.cpu.kernels.random cimport RandomTable

cdef const RandomTable *table = NULL


cdef int _bits(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor keys = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef int threads = self.threads
    self.give_storage(out)
    if out.ref.size <= GIL_WORK:
        table.bits(&keys.ref, &out.ref, 1)
    else:
        with nogil:
            table.bits(&keys.ref, &out.ref, threads)
    return 0


cdef int _uniform(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor keys = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef float low = params[2], high = params[3]
    cdef int threads = self.threads
    self.give_storage(out)
    if out.ref.size <= GIL_WORK:
        table.uniform(&keys.ref, low, high, &out.ref, 1)
    else:
        with nogil:
            table.uniform(&keys.ref, low, high, &out.ref, threads)
    return 0


cdef int _normal(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor keys = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef float loc = params[2], factor = params[3]
    cdef int threads = self.threads
    self.give_storage(out)
    if out.ref.size <= GIL_WORK:
        table.normal(&keys.ref, loc, factor, &out.ref, 1)
    else:
        with nogil:
            table.normal(&keys.ref, loc, factor, &out.ref, threads)
    return 0


cdef int _bernoulli(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef Tensor keys = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef float threshold = params[1]
    cdef int threads = self.threads
    self.give_storage(out)
    if out.ref.size <= GIL_WORK:
        table.bernoulli(&keys.ref, threshold, &out.ref, 1)
    else:
        with nogil:
            table.bernoulli(&keys.ref, threshold, &out.ref, threads)
    return 0


def register(CpuBackend backend not None):
    """Add this family's handlers to the backend."""
    global table
    table = <const RandomTable *>backend.table("random")
    backend.bind("random_bits", _bits)
    backend.bind("random_uniform", _uniform)
    backend.bind("random_normal", _normal)
    backend.bind("random_bernoulli", _bernoulli)
