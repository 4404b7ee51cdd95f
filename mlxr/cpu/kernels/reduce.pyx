# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Reduction kernels: sum, product, extrema, moments, log-sum-exp, arg-reductions and scans.

reduce.pxd states semantics and the order of operations. This module must not know about Python objects, tensors, or how
dtypes of results are chosen.

How it works. The axes of the input are split into kept and reduced ones and merged where strides allow. A *unit* is one
result, or a run of results along one kept axis (the vector axis); it takes its reduced elements chunk by chunk:

- a unit of one result (a row) sees each chunk as contiguous elements, gathered or converted first if they are not;
- a unit of several results sees the chunk as CHUNK contiguous vectors of elements, one per reduced element.

Both do the same additions in the same order for a result, so which one runs is a matter of memory order alone: the axis
with the smallest stride decides. Chunks give partial results, which a tree merges. Threads share out units, or the
chunks of one unit where there are few.

What limits it: memory for everything above the caches (how chunks are read matters there, see reduce_run.h, and which
thread reads them, see share.pxd); in the L1 cache 64 bytes a cycle for sums.
Log-sum-exp needs some 20 operations an element, and is bound by arithmetic on one thread and by memory on several.
"""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.math cimport INFINITY, NAN, atan2, cos, hypot, sin, sqrt
from libc.stdint cimport (
    INT8_MAX, INT8_MIN, INT16_MAX, INT16_MIN, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, UINT8_MAX, UINT16_MAX,
    UINT32_MAX, UINT64_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t,
)
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mlxr.core.abi cimport (
    BFLOAT16, BOOL, COMPLEX64, FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, MAX_NDIM, UINT8, UINT16, UINT32,
    UINT64, ArrayRef,
)
from mlxr.cpu.kernels.half cimport bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, fused_f32, fused_f64
from mlxr.cpu.kernels.reduce cimport (
    BLOCK, CHUNK, LANES, MOMENT_MEAN, MOMENT_STD, REDUCE_ALL, REDUCE_ANY, REDUCE_MAX, REDUCE_PROD, REDUCE_SUM,
    SCAN_LOGSUMEXP, SCAN_MAX, SCAN_PROD, SCAN_SUM, SEGMENT, Moment, ReduceTable, ScanOp,
)
from mlxr.cpu.kernels.share cimport Shares, next_piece, share_out
from mlxr.cpu.kernels.vecmath cimport double_bits, double_from_bits, exp_f32, log_f32
from mlxr.cpu.team cimport team_of

cdef enum:
    PARALLEL_WORK = 262144      # elements (of cost 1) below which a second thread costs more than it saves
    RANGES_PER_THREAD = 32      # pieces of work a thread takes on average: evens out a core that others use too
    DIRECT_BYTES = 4096         # of one vector of results where elements are read in place
    TILE_BYTES = 256            # of one vector of results where a whole chunk is copied: CHUNK of them fit the L2 cache
    MIN_VECTOR = 8              # a shorter kept axis is not worth a vector

cdef extern from "reduce_run.h" nogil:
    void sum_chunks_f32(const float *x, Py_ssize_t chunks, float *part) noexcept
    void sum_chunks_f64(const double *x, Py_ssize_t chunks, double *part) noexcept
    void sum_chunks_u32(const uint32_t *x, Py_ssize_t chunks, uint32_t *part) noexcept
    void sum_chunks_u64(const uint64_t *x, Py_ssize_t chunks, uint64_t *part) noexcept
    void prod_chunks_f32(const float *x, Py_ssize_t chunks, float *part) noexcept
    void prod_chunks_f64(const double *x, Py_ssize_t chunks, double *part) noexcept
    void prod_chunks_u32(const uint32_t *x, Py_ssize_t chunks, uint32_t *part) noexcept
    void prod_chunks_u64(const uint64_t *x, Py_ssize_t chunks, uint64_t *part) noexcept

cdef extern from "<math.h>" nogil:
    int isunordered(double x, double y) noexcept     # a macro for floats of any width

# Types of accumulation, and the operations, which select specializations: pointers to them are always NULL.
ctypedef fused acc_t:
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

ctypedef fused real_t:
    float
    double

ctypedef struct Sum:
    char tag

ctypedef struct Prod:
    char tag

ctypedef struct Max:
    char tag

ctypedef struct Min:
    char tag

ctypedef fused op_t:
    Sum
    Prod
    Max
    Min

ctypedef struct Half:
    uint16_t bits

ctypedef struct Brain:
    uint16_t bits

ctypedef struct Complex:
    float re
    float im

ctypedef fused source_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    int8_t
    int16_t
    int32_t
    int64_t
    Half
    Brain
    float
    double
    Complex

ctypedef fused loaded_t:
    uint32_t
    float

ctypedef fused stored_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    Half
    Brain
    float
    double

ctypedef fused bits_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

# Partial result of an arg-reduction: the extremum, as bytes of the type compared, and where it first occurs.
ctypedef struct Found:
    char value[8]
    Py_ssize_t index

# Specializations are stored as functions of void pointers; their types differ in what is pointed to, and nothing else.
ctypedef void (*LoadFn)(const char *src, Py_ssize_t step, Py_ssize_t n, void *dst, void *source) noexcept nogil
ctypedef void (*StoreFn)(const void *src, Py_ssize_t n, char *dst, Py_ssize_t step) noexcept nogil
# `start` is the index of x[0] among the reduced elements; only arg-reductions need it.
ctypedef void (*RowFn)(const void *x, Py_ssize_t n, Py_ssize_t start, void *part, void *op) noexcept nogil
# `tile` has room for n * width elements. The rows may lie in it, one after the other, if they had to be copied.
ctypedef void (*ColumnsFn)(const void **rows, Py_ssize_t n, Py_ssize_t width, Py_ssize_t start, void *parts,
                           void *tile, void *scratch, void *op) noexcept nogil
ctypedef void (*MergeFn)(void *into, const void *later, void *unused, void *op) noexcept nogil

# Merges n partial results that lie side by side into the first, as the tree over neighbours.
ctypedef void (*TreeFn)(void *parts, Py_ssize_t n, void *op) noexcept nogil

ctypedef void (*LocateFn)(const void *x, Py_ssize_t n, Found *part, void *unused) noexcept nogil

# A group of axes with the size of their product. Strides are in bytes.
ctypedef struct Axes:
    int ndim
    Py_ssize_t size
    Py_ssize_t shape[MAX_NDIM + 1]      # one more, for the parts of complex numbers
    Py_ssize_t strides[MAX_NDIM + 1]

# How to make a partial result of a chunk and how to merge two.
ctypedef struct Kernel:
    RowFn row
    RowFn chunks                # of several whole chunks that lie in memory, if it can; `n` is their number
    ColumnsFn columns
    MergeFn merge
    TreeFn tree                 # if it is there; many calls of `merge` cost time
    LocateFn locate             # for arg-reductions
    size_t item                 # bytes of an element as the kernel reads it
    size_t part                 # bytes of a partial result
    Py_ssize_t scratch          # bytes per element of a vector of results that `columns` needs
    bint tiles                  # reads a chunk more than once, so vectors are kept short enough for the L2 cache
    Py_ssize_t cost             # of an element, in units of an addition

# What becomes of a merged partial result.
ctypedef enum Finish:
    FINISH_STORE                # convert to the output's dtype
    FINISH_INDEX
    FINISH_MEAN
    FINISH_VAR
    FINISH_STD
    FINISH_LOGSUMEXP
    FINISH_COMPLEX
    FINISH_COMPLEX_LOGSUMEXP

ctypedef struct Plan:
    Kernel kernel
    bint any_order              # the result does not depend on the order of the elements
    bint direct                 # elements may be read in place where they are contiguous
    LoadFn copy                 # how to make them so: gathers and converts
    const char *data
    Axes kept
    Axes reduced
    Py_ssize_t chunks
    Py_ssize_t parts_bytes      # of the partial results of all chunks of a unit
    Py_ssize_t tile_bytes       # of a copy of the chunk, for units of several results
    # Units: `outer` are the kept axes less the vector axis.
    Axes outer
    Axes outer_out              # the same axes, with strides of the output
    Py_ssize_t vector           # extent of the vector axis, or 1
    Py_ssize_t vector_stride
    Py_ssize_t vector_out       # its stride in the output, in elements
    Py_ssize_t width            # results per unit
    Py_ssize_t strips           # units per index of the outer axes
    bint columns
    # Output.
    Finish finish
    char *out
    Py_ssize_t out_item
    StoreFn store
    double count
    double divisor
    Py_ssize_t pairs            # partial results per result: 2 for the variance of complex numbers


# float64's exponential and logarithm, as loops can vectorize them. What exp gives has to be right beside 1 only.

cdef inline double exp_f64(double x) noexcept nogil:
    """exp(x) for x <= 0 (NaN gives NaN), to about 1 ULP: 2**k * exp(r), |r| <= log(2) / 2, Taylor's series to r**13."""
    cdef double clamped = x if x > -708.0 else -708.0
    cdef double shifted = fused_f64(clamped, 1.4426950408889634, 6755399441055744.0)
    cdef double k = shifted - 6755399441055744.0
    cdef double r = fused_f64(k, -6.93147180369123816490e-01, clamped)
    r = fused_f64(k, -1.90821492927058770002e-10, r)
    cdef double p = 1.0 / 6227020800.0
    p = fused_f64(p, r, 1.0 / 479001600.0)
    p = fused_f64(p, r, 1.0 / 39916800.0)
    p = fused_f64(p, r, 1.0 / 3628800.0)
    p = fused_f64(p, r, 1.0 / 362880.0)
    p = fused_f64(p, r, 1.0 / 40320.0)
    p = fused_f64(p, r, 1.0 / 5040.0)
    p = fused_f64(p, r, 1.0 / 720.0)
    p = fused_f64(p, r, 1.0 / 120.0)
    p = fused_f64(p, r, 1.0 / 24.0)
    p = fused_f64(p, r, 1.0 / 6.0)
    p = fused_f64(p, r, 0.5)
    p = fused_f64(p, r * r, r) + 1.0
    p = double_from_bits(double_bits(p) + (double_bits(shifted) << 52))
    p = p if x >= -708.0 else 0.0
    return x if x != x else p


cdef inline double log_f64(double x) noexcept nogil:
    """log(x) for normal x > 0, to about 1 ULP: k * log(2) + 2 * atanh((m - 1) / (m + 1)), m in [0.7, 1.4]."""
    cdef int64_t shifted = <int64_t>(double_bits(x) - 0x3FE6A09E667F3BCDu)
    cdef double k = <double>(<int32_t>(shifted >> 52))
    cdef double f = double_from_bits(double_bits(x) - <uint64_t>(shifted >> 52 << 52)) - 1.0
    cdef double z = f / (f + 2.0)
    cdef double w = z * z
    cdef double p = 1.0 / 23.0
    p = fused_f64(p, w, 1.0 / 21.0)
    p = fused_f64(p, w, 1.0 / 19.0)
    p = fused_f64(p, w, 1.0 / 17.0)
    p = fused_f64(p, w, 1.0 / 15.0)
    p = fused_f64(p, w, 1.0 / 13.0)
    p = fused_f64(p, w, 1.0 / 11.0)
    p = fused_f64(p, w, 1.0 / 9.0)
    p = fused_f64(p, w, 1.0 / 7.0)
    p = fused_f64(p, w, 1.0 / 5.0)
    p = fused_f64(p, w, 1.0 / 3.0)
    # log(m) = f - z * (f - 2 * w * p): exact where f is small.
    cdef double tail = z * (f - 2.0 * w * p)
    return fused_f64(k, 6.93147180369123816490e-01, f - fused_f64(k, -1.90821492927058770002e-10, tail))


cdef inline real_t exp_real(real_t x) noexcept nogil:
    if real_t is float:
        return exp_f32(x)
    else:
        return exp_f64(x)


cdef inline real_t log_real(real_t x) noexcept nogil:
    if real_t is float:
        return log_f32(x)
    else:
        return log_f64(x)


cdef inline real_t fused_real(real_t a, real_t b, real_t c) noexcept nogil:
    if real_t is float:
        return fused_f32(a, b, c)
    else:
        return fused_f64(a, b, c)


# Loads: n elements, `step` bytes apart and of any alignment, into a contiguous buffer.

cdef inline source_t fetch(const char *src, source_t *unused) noexcept nogil:
    cdef source_t value
    memcpy(&value, src, sizeof(source_t))
    return value


cdef inline loaded_t convert(source_t value, loaded_t *unused) noexcept nogil:
    if source_t is Half:
        return <loaded_t>f16_to_f32(value.bits)
    elif source_t is Brain:
        return <loaded_t>bf16_to_f32(value.bits)
    elif source_t is Complex:
        return <loaded_t>value.re
    else:
        return <loaded_t>value


cdef void load(const char *src, Py_ssize_t step, Py_ssize_t n, loaded_t *dst, source_t *unused) noexcept nogil:
    cdef Py_ssize_t i
    if step == <Py_ssize_t>sizeof(source_t):
        for i in range(n):
            dst[i] = convert(fetch(src + i * <Py_ssize_t>sizeof(source_t), <source_t *>NULL), <loaded_t *>NULL)
    else:
        for i in range(n):
            dst[i] = convert(fetch(src + i * step, <source_t *>NULL), <loaded_t *>NULL)


cdef inline uint8_t truth(source_t value) noexcept nogil:
    if source_t is Half or source_t is Brain:
        return (value.bits & 0x7FFFu) != 0
    elif source_t is Complex:
        return (value.re != 0) | (value.im != 0)
    else:
        return value != 0


cdef void load_truth(const char *src, Py_ssize_t step, Py_ssize_t n, uint8_t *out, source_t *unused) noexcept nogil:
    cdef Py_ssize_t i
    if step == <Py_ssize_t>sizeof(source_t):
        for i in range(n):
            out[i] = truth(fetch(src + i * <Py_ssize_t>sizeof(source_t), <source_t *>NULL))
    else:
        for i in range(n):
            out[i] = truth(fetch(src + i * step, <source_t *>NULL))


cdef void copy_bits(const char *src, Py_ssize_t step, Py_ssize_t n, bits_t *dst, void *unused) noexcept nogil:
    cdef Py_ssize_t i
    if step == <Py_ssize_t>sizeof(bits_t):
        memcpy(dst, src, n * sizeof(bits_t))
    else:
        for i in range(n):
            dst[i] = fetch(src + i * step, <bits_t *>NULL)


cdef LoadFn copier(size_t item) noexcept nogil:
    if item == 1:
        return <LoadFn>copy_bits[uint8_t]
    if item == 2:
        return <LoadFn>copy_bits[uint16_t]
    if item == 4:
        return <LoadFn>copy_bits[uint32_t]
    return <LoadFn>copy_bits[uint64_t]


cdef LoadFn truth_loader(int dtype) noexcept nogil:
    if dtype == BOOL or dtype == UINT8 or dtype == INT8:
        return <LoadFn>load_truth[uint8_t]
    if dtype == UINT16 or dtype == INT16:
        return <LoadFn>load_truth[uint16_t]
    if dtype == UINT32 or dtype == INT32:
        return <LoadFn>load_truth[uint32_t]
    if dtype == UINT64 or dtype == INT64:
        return <LoadFn>load_truth[uint64_t]
    if dtype == FLOAT16 or dtype == BFLOAT16:
        return <LoadFn>load_truth[Half]
    if dtype == FLOAT32:
        return <LoadFn>load_truth[float]
    if dtype == FLOAT64:
        return <LoadFn>load_truth[double]
    return <LoadFn>load_truth[Complex]


cdef LoadFn float_loader(int dtype) noexcept nogil:
    """Any real dtype but float64 to float32."""
    if dtype == BOOL or dtype == UINT8:
        return <LoadFn>load[float, uint8_t]
    if dtype == UINT16:
        return <LoadFn>load[float, uint16_t]
    if dtype == UINT32:
        return <LoadFn>load[float, uint32_t]
    if dtype == UINT64:
        return <LoadFn>load[float, uint64_t]
    if dtype == INT8:
        return <LoadFn>load[float, int8_t]
    if dtype == INT16:
        return <LoadFn>load[float, int16_t]
    if dtype == INT32:
        return <LoadFn>load[float, int32_t]
    if dtype == INT64:
        return <LoadFn>load[float, int64_t]
    if dtype == FLOAT16:
        return <LoadFn>load[float, Half]
    if dtype == BFLOAT16:
        return <LoadFn>load[float, Brain]
    return copier(4)


cdef LoadFn word_loader(int dtype) noexcept nogil:
    """Integers of 32 bits or less to 32 bits, sign extended where they are signed."""
    if dtype == BOOL or dtype == UINT8:
        return <LoadFn>load[uint32_t, uint8_t]
    if dtype == UINT16:
        return <LoadFn>load[uint32_t, uint16_t]
    if dtype == INT8:
        return <LoadFn>load[uint32_t, int8_t]
    if dtype == INT16:
        return <LoadFn>load[uint32_t, int16_t]
    return copier(4)


cdef inline size_t itemsize(int dtype) noexcept nogil:
    if dtype == BOOL or dtype == UINT8 or dtype == INT8:
        return 1
    if dtype == UINT16 or dtype == INT16 or dtype == FLOAT16 or dtype == BFLOAT16:
        return 2
    if dtype == UINT32 or dtype == INT32 or dtype == FLOAT32:
        return 4
    return 8


# Stores: n accumulators into a strided output.

cdef inline bint unordered(acc_t x) noexcept nogil:
    if acc_t in real_t:
        return x != x
    else:
        return False


cdef inline acc_t settled(acc_t x) noexcept nogil:
    """One NaN for all: sign and payload of a computed NaN differ between processors and between orders of operands."""
    if acc_t in real_t:
        return <acc_t>NAN if x != x else x
    else:
        return x


cdef void store(const acc_t *src, Py_ssize_t n, char *dst, Py_ssize_t step, stored_t *unused) noexcept nogil:
    cdef Py_ssize_t i
    cdef stored_t value
    for i in range(n):
        if stored_t is Half:
            value.bits = f32_to_f16(settled(<float>src[i]))
        elif stored_t is Brain:
            value.bits = f32_to_bf16(settled(<float>src[i]))
        else:
            value = <stored_t>settled(src[i])
        memcpy(dst + i * step, &value, sizeof(stored_t))


cdef void store_truth(const acc_t *src, Py_ssize_t n, char *dst, Py_ssize_t step, void *unused) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        dst[i * step] = src[i] != 0


cdef void store_complex(const Complex *src, Py_ssize_t n, char *dst, Py_ssize_t step) noexcept nogil:
    cdef Complex value
    cdef Py_ssize_t i
    for i in range(n):
        value.re = settled(src[i].re)
        value.im = settled(src[i].im)
        memcpy(dst + i * step, &value, sizeof(Complex))


cdef StoreFn float_storer(int dtype) noexcept nogil:
    if dtype == FLOAT16:
        return <StoreFn>store[float, Half]
    if dtype == BFLOAT16:
        return <StoreFn>store[float, Brain]
    return <StoreFn>store[float, float]


cdef StoreFn word_storer(int dtype) noexcept nogil:
    if dtype == BOOL:
        return <StoreFn>store_truth[uint32_t]
    if itemsize(dtype) == 1:
        return <StoreFn>store[uint32_t, uint8_t]
    if itemsize(dtype) == 2:
        return <StoreFn>store[uint32_t, uint16_t]
    return <StoreFn>store[uint32_t, uint32_t]


cdef StoreFn same_storer(int dtype) noexcept nogil:
    """For accumulators that are of the output's dtype."""
    cdef size_t item = itemsize(dtype)
    if dtype == FLOAT32:
        return <StoreFn>store[float, float]
    if dtype == FLOAT64:
        return <StoreFn>store[double, double]
    if item == 1:
        return <StoreFn>store[uint8_t, uint8_t]
    if item == 2:
        return <StoreFn>store[uint16_t, uint16_t]
    if item == 4:
        return <StoreFn>store[uint32_t, uint32_t]
    return <StoreFn>store[uint64_t, uint64_t]


# The operations.

cdef inline acc_t identity(acc_t unused, op_t *op) noexcept nogil:
    if op_t is Sum:
        return 0
    elif op_t is Prod:
        return 1
    elif op_t is Max:
        if acc_t is int8_t:
            return INT8_MIN
        elif acc_t is int16_t:
            return INT16_MIN
        elif acc_t is int32_t:
            return INT32_MIN
        elif acc_t is int64_t:
            return INT64_MIN
        elif acc_t in real_t:
            return -<acc_t>INFINITY
        else:
            return 0
    else:
        if acc_t is int8_t:
            return INT8_MAX
        elif acc_t is int16_t:
            return INT16_MAX
        elif acc_t is int32_t:
            return INT32_MAX
        elif acc_t is int64_t:
            return INT64_MAX
        elif acc_t is uint8_t:
            return UINT8_MAX
        elif acc_t is uint16_t:
            return UINT16_MAX
        elif acc_t is uint32_t:
            return UINT32_MAX
        elif acc_t is uint64_t:
            return UINT64_MAX
        else:
            return <acc_t>INFINITY


cdef inline acc_t better(acc_t a, acc_t b, op_t *op) noexcept nogil:
    """The larger or smaller; `a` if they are equal, or if there is a NaN."""
    if op_t is Max:
        return b if b > a else a
    else:
        return b if b < a else a


cdef inline acc_t join(acc_t a, acc_t b, op_t *op) noexcept nogil:
    """One step of a reduction. Of equal extrema the first stays; a NaN stays."""
    cdef acc_t best
    if op_t is Sum:
        return a + b
    elif op_t is Prod:
        return a * b
    else:
        # Two selections on one comparison each: this is what compilers turn into vectors.
        best = better(a, b, op)
        return b if unordered(b) else best


cdef inline acc_t join_four(acc_t a, acc_t b, acc_t c, acc_t d, op_t *op) noexcept nogil:
    return join(join(a, b, op), join(c, d, op), op)


cdef inline void join_block(acc_t *lane, const acc_t *a, const acc_t *b, const acc_t *c, const acc_t *d, const acc_t *e,
                            const acc_t *f, const acc_t *g, const acc_t *h, Py_ssize_t width, op_t *op) noexcept nogil:
    """Add a block: eight vectors as a tree, then to the lanes."""
    cdef acc_t best
    cdef int nan
    cdef Py_ssize_t i
    if acc_t in real_t and (op_t is Max or op_t is Min):
        # Comparing elements in pairs finds NaN with half the instructions that `join` takes for it.
        for i in range(width):
            nan = isunordered(a[i], b[i]) | isunordered(c[i], d[i]) | isunordered(e[i], f[i]) | isunordered(g[i], h[i])
            best = better(better(better(a[i], b[i], op), better(c[i], d[i], op), op),
                          better(better(e[i], f[i], op), better(g[i], h[i], op), op), op)
            best = better(lane[i], best, op)
            lane[i] = <acc_t>NAN if nan else best
    else:
        for i in range(width):
            lane[i] = join(
                lane[i], join(join_four(a[i], b[i], c[i], d[i], op), join_four(e[i], f[i], g[i], h[i], op), op), op)


cdef inline acc_t fold_lanes(const acc_t *lane, op_t *op) noexcept nogil:
    """The tree over lanes: j with j + 8, then with j + 4, j + 2, j + 1."""
    return join(
        join_four(join(lane[0], lane[8], op), join(lane[4], lane[12], op),
                  join(lane[2], lane[10], op), join(lane[6], lane[14], op), op),
        join_four(join(lane[1], lane[9], op), join(lane[5], lane[13], op),
                  join(lane[3], lane[11], op), join(lane[7], lane[15], op), op), op)


cdef void reduce_row(const acc_t *x, Py_ssize_t n, Py_ssize_t start, acc_t *part, op_t *op) noexcept nogil:
    cdef acc_t lane[LANES]
    cdef acc_t blank[LANES]         # what is missing of the last block is made up by identities, which change no bit
    cdef acc_t last[LANES]
    cdef acc_t neutral = identity(<acc_t>0, op)
    cdef const acc_t *vector[8]
    cdef Py_ssize_t j, whole
    for j in range(LANES):
        lane[j] = neutral
    while n >= BLOCK:
        join_block(lane, x, x + 16, x + 32, x + 48, x + 64, x + 80, x + 96, x + 112, LANES, op)
        x += BLOCK
        n -= BLOCK
    if n:
        whole = n // LANES
        for j in range(LANES):
            blank[j] = neutral
            last[j] = neutral
        for j in range(n - whole * LANES):
            last[j] = x[whole * LANES + j]
        for j in range(8):
            if j < whole:
                vector[j] = x + j * LANES
            elif j == whole:
                vector[j] = last
            else:
                vector[j] = blank
        join_block(lane, vector[0], vector[1], vector[2], vector[3], vector[4], vector[5], vector[6], vector[7],
                   LANES, op)
    part[0] = fold_lanes(lane, op)


cdef void reduce_chunks(const acc_t *x, Py_ssize_t chunks, Py_ssize_t start, acc_t *parts, op_t *op) noexcept nogil:
    """reduce_row of several whole chunks."""
    cdef Py_ssize_t i
    if op_t is Sum and acc_t is float:
        sum_chunks_f32(x, chunks, parts)
    elif op_t is Sum and acc_t is double:
        sum_chunks_f64(x, chunks, parts)
    elif op_t is Sum and acc_t is uint32_t:
        sum_chunks_u32(x, chunks, parts)
    elif op_t is Sum and acc_t is uint64_t:
        sum_chunks_u64(x, chunks, parts)
    elif op_t is Prod and acc_t is float:
        prod_chunks_f32(x, chunks, parts)
    elif op_t is Prod and acc_t is double:
        prod_chunks_f64(x, chunks, parts)
    elif op_t is Prod and acc_t is uint32_t:
        prod_chunks_u32(x, chunks, parts)
    elif op_t is Prod and acc_t is uint64_t:
        prod_chunks_u64(x, chunks, parts)
    else:
        for i in range(chunks):
            reduce_row(x + i * CHUNK, CHUNK, 0, parts + i, op)


cdef void join_vectors(acc_t *lane, const acc_t *a, Py_ssize_t width, op_t *op) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(width):
        lane[i] = join(lane[i], a[i], op)


cdef void reduce_columns(const acc_t **rows, Py_ssize_t n, Py_ssize_t width, Py_ssize_t start, acc_t *parts,
                         void *tile, acc_t *lane, op_t *op) noexcept nogil:
    """The additions of reduce_row for `width` results at a time; `lane` has room for (LANES + 1) * width."""
    cdef acc_t neutral = identity(<acc_t>0, op)
    cdef acc_t *blank = lane + LANES * width        # a row of identities
    cdef Py_ssize_t lanes = min(n, <Py_ssize_t>LANES)
    cdef Py_ssize_t i = 0, j, k, rest
    cdef const acc_t *row[8]
    for j in range(lanes * width):
        lane[j] = neutral
    for j in range(width):
        blank[j] = neutral
    while i < n:
        rest = min(n - i, <Py_ssize_t>BLOCK)
        for j in range(min(rest, <Py_ssize_t>LANES)):
            if rest <= LANES:
                join_vectors(lane + j * width, rows[i + j], width, op)
                continue
            for k in range(8):
                row[k] = rows[i + j + k * LANES] if j + k * LANES < rest else blank
            join_block(lane + j * width, row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], width, op)
        i += BLOCK
    k = LANES // 2
    while k:
        for j in range(min(k, lanes - k)):
            join_vectors(lane + j * width, lane + (j + k) * width, width, op)
        k //= 2
    memcpy(parts, lane, width * sizeof(acc_t))


cdef void merge(acc_t *into, const acc_t *later, void *unused, op_t *op) noexcept nogil:
    into[0] = join(into[0], later[0], op)


cdef void merge_tree(acc_t *parts, Py_ssize_t n, op_t *op) noexcept nogil:
    cdef Py_ssize_t half, i
    while n > 1:
        half = n // 2
        for i in range(half):
            parts[i] = join(parts[2 * i], parts[2 * i + 1], op)
        if n & 1:
            parts[half] = parts[n - 1]
        n -= half


# Moments: of each chunk, its number of elements, its mean, and the sum of squares of the deviations from it.

ctypedef struct Spread:
    double count
    double mean
    double squares


cdef inline Spread spread(double n, double shift, double first, double second) noexcept nogil:
    """From the sums of deviations from `shift`, and of their squares."""
    cdef Spread result
    result.count = n
    result.mean = shift + first / n
    result.squares = second - first * (first / n)
    return result


cdef void moments_row(const real_t *x, Py_ssize_t n, Py_ssize_t start, Spread *part, void *unused) noexcept nogil:
    cdef real_t lane[LANES]
    cdef real_t square_lane[LANES]
    cdef real_t tail[BLOCK]
    cdef real_t shift, a, b, c, d, e, f, g, h
    cdef const real_t *p
    cdef Py_ssize_t i, j, rest
    reduce_row(x, n, 0, &shift, <Sum *>NULL)
    shift = shift / <real_t>n
    for j in range(LANES):
        lane[j] = 0
        square_lane[j] = 0
    rest = n % BLOCK
    for i in range(BLOCK if rest else 0):
        tail[i] = shift
    memcpy(tail, x + (n - rest), rest * sizeof(real_t))
    for i in range((n + BLOCK - 1) // BLOCK):
        p = x + i * BLOCK if (i + 1) * BLOCK <= n else tail
        for j in range(LANES):
            a = p[j] - shift
            b = p[j + 16] - shift
            c = p[j + 32] - shift
            d = p[j + 48] - shift
            e = p[j + 64] - shift
            f = p[j + 80] - shift
            g = p[j + 96] - shift
            h = p[j + 112] - shift
            lane[j] += ((a + b) + (c + d)) + ((e + f) + (g + h))
            square_lane[j] += ((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h))
    part[0] = spread(n, shift, fold_lanes(lane, <Sum *>NULL), fold_lanes(square_lane, <Sum *>NULL))


cdef void moments_columns(const real_t **rows, Py_ssize_t n, Py_ssize_t width, Py_ssize_t start, Spread *parts,
                          real_t *tile, real_t *scratch, void *unused) noexcept nogil:
    """The arithmetic of moments_row; `scratch` has room for (LANES + 4) * width."""
    cdef real_t *shift = scratch
    cdef real_t *first = shift + width
    cdef real_t *second = first + width
    cdef real_t *lane = second + width
    cdef const real_t *tile_rows[CHUNK]
    cdef real_t *out
    cdef const real_t *row
    cdef Py_ssize_t i, j
    reduce_columns(rows, n, width, 0, shift, NULL, lane, <Sum *>NULL)
    for j in range(width):
        shift[j] = shift[j] / <real_t>n
    for i in range(n):
        row = rows[i]
        out = tile + i * width
        tile_rows[i] = out
        for j in range(width):
            out[j] = row[j] - shift[j]
    reduce_columns(tile_rows, n, width, 0, first, NULL, lane, <Sum *>NULL)
    for i in range(n * width):
        tile[i] = tile[i] * tile[i]
    reduce_columns(tile_rows, n, width, 0, second, NULL, lane, <Sum *>NULL)
    for j in range(width):
        parts[j] = spread(n, shift[j], first[j], second[j])


cdef void merge_moments(Spread *into, const Spread *later, void *unused, void *op) noexcept nogil:
    cdef double n = into.count + later.count
    cdef double delta = later.mean - into.mean
    into.mean = into.mean + delta * (later.count / n)
    into.squares = (into.squares + later.squares) + delta * delta * (into.count * (later.count / n))
    into.count = n


# Log-sum-exp: of each chunk, its largest element and the sum of exponentials relative to it. A chunk with no finite
# maximum has the sum that makes `largest + log(sum)` right: 0 for -inf (nothing to add), 1 for inf and NaN.

ctypedef struct Scaled:
    double largest
    double sum


cdef inline Scaled scaled(double largest, double total) noexcept nogil:
    cdef Scaled result
    result.largest = largest
    result.sum = total if largest - largest == 0 else (0.0 if largest < 0 else 1.0)
    return result


cdef void logsumexp_row(const real_t *x, Py_ssize_t n, Py_ssize_t start, Scaled *part, void *unused) noexcept nogil:
    cdef real_t tile[CHUNK]
    cdef real_t largest, total
    cdef Py_ssize_t i
    reduce_row(x, n, 0, &largest, <Max *>NULL)
    for i in range(n):
        tile[i] = exp_real(x[i] - largest)
    reduce_row(<const real_t *>tile, n, 0, &total, <Sum *>NULL)
    part[0] = scaled(largest, total)


cdef void logsumexp_columns(const real_t **rows, Py_ssize_t n, Py_ssize_t width, Py_ssize_t start, Scaled *parts,
                            real_t *tile, real_t *scratch, void *unused) noexcept nogil:
    """The arithmetic of logsumexp_row; `scratch` has room for (LANES + 4) * width."""
    cdef real_t *largest = scratch
    cdef real_t *total = largest + width
    cdef real_t *lane = total + width
    cdef const real_t *tile_rows[CHUNK]
    cdef real_t *out
    cdef const real_t *row
    cdef Py_ssize_t i, j
    reduce_columns(rows, n, width, 0, largest, NULL, lane, <Max *>NULL)
    for i in range(n):
        row = rows[i]
        out = tile + i * width
        tile_rows[i] = out
        for j in range(width):
            out[j] = exp_real(row[j] - largest[j])
    reduce_columns(tile_rows, n, width, 0, total, NULL, lane, <Sum *>NULL)
    for j in range(width):
        parts[j] = scaled(largest[j], total[j])


cdef void merge_logsumexp(Scaled *into, const Scaled *later, void *unused, void *op) noexcept nogil:
    if into.largest != into.largest:
        return
    if later.largest > into.largest:
        into.sum = into.sum * exp_f64(into.largest - later.largest) + later.sum
        into.largest = later.largest
    elif later.largest < into.largest:
        into.sum = into.sum + later.sum * exp_f64(later.largest - into.largest)
    elif later.largest == into.largest:
        into.sum = into.sum + later.sum
    else:
        into[0] = later[0]


# Arg-reductions.

cdef inline bint beats(acc_t x, acc_t best, op_t *op) noexcept nogil:
    if acc_t in real_t:
        return ((x > best) if op_t is Max else (x < best)) | ((x != x) & (best == best))
    else:
        return (x > best) if op_t is Max else (x < best)


cdef void arg_row(const acc_t *x, Py_ssize_t n, Py_ssize_t start, Found *part, op_t *op) noexcept nogil:
    """The extremum, and for an index that of the chunk: `locate` finds the element once the best chunk is known."""
    cdef acc_t best
    reduce_row(x, n, 0, &best, op)
    memcpy(part.value, &best, sizeof(acc_t))
    part.index = start


cdef void arg_chunks(const acc_t *x, Py_ssize_t chunks, Py_ssize_t start, Found *parts, op_t *op) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(chunks):
        arg_row(x + i * CHUNK, CHUNK, start + i * CHUNK, parts + i, op)


cdef inline bint same(acc_t x, acc_t y) noexcept nogil:
    """Equal, or both NaN."""
    if acc_t in real_t:
        return (x == y) | ((x != x) & (y != y))
    else:
        return x == y


cdef void locate(const acc_t *x, Py_ssize_t n, Found *part, void *unused) noexcept nogil:
    """Move `part.index` from x[0] to the first element that equals `part.value`, which is there."""
    cdef acc_t best
    cdef int hits
    cdef Py_ssize_t i = 0, j
    memcpy(&best, part.value, sizeof(acc_t))
    # Blocks without a hit are left behind at the speed of vectors.
    while i + BLOCK <= n:
        hits = 0
        for j in range(BLOCK):
            hits |= same(x[i + j], best)
        if hits:
            break
        i += BLOCK
    while i + 1 < n and not same(x[i], best):
        i += 1
    part.index += i


cdef void arg_columns(const acc_t **rows, Py_ssize_t n, Py_ssize_t width, Py_ssize_t start, Found *parts,
                      void *tile, acc_t *scratch, op_t *op) noexcept nogil:
    cdef acc_t *best = scratch
    cdef acc_t *index = scratch + width     # below CHUNK, so exact in any type; as wide as the values, for vectors
    cdef const acc_t *row
    cdef Py_ssize_t i, j
    cdef bint better
    for j in range(width):
        best[j] = rows[0][j]
        index[j] = 0
    for i in range(1, n):
        row = rows[i]
        for j in range(width):
            better = beats(row[j], best[j], op)
            best[j] = row[j] if better else best[j]
            index[j] = <acc_t>i if better else index[j]
    for j in range(width):
        memcpy(parts[j].value, best + j, sizeof(acc_t))
        parts[j].index = start + <Py_ssize_t>index[j]


cdef void merge_found(Found *into, const Found *later, acc_t *unused, op_t *op) noexcept nogil:
    cdef acc_t a, b
    memcpy(&a, into.value, sizeof(acc_t))
    memcpy(&b, later.value, sizeof(acc_t))
    if beats(b, a, op):
        into[0] = later[0]


# Complex numbers: products, extrema and log-sum-exp run one element at a time within a chunk.

ctypedef struct ComplexScaled:
    Complex largest             # in lexicographic order
    double re
    double im


cdef inline bint is_nan(Complex x) noexcept nogil:
    return (x.re != x.re) | (x.im != x.im)


cdef inline bint precedes(Complex a, Complex b) noexcept nogil:
    """Lexicographic a < b."""
    return (a.re < b.re) | ((a.re == b.re) & (a.im < b.im))


cdef inline Complex join_complex(Complex a, Complex b, op_t *op) noexcept nogil:
    cdef Complex product
    if op_t is Prod:
        product.re = a.re * b.re - a.im * b.im
        product.im = a.re * b.im + a.im * b.re
        return product
    elif op_t is Max:
        return a if is_nan(a) or not (is_nan(b) or precedes(a, b)) else b
    else:
        return a if is_nan(a) or not (is_nan(b) or precedes(b, a)) else b


cdef void complex_row(const Complex *x, Py_ssize_t n, Py_ssize_t start, Complex *part, op_t *op) noexcept nogil:
    cdef Py_ssize_t i
    part.re = 1 if op_t is Prod else (-INFINITY if op_t is Max else INFINITY)
    part.im = 0 if op_t is Prod else part.re
    if n:
        part[0] = x[0]
    for i in range(1, n):
        part[0] = join_complex(part[0], x[i], op)


cdef void merge_complex(Complex *into, const Complex *later, void *unused, op_t *op) noexcept nogil:
    into[0] = join_complex(into[0], later[0], op)


cdef void complex_arg_row(const Complex *x, Py_ssize_t n, Py_ssize_t start, Found *part, op_t *op) noexcept nogil:
    cdef Complex best = x[0], joined
    cdef Py_ssize_t i
    part.index = start
    for i in range(1, n):
        if is_nan(best):
            break
        joined = join_complex(best, x[i], op)
        if joined.re != best.re or joined.im != best.im:
            best = x[i]
            part.index = start + i
    memcpy(part.value, &best, sizeof(Complex))


cdef void merge_complex_found(Found *into, const Found *later, void *unused, op_t *op) noexcept nogil:
    cdef Complex a, b, joined
    memcpy(&a, into.value, sizeof(Complex))
    memcpy(&b, later.value, sizeof(Complex))
    joined = join_complex(a, b, op)
    if not is_nan(a) and (joined.re != a.re or joined.im != a.im):
        into[0] = later[0]


cdef inline ComplexScaled rescaled(ComplexScaled x, Complex largest) noexcept nogil:
    """`x` relative to a larger element: times exp(x.largest - largest)."""
    cdef double scale = exp_f64(<double>x.largest.re - largest.re) if x.largest.re != largest.re else 1.0
    cdef double angle = <double>x.largest.im - largest.im if x.largest.im != largest.im else 0.0
    cdef ComplexScaled y
    y.largest = largest
    y.re = scale * (x.re * cos(angle) - x.im * sin(angle))
    y.im = scale * (x.re * sin(angle) + x.im * cos(angle))
    return y


cdef void merge_complex_logsumexp(ComplexScaled *into, const ComplexScaled *later, void *unused,
                                  void *op) noexcept nogil:
    cdef Complex largest = join_complex(into.largest, later.largest, <Max *>NULL)
    cdef ComplexScaled a = rescaled(into[0], largest), b = rescaled(later[0], largest)
    into.largest = largest
    into.re = a.re + b.re
    into.im = a.im + b.im


cdef Complex complex_log(const ComplexScaled *x) noexcept nogil:
    """The logarithm of a sum. Where the largest element is infinite or NaN, so is the result."""
    cdef Complex result = x.largest
    if x.largest.re - x.largest.re == 0:
        result.re = <float>(x.largest.re + log_f64(hypot(x.re, x.im)))
        result.im = <float>(x.largest.im + atan2(x.im, x.re))
    return result


cdef void complex_logsumexp_row(const Complex *x, Py_ssize_t n, Py_ssize_t start, ComplexScaled *part,
                                void *unused) noexcept nogil:
    cdef ComplexScaled one, term
    cdef Complex largest
    cdef Py_ssize_t i
    complex_row(x, n, 0, &largest, <Max *>NULL)
    part.largest = largest
    part.re = 0
    part.im = 0
    for i in range(n):
        one.largest = x[i]
        one.re = 1
        one.im = 0
        term = rescaled(one, largest)
        part.re += term.re
        part.im += term.im


# Geometry.

cdef void add_axis(Axes *axes, Py_ssize_t extent, Py_ssize_t stride, bint mergeable) noexcept nogil:
    """Append an axis; one that continues the last one is merged with it."""
    cdef int last = axes.ndim - 1
    axes.size *= extent
    if extent == 1:
        return
    if mergeable and axes.ndim and axes.strides[last] == extent * stride:
        axes.shape[last] *= extent
        axes.strides[last] = stride
        return
    axes.shape[axes.ndim] = extent
    axes.strides[axes.ndim] = stride
    axes.ndim += 1


cdef inline Py_ssize_t offset_of(const Axes *axes, Py_ssize_t index) noexcept nogil:
    """Byte offset of the element with this row-major index."""
    cdef Py_ssize_t offset = 0, quotient
    cdef int d = axes.ndim - 1
    while d > 0:
        quotient = index // axes.shape[d]
        offset += (index - quotient * axes.shape[d]) * axes.strides[d]
        index = quotient
        d -= 1
    return offset + index * axes.strides[0] if axes.ndim else 0


cdef void gather(const Plan *plan, const char *base, Py_ssize_t start, Py_ssize_t n, char *dst) noexcept nogil:
    """Reduced elements [start, start + n) of the result at `base`, converted, into a contiguous buffer."""
    cdef const Axes *axes = &plan.reduced
    cdef int last = axes.ndim - 1
    cdef Py_ssize_t run, position
    while n > 0:
        position = start % axes.shape[last] if axes.ndim > 1 else start
        run = min(n, axes.shape[last] - position) if axes.ndim else 1
        plan.copy(base + offset_of(axes, start), axes.strides[last] if axes.ndim else 0, run, dst, NULL)
        dst += run * plan.kernel.item
        start += run
        n -= run


cdef inline bint in_place(const Plan *plan) noexcept nogil:
    """Whether the reduced elements of a row lie side by side in memory, as the kernel reads them."""
    cdef const Axes *axes = &plan.reduced
    return plan.direct and (axes.ndim == 0 or (axes.ndim == 1 and axes.strides[0] == <Py_ssize_t>plan.kernel.item))


cdef inline const char *row_chunk(const Plan *plan, const char *base, Py_ssize_t start, Py_ssize_t n,
                                  char *buffer) noexcept nogil:
    """Reduced elements [start, start + n) as contiguous ones: where they lie, or in the buffer."""
    if in_place(plan):
        return base + start * <Py_ssize_t>plan.kernel.item
    gather(plan, base, start, n, buffer)
    return buffer


cdef void take_chunk(const Plan *plan, const char *base, Py_ssize_t chunk, Py_ssize_t width, char *parts,
                     char *tile) noexcept nogil:
    """Partial results of one chunk for the `width` results of the unit at `base`. Scratch follows the tile."""
    cdef uint64_t buffer[CHUNK]
    cdef const void *rows[CHUNK]
    cdef const Axes *axes = &plan.reduced
    cdef Py_ssize_t start = chunk * CHUNK
    cdef Py_ssize_t n = min(<Py_ssize_t>CHUNK, axes.size - start)
    cdef Py_ssize_t item = plan.kernel.item
    cdef Py_ssize_t i
    if not plan.columns:
        plan.kernel.row(row_chunk(plan, base, start, n, <char *>buffer), n, start, parts, NULL)
        return
    if plan.direct and plan.vector_stride == item:
        for i in range(n):
            rows[i] = base + offset_of(axes, start + i)
    else:
        for i in range(n):
            rows[i] = tile + i * width * item
            plan.copy(base + offset_of(axes, start + i), plan.vector_stride, width, <void *>rows[i], NULL)
    plan.kernel.columns(rows, n, width, start, parts, tile, tile + plan.tile_bytes, NULL)


cdef void take_run(const Plan *plan, const char *base, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t width, char *parts,
                   char *tile) noexcept nogil:
    """Partial results of the chunks [begin, end), as take_chunk gives them."""
    cdef Py_ssize_t stride = plan.width * plan.kernel.part
    cdef Py_ssize_t whole = min(end, plan.reduced.size // CHUNK)
    cdef Py_ssize_t chunk
    if plan.kernel.chunks and not plan.columns and begin < whole and in_place(plan):
        plan.kernel.chunks(base + begin * CHUNK * <Py_ssize_t>plan.kernel.item, whole - begin, begin * CHUNK, parts,
                           NULL)
        parts += (whole - begin) * stride
        begin = whole
    for chunk in range(begin, end):
        take_chunk(plan, base, chunk, width, parts + (chunk - begin) * stride, tile)


cdef void locate_in_chunk(const Plan *plan, const char *base, Found *part) noexcept nogil:
    """Finish an arg-reduction of a row: search the chunk that begins at `part.index`."""
    cdef uint64_t buffer[CHUNK]
    cdef Py_ssize_t n = min(<Py_ssize_t>CHUNK, plan.reduced.size - part.index)
    plan.kernel.locate(row_chunk(plan, base, part.index, n, <char *>buffer), n, part, NULL)


cdef void merge_parts(const Plan *plan, char *parts, Py_ssize_t n, Py_ssize_t stride) noexcept nogil:
    """The tree over neighbours, in place; the result is the first part."""
    cdef Py_ssize_t gap = 1, i
    while gap < n:
        i = 0
        while i + gap < n:
            plan.kernel.merge(parts + i * stride, parts + (i + gap) * stride, NULL, NULL)
            i += 2 * gap
        gap *= 2


cdef void finish(const Plan *plan, char *part, Py_ssize_t pair_stride, char *out) noexcept nogil:
    """Write one result from its merged partial result."""
    cdef Complex value
    cdef Scaled *log_part
    cdef double result
    cdef float narrow
    if plan.finish == FINISH_STORE:
        plan.store(part, 1, out, 0)
        return
    if plan.finish == FINISH_INDEX:
        (<uint32_t *>out)[0] = <uint32_t>(<Found *>part).index
        return
    if plan.finish == FINISH_COMPLEX:
        store_complex(<const Complex *>part, 1, out, 0)
        return
    if plan.finish == FINISH_COMPLEX_LOGSUMEXP:
        value = complex_log(<ComplexScaled *>part)
        store_complex(&value, 1, out, 0)
        return
    if plan.finish == FINISH_MEAN:
        result = ((<double *>part)[0] if plan.kernel.part == 8 else <double>(<float *>part)[0]) / plan.count
    elif plan.finish == FINISH_LOGSUMEXP:
        log_part = <Scaled *>part
        result = log_part.largest if log_part.sum == 0 else log_part.largest + log_f64(log_part.sum)
    else:
        result = (<Spread *>part).squares
        if plan.pairs == 2:
            result += (<Spread *>(part + pair_stride)).squares
        result = result / plan.divisor
        if plan.finish == FINISH_STD:
            result = sqrt(result)
    if plan.out_item == sizeof(double):
        store(&result, 1, out, 0, <double *>NULL)
    else:
        narrow = <float>result
        plan.store(&narrow, 1, out, 0)


cdef void finish_unit(const Plan *plan, const char *base, char *parts, Py_ssize_t width,
                      Py_ssize_t out_offset) noexcept nogil:
    """Merge and write the results of the unit at `base`; its chunks lie plan.width partial results apart."""
    cdef Py_ssize_t i
    cdef Py_ssize_t part = plan.kernel.part
    if plan.width == 1 and plan.kernel.tree:
        plan.kernel.tree(parts, plan.chunks, NULL)
    else:
        for i in range(width):
            merge_parts(plan, parts + i * part, plan.chunks, plan.width * part)
    if plan.finish == FINISH_STORE:
        plan.store(parts, width, plan.out + out_offset, plan.vector_out * plan.out_item)
        return
    if plan.finish == FINISH_INDEX and not plan.columns and plan.kernel.locate:
        locate_in_chunk(plan, base, <Found *>parts)
    i = 0
    while i < width:
        finish(plan, parts + i * part, part,
               plan.out + out_offset + (i // plan.pairs) * plan.vector_out * plan.out_item)
        i += plan.pairs


cdef void take_units(const Plan *plan, Py_ssize_t begin, Py_ssize_t end, char *memory) noexcept nogil:
    """All of the units [begin, end). `memory` holds partial results, then scratch."""
    cdef Py_ssize_t unit, outer, first, width
    cdef char *scratch = memory + plan.parts_bytes
    cdef const char *base
    for unit in range(begin, end):
        outer = unit // plan.strips if plan.strips > 1 else unit
        first = (unit - outer * plan.strips) * plan.width
        width = min(plan.width, plan.vector - first)
        base = plan.data + offset_of(&plan.outer, outer) + first * plan.vector_stride
        take_run(plan, base, 0, plan.chunks, width, memory, scratch)
        finish_unit(plan, base, memory, width,
                    offset_of(&plan.outer_out, outer) + first * plan.vector_out * plan.out_item)


cdef void take_chunks(const Plan *plan, Py_ssize_t unit, Py_ssize_t begin, Py_ssize_t end, char *parts,
                      char *scratch) noexcept nogil:
    """The chunks [begin, end) of one unit."""
    cdef Py_ssize_t outer = unit // plan.strips
    cdef Py_ssize_t first = (unit - outer * plan.strips) * plan.width
    cdef const char *base = plan.data + offset_of(&plan.outer, outer) + first * plan.vector_stride
    take_run(plan, base, begin, end, min(plan.width, plan.vector - first),
             parts + begin * plan.width * plan.kernel.part, scratch)


cdef void share_units(const Plan *plan, Py_ssize_t units, Shares *work, int thread, char *memory) noexcept nogil:
    """What one thread takes of all units."""
    cdef Py_ssize_t piece = next_piece(work, thread)
    while piece >= 0:
        take_units(plan, piece * units // work.pieces, (piece + 1) * units // work.pieces, memory)
        piece = next_piece(work, thread)


cdef void share_chunks(const Plan *plan, Py_ssize_t unit, Shares *work, int thread, char *parts,
                       char *scratch) noexcept nogil:
    """What one thread takes of the chunks of one unit."""
    cdef Py_ssize_t piece = next_piece(work, thread)
    while piece >= 0:
        take_chunks(plan, unit, piece * plan.chunks // work.pieces, (piece + 1) * plan.chunks // work.pieces, parts,
                    scratch)
        piece = next_piece(work, thread)


cdef inline int threads_for(double work, int threads) noexcept nogil:
    if work < PARALLEL_WORK:
        return 1
    return <int>min(<double>threads, work / (PARALLEL_WORK // 2))


cdef int run(Plan *plan, int threads) noexcept nogil:
    """Take all units, with as many threads as are worth it."""
    cdef Py_ssize_t units = plan.outer.size * plan.strips
    cdef Py_ssize_t rows = min(<Py_ssize_t>CHUNK, plan.reduced.size)
    cdef Py_ssize_t ranges, i, unit, first, scratch_bytes
    cdef int used
    cdef Shares work
    cdef uint64_t small[128]
    cdef char *memory = <char *>small
    if units == 0:
        return 0
    # Padded by a cache line, so that threads do not share one.
    plan.parts_bytes = (plan.chunks * plan.width * <Py_ssize_t>plan.kernel.part + 127) // 64 * 64
    scratch_bytes = 0
    if plan.columns:
        plan.tile_bytes = (plan.width * rows * <Py_ssize_t>plan.kernel.item + 127) // 64 * 64
        scratch_bytes = plan.tile_bytes + (plan.width * plan.kernel.scratch + 127) // 64 * 64
    used = threads_for(<double>units * plan.width * plan.reduced.size * plan.kernel.cost, threads)
    if used > 1 and units < 2 * used and plan.chunks > 1:
        memory = <char *>malloc(plan.parts_bytes + used * scratch_bytes)
        if memory is NULL:
            return -1
        ranges = min(plan.chunks, <Py_ssize_t>(RANGES_PER_THREAD * used))
        for unit in range(units):
            share_out(&work, ranges, used)
            for i in prange(used, num_threads=team_of(used), schedule="static", chunksize=1):
                share_chunks(plan, unit, &work, <int>i, memory, memory + plan.parts_bytes + i * scratch_bytes)
            i = unit // plan.strips
            first = (unit - i * plan.strips) * plan.width
            finish_unit(plan, plan.data + offset_of(&plan.outer, i) + first * plan.vector_stride, memory,
                        min(plan.width, plan.vector - first),
                        offset_of(&plan.outer_out, i) + first * plan.vector_out * plan.out_item)
        free(memory)
        return 0
    if used > 1 or plan.parts_bytes + scratch_bytes > <Py_ssize_t>sizeof(small):
        memory = <char *>malloc(used * (plan.parts_bytes + scratch_bytes))
        if memory is NULL:
            return -1
    if used == 1:
        take_units(plan, 0, units, memory)
    else:
        ranges = min(units, <Py_ssize_t>(RANGES_PER_THREAD * used))
        share_out(&work, ranges, used)
        for i in prange(used, num_threads=team_of(used), schedule="static", chunksize=1):
            share_units(plan, units, &work, <int>i, memory + i * (plan.parts_bytes + scratch_bytes))
    if memory != <char *>small:
        free(memory)
    return 0


cdef inline Py_ssize_t magnitude(Py_ssize_t stride) noexcept nogil:
    return -stride if stride < 0 else stride


cdef void sort_axes(Plan *plan) noexcept nogil:
    """Put the reduced axes in the order of memory, forwards, for operations whose results do not depend on it."""
    cdef Axes axes = plan.reduced
    cdef int i, farthest
    plan.reduced.ndim = 0
    plan.reduced.size = 1
    for i in range(axes.ndim):
        if axes.strides[i] < 0:
            plan.data += (axes.shape[i] - 1) * axes.strides[i]
            axes.strides[i] = -axes.strides[i]
    while axes.ndim:
        farthest = 0
        for i in range(1, axes.ndim):
            if axes.strides[i] > axes.strides[farthest]:
                farthest = i
        add_axis(&plan.reduced, axes.shape[farthest], axes.strides[farthest], True)
        axes.ndim -= 1
        axes.shape[farthest] = axes.shape[axes.ndim]
        axes.strides[farthest] = axes.strides[axes.ndim]


cdef void lay_out(Plan *plan, const ArrayRef *x, uint32_t axes, const ArrayRef *out, size_t source_item,
                  bint parts_of_complex, int threads) noexcept nogil:
    """Fill in the geometry: axes, vector axis, units. `plan.kernel`, `copy`, `direct` and `pairs` are set.

    With `parts_of_complex`, real and imaginary parts are results of their own, along a last kept axis of extent 2.
    """
    cdef Py_ssize_t extents[MAX_NDIM + 1]
    cdef Py_ssize_t nearest = 0, out_stride = 1, limit
    cdef size_t unit_item = itemsize(x.dtype)
    cdef int i, axis = -1
    plan.data = x.data
    plan.out = out.data
    plan.kept.ndim = plan.reduced.ndim = plan.outer.ndim = plan.outer_out.ndim = 0
    plan.kept.size = plan.reduced.size = plan.outer.size = plan.outer_out.size = 1
    for i in range(x.ndim):
        if axes >> i & 1:
            add_axis(&plan.reduced, x.shape[i], x.strides[i] * <Py_ssize_t>unit_item, not plan.any_order)
        else:
            add_axis(&plan.kept, x.shape[i], x.strides[i] * <Py_ssize_t>unit_item, True)
    if plan.any_order:
        sort_axes(plan)
    if parts_of_complex:
        add_axis(&plan.kept, 2, sizeof(float), plan.pairs == 1)
    plan.direct = plan.direct and <uintptr_t>x.data % source_item == 0
    plan.chunks = max(<Py_ssize_t>1, (plan.reduced.size + CHUNK - 1) // CHUNK)
    plan.count = plan.reduced.size
    for i in range(plan.reduced.ndim):
        if i == 0 or magnitude(plan.reduced.strides[i]) < nearest:
            nearest = magnitude(plan.reduced.strides[i])
    # The vector axis: the kept axis of the smallest stride, if it is nearer than all reduced ones or rows are short.
    for i in range(plan.kept.ndim):
        if plan.kept.shape[i] >= MIN_VECTOR and (
                axis < 0 or magnitude(plan.kept.strides[i]) <= magnitude(plan.kept.strides[axis])):
            axis = i
    if axis >= 0 and plan.reduced.size > LANES and magnitude(plan.kept.strides[axis]) >= nearest:
        axis = -1
    if plan.pairs == 2:
        axis = plan.kept.ndim - 1
    if plan.kernel.columns is NULL or plan.reduced.size == 0:
        axis = -1
    plan.columns = axis >= 0
    plan.vector = plan.kept.shape[axis] if axis >= 0 else 1
    plan.vector_stride = plan.kept.strides[axis] if axis >= 0 else 0
    plan.vector_out = 0
    i = plan.kept.ndim - 1
    while i >= 0:
        extents[i] = out_stride
        if i == axis:
            plan.vector_out = out_stride
        if not (i == axis and plan.pairs == 2):
            out_stride *= plan.kept.shape[i]
        i -= 1
    for i in range(plan.kept.ndim):
        if i != axis:
            add_axis(&plan.outer, plan.kept.shape[i], plan.kept.strides[i], False)
            add_axis(&plan.outer_out, plan.kept.shape[i], extents[i] * plan.out_item, False)
    if plan.kept.size == 0:
        plan.outer.size = 0
    limit = DIRECT_BYTES
    if not plan.direct or plan.kernel.tiles or plan.vector_stride != <Py_ssize_t>plan.kernel.item:
        limit = min(limit, TILE_BYTES * CHUNK // max(<Py_ssize_t>1, min(<Py_ssize_t>CHUNK, plan.reduced.size)))
    # Narrower where there would not be two units per thread, but not so narrow that memory is read in crumbs.
    limit = min(limit // <Py_ssize_t>plan.kernel.item,
                max(<Py_ssize_t>TILE_BYTES, plan.vector * plan.outer.size // (2 * threads)))
    plan.strips = 1
    plan.width = plan.vector
    if plan.vector > limit:
        # Strips of about the same width.
        plan.strips = (plan.vector + limit - 1) // limit
        plan.width = (plan.vector + plan.strips - 1) // plan.strips
        plan.strips = (plan.vector + plan.width - 1) // plan.width


# Choice of kernels.

cdef Kernel reduction_of(acc_t unused, op_t *op) noexcept nogil:
    cdef Kernel kernel
    kernel.row = <RowFn>reduce_row[acc_t, op_t]
    kernel.chunks = <RowFn>reduce_chunks[acc_t, op_t]
    kernel.columns = <ColumnsFn>reduce_columns[acc_t, op_t]
    kernel.merge = <MergeFn>merge[acc_t, op_t]
    kernel.tree = <TreeFn>merge_tree[acc_t, op_t]
    kernel.locate = NULL
    kernel.item = kernel.part = sizeof(acc_t)
    kernel.scratch = (LANES + 1) * sizeof(acc_t)
    kernel.tiles = False
    kernel.cost = 1
    return kernel


cdef Kernel numeric_kernel(int dtype, op_t *op) noexcept nogil:
    """Sums and products, in the type that `numeric_loader` loads into."""
    if dtype == FLOAT64:
        return reduction_of(<double>0, op)
    if dtype == FLOAT32 or dtype == FLOAT16 or dtype == BFLOAT16:
        return reduction_of(<float>0, op)
    if dtype == UINT64 or dtype == INT64:
        return reduction_of(<uint64_t>0, op)
    return reduction_of(<uint32_t>0, op)


cdef Kernel extremum_kernel(int dtype, op_t *op) noexcept nogil:
    """Extrema in the dtype itself; 16-bit floats as float32."""
    if dtype == BOOL or dtype == UINT8:
        return reduction_of(<uint8_t>0, op)
    if dtype == UINT16:
        return reduction_of(<uint16_t>0, op)
    if dtype == UINT32:
        return reduction_of(<uint32_t>0, op)
    if dtype == UINT64:
        return reduction_of(<uint64_t>0, op)
    if dtype == INT8:
        return reduction_of(<int8_t>0, op)
    if dtype == INT16:
        return reduction_of(<int16_t>0, op)
    if dtype == INT32:
        return reduction_of(<int32_t>0, op)
    if dtype == INT64:
        return reduction_of(<int64_t>0, op)
    if dtype == FLOAT64:
        return reduction_of(<double>0, op)
    return reduction_of(<float>0, op)


cdef Kernel arg_of(acc_t unused, op_t *op) noexcept nogil:
    cdef Kernel kernel
    kernel.row = <RowFn>arg_row[acc_t, op_t]
    kernel.chunks = <RowFn>arg_chunks[acc_t, op_t]
    kernel.columns = <ColumnsFn>arg_columns[acc_t, op_t]
    kernel.merge = <MergeFn>merge_found[acc_t, op_t]
    kernel.tree = NULL
    kernel.locate = <LocateFn>locate[acc_t]
    kernel.item = sizeof(acc_t)
    kernel.part = sizeof(Found)
    kernel.scratch = 2 * sizeof(acc_t)
    kernel.tiles = False
    kernel.cost = 1
    return kernel


cdef Kernel arg_kernel(int dtype, op_t *op) noexcept nogil:
    if dtype == FLOAT64:
        return arg_of(<double>0, op)
    if dtype == FLOAT32 or dtype == FLOAT16 or dtype == BFLOAT16:
        return arg_of(<float>0, op)
    if dtype == UINT64:
        return arg_of(<uint64_t>0, op)
    if dtype == INT64:
        return arg_of(<int64_t>0, op)
    if dtype == INT8 or dtype == INT16 or dtype == INT32:
        return arg_of(<int32_t>0, op)
    return arg_of(<uint32_t>0, op)


cdef Kernel moments_of(real_t unused) noexcept nogil:
    cdef Kernel kernel
    kernel.row = <RowFn>moments_row[real_t]
    kernel.chunks = NULL
    kernel.columns = <ColumnsFn>moments_columns[real_t]
    kernel.merge = <MergeFn>merge_moments
    kernel.tree = NULL
    kernel.locate = NULL
    kernel.item = sizeof(real_t)
    kernel.part = sizeof(Spread)
    kernel.scratch = (LANES + 4) * sizeof(real_t)
    kernel.tiles = True
    kernel.cost = 3
    return kernel


cdef Kernel logsumexp_of(real_t unused) noexcept nogil:
    cdef Kernel kernel
    kernel.row = <RowFn>logsumexp_row[real_t]
    kernel.chunks = NULL
    kernel.columns = <ColumnsFn>logsumexp_columns[real_t]
    kernel.merge = <MergeFn>merge_logsumexp
    kernel.tree = NULL
    kernel.locate = NULL
    kernel.item = sizeof(real_t)
    kernel.part = sizeof(Scaled)
    kernel.scratch = (LANES + 4) * sizeof(real_t)
    kernel.tiles = True
    kernel.cost = 8
    return kernel


cdef Kernel complex_of(op_t *op) noexcept nogil:
    cdef Kernel kernel
    kernel.row = <RowFn>complex_row[op_t]
    kernel.chunks = NULL
    kernel.columns = NULL
    kernel.merge = <MergeFn>merge_complex[op_t]
    kernel.tree = NULL
    kernel.locate = NULL
    kernel.item = kernel.part = sizeof(Complex)
    kernel.scratch = 0
    kernel.tiles = False
    kernel.cost = 4
    return kernel


cdef Kernel complex_arg_of(op_t *op) noexcept nogil:
    cdef Kernel kernel = complex_of(op)
    kernel.row = <RowFn>complex_arg_row[op_t]
    kernel.merge = <MergeFn>merge_complex_found[op_t]
    kernel.part = sizeof(Found)
    return kernel


cdef LoadFn numeric_loader(int dtype) noexcept nogil:
    """The type of arithmetic: float32 or float64 for floats, 32 or 64 bits for integers."""
    if dtype == FLOAT16 or dtype == BFLOAT16:
        return float_loader(dtype)
    if dtype == FLOAT32 or itemsize(dtype) == 8:
        return copier(itemsize(dtype))
    return word_loader(dtype)


cdef int reduce(int op, const ArrayRef *x, uint32_t axes, const ArrayRef *out, int threads) noexcept nogil:
    cdef Plan plan
    cdef int dtype = x.dtype
    cdef bint floating = dtype == FLOAT16 or dtype == BFLOAT16
    cdef size_t item = itemsize(dtype)
    cdef bint parts_of_complex = False
    plan.pairs = 1
    plan.any_order = op == REDUCE_ALL or op == REDUCE_ANY or not (floating or dtype in (FLOAT32, FLOAT64, COMPLEX64))
    plan.finish = FINISH_STORE
    plan.out_item = itemsize(out.dtype)
    plan.direct = not floating
    if op == REDUCE_ALL or op == REDUCE_ANY:
        if op == REDUCE_ALL:
            plan.kernel = reduction_of(<uint8_t>0, <Min *>NULL)
        else:
            plan.kernel = reduction_of(<uint8_t>0, <Max *>NULL)
        plan.copy = truth_loader(dtype)
        plan.direct = dtype == BOOL
        # An empty reduction gives the identity of the minimum, 255, which is stored as True.
        plan.store = <StoreFn>store_truth[uint8_t]
    elif dtype == COMPLEX64 and op == REDUCE_SUM:
        plan.kernel = reduction_of(<float>0, <Sum *>NULL)
        plan.copy = copier(sizeof(float))
        plan.store = same_storer(FLOAT32)
        plan.out_item = item = sizeof(float)
        parts_of_complex = True
    elif dtype == COMPLEX64:
        if op == REDUCE_PROD:
            plan.kernel = complex_of(<Prod *>NULL)
        elif op == REDUCE_MAX:
            plan.kernel = complex_of(<Max *>NULL)
        else:
            plan.kernel = complex_of(<Min *>NULL)
        plan.copy = copier(8)
        plan.finish = FINISH_COMPLEX
    elif op == REDUCE_SUM or op == REDUCE_PROD:
        if op == REDUCE_SUM:
            plan.kernel = numeric_kernel(dtype, <Sum *>NULL)
        else:
            plan.kernel = numeric_kernel(dtype, <Prod *>NULL)
        plan.copy = numeric_loader(dtype)
        plan.direct = item == plan.kernel.item
        plan.store = float_storer(dtype) if floating else same_storer(out.dtype)
    else:
        if op == REDUCE_MAX:
            plan.kernel = extremum_kernel(dtype, <Max *>NULL)
        else:
            plan.kernel = extremum_kernel(dtype, <Min *>NULL)
        plan.copy = float_loader(dtype) if floating else copier(item)
        plan.store = float_storer(dtype) if floating else same_storer(dtype)
        if dtype == BOOL:
            plan.store = <StoreFn>store_truth[uint8_t]
    lay_out(&plan, x, axes, out, item, parts_of_complex, threads)
    return run(&plan, threads)


cdef int argreduce(bint largest, const ArrayRef *x, int axis, const ArrayRef *out, int threads) noexcept nogil:
    cdef Plan plan
    cdef int dtype = x.dtype
    plan.pairs = 1
    plan.any_order = False
    plan.finish = FINISH_INDEX
    plan.out_item = sizeof(uint32_t)
    if dtype == COMPLEX64:
        if largest:
            plan.kernel = complex_arg_of(<Max *>NULL)
        else:
            plan.kernel = complex_arg_of(<Min *>NULL)
    elif largest:
        plan.kernel = arg_kernel(dtype, <Max *>NULL)
    else:
        plan.kernel = arg_kernel(dtype, <Min *>NULL)
    plan.copy = numeric_loader(dtype)
    plan.direct = itemsize(dtype) == plan.kernel.item
    lay_out(&plan, x, <uint32_t>1 << axis, out, itemsize(dtype), False, threads)
    return run(&plan, threads)


cdef int moments(Moment what, const ArrayRef *x, uint32_t axes, Py_ssize_t ddof, const ArrayRef *out,
                 int threads) noexcept nogil:
    cdef Plan plan
    cdef int dtype = x.dtype
    cdef bint is_complex = dtype == COMPLEX64
    plan.any_order = False
    plan.pairs = 2 if is_complex and what != MOMENT_MEAN else 1
    plan.out_item = sizeof(float) if is_complex else itemsize(out.dtype)
    plan.store = float_storer(out.dtype)
    plan.direct = dtype == FLOAT32 or dtype == FLOAT64 or is_complex
    plan.copy = copier(sizeof(float)) if is_complex else (copier(8) if dtype == FLOAT64 else float_loader(dtype))
    if what == MOMENT_MEAN:
        plan.finish = FINISH_MEAN
        plan.kernel = numeric_kernel(FLOAT64 if dtype == FLOAT64 else FLOAT32, <Sum *>NULL)
    else:
        plan.finish = FINISH_VAR if what != MOMENT_STD else FINISH_STD
        plan.kernel = moments_of(<double>0) if dtype == FLOAT64 else moments_of(<float>0)
    lay_out(&plan, x, axes, out, plan.kernel.item, is_complex, threads)
    plan.divisor = max(<double>0, plan.count - ddof)
    return run(&plan, threads)


cdef int logsumexp(const ArrayRef *x, uint32_t axes, const ArrayRef *out, int threads) noexcept nogil:
    cdef Plan plan
    cdef int dtype = x.dtype
    plan.pairs = 1
    plan.any_order = False
    plan.out_item = itemsize(out.dtype)
    plan.store = float_storer(out.dtype)
    plan.finish = FINISH_LOGSUMEXP
    plan.direct = dtype == FLOAT32 or dtype == FLOAT64 or dtype == COMPLEX64
    if dtype == COMPLEX64:
        plan.kernel = complex_of(<Max *>NULL)
        plan.kernel.row = <RowFn>complex_logsumexp_row
        plan.kernel.merge = <MergeFn>merge_complex_logsumexp
        plan.kernel.part = sizeof(ComplexScaled)
        plan.finish = FINISH_COMPLEX_LOGSUMEXP
        plan.copy = copier(8)
    elif dtype == FLOAT64:
        plan.kernel = logsumexp_of(<double>0)
        plan.copy = copier(8)
    else:
        plan.kernel = logsumexp_of(<float>0)
        plan.copy = float_loader(dtype)
    lay_out(&plan, x, axes, out, itemsize(dtype), False, threads)
    return run(&plan, threads)


# Scans. A line is a sequence along the axis. As above, lines are taken one at a time where the axis is the nearest in
# memory, in tiles of CHUNK elements, and several side by side where another axis is. Both do the same arithmetic.

ctypedef void (*ScanRowFn)(const void *x, void *y, Py_ssize_t n, void *state, void *op) noexcept nogil
ctypedef void (*ScanColumnsFn)(const void *x, void *y, Py_ssize_t width, Py_ssize_t index, void *state,
                               void *op) noexcept nogil

cdef enum:
    STATES = 2                  # numbers that a line carries from one tile to the next
    STRIP_WORDS = 256           # of 8 bytes, of lines side by side

ctypedef struct ScanKernel:
    ScanRowFn row
    ScanColumnsFn columns
    size_t item
    char start[8]               # the identity
    Py_ssize_t cost

ctypedef struct ScanPlan:
    ScanKernel kernel
    LoadFn copy
    StoreFn store
    bint direct                 # input may be read in place where it is contiguous
    bint direct_out             # output may be written in place where it is
    bint exclusive
    bint columns
    const char *data            # the first element of the first line
    char *out
    Py_ssize_t n                # results computed per line: one less than the extent for an exclusive scan
    Py_ssize_t stride
    Py_ssize_t out_stride
    Axes outer
    Axes outer_out
    Py_ssize_t vector
    Py_ssize_t vector_stride
    Py_ssize_t vector_out
    Py_ssize_t width
    Py_ssize_t strips


cdef inline void scan_segment(const acc_t *x, acc_t *y, Py_ssize_t n, op_t *op) noexcept nogil:
    cdef acc_t total = x[0]
    cdef Py_ssize_t i
    y[0] = total
    for i in range(1, n):
        total = join(total, x[i], op)
        y[i] = total


cdef void scan_eight(const acc_t *x, acc_t *y, op_t *op) noexcept nogil:
    """Eight whole segments side by side, because one alone waits for the latency of each addition."""
    cdef acc_t a = x[0], b = x[SEGMENT], c = x[2 * SEGMENT], d = x[3 * SEGMENT]
    cdef acc_t e = x[4 * SEGMENT], f = x[5 * SEGMENT], g = x[6 * SEGMENT], h = x[7 * SEGMENT]
    cdef Py_ssize_t i
    for i in range(SEGMENT):
        if i:
            a = join(a, x[i], op)
            b = join(b, x[i + SEGMENT], op)
            c = join(c, x[i + 2 * SEGMENT], op)
            d = join(d, x[i + 3 * SEGMENT], op)
            e = join(e, x[i + 4 * SEGMENT], op)
            f = join(f, x[i + 5 * SEGMENT], op)
            g = join(g, x[i + 6 * SEGMENT], op)
            h = join(h, x[i + 7 * SEGMENT], op)
        y[i] = a
        y[i + SEGMENT] = b
        y[i + 2 * SEGMENT] = c
        y[i + 3 * SEGMENT] = d
        y[i + 4 * SEGMENT] = e
        y[i + 5 * SEGMENT] = f
        y[i + 6 * SEGMENT] = g
        y[i + 7 * SEGMENT] = h


cdef void scan_row(const acc_t *x, acc_t *y, Py_ssize_t n, acc_t *state, op_t *op) noexcept nogil:
    """Segments, each on its own, then joined to the total before them. All tiles but the last are whole segments."""
    cdef Py_ssize_t i, j, size
    cdef acc_t total = state[0]
    if n == 8 * SEGMENT:
        scan_eight(x, y, op)
    i = 0
    while i < n:
        size = min(n - i, <Py_ssize_t>SEGMENT)
        if n != 8 * SEGMENT:
            scan_segment(x + i, y + i, size, op)
        for j in range(size):
            y[i + j] = settled(join(total, y[i + j], op))
        total = y[i + size - 1]
        i += SEGMENT
    state[0] = total


cdef void scan_columns(const acc_t *x, acc_t *y, Py_ssize_t width, Py_ssize_t index, acc_t *state,
                       op_t *op) noexcept nogil:
    """The arithmetic of scan_row for element `index` of `width` lines."""
    cdef acc_t *total = state
    cdef acc_t *segment = state + width
    cdef Py_ssize_t i
    if index % SEGMENT == 0:
        for i in range(width):
            segment[i] = x[i]
            y[i] = settled(join(total[i], x[i], op))
    else:
        for i in range(width):
            segment[i] = join(segment[i], x[i], op)
            y[i] = settled(join(total[i], segment[i], op))
    if index % SEGMENT == SEGMENT - 1:
        memcpy(total, y, width * sizeof(acc_t))


cdef void scan_plain_row(const acc_t *x, acc_t *y, Py_ssize_t n, acc_t *state, op_t *op) noexcept nogil:
    """In order. For products: those of segments could overflow where the running product does not."""
    cdef acc_t total = state[0]
    cdef Py_ssize_t i
    for i in range(n):
        total = join(total, x[i], op)
        y[i] = settled(total)
    state[0] = total


cdef void scan_plain_columns(const acc_t *x, acc_t *y, Py_ssize_t width, Py_ssize_t index, acc_t *state,
                             op_t *op) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(width):
        state[i] = join(state[i], x[i], op)
        y[i] = settled(state[i])


# The running log-sum-exp keeps the largest element so far and the sum relative to it, in state[0] and state[1].

cdef inline real_t growth(real_t smaller, real_t larger) noexcept nogil:
    """exp(smaller - larger), 1 where they are equal, infinities too."""
    return 1 if smaller == larger else exp_real(smaller - larger)


cdef void scan_logsumexp_row(const real_t *x, real_t *y, Py_ssize_t n, real_t *state, void *unused) noexcept nogil:
    cdef real_t largest[CHUNK + 1]
    cdef real_t total[CHUNK + 1]
    cdef real_t decay[CHUNK]
    cdef Py_ssize_t i
    largest[0] = state[0]
    total[0] = state[1]
    for i in range(n):
        largest[i + 1] = join(largest[i], x[i], <Max *>NULL)
    for i in range(n):
        decay[i] = growth(largest[i], largest[i + 1])
        total[i + 1] = growth(x[i], largest[i + 1])
    for i in range(n):
        total[i + 1] = fused_real(total[i], decay[i], total[i + 1])
    for i in range(n):
        y[i] = settled(largest[i + 1] + log_real(total[i + 1]))
    state[0] = largest[n]
    state[1] = total[n]


cdef void scan_logsumexp_columns(const real_t *x, real_t *y, Py_ssize_t width, Py_ssize_t index, real_t *state,
                                 void *unused) noexcept nogil:
    cdef real_t *largest = state
    cdef real_t *total = state + width
    cdef real_t now
    cdef Py_ssize_t i
    for i in range(width):
        now = join(largest[i], x[i], <Max *>NULL)
        total[i] = fused_real(total[i], growth(largest[i], now), growth(x[i], now))
        largest[i] = now
        y[i] = settled(now + log_real(total[i]))


cdef void scan_complex_row(const Complex *x, Complex *y, Py_ssize_t n, Complex *state, op_t *op) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        state[0] = join_complex(state[0], x[i], op)
        y[i] = state[0]


cdef void scan_complex_logsumexp_row(const Complex *x, Complex *y, Py_ssize_t n, Complex *state,
                                     void *unused) noexcept nogil:
    """Carries the running result itself, so each step rounds to float32 as its results do."""
    cdef ComplexScaled sum, term
    cdef Py_ssize_t i
    for i in range(n):
        sum.largest = state[0]
        sum.re = 1
        sum.im = 0
        term = sum
        term.largest = x[i]
        merge_complex_logsumexp(&sum, &term, NULL, NULL)
        state[0] = complex_log(&sum)
        y[i] = state[0]


cdef void scan_line(const ScanPlan *plan, const char *x, char *y) noexcept nogil:
    cdef uint64_t source[CHUNK]
    cdef uint64_t target[CHUNK]
    cdef uint64_t state[STATES]
    cdef const char *tile
    cdef Py_ssize_t done = 0, n
    cdef Py_ssize_t item = plan.kernel.item
    memset(state, 0, sizeof(state))
    memcpy(state, plan.kernel.start, plan.kernel.item)
    if plan.exclusive:
        plan.store(plan.kernel.start, 1, y, 0)
        y += plan.out_stride
    while done < plan.n:
        n = min(plan.n - done, <Py_ssize_t>CHUNK)
        tile = x + done * plan.stride
        if not (plan.direct and plan.stride == item):
            plan.copy(tile, plan.stride, n, source, NULL)
            tile = <const char *>source
        if plan.direct_out and plan.out_stride == item:
            plan.kernel.row(tile, y + done * item, n, state, NULL)
        else:
            plan.kernel.row(tile, target, n, state, NULL)
            plan.store(target, n, y + done * plan.out_stride, plan.out_stride)
        done += n


cdef void scan_strip(const ScanPlan *plan, const char *x, char *y, Py_ssize_t width) noexcept nogil:
    """`width` lines side by side."""
    cdef uint64_t source[STRIP_WORDS]
    cdef uint64_t target[STRIP_WORDS]
    cdef uint64_t state[STATES * STRIP_WORDS]
    cdef const char *tile
    cdef Py_ssize_t item = plan.kernel.item
    cdef Py_ssize_t i
    memset(state, 0, sizeof(state))
    for i in range(width):
        memcpy(<char *>state + i * item, plan.kernel.start, item)
    if plan.exclusive:
        plan.store(state, width, y, plan.vector_out)
        y += plan.out_stride
    for i in range(plan.n):
        tile = x
        if not (plan.direct and plan.vector_stride == item):
            plan.copy(tile, plan.vector_stride, width, source, NULL)
            tile = <const char *>source
        if plan.direct_out and plan.vector_out == item:
            plan.kernel.columns(tile, y, width, i, state, NULL)
        else:
            plan.kernel.columns(tile, target, width, i, state, NULL)
            plan.store(target, width, y, plan.vector_out)
        x += plan.stride
        y += plan.out_stride


cdef void scan_units(const ScanPlan *plan, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t unit, outer, first
    cdef const char *x
    cdef char *y
    for unit in range(begin, end):
        outer = unit // plan.strips
        first = (unit - outer * plan.strips) * plan.width
        x = plan.data + offset_of(&plan.outer, outer) + first * plan.vector_stride
        y = plan.out + offset_of(&plan.outer_out, outer) + first * plan.vector_out
        if plan.columns:
            scan_strip(plan, x, y, min(plan.width, plan.vector - first))
        else:
            scan_line(plan, x, y)


cdef void share_scans(const ScanPlan *plan, Py_ssize_t units, Shares *work, int thread) noexcept nogil:
    """What one thread takes of all units."""
    cdef Py_ssize_t piece = next_piece(work, thread)
    while piece >= 0:
        scan_units(plan, piece * units // work.pieces, (piece + 1) * units // work.pieces)
        piece = next_piece(work, thread)


cdef ScanKernel scan_of(acc_t start, op_t *op) noexcept nogil:
    """`start` is the identity in the dtype of the results, which may be narrower than the accumulator."""
    cdef ScanKernel kernel
    if op_t is Prod:
        kernel.row = <ScanRowFn>scan_plain_row[acc_t, op_t]
        kernel.columns = <ScanColumnsFn>scan_plain_columns[acc_t, op_t]
    else:
        kernel.row = <ScanRowFn>scan_row[acc_t, op_t]
        kernel.columns = <ScanColumnsFn>scan_columns[acc_t, op_t]
    kernel.item = sizeof(acc_t)
    kernel.cost = 2
    memcpy(kernel.start, &start, sizeof(acc_t))
    return kernel


cdef ScanKernel scan_kernel(int dtype, op_t *op) noexcept nogil:
    """In the types that `numeric_loader` loads into; extrema tell signed integers from unsigned ones."""
    if dtype == FLOAT64:
        return scan_of(identity(<double>0, op), op)
    if dtype == FLOAT32 or dtype == FLOAT16 or dtype == BFLOAT16:
        return scan_of(identity(<float>0, op), op)
    if op_t is Max or op_t is Min:
        if dtype == INT8:
            return scan_of(<int32_t>identity(<int8_t>0, op), op)
        if dtype == INT16:
            return scan_of(<int32_t>identity(<int16_t>0, op), op)
        if dtype == INT32:
            return scan_of(identity(<int32_t>0, op), op)
        if dtype == INT64:
            return scan_of(identity(<int64_t>0, op), op)
    if dtype == UINT64 or dtype == INT64:
        return scan_of(identity(<uint64_t>0, op), op)
    return scan_of(identity(<uint32_t>0, op), op)


cdef ScanKernel complex_scan_of(Complex start, op_t *op) noexcept nogil:
    cdef ScanKernel kernel
    kernel.row = <ScanRowFn>scan_complex_row[op_t]
    kernel.columns = NULL
    kernel.item = sizeof(Complex)
    kernel.cost = 4
    memcpy(kernel.start, &start, sizeof(Complex))
    return kernel


cdef ScanKernel logsumexp_scan_of(real_t start) noexcept nogil:
    cdef ScanKernel kernel
    kernel.row = <ScanRowFn>scan_logsumexp_row[real_t]
    kernel.columns = <ScanColumnsFn>scan_logsumexp_columns[real_t]
    kernel.item = sizeof(real_t)
    kernel.cost = 20
    memcpy(kernel.start, &start, sizeof(real_t))
    return kernel


cdef Complex complex_of_parts(float re, float im) noexcept nogil:
    cdef Complex z
    z.re = re
    z.im = im
    return z


cdef void choose_scan(ScanPlan *plan, ScanOp op, int dtype, int out_dtype) noexcept nogil:
    cdef bint floating = dtype == FLOAT16 or dtype == BFLOAT16 or dtype == FLOAT32
    if op == SCAN_LOGSUMEXP:
        if dtype == COMPLEX64:
            plan.kernel = complex_scan_of(complex_of_parts(-INFINITY, 0), <Max *>NULL)
            plan.kernel.row = <ScanRowFn>scan_complex_logsumexp_row
        elif dtype == FLOAT64:
            plan.kernel = logsumexp_scan_of(<double>-INFINITY)
        else:
            plan.kernel = logsumexp_scan_of(<float>-INFINITY)
            plan.copy = float_loader(dtype)
            plan.store = float_storer(out_dtype)
            plan.direct = dtype == FLOAT32
            plan.direct_out = out_dtype == FLOAT32
            return
    elif dtype == COMPLEX64:
        if op == SCAN_SUM:
            plan.kernel = scan_of(<float>0, <Sum *>NULL)
        elif op == SCAN_PROD:
            plan.kernel = complex_scan_of(complex_of_parts(1, 0), <Prod *>NULL)
        elif op == SCAN_MAX:
            plan.kernel = complex_scan_of(complex_of_parts(-INFINITY, -INFINITY), <Max *>NULL)
        else:
            plan.kernel = complex_scan_of(complex_of_parts(INFINITY, INFINITY), <Min *>NULL)
    elif op == SCAN_SUM:
        plan.kernel = scan_kernel(dtype, <Sum *>NULL)
    elif op == SCAN_PROD:
        plan.kernel = scan_kernel(dtype, <Prod *>NULL)
    elif op == SCAN_MAX:
        plan.kernel = scan_kernel(dtype, <Max *>NULL)
    else:
        plan.kernel = scan_kernel(dtype, <Min *>NULL)
    plan.copy = copier(plan.kernel.item) if dtype == COMPLEX64 else numeric_loader(dtype)
    if dtype == COMPLEX64:
        plan.store = <StoreFn>store_complex if plan.kernel.item == sizeof(Complex) else same_storer(FLOAT32)
    elif itemsize(dtype) == 8:
        plan.store = same_storer(out_dtype)
    elif floating:
        plan.store = float_storer(out_dtype)
    else:
        plan.store = word_storer(out_dtype)
    plan.direct = dtype == COMPLEX64 or itemsize(dtype) == plan.kernel.item
    # Complex results of a row pass through `store`, which settles NaN; running sums are of floats.
    plan.direct_out = op == SCAN_SUM if dtype == COMPLEX64 else itemsize(out_dtype) == plan.kernel.item


cdef int scan(ScanOp op, const ArrayRef *x, int axis, bint reverse, bint inclusive, const ArrayRef *out,
              int threads) noexcept nogil:
    cdef ScanPlan plan
    cdef bint parts_of_complex = x.dtype == COMPLEX64 and op == SCAN_SUM
    cdef Py_ssize_t item = itemsize(x.dtype)
    cdef Py_ssize_t out_item = itemsize(out.dtype)
    cdef Py_ssize_t shape[MAX_NDIM + 1]
    cdef Py_ssize_t strides[MAX_NDIM + 1]
    cdef Py_ssize_t out_strides[MAX_NDIM + 1]
    cdef Py_ssize_t step = out_item, ranges, units, limit
    cdef int ndim = x.ndim, i, vector = -1, used
    cdef Shares work
    if x.size == 0:
        return 0
    choose_scan(&plan, op, x.dtype, out.dtype)
    i = ndim - 1
    while i >= 0:
        shape[i] = x.shape[i]
        strides[i] = x.strides[i] * item
        out_strides[i] = step
        step *= x.shape[i]
        i -= 1
    if parts_of_complex:
        shape[ndim] = 2
        strides[ndim] = out_strides[ndim] = sizeof(float)
        ndim += 1
    plan.exclusive = not inclusive
    plan.n = shape[axis] - (1 if plan.exclusive else 0)
    plan.stride = strides[axis]
    plan.out_stride = out_strides[axis]
    plan.data = x.data
    plan.out = out.data
    if reverse:
        plan.data += (shape[axis] - 1) * plan.stride
        plan.out += (shape[axis] - 1) * plan.out_stride
        plan.stride = -plan.stride
        plan.out_stride = -plan.out_stride
    plan.direct = plan.direct and <uintptr_t>x.data % plan.kernel.item == 0
    # The vector axis is the last but for the axis of the scan: its results lie side by side in the output.
    for i in range(ndim):
        if i != axis and shape[i] > 1:
            vector = i
    if vector >= 0 and (vector < axis or shape[vector] < MIN_VECTOR):
        vector = -1
    if plan.kernel.columns is NULL:
        vector = -1
    plan.columns = vector >= 0
    plan.vector = shape[vector] if vector >= 0 else 1
    plan.vector_stride = strides[vector] if vector >= 0 else 0
    plan.vector_out = out_strides[vector] if vector >= 0 else 0
    plan.outer.ndim = plan.outer_out.ndim = 0
    plan.outer.size = plan.outer_out.size = 1
    for i in range(ndim):
        if i != axis and i != vector:
            add_axis(&plan.outer, shape[i], strides[i], False)
            add_axis(&plan.outer_out, shape[i], out_strides[i], False)
    limit = STRIP_WORDS * 8 // <Py_ssize_t>plan.kernel.item
    plan.strips = (plan.vector + limit - 1) // limit
    plan.width = (plan.vector + plan.strips - 1) // plan.strips
    plan.strips = (plan.vector + plan.width - 1) // plan.width
    units = plan.outer.size * plan.strips
    used = threads_for(<double>x.size * plan.kernel.cost, threads)
    if used == 1 or units == 1:
        scan_units(&plan, 0, units)
        return 0
    ranges = min(units, <Py_ssize_t>(RANGES_PER_THREAD * used))
    share_out(&work, ranges, used)
    for i in prange(used, num_threads=team_of(used), schedule="static", chunksize=1):
        share_scans(&plan, units, &work, i)
    return 0


cdef ReduceTable TABLE
TABLE.reduce = reduce
TABLE.argreduce = argreduce
TABLE.moments = moments
TABLE.logsumexp = logsumexp
TABLE.scan = scan

table = PyCapsule_New(&TABLE, "mlxr.cpu.reduce", NULL)
