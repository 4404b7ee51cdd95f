// Fused operations, convolution, random bits and transforms.
#include "internal.hpp"

#include <algorithm>
#include <bit>

#include "mlx/fast.h"
#include "mlx/fft.h"
#include "mlx/random.h"

namespace mlxr {

mx::array rms_norm(const mx::array &x, const std::optional<mx::array> &weight, float eps, mx::Stream s) {
    return mx::fast::rms_norm(x, weight, eps, s);
}

mx::array layer_norm(const mx::array &x, const std::optional<mx::array> &weight, const std::optional<mx::array> &bias,
                     float eps, mx::Stream s) {
    return mx::fast::layer_norm(x, weight, bias, eps, s);
}

mx::array rope(const mx::array &x, int32_t dims, bool traditional, float base, float scale, int32_t offset,
               const std::optional<mx::array> &offset_array, const std::optional<mx::array> &freqs, mx::Stream s) {
    auto theta = freqs ? std::nullopt : std::optional<float>(base); // upstream wants exactly one of the two
    if (offset_array) return mx::fast::rope(x, dims, traditional, theta, scale, *offset_array, freqs, s);
    return mx::fast::rope(x, dims, traditional, theta, scale, offset, freqs, s);
}

mx::array attention(const mx::array &q, const mx::array &k, const mx::array &v, float scale, int32_t mask_mode,
                    const std::optional<mx::array> &mask, const std::optional<mx::array> &sinks, mx::Stream s) {
    if (mask_mode < MLXR_MASK_NONE || mask_mode > MLXR_MASK_ARRAY) {
        fail(MLXR_E_INVALID, "mask mode " + std::to_string(mask_mode) + " does not exist");
    }
    if ((mask_mode == MLXR_MASK_ARRAY) != mask.has_value()) {
        fail(MLXR_E_INVALID, "a mask array goes with MLXR_MASK_ARRAY");
    }
    // Upstream divides by the number of key heads.
    for (const auto *operand : {&k, &v}) {
        if (operand->ndim() == 4 && operand->shape(1) == 0) fail(MLXR_E_INVALID, "attention with 0 key heads");
    }
    const char *mode = mask_mode == MLXR_MASK_CAUSAL ? "causal" : mask_mode == MLXR_MASK_ARRAY ? "array" : "";
    return mx::fast::scaled_dot_product_attention(q, k, v, scale, mode, mask, sinks, false, s);
}

static mx::array conv(const mx::array &input, const mx::array &weight, const mlxr_conv_params &p, mx::Stream s) {
    if (p.spatial < 1 || p.spatial > 3) fail(MLXR_E_INVALID, "a convolution runs over 1, 2 or 3 axes");
    auto rank = static_cast<size_t>(p.spatial) + 2;
    if (input.ndim() != rank || weight.ndim() != rank) {
        fail(MLXR_E_INVALID, "input and weight of a convolution have " + std::to_string(rank) + " axes");
    }
    if (p.groups < 1) fail(MLXR_E_INVALID, "a convolution with " + std::to_string(p.groups) + " groups");
    // With these upstream traps, or its BLAS ends the process with status 0. An empty batch is fine.
    bool empty_input = std::any_of(input.shape().begin() + 1, input.shape().end(), [](int n) { return n == 0; });
    if (weight.size() == 0 || empty_input) fail(MLXR_E_INVALID, "a convolution with an empty kernel or input");
    auto n = p.spatial;
    // Negative padding crops. Upstream crops before it dilates, so that other elements meet other taps.
    for (int32_t i = 0; i < n; i++) {
        if (p.input_dilation[i] > 1 && (p.padding_low[i] < 0 || p.padding_high[i] < 0)) {
            fail(MLXR_E_UNSUPPORTED, "negative padding of an input that is dilated");
        }
    }
    auto numbers = [n](const int32_t *values) { return std::vector<int>(values, values + n); };
    return mx::conv_general(input, weight, numbers(p.stride), numbers(p.padding_low), numbers(p.padding_high),
                            numbers(p.kernel_dilation), numbers(p.input_dilation), p.groups, p.flip != 0, s);
}

// Upstream has matrices of m * 2^k for these m; with other extents that one of them divides it writes past the end.
static void check_hadamard(const mx::array &a) {
    int extent = a.ndim() > 0 ? a.shape(-1) : 0;
    for (int m : {1, 12, 20, 28}) {
        if (extent > 0 && extent % m == 0 && std::has_single_bit(static_cast<unsigned>(extent / m))) return;
    }
    fail(MLXR_E_INVALID, "there is no Hadamard matrix for an extent of " + std::to_string(extent));
}

static mx::array transform(int32_t op, const mx::array &a, const mx::Shape &lengths, const std::vector<int> &axes,
                           mx::fft::FFTNorm norm, mx::Stream s) {
    switch (op) {
    case MLXR_FFT: return mx::fft::fftn(a, lengths, axes, norm, s);
    case MLXR_IFFT: return mx::fft::ifftn(a, lengths, axes, norm, s);
    case MLXR_RFFT: return mx::fft::rfftn(a, lengths, axes, norm, s);
    case MLXR_IRFFT: return mx::fft::irfftn(a, lengths, axes, norm, s);
    default: fail(MLXR_E_OPCODE, std::to_string(op) + " is no Fourier transform");
    }
}

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_array mlxr_rms_norm(mlxr_array x, mlxr_array weight, float eps, mlxr_stream stream) {
    return array_entry(
        [&](Scope &scope) { return rms_norm(scope.borrow(x), scope.optional(weight), eps, scope.stream(stream)); });
}

mlxr_array mlxr_layer_norm(mlxr_array x, mlxr_array weight, mlxr_array bias, float eps, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return layer_norm(scope.borrow(x), scope.optional(weight), scope.optional(bias), eps, scope.stream(stream));
    });
}

mlxr_array mlxr_rope(mlxr_array x, int32_t dims, int32_t traditional, float base, float scale, int32_t offset,
                     mlxr_array offset_array, mlxr_array freqs, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return rope(scope.borrow(x), dims, traditional != 0, base, scale, offset, scope.optional(offset_array),
                    scope.optional(freqs), scope.stream(stream));
    });
}

mlxr_array mlxr_sdpa(mlxr_array q, mlxr_array k, mlxr_array v, float scale, int32_t mask_mode, mlxr_array mask,
                     mlxr_array sinks, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        return attention(scope.borrow(q), scope.borrow(k), scope.borrow(v), scale, mask_mode, scope.optional(mask),
                         scope.optional(sinks), scope.stream(stream));
    });
}

mlxr_array mlxr_cross_entropy(mlxr_array logits, mlxr_array targets, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto scores = scope.array(logits);
        auto classes = scope.array(targets);
        if (scores.ndim() == 0) fail(MLXR_E_INVALID, "cross entropy of a scalar");
        check_indices(scope, classes, 0, scores.shape(-1), "class");
        return mx::fast::cross_entropy(scores, classes, scope.stream(stream));
    });
}

mlxr_array mlxr_conv(mlxr_array input, mlxr_array weight, const mlxr_conv_params *params, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        if (required(params, "params")->size < sizeof(mlxr_conv_params)) {
            fail(MLXR_E_ABI, "params->size is smaller than mlxr_conv_params");
        }
        return conv(scope.borrow(input), scope.borrow(weight), *params, scope.stream(stream));
    });
}

mlxr_array mlxr_random_bits(mlxr_array key, const int64_t *shape, int32_t ndim, int32_t width, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        auto extents = shape_of(shape, ndim);
        check_size(extents, mx::uint32);
        return mx::random::bits(extents, width, scope.borrow(key), scope.stream(stream));
    });
}

mlxr_array mlxr_hadamard(mlxr_array a, float scale, mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        const auto &x = scope.borrow(a);
        check_hadamard(x);
        return mx::hadamard_transform(x, scale, scope.stream(stream));
    });
}

mlxr_array mlxr_fft(int32_t op, mlxr_array a, const int64_t *lengths, const int32_t *axes, int32_t naxes, int32_t norm,
                    mlxr_stream stream) {
    return array_entry([&](Scope &scope) {
        constexpr mx::fft::FFTNorm norms[] = {mx::fft::FFTNorm::Backward, mx::fft::FFTNorm::Ortho,
                                              mx::fft::FFTNorm::Forward};
        if (norm < MLXR_NORM_BACKWARD || norm > MLXR_NORM_FORWARD) {
            fail(MLXR_E_INVALID, "norm " + std::to_string(norm) + " does not exist");
        }
        return transform(op, scope.borrow(a), shape_of(lengths, naxes), axes_of(axes, naxes), norms[norm],
                         scope.stream(stream));
    });
}

} // extern "C"
