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
from mlxr.cpu.kernels.rows cimport INF_F, exp_weight, itemsize, load_row, real, row_max, store_row
from mlxr.cpu.team cimport team_of

cdef extern from "microkernel.h" nogil:
    enum:
        F32_LANES
        F64_LANES
        GEMM_MR    # rows of the largest micro-kernel
        GEMM_SP    # lanes of a packed step of its left operand
    void run_block_f32(int dtype, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t kc, const float *a, Py_ssize_t lda,
                       const char *b, Py_ssize_t ldb, const float *init, const float *add, Py_ssize_t ldt,
                       float *dst, Py_ssize_t ldd) noexcept
    void run_block_f64(int dtype, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t kc, const double *a, Py_ssize_t lda,
                       const char *b, Py_ssize_t ldb, const double *init, const double *add, Py_ssize_t ldt,
                       double *dst, Py_ssize_t ldd) noexcept
    void pack_f32(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, float *dst) noexcept
    void pack_f64(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, double *dst) noexcept

cdef extern from *:
    """
    #define REAL float
    #define VREAL vf32
    #define LANES F32_LANES
    #define NATIVE CODE_F32
    #define HAS_16BIT 1
    #define NAME(x) x##_f32
    #include "attention_real.h"

    #define REAL double
    #define VREAL vf64
    #define LANES F64_LANES
    #define NATIVE CODE_F64
    #define HAS_16BIT 0
    #define NAME(x) x##_f64
    #include "attention_real.h"
    """
    void scores_f32(int m, int dtype, Py_ssize_t depth, const float *q, const char *keys, Py_ssize_t step,
                    Py_ssize_t count, float *dst, Py_ssize_t ldd) noexcept nogil
    void scores_f64(int m, int dtype, Py_ssize_t depth, const double *q, const char *keys, Py_ssize_t step,
                    Py_ssize_t count, double *dst, Py_ssize_t ldd) noexcept nogil
    void values_f32(int m, int dtype, Py_ssize_t columns, Py_ssize_t count, const float *weights, Py_ssize_t ldw,
                    const char *values, Py_ssize_t step, float *dst, Py_ssize_t ldd, int more) noexcept nogil
    void values_f64(int m, int dtype, Py_ssize_t columns, Py_ssize_t count, const double *weights, Py_ssize_t ldw,
                    const char *values, Py_ssize_t step, double *dst, Py_ssize_t ldd, int more) noexcept nogil

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void *p) noexcept nogil

cdef enum:
    KEYS = 256         # keys in a block: part of the order of operations
    SUM_LANES = 16     # lanes of the sum of a block's weights: part of the order of operations
    F32_UNIT = 256     # most rows in a unit: enough work for each key and value that is packed, while all of a unit's
    F64_UNIT = 128     # scratch stays in the second-level cache
    NARROW_ROWS = 8    # most rows of the narrow way
    # Keys whose values stay in the first-level cache while a narrow unit passes over their columns; no fewer than the
    # lanes of any vector.
    VALUE_STEP = 16
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
    const ArrayRef *g     # the rest is for the gradients: the cotangent,
    const ArrayRef *dq    # and results, NULL where not wanted
    const ArrayRef *dk
    const ArrayRef *dv
    void *sink_sums       # [B, Hq]: gradients of the sinks, before their sum over the batch
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
        run_block_f32(DTypeCode.FLOAT32, m, 1 + (lanes > F32_LANES), kc, a, lda, <const char *>b, ldb, init, NULL, ldd,
                      dst, ldd)
    else:
        run_block_f64(DTypeCode.FLOAT64, m, 1 + (lanes > F64_LANES), kc, a, lda, <const char *>b, ldb, init, NULL, ldd,
                      dst, ldd)


cdef inline void narrow_scores(int m, int dtype, Py_ssize_t depth, const real *q, const char *keys, Py_ssize_t step,
                               Py_ssize_t count, real *dst) noexcept nogil:
    if real is float:
        scores_f32(m, dtype, depth, q, keys, step, count, dst, KEYS)
    else:
        scores_f64(m, dtype, depth, q, keys, step, count, dst, KEYS)


cdef inline void narrow_values(int m, int dtype, Py_ssize_t columns, Py_ssize_t count, const real *weights,
                               const char *values, Py_ssize_t step, real *dst, Py_ssize_t ldd,
                               bint more) noexcept nogil:
    if real is float:
        values_f32(m, dtype, columns, count, weights, KEYS, values, step, dst, ldd, more)
    else:
        values_f64(m, dtype, columns, count, weights, KEYS, values, step, dst, ldd, more)


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


cdef void mask_row(const Job *job, Py_ssize_t head, Py_ssize_t row, Py_ssize_t first, Py_ssize_t count,
                   real *dst) noexcept nogil:
    """The mask of one row for keys [first, first + count) as numbers to add; -infinity stands for "not seen"."""
    cdef const ArrayRef *mask = job.mask
    cdef Py_ssize_t key_heads = job.k.shape[1], size = itemsize(mask.dtype), stride = mask.strides[3], j
    cdef const char *place = mask.data + size * (
        head // key_heads * mask.strides[0]
        + (head % key_heads * job.group + row // job.queries) * mask.strides[1]
        + row % job.queries * mask.strides[2] + first * stride)
    cdef const uint8_t *flags = <const uint8_t *>place
    if mask.dtype != DTypeCode.BOOL:
        load_row(dst, place, stride, count, mask.dtype)
    elif stride == 1:
        for j in range(count):
            dst[j] = <real>0 if flags[j] else <real>-INF_F
    else:
        for j in range(count):
            dst[j] = <real>0 if flags[j * stride] else <real>-INF_F


cdef inline void add_mask(const Job *job, const real *mask, Py_ssize_t count, real *s) noexcept nogil:
    """Mask `count` scores. What a boolean mask hides scores the lowest number whatever it scored before, NaN included;
    an added -infinity stays what it is."""
    cdef Py_ssize_t j
    cdef real low = lowest(<real>0)
    if job.mask.dtype == DTypeCode.BOOL:
        for j in range(count):
            s[j] = low if mask[j] < 0 else s[j]
    else:
        for j in range(count):
            s[j] = s[j] + mask[j]


cdef void mask_strip(const Job *job, Py_ssize_t head, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t first,
                     Py_ssize_t count, real *s, real *staging) noexcept nogil:
    """Mask transposed scores s [count][width] of rows [row, row + rows); staging holds 2 * KEYS * width elements."""
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, r, j
    cdef int native = DTypeCode.FLOAT32 if real is float else DTypeCode.FLOAT64
    cdef real *across = staging + KEYS * width
    cdef real low = lowest(<real>0)
    if job.mask != NULL:
        for r in range(rows):
            mask_row(job, head, row + r, first, count, staging + r * KEYS)
        pack(native, <const char *>staging, KEYS, 1, rows, count, width, width, across)
        add_mask(job, across, count * width, s)
    if job.causal:
        for r in range(rows):
            for j in range(max(visible(job, row + r) - first, <Py_ssize_t>0), count):
                s[j * width + r] = low


cdef void mask_upright(const Job *job, Py_ssize_t head, Py_ssize_t row, Py_ssize_t first, Py_ssize_t count, real *s,
                       real *staging) noexcept nogil:
    """Mask the scores of one row, which lie side by side; staging holds KEYS elements."""
    cdef real low = lowest(<real>0)
    cdef Py_ssize_t j
    if job.mask != NULL:
        mask_row(job, head, row, first, count, staging)
        add_mask(job, staging, count, s)
    if job.causal:
        for j in range(max(visible(job, row) - first, <Py_ssize_t>0), count):
            s[j] = low


# ---------------------------------------------------------------------------------------------------- joining


cdef inline void join_factors(real *m, real *total, real *block_max, real *block_total, Py_ssize_t rows) noexcept nogil:
    """Join the next block of keys to those before it: maxima and sums of some rows.

    The factors of what was there before, and of the block, are left in block_total and block_max."""
    cdef Py_ssize_t r
    cdef real top, shift, before, now
    for r in range(rows):
        top = block_max[r] if block_max[r] > m[r] else m[r]
        shift = <real>0 if top == -INF_F else top
        before = exp_weight(m[r] - shift)
        now = exp_weight(block_max[r] - shift)
        m[r] = top
        total[r] = total[r] * before + block_total[r] * now
        block_total[r] = before
        block_max[r] = now


cdef inline void join_row(real *o, const real *block_o, real before, real now, Py_ssize_t columns) noexcept nogil:
    cdef Py_ssize_t c
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
    cdef int native = DTypeCode.FLOAT32 if real is float else DTypeCode.FLOAT64
    cdef char *place = job.out.data + (head * job.rows + row) * job.columns * itemsize(job.out.dtype)
    cdef real *dst = <real *>place if job.out.dtype == native else o
    cdef real factor = 1 / total
    cdef Py_ssize_t c
    for c in range(job.columns):
        dst[c] = o[c] * factor
    store_row(place, dst, job.columns, job.out.dtype)


# ---------------------------------------------------------------------------------------------------- units


cdef void load_rows(const Job *job, const ArrayRef *a, Py_ssize_t head, Py_ssize_t lo, Py_ssize_t hi, real scale,
                    real *dst, Py_ssize_t step) noexcept nogil:
    """Rows [lo, hi) of a key head, of q or of what has its first axes, times `scale`; dst has rows `step` apart."""
    cdef Py_ssize_t key_heads = job.k.shape[1], size = itemsize(a.dtype), n = a.shape[3], _i, c
    cdef Py_ssize_t sub = lo // job.queries, query = lo % job.queries
    cdef const char *base = a.data + size * (
        head // key_heads * a.strides[0] + head % key_heads * job.group * a.strides[1])
    for _i in range(hi - lo):
        load_row(dst, base + size * (sub * a.strides[1] + query * a.strides[2]), a.strides[3], n, a.dtype)
        if scale != 1:
            for c in range(n):
                dst[c] = dst[c] * scale
        for c in range(n, step):
            dst[c] = 0
        dst += step
        query += 1
        if query == job.queries:
            query = 0
            sub += 1


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
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, j, r, i, half
    for r in range(width):
        block_max[r] = -INF_F
    for j in range(keys):
        row = s + j * width
        for r in range(width):
            block_max[r] = row[r] if row[r] > block_max[r] else block_max[r]
    for r in range(width):
        shift[r] = <real>0 if block_max[r] == -INF_F else block_max[r]
    for i in range(SUM_LANES):
        for r in range(width):
            lane[i][r] = 0
    for j in range(keys):
        row = s + j * width
        i = j % SUM_LANES
        for r in range(width):
            value = exp_weight(row[r] - shift[r])
            row[r] = value
            lane[i][r] += value
    half = SUM_LANES // 2
    while half:
        for i in range(half):
            for r in range(width):
                lane[i][r] += lane[i + half][r]
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
        s[j] = exp_weight(s[j] - shift)
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
        for c in range(job.columns):
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
    cdef real *staging = o + rows * padded               # for masks
    cdef real block_max[F32_WIDTH]
    cdef real block_total[F32_WIDTH]
    # The queries lie row-major where the result will be, until they are packed.
    load_rows(job, job.q, head, lo, hi, <real>job.scale, o, depth)
    pack(native, <const char *>o, depth, 1, rows, depth,
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
                mask_strip(job, head, lo + strip, used, first, strip_count, s, staging)
            weigh_strip(s, strip_count, block_max, block_total)
            tiles = (used + GEMM_MR - 1) // GEMM_MR
            for panel in range(padded // width):
                c = panel * width
                for tile in range(tiles):
                    i = used * tile // tiles
                    i_end = used * (tile + 1) // tiles
                    multiply(i_end - i, min(width, job.columns - c), strip_count, s + i, width,
                             values + c * count, width, <const real *>NULL, block_o + i * padded + c, padded)
            if split:
                for r in range(used):
                    keep_block(job, head * job.rows + lo + strip + r, block, block_max[r], block_total[r],
                               block_o + r * padded)
            else:
                join_factors(maxima + strip, totals + strip, block_max, block_total, used)
                for r in range(used):
                    join_row(o + (strip + r) * padded, block_o + r * padded, block_total[r], block_max[r], job.columns)
    if not split:
        for r in range(rows):
            finish_row(job, head, lo + r, totals[r], o + r * padded)


cdef inline void fetch(const Job *job, const ArrayRef *a, Py_ssize_t head, Py_ssize_t key,
                       Py_ssize_t keys) noexcept nogil:
    """Ask for the rows of keys [key, key + keys) before they are needed: the processor does not see the pattern."""
    cdef Py_ssize_t line, lines = (a.shape[3] * itemsize(a.dtype) + 63) // 64, i
    cdef const char *place
    if a.strides[3] != 1:
        return
    for i in range(min(keys, job.keys - key)):
        place = head_data(job, a, head, key) + i * a.strides[2] * itemsize(a.dtype)
        for line in range(lines):
            prefetch(place + 64 * line)


cdef void narrow_unit(real *scratch, const Job *job, Py_ssize_t head, Py_ssize_t block_lo,
                      Py_ssize_t block_hi) noexcept nogil:
    """All rows of a key head (few) against blocks [block_lo, block_hi) of its keys."""
    cdef const ArrayRef *k = job.k
    cdef const ArrayRef *v = job.v
    cdef Py_ssize_t lanes = F32_LANES if real is float else F64_LANES, depth = job.depth, padded = job.padded
    cdef Py_ssize_t rows = job.rows, block, first, count, key, keys, panel, r
    cdef int native = DTypeCode.FLOAT32 if real is float else DTypeCode.FLOAT64
    cdef int m = 1 if rows == 1 else 2 if rows == 2 else 4 if rows <= 4 else 8
    cdef bint split = job.splits > 1
    # Rows of keys and values that the kernels cannot read where they lie are converted a few at a time.
    cdef bint keys_apart = k.strides[3] != 1 or (real is double and k.dtype != native)
    cdef bint values_apart = v.strides[3] != 1 or (real is double and v.dtype != native) or job.columns % lanes != 0
    cdef Py_ssize_t key_step = k.strides[2] * itemsize(k.dtype), value_step = v.strides[2] * itemsize(v.dtype)
    cdef real *queries = scratch
    cdef real *apart = queries + NARROW_ROWS * depth
    cdef real *s = apart + VALUE_STEP * max(depth, padded)
    cdef real *staging = s + NARROW_ROWS * KEYS          # for masks
    cdef real *block_o = staging + KEYS
    cdef real *o = block_o + NARROW_ROWS * padded
    cdef const char *place
    cdef real maxima[NARROW_ROWS]
    cdef real totals[NARROW_ROWS]
    cdef real block_max[NARROW_ROWS]
    cdef real block_total[NARROW_ROWS]
    load_rows(job, job.q, head, 0, rows, <real>job.scale, queries, depth)
    # The kernels know 1, 2, 4 and 8 rows; rows of zeros make up the number, and nothing reads what becomes of them.
    for r in range(rows * depth, m * depth):
        queries[r] = 0
    for r in range(rows * KEYS, m * KEYS):
        s[r] = 0
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
        for panel in range((count + lanes - 1) // lanes):
            key = panel * lanes
            keys = min(lanes, count - key)
            fetch(job, k, head, first + key + lanes, lanes)
            place = head_data(job, k, head, first + key)
            if keys_apart:
                for r in range(keys):
                    load_row(apart + r * depth, place + r * key_step, k.strides[3], depth, k.dtype)
                narrow_scores(m, native, depth, queries, <const char *>apart, depth * sizeof(real), keys, s + key)
            else:
                narrow_scores(m, k.dtype, depth, queries, place, key_step, keys, s + key)
        fetch(job, v, head, first, VALUE_STEP)
        for r in range(rows):
            if is_masked(job, r, r + 1, first + count):
                mask_upright(job, head, r, first, count, s + r * KEYS, staging)
            weigh_row(s + r * KEYS, count, &block_max[r], &block_total[r])
        for panel in range((count + VALUE_STEP - 1) // VALUE_STEP):
            key = panel * VALUE_STEP
            keys = min(<Py_ssize_t>VALUE_STEP, count - key)
            fetch(job, v, head, first + key + VALUE_STEP, VALUE_STEP)
            place = head_data(job, v, head, first + key)
            if values_apart:
                for r in range(keys):
                    load_row(apart + r * padded, place + r * value_step, v.strides[3], job.columns, v.dtype)
                narrow_values(m, native, round_up(job.columns, lanes), keys, s + key, <const char *>apart,
                              padded * sizeof(real), block_o, padded, key > 0)
            else:
                narrow_values(m, v.dtype, job.columns, keys, s + key, place, value_step, block_o, padded, key > 0)
        if split:
            for r in range(rows):
                keep_block(job, head * rows + r, block, block_max[r], block_total[r], block_o + r * padded)
        else:
            join_factors(maxima, totals, block_max, block_total, rows)
            for r in range(rows):
                join_row(o + r * padded, block_o + r * padded, block_total[r], block_max[r], job.columns)
    if not split:
        for r in range(rows):
            finish_row(job, head, r, totals[r], o + r * padded)


cdef void join_rows(real *o, const Job *job, Py_ssize_t head) noexcept nogil:
    """Join the blocks of each row of a key head, in the order in which an unsplit unit joins them."""
    cdef Py_ssize_t row, _block
    cdef const real *place
    cdef real m, total, block_max, block_total
    for row in range(job.rows):
        start_row(job, head, row, &m, &total, o)
        place = <const real *>job.partials + (head * job.rows + row) * job.blocks * (job.padded + 2)
        for _block in range(job.blocks):
            block_max = place[job.padded]
            block_total = place[job.padded + 1]
            join_factors(&m, &total, &block_max, &block_total, 1)
            join_row(o, place, block_total, block_max, job.columns)
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
    job.narrow = job.rows <= min(width // 4, <Py_ssize_t>NARROW_ROWS)
    job.blocks = (job.keys + KEYS - 1) // KEYS
    if job.heads * job.rows * job.keys * (job.depth + job.columns) < SMALL_WORK:
        threads = 1
    # How the work is cut changes no bits, so it may look at the number of threads.
    wanted = 4 * <Py_ssize_t>threads if threads > 1 else 1
    job.unit_rows = F32_UNIT if real is float else F64_UNIT
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
        job.scratch = (NARROW_ROWS * (job.depth + 2 * job.padded + KEYS) + KEYS
                       + VALUE_STEP * max(job.depth, job.padded))
    else:
        job.scratch = (round_up(job.unit_rows, width) * (job.depth + max(job.depth, job.padded) + 2)
                       + KEYS * (job.padded + width) + (KEYS + GEMM_MR) // GEMM_MR * GEMM_SP * job.depth
                       + width * job.padded + (2 * KEYS * width if job.mask != NULL else 0))
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
    with parallel(num_threads=team_of(threads)):
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


cdef void set_job(Job *job, const ArrayRef *q, const ArrayRef *k, const ArrayRef *v, double scale, bint causal,
                  const ArrayRef *mask, const ArrayRef *sinks) noexcept nogil:
    memset(job, 0, sizeof(Job))
    job.q = q
    job.k = k
    job.v = v
    job.mask = mask
    job.sinks = sinks
    job.scale = scale
    job.causal = causal
    job.group = q.shape[1] // k.shape[1]
    job.heads = k.shape[0] * k.shape[1]
    job.queries = q.shape[2]
    job.keys = k.shape[2]
    job.depth = q.shape[3]
    job.columns = v.shape[3]
    job.rows = job.group * job.queries


cdef int sdpa(const ArrayRef *q, const ArrayRef *k, const ArrayRef *v, double scale, bint causal, const ArrayRef *mask,
              const ArrayRef *sinks, const ArrayRef *out, int threads) noexcept nogil:
    cdef Job job
    if out.size == 0:
        return 0
    if k.shape[2] == 0:
        # No key and so no value: the empty sum.
        memset(out.data, 0, out.size * itemsize(out.dtype))
        return 0
    set_job(&job, q, k, v, scale, causal, mask, sinks)
    job.out = out
    if is_double(q) or is_double(k) or is_double(v) or is_double(out):
        return run_job(<double *>NULL, &job, threads)
    return run_job(<float *>NULL, &job, threads)


# ---------------------------------------------------------------------------------------------------- gradients


cdef inline void lane_sums(const real *a, const real *b, Py_ssize_t keys, real *sums) noexcept nogil:
    """sums[r] = the sum over keys of a [keys][width] times b, in the lanes and the tree of a block's weights."""
    cdef real lane[SUM_LANES][F32_WIDTH]
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, j, r, i, half
    for i in range(SUM_LANES):
        for r in range(width):
            lane[i][r] = 0
    for j in range(keys):
        i = j % SUM_LANES
        for r in range(width):
            lane[i][r] += a[j * width + r] * b[j * width + r]
    half = SUM_LANES // 2
    while half:
        for i in range(half):
            for r in range(width):
                lane[i][r] += lane[i + half][r]
        half = half // 2
    for r in range(width):
        sums[r] = lane[0][r]


cdef inline void multiply_keys(Py_ssize_t keys, Py_ssize_t steps, const real *a, const real *b, Py_ssize_t ldb,
                               Py_ssize_t columns, real *dst, Py_ssize_t ldd, bint more) noexcept nogil:
    """dst [keys][columns] (+)= a b for packed a (strips of keys, `steps` steps) and b [steps][columns]."""
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, tile, panel
    cdef real *corner
    for panel in range(round_up(columns, width) // width):
        for tile in range((keys + GEMM_MR - 1) // GEMM_MR):
            corner = dst + tile * GEMM_MR * ldd + panel * width
            multiply(min(<Py_ssize_t>GEMM_MR, keys - tile * GEMM_MR), min(width, columns - panel * width), steps,
                     a + tile * GEMM_SP * steps, GEMM_SP, b + panel * width, ldb,
                     <const real *>(corner if more else NULL), corner, ldd)


cdef void store_matrix(const ArrayRef *dst, Py_ssize_t first, const real *src, Py_ssize_t rows, Py_ssize_t columns,
                       Py_ssize_t step) noexcept nogil:
    """Rows [first, first + rows) of a contiguous result, all axes but the last taken together."""
    cdef Py_ssize_t r
    for r in range(rows):
        store_row(dst.data + (first + r) * columns * itemsize(dst.dtype), src + r * step, columns, dst.dtype)


cdef void head_vjp(real *scratch, const Job *job, Py_ssize_t head) noexcept nogil:
    """The gradients of one key head, strip of rows by strip of rows."""
    cdef int native = DTypeCode.FLOAT32 if real is float else DTypeCode.FLOAT64
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, depth = job.depth, columns = job.columns
    cdef Py_ssize_t wide = round_up(depth, width), padded = job.padded, keys = job.keys
    cdef Py_ssize_t packed_keys = round_up(keys, GEMM_MR) // GEMM_MR * GEMM_SP
    cdef Py_ssize_t strip, lo, used, count, block, r, j, c, tiles, tile, i, i_end
    cdef real low = lowest(<real>0), sink
    cdef real *key_rows = scratch                        # [keys][wide]
    cdef real *keys_packed = key_rows + keys * wide
    cdef real *values_packed = keys_packed + packed_keys * depth
    cdef real *dk = values_packed + packed_keys * columns
    cdef real *dv = dk + keys * wide
    cdef real *s = dv + keys * padded                    # scores, then weights, then gradients of the scores
    cdef real *ds = s + keys * width
    cdef real *turned = ds + keys * width                # weights, or ds, packed by keys
    cdef real *q_rows = turned + packed_keys * width
    cdef real *q_packed = q_rows + width * wide
    cdef real *g_rows = q_packed + width * depth
    cdef real *g_packed = g_rows + width * padded
    cdef real *dq = g_packed + width * columns
    cdef real *staging = dq + width * wide               # for masks
    cdef real top[F32_WIDTH]
    cdef real total[F32_WIDTH]
    cdef real along[F32_WIDTH]
    cdef real factor[F32_WIDTH]
    for j in range(keys):
        load_row(key_rows + j * wide, head_data(job, job.k, head, j), job.k.strides[3], depth, job.k.dtype)
        for c in range(depth, wide):
            key_rows[j * wide + c] = 0
    pack(native, <const char *>key_rows, wide, 1, keys, depth, GEMM_MR, GEMM_SP, keys_packed)
    pack(job.v.dtype, head_data(job, job.v, head, 0), job.v.strides[2], job.v.strides[3], keys, columns, GEMM_MR,
         GEMM_SP, values_packed)
    for j in range(keys * (wide + padded)):
        dk[j] = 0
    for strip in range(round_up(job.rows, width) // width):
        lo = strip * width
        used = min(width, job.rows - lo)
        count = reach(job, lo, lo + used)
        load_rows(job, job.q, head, lo, lo + used, <real>job.scale, q_rows, wide)
        load_rows(job, job.g, head, lo, lo + used, <real>1, g_rows, padded)
        pack(native, <const char *>q_rows, wide, 1, used, depth, width, width, q_packed)
        pack(native, <const char *>g_rows, padded, 1, used, columns, width, width, g_packed)
        multiply_keys(count, depth, keys_packed, q_packed, width, width, s, width, False)
        if is_masked(job, lo, lo + used, count):
            for block in range((count + KEYS - 1) // KEYS):
                mask_strip(job, head, lo, used, block * KEYS, min(<Py_ssize_t>KEYS, count - block * KEYS),
                           s + block * KEYS * width, staging)
        weigh_strip(s, count, top, total)
        for r in range(width):
            factor[r] = 1
        if job.sinks != NULL:
            # The weights are relative to the largest score of the keys; where the sink is larger, it is the reference.
            for r in range(used):
                i = head % job.k.shape[1] * job.group + (lo + r) // job.queries
                load_row(&sink, job.sinks.data + i * job.sinks.strides[0] * itemsize(job.sinks.dtype), 1, 1,
                         job.sinks.dtype)
                if sink > top[r]:
                    factor[r] = exp_weight(top[r] - sink)
                    along[r] = 1
                else:
                    along[r] = exp_weight(sink - (top[r] if top[r] != -INF_F else <real>0))
                total[r] = total[r] * factor[r] + along[r]
        for r in range(width):
            factor[r] = factor[r] / total[r]
        for j in range(count):
            for r in range(width):
                s[j * width + r] *= factor[r]
        multiply_keys(count, columns, values_packed, g_packed, width, width, ds, width, False)
        if job.dv != NULL:
            pack(native, <const char *>s, width, 1, count, used, GEMM_MR, GEMM_SP, turned)
            multiply_keys(count, used, turned, g_rows, padded, columns, dv, padded, True)
        if job.sink_sums != NULL:
            for r in range(used):
                total[r] = along[r] / total[r]
        lane_sums(s, ds, count, along)
        if job.sink_sums != NULL:
            for r in range(used):
                i = head * job.group + (lo + r) // job.queries
                (<real *>job.sink_sums)[i] -= total[r] * along[r]
        # The scores of a query that sees nothing are constants.
        for r in range(width):
            factor[r] = <real>0 if top[r] == low else <real>1
        for j in range(count):
            for r in range(width):
                s[j * width + r] *= (ds[j * width + r] - along[r]) * factor[r]
        if job.dk != NULL:
            pack(native, <const char *>s, width, 1, count, used, GEMM_MR, GEMM_SP, turned)
            multiply_keys(count, used, turned, q_rows, wide, depth, dk, wide, True)
        if job.dq != NULL:
            tiles = (used + GEMM_MR - 1) // GEMM_MR
            for c in range(wide // width):
                for tile in range(tiles):
                    i = used * tile // tiles
                    i_end = used * (tile + 1) // tiles
                    multiply(i_end - i, min(width, depth - c * width), count, s + i, width, key_rows + c * width, wide,
                             <const real *>NULL, dq + i * wide + c * width, wide)
            for r in range(used * wide):
                dq[r] = dq[r] * <real>job.scale
            store_matrix(job.dq, head * job.rows + lo, dq, used, depth, wide)
    if job.dk != NULL:
        store_matrix(job.dk, head * keys, dk, keys, depth, wide)
    if job.dv != NULL:
        store_matrix(job.dv, head * keys, dv, keys, columns, padded)


cdef int run_vjp(real *tag, Job *job, const ArrayRef *dsinks, int threads) noexcept nogil:
    cdef Py_ssize_t width = F32_WIDTH if real is float else F64_WIDTH, wide, packed_keys, head, i, heads
    cdef int failed = 0
    cdef real *scratch = NULL
    cdef real *sums
    job.padded = round_up(job.columns, width)
    wide = round_up(job.depth, width)
    packed_keys = round_up(job.keys, GEMM_MR) // GEMM_MR * GEMM_SP
    job.scratch = (job.keys * (2 * wide + job.padded + 2 * width) + packed_keys * (job.depth + job.columns + width)
                   + width * (2 * wide + job.depth + job.padded + job.columns) + 2 * KEYS * width)
    heads = job.heads * job.group
    job.sink_sums = NULL
    if dsinks != NULL:
        sums = <real *>malloc((heads + job.q.shape[1]) * sizeof(real))
        if sums == NULL:
            return -1
        memset(sums, 0, heads * sizeof(real))
        job.sink_sums = sums
    if job.heads * job.rows * job.keys * (job.depth + job.columns) < SMALL_WORK or job.heads == 1:
        threads = 1
    with parallel(num_threads=team_of(threads)):
        scratch = <real *>malloc(job.scratch * sizeof(real))
        for head in prange(job.heads, schedule="dynamic", chunksize=1):
            if scratch == NULL:
                failed += 1
            else:
                head_vjp(scratch, job, head)
        free(scratch)
    if dsinks != NULL:
        for i in range(job.q.shape[1]):
            sums[heads + i] = 0
            for head in range(job.k.shape[0]):
                sums[heads + i] += sums[head * job.q.shape[1] + i]
        store_row(dsinks.data, sums + heads, job.q.shape[1], dsinks.dtype)
        free(sums)
    return -1 if failed else 0


cdef inline void clear(const ArrayRef *a) noexcept nogil:
    if a != NULL and a.size:
        memset(a.data, 0, a.size * itemsize(a.dtype))


cdef int sdpa_vjp(const ArrayRef *q, const ArrayRef *k, const ArrayRef *v, const ArrayRef *g, double scale,
                  bint causal, const ArrayRef *mask, const ArrayRef *sinks, const ArrayRef *dq, const ArrayRef *dk,
                  const ArrayRef *dv, const ArrayRef *dsinks, int threads) noexcept nogil:
    cdef Job job
    if q.size == 0 or k.size == 0 or v.size == 0:
        clear(dq)
        clear(dk)
        clear(dv)
        clear(dsinks)
        return 0
    set_job(&job, q, k, v, scale, causal, mask, sinks)
    job.g = g
    job.dq = dq
    job.dk = dk
    job.dv = dv
    if is_double(q) or is_double(k) or is_double(v) or is_double(g):
        return run_vjp(<double *>NULL, &job, dsinks, threads)
    return run_vjp(<float *>NULL, &job, dsinks, threads)


cdef AttentionTable TABLE
TABLE.sdpa = sdpa
TABLE.sdpa_vjp = sdpa_vjp

table = PyCapsule_New(&TABLE, "mlxr.cpu.attention", NULL)
