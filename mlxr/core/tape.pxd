# cython: language_level=3
"""Tape and Node: see tape.pyx."""
from mlxr.core.primitive cimport Primitive
from mlxr.core.tensor cimport Tensor


cdef class Tape:
    cdef readonly list nodes
    cdef public int depth
    cdef public bint recording


cdef class Node:
    cdef readonly Py_ssize_t order
    cdef readonly Tape tape
    cdef readonly Primitive primitive     # None for a leaf
    cdef readonly tuple inputs
    cdef readonly tuple outputs
    cdef readonly tuple params


cdef bint is_traced(Tensor x)
cdef int record(Primitive p, tuple inputs, tuple outputs, tuple params) except -1
