# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Elementwise kernels: every unary, binary and ternary op, casts, copies and fused programs, on one tile engine.

elementwise.pxd states the contract, vecmath.pxd the functions of one element. This module must not know about Python
objects, tensors, devices, or which dtypes an op accepts.

How it works. Arithmetic happens in lanes: float32 (also for float16 and bfloat16), float64, complex64, and 32- or
64-bit integers (32 bits for all smaller ones and for bool). For each lane type there is a function `unary_<lane>(op,
x, out, n)` over contiguous lanes, which is the table that an op is a line of. An op on arrays is a program of one
instruction. The engine walks the output in tiles of up to TILE elements (a rectangle of the two innermost axes, or of
the axis along which a transposed operand is contiguous), loads each operand into a register of lanes in the L1 cache,
or reads it in place when it already is a contiguous run of lanes, runs the instructions, and stores. Contiguous
operands of one dtype skip the planning (the `*_contig` loops).

What limits it: memory for all but the float64 and complex functions that call the C library one element at a time. Each
element's result depends on that element alone, so threads, tiles and alignment cannot change a bit.
"""
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from mlxr.core.abi cimport (
    BFLOAT16, BOOL, COMPLEX64, FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, INT64, MAX_NDIM, UINT8, UINT16, UINT32,
    UINT64, ArrayRef,
)
from mlxr.cpu.kernels.elementwise cimport *
from mlxr.cpu.kernels.half cimport bf16_to_f32, f16_run_to_f32, f32_run_to_f16, f32_to_bf16
from mlxr.cpu.kernels.vecmath cimport *
from mlxr.cpu.team cimport team_of

cdef extern from *:
    """
    /* The output of a loop may be the very array that it reads (same index read and written) but overlaps no input in
     * another way. `restrict` spares the test for that, which would send in-place work to scalar code. */
    typedef void *__restrict mlxr_out;
    """
    ctypedef void *out_t "mlxr_out"

cdef extern from "<complex.h>" nogil:
    double complex cexp(double complex z)
    double complex clog(double complex z)
    double complex csqrt(double complex z)
    double complex csin(double complex z)
    double complex ccos(double complex z)
    double complex ctan(double complex z)
    double complex casin(double complex z)
    double complex cacos(double complex z)
    double complex catan(double complex z)
    double complex csinh(double complex z)
    double complex ccosh(double complex z)
    double complex ctanh(double complex z)
    double complex casinh(double complex z)
    double complex cacosh(double complex z)
    double complex catanh(double complex z)

cdef extern from "gelu.h" nogil:
    void gelu_near_run(const float *x, float *out, Py_ssize_t n) noexcept

cdef extern from "transpose.h" nogil:
    void transpose_u16 "mlxr_transpose_u16"(const uint16_t *x, Py_ssize_t stride, uint16_t *out, Py_ssize_t out_stride,
                                            Py_ssize_t rows, Py_ssize_t cols) noexcept
    void transpose_u32 "mlxr_transpose_u32"(const uint32_t *x, Py_ssize_t stride, uint32_t *out, Py_ssize_t out_stride,
                                            Py_ssize_t rows, Py_ssize_t cols) noexcept
    void transpose_u64 "mlxr_transpose_u64"(const uint64_t *x, Py_ssize_t stride, uint64_t *out, Py_ssize_t out_stride,
                                            Py_ssize_t rows, Py_ssize_t cols) noexcept

ctypedef struct Complex:
    float real
    float imag

ctypedef fused unsigned_integer:
    uint32_t
    uint64_t

ctypedef fused number:
    float
    double
    int32_t
    uint32_t
    int64_t
    uint64_t

cdef enum:
    TILE = 1024                 # elements of a register: 4 KB of 32-bit lanes
    REGISTER_BYTES = 8 * TILE
    SIDE = 16                   # columns of a tile where an operand is transposed: a cache line of 32-bit elements
    GUARD = 256                 # elements that are searched at once for those that need a slow path
    PARALLEL_COST = 1 << 16     # work, in elements of an addition, below which a second thread costs more than it saves
    MAX_STEPS = 4 * MAX_INSTRUCTIONS
    MAX_SLOTS = 96
    STACK_SLOTS = 6
    MAX_OPERANDS = MAX_INPUTS + MAX_OUTPUTS


# ---- Lane loops: float32 -------------------------------------------------------------------------------------------

cdef enum Slow:                 # functions whose rare arguments take a scalar path
    SLOW_SIN
    SLOW_COS
    SLOW_TAN


cdef void trig_f32(Slow function, const float *x, float *out, Py_ssize_t n) noexcept nogil:
    """sin, cos and tan; arguments beyond TRIG_SIMPLE go to the C library's double functions, one by one."""
    cdef float copy[GUARD]
    cdef Py_ssize_t block, start, i, m
    cdef int32_t beyond
    for block in range((n + GUARD - 1) // GUARD):
        start = block * GUARD
        m = min(<Py_ssize_t> GUARD, n - start)
        beyond = 0
        for i in range(m):
            beyond |= fabsf(x[start + i]) > TRIG_SIMPLE
        for i in range(m):
            copy[i] = x[start + i]
        trig_block(function, copy, out + start, m)
        if beyond:
            for i in range(m):
                if fabsf(copy[i]) > TRIG_SIMPLE:
                    if function == SLOW_SIN:
                        out[start + i] = <float> sin(copy[i])
                    elif function == SLOW_COS:
                        out[start + i] = <float> cos(copy[i])
                    else:
                        out[start + i] = <float> tan(copy[i])


cdef void trig_block(Slow function, const float *x, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef float *out = <float *> out_
    cdef Py_ssize_t i
    if function == SLOW_SIN:
        for i in range(n):
            out[i] = sin_f32(x[i])
    elif function == SLOW_COS:
        for i in range(n):
            out[i] = cos_f32(x[i])
    else:
        for i in range(n):
            out[i] = tan_f32(x[i])


cdef void remainder_f32(const float *x, const float *y, float *out, Py_ssize_t n) noexcept nogil:
    """Quotients beyond 2**27, for which the product in double would not be exact, go to fmodf one by one."""
    cdef float dividend[GUARD]
    cdef float divisor[GUARD]
    cdef Py_ssize_t block, start, i, m
    cdef int32_t beyond
    cdef float r
    for block in range((n + GUARD - 1) // GUARD):
        start = block * GUARD
        m = min(<Py_ssize_t> GUARD, n - start)
        beyond = 0
        for i in range(m):
            dividend[i] = x[start + i]
            divisor[i] = y[start + i]
            beyond |= not (fabsf(dividend[i]) < fabsf(divisor[i]) * <float> 134217728.0)
        remainder_block(dividend, divisor, out + start, m)
        if beyond:
            for i in range(m):
                if not (fabsf(dividend[i]) < fabsf(divisor[i]) * <float> 134217728.0):
                    r = fmodf(dividend[i], divisor[i])
                    out[start + i] = r + divisor[i] if r != 0 and (r < 0) != (divisor[i] < 0) else r


cdef void remainder_block(const float *x, const float *y, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef float *out = <float *> out_
    cdef Py_ssize_t i
    cdef double a, b
    cdef float r
    for i in range(n):
        a = x[i]
        b = y[i]
        r = <float> (a - b * trunc(a / b)) if fabs(b) < INFINITY else x[i]
        out[i] = (r + y[i] if (r < 0) != (y[i] < 0) else r) if r != 0 else copysign_f32(r, x[i])


cdef void exp_run_f32(const float *x, out_t out_, Py_ssize_t n) noexcept nogil:
    """Blocks without results that overflow or are subnormal do without what those need; the results are the same."""
    cdef float *out = <float *> out_
    cdef Py_ssize_t block, start, i, m
    cdef int32_t beyond
    for block in range((n + GUARD - 1) // GUARD):
        start = block * GUARD
        m = min(<Py_ssize_t> GUARD, n - start)
        beyond = 0
        for i in range(start, start + m):
            beyond |= not (fabsf(x[i]) <= <float> 87.0)
        if beyond:
            for i in range(start, start + m):
                out[i] = exp_f32(x[i])
        else:
            for i in range(start, start + m):
                out[i] = exp_normal_f32(x[i])


cdef void sigmoid_run_f32(const float *x, out_t out_, Py_ssize_t n) noexcept nogil:
    """Blocks without arguments beyond 16 do without what those need; the results are the same."""
    cdef float *out = <float *> out_
    cdef Py_ssize_t block, start, i, m
    cdef int32_t beyond
    for block in range((n + GUARD - 1) // GUARD):
        start = block * GUARD
        m = min(<Py_ssize_t> GUARD, n - start)
        beyond = 0
        for i in range(start, start + m):
            beyond |= not (fabsf(x[i]) <= <float> 16.0)
        if beyond:
            for i in range(start, start + m):
                out[i] = sigmoid_f32(x[i])
        else:
            for i in range(start, start + m):
                out[i] = sigmoid_near_f32(x[i])


cdef void gelu_run_f32(const float *x, out_t out_, Py_ssize_t n) noexcept nogil:
    """Where |x| > 5.5 another formula holds, which blocks without such arguments do without."""
    cdef float *out = <float *> out_
    cdef float near[GUARD]
    cdef Py_ssize_t block, start, i, m
    cdef int32_t beyond
    for block in range((n + GUARD - 1) // GUARD):
        start = block * GUARD
        m = min(<Py_ssize_t> GUARD, n - start)
        beyond = 0
        for i in range(start, start + m):
            beyond |= not (fabsf(x[i]) <= <float> 5.5)
        if beyond:
            gelu_near_run(x + start, near, m)
            for i in range(m):
                out[start + i] = near[i] if fabsf(x[start + i]) <= <float> 5.5 else gelu_tail_f32(x[start + i])
        else:
            gelu_near_run(x + start, out + start, m)


cdef void power_run_f32(const float *x, const float *y, out_t out_, Py_ssize_t n) noexcept nogil:
    """Blocks of positive normal bases and powers do without the special cases; the results are the same."""
    cdef float *out = <float *> out_
    cdef Py_ssize_t block, start, i, m
    cdef int32_t beyond
    for block in range((n + GUARD - 1) // GUARD):
        start = block * GUARD
        m = min(<Py_ssize_t> GUARD, n - start)
        beyond = 0
        for i in range(start, start + m):
            beyond |= not power_is_near(x[i], y[i])
        if beyond:
            for i in range(start, start + m):
                out[i] = power_f32(x[i], y[i])
        else:
            for i in range(start, start + m):
                out[i] = power_near_f32(x[i], y[i])


cdef int unary_f32(int op, const void *x_, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef const float *x = <const float *> x_
    cdef float *out = <float *> out_
    cdef Py_ssize_t i
    if op == ABS:
        for i in range(n):
            out[i] = fabsf(x[i])
    elif op == NEGATIVE:
        for i in range(n):
            out[i] = -x[i]
    elif op == SIGN:
        for i in range(n):
            out[i] = <float> ((x[i] > 0) - (x[i] < 0))
    elif op == SQUARE:
        for i in range(n):
            out[i] = x[i] * x[i]
    elif op == SQRT:
        for i in range(n):
            out[i] = sqrtf(x[i])
    elif op == RSQRT:
        for i in range(n):
            out[i] = rsqrt_f32(x[i])
    elif op == RECIPROCAL:
        for i in range(n):
            out[i] = <float> 1.0 / x[i]
    elif op == EXP:
        exp_run_f32(x, out, n)
    elif op == EXPM1:
        for i in range(n):
            out[i] = expm1_f32(x[i])
    elif op == LOG:
        for i in range(n):
            out[i] = log_f32(x[i])
    elif op == LOG2:
        for i in range(n):
            out[i] = log2_f32(x[i])
    elif op == LOG10:
        for i in range(n):
            out[i] = log10_f32(x[i])
    elif op == LOG1P:
        for i in range(n):
            out[i] = log1p_f32(x[i])
    elif op == SIN:
        trig_f32(SLOW_SIN, x, out, n)
    elif op == COS:
        trig_f32(SLOW_COS, x, out, n)
    elif op == TAN:
        trig_f32(SLOW_TAN, x, out, n)
    elif op == ARCSIN:
        for i in range(n):
            out[i] = arcsin_f32(x[i])
    elif op == ARCCOS:
        for i in range(n):
            out[i] = arccos_f32(x[i])
    elif op == ARCTAN:
        for i in range(n):
            out[i] = arctan_f32(x[i])
    elif op == SINH:
        for i in range(n):
            out[i] = sinh_f32(x[i])
    elif op == COSH:
        for i in range(n):
            out[i] = cosh_f32(x[i])
    elif op == TANH:
        for i in range(n):
            out[i] = tanh_f32(x[i])
    elif op == ARCSINH:
        for i in range(n):
            out[i] = arcsinh_f32(x[i])
    elif op == ARCCOSH:
        for i in range(n):
            out[i] = arccosh_f32(x[i])
    elif op == ARCTANH:
        for i in range(n):
            out[i] = arctanh_f32(x[i])
    elif op == SIGMOID:
        sigmoid_run_f32(x, out, n)
    elif op == ERF:
        for i in range(n):
            out[i] = erf_f32(x[i])
    elif op == ERFINV:
        for i in range(n):
            out[i] = erfinv_f32(x[i])
    elif op == FLOOR:
        for i in range(n):
            out[i] = floorf(x[i])
    elif op == CEIL:
        for i in range(n):
            out[i] = ceilf(x[i])
    elif op == TRUNC:
        for i in range(n):
            out[i] = truncf(x[i])
    elif op == ROUND:
        for i in range(n):
            out[i] = rintf(x[i])
    elif op == REAL or op == CONJUGATE:
        for i in range(n):
            out[i] = x[i]
    elif op == IMAG:
        for i in range(n):
            out[i] = 0
    elif op == RELU:
        for i in range(n):
            out[i] = relu_f32(x[i])
    elif op == SILU:
        for i in range(n):
            out[i] = silu_f32(x[i])
    elif op == GELU:
        gelu_run_f32(x, out, n)
    elif op == GELU_TANH:
        for i in range(n):
            out[i] = gelu_tanh_f32(x[i])
    elif op == GELU_SIGMOID:
        for i in range(n):
            out[i] = gelu_sigmoid_f32(x[i])
    elif op == SOFTPLUS:
        for i in range(n):
            out[i] = softplus_f32(x[i])
    else:
        return predicate_real[float](op, x, out_, n)
    return OK


cdef int predicate_real(int op, const real *x, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef int32_t *out = <int32_t *> out_
    cdef Py_ssize_t i
    if op == LOGICAL_NOT:
        for i in range(n):
            out[i] = x[i] == 0
    elif op == ISNAN:
        for i in range(n):
            out[i] = x[i] != x[i]
    elif op == ISINF:
        for i in range(n):
            out[i] = (x[i] == <real> INFINITY) | (x[i] == <real> -INFINITY)
    elif op == ISFINITE:
        for i in range(n):
            out[i] = (x[i] < <real> INFINITY) & (x[i] > <real> -INFINITY)
    elif op == ISPOSINF:
        for i in range(n):
            out[i] = x[i] == <real> INFINITY
    elif op == ISNEGINF:
        for i in range(n):
            out[i] = x[i] == <real> -INFINITY
    else:
        return UNSUPPORTED
    return OK


cdef int binary_f32(int op, const void *x_, const void *y_, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef const float *x = <const float *> x_
    cdef const float *y = <const float *> y_
    cdef float *out = <float *> out_
    cdef Py_ssize_t i
    if op == ADD:
        for i in range(n):
            out[i] = x[i] + y[i]
    elif op == SUBTRACT:
        for i in range(n):
            out[i] = x[i] - y[i]
    elif op == MULTIPLY:
        for i in range(n):
            out[i] = x[i] * y[i]
    elif op == DIVIDE:
        for i in range(n):
            out[i] = x[i] / y[i]
    elif op == FLOOR_DIVIDE:
        for i in range(n):
            out[i] = floorf(x[i] / y[i])
    elif op == REMAINDER:
        remainder_f32(x, y, out, n)
    elif op == POWER:
        power_run_f32(x, y, out, n)
    elif op == MAXIMUM:
        for i in range(n):
            out[i] = maximum(x[i], y[i])
    elif op == MINIMUM:
        for i in range(n):
            out[i] = minimum(x[i], y[i])
    elif op == LOGADDEXP:
        for i in range(n):
            out[i] = logaddexp_f32(x[i], y[i])
    elif op == ARCTAN2:
        for i in range(n):
            out[i] = arctan2_f32(x[i], y[i])
    else:
        return compare[float](op, x, y, out_, n)
    return OK


# ---- Lane loops: float64 -------------------------------------------------------------------------------------------

cdef int unary_f64(int op, const void *x_, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef const double *x = <const double *> x_
    cdef double *out = <double *> out_
    cdef Py_ssize_t i
    cdef double t, u
    if op == ABS:
        for i in range(n):
            out[i] = fabs(x[i])
    elif op == NEGATIVE:
        for i in range(n):
            out[i] = -x[i]
    elif op == SIGN:
        for i in range(n):
            out[i] = <double> ((x[i] > 0) - (x[i] < 0))
    elif op == SQUARE:
        for i in range(n):
            out[i] = x[i] * x[i]
    elif op == SQRT:
        for i in range(n):
            out[i] = sqrt(x[i])
    elif op == RSQRT:
        for i in range(n):
            out[i] = 1.0 / sqrt(x[i])
    elif op == RECIPROCAL:
        for i in range(n):
            out[i] = 1.0 / x[i]
    elif op == EXP:
        for i in range(n):
            out[i] = exp(x[i])
    elif op == EXPM1:
        for i in range(n):
            out[i] = expm1(x[i])
    elif op == LOG:
        for i in range(n):
            out[i] = log(x[i])
    elif op == LOG2:
        for i in range(n):
            out[i] = log2(x[i])
    elif op == LOG10:
        for i in range(n):
            out[i] = log10(x[i])
    elif op == LOG1P:
        for i in range(n):
            out[i] = log1p(x[i])
    elif op == SIN:
        for i in range(n):
            out[i] = sin(x[i])
    elif op == COS:
        for i in range(n):
            out[i] = cos(x[i])
    elif op == TAN:
        for i in range(n):
            out[i] = tan(x[i])
    elif op == ARCSIN:
        for i in range(n):
            out[i] = asin(x[i])
    elif op == ARCCOS:
        for i in range(n):
            out[i] = acos(x[i])
    elif op == ARCTAN:
        for i in range(n):
            out[i] = atan(x[i])
    elif op == SINH:
        for i in range(n):
            out[i] = sinh(x[i])
    elif op == COSH:
        for i in range(n):
            out[i] = cosh(x[i])
    elif op == TANH:
        for i in range(n):
            out[i] = tanh(x[i])
    elif op == ARCSINH:
        for i in range(n):
            out[i] = asinh(x[i])
    elif op == ARCCOSH:
        for i in range(n):
            out[i] = acosh(x[i])
    elif op == ARCTANH:
        for i in range(n):
            out[i] = atanh(x[i])
    elif op == SIGMOID:
        for i in range(n):
            out[i] = 1.0 / (1.0 + exp(-x[i]))
    elif op == ERF:
        for i in range(n):
            out[i] = erf(x[i])
    elif op == ERFINV:
        for i in range(n):
            out[i] = erfinv_f64(x[i])
    elif op == FLOOR:
        for i in range(n):
            out[i] = floor(x[i])
    elif op == CEIL:
        for i in range(n):
            out[i] = ceil(x[i])
    elif op == TRUNC:
        for i in range(n):
            out[i] = trunc(x[i])
    elif op == ROUND:
        for i in range(n):
            out[i] = rint(x[i])
    elif op == REAL or op == CONJUGATE:
        for i in range(n):
            out[i] = x[i]
    elif op == IMAG:
        for i in range(n):
            out[i] = 0
    elif op == RELU:
        for i in range(n):
            out[i] = maximum(x[i], 0.0)
    elif op == SILU:
        for i in range(n):
            out[i] = x[i] / (1.0 + exp(-x[i])) if x[i] > -708.0 else x[i] * exp(x[i])
    elif op == GELU:
        for i in range(n):
            # Far out, erfc multiplies the rounding of its argument: the lost part comes back through the derivative.
            t = x[i] * -0.7071067811865476
            u = fused_f64(x[i], -0.7071067811865476, -t) + x[i] * 4.833646656726457e-17 if fabs(t) < 30.0 else 0.0
            out[i] = 0.5 * x[i] * (erfc(t) - 1.1283791670955126 * exp(-t * t) * u)
    elif op == GELU_TANH:
        for i in range(n):
            out[i] = x[i] / (1.0 + exp(-1.5957691216057308 * fused_f64(x[i] * x[i] * 0.044715, x[i], x[i])))
    elif op == GELU_SIGMOID:
        for i in range(n):
            out[i] = x[i] / (1.0 + exp(-1.702 * x[i]))
    elif op == SOFTPLUS:
        for i in range(n):
            out[i] = logaddexp_f64(x[i], 0.0)
    else:
        return predicate_real[double](op, x, out_, n)
    return OK


cdef int binary_f64(int op, const void *x_, const void *y_, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef const double *x = <const double *> x_
    cdef const double *y = <const double *> y_
    cdef double *out = <double *> out_
    cdef Py_ssize_t i
    cdef double r
    if op == ADD:
        for i in range(n):
            out[i] = x[i] + y[i]
    elif op == SUBTRACT:
        for i in range(n):
            out[i] = x[i] - y[i]
    elif op == MULTIPLY:
        for i in range(n):
            out[i] = x[i] * y[i]
    elif op == DIVIDE:
        for i in range(n):
            out[i] = x[i] / y[i]
    elif op == FLOOR_DIVIDE:
        for i in range(n):
            out[i] = floor(x[i] / y[i])
    elif op == REMAINDER:
        for i in range(n):
            r = fmod(x[i], y[i])
            out[i] = r + y[i] if r != 0 and (r < 0) != (y[i] < 0) else r
    elif op == POWER:
        for i in range(n):
            out[i] = pow(x[i], y[i])
    elif op == MAXIMUM:
        for i in range(n):
            out[i] = maximum(x[i], y[i])
    elif op == MINIMUM:
        for i in range(n):
            out[i] = minimum(x[i], y[i])
    elif op == LOGADDEXP:
        for i in range(n):
            out[i] = logaddexp_f64(x[i], y[i])
    elif op == ARCTAN2:
        for i in range(n):
            out[i] = atan2(x[i], y[i])
    else:
        return compare[double](op, x, y, out_, n)
    return OK


# ---- Lane loops: integers and bool ---------------------------------------------------------------------------------

cdef int unary_integer(int op, const integer *x, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef integer *out = <integer *> out_
    cdef int32_t *flag = <int32_t *> out_
    cdef Py_ssize_t i
    if op == ABS:
        for i in range(n):
            out[i] = negate(x[i]) if x[i] < 0 else x[i]
    elif op == NEGATIVE:
        for i in range(n):
            out[i] = negate(x[i])
    elif op == SIGN:
        for i in range(n):
            out[i] = (x[i] > 0) - (x[i] < 0)
    elif op == SQUARE:
        for i in range(n):
            out[i] = <integer> (<uint64_t> x[i] * <uint64_t> x[i])
    elif op == FLOOR or op == CEIL or op == TRUNC or op == ROUND or op == REAL or op == CONJUGATE:
        for i in range(n):
            out[i] = x[i]
    elif op == IMAG:
        for i in range(n):
            out[i] = 0
    elif op == RELU:
        for i in range(n):
            out[i] = x[i] if x[i] > 0 else 0
    elif op == BITWISE_INVERT:
        for i in range(n):
            out[i] = ~x[i]
    elif op == LOGICAL_NOT:
        for i in range(n):
            flag[i] = x[i] == 0
    elif op == ISNAN or op == ISINF or op == ISPOSINF or op == ISNEGINF:
        for i in range(n):
            flag[i] = 0
    elif op == ISFINITE:
        for i in range(n):
            flag[i] = 1
    else:
        return UNSUPPORTED
    return OK


cdef int unary_bool(int op, const void *x_, out_t out_, Py_ssize_t n) noexcept nogil:
    if op == BITWISE_INVERT:
        op = LOGICAL_NOT
    if op == NEGATIVE:
        return UNSUPPORTED
    return unary_integer[int32_t](op, <const int32_t *> x_, out_, n)


cdef inline integer floor_quotient(integer x, integer y) noexcept nogil:
    """floor(x / y); 0 for y == 0; wraps where y == -1 has no room."""
    if y == 0:
        return 0
    if integer is int32_t or integer is int64_t:
        if y == -1:
            return negate(x)
        return x // y - (1 if (x % y != 0) and ((x < 0) != (y < 0)) else 0)
    else:
        return x // y


cdef inline int32_t floor_quotient_32(int32_t x, int32_t y) noexcept nogil:
    # The quotient in double, which vectorizes, is correctly rounded and so has the right floor.
    return <int32_t> <uint32_t> <int64_t> floor(<double> x / (1.0 if y == 0 else <double> y)) if y != 0 else 0


cdef inline integer integer_power(integer x, integer y) noexcept nogil:
    cdef uint64_t result = 1, factor = <uint64_t> x, exponent = <uint64_t> y
    if y < 0:
        return 0
    while exponent:
        if exponent & 1:
            result *= factor
        factor *= factor
        exponent >>= 1
    return <integer> result


cdef int binary_wrapping(int op, const unsigned_integer *x, const unsigned_integer *y, out_t out_,
                         Py_ssize_t n) noexcept nogil:
    """The ops for which signed and unsigned integers are the same."""
    cdef unsigned_integer *out = <unsigned_integer *> out_
    cdef Py_ssize_t i
    if op == ADD:
        for i in range(n):
            out[i] = x[i] + y[i]
    elif op == SUBTRACT:
        for i in range(n):
            out[i] = x[i] - y[i]
    elif op == MULTIPLY:
        for i in range(n):
            out[i] = x[i] * y[i]
    elif op == BITWISE_AND:
        for i in range(n):
            out[i] = x[i] & y[i]
    elif op == BITWISE_OR:
        for i in range(n):
            out[i] = x[i] | y[i]
    elif op == BITWISE_XOR:
        for i in range(n):
            out[i] = x[i] ^ y[i]
    elif op == LEFT_SHIFT:
        for i in range(n):
            out[i] = x[i] << (y[i] & (8 * sizeof(unsigned_integer) - 1))
    else:
        return UNSUPPORTED
    return OK


cdef int binary_integer(int op, const integer *x, const integer *y, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef integer *out = <integer *> out_
    cdef Py_ssize_t i
    if op == FLOOR_DIVIDE:
        for i in range(n):
            out[i] = floor_quotient(x[i], y[i])
    elif op == REMAINDER:
        for i in range(n):
            out[i] = <integer> (<uint64_t> x[i] - <uint64_t> floor_quotient(x[i], y[i]) * <uint64_t> y[i])
    elif op == POWER:
        for i in range(n):
            out[i] = integer_power(x[i], y[i])
    elif op == MAXIMUM:
        for i in range(n):
            out[i] = x[i] if x[i] > y[i] else y[i]
    elif op == MINIMUM:
        for i in range(n):
            out[i] = x[i] if x[i] < y[i] else y[i]
    elif op == RIGHT_SHIFT:
        for i in range(n):
            out[i] = x[i] >> (y[i] & (8 * sizeof(integer) - 1))
    elif op >= EQUAL:
        return compare[integer](op, x, y, out_, n)
    elif integer is int32_t or integer is uint32_t:
        return binary_wrapping[uint32_t](op, <const uint32_t *> x, <const uint32_t *> y, out_, n)
    else:
        return binary_wrapping[uint64_t](op, <const uint64_t *> x, <const uint64_t *> y, out_, n)
    return OK


cdef int compare(int op, const number *x, const number *y, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef int32_t *out = <int32_t *> out_
    cdef Py_ssize_t i
    if op == EQUAL:
        for i in range(n):
            out[i] = x[i] == y[i]
    elif op == NOT_EQUAL:
        for i in range(n):
            out[i] = x[i] != y[i]
    elif op == LESS:
        for i in range(n):
            out[i] = x[i] < y[i]
    elif op == LESS_EQUAL:
        for i in range(n):
            out[i] = x[i] <= y[i]
    elif op == GREATER:
        for i in range(n):
            out[i] = x[i] > y[i]
    elif op == GREATER_EQUAL:
        for i in range(n):
            out[i] = x[i] >= y[i]
    elif op == LOGICAL_AND:
        for i in range(n):
            out[i] = (x[i] != 0) & (y[i] != 0)
    elif op == LOGICAL_OR:
        for i in range(n):
            out[i] = (x[i] != 0) | (y[i] != 0)
    elif op == LOGICAL_XOR:
        for i in range(n):
            out[i] = (x[i] != 0) ^ (y[i] != 0)
    elif op == EQUAL_NAN:
        for i in range(n):
            out[i] = (x[i] == y[i]) | ((x[i] != x[i]) & (y[i] != y[i]))
    else:
        return UNSUPPORTED
    return OK


# ---- Lane loops: complex64, computed in double ---------------------------------------------------------------------

cdef inline double complex wide(Complex z) noexcept nogil:
    cdef double complex w
    w.real = z.real
    w.imag = z.imag
    return w


cdef inline Complex narrow(double complex w) noexcept nogil:
    cdef Complex z
    z.real = <float> w.real
    z.imag = <float> w.imag
    return z


cdef inline Complex pair(double re, double im) noexcept nogil:
    cdef Complex z
    z.real = <float> re
    z.imag = <float> im
    return z


cdef inline double complex quotient(double complex z, double complex w) noexcept nogil:
    """z / w. The squares of float32 parts cannot overflow in double; z/0 is infinite in the direction of z."""
    cdef double complex q
    cdef double d = w.real * w.real + w.imag * w.imag
    if d == 0 and (z.real == z.real) and (z.imag == z.imag):
        q.real = copysign_d(INFINITY, w.real) * z.real
        q.imag = copysign_d(INFINITY, w.real) * z.imag
    elif d == INFINITY and fabs(z.real) < INFINITY and fabs(z.imag) < INFINITY:
        q.real = 0
        q.imag = 0
    else:
        q.real = (z.real * w.real + z.imag * w.imag) / d
        q.imag = (z.imag * w.real - z.real * w.imag) / d
    return q


cdef inline double complex product(double complex z, double complex w) noexcept nogil:
    cdef double complex p
    p.real = z.real * w.real - z.imag * w.imag
    p.imag = z.real * w.imag + z.imag * w.real
    return p


cdef inline double complex log1p_complex(double complex z) noexcept nogil:
    cdef double complex w
    if fabs(z.real) < 0.5 and fabs(z.imag) < 0.5:
        w.real = 0.5 * log1p(z.real * (2.0 + z.real) + z.imag * z.imag)
        w.imag = atan2(z.imag, 1.0 + z.real)
        return w
    w.real = 1.0 + z.real
    w.imag = z.imag
    return clog(w)


cdef inline double complex scaled(double complex z, double factor) noexcept nogil:
    cdef double complex w
    w.real = z.real * factor
    w.imag = z.imag * factor
    return w


cdef inline bint less_complex(Complex z, Complex w) noexcept nogil:
    return z.real < w.real or (z.real == w.real and z.imag < w.imag)


cdef inline bint equal_complex(Complex z, Complex w) noexcept nogil:
    return z.real == w.real and z.imag == w.imag


cdef inline bint nan_complex(Complex z) noexcept nogil:
    return z.real != z.real or z.imag != z.imag


cdef inline double complex logaddexp_complex(Complex x, Complex y) noexcept nogil:
    cdef Complex high = y if less_complex(x, y) else x
    cdef Complex low = x if less_complex(x, y) else y
    cdef double complex difference, w = wide(high)
    if low.real == <float> -INFINITY or high.real == <float> INFINITY:
        return w
    difference.real = <double> low.real - <double> high.real
    difference.imag = <double> low.imag - <double> high.imag
    difference = log1p_complex(cexp(difference))
    w.real = w.real + difference.real
    w.imag = w.imag + difference.imag
    return w


cdef int unary_c64(int op, const void *x_, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef const Complex *x = <const Complex *> x_
    cdef Complex *out = <Complex *> out_
    cdef float *part = <float *> out_
    cdef int32_t *flag = <int32_t *> out_
    cdef double complex one = 1.0
    cdef double a
    cdef Py_ssize_t i
    if op == ABS:
        for i in range(n):
            part[i] = <float> sqrt(<double> x[i].real * x[i].real + <double> x[i].imag * x[i].imag)
    elif op == REAL:
        for i in range(n):
            part[i] = x[i].real
    elif op == IMAG:
        for i in range(n):
            part[i] = x[i].imag
    elif op == CONJUGATE:
        for i in range(n):
            out[i] = pair(x[i].real, -x[i].imag)
    elif op == NEGATIVE:
        for i in range(n):
            out[i] = pair(-x[i].real, -x[i].imag)
    elif op == SIGN:
        for i in range(n):
            a = sqrt(<double> x[i].real * x[i].real + <double> x[i].imag * x[i].imag)
            out[i] = pair(x[i].real / a, x[i].imag / a) if a != 0 else pair(0, 0)
    elif op == SQUARE:
        for i in range(n):
            out[i] = narrow(product(wide(x[i]), wide(x[i])))
    elif op == SQRT:
        for i in range(n):
            out[i] = narrow(csqrt(wide(x[i])))
    elif op == RSQRT:
        for i in range(n):
            out[i] = narrow(quotient(one, csqrt(wide(x[i]))))
    elif op == RECIPROCAL:
        for i in range(n):
            out[i] = narrow(quotient(one, wide(x[i])))
    elif op == EXP:
        for i in range(n):
            out[i] = narrow(cexp(wide(x[i])))
    elif op == LOG:
        for i in range(n):
            out[i] = narrow(clog(wide(x[i])))
    elif op == LOG2:
        for i in range(n):
            out[i] = narrow(scaled(clog(wide(x[i])), 1.4426950408889634))
    elif op == LOG10:
        for i in range(n):
            out[i] = narrow(scaled(clog(wide(x[i])), 0.4342944819032518))
    elif op == LOG1P:
        for i in range(n):
            out[i] = narrow(log1p_complex(wide(x[i])))
    elif op == SIN:
        for i in range(n):
            out[i] = narrow(csin(wide(x[i])))
    elif op == COS:
        for i in range(n):
            out[i] = narrow(ccos(wide(x[i])))
    elif op == TAN:
        for i in range(n):
            out[i] = narrow(ctan(wide(x[i])))
    elif op == ARCSIN:
        for i in range(n):
            out[i] = narrow(casin(wide(x[i])))
    elif op == ARCCOS:
        for i in range(n):
            out[i] = narrow(cacos(wide(x[i])))
    elif op == ARCTAN:
        for i in range(n):
            out[i] = narrow(catan(wide(x[i])))
    elif op == SINH:
        for i in range(n):
            out[i] = narrow(csinh(wide(x[i])))
    elif op == COSH:
        for i in range(n):
            out[i] = narrow(ccosh(wide(x[i])))
    elif op == TANH:
        for i in range(n):
            out[i] = narrow(ctanh(wide(x[i])))
    elif op == ARCSINH:
        for i in range(n):
            out[i] = narrow(casinh(wide(x[i])))
    elif op == ARCCOSH:
        for i in range(n):
            out[i] = narrow(cacosh(wide(x[i])))
    elif op == ARCTANH:
        for i in range(n):
            out[i] = narrow(catanh(wide(x[i])))
    elif op == ROUND:
        for i in range(n):
            out[i] = pair(rintf(x[i].real), rintf(x[i].imag))
    elif op == LOGICAL_NOT:
        for i in range(n):
            flag[i] = (x[i].real == 0) & (x[i].imag == 0)
    elif op == ISNAN:
        for i in range(n):
            flag[i] = nan_complex(x[i])
    elif op == ISINF:
        for i in range(n):
            flag[i] = (fabsf(x[i].real) == <float> INFINITY) | (fabsf(x[i].imag) == <float> INFINITY)
    elif op == ISFINITE:
        for i in range(n):
            flag[i] = (fabsf(x[i].real) < <float> INFINITY) & (fabsf(x[i].imag) < <float> INFINITY)
    elif op == ISPOSINF:
        for i in range(n):
            flag[i] = x[i].real == <float> INFINITY
    elif op == ISNEGINF:
        for i in range(n):
            flag[i] = x[i].real == <float> -INFINITY
    else:
        return UNSUPPORTED
    return OK


cdef int binary_c64(int op, const void *x_, const void *y_, out_t out_, Py_ssize_t n) noexcept nogil:
    cdef const Complex *x = <const Complex *> x_
    cdef const Complex *y = <const Complex *> y_
    cdef Complex *out = <Complex *> out_
    cdef int32_t *flag = <int32_t *> out_
    cdef Py_ssize_t i
    if op == ADD:
        for i in range(n):
            out[i] = pair(x[i].real + y[i].real, x[i].imag + y[i].imag)
    elif op == SUBTRACT:
        for i in range(n):
            out[i] = pair(x[i].real - y[i].real, x[i].imag - y[i].imag)
    elif op == MULTIPLY:
        for i in range(n):
            out[i] = narrow(product(wide(x[i]), wide(y[i])))
    elif op == DIVIDE or op == FLOOR_DIVIDE:
        for i in range(n):
            out[i] = narrow(quotient(wide(x[i]), wide(y[i])))
    elif op == POWER:
        for i in range(n):
            out[i] = narrow(cexp(product(wide(y[i]), clog(wide(x[i])))))
    elif op == MAXIMUM:
        for i in range(n):
            out[i] = x[i] if nan_complex(x[i]) or less_complex(y[i], x[i]) else y[i]
    elif op == MINIMUM:
        for i in range(n):
            out[i] = x[i] if nan_complex(x[i]) or less_complex(x[i], y[i]) else y[i]
    elif op == LOGADDEXP:
        for i in range(n):
            out[i] = narrow(logaddexp_complex(x[i], y[i]))
    elif op == EQUAL:
        for i in range(n):
            flag[i] = equal_complex(x[i], y[i])
    elif op == NOT_EQUAL:
        for i in range(n):
            flag[i] = not equal_complex(x[i], y[i])
    elif op == LESS:
        for i in range(n):
            flag[i] = less_complex(x[i], y[i])
    elif op == LESS_EQUAL:
        for i in range(n):
            flag[i] = less_complex(x[i], y[i]) or equal_complex(x[i], y[i])
    elif op == GREATER:
        for i in range(n):
            flag[i] = less_complex(y[i], x[i])
    elif op == GREATER_EQUAL:
        for i in range(n):
            flag[i] = less_complex(y[i], x[i]) or equal_complex(x[i], y[i])
    elif op == LOGICAL_AND:
        for i in range(n):
            flag[i] = (x[i].real != 0 or x[i].imag != 0) and (y[i].real != 0 or y[i].imag != 0)
    elif op == LOGICAL_OR:
        for i in range(n):
            flag[i] = x[i].real != 0 or x[i].imag != 0 or y[i].real != 0 or y[i].imag != 0
    elif op == LOGICAL_XOR:
        for i in range(n):
            flag[i] = (x[i].real != 0 or x[i].imag != 0) != (y[i].real != 0 or y[i].imag != 0)
    elif op == EQUAL_NAN:
        for i in range(n):
            flag[i] = equal_complex(x[i], y[i]) or (nan_complex(x[i]) and nan_complex(y[i]))
    else:
        return UNSUPPORTED
    return OK


# ---- The lanes of a dtype ------------------------------------------------------------------------------------------

cdef enum Lane:
    LANE_F32
    LANE_F64
    LANE_I32        # bool and the signed and unsigned integers below 32 bits as well: all their values fit
    LANE_U32
    LANE_I64
    LANE_U64
    LANE_C64

cdef inline int lane_of(int dtype) noexcept nogil:
    if dtype == FLOAT32 or dtype == FLOAT16 or dtype == BFLOAT16:
        return LANE_F32
    if dtype == FLOAT64:
        return LANE_F64
    if dtype == COMPLEX64:
        return LANE_C64
    if dtype == INT64:
        return LANE_I64
    if dtype == UINT64:
        return LANE_U64
    if dtype == UINT32:
        return LANE_U32
    return LANE_I32


cdef inline int itemsize_of(int dtype) noexcept nogil:
    if dtype == BOOL or dtype == UINT8 or dtype == INT8:
        return 1
    if dtype == UINT16 or dtype == INT16 or dtype == FLOAT16 or dtype == BFLOAT16:
        return 2
    if dtype == UINT32 or dtype == INT32 or dtype == FLOAT32:
        return 4
    return 8


cdef inline bint is_natural(int dtype) noexcept nogil:
    """Whether the dtype in memory is its lane."""
    return itemsize_of(dtype) >= 4


cdef inline int unary_result(int op, int dtype) noexcept nogil:
    if op >= LOGICAL_NOT:
        return BOOL
    if dtype == COMPLEX64 and (op == ABS or op == REAL or op == IMAG):
        return FLOAT32
    return dtype


cdef inline int binary_result(int op, int dtype) noexcept nogil:
    return BOOL if op >= EQUAL else dtype


cdef int unary_lanes(int op, int dtype, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    cdef int lane = lane_of(dtype)
    if lane == LANE_F32:
        return unary_f32(op, x, out, n)
    if dtype == BOOL:
        return unary_bool(op, x, out, n)
    if lane == LANE_I32:
        return unary_integer[int32_t](op, <const int32_t *> x, out, n)
    if lane == LANE_U32:
        return unary_integer[uint32_t](op, <const uint32_t *> x, out, n)
    if lane == LANE_I64:
        return unary_integer[int64_t](op, <const int64_t *> x, out, n)
    if lane == LANE_U64:
        return unary_integer[uint64_t](op, <const uint64_t *> x, out, n)
    if lane == LANE_F64:
        return unary_f64(op, x, out, n)
    return unary_c64(op, x, out, n)


cdef int binary_lanes(int op, int dtype, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    cdef int lane = lane_of(dtype)
    if lane == LANE_F32:
        return binary_f32(op, x, y, out, n)
    if lane == LANE_I32:
        return binary_integer[int32_t](op, <const int32_t *> x, <const int32_t *> y, out, n)
    if lane == LANE_U32:
        return binary_integer[uint32_t](op, <const uint32_t *> x, <const uint32_t *> y, out, n)
    if lane == LANE_I64:
        return binary_integer[int64_t](op, <const int64_t *> x, <const int64_t *> y, out, n)
    if lane == LANE_U64:
        return binary_integer[uint64_t](op, <const uint64_t *> x, <const uint64_t *> y, out, n)
    if lane == LANE_F64:
        return binary_f64(op, x, y, out, n)
    return binary_c64(op, x, y, out, n)


cdef void select_lanes(int width, const int32_t *condition, const void *x, const void *y, out_t out,
                       Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    if width == 4:
        for i in range(n):
            (<uint32_t *> out)[i] = (<const uint32_t *> x)[i] if condition[i] else (<const uint32_t *> y)[i]
    else:
        for i in range(n):
            (<uint64_t *> out)[i] = (<const uint64_t *> x)[i] if condition[i] else (<const uint64_t *> y)[i]


# ---- Conversion between lanes --------------------------------------------------------------------------------------

cdef inline int32_t to_int32(real x) noexcept nogil:
    return <int32_t> x if (x >= <real> -2147483648.0) & (x < <real> 2147483648.0) else <int32_t> -2147483648


cdef inline int64_t to_int64(real x) noexcept nogil:
    if (x >= <real> -9223372036854775808.0) & (x < <real> 9223372036854775808.0):
        return <int64_t> x
    return <int64_t> <uint64_t> 0x8000000000000000


cdef inline uint32_t to_uint32(real x) noexcept nogil:
    cdef bint high = x >= <real> 2147483648.0
    cdef uint32_t low = <uint32_t> to_int32(<real> (x - <real> 2147483648.0) if high else x)
    return low ^ <uint32_t> 0x80000000 if high else low


cdef inline uint64_t to_uint64(real x) noexcept nogil:
    cdef bint high = x >= <real> 9223372036854775808.0
    cdef uint64_t low = <uint64_t> to_int64(<real> (x - <real> 9223372036854775808.0) if high else x)
    return low ^ <uint64_t> 0x8000000000000000 if high else low


cdef void convert_from(const number *x, int dtype, out_t out, Py_ssize_t n) noexcept nogil:
    """Lanes of a real dtype to the lanes of `dtype`; those of smaller integers may come out of range."""
    cdef Py_ssize_t i
    cdef int lane = lane_of(dtype)
    if dtype == BOOL:
        for i in range(n):
            (<int32_t *> out)[i] = x[i] != 0
    elif lane == LANE_F32:
        for i in range(n):
            (<float *> out)[i] = <float> x[i]
    elif lane == LANE_F64:
        for i in range(n):
            (<double *> out)[i] = <double> x[i]
    elif lane == LANE_C64:
        for i in range(n):
            (<Complex *> out)[i].real = <float> x[i]
            (<Complex *> out)[i].imag = 0
    elif number is float or number is double:
        if lane == LANE_I32:
            for i in range(n):
                (<int32_t *> out)[i] = to_int32(x[i])
        elif lane == LANE_U32:
            for i in range(n):
                (<uint32_t *> out)[i] = to_uint32(x[i])
        elif lane == LANE_I64:
            for i in range(n):
                (<int64_t *> out)[i] = to_int64(x[i])
        else:
            for i in range(n):
                (<uint64_t *> out)[i] = to_uint64(x[i])
    elif lane == LANE_I32 or lane == LANE_U32:
        for i in range(n):
            (<uint32_t *> out)[i] = <uint32_t> x[i]
    else:
        for i in range(n):
            (<uint64_t *> out)[i] = <uint64_t> x[i]


cdef void convert(int source, int dtype, const void *x, out_t out, Py_ssize_t n) noexcept nogil:
    cdef int lane = lane_of(source)
    cdef float buffer[GUARD]
    cdef const Complex *z = <const Complex *> x
    cdef Py_ssize_t block, i, start, m, width = 4 if lane_width(dtype) == 4 else 8
    if lane == LANE_F32:
        convert_from[float](<const float *> x, dtype, out, n)
    elif lane == LANE_F64:
        convert_from[double](<const double *> x, dtype, out, n)
    elif lane == LANE_I32:
        convert_from[int32_t](<const int32_t *> x, dtype, out, n)
    elif lane == LANE_U32:
        convert_from[uint32_t](<const uint32_t *> x, dtype, out, n)
    elif lane == LANE_I64:
        convert_from[int64_t](<const int64_t *> x, dtype, out, n)
    elif lane == LANE_U64:
        convert_from[uint64_t](<const uint64_t *> x, dtype, out, n)
    elif dtype == BOOL:
        for i in range(n):
            (<int32_t *> out)[i] = (z[i].real != 0) | (z[i].imag != 0)
    else:
        for block in range((n + GUARD - 1) // GUARD):
            start = block * GUARD
            m = min(<Py_ssize_t> GUARD, n - start)
            for i in range(m):
                buffer[i] = z[start + i].real
            convert_from[float](buffer, dtype, <char *> out + start * width, m)


cdef inline int lane_width(int dtype) noexcept nogil:
    cdef int lane = lane_of(dtype)
    return 4 if lane == LANE_F32 or lane == LANE_I32 or lane == LANE_U32 else 8


cdef inline bint is_narrow(int dtype) noexcept nogil:
    """Whether lanes hold values that the dtype does not, so that results have to be brought back into it."""
    return not is_natural(dtype)


cdef void normalize(int dtype, const void *x, out_t out, Py_ssize_t n) noexcept nogil:
    """Lanes brought to values of a narrow dtype: integers wrapped, floats rounded."""
    cdef const uint32_t *u = <const uint32_t *> x
    cdef int32_t *r = <int32_t *> out
    cdef const float *f = <const float *> x
    cdef float *g = <float *> out
    cdef uint16_t packed[TILE]
    cdef Py_ssize_t block, i, m
    if dtype == BOOL:
        for i in range(n):
            r[i] = u[i] != 0
    elif dtype == UINT8:
        for i in range(n):
            r[i] = <uint8_t> u[i]
    elif dtype == INT8:
        for i in range(n):
            r[i] = <int8_t> u[i]
    elif dtype == UINT16:
        for i in range(n):
            r[i] = <uint16_t> u[i]
    elif dtype == INT16:
        for i in range(n):
            r[i] = <int16_t> u[i]
    elif dtype == FLOAT16:
        for block in range((n + TILE - 1) // TILE):
            m = min(<Py_ssize_t> TILE, n - block * TILE)
            f32_run_to_f16(f + block * TILE, packed, m)
            f16_run_to_f32(packed, g + block * TILE, m)
    else:
        for i in range(n):
            g[i] = bf16_to_f32(f32_to_bf16(f[i]))


# ---- Loading and storing rectangles --------------------------------------------------------------------------------

ctypedef fused stored:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

cdef void widen_run(int dtype, const void *x, out_t out, Py_ssize_t n) noexcept nogil:
    """A contiguous run of a narrow dtype to lanes."""
    cdef int32_t *r = <int32_t *> out
    cdef float *f = <float *> out
    cdef Py_ssize_t i
    if dtype == BOOL or dtype == UINT8:
        for i in range(n):
            r[i] = (<const uint8_t *> x)[i]
    elif dtype == INT8:
        for i in range(n):
            r[i] = (<const int8_t *> x)[i]
    elif dtype == UINT16:
        for i in range(n):
            r[i] = (<const uint16_t *> x)[i]
    elif dtype == INT16:
        for i in range(n):
            r[i] = (<const int16_t *> x)[i]
    elif dtype == FLOAT16:
        f16_run_to_f32(<const uint16_t *> x, f, n)
    else:
        for i in range(n):
            f[i] = bf16_to_f32((<const uint16_t *> x)[i])


cdef void narrow_run(int dtype, const void *x, out_t out, Py_ssize_t n) noexcept nogil:
    """Lanes to a contiguous run of a narrow dtype: the low bits of integers, floats rounded."""
    cdef const uint32_t *u = <const uint32_t *> x
    cdef const float *f = <const float *> x
    cdef Py_ssize_t i
    if dtype == BOOL:
        for i in range(n):
            (<uint8_t *> out)[i] = u[i] != 0
    elif dtype == UINT8 or dtype == INT8:
        for i in range(n):
            (<uint8_t *> out)[i] = <uint8_t> u[i]
    elif dtype == UINT16 or dtype == INT16:
        for i in range(n):
            (<uint16_t *> out)[i] = <uint16_t> u[i]
    elif dtype == FLOAT16:
        f32_run_to_f16(f, <uint16_t *> out, n)
    else:
        for i in range(n):
            (<uint16_t *> out)[i] = f32_to_bf16(f[i])


cdef void gather(const stored *x, Py_ssize_t row_stride, Py_ssize_t col_stride, out_t out_,
                 Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """A rectangle with any strides to a dense one."""
    cdef stored *out = <stored *> out_
    cdef const stored *source
    cdef Py_ssize_t i, j
    if col_stride == 1:
        for i in range(rows):
            source = x + i * row_stride
            for j in range(cols):
                out[i * cols + j] = source[j]
    elif col_stride == 0:
        for i in range(rows):
            for j in range(cols):
                out[i * cols + j] = x[i * row_stride]
    elif row_stride == 1 and rows > 1:
        # transposed: reads each of its runs once, and scatters within the tile, which is in the L1 cache
        if stored is uint16_t:
            transpose_u16(x, col_stride, out, cols, rows, cols)
        elif stored is uint32_t:
            transpose_u32(x, col_stride, out, cols, rows, cols)
        elif stored is uint64_t:
            transpose_u64(x, col_stride, out, cols, rows, cols)
        else:
            for j in range(cols):
                for i in range(rows):
                    out[i * cols + j] = x[j * col_stride + i]
    else:
        for i in range(rows):
            source = x + i * row_stride
            for j in range(cols):
                out[i * cols + j] = source[j * col_stride]


cdef void scatter(const stored *x, stored *out, Py_ssize_t row_stride, Py_ssize_t col_stride,
                  Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """A dense rectangle to one with any strides."""
    cdef Py_ssize_t i, j
    if col_stride == 1:
        for i in range(rows):
            memcpy(out + i * row_stride, x + i * cols, cols * sizeof(stored))
    else:
        for i in range(rows):
            for j in range(cols):
                out[i * row_stride + j * col_stride] = x[i * cols + j]


cdef void load(int dtype, const char *x, Py_ssize_t row_stride, Py_ssize_t col_stride, void *out,
               Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """A rectangle of an array to lanes."""
    cdef int size = itemsize_of(dtype)
    cdef bint dense = col_stride == 1 and (rows == 1 or row_stride == cols)
    cdef uint16_t packed[TILE]
    if size >= 4:
        if size == 4:
            gather[uint32_t](<const uint32_t *> x, row_stride, col_stride, out, rows, cols)
        else:
            gather[uint64_t](<const uint64_t *> x, row_stride, col_stride, out, rows, cols)
        return
    if not dense:
        if size == 1:
            gather[uint8_t](<const uint8_t *> x, row_stride, col_stride, packed, rows, cols)
        else:
            gather[uint16_t](<const uint16_t *> x, row_stride, col_stride, packed, rows, cols)
        x = <const char *> packed
    widen_run(dtype, x, out, rows * cols)


cdef void store(int dtype, const void *x, char *out, Py_ssize_t row_stride, Py_ssize_t col_stride,
                Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """Lanes to a rectangle of an array."""
    cdef int size = itemsize_of(dtype)
    cdef bint dense = col_stride == 1 and (rows == 1 or row_stride == cols)
    cdef uint16_t packed[TILE]
    if size == 4:
        scatter[uint32_t](<const uint32_t *> x, <uint32_t *> out, row_stride, col_stride, rows, cols)
    elif size == 8:
        scatter[uint64_t](<const uint64_t *> x, <uint64_t *> out, row_stride, col_stride, rows, cols)
    elif dense:
        narrow_run(dtype, x, out, rows * cols)
    else:
        narrow_run(dtype, x, packed, rows * cols)
        if size == 1:
            scatter[uint8_t](<const uint8_t *> packed, <uint8_t *> out, row_stride, col_stride, rows, cols)
        else:
            scatter[uint16_t](<const uint16_t *> packed, <uint16_t *> out, row_stride, col_stride, rows, cols)


# ---- Planning: from instructions to steps --------------------------------------------------------------------------
#
# A step works on slots, the places in scratch memory that registers live in. Planning decides where casts go, lets a
# result be made in the output's memory where it may, and leaves out the rounding of results that are only stored.

cdef enum StepKind:
    STEP_LOAD           # slot dst = operand a
    STEP_UNARY
    STEP_BINARY
    STEP_SELECT
    STEP_CONVERT        # slot dst = slot a, from dtype `source` to the lanes of `dtype`
    STEP_NORMALIZE      # slot dst = slot a, brought to values of `dtype`
    STEP_STORE          # operand dst = slot a

ctypedef struct Step:
    int kind
    int op
    int dtype
    int source
    int dst
    int a
    int b
    int c

ctypedef struct Axes:
    # The common index space: axes merged where all operands allow it, the last two being those of a tile.
    int ndim
    Py_ssize_t shape[MAX_NDIM + 2]
    Py_ssize_t strides[MAX_OPERANDS][MAX_NDIM + 2]
    Py_ssize_t rows             # of a tile
    Py_ssize_t cols
    Py_ssize_t row_tiles
    Py_ssize_t col_tiles
    Py_ssize_t tiles
    bint transposed             # an operand is denser along the rows than along the columns

ctypedef struct Plan:
    int n_steps
    int n_slots
    int n_inputs
    int n_operands              # inputs, constants, outputs
    bint failed                 # too long
    Py_ssize_t cost             # of an element, in additions
    Step steps[MAX_STEPS]
    ArrayRef operands[MAX_OPERANDS]
    int64_t constants[MAX_INPUTS]
    int slot_uses[MAX_SLOTS]
    int alias[MAX_SLOTS]        # the output in whose memory a slot's value may be made, or -1
    int load_alias[MAX_SLOTS]   # the same for a slot that an input is loaded into
    int register_slot[MAX_REGISTERS]
    int register_dtype[MAX_REGISTERS]
    bint register_raw[MAX_REGISTERS]        # a result that is not normalized yet
    Axes axes


cdef int new_slot(Plan *plan) noexcept nogil:
    cdef int s
    for s in range(plan.n_slots):
        if plan.slot_uses[s] == 0:
            plan.slot_uses[s] = 1
            return s
    if plan.n_slots == MAX_SLOTS:
        plan.failed = True
        return 0
    plan.slot_uses[plan.n_slots] = 1
    plan.alias[plan.n_slots] = plan.load_alias[plan.n_slots] = -1
    plan.n_slots += 1
    return plan.n_slots - 1


cdef Step *new_step(Plan *plan, int kind, int dtype, int dst, int a) noexcept nogil:
    cdef Step *step
    if plan.n_steps == MAX_STEPS:
        plan.failed = True
        plan.n_steps -= 1
    step = &plan.steps[plan.n_steps]
    plan.n_steps += 1
    step.kind = kind
    step.op = 0
    step.dtype = dtype
    step.source = dtype
    step.dst = dst
    step.a = step.b = step.c = a
    return step


cdef int fetch(Plan *plan, int register, int dtype, bint for_store) noexcept nogil:
    """The slot that holds a register as lanes of `dtype`; the caller releases it (slot_uses)."""
    cdef int slot = plan.register_slot[register]
    cdef int source = plan.register_dtype[register]
    cdef int result
    cdef bint same = lane_of(source) == lane_of(dtype) or (
        lane_width(source) == lane_width(dtype) and lane_of(source) >= LANE_I32 and lane_of(dtype) >= LANE_I32
        and lane_of(source) <= LANE_U64 and lane_of(dtype) <= LANE_U64)
    if plan.register_raw[register] and not (for_store and source == dtype):
        new_step(plan, STEP_NORMALIZE, source, slot, slot)
        plan.register_raw[register] = False
    if same and (source == dtype or for_store or not is_narrow(dtype)):
        plan.slot_uses[slot] += 1
        return slot
    result = new_slot(plan)
    if same:
        new_step(plan, STEP_NORMALIZE, dtype, result, slot)
    else:
        new_step(plan, STEP_CONVERT, dtype, result, slot).source = source
        if is_narrow(dtype) and dtype != BOOL and not for_store:
            new_step(plan, STEP_NORMALIZE, dtype, result, result)
    return result


cdef void define(Plan *plan, int register, int slot, int dtype, bint raw) noexcept nogil:
    if plan.register_slot[register] >= 0:
        plan.slot_uses[plan.register_slot[register]] -= 1
    plan.register_slot[register] = slot
    plan.register_dtype[register] = dtype
    plan.register_raw[register] = raw


cdef void make_in_output(Plan *plan, int register, int slot, int output) noexcept nogil:
    """Give the value that `slot` holds a slot of its own, which can lie in the output's memory."""
    cdef int producer = plan.n_steps - 1, fresh, k
    cdef Step *step
    while producer >= 0 and not (plan.steps[producer].dst == slot and plan.steps[producer].kind != STEP_STORE
                                 and plan.steps[producer].kind != STEP_NORMALIZE):
        producer -= 1
    if producer < 0 or plan.alias[slot] >= 0:
        return
    if plan.steps[producer].kind == STEP_LOAD:
        plan.load_alias[slot] = output
        return
    if plan.n_slots == MAX_SLOTS:
        return
    fresh = plan.n_slots
    plan.n_slots += 1
    plan.slot_uses[fresh] = plan.slot_uses[slot]
    plan.slot_uses[slot] = 0
    plan.alias[fresh] = output
    plan.load_alias[fresh] = -1
    for k in range(producer, plan.n_steps):
        step = &plan.steps[k]
        if step.kind != STEP_STORE and step.dst == slot:
            step.dst = fresh
        if k > producer:
            step.a = fresh if step.a == slot else step.a
            step.b = fresh if step.b == slot else step.b
            step.c = fresh if step.c == slot else step.c
    for k in range(MAX_REGISTERS):
        if plan.register_slot[k] == slot:
            plan.register_slot[k] = fresh


cdef int unary_cost(int op, int dtype) noexcept nogil:
    cdef bint library = lane_of(dtype) == LANE_F64 or lane_of(dtype) == LANE_C64
    if op == ABS or op == NEGATIVE or op == SIGN or op == SQUARE or op >= LOGICAL_NOT or op == RELU:
        return 1
    if (op >= FLOOR and op <= CONJUGATE) or lane_of(dtype) > LANE_F64 and lane_of(dtype) != LANE_C64:
        return 1
    return 32 if library else 4


cdef int binary_cost(int op, int dtype) noexcept nogil:
    if op == POWER or op == LOGADDEXP or op == ARCTAN2 or op == REMAINDER or op == FLOOR_DIVIDE:
        return 8 if lane_of(dtype) == LANE_F32 else 32
    return 1


cdef int plan_program(Plan *plan, const Instruction *code, int n, const ArrayRef *inputs, int n_inputs,
                      const ArrayRef *outputs, int n_outputs) noexcept nogil:
    cdef int k, r, a, b, c, slot, dtype, n_constants = 0, outputs_at
    cdef const Instruction *instruction
    cdef Step *step
    if n > MAX_INSTRUCTIONS or n_outputs > MAX_OUTPUTS or n_inputs > MAX_INPUTS:
        return TOO_LONG
    for k in range(n):
        n_constants += code[k].kind == CONSTANT
    if n_inputs + n_constants > MAX_INPUTS:
        return TOO_LONG
    plan.n_steps = plan.n_slots = 0
    plan.failed = False
    plan.cost = 0
    plan.n_inputs = n_inputs + n_constants
    plan.n_operands = plan.n_inputs + n_outputs
    outputs_at = plan.n_inputs
    for r in range(MAX_REGISTERS):
        plan.register_slot[r] = -1
    for k in range(n_inputs):
        plan.operands[k] = inputs[k]
        slot = new_slot(plan)
        define(plan, k, slot, inputs[k].dtype, False)
        new_step(plan, STEP_LOAD, inputs[k].dtype, slot, k)
        plan.slot_uses[slot] += 1       # an input's slot may be the input's own memory: never written to again
    for k in range(n_outputs):
        plan.operands[outputs_at + k] = outputs[k]
    c = n_inputs
    for k in range(n):
        instruction = &code[k]
        dtype = instruction.dtype
        if instruction.kind == CONSTANT:
            plan.constants[c] = instruction.immediate
            plan.operands[c].data = <char *> &plan.constants[c]
            plan.operands[c].dtype = dtype
            plan.operands[c].size = 1
            plan.operands[c].ndim = 0
            slot = new_slot(plan)
            new_step(plan, STEP_LOAD, dtype, slot, c)
            plan.slot_uses[slot] += 1
            define(plan, instruction.dst, slot, dtype, False)
            c += 1
        elif instruction.kind == STORE:
            r = instruction.a
            dtype = outputs[instruction.dst].dtype
            a = fetch(plan, r, dtype, True)
            if is_natural(dtype):
                make_in_output(plan, r, a, outputs_at + instruction.dst)
                a = plan.steps[plan.n_steps - 1].dst if plan.slot_uses[a] == 0 else a
            new_step(plan, STEP_STORE, dtype, outputs_at + instruction.dst, a)
            plan.slot_uses[a] -= 1
        elif instruction.kind == CAST:
            a = fetch(plan, instruction.a, dtype, False)
            define(plan, instruction.dst, a, dtype, False)
        elif instruction.kind == UNARY:
            if unary_lanes(instruction.op, dtype, NULL, NULL, 0) != OK:
                return UNSUPPORTED
            a = fetch(plan, instruction.a, dtype, False)
            slot = new_slot(plan)
            step = new_step(plan, STEP_UNARY, dtype, slot, a)
            step.op = instruction.op
            plan.cost += unary_cost(instruction.op, dtype)
            plan.slot_uses[a] -= 1
            r = unary_result(instruction.op, dtype)
            define(plan, instruction.dst, slot, r, is_narrow(r) and instruction.op < LOGICAL_NOT)
        elif instruction.kind == BINARY:
            if binary_lanes(instruction.op, dtype, NULL, NULL, NULL, 0) != OK:
                return UNSUPPORTED
            a = fetch(plan, instruction.a, dtype, False)
            b = fetch(plan, instruction.b, dtype, False)
            slot = new_slot(plan)
            step = new_step(plan, STEP_BINARY, dtype, slot, a)
            step.op = instruction.op
            step.b = b
            plan.cost += binary_cost(instruction.op, dtype)
            plan.slot_uses[a] -= 1
            plan.slot_uses[b] -= 1
            r = binary_result(instruction.op, dtype)
            define(plan, instruction.dst, slot, r, is_narrow(r) and instruction.op < EQUAL)
        else:
            a = fetch(plan, instruction.a, BOOL, False)
            b = fetch(plan, instruction.b, dtype, False)
            r = fetch(plan, instruction.c, dtype, False)
            slot = new_slot(plan)
            step = new_step(plan, STEP_SELECT, dtype, slot, a)
            step.b = b
            step.c = r
            plan.cost += 1
            plan.slot_uses[a] -= 1
            plan.slot_uses[b] -= 1
            plan.slot_uses[r] -= 1
            define(plan, instruction.dst, slot, dtype, False)
    return TOO_LONG if plan.failed else OK


# ---- Planning: the index space -------------------------------------------------------------------------------------

cdef inline Py_ssize_t magnitude(Py_ssize_t stride) noexcept nogil:
    return -stride if stride < 0 else stride


cdef void swap_axes(Axes *axes, int n_operands, int i, int j) noexcept nogil:
    cdef int p
    axes.shape[i], axes.shape[j] = axes.shape[j], axes.shape[i]
    for p in range(n_operands):
        axes.strides[p][i], axes.strides[p][j] = axes.strides[p][j], axes.strides[p][i]


cdef void plan_axes(Plan *plan) noexcept nogil:
    cdef Axes *axes = &plan.axes
    cdef int n_operands = plan.n_operands, first_output = plan.n_inputs
    cdef const ArrayRef *out = &plan.operands[first_output]
    cdef int p, d, e, k = 0
    cdef bint merge
    cdef Py_ssize_t inner
    axes.transposed = False
    # the axes longer than one, ordered by the first output's strides
    for d in range(out.ndim):
        if out.shape[d] != 1:
            axes.shape[k] = out.shape[d]
            for p in range(n_operands):
                axes.strides[p][k] = plan.operands[p].strides[d] if plan.operands[p].ndim > d else 0
            e = k
            while e > 0 and magnitude(axes.strides[first_output][e - 1]) < magnitude(axes.strides[first_output][e]):
                swap_axes(axes, n_operands, e - 1, e)
                e -= 1
            k += 1
    axes.ndim = k
    # merge neighbours that are one axis for every operand
    k = 0
    for d in range(1, axes.ndim):
        merge = True
        for p in range(n_operands):
            if axes.strides[p][k] != axes.strides[p][d] * axes.shape[d]:
                merge = False
                break
        if merge:
            axes.shape[k] *= axes.shape[d]
        else:
            k += 1
            axes.shape[k] = axes.shape[d]
        for p in range(n_operands):
            axes.strides[p][k] = axes.strides[p][d]
    axes.ndim = k + 1 if axes.ndim > 0 else 0
    # at least two axes
    while axes.ndim < 2:
        for d in range(axes.ndim, 0, -1):
            axes.shape[d] = axes.shape[d - 1]
            for p in range(n_operands):
                axes.strides[p][d] = axes.strides[p][d - 1]
        axes.shape[0] = 1
        for p in range(n_operands):
            axes.strides[p][0] = 0
        axes.ndim += 1
    # the rows of a tile: the axis along which an operand is denser than along the last one, if there is such an axis
    k = axes.ndim - 1
    for p in range(n_operands):
        inner = magnitude(axes.strides[p][k])
        if inner > 1:
            for d in range(k):
                if axes.strides[p][d] != 0 and magnitude(axes.strides[p][d]) < inner:
                    inner = magnitude(axes.strides[p][d])
                    e = d
            if inner < magnitude(axes.strides[p][k]):
                if e != k - 1:
                    swap_axes(axes, n_operands, e, k - 1)
                axes.transposed = True
                break
    if axes.transposed:
        axes.cols = min(<Py_ssize_t> SIDE, axes.shape[k])
        axes.rows = min(TILE // axes.cols, axes.shape[k - 1])
    else:
        axes.cols = min(<Py_ssize_t> TILE, axes.shape[k])
        axes.rows = max(<Py_ssize_t> 1, min(TILE // max(<Py_ssize_t> 1, axes.cols), axes.shape[k - 1]))
    axes.cols = max(<Py_ssize_t> 1, axes.cols)
    axes.row_tiles = (axes.shape[k - 1] + axes.rows - 1) // axes.rows
    axes.col_tiles = (axes.shape[k] + axes.cols - 1) // axes.cols
    axes.tiles = axes.row_tiles * axes.col_tiles
    for d in range(k - 1):
        axes.tiles *= axes.shape[d]


# ---- Running -------------------------------------------------------------------------------------------------------

cdef inline bint dense_at(const Axes *axes, int p, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """Whether a tile of operand p is one contiguous run."""
    return axes.strides[p][axes.ndim - 1] == 1 and (rows == 1 or axes.strides[p][axes.ndim - 2] == cols)


cdef void run_tiles(const Plan *plan, Py_ssize_t first, Py_ssize_t last, char *scratch) noexcept nogil:
    cdef const Axes *axes = &plan.axes
    cdef char *slot[MAX_SLOTS]
    cdef char *base[MAX_OPERANDS]
    cdef bint constant[MAX_OPERANDS]
    cdef Py_ssize_t t, rest, row, col, rows, cols, row_stride, col_stride, n
    cdef int s, p, d, k, output, last_axis = axes.ndim - 1
    cdef const Step *step
    for p in range(plan.n_operands):
        constant[p] = p < plan.n_inputs
        for d in range(axes.ndim):
            if axes.strides[p][d] != 0:
                constant[p] = False
    for s in range(plan.n_slots):
        slot[s] = scratch + s * <Py_ssize_t> REGISTER_BYTES
    for t in range(first, last):
        rest = t // axes.col_tiles
        col = (t - rest * axes.col_tiles) * axes.cols
        row = (rest % axes.row_tiles) * axes.rows
        rest = rest // axes.row_tiles
        rows = min(axes.rows, axes.shape[last_axis - 1] - row)
        cols = min(axes.cols, axes.shape[last_axis] - col)
        n = rows * cols
        for p in range(plan.n_operands):
            base[p] = plan.operands[p].data + itemsize_of(plan.operands[p].dtype) * (
                row * axes.strides[p][last_axis - 1] + col * axes.strides[p][last_axis])
        for d in range(last_axis - 2, -1, -1):
            k = <int> (rest % axes.shape[d])
            for p in range(plan.n_operands):
                base[p] += itemsize_of(plan.operands[p].dtype) * axes.strides[p][d] * (rest % axes.shape[d])
            rest = rest // axes.shape[d]
        # results that can be made in the output's memory
        for s in range(plan.n_slots):
            p = plan.alias[s]
            if p >= 0:
                slot[s] = base[p] if dense_at(axes, p, rows, cols) else scratch + s * <Py_ssize_t> REGISTER_BYTES
        for k in range(plan.n_steps):
            step = &plan.steps[k]
            if step.kind == STEP_UNARY:
                unary_lanes(step.op, step.dtype, slot[step.a], slot[step.dst], n)
            elif step.kind == STEP_BINARY:
                binary_lanes(step.op, step.dtype, slot[step.a], slot[step.b], slot[step.dst], n)
            elif step.kind == STEP_LOAD:
                p = step.a
                row_stride = axes.strides[p][last_axis - 1]
                col_stride = axes.strides[p][last_axis]
                if constant[p]:
                    if t == first:
                        load(step.dtype, base[p], 0, 0, slot[step.dst], 1, TILE)
                elif is_natural(step.dtype) and dense_at(axes, p, rows, cols):
                    slot[step.dst] = base[p]
                else:
                    slot[step.dst] = scratch + step.dst * <Py_ssize_t> REGISTER_BYTES
                    if plan.load_alias[step.dst] >= 0 and is_natural(step.dtype):
                        output = plan.load_alias[step.dst]
                        if dense_at(axes, output, rows, cols):
                            slot[step.dst] = base[output]
                    load(step.dtype, base[p], row_stride, col_stride, slot[step.dst], rows, cols)
            elif step.kind == STEP_STORE:
                p = step.dst
                if slot[step.a] != base[p]:
                    store(step.dtype, slot[step.a], base[p], axes.strides[p][last_axis - 1],
                          axes.strides[p][last_axis], rows, cols)
            elif step.kind == STEP_CONVERT:
                convert(step.source, step.dtype, slot[step.a], slot[step.dst], n)
            elif step.kind == STEP_NORMALIZE:
                normalize(step.dtype, slot[step.a], slot[step.dst], n)
            else:
                select_lanes(lane_width(step.dtype), <const int32_t *> slot[step.a], slot[step.b], slot[step.c],
                             slot[step.dst], n)


cdef int run_share(const Plan *plan, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef char small[STACK_SLOTS * REGISTER_BYTES + 64]
    cdef char *scratch = small
    if plan.n_slots > STACK_SLOTS:
        scratch = <char *> malloc(plan.n_slots * <size_t> REGISTER_BYTES + 64)
        if scratch == NULL:
            return NO_MEMORY
    run_tiles(plan, first, last, <char *> ((<size_t> scratch + 63) & ~<size_t> 63))
    if plan.n_slots > STACK_SLOTS:
        free(scratch)
    return OK


cdef int run(Plan *plan, int threads) noexcept nogil:
    cdef Py_ssize_t size = plan.operands[plan.n_inputs].size, tiles
    cdef int t, failed = OK
    if size == 0:
        return OK
    plan_axes(plan)
    tiles = plan.axes.tiles
    if threads > tiles:
        threads = <int> tiles
    if threads <= 1 or size * max(<Py_ssize_t> 1, plan.cost) < PARALLEL_COST:
        return run_share(plan, 0, tiles)
    for t in prange(threads, num_threads=team_of(threads), schedule='static', chunksize=1):
        failed |= run_share(plan, tiles * t // threads, tiles * (t + 1) // threads)
    return failed


cdef int program(const Instruction *code, int n_instructions, const ArrayRef *inputs, int n_inputs,
                 const ArrayRef *outputs, int n_outputs, int threads) noexcept nogil:
    cdef Plan plan
    cdef int status = plan_program(&plan, code, n_instructions, inputs, n_inputs, outputs, n_outputs)
    return run(&plan, threads) if status == OK else status


# ---- Single ops ----------------------------------------------------------------------------------------------------

cdef int narrow_unary(int op, int dtype, const char *x, char *out, Py_ssize_t n) noexcept nogil:
    """A contiguous op on a dtype that is not its lane: tile by tile through the stack."""
    cdef char lanes[REGISTER_BYTES]
    cdef int result = unary_result(op, dtype), status = OK
    cdef Py_ssize_t block, start, m
    for block in range((n + TILE - 1) // TILE):
        start = block * TILE
        m = min(<Py_ssize_t> TILE, n - start)
        widen_run(dtype, x + start * itemsize_of(dtype), lanes, m)
        status = unary_lanes(op, dtype, lanes, lanes, m)
        if status != OK:
            return status
        narrow_run(result, lanes, out + start * itemsize_of(result), m)
    return status


cdef int flags_unary(int op, int dtype, const char *x, char *out, Py_ssize_t n) noexcept nogil:
    """A contiguous predicate of lanes."""
    cdef int32_t lanes[TILE]
    cdef int status = OK
    cdef Py_ssize_t block, start, m
    for block in range((n + TILE - 1) // TILE):
        start = block * TILE
        m = min(<Py_ssize_t> TILE, n - start)
        status = unary_lanes(op, dtype, x + start * itemsize_of(dtype), lanes, m)
        if status != OK:
            return status
        narrow_run(BOOL, lanes, out + start, m)
    return status


cdef bint arithmetic_bf16(int op, const uint16_t *x, const uint16_t *y, out_t out_, Py_ssize_t n) noexcept nogil:
    """The four operations in one pass: steps through tiles would take longer than the memory. False for others."""
    cdef uint16_t *out = <uint16_t *> out_
    cdef Py_ssize_t i
    if op == ADD:
        for i in range(n):
            out[i] = f32_to_bf16(bf16_to_f32(x[i]) + bf16_to_f32(y[i]))
    elif op == SUBTRACT:
        for i in range(n):
            out[i] = f32_to_bf16(bf16_to_f32(x[i]) - bf16_to_f32(y[i]))
    elif op == MULTIPLY:
        for i in range(n):
            out[i] = f32_to_bf16(bf16_to_f32(x[i]) * bf16_to_f32(y[i]))
    elif op == DIVIDE:
        for i in range(n):
            out[i] = f32_to_bf16(bf16_to_f32(x[i]) / bf16_to_f32(y[i]))
    else:
        return False
    return True


cdef int narrow_binary(int op, int dtype, const char *x, const char *y, char *out, Py_ssize_t n) noexcept nogil:
    cdef char left[4 * TILE]
    cdef char right[4 * TILE]
    cdef int size = itemsize_of(dtype), result = binary_result(op, dtype), status = OK
    cdef Py_ssize_t block, start, m
    if dtype == BFLOAT16 and arithmetic_bf16(op, <const uint16_t *> x, <const uint16_t *> y, out, n):
        return OK
    for block in range((n + TILE - 1) // TILE):
        start = block * TILE
        m = min(<Py_ssize_t> TILE, n - start)
        widen_run(dtype, x + start * size, left, m)
        widen_run(dtype, y + start * size, right, m)
        status = binary_lanes(op, dtype, left, right, left, m)
        if status != OK:
            return status
        narrow_run(result, left, out + start * itemsize_of(result), m)
    return status


cdef int flags_binary(int op, int dtype, const char *x, const char *y, char *out, Py_ssize_t n) noexcept nogil:
    cdef int32_t lanes[TILE]
    cdef int size = itemsize_of(dtype), status = OK
    cdef Py_ssize_t block, start, m
    for block in range((n + TILE - 1) // TILE):
        start = block * TILE
        m = min(<Py_ssize_t> TILE, n - start)
        status = binary_lanes(op, dtype, x + start * size, y + start * size, lanes, m)
        if status != OK:
            return status
        narrow_run(BOOL, lanes, out + start, m)
    return status


cdef int unary_run(int op, int dtype, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    if is_narrow(dtype):
        return narrow_unary(op, dtype, <const char *> x, <char *> out, n)
    if op >= LOGICAL_NOT:
        return flags_unary(op, dtype, <const char *> x, <char *> out, n)
    return unary_lanes(op, dtype, x, out, n)


cdef int binary_run(int op, int dtype, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    if is_narrow(dtype):
        return narrow_binary(op, dtype, <const char *> x, <const char *> y, <char *> out, n)
    if op >= EQUAL:
        return flags_binary(op, dtype, <const char *> x, <const char *> y, <char *> out, n)
    return binary_lanes(op, dtype, x, y, out, n)


# One entry of the table per dtype.
cdef int unary_contig_f32(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_f32(op, x, out, n) if op < LOGICAL_NOT else unary_run(op, FLOAT32, x, out, n)


cdef int unary_contig_f64(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_run(op, FLOAT64, x, out, n)


cdef int unary_contig_f16(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_run(op, FLOAT16, x, out, n)


cdef int unary_contig_bf16(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_run(op, BFLOAT16, x, out, n)


cdef int unary_contig_c64(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_run(op, COMPLEX64, x, out, n)


cdef int unary_contig_bool(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_run(op, BOOL, x, out, n)


cdef int unary_contig_u8(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_run(op, UINT8, x, out, n)


cdef int unary_contig_i32(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_run(op, INT32, x, out, n)


cdef int unary_contig_u32(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_run(op, UINT32, x, out, n)


cdef int unary_contig_i64(int op, const void *x, void *out, Py_ssize_t n) noexcept nogil:
    return unary_run(op, INT64, x, out, n)


cdef int binary_contig_f32(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_f32(op, x, y, out, n) if op < EQUAL else binary_run(op, FLOAT32, x, y, out, n)


cdef int binary_contig_f64(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_run(op, FLOAT64, x, y, out, n)


cdef int binary_contig_f16(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_run(op, FLOAT16, x, y, out, n)


cdef int binary_contig_bf16(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_run(op, BFLOAT16, x, y, out, n)


cdef int binary_contig_c64(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_run(op, COMPLEX64, x, y, out, n)


cdef int binary_contig_bool(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_run(op, BOOL, x, y, out, n)


cdef int binary_contig_u8(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_run(op, UINT8, x, y, out, n)


cdef int binary_contig_i32(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_run(op, INT32, x, y, out, n)


cdef int binary_contig_u32(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_run(op, UINT32, x, y, out, n)


cdef int binary_contig_i64(int op, const void *x, const void *y, void *out, Py_ssize_t n) noexcept nogil:
    return binary_run(op, INT64, x, y, out, n)


cdef inline Py_ssize_t share(Py_ssize_t n, int t, int threads) noexcept nogil:
    """Where thread t begins: a multiple of TILE elements."""
    cdef Py_ssize_t tiles = (n + TILE - 1) // TILE
    return min(n, tiles * t // threads * TILE)


cdef int unary(int op, int compute, const ArrayRef *x, const ArrayRef *out, int threads) noexcept nogil:
    cdef Py_ssize_t n = out.size, begin, end
    cdef int t, size, result_size, result = unary_result(op, compute)
    cdef Instruction code[2]
    if x.contiguous and out.contiguous and x.dtype == compute and out.dtype == result:
        if threads <= 1 or n * unary_cost(op, compute) < PARALLEL_COST:
            return unary_run(op, compute, x.data, out.data, n)
        if unary_lanes(op, compute, NULL, NULL, 0) != OK:
            return UNSUPPORTED
        size = itemsize_of(compute)
        result_size = itemsize_of(result)
        for t in prange(threads, num_threads=team_of(threads), schedule='static', chunksize=1):
            begin = share(n, t, threads)
            end = share(n, t + 1, threads)
            unary_run(op, compute, x.data + begin * size, out.data + begin * result_size, end - begin)
        return OK
    code[0].kind = UNARY
    code[0].op = op
    code[0].dtype = compute
    code[0].dst = 1
    code[0].a = 0
    code[1].kind = STORE
    code[1].dst = 0
    code[1].a = 1
    return program(code, 2, x, 1, out, 1, threads)


cdef int binary(int op, int compute, const ArrayRef *x, const ArrayRef *y, const ArrayRef *out,
                int threads) noexcept nogil:
    cdef Py_ssize_t n = out.size, begin, end
    cdef int t, size, result_size, result = binary_result(op, compute)
    cdef Instruction code[2]
    cdef ArrayRef inputs[2]
    if (x.contiguous and y.contiguous and out.contiguous and x.dtype == compute and y.dtype == compute
            and out.dtype == result):
        if threads <= 1 or n * binary_cost(op, compute) < PARALLEL_COST:
            return binary_run(op, compute, x.data, y.data, out.data, n)
        if binary_lanes(op, compute, NULL, NULL, NULL, 0) != OK:
            return UNSUPPORTED
        size = itemsize_of(compute)
        result_size = itemsize_of(result)
        for t in prange(threads, num_threads=team_of(threads), schedule='static', chunksize=1):
            begin = share(n, t, threads)
            end = share(n, t + 1, threads)
            binary_run(op, compute, x.data + begin * size, y.data + begin * size, out.data + begin * result_size,
                       end - begin)
        return OK
    inputs[0] = x[0]
    inputs[1] = y[0]
    code[0].kind = BINARY
    code[0].op = op
    code[0].dtype = compute
    code[0].dst = 2
    code[0].a = 0
    code[0].b = 1
    code[1].kind = STORE
    code[1].dst = 0
    code[1].a = 2
    return program(code, 2, inputs, 2, out, 1, threads)


cdef int select(const ArrayRef *condition, const ArrayRef *x, const ArrayRef *y, const ArrayRef *out,
                int threads) noexcept nogil:
    cdef Instruction code[2]
    cdef ArrayRef inputs[3]
    inputs[0] = condition[0]
    inputs[1] = x[0]
    inputs[2] = y[0]
    code[0].kind = SELECT
    code[0].dtype = out.dtype
    code[0].dst = 3
    code[0].a = 0
    code[0].b = 1
    code[0].c = 2
    code[1].kind = STORE
    code[1].dst = 0
    code[1].a = 3
    return program(code, 2, inputs, 3, out, 1, threads)


cdef int copy(const ArrayRef *x, const ArrayRef *out, int threads) noexcept nogil:
    cdef Py_ssize_t n = out.size, begin, end
    cdef int t, size
    cdef Instruction code[1]
    if x.contiguous and out.contiguous and x.dtype == out.dtype:
        size = itemsize_of(x.dtype)
        if threads <= 1 or n * size < 4 * PARALLEL_COST:
            memcpy(out.data, x.data, n * size)
            return OK
        for t in prange(threads, num_threads=team_of(threads), schedule='static', chunksize=1):
            begin = share(n, t, threads)
            end = share(n, t + 1, threads)
            memcpy(out.data + begin * size, x.data + begin * size, (end - begin) * size)
        return OK
    code[0].kind = STORE
    code[0].dst = 0
    code[0].a = 0
    return program(code, 1, x, 1, out, 1, threads)


cdef int fill(const ArrayRef *out, const void *value, int threads) noexcept nogil:
    cdef ArrayRef x
    cdef Py_ssize_t strides[MAX_NDIM]
    cdef int d
    for d in range(out.ndim):
        strides[d] = 0
    x = out[0]
    x.data = <char *> value
    x.strides = strides
    x.contiguous = out.size <= 1
    return copy(&x, out, threads)


cdef int arange(const ArrayRef *out, double start, double step) noexcept nogil:
    cdef double lanes[TILE]
    cdef char narrowed[REGISTER_BYTES]
    cdef Py_ssize_t block, first, i, m
    cdef int dtype = out.dtype
    if lane_of(dtype) >= LANE_I32 and lane_of(dtype) != LANE_C64:
        return arange_int(out, to_int64(start), to_int64(start + step) - to_int64(start))
    for block in range((out.size + TILE - 1) // TILE):
        first = block * TILE
        m = min(<Py_ssize_t> TILE, out.size - first)
        for i in range(m):
            lanes[i] = start + <double> (first + i) * step
        if dtype == FLOAT64:
            memcpy(out.data + 8 * first, lanes, 8 * m)
        else:
            convert_from[double](lanes, dtype, narrowed, m)
            store(dtype, narrowed, out.data + itemsize_of(dtype) * first, 0, 1, 1, m)
    return OK


cdef int arange_int(const ArrayRef *out, int64_t start, int64_t step) noexcept nogil:
    cdef uint64_t lanes[TILE]
    cdef char narrowed[REGISTER_BYTES]
    cdef Py_ssize_t block, first, i, m
    cdef int dtype = out.dtype
    for block in range((out.size + TILE - 1) // TILE):
        first = block * TILE
        m = min(<Py_ssize_t> TILE, out.size - first)
        for i in range(m):
            lanes[i] = <uint64_t> start + <uint64_t> (first + i) * <uint64_t> step
        convert_from[int64_t](<const int64_t *> lanes, dtype, narrowed, m)
        store(dtype, narrowed, out.data + itemsize_of(dtype) * first, 0, 1, 1, m)
    return OK


cdef ElementwiseTable TABLE
TABLE.unary = unary
TABLE.binary = binary
TABLE.select = select
TABLE.copy = copy
TABLE.fill = fill
TABLE.arange = arange
TABLE.arange_int = arange_int
TABLE.program = program
TABLE.unary_contig[<int> BOOL] = unary_contig_bool
TABLE.unary_contig[<int> UINT8] = unary_contig_u8
TABLE.unary_contig[<int> UINT32] = unary_contig_u32
TABLE.unary_contig[<int> INT32] = unary_contig_i32
TABLE.unary_contig[<int> INT64] = unary_contig_i64
TABLE.unary_contig[<int> FLOAT16] = unary_contig_f16
TABLE.unary_contig[<int> FLOAT32] = unary_contig_f32
TABLE.unary_contig[<int> FLOAT64] = unary_contig_f64
TABLE.unary_contig[<int> BFLOAT16] = unary_contig_bf16
TABLE.unary_contig[<int> COMPLEX64] = unary_contig_c64
TABLE.binary_contig[<int> BOOL] = binary_contig_bool
TABLE.binary_contig[<int> UINT8] = binary_contig_u8
TABLE.binary_contig[<int> UINT32] = binary_contig_u32
TABLE.binary_contig[<int> INT32] = binary_contig_i32
TABLE.binary_contig[<int> INT64] = binary_contig_i64
TABLE.binary_contig[<int> FLOAT16] = binary_contig_f16
TABLE.binary_contig[<int> FLOAT32] = binary_contig_f32
TABLE.binary_contig[<int> FLOAT64] = binary_contig_f64
TABLE.binary_contig[<int> BFLOAT16] = binary_contig_bf16
TABLE.binary_contig[<int> COMPLEX64] = binary_contig_c64

table = PyCapsule_New(&TABLE, "mlxr.cpu.elementwise", NULL)
