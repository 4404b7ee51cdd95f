# cython: language_level=3
"""CpuBackend, and what the family modules in mlxr/cpu need of it: see cpu.pyx."""
from mlxr.backends.base cimport Backend
from mlxr.core.abi cimport DTYPE_COUNT, GIL_WORK, MAX_NDIM, ArrayRef
from mlxr.core.primitive cimport MAX_PRIMITIVES, Primitive
from mlxr.core.tensor cimport Tensor
from mlxr.cpu.kernels.elementwise cimport ElementwiseTable

# Executes one primitive: gives the outputs their storage, computes them, and raises typed errors.
ctypedef int (*Handler)(CpuBackend backend, Primitive p, tuple inputs, tuple outputs, tuple params) except -1


cdef class CpuBackend(Backend):
    cdef readonly str isa
    cdef int threads
    cdef Handler handlers[MAX_PRIMITIVES]
    cdef short elementwise_code[MAX_PRIMITIVES]     # UnaryOp or BinaryOp by primitive, -1 for others
    cdef const ElementwiseTable *elementwise

    cdef int give_storage(self, Tensor out) except -1
    cdef int strided_binary(self, int code, int compute, Tensor x, Tensor y, Tensor out) noexcept
    cdef int bind(self, str primitive, Handler handler) except -1
    cdef const void *table(self, str family) except NULL
    cdef int copy(self, const ArrayRef *source, const ArrayRef *target) except -1
    cdef int missing(self, Primitive p, tuple inputs) except -1

# Make `view` x broadcast to the shape of `to`, which is known to fit. `strides` has room for MAX_NDIM and outlives it.
cdef void broadcast_ref(Tensor x, const ArrayRef *to, ArrayRef *view, Py_ssize_t *strides) noexcept
cdef int check_status(int status, Primitive p, tuple inputs) except -1
