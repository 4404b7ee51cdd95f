# cython: language_level=3
"""Dtype and the promotion table: see dtype.pyx."""
from cpython.object cimport PyObject

from mlxr.core.abi cimport DTYPE_COUNT


cdef class Dtype:
    cdef readonly str name
    cdef readonly int code
    cdef readonly int itemsize
    cdef readonly str kind
    cdef readonly object category

# Borrowed references to the fourteen Dtype objects, by code; the module's names keep them alive.
cdef PyObject *DTYPES[DTYPE_COUNT]
cdef signed char PROMOTION[DTYPE_COUNT][DTYPE_COUNT]
cdef int ITEMSIZES[DTYPE_COUNT]

cdef inline Dtype dtype_of(int code):
    return <Dtype>DTYPES[code]

cdef Dtype as_dtype(object value)
