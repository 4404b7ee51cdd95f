# cython: language_level=3, cdivision=True
"""Scalar mathematics as inline functions that a compiler can vectorize: what the elementwise ops do to one element.

Every function is straight-line code: no branch that does work, no table, no call into a library. Conditions are
selections (`a if c else b`), which compilers turn into masks. It must not know about arrays, dtype codes or kernels.

Names: `exp_f32` takes and returns float32 and works in float32; `exp_d` works in double but is accurate to some 2**-30
only: enough for the float32 functions built from it, which round its result once, and useless for float64. float64
functions are the C library's. Accuracy and special values are stated in docs/numerics.md, and measured over all inputs.
"""
from libc.math cimport (
    acos, acosh, asin, asinh, atan, atan2, atanh, ceil, ceilf, cos, cosh, erf, erfc, exp, exp2, expm1, fabs, fabsf,
    floor, floorf, fmod, fmodf, log, log10, log1p, log2, pow, rint, rintf, sin, sinh, sqrt, sqrtf, tan, tanh, trunc,
    truncf, INFINITY, NAN,
)
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from mlxr.cpu.kernels.half cimport float_bits, float_from_bits, fused_f32, fused_f64, residue_f32

cdef extern from *:
    """
    /* A loop over `out[i] = f(x[i])` vectorizes only if f is inlined, however long it is. Cython writes CYTHON_INLINE
     * in front of every `cdef inline` function; from here on it means "always". */
    #undef CYTHON_INLINE
    #define CYTHON_INLINE __inline__ __attribute__((always_inline, unused))
    """

ctypedef fused real:
    float
    double

ctypedef fused integer:
    int32_t
    uint32_t
    int64_t
    uint64_t

cdef union Float64Bits:
    double value
    uint64_t bits


cdef inline uint64_t double_bits(double value) noexcept nogil:
    cdef Float64Bits cast
    cast.value = value
    return cast.bits


cdef inline double double_from_bits(uint64_t bits) noexcept nogil:
    cdef Float64Bits cast
    cast.bits = bits
    return cast.value


# ---- Building blocks in double, good to about 2**-33 ---------------------------------------------------------------

cdef inline double exp_tail_d(double r) noexcept nogil:
    """exp(r) - 1 for |r| <= log(2)/2, relative error 2**-34."""
    cdef double q = 0.00019918665473354674
    q = fused_f64(q, r, 0.0013946173238320347)
    q = fused_f64(q, r, 0.008333263847239402)
    q = fused_f64(q, r, 0.04166626857118655)
    q = fused_f64(q, r, 0.16666666862820392)
    q = fused_f64(q, r, 0.5000000078300035)
    return fused_f64(q * r, r, r)


cdef inline double power_of_two_d(double n_shifted) noexcept nogil:
    """2**n, where n_shifted = n + 1.5 * 2**52 holds the integer n in its low bits; |n| <= 1022."""
    return double_from_bits((double_bits(n_shifted) + 1023) << 52)


cdef inline double clamp_d(double x, double low, double high) noexcept nogil:
    """x limited to [low, high]; NaN passes."""
    cdef double t = low if x < low else x
    return high if t > high else t


cdef inline double exp_d(double x) noexcept nogil:
    cdef double t = clamp_d(x, -700.0, 700.0)
    cdef double z = fused_f64(t, 1.4426950408889634, 6755399441055744.0)
    cdef double r = fused_f64(z - 6755399441055744.0, -0.6931471805599453, t)
    return fused_f64(exp_tail_d(r), power_of_two_d(z), power_of_two_d(z))


cdef inline double exp2_d(double x) noexcept nogil:
    cdef double t = clamp_d(x, -1000.0, 1000.0)
    cdef double z = t + 6755399441055744.0
    cdef double r = (t - (z - 6755399441055744.0)) * 0.6931471805599453
    return fused_f64(exp_tail_d(r), power_of_two_d(z), power_of_two_d(z))


cdef inline double expm1_d(double x) noexcept nogil:
    cdef double t = clamp_d(x, -700.0, 700.0)
    cdef double z = fused_f64(t, 1.4426950408889634, 6755399441055744.0)
    cdef double r = fused_f64(z - 6755399441055744.0, -0.6931471805599453, t)
    return fused_f64(exp_tail_d(r), power_of_two_d(z), power_of_two_d(z) - 1.0)


cdef inline double log_mantissa_d(double m) noexcept nogil:
    """log(m) for m in [sqrt(1/2), sqrt(2)]: twice the inverse hyperbolic tangent of (m-1)/(m+1)."""
    cdef double f = m - 1.0
    cdef double s = f / (m + 1.0)
    cdef double z = s * s
    cdef double q = 0.19584361691729368
    q = fused_f64(q, z, 0.22176174520461447)
    q = fused_f64(q, z, 0.2857210948582426)
    q = fused_f64(q, z, 0.3999999561890115)
    q = fused_f64(q, z, 0.6666666667580872)
    return fused_f64(q * z, s, s + s)


cdef inline double exponent_d(uint64_t shifted) noexcept nogil:
    """The exponent whose biased value is in the top bits of `shifted`, as a double."""
    return double_from_bits((shifted >> 52) | <uint64_t> 0x4330000000000000) - 4503599627371519.0


cdef inline double log_d(double x) noexcept nogil:
    """log(x) for normal x > 0; relative error 2**-44. Anything for other x (see `log_limits`)."""
    cdef uint64_t bits = double_bits(x)
    cdef uint64_t shifted = bits - <uint64_t> 0x3fe6a09e667f3bcd + <uint64_t> 0x3ff0000000000000
    cdef double m = double_from_bits(bits - (shifted & <uint64_t> 0xfff0000000000000) + <uint64_t> 0x3ff0000000000000)
    return fused_f64(exponent_d(shifted), 0.6931471805599453, log_mantissa_d(m))


cdef inline double log2_d(double x) noexcept nogil:
    cdef uint64_t bits = double_bits(x)
    cdef uint64_t shifted = bits - <uint64_t> 0x3fe6a09e667f3bcd + <uint64_t> 0x3ff0000000000000
    cdef double m = double_from_bits(bits - (shifted & <uint64_t> 0xfff0000000000000) + <uint64_t> 0x3ff0000000000000)
    return fused_f64(log_mantissa_d(m), 1.4426950408889634, exponent_d(shifted))


cdef inline double log1p_d(double x) noexcept nogil:
    """log(1 + x) for x > -1: the logarithm of the rounded sum, and what the rounding took away, if that matters."""
    cdef double u = 1.0 + x
    return log_d(u) + (0.0 if x > 1048576.0 else x - (u - 1.0))


cdef inline double log_limits(double x, double value) noexcept nogil:
    """`value` for finite x > 0, and what a logarithm gives elsewhere."""
    cdef double t = value if x < INFINITY else x + x
    t = -INFINITY if x == 0 else t
    return <double> NAN if x < 0 else t


cdef inline double atan_d(double x) noexcept nogil:
    """atan(x), relative error 2**-36."""
    cdef double a = fabs(x)
    cdef double t = 1.0 / a if a > 1.0 else a
    cdef double z = t * t
    cdef double q = -0.0002800492464038233
    q = fused_f64(q, z, 0.002251578879665882)
    q = fused_f64(q, z, -0.008501725248188135)
    q = fused_f64(q, z, 0.02038130804655526)
    q = fused_f64(q, z, -0.03575834165684609)
    q = fused_f64(q, z, 0.05082310439913684)
    q = fused_f64(q, z, -0.06385090927244323)
    q = fused_f64(q, z, 0.07621020521561755)
    q = fused_f64(q, z, -0.09078432411805679)
    q = fused_f64(q, z, 0.11109685398379236)
    q = fused_f64(q, z, -0.14285617102549686)
    q = fused_f64(q, z, 0.199999966362794)
    q = fused_f64(q, z, -0.333333332923925)
    cdef double r = fused_f64(q * z, t, t)
    return copysign_d(1.5707963267948966 - r if a > 1.0 else r, x)


cdef inline double asin_tail_d(double z) noexcept nogil:
    """(asin(t) - t) / t for z = t**2 in [0, 1/4]."""
    cdef double q = 0.03294230581073536
    q = fused_f64(q, z, 0.001947899042739152)
    q = fused_f64(q, z, 0.020659265746411866)
    q = fused_f64(q, z, 0.02186296016665293)
    q = fused_f64(q, z, 0.030426847506390384)
    q = fused_f64(q, z, 0.04464068741242186)
    q = fused_f64(q, z, 0.07500005042894525)
    q = fused_f64(q, z, 0.16666666626717885)
    return q * z


cdef inline double copysign_d(double magnitude, double sign) noexcept nogil:
    return double_from_bits((double_bits(magnitude) & <uint64_t> 0x7fffffffffffffff)
                            | (double_bits(sign) & <uint64_t> 0x8000000000000000))


cdef inline float copysign_f32(float magnitude, float sign) noexcept nogil:
    return float_from_bits((float_bits(magnitude) & <uint32_t> 0x7fffffff) | (float_bits(sign) & <uint32_t> 0x80000000))


# ---- Arithmetic ----------------------------------------------------------------------------------------------------

cdef inline real maximum(real x, real y) noexcept nogil:
    return x if (x > y) | (x != x) else y


cdef inline real minimum(real x, real y) noexcept nogil:
    return x if (x < y) | (x != x) else y


cdef inline float relu_f32(float x) noexcept nogil:
    return maximum(x, <float> 0.0)


cdef inline float rsqrt_f32(float x) noexcept nogil:
    return <float> (1.0 / sqrt(<double> x))


cdef inline integer negate(integer x) noexcept nogil:
    return <integer> (0 - <uint64_t> x)


# ---- exp, log and what follows from them ---------------------------------------------------------------------------

cdef enum:
    # 1.5 * 2**23 + 127: a float32 n + EXPONENT_MAGIC holds the biased exponent of 2**n in its low bits
    EXPONENT_MAGIC = 12583039


cdef inline float power_of_two_f32(float shifted) noexcept nogil:
    """2**n for shifted = n + EXPONENT_MAGIC, -126 <= n <= 127."""
    return float_from_bits(float_bits(shifted) << 23)


cdef inline float exp_tail_f32(float t, float n, float rest) noexcept nogil:
    """exp(t + rest - n log(2)) - 1, where n is the integer nearest to t / log(2) and rest is tiny."""
    # the rest of the exact difference r joins the small terms, so that r itself is not rounded
    cdef float r = fused_f32(n, <float> -0.693145751953125, t)
    cdef float low = fused_f32(n, <float> -1.428606765330187e-06, rest)
    cdef float s = r + low
    cdef float q = <float> 0.001395057519525953
    q = fused_f32(q, s, <float> 0.00836895342849832)
    q = fused_f32(q, s, <float> 0.04166620449722392)
    q = fused_f32(q, s, <float> 0.1666651830791319)
    q = fused_f32(q, s, <float> 0.5000000095661987)
    return r + fused_f32(q * s, s, low)


cdef inline float scale_f32(float x, uint32_t n) noexcept nogil:
    """x 2**n for x near one and the int n, in two factors: the result may be subnormal (rounded once) or overflow."""
    cdef uint32_t half = <uint32_t> (<int32_t> n >> 1)
    return x * float_from_bits((half + 127) << 23) * float_from_bits((n - half + 127) << 23)


cdef inline float exp_f32(float x) noexcept nogil:
    cdef float t = <float> 89.0 if x > <float> 89.0 else x
    t = <float> -104.0 if t < <float> -104.0 else t
    cdef float z = fused_f32(t, <float> 1.4426950408889634, <float> 12582912.0)
    cdef float tail = exp_tail_f32(t, z - <float> 12582912.0, <float> 0.0)
    return scale_f32(<float> 1.0 + tail, float_bits(z) - float_bits(<float> 12582912.0))


cdef inline float exp_normal_f32(float x) noexcept nogil:
    """exp_f32(x), the same bits, where |x| <= 87: the result is normal, and needs one factor."""
    cdef float z = fused_f32(x, <float> 1.4426950408889634, <float> EXPONENT_MAGIC)
    cdef float tail = exp_tail_f32(x, z - <float> EXPONENT_MAGIC, <float> 0.0)
    return (<float> 1.0 + tail) * power_of_two_f32(z)


cdef inline float log_f32(float x) noexcept nogil:
    cdef float scaled = x * <float> 8388608.0 if x < <float> 1.1754943508222875e-38 else x
    cdef uint32_t bits = float_bits(scaled)
    cdef int32_t k = <int32_t> (bits - <uint32_t> 0x3f3504f3) >> 23
    cdef float m = float_from_bits(bits - (<uint32_t> k << 23))
    cdef float n = <float> k
    n = n - <float> 23.0 if x < <float> 1.1754943508222875e-38 else n
    cdef float f = m - <float> 1.0
    cdef float q = <float> 0.06746648464072927
    q = fused_f32(q, f, <float> -0.1167566934010245)
    q = fused_f32(q, f, <float> 0.1188816822756286)
    q = fused_f32(q, f, <float> -0.12405587112772473)
    q = fused_f32(q, f, <float> 0.14219551545046188)
    q = fused_f32(q, f, <float> -0.1666799587317598)
    q = fused_f32(q, f, <float> 0.20002118675452857)
    q = fused_f32(q, f, <float> -0.2500000960077397)
    q = fused_f32(q, f, <float> 0.3333331260464049)
    # n log(2) + f + f**2 (q f - 1/2), the large terms added with their rounding errors
    cdef float tail = f * f * fused_f32(q, f, <float> -0.5)
    cdef float inner = f + tail
    cdef float large = n * <float> 0.693145751953125
    cdef float total = large + inner
    cdef float error = (large - total) + inner + (tail - (inner - f))
    cdef float value = total + fused_f32(n, <float> 1.428606765330187e-06, error)
    value = value if x < <float> INFINITY else x + x
    value = <float> -INFINITY if x == 0 else value
    return <float> NAN if x < 0 else value


cdef inline float expm1_f32(float x) noexcept nogil:
    # clamped, so that -0.0 and subnormals have to be kept apart
    return <float> expm1_d(x) if x != 0 else x


cdef inline float log1p_f32(float x) noexcept nogil:
    cdef double d = x
    return <float> log_limits(1.0 + d, log1p_d(d)) if x != 0 else x


cdef inline float log2_f32(float x) noexcept nogil:
    cdef double d = x
    return <float> log_limits(d, log2_d(d))


cdef inline float log10_f32(float x) noexcept nogil:
    cdef double d = x
    return <float> log_limits(d, log_d(d) * 0.4342944819032518)


cdef inline float tanh_f32(float x) noexcept nogil:
    cdef float a = fabsf(x)
    # |x| < 1: x + x**3 p(x**2)
    cdef float z = x * x
    cdef float p = <float> -0.0003584548912457728
    p = fused_f32(p, z, <float> 0.002301374431498702)
    p = fused_f32(p, z, <float> -0.007946119459237148)
    p = fused_f32(p, z, <float> 0.02148666599105819)
    p = fused_f32(p, z, <float> -0.053879805424486074)
    p = fused_f32(p, z, <float> 0.1333234461224116)
    p = fused_f32(p, z, <float> -0.3333329543368511)
    cdef float small = fused_f32(p * z, x, x)
    # otherwise 1 - 2 / (exp(2 |x|) + 1), which is one from 10 on
    cdef float t = <float> 20.0 if a > <float> 10.0 else a + a
    cdef float n = fused_f32(t, <float> 1.4426950408889634, <float> EXPONENT_MAGIC)
    cdef float power = power_of_two_f32(n)
    cdef float large = fused_f32(exp_tail_f32(t, n - <float> EXPONENT_MAGIC, <float> 0.0), power, power)
    large = <float> 1.0 - <float> 2.0 / (large + <float> 1.0)
    return copysign_f32(small if a < <float> 1.0 else large, x)   # the sum loses the sign of zero


cdef inline float sinh_f32(float x) noexcept nogil:
    cdef double e = expm1_d(fabs(<double> x))
    return copysign_f32(<float> (0.5 * (e + e / (e + 1.0))), x)


cdef inline float cosh_f32(float x) noexcept nogil:
    cdef double e = exp_d(fabs(<double> x))
    return <float> (0.5 * (e + 1.0 / e))


cdef inline float arcsinh_f32(float x) noexcept nogil:
    cdef double a = fabs(<double> x)
    cdef double r = log1p_d(a + a * a / (1.0 + sqrt(1.0 + a * a)))
    return copysign_f32(<float> (r if a < INFINITY else a), x)


cdef inline float arccosh_f32(float x) noexcept nogil:
    cdef double t = <double> x - 1.0
    cdef double r = log1p_d(t + sqrt(t + t + t * t))
    r = r if t < INFINITY else t
    return <float> r if t >= 0 else <float> NAN


cdef inline float arctanh_f32(float x) noexcept nogil:
    cdef double a = fabs(<double> x)
    cdef double r = 0.5 * log1p_d(2.0 * a / (1.0 - a))
    r = <double> INFINITY if a == 1.0 else r
    return copysign_f32(<float> r, x) if a <= 1.0 else <float> NAN


cdef inline float lost_f32(float u, float whole) noexcept nogil:
    """u + 1 - whole exactly, for whole = u + 1 rounded and u > 0."""
    cdef float large = u if u > <float> 1.0 else <float> 1.0
    cdef float small = u if u < <float> 1.0 else <float> 1.0
    return small - (whole - large)


cdef inline float exp_near_f32(float t, float n) noexcept nogil:
    """exp(t - n log(2)) - 1, where n is the integer nearest to t / log(2): for sums in which its rounding is small."""
    cdef float r = fused_f32(n, <float> -1.428606765330187e-06, fused_f32(n, <float> -0.693145751953125, t))
    cdef float q = <float> 0.001395057519525953
    q = fused_f32(q, r, <float> 0.00836895342849832)
    q = fused_f32(q, r, <float> 0.04166620449722392)
    q = fused_f32(q, r, <float> 0.1666651830791319)
    q = fused_f32(q, r, <float> 0.5000000095661987)
    return fused_f32(q * r, r, r)


cdef inline float sigmoid_of_parts_f32(float u, float tail, float lost) noexcept nogil:
    """u / (u + 1 + tail), where lost is u + 1 less its rounded value."""
    cdef float whole = u + <float> 1.0
    cdef float d = whole + tail
    # what rounding took from the denominator
    cdef float rest = ((whole - d) + tail) + lost
    cdef float q = <float> 1.0 / d
    q = fused_f32(q, fused_f32(-q, rest, residue_f32(-q, d, <float> 1.0)), q)
    return q * u


cdef inline float sigmoid_near_f32(float x) noexcept nogil:
    """For |x| <= 16. 1 / (1 + 2**-n (1 + tail)) = u / (u + 1 + tail), with u = 2**n: u + 1 needs no rounding."""
    cdef float n = fused_f32(x, <float> 1.4426950408889634, <float> EXPONENT_MAGIC)
    cdef float tail = exp_near_f32(-x, <float> EXPONENT_MAGIC - n)
    return sigmoid_of_parts_f32(power_of_two_f32(n), tail, <float> 0.0)


cdef inline float sigmoid_f32(float x) noexcept nogil:
    cdef float t = <float> 18.0 if x > <float> 18.0 else x
    t = <float> -104.0 if t < <float> -104.0 else t
    cdef float n = fused_f32(t, <float> 1.4426950408889634, <float> (EXPONENT_MAGIC + 24))
    cdef float tail = exp_near_f32(-t, <float> (EXPONENT_MAGIC + 24) - n)
    cdef float u = power_of_two_f32(n) * <float> 5.9604644775390625e-08      # it may be subnormal
    return sigmoid_of_parts_f32(u, tail, lost_f32(u, u + <float> 1.0))


cdef inline float sigmoid_times_f32(float x, float v, float rest) noexcept nogil:
    """x sigmoid(v + rest), for -125 <= v <= 18 and a tiny rest."""
    cdef float n = fused_f32(v, <float> 1.4426950408889634, <float> (EXPONENT_MAGIC + 64))
    cdef float tail = exp_tail_f32(-v, <float> (EXPONENT_MAGIC + 64) - n, -rest)
    cdef float scaled = power_of_two_f32(n)                 # 2**64 u, see sigmoid_f32
    cdef float u = scaled * <float> 5.421010862427522e-20
    cdef float whole = u + <float> 1.0
    cdef float d = whole + (tail + lost_f32(u, whole))
    return x / d * scaled * <float> 5.421010862427522e-20


cdef inline float softplus_f32(float x) noexcept nogil:
    """log(1 + exp(x))"""
    cdef double a = fabs(<double> x)
    cdef double r = log1p_d(exp_d(-a))
    r = <double> x + r if x > 0 else r
    return <float> r


cdef inline float silu_f32(float x) noexcept nogil:
    cdef float c = <float> -125.0 if x < <float> -125.0 else x
    return x if x > <float> 18.0 else sigmoid_times_f32(c, c, <float> 0.0)


cdef inline float gelu_sigmoid_f32(float x) noexcept nogil:
    """x * sigmoid(1.702 x)"""
    cdef float c = <float> -73.0 if x < <float> -73.0 else x
    cdef float v = c * <float> 1.702
    cdef float rest = residue_f32(c, <float> 1.702, -v) + c * <float> -2.1934509319976314e-08
    return x if x > <float> 10.5 else sigmoid_times_f32(c, v, rest)


cdef inline float gelu_tanh_f32(float x) noexcept nogil:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3))), which is x * sigmoid of twice the argument"""
    cdef double d = clamp_d(x, -20.0, INFINITY)
    cdef double u = d * fused_f64(d * d, 0.07135481627159982, 1.5957691216057308)
    return <float> (d / (1.0 + exp_d(-u)))


cdef inline float gelu_tail_f32(float x) noexcept nogil:
    """x Phi(x) for x < -5.5, down to where it is zero; x from 5.5 on (gelu.h has what lies between).

    With a = |x| and y = a / (a + 3): a Phi(-a) = exp(-a**2/2) y w(y), w a polynomial.
    """
    cdef float a = <float> 14.5 if fabsf(x) > <float> 14.5 else fabsf(x)
    cdef float d = a + <float> 3.0
    cdef float y = a / d
    # what rounding took from y: the remainder of the division over a + 3, whose inverse is (1 - y) / 3
    cdef float y_rest = fused_f32(-y, a - (d - <float> 3.0), residue_f32(-y, d, a))
    y_rest = y_rest * fused_f32(y, <float> -0.3333333333333333, <float> 0.3333333333333333)
    cdef float u = y + y - <float> 1.0
    cdef float w = <float> 5.44550111885668e-05
    w = fused_f32(w, u, <float> 0.00013125386845011297)
    w = fused_f32(w, u, <float> -0.00024475454176275615)
    w = fused_f32(w, u, <float> -0.001032524129239856)
    w = fused_f32(w, u, <float> 0.0010247839669037847)
    w = fused_f32(w, u, <float> 0.006969302301527544)
    w = fused_f32(w, u, <float> -0.010462520338094649)
    w = fused_f32(w, u, <float> -0.04726268761118065)
    w = fused_f32(w, u, <float> 0.23001769995528254)
    w = fused_f32(w, u, <float> -0.5093319914065105)
    cdef float last = w
    w = fused_f32(last, u, <float> 0.7290836903700867)
    cdef float g = y * w
    cdef float slope = fused_f32(y + y, fused_f32(u, <float> 0.46, <float> -0.509), w)       # of g in y, roughly
    # and what rounding took from the last step of w, and from g
    cdef float g_rest = fused_f32(y, fused_f32(last, u, <float> 0.7290836903700867 - w), residue_f32(y, w, -g))
    # (2.2e-08: what rounding the coefficients adds to w, on average)
    g_rest = fused_f32(y_rest, slope, g_rest) - y * <float> 2.2e-08
    cdef float square = a * a
    cdef float t = <float> -0.5 * square
    cdef float n = fused_f32(t, <float> 1.4426950408889634, <float> (EXPONENT_MAGIC + 64))
    cdef float tail = exp_tail_f32(t, n - <float> (EXPONENT_MAGIC + 64), <float> -0.5 * residue_f32(a, a, -square))
    cdef float lower = g + fused_f32(g, tail, g_rest)
    lower = lower * power_of_two_f32(n) * <float> 5.421010862427522e-20
    return -lower if x < 0 else x


cdef inline float erf_f32(float x) noexcept nogil:
    cdef float a = fabsf(x)
    # |x| < 1.12: x + x p(x**2 - 0.5), centred so that the terms and their rounding errors stay small
    cdef float z = fused_f32(x, x, <float> -0.5)
    cdef float p = <float> -8.640294584551172e-06
    p = fused_f32(p, z, <float> 7.863089730004756e-05)
    p = fused_f32(p, z, <float> -0.0005616630806481517)
    p = fused_f32(p, z, <float> 0.00348026103732275)
    p = fused_f32(p, z, <float> -0.018283818591464638)
    p = fused_f32(p, z, <float> 0.07940998507467437)
    p = fused_f32(p, z, <float> -0.2810721803841441)
    p = fused_f32(p, z, <float> -0.034531261297940485)
    # otherwise 1 - exp(q(|x|)), which is one from 4 on
    cdef float t = <float> 4.0 if a > <float> 4.0 else a
    cdef float q = <float> 0.0001719054811743615
    q = fused_f32(q, t, <float> -0.002796165226245004)
    q = fused_f32(q, t, <float> 0.02119058700003843)
    q = fused_f32(q, t, <float> -0.10165951988316023)
    q = fused_f32(q, t, <float> -0.6399303090092241)
    q = fused_f32(q, t, <float> -1.125935543231237)
    q = fused_f32(q, t, <float> -0.0006467610783065604)
    cdef float n = fused_f32(q, <float> 1.4426950408889634, <float> EXPONENT_MAGIC)
    cdef float power = power_of_two_f32(n)
    cdef float tail = exp_tail_f32(q, n - <float> EXPONENT_MAGIC, <float> 0.0)
    cdef float large = fused_f32(-power, tail, <float> 1.0 - power)      # rounded once
    return fused_f32(p, x, x) if a < <float> 1.12 else copysign_f32(large, x)


cdef inline float erfinv_f32(float x) noexcept nogil:
    cdef double d = x
    cdef double w = -log_d((1.0 - d) * (1.0 + d))
    cdef double s = w - 2.5
    cdef double p = 1.3285738816211805e-10
    p = fused_f64(p, s, 4.3702945970536514e-10)
    p = fused_f64(p, s, -1.1023187103824306e-08)
    p = fused_f64(p, s, 1.6457254572949478e-08)
    p = fused_f64(p, s, 4.796986915768533e-07)
    p = fused_f64(p, s, -3.4260122833568305e-06)
    p = fused_f64(p, s, -4.998759369647347e-06)
    p = fused_f64(p, s, 0.00021826355773677246)
    p = fused_f64(p, s, -0.0012527048771845447)
    p = fused_f64(p, s, -0.004177324636433471)
    p = fused_f64(p, s, 0.2466402757856253)
    p = fused_f64(p, s, 1.5014093516925653)
    s = sqrt(w) - 3.0
    cdef double q = -2.6229467734106003e-05
    q = fused_f64(q, s, 0.00015864545147297355)
    q = fused_f64(q, s, -0.00028317522754585795)
    q = fused_f64(q, s, -0.00011762590152500115)
    q = fused_f64(q, s, 0.0014786984771830885)
    q = fused_f64(q, s, -0.0035680381169837312)
    q = fused_f64(q, s, 0.0056867490807965505)
    q = fused_f64(q, s, -0.007642647566330757)
    q = fused_f64(q, s, 0.009445391183435658)
    q = fused_f64(q, s, 1.0016752342508575)
    q = fused_f64(q, s, 2.832976800206116)
    cdef double r = d * (p if w < 5.0 else q)
    cdef double a = fabs(d)
    r = copysign_d(INFINITY, d) if a == 1.0 else r
    return <float> r if a <= 1.0 else <float> NAN


cdef inline double log2_of_parts_d(float f, float e) noexcept nogil:
    """log2(2**e (1 + f)) for f in [-1/3, 1/3]."""
    cdef float p = <float> -0.1658129791042547
    p = fused_f32(p, f, <float> 0.17607975555910657)
    p = fused_f32(p, f, <float> -0.13755064694398697)
    p = fused_f32(p, f, <float> 0.1543261900333435)
    p = fused_f32(p, f, <float> -0.1807960834857433)
    p = fused_f32(p, f, <float> 0.20645423273637545)
    cdef double d = f, q = p
    q = fused_f64(q, d, -0.2404341474098542)
    q = fused_f64(q, d, 0.28852959051101124)
    q = fused_f64(q, d, -0.3606739689090167)
    q = fused_f64(q, d, 0.48089843778775937)
    q = fused_f64(q, d, -0.7213475196233946)
    q = fused_f64(q, d, 1.4426950407475274)
    return fused_f64(q, d, <double> e)


cdef inline float exp2_near_f32(float r) noexcept nogil:
    """2**r for |r| <= 1/2."""
    cdef float w = <float> 0.00015445391204092204
    w = fused_f32(w, r, <float> 0.001340126521518177)
    w = fused_f32(w, r, <float> 0.009618097334026863)
    w = fused_f32(w, r, <float> 0.055503251061671956)
    w = fused_f32(w, r, <float> 0.24022650729089248)
    w = fused_f32(w, r, <float> 0.6931472077108844)
    return fused_f32(w, r, <float> 1.0)


cdef enum:
    POWER_SPLIT = 0x3f2aaaab    # the bits of 2/3: mantissas are taken from [2/3, 4/3)


cdef inline bint power_is_near(float x, float y) noexcept nogil:
    """Whether x is positive and normal, and x**y is, too."""
    cdef uint32_t bits = float_bits(x)
    cdef int32_t k = <int32_t> (bits - <uint32_t> POWER_SPLIT) >> 23
    return (bits - <uint32_t> 0x00800000 < <uint32_t> 0x7f000000) & (
        fabsf(y) * (fabsf(<float> k) + <float> 1.0) <= <float> 125.0)


cdef inline float power_near_f32(float x, float y) noexcept nogil:
    """x**y where `power_is_near`, as 2**(y log2(x)): the logarithm in double, the power in float32."""
    cdef uint32_t bits = float_bits(x)
    cdef int32_t k = <int32_t> (bits - <uint32_t> POWER_SPLIT) >> 23
    cdef double t = log2_of_parts_d(float_from_bits(bits - (<uint32_t> k << 23)) - <float> 1.0, <float> k) * <double> y
    cdef double z = t + 6755399441055744.0
    cdef float value = exp2_near_f32(<float> (t - (z - 6755399441055744.0)))
    return value * float_from_bits((<uint32_t> double_bits(z) + 127) << 23)


cdef inline float power_f32(float x, float y) noexcept nogil:
    """|x|**y, then the sign and the special cases."""
    cdef float a = fabsf(x), b = fabsf(y)
    cdef bint subnormal = a < <float> 1.1754943508222875e-38
    cdef uint32_t bits = float_bits(a * <float> 8388608.0 if subnormal else a)
    cdef int32_t k = <int32_t> (bits - <uint32_t> POWER_SPLIT) >> 23
    cdef float f = float_from_bits(bits - (<uint32_t> k << 23)) - <float> 1.0
    cdef float e = <float> k - (<float> 23.0 if subnormal else <float> 0.0)
    e = e if a < <float> INFINITY else a
    e = <float> -INFINITY if a == 0 else e
    cdef double t = clamp_d(log2_of_parts_d(f, e) * <double> y, -160.0, 136.0)
    cdef double z = t + 6755399441055744.0
    cdef float value = scale_f32(exp2_near_f32(<float> (t - (z - 6755399441055744.0))), <uint32_t> double_bits(z))
    # a negative base: odd integers keep its sign, a fraction has no real power
    cdef bint whole = floorf(y) == y
    cdef float half = y * <float> 0.5
    cdef bint odd = whole & (floorf(half) != half)
    value = float_from_bits(float_bits(value) | (float_bits(x) & <uint32_t> 0x80000000 if odd else <uint32_t> 0))
    value = <float> NAN if (x < 0) & (a < <float> INFINITY) & (not whole) else value
    value = value if y == y else y
    return <float> 1.0 if (y == 0) | ((a == 1) & ((x == 1) | (b == <float> INFINITY))) else value


cdef inline float logaddexp_f32(float x, float y) noexcept nogil:
    cdef double high = x if x > y else y
    cdef double low = y if x > y else x
    cdef double r = high + log1p_d(exp_d(low - high))
    # equal infinities have no difference; an infinite low adds nothing
    r = high if (low == -INFINITY) | (high == INFINITY) else r
    return <float> (<double> x + <double> y if (x != x) | (y != y) else r)


# ---- Trigonometry --------------------------------------------------------------------------------------------------

cdef inline double sin_quarter_d(double r) noexcept nogil:
    """sin(r) for |r| <= pi/4"""
    cdef double z = r * r
    cdef double q = 2.7183039627907193e-06
    q = fused_f64(q, z, -0.00019839334061195964)
    q = fused_f64(q, z, 0.008333329383568512)
    q = fused_f64(q, z, -0.16666666641608324)
    return fused_f64(q * z, r, r)


cdef inline double cos_quarter_d(double r) noexcept nogil:
    """cos(r) for |r| <= pi/4"""
    cdef double z = r * r
    cdef double q = -2.7210169669190433e-07
    q = fused_f64(q, z, 2.479951919565424e-05)
    q = fused_f64(q, z, -0.0013888883750372417)
    q = fused_f64(q, z, 0.04166666662279332)
    return fused_f64(q * z - 0.5, z, 1.0)


cdef inline double quarter_turns(double x) noexcept nogil:
    """x in quarter turns, to the nearest integer n, as n + 1.5 * 2**52."""
    return fused_f64(x, 0.6366197723675814, 6755399441055744.0)


cdef inline double quarter_rest(double x, double n) noexcept nogil:
    """x - n pi/2, for |n| < 2**20: the first two products are exact."""
    cdef double r = x - n * 1.5707963267341256
    r = r - n * 6.077100506303966e-11
    return r - n * 2.0222662487959506e-21


cdef inline float sin_turned(double r, uint64_t quadrant) noexcept nogil:
    """sin(r + quadrant pi/2)"""
    cdef float f = <float> r
    cdef float z = f * f
    cdef float s = <float> 2.7183039627907193e-06
    s = fused_f32(s, z, <float> -0.00019839334061195964)
    s = fused_f32(s, z, <float> 0.008333329383568512)
    s = fused_f32(s, z, <float> -0.16666666641608324)
    s = fused_f32(s * z, f, f)
    cdef float c = <float> 2.4438378770168522e-05
    c = fused_f32(c, z, <float> -0.001388736689607059)
    c = fused_f32(c, z, <float> 0.04166664685387414)
    c = fused_f32(c, z, <float> -0.5)
    c = fused_f32(c, z, <float> 1.0)
    cdef uint32_t turns = <uint32_t> quadrant
    cdef float value = c if turns & 1 else s
    return float_from_bits(float_bits(value) ^ ((turns & 2) << 30))


cdef enum:
    TRIG_SIMPLE = 1000000      # |x| up to which `quarter_rest` is exact enough: n < 2**20


cdef inline float sin_f32(float x) noexcept nogil:
    """For |x| <= TRIG_SIMPLE."""
    cdef double z = quarter_turns(x)
    return sin_turned(quarter_rest(x, z - 6755399441055744.0), double_bits(z)) if x != 0 else x


cdef inline float cos_f32(float x) noexcept nogil:
    """For |x| <= TRIG_SIMPLE."""
    cdef double z = quarter_turns(x)
    return sin_turned(quarter_rest(x, z - 6755399441055744.0), double_bits(z) + 1)


cdef inline float tan_f32(float x) noexcept nogil:
    """For |x| <= TRIG_SIMPLE."""
    cdef double z = quarter_turns(x)
    cdef double r = quarter_rest(x, z - 6755399441055744.0)
    cdef double s = sin_quarter_d(r), c = cos_quarter_d(r)
    cdef bint odd = double_bits(z) & 1
    return <float> ((-c if odd else s) / (s if odd else c)) if x != 0 else x


cdef inline float arcsin_f32(float x) noexcept nogil:
    cdef double a = fabs(<double> x)
    cdef bint large = a > 0.5
    cdef double z = (1.0 - a) * 0.5 if large else a * a
    cdef double t = sqrt(z) if large else a
    cdef double r = fused_f64(asin_tail_d(z), t, t)
    r = 1.5707963267948966 - 2.0 * r if large else r
    return copysign_f32(<float> r, x) if a <= 1.0 else <float> NAN


cdef inline float arccos_f32(float x) noexcept nogil:
    cdef double d = x, a = fabs(d)
    cdef bint large = a > 0.5
    cdef double z = (1.0 - a) * 0.5 if large else a * a
    cdef double t = sqrt(z) if large else a
    cdef double r = fused_f64(asin_tail_d(z), t, t)
    cdef double near = 2.0 * r if d > 0 else 3.141592653589793 - 2.0 * r
    cdef double far = 1.5707963267948966 - copysign_d(r, d)
    return <float> (near if large else far) if a <= 1.0 else <float> NAN


cdef inline float arctan_f32(float x) noexcept nogil:
    return <float> atan_d(x)


cdef inline float arctan2_f32(float y, float x) noexcept nogil:
    cdef double a = fabs(<double> y), b = fabs(<double> x)
    cdef double r = atan_d(a / b)
    r = 0.0 if a == 0 else r
    r = 0.7853981633974483 if (a == INFINITY) & (b == INFINITY) else r
    cdef bint negative = float_bits(x) >> 31 != 0
    r = 3.141592653589793 - r if negative else r
    return copysign_f32(<float> r, y) if (x == x) & (y == y) else x + y


# ---- float64, where the C library has no function ------------------------------------------------------------------

cdef inline double logaddexp_f64(double x, double y) noexcept nogil:
    cdef double high = x if x > y else y
    cdef double low = y if x > y else x
    if x != x or y != y:
        return x + y
    if low == -INFINITY or high == INFINITY:
        return high
    return high + log1p(exp(low - high))


cdef inline double erfinv_f64(double x) noexcept nogil:
    """From the float32 approximation by Halley's method, on erfc where erf has no digits left."""
    cdef double a = fabs(x), r, error
    cdef int _
    if not a < 1.0:
        return copysign_d(INFINITY, x) if a == 1.0 else <double> NAN
    r = erfinv_start(a)
    for _ in range(3):
        error = erf(r) - a if a < 0.5 else (1.0 - a) - erfc(r)
        error = error / (1.1283791670955126 * exp(-r * r))
        r = r - error / (1.0 + r * error)
    return copysign_d(r, x)


cdef inline double erfinv_start(double a) noexcept nogil:
    """erfinv(a) for 0 <= a < 1 to a few percent."""
    cdef double w = log((1.0 - a) * (1.0 + a))
    cdef double t = 4.330746750799873 + 0.5 * w
    return sqrt(sqrt(t * t - w / 0.147) - t)
