# cython: language_level=3
"""Backend, the contract between dispatch and whoever executes primitives: see base.pyx."""
from mlxr.core.device cimport Device
from mlxr.core.primitive cimport Primitive
from mlxr.core.storage cimport Storage
from mlxr.core.tensor cimport Tensor


cdef class Backend:
    cdef readonly str name
    cdef readonly Device device
    cdef readonly bint host         # storages are host memory: their bytes may be read and written directly

    cdef int unary(self, Primitive p, int compute, Tensor x, Tensor out) except -1
    cdef int binary(self, Primitive p, int compute, Tensor x, Tensor y, Tensor out) except -1
    cdef int run(self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1
