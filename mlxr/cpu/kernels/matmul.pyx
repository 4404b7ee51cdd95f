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
from cython.parallel cimport parallel, threadid
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from mlxr.core.abi cimport ArrayRef, BFLOAT16, COMPLEX64, FLOAT16, FLOAT32, FLOAT64, MAX_NDIM

cdef extern from "microkernel.h" nogil:
    enum:
        GEMM_MR
        GEMM_SP
        GEMM_NR_f32
        GEMM_NR_f64
    void run_block_f32(int dtype, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t kc, const float *a, Py_ssize_t lda,
                       const char *b, Py_ssize_t ldb, const float *init, const float *add, Py_ssize_t ldt, float *dst,
                       Py_ssize_t ldd) noexcept
    void run_block_f64(int dtype, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t kc, const double *a, Py_ssize_t lda,
                       const char *b, Py_ssize_t ldb, const double *init, const double *add, Py_ssize_t ldt,
                       double *dst, Py_ssize_t ldd) noexcept
    void pack_f32(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, float *dst) noexcept
    void pack_f64(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, double *dst) noexcept
    void row_to_f32(int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, float *dst) noexcept
    void row_to_f64(int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, double *dst) noexcept
    void f32_to_row(int dtype, char *dst, Py_ssize_t stride, Py_ssize_t n, const float *src) noexcept
    void f64_to_row(int dtype, char *dst, Py_ssize_t stride, Py_ssize_t n, const double *src) noexcept
    float fma1_f32(float a, float b, float c) noexcept
    double fma1_f64(double a, double b, double c) noexcept

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
    """
    void team_barrier() noexcept nogil
    Py_ssize_t take(Py_ssize_t *counter) noexcept nogil
    void rewind_counter(Py_ssize_t *counter) noexcept nogil

ctypedef fused real:
    float
    double

cdef enum:
    KC = MATMUL_KC
    A_BUDGET = 16 << 20      # bytes of packed A at a time: larger packs repack B less often
    K_PASS = 16 * KC         # k packed at a time: beyond it, sums wait in memory between passes
    GROUP = 8                # panels of A that one thread packs together
    STACK_BYTES = 32 << 10   # problems whose scratch fits here need no workspace
    SMALL_BATCH_FLOPS = 1 << 22

# How an operand's elements become real numbers.
cdef enum:
    PLAIN        # element (w, k) at data + (w * sw + k * sk) * itemsize
    COMPLEX_A    # w real rows, k runs over re, im, re, im, ...
    COMPLEX_B    # w runs over re, im, ...; step 2k holds (re, im) pairs, step 2k + 1 holds (-im, re)

# One side of the product. w counts rows of A or columns of B, in real numbers, as k does.
cdef struct Operand:
    const char *data
    Py_ssize_t sw, sk    # in elements of dtype
    int dtype
    int kind

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
    Py_ssize_t shift     # by which the first piece of a block is shorter, for the others to start at cache lines
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


cdef inline Py_ssize_t item_size(int dtype) noexcept nogil:
    return 8 if dtype == FLOAT64 or dtype == COMPLEX64 else 4 if dtype == FLOAT32 else 2


# ---------------------------------------------------------------- planning

cdef void make_plan(Plan *p) noexcept nogil:
    """Choose the cuts. Nothing chosen here changes a bit of the result."""
    cdef Operand side
    cdef Py_ssize_t nr, size, panels, budget, m, n, k, parts, target
    cdef bint wide, in_place, native_out, native_b
    cdef double seconds, flops, streamed
    wide = p.out_dtype == FLOAT64
    nr = GEMM_NR_f64 if wide else GEMM_NR_f32
    size = 8 if wide else 4

    # Lanes run along the columns. A few columns under many rows (a matrix-vector product) would leave them empty, so
    # such a product is computed as its transpose. Complex chains are not symmetric and stay as they are.
    if p.m > p.n and p.n <= 256 and not p.complex_out:
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
    streamed = <double>n * k * item_size(p.b.dtype)
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
    native_b = p.b.dtype == (FLOAT64 if wide else FLOAT32)
    in_place = p.b.kind == PLAIN and p.b.sw == 1
    p.direct_c = native_out and p.out_cs == 1 and p.alpha == 1 and p.bias == NULL
    p.mb = p.ms
    if m > 3 * GEMM_MR:
        p.nb, p.kp = 128, KC
        p.direct_b = in_place and native_b and k * n * size <= 32 << 10
        target = 4 * p.threads
    elif in_place and k > 1:
        # Rows of B are long: few at a time, so that the hardware follows a handful of streams.
        p.nb, p.kp = 4096, 8 if m <= 2 else 16
        p.direct_b = native_b or (m <= GEMM_MR and not wide)
        target = p.threads
    else:
        # Columns of B are long: one strip of them, transposed piece by piece into the L1 cache.
        p.nb, p.kp = nr, 128
        if p.b.sk == 1 and k > p.kp and <uintptr_t>p.b.data % item_size(p.b.dtype) == 0:
            p.shift = (<uintptr_t>p.b.data & 63) // item_size(p.b.dtype)
        target = 4 * p.threads
    p.kp = min(p.kp, max(1, k))
    p.nb = min(p.nb, round_up(n, nr))
    if p.threads > 1:
        while p.nb > 2 * nr and ceil_div(n, p.nb) < target:
            p.nb = round_up(p.nb // 2, nr)
        parts = ceil_div(target, 2 * ceil_div(n, p.nb))
        if parts > 1:
            p.mb = min(p.ms, round_up(ceil_div(p.ms, parts), p.mr))

    p.ld = round_up(p.nb, nr)
    p.packed_bytes = round_up(ceil_div(p.ms, p.mr) * p.sp * p.ks * size, 64)
    p.panel_bytes = round_up(p.kp * p.ld * size, 64)
    p.tile_bytes = p.chain_bytes = p.turned_bytes = p.held_bytes = 0
    if not p.direct_c or k > KC or n % (nr // 2) != 0:
        p.tile_bytes = round_up(p.mb * p.ld * size, 64)
    if p.kp - p.shift < min(k, KC):
        p.chain_bytes = round_up(p.mb * p.ld * size, 64)
    if p.out_rs == 1 and m > 1 and not p.complex_out:
        p.turned_bytes = round_up(round_up(p.mb, GEMM_SP) * p.ld * size, 64)
    if p.ks < k:
        p.held_bytes = ceil_div(n, p.nb) * ceil_div(p.ms, p.mb) * p.tile_bytes


# ---------------------------------------------------------------- packing

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
            if width == 1:
                row_to_f32(o.dtype, src, o.sk, nk, dst)
            else:
                pack_f32(o.dtype, src, o.sw, o.sk, nw, nk, per, width, dst)
        else:
            if width == 1:
                row_to_f64(o.dtype, src, o.sk, nk, dst)
            else:
                pack_f64(o.dtype, src, o.sw, o.sk, nw, nk, per, width, dst)
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
                     packed + kb * panels * p.sp + first * kc * p.sp)
        unit = take(&p.packed)


cdef void run_item(Plan *p, Py_ssize_t i0, Py_ssize_t j0, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t k0,
                   Py_ssize_t ks, const real *packed, Py_ssize_t panels, Py_ssize_t first, char *held,
                   char *own) noexcept nogil:
    """An item: rows x cols of C over ks of k. `packed` is A in blocks of k of `panels` panels each, of which the item
    starts at the `first`; `held` keeps the sums between passes over k (NULL when there is one pass)."""
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef Py_ssize_t lanes = nr // 2, ld = p.ld, ldc = p.out_rs * (2 if p.complex_out else 1)
    cdef Py_ssize_t kb = 0, kc, c, cl, whole, from_panel, ip, strip, js, m, vectors, ldb, ldd, at
    cdef real *panel = <real *>own
    cdef real *sums = <real *>(own + p.panel_bytes)       # finished blocks of k, added up
    cdef real *chains = <real *>(own + p.panel_bytes + p.tile_bytes)  # the block under way, where a panel is part of it
    cdef real *turned = <real *>(own + p.panel_bytes + p.tile_bytes + p.chain_bytes)
    cdef bint last = False
    cdef int b_dtype
    cdef const real *a
    cdef const char *b
    cdef const real *init
    cdef const real *add
    cdef real *dst
    if held != NULL:
        sums = <real *>held
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
            if from_panel < cols:
                pack_operand(&p.b, j0 + from_panel, k0 + kb + c, cols - from_panel, cl, nr, nr,
                             panel + from_panel * cl)
            for ip in range(ceil_div(rows, p.mr)):
                a = packed + (kb * panels + (first + ip) * kc + c) * p.sp
                m = min(p.mr, rows - ip * p.mr)
                for strip in range(ceil_div(cols, nr)):
                    js = strip * nr
                    if js < from_panel:
                        b = p.b.data + ((k0 + kb + c) * p.b.sk + j0 + js) * item_size(p.b.dtype)
                        ldb = p.b.sk
                        b_dtype = p.b.dtype
                    else:
                        b = <const char *>(panel + js * cl)
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
                    if real is float:
                        run_block_f32(b_dtype, m, vectors, cl, a, p.sp, b, ldb, init, add, ld, dst, ldd)
                    else:
                        run_block_f64(b_dtype, m, vectors, cl, a, p.sp, b, ldb, init, add, ld, dst, ldd)
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


cdef void work(Plan *p, char *shared, char *own, bint team, real *tag) noexcept nogil:
    """One thread's part of a product; the whole of it when `team` is false."""
    cdef Py_ssize_t slab, i0, k0, rows, ks, panels, columns, items, item, i, j
    cdef bint lead = not team or threadid() == 0
    cdef real *packed = <real *>shared
    cdef char *held
    columns = ceil_div(p.n, p.nb)
    for slab in range(ceil_div(p.m, p.ms)):
        i0 = slab * p.ms
        rows = min(p.ms, p.m - i0)
        panels = ceil_div(rows, p.mr)
        items = columns * ceil_div(rows, p.mb)
        k0 = 0
        while True:
            ks = min(p.ks, p.k - k0)
            pack_a(p, i0, k0, rows, ks, packed)
            if team:
                team_barrier()
            if lead:
                rewind_counter(&p.packed)
            item = take(&p.done)
            while item < items:
                i = item // columns * p.mb
                j = item % columns * p.nb
                held = NULL
                if p.held_bytes != 0:
                    held = shared + p.packed_bytes + item * p.tile_bytes
                run_item(p, i0 + i, j, min(p.mb, rows - i), min(p.nb, p.n - j), k0, ks,
                         packed, panels, i // p.mr, held, own)
                item = take(&p.done)
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

# A batch of products: the first one's plan and the steps from one to the next along the batch axes left over.
cdef struct Batch:
    Plan plan
    int axes
    Py_ssize_t count
    Py_ssize_t shape[MAX_NDIM]
    Py_ssize_t a[MAX_NDIM]       # in bytes, as are the others
    Py_ssize_t b[MAX_NDIM]
    Py_ssize_t out[MAX_NDIM]
    Py_ssize_t bias[MAX_NDIM]
    bint over_batch              # threads take whole products


cdef void describe(Batch *t, const MatmulArgs *args) noexcept nogil:
    """Plan the products of a batch. Leading axes over which B does not change become rows of A where strides allow."""
    cdef const ArrayRef *a = args.a
    cdef const ArrayRef *b = args.b
    cdef const ArrayRef *out = args.out
    cdef const ArrayRef *bias = args.bias if args.beta != 0 else NULL
    cdef Plan *p = &t.plan
    cdef int r = out.ndim - 2, axis, kept
    cdef Py_ssize_t extent
    cdef bint folds = True
    cdef double flops
    memset(p, 0, sizeof(Plan))
    p.m, p.n, p.k = out.shape[r], out.shape[r + 1], a.shape[r + 1]
    p.a = Operand(a.data, a.strides[r], a.strides[r + 1], a.dtype, PLAIN)
    p.b = Operand(b.data, b.strides[r + 1], b.strides[r], b.dtype, PLAIN)
    p.out, p.out_rs, p.out_cs, p.out_dtype = out.data, out.strides[r], out.strides[r + 1], out.dtype
    p.alpha, p.beta = args.alpha, args.beta
    p.complex_out = out.dtype == COMPLEX64
    if bias != NULL:
        p.bias, p.bias_rs, p.bias_cs, p.bias_dtype = bias.data, bias.strides[r], bias.strides[r + 1], bias.dtype

    t.axes = 0
    t.count = 1
    for axis in range(r - 1, -1, -1):
        extent = out.shape[axis]
        if extent == 1:
            continue
        if folds and p.m == 1:
            folds = b.strides[axis] == 0
            if folds:
                p.m, p.a.sw, p.out_rs = extent, a.strides[axis], out.strides[axis]
                p.bias_rs = bias.strides[axis] if bias != NULL else 0
                continue
        elif folds:
            folds = (b.strides[axis] == 0 and a.strides[axis] == p.a.sw * p.m and out.strides[axis] == p.out_rs * p.m
                     and (bias == NULL or bias.strides[axis] == p.bias_rs * p.m))
            if folds:
                p.m *= extent
                continue
        kept = t.axes
        t.shape[kept] = extent
        t.a[kept] = a.strides[axis] * item_size(a.dtype)
        t.b[kept] = b.strides[axis] * item_size(b.dtype)
        t.out[kept] = out.strides[axis] * item_size(out.dtype)
        t.bias[kept] = bias.strides[axis] * item_size(bias.dtype) if bias != NULL else 0
        t.axes += 1
        t.count *= extent

    if p.complex_out:
        # A real product of twice the columns and k: (re, im) of A against rows (re, im) and (-im, re) of B.
        p.n *= 2
        p.k *= 2
        if p.a.dtype == COMPLEX64 and p.a.sk == 1:
            p.a = Operand(p.a.data, 2 * p.a.sw, 1, FLOAT32, PLAIN)
        else:
            p.a.kind = COMPLEX_A
        p.b.kind = COMPLEX_B

    flops = 2.0 * p.m * p.n * p.k
    t.over_batch = t.count > 1 and (t.count >= 4 * args.threads or flops < SMALL_BATCH_FLOPS)
    p.threads = 1 if t.over_batch else max(1, args.threads)
    make_plan(p)
    if p.swapped:
        for axis in range(t.axes):
            t.a[axis], t.b[axis] = t.b[axis], t.a[axis]
    if t.over_batch and t.count * flops > 2e6:
        p.threads = <int>min(<Py_ssize_t>args.threads, t.count)


cdef size_t scratch_bytes(const Batch *t) noexcept nogil:
    cdef const Plan *p = &t.plan
    cdef size_t shared = p.packed_bytes + p.held_bytes
    cdef size_t own = p.panel_bytes + p.tile_bytes + p.chain_bytes + p.turned_bytes
    return p.threads * (shared + own) if t.over_batch else shared + p.threads * own


cdef Plan locate(const Batch *t, Py_ssize_t product) noexcept nogil:
    cdef Plan p = t.plan
    cdef Py_ssize_t at
    cdef int axis
    for axis in range(t.axes):
        at = product % t.shape[axis]
        product = product // t.shape[axis]
        p.a.data += at * t.a[axis]
        p.b.data += at * t.b[axis]
        p.out += at * t.out[axis]
        if p.bias != NULL:
            p.bias += at * t.bias[axis]
    return p


cdef void run(Plan *p, char *shared, char *own, bint team) noexcept nogil:
    if p.out_dtype == FLOAT64:
        work[double](p, shared, own, team, NULL)
    else:
        work[float](p, shared, own, team, NULL)


cdef void run_products(const Batch *t, Py_ssize_t *next_product, char *scratch) noexcept nogil:
    """Compute products of the batch, each on this thread alone, until none is left."""
    cdef Plan p
    cdef Py_ssize_t product = take(next_product)
    while product < t.count:
        p = locate(t, product)
        run(&p, scratch, scratch + p.packed_bytes + p.held_bytes, False)
        product = take(next_product)


cdef int matmul(const MatmulArgs *args) noexcept nogil:
    cdef Batch t
    cdef Plan p
    cdef char small[STACK_BYTES + 64]
    cdef char *scratch = args.workspace
    cdef char *block = NULL
    cdef size_t bytes, shared, own
    cdef Py_ssize_t product = 0
    if args.out.size == 0:
        return 0
    describe(&t, args)
    shared = t.plan.packed_bytes + t.plan.held_bytes
    own = t.plan.panel_bytes + t.plan.tile_bytes + t.plan.chain_bytes + t.plan.turned_bytes
    bytes = scratch_bytes(&t)
    if scratch == NULL:
        if bytes <= STACK_BYTES:
            scratch = small
        else:
            block = <char *>malloc(bytes + 64)
            if block == NULL:
                return -1
            scratch = block
        scratch += -<uintptr_t>scratch & 63
    if t.over_batch:
        if t.plan.threads == 1:
            run_products(&t, &product, scratch)
        else:
            with parallel(num_threads=t.plan.threads):
                run_products(&t, &product, scratch + threadid() * (shared + own))
    else:
        for product in range(t.count):
            p = locate(&t, product)
            if p.threads == 1:
                run(&p, scratch, scratch + shared, False)
            else:
                with parallel(num_threads=p.threads):
                    run(&p, scratch, scratch + shared + threadid() * own, True)
    free(block)
    return 0


cdef size_t workspace_size(const MatmulArgs *args) noexcept nogil:
    cdef Batch t
    if args.out.size == 0:
        return 0
    describe(&t, args)
    return scratch_bytes(&t)


cdef MatmulTable TABLE
TABLE.matmul = matmul
TABLE.workspace_size = workspace_size
table = PyCapsule_New(&TABLE, "mlxr.cpu.matmul", NULL)
