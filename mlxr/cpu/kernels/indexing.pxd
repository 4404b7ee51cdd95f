# cython: language_level=3
"""Kernel table of the indexing family: gather, scatter, their along-an-axis forms, masks to indices, strided copies.

Rules that hold for every entry:
  - Index arrays are of any integer dtype (not BOOL) and any strides. A negative index counts from the end of its axis.
  - An index outside [-extent, extent - slice] is never used as an address. The entry returns INDEX_OUT_OF_RANGE with
    `fault` describing the first such index in row-major order. gather, take and take_along_axis may then have written
    part of `out`; scatter and put_along_axis check everything before they write, so `dst` is untouched.
  - `x`, `updates`, `src` may have any strides (also 0, negative, unaligned). `dst` may be strided too, but no two of
    its elements may share memory, and it may not overlap any input. `out` is contiguous. All of them have one dtype,
    any of the 14.
  - Empty arrays are fine everywhere: nothing is copied, though indices are still checked.
  - `threads` >= 1 and changes no result.

Kernels that do not exist because others do their work:
  tile, repeat, roll, stack, pad   fill or broadcast view, and copy() into views of the result
  slice_update (x[a:b] = v)        copy() into the view of x
  slice_update with add, max, ...  the binary kernel on the view, written in place
  x[mask]                          count_nonzero, nonzero, then take() from x with the masked axes flattened
  x[mask] = v                      select (where) for a scalar or broadcast v; else nonzero, then scatter
  gradient of take / gather        scatter with SCATTER_ADD into zeros; of take_along_axis put_along_axis with
  SCATTER_ADD
"""
from libc.stdint cimport int64_t

from mlxr.core.abi cimport ArrayRef

cdef enum IndexStatus:
    INDEX_OK = 0
    INDEX_OUT_OF_RANGE = 1

# The first index that was out of range: which of the index arrays, where in it (row-major position), the value (a
# uint64 beyond int64 is reported as the largest int64), and the extent of the axis that it was for.
ctypedef struct IndexFault:
    int array
    Py_ssize_t position
    int64_t value
    Py_ssize_t extent

# How scatter combines an element of dst with an update. Updates are applied in row-major order of the index arrays,
# whatever the threads, each rounded to the dtype: with repeated indices SCATTER_ASSIGN leaves the last, and SCATTER_ADD
# adds one after another. SCATTER_MAX keeps dst where dst > update and takes the update otherwise (so a NaN update is
# taken, and a NaN in dst is replaced), SCATTER_MIN likewise with <; complex numbers order by real, then imaginary part.
# BOOL: ADD and MAX are or, PROD and MIN are and.
cdef enum ScatterMode:
    SCATTER_ASSIGN = 0
    SCATTER_ADD = 1
    SCATTER_PROD = 2
    SCATTER_MAX = 3
    SCATTER_MIN = 4

ctypedef struct IndexingTable:
    # out[i..., s...] = x[s... + offset], where index array number k, at position i..., gives the offset along axes[k]
    # (distinct), and s... runs over slice_sizes (one per axis of x, each <= its extent). The `count` index arrays share
    # one shape (the caller broadcasts them as views); out.shape = that shape + slice_sizes. With count = 0: shape ()
    # and offset 0.
    int (*gather)(const ArrayRef *x, const ArrayRef *const *indices, const int *axes, int count,
                  const Py_ssize_t *slice_sizes, const ArrayRef *out, IndexFault *fault, int threads) noexcept nogil

    # out = x with `axis` replaced by the axes of `indices`: x.shape[:axis] + indices.shape + x.shape[axis + 1:].
    # Rows of a table (embedding) are axis 0; this is the fast path for them.
    int (*take)(const ArrayRef *x, const ArrayRef *indices, int axis, const ArrayRef *out, IndexFault *fault,
                int threads) noexcept nogil

    # out[.., j, ..] = x[.., indices[.., j, ..], ..] at `axis`. `indices` and `out` share one shape, which is x's but
    # for `axis`.
    int (*take_along_axis)(const ArrayRef *x, const ArrayRef *indices, int axis, const ArrayRef *out,
                           IndexFault *fault, int threads) noexcept nogil

    # The inverse of gather, in place: dst[s... + offset(i...)] = combine(it, updates[i..., s...]), with updates.shape =
    # index shape + slice_sizes and slice_sizes one per axis of dst.
    int (*scatter)(const ArrayRef *dst, const ArrayRef *const *indices, const int *axes, int count,
                   const Py_ssize_t *slice_sizes, const ArrayRef *updates, int mode, IndexFault *fault,
                   int threads) noexcept nogil

    # The inverse of take_along_axis, in place. `indices` and `updates` share one shape, which is dst's but for `axis`.
    int (*put_along_axis)(const ArrayRef *dst, const ArrayRef *indices, const ArrayRef *updates, int axis, int mode,
                          IndexFault *fault, int threads) noexcept nogil

    # How many elements of a BOOL array are true (any nonzero byte).
    Py_ssize_t (*count_nonzero)(const ArrayRef *mask, int threads) noexcept nogil

    # The row-major positions of the true elements, ascending, into INT64 out, whose size is count_nonzero(mask).
    void (*nonzero)(const ArrayRef *mask, const ArrayRef *out) noexcept nogil

    # dst = src, equal shapes, any strides on both sides: what slice updates, pad, stack and strided outputs are made
    # of.
    void (*copy)(const ArrayRef *src, const ArrayRef *dst, int threads) noexcept nogil

    # out = the `count` inputs one after another along `axis`; shapes agree but for `axis`, whose extents add up.
    void (*concatenate)(const ArrayRef *const *inputs, int count, int axis, const ArrayRef *out,
                        int threads) noexcept nogil
