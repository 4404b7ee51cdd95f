# cython: language_level=3
"""Primitive: see primitive.pyx."""
from mlxr.core.abi cimport DTYPE_COUNT


cdef class Primitive:
    cdef readonly str name
    cdef readonly str family
    cdef readonly int index            # dense number: backends index their tables with it
    cdef readonly bint registered
    cdef public object infer           # (inputs, params) -> (shape, dtype) or a tuple of them
    cdef public object vjp             # (needs, cotangent, output, *inputs, *params) -> gradient or tuple of them
    cdef public object vmap            # batching rule, see mlxr.transforms
    cdef public object jvp             # (tangents, output, *inputs, *params) -> tangent; None: derived from vjp
    cdef public bint linear            # the primitive is linear in its differentiable inputs
    # Elementwise families: dtype of the lanes for each pair of operand dtypes (unary: the diagonal), -1 where refused,
    # and dtype of the result for each dtype of the lanes.
    cdef signed char compute[DTYPE_COUNT][DTYPE_COUNT]
    cdef signed char result[DTYPE_COUNT]
    cdef readonly object refusal       # the words for a refused dtype

cdef enum:
    MAX_PRIMITIVES = 512
