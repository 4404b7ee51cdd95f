// Layout: operations that rearrange elements and compute nothing.
#include "internal.hpp"

#include <algorithm>

namespace mlxr {

namespace {

struct Bounds {
    mx::Shape start, stop, step;
};

// Upstream divides by the step, and its arithmetic overflows far outside of the array. So bounds are brought to the
// array's own range, in which every slice has its representative.
Bounds bounds_of(const mx::array &a, const int64_t *start, const int64_t *stop, const int64_t *step, int32_t n) {
    if (n != static_cast<int32_t>(a.ndim())) {
        fail(MLXR_E_INVALID, "a slice takes one start, stop and step for each of the " + std::to_string(a.ndim()) +
                                 " axes, got " + std::to_string(n));
    }
    if (n > 0) required(start, "start"), required(stop, "stop"), required(step, "step");
    Bounds bounds;
    for (int32_t i = 0; i < n; i++) {
        int64_t extent = a.shape(i), stride = std::max<int64_t>(extent, 1);
        if (step[i] == 0) fail(MLXR_E_INVALID, "a slice with a step of 0");
        bounds.start.push_back(static_cast<int>(std::clamp(start[i], -extent - 1, extent)));
        bounds.stop.push_back(static_cast<int>(std::clamp(stop[i], -extent - 1, extent)));
        bounds.step.push_back(static_cast<int>(std::clamp(step[i], -stride, stride)));
    }
    return bounds;
}

} // namespace

mx::array slice(const mx::array &a, const int64_t *start, const int64_t *stop, const int64_t *step, int32_t n,
                mx::Stream s) {
    auto bounds = bounds_of(a, start, stop, step, n);
    return mx::slice(a, bounds.start, bounds.stop, bounds.step, s);
}

static mx::array slice_update(int32_t op, const mx::array &a, const mx::array &update, const Bounds &bounds,
                              mx::Stream s) {
    const auto &[start, stop, step] = bounds;
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

mx::array as_strided(const mx::array &a, const int64_t *shape, const int64_t *strides, int32_t n, int64_t offset,
                     mx::Stream s) {
    auto extents = shape_of(shape, n);
    mx::Strides steps;
    for (int32_t i = 0; i < n; i++)
        steps.push_back(required(strides, "strides")[i]);
    check_window(a, extents, steps, offset);
    // Upstream flattens the array and expects its elements side by side then. One that is stepped through, or one element
    // broadcast, stays as it is when it is flattened, and the evaluation fails.
    bool dense = a.status() == mx::array::Status::available && a.flags().row_contiguous;
    return mx::as_strided(dense ? a : mx::contiguous(a, false, s), std::move(extents), std::move(steps),
                          static_cast<size_t>(offset), s);
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
        const auto &x = scope.borrow(a);
        return slice_update(op, x, scope.borrow(update), bounds_of(x, start, stop, step, n), scope.stream(stream));
    });
}

mlxr_array mlxr_as_strided(mlxr_array a, const int64_t *shape, const int64_t *strides, int32_t ndim, int64_t offset,
                           mlxr_stream stream) {
    return array_entry(
        [&](Scope &scope) { return as_strided(scope.borrow(a), shape, strides, ndim, offset, scope.stream(stream)); });
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
