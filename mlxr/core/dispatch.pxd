# cython: language_level=3
"""Dispatch: see dispatch.pyx."""
from mlxr.core.device cimport Device
from mlxr.core.primitive cimport Primitive
from mlxr.core.tensor cimport Tensor

cdef Tensor unary(Primitive p, object x, object stream)
cdef Tensor binary(Primitive p, object x, object y, object stream)
cdef Tensor as_tensor(object value, object op)
cpdef apply(Primitive p, tuple inputs, tuple params=*, object stream=*)
