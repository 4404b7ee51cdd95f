# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Fused row kernels; fused.pxd says what each computes. Knows nothing of Python objects but the capsule it exports.

Each kernel is a job (its arguments) and a function over a range of rows, generic over the type of the arithmetic. A
row is read from memory once and stays in the nearest cache for the later passes, so all of these are bound by memory
for large arrays: one read, and one write, of each element. Rows that are not contiguous `real` are converted into a
scratch row first.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport log, sqrt
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from mlxr.core.abi cimport ArrayRef, DTypeCode
from mlxr.cpu.kernels.fused cimport FusedTable
from mlxr.cpu.kernels.half cimport fused_f64
from mlxr.cpu.kernels.rows cimport (
    BLOCK, INF_F, exp_real, holds_real, itemsize, load_index, load_row, parallel_range, range_fn, real,
    rint_d, row_at, row_count, row_dot, row_max, row_offset, row_square_sum, row_sum, row_weights, store_row, view_row,
)

cdef enum:
    INLINE = 1024      # rows up to this length find their scratch on the stack
    NORM_BLOCK = 64    # rows in a block of a sum over rows (at least)
    NORM_BLOCKS = 128  # blocks in such a sum (at most)
    ROPE_BLOCK = 32    # positions whose sines and cosines are kept near while all heads pass over them

# The arguments of any one kernel; the fields that it does not use are NULL.
ctypedef struct Job:
    const ArrayRef *x
    const ArrayRef *g
    const ArrayRef *targets
    const ArrayRef *out      # or dx
    void *w                  # weights, converted to contiguous `real`; NULL for none
    void *b
    void *partial            # per block of rows: the sums of dw, then those of db
    bint want_w
    bint want_b
    bint centred             # layer norm, not RMS norm
    double eps
    Py_ssize_t block         # rows per block
    int failed               # set by any thread, never cleared


cdef inline bint is_double(const ArrayRef *a) noexcept nogil:
    return a != NULL and a.dtype == DTypeCode.FLOAT64


cdef inline int status(Job *job) noexcept nogil:
    return -1 if job.failed else 0


cdef inline real *scratch_rows(real *inline_rows, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    """Room for `rows` rows of length n: the caller's array of rows * INLINE if that is enough, else the heap."""
    if n <= INLINE:
        return inline_rows
    return <real *>malloc(rows * n * sizeof(real))


cdef inline void release_rows(real *rows, real *inline_rows) noexcept nogil:
    if rows != inline_rows:
        free(rows)


cdef inline real *target_row(char *dst, real *scratch, int dtype) noexcept nogil:
    """Where to compute a row of the output: in place if it is of type `real`, else in scratch."""
    return <real *>dst if holds_real(dst, 1, dtype, <real>0) else scratch


# ---------------------------------------------------------------------------------------------------- softmax


cdef void softmax_rows(real *tag, Job *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cdef const ArrayRef *x = job.x
    cdef const ArrayRef *out = job.out
    cdef Py_ssize_t n = x.shape[x.ndim - 1], stride = x.strides[x.ndim - 1], row, i
    cdef real inline_rows[2 * INLINE]
    cdef real *scratch = scratch_rows(inline_rows, 2, n)
    cdef const real *src
    cdef real *dst
    cdef char *place
    cdef real factor
    if scratch == NULL:
        job.failed = 1
        return
    for row in range(lo, hi):
        place = out.data + row * n * itemsize(out.dtype)
        src = view_row(scratch, row_at(x, row), stride, n, x.dtype)
        dst = target_row(place, scratch + n, out.dtype)
        factor = 1 / row_weights(src, row_max(src, n), n, dst)
        for i in range(n):
            dst[i] = dst[i] * factor
        store_row(place, dst, n, out.dtype)
    release_rows(scratch, inline_rows)


cdef void softmax_range_f(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    softmax_rows(<float *>NULL, <Job *>job, lo, hi)


cdef void softmax_range_d(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    softmax_rows(<double *>NULL, <Job *>job, lo, hi)


cdef int softmax(const ArrayRef *x, const ArrayRef *out, int threads) noexcept nogil:
    cdef Job job
    if x.size == 0:
        return 0
    memset(&job, 0, sizeof(Job))
    job.x = x
    job.out = out
    parallel_range(softmax_range_d if is_double(x) or is_double(out) else softmax_range_f, &job, row_count(x),
                   4 * x.shape[x.ndim - 1], threads)
    return status(&job)


cdef void softmax_vjp_rows(real *tag, Job *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cdef const ArrayRef *y = job.x
    cdef const ArrayRef *g = job.g
    cdef const ArrayRef *dx = job.out
    cdef Py_ssize_t n = y.shape[y.ndim - 1], row, i
    cdef real inline_rows[3 * INLINE]
    cdef real *scratch = scratch_rows(inline_rows, 3, n)
    cdef const real *ys
    cdef const real *gs
    cdef real *dst
    cdef char *place
    cdef real total
    if scratch == NULL:
        job.failed = 1
        return
    for row in range(lo, hi):
        place = dx.data + row * n * itemsize(dx.dtype)
        ys = view_row(scratch, row_at(y, row), y.strides[y.ndim - 1], n, y.dtype)
        gs = view_row(scratch + n, row_at(g, row), g.strides[g.ndim - 1], n, g.dtype)
        dst = target_row(place, scratch + 2 * n, dx.dtype)
        total = row_dot(ys, gs, n)
        for i in range(n):
            dst[i] = ys[i] * (gs[i] - total)
        store_row(place, dst, n, dx.dtype)
    release_rows(scratch, inline_rows)


cdef void softmax_vjp_range_f(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    softmax_vjp_rows(<float *>NULL, <Job *>job, lo, hi)


cdef void softmax_vjp_range_d(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    softmax_vjp_rows(<double *>NULL, <Job *>job, lo, hi)


cdef int softmax_vjp(const ArrayRef *out, const ArrayRef *g, const ArrayRef *dx, int threads) noexcept nogil:
    cdef Job job
    if out.size == 0:
        return 0
    memset(&job, 0, sizeof(Job))
    job.x = out
    job.g = g
    job.out = dx
    parallel_range(softmax_vjp_range_d if is_double(out) or is_double(g) or is_double(dx) else softmax_vjp_range_f,
                   &job, row_count(out), 2 * out.shape[out.ndim - 1], threads)
    return status(&job)


# ---------------------------------------------------------------------------------------------------- norms


cdef inline real rsqrt(real x) noexcept nogil:
    # Not the hardware's estimate: a correctly rounded root and quotient are the same on every machine.
    return <real>(1.0 / sqrt(<double>x))


cdef inline void row_statistics(const real *x, Py_ssize_t n, bint centred, double eps, real *mean,
                                real *scale) noexcept nogil:
    """The mean (0 if not centred) and 1 / sqrt(mean((x - mean)^2) + eps)."""
    mean[0] = row_sum(x, n) / n if centred else <real>0
    scale[0] = rsqrt(row_square_sum(x, mean[0], n) / n + <real>eps)


cdef void norm_rows(real *tag, Job *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cdef const ArrayRef *x = job.x
    cdef const ArrayRef *out = job.out
    cdef const real *w = <const real *>job.w
    cdef const real *b = <const real *>job.b
    cdef Py_ssize_t n = x.shape[x.ndim - 1], stride = x.strides[x.ndim - 1], row, i
    cdef real inline_rows[2 * INLINE]
    cdef real *scratch = scratch_rows(inline_rows, 2, n)
    cdef const real *src
    cdef real *dst
    cdef char *place
    cdef real mean, scale
    if scratch == NULL:
        job.failed = 1
        return
    for row in range(lo, hi):
        place = out.data + row * n * itemsize(out.dtype)
        src = view_row(scratch, row_at(x, row), stride, n, x.dtype)
        dst = target_row(place, scratch + n, out.dtype)
        row_statistics(src, n, job.centred, job.eps, &mean, &scale)
        if w != NULL and b != NULL:
            for i in range(n):
                dst[i] = (src[i] - mean) * scale * w[i] + b[i]
        elif w != NULL:
            for i in range(n):
                dst[i] = (src[i] - mean) * scale * w[i]
        elif b != NULL:
            for i in range(n):
                dst[i] = (src[i] - mean) * scale + b[i]
        else:
            for i in range(n):
                dst[i] = (src[i] - mean) * scale
        store_row(place, dst, n, out.dtype)
    release_rows(scratch, inline_rows)


cdef void norm_range_f(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    norm_rows(<float *>NULL, <Job *>job, lo, hi)


cdef void norm_range_d(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    norm_rows(<double *>NULL, <Job *>job, lo, hi)


cdef bint load_weights(real *tag, Job *job, const ArrayRef *w, const ArrayRef *b, Py_ssize_t n) noexcept nogil:
    """Set job.w and job.b to contiguous `real` (in one block, which starts at job.partial); false without memory."""
    cdef Py_ssize_t count = (w != NULL) + (b != NULL)
    cdef real *place
    if count == 0:
        return True
    place = <real *>malloc(count * n * sizeof(real))
    job.partial = place
    if place == NULL:
        return False
    if w != NULL:
        load_row(place, w.data, w.strides[0], n, w.dtype)
        job.w = place
        place += n
    if b != NULL:
        load_row(place, b.data, b.strides[0], n, b.dtype)
        job.b = place
    return True


cdef int norm(bint centred, const ArrayRef *x, const ArrayRef *w, const ArrayRef *b, double eps, const ArrayRef *out,
              int threads) noexcept nogil:
    cdef Job job
    cdef Py_ssize_t n = x.shape[x.ndim - 1]
    cdef bint wide = is_double(x) or is_double(w) or is_double(b) or is_double(out), loaded
    if x.size == 0:
        return 0
    memset(&job, 0, sizeof(Job))
    job.x = x
    job.out = out
    job.centred = centred
    job.eps = eps
    if wide:
        loaded = load_weights(<double *>NULL, &job, w, b, n)
    else:
        loaded = load_weights(<float *>NULL, &job, w, b, n)
    if not loaded:
        return -1
    parallel_range(norm_range_d if wide else norm_range_f, &job, row_count(x), 2 * n, threads)
    free(job.partial)
    return status(&job)


cdef int layer_norm(const ArrayRef *x, const ArrayRef *w, const ArrayRef *b, double eps, const ArrayRef *out,
                    int threads) noexcept nogil:
    return norm(True, x, w, b, eps, out, threads)


cdef int rms_norm(const ArrayRef *x, const ArrayRef *w, double eps, const ArrayRef *out, int threads) noexcept nogil:
    return norm(False, x, w, NULL, eps, out, threads)


cdef void norm_vjp_blocks(real *tag, Job *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    """Blocks [lo, hi) of rows: dx of their rows, and the sums of dw and db over the rows of each block."""
    cdef const ArrayRef *x = job.x
    cdef const ArrayRef *g = job.g
    cdef const ArrayRef *dx = job.out
    cdef const real *w = <const real *>job.w
    cdef Py_ssize_t n = x.shape[x.ndim - 1], rows = row_count(x), row, block, i
    cdef real inline_rows[3 * INLINE]
    cdef real *scratch = scratch_rows(inline_rows, 3, n)
    cdef real *unit               # the normalized row
    cdef real *wg                 # g * w
    cdef real *dst
    cdef real *dw
    cdef real *db
    cdef const real *xs
    cdef const real *gs
    cdef char *place
    cdef real mean, scale, along, average
    if scratch == NULL:
        job.failed = 1
        return
    unit = scratch
    wg = scratch + n
    for block in range(lo, hi):
        dw = <real *>job.partial + block * n * (job.want_w + job.want_b)
        db = dw + n * job.want_w
        for i in range(n * (job.want_w + job.want_b)):
            dw[i] = 0
        for row in range(block * job.block, min(rows, (block + 1) * job.block)):
            xs = view_row(unit, row_at(x, row), x.strides[x.ndim - 1], n, x.dtype)
            gs = view_row(scratch + 2 * n, row_at(g, row), g.strides[g.ndim - 1], n, g.dtype)
            row_statistics(xs, n, job.centred, job.eps, &mean, &scale)
            for i in range(n):
                unit[i] = (xs[i] - mean) * scale
            if job.want_w:
                for i in range(n):
                    dw[i] += gs[i] * unit[i]
            if job.want_b:
                for i in range(n):
                    db[i] += gs[i]
            if dx == NULL:
                continue
            if w != NULL:
                for i in range(n):
                    wg[i] = gs[i] * w[i]
                gs = wg
            average = row_sum(gs, n) / n if job.centred else <real>0
            along = row_dot(gs, unit, n) / n
            place = dx.data + row * n * itemsize(dx.dtype)
            dst = target_row(place, wg, dx.dtype)
            for i in range(n):
                dst[i] = scale * (gs[i] - average - unit[i] * along)
            store_row(place, dst, n, dx.dtype)
    release_rows(scratch, inline_rows)


cdef void norm_vjp_range_f(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    norm_vjp_blocks(<float *>NULL, <Job *>job, lo, hi)


cdef void norm_vjp_range_d(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    norm_vjp_blocks(<double *>NULL, <Job *>job, lo, hi)


cdef int norm_vjp_as(real *tag, range_fn fn, Job *job, const ArrayRef *w, const ArrayRef *dw, const ArrayRef *db,
                     int threads) noexcept nogil:
    cdef Py_ssize_t n = job.x.shape[job.x.ndim - 1], rows = row_count(job.x), blocks, block, i
    cdef Py_ssize_t width = n * (job.want_w + job.want_b)
    cdef real *weights = NULL
    cdef real *sums
    # The blocks depend on the shape alone, and so does the order of every sum over rows.
    job.block = max(<Py_ssize_t>NORM_BLOCK, (rows + NORM_BLOCKS - 1) // NORM_BLOCKS)
    blocks = max(<Py_ssize_t>1, (rows + job.block - 1) // job.block)
    sums = <real *>malloc((blocks * width + n + 1) * sizeof(real))
    if sums == NULL:
        return -1
    job.partial = sums
    if w != NULL:
        weights = sums + blocks * width
        load_row(weights, w.data, w.strides[0], n, w.dtype)
        job.w = weights
    parallel_range(fn, job, blocks, 6 * n * job.block, threads)
    for block in range(1, blocks):
        for i in range(width):
            sums[i] += sums[block * width + i]
    if dw != NULL:
        store_row(dw.data, sums, n, dw.dtype)
    if db != NULL:
        store_row(db.data, sums + n * job.want_w, n, db.dtype)
    free(sums)
    return status(job)


cdef int norm_vjp(bint centred, const ArrayRef *x, const ArrayRef *w, const ArrayRef *g, double eps,
                  const ArrayRef *dx, const ArrayRef *dw, const ArrayRef *db, int threads) noexcept nogil:
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.x = x
    job.g = g
    job.out = dx
    job.centred = centred
    job.eps = eps
    job.want_w = dw != NULL
    job.want_b = db != NULL
    if is_double(x) or is_double(w) or is_double(g) or is_double(dx) or is_double(dw) or is_double(db):
        return norm_vjp_as(<double *>NULL, norm_vjp_range_d, &job, w, dw, db, threads)
    return norm_vjp_as(<float *>NULL, norm_vjp_range_f, &job, w, dw, db, threads)


cdef int layer_norm_vjp(const ArrayRef *x, const ArrayRef *w, const ArrayRef *g, double eps, const ArrayRef *dx,
                        const ArrayRef *dw, const ArrayRef *db, int threads) noexcept nogil:
    return norm_vjp(True, x, w, g, eps, dx, dw, db, threads)


cdef int rms_norm_vjp(const ArrayRef *x, const ArrayRef *w, const ArrayRef *g, double eps, const ArrayRef *dx,
                      const ArrayRef *dw, int threads) noexcept nogil:
    return norm_vjp(False, x, w, g, eps, dx, dw, NULL, threads)


# ---------------------------------------------------------------------------------------------------- rope

ctypedef struct RopeJob:
    const ArrayRef *x
    const ArrayRef *out
    const ArrayRef *offsets
    Py_ssize_t half          # pairs that turn
    Py_ssize_t groups        # different offsets: B or 1
    Py_ssize_t offset
    Py_ssize_t heads         # rows of a position: the product of the axes between B and T, and B where groups == 1
    Py_ssize_t head_blocks   # pieces that the heads are split into for the threads
    bint traditional
    bint inverse
    double scale
    const double *turns      # radians per position of each pair
    void *table              # [groups][T][2][half]: cosines, then sines
    int failed


cdef inline void cos_sin(double angle, double *c, double *s) noexcept nogil:
    """Cosine and sine within 2^-52, for angles up to 2^31: reduction by multiples of pi/2, then the series."""
    cdef double n = rint_d(angle * 0.63661977236758134308)
    cdef double r = fused_f64(n, -1.5707963267948966, angle), r2, ps, pc, quarter, first, second
    r = fused_f64(n, -6.123233995736766e-17, r)
    r2 = r * r
    ps = fused_f64(r2, 1.0 / 355687428096000.0, -1.0 / 1307674368000.0)
    ps = fused_f64(ps, r2, 1.0 / 6227020800.0)
    ps = fused_f64(ps, r2, -1.0 / 39916800.0)
    ps = fused_f64(ps, r2, 1.0 / 362880.0)
    ps = fused_f64(ps, r2, -1.0 / 5040.0)
    ps = fused_f64(ps, r2, 1.0 / 120.0)
    ps = fused_f64(ps, r2, -1.0 / 6.0)
    ps = fused_f64(ps * r2, r, r)
    pc = fused_f64(r2, -1.0 / 6402373705728000.0, 1.0 / 20922789888000.0)
    pc = fused_f64(pc, r2, -1.0 / 87178291200.0)
    pc = fused_f64(pc, r2, 1.0 / 479001600.0)
    pc = fused_f64(pc, r2, -1.0 / 3628800.0)
    pc = fused_f64(pc, r2, 1.0 / 40320.0)
    pc = fused_f64(pc, r2, -1.0 / 720.0)
    pc = fused_f64(pc, r2, 1.0 / 24.0)
    pc = fused_f64(pc, r2, -0.5)
    pc = fused_f64(pc, r2, 1.0)
    # The quarter in -2, -1, 0, 1 or 2 quarter turns.
    quarter = n - 4.0 * rint_d(n * 0.25)
    first = ps if quarter == 1.0 or quarter == -1.0 else pc
    second = pc if quarter == 1.0 or quarter == -1.0 else ps
    c[0] = -first if quarter == 1.0 or quarter == 2.0 or quarter == -2.0 else first
    s[0] = -second if quarter == -1.0 or quarter == 2.0 or quarter == -2.0 else second


cdef void rope_angles(real *tag, RopeJob *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    """Fill rows [lo, hi) of the table, a row being one position of one group."""
    cdef Py_ssize_t steps = job.x.shape[job.x.ndim - 2], half = job.half, row, group, i
    cdef const ArrayRef *offsets = job.offsets
    cdef double position, c, s, sign = -1.0 if job.inverse else 1.0
    cdef real *cosines
    cdef real *sines
    for row in range(lo, hi):
        group = row // steps
        position = <double>(row % steps)
        if offsets == NULL:
            position += <double>job.offset
        else:
            position += <double>load_index(
                offsets.data + (group * offsets.strides[0] if offsets.ndim else 0) * itemsize(offsets.dtype),
                offsets.dtype)
        position = position * job.scale
        cosines = <real *>job.table + row * 2 * half
        sines = cosines + half
        for i in range(half):
            cos_sin(position * job.turns[i], &c, &s)
            cosines[i] = <real>c
            sines[i] = <real>(sign * s)


cdef inline void rotate_row(real *dst, const real *src, const real *cosines, const real *sines, Py_ssize_t half,
                            Py_ssize_t n, bint traditional) noexcept nogil:
    cdef Py_ssize_t i
    cdef real first, second
    if traditional:
        for i in range(half):
            first = src[2 * i]
            second = src[2 * i + 1]
            dst[2 * i] = first * cosines[i] - second * sines[i]
            dst[2 * i + 1] = first * sines[i] + second * cosines[i]
    else:
        for i in range(half):
            first = src[i]
            second = src[i + half]
            dst[i] = first * cosines[i] - second * sines[i]
            dst[i + half] = first * sines[i] + second * cosines[i]
    for i in range(2 * half, n):
        dst[i] = src[i]


cdef void rope_rows(real *tag, RopeJob *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    """Units [lo, hi), a unit being a block of positions of a block of heads of one group."""
    cdef const ArrayRef *x = job.x
    cdef const ArrayRef *out = job.out
    cdef Py_ssize_t n = x.shape[x.ndim - 1], steps = x.shape[x.ndim - 2], half = job.half
    cdef Py_ssize_t stride = x.strides[x.ndim - 1], blocks = (steps + ROPE_BLOCK - 1) // ROPE_BLOCK
    cdef Py_ssize_t width = itemsize(x.dtype), unit, group, block, head, head_lo, head_hi, t
    cdef real inline_rows[2 * INLINE]
    cdef real *scratch = scratch_rows(inline_rows, 2, n)
    cdef const real *src
    cdef const real *angles
    cdef real *dst
    cdef const char *base
    cdef char *place
    if scratch == NULL:
        job.failed = 1
        return
    for unit in range(lo, hi):
        block = unit % blocks
        group = unit // blocks // job.head_blocks
        head = unit // blocks % job.head_blocks
        head_lo = group * job.heads + job.heads * head // job.head_blocks
        head_hi = group * job.heads + job.heads * (head + 1) // job.head_blocks
        for head in range(head_lo, head_hi):
            base = x.data + row_offset(x, head, x.ndim - 2) * width
            for t in range(block * ROPE_BLOCK, min(steps, (block + 1) * ROPE_BLOCK)):
                place = out.data + (head * steps + t) * n * itemsize(out.dtype)
                src = view_row(scratch, base + t * x.strides[x.ndim - 2] * width, stride, n, x.dtype)
                dst = target_row(place, scratch + n, out.dtype)
                angles = <const real *>job.table + (group * steps + t) * 2 * half
                rotate_row(dst, src, angles, angles + half, half, n, job.traditional)
                store_row(place, dst, n, out.dtype)
    release_rows(scratch, inline_rows)


cdef void rope_angles_f(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    rope_angles(<float *>NULL, <RopeJob *>job, lo, hi)


cdef void rope_angles_d(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    rope_angles(<double *>NULL, <RopeJob *>job, lo, hi)


cdef void rope_range_f(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    rope_rows(<float *>NULL, <RopeJob *>job, lo, hi)


cdef void rope_range_d(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    rope_rows(<double *>NULL, <RopeJob *>job, lo, hi)


cdef int rope(const ArrayRef *x, Py_ssize_t dims, bint traditional, double base, const ArrayRef *freqs, double scale,
              Py_ssize_t offset, const ArrayRef *offsets, bint inverse, const ArrayRef *out,
              int threads) noexcept nogil:
    cdef RopeJob job
    cdef Py_ssize_t steps, n, i, blocks
    cdef bint wide = is_double(x) or is_double(out)
    cdef Py_ssize_t width = sizeof(double) if wide else sizeof(float)
    cdef double *turns
    if x.size == 0:
        return 0
    steps = x.shape[x.ndim - 2]
    n = x.shape[x.ndim - 1]
    job.x = x
    job.out = out
    job.offsets = offsets
    job.half = dims // 2
    job.offset = offset
    job.groups = offsets.shape[0] if offsets != NULL and offsets.ndim == 1 else 1
    job.heads = x.size // (steps * n) // job.groups
    job.traditional = traditional
    job.inverse = inverse
    job.scale = scale
    job.failed = 0
    turns = <double *>malloc(job.half * (sizeof(double) + job.groups * steps * 2 * width))
    if turns == NULL:
        return -1
    job.turns = turns
    job.table = turns + job.half
    if freqs != NULL:
        load_row(turns, freqs.data, freqs.strides[0], job.half, freqs.dtype)
        for i in range(job.half):
            turns[i] = 1 / turns[i]
    else:
        for i in range(job.half):
            turns[i] = exp_real(-<double>i * (log(base) / job.half))
    parallel_range(rope_angles_d if wide else rope_angles_f, &job, job.groups * steps, 8 * job.half, threads)
    blocks = job.groups * ((steps + ROPE_BLOCK - 1) // ROPE_BLOCK)
    job.head_blocks = max(<Py_ssize_t>1, min(job.heads, 4 * threads // blocks))
    parallel_range(rope_range_d if wide else rope_range_f, &job, blocks * job.head_blocks,
                   2 * x.size // (blocks * job.head_blocks), threads)
    free(turns)
    return -1 if job.failed else 0


# ---------------------------------------------------------------------------------------------------- cross entropy


cdef inline void row_exp_sum(const char *src, Py_ssize_t stride, Py_ssize_t n, int dtype, real *scratch, real *shift,
                             real *total) noexcept nogil:
    """A shift and sum(exp(x - shift)), over blocks of BLOCK elements, so that the row is read once.

    The shift is the largest element, or 0 where that is infinite. scratch holds 2 * BLOCK elements.
    """
    cdef Py_ssize_t start = 0, count, i
    cdef Py_ssize_t step = stride * itemsize(dtype)
    cdef const real *x
    cdef real top = -INF_F, larger, s = 0, m = 0, now
    while start < n:
        count = min(<Py_ssize_t>BLOCK, n - start)
        x = view_row(scratch, src + start * step, stride, count, dtype)
        larger = row_max(x, count)
        top = larger if larger > top else top
        now = top if -INF_F < top < INF_F else <real>0
        if s != 0:
            s = s * exp_real(m - now)
        m = now
        for i in range(count):
            scratch[BLOCK + i] = exp_real(x[i] - m)
        s = s + row_sum(scratch + BLOCK, count)
        start += count
    shift[0] = m
    total[0] = s


cdef inline int64_t target_of(const ArrayRef *targets, Py_ssize_t row, Py_ssize_t n) noexcept nogil:
    """The class of a row, counted from the start; -1 if there is no such class."""
    cdef int64_t t = load_index(
        targets.data + row_offset(targets, row, targets.ndim) * itemsize(targets.dtype), targets.dtype)
    if t < 0:
        t += n
    return t if 0 <= t < n else -1


cdef void cross_entropy_rows(real *tag, Job *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cdef const ArrayRef *x = job.x
    cdef Py_ssize_t n = x.shape[x.ndim - 1], stride = x.strides[x.ndim - 1], row
    cdef real scratch[2 * BLOCK]
    cdef real shift, total, logit, loss
    cdef const char *src
    cdef int64_t t
    for row in range(lo, hi):
        src = row_at(x, row)
        t = target_of(job.targets, row, n)
        if t < 0:
            loss = INF_F - INF_F
        else:
            row_exp_sum(src, stride, n, x.dtype, scratch, &shift, &total)
            load_row(&logit, src + t * stride * itemsize(x.dtype), 1, 1, x.dtype)
            # In float64, so that a loss near 0 is not the difference of two rounded numbers.
            loss = <real>((<double>shift - <double>logit) + log(<double>total))
        store_row(job.out.data + row * itemsize(job.out.dtype), &loss, 1, job.out.dtype)


cdef void cross_entropy_range_f(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cross_entropy_rows(<float *>NULL, <Job *>job, lo, hi)


cdef void cross_entropy_range_d(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cross_entropy_rows(<double *>NULL, <Job *>job, lo, hi)


cdef int cross_entropy(const ArrayRef *logits, const ArrayRef *targets, const ArrayRef *out,
                       int threads) noexcept nogil:
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.x = logits
    job.targets = targets
    job.out = out
    parallel_range(cross_entropy_range_d if is_double(logits) else cross_entropy_range_f, &job, row_count(logits),
                   4 * logits.shape[logits.ndim - 1], threads)
    return status(&job)


cdef void cross_entropy_vjp_rows(real *tag, Job *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cdef const ArrayRef *x = job.x
    cdef const ArrayRef *g = job.g
    cdef const ArrayRef *out = job.out
    cdef Py_ssize_t n = x.shape[x.ndim - 1], stride = x.strides[x.ndim - 1], row, i
    cdef real inline_rows[2 * INLINE]
    cdef real *scratch = scratch_rows(inline_rows, 2, n)
    cdef const real *src
    cdef real *dst
    cdef char *place
    cdef real factor, cotangent
    cdef int64_t t
    if scratch == NULL:
        job.failed = 1
        return
    for row in range(lo, hi):
        place = out.data + row * n * itemsize(out.dtype)
        src = view_row(scratch, row_at(x, row), stride, n, x.dtype)
        dst = target_row(place, scratch + n, out.dtype)
        t = target_of(job.targets, row, n)
        load_row(&cotangent, g.data + row_offset(g, row, g.ndim) * itemsize(g.dtype), 1, 1, g.dtype)
        if t < 0:
            cotangent = INF_F - INF_F
        factor = cotangent / row_weights(src, row_max(src, n), n, dst)
        for i in range(n):
            dst[i] = dst[i] * factor
        if t >= 0:
            dst[t] -= cotangent
        store_row(place, dst, n, out.dtype)
    release_rows(scratch, inline_rows)


cdef void cross_entropy_vjp_range_f(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cross_entropy_vjp_rows(<float *>NULL, <Job *>job, lo, hi)


cdef void cross_entropy_vjp_range_d(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    cross_entropy_vjp_rows(<double *>NULL, <Job *>job, lo, hi)


cdef int cross_entropy_vjp(const ArrayRef *logits, const ArrayRef *targets, const ArrayRef *g,
                           const ArrayRef *dlogits, int threads) noexcept nogil:
    cdef Job job
    memset(&job, 0, sizeof(Job))
    job.x = logits
    job.targets = targets
    job.g = g
    job.out = dlogits
    cdef bint wide = is_double(logits) or is_double(dlogits)
    parallel_range(cross_entropy_vjp_range_d if wide else cross_entropy_vjp_range_f, &job, row_count(logits),
                   4 * logits.shape[logits.ndim - 1], threads)
    return status(&job)


cdef FusedTable TABLE
TABLE.softmax = softmax
TABLE.softmax_vjp = softmax_vjp
TABLE.layer_norm = layer_norm
TABLE.layer_norm_vjp = layer_norm_vjp
TABLE.rms_norm = rms_norm
TABLE.rms_norm_vjp = rms_norm_vjp
TABLE.rope = rope
TABLE.cross_entropy = cross_entropy
TABLE.cross_entropy_vjp = cross_entropy_vjp

table = PyCapsule_New(&TABLE, "mlxr.cpu.fused", NULL)
