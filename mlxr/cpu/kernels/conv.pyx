# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Convolution kernels: implicit GEMM around the micro-kernel of matmul, and a direct path for depthwise convolution.

conv.pxd has the definition, the order of operations and the recipes for gradients. This module must not know of Python
objects, tensors or allocators.

Implicit GEMM: outputs along the last spatial axis are the rows of A, output channels the columns of B, and
k = (tap, channel) the contraction. The weights are packed once. A unit of work is a handful of output rows; for it,
input rows are turned once into lanes of neighbouring positions (converting the dtype), and every tap's panel is copied
from such a row at a shift. Input dilation and stride are resolved by phases: outputs P apart see the same taps, and
read input positions q apart, so no product with an inserted zero is made. What limits it: the micro-kernel's
multiply-adds, as long as there are 16 or so output channels.

Depthwise (one channel per group in and out): lanes are channels; it is limited by reading the rows from the L2 cache.
"""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport parallel, threadid
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mlxr.core.abi cimport FLOAT32, FLOAT64, MAX_NDIM, ArrayRef
from mlxr.cpu.kernels.conv cimport ConvArgs, ConvTable
from mlxr.cpu.kernels.matmul cimport MATMUL_KC

cdef extern from "microkernel.h" nogil:
    enum:
        GEMM_MR
        GEMM_SP
        GEMM_NR_f32
        GEMM_NR_f64
    ctypedef void (*block_fn_f32)(Py_ssize_t, const float *, Py_ssize_t, const float *, Py_ssize_t, const float *,
                                  const float *, Py_ssize_t, float *, Py_ssize_t) noexcept
    ctypedef void (*block_fn_f64)(Py_ssize_t, const double *, Py_ssize_t, const double *, Py_ssize_t, const double *,
                                  const double *, Py_ssize_t, double *, Py_ssize_t) noexcept
    const block_fn_f32 blocks_f32[1][2]
    const block_fn_f64 blocks_f64[1][2]
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
    /* Orphaned directive: it binds to the parallel region that the caller is in. */
    static inline void conv_barrier(void) {
    #pragma omp barrier
    }
    static inline Py_ssize_t conv_take(Py_ssize_t *counter) {
        return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    }
    """
    void conv_barrier() noexcept nogil
    Py_ssize_t conv_take(Py_ssize_t *counter) noexcept nogil

ctypedef fused real:
    float
    double

cdef enum:
    KC = MATMUL_KC
    UNIT_PIXELS = 112           # outputs per unit: amortizes the weights' way from the L3 cache
    UNIT_ROWS = 32              # output rows per unit
    ROW_BUDGET = 256 << 10      # bytes of turned input rows that a thread keeps
    CHANNELS = 64               # depthwise: channels that are summed at a time
    SERIAL_FLOPS = 1 << 21      # below this, one thread

# One tap along the last axis, in one phase: which, and where output 0 of the phase reads: position `residue` + q *
# shift.
cdef struct Tap:
    Py_ssize_t index
    Py_ssize_t subrow           # number of the residue among those of the phase
    Py_ssize_t shift

# A row of outputs in a unit.
cdef struct Row:
    Py_ssize_t out              # element offset of its first output
    Py_ssize_t outer            # number of outer taps that fall inside the input
    Py_ssize_t first_block, last_block      # blocks of k that hold its first and last valid tap; last < 0: none
    Py_ssize_t runs             # in the block under way

# Consecutive k for which a row has products.
cdef struct Run:
    Py_ssize_t k, n

cdef struct Plan:
    const ConvArgs *args
    int axes                    # spatial
    int dtype
    Py_ssize_t size             # bytes of an element of x, w, out
    Py_ssize_t images, cin, cout        # N; channels of a group
    Py_ssize_t groups, taps, outer_taps, inner_taps, k
    Py_ssize_t in_last, out_last, rows          # extents of the last axis; rows: N * outer output positions
    Py_ssize_t phases, q        # outputs `phases` apart read inputs q apart
    # cuts
    Py_ssize_t strips           # of output channels in a group
    Py_ssize_t strip_parts      # into which the strips are divided among units
    Py_ssize_t chunk            # outputs of a row in a unit
    Py_ssize_t unit_rows
    Py_ssize_t row_units, chunks        # per phase, from the longest one
    Py_ssize_t units
    Py_ssize_t width            # lanes of a turned sub-row
    Py_ssize_t slots            # turned rows kept
    Py_ssize_t ld               # lanes of a row of sums
    bint direct                 # full results are stored by the micro-kernel
    int threads
    # memory, bytes
    Py_ssize_t weight_bytes, row_bytes, panel_bytes, sums_bytes, list_bytes
    # progress, shared by the team
    Py_ssize_t packed, done

# A thread's buffers.
cdef struct Own:
    char *rows                  # `slots` turned rows: [sub-row][channel][lane]
    Py_ssize_t *tags            # which input row each slot holds
    char *panels
    char *sums
    char *chains
    Tap *inner                  # taps along the last axis that the phase sees
    Py_ssize_t inner_count
    Py_ssize_t *residues        # of its sub-rows
    Py_ssize_t subrows
    Py_ssize_t low              # the smallest shift
    Py_ssize_t *outer_index     # per row of the unit: outer taps that fall inside,
    Py_ssize_t *outer_row       # and the input rows that they read
    Run *runs                   # per row of the unit, for the block of k under way
    Row *row
    Py_ssize_t key              # the unit but for its rows, for which the slots hold


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t round_up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b * b


cdef inline Py_ssize_t floor_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a // b - (1 if a % b < 0 else 0)


cdef Py_ssize_t divisor(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


# ---------------------------------------------------------------- planning

cdef bint depthwise(const Plan *p) noexcept nogil:
    return p.cin == 1 and p.cout == 1 and p.groups >= 4


cdef void make_plan(Plan *p, const ConvArgs *args) noexcept nogil:
    """Choose the cuts. Nothing chosen here changes a bit of the result."""
    cdef Py_ssize_t nr, size, axis, g, longest, reach, stride, dilation
    cdef double flops
    memset(p, 0, sizeof(Plan))
    p.args = args
    p.axes = args.x.ndim - 2
    p.dtype = args.x.dtype
    p.size = 8 if p.dtype == FLOAT64 else 4 if p.dtype == FLOAT32 else 2
    p.groups = args.groups
    p.images = args.x.shape[0]
    p.cin = args.w.shape[p.axes + 1]
    p.cout = args.w.shape[0] // p.groups
    p.inner_taps = args.w.shape[p.axes]
    p.outer_taps = 1
    p.rows = p.images
    for axis in range(p.axes - 1):
        p.outer_taps *= args.w.shape[axis + 1]
        p.rows *= args.out.shape[axis + 1]
    p.taps = p.outer_taps * p.inner_taps
    p.k = p.taps * p.cin
    p.in_last = args.x.shape[p.axes]
    p.out_last = args.out.shape[p.axes]
    stride = args.stride[p.axes - 1]
    dilation = args.input_dilation[p.axes - 1]
    g = divisor(stride, dilation)
    p.phases = min(dilation // g, p.out_last)
    p.q = stride // g
    # With fewer outputs than phases each phase has one output, and the step between its outputs does not matter.
    if p.phases < dilation // g:
        p.q = 1

    nr = GEMM_NR_f64 if p.dtype == FLOAT64 else GEMM_NR_f32
    size = 8 if p.dtype == FLOAT64 else 4
    p.threads = args.threads
    flops = 2.0 * args.out.size * p.k
    if flops < SERIAL_FLOPS:
        p.threads = 1
    p.strips = ceil_div(p.cout, nr)
    longest = ceil_div(p.out_last, max(1, p.phases))
    p.chunks = max(1, ceil_div(longest, UNIT_PIXELS))
    p.chunk = max(1, ceil_div(longest, p.chunks))
    p.unit_rows = min(UNIT_ROWS, max(1, UNIT_PIXELS // p.chunk))
    while p.unit_rows > 1 and p.phases * p.groups * p.chunks * ceil_div(p.rows, p.unit_rows) < 4 * p.threads:
        p.unit_rows = ceil_div(p.unit_rows, 2)
    p.row_units = ceil_div(p.rows, p.unit_rows)
    p.units = p.phases * p.groups * p.chunks * p.row_units
    p.strip_parts = 1
    if p.units < p.threads:
        p.strip_parts = min(p.strips, ceil_div(p.threads, max(1, p.units)))
    p.units *= p.strip_parts

    # The lanes that all taps of a phase touch: those of the outputs, plus how far apart the taps read.
    reach = ((p.inner_taps - 1) * args.kernel_dilation[p.axes - 1]) // max(1, dilation * p.q) + 1
    p.width = round_up(p.chunk + reach, nr // 2)
    p.row_bytes = min(p.q, p.inner_taps) * p.cin * p.width * size
    p.slots = max(1, min(p.unit_rows * p.outer_taps, ROW_BUDGET // max(1, p.row_bytes)))
    p.ld = p.strips * nr
    p.direct = (p.dtype == FLOAT32 or p.dtype == FLOAT64) and p.cout % (nr // 2) == 0
    p.weight_bytes = round_up(p.groups * p.strips * p.k * nr * size, 64)
    p.panel_bytes = round_up(p.unit_rows * ceil_div(p.chunk, GEMM_MR) * min(KC, p.k) * GEMM_SP * size, 64)
    p.sums_bytes = round_up(p.unit_rows * p.chunk * p.ld * size, 64)
    p.row_bytes = round_up(p.slots * p.row_bytes + (p.width + 2 * GEMM_SP) * size, 64)
    p.list_bytes = round_up(
        (p.slots + p.inner_taps) * sizeof(Py_ssize_t) + p.inner_taps * sizeof(Tap)
        + 2 * p.unit_rows * p.outer_taps * sizeof(Py_ssize_t)
        + p.unit_rows * (run_limit(p) * sizeof(Run) + sizeof(Row)), 64)


cdef inline Py_ssize_t run_limit(const Plan *p) noexcept nogil:
    return min(p.taps, KC) + 1


cdef inline Py_ssize_t own_bytes(const Plan *p) noexcept nogil:
    return p.row_bytes + p.panel_bytes + 2 * p.sums_bytes + p.list_bytes


cdef void place(const Plan *p, char *memory, Own *own) noexcept nogil:
    """Lay out a thread's buffers."""
    own.rows = memory
    own.panels = own.rows + p.row_bytes
    own.sums = own.panels + p.panel_bytes
    own.chains = own.sums + p.sums_bytes
    own.tags = <Py_ssize_t *>(own.chains + p.sums_bytes)
    own.inner = <Tap *>(own.tags + p.slots)
    own.residues = <Py_ssize_t *>(own.inner + p.inner_taps)
    own.outer_index = own.residues + p.inner_taps
    own.outer_row = own.outer_index + p.unit_rows * p.outer_taps
    own.runs = <Run *>(own.outer_row + p.unit_rows * p.outer_taps)
    own.row = <Row *>(own.runs + p.unit_rows * run_limit(p))
    own.key = -1


# ---------------------------------------------------------------- weights

cdef inline Py_ssize_t weight_tap(const Plan *p, Py_ssize_t tap) noexcept nogil:
    """Element offset in w of a tap, turned around if the convolution flips."""
    cdef const ArrayRef *w = p.args.w
    cdef Py_ssize_t at = 0, i
    cdef int axis
    for axis in range(p.axes, 0, -1):
        i = tap % w.shape[axis]
        tap //= w.shape[axis]
        at += (w.shape[axis] - 1 - i if p.args.flip else i) * w.strides[axis]
    return at


cdef void pack_weights(Plan *p, real *packed) noexcept nogil:
    """[group][strip][k][lane], the strips shared among the team."""
    cdef const ArrayRef *w = p.args.w
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef Py_ssize_t strip = conv_take(&p.packed), tap, o, n
    cdef const char *src
    cdef real *dst
    while strip < p.groups * p.strips:
        o = strip % p.strips * nr
        n = min(nr, p.cout - o)
        o += strip // p.strips * p.cout
        for tap in range(p.taps):
            src = w.data + (o * w.strides[0] + weight_tap(p, tap)) * p.size
            dst = packed + (strip * p.k + tap * p.cin) * nr
            if real is float:
                pack_f32(p.dtype, src, w.strides[0], w.strides[p.axes + 1], n, p.cin, nr, nr, dst)
            else:
                pack_f64(p.dtype, src, w.strides[0], w.strides[p.axes + 1], n, p.cin, nr, nr, dst)
        strip = conv_take(&p.packed)


# ---------------------------------------------------------------- a unit: which taps, where from

cdef void find_inner(const Plan *p, Py_ssize_t phase, Own *own) noexcept nogil:
    """The taps along the last axis that the outputs of a phase see, and the sub-rows that they read."""
    cdef const ConvArgs *args = p.args
    cdef int last = p.axes - 1
    cdef Py_ssize_t dilation = args.input_dilation[last]
    cdef Py_ssize_t number, at, position, residue, subrow
    cdef Tap *tap
    own.inner_count = 0
    own.subrows = 0
    own.low = 0
    for number in range(p.inner_taps):
        at = phase * args.stride[last] + number * args.kernel_dilation[last] - args.padding_lo[last]
        if at % dilation != 0:
            continue
        position = at // dilation
        tap = own.inner + own.inner_count
        tap.index = number
        tap.shift = floor_div(position, p.q)
        residue = position - tap.shift * p.q
        subrow = 0
        while subrow < own.subrows and own.residues[subrow] != residue:
            subrow += 1
        if subrow == own.subrows:
            own.residues[subrow] = residue
            own.subrows += 1
        tap.subrow = subrow
        own.low = tap.shift if own.inner_count == 0 else min(own.low, tap.shift)
        own.inner_count += 1


cdef Py_ssize_t find_outer(const Plan *p, Py_ssize_t row, Py_ssize_t *index, Py_ssize_t *source) noexcept nogil:
    """Outer taps of an output row that fall inside the input, and the input rows (numbered over N and outer axes)."""
    cdef const ConvArgs *args = p.args
    cdef Py_ssize_t start[MAX_NDIM]
    cdef Py_ssize_t image = row, tap, rest, at, found = 0, number, step
    cdef int axis
    cdef bint inside
    for axis in range(p.axes - 2, -1, -1):
        start[axis] = image % args.out.shape[axis + 1] * args.stride[axis] - args.padding_lo[axis]
        image //= args.out.shape[axis + 1]
    for tap in range(p.outer_taps):
        rest = tap
        number = 0
        step = 1
        inside = True
        for axis in range(p.axes - 2, -1, -1):
            at = start[axis] + rest % args.w.shape[axis + 1] * args.kernel_dilation[axis]
            rest //= args.w.shape[axis + 1]
            inside &= at >= 0 and at % args.input_dilation[axis] == 0
            at //= args.input_dilation[axis]
            inside &= at < args.x.shape[axis + 1]
            number += at * step
            step *= args.x.shape[axis + 1]
        if inside:
            index[found] = tap
            source[found] = number + image * step
            found += 1
    return found


cdef Py_ssize_t input_row(const Plan *p, Py_ssize_t number) noexcept nogil:
    """Element offset in x of the start of an input row."""
    cdef const ArrayRef *x = p.args.x
    cdef Py_ssize_t at = 0
    cdef int axis
    for axis in range(p.axes - 1, -1, -1):
        at += number % x.shape[axis] * x.strides[axis]
        number //= x.shape[axis]
    return at


cdef void turn_row(const Plan *p, const Own *own, Py_ssize_t number, Py_ssize_t group, Py_ssize_t first,
                   real *dst) noexcept nogil:
    """Turn an input row into [sub-row][channel][lane]: lane l is position residue + q * (first + l), zero outside."""
    cdef const ArrayRef *x = p.args.x
    cdef Py_ssize_t sw = x.strides[p.axes], sk = x.strides[p.axes + 1], residue, begin, end, lead, subrow, lane
    cdef const char *base = x.data + (input_row(p, number) + group * p.cin * sk) * p.size
    cdef const char *src
    for subrow in range(own.subrows):
        residue = own.residues[subrow]
        begin = max(first, 0)
        end = min(first + p.width, ceil_div(p.in_last - residue, p.q)) if p.in_last > residue else 0
        if begin >= end:
            memset(dst, 0, p.cin * p.width * sizeof(real))
        else:
            # A channel is written from lane `lead` on, so the zeros behind its last position run into the lead of the
            # next channel, which has to be zero as well. Behind the last slot there is slack for them.
            lead = begin - first
            for lane in range(lead):
                dst[lane] = 0
            src = base + (residue + begin * p.q) * sw * p.size
            if real is float:
                pack_f32(p.dtype, src, sw * p.q, sk, end - begin, p.cin, p.width, p.width, dst + lead)
            else:
                pack_f64(p.dtype, src, sw * p.q, sk, end - begin, p.cin, p.width, p.width, dst + lead)
        dst += p.cin * p.width


cdef const real *turned_row(const Plan *p, Own *own, Py_ssize_t number, Py_ssize_t group, Py_ssize_t first,
                            real *tag) noexcept nogil:
    """The turned form of an input row, made now unless a slot has it."""
    cdef Py_ssize_t slot = number % p.slots
    cdef real *row = <real *>own.rows + slot * own.subrows * p.cin * p.width
    if own.tags[slot] != number:
        turn_row(p, own, number, group, first, row)
        own.tags[slot] = number
    return row


# ---------------------------------------------------------------- a unit: panels and products

cdef void describe_row(const Plan *p, Own *own, Py_ssize_t r, Py_ssize_t number, Py_ssize_t phase, Py_ssize_t first,
                       Py_ssize_t group) noexcept nogil:
    cdef Row *row = own.row + r
    cdef const Py_ssize_t *outer = own.outer_index + r * p.outer_taps
    cdef Py_ssize_t channels = p.groups * p.cout, last
    row.out = (number * p.out_last + phase + first * p.phases) * channels + group * p.cout
    row.outer = find_outer(p, number, own.outer_index + r * p.outer_taps, own.outer_row + r * p.outer_taps)
    row.first_block = 0
    row.last_block = -1
    if row.outer and own.inner_count:
        row.first_block = (outer[0] * p.inner_taps + own.inner[0].index) * p.cin // KC
        last = outer[row.outer - 1] * p.inner_taps + own.inner[own.inner_count - 1].index
        row.last_block = ((last + 1) * p.cin - 1) // KC


cdef void fill_panels(const Plan *p, Own *own, Py_ssize_t r, Py_ssize_t group, Py_ssize_t first, Py_ssize_t block,
                      Py_ssize_t panels, Py_ssize_t mr, real *dst) noexcept nogil:
    """The panels of a row for a block of k: `panels` of mr outputs, each [k][GEMM_SP], and the runs of k that they
    hold."""
    cdef Row *row = own.row + r
    cdef Run *run = own.runs + r * run_limit(p) - 1
    cdef Py_ssize_t depth = min(<Py_ssize_t>KC, p.k), steps = 0, o, i, k, begin, end, c, panel
    cdef const Tap *tap
    cdef const real *src
    cdef const real *lanes
    cdef real *at
    row.runs = 0
    for o in range(row.outer):
        k = own.outer_index[r * p.outer_taps + o] * p.inner_taps * p.cin
        if k + p.inner_taps * p.cin <= block * KC or k >= (block + 1) * KC:
            continue
        for i in range(own.inner_count):
            tap = own.inner + i
            begin = k + tap.index * p.cin
            end = min(begin + p.cin, (block + 1) * KC)
            c = max(0, block * KC - begin)          # channels of this tap that belong to earlier blocks
            if begin + c >= end:
                continue
            src = turned_row(p, own, own.outer_row[r * p.outer_taps + o], group, first + own.low, dst)
            src += (tap.subrow * p.cin + c) * p.width + tap.shift - own.low
            begin += c
            for panel in range(panels):
                lanes = src + panel * mr
                at = dst + (panel * depth + steps) * GEMM_SP
                for c in range(end - begin):
                    memcpy(at + c * GEMM_SP, lanes + c * p.width, GEMM_SP * sizeof(real))
            if row.runs and run.k + run.n == begin:
                run.n += end - begin
            else:
                run += 1
                row.runs += 1
                run.k = begin
                run.n = end - begin
            steps += end - begin


cdef inline void run_block(Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t kc, const real *a, const real *b,
                           const real *init, const real *add, Py_ssize_t ldt, real *dst,
                           Py_ssize_t ldd) noexcept nogil:
    if real is float:
        blocks_f32[rows - 1][vectors - 1](kc, a, GEMM_SP, b, GEMM_NR_f32, init, add, ldt, dst, ldd)
    else:
        blocks_f64[rows - 1][vectors - 1](kc, a, GEMM_SP, b, GEMM_NR_f64, init, add, ldt, dst, ldd)


cdef void multiply_row(const Plan *p, Own *own, Py_ssize_t r, const real *weights, Py_ssize_t strip, Py_ssize_t block,
                       Py_ssize_t n, Py_ssize_t mr, const real *panels) noexcept nogil:
    """One row's `n` outputs times one strip of channels for one block of k. `weights` is the strip, [k][lane]."""
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef const Row *row = own.row + r
    cdef const Run *runs = own.runs + r * run_limit(p)
    cdef Py_ssize_t depth = min(<Py_ssize_t>KC, p.k), i, m, run, at, vectors = 2 if p.cout - strip * nr > nr // 2 else 1
    cdef Py_ssize_t step = p.phases * p.groups * p.cout, ldd
    cdef const real *a
    cdef real *sums = <real *>own.sums
    cdef real *chains = <real *>own.chains
    cdef real *dst
    i = 0
    while i < n:
        m = min(mr, n - i)
        a = panels + (i // mr) * depth * GEMM_SP
        at = (r * p.chunk + i) * p.ld + strip * nr
        for run in range(row.runs):
            ldd = p.ld
            if run + 1 < row.runs:
                dst = chains + at
            elif p.direct and block == row.last_block:
                dst = <real *>p.args.out.data + row.out + i * step + strip * nr
                ldd = step
            else:
                dst = sums + at
            run_block(m, vectors, runs[run].n, a, weights + runs[run].k * nr, chains + at if run else NULL,
                      sums + at if run + 1 == row.runs and block > row.first_block else NULL, p.ld, dst, ldd)
            a += runs[run].n * GEMM_SP
        i += mr


cdef void finish_row(const Plan *p, Own *own, Py_ssize_t r, Py_ssize_t n, Py_ssize_t begin, Py_ssize_t end,
                     real *tag) noexcept nogil:
    """Store output channels begin .. end of a row, unless the micro-kernel has."""
    cdef const Row *row = own.row + r
    cdef Py_ssize_t step = p.phases * p.groups * p.cout, i
    cdef char *out = p.args.out.data + (row.out + begin) * p.size
    cdef const real *sums = <real *>own.sums + r * p.chunk * p.ld + begin
    if row.last_block < 0:
        for i in range(n):
            memset(out + i * step * p.size, 0, (end - begin) * p.size)
    elif not p.direct:
        for i in range(n):
            if real is float:
                f32_to_row(p.dtype, out + i * step * p.size, 1, end - begin, sums + i * p.ld)
            else:
                f64_to_row(p.dtype, out + i * step * p.size, 1, end - begin, sums + i * p.ld)


cdef void run_unit(const Plan *p, Own *own, Py_ssize_t unit, const real *weights) noexcept nogil:
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef Py_ssize_t part = unit % p.strip_parts, rest = unit // p.strip_parts
    cdef Py_ssize_t row_unit = rest % p.row_units, key = rest // p.row_units
    cdef Py_ssize_t first = key % p.chunks * p.chunk, group = key // p.chunks % p.groups
    cdef Py_ssize_t phase = key // (p.chunks * p.groups)
    cdef Py_ssize_t n = min(p.chunk, ceil_div(p.out_last - phase, p.phases) - first)
    cdef Py_ssize_t rows = min(p.unit_rows, p.rows - row_unit * p.unit_rows)
    cdef Py_ssize_t strip_begin = p.strips * part // p.strip_parts, strip_end = p.strips * (part + 1) // p.strip_parts
    cdef Py_ssize_t panels, mr, r, i, block, strip
    cdef Py_ssize_t room = ceil_div(p.chunk, GEMM_MR) * min(<Py_ssize_t>KC, p.k) * GEMM_SP
    cdef real *panel = <real *>own.panels
    if n <= 0:
        return
    panels = ceil_div(n, GEMM_MR)
    mr = ceil_div(n, panels)
    panels = ceil_div(n, mr)
    if own.key != key:
        own.key = key
        find_inner(p, phase, own)
        for i in range(p.slots):
            own.tags[i] = -1
    for r in range(rows):
        describe_row(p, own, r, row_unit * p.unit_rows + r, phase, first, group)
    for block in range(ceil_div(p.k, KC)):
        for r in range(rows):
            fill_panels(p, own, r, group, first, block, panels, mr, panel + r * room)
        for strip in range(strip_begin, strip_end):
            for r in range(rows):
                multiply_row(p, own, r, weights + (group * p.strips + strip) * p.k * nr, strip, block, n, mr,
                             panel + r * room)
    for r in range(rows):
        finish_row(p, own, r, n, strip_begin * nr, min(strip_end * nr, p.cout), panel)


cdef void gemm_work(Plan *p, char *shared, char *memory, bint team, real *tag) noexcept nogil:
    """One thread's part; the whole of it when `team` is false."""
    cdef Own own
    cdef Py_ssize_t unit
    place(p, memory, &own)
    pack_weights(p, <real *>shared)
    if team:
        conv_barrier()
    unit = conv_take(&p.done)
    while unit < p.units:
        run_unit(p, &own, unit, <const real *>shared)
        unit = conv_take(&p.done)


# ---------------------------------------------------------------- depthwise

cdef inline void add_products(const real *x, const real *w, real *chain, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(n):
        if real is float:
            chain[c] = fma1_f32(x[c], w[c], chain[c])
        else:
            chain[c] = fma1_f64(x[c], w[c], chain[c])


cdef void depthwise_output(const Plan *p, const Own *own, Py_ssize_t outer_count, Py_ssize_t begin, Py_ssize_t channels,
                           Py_ssize_t position, const real *weights, real *sums) noexcept nogil:
    """Sums of channels begin .. begin + channels for one output; `position` is where tap 0 of the last axis reads,
    times the input dilation."""
    cdef const ArrayRef *x = p.args.x
    cdef Py_ssize_t sw = x.strides[p.axes], sk = x.strides[p.axes + 1]
    cdef Py_ssize_t dilation = p.args.input_dilation[p.axes - 1], step = p.args.kernel_dilation[p.axes - 1]
    cdef Py_ssize_t o, i, c, at, tap, block = 0
    cdef bint in_place = (sk == 1 and p.size == <Py_ssize_t>sizeof(real)
                          and <uintptr_t>x.data % sizeof(real) == 0)
    cdef const char *row
    cdef real chain[CHANNELS]
    cdef real lanes[CHANNELS]
    for c in range(CHANNELS):
        chain[c] = 0
        sums[c] = 0
    for o in range(outer_count):
        row = x.data + (own.outer_row[o] + begin * sk) * p.size
        for i in range(p.inner_taps):
            at = position + i * step
            if at < 0 or at % dilation != 0 or at // dilation >= p.in_last:
                continue
            at //= dilation
            tap = own.outer_index[o] * p.inner_taps + i
            if tap // KC != block:
                for c in range(CHANNELS):
                    sums[c] += chain[c]
                    chain[c] = 0
                block = tap // KC
            if in_place and channels == CHANNELS:
                add_products(<const real *>(row + at * sw * p.size), weights + tap * p.groups + begin, chain, CHANNELS)
            else:
                if real is float:
                    row_to_f32(p.dtype, row + at * sw * p.size, sk, channels, lanes)
                else:
                    row_to_f64(p.dtype, row + at * sw * p.size, sk, channels, lanes)
                add_products(lanes, weights + tap * p.groups + begin, chain, channels)
    for c in range(CHANNELS):
        sums[c] += chain[c]


cdef void depthwise_work(Plan *p, char *shared, char *memory, bint team, real *tag) noexcept nogil:
    """One thread's rows of a depthwise convolution. The weights are [tap][channel]."""
    cdef const ArrayRef *w = p.args.w
    cdef Own own
    cdef real sums[CHANNELS]
    cdef real *weights = <real *>shared
    cdef Py_ssize_t tap = conv_take(&p.packed), row, o, outer_count, i, begin, channels, position
    cdef char *out
    place(p, memory, &own)
    while tap < p.taps:
        if real is float:
            row_to_f32(p.dtype, w.data + weight_tap(p, tap) * p.size, w.strides[0], p.groups, weights + tap * p.groups)
        else:
            row_to_f64(p.dtype, w.data + weight_tap(p, tap) * p.size, w.strides[0], p.groups, weights + tap * p.groups)
        tap = conv_take(&p.packed)
    if team:
        conv_barrier()
    row = conv_take(&p.done)
    while row < p.rows:
        outer_count = find_outer(p, row, own.outer_index, own.outer_row)
        for o in range(outer_count):
            own.outer_row[o] = input_row(p, own.outer_row[o])
        for i in range(p.out_last):
            out = p.args.out.data + (row * p.out_last + i) * p.groups * p.size
            position = i * p.args.stride[p.axes - 1] - p.args.padding_lo[p.axes - 1]
            begin = 0
            while begin < p.groups:
                channels = min(<Py_ssize_t>CHANNELS, p.groups - begin)
                depthwise_output(p, &own, outer_count, begin, channels, position, weights, sums)
                if real is float:
                    f32_to_row(p.dtype, out + begin * p.size, 1, channels, sums)
                else:
                    f64_to_row(p.dtype, out + begin * p.size, 1, channels, sums)
                begin += CHANNELS
        row = conv_take(&p.done)


# ---------------------------------------------------------------- entry points

cdef void run(Plan *p, char *shared, char *memory, bint team) noexcept nogil:
    if depthwise(p):
        if p.dtype == FLOAT64:
            depthwise_work[double](p, shared, memory, team, NULL)
        else:
            depthwise_work[float](p, shared, memory, team, NULL)
    elif p.dtype == FLOAT64:
        gemm_work[double](p, shared, memory, team, NULL)
    else:
        gemm_work[float](p, shared, memory, team, NULL)


cdef int conv(const ConvArgs *args) noexcept nogil:
    cdef Plan p
    cdef char *block = NULL
    cdef char *memory = args.workspace
    if args.out.size == 0:
        return 0
    make_plan(&p, args)
    if p.k == 0 or args.x.size == 0:
        memset(args.out.data, 0, args.out.size * p.size)
        return 0
    if memory == NULL:
        block = <char *>malloc(p.weight_bytes + p.threads * own_bytes(&p) + 64)
        if block == NULL:
            return -1
        memory = block + (-<uintptr_t>block & 63)
    if p.threads == 1:
        run(&p, memory, memory + p.weight_bytes, False)
    else:
        with parallel(num_threads=p.threads):
            run(&p, memory, memory + p.weight_bytes + threadid() * own_bytes(&p), True)
    free(block)
    return 0


cdef size_t workspace_size(const ConvArgs *args) noexcept nogil:
    cdef Plan p
    if args.out.size == 0:
        return 0
    make_plan(&p, args)
    return p.weight_bytes + p.threads * own_bytes(&p)


cdef ConvTable TABLE
TABLE.conv = conv
TABLE.workspace_size = workspace_size

table = PyCapsule_New(&TABLE, "mlxr.cpu.conv", NULL)
