// Indexing, and the checks of operands' values. Upstream reads and writes wherever an index points, and traps on an
// integer division by zero; so these operands are evaluated and looked at first.
#include "internal.hpp"

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

// Checks indices into an axis, where negative ones count from the end.
static void check_axis_indices(Scope &scope, const mx::array &indices, int64_t extent) {
    check_indices(scope, indices, -extent, extent, "index");
}

mx::array take(Scope &scope, const mx::array &a, const mx::array &indices, int32_t axis, mx::Stream s) {
    if (axis == MLXR_FLATTEN) {
        check_axis_indices(scope, indices, static_cast<int64_t>(a.size()));
        return mx::take(a, indices, s);
    }
    int along = axis_of(a, axis);
    check_axis_indices(scope, indices, a.shape(along));
    return mx::take(a, indices, along, s);
}

mx::array take_along_axis(Scope &scope, const mx::array &a, const mx::array &indices, int32_t axis, mx::Stream s) {
    int along = axis_of(a, axis);
    check_axis_indices(scope, indices, a.shape(along));
    return mx::take_along_axis(a, indices, along, s);
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_array mlxr_take(mlxr_array a, mlxr_array indices, int32_t axis, mlxr_stream stream) {
    return array_entry(
        [&](Scope &scope) { return take(scope, scope.array(a), scope.array(indices), axis, scope.stream(stream)); });
}

mlxr_array mlxr_take_along_axis(mlxr_array a, mlxr_array indices, int32_t axis, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return take_along_axis(scope, scope.array(a), scope.array(indices), axis, scope.stream(stream));
    });
}

mlxr_array mlxr_gather(mlxr_array a, const mlxr_array *indices, const int32_t *axes, int32_t n,
                       const int64_t *slice_sizes, int32_t ndim, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto x = scope.array(a);
        auto picks = scope.arrays(indices, n);
        auto along = axes_of(axes, n);
        auto sizes = shape_of(slice_sizes, ndim);
        if (ndim != static_cast<int32_t>(x.ndim())) fail(MLXR_E_INVALID, "gather takes one slice size for each axis");
        for (int32_t i = 0; i < n; i++) {
            along[i] = axis_of(x, along[i]);
            int64_t extent = x.shape(along[i]), window = sizes[along[i]];
            if (window > extent) fail(MLXR_E_INVALID, "a slice size is larger than the axis");
            // Upstream adds the extent to negative indices; the window must then still fit.
            if (window <= 1) {
                check_axis_indices(scope, picks[i], extent);
            } else {
                check_indices(scope, picks[i], 0, extent - window + 1, "index");
            }
        }
        return mx::gather(x, picks, along, sizes, scope.stream(stream));
    });
}

mlxr_array mlxr_scatter(int32_t op, mlxr_array a, const mlxr_array *indices, const int32_t *axes, int32_t n,
                        mlxr_array updates, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto x = scope.array(a);
        auto picks = scope.arrays(indices, n);
        auto along = axes_of(axes, n);
        auto values = scope.array(updates);
        auto s = scope.stream(stream);
        size_t leading = values.ndim() - x.ndim();
        if (values.ndim() < x.ndim()) fail(MLXR_E_INVALID, "updates have fewer axes than the array");
        for (int32_t i = 0; i < n; i++) {
            along[i] = axis_of(x, along[i]);
            int64_t extent = x.shape(along[i]), window = values.shape()[leading + along[i]];
            if (window <= 1) {
                check_axis_indices(scope, picks[i], extent);
            } else {
                check_indices(scope, picks[i], 0, extent - window + 1, "index");
            }
        }
        switch (op) {
        case MLXR_UPDATE_SET: return mx::scatter(x, picks, values, along, s);
        case MLXR_UPDATE_ADD: return mx::scatter_add(x, picks, values, along, s);
        case MLXR_UPDATE_PROD: return mx::scatter_prod(x, picks, values, along, s);
        case MLXR_UPDATE_MAX: return mx::scatter_max(x, picks, values, along, s);
        case MLXR_UPDATE_MIN: return mx::scatter_min(x, picks, values, along, s);
        default: fail(MLXR_E_OPCODE, std::to_string(op) + " is no update");
        }
    });
}

mlxr_array mlxr_scatter_axis(int32_t op, mlxr_array a, mlxr_array indices, mlxr_array values, int32_t axis,
                             mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto x = scope.array(a);
        auto picks = scope.array(indices);
        int along = axis_of(x, axis);
        check_axis_indices(scope, picks, x.shape(along));
        auto s = scope.stream(stream);
        switch (op) {
        case MLXR_UPDATE_SET: return mx::put_along_axis(x, picks, scope.array(values), along, s);
        case MLXR_UPDATE_ADD: return mx::scatter_add_axis(x, picks, scope.array(values), along, s);
        default: fail(MLXR_E_OPCODE, "along an axis there are only the updates set and add");
        }
    });
}

mlxr_array mlxr_masked_scatter(mlxr_array a, mlxr_array mask, mlxr_array source, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto x = scope.array(a);
        auto m = scope.array(mask);
        auto src = scope.array(source);
        // A mask may cover the leading axes only; each true element then takes as many source elements as it covers.
        int64_t covered = 1;
        for (size_t i = m.ndim(); i < x.ndim(); i++)
            covered *= x.shape()[i];
        if (count_true(scope, m) * covered > static_cast<int64_t>(src.size()) && src.size() != 1) {
            fail(MLXR_E_INDEX, "the source has fewer elements than the mask selects");
        }
        return mx::masked_scatter(x, m, src, scope.stream(stream));
    });
}

} // extern "C"
