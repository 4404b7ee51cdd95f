// Reductions, scans, sorting and softmax.
#include "internal.hpp"

namespace mlxr {

mx::array reduce(int32_t op, const mx::array &a, const std::vector<int> &axes, bool keepdims, int parameter,
                 mx::Stream s) {
    switch (op) {
    case MLXR_SUM: return mx::sum(a, axes, keepdims, s);
    case MLXR_PROD: return mx::prod(a, axes, keepdims, s);
    case MLXR_MAX: return mx::max(a, axes, keepdims, s);
    case MLXR_MIN: return mx::min(a, axes, keepdims, s);
    case MLXR_MEAN: return mx::mean(a, axes, keepdims, s);
    case MLXR_VAR: return mx::var(a, axes, keepdims, parameter, s);
    case MLXR_STD: return mx::std(a, axes, keepdims, parameter, s);
    case MLXR_ALL: return mx::all(a, axes, keepdims, s);
    case MLXR_ANY: return mx::any(a, axes, keepdims, s);
    case MLXR_MEDIAN: return mx::median(a, axes, keepdims, s);
    case MLXR_LOGSUMEXP: return mx::logsumexp(a, axes, keepdims, s);
    case MLXR_ARGMAX:
    case MLXR_ARGMIN: {
        bool flat = axes.size() == a.ndim();
        if (!flat && axes.size() != 1) fail(MLXR_E_INVALID, "argmax and argmin take one axis or all of them");
        if (op == MLXR_ARGMAX) {
            return flat ? mx::argmax(a, keepdims, s) : mx::argmax(a, axes[0], keepdims, s);
        }
        return flat ? mx::argmin(a, keepdims, s) : mx::argmin(a, axes[0], keepdims, s);
    }
    default: fail(MLXR_E_OPCODE, std::to_string(op) + " is no reduction");
    }
}

mx::array scan(int32_t op, const mx::array &array, int32_t axis, bool reverse, bool inclusive, mx::Stream s) {
    auto a = axis == MLXR_FLATTEN ? mx::flatten(array, s) : array;
    int along = axis_of(a, axis == MLXR_FLATTEN ? 0 : axis);
    switch (op) {
    case MLXR_CUMSUM: return mx::cumsum(a, along, reverse, inclusive, std::nullopt, s);
    case MLXR_CUMPROD: return mx::cumprod(a, along, reverse, inclusive, std::nullopt, s);
    case MLXR_CUMMAX: return mx::cummax(a, along, reverse, inclusive, s);
    case MLXR_CUMMIN: return mx::cummin(a, along, reverse, inclusive, s);
    case MLXR_LOGCUMSUMEXP: return mx::logcumsumexp(a, along, reverse, inclusive, s);
    default: fail(MLXR_E_OPCODE, std::to_string(op) + " is no scan");
    }
}

mx::array sort(int32_t op, const mx::array &array, int32_t axis, int32_t k, mx::Stream s) {
    auto a = axis == MLXR_FLATTEN ? mx::flatten(array, s) : array;
    int along = axis_of(a, axis == MLXR_FLATTEN ? 0 : axis);
    switch (op) {
    case MLXR_SORT: return mx::sort(a, along, s);
    case MLXR_ARGSORT: return mx::argsort(a, along, s);
    case MLXR_PARTITION: return mx::partition(a, k, along, s);
    case MLXR_ARGPARTITION: return mx::argpartition(a, k, along, s);
    case MLXR_TOPK: return mx::topk(a, k, along, s);
    default: fail(MLXR_E_OPCODE, std::to_string(op) + " is no sort");
    }
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_array mlxr_reduce(int32_t op, mlxr_array a, const int32_t *axes, int32_t naxes, int32_t keepdims,
                       int32_t parameter, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        const auto &x = scope.borrow(a);
        auto over = naxes == MLXR_ALL_AXES ? all_axes(x) : axes_of(axes, naxes);
        return reduce(op, x, over, keepdims != 0, parameter, scope.stream(stream));
    });
}

mlxr_array mlxr_scan(int32_t op, mlxr_array a, int32_t axis, int32_t reverse, int32_t inclusive, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return scan(op, scope.borrow(a), axis, reverse != 0, inclusive != 0, scope.stream(stream));
    });
}

mlxr_array mlxr_sort(int32_t op, mlxr_array a, int32_t axis, int32_t k, mlxr_stream stream) {
    return array_entry([&](Scope &scope) { return sort(op, scope.borrow(a), axis, k, scope.stream(stream)); });
}

mlxr_array mlxr_searchsorted(mlxr_array a, mlxr_array values, int32_t right, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return mx::searchsorted(scope.borrow(a), scope.borrow(values), right ? "right" : "left", scope.stream(stream));
    });
}

mlxr_array mlxr_softmax(mlxr_array a, const int32_t *axes, int32_t naxes, int32_t precise, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        const auto &x = scope.borrow(a);
        auto over = naxes == MLXR_ALL_AXES ? all_axes(x) : axes_of(axes, naxes);
        return mx::softmax(x, over, precise != 0, scope.stream(stream));
    });
}

} // extern "C"
