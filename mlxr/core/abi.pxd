# cython: language_level=3
"""Plain C types shared by every compiled module: dtype codes, limits and the array descriptor.

This is the lowest layer. It must not know about Python objects, tensors, devices or kernels.
"""
from libc.stdint cimport int64_t

# The codes are the order of upstream MLX's Dtype::Val, and index every table in the project.
cpdef enum DTypeCode:
    BOOL = 0
    UINT8 = 1
    UINT16 = 2
    UINT32 = 3
    UINT64 = 4
    INT8 = 5
    INT16 = 6
    INT32 = 7
    INT64 = 8
    FLOAT16 = 9
    FLOAT32 = 10
    FLOAT64 = 11
    BFLOAT16 = 12
    COMPLEX64 = 13

cdef enum:
    DTYPE_COUNT = 14
    MAX_NDIM = 32      # a typed error above this
    INLINE_NDIM = 6    # shapes up to this rank live inside the tensor object
    # Backends hold the GIL for elementwise work on at most this many elements. Above it, and for all other primitives,
    # another thread may run meanwhile, so dispatch hands them private views of the operands.
    GIL_WORK = 4096

# A strided window on memory. Kernels take and return nothing else.
#
#   data     address of the element at index (0, 0, ...): the view's offset is already applied
#   shape    `ndim` extents, in elements, each >= 0
#   strides  `ndim` steps, in ELEMENTS of `dtype` (not bytes); 0 for a broadcast axis, negative allowed
#   size     product of `shape`
#   contiguous  1 if the elements lie in row-major order without gaps (always so for size <= 1)
ctypedef struct ArrayRef:
    char *data
    Py_ssize_t *shape
    Py_ssize_t *strides
    Py_ssize_t size
    int ndim
    int dtype
    bint contiguous
