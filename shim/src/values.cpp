// Looking at the values of operands, for what upstream does with them unchecked: indices that point anywhere, integer
// division that traps, LAPACK routines that end the process.
#include "internal.hpp"

#include <cmath>
#include <limits>

namespace mlxr {

namespace {

// Calls visit(value) for the elements of an evaluated array, in row-major order, until it returns false.
template <class T, class Visit>
bool visit_elements(const mx::array &a, Visit &&visit) {
    if (a.size() == 0) return true;
    const T *data = a.data<T>();
    if (a.flags().row_contiguous) {
        for (size_t i = 0; i < a.size(); i++) {
            if (!visit(data[i])) return false;
        }
        return true;
    }
    int ndim = static_cast<int>(a.ndim());
    std::vector<int64_t> index(ndim, 0);
    int64_t offset = 0;
    while (true) {
        if (!visit(data[offset])) return false;
        int axis = ndim - 1;
        for (; axis >= 0; axis--) {
            offset += a.strides()[axis];
            if (++index[axis] < a.shape()[axis]) break;
            offset -= a.strides()[axis] * a.shape()[axis];
            index[axis] = 0;
        }
        if (axis < 0) return true;
    }
}

// Calls body(T{}) with the C++ type of an integer dtype.
template <class Body>
auto with_integer(mx::Dtype dtype, Body &&body) {
    switch (dtype) {
    case mx::bool_: return body(bool{});
    case mx::uint8: return body(uint8_t{});
    case mx::uint16: return body(uint16_t{});
    case mx::uint32: return body(uint32_t{});
    case mx::uint64: return body(uint64_t{});
    case mx::int8: return body(int8_t{});
    case mx::int16: return body(int16_t{});
    case mx::int32: return body(int32_t{});
    case mx::int64: return body(int64_t{});
    default: fail(MLXR_E_DTYPE, "indices must be integers");
    }
}

// True if some element of an evaluated integer array equals `value`.
bool contains(const mx::array &a, int64_t value) {
    return with_integer(a.dtype(), [&](auto zero) {
        using T = decltype(zero);
        return !visit_elements<T>(a, [&](T x) { return static_cast<int64_t>(x) != value; });
    });
}

} // namespace

void check_indices(Scope &scope, const mx::array &indices, int64_t low, int64_t high, const char *what) {
    if (!mx::issubdtype(indices.dtype(), mx::integer)) fail(MLXR_E_DTYPE, std::string(what) + " must be an integer");
    scope.evaluate({indices});
    with_integer(indices.dtype(), [&](auto zero) {
        using T = decltype(zero);
        visit_elements<T>(indices, [&](T x) {
            // uint64 above the largest int64 is out of range whatever the range.
            bool huge = sizeof(T) == 8 && !std::numeric_limits<T>::is_signed && x > static_cast<T>(INT64_MAX);
            auto value = static_cast<int64_t>(x);
            if (huge || value < low || value >= high) {
                fail(MLXR_E_INDEX, std::string(what) + " " +
                                       (huge ? std::string("above 2^63") : std::to_string(value)) + " is outside of [" +
                                       std::to_string(low) + ", " + std::to_string(high) + ")");
            }
            return true;
        });
    });
}

void check_division(Scope &scope, const mx::array &a, const mx::array &b) {
    auto type = mx::promote_types(a.dtype(), b.dtype());
    bool integral = type == mx::bool_ || mx::issubdtype(type, mx::integer);
    if (!integral || a.size() == 0 || b.size() == 0) return;
    scope.evaluate({b});
    if (contains(b, 0)) fail(MLXR_E_ARITHMETIC, "integer division by zero");
    if (!mx::issubdtype(type, mx::signedinteger) || !mx::issubdtype(b.dtype(), mx::signedinteger)) return;
    if (a.dtype() != type || !contains(b, -1)) return; // a narrower a has no element whose negative does not fit
    scope.evaluate({a});
    int64_t lowest = INT64_MIN >> (64 - 8 * type.size());
    if (contains(a, lowest)) fail(MLXR_E_ARITHMETIC, "the quotient of the lowest integer and -1 does not fit");
}

int64_t count_true(Scope &scope, const mx::array &mask) {
    if (mask.dtype() != mx::bool_) fail(MLXR_E_DTYPE, "a mask must be bool");
    scope.evaluate({mask});
    int64_t count = 0;
    visit_elements<bool>(mask, [&](bool x) {
        count += x;
        return true;
    });
    return count;
}

void check_finite(const mx::array &a) {
    auto finite = [&](auto zero) {
        using T = decltype(zero);
        return visit_elements<T>(a, [](T x) { return std::isfinite(x); });
    };
    bool ok = a.dtype() == mx::float64   ? finite(double{})
              : a.dtype() == mx::float32 ? finite(float{})
              : a.dtype() == mx::complex64
                  ? visit_elements<mx::complex64_t>(
                        a, [](mx::complex64_t z) { return std::isfinite(z.real()) && std::isfinite(z.imag()); })
                  : true; // upstream refuses the others
    if (!ok) fail(MLXR_E_RUNTIME, "the matrix has elements that are not finite");
}

void check_positive_diagonal(const mx::array &factor) {
    int64_t extent = factor.shape(-1), column = 0, row = 0;
    auto positive = [&](auto zero) {
        using T = decltype(zero);
        return visit_elements<T>(factor, [&](T x) {
            bool ok = row != column || x > 0;
            if (++column == extent) {
                column = 0;
                row = (row + 1) % extent;
            }
            return ok;
        });
    };
    bool ok = factor.dtype() == mx::float64   ? positive(double{})
              : factor.dtype() == mx::float32 ? positive(float{})
                                              : true;
    if (!ok) fail(MLXR_E_RUNTIME, "the matrix is not positive definite");
}

} // namespace mlxr
