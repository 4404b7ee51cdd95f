# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Scaled dot-product attention; attention.pxd says what it computes and in which order.

The work of one key head is a matrix of rows, a row being a query of one of the query heads that share the key head.
A unit is a few strips of rows. There are two ways to compute the same numbers:

- wide (many rows): scores are computed transposed, keys down and rows across the lanes, so that the maximum, the
  exponential and the sum run over whole vectors without a shuffle, and so that the weights already lie as the
  micro-kernel wants its left operand. Bound by arithmetic: two products and one exponential per score.
- narrow (decoding: few rows): rows down and keys across the lanes; each key and value is read from memory once for
  all rows. Bound by memory.

Too few units for the threads are split by blocks of keys. A split task leaves the partial result of each block, and the
join runs over them in the order in which an unsplit task does, so a split changes no bits.

It must not know about Python objects but the capsule that it exports.
"""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport parallel, prange
from libc.float cimport DBL_MAX, FLT_MAX
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from mlxr.core.abi cimport ArrayRef, DTypeCode
from mlxr.cpu.kernels.attention cimport AttentionTable
from mlxr.cpu.kernels.half cimport fused_f32, fused_f64
from mlxr.cpu.kernels.rows cimport INF_F, exp_real, itemsize, load_row, real, row_max, store_row

cdef extern from "microkernel.h" nogil:
    enum:
        F32_LANES
        F64_LANES
        GEMM_MR    # rows of the largest micro-kernel
        GEMM_SP    # lanes of a packed step of its left operand
    ctypedef void (*block_fn_f32)(Py_ssize_t kc, const float *a, Py_ssize_t lda, const float *b, Py_ssize_t ldb,
                                  const float *init, const float *add, Py_ssize_t ldt, float *dst,
                                  Py_ssize_t ldd) noexcept
    ctypedef void (*block_fn_f64)(Py_ssize_t kc, const double *a, Py_ssize_t lda, const double *b, Py_ssize_t ldb,
                                  const double *init, const double *add, Py_ssize_t ldt, double *dst,
                                  Py_ssize_t ldd) noexcept
    const block_fn_f32 blocks_f32[GEMM_MR][2]
    const block_fn_f64 blocks_f64[GEMM_MR][2]
    void pack_f32(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, float *dst) noexcept
    void pack_f64(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, double *dst) noexcept

cdef enum:
    KEYS = 256         # keys in a block: part of the order of operations
    SUM_LANES = 16     # lanes of the sum of a block's weights: part of the order of operations
    UNIT_STRIPS = 4    # most strips of rows in a unit: enough work for each key and value that is packed
    VALUE_STEP = 16    # keys whose values stay in the first-level cache while a narrow unit passes over their columns
    F32_WIDTH = 2 * F32_LANES   # rows in a strip, and columns in a strip of values
    F64_WIDTH = 2 * F64_LANES
    SMALL_WORK = 1 << 17        # multiply-adds below which a second thread costs more than it saves

ctypedef struct Job:
    const ArrayRef *q
    const ArrayRef *k
    const ArrayRef *v
    const ArrayRef *mask
    const ArrayRef *sinks
    const ArrayRef *out
    double scale
    bint causal
    bint narrow
    Py_ssize_t group      # query heads that share a key head
    Py_ssize_t heads      # key heads over the whole batch
    Py_ssize_t queries    # Tq
    Py_ssize_t keys       # Tk
    Py_ssize_t depth      # D
    Py_ssize_t columns    # Dv
    Py_ssize_t padded     # Dv rounded up to whole strips
    Py_ssize_t rows       # of one key head: group * queries
    Py_ssize_t unit_rows
    Py_ssize_t head_units
    Py_ssize_t blocks     # of keys
    Py_ssize_t splits     # tasks that a unit's blocks of keys are divided into
    Py_ssize_t scratch    # elements of scratch that a thread needs
    void *partials        # splits > 1: [heads * rows][blocks][padded + 2]: result, maximum and sum of each block


cdef inline real lowest(real tag) noexcept nogil:
    if real is float:
        return -FLT_MAX
    else:
        return -DBL_MAX


cdef inline void pack(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                      Py_ssize_t per, Py_ssize_t width, real *dst) noexcept nogil:
    if real is float:
        pack_f32(dtype, src, sw, sk, nw, nk, per, width, dst)
    else:
        pack_f64(dtype, src, sw, sk, nw, nk, per, width, dst)


cdef inline void multiply(Py_ssize_t m, Py_ssize_t lanes, Py_ssize_t kc, const real *a, Py_ssize_t lda, const real *b,
                          Py_ssize_t ldb, const real *init, real *dst, Py_ssize_t ldd) noexcept nogil:
    """dst [m, lanes] = init (or 0) + a b, where step k of a is at a + k * lda; at most two vectors of lanes."""
    if real is float:
        blocks_f32[m - 1][lanes > F32_LANES](kc, a, lda, b, ldb, init, NULL, ldd, dst, ldd)
    else:
        blocks_f64[m - 1][lanes > F64_LANES](kc, a, lda, b, ldb, init, NULL, ldd, dst, ldd)


# ---------------------------------------------------------------------------------------------------- masks


cdef inline Py_ssize_t visible(const Job *job, Py_ssize_t row) noexcept nogil:
    """How many keys the row sees as far as `causal` goes."""
    return min(max(row % job.queries + job.keys - job.queries + 1, <Py_ssize_t>0), job.keys)


cdef inline bint one_head(const Job *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    return lo // job.queries == (hi - 1) // job.queries


cdef inline Py_ssize_t reach(const Job *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    """How many keys have to be computed for rows [lo, hi): those that any of them sees, or all if one sees none."""
    if not job.causal or not one_head(job, lo, hi) or visible(job, lo) == 0:
        return job.keys
    return visible(job, hi - 1)


cdef inline bint is_masked(const Job *job, Py_ssize_t lo, Py_ssize_t hi, Py_ssize_t keys) noexcept nogil:
    """Whether any of rows [lo, hi) may not see all of the first `keys` keys."""
    if job.mask != NULL:
        return True
    return job.causal and visible(job, lo if one_head(job, lo, hi) else 0) < keys


cdef void apply_mask(const Job *job, Py_ssize_t head, Py_ssize_t row, Py_ssize_t first, Py_ssize_t count, real *s,
                     Py_ssize_t step) noexcept nogil:
    """Mask the scores of one row against keys [first, first + count), which lie `step` elements apart at s."""
    cdef const ArrayRef *mask = job.mask
    cdef const char *place
    cdef Py_ssize_t j, key_heads, stride, size
    cdef real value, low = lowest(<real>0)
    if mask != NULL:
        key_heads = job.k.shape[1]
        size = itemsize(mask.dtype)
        stride = mask.strides[3] * size
        place = mask.data + size * (
            head // key_heads * mask.strides[0]
            + (head % key_heads * job.group + row // job.queries) * mask.strides[1]
            + row % job.queries * mask.strides[2] + first * mask.strides[3])
        if mask.dtype == DTypeCode.BOOL:
            for j in range(count):
                if not (<const uint8_t *>place)[j * stride]:
                    s[j * step] = low
        else:
            for j in range(count):
                load_row(&value, place + j * stride, 1, 1, mask.dtype)
                s[j * step] += value
    if job.causal:
        for j in range(max(visible(job, row) - first, <Py_ssize_t>0), count):
            s[j * step] = low


# ---------------------------------------------------------------------------------------------------- joining


cdef inline void join_row(real *m, real *total, real *o, real block_max, real block_total, const real *block_o,
                          Py_ssize_t columns) noexcept nogil:
    """Join the result of the next block of keys to that of the blocks before it."""
    cdef real top = block_max if block_max > m[0] else m[0]
    cdef real shift = <real>0 if top == -INF_F else top
    cdef real before = exp_real(m[0] - shift), now = exp_real(block_max - shift)
    cdef Py_ssize_t c
    m[0] = top
    total[0] = total[0] * before + block_total * now
    if now == 0 and before == 1:
        return
    for c in range(columns):
        if real is float:
            o[c] = fused_f32(o[c], before, block_o[c] * now)
        else:
            o[c] = fused_f64(o[c], before, block_o[c] * now)


cdef inline void start_row(const Job *job, Py_ssize_t head, Py_ssize_t row, real *m, real *total,
                           real *o) noexcept nogil:
    """The state before the first block: nothing, or the sink."""
    cdef Py_ssize_t c, index
    m[0] = -INF_F
    total[0] = 0
    if job.sinks != NULL:
        index = head % job.k.shape[1] * job.group + row // job.queries
        load_row(m, job.sinks.data + index * job.sinks.strides[0] * itemsize(job.sinks.dtype), 1, 1, job.sinks.dtype)
        total[0] = 1
    for c in range(job.padded):
        o[c] = 0


cdef inline void finish_row(const Job *job, Py_ssize_t head, Py_ssize_t row, real total, real *o) noexcept nogil:
    cdef real factor = 1 / total
    cdef Py_ssize_t c
    for c in range(job.columns):
        o[c] = o[c] * factor
    store_row(job.out.data + (head * job.rows + row) * job.columns * itemsize(job.out.dtype), o, job.columns,
              job.out.dtype)


# ---------------------------------------------------------------------------------------------------- units


cdef void load_queries(const Job *job, Py_ssize_t head, Py_ssize_t lo, Py_ssize_t hi, real *dst) noexcept nogil:
    """Rows [lo, hi) of a key head, scaled, row-major."""
    cdef const ArrayRef *q = job.q
    cdef Py_ssize_t key_heads = job.k.shape[1], size = itemsize(q.dtype), row, i
    cdef real scale = <real>job.scale
    cdef const char *base = q.data + size * (
        head // key_heads * q.strides[0] + head % key_heads * job.group * q.strides[1])
    for row in range(lo, hi):
        load_row(dst, base + size * (row // job.queries * q.strides[1] + row % job.queries * q.strides[2]),
                 q.strides[3], job.depth, q.dtype)
        for i in range(job.depth):
            dst[i] = dst[i] * scale
        dst += job.depth


cdef inline const char *head_data(const Job *job, const ArrayRef *a, Py_ssize_t head, Py_ssize_t key) noexcept nogil:
    cdef Py_ssize_t key_heads = a.shape[1]
    return a.data + itemsize(a.dtype) * (
        head // key_heads * a.strides[0] + head % key_heads * a.strides[1] + key * a.strides[2])


cdef void weigh_strip(real *s, Py_ssize_t keys, real *block_max, real *block_total) noexcept nogil:
    """Turn transposed scores s [keys][width] into weights, with the maximum and the sum of each row."""
    cdef real lane[SUM_LANES][F32_WIDTH]
    cdef real shift[F32_WIDTH]
    cdef real value
    cdef real *row
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, j, r, l, half
    for r in range(width):
        block_max[r] = -INF_F
    for j in range(keys):
        row = s + j * width
        for r in range(width):
            block_max[r] = row[r] if row[r] > block_max[r] else block_max[r]
    for r in range(width):
        shift[r] = <real>0 if block_max[r] == -INF_F else block_max[r]
    for l in range(SUM_LANES):
        for r in range(width):
            lane[l][r] = 0
    for j in range(keys):
        row = s + j * width
        l = j % SUM_LANES
        for r in range(width):
            value = exp_real(row[r] - shift[r])
            row[r] = value
            lane[l][r] += value
    half = SUM_LANES // 2
    while half:
        for l in range(half):
            for r in range(width):
                lane[l][r] += lane[l + half][r]
        half = half // 2
    for r in range(width):
        block_total[r] = lane[0][r]


cdef inline void weigh_row(real *s, Py_ssize_t keys, real *block_max, real *block_total) noexcept nogil:
    """The same numbers for the scores of one row, which lie side by side."""
    cdef real lane[SUM_LANES]
    cdef real m = row_max(s, keys), shift
    cdef Py_ssize_t j, i = 0
    block_max[0] = m
    shift = <real>0 if m == -INF_F else m
    for j in range(keys):
        s[j] = exp_real(s[j] - shift)
    for j in range(SUM_LANES):
        lane[j] = 0
    while i + SUM_LANES <= keys:
        for j in range(SUM_LANES):
            lane[j] += s[i + j]
        i += SUM_LANES
    for j in range(keys - i):
        lane[j] += s[i + j]
    for j in range(8):
        lane[j] += lane[j + 8]
    for j in range(4):
        lane[j] += lane[j + 4]
    block_total[0] = (lane[0] + lane[2]) + (lane[1] + lane[3])


cdef inline Py_ssize_t round_up(Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    return (n + step - 1) // step * step


cdef inline void keep_block(const Job *job, Py_ssize_t row, Py_ssize_t block, real block_max, real block_total,
                            const real *block_o) noexcept nogil:
    """Leave the result of one block for the join of a split unit. `row` counts over all key heads."""
    cdef real *place = <real *>job.partials + (row * job.blocks + block) * (job.padded + 2)
    cdef Py_ssize_t c
    place[job.padded] = block_max
    place[job.padded + 1] = block_total
    if block_o != NULL:
        for c in range(job.padded):
            place[c] = block_o[c]


cdef void wide_unit(real *scratch, const Job *job, Py_ssize_t head, Py_ssize_t lo, Py_ssize_t hi,
                    Py_ssize_t block_lo, Py_ssize_t block_hi) noexcept nogil:
    """Rows [lo, hi) of a key head against blocks [block_lo, block_hi) of its keys."""
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, depth = job.depth, padded = job.padded
    cdef int native = DTypeCode.FLOAT32 if real is float else DTypeCode.FLOAT64
    cdef Py_ssize_t rows = hi - lo, block, first, count, strip_index, strip, used, strip_count
    cdef Py_ssize_t key, panel, c, tiles, tile, i, i_end, r
    cdef bint split = job.splits > 1
    cdef real *queries = scratch
    cdef real *keys_packed = queries + round_up(rows, width) * depth
    cdef real *values = keys_packed + (KEYS + GEMM_MR) // GEMM_MR * GEMM_SP * depth
    cdef real *s = values + KEYS * padded
    cdef real *block_o = s + KEYS * width
    cdef real *state = block_o + width * padded          # maximum, sum and result of each row
    cdef real *maxima = state
    cdef real *totals = maxima + round_up(rows, width)
    cdef real *o = totals + round_up(rows, width)
    cdef real block_max[F32_WIDTH]
    cdef real block_total[F32_WIDTH]
    # Where keys will be packed, the queries lie row-major until they are packed themselves.
    cdef real *staging = keys_packed
    load_queries(job, head, lo, hi, staging)
    pack(native, <const char *>staging, depth, 1, rows, depth,
         width, width, queries)
    if not split:
        for r in range(rows):
            start_row(job, head, lo + r, &maxima[r], &totals[r], o + r * padded)
    for block in range(block_lo, block_hi):
        first = block * KEYS
        count = min(<Py_ssize_t>KEYS, reach(job, lo, hi) - first)
        if count <= 0:
            if split:
                for r in range(rows):
                    keep_block(job, head * job.rows + lo + r, block, <real>-INF_F, <real>0, <const real *>NULL)
            continue
        pack(job.k.dtype, head_data(job, job.k, head, first), job.k.strides[2], job.k.strides[3], count, depth,
             GEMM_MR, GEMM_SP, keys_packed)
        pack(job.v.dtype, head_data(job, job.v, head, first), job.v.strides[3], job.v.strides[2], job.columns, count,
             width, width, values)
        for strip_index in range(round_up(rows, width) // width):
            strip = strip_index * width
            used = min(width, rows - strip)
            strip_count = min(<Py_ssize_t>KEYS, reach(job, lo + strip, lo + strip + used) - first)
            if strip_count <= 0:
                if split:
                    for r in range(strip, strip + used):
                        keep_block(job, head * job.rows + lo + r, block, <real>-INF_F, <real>0, <const real *>NULL)
                continue
            for tile in range((strip_count + GEMM_MR - 1) // GEMM_MR):
                key = tile * GEMM_MR
                multiply(min(<Py_ssize_t>GEMM_MR, strip_count - key), width, depth,
                         keys_packed + tile * GEMM_SP * depth, GEMM_SP, queries + strip * depth, width,
                         <const real *>NULL, s + key * width, width)
            if is_masked(job, lo + strip, lo + strip + used, first + strip_count):
                for r in range(used):
                    apply_mask(job, head, lo + strip + r, first, strip_count, s + r, width)
            weigh_strip(s, strip_count, block_max, block_total)
            tiles = (used + GEMM_MR - 1) // GEMM_MR
            for panel in range(padded // width):
                c = panel * width
                for tile in range(tiles):
                    i = used * tile // tiles
                    i_end = used * (tile + 1) // tiles
                    multiply(i_end - i, min(width, job.columns - c), strip_count, s + i, width,
                             values + c * count, width, <const real *>NULL, block_o + i * padded + c, padded)
            for r in range(used):
                if split:
                    keep_block(job, head * job.rows + lo + strip + r, block, block_max[r], block_total[r],
                               block_o + r * padded)
                else:
                    join_row(&maxima[strip + r], &totals[strip + r], o + (strip + r) * padded, block_max[r],
                             block_total[r], block_o + r * padded, job.columns)
    if not split:
        for r in range(rows):
            finish_row(job, head, lo + r, totals[r], o + r * padded)


cdef void narrow_unit(real *scratch, const Job *job, Py_ssize_t head, Py_ssize_t block_lo,
                      Py_ssize_t block_hi) noexcept nogil:
    """All rows of a key head (few) against blocks [block_lo, block_hi) of its keys."""
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, depth = job.depth, padded = job.padded
    cdef Py_ssize_t rows = job.rows, block, first, count, key, panel, tile, c, r, steps, value_row
    cdef bint split = job.splits > 1
    cdef int native = DTypeCode.FLOAT32 if real is float else DTypeCode.FLOAT64
    cdef bint in_place = job.v.dtype == native and job.v.strides[3] == 1 and job.columns % (width // 2) == 0
    cdef real *queries = scratch
    cdef real *keys_packed = queries + GEMM_SP * depth
    cdef real *values = keys_packed + max(width, rows) * depth
    cdef real *s = values + KEYS * padded
    cdef real *weights = s + GEMM_SP * KEYS
    cdef real *block_o = weights + GEMM_SP * KEYS
    cdef real *o = block_o + rows * padded
    cdef const real *value
    cdef const real *init
    cdef real maxima[GEMM_SP]
    cdef real totals[GEMM_SP]
    cdef real block_max[GEMM_SP]
    cdef real block_total[GEMM_SP]
    load_queries(job, head, 0, rows, keys_packed)
    pack(native, <const char *>keys_packed, depth, 1, rows, depth,
         GEMM_MR, GEMM_SP, queries)
    if not split:
        for r in range(rows):
            start_row(job, head, r, &maxima[r], &totals[r], o + r * padded)
    for block in range(block_lo, block_hi):
        first = block * KEYS
        count = min(<Py_ssize_t>KEYS, reach(job, 0, rows) - first)
        if count <= 0:
            if split:
                for r in range(rows):
                    keep_block(job, head * rows + r, block, <real>-INF_F, <real>0, <const real *>NULL)
            continue
        for panel in range(round_up(count, width) // width):
            key = panel * width
            pack(job.k.dtype, head_data(job, job.k, head, first + key), job.k.strides[2], job.k.strides[3],
                 min(width, count - key), depth, width, width, keys_packed)
            multiply(rows, min(width, count - key), depth, queries, GEMM_SP, keys_packed, width, <const real *>NULL,
                     s + key, KEYS)
        for r in range(rows):
            if is_masked(job, r, r + 1, first + count):
                apply_mask(job, head, r, first, count, s + r * KEYS, 1)
            weigh_row(s + r * KEYS, count, &block_max[r], &block_total[r])
            for key in range(count):
                weights[key * GEMM_SP + r] = s[r * KEYS + key]
        if in_place:
            value = <const real *>head_data(job, job.v, head, first)
            value_row = job.v.strides[2]
        else:
            value = values
            value_row = width
            pack(job.v.dtype, head_data(job, job.v, head, first), job.v.strides[3], job.v.strides[2], job.columns,
                 count, width, width, values)
        for tile in range((count + VALUE_STEP - 1) // VALUE_STEP):
            key = tile * VALUE_STEP
            steps = min(<Py_ssize_t>VALUE_STEP, count - key)
            for panel in range(padded // width):
                c = panel * width
                init = NULL
                if key:
                    init = block_o + c
                multiply(rows, min(width, job.columns - c), steps, weights + key * GEMM_SP, GEMM_SP,
                         value + key * value_row + (c if in_place else c * count), value_row,
                         init, block_o + c, padded)
        for r in range(rows):
            if split:
                keep_block(job, head * rows + r, block, block_max[r], block_total[r], block_o + r * padded)
            else:
                join_row(&maxima[r], &totals[r], o + r * padded, block_max[r], block_total[r], block_o + r * padded,
                         job.columns)
    if not split:
        for r in range(rows):
            finish_row(job, head, r, totals[r], o + r * padded)


cdef void join_rows(real *o, const Job *job, Py_ssize_t head) noexcept nogil:
    """Join the blocks of each row of a key head, in the order in which an unsplit unit joins them."""
    cdef Py_ssize_t row, block
    cdef const real *place
    cdef real m, total
    for row in range(job.rows):
        start_row(job, head, row, &m, &total, o)
        place = <const real *>job.partials + (head * job.rows + row) * job.blocks * (job.padded + 2)
        for block in range(job.blocks):
            join_row(&m, &total, o, place[job.padded], place[job.padded + 1], place, job.columns)
            place += job.padded + 2
        finish_row(job, head, row, total, o)


cdef void run_task(real *scratch, const Job *job, Py_ssize_t task) noexcept nogil:
    cdef Py_ssize_t part = task % job.splits, unit = task // job.splits
    # The last units first: under a causal mask they are the longest.
    cdef Py_ssize_t head = unit // job.head_units, lo = (job.head_units - 1 - unit % job.head_units) * job.unit_rows
    cdef Py_ssize_t block_lo = job.blocks * part // job.splits, block_hi = job.blocks * (part + 1) // job.splits
    if job.narrow:
        narrow_unit(scratch, job, head, block_lo, block_hi)
    else:
        wide_unit(scratch, job, head, lo, min(job.rows, lo + job.unit_rows), block_lo, block_hi)


cdef int run_job(real *tag, Job *job, int threads) noexcept nogil:
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, tasks, task, wanted
    cdef int failed = 0
    cdef real *scratch = NULL
    job.padded = round_up(job.columns, width)
    job.narrow = job.rows <= width // 4
    job.blocks = (job.keys + KEYS - 1) // KEYS
    if job.heads * job.rows * job.keys * (job.depth + job.columns) < SMALL_WORK:
        threads = 1
    # How the work is cut changes no bits, so it may look at the number of threads.
    wanted = 4 * <Py_ssize_t>threads if threads > 1 else 1
    job.unit_rows = UNIT_STRIPS * width
    while job.unit_rows > width and job.heads * ((job.rows + job.unit_rows - 1) // job.unit_rows) < wanted:
        job.unit_rows -= width
    if job.narrow:
        job.unit_rows = job.rows
    job.head_units = (job.rows + job.unit_rows - 1) // job.unit_rows
    tasks = job.heads * job.head_units
    job.splits = 1
    if tasks < 2 * <Py_ssize_t>threads and threads > 1:
        job.splits = min(job.blocks, (wanted + tasks - 1) // tasks)
    tasks *= job.splits
    if job.narrow:
        job.scratch = ((GEMM_SP + max(width, job.rows)) * job.depth + KEYS * job.padded + 2 * GEMM_SP * KEYS
                       + 2 * job.rows * job.padded)
    else:
        job.scratch = (round_up(job.unit_rows, width) * (job.depth + job.padded + 2) + KEYS * (job.padded + width)
                       + max((KEYS + GEMM_MR) // GEMM_MR * GEMM_SP, job.unit_rows) * job.depth + width * job.padded)
    job.partials = NULL
    if job.splits > 1:
        job.partials = malloc(job.heads * job.rows * job.blocks * (job.padded + 2) * sizeof(real))
        if job.partials == NULL:
            return -1
    if threads == 1 or tasks == 1:
        scratch = <real *>malloc(job.scratch * sizeof(real))
        if scratch == NULL:
            return -1
        for task in range(tasks):
            run_task(scratch, job, task)
        free(scratch)
        return 0
    with parallel(num_threads=threads):
        scratch = <real *>malloc(job.scratch * sizeof(real))
        for task in prange(tasks, schedule="dynamic", chunksize=1):
            if scratch == NULL:
                failed += 1
            else:
                run_task(scratch, job, task)
        free(scratch)
    if job.splits > 1:
        if not failed:
            scratch = <real *>malloc(job.padded * sizeof(real))
            if scratch == NULL:
                failed = 1
            else:
                for task in range(job.heads):
                    join_rows(scratch, job, task)
                free(scratch)
        free(job.partials)
    return -1 if failed else 0


cdef inline bint is_double(const ArrayRef *a) noexcept nogil:
    return a.dtype == DTypeCode.FLOAT64


cdef int sdpa(const ArrayRef *q, const ArrayRef *k, const ArrayRef *v, double scale, bint causal, const ArrayRef *mask,
              const ArrayRef *sinks, const ArrayRef *out, int threads) noexcept nogil:
    cdef Job job
    if out.size == 0:
        return 0
    if k.shape[2] == 0:
        # No key and so no value: the empty sum.
        memset(out.data, 0, out.size * itemsize(out.dtype))
        return 0
    job.q = q
    job.k = k
    job.v = v
    job.mask = mask
    job.sinks = sinks
    job.out = out
    job.scale = scale
    job.causal = causal
    job.group = q.shape[1] // k.shape[1]
    job.heads = k.shape[0] * k.shape[1]
    job.queries = q.shape[2]
    job.keys = k.shape[2]
    job.depth = q.shape[3]
    job.columns = v.shape[3]
    job.rows = job.group * job.queries
    if is_double(q) or is_double(k) or is_double(v) or is_double(out):
        return run_job(<double *>NULL, &job, threads)
    return run_job(<float *>NULL, &job, threads)


cdef AttentionTable TABLE
TABLE.sdpa = sdpa

table = PyCapsule_New(&TABLE, "mlxr.cpu.attention", NULL)
