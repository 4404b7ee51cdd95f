// Declarations of the Metal Shading Language's library for the address-space lint, which parses kernels as C++ for OpenCL:
// there `device` is __global, `threadgroup` __local, `thread` __private and `constant` __constant, and the compiler's rules
// for them are close to Metal's. Nothing here has a body; nothing that it compiles is ever run.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION cl_khr_fp64 : disable
#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable
#pragma OPENCL EXTENSION __cl_clang_variadic_functions : enable

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;

// Names that OpenCL takes and Metal leaves free, or gives another meaning.
#define local local_
#define global global_
#define generic generic_
#define pipe pipe_
#define event_t event_t_
#define read_only read_only_
#define write_only write_only_
#define read_write read_write_
#define atomic_int atomic_int_
#define atomic_uint atomic_uint_
#define atomic_float atomic_float_
#define memory_order memory_order_
#define memory_order_relaxed memory_order_relaxed_

#define device __global
#define threadgroup __local
#define thread __private
#define constant __constant
#define METAL_FUNC inline
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX __FLT_MAX__
#define FLT_MIN __FLT_MIN__
#define FLT_EPSILON __FLT_EPSILON__
#define MAXFLOAT __FLT_MAX__
#define HALF_MAX half(65504.0f)
#define INT_MAX __INT_MAX__
#define INT_MIN (-INT_MAX - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX __LONG_MAX__
#define LONG_MIN (-LONG_MAX - 1)
#define ULONG_MAX (LONG_MAX * 2ul + 1ul)
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define CHAR_MAX 127
#define CHAR_MIN (-128)
#define UCHAR_MAX 255
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.78539816339744830962f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_LOG2E_F 1.44269504088896340736f
#define M_E_F 2.71828182845904523536f

// Loads of bfloat work from every address space; that is all that matters here.
struct bfloat {
    ushort bits;
    bfloat() = default;
    bfloat(const bfloat &) = default;
    bfloat(const __constant bfloat &);
    bfloat &operator=(const bfloat &) = default;
    void operator=(const bfloat &) __global;
    void operator=(const bfloat &) __local;
    template <class T>
    constexpr bfloat(T) : bits(0) {}
    operator float() const;
    operator float() const __constant;
};

template <class T>
bool is_function_constant_defined(T);

namespace metal {
using ::bfloat;
template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
    typedef T type;
};
template <bool B, class T = void>
using enable_if_t = typename enable_if<B, T>::type;
template <class A, class B>
constexpr bool is_same_v = false;
template <class A>
constexpr bool is_same_v<A, A> = true;
template <class A, class B>
struct is_same {
    static constexpr bool value = is_same_v<A, B>;
};
template <bool B, class T, class F>
struct conditional {
    typedef T type;
};
template <class T, class F>
struct conditional<false, T, F> {
    typedef F type;
};
template <bool B, class T, class F>
using conditional_t = typename conditional<B, T, F>::type;
template <class T>
constexpr bool is_floating_point_v = is_same_v<T, float> || is_same_v<T, half> || is_same_v<T, bfloat>;
template <class T>
struct is_floating_point {
    static constexpr bool value = is_floating_point_v<T>;
};
template <class T>
constexpr bool is_integral_v =
    is_same_v<T, bool> || is_same_v<T, char> || is_same_v<T, uchar> || is_same_v<T, short> || is_same_v<T, ushort> ||
    is_same_v<T, int> || is_same_v<T, uint> || is_same_v<T, long> || is_same_v<T, ulong> || is_same_v<T, int8_t>;
template <class T>
struct is_integral {
    static constexpr bool value = is_integral_v<T>;
};
template <class T>
constexpr bool is_signed_v = T(-1) < T(0);
template <class T>
struct is_signed {
    static constexpr bool value = is_signed_v<T>;
};
template <class T>
struct is_unsigned {
    static constexpr bool value = !is_signed_v<T>;
};
template <class T>
constexpr bool is_unsigned_v = !is_signed_v<T>;
template <class T>
struct make_unsigned {
    typedef conditional_t<sizeof(T) == 1, uchar,
                          conditional_t<sizeof(T) == 2, ushort, conditional_t<sizeof(T) == 4, uint, ulong>>>
        type;
};
template <class T>
using make_unsigned_t = typename make_unsigned<T>::type;
template <class T>
struct make_signed {
    typedef conditional_t<sizeof(T) == 1, char,
                          conditional_t<sizeof(T) == 2, short, conditional_t<sizeof(T) == 4, int, long>>>
        type;
};
template <class T>
using make_signed_t = typename make_signed<T>::type;
template <class T, T v>
struct integral_constant {
    static constexpr T value = v;
};
typedef integral_constant<bool, true> true_type;
typedef integral_constant<bool, false> false_type;

template <class T>
struct numeric_limits {
    static constexpr bool is_signed = true, is_integer = true;
    static constexpr int digits = 1;
    static constexpr T max() { return T(0); }
    static constexpr T min() { return T(0); }
    static constexpr T lowest() { return T(0); }
    static constexpr T epsilon() { return T(0); }
    static constexpr T infinity() { return T(0); }
    static constexpr T quiet_NaN() { return T(0); }
};

template <class T, int N>
struct vec;
// Members for every address space that an object of the type may lie in.
#define LINT_VECTOR(N)                                                                                                 \
    vec() = default;                                                                                                   \
    vec(const vec &) = default;                                                                                        \
    vec(const __constant vec &);                                                                                       \
    vec &operator=(const vec &) = default;                                                                             \
    void operator=(const vec &) __global;                                                                              \
    void operator=(const vec &) __local;                                                                               \
    void operator=(const __constant vec &);                                                                            \
    void operator=(const __constant vec &) __global;                                                                   \
    void operator=(const __constant vec &) __local;                                                                    \
    template <class S>                                                                                                 \
    vec(S);                                                                                                            \
    template <class U>                                                                                                 \
    explicit vec(const vec<U, N> &);                                                                                   \
    template <class A, class B, class... R>                                                                            \
    vec(A, B, R...);                                                                                                   \
    __private T &operator[](size_t) __private;                                                                         \
    const __private T &operator[](size_t) const __private;                                                             \
    __global T &operator[](size_t) __global;                                                                           \
    const __global T &operator[](size_t) const __global;                                                               \
    __local T &operator[](size_t) __local;                                                                             \
    const __local T &operator[](size_t) const __local;                                                                 \
    const __constant T &operator[](size_t) const __constant;                                                           \
    template <int... I>                                                                                                \
    vec<T, (int)sizeof...(I)> get_() const;                                                                            \
    template <int... I>                                                                                                \
    void set_(const vec<T, (int)sizeof...(I)> &);
template <class T>
struct vec<T, 2> {
    union {
        struct {
            T x, y;
        };
        struct {
            T r, g;
        };
    };
    LINT_VECTOR(2)
#include "swizzle2.inc"
};
template <class T>
struct vec<T, 3> {
    union {
        struct {
            T x, y, z;
        };
        struct {
            T r, g, b;
        };
    };
    LINT_VECTOR(3)
#include "swizzle3.inc"
};
template <class T>
struct vec<T, 4> {
    union {
        struct {
            T x, y, z, w;
        };
        struct {
            T r, g, b, a;
        };
    };
    LINT_VECTOR(4)
#include "swizzle4.inc"
};
template <class T, int N>
struct packed_vec : vec<T, N> {
    using vec<T, N>::vec;
    packed_vec() = default;
    packed_vec(const vec<T, N> &);
    void operator=(const vec<T, N> &);
    void operator=(const vec<T, N> &) __global;
    void operator=(const vec<T, N> &) __local;
};
#define LINT_BINARY(op, R)                                                                                             \
    template <class T, int N>                                                                                          \
    vec<R, N> operator op(const vec<T, N> &, const vec<T, N> &);                                                       \
    template <class T, int N, class S>                                                                                 \
    vec<R, N> operator op(const vec<T, N> &, S);                                                                       \
    template <class T, int N, class S>                                                                                 \
    vec<R, N> operator op(S, const vec<T, N> &);
#define LINT_ASSIGN(op)                                                                                                \
    template <class T, int N, class S>                                                                                 \
    void operator op(vec<T, N> &, const S &);
LINT_BINARY(+, T)
LINT_BINARY(-, T)
LINT_BINARY(*, T)
LINT_BINARY(/, T)
LINT_BINARY(%, T)
LINT_BINARY(&, T)
LINT_BINARY(|, T)
LINT_BINARY(^, T)
LINT_BINARY(<<, T)
LINT_BINARY(>>, T)
LINT_BINARY(<, bool)
LINT_BINARY(>, bool)
LINT_BINARY(<=, bool)
LINT_BINARY(>=, bool)
LINT_BINARY(==, bool)
LINT_BINARY(!=, bool)
LINT_BINARY(&&, bool)
LINT_BINARY(||, bool)
LINT_ASSIGN(+=)
LINT_ASSIGN(-=)
LINT_ASSIGN(*=)
LINT_ASSIGN(/=)
LINT_ASSIGN(&=)
LINT_ASSIGN(|=)
LINT_ASSIGN(^=)
LINT_ASSIGN(<<=)
LINT_ASSIGN(>>=)
template <class T, int N>
vec<T, N> operator-(const vec<T, N> &);
template <class T, int N>
vec<T, N> operator~(const vec<T, N> &);
template <class T, int N>
vec<bool, N> operator!(const vec<T, N> &);

template <class T, size_t N>
struct array {
    T e_[N];
    T &operator[](size_t);
    const T &operator[](size_t) const;
    const __constant T &operator[](size_t) const __constant;
};
template <class To, class From>
To as_type(From);

// Numbers: any arguments do, for the types were checked by the host's compiler.
#define LINT_ANY(name)                                                                                                 \
    template <class T>                                                                                                 \
    T name(T);                                                                                                         \
    template <class T>                                                                                                 \
    T name(T, T);                                                                                                      \
    template <class T, int N>                                                                                          \
    vec<T, N> name(vec<T, N>, T);                                                                                      \
    template <class T>                                                                                                 \
    T name(T, T, T);                                                                                                   \
    template <class T, int N>                                                                                          \
    vec<T, N> name(vec<T, N>, T, T);
// clang-format off
#define LINT_MATH \
    LINT_ANY(acos) LINT_ANY(acosh) LINT_ANY(asin) LINT_ANY(asinh) LINT_ANY(atan) LINT_ANY(atanh) LINT_ANY(ceil) \
    LINT_ANY(cos) LINT_ANY(cosh) LINT_ANY(cospi) LINT_ANY(exp) LINT_ANY(exp10) LINT_ANY(exp2) LINT_ANY(fabs) \
    LINT_ANY(abs) LINT_ANY(floor) LINT_ANY(fract) LINT_ANY(log) LINT_ANY(log10) LINT_ANY(log2) LINT_ANY(rint) \
    LINT_ANY(round) LINT_ANY(rsqrt) LINT_ANY(saturate) LINT_ANY(sign) LINT_ANY(sin) LINT_ANY(sinh) LINT_ANY(sinpi) \
    LINT_ANY(sqrt) LINT_ANY(tan) LINT_ANY(tanh) LINT_ANY(trunc) LINT_ANY(atan2) LINT_ANY(copysign) LINT_ANY(divide) \
    LINT_ANY(fdim) LINT_ANY(fmax) LINT_ANY(fmin) LINT_ANY(fmod) LINT_ANY(pow) LINT_ANY(powr) LINT_ANY(step) \
    LINT_ANY(max) LINT_ANY(min) LINT_ANY(clamp) LINT_ANY(fma) \
    float sincos(float, thread float &);
// clang-format on
LINT_MATH
namespace precise {
LINT_MATH
}
namespace fast {
LINT_MATH
}
LINT_ANY(mix)
LINT_ANY(max3)
LINT_ANY(min3)
LINT_ANY(smoothstep)
LINT_ANY(popcount)
LINT_ANY(clz)
LINT_ANY(ctz)
LINT_ANY(reverse_bits)
LINT_ANY(mulhi)
LINT_ANY(madhi)
LINT_ANY(addsat)
LINT_ANY(subsat)
LINT_ANY(absdiff)
LINT_ANY(hadd)
LINT_ANY(rhadd)
LINT_ANY(rotate)
LINT_ANY(mul24)
LINT_ANY(mad24)
LINT_ANY(normalize)
LINT_ANY(cross)
template <class T>
T extract_bits(T, uint, uint);
template <class T>
T insert_bits(T, T, uint, uint);
template <class T>
T ldexp(T, int);
template <class T>
int ilogb(T);
template <class T>
T frexp(T, thread int &);
template <class T>
T modf(T, thread T &);
#define LINT_TEST(name)                                                                                                \
    template <class T>                                                                                                 \
    bool name(T);                                                                                                      \
    template <class T, int N>                                                                                          \
    vec<bool, N> name(vec<T, N>);
LINT_TEST(isnan)
LINT_TEST(isinf)
LINT_TEST(isfinite)
LINT_TEST(isnormal)
LINT_TEST(signbit)
template <class T>
T select(T, T, bool);
template <class T, int N>
vec<T, N> select(vec<T, N>, vec<T, N>, vec<bool, N>);
bool any(bool);
bool all(bool);
template <int N>
bool any(vec<bool, N>);
template <int N>
bool all(vec<bool, N>);
template <class T, int N>
T dot(vec<T, N>, vec<T, N>);
template <class T, int N>
T length(vec<T, N>);
template <class T, int N>
T length_squared(vec<T, N>);
template <class T, int N>
T distance(vec<T, N>, vec<T, N>);

// Atomics: the address space is part of the signature. Arithmetic on float is for device memory alone.
enum memory_order { memory_order_relaxed };
template <class T>
struct atomic {
    T value_;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;
#define LINT_ATOMIC(space)                                                                                             \
    template <class T>                                                                                                 \
    T atomic_load_explicit(const volatile space atomic<T> *, memory_order);                                            \
    template <class T, class U>                                                                                        \
    void atomic_store_explicit(volatile space atomic<T> *, U, memory_order);                                           \
    template <class T, class U>                                                                                        \
    T atomic_exchange_explicit(volatile space atomic<T> *, U, memory_order);                                           \
    template <class T, class U>                                                                                        \
    bool atomic_compare_exchange_weak_explicit(volatile space atomic<T> *, thread T *, U, memory_order, memory_order);
LINT_ATOMIC(device)
LINT_ATOMIC(threadgroup)
#define LINT_FETCH(name)                                                                                               \
    template <class T, class U>                                                                                        \
    T name(volatile device atomic<T> *, U, memory_order);                                                              \
    template <class T, class U>                                                                                        \
    enable_if_t<!is_same_v<T, float>, T> name(volatile threadgroup atomic<T> *, U, memory_order);
LINT_FETCH(atomic_fetch_add_explicit)
LINT_FETCH(atomic_fetch_sub_explicit)
LINT_FETCH(atomic_fetch_max_explicit)
LINT_FETCH(atomic_fetch_min_explicit)
LINT_FETCH(atomic_fetch_and_explicit)
LINT_FETCH(atomic_fetch_or_explicit)
LINT_FETCH(atomic_fetch_xor_explicit)

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
mem_flags operator|(mem_flags, mem_flags);
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);
#define LINT_SIMD(name)                                                                                                \
    template <class T>                                                                                                 \
    T name(T);
LINT_SIMD(simd_sum)
LINT_SIMD(simd_product)
LINT_SIMD(simd_max)
LINT_SIMD(simd_min)
LINT_SIMD(simd_and)
LINT_SIMD(simd_or)
LINT_SIMD(simd_xor)
LINT_SIMD(simd_prefix_inclusive_sum)
LINT_SIMD(simd_prefix_exclusive_sum)
LINT_SIMD(simd_prefix_inclusive_product)
LINT_SIMD(simd_prefix_exclusive_product)
LINT_SIMD(simd_broadcast_first)
#define LINT_SHUFFLE(name)                                                                                             \
    template <class T>                                                                                                 \
    T name(T, ushort);
LINT_SHUFFLE(simd_shuffle)
LINT_SHUFFLE(simd_broadcast)
LINT_SHUFFLE(simd_shuffle_xor)
LINT_SHUFFLE(simd_shuffle_down)
LINT_SHUFFLE(simd_shuffle_up)
LINT_SHUFFLE(simd_shuffle_rotate_down)
LINT_SHUFFLE(simd_shuffle_rotate_up)
template <class T>
T simd_shuffle_and_fill_down(T, T, ushort);
template <class T>
T simd_shuffle_and_fill_up(T, T, ushort);
struct simd_vote {
    typedef ulong vote_t;
    explicit simd_vote(ulong);
    explicit operator ulong() const;
    bool all() const;
    bool any() const;
};
simd_vote simd_ballot(bool);
simd_vote simd_active_threads_mask();
bool simd_any(bool);
bool simd_all(bool);
bool simd_is_first();

template <class T, int Rows, int Columns>
struct simdgroup_matrix {
    simdgroup_matrix();
    explicit simdgroup_matrix(T);
    thread vec<T, 2> &thread_elements() thread;
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
template <class T, int Rows, int Columns>
simdgroup_matrix<T, Rows, Columns> make_filled_simdgroup_matrix(T);
#define LINT_MATRIX(space)                                                                                             \
    template <class T>                                                                                                 \
    void simdgroup_load(thread simdgroup_matrix<T, 8, 8> &, const space T *, ulong = 8,                                \
                        vec<ulong, 2> = vec<ulong, 2>(0), bool = false);                                               \
    template <class T>                                                                                                 \
    void simdgroup_store(thread const simdgroup_matrix<T, 8, 8> &, space T *, ulong = 8,                               \
                         vec<ulong, 2> = vec<ulong, 2>(0), bool = false);
LINT_MATRIX(device)
LINT_MATRIX(threadgroup)
template <class TD, class TA, class TB, class TC>
void simdgroup_multiply_accumulate(thread simdgroup_matrix<TD, 8, 8> &, thread const simdgroup_matrix<TA, 8, 8> &,
                                   thread const simdgroup_matrix<TB, 8, 8> &,
                                   thread const simdgroup_matrix<TC, 8, 8> &);
template <class TD, class TA, class TB>
void simdgroup_multiply(thread simdgroup_matrix<TD, 8, 8> &, thread const simdgroup_matrix<TA, 8, 8> &,
                        thread const simdgroup_matrix<TB, 8, 8> &);

#define LINT_TYPES(T)                                                                                                  \
    typedef vec<T, 2> T##2;                                                                                            \
    typedef vec<T, 3> T##3;                                                                                            \
    typedef vec<T, 4> T##4;                                                                                            \
    typedef packed_vec<T, 2> packed_##T##2;                                                                            \
    typedef packed_vec<T, 3> packed_##T##3;                                                                            \
    typedef packed_vec<T, 4> packed_##T##4;
} // namespace metal
using metal::array;
using metal::as_type;
#define LINT_GLOBAL(T)                                                                                                 \
    namespace metal {                                                                                                  \
    LINT_TYPES(T)                                                                                                      \
    }                                                                                                                  \
    using metal::T##2;                                                                                                 \
    using metal::T##3;                                                                                                 \
    using metal::T##4;                                                                                                 \
    using metal::packed_##T##2;                                                                                        \
    using metal::packed_##T##3;                                                                                        \
    using metal::packed_##T##4;
LINT_GLOBAL(bool)
LINT_GLOBAL(char)
LINT_GLOBAL(uchar)
LINT_GLOBAL(short)
LINT_GLOBAL(ushort)
LINT_GLOBAL(int)
LINT_GLOBAL(uint)
LINT_GLOBAL(long)
LINT_GLOBAL(ulong)
LINT_GLOBAL(half)
LINT_GLOBAL(bfloat)
LINT_GLOBAL(float)
