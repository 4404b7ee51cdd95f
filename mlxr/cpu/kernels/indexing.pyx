# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Indexing kernels: gather and scatter in general and along an axis, masks to indices, copies into strided views.

indexing.pxd states what each entry means. This module must not know about Python objects, tensors or indexing syntax.

How it works: index positions are taken in tiles. A tile's indices are read (any dtype, any strides), wrapped, checked
and turned into element offsets in a small buffer; then elements or slices move. Nothing is read or written through an
unchecked index. What limits it: memory. Rows go by memcpy; single elements cost a few instructions and a cache miss.
"""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.stdint cimport INT64_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mlxr.core.abi cimport (
    BFLOAT16, BOOL, COMPLEX64, FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, MAX_NDIM, UINT8, UINT16, UINT32,
    UINT64, ArrayRef,
)
from mlxr.cpu.kernels.half cimport bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16
from mlxr.cpu.kernels.indexing cimport (
    INDEX_OK, INDEX_OUT_OF_RANGE, SCATTER_ADD, SCATTER_ASSIGN, SCATTER_MAX, SCATTER_PROD,
    IndexFault, IndexingTable,
)
from mlxr.cpu.team cimport team_of

cdef enum:
    TILE = 512                      # index positions per tile: the offset buffers stay in the L1 cache
    LANES = 64                      # bytes that are counted abreast
    TILE_BYTES = 1 << 16            # and fewer positions when their slices are long
    PARALLEL_BYTES = 1 << 18        # below this much copying a second thread costs more than it saves
    PARALLEL_ELEMENTS = 1 << 15     # the same for single elements, which cost more than their bytes


ctypedef fused Unit:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

ctypedef fused Integer:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    int8_t
    int16_t
    int32_t
    int64_t

ctypedef fused Number:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    int8_t
    int16_t
    int32_t
    int64_t
    float
    double

# A strided box of elements, with neighbouring axes merged where one step of the outer is a full run of the inner.
ctypedef struct Box:
    int ndim
    Py_ssize_t shape[MAX_NDIM]
    Py_ssize_t strides[MAX_NDIM]        # of the first array, in elements
    Py_ssize_t other[MAX_NDIM]          # of the second array


cdef inline Py_ssize_t smaller(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a < b else b


cdef inline Py_ssize_t itemsize_of(int dtype) noexcept nogil:
    if dtype == BOOL or dtype == UINT8 or dtype == INT8:
        return 1
    if dtype == UINT16 or dtype == INT16 or dtype == FLOAT16 or dtype == BFLOAT16:
        return 2
    if dtype == UINT32 or dtype == INT32 or dtype == FLOAT32:
        return 4
    return 8


cdef void merge_axes(Box *box, int ndim, const Py_ssize_t *shape, const Py_ssize_t *strides,
                     const Py_ssize_t *other) noexcept nogil:
    """Fill `box` without axes of extent 1 and with as few axes as both stride patterns allow."""
    cdef int axis, top
    box.ndim = 0
    for axis in range(ndim):
        if shape[axis] == 1:
            continue
        top = box.ndim - 1
        if (top >= 0 and box.strides[top] == shape[axis] * strides[axis]
                and box.other[top] == shape[axis] * other[axis]):
            box.shape[top] *= shape[axis]
        else:
            top += 1
            box.ndim += 1
            box.shape[top] = shape[axis]
        box.strides[top] = strides[axis]
        box.other[top] = other[axis]


# ---------------------------------------------------------------------------------------------- reading indices

cdef void load_integers(const char *source, Py_ssize_t step, Py_ssize_t n, int64_t *out, Integer kind) noexcept nogil:
    cdef Py_ssize_t i
    cdef Integer value
    for i in range(n):
        memcpy(&value, source + i * step * <Py_ssize_t>sizeof(Integer), sizeof(Integer))
        if Integer is uint64_t:
            out[i] = INT64_MAX if value > <uint64_t>INT64_MAX else <int64_t>value
        else:
            out[i] = value


cdef void load_line(int dtype, const char *source, Py_ssize_t step, Py_ssize_t n, int64_t *out) noexcept nogil:
    if dtype == INT32:
        load_integers(source, step, n, out, <int32_t>0)
    elif dtype == INT64:
        load_integers(source, step, n, out, <int64_t>0)
    elif dtype == UINT32:
        load_integers(source, step, n, out, <uint32_t>0)
    elif dtype == UINT64:
        load_integers(source, step, n, out, <uint64_t>0)
    elif dtype == INT16:
        load_integers(source, step, n, out, <int16_t>0)
    elif dtype == UINT16:
        load_integers(source, step, n, out, <uint16_t>0)
    elif dtype == INT8:
        load_integers(source, step, n, out, <int8_t>0)
    else:
        load_integers(source, step, n, out, <uint8_t>0)


cdef void load_indices(const ArrayRef *a, Py_ssize_t start, Py_ssize_t n, int64_t *out) noexcept nogil:
    """Elements start .. start + n of `a` in row-major order."""
    cdef Py_ssize_t size = itemsize_of(a.dtype), at = 0, done = 0, line
    cdef Py_ssize_t coordinate[MAX_NDIM]
    cdef int axis
    cdef int last = a.ndim - 1
    if a.contiguous:
        load_line(a.dtype, a.data + start * size, 1, n, out)
        return
    for axis in range(last, -1, -1):
        coordinate[axis] = start % a.shape[axis]
        start //= a.shape[axis]
        at += coordinate[axis] * a.strides[axis]
    while done < n:
        line = smaller(n - done, a.shape[last] - coordinate[last])
        load_line(a.dtype, a.data + at * size, a.strides[last], line, out + done)
        done += line
        coordinate[last] += line
        at += line * a.strides[last]
        axis = last
        while axis > 0 and coordinate[axis] == a.shape[axis]:
            at += a.strides[axis - 1] - a.shape[axis] * a.strides[axis]
            coordinate[axis] = 0
            coordinate[axis - 1] += 1
            axis -= 1


cdef void load_offsets(int ndim, const Py_ssize_t *shape, const Py_ssize_t *strides, Py_ssize_t start, Py_ssize_t n,
                       Py_ssize_t *out) noexcept nogil:
    """Element offsets of row-major positions start .. start + n of a strided array. `shape` has no zero."""
    cdef Py_ssize_t coordinate[MAX_NDIM]
    cdef Py_ssize_t at = 0, done = 0, line, i
    cdef int axis
    cdef int last = ndim - 1
    if ndim == 0:
        out[0] = 0
        return
    for axis in range(last, -1, -1):
        coordinate[axis] = start % shape[axis]
        start //= shape[axis]
        at += coordinate[axis] * strides[axis]
    while done < n:
        line = smaller(n - done, shape[last] - coordinate[last])
        for i in range(line):
            out[done + i] = at + i * strides[last]
        done += line
        coordinate[last] += line
        at += line * strides[last]
        axis = last
        while axis > 0 and coordinate[axis] == shape[axis]:
            at += strides[axis - 1] - shape[axis] * strides[axis]
            coordinate[axis] = 0
            coordinate[axis - 1] += 1
            axis -= 1


cdef bint add_offsets(const int64_t *index, Py_ssize_t n, Py_ssize_t extent, Py_ssize_t last, Py_ssize_t stride,
                      Py_ssize_t *offsets) noexcept nogil:
    """offsets[i] += stride * wrapped index; false if an index is outside [-extent, last]."""
    cdef Py_ssize_t i
    cdef int64_t value, bad = 0
    for i in range(n):
        value = index[i]
        value += extent if value < 0 else 0
        bad |= (value < 0) | (value > last)
        offsets[i] += <Py_ssize_t>(<uint64_t>value * <uint64_t>stride)
    return bad == 0


# The index arrays of one call, and the axes of the indexed array that they are for.
ctypedef struct IndexSet:
    int count
    const ArrayRef *const *arrays
    Py_ssize_t size                     # index positions
    Py_ssize_t extent[MAX_NDIM]
    Py_ssize_t last[MAX_NDIM]           # the largest valid index
    Py_ssize_t stride[MAX_NDIM]


cdef void make_index_set(IndexSet *these, const ArrayRef *x, const ArrayRef *const *indices, const int *axes, int count,
                         const Py_ssize_t *slice_sizes) noexcept nogil:
    cdef int k
    these.count = count
    these.arrays = indices
    these.size = indices[0].size if count else 1
    for k in range(count):
        these.extent[k] = x.shape[axes[k]]
        these.last[k] = x.shape[axes[k]] - slice_sizes[axes[k]]
        these.stride[k] = x.strides[axes[k]]


cdef bint resolve(const IndexSet *these, Py_ssize_t start, Py_ssize_t n, Py_ssize_t *offsets) noexcept nogil:
    """Element offsets of index positions start .. start + n (n <= TILE); false if an index is out of range."""
    cdef int64_t index[TILE]
    cdef Py_ssize_t i
    cdef int k
    cdef bint good = True
    for i in range(n):
        offsets[i] = 0
    for k in range(these.count):
        load_indices(these.arrays[k], start, n, index)
        good &= add_offsets(index, n, these.extent[k], these.last[k], these.stride[k], offsets)
    return good


cdef int find_fault(const IndexSet *these, IndexFault *fault) noexcept nogil:
    """Check every index; describe the first that is out of range."""
    cdef int64_t index[TILE]
    cdef Py_ssize_t tile, start, n, i, first
    cdef int64_t value
    cdef int k
    for tile in range((these.size + TILE - 1) // TILE):
        start = tile * TILE
        n = smaller(TILE, these.size - start)
        first = n
        for k in range(these.count):
            load_indices(these.arrays[k], start, n, index)
            for i in range(first):
                value = index[i] + (these.extent[k] if index[i] < 0 else 0)
                if value < 0 or value > these.last[k]:
                    first = i
                    fault.array = k
                    fault.position = start + i
                    fault.value = index[i]
                    fault.extent = these.extent[k]
                    break
        if first < n:
            return INDEX_OUT_OF_RANGE
    return INDEX_OK


# ---------------------------------------------------------------------------------------------- moving elements

cdef void gather_units(const char *x, const Py_ssize_t *offsets, Py_ssize_t n, char *out, Unit kind) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(out + i * <Py_ssize_t>sizeof(Unit), x + offsets[i] * <Py_ssize_t>sizeof(Unit), sizeof(Unit))


cdef void gather_elements(const char *x, const Py_ssize_t *offsets, Py_ssize_t n, Py_ssize_t size,
                          char *out) noexcept nogil:
    if size == 4:
        gather_units(x, offsets, n, out, <uint32_t>0)
    elif size == 8:
        gather_units(x, offsets, n, out, <uint64_t>0)
    elif size == 2:
        gather_units(x, offsets, n, out, <uint16_t>0)
    else:
        gather_units(x, offsets, n, out, <uint8_t>0)


cdef void copy_units(const char *src, Py_ssize_t src_step, char *dst, Py_ssize_t dst_step, Py_ssize_t n,
                     Unit kind) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(dst + i * dst_step * <Py_ssize_t>sizeof(Unit), src + i * src_step * <Py_ssize_t>sizeof(Unit),
               sizeof(Unit))


cdef void copy_line(const char *src, Py_ssize_t src_step, char *dst, Py_ssize_t dst_step, Py_ssize_t n,
                    Py_ssize_t size) noexcept nogil:
    if src_step == 1 and dst_step == 1:
        memcpy(dst, src, n * size)
    elif size == 4:
        copy_units(src, src_step, dst, dst_step, n, <uint32_t>0)
    elif size == 8:
        copy_units(src, src_step, dst, dst_step, n, <uint64_t>0)
    elif size == 2:
        copy_units(src, src_step, dst, dst_step, n, <uint16_t>0)
    else:
        copy_units(src, src_step, dst, dst_step, n, <uint8_t>0)


cdef void copy_box(const Box *box, int axis, const char *src, char *dst, Py_ssize_t size) noexcept nogil:
    """src has box.strides, dst has box.other."""
    cdef Py_ssize_t i
    if box.ndim == 0:
        memcpy(dst, src, size)
    elif axis == box.ndim - 1:
        copy_line(src, box.strides[axis], dst, box.other[axis], box.shape[axis], size)
    else:
        for i in range(box.shape[axis]):
            copy_box(box, axis + 1, src + i * box.strides[axis] * size, dst + i * box.other[axis] * size, size)


cdef void row_major(int ndim, const Py_ssize_t *shape, Py_ssize_t *strides) noexcept nogil:
    cdef Py_ssize_t step = 1
    cdef int axis
    for axis in range(ndim - 1, -1, -1):
        strides[axis] = step
        step *= shape[axis]


# One gather: `outer` boxes of x (the axes in front of a taken axis), index positions, and the slice at each.
ctypedef struct GatherPlan:
    IndexSet index
    Box slice
    Py_ssize_t slice_size               # elements
    Py_ssize_t size                     # bytes of an element
    Py_ssize_t tile                     # index positions per tile
    Py_ssize_t tiles
    int outer_ndim
    const Py_ssize_t *outer_shape
    const Py_ssize_t *outer_strides
    const char *x
    char *out


cdef bint gather_tile(const GatherPlan *plan, Py_ssize_t number) noexcept nogil:
    cdef Py_ssize_t offsets[TILE]
    cdef Py_ssize_t outer = number // plan.tiles, start = (number % plan.tiles) * plan.tile
    cdef Py_ssize_t n = smaller(plan.tile, plan.index.size - start), i, base = 0
    cdef Py_ssize_t bytes = plan.slice_size * plan.size
    cdef char *out = plan.out + (outer * plan.index.size + start) * bytes
    cdef const char *x = plan.x
    if not resolve(&plan.index, start, n, offsets):
        return False
    if plan.outer_ndim:
        load_offsets(plan.outer_ndim, plan.outer_shape, plan.outer_strides, outer, 1, &base)
        x += base * plan.size
    if plan.slice.ndim == 0:
        gather_elements(x, offsets, n, plan.size, out)
    elif plan.slice.ndim == 1 and plan.slice.strides[0] == 1:
        for i in range(n):
            memcpy(out + i * bytes, x + offsets[i] * plan.size, bytes)
    else:
        for i in range(n):
            copy_box(&plan.slice, 0, x + offsets[i] * plan.size, out + i * bytes, plan.size)
    return True


cdef int run_gather(GatherPlan *plan, Py_ssize_t outer, const ArrayRef *out, IndexFault *fault,
                    int threads) noexcept nogil:
    cdef Py_ssize_t bytes = plan.slice_size * plan.size, number
    cdef int bad = 0
    if out.size == 0:
        return find_fault(&plan.index, fault)
    plan.out = out.data
    plan.tile = TILE if bytes * TILE <= TILE_BYTES else 1 + TILE_BYTES // bytes
    plan.tiles = (plan.index.size + plan.tile - 1) // plan.tile
    cdef bint parallel = threads > 1 and (
        out.size * plan.size >= PARALLEL_BYTES or outer * plan.index.size >= PARALLEL_ELEMENTS)
    for number in prange(outer * plan.tiles, num_threads=team_of(threads), schedule="dynamic", use_threads_if=parallel):
        bad += not gather_tile(plan, number)
    return find_fault(&plan.index, fault) if bad else INDEX_OK


cdef int gather(const ArrayRef *x, const ArrayRef *const *indices, const int *axes, int count,
                const Py_ssize_t *slice_sizes, const ArrayRef *out, IndexFault *fault, int threads) noexcept nogil:
    cdef GatherPlan plan
    cdef Py_ssize_t packed[MAX_NDIM]
    cdef int axis
    make_index_set(&plan.index, x, indices, axes, count, slice_sizes)
    row_major(x.ndim, slice_sizes, packed)
    merge_axes(&plan.slice, x.ndim, slice_sizes, x.strides, packed)
    plan.slice_size = 1
    for axis in range(x.ndim):
        plan.slice_size *= slice_sizes[axis]
    plan.size = itemsize_of(x.dtype)
    plan.outer_ndim = 0
    plan.x = x.data
    return run_gather(&plan, 1, out, fault, threads)


cdef int take(const ArrayRef *x, const ArrayRef *indices, int axis, const ArrayRef *out, IndexFault *fault,
              int threads) noexcept nogil:
    cdef GatherPlan plan
    cdef Py_ssize_t packed[MAX_NDIM]
    cdef Py_ssize_t outer = 1
    cdef int after = x.ndim - axis - 1, k
    plan.index.count = 1
    plan.index.arrays = &indices
    plan.index.size = indices.size
    plan.index.extent[0] = x.shape[axis]
    plan.index.last[0] = x.shape[axis] - 1
    plan.index.stride[0] = x.strides[axis]
    row_major(after, x.shape + axis + 1, packed)
    merge_axes(&plan.slice, after, x.shape + axis + 1, x.strides + axis + 1, packed)
    plan.slice_size = 1
    for k in range(axis + 1, x.ndim):
        plan.slice_size *= x.shape[k]
    for k in range(axis):
        outer *= x.shape[k]
    plan.size = itemsize_of(x.dtype)
    plan.outer_ndim = axis
    plan.outer_shape = x.shape
    plan.outer_strides = x.strides
    plan.x = x.data
    return run_gather(&plan, outer, out, fault, threads)


cdef void strides_without(const ArrayRef *x, int axis, Py_ssize_t *strides) noexcept nogil:
    cdef int k
    for k in range(x.ndim):
        strides[k] = 0 if k == axis else x.strides[k]


cdef bint along_axis_offsets(const ArrayRef *x, const ArrayRef *indices, int axis, const Py_ssize_t *strides,
                             Py_ssize_t start, Py_ssize_t n, Py_ssize_t *offsets) noexcept nogil:
    """Offsets in x of the elements that positions start .. start + n of `indices` name. `strides` are x's without
    `axis`."""
    cdef int64_t index[TILE]
    load_offsets(indices.ndim, indices.shape, strides, start, n, offsets)
    load_indices(indices, start, n, index)
    return add_offsets(index, n, x.shape[axis], x.shape[axis] - 1, x.strides[axis], offsets)


cdef int along_axis_fault(const ArrayRef *x, const ArrayRef *indices, int axis, IndexFault *fault) noexcept nogil:
    cdef IndexSet these
    these.count = 1
    these.arrays = &indices
    these.size = indices.size
    these.extent[0] = x.shape[axis]
    these.last[0] = x.shape[axis] - 1
    these.stride[0] = x.strides[axis]
    return find_fault(&these, fault)


cdef bint along_axis_tile(const ArrayRef *x, const ArrayRef *indices, int axis, const Py_ssize_t *strides,
                          Py_ssize_t start, const ArrayRef *out) noexcept nogil:
    cdef Py_ssize_t offsets[TILE]
    cdef Py_ssize_t n = smaller(TILE, indices.size - start), size = itemsize_of(x.dtype)
    if not along_axis_offsets(x, indices, axis, strides, start, n, offsets):
        return False
    gather_elements(x.data, offsets, n, size, out.data + start * size)
    return True


cdef int take_along_axis(const ArrayRef *x, const ArrayRef *indices, int axis, const ArrayRef *out, IndexFault *fault,
                         int threads) noexcept nogil:
    cdef Py_ssize_t strides[MAX_NDIM]
    cdef Py_ssize_t number
    cdef int bad = 0
    cdef bint parallel = threads > 1 and indices.size >= PARALLEL_ELEMENTS
    strides_without(x, axis, strides)
    for number in prange((indices.size + TILE - 1) // TILE, num_threads=team_of(threads), schedule="static",
                         use_threads_if=parallel):
        bad += not along_axis_tile(x, indices, axis, strides, number * TILE, out)
    return along_axis_fault(x, indices, axis, fault) if bad else INDEX_OK


# ---------------------------------------------------------------------------------------------- scatter

cdef inline Number combined(int mode, Number old, Number new) noexcept nogil:
    if mode == SCATTER_ADD:
        return <Number>(old + new)
    if mode == SCATTER_PROD:
        if Number is uint16_t:
            return <uint16_t>(<uint32_t>old * new)      # uint16 promotes to int, which this product can overflow
        else:
            return <Number>(old * new)
    if mode == SCATTER_MAX:
        return old if old > new else new
    return old if old < new else new


cdef inline void combine_numbers(int mode, char *dst, Py_ssize_t dst_step, const char *new, Py_ssize_t new_step,
                                 Py_ssize_t n, Number kind) noexcept nogil:
    cdef Py_ssize_t i
    cdef Number a, b
    for i in range(n):
        memcpy(&a, dst + i * dst_step * <Py_ssize_t>sizeof(Number), sizeof(Number))
        memcpy(&b, new + i * new_step * <Py_ssize_t>sizeof(Number), sizeof(Number))
        a = combined(mode, a, b)
        memcpy(dst + i * dst_step * <Py_ssize_t>sizeof(Number), &a, sizeof(Number))


cdef void combine_line_of(int mode, char *dst, Py_ssize_t dst_step, const char *new, Py_ssize_t new_step,
                          Py_ssize_t n, Number kind) noexcept nogil:
    # One loop per mode and for unit steps, so that each vectorizes.
    if dst_step == 1 and new_step == 1 and mode == SCATTER_ADD:
        combine_numbers(SCATTER_ADD, dst, 1, new, 1, n, kind)
    elif mode == SCATTER_ADD:
        combine_numbers(SCATTER_ADD, dst, dst_step, new, new_step, n, kind)
    else:
        combine_numbers(mode, dst, dst_step, new, new_step, n, kind)


cdef void combine_halves(int dtype, int mode, char *dst, Py_ssize_t dst_step, const char *new, Py_ssize_t new_step,
                         Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint16_t a, b
    for i in range(n):
        memcpy(&a, dst + 2 * i * dst_step, 2)
        memcpy(&b, new + 2 * i * new_step, 2)
        if dtype == FLOAT16:
            a = f32_to_f16(combined(mode, f16_to_f32(a), f16_to_f32(b)))
        else:
            a = f32_to_bf16(combined(mode, bf16_to_f32(a), bf16_to_f32(b)))
        memcpy(dst + 2 * i * dst_step, &a, 2)


cdef inline bint complex_greater(const float *a, const float *b) noexcept nogil:
    return a[0] > b[0] or (a[0] == b[0] and a[1] > b[1])


cdef void combine_complex(int mode, char *dst, Py_ssize_t dst_step, const char *new, Py_ssize_t new_step,
                          Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef float a[2]
    cdef float b[2]
    cdef float real
    for i in range(n):
        memcpy(a, dst + 8 * i * dst_step, 8)
        memcpy(b, new + 8 * i * new_step, 8)
        if mode == SCATTER_ADD:
            a[0] += b[0]
            a[1] += b[1]
        elif mode == SCATTER_PROD:
            real = a[0] * b[0] - a[1] * b[1]
            a[1] = a[0] * b[1] + a[1] * b[0]
            a[0] = real
        elif not (complex_greater(a, b) if mode == SCATTER_MAX else complex_greater(b, a)):
            a[0] = b[0]
            a[1] = b[1]
        memcpy(dst + 8 * i * dst_step, a, 8)


cdef void combine_bools(int mode, char *dst, Py_ssize_t dst_step, const char *new, Py_ssize_t new_step,
                        Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint either = mode == SCATTER_ADD or mode == SCATTER_MAX
    for i in range(n):
        dst[i * dst_step] = ((dst[i * dst_step] != 0 or new[i * new_step] != 0) if either
                             else (dst[i * dst_step] != 0 and new[i * new_step] != 0))


cdef void combine_line(int dtype, int mode, char *dst, Py_ssize_t dst_step, const char *new, Py_ssize_t new_step,
                       Py_ssize_t n) noexcept nogil:
    if mode == SCATTER_ASSIGN:
        copy_line(new, new_step, dst, dst_step, n, itemsize_of(dtype))
    elif dtype == FLOAT32:
        combine_line_of(mode, dst, dst_step, new, new_step, n, <float>0)
    elif dtype == FLOAT16 or dtype == BFLOAT16:
        combine_halves(dtype, mode, dst, dst_step, new, new_step, n)
    elif dtype == FLOAT64:
        combine_line_of(mode, dst, dst_step, new, new_step, n, <double>0)
    elif dtype == INT32:
        # Signed sums and products wrap, as upstream's do: unsigned arithmetic says so without undefined behaviour.
        if mode == SCATTER_ADD or mode == SCATTER_PROD:
            combine_line_of(mode, dst, dst_step, new, new_step, n, <uint32_t>0)
        else:
            combine_line_of(mode, dst, dst_step, new, new_step, n, <int32_t>0)
    elif dtype == UINT32:
        combine_line_of(mode, dst, dst_step, new, new_step, n, <uint32_t>0)
    elif dtype == INT64:
        if mode == SCATTER_ADD or mode == SCATTER_PROD:
            combine_line_of(mode, dst, dst_step, new, new_step, n, <uint64_t>0)
        else:
            combine_line_of(mode, dst, dst_step, new, new_step, n, <int64_t>0)
    elif dtype == UINT64:
        combine_line_of(mode, dst, dst_step, new, new_step, n, <uint64_t>0)
    elif dtype == COMPLEX64:
        combine_complex(mode, dst, dst_step, new, new_step, n)
    elif dtype == BOOL:
        combine_bools(mode, dst, dst_step, new, new_step, n)
    elif dtype == INT16:
        combine_line_of(mode, dst, dst_step, new, new_step, n, <int16_t>0)
    elif dtype == UINT16:
        combine_line_of(mode, dst, dst_step, new, new_step, n, <uint16_t>0)
    elif dtype == INT8:
        combine_line_of(mode, dst, dst_step, new, new_step, n, <int8_t>0)
    else:
        combine_line_of(mode, dst, dst_step, new, new_step, n, <uint8_t>0)


cdef void combine_box(const Box *box, int axis, int dtype, int mode, char *dst, const char *new,
                      Py_ssize_t size) noexcept nogil:
    """dst has box.strides, new has box.other."""
    cdef Py_ssize_t i
    if box.ndim == 0:
        combine_line(dtype, mode, dst, 1, new, 1, 1)
    elif axis == box.ndim - 1:
        combine_line(dtype, mode, dst, box.strides[axis], new, box.other[axis], box.shape[axis])
    else:
        for i in range(box.shape[axis]):
            combine_box(box, axis + 1, dtype, mode, dst + i * box.strides[axis] * size,
                        new + i * box.other[axis] * size, size)


cdef void combine_elements_of(int mode, char *dst, const Py_ssize_t *at, const char *new, const Py_ssize_t *from_,
                              Py_ssize_t n, Number kind) noexcept nogil:
    cdef Py_ssize_t i
    cdef Number a, b
    for i in range(n):
        memcpy(&a, dst + at[i] * <Py_ssize_t>sizeof(Number), sizeof(Number))
        memcpy(&b, new + from_[i] * <Py_ssize_t>sizeof(Number), sizeof(Number))
        a = combined(mode, a, b)
        memcpy(dst + at[i] * <Py_ssize_t>sizeof(Number), &a, sizeof(Number))


cdef void assign_elements_of(char *dst, const Py_ssize_t *at, const char *new, const Py_ssize_t *from_, Py_ssize_t n,
                             Unit kind) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(dst + at[i] * <Py_ssize_t>sizeof(Unit), new + from_[i] * <Py_ssize_t>sizeof(Unit), sizeof(Unit))


cdef void combine_elements(int dtype, int mode, char *dst, const Py_ssize_t *at, const char *new,
                           const Py_ssize_t *from_, Py_ssize_t n) noexcept nogil:
    """dst[at[i]] = combine(it, new[from_[i]]), in order of i. The common cases are loops; the rest go one by one."""
    cdef Py_ssize_t size = itemsize_of(dtype), i
    if mode == SCATTER_ASSIGN:
        if size == 4:
            assign_elements_of(dst, at, new, from_, n, <uint32_t>0)
        elif size == 8:
            assign_elements_of(dst, at, new, from_, n, <uint64_t>0)
        elif size == 2:
            assign_elements_of(dst, at, new, from_, n, <uint16_t>0)
        else:
            assign_elements_of(dst, at, new, from_, n, <uint8_t>0)
    elif dtype == FLOAT32:
        combine_elements_of(mode, dst, at, new, from_, n, <float>0)
    else:
        for i in range(n):
            combine_line(dtype, mode, dst + at[i] * size, 1, new + from_[i] * size, 1, 1)


cdef void scatter_column(const ArrayRef *updates, const IndexSet *these, const Box *slice, int dtype, int mode,
                         int index_ndim, char *dst, const char *new) noexcept nogil:
    """All index positions in order, for one box of every slice."""
    cdef Py_ssize_t at[TILE]
    cdef Py_ssize_t source[TILE]
    cdef Py_ssize_t tile, start, n, i, size = itemsize_of(dtype)
    for tile in range((these.size + TILE - 1) // TILE):
        start = tile * TILE
        n = smaller(TILE, these.size - start)
        resolve(these, start, n, at)
        load_offsets(index_ndim, updates.shape, updates.strides, start, n, source)
        if slice.ndim == 0:
            combine_elements(dtype, mode, dst, at, new, source, n)
        else:
            for i in range(n):
                combine_box(slice, 0, dtype, mode, dst + at[i] * size, new + source[i] * size, size)


cdef int scatter(const ArrayRef *dst, const ArrayRef *const *indices, const int *axes, int count,
                 const Py_ssize_t *slice_sizes, const ArrayRef *updates, int mode, IndexFault *fault,
                 int threads) noexcept nogil:
    cdef IndexSet these
    cdef Box slice
    cdef int index_ndim = updates.ndim - dst.ndim, k, status, columns = 1, last
    cdef Py_ssize_t size = itemsize_of(dst.dtype), column, width
    cdef bint indexed = False
    make_index_set(&these, dst, indices, axes, count, slice_sizes)
    status = find_fault(&these, fault)
    if status != INDEX_OK or updates.size == 0:
        return status
    # Slices that do not overlap along their innermost run can be cut there: each thread then applies all updates, in
    # order, to its own columns. That holds unless the run's axes are indexed with slices longer than 1.
    for k in range(count):
        indexed |= slice_sizes[axes[k]] > 1
    merge_axes(&slice, dst.ndim, slice_sizes, dst.strides, updates.strides + index_ndim)
    last = slice.ndim - 1
    if threads > 1 and not indexed and last >= 0 and updates.size * size >= PARALLEL_BYTES and slice.shape[last] >= 64:
        columns = threads
    width = (slice.shape[last] + columns - 1) // columns if columns > 1 else 0
    for column in prange(columns, num_threads=team_of(threads), schedule="static", use_threads_if=columns > 1):
        scatter_part(updates, &these, &slice, dst.dtype, mode, index_ndim, dst.data, column, width)
    return INDEX_OK


cdef void scatter_part(const ArrayRef *updates, const IndexSet *these, const Box *slice, int dtype, int mode,
                       int index_ndim, char *dst, Py_ssize_t column, Py_ssize_t width) noexcept nogil:
    """Columns column * width and up, `width` of them, of the innermost run; width 0 means all of the slice."""
    cdef Box part = slice[0]
    cdef int last = slice.ndim - 1
    cdef Py_ssize_t size = itemsize_of(dtype), begin = column * width
    cdef const char *new = updates.data
    if width:
        if begin >= slice.shape[last]:
            return
        part.shape[last] = smaller(width, slice.shape[last] - begin)
        dst += begin * slice.strides[last] * size
        new += begin * slice.other[last] * size
    scatter_column(updates, these, &part, dtype, mode, index_ndim, dst, new)


cdef void put_along_range(const ArrayRef *dst, const ArrayRef *indices, const ArrayRef *updates, int axis, int mode,
                          const Py_ssize_t *strides, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t at[TILE]
    cdef Py_ssize_t source[TILE]
    cdef Py_ssize_t n
    while start < stop:
        n = smaller(TILE, stop - start)
        along_axis_offsets(dst, indices, axis, strides, start, n, at)
        load_offsets(updates.ndim, updates.shape, updates.strides, start, n, source)
        combine_elements(dst.dtype, mode, dst.data, at, updates.data, source, n)
        start += n


cdef int put_along_axis(const ArrayRef *dst, const ArrayRef *indices, const ArrayRef *updates, int axis, int mode,
                        IndexFault *fault, int threads) noexcept nogil:
    cdef Py_ssize_t strides[MAX_NDIM]
    cdef Py_ssize_t outer = 1, inner, number
    cdef int k
    cdef int status = along_axis_fault(dst, indices, axis, fault)
    if status != INDEX_OK or indices.size == 0:
        return status
    strides_without(dst, axis, strides)
    # Positions that differ in front of `axis` never meet in dst, so those go to different threads.
    for k in range(axis):
        outer *= indices.shape[k]
    inner = indices.size // outer
    cdef bint parallel = threads > 1 and outer > 1 and indices.size >= PARALLEL_ELEMENTS
    for number in prange(outer, num_threads=team_of(threads), schedule="static", use_threads_if=parallel):
        put_along_range(dst, indices, updates, axis, mode, strides, number * inner, (number + 1) * inner)
    return INDEX_OK


# ---------------------------------------------------------------------------------------------- masks

cdef Py_ssize_t count_line(const uint8_t *mask, Py_ssize_t step, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, j, lane, whole = n // LANES * LANES if step == 1 else 0, total = 0
    cdef uint8_t lanes[LANES]
    i = 0
    while i < whole:
        # A sum of at most 255 ones stays in a byte.
        for lane in range(LANES):
            lanes[lane] = 0
        j = i
        i = smaller(whole, i + 255 * LANES)
        while j < i:
            for lane in range(LANES):
                lanes[lane] += mask[j + lane] != 0
            j += LANES
        for lane in range(LANES):
            total += lanes[lane]
    for i in range(whole, n):
        total += mask[i * step] != 0
    return total


cdef Py_ssize_t count_box(const Box *box, int axis, const uint8_t *mask) noexcept nogil:
    cdef Py_ssize_t i, total = 0
    if box.ndim == 0:
        return mask[0] != 0
    if axis == box.ndim - 1:
        return count_line(mask, box.strides[axis], box.shape[axis])
    for i in range(box.shape[axis]):
        total += count_box(box, axis + 1, mask + i * box.strides[axis])
    return total


cdef Py_ssize_t count_nonzero(const ArrayRef *mask, int threads) noexcept nogil:
    cdef Box box
    if mask.size == 0:
        return 0
    merge_axes(&box, mask.ndim, mask.shape, mask.strides, mask.strides)
    return count_box(&box, 0, <const uint8_t *>mask.data)


cdef void nonzero(const ArrayRef *mask, const ArrayRef *out) noexcept nogil:
    cdef Py_ssize_t offsets[TILE]
    cdef uint8_t lanes[TILE]
    cdef const uint8_t *line
    cdef int64_t *found = <int64_t *>out.data
    cdef uint64_t eight
    cdef Py_ssize_t tile, start, n, i, j, total = 0
    for tile in range((mask.size + TILE - 1) // TILE):
        start = tile * TILE
        n = smaller(TILE, mask.size - start)
        line = <const uint8_t *>mask.data + start
        if not mask.contiguous:
            load_offsets(mask.ndim, mask.shape, mask.strides, start, n, offsets)
            gather_units(mask.data, offsets, n, <char *>lanes, <uint8_t>0)
            line = lanes
        # Eight at a time: nothing if all are false; where there is room, every candidate is written and only a true
        # one moves the end on, which needs no branch.
        i = 0
        while i + 8 <= n and total + 8 <= out.size:
            memcpy(&eight, line + i, 8)
            if eight:
                for j in range(8):
                    found[total] = start + i + j
                    total += line[i + j] != 0
            i += 8
        while i < n:
            if line[i]:
                found[total] = start + i
                total += 1
            i += 1


# ---------------------------------------------------------------------------------------------- copies

cdef void copy_part(const Box *box, int cut, Py_ssize_t begin, Py_ssize_t end, const char *src, char *dst,
                    Py_ssize_t size) noexcept nogil:
    """The part begin .. end of the box along axis `cut`."""
    cdef Box part = box[0]
    if box.ndim:
        part.shape[cut] = end - begin
        src += begin * box.strides[cut] * size
        dst += begin * box.other[cut] * size
    copy_box(&part, 0, src, dst, size)


cdef void copy(const ArrayRef *src, const ArrayRef *dst, int threads) noexcept nogil:
    cdef Box box
    cdef Py_ssize_t size = itemsize_of(src.dtype), extent, parts = 1, number
    if src.size == 0:
        return
    merge_axes(&box, src.ndim, src.shape, src.strides, dst.strides)
    extent = box.shape[0] if box.ndim else 1
    if threads > 1 and src.size * size >= PARALLEL_BYTES:
        # More parts than threads, because other work may slow one of them down.
        parts = smaller(extent, 8 * threads)
    for number in prange(parts, num_threads=team_of(threads), schedule="dynamic", use_threads_if=parts > 1):
        copy_part(&box, 0, extent * number // parts, extent * (number + 1) // parts, src.data, dst.data, size)


cdef void concatenate(const ArrayRef *const *inputs, int count, int axis, const ArrayRef *out,
                      int threads) noexcept nogil:
    cdef ArrayRef window = out[0]
    cdef int k
    for k in range(count):
        window.shape = inputs[k].shape
        window.size = inputs[k].size
        copy(inputs[k], &window, threads)
        window.data += inputs[k].shape[axis] * out.strides[axis] * itemsize_of(out.dtype)


cdef IndexingTable TABLE
TABLE.gather = gather
TABLE.take = take
TABLE.take_along_axis = take_along_axis
TABLE.scatter = scatter
TABLE.put_along_axis = put_along_axis
TABLE.count_nonzero = count_nonzero
TABLE.nonzero = nonzero
TABLE.copy = copy
TABLE.concatenate = concatenate

table = PyCapsule_New(&TABLE, "mlxr.cpu.indexing", NULL)
