// Elementwise primitives: unary, binary and select, over contiguous, scalar, strided and broadcast operands.
//
// Memory plan. Contiguous: a thread takes ELEMENTS neighbours, so a SIMD group reads and writes unbroken runs; nothing is
// read twice. Expected limit on a GPU (not measured): memory bandwidth, (bytes of operands + bytes of result) / peak;
// arithmetic shows only for the longest functions (gelu, erfinv, power) and for 64-bit division, which GPUs emulate.
// Strided: a thread takes ELEMENTS neighbours of the result, so writes stay unbroken; the position is taken apart by
// division once per thread. Expected limit: bandwidth if some operand's innermost step is one, else the number of cache
// lines touched.
//
// The op and the dtypes are function constants: a pipeline holds one op for one combination of dtypes, and a file of
// fifteen kernels serves all of them. Definitions of ops: mlxr/cpu/kernels/elementwise.pxd.
#include "lanes.h"
#include "mathematics.h"
#include "strides.h"
#include "types.h"
using namespace metal;

constant uint OP [[function_constant(0)]];
constant uint COMPUTE [[function_constant(1)]];    // the dtype that operands are cast to
constant uint DTYPE_OUT [[function_constant(2)]];
constant uint DTYPE_A [[function_constant(3)]];
constant uint DTYPE_B [[function_constant(4)]];
constant bool STRIDED [[function_constant(5)]];    // else every operand is contiguous, or one element seen everywhere
constant bool SCALAR_A [[function_constant(6)]];
constant bool SCALAR_B [[function_constant(7)]];
constant bool SCALAR_C [[function_constant(8)]];   // select: the condition

constant constexpr uint ELEMENTS = 4;

// The numbers of mlxr/backends/metal/elementwise.py: UNARY and BINARY.
enum Unary : uint {
    ABS, NEGATIVE, SIGN, SQUARE, SQRT, RSQRT, RECIPROCAL, EXP, EXPM1, LOG, LOG2, LOG10, LOG1P, SIN, COS, TAN, ARCSIN,
    ARCCOS, ARCTAN, SINH, COSH, TANH, ARCSINH, ARCCOSH, ARCTANH, SIGMOID, ERF, ERFINV, FLOOR, CEIL, TRUNC, RINT,
    BITWISE_INVERT, IMAG, RELU, SILU, GELU, GELU_TANH, GELU_SIGMOID, SOFTPLUS, LOGICAL_NOT, ISNAN, ISINF, ISFINITE,
    ISPOSINF, ISNEGINF,
};
enum Binary : uint {
    ADD, SUBTRACT, MULTIPLY, DIVIDE, FLOOR_DIVIDE, REMAINDER, POWER, MAXIMUM, MINIMUM, LOGADDEXP, ARCTAN2, BITWISE_AND,
    BITWISE_OR, BITWISE_XOR, LEFT_SHIFT, RIGHT_SHIFT, EQUAL, NOT_EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL,
    LOGICAL_AND, LOGICAL_OR, LOGICAL_XOR, EQUAL_NAN,
};

// ---- Ops on one lane -------------------------------------------------------------------------------------------------

METAL_FUNC float unary(float x) {
    switch (OP) {
    case ABS: return fabs(x);
    case NEGATIVE: return -x;
    case SIGN: return float(x > 0.0f) - float(x < 0.0f);
    case SQUARE: return x * x;
    case SQRT: return precise::sqrt(x);
    case RSQRT: return precise::rsqrt(x);
    case RECIPROCAL: return 1.0f / x;
    case EXP: return exp_f32(x);
    case EXPM1: return expm1_f32(x);
    case LOG: return log_f32(x);
    case LOG2: return precise::log2(x);
    case LOG10: return precise::log10(x);
    case LOG1P: return log1p_f32(x);
    case SIN: return precise::sin(x);
    case COS: return precise::cos(x);
    case TAN: return precise::tan(x);
    case ARCSIN: return precise::asin(x);
    case ARCCOS: return precise::acos(x);
    case ARCTAN: return precise::atan(x);
    case SINH: return precise::sinh(x);
    case COSH: return precise::cosh(x);
    case TANH: return tanh_f32(x);
    case ARCSINH: return precise::asinh(x);
    case ARCCOSH: return precise::acosh(x);
    case ARCTANH: return precise::atanh(x);
    case SIGMOID: return sigmoid_f32(x);
    case ERF: return erf_f32(x);
    case ERFINV: return erfinv_f32(x);
    case FLOOR: return floor(x);
    case CEIL: return ceil(x);
    case TRUNC: return trunc(x);
    case RINT: return rint(x);
    case IMAG: return 0.0f;
    case RELU: return x > 0.0f || x != x ? x : 0.0f;
    case SILU: return silu_f32(x);
    case GELU: return gelu_f32(x);
    case GELU_TANH: return gelu_tanh_f32(x);
    case GELU_SIGMOID: return gelu_sigmoid_f32(x);
    case SOFTPLUS: return softplus_f32(x);
    case LOGICAL_NOT: return float(x == 0.0f);
    case ISNAN: return float(x != x);
    case ISINF: return float(fabs(x) == INFINITY);
    case ISFINITE: return float(fabs(x) < INFINITY);
    case ISPOSINF: return float(x == INFINITY);
    case ISNEGINF: return float(x == -INFINITY);
    default: return x;
    }
}

template <typename T>
METAL_FUNC T negated(T x) {
    typedef typename unsigned_of<T>::type U;
    return T(U(0) - U(x));
}

template <typename T>
METAL_FUNC T unary(T x) {
    typedef typename unsigned_of<T>::type U;
    switch (OP) {
    case ABS: return x < T(0) ? negated(x) : x;
    case NEGATIVE: return negated(x);
    case SIGN: return T(x > T(0)) - T(x < T(0));
    case SQUARE: return T(U(x) * U(x));
    case BITWISE_INVERT: return ~x;
    case RELU: return x > T(0) ? x : T(0);
    case LOGICAL_NOT: return T(x == T(0));
    case ISFINITE: return T(1);
    case IMAG:
    case ISNAN:
    case ISINF:
    case ISPOSINF:
    case ISNEGINF: return T(0);
    default: return x;
    }
}

// Ops that are the same for all lane types; the comparisons give 0 or 1.
template <typename T>
METAL_FUNC T compare(T x, T y) {
    switch (OP) {
    case EQUAL: return T(x == y);
    case NOT_EQUAL: return T(x != y);
    case LESS: return T(x < y);
    case LESS_EQUAL: return T(x <= y);
    case GREATER: return T(x > y);
    case GREATER_EQUAL: return T(x >= y);
    case LOGICAL_AND: return T(x != T(0) && y != T(0));
    case LOGICAL_OR: return T(x != T(0) || y != T(0));
    case LOGICAL_XOR: return T((x != T(0)) != (y != T(0)));
    default: return T(x == y || (x != x && y != y));
    }
}

METAL_FUNC float binary(float x, float y) {
    switch (OP) {
    case ADD: return x + y;
    case SUBTRACT: return x - y;
    case MULTIPLY: return x * y;
    case DIVIDE: return x / y;
    case FLOOR_DIVIDE: return floor(x / y);
    case REMAINDER: return remainder_f32(x, y);
    case POWER: return power_f32(x, y);
    case MAXIMUM: return x > y || x != x ? x : y;
    case MINIMUM: return x < y || x != x ? x : y;
    case LOGADDEXP: return logaddexp_f32(x, y);
    case ARCTAN2: return precise::atan2(x, y);
    default: return compare(x, y);
    }
}

// floor(x / y); 0 for y == 0; wraps where y == -1 has no room.
template <typename T>
METAL_FUNC T floor_quotient(T x, T y) {
    if (y == T(0)) return T(0);
    if (T(-1) < T(0) && y == T(-1)) return negated(x);
    const T quotient = x / y;
    return x % y != T(0) && (x < T(0)) != (y < T(0)) ? quotient - T(1) : quotient;
}

template <typename T>
METAL_FUNC T integer_power(T x, T y) {
    typedef typename unsigned_of<T>::type U;
    if (y < T(0)) return T(0);
    U result = U(1);
    U factor = U(x);
    for (U exponent = U(y); exponent != U(0); exponent >>= 1) {
        if ((exponent & U(1)) != U(0)) result *= factor;
        factor *= factor;
    }
    return T(result);
}

template <typename T>
METAL_FUNC T binary(T x, T y) {
    typedef typename unsigned_of<T>::type U;
    const U count = U(y) & U(8 * sizeof(T) - 1);
    switch (OP) {
    case ADD: return T(U(x) + U(y));
    case SUBTRACT: return T(U(x) - U(y));
    case MULTIPLY: return T(U(x) * U(y));
    case FLOOR_DIVIDE: return floor_quotient(x, y);
    case REMAINDER: return T(U(x) - U(floor_quotient(x, y)) * U(y));
    case POWER: return integer_power(x, y);
    case MAXIMUM: return x > y ? x : y;
    case MINIMUM: return x < y ? x : y;
    case BITWISE_AND: return x & y;
    case BITWISE_OR: return x | y;
    case BITWISE_XOR: return x ^ y;
    case LEFT_SHIFT: return T(U(x) << count);
    case RIGHT_SHIFT: return x >> T(count);
    default: return compare(x, y);
    }
}

// ---- Kernels ---------------------------------------------------------------------------------------------------------

template <typename Lane>
[[kernel]] void unary_op(device const uchar* a [[buffer(0)]], device uchar* out [[buffer(1)]],
                         constant Strided<1>& s [[buffer(2)]], uint gid [[thread_position_in_grid]]) {
    const uint first = gid * ELEMENTS;
    if (first >= s.size) return;
    const uint count = min(ELEMENTS, s.size - first);
    if (STRIDED) {
        Walk<1> walk(s, first);
        for (uint i = 0; i < count; ++i) {
            if (i > 0) walk.step(s, first + i);
            store_as(out, DTYPE_OUT, first + i, unary(load_as<Lane>(a, DTYPE_A, COMPUTE, uint(walk.at[0]))));
        }
    } else {
        for (uint i = first; i < first + count; ++i) {
            store_as(out, DTYPE_OUT, i, unary(load_as<Lane>(a, DTYPE_A, COMPUTE, SCALAR_A ? 0 : i)));
        }
    }
}

template <typename Lane>
[[kernel]] void binary_op(device const uchar* a [[buffer(0)]], device const uchar* b [[buffer(1)]],
                          device uchar* out [[buffer(2)]], constant Strided<2>& s [[buffer(3)]],
                          uint gid [[thread_position_in_grid]]) {
    const uint first = gid * ELEMENTS;
    if (first >= s.size) return;
    const uint count = min(ELEMENTS, s.size - first);
    if (STRIDED) {
        Walk<2> walk(s, first);
        for (uint i = 0; i < count; ++i) {
            if (i > 0) walk.step(s, first + i);
            const Lane x = load_as<Lane>(a, DTYPE_A, COMPUTE, uint(walk.at[0]));
            const Lane y = load_as<Lane>(b, DTYPE_B, COMPUTE, uint(walk.at[1]));
            store_as(out, DTYPE_OUT, first + i, binary(x, y));
        }
    } else {
        for (uint i = first; i < first + count; ++i) {
            const Lane x = load_as<Lane>(a, DTYPE_A, COMPUTE, SCALAR_A ? 0 : i);
            const Lane y = load_as<Lane>(b, DTYPE_B, COMPUTE, SCALAR_B ? 0 : i);
            store_as(out, DTYPE_OUT, i, binary(x, y));
        }
    }
}

// out = a where the condition holds, b elsewhere. Only the chosen operand is read.
template <typename Lane>
[[kernel]] void select_op(device const uchar* condition [[buffer(0)]], device const uchar* a [[buffer(1)]],
                          device const uchar* b [[buffer(2)]], device uchar* out [[buffer(3)]],
                          constant Strided<3>& s [[buffer(4)]], uint gid [[thread_position_in_grid]]) {
    const uint first = gid * ELEMENTS;
    if (first >= s.size) return;
    const uint count = min(ELEMENTS, s.size - first);
    if (STRIDED) {
        Walk<3> walk(s, first);
        for (uint i = 0; i < count; ++i) {
            if (i > 0) walk.step(s, first + i);
            const Lane v = condition[walk.at[0]] != 0 ? load_as<Lane>(a, DTYPE_A, COMPUTE, uint(walk.at[1]))
                                                      : load_as<Lane>(b, DTYPE_B, COMPUTE, uint(walk.at[2]));
            store_as(out, DTYPE_OUT, first + i, v);
        }
    } else {
        for (uint i = first; i < first + count; ++i) {
            const Lane v = condition[SCALAR_C ? 0 : i] != 0 ? load_as<Lane>(a, DTYPE_A, COMPUTE, SCALAR_A ? 0 : i)
                                                            : load_as<Lane>(b, DTYPE_B, COMPUTE, SCALAR_B ? 0 : i);
            store_as(out, DTYPE_OUT, i, v);
        }
    }
}

#define instantiate_elementwise(Lane)                                                                              \
    template [[host_name("unary_" #Lane)]] [[kernel]] void unary_op<Lane>(device const uchar*, device uchar*,      \
                                                                          constant Strided<1>&, uint);             \
    template [[host_name("binary_" #Lane)]] [[kernel]] void binary_op<Lane>(                                       \
        device const uchar*, device const uchar*, device uchar*, constant Strided<2>&, uint);                      \
    template [[host_name("select_" #Lane)]] [[kernel]] void select_op<Lane>(                                       \
        device const uchar*, device const uchar*, device const uchar*, device uchar*, constant Strided<3>&, uint);

instantiate_elementwise(float)
instantiate_elementwise(int)
instantiate_elementwise(uint)
instantiate_elementwise(long)
instantiate_elementwise(ulong)
