// Metal's scalar and vector types: half, bfloat, vec<T, N> with swizzles, packed vectors, limits and the few traits.
//
// half and bfloat are the compiler's own _Float16 and __bf16, so that conversions and overloads behave as for builtin
// types. The standard library stays inside namespace standin: kernels must not see it.
#pragma once
#include "interface.h"
#include <type_traits>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;

#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_INTERNAL inline __attribute__((always_inline))

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define MAXFLOAT __FLT_MAX__
#define FLT_MAX __FLT_MAX__
#define FLT_MIN __FLT_MIN__
#define FLT_EPSILON __FLT_EPSILON__
#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define HALF_MAX half(65504.0f)
#define HALF_MIN half(6.103515625e-05f)
#define HALF_EPSILON half(0.0009765625f)
#define CHAR_BIT 8
#define SCHAR_MAX 127
#define SCHAR_MIN (-128)
#define UCHAR_MAX 255
#define CHAR_MAX SCHAR_MAX
#define CHAR_MIN SCHAR_MIN
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX __INT_MAX__
#define INT_MIN (-INT_MAX - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX __LONG_MAX__
#define LONG_MIN (-LONG_MAX - 1)
#define ULONG_MAX (LONG_MAX * 2ul + 1ul)
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.78539816339744830962f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_PI_F 0.63661977236758134308f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f

namespace metal {
template <class T, int N>
struct vec;
} // namespace metal

namespace standin {

template <class T>
struct shape {
    static constexpr int components = 0;
    typedef T element;
};
template <class T, int N>
struct shape<metal::vec<T, N>> {
    static constexpr int components = N;
    typedef T element;
};
template <class T>
constexpr bool is_floating =
    std::is_same<T, float>::value || std::is_same<T, half>::value || std::is_same<T, bfloat>::value;
template <class T>
constexpr bool is_scalar = std::is_integral<T>::value || is_floating<T>;
template <class S>
using if_scalar = std::enable_if_t<is_scalar<S>>;

} // namespace standin

namespace metal {
using ::bfloat;
using ::half;

// Constructors and access that all widths share. The swizzles are generated (see build.py).
#define STANDIN_VECTOR(N)                                                                                              \
    vec() = default;                                                                                                   \
    vec(const vec &) = default;                                                                                        \
    vec &operator=(const vec &) = default;                                                                             \
    template <class S, class = standin::if_scalar<S>>                                                                  \
    vec(S s) {                                                                                                         \
        for (int i = 0; i < N; ++i)                                                                                    \
            e_[i] = (T)s;                                                                                              \
    }                                                                                                                  \
    template <class U, class = std::enable_if_t<!std::is_same<U, T>::value>>                                           \
    explicit vec(const vec<U, N> &o) {                                                                                 \
        for (int i = 0; i < N; ++i)                                                                                    \
            e_[i] = (T)o.e_[i];                                                                                        \
    }                                                                                                                  \
    template <class A, class B, class... R>                                                                            \
    vec(const A &a, const B &b, const R &...r) {                                                                       \
        static_assert(width_<A>() + width_<B>() + (0 + ... + width_<R>()) == N,                                        \
                      "a vector's constructor takes as many components as the vector has");                            \
        int k = 0;                                                                                                     \
        put_(k, a), put_(k, b), (put_(k, r), ...);                                                                     \
    }                                                                                                                  \
    template <class S>                                                                                                 \
    static constexpr int width_() {                                                                                    \
        return standin::shape<S>::components ? standin::shape<S>::components : 1;                                      \
    }                                                                                                                  \
    template <class S>                                                                                                 \
    void put_(int &k, const S &s) {                                                                                    \
        if constexpr (standin::shape<S>::components == 0)                                                              \
            e_[k++] = (T)s;                                                                                            \
        else                                                                                                           \
            for (int i = 0; i < standin::shape<S>::components; ++i)                                                    \
                e_[k++] = (T)s.e_[i];                                                                                  \
    }                                                                                                                  \
    T &operator[](size_t i) {                                                                                          \
        return e_[i];                                                                                                  \
    }                                                                                                                  \
    const T &operator[](size_t i) const {                                                                              \
        return e_[i];                                                                                                  \
    }                                                                                                                  \
    template <int... I>                                                                                                \
    vec<T, (int)sizeof...(I)> get_() const {                                                                           \
        vec<T, (int)sizeof...(I)> r;                                                                                   \
        int k = 0;                                                                                                     \
        ((r.e_[k++] = e_[I]), ...);                                                                                    \
        return r;                                                                                                      \
    }                                                                                                                  \
    template <int... I>                                                                                                \
    void set_(const vec<T, (int)sizeof...(I)> &v) {                                                                    \
        int k = 0;                                                                                                     \
        ((e_[I] = v.e_[k++]), ...);                                                                                    \
    }

template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
    union {
        T e_[2];
        struct {
            T x, y;
        };
        struct {
            T r, g;
        };
    };
    STANDIN_VECTOR(2)
#include "swizzle2.inc"
};
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
    union {
        T e_[3];
        struct {
            T x, y, z;
        };
        struct {
            T r, g, b;
        };
    };
    STANDIN_VECTOR(3)
#include "swizzle3.inc"
};
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
    union {
        T e_[4];
        struct {
            T x, y, z, w;
        };
        struct {
            T r, g, b, a;
        };
    };
    STANDIN_VECTOR(4)
#include "swizzle4.inc"
};
#undef STANDIN_VECTOR

template <class T, int N>
struct packed_vec {
    T e_[N];
    packed_vec() = default;
    packed_vec(const vec<T, N> &v) {
        for (int i = 0; i < N; ++i)
            e_[i] = v.e_[i];
    }
    template <class... A, class = std::enable_if_t<sizeof...(A) == N>>
    packed_vec(A... a) : e_{(T)a...} {}
    operator vec<T, N>() const {
        vec<T, N> v;
        for (int i = 0; i < N; ++i)
            v.e_[i] = e_[i];
        return v;
    }
    T &operator[](size_t i) { return e_[i]; }
    const T &operator[](size_t i) const { return e_[i]; }
    __declspec(property(get = x_, put = x_)) T x;
    __declspec(property(get = y_, put = y_)) T y;
    __declspec(property(get = z_, put = z_)) T z;
    __declspec(property(get = w_, put = w_)) T w;
    T x_() const { return e_[0]; }
    T y_() const { return e_[1]; }
    T z_() const { return e_[2]; }
    T w_() const { return e_[3]; }
    void x_(T v) { e_[0] = v; }
    void y_(T v) { e_[1] = v; }
    void z_(T v) { e_[2] = v; }
    void w_(T v) { e_[3] = v; }
};

#define STANDIN_BINARY(op)                                                                                             \
    template <class T, int N>                                                                                          \
    inline vec<T, N> operator op(const vec<T, N> &a, const vec<T, N> &b) {                                             \
        vec<T, N> r;                                                                                                   \
        for (int i = 0; i < N; ++i)                                                                                    \
            r.e_[i] = a.e_[i] op b.e_[i];                                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    template <class T, int N, class S, class = standin::if_scalar<S>>                                                  \
    inline vec<T, N> operator op(const vec<T, N> &a, S s) {                                                            \
        return a op vec<T, N>((T)s);                                                                                   \
    }                                                                                                                  \
    template <class T, int N, class S, class = standin::if_scalar<S>>                                                  \
    inline vec<T, N> operator op(S s, const vec<T, N> &a) {                                                            \
        return vec<T, N>((T)s) op a;                                                                                   \
    }                                                                                                                  \
    template <class T, int N, class S>                                                                                 \
    inline vec<T, N> &operator op## = (vec<T, N> & a, const S &s) {                                                    \
        return a = a op s;                                                                                             \
    }
STANDIN_BINARY(+)
STANDIN_BINARY(-)
STANDIN_BINARY(*)
STANDIN_BINARY(/)
STANDIN_BINARY(%)
STANDIN_BINARY(&)
STANDIN_BINARY(|)
STANDIN_BINARY(^)
STANDIN_BINARY(<<)
STANDIN_BINARY(>>)
#undef STANDIN_BINARY

#define STANDIN_COMPARE(op)                                                                                            \
    template <class T, int N>                                                                                          \
    inline vec<bool, N> operator op(const vec<T, N> &a, const vec<T, N> &b) {                                          \
        vec<bool, N> r;                                                                                                \
        for (int i = 0; i < N; ++i)                                                                                    \
            r.e_[i] = a.e_[i] op b.e_[i];                                                                              \
        return r;                                                                                                      \
    }                                                                                                                  \
    template <class T, int N, class S, class = standin::if_scalar<S>>                                                  \
    inline vec<bool, N> operator op(const vec<T, N> &a, S s) {                                                         \
        return a op vec<T, N>((T)s);                                                                                   \
    }                                                                                                                  \
    template <class T, int N, class S, class = standin::if_scalar<S>>                                                  \
    inline vec<bool, N> operator op(S s, const vec<T, N> &a) {                                                         \
        return vec<T, N>((T)s) op a;                                                                                   \
    }
STANDIN_COMPARE(<)
STANDIN_COMPARE(>)
STANDIN_COMPARE(<=)
STANDIN_COMPARE(>=)
STANDIN_COMPARE(==)
STANDIN_COMPARE(!=)
STANDIN_COMPARE(&&)
STANDIN_COMPARE(||)
#undef STANDIN_COMPARE

#define STANDIN_UNARY(op, R)                                                                                           \
    template <class T, int N>                                                                                          \
    inline vec<R, N> operator op(const vec<T, N> &a) {                                                                 \
        vec<R, N> r;                                                                                                   \
        for (int i = 0; i < N; ++i)                                                                                    \
            r.e_[i] = op a.e_[i];                                                                                      \
        return r;                                                                                                      \
    }
STANDIN_UNARY(-, T)
STANDIN_UNARY(~, T)
STANDIN_UNARY(!, bool)
#undef STANDIN_UNARY

#define STANDIN_TYPES(T)                                                                                               \
    typedef vec<T, 2> T##2;                                                                                            \
    typedef vec<T, 3> T##3;                                                                                            \
    typedef vec<T, 4> T##4;
STANDIN_TYPES(bool)
STANDIN_TYPES(char)
STANDIN_TYPES(uchar)
STANDIN_TYPES(short)
STANDIN_TYPES(ushort)
STANDIN_TYPES(int)
STANDIN_TYPES(uint)
STANDIN_TYPES(long)
STANDIN_TYPES(ulong)
STANDIN_TYPES(half)
STANDIN_TYPES(bfloat)
STANDIN_TYPES(float)
#undef STANDIN_TYPES
#define STANDIN_PACKED(T)                                                                                              \
    typedef packed_vec<T, 2> packed_##T##2;                                                                            \
    typedef packed_vec<T, 3> packed_##T##3;                                                                            \
    typedef packed_vec<T, 4> packed_##T##4;
STANDIN_PACKED(bool)
STANDIN_PACKED(char)
STANDIN_PACKED(uchar)
STANDIN_PACKED(short)
STANDIN_PACKED(ushort)
STANDIN_PACKED(int)
STANDIN_PACKED(uint)
STANDIN_PACKED(long)
STANDIN_PACKED(ulong)
STANDIN_PACKED(half)
STANDIN_PACKED(bfloat)
STANDIN_PACKED(float)
#undef STANDIN_PACKED

template <class T, size_t N>
struct array {
    T e_[N];
    T &operator[](size_t i) { return e_[i]; }
    const T &operator[](size_t i) const { return e_[i]; }
    constexpr size_t size() const { return N; }
};

template <class To, class From>
inline To as_type(const From &from) {
    static_assert(sizeof(To) == sizeof(From), "as_type: the sizes differ");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

// ---------------------------------------------------------------- limits and traits

template <class T>
struct numeric_limits {
    static_assert(std::is_integral<T>::value, "numeric_limits: not an arithmetic type of Metal");
    static constexpr bool is_signed = std::is_signed<T>::value, is_integer = true;
    static constexpr int digits = std::is_same<T, bool>::value ? 1 : sizeof(T) * 8 - is_signed;
    static constexpr T max() { return is_signed ? (T)((1ul << (sizeof(T) * 8 - 1)) - 1) : (T)~T(0); }
    static constexpr T min() { return is_signed ? (T)(-max() - 1) : T(0); }
    static constexpr T lowest() { return min(); }
};
template <>
struct numeric_limits<bool> {
    static constexpr bool is_signed = false, is_integer = true;
    static constexpr int digits = 1;
    static constexpr bool max() { return true; }
    static constexpr bool min() { return false; }
    static constexpr bool lowest() { return false; }
};
#define STANDIN_LIMITS(T, bits, largest, smallest, eps)                                                                \
    template <>                                                                                                        \
    struct numeric_limits<T> {                                                                                         \
        static constexpr bool is_signed = true, is_integer = false;                                                    \
        static constexpr int digits = bits;                                                                            \
        static constexpr T max() { return (T)largest; }                                                                \
        static constexpr T lowest() { return (T) - largest; }                                                          \
        static constexpr T min() { return (T)smallest; }                                                               \
        static constexpr T epsilon() { return (T)eps; }                                                                \
        static constexpr T infinity() { return (T)__builtin_inff(); }                                                  \
        static constexpr T quiet_NaN() { return (T)__builtin_nanf(""); }                                               \
    };
STANDIN_LIMITS(float, 24, __FLT_MAX__, __FLT_MIN__, __FLT_EPSILON__)
STANDIN_LIMITS(half, 11, 65504.0f, 6.103515625e-05f, 0.0009765625f)
STANDIN_LIMITS(bfloat, 8, 3.38953139e38f, __FLT_MIN__, 0.0078125f)
#undef STANDIN_LIMITS

using std::conditional;
using std::conditional_t;
using std::declval;
using std::enable_if;
using std::enable_if_t;
using std::false_type;
using std::integral_constant;
using std::is_const;
using std::is_integral;
using std::is_integral_v;
using std::is_same;
using std::is_same_v;
using std::is_signed;
using std::is_unsigned;
using std::make_signed;
using std::make_signed_t;
using std::make_unsigned;
using std::make_unsigned_t;
using std::remove_const_t;
using std::remove_cv_t;
using std::remove_reference_t;
using std::true_type;
template <class T>
struct is_floating_point : std::integral_constant<bool, standin::is_floating<std::remove_cv_t<T>>> {};
template <class T>
constexpr bool is_floating_point_v = is_floating_point<T>::value;
template <class T>
struct is_arithmetic : std::integral_constant<bool, standin::is_scalar<std::remove_cv_t<T>>> {};
template <class T>
constexpr bool is_arithmetic_v = is_arithmetic<T>::value;

} // namespace metal
