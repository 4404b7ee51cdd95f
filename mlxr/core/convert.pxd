# cython: language_level=3
"""Python values to elements and back: see convert.pyx."""
from mlxr.core.device cimport Device
from mlxr.core.tensor cimport Tensor

cdef int store_scalar(char *p, int dtype, object value) except -1
cdef object load_scalar(const char *p, int dtype)
cdef Tensor scalar_tensor(object value)
cdef Tensor scalar_of_dtype(object value, int dtype, Device device)
cdef Tensor scalar_like(object value, Tensor other)
cdef Tensor empty_tensor(object dtype, Device device, tuple shape)
