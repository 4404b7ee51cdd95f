// Metal's mathematical, integer, relational and geometric functions.
//
// As in Metal they are overloads of one type each, so that a call with mixed types is ambiguous here as well. There are
// none for bfloat (convert to float; they are deleted here, since the
// compiler would convert by itself), no erf, expm1, log1p or lgamma. precise:: and fast:: exist for float alone, and are
// the same functions here: what Apple's fast versions round differently only hardware can show.
#pragma once
#include "types.h"

namespace standin {

template <class R, class T, int N, class F>
inline metal::vec<R, N> map(const metal::vec<T, N> &a, F f) {
    metal::vec<R, N> r;
    for (int i = 0; i < N; ++i)
        r.e_[i] = f(a.e_[i]);
    return r;
}
template <class R, class T, int N, class F>
inline metal::vec<R, N> map(const metal::vec<T, N> &a, const metal::vec<T, N> &b, F f) {
    metal::vec<R, N> r;
    for (int i = 0; i < N; ++i)
        r.e_[i] = f(a.e_[i], b.e_[i]);
    return r;
}

} // namespace standin

namespace metal {

// One floating-point argument; `expression` is in terms of the float x.
#define STANDIN_F1_FLOAT(name, expression)                                                                             \
    inline float name(float x) {                                                                                       \
        return expression;                                                                                             \
    }                                                                                                                  \
    template <int N>                                                                                                   \
    inline vec<float, N> name(const vec<float, N> &v) {                                                                \
        return standin::map<float>(v, [](float x) -> float { return expression; });                                    \
    }
#define STANDIN_F1(name, expression)                                                                                   \
    STANDIN_F1_FLOAT(name, expression)                                                                                 \
    bfloat name(bfloat) = delete; /* Metal has it not; convert to float */                                             \
    inline half name(half h) {                                                                                         \
        float x = (float)h;                                                                                            \
        return (half)(expression);                                                                                     \
    }                                                                                                                  \
    template <int N>                                                                                                   \
    inline vec<half, N> name(const vec<half, N> &v) {                                                                  \
        return standin::map<half>(v, [](half h) { return name(h); });                                                  \
    }
#define STANDIN_F2_FLOAT(name, expression)                                                                             \
    inline float name(float x, float y) {                                                                              \
        return expression;                                                                                             \
    }                                                                                                                  \
    template <int N>                                                                                                   \
    inline vec<float, N> name(const vec<float, N> &a, const vec<float, N> &b) {                                        \
        return standin::map<float>(a, b, [](float x, float y) -> float { return expression; });                        \
    }
#define STANDIN_F2(name, expression)                                                                                   \
    STANDIN_F2_FLOAT(name, expression)                                                                                 \
    bfloat name(bfloat, bfloat) = delete;                                                                              \
    inline half name(half a, half b) {                                                                                 \
        float x = (float)a, y = (float)b;                                                                              \
        return (half)(expression);                                                                                     \
    }                                                                                                                  \
    template <int N>                                                                                                   \
    inline vec<half, N> name(const vec<half, N> &a, const vec<half, N> &b) {                                           \
        return standin::map<half>(a, b, [](half x, half y) { return name(x, y); });                                    \
    }

// The functions that also exist in namespaces precise and fast.
#define STANDIN_TRANSCENDENTAL(F1, F2)                                                                                 \
    F1(acos, __builtin_acosf(x))                                                                                       \
    F1(acosh, __builtin_acoshf(x))                                                                                     \
    F1(asin, __builtin_asinf(x))                                                                                       \
    F1(asinh, __builtin_asinhf(x))                                                                                     \
    F1(atan, __builtin_atanf(x))                                                                                       \
    F1(atanh, __builtin_atanhf(x))                                                                                     \
    F1(ceil, __builtin_ceilf(x))                                                                                       \
    F1(cos, __builtin_cosf(x))                                                                                         \
    F1(cosh, __builtin_coshf(x))                                                                                       \
    F1(cospi, __builtin_cosf(__builtin_fmodf(x, 2.0f) * M_PI_F))                                                       \
    F1(exp, __builtin_expf(x))                                                                                         \
    F1(exp10, __builtin_powf(10.0f, x))                                                                                \
    F1(exp2, __builtin_exp2f(x))                                                                                       \
    F1(fabs, __builtin_fabsf(x))                                                                                       \
    F1(abs, __builtin_fabsf(x))                                                                                        \
    F1(floor, __builtin_floorf(x))                                                                                     \
    F1(fract, __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f))                                                \
    F1(log, __builtin_logf(x))                                                                                         \
    F1(log10, __builtin_log10f(x))                                                                                     \
    F1(log2, __builtin_log2f(x))                                                                                       \
    F1(rint, __builtin_rintf(x))                                                                                       \
    F1(round, __builtin_roundf(x))                                                                                     \
    F1(rsqrt, 1.0f / __builtin_sqrtf(x))                                                                               \
    F1(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f))                                                      \
    F1(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f)                                                \
    F1(sin, __builtin_sinf(x))                                                                                         \
    F1(sinh, __builtin_sinhf(x))                                                                                       \
    F1(sinpi, __builtin_sinf(__builtin_fmodf(x, 2.0f) * M_PI_F))                                                       \
    F1(sqrt, __builtin_sqrtf(x))                                                                                       \
    F1(tan, __builtin_tanf(x))                                                                                         \
    F1(tanh, __builtin_tanhf(x))                                                                                       \
    F1(trunc, __builtin_truncf(x))                                                                                     \
    F2(atan2, __builtin_atan2f(x, y))                                                                                  \
    F2(copysign, __builtin_copysignf(x, y))                                                                            \
    F2(divide, x / y)                                                                                                  \
    F2(fdim, __builtin_fdimf(x, y))                                                                                    \
    F2(fmax, __builtin_fmaxf(x, y))                                                                                    \
    F2(fmin, __builtin_fminf(x, y))                                                                                    \
    F2(fmod, __builtin_fmodf(x, y))                                                                                    \
    F2(pow, __builtin_powf(x, y))                                                                                      \
    F2(powr, __builtin_powf(x, y))                                                                                     \
    F2(step, y < x ? 0.0f : 1.0f)
STANDIN_TRANSCENDENTAL(STANDIN_F1, STANDIN_F2)
namespace precise {
STANDIN_TRANSCENDENTAL(STANDIN_F1_FLOAT, STANDIN_F2_FLOAT)
}
namespace fast {
STANDIN_TRANSCENDENTAL(STANDIN_F1_FLOAT, STANDIN_F2_FLOAT)
}
#undef STANDIN_TRANSCENDENTAL

#define STANDIN_FLOATING(T)                                                                                            \
    inline T max(T a, T b) {                                                                                           \
        return (T)__builtin_fmaxf((float)a, (float)b);                                                                 \
    }                                                                                                                  \
    inline T min(T a, T b) {                                                                                           \
        return (T)__builtin_fminf((float)a, (float)b);                                                                 \
    }                                                                                                                  \
    inline T clamp(T x, T low, T high) {                                                                               \
        return min(max(x, low), high);                                                                                 \
    }                                                                                                                  \
    inline T fma(T a, T b, T c) {                                                                                      \
        return (T)__builtin_fmaf((float)a, (float)b, (float)c);                                                        \
    }                                                                                                                  \
    inline T mix(T a, T b, T t) {                                                                                      \
        return a + (b - a) * t;                                                                                        \
    }                                                                                                                  \
    inline T ldexp(T x, int k) {                                                                                       \
        return (T)__builtin_ldexpf((float)x, k);                                                                       \
    }                                                                                                                  \
    inline int ilogb(T x) {                                                                                            \
        return __builtin_ilogbf((float)x);                                                                             \
    }                                                                                                                  \
    inline T max3(T a, T b, T c) {                                                                                     \
        return max(a, max(b, c));                                                                                      \
    }                                                                                                                  \
    inline T min3(T a, T b, T c) {                                                                                     \
        return min(a, min(b, c));                                                                                      \
    }                                                                                                                  \
    inline T smoothstep(T e0, T e1, T x) {                                                                             \
        T t = clamp((x - e0) / (e1 - e0), T(0), T(1));                                                                 \
        return t * t * (T(3) - T(2) * t);                                                                              \
    }                                                                                                                  \
    inline T frexp(T x, int &exponent) {                                                                               \
        int e;                                                                                                         \
        T r = (T)__builtin_frexpf((float)x, &e);                                                                       \
        exponent = e;                                                                                                  \
        return r;                                                                                                      \
    }                                                                                                                  \
    inline T modf(T x, T &whole) {                                                                                     \
        whole = (T)__builtin_truncf((float)x);                                                                         \
        return (T)(x - whole);                                                                                         \
    }                                                                                                                  \
    inline T sincos(T x, T &c) {                                                                                       \
        c = cos(x);                                                                                                    \
        return sin(x);                                                                                                 \
    }                                                                                                                  \
    inline bool isnan(T x) {                                                                                           \
        return x != x;                                                                                                 \
    }                                                                                                                  \
    inline bool isinf(T x) {                                                                                           \
        return __builtin_isinf((float)x);                                                                              \
    }                                                                                                                  \
    inline bool isfinite(T x) {                                                                                        \
        return __builtin_isfinite((float)x);                                                                           \
    }                                                                                                                  \
    inline bool isnormal(T x) {                                                                                        \
        return isfinite(x) && __builtin_fabsf((float)x) >= (float)numeric_limits<T>::min();                            \
    }                                                                                                                  \
    inline bool isordered(T a, T b) {                                                                                  \
        return a == a && b == b;                                                                                       \
    }                                                                                                                  \
    inline bool isunordered(T a, T b) {                                                                                \
        return !isordered(a, b);                                                                                       \
    }                                                                                                                  \
    inline bool signbit(T x) {                                                                                         \
        return __builtin_signbit((float)x);                                                                            \
    }                                                                                                                  \
    template <int N>                                                                                                   \
    inline vec<bool, N> isnan(const vec<T, N> &v) {                                                                    \
        return standin::map<bool>(v, [](T x) { return isnan(x); });                                                    \
    }                                                                                                                  \
    template <int N>                                                                                                   \
    inline vec<bool, N> isinf(const vec<T, N> &v) {                                                                    \
        return standin::map<bool>(v, [](T x) { return isinf(x); });                                                    \
    }                                                                                                                  \
    template <int N>                                                                                                   \
    inline vec<bool, N> isfinite(const vec<T, N> &v) {                                                                 \
        return standin::map<bool>(v, [](T x) { return isfinite(x); });                                                 \
    }                                                                                                                  \
    template <int N>                                                                                                   \
    inline vec<T, N> fma(const vec<T, N> &a, const vec<T, N> &b, const vec<T, N> &c) {                                 \
        vec<T, N> r;                                                                                                   \
        for (int i = 0; i < N; ++i)                                                                                    \
            r.e_[i] = fma(a.e_[i], b.e_[i], c.e_[i]);                                                                  \
        return r;                                                                                                      \
    }                                                                                                                  \
    template <int N>                                                                                                   \
    inline vec<T, N> mix(const vec<T, N> &a, const vec<T, N> &b, const vec<T, N> &t) {                                 \
        return a + (b - a) * t;                                                                                        \
    }
STANDIN_FLOATING(float)
STANDIN_FLOATING(half)
bfloat max(bfloat, bfloat) = delete;
bfloat min(bfloat, bfloat) = delete;
bfloat clamp(bfloat, bfloat, bfloat) = delete;
bfloat fma(bfloat, bfloat, bfloat) = delete;
bfloat mix(bfloat, bfloat, bfloat) = delete;
#undef STANDIN_FLOATING
namespace precise {
using metal::clamp;
using metal::fma;
using metal::max;
using metal::min;
inline float sincos(float x, float &c) {
    return metal::sincos(x, c);
}
} // namespace precise
namespace fast {
using metal::clamp;
using metal::fma;
using metal::max;
using metal::min;
inline float sincos(float x, float &c) {
    return metal::sincos(x, c);
}
} // namespace fast

#define STANDIN_INTEGER(T)                                                                                             \
    inline T max(T a, T b) {                                                                                           \
        return a < b ? b : a;                                                                                          \
    }                                                                                                                  \
    inline T min(T a, T b) {                                                                                           \
        return b < a ? b : a;                                                                                          \
    }                                                                                                                  \
    inline T clamp(T x, T low, T high) {                                                                               \
        return min(max(x, low), high);                                                                                 \
    }                                                                                                                  \
    inline T abs(T a) {                                                                                                \
        return a < T(0) ? (T)(0 - a) : a;                                                                              \
    }                                                                                                                  \
    inline T absdiff(T a, T b) {                                                                                       \
        return a < b ? (T)(b - a) : (T)(a - b);                                                                        \
    }                                                                                                                  \
    inline T max3(T a, T b, T c) {                                                                                     \
        return max(a, max(b, c));                                                                                      \
    }                                                                                                                  \
    inline T min3(T a, T b, T c) {                                                                                     \
        return min(a, min(b, c));                                                                                      \
    }                                                                                                                  \
    inline T popcount(T x) {                                                                                           \
        return (T)__builtin_popcountl((std::make_unsigned_t<T>)x);                                                     \
    }                                                                                                                  \
    inline T clz(T x) {                                                                                                \
        return x == 0 ? (T)(sizeof(T) * 8)                                                                             \
                      : (T)(__builtin_clzl((std::make_unsigned_t<T>)x) - (64 - (int)sizeof(T) * 8));                   \
    }                                                                                                                  \
    inline T ctz(T x) {                                                                                                \
        return x == 0 ? (T)(sizeof(T) * 8) : (T)__builtin_ctzl((std::make_unsigned_t<T>)x);                            \
    }                                                                                                                  \
    inline T reverse_bits(T x) {                                                                                       \
        std::make_unsigned_t<T> u = x, r = 0;                                                                          \
        for (size_t i = 0; i < sizeof(T) * 8; ++i)                                                                     \
            r |= (std::make_unsigned_t<T>)((u >> i & 1) << (sizeof(T) * 8 - 1 - i));                                   \
        return (T)r;                                                                                                   \
    }                                                                                                                  \
    inline T mulhi(T a, T b) {                                                                                         \
        return (T)(((std::conditional_t<std::is_signed<T>::value, __int128, unsigned __int128>)a * b) >>               \
                   (sizeof(T) * 8));                                                                                   \
    }                                                                                                                  \
    inline T madhi(T a, T b, T c) {                                                                                    \
        return (T)(mulhi(a, b) + c);                                                                                   \
    }                                                                                                                  \
    inline T addsat(T a, T b) {                                                                                        \
        T r;                                                                                                           \
        if (!__builtin_add_overflow(a, b, &r)) return r;                                                               \
        return b < T(0) ? numeric_limits<T>::min() : numeric_limits<T>::max();                                         \
    }                                                                                                                  \
    inline T subsat(T a, T b) {                                                                                        \
        T r;                                                                                                           \
        if (!__builtin_sub_overflow(a, b, &r)) return r;                                                               \
        return !numeric_limits<T>::is_signed || b > T(0) ? numeric_limits<T>::min() : numeric_limits<T>::max();        \
    }                                                                                                                  \
    inline T hadd(T a, T b) {                                                                                          \
        return (T)((a >> 1) + (b >> 1) + (a & b & 1));                                                                 \
    }                                                                                                                  \
    inline T rhadd(T a, T b) {                                                                                         \
        return (T)((a >> 1) + (b >> 1) + ((a | b) & 1));                                                               \
    }                                                                                                                  \
    inline T rotate(T a, T b) {                                                                                        \
        std::make_unsigned_t<T> u = a;                                                                                 \
        unsigned k = (unsigned)b % (sizeof(T) * 8);                                                                    \
        return k ? (T)(u << k | u >> (sizeof(T) * 8 - k)) : a;                                                         \
    }                                                                                                                  \
    inline T extract_bits(T x, uint offset, uint bits) {                                                               \
        return bits == 0 ? T(0)                                                                                        \
                         : (T)((T)((std::make_unsigned_t<T>)x << (sizeof(T) * 8 - offset - bits)) >>                   \
                               (sizeof(T) * 8 - bits));                                                                \
    }                                                                                                                  \
    inline T insert_bits(T base, T insert, uint offset, uint bits) {                                                   \
        std::make_unsigned_t<T> mask =                                                                                 \
            bits == sizeof(T) * 8 ? ~std::make_unsigned_t<T>(0) : (std::make_unsigned_t<T>)((1ul << bits) - 1);        \
        mask = (std::make_unsigned_t<T>)(mask << offset);                                                              \
        return (T)((base & ~mask) | ((std::make_unsigned_t<T>)((std::make_unsigned_t<T>)insert << offset) & mask));    \
    }
STANDIN_INTEGER(char)
STANDIN_INTEGER(uchar)
STANDIN_INTEGER(short)
STANDIN_INTEGER(ushort)
STANDIN_INTEGER(int)
STANDIN_INTEGER(uint)
STANDIN_INTEGER(long)
STANDIN_INTEGER(ulong)
#undef STANDIN_INTEGER
inline int mul24(int a, int b) {
    return (int)((long)(a << 8 >> 8) * (b << 8 >> 8));
}
inline uint mul24(uint a, uint b) {
    return (a & 0xffffffu) * (b & 0xffffffu);
}
inline int mad24(int a, int b, int c) {
    return mul24(a, b) + c;
}
inline uint mad24(uint a, uint b, uint c) {
    return mul24(a, b) + c;
}

#define STANDIN_VECTOR_2(name)                                                                                         \
    template <class T, int N, class = std::enable_if_t<!std::is_same<T, bfloat>::value>>                               \
    inline vec<T, N> name(const vec<T, N> &a, const vec<T, N> &b) {                                                    \
        return standin::map<T>(a, b, [](T x, T y) { return name(x, y); });                                             \
    }                                                                                                                  \
    template <class T, int N, class = std::enable_if_t<!std::is_same<T, bfloat>::value>>                               \
    inline vec<T, N> name(const vec<T, N> &a, T b) {                                                                   \
        return name(a, vec<T, N>(b));                                                                                  \
    }
STANDIN_VECTOR_2(max)
STANDIN_VECTOR_2(min)
#undef STANDIN_VECTOR_2
#define STANDIN_VECTOR_INTEGER(name)                                                                                   \
    template <class T, int N, class = std::enable_if_t<std::is_integral<T>::value>>                                    \
    inline vec<T, N> name(const vec<T, N> &a) {                                                                        \
        return standin::map<T>(a, [](T x) { return name(x); });                                                        \
    }
STANDIN_VECTOR_INTEGER(abs)
STANDIN_VECTOR_INTEGER(popcount)
STANDIN_VECTOR_INTEGER(clz)
STANDIN_VECTOR_INTEGER(ctz)
STANDIN_VECTOR_INTEGER(reverse_bits)
#undef STANDIN_VECTOR_INTEGER
template <class T, int N, class = std::enable_if_t<std::is_integral<T>::value>>
inline vec<T, N> mulhi(const vec<T, N> &a, const vec<T, N> &b) {
    return standin::map<T>(a, b, [](T x, T y) { return mulhi(x, y); });
}
template <class T, int N, class = std::enable_if_t<std::is_integral<T>::value>>
inline vec<T, N> rotate(const vec<T, N> &a, const vec<T, N> &b) {
    return standin::map<T>(a, b, [](T x, T y) { return rotate(x, y); });
}
template <class T, int N>
inline vec<T, N> clamp(const vec<T, N> &x, const vec<T, N> &low, const vec<T, N> &high) {
    return min(max(x, low), high);
}
template <class T, int N>
inline vec<T, N> clamp(const vec<T, N> &x, T low, T high) {
    return clamp(x, vec<T, N>(low), vec<T, N>(high));
}

template <class T, class = std::enable_if_t<standin::is_scalar<T>>>
inline T select(T a, T b, bool condition) {
    return condition ? b : a;
}
template <class T, int N>
inline vec<T, N> select(const vec<T, N> &a, const vec<T, N> &b, const vec<bool, N> &condition) {
    vec<T, N> r;
    for (int i = 0; i < N; ++i)
        r.e_[i] = condition.e_[i] ? b.e_[i] : a.e_[i];
    return r;
}
inline bool any(bool x) {
    return x;
}
inline bool all(bool x) {
    return x;
}
template <int N>
inline bool any(const vec<bool, N> &v) {
    bool r = false;
    for (int i = 0; i < N; ++i)
        r |= v.e_[i];
    return r;
}
template <int N>
inline bool all(const vec<bool, N> &v) {
    bool r = true;
    for (int i = 0; i < N; ++i)
        r &= v.e_[i];
    return r;
}

template <class T, int N, class = std::enable_if_t<standin::is_floating<T>>>
inline T dot(const vec<T, N> &a, const vec<T, N> &b) {
    T r = a.e_[0] * b.e_[0];
    for (int i = 1; i < N; ++i)
        r = r + a.e_[i] * b.e_[i];
    return r;
}
template <class T, int N>
inline T length_squared(const vec<T, N> &a) {
    return dot(a, a);
}
template <class T, int N>
inline T length(const vec<T, N> &a) {
    return sqrt(dot(a, a));
}
template <class T, int N>
inline T distance(const vec<T, N> &a, const vec<T, N> &b) {
    return length(a - b);
}
template <class T, int N>
inline vec<T, N> normalize(const vec<T, N> &a) {
    return a * rsqrt(dot(a, a));
}
template <class T>
inline vec<T, 3> cross(const vec<T, 3> &a, const vec<T, 3> &b) {
    return vec<T, 3>(a.e_[1] * b.e_[2] - a.e_[2] * b.e_[1], a.e_[2] * b.e_[0] - a.e_[0] * b.e_[2],
                     a.e_[0] * b.e_[1] - a.e_[1] * b.e_[0]);
}

} // namespace metal
#undef STANDIN_F1
#undef STANDIN_F1_FLOAT
#undef STANDIN_F2
#undef STANDIN_F2_FLOAT
