# cython: language_level=3
"""Kernel table of the reduction family: reductions over any axes, moments, log-sum-exp, arg-reductions and scans.

Every function takes any strides and any alignment of its input, writes a row-major contiguous output that overlaps no
input, and returns 0, or -1 if there was no memory for scratch (the output is then undefined). It must not know about
Python objects, tensors, or how dtypes and shapes of results follow from those of operands.

Order of operations. It depends on the extents of the reduced axes alone: never on strides, threads, instruction set, or
on how many results there are. The reduced elements of one result, in row-major order of the reduced axes, are x[0..n).

1. They are cut into chunks of CHUNK elements. A chunk has LANES lanes, which start at the identity; the chunk is
   taken in blocks of BLOCK = 8 * LANES elements, and lane j receives
   ((x[j] + x[j+16]) + (x[j+32] + x[j+48])) + ((x[j+64] + x[j+80]) + (x[j+96] + x[j+112])) of each block.
2. The lanes of a chunk are added as a tree: j and j+8, then j and j+4, j+2, j+1.
3. The results of the chunks are added as a tree over neighbours: (0+1)+(2+3), and so on; an odd one moves up a level.

Arithmetic is float32 for float16, bfloat16, float32 and each part of complex64, and float64 for float64; results of
float16 and bfloat16 are rounded once, at the end. Integers wrap around: modulo 2**32, or 2**64 for 64-bit dtypes.
Variance takes the mean of each chunk in a first pass and the deviations from it in a second, and merges chunks in
float64. Log-sum-exp takes the largest element of each chunk and sums exponentials of the differences from it. Products,
extrema and log-sum-exp of complex64 go through a chunk element by element. A NaN that is computed or chosen is always
the positive quiet one, because processors do not agree on the others.
"""
from libc.stdint cimport uint32_t

from mlxr.core.abi cimport ArrayRef

cdef enum:
    LANES = 16      # accumulators of one result; any instruction set's vectors divide them
    BLOCK = 128     # elements that are added as a tree before they meet the lanes
    CHUNK = 1024    # elements of one partial result; fits the L1 cache for a second pass
    SEGMENT = 128   # elements of a scan between two additions to the running total

cdef enum ReduceOp:
    REDUCE_SUM
    REDUCE_PROD
    REDUCE_MAX
    REDUCE_MIN
    REDUCE_ALL
    REDUCE_ANY

cdef enum Moment:
    MOMENT_MEAN
    MOMENT_VAR
    MOMENT_STD

cdef enum ScanOp:
    SCAN_SUM
    SCAN_PROD
    SCAN_MAX
    SCAN_MIN
    SCAN_LOGSUMEXP

ctypedef struct ReduceTable:
    # `axes` has bit i set for each reduced axis i; `out` has one element per index of the kept axes, in order.
    # Sum and product: `out` is int32, uint32, int64, uint64 or the (floating) dtype of x; integers of 32 bits or less
    # go to a 32-bit output, of 64 bits to a 64-bit output. Maximum and minimum: the dtype of x. All and any: bool.
    # Nothing to reduce gives the identity (0, 1, True, False; for maximum the lowest value of the dtype, and so on).
    # Maximum and minimum are NaN if any element is; of equal zeros of either sign the result is one of them, fixed by
    # the order above. complex64 is compared by real part, then imaginary part; NaN in either part is NaN.
    int (*reduce)(int op, const ArrayRef *x, uint32_t axes, const ArrayRef *out, int threads) noexcept nogil

    # Index (uint32) of the first largest or smallest element along `axis`, whose extent is not 0. NaN beats numbers.
    int (*argreduce)(bint largest, const ArrayRef *x, int axis, const ArrayRef *out, int threads) noexcept nogil

    # Mean, variance or standard deviation with `ddof`. `out` is float32 for integer x; for complex64 x it is complex64
    # for the mean, and float32 for the others (the sum of both parts' variances). If n <= ddof the divisor is 0, as
    # upstream.
    int (*moments)(Moment what, const ArrayRef *x, uint32_t axes, Py_ssize_t ddof, const ArrayRef *out,
                   int threads) noexcept nogil

    # log(sum(exp(x))). `out` is float32 for integer x, else the dtype of x. Nothing to reduce gives -inf.
    int (*logsumexp)(const ArrayRef *x, uint32_t axes, const ArrayRef *out, int threads) noexcept nogil

    # Scan along `axis`; `out` has the shape of x. `reverse` runs from the last element to the first. Not `inclusive`:
    # each result leaves out its own element, and the first is the identity. `out` has the dtype of x, except: sums of
    # bool go to int32, and logsumexp of integers to float32.
    # A sum runs sequentially through segments of SEGMENT elements, and adds the total of all segments before it; the
    # others run sequentially. float16 and bfloat16 accumulate in float32. NaN stays once met.
    int (*scan)(ScanOp op, const ArrayRef *x, int axis, bint reverse, bint inclusive, const ArrayRef *out,
                int threads) noexcept nogil
