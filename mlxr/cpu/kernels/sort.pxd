# cython: language_level=3
"""Kernel table of the sort family: sort, argsort, partition, argpartition and search in sorted elements.

Order. Numbers ascend; every NaN comes after every number, and NaNs are equal to each other; -0.0 and 0.0 are equal;
complex64 is compared by real part, then imaginary part, and is NaN if either part is. All sorts and partitions are
stable: what is equal keeps its order. So each result is one particular permutation of the input's bits, whatever the
strides, the threads and the instruction set.

A partition around k puts the elements less than that of rank k first, then those equal to it, then the rest, each in
the order of the input.

Functions take any strides and any alignment, write a row-major contiguous output that overlaps no input, and return 0,
or -1 if there was no memory for scratch. It must not know about Python objects or tensors.
"""
from mlxr.core.abi cimport ArrayRef

ctypedef struct SortTable:
    # `out` has the shape of x, and its dtype for values, uint32 for indices. `kth` is in [0, extent of the axis).
    # Indices, and so extents, are below 2**32.
    int (*sort)(const ArrayRef *x, int axis, const ArrayRef *out, int threads) noexcept nogil
    int (*argsort)(const ArrayRef *x, int axis, const ArrayRef *out, int threads) noexcept nogil
    int (*partition)(const ArrayRef *x, Py_ssize_t kth, int axis, const ArrayRef *out, int threads) noexcept nogil
    int (*argpartition)(const ArrayRef *x, Py_ssize_t kth, int axis, const ArrayRef *out, int threads) noexcept nogil

    # For each of `values`, the number of elements of the ascending, one-dimensional `ordered` that are less than it,
    # or, with `right`, not greater. Both have the same dtype; `out` is uint32, of the shape of `values`.
    int (*searchsorted)(const ArrayRef *ordered, const ArrayRef *values, bint right, const ArrayRef *out,
                        int threads) noexcept nogil
