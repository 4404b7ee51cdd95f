# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Matrix products: plans, packing and threading around the micro-kernel of microkernel.h.

One driver serves every shape: the left operand is packed once and shared, the columns are cut into items that
threads take one by one, and an item packs its part of the right operand (or reads it where it lies) and runs the
micro-kernel. Shapes differ only in the extents that `make_plan` chooses. What limits it: floating-point throughput
when M is large, memory bandwidth (the right operand, read once in its stored dtype) when M is small.

This module must not know of Python objects, tensors or allocators; the interface is in matmul.pxd.
"""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport fabsf, rintf
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from mlxr.core.abi cimport ArrayRef, BFLOAT16, COMPLEX64, FLOAT16, FLOAT32, FLOAT64, MAX_NDIM
from mlxr.cpu.team cimport team_of

cdef extern from "microkernel.h" nogil:
    enum:
        GEMM_MR
        GEMM_SP
        ROW_STEPS
        GEMM_NR_f32
        GEMM_NR_f64
    void run_block_f32(int dtype, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t kc, const float *a, Py_ssize_t lda,
                       const char *b, Py_ssize_t ldb, const float *init, const float *add, Py_ssize_t ldt, float *dst,
                       Py_ssize_t ldd) noexcept
    void run_block_f64(int dtype, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t kc, const double *a, Py_ssize_t lda,
                       const char *b, Py_ssize_t ldb, const double *init, const double *add, Py_ssize_t ldt,
                       double *dst, Py_ssize_t ldd) noexcept
    void run_row_f32(int dtype, Py_ssize_t strips, Py_ssize_t kc, const float *a, const char *b, Py_ssize_t ldb,
                     const float *init, const float *add, float *dst) noexcept
    void run_row_f64(int dtype, Py_ssize_t strips, Py_ssize_t kc, const double *a, const char *b, Py_ssize_t ldb,
                     const double *init, const double *add, double *dst) noexcept
    void pack_f32(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, float *dst) noexcept
    void pack_f64(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, double *dst) noexcept
    void row_to_f32(int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, float *dst) noexcept
    void row_to_f64(int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, double *dst) noexcept
    void f32_to_row(int dtype, char *dst, Py_ssize_t stride, Py_ssize_t n, const float *src) noexcept
    void f64_to_row(int dtype, char *dst, Py_ssize_t stride, Py_ssize_t n, const double *src) noexcept
    void dot_strip_f32(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t nw, Py_ssize_t nk, const float *x,
                       float *dst) noexcept
    void dot_strip_f64(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t nw, Py_ssize_t nk, const double *x,
                       double *dst) noexcept
    void lane_products_f32(Py_ssize_t nk, const float *a, const float *b, float *sums) noexcept
    void lane_products_f64(Py_ssize_t nk, const double *a, const double *b, double *sums) noexcept
    float fma1_f32(float a, float b, float c) noexcept
    double fma1_f64(double a, double b, double c) noexcept

cdef extern from "pairs.h" nogil:
    enum:
        FORM_FLOATS
        FORM_SPLIT
        FORM_JOINED
    int joined_pairs_work() noexcept
    uint64_t flush_subnormals() noexcept
    void restore_mode(uint64_t mode) noexcept
    void pack_pairs(int form, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                    Py_ssize_t per, Py_ssize_t width, float *dst) noexcept
    void run_pair_block(int form, bint placed, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t k, const float *a,
                        Py_ssize_t lda, const char *b, Py_ssize_t ldb, const float *init, const float *add,
                        Py_ssize_t ldt, float *dst, Py_ssize_t ldd) noexcept
    void run_pair_row(int form, Py_ssize_t strips, Py_ssize_t k, const float *a, const char *b, Py_ssize_t ldb,
                      const float *init, const float *add, float *dst) noexcept
    void pair_dot_strip(int form, const char *src, Py_ssize_t sw, Py_ssize_t nw, Py_ssize_t nk, const float *x,
                        float *dst) noexcept

cdef extern from *:
    """
    /* A step of (re, im) pairs, and after it the step of (-im, re) pairs. */
    static inline void turn_pairs(const float *pairs, float *steps) {
        for (int i = 0; i < GEMM_NR_f32; i += 2) {
            steps[i] = pairs[i];
            steps[i + 1] = pairs[i + 1];
            steps[GEMM_NR_f32 + i] = -pairs[i + 1];
            steps[GEMM_NR_f32 + i + 1] = pairs[i];
        }
    }
    """
    void turn_pairs(const float *pairs, float *steps) noexcept nogil

cdef extern from "quantized.h" nogil:
    ctypedef struct Ahead:
        const char *words
        const char *grids[2]
        Py_ssize_t grid_step
    void pack_words(const char *words, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t count, uint32_t *dst) noexcept
    void unpack_strip(int bits, const uint32_t *words, Py_ssize_t k0, Py_ssize_t nk, Py_ssize_t group,
                      const float *scales, const float *biases, const float *x, float *dst, const Ahead *ahead) noexcept

cdef extern from *:
    """
    /* Orphaned directives: they bind to the parallel region that the caller is in. */
    static inline void team_barrier(void) {
    #pragma omp barrier
    }
    static inline Py_ssize_t take(Py_ssize_t *counter) {
        return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    }
    static inline void rewind_counter(Py_ssize_t *counter) { __atomic_store_n(counter, 0, __ATOMIC_RELAXED); }
    static inline Py_ssize_t count_of(Py_ssize_t *counter) { return __atomic_load_n(counter, __ATOMIC_RELAXED); }
    /* Sets the counter if it is `*expected`; else tells what it is. */
    static inline int replace_count(Py_ssize_t *counter, Py_ssize_t *expected, Py_ssize_t wanted) {
        return __atomic_compare_exchange_n(counter, expected, wanted, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
    """
    void team_barrier() noexcept nogil
    Py_ssize_t take(Py_ssize_t *counter) noexcept nogil
    void rewind_counter(Py_ssize_t *counter) noexcept nogil
    Py_ssize_t count_of(Py_ssize_t *counter) noexcept nogil
    bint replace_count(Py_ssize_t *counter, Py_ssize_t *expected, Py_ssize_t wanted) noexcept nogil

ctypedef fused real:
    float
    double

cdef enum:
    KC = MATMUL_KC
    A_BUDGET = 16 << 20      # bytes of packed A at a time: larger packs repack B less often
    K_PASS = 16 * KC         # k packed at a time: beyond it, sums wait in memory between passes
    BLOCK_WORDS = KC >> 2    # words of 8-bit integers in a block of k, the most there are
    GROUP = 8                # panels of A that one thread packs together
    STACK_BYTES = 32 << 10   # problems whose scratch fits here need no workspace
    SMALL_BATCH_FLOPS = 1 << 22

# How an operand's elements become real numbers.
cdef enum:
    PLAIN        # element (w, k) at data + (w * sw + k * sk) * itemsize
    COMPLEX_A    # w real rows, k runs over re, im, re, im, ...
    COMPLEX_B    # w runs over re, im, ...; step 2k holds (re, im) pairs, step 2k + 1 holds (-im, re)
    QUANT_LANES  # quantized; w counts its rows (x @ W.T), sw words apart
    QUANT_STEPS  # quantized; k counts its rows (x @ W), sk words apart

# The form in which pairs of bfloat16 are packed (see pairs.h): the processor's.
cdef int PAIR_FORM = FORM_JOINED if joined_pairs_work() else FORM_SPLIT


def use_pair_instruction(bint wanted):
    """Multiply pairs of bfloat16 by the processor's instruction, where it works, or not; return whether it was used.

    The bits are the same. Only the tests that see to that call this, while nothing else runs.
    """
    global PAIR_FORM
    cdef bint before = PAIR_FORM == FORM_JOINED
    PAIR_FORM = FORM_JOINED if wanted and joined_pairs_work() else FORM_SPLIT
    return before


# One side of the product. w counts rows of A or columns of B, in real numbers, as k does.
cdef struct Operand:
    const char *data
    Py_ssize_t sw, sk    # in elements of dtype
    int dtype
    int kind
    int form             # of packed steps of k: FORM_FLOATS, or one of the two of bfloat16 pairs
    # quantized operands only
    int bits, group
    const char *scales
    const char *biases
    Py_ssize_t scales_row, biases_row
    int scales_dtype, biases_dtype

# One 2-D product and the way it is cut up. Extents are in real numbers (twice the complex ones).
cdef struct Plan:
    Operand a, b
    char *out
    Py_ssize_t out_rs, out_cs
    int out_dtype
    bint complex_out
    const char *bias
    Py_ssize_t bias_rs, bias_cs
    int bias_dtype
    double alpha, beta
    Py_ssize_t m, n, k
    int threads
    bint swapped         # computed as the transposed product: a and b have changed places
    # cuts
    Py_ssize_t mr        # rows per panel, <= GEMM_MR
    Py_ssize_t sp        # elements between steps of a packed panel
    Py_ssize_t ms, ks    # rows and k of A packed at a time
    Py_ssize_t mb, nb    # rows and columns of an item
    Py_ssize_t kp        # k of B packed at a time, within a block
    bint runs            # neighbouring items are taken together, see take_run
    Py_ssize_t shift     # by which the first piece of a block is shorter, for the others to start at cache lines
    Py_ssize_t grids     # groups of a quantized operand in ks of k
    bint summed          # one row of A: B is multiplied as it is unpacked or transposed, without a panel
    bint dot             # one row, one column, several blocks of k
    bint direct_a        # the one row of A is read where it lies
    bint direct_b        # full strips of B are read where they lie
    bint direct_c        # full strips of C are written where they belong
    Py_ssize_t ld        # elements between rows of a tile
    # memory, in bytes: shared = packed A + held sums, own = panel of B + tile of sums + tile of chains + turned tile
    Py_ssize_t packed_bytes, held_bytes, panel_bytes, tile_bytes, chain_bytes, turned_bytes
    # progress, shared by the team
    Py_ssize_t packed, done


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t round_up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b * b


cdef inline Py_ssize_t even(Py_ssize_t k, int form) noexcept nogil:
    """Steps for which `k` of a packed operand take room."""
    return k if form == FORM_FLOATS else k + (k & 1)


cdef inline Py_ssize_t item_size(int dtype) noexcept nogil:
    return 8 if dtype == FLOAT64 or dtype == COMPLEX64 else 2 if dtype == FLOAT16 or dtype == BFLOAT16 else 4


cdef inline Operand plain(const char *data, Py_ssize_t sw, Py_ssize_t sk, int dtype) noexcept nogil:
    cdef Operand o
    memset(&o, 0, sizeof(Operand))
    o.data, o.sw, o.sk, o.dtype, o.kind = data, sw, sk, dtype, PLAIN
    return o


cdef inline bint is_quantized(const Operand *o) noexcept nogil:
    return o.kind == QUANT_LANES or o.kind == QUANT_STEPS


# ---------------------------------------------------------------- planning

cdef void make_plan(Plan *p) noexcept nogil:
    """Choose the cuts. Nothing chosen here changes a bit of the result."""
    cdef Operand side
    cdef Py_ssize_t nr, size, panels, budget, m, n, k, parts, target, unit, narrowest
    cdef bint wide, in_place, native_out, native_b
    cdef double seconds, flops, streamed
    cdef bint quantized = is_quantized(&p.b)
    if p.a.dtype == BFLOAT16 and p.b.dtype == BFLOAT16 and p.a.kind == PLAIN and p.b.kind == PLAIN \
            and p.out_dtype != FLOAT64:
        p.a.form = p.b.form = PAIR_FORM
    wide = p.out_dtype == FLOAT64
    nr = GEMM_NR_f64 if wide else GEMM_NR_f32
    size = 8 if wide else 4

    # Lanes run along the columns. A few columns under many rows (a matrix-vector product) would leave them empty, so
    # such a product is computed as its transpose. Complex chains are not symmetric and stay as they are.
    if p.m > p.n and p.n <= nr // 4 and not p.complex_out and not quantized:
        side = p.a
        p.a = p.b
        p.b = side
        p.m, p.n = p.n, p.m
        p.out_rs, p.out_cs = p.out_cs, p.out_rs
        p.bias_rs, p.bias_cs = p.bias_cs, p.bias_rs
        p.swapped = True
    m, n, k = p.m, p.n, p.k

    # Threads pay from some 20 us of work: at 100 GFLOP/s and 12 GB/s of one core.
    flops = 2.0 * m * n * k
    streamed = <double>n * k * (1 if quantized else item_size(p.b.dtype))
    seconds = max(flops / 1e11, streamed / 1.2e10)
    if seconds < 20e-6:
        p.threads = 1

    panels = ceil_div(m, GEMM_MR)
    p.mr = ceil_div(m, panels)
    panels = ceil_div(m, p.mr)
    p.sp = 1 if m == 1 else GEMM_SP
    p.ks = min(k, K_PASS)
    budget = max(1, A_BUDGET // (max(1, p.ks) * p.sp * size))
    p.ms = min(panels, budget) * p.mr

    native_out = wide or p.complex_out or p.out_dtype == FLOAT32
    native_b = p.b.dtype == <int>(FLOAT64 if wide else FLOAT32)
    in_place = p.b.kind == PLAIN and p.b.sw == 1
    p.direct_c = native_out and p.out_cs == 1 and p.alpha == 1 and p.bias == NULL
    p.mb = p.ms
    unit = nr
    narrowest = 2 * max(nr, 32)
    if quantized:
        unit = max(nr, 32)
        p.nb = nr if p.b.kind == QUANT_LANES and m <= 3 * GEMM_MR else 128
        p.kp = KC
        p.summed = p.b.kind == QUANT_LANES and m == 1
        p.direct_c = p.direct_c and not p.summed
        if p.b.kind == QUANT_LANES:
            unit = nr
            p.grids = ceil_div(p.ks, p.b.group)
        target = 4 * p.threads
    elif m > 3 * GEMM_MR:
        # A panel of B of 256 KB stays in the L2 cache; with few k its columns are many, and rows of C long.
        p.nb, p.kp = min(2048, max(256 if p.b.form == FORM_JOINED else 128, (1 << 16) // max(1, k))), KC
        p.direct_b = in_place and native_b and k * n * size <= 32 << 10
        if k <= 64:
            narrowest = p.nb
        target = 4 * p.threads
    elif in_place and k > 1:
        # Rows of B are long: few at a time, so that the hardware follows a handful of streams.
        p.nb, p.kp = min(4096, max(1024, 32768 // m)), ROW_STEPS if m <= 4 else 16
        p.direct_b = native_b or (m <= 2 * GEMM_MR and not wide)
        target = p.threads if m == 1 else 2 * p.threads  # bound by memory: long runs of it
    else:
        # Columns of B are long: one strip of them, transposed piece by piece into the L1 cache, or into the sums.
        p.nb, p.kp = nr, 128
        p.summed = m == 1 and p.b.kind == PLAIN and p.b.sk == 1 and (native_b or not wide and p.b.dtype != FLOAT64)
        p.direct_c = p.direct_c and not p.summed
        if p.summed:
            p.kp = KC
        elif p.b.sk == 1 and k > p.kp and <uintptr_t>p.b.data % item_size(p.b.dtype) == 0:
            p.shift = (<uintptr_t>p.b.data & 63) // item_size(p.b.dtype)
            if p.b.form != FORM_FLOATS:
                p.shift &= ~1
        target = 4 * p.threads
    p.kp = min(p.kp, max(1, k))
    # Whole strips: the last strip of a block would write past its columns, and of the last row past the result.
    p.nb = min(round_up(p.nb, unit), round_up(n, unit))
    if p.threads > 1:
        while p.nb > narrowest and ceil_div(n, p.nb) < target:
            p.nb = round_up(p.nb // 2, unit)
        if p.nb > narrowest:
            p.nb = round_up(ceil_div(n, round_up(ceil_div(n, p.nb), p.threads)), unit)  # as many items for each thread
        parts = ceil_div(target, 2 * ceil_div(n, p.nb))  # fewer: each packs B anew
        if parts > 1:
            p.mb = min(p.ms, round_up(ceil_div(p.ms, parts), p.mr))

    p.runs = p.nb <= nr  # strips, whose neighbours are prefetched

    p.dot = m == 1 and n == 1 and k > KC and p.a.kind == PLAIN and p.b.kind == PLAIN
    if p.dot:
        p.threads = 1

    p.ld = round_up(p.nb, nr)
    p.direct_a = m == 1 and p.a.kind == PLAIN and p.a.sk == 1 and p.a.form == FORM_FLOATS \
        and p.a.dtype == <int>(FLOAT64 if wide else FLOAT32) and <uintptr_t>p.a.data % size == 0
    p.packed_bytes = 0 if p.direct_a else round_up(ceil_div(p.ms, p.mr) * p.sp * even(p.ks, p.a.form) * size, 64)
    p.panel_bytes = round_up(even(p.kp, p.b.form) * p.ld * size, 64)
    p.tile_bytes = p.chain_bytes = p.turned_bytes = p.held_bytes = 0
    if not p.direct_c or k > KC or n % (nr // 2) != 0:
        p.tile_bytes = round_up(p.mb * p.ld * size, 64)
    if p.kp - p.shift < min(k, KC):
        p.chain_bytes = round_up(p.mb * p.ld * size, 64)
    if p.out_rs == 1 and m > 1 and not p.complex_out:
        p.turned_bytes = round_up(round_up(p.mb, GEMM_SP) * p.ld * size, 64)
    if p.b.kind == QUANT_LANES:
        p.turned_bytes = max(p.turned_bytes, 2 * p.grids * p.ld * size)
    if p.ks < k:
        p.held_bytes = ceil_div(n, p.nb) * ceil_div(p.ms, p.mb) * p.tile_bytes


# ---------------------------------------------------------------- packing

cdef void pack_complex_b(const Operand *o, Py_ssize_t w0, Py_ssize_t k0, Py_ssize_t nw, Py_ssize_t nk,
                         float *dst) noexcept nogil:
    """The panel of complex B. Complex numbers move as 8-byte elements into every other step; the steps between are
    made from those by a quarter turn. w0, k0, nw and nk are even: items and blocks are."""
    cdef Py_ssize_t nr = GEMM_NR_f32, s, k, w, count
    cdef double pairs[32 * GEMM_NR_f64]
    cdef float *step
    cdef const float *pair
    for s in range(ceil_div(nw, nr)):
        count = min(nr, nw - s * nr)
        for k in range(0, nk, 64):
            pack_f64(FLOAT64, o.data + (((w0 + s * nr) >> 1) * o.sw + ((k0 + k) >> 1) * o.sk) * 8, o.sw, o.sk,
                     count >> 1, min(64, nk - k) >> 1, GEMM_NR_f64, GEMM_NR_f64, pairs)
            for w in range(min(64, nk - k) >> 1):
                pair = <const float *>(pairs + w * GEMM_NR_f64)
                step = dst + (s * nk + k + 2 * w) * nr
                turn_pairs(pair, step)


cdef void pack_operand(Operand *o, Py_ssize_t w0, Py_ssize_t k0, Py_ssize_t nw, Py_ssize_t nk, Py_ssize_t per,
                       Py_ssize_t width, real *dst) noexcept nogil:
    """Elements (w0.., k0..) of the operand as strips of `width` lanes, `per` of them in use."""
    cdef Py_ssize_t size = item_size(o.dtype), s, w, k
    cdef const char *src
    cdef float re = 0, im = 0
    cdef real *step
    if o.kind == PLAIN:
        src = o.data + (w0 * o.sw + k0 * o.sk) * size
        if real is float:
            if o.form != FORM_FLOATS:
                pack_pairs(o.form, src, o.sw, o.sk, nw, nk, per, width, dst)
            elif width == 1:
                row_to_f32(o.dtype, src, o.sk, nk, dst)
            else:
                pack_f32(o.dtype, src, o.sw, o.sk, nw, nk, per, width, dst)
        else:
            if width == 1:
                row_to_f64(o.dtype, src, o.sk, nk, dst)
            else:
                pack_f64(o.dtype, src, o.sw, o.sk, nw, nk, per, width, dst)
        return
    if is_quantized(o):
        if real is float:
            pack_quantized_steps(o, w0, k0, nw, nk, dst)
        return
    if real is float:
        if o.kind == COMPLEX_B and o.dtype == COMPLEX64:
            pack_complex_b(o, w0, k0, nw, nk, dst)
            return
    for s in range(ceil_div(nw, per)):
        for k in range(nk):
            step = dst + (s * nk + k) * width
            for w in range(width):
                step[w] = 0
            for w in range(min(per, nw - s * per)):
                read_complex_lane(o, w0 + s * per + w, k0 + k, &re, &im)
                step[w] = re


cdef inline void read_complex_lane(Operand *o, Py_ssize_t w, Py_ssize_t k, float *re, float *im) noexcept nogil:
    """Real number (w, k) of a complex operand, in `re`."""
    cdef const char *src
    cdef bint lane_im, step_im = k & 1
    if o.kind == COMPLEX_A:
        src = o.data + (w * o.sw + (k >> 1) * o.sk) * item_size(o.dtype)
        read_complex(o.dtype, src, re, im)
        if step_im:
            re[0] = im[0]
        return
    src = o.data + ((w >> 1) * o.sw + (k >> 1) * o.sk) * item_size(o.dtype)
    read_complex(o.dtype, src, re, im)
    lane_im = w & 1
    if step_im:
        re[0] = re[0] if lane_im else -im[0]
    elif lane_im:
        re[0] = im[0]


cdef inline void read_complex(int dtype, const char *src, float *re, float *im) noexcept nogil:
    if dtype == COMPLEX64:
        row_to_f32(FLOAT32, src, 1, 1, re)
        row_to_f32(FLOAT32, src + 4, 1, 1, im)
    else:
        row_to_f32(dtype, src, 1, 1, re)
        im[0] = 0


cdef void pack_grid(const char *grid, Py_ssize_t row, int dtype, Py_ssize_t w0, Py_ssize_t g0, Py_ssize_t nw,
                    Py_ssize_t ng, float *dst) noexcept nogil:
    """Scales or biases of rows w0.. and groups g0.. of a quantized matrix, as strips of lanes."""
    pack_f32(dtype, grid + (w0 * row + g0) * item_size(dtype), row, 1, nw, ng, GEMM_NR_f32, GEMM_NR_f32, dst)


cdef void unpack_rows(const Operand *o, Py_ssize_t row, Py_ssize_t col, Py_ssize_t rows, Py_ssize_t cols,
                      Py_ssize_t grid_col, const float *scales, const float *biases, const float *x,
                      float *dst, const Ahead *ahead) noexcept nogil:
    """Unpack up to NR rows x KC columns of a quantized matrix, lanes being rows; see unpack_strip for x and dst. The
    scales and biases start at column `grid_col`."""
    cdef uint32_t words[BLOCK_WORDS * GEMM_NR_f32]
    cdef Py_ssize_t stride = o.sw if o.kind == QUANT_LANES else o.sk
    pack_words(o.data + (row * stride + col * o.bits // 32) * 4, stride * 4, rows, cols * o.bits // 32, words)
    unpack_strip(o.bits, words, col - grid_col, cols, o.group, scales, biases, x, dst,
                 ahead)


cdef void pack_quantized_steps(const Operand *o, Py_ssize_t w0, Py_ssize_t k0, Py_ssize_t nw, Py_ssize_t nk,
                               float *dst) noexcept nogil:
    """The panel of a quantized operand whose rows are steps: unpacked with rows as lanes, then transposed."""
    cdef float scales[8 * GEMM_NR_f32]
    cdef float biases[8 * GEMM_NR_f32]
    cdef float columns[256 * GEMM_NR_f32]
    cdef Ahead nothing
    cdef Py_ssize_t nr = GEMM_NR_f32, block, k, rows, w, cols, s, g
    nothing.words = NULL
    for block in range(ceil_div(nk, nr)):
        k = block * nr
        rows = min(nr, nk - k)
        for w in range(0, nw, 256):
            cols = min(256, nw - w)
            g = (w0 + w) // o.group
            s = ceil_div(w0 + w + cols, o.group) - g
            pack_grid(o.scales, o.scales_row, o.scales_dtype, k0 + k, g, rows, s, scales)
            pack_grid(o.biases, o.biases_row, o.biases_dtype, k0 + k, g, rows, s, biases)
            unpack_rows(o, k0 + k, w0 + w, rows, cols, g * o.group, scales, biases, NULL, columns, &nothing)
            for s in range(ceil_div(cols, nr)):
                pack_f32(FLOAT32, <const char *>(columns + s * nr * nr), nr, 1, min(nr, cols - s * nr), rows, nr, nr,
                         dst + ((w // nr + s) * nk + k) * nr)


# ---------------------------------------------------------------- results

cdef void read_bias(const Plan *p, Py_ssize_t i, Py_ssize_t j, Py_ssize_t step, Py_ssize_t n,
                    real *dst) noexcept nogil:
    cdef Py_ssize_t size = item_size(p.bias_dtype), x
    cdef float re = 0, im = 0
    if p.complex_out:
        for x in range(n):
            read_complex(p.bias_dtype, p.bias + (i * p.bias_rs + ((j + x) >> 1) * p.bias_cs) * size, &re, &im)
            dst[x] = im if (j + x) & 1 else re
    elif real is float:
        row_to_f32(p.bias_dtype, p.bias + (i * p.bias_rs + j * p.bias_cs) * size, step, n, dst)
    else:
        row_to_f64(p.bias_dtype, p.bias + (i * p.bias_rs + j * p.bias_cs) * size, step, n, dst)


cdef void finish_row(const Plan *p, real *row, Py_ssize_t n, Py_ssize_t i, Py_ssize_t j,
                     bint down) noexcept nogil:
    """Scale `n` sums, add the bias, and store them from element (i, j) on: along the row, or down the column."""
    cdef real bias[128]
    cdef real alpha = <real>p.alpha, beta = <real>p.beta
    cdef Py_ssize_t at, count, x
    cdef Py_ssize_t out_step = p.out_rs if down else p.out_cs, bias_step = p.bias_rs if down else p.bias_cs
    cdef char *out
    if p.alpha != 1:
        for x in range(n):
            row[x] = alpha * row[x]
    if p.bias != NULL:
        for at in range(0, n, 128):
            count = min(128, n - at)
            read_bias(p, i + at if down else i, j if down else j + at, bias_step, count, bias)
            for x in range(count):
                if real is float:
                    row[at + x] = fma1_f32(beta, bias[x], row[at + x])
                else:
                    row[at + x] = fma1_f64(beta, bias[x], row[at + x])
    if p.complex_out:
        out = p.out + (i * p.out_rs + (j >> 1) * p.out_cs) * 8
        if p.out_cs == 1:
            store_row(FLOAT32, out, 1, n, row)
        else:
            for x in range(0, n, 2):
                store_row(FLOAT32, out + (x >> 1) * p.out_cs * 8, 1, 2, row + x)
    else:
        store_row(p.out_dtype, p.out + (i * p.out_rs + j * p.out_cs) * item_size(p.out_dtype), out_step, n, row)


cdef inline void store_row(int dtype, char *dst, Py_ssize_t step, Py_ssize_t n, const real *row) noexcept nogil:
    if real is float:
        f32_to_row(dtype, dst, step, n, row)
    else:
        f64_to_row(dtype, dst, step, n, row)


cdef void finish_tile(const Plan *p, real *tile, Py_ssize_t ld, Py_ssize_t i0, Py_ssize_t j0, Py_ssize_t rows,
                      Py_ssize_t cols, real *turned) noexcept nogil:
    """Store a tile of finished sums whose first element is (i0, j0). `turned` holds cols x round_up(rows, SP)."""
    cdef Py_ssize_t i, j, width
    if p.out_rs == 1 and rows > 1 and not p.complex_out:
        width = round_up(rows, GEMM_SP)
        if real is float:
            pack_f32(FLOAT32, <const char *>tile, ld, 1, rows, cols, rows, width, turned)
        else:
            pack_f64(FLOAT64, <const char *>tile, ld, 1, rows, cols, rows, width, turned)
        for j in range(cols):
            finish_row(p, turned + j * width, rows, i0, j0 + j, True)
    else:
        for i in range(rows):
            finish_row(p, tile + i * ld, cols, i0 + i, j0, False)


# ---------------------------------------------------------------- the product

cdef void pack_a(Plan *p, Py_ssize_t i0, Py_ssize_t k0, Py_ssize_t rows, Py_ssize_t ks, real *packed) noexcept nogil:
    """Pack rows x ks of A, block of k by block of k, sharing the panels among the team."""
    cdef Py_ssize_t panels = ceil_div(rows, p.mr), groups = ceil_div(panels, GROUP)
    cdef Py_ssize_t units = groups * max(1, ceil_div(ks, KC)), unit = take(&p.packed), kb, kc, first
    while unit < units:
        kb = unit // groups * KC
        kc = min(KC, ks - kb)
        first = unit % groups * GROUP
        pack_operand(&p.a, i0 + first * p.mr, k0 + kb, min(rows - first * p.mr, GROUP * p.mr), kc, p.mr, p.sp,
                     packed + kb * panels * p.sp + first * even(kc, p.a.form) * p.sp)
        unit = take(&p.packed)


cdef void pack_grids(const Plan *p, Py_ssize_t j0, Py_ssize_t k0, Py_ssize_t cols, Py_ssize_t ks,
                     float *grids) noexcept nogil:
    """Scales, then biases, of rows j0.. of a quantized operand, for ks of k: short rows, transposed like any others."""
    cdef Py_ssize_t nr = GEMM_NR_f32, groups = ceil_div(ks, p.b.group), s, count
    cdef float *strip
    for s in range(ceil_div(cols, nr)):
        strip = grids + s * p.grids * nr
        count = min(nr, cols - s * nr)
        pack_grid(p.b.scales, p.b.scales_row, p.b.scales_dtype, j0 + s * nr, k0 // p.b.group, count, groups, strip)
        strip += p.grids * p.ld
        pack_grid(p.b.biases, p.b.biases_row, p.b.biases_dtype, j0 + s * nr, k0 // p.b.group, count, groups, strip)


cdef void unpack_panel(const Plan *p, Py_ssize_t j0, Py_ssize_t k0, Py_ssize_t kb, Py_ssize_t cols, Py_ssize_t ks,
                       Py_ssize_t kc, const float *row, const float *grids, float *sums, float *panel) noexcept nogil:
    """The panel of a block of k of a quantized operand whose rows are lanes. With one row of A there is no panel: the
    block's share of the sums is computed at once."""
    cdef const Operand *o = &p.b
    cdef Py_ssize_t nr = GEMM_NR_f32, s, x, count
    cdef const float *scales
    cdef Ahead ahead
    ahead.words = NULL
    if cols <= nr and j0 + cols < p.n:
        # The same block's share of the next strip, which is the next to be unpacked. Its rows are one stretch of
        # memory, of which this is a part as long as the block's share of a row.
        s = (k0 + kb) // o.group
        x = min(nr, p.n - j0 - cols)
        ahead.words = o.data + ((j0 + cols) * o.sw + x * ((k0 + kb) * o.bits // 32)) * 4
        ahead.grids[0] = o.scales + ((j0 + cols) * o.scales_row + x * s) * item_size(o.scales_dtype)
        ahead.grids[1] = o.biases + ((j0 + cols) * o.biases_row + x * s) * item_size(o.biases_dtype)
        ahead.grid_step = nr * 32 * item_size(o.scales_dtype) // o.group
    for s in range(ceil_div(cols, nr)):
        scales = grids + s * p.grids * nr
        count = min(nr, cols - s * nr)
        unpack_rows(o, j0 + s * nr, k0 + kb, count, kc, k0, scales, scales + p.grids * p.ld,
                    row + kb if p.summed else NULL, panel if p.summed else panel + s * nr * kc, &ahead)
        if p.summed:
            for x in range(nr):
                sums[s * nr + x] = panel[x] if k0 + kb == 0 else sums[s * nr + x] + panel[x]


cdef void sum_strips(const Plan *p, Py_ssize_t j0, Py_ssize_t k0, Py_ssize_t kb, Py_ssize_t cols, Py_ssize_t kc,
                     const real *row, real *sums, real *part) noexcept nogil:
    """A block of k of one row of A against columns of B that are contiguous."""
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64, s, x
    cdef const char *b
    for s in range(ceil_div(cols, nr)):
        b = p.b.data + ((j0 + s * nr) * p.b.sw + k0 + kb) * item_size(p.b.dtype)
        if real is float and p.b.form != FORM_FLOATS:
            pair_dot_strip(p.b.form, b, p.b.sw, min(nr, cols - s * nr), kc, row + kb, part)
        elif real is float:
            dot_strip_f32(p.b.dtype, b, p.b.sw, min(nr, cols - s * nr), kc, row + kb, part)
        else:
            dot_strip_f64(p.b.dtype, b, p.b.sw, min(nr, cols - s * nr), kc, row + kb, part)
        for x in range(nr):
            sums[s * nr + x] = part[x] if k0 + kb == 0 else sums[s * nr + x] + part[x]


cdef void run_item(Plan *p, Py_ssize_t i0, Py_ssize_t j0, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t k0,
                   Py_ssize_t ks, const real *packed, Py_ssize_t panels, Py_ssize_t first, char *held,
                   char *own) noexcept nogil:
    """An item: rows x cols of C over ks of k. `packed` is A in blocks of k of `panels` panels each, of which the item
    starts at the `first`; `held` keeps the sums between passes over k (NULL when there is one pass)."""
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef Py_ssize_t lanes = nr // 2, ld = p.ld, ldc = p.out_rs * (2 if p.complex_out else 1)
    cdef Py_ssize_t kb = 0, kc, c, cl, steps, whole, from_panel, ip, strips, js, m, vectors, ldb, ldd, at
    cdef real *panel = <real *>own
    cdef real *sums = <real *>(own + p.panel_bytes)       # finished blocks of k, added up
    cdef real *chains = <real *>(own + p.panel_bytes + p.tile_bytes)  # the block under way, where a panel is part of it
    cdef real *turned = <real *>(own + p.panel_bytes + p.tile_bytes + p.chain_bytes)
    cdef bint last = False
    cdef int b_dtype, form = p.b.form
    cdef const real *a
    cdef const char *b
    cdef const real *init
    cdef const real *add
    cdef real *dst
    if held != NULL:
        sums = <real *>held
    if p.b.kind == QUANT_LANES:
        pack_grids(p, j0, k0, cols, ks, <float *>turned)  # no longer needed when a tile is turned
    # Columns that whole vectors cover; only those can be read or written where the matrices lie.
    whole = cols // lanes * lanes
    if whole != cols:
        whole = cols // nr * nr
    from_panel = whole if p.direct_b else 0
    while True:
        kc = min(KC, ks - kb)
        last = k0 + kb + kc == p.k
        c = 0
        while True:
            cl = min(p.kp - p.shift if c == 0 else p.kp, kc - c)
            steps = even(cl, form)
            if p.summed and p.b.kind == PLAIN:
                sum_strips(p, j0, k0, kb, cols, kc, packed, sums, panel)
                break
            if p.b.kind == QUANT_LANES:
                if real is float:
                    unpack_panel(p, j0, k0, kb, cols, ks, kc, packed, <const float *>turned, sums, panel)
                if p.summed:
                    break
            elif from_panel < cols:
                pack_operand(&p.b, j0 + from_panel, k0 + kb + c, cols - from_panel, cl, nr, nr,
                             panel + from_panel * steps)
            for ip in range(ceil_div(rows, p.mr)):
                at = c // 2 if form == FORM_JOINED else c
                a = packed + (kb * panels + (first + ip) * even(kc, form) + at) * p.sp
                m = min(p.mr, rows - ip * p.mr)
                js = 0
                while js < cols:
                    strips = 1
                    if js < from_panel:
                        b = p.b.data + ((k0 + kb + c) * p.b.sk + j0 + js) * item_size(p.b.dtype)
                        ldb = p.b.sk
                        b_dtype = p.b.dtype
                        if p.sp == 1:
                            strips = max(1, (from_panel - js) // nr)
                    else:
                        b = <const char *>(panel + js * steps)
                        ldb = nr
                        b_dtype = FLOAT32 if real is float else FLOAT64
                    at = ip * p.mr * ld + js
                    init = chains + at if c > 0 else NULL
                    add = NULL
                    ldd = ld
                    if c + cl < kc:
                        dst = chains + at
                    else:
                        if k0 + kb > 0:
                            add = sums + at
                        if last and p.direct_c and js < whole:
                            dst = <real *>p.out + (i0 + ip * p.mr) * ldc + j0 + js
                            ldd = ldc
                        else:
                            dst = sums + at
                    vectors = 2 if cols - js > lanes else 1
                    if strips > 1:
                        if real is double:
                            run_row_f64(b_dtype, strips, cl, a, b, ldb, init, add, dst)
                        elif form != FORM_FLOATS:
                            run_pair_row(form, strips, cl, a, b, ldb, init, add, dst)
                        else:
                            run_row_f32(b_dtype, strips, cl, a, b, ldb, init, add, dst)
                    elif real is double:
                        run_block_f64(b_dtype, m, vectors, cl, a, p.sp, b, ldb, init, add, ld, dst, ldd)
                    elif form != FORM_FLOATS:
                        run_pair_block(form, js < from_panel, m, vectors, cl, a, p.sp, b, ldb, init, add, ld, dst, ldd)
                    else:
                        run_block_f32(b_dtype, m, vectors, cl, a, p.sp, b, ldb, init, add, ld, dst, ldd)
                    js += strips * nr
            c += cl
            if c >= kc:
                break
        kb += kc
        if kb >= ks:
            break
    if last:
        js = whole if p.direct_c else 0
        if js < cols:
            finish_tile(p, sums + js, ld, i0, j0 + js, rows, cols - js, turned)


cdef void dot(const Plan *p, real *sum) noexcept nogil:
    """One row of A, one column of B: lanes are blocks of k, whose chains are independent, added up in order."""
    cdef real a[32 * GEMM_NR_f32]
    cdef real b[32 * GEMM_NR_f32]
    cdef real chains[GEMM_NR_f32]
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef Py_ssize_t first = 0, blocks, length, k, x
    cdef Operand va = p.a, vb = p.b
    if va.form == FORM_JOINED:
        va.form = vb.form = FORM_SPLIT  # for the same lanes
    va.sw, vb.sw = KC * va.sk, KC * vb.sk
    while first < p.k:
        # As many whole blocks as there are lanes, or the short block at the end.
        blocks = min(nr, (p.k - first) // KC)
        length = KC if blocks > 0 else p.k - first
        blocks = max(1, blocks)
        va.data = p.a.data + first * va.sk * item_size(va.dtype)
        vb.data = p.b.data + first * vb.sk * item_size(vb.dtype)
        memset(chains, 0, sizeof(chains))
        for k in range(0, length, 32):
            pack_operand(&va, 0, k, blocks, min(32, length - k), nr, nr, a)
            pack_operand(&vb, 0, k, blocks, min(32, length - k), nr, nr, b)
            if real is float:
                lane_products_f32(even(min(32, length - k), va.form), a, b, chains)
            else:
                lane_products_f64(min(32, length - k), a, b, chains)
        for x in range(blocks):
            sum[0] = chains[x] if first == 0 and x == 0 else sum[0] + chains[x]
        first += blocks * length


cdef inline Py_ssize_t take_run(Plan *p, Py_ssize_t items, Py_ssize_t *end) noexcept nogil:
    """Return the first of some items that nobody has taken, of which those before `end` are the caller's now. In runs
    of half a thread's share of what is left: long at first, short at last, so that the threads end together."""
    cdef Py_ssize_t first = count_of(&p.done)
    while True:
        end[0] = first + (max(1, (items - first) // (2 * p.threads)) if p.runs else 1)
        if replace_count(&p.done, &first, end[0]):
            return first


cdef void work(Plan *p, char *shared, real *own, bint team) noexcept nogil:
    """One thread's part of a product; the whole of it when `team` is false. `own` is its scratch memory."""
    cdef Py_ssize_t slab, i0, k0, rows, ks, panels, columns, items, item, end = 0, i, j
    cdef bint lead = not team or threadid() == 0
    cdef real *packed = <real *>shared
    cdef char *held
    if p.dot:
        dot(p, own)
        finish_row(p, own, 1, 0, 0, False)
        return
    columns = ceil_div(p.n, p.nb)
    for slab in range(ceil_div(p.m, p.ms)):
        i0 = slab * p.ms
        rows = min(p.ms, p.m - i0)
        panels = ceil_div(rows, p.mr)
        items = columns * ceil_div(rows, p.mb)
        k0 = 0
        while True:
            ks = min(p.ks, p.k - k0)
            if p.direct_a:
                packed = <real *>(p.a.data + k0 * sizeof(real))
            else:
                pack_a(p, i0, k0, rows, ks, packed)
                if team:
                    team_barrier()
            if lead:
                rewind_counter(&p.packed)
            item = take_run(p, items, &end)
            while item < items:
                i = item // columns * p.mb
                j = item % columns * p.nb
                held = NULL
                if p.held_bytes != 0:
                    held = shared + p.packed_bytes + item * p.tile_bytes
                run_item(p, i0 + i, j, min(p.mb, rows - i), min(p.nb, p.n - j), k0, ks,
                         packed, panels, i // p.mr, held, <char *>own)
                item += 1
                if item == end:
                    item = take_run(p, items, &end)
            k0 += ks
            if k0 >= p.k and i0 + p.ms >= p.m:
                return
            if team:
                team_barrier()  # nobody reads A or counts items any more
            if lead:
                rewind_counter(&p.done)
            if k0 >= p.k:
                break


# ---------------------------------------------------------------- entry points

# A batch of products: the first one's plan and, per batch axis left over, the steps in bytes from one to the next.
cdef enum:
    ARRAYS = 6

cdef struct Batch:
    Plan plan
    int axes
    Py_ssize_t count
    Py_ssize_t shape[MAX_NDIM]
    Py_ssize_t steps[ARRAYS][MAX_NDIM]   # of A, B, out, bias, scales, biases; 0 for what is absent
    bint over_batch                      # threads take whole products
    Py_ssize_t rows, slice               # a tall A is a batch of slices of its rows; 0 if it is not


cdef inline Py_ssize_t stride_of(const ArrayRef *x, int axis) noexcept nogil:
    return x.strides[axis] if x != NULL else 0


cdef void gather_batch(Batch *t, const ArrayRef **arrays) noexcept nogil:
    """Take extents from A and out, and batch axes from all. Leading axes along which nothing but A, out and the bias
    moves become rows of A where strides allow."""
    cdef const ArrayRef *a = arrays[0]
    cdef const ArrayRef *out = arrays[2]
    cdef const ArrayRef *bias = arrays[3]
    cdef Plan *p = &t.plan
    cdef int r = out.ndim - 2, axis, x
    cdef Py_ssize_t extent
    cdef bint folds = True
    memset(p, 0, sizeof(Plan))
    p.m, p.n, p.k = out.shape[r], out.shape[r + 1], a.shape[r + 1]
    p.a = plain(a.data, a.strides[r], a.strides[r + 1], a.dtype)
    p.out, p.out_rs, p.out_cs, p.out_dtype = out.data, out.strides[r], out.strides[r + 1], out.dtype
    p.complex_out = out.dtype == COMPLEX64
    p.alpha = 1
    if bias != NULL:
        p.bias, p.bias_rs, p.bias_cs, p.bias_dtype = bias.data, bias.strides[r], bias.strides[r + 1], bias.dtype
    t.axes = 0
    t.count = 1
    for axis in range(r - 1, -1, -1):
        extent = out.shape[axis]
        if extent == 1:
            continue
        if folds:
            if p.m == 1:  # a row's stride means nothing yet
                p.a.sw, p.out_rs, p.bias_rs = a.strides[axis], out.strides[axis], stride_of(bias, axis)
            folds = (stride_of(arrays[1], axis) == 0 and stride_of(arrays[4], axis) == 0
                     and stride_of(arrays[5], axis) == 0 and a.strides[axis] == p.a.sw * p.m
                     and out.strides[axis] == p.out_rs * p.m and stride_of(bias, axis) == p.bias_rs * p.m)
            if folds:
                p.m *= extent
                continue
        t.shape[t.axes] = extent
        for x in range(ARRAYS):
            t.steps[x][t.axes] = stride_of(arrays[x], axis) * item_size(arrays[x].dtype) if arrays[x] != NULL else 0
        t.axes += 1
        t.count *= extent


cdef void share_out(Batch *t, int threads) noexcept nogil:
    """Plan the products, and decide whether threads share each product or take whole ones."""
    cdef Plan *p = &t.plan
    cdef double flops = 2.0 * p.m * p.n * p.k
    cdef int axis
    threads = max(1, threads)
    t.rows = t.slice = 0
    if p.m >= 2048 and p.n <= 256 and p.m >= 16 * p.n and t.axes < MAX_NDIM and (p.n > GEMM_NR_f32 // 4
                                                                                 or p.complex_out):
        # So many rows that packing all of A for threads to share would stream it through memory twice.
        t.rows, t.slice = p.m, 32 * GEMM_MR
        p.m = t.slice
        t.shape[t.axes] = ceil_div(t.rows, t.slice)
        for axis in range(ARRAYS):
            t.steps[axis][t.axes] = 0
        t.steps[0][t.axes] = t.slice * p.a.sw * item_size(p.a.dtype)
        t.steps[2][t.axes] = t.slice * p.out_rs * item_size(p.out_dtype)
        t.steps[3][t.axes] = t.slice * p.bias_rs * item_size(p.bias_dtype)
        t.count *= t.shape[t.axes]
        t.axes += 1
        flops = 2.0 * p.m * p.n * p.k
    t.over_batch = t.count > 1 and (t.count >= 4 * threads or flops < SMALL_BATCH_FLOPS)
    p.threads = 1 if t.over_batch else threads
    make_plan(p)
    if p.swapped:
        for axis in range(t.axes):
            t.steps[0][axis], t.steps[1][axis] = t.steps[1][axis], t.steps[0][axis]
    if t.over_batch and t.count * flops > 2e6:
        p.threads = <int>min(<Py_ssize_t>threads, t.count)


cdef void describe(Batch *t, const MatmulArgs *args) noexcept nogil:
    cdef const ArrayRef *b = args.b
    cdef const ArrayRef *arrays[ARRAYS]
    cdef Plan *p = &t.plan
    cdef int r = b.ndim - 2
    arrays[0], arrays[1], arrays[2], arrays[3] = args.a, b, args.out, args.bias if args.beta != 0 else NULL
    arrays[4] = arrays[5] = NULL
    gather_batch(t, arrays)
    p.b = plain(b.data, b.strides[r + 1], b.strides[r], b.dtype)
    p.alpha, p.beta = args.alpha, args.beta
    if p.complex_out:
        # A real product of twice the columns and k: (re, im) of A against rows (re, im) and (-im, re) of B.
        p.n *= 2
        p.k *= 2
        if p.a.dtype == COMPLEX64 and p.a.sk == 1:
            p.a = plain(p.a.data, 2 * p.a.sw, 1, FLOAT32)
        else:
            p.a.kind = COMPLEX_A
        p.b.kind = COMPLEX_B
    share_out(t, args.threads)


cdef void describe_quantized(Batch *t, const QuantizedMatmulArgs *args) noexcept nogil:
    cdef const ArrayRef *arrays[ARRAYS]
    cdef Operand *b = &t.plan.b
    cdef int r = args.w.ndim - 2
    arrays[0], arrays[1], arrays[2], arrays[3] = args.x, args.w, args.out, NULL
    arrays[4], arrays[5] = args.scales, args.biases
    gather_batch(t, arrays)
    if args.transpose:
        b[0] = plain(args.w.data, args.w.strides[r], 1, FLOAT32)
        b.kind = QUANT_LANES
    else:
        b[0] = plain(args.w.data, 1, args.w.strides[r], FLOAT32)
        b.kind = QUANT_STEPS
    b.bits, b.group = args.bits, args.group_size
    b.scales, b.scales_row, b.scales_dtype = args.scales.data, args.scales.strides[r], args.scales.dtype
    b.biases, b.biases_row, b.biases_dtype = args.biases.data, args.biases.strides[r], args.biases.dtype
    share_out(t, args.threads)


cdef inline size_t own_bytes(const Plan *p) noexcept nogil:
    return p.panel_bytes + p.tile_bytes + p.chain_bytes + p.turned_bytes


cdef size_t scratch_bytes(const Batch *t) noexcept nogil:
    cdef const Plan *p = &t.plan
    cdef size_t shared = p.packed_bytes + p.held_bytes
    cdef size_t own = own_bytes(p)
    return p.threads * (shared + own) if t.over_batch else shared + p.threads * own


cdef Plan locate(const Batch *t, Py_ssize_t product) noexcept nogil:
    cdef Plan p = t.plan
    cdef Py_ssize_t at
    cdef int axis
    for axis in range(t.axes):
        at = product % t.shape[axis]
        product = product // t.shape[axis]
        if t.slice and axis == t.axes - 1:
            p.m = min(t.slice, t.rows - at * t.slice)
        p.a.data += at * t.steps[0][axis]
        p.b.data += at * t.steps[1][axis]
        p.out += at * t.steps[2][axis]
        if p.bias != NULL:
            p.bias += at * t.steps[3][axis]
        if p.b.scales != NULL:
            p.b.scales += at * t.steps[4][axis]
            p.b.biases += at * t.steps[5][axis]
    return p


cdef void run(Plan *p, char *shared, char *own, bint team) noexcept nogil:
    cdef uint64_t mode
    if p.out_dtype == FLOAT64:
        work(p, shared, <double *>own, team)
    elif p.b.form != FORM_FLOATS:
        mode = flush_subnormals()
        work(p, shared, <float *>own, team)
        restore_mode(mode)
    else:
        work(p, shared, <float *>own, team)


cdef void run_products(const Batch *t, Py_ssize_t *next_product, char *scratch) noexcept nogil:
    """Compute products of the batch, each on this thread alone, until none is left."""
    cdef Plan p
    cdef Py_ssize_t product = take(next_product)
    while product < t.count:
        p = locate(t, product)
        run(&p, scratch, scratch + p.packed_bytes + p.held_bytes, False)
        product = take(next_product)


cdef int run_batch(Batch *t, char *workspace) noexcept nogil:
    cdef Plan p
    cdef char small[STACK_BYTES + 64]
    cdef char *scratch = workspace
    cdef char *block = NULL
    cdef size_t shared, own, size = scratch_bytes(t)
    cdef Py_ssize_t product = 0
    shared = t.plan.packed_bytes + t.plan.held_bytes
    own = own_bytes(&t.plan)
    if scratch == NULL:
        if size <= STACK_BYTES:
            scratch = small
        else:
            block = <char *>malloc(size + 64)
            if block == NULL:
                return -1
            scratch = block
        scratch += -<uintptr_t>scratch & 63
    if t.over_batch:
        if t.plan.threads == 1:
            run_products(t, &product, scratch)
        else:
            with parallel(num_threads=team_of(t.plan.threads)):
                run_products(t, &product, scratch + threadid() * (shared + own))
    else:
        for product in range(t.count):
            p = locate(t, product)
            if p.threads == 1:
                run(&p, scratch, scratch + shared, False)
            else:
                with parallel(num_threads=team_of(p.threads)):
                    run(&p, scratch, scratch + shared + threadid() * own, True)
    free(block)
    return 0


cdef int matmul(const MatmulArgs *args) noexcept nogil:
    cdef Batch t
    if args.out.size == 0:
        return 0
    describe(&t, args)
    return run_batch(&t, args.workspace)


cdef size_t matmul_workspace(const MatmulArgs *args) noexcept nogil:
    cdef Batch t
    if args.out.size == 0:
        return 0
    describe(&t, args)
    return scratch_bytes(&t)


cdef int quantized_matmul(const QuantizedMatmulArgs *args) noexcept nogil:
    cdef Batch t
    if args.out.size == 0:
        return 0
    describe_quantized(&t, args)
    return run_batch(&t, args.workspace)


cdef size_t quantized_matmul_workspace(const QuantizedMatmulArgs *args) noexcept nogil:
    cdef Batch t
    if args.out.size == 0:
        return 0
    describe_quantized(&t, args)
    return scratch_bytes(&t)


# ---------------------------------------------------------------- quantize and dequantize

cdef enum:
    MAX_GROUP = 128

cdef inline Py_ssize_t row_offset(const ArrayRef *x, Py_ssize_t row) noexcept nogil:
    """Offset in elements of row number `row` in row-major order of the leading axes."""
    cdef Py_ssize_t offset = 0
    cdef int axis
    for axis in range(x.ndim - 2, -1, -1):
        offset += row % x.shape[axis] * x.strides[axis]
        row = row // x.shape[axis]
    return offset


cdef void quantize_group(const float *x, Py_ssize_t n, int bits, float *scale, float *bias,
                         uint32_t *words) noexcept nogil:
    """Upstream's affine rule: the end of the range further from zero is represented exactly, zero if q allows it."""
    cdef float low = x[0], high = x[0], step, top = (1 << bits) - 1, at_zero, q
    cdef uint64_t pending = 0
    cdef int held = 0
    cdef Py_ssize_t i, word = 0
    for i in range(n):
        low = x[i] if x[i] < low else low
        high = x[i] if x[i] > high else high
    step = (high - low) / top
    step = step if step > <float>1e-7 else <float>1e-7
    if bits == 1:
        bias[0] = low
    else:
        if fabsf(low) <= fabsf(high):
            step = -step
            low = high
        at_zero = rintf(low / step)
        bias[0] = 0
        if at_zero != 0:
            step = low / at_zero
            bias[0] = low
    scale[0] = step
    for i in range(n):
        q = rintf((x[i] - bias[0]) / step)
        q = q if q > 0 else 0  # NaN too
        q = q if q < top else top
        pending |= <uint64_t>q << held
        held += bits
        if held >= 32:
            words[word] = <uint32_t>pending
            word += 1
            pending >>= 32
            held -= 32


cdef void quantize_rows(const QuantizeArgs *args, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef const ArrayRef *x = args.x
    cdef Py_ssize_t n = x.shape[x.ndim - 1], step = x.strides[x.ndim - 1], group = args.group_size
    cdef Py_ssize_t row, g, groups = n // group, words = group * args.bits // 32, item = item_size(x.dtype), at
    cdef float buffer[MAX_GROUP]
    cdef float scale = 0, bias = 0
    for row in range(first, last):
        for g in range(groups):
            row_to_f32(x.dtype, x.data + (row_offset(x, row) + g * group * step) * item, step, group, buffer)
            at = row * groups + g
            quantize_group(buffer, group, args.bits, &scale, &bias, <uint32_t *>args.w.data + at * words)
            f32_to_row(args.scales.dtype, args.scales.data + at * item_size(args.scales.dtype), 1, 1, &scale)
            f32_to_row(args.biases.dtype, args.biases.data + at * item_size(args.biases.dtype), 1, 1, &bias)


cdef void dequantize_rows(const QuantizeArgs *args, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """scale * q and its sum with the bias are each rounded to the result's dtype, as upstream does."""
    cdef const ArrayRef *x = args.x
    cdef const ArrayRef *w = args.w
    cdef const ArrayRef *scales = args.scales
    cdef const ArrayRef *biases = args.biases
    cdef Py_ssize_t n = x.shape[x.ndim - 1], group = args.group_size, groups = n // group, row, g, i, k
    cdef Py_ssize_t item = item_size(x.dtype), step = scales.strides[scales.ndim - 1]
    cdef Py_ssize_t words = group * args.bits // 32, bias_step = biases.strides[biases.ndim - 1]
    cdef float buffer[MAX_GROUP]
    cdef char rounded[MAX_GROUP * 4]
    cdef float scale = 0, bias = 0
    cdef uint64_t pending
    cdef uint32_t mask = (1 << args.bits) - 1
    cdef int held
    cdef const uint32_t *word
    for row in range(first, last):
        for g in range(groups):
            row_to_f32(scales.dtype, scales.data + (row_offset(scales, row) + g * step) * item_size(scales.dtype),
                       1, 1, &scale)
            row_to_f32(biases.dtype, biases.data + (row_offset(biases, row) + g * bias_step)
                       * item_size(biases.dtype), 1, 1, &bias)
            word = <const uint32_t *>w.data + row_offset(w, row) + g * words
            pending = 0
            held = 0
            k = 0
            for i in range(group):
                if held < args.bits:
                    pending |= <uint64_t>word[k] << held
                    k += 1
                    held += 32
                buffer[i] = <float>(<int>(<uint32_t>pending & mask))
                pending >>= args.bits
                held -= args.bits
            for i in range(group):
                buffer[i] = scale * buffer[i]
            if x.dtype != FLOAT32:
                f32_to_row(x.dtype, rounded, 1, group, buffer)
                row_to_f32(x.dtype, rounded, 1, group, buffer)
            for i in range(group):
                buffer[i] = buffer[i] + bias
            f32_to_row(x.dtype, x.data + (row * n + g * group) * item, 1, group, buffer)


cdef void over_rows(const QuantizeArgs *args, bint inverse) noexcept nogil:
    cdef Py_ssize_t n = args.x.shape[args.x.ndim - 1], rows, share, thread, threads
    if args.x.size == 0:
        return
    rows = args.x.size // n
    # Some 3 ns an element; a thread pays from 20 us of work.
    threads = max(1, min(<Py_ssize_t>args.threads, args.x.size // 8192, rows))
    share = ceil_div(rows, threads)
    for thread in prange(threads, num_threads=team_of(<int>threads), schedule="static", chunksize=1,
                         use_threads_if=threads > 1):
        if inverse:
            dequantize_rows(args, min(rows, thread * share), min(rows, (thread + 1) * share))
        else:
            quantize_rows(args, min(rows, thread * share), min(rows, (thread + 1) * share))


cdef void quantize(const QuantizeArgs *args) noexcept nogil:
    over_rows(args, False)


cdef void dequantize(const QuantizeArgs *args) noexcept nogil:
    over_rows(args, True)


cdef MatmulTable TABLE
TABLE.matmul = matmul
TABLE.matmul_workspace = matmul_workspace
TABLE.quantized_matmul = quantized_matmul
TABLE.quantized_matmul_workspace = quantized_matmul_workspace
TABLE.quantize = quantize
TABLE.dequantize = dequantize
table = PyCapsule_New(&TABLE, "mlxr.cpu.matmul", NULL)
