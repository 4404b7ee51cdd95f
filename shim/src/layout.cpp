// Layout: operations that rearrange elements and compute nothing.
#include "internal.hpp"

namespace mlxr {

mx::array slice(const mx::array &a, const int64_t *start, const int64_t *stop, const int64_t *step, int32_t n,
                mx::Stream s) {
    return mx::slice(a, shape_of(start, n, INT64_MIN), shape_of(stop, n, INT64_MIN), shape_of(step, n, INT64_MIN), s);
}

static mx::array slice_update(int32_t op, const mx::array &a, const mx::array &update, mx::Shape start, mx::Shape stop,
                              mx::Shape step, mx::Stream s) {
    switch (op) {
    case MLXR_UPDATE_SET: return mx::slice_update(a, update, start, stop, step, s);
    case MLXR_UPDATE_ADD: return mx::slice_update_add(a, update, start, stop, step, s);
    case MLXR_UPDATE_PROD: return mx::slice_update_prod(a, update, start, stop, step, s);
    case MLXR_UPDATE_MAX: return mx::slice_update_max(a, update, start, stop, step, s);
    case MLXR_UPDATE_MIN: return mx::slice_update_min(a, update, start, stop, step, s);
    default: fail(MLXR_E_OPCODE, std::to_string(op) + " is no update");
    }
}

// Upstream reads wherever the strides lead.
static void check_window(const mx::array &a, const mx::Shape &shape, const mx::Strides &strides, int64_t offset) {
    __int128 first = offset, last = offset;
    for (size_t i = 0; i < shape.size(); i++) {
        if (shape[i] == 0) return;
        __int128 reach = static_cast<__int128>(shape[i] - 1) * strides[i];
        (reach < 0 ? first : last) += reach;
    }
    if (first < 0 || last >= static_cast<__int128>(a.size())) {
        fail(MLXR_E_INDEX, "the window leaves the " + std::to_string(a.size()) + " elements of the array");
    }
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_array mlxr_reshape(mlxr_array a, const int64_t *shape, int32_t ndim, mlxr_stream stream) {
    return array_entry(
        [&](Scope &scope) { return mx::reshape(scope.borrow(a), shape_of(shape, ndim, -1), scope.stream(stream)); });
}

mlxr_array mlxr_transpose(mlxr_array a, const int32_t *axes, int32_t naxes, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        const auto &x = scope.borrow(a);
        auto s = scope.stream(stream);
        return axes ? mx::transpose(x, axes_of(axes, naxes), s) : mx::transpose(x, s);
    });
}

mlxr_array mlxr_broadcast_to(mlxr_array a, const int64_t *shape, int32_t ndim, mlxr_stream stream) {
    return array_entry(
        [&](Scope &scope) { return mx::broadcast_to(scope.borrow(a), shape_of(shape, ndim), scope.stream(stream)); });
}

mlxr_array mlxr_slice(mlxr_array a, const int64_t *start, const int64_t *stop, const int64_t *step, int32_t n,
                      mlxr_stream stream) {
    return array_entry(
        [&](Scope &scope) { return slice(scope.borrow(a), start, stop, step, n, scope.stream(stream)); });
}

mlxr_array mlxr_slice_update(int32_t op, mlxr_array a, mlxr_array update, const int64_t *start, const int64_t *stop,
                             const int64_t *step, int32_t n, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return slice_update(op, scope.borrow(a), scope.borrow(update), shape_of(start, n, INT64_MIN),
                            shape_of(stop, n, INT64_MIN), shape_of(step, n, INT64_MIN), scope.stream(stream));
    });
}

mlxr_array mlxr_as_strided(mlxr_array a, const int64_t *shape, const int64_t *strides, int32_t ndim, int64_t offset,
                           mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        const auto &x = scope.borrow(a);
        auto extents = shape_of(shape, ndim);
        mx::Strides steps;
        for (int32_t i = 0; i < ndim; i++)
            steps.push_back(required(strides, "strides")[i]);
        check_window(x, extents, steps, offset);
        return mx::as_strided(x, std::move(extents), std::move(steps), static_cast<size_t>(offset),
                              scope.stream(stream));
    });
}

mlxr_array mlxr_concatenate(const mlxr_array *arrays, int32_t n, int32_t axis, mlxr_stream stream) {
    return array_entry(
        [&](Scope &scope) { return mx::concatenate(scope.arrays(arrays, n), axis, scope.stream(stream)); });
}

mlxr_array mlxr_pad(mlxr_array a, const int64_t *low, const int64_t *high, int32_t n, mlxr_array value, int32_t mode,
                    mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        const auto &x = scope.borrow(a);
        if (mode != MLXR_PAD_CONSTANT && mode != MLXR_PAD_EDGE) {
            fail(MLXR_E_INVALID, "padding mode " + std::to_string(mode) + " does not exist");
        }
        if (n != static_cast<int32_t>(x.ndim())) fail(MLXR_E_INVALID, "padding takes one width for each axis");
        auto fill = value ? scope.borrow(value) : mx::array(0, x.dtype());
        return mx::pad(x, all_axes(x), shape_of(low, n), shape_of(high, n), fill,
                       mode == MLXR_PAD_EDGE ? "edge" : "constant", scope.stream(stream));
    });
}

mlxr_array mlxr_contiguous(mlxr_array a, int32_t allow_column_major, mlxr_stream stream) {
    return array_entry(
        [&](Scope &scope) { return mx::contiguous(scope.borrow(a), allow_column_major != 0, scope.stream(stream)); });
}

} // extern "C"
