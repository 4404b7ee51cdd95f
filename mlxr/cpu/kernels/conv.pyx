# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Convolution kernels: implicit GEMM in the register blocks of matmul, and a direct path for depthwise convolution.

conv.pxd has the definition, the order of operations and the recipes for gradients. This module must not know of Python
objects, tensors or allocators.

Implicit GEMM: outputs along the last spatial axis are the rows of A, output channels the columns of B, and
k = (tap, channel) the contraction. The weights are packed once. A unit of work is a handful of output rows; the input
rows that they read are kept as [position][channel] with their padding (converted, if need be; or read where they lie),
and the micro-kernel walks along them: neighbouring taps of a row are neighbours in memory. Input dilation and stride
are resolved by phases: outputs `phases` apart see the same taps and read positions q apart, so no product with an
inserted zero is made. What limits it: the multiply-adds, as long as there are 16 or so output channels in a group.

Groups of a few output channels are computed in bundles that fill the lanes. Kept rows then hold, for every channel, one
element a lane, that of the lane's own group: a load in the place of a broadcast.

Depthwise (one channel per group, in and out): lanes are channels; it is limited by the loads, two per multiply-add.
"""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport parallel, threadid
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from mlxr.core.abi cimport FLOAT32, FLOAT64, MAX_NDIM, ArrayRef
from mlxr.cpu.kernels.conv cimport ConvArgs, ConvTable
from mlxr.cpu.kernels.matmul cimport MATMUL_KC
from mlxr.cpu.team cimport team_of

cdef extern from "conv_block.h" nogil:
    enum:
        GEMM_MR
        GEMM_NR_f32
        GEMM_NR_f64
        DEPTHWISE_LANES
    ctypedef struct conv_run_f32:
        const float *a
        const float *b
        Py_ssize_t n
    ctypedef struct conv_run_f64:
        const double *a
        const double *b
        Py_ssize_t n
    ctypedef void (*conv_fn_f32)(const conv_run_f32 *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t,
                                 float *, Py_ssize_t) noexcept
    ctypedef void (*conv_fn_f64)(const conv_run_f64 *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t,
                                 double *, Py_ssize_t) noexcept
    const conv_fn_f32 conv_blocks_f32[1][2]
    const conv_fn_f64 conv_blocks_f64[1][2]
    const conv_fn_f32 spread_blocks_f32[1][2]
    const conv_fn_f64 spread_blocks_f64[1][2]
    void spread_f32(const float *x, Py_ssize_t groups, Py_ssize_t cin, Py_ssize_t cout, float *dst) noexcept
    void spread_f64(const double *x, Py_ssize_t groups, Py_ssize_t cin, Py_ssize_t cout, double *dst) noexcept
    void depthwise_f32(const float *x, const Py_ssize_t *xs, const float *w, const Py_ssize_t *ws, Py_ssize_t count,
                       float *chain) noexcept
    void depthwise_f64(const double *x, const Py_ssize_t *xs, const double *w, const Py_ssize_t *ws, Py_ssize_t count,
                       double *chain) noexcept
    void pack_f32(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, float *dst) noexcept
    void pack_f64(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                  Py_ssize_t per, Py_ssize_t width, double *dst) noexcept
    void row_to_f32(int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, float *dst) noexcept
    void row_to_f64(int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, double *dst) noexcept
    void f32_to_row(int dtype, char *dst, Py_ssize_t stride, Py_ssize_t n, const float *src) noexcept
    void f64_to_row(int dtype, char *dst, Py_ssize_t stride, Py_ssize_t n, const double *src) noexcept

cdef extern from *:
    """
    /* Orphaned directive: it binds to the parallel region that the caller is in. */
    static inline void conv_barrier(void) {
    #pragma omp barrier
    }
    static inline void prefetch_lines(const char *p, Py_ssize_t bytes) {
        for (Py_ssize_t line = 0; line < bytes; line += 64) __builtin_prefetch(p + line, 0, 3);
    }
    static inline Py_ssize_t conv_take(Py_ssize_t *counter) {
        return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
    }
    """
    void conv_barrier() noexcept nogil
    void prefetch_lines(const char *p, Py_ssize_t bytes) noexcept nogil
    Py_ssize_t conv_take(Py_ssize_t *counter) noexcept nogil

ctypedef fused real:
    float
    double

cdef enum:
    KC = MATMUL_KC
    UNIT_PIXELS = 112           # outputs per unit: amortizes the weights' way from the L3 cache
    UNIT_ROWS = 32              # output rows per unit
    TAP_BATCH = 32              # depthwise: taps whose lanes are converted before they are multiplied
    SERIAL_FLOPS = 1 << 21      # below this, one thread
    AHEAD = 6                   # positions between reading channels of a bundle and asking for them
    BUNDLE_CHANNELS = 512       # input channels of a bundle of groups, at most

# A run of the micro-kernel, of either type: their layouts agree.
cdef struct Run:
    const void *a
    const void *b
    Py_ssize_t n

# One tap along the last axis, in one phase: which, and the position that output 0 of the phase reads.
cdef struct Tap:
    Py_ssize_t index, position

# A row of outputs in a unit.
cdef struct Row:
    Py_ssize_t out              # element offset of its first output
    Py_ssize_t outer            # number of outer taps that fall inside the input
    Py_ssize_t first_block, last_block      # blocks of k that hold its first and last valid tap; last < 0: none
    Py_ssize_t runs             # in the block under way

cdef struct Plan:
    const ConvArgs *args
    int axes                    # spatial
    int dtype
    Py_ssize_t size             # bytes of an element of x, w, out
    Py_ssize_t cin, cout        # channels of a group
    Py_ssize_t bundle           # groups computed together
    Py_ssize_t blocks, lanes    # such bundles, and output channels of one (the last may have fewer)
    Py_ssize_t groups, outer_taps, inner_taps, taps, k
    Py_ssize_t in_last, out_last, rows          # extents of the last axis; rows: N * outer output positions
    Py_ssize_t phases, q        # outputs `phases` apart read inputs q apart
    # cuts
    Py_ssize_t strips           # of output channels in a group
    Py_ssize_t strip_parts      # into which the strips are divided among units
    Py_ssize_t chunk            # outputs of a row in a unit
    Py_ssize_t unit_rows
    Py_ssize_t row_units, chunks
    Py_ssize_t units
    Py_ssize_t span, pitch      # a kept input row: positions, and elements from one to the next
    Py_ssize_t slots            # input rows that a block of k of a unit can read
    Py_ssize_t run_limit        # runs of a row in a block of k
    Py_ssize_t ld               # lanes of a row of sums
    bint direct                 # full results are stored by the micro-kernel
    bint in_place               # input rows may be read where they lie
    int threads
    # memory, bytes
    Py_ssize_t weight_bytes, row_bytes, sums_bytes, list_bytes
    # progress, shared by the team
    Py_ssize_t packed, done

# A thread's buffers.
cdef struct Own:
    char *rows                  # `slots` input rows
    char *sums
    Py_ssize_t *tags            # which input row each slot holds, and when it was last used
    Py_ssize_t *stamps
    Py_ssize_t stamp
    Tap *inner                  # taps along the last axis that the phase sees
    Py_ssize_t inner_count
    Py_ssize_t *outer_index     # per row of the unit: outer taps that fall inside,
    Py_ssize_t *outer_row       # and the input rows that they read
    Run *runs                   # per row of the unit, for the block of k under way
    Row *row
    Py_ssize_t key              # the unit but for its rows, for which the slots hold


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t round_up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b * b


cdef Py_ssize_t divisor(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    while b:
        a, b = b, a % b
    return a


# ---------------------------------------------------------------- planning

cdef bint depthwise(const Plan *p) noexcept nogil:
    return p.cin == 1 and p.cout == 1 and p.groups >= 4


cdef void make_plan(Plan *p, const ConvArgs *args) noexcept nogil:
    """Choose the cuts. Nothing chosen here changes a bit of the result."""
    cdef Py_ssize_t nr, size, axis, g, longest, stride, dilation, per_block
    memset(p, 0, sizeof(Plan))
    p.args = args
    p.axes = args.x.ndim - 2
    p.dtype = args.x.dtype
    p.size = 8 if p.dtype == FLOAT64 else 4 if p.dtype == FLOAT32 else 2
    p.groups = args.groups
    p.cin = args.w.shape[p.axes + 1]
    p.cout = args.w.shape[0] // p.groups
    p.inner_taps = args.w.shape[p.axes]
    p.outer_taps = 1
    p.rows = args.x.shape[0]
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

    nr = GEMM_NR_f64 if p.dtype == FLOAT64 else GEMM_NR_f32
    size = 8 if p.dtype == FLOAT64 else 4
    p.threads = 1 if 2.0 * args.out.size * p.k < SERIAL_FLOPS else args.threads
    p.bundle = 1
    if not depthwise(p) and p.cout <= nr // 8 and nr // p.cout * p.cin <= BUNDLE_CHANNELS:
        p.bundle = min(nr // p.cout, p.groups)
    p.blocks = ceil_div(p.groups, p.bundle)
    p.lanes = p.bundle * p.cout
    p.strips = ceil_div(p.lanes, nr)
    longest = ceil_div(p.out_last, p.phases)
    p.chunks = ceil_div(longest, UNIT_PIXELS)
    p.chunk = ceil_div(longest, p.chunks)
    p.unit_rows = min(UNIT_ROWS, max(1, UNIT_PIXELS // p.chunk))
    while p.unit_rows > 1 and p.phases * p.blocks * p.chunks * ceil_div(p.rows, p.unit_rows) < 4 * p.threads:
        p.unit_rows = ceil_div(p.unit_rows, 2)
    p.row_units = ceil_div(p.rows, p.unit_rows)
    p.units = p.phases * p.blocks * p.chunks * p.row_units
    p.strip_parts = 1
    if p.units < p.threads:
        p.strip_parts = min(p.strips, ceil_div(p.threads, p.units))
    p.units *= p.strip_parts

    p.span = (p.chunk - 1) * p.q + (p.inner_taps - 1) * args.kernel_dilation[p.axes - 1] // dilation + 1
    # Rows of A a multiple of 2 KiB apart would share the ways of a few sets of the L1 cache.
    p.pitch = p.cin * (nr if p.bundle > 1 else 1)
    p.pitch += 64 // size if p.pitch * size % 2048 == 0 else 0
    p.in_place = (p.bundle == 1 and p.size == size and p.pitch == args.x.strides[p.axes]
                  and args.x.strides[p.axes + 1] == 1 and <uintptr_t>args.x.data % <size_t>size == 0)
    per_block = min(p.outer_taps, KC // max(1, p.inner_taps * p.cin) + 2)
    p.slots = p.unit_rows * per_block
    p.run_limit = min(per_block * p.inner_taps, KC)
    p.ld = p.strips * nr
    p.direct = p.size == size and p.lanes % (nr // 2) == 0 and p.groups % p.bundle == 0
    p.weight_bytes = round_up(p.blocks * p.strips * p.k * nr * size, 64)
    p.row_bytes = round_up(p.slots * p.span * p.pitch * size, 64)
    p.sums_bytes = round_up(p.unit_rows * p.chunk * p.ld * size, 64)
    p.list_bytes = round_up(
        2 * p.slots * sizeof(Py_ssize_t) + p.inner_taps * sizeof(Tap)
        + p.unit_rows * (2 * p.outer_taps * sizeof(Py_ssize_t) + p.run_limit * sizeof(Run) + sizeof(Row)), 64)
    if depthwise(p):
        p.weight_bytes = round_up(round_up(p.groups, DEPTHWISE_LANES) * p.taps * size, 64)
        p.row_bytes = p.sums_bytes = 0
        p.list_bytes = round_up(2 * (p.outer_taps + p.taps) * sizeof(Py_ssize_t), 64)


cdef inline Py_ssize_t lanes_of(const Plan *p, Py_ssize_t block) noexcept nogil:
    """Output channels of a bundle of groups."""
    return min(p.lanes, p.groups * p.cout - block * p.lanes)


cdef inline Py_ssize_t own_bytes(const Plan *p) noexcept nogil:
    return p.row_bytes + p.sums_bytes + p.list_bytes


cdef void place(const Plan *p, char *memory, Own *own) noexcept nogil:
    """Lay out a thread's buffers."""
    own.rows = memory
    own.sums = own.rows + p.row_bytes
    own.tags = <Py_ssize_t *>(own.sums + p.sums_bytes)
    own.stamps = own.tags + p.slots
    own.inner = <Tap *>(own.stamps + p.slots)
    own.outer_index = <Py_ssize_t *>(own.inner + p.inner_taps)
    own.outer_row = own.outer_index + p.unit_rows * p.outer_taps
    own.runs = <Run *>(own.outer_row + p.unit_rows * p.outer_taps)
    own.row = <Row *>(own.runs + p.unit_rows * p.run_limit)
    own.stamp = 0
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
    """[block][strip][k][lane], the strips shared among the team."""
    cdef const ArrayRef *w = p.args.w
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef Py_ssize_t strip = conv_take(&p.packed), tap, o, n
    cdef const char *src
    cdef real *dst
    while strip < p.blocks * p.strips:
        o = strip % p.strips * nr
        n = min(nr, lanes_of(p, strip // p.strips) - o)
        o += strip // p.strips * p.lanes
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
    """The taps along the last axis that the outputs of a phase see."""
    cdef const ConvArgs *args = p.args
    cdef int last = p.axes - 1
    cdef Py_ssize_t tap, at
    own.inner_count = 0
    for tap in range(p.inner_taps):
        at = phase * args.stride[last] + tap * args.kernel_dilation[last] - args.padding_lo[last]
        if at % args.input_dilation[last] == 0:
            own.inner[own.inner_count].index = tap
            own.inner[own.inner_count].position = at // args.input_dilation[last]
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


cdef void spread_position(const Plan *p, const char *src, Py_ssize_t groups, real *dst) noexcept nogil:
    """One position's channels of a bundle of groups, one element a lane. They are a few cache lines of a position, so
    the hardware does not foresee the next ones."""
    cdef Py_ssize_t sk = p.args.x.strides[p.axes + 1]
    cdef real channels[BUNDLE_CHANNELS]
    prefetch_lines(src + AHEAD * p.args.x.strides[p.axes] * p.size, groups * p.cin * sk * p.size)
    if real is float:
        row_to_f32(p.dtype, src, sk, groups * p.cin, channels)
        spread_f32(channels, groups, p.cin, p.cout, dst)
    else:
        row_to_f64(p.dtype, src, sk, groups * p.cin, channels)
        spread_f64(channels, groups, p.cin, p.cout, dst)


cdef void keep_row(const Plan *p, const char *base, Py_ssize_t first, Py_ssize_t groups, real *dst) noexcept nogil:
    """Positions first .. first + span of an input row as [position][channel], zero outside; of a bundle of `groups`, as
    [position][channel][lane]."""
    cdef const ArrayRef *x = p.args.x
    cdef Py_ssize_t sw = x.strides[p.axes], sk = x.strides[p.axes + 1]
    cdef Py_ssize_t begin = max(first, 0), end = min(first + p.span, p.in_last), position
    cdef const char *src
    if begin >= end:
        begin = end = first
    memset(dst, 0, (begin - first) * p.pitch * sizeof(real))
    memset(dst + (end - first) * p.pitch, 0, (first + p.span - end) * p.pitch * sizeof(real))
    dst += (begin - first) * p.pitch
    src = base + begin * sw * p.size
    if p.bundle > 1:
        for position in range(end - begin):
            spread_position(p, src + position * sw * p.size, groups, dst + position * p.pitch)
        return
    if sk == 1 and sw == p.cin and p.pitch == p.cin:
        if real is float:
            row_to_f32(p.dtype, src, 1, (end - begin) * p.cin, dst)
        else:
            row_to_f64(p.dtype, src, 1, (end - begin) * p.cin, dst)
        return
    for position in range(end - begin):
        if real is float:
            row_to_f32(p.dtype, src + position * sw * p.size, sk, p.cin, dst + position * p.pitch)
        else:
            row_to_f64(p.dtype, src + position * sw * p.size, sk, p.cin, dst + position * p.pitch)


cdef const real *kept_row(const Plan *p, Own *own, Py_ssize_t number, Py_ssize_t block, Py_ssize_t first,
                          real *tag) noexcept nogil:
    """Positions first .. first + span of an input row: where they lie, or from a slot, filled now unless it has them.
    No row that was asked for in this block of k is thrown out of its slot: there are enough of them."""
    cdef Py_ssize_t slot = number % p.slots
    cdef const char *base = (p.args.x.data + (input_row(p, number)
                                              + block * p.bundle * p.cin * p.args.x.strides[p.axes + 1]) * p.size)
    cdef real *row
    if p.in_place and first >= 0 and first + p.span <= p.in_last:
        return <const real *>base + first * p.pitch
    while own.tags[slot] != number and own.stamps[slot] == own.stamp:
        slot = slot + 1 if slot + 1 < p.slots else 0
    row = <real *>own.rows + slot * p.span * p.pitch
    if own.tags[slot] != number:
        keep_row(p, base, first, lanes_of(p, block) // p.cout, row)
        own.tags[slot] = number
    own.stamps[slot] = own.stamp
    return row


# ---------------------------------------------------------------- a unit: products

cdef void describe_row(const Plan *p, Own *own, Py_ssize_t r, Py_ssize_t number, Py_ssize_t phase, Py_ssize_t first,
                       Py_ssize_t block) noexcept nogil:
    cdef Row *row = own.row + r
    cdef const Py_ssize_t *outer = own.outer_index + r * p.outer_taps
    cdef Py_ssize_t channels = p.groups * p.cout, last
    row.out = (number * p.out_last + phase + first * p.phases) * channels + block * p.lanes
    row.outer = find_outer(p, number, own.outer_index + r * p.outer_taps, own.outer_row + r * p.outer_taps)
    row.first_block = 0
    row.last_block = -1
    if row.outer and own.inner_count:
        row.first_block = (outer[0] * p.inner_taps + own.inner[0].index) * p.cin // KC
        last = outer[row.outer - 1] * p.inner_taps + own.inner[own.inner_count - 1].index
        row.last_block = ((last + 1) * p.cin - 1) // KC


cdef void find_runs(const Plan *p, Own *own, Py_ssize_t r, Py_ssize_t bundle, Py_ssize_t first, Py_ssize_t block,
                    const real *weights) noexcept nogil:
    """The runs of a row for a block of k. `weights` is strip 0 of the bundle of groups, [k][lane]."""
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef Py_ssize_t each = nr if p.bundle > 1 else 1     # elements of a kept row for one k
    cdef Row *row = own.row + r
    cdef Run *run = own.runs + r * p.run_limit - 1
    cdef Py_ssize_t low = first * p.q + own.inner[0].position, o, i, k, begin, end, block_end = (block + 1) * KC
    cdef const Tap *tap
    cdef const real *kept
    cdef const real *a
    row.runs = 0
    if row.last_block < block:
        return
    for o in range(row.outer):
        k = own.outer_index[r * p.outer_taps + o] * p.inner_taps * p.cin
        if k + p.inner_taps * p.cin <= block * KC:
            continue
        if k >= block_end:
            break
        kept = kept_row[real](p, own, own.outer_row[r * p.outer_taps + o], bundle, low, NULL)
        for i in range(own.inner_count):
            tap = own.inner + i
            begin = max(block * KC, k + tap.index * p.cin)
            end = min(block_end, k + (tap.index + 1) * p.cin)
            if begin >= end:
                continue
            a = kept + (tap.position - own.inner[0].position) * p.pitch + (begin - k - tap.index * p.cin) * each
            if (row.runs and <const real *>run.a + run.n * each == a
                    and <const real *>run.b + run.n * nr == weights + begin * nr):
                run.n += end - begin
            else:
                run += 1
                row.runs += 1
                run.a = a
                run.b = weights + begin * nr
                run.n = end - begin


cdef void multiply_row(const Plan *p, Own *own, Py_ssize_t r, Py_ssize_t strip, Py_ssize_t block, Py_ssize_t n,
                       Py_ssize_t mr, real *tag) noexcept nogil:
    """One row's `n` outputs times one strip of channels, for one block of k. The runs point at the strip."""
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef const Row *row = own.row + r
    cdef const Run *runs = own.runs + r * p.run_limit
    cdef Py_ssize_t i = 0, m, at, vectors = 2 if p.lanes - strip * nr > nr // 2 else 1
    cdef Py_ssize_t out_step = p.phases * p.groups * p.cout, step = p.q * p.pitch, ldd
    cdef real *sums = <real *>own.sums + r * p.chunk * p.ld + strip * nr
    cdef conv_fn_f32 block_f32
    cdef conv_fn_f64 block_f64
    cdef const real *add
    cdef real *dst
    if row.runs == 0:
        return
    while i < n:
        m = min(mr, n - i)
        at = i * step
        add = sums + i * p.ld if block > row.first_block else NULL
        if p.direct and block == row.last_block:
            dst = <real *>p.args.out.data + row.out + i * out_step + strip * nr
            ldd = out_step
        else:
            dst = sums + i * p.ld
            ldd = p.ld
        if real is float:
            block_f32 = spread_blocks_f32[m - 1][vectors - 1] if p.bundle > 1 else conv_blocks_f32[m - 1][vectors - 1]
            block_f32(<const conv_run_f32 *>runs, row.runs, at, step, add, p.ld, dst, ldd)
        else:
            block_f64 = spread_blocks_f64[m - 1][vectors - 1] if p.bundle > 1 else conv_blocks_f64[m - 1][vectors - 1]
            block_f64(<const conv_run_f64 *>runs, row.runs, at, step, add, p.ld, dst, ldd)
        i += mr


cdef void next_strip(const Plan *p, Own *own, Py_ssize_t rows, Py_ssize_t by, real *tag) noexcept nogil:
    """Make every run point at the strip `by` further on."""
    cdef Py_ssize_t nr = GEMM_NR_f32 if real is float else GEMM_NR_f64
    cdef Py_ssize_t r, run
    cdef Run *runs
    for r in range(rows):
        runs = own.runs + r * p.run_limit
        for run in range(own.row[r].runs):
            runs[run].b = <const real *>runs[run].b + by * p.k * nr


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
    cdef Py_ssize_t first = key % p.chunks * p.chunk, bundle = key // p.chunks % p.blocks
    cdef Py_ssize_t phase = key // (p.chunks * p.blocks)
    cdef Py_ssize_t n = min(p.chunk, ceil_div(p.out_last - phase, p.phases) - first)
    cdef Py_ssize_t rows = min(p.unit_rows, p.rows - row_unit * p.unit_rows)
    cdef Py_ssize_t strip_begin = p.strips * part // p.strip_parts, strip_end = p.strips * (part + 1) // p.strip_parts
    cdef Py_ssize_t mr, r, slot, block, strip
    if n <= 0:
        return
    mr = ceil_div(n, ceil_div(n, GEMM_MR))
    if own.key != key:
        own.key = key
        find_inner(p, phase, own)
        for slot in range(p.slots):
            own.tags[slot] = -1
            own.stamps[slot] = -1
    for r in range(rows):
        describe_row(p, own, r, row_unit * p.unit_rows + r, phase, first, bundle)
    weights += (bundle * p.strips + strip_begin) * p.k * nr
    for block in range(ceil_div(p.k, KC)):
        own.stamp += 1
        for r in range(rows):
            find_runs(p, own, r, bundle, first, block, weights)
        for strip in range(strip_begin, strip_end):
            if strip > strip_begin:
                next_strip(p, own, rows, 1, <real *>NULL)
            for r in range(rows):
                multiply_row(p, own, r, strip, block, n, mr, <real *>NULL)
    for r in range(rows):
        finish_row(p, own, r, n, strip_begin * nr, min(strip_end * nr, lanes_of(p, bundle)), <real *>NULL)


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

cdef Py_ssize_t depthwise_taps(const Plan *p, const Own *own, Py_ssize_t outer_count, Py_ssize_t position,
                               Py_ssize_t lanes, Py_ssize_t *xs, Py_ssize_t *ws) noexcept nogil:
    """The taps of an output that fall inside the input: offsets in x and in the weights, [tap][lanes]. `position` is
    where tap 0 of the last axis reads, times the input dilation."""
    cdef Py_ssize_t dilation = p.args.input_dilation[p.axes - 1], step = p.args.kernel_dilation[p.axes - 1]
    cdef Py_ssize_t o, i, at, count = 0
    for o in range(outer_count):
        for i in range(p.inner_taps):
            at = position + i * step
            if at < 0 or at % dilation != 0 or at // dilation >= p.in_last:
                continue
            xs[count] = own.outer_row[o] + at // dilation * p.args.x.strides[p.axes]
            ws[count] = (own.outer_index[o] * p.inner_taps + i) * lanes
            count += 1
    return count


cdef void depthwise_sums(const Plan *p, const char *x, const Py_ssize_t *xs, const real *w, const Py_ssize_t *ws,
                         Py_ssize_t count, Py_ssize_t channels, Py_ssize_t lanes, real *sums) noexcept nogil:
    """Sums over taps for up to DEPTHWISE_LANES channels, which start at x and w."""
    cdef Py_ssize_t sk = p.args.x.strides[p.axes + 1], done = 0, n, t, c, block_end = KC * lanes
    cdef Py_ssize_t places[TAP_BATCH]
    cdef real copies[TAP_BATCH * DEPTHWISE_LANES]
    cdef real total[DEPTHWISE_LANES]
    cdef bint in_place = (sk == 1 and p.size == <Py_ssize_t>sizeof(real) and channels == DEPTHWISE_LANES
                          and <uintptr_t>x % sizeof(real) == 0)
    cdef bint several = count > 0 and ws[count - 1] >= block_end
    memset(sums, 0, DEPTHWISE_LANES * sizeof(real))
    if several:
        memset(total, 0, sizeof(total))
    if not in_place:
        memset(copies, 0, sizeof(copies))
    while done < count:
        if ws[done] >= block_end:
            # The chain of a block of k is complete.
            block_end = (ws[done] // (KC * lanes) + 1) * KC * lanes
            for c in range(DEPTHWISE_LANES):
                total[c] += sums[c]
                sums[c] = 0
        n = 0
        while done + n < count and ws[done + n] < block_end and (in_place or n < TAP_BATCH):
            n += 1
        if in_place:
            if real is float:
                depthwise_f32(<const float *>x, xs + done, w, ws + done, n, sums)
            else:
                depthwise_f64(<const double *>x, xs + done, w, ws + done, n, sums)
        else:
            for t in range(n):
                places[t] = t * DEPTHWISE_LANES
                if real is float:
                    row_to_f32(p.dtype, x + xs[done + t] * p.size, sk, channels, copies + places[t])
                else:
                    row_to_f64(p.dtype, x + xs[done + t] * p.size, sk, channels, copies + places[t])
            if real is float:
                depthwise_f32(copies, places, w, ws + done, n, sums)
            else:
                depthwise_f64(copies, places, w, ws + done, n, sums)
        done += n
    if several:
        for c in range(DEPTHWISE_LANES):
            sums[c] += total[c]


cdef void depthwise_row(const Plan *p, const Own *own, Py_ssize_t row, const real *weights,
                        Py_ssize_t lanes) noexcept nogil:
    """One row of outputs. Away from the borders all outputs see the same taps, at the same distances."""
    cdef const ArrayRef *x = p.args.x
    cdef Py_ssize_t stride = p.args.stride[p.axes - 1], reach = (p.inner_taps - 1) * p.args.kernel_dilation[p.axes - 1]
    cdef Py_ssize_t outer_count = find_outer(p, row, own.outer_index, own.outer_row), count = 0, o, i, begin, channels
    cdef Py_ssize_t position, move, shift = 0
    cdef Py_ssize_t *xs = own.outer_row + p.outer_taps
    cdef Py_ssize_t *ws = xs + p.taps
    cdef bint inside, found = False
    cdef real sums[DEPTHWISE_LANES]
    cdef char *out = p.args.out.data + row * p.out_last * p.groups * p.size
    for o in range(outer_count):
        own.outer_row[o] = input_row(p, own.outer_row[o])
    for i in range(p.out_last):
        position = i * stride - p.args.padding_lo[p.axes - 1]
        inside = p.args.input_dilation[p.axes - 1] == 1 and position >= 0 and position + reach < p.in_last
        move = 0
        if inside and found:
            move = (position - shift) * x.strides[p.axes]
        else:
            count = depthwise_taps(p, own, outer_count, position, lanes, xs, ws)
            found = inside
            shift = position
        begin = 0
        while begin < p.groups:
            channels = min(<Py_ssize_t>DEPTHWISE_LANES, p.groups - begin)
            depthwise_sums(p, x.data + (move + begin * x.strides[p.axes + 1]) * p.size, xs, weights + begin, ws, count,
                           channels, lanes, sums)
            if real is float:
                f32_to_row(p.dtype, out + begin * p.size, 1, channels, sums)
            else:
                f64_to_row(p.dtype, out + begin * p.size, 1, channels, sums)
            begin += DEPTHWISE_LANES
        out += p.groups * p.size


cdef void depthwise_work(Plan *p, char *shared, char *memory, bint team, real *tag) noexcept nogil:
    """One thread's rows of a depthwise convolution. The weights are [tap][channel], in whole batches of lanes."""
    cdef const ArrayRef *w = p.args.w
    cdef Own own
    cdef real *weights = <real *>shared
    cdef Py_ssize_t lanes = round_up(p.groups, DEPTHWISE_LANES), tap = conv_take(&p.packed), row
    own.outer_index = <Py_ssize_t *>memory
    own.outer_row = own.outer_index + p.outer_taps
    while tap < p.taps:
        memset(weights + tap * lanes, 0, lanes * sizeof(real))
        if real is float:
            row_to_f32(p.dtype, w.data + weight_tap(p, tap) * p.size, w.strides[0], p.groups, weights + tap * lanes)
        else:
            row_to_f64(p.dtype, w.data + weight_tap(p, tap) * p.size, w.strides[0], p.groups, weights + tap * lanes)
        tap = conv_take(&p.packed)
    if team:
        conv_barrier()
    row = conv_take(&p.done)
    while row < p.rows:
        depthwise_row(p, &own, row, weights, lanes)
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
        with parallel(num_threads=team_of(p.threads)):
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
