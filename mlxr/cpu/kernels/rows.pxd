# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Inline helpers of the kernels that work row by row: element conversion, row addressing, fixed-order reductions.

A row is the last axis of an array. Arithmetic is float32 for float16, bfloat16 and float32 operands, and float64 when
any operand is float64 (the fused type `real`). Everything here is inlined into the kernel modules, so that each
instruction set gets its own code. It must not know about Python objects, tensors, devices or operations.

Order of operations. Reductions accumulate in LANES lanes, element i in lane i % LANES, over blocks of BLOCK elements;
the lanes of a block are combined by halving (lane j takes lane j + LANES/2, and so on), and block totals are added in
sequence. No fused multiply-add. The result depends on the values and on the length alone.
"""
from cython.parallel cimport prange
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from mlxr.core.abi cimport ArrayRef, DTypeCode
from mlxr.cpu.kernels.half cimport (
    bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, float_bits, float_from_bits, fused_f32, fused_f64,
)
from mlxr.cpu.kernels.vecmath cimport double_bits, double_from_bits, exp_f32
from mlxr.cpu.team cimport team_of

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #include <math.h>
    /* Elements of arrays that need not be aligned to their size: the compiler must not assume that they are. */
    typedef uint16_t mlxr_u16u __attribute__((aligned(1), may_alias));
    typedef float mlxr_f32u __attribute__((aligned(1), may_alias));
    typedef double mlxr_f64u __attribute__((aligned(1), may_alias));
    """
    ctypedef uint16_t u16u "mlxr_u16u"
    ctypedef float f32u "mlxr_f32u"
    ctypedef double f64u "mlxr_f64u"
    double rint_d "__builtin_rint"(double x) noexcept nogil
    const float INF_F "__builtin_inff()"

cdef extern from "microkernel.h" nogil:
    # Conversions of 16-bit floats in whole vectors, with the processor's instructions where it has them.
    void row_to_f32(int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, float *dst) noexcept
    void f32_to_row(int dtype, char *dst, Py_ssize_t stride, Py_ssize_t n, const float *src) noexcept

ctypedef fused real:
    float
    double

cdef enum:
    LANES = 32       # accumulators of a reduction: two 512-bit registers of float32, eight of NEON
    BLOCK = 4096     # elements accumulated in lanes before their total is taken
    GRAIN = 1 << 15  # elements (weighted by cost) below which a second thread costs more than it saves

ctypedef void (*range_fn)(void *job, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil


cdef inline void parallel_range(range_fn fn, void *job, Py_ssize_t count, Py_ssize_t cost, int threads) noexcept nogil:
    """Call fn over [0, count) in contiguous pieces; `cost` is the work of one item in simple element operations."""
    cdef Py_ssize_t pieces, piece
    if threads <= 1 or count < 2 or count * cost < GRAIN:
        fn(job, 0, count)
        return
    # A few pieces a thread, so that a core which others also use does not hold up the rest.
    pieces = min(count, 4 * <Py_ssize_t>threads)
    for piece in prange(pieces, schedule="dynamic", num_threads=team_of(threads)):
        fn(job, count * piece // pieces, count * (piece + 1) // pieces)


# ---------------------------------------------------------------------------------------------------- elements


cdef inline Py_ssize_t itemsize(int dtype) noexcept nogil:
    if dtype == DTypeCode.FLOAT32 or dtype == DTypeCode.INT32 or dtype == DTypeCode.UINT32:
        return 4
    if dtype == DTypeCode.FLOAT16 or dtype == DTypeCode.BFLOAT16 or dtype == DTypeCode.INT16 \
            or dtype == DTypeCode.UINT16:
        return 2
    if dtype == DTypeCode.BOOL or dtype == DTypeCode.INT8 or dtype == DTypeCode.UINT8:
        return 1
    return 8


cdef inline int64_t load_index(const char *p, int dtype) noexcept nogil:
    """The integer at p, which need not be aligned."""
    cdef int16_t i16
    cdef int32_t i32
    cdef int64_t i64
    cdef uint16_t u16
    cdef uint32_t u32
    if dtype == DTypeCode.INT32:
        memcpy(&i32, p, 4)
        return i32
    if dtype == DTypeCode.UINT32:
        memcpy(&u32, p, 4)
        return u32
    if dtype == DTypeCode.INT16:
        memcpy(&i16, p, 2)
        return i16
    if dtype == DTypeCode.UINT16:
        memcpy(&u16, p, 2)
        return u16
    if dtype == DTypeCode.INT8:
        return (<const int8_t *>p)[0]
    if dtype == DTypeCode.UINT8 or dtype == DTypeCode.BOOL:
        return (<const uint8_t *>p)[0]
    memcpy(&i64, p, 8)
    return i64


# ---------------------------------------------------------------------------------------------------- rows


cdef inline Py_ssize_t row_count(const ArrayRef *a) noexcept nogil:
    cdef Py_ssize_t n = 1
    cdef int axis
    for axis in range(a.ndim - 1):
        n *= a.shape[axis]
    return n


cdef inline Py_ssize_t row_offset(const ArrayRef *a, Py_ssize_t row, int axes) noexcept nogil:
    """Offset, in elements, of position `row` of the row-major order over the first `axes` axes."""
    cdef Py_ssize_t offset = 0, rest = row, extent
    cdef int axis
    for axis in range(axes - 1, -1, -1):
        extent = a.shape[axis]
        if rest == 0:
            break
        offset += (rest % extent) * a.strides[axis]
        rest = rest // extent
    return offset


cdef inline const char *row_at(const ArrayRef *a, Py_ssize_t row) noexcept nogil:
    """Address of row `row`, counting over all axes but the last in row-major order."""
    if a.contiguous:
        return a.data + row * a.shape[a.ndim - 1] * itemsize(a.dtype)
    return a.data + row_offset(a, row, a.ndim - 1) * itemsize(a.dtype)


cdef inline void load_row(real *dst, const char *src, Py_ssize_t stride, Py_ssize_t n, int dtype) noexcept nogil:
    """Convert n elements of a floating dtype, `stride` elements apart, to contiguous `real`."""
    cdef Py_ssize_t i
    cdef const f32u *f32 = <const f32u *>src
    cdef const f64u *f64 = <const f64u *>src
    cdef const u16u *u16 = <const u16u *>src
    if dtype == DTypeCode.FLOAT32:
        if stride == 1:
            for i in range(n):
                dst[i] = <real>f32[i]
        else:
            for i in range(n):
                dst[i] = <real>f32[i * stride]
    elif dtype == DTypeCode.FLOAT64:
        if stride == 1:
            for i in range(n):
                dst[i] = <real>f64[i]
        else:
            for i in range(n):
                dst[i] = <real>f64[i * stride]
    elif real is float:
        row_to_f32(dtype, src, stride, n, dst)
    elif dtype == DTypeCode.BFLOAT16:
        for i in range(n):
            dst[i] = bf16_to_f32(u16[i * stride])
    else:
        for i in range(n):
            dst[i] = f16_to_f32(u16[i * stride])


cdef inline void store_row(char *dst, const real *src, Py_ssize_t n, int dtype) noexcept nogil:
    """Round n contiguous `real` to a floating dtype, once, to nearest even. dst may be src where the types agree."""
    cdef Py_ssize_t i
    cdef float *f32 = <float *>dst
    cdef double *f64 = <double *>dst
    cdef uint16_t *u16 = <uint16_t *>dst
    if <const char *>src == <const char *>dst:
        return
    if dtype == DTypeCode.FLOAT32:
        for i in range(n):
            f32[i] = <float>src[i]
    elif dtype == DTypeCode.FLOAT64:
        for i in range(n):
            f64[i] = <double>src[i]
    elif real is float:
        f32_to_row(dtype, dst, 1, n, src)
    elif dtype == DTypeCode.BFLOAT16:
        for i in range(n):
            u16[i] = f32_to_bf16(<float>src[i])
    else:
        for i in range(n):
            u16[i] = f32_to_f16(<float>src[i])


cdef inline bint holds_real(const char *p, Py_ssize_t stride, int dtype, real tag) noexcept nogil:
    """Whether a row of this dtype, stride and address can be used in place as contiguous, aligned `real`."""
    if stride != 1 or <uintptr_t>p % sizeof(real) != 0:
        return False
    if real is float:
        return dtype == DTypeCode.FLOAT32
    else:
        return dtype == DTypeCode.FLOAT64


cdef inline const real *view_row(real *scratch, const char *src, Py_ssize_t stride, Py_ssize_t n,
                                 int dtype) noexcept nogil:
    """The row as contiguous `real`: in place where it can be, else converted into scratch."""
    if holds_real(src, stride, dtype, <real>0):
        return <const real *>src
    load_row(scratch, src, stride, n, dtype)
    return scratch


# ---------------------------------------------------------------------------------------------------- reductions


cdef inline real fold_sum(real *lane) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(16):
        lane[j] += lane[j + 16]
    for j in range(8):
        lane[j] += lane[j + 8]
    for j in range(4):
        lane[j] += lane[j + 4]
    return (lane[0] + lane[2]) + (lane[1] + lane[3])


cdef inline real row_max(const real *x, Py_ssize_t n) noexcept nogil:
    """The largest element, NaN ignored; -infinity for none. A maximum has no rounding, so its order is free."""
    cdef real lane[LANES]
    cdef real m
    cdef Py_ssize_t i = 0, j
    for j in range(LANES):
        lane[j] = -INF_F
    while i + LANES <= n:
        for j in range(LANES):
            lane[j] = x[i + j] if x[i + j] > lane[j] else lane[j]
        i += LANES
    for j in range(n - i):
        lane[j] = x[i + j] if x[i + j] > lane[j] else lane[j]
    for j in range(16):
        lane[j] = lane[j + 16] if lane[j + 16] > lane[j] else lane[j]
    for j in range(8):
        lane[j] = lane[j + 8] if lane[j + 8] > lane[j] else lane[j]
    for j in range(4):
        lane[j] = lane[j + 4] if lane[j + 4] > lane[j] else lane[j]
    m = lane[0]
    for j in range(1, 4):
        m = lane[j] if lane[j] > m else m
    return m


cdef inline real row_sum(const real *x, Py_ssize_t n) noexcept nogil:
    cdef real lane[LANES]
    cdef real total = 0
    cdef Py_ssize_t start = 0, i, j, stop
    while start < n:
        stop = min(n, start + BLOCK)
        for j in range(LANES):
            lane[j] = 0
        i = start
        while i + LANES <= stop:
            for j in range(LANES):
                lane[j] += x[i + j]
            i += LANES
        for j in range(stop - i):
            lane[j] += x[i + j]
        total += fold_sum(lane)
        start = stop
    return total


cdef inline real row_square_sum(const real *x, real shift, Py_ssize_t n) noexcept nogil:
    """Sum of (x - shift)^2."""
    cdef real lane[LANES]
    cdef real total = 0, d
    cdef Py_ssize_t start = 0, i, j, stop
    while start < n:
        stop = min(n, start + BLOCK)
        for j in range(LANES):
            lane[j] = 0
        i = start
        while i + LANES <= stop:
            for j in range(LANES):
                d = x[i + j] - shift
                lane[j] += d * d
            i += LANES
        for j in range(stop - i):
            d = x[i + j] - shift
            lane[j] += d * d
        total += fold_sum(lane)
        start = stop
    return total


cdef inline real row_dot(const real *x, const real *y, Py_ssize_t n) noexcept nogil:
    cdef real lane[LANES]
    cdef real total = 0
    cdef Py_ssize_t start = 0, i, j, stop
    while start < n:
        stop = min(n, start + BLOCK)
        for j in range(LANES):
            lane[j] = 0
        i = start
        while i + LANES <= stop:
            for j in range(LANES):
                lane[j] += x[i + j] * y[i + j]
            i += LANES
        for j in range(stop - i):
            lane[j] += x[i + j] * y[i + j]
        total += fold_sum(lane)
        start = stop
    return total


# ---------------------------------------------------------------------------------------------------- exp


cdef inline real exp_real(real x) noexcept nogil:
    """e^x within 1 ULP. In float64: reduction by multiples of ln 2, and the series to the term that counts no more."""
    cdef double t, z, n, r, p
    cdef uint64_t k
    if real is float:
        return exp_f32(x)
    else:
        # Beyond these bounds the result is 0 or infinity; the comparisons leave NaN as it is.
        t = -746.0 if x < -746.0 else x
        t = 710.0 if t > 710.0 else t
        # z holds the multiple in its low bits: the sum with 1.5 * 2^52 has no room for a fraction.
        z = fused_f64(t, 1.44269504088896340736, 6755399441055744.0)
        n = z - 6755399441055744.0
        r = fused_f64(n, -6.93147180369123816490e-01, t)
        r = fused_f64(n, -1.90821492927058770002e-10, r)
        p = fused_f64(1.0 / 6227020800.0, r, 1.0 / 479001600.0)
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
        p = fused_f64(p * r, r, r) + 1.0
        # 2^n in two factors, neither of which leaves the normal numbers; 2048 keeps what is shifted positive.
        k = double_bits(z) - double_bits(6755399441055744.0 - 2048.0)
        return p * double_from_bits(((k >> 1) - 1) << 52) * double_from_bits((k - (k >> 1) - 1) << 52)


cdef inline real exp_weight(real x) noexcept nogil:
    """e^x of x <= 0: all that a weight in a softmax needs. In float32, 0 where it would be subnormal."""
    cdef float z, n, r, p
    if real is float:
        z = fused_f32(x, <float>1.44269504088896341, <float>12582912.0)
        n = z - <float>12582912.0
        r = fused_f32(n, <float>-0.693145751953125, x)
        r = fused_f32(n, <float>-1.42860682030941723212e-6, r)
        p = fused_f32(<float>(1.0 / 5040), r, <float>(1.0 / 720))
        p = fused_f32(p, r, <float>(1.0 / 120))
        p = fused_f32(p, r, <float>(1.0 / 24))
        p = fused_f32(p, r, <float>(1.0 / 6))
        p = fused_f32(p, r, <float>0.5)
        p = fused_f32(p * r, r, r) + <float>1.0
        p = p * float_from_bits((float_bits(z) << 23) + (127 << 23))
        return <float>0 if x < <float>-87.3365 else p
    else:
        return exp_real(x)


cdef inline real row_weights(const real *x, real shift, Py_ssize_t n, real *weights) noexcept nogil:
    """weights = exp(x - shift) for shift >= x; returns what row_sum gives for them."""
    cdef real lane[LANES]
    cdef real total = 0, weight
    cdef Py_ssize_t start = 0, i, j, stop
    while start < n:
        stop = min(n, start + BLOCK)
        for j in range(LANES):
            lane[j] = 0
        i = start
        while i + LANES <= stop:
            for j in range(LANES):
                weight = exp_weight(x[i + j] - shift)
                weights[i + j] = weight
                lane[j] += weight
            i += LANES
        for j in range(stop - i):
            weight = exp_weight(x[i + j] - shift)
            weights[i + j] = weight
            lane[j] += weight
        total += fold_sum(lane)
        start = stop
    return total
