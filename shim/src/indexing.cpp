// Indexing. Upstream reads and writes wherever an index points, so the indices are evaluated and looked at first.
#include "internal.hpp"

namespace mlxr {

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
        if (op < MLXR_UPDATE_SET || op > MLXR_UPDATE_MIN) fail(MLXR_E_OPCODE, std::to_string(op) + " is no update");
        if (values.size() == 0) return x; // upstream divides by the size of a window
        switch (op) {
        case MLXR_UPDATE_SET: return mx::scatter(x, picks, values, along, s);
        case MLXR_UPDATE_ADD: return mx::scatter_add(x, picks, values, along, s);
        case MLXR_UPDATE_PROD: return mx::scatter_prod(x, picks, values, along, s);
        case MLXR_UPDATE_MAX: return mx::scatter_max(x, picks, values, along, s);
        default: return mx::scatter_min(x, picks, values, along, s);
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
        if (src.size() == 0) return x; // nothing is selected, and upstream divides by the size
        return mx::masked_scatter(x, m, src, scope.stream(stream));
    });
}

} // extern "C"
