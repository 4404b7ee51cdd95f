// Matrix products, plain and quantized, and the quantizers.
#include "internal.hpp"

namespace mlxr {

static const char *quant_mode(int32_t mode) {
    switch (mode) {
    case MLXR_AFFINE: return "affine";
    case MLXR_MXFP4: return "mxfp4";
    case MLXR_MXFP8: return "mxfp8";
    case MLXR_NVFP4: return "nvfp4";
    default: fail(MLXR_E_INVALID, "quantization mode " + std::to_string(mode) + " does not exist");
    }
}

// 0 leaves the choice to the mode.
static std::optional<int> chosen(int32_t value) {
    return value ? std::optional<int>(value) : std::nullopt;
}

// Upstream divides by these extents.
static void check_quantized(const mx::array &x, const mx::array &w) {
    if (x.size() == 0 || w.size() == 0) fail(MLXR_E_INVALID, "a quantized product with an extent of 0");
}

// Indices into the flattened batch axes of a stack of matrices.
static void check_matrix_indices(Scope &scope, const std::optional<mx::array> &indices, const mx::array &matrices) {
    if (!indices) return;
    int64_t count = 1;
    for (size_t i = 0; i + 2 < matrices.ndim(); i++)
        count *= matrices.shape()[i];
    check_indices(scope, *indices, 0, count, "matrix index");
}

mx::array quantized_matmul(const mx::array &x, const mx::array &w, const mx::array &scales,
                           const std::optional<mx::array> &biases, bool transpose, int32_t group_size, int32_t bits,
                           int32_t mode, mx::Stream s) {
    check_quantized(x, w);
    return mx::quantized_matmul(x, w, scales, biases, transpose, chosen(group_size), chosen(bits), quant_mode(mode), s);
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_array mlxr_matmul(mlxr_array a, mlxr_array b, mlxr_stream stream) {
    return array_entry(
        [&](Scope &scope) { return mx::matmul(scope.borrow(a), scope.borrow(b), scope.stream(stream)); });
}

mlxr_array mlxr_addmm(mlxr_array c, mlxr_array a, mlxr_array b, float alpha, float beta, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return mx::addmm(scope.borrow(c), scope.borrow(a), scope.borrow(b), alpha, beta, scope.stream(stream));
    });
}

mlxr_array mlxr_gather_mm(mlxr_array a, mlxr_array b, mlxr_array lhs, mlxr_array rhs, int32_t sorted,
                          mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto x = scope.array(a);
        auto y = scope.array(b);
        auto left = scope.optional(lhs);
        auto right = scope.optional(rhs);
        check_matrix_indices(scope, left, x);
        check_matrix_indices(scope, right, y);
        return mx::gather_mm(x, y, left, right, sorted != 0, scope.stream(stream));
    });
}

mlxr_array mlxr_block_masked_mm(mlxr_array a, mlxr_array b, int32_t block, mlxr_array mask_out, mlxr_array mask_lhs,
                                mlxr_array mask_rhs, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return mx::block_masked_mm(scope.borrow(a), scope.borrow(b), block, scope.optional(mask_out),
                                   scope.optional(mask_lhs), scope.optional(mask_rhs), scope.stream(stream));
    });
}

mlxr_array mlxr_segmented_mm(mlxr_array a, mlxr_array b, mlxr_array segments, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto x = scope.array(a);
        auto bounds = scope.array(segments);
        int64_t inner = x.ndim() > 0 ? x.shape(-1) : 0;
        check_indices(scope, bounds, 0, inner + 1, "segment bound");
        return mx::segmented_mm(x, scope.array(b), bounds, scope.stream(stream));
    });
}

mlxr_status mlxr_quantize(mlxr_array w, int32_t group_size, int32_t bits, int32_t mode, mlxr_stream stream,
                          mlxr_array *out) {
    return status_entry([&](Scope &scope) {
        required(out, "out");
        auto parts = mx::quantize(scope.borrow(w), chosen(group_size), chosen(bits), quant_mode(mode), std::nullopt,
                                  scope.stream(stream));
        bool has_biases = parts.size() > 2;
        scope.put_all(std::move(parts), out);
        if (!has_biases) out[2] = 0;
    });
}

mlxr_array mlxr_dequantize(mlxr_array w, mlxr_array scales, mlxr_array biases, int32_t group_size, int32_t bits,
                           int32_t mode, int32_t dtype, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto type = dtype == MLXR_SAME_DTYPE ? std::nullopt : std::optional<mx::Dtype>(dtype_of(dtype));
        return mx::dequantize(scope.borrow(w), scope.borrow(scales), scope.optional(biases), chosen(group_size),
                              chosen(bits), quant_mode(mode), std::nullopt, type, scope.stream(stream));
    });
}

mlxr_array mlxr_quantized_matmul(mlxr_array x, mlxr_array w, mlxr_array scales, mlxr_array biases, int32_t transpose,
                                 int32_t group_size, int32_t bits, int32_t mode, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return quantized_matmul(scope.borrow(x), scope.borrow(w), scope.borrow(scales), scope.optional(biases),
                                transpose != 0, group_size, bits, mode, scope.stream(stream));
    });
}

mlxr_array mlxr_gather_qmm(mlxr_array x, mlxr_array w, mlxr_array scales, mlxr_array biases, mlxr_array lhs,
                           mlxr_array rhs, int32_t transpose, int32_t group_size, int32_t bits, int32_t mode,
                           int32_t sorted, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto a = scope.array(x);
        auto b = scope.array(w);
        auto left = scope.optional(lhs);
        auto right = scope.optional(rhs);
        check_quantized(a, b);
        check_matrix_indices(scope, left, a);
        check_matrix_indices(scope, right, b);
        return mx::gather_qmm(a, b, scope.array(scales), scope.optional(biases), left, right, transpose != 0,
                              chosen(group_size), chosen(bits), quant_mode(mode), std::nullopt, sorted != 0,
                              scope.stream(stream));
    });
}

} // extern "C"
