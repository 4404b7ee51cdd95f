// Elementwise operations, casts and fills.
#include "internal.hpp"

#include <cmath>

namespace mlxr {

[[noreturn]] static void unknown_op(const char *family, int32_t op) {
    fail(MLXR_E_OPCODE, std::to_string(op) + " is no " + family + " operation");
}

mx::array unary(int32_t op, const mx::array &a, mx::Stream s) {
    switch (op) {
    case MLXR_ABS: return mx::abs(a, s);
    case MLXR_NEGATIVE: return mx::negative(a, s);
    case MLXR_SIGN: return mx::sign(a, s);
    case MLXR_LOGICAL_NOT: return mx::logical_not(a, s);
    case MLXR_BITWISE_INVERT: return mx::bitwise_invert(a, s);
    case MLXR_RECIPROCAL: return mx::reciprocal(a, s);
    case MLXR_FLOOR: return mx::floor(a, s);
    case MLXR_CEIL: return mx::ceil(a, s);
    case MLXR_TRUNC: return mx::trunc(a, s);
    case MLXR_ROUND: return mx::round(a, 0, s);
    case MLXR_SQUARE: return mx::square(a, s);
    case MLXR_SQRT: return mx::sqrt(a, s);
    case MLXR_RSQRT: return mx::rsqrt(a, s);
    case MLXR_EXP: return mx::exp(a, s);
    case MLXR_EXPM1: return mx::expm1(a, s);
    case MLXR_LOG: return mx::log(a, s);
    case MLXR_LOG2: return mx::log2(a, s);
    case MLXR_LOG10: return mx::log10(a, s);
    case MLXR_LOG1P: return mx::log1p(a, s);
    case MLXR_SIN: return mx::sin(a, s);
    case MLXR_COS: return mx::cos(a, s);
    case MLXR_TAN: return mx::tan(a, s);
    case MLXR_ARCSIN: return mx::arcsin(a, s);
    case MLXR_ARCCOS: return mx::arccos(a, s);
    case MLXR_ARCTAN: return mx::arctan(a, s);
    case MLXR_SINH: return mx::sinh(a, s);
    case MLXR_COSH: return mx::cosh(a, s);
    case MLXR_TANH: return mx::tanh(a, s);
    case MLXR_ARCSINH: return mx::arcsinh(a, s);
    case MLXR_ARCCOSH: return mx::arccosh(a, s);
    case MLXR_ARCTANH: return mx::arctanh(a, s);
    case MLXR_SIGMOID: return mx::sigmoid(a, s);
    case MLXR_ERF: return mx::erf(a, s);
    case MLXR_ERFINV: return mx::erfinv(a, s);
    case MLXR_DEGREES: return mx::degrees(a, s);
    case MLXR_RADIANS: return mx::radians(a, s);
    case MLXR_ISNAN: return mx::isnan(a, s);
    case MLXR_ISINF: return mx::isinf(a, s);
    case MLXR_ISFINITE: return mx::isfinite(a, s);
    case MLXR_ISPOSINF: return mx::isposinf(a, s);
    case MLXR_ISNEGINF: return mx::isneginf(a, s);
    case MLXR_CONJUGATE: return mx::conjugate(a, s);
    case MLXR_REAL: return mx::real(a, s);
    case MLXR_IMAG: return mx::imag(a, s);
    default: unknown_op("unary", op);
    }
}

mx::array binary(Scope &scope, int32_t op, const mx::array &a, const mx::array &b, mx::Stream s) {
    switch (op) {
    case MLXR_ADD: return mx::add(a, b, s);
    case MLXR_SUBTRACT: return mx::subtract(a, b, s);
    case MLXR_MULTIPLY: return mx::multiply(a, b, s);
    case MLXR_DIVIDE: return mx::divide(a, b, s);
    case MLXR_FLOOR_DIVIDE: check_division(scope, a, b); return mx::floor_divide(a, b, s);
    case MLXR_REMAINDER: check_division(scope, a, b); return mx::remainder(a, b, s);
    case MLXR_POWER: return mx::power(a, b, s);
    case MLXR_MAXIMUM: return mx::maximum(a, b, s);
    case MLXR_MINIMUM: return mx::minimum(a, b, s);
    case MLXR_LOGADDEXP: return mx::logaddexp(a, b, s);
    case MLXR_ARCTAN2: return mx::arctan2(a, b, s);
    case MLXR_EQUAL: return mx::equal(a, b, s);
    case MLXR_NOT_EQUAL: return mx::not_equal(a, b, s);
    case MLXR_LESS: return mx::less(a, b, s);
    case MLXR_LESS_EQUAL: return mx::less_equal(a, b, s);
    case MLXR_GREATER: return mx::greater(a, b, s);
    case MLXR_GREATER_EQUAL: return mx::greater_equal(a, b, s);
    case MLXR_LOGICAL_AND: return mx::logical_and(a, b, s);
    case MLXR_LOGICAL_OR: return mx::logical_or(a, b, s);
    case MLXR_LOGICAL_XOR: return mx::logical_xor(a, b, s);
    case MLXR_BITWISE_AND: return mx::bitwise_and(a, b, s);
    case MLXR_BITWISE_OR: return mx::bitwise_or(a, b, s);
    case MLXR_BITWISE_XOR: return mx::bitwise_xor(a, b, s);
    case MLXR_LEFT_SHIFT: return mx::left_shift(a, b, s);
    case MLXR_RIGHT_SHIFT: return mx::right_shift(a, b, s);
    default: unknown_op("binary", op);
    }
}

mx::array select(int32_t op, const mx::array &a, const std::optional<mx::array> &b, const std::optional<mx::array> &c,
                 mx::Stream s) {
    switch (op) {
    case MLXR_WHERE:
        if (!b || !c) fail(MLXR_E_HANDLE, "where takes three arrays");
        return mx::where(a, *b, *c, s);
    case MLXR_CLIP: return mx::clip(a, b, c, s);
    default: unknown_op("select", op);
    }
}

mx::array cast(int32_t op, const mx::array &a, int32_t dtype, mx::Stream s) {
    switch (op) {
    case MLXR_ASTYPE: return mx::astype(a, dtype_of(dtype), s);
    case MLXR_VIEW: return mx::view(a, dtype_of(dtype), s);
    case MLXR_FROM_FP8: return mx::from_fp8(a, dtype_of(dtype), s);
    case MLXR_TO_FP8: return mx::to_fp8(a, s);
    default: unknown_op("cast", op);
    }
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_array mlxr_unary(int32_t op, mlxr_array a, mlxr_stream stream) {
    return array_entry([&](Scope &scope) { return unary(op, scope.borrow(a), scope.stream(stream)); });
}

mlxr_array mlxr_binary(int32_t op, mlxr_array a, mlxr_array b, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto s = scope.stream(stream);
        if (op == MLXR_FLOOR_DIVIDE || op == MLXR_REMAINDER) { // these may wait
            return binary(scope, op, scope.array(a), scope.array(b), s);
        }
        return binary(scope, op, scope.borrow(a), scope.borrow(b), s);
    });
}

mlxr_status mlxr_divmod(mlxr_array a, mlxr_array b, mlxr_stream stream, mlxr_array *out) {
    return status_entry([&](Scope &scope) {
        auto x = scope.array(a);
        auto y = scope.array(b);
        check_division(scope, x, y);
        scope.put_all(mx::divmod(x, y, scope.stream(stream)), out);
    });
}

mlxr_array mlxr_select(int32_t op, mlxr_array a, mlxr_array b, mlxr_array c, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return select(op, scope.borrow(a), scope.optional(b), scope.optional(c), scope.stream(stream));
    });
}

mlxr_array mlxr_cast(int32_t op, mlxr_array a, int32_t dtype, mlxr_stream stream) {
    return array_entry([&](Scope &scope) { return cast(op, scope.borrow(a), dtype, scope.stream(stream)); });
}

mlxr_array mlxr_full(mlxr_array value, const int64_t *shape, int32_t ndim, int32_t dtype, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        const auto &v = scope.borrow(value);
        auto type = dtype == MLXR_SAME_DTYPE ? v.dtype() : dtype_of(dtype);
        auto extents = shape_of(shape, ndim);
        check_size(extents, type);
        return mx::full(std::move(extents), std::move(v), type, scope.stream(stream));
    });
}

mlxr_array mlxr_arange(double start, double stop, double step, int32_t dtype, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto type = dtype_of(dtype);
        double count = std::ceil((stop - start) / step);
        if (std::isfinite(count) && count * type.size() > static_cast<double>(memory_limit())) {
            fail(MLXR_E_MEMORY, "arange of " + std::to_string(count) + " elements is more than the memory limit");
        }
        return mx::arange(start, stop, step, type, scope.stream(stream));
    });
}

} // extern "C"
