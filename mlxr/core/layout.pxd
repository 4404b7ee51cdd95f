# cython: language_level=3
"""Views: see layout.pyx."""
from mlxr.core.tensor cimport Tensor

cdef Tensor strided_view(Tensor x, tuple shape, tuple strides, Py_ssize_t offset)
cdef Tensor sliced_view(Tensor x, tuple starts, tuple shape, tuple steps)
cdef Tensor broadcast_view(Tensor x, tuple shape)
