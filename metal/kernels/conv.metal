// Convolution of one to three spatial axes, channels last, as a matrix product whose left operand is never made.
//
// x is [N, S..., C], w [O, taps..., C / groups], out [N, positions..., O]. Row m of the product is an output position,
// column n an output channel of the group, and k counts taps and input channels, channels fastest. A block of the left
// operand is gathered from x on its way to threadgroup memory: taps that fall between the elements of a dilated input,
// or outside it, are zero. Everything else is as in matmul.metal's gemm, in float32.
//
// Expected limit (not measured on a GPU): arithmetic, when C / groups is a multiple of the block of k or larger, for
// then a simdgroup gathers neighbours; with few channels the divisions that find an element cost as much as its
// products.
//
// Knows nothing of tensors; mlxr/backends/metal/conv.py makes the launches.
#include <metal_simdgroup_matrix>
#include "operands.h"

constant uint dtype_x [[function_constant(0)]];
constant uint dtype_w [[function_constant(1)]];
constant uint dtype_out [[function_constant(2)]];
constant bool flip [[function_constant(3)]];  // taps in the order of a true convolution

constant constexpr uint SIMD = 32;
constant constexpr uint SPATIAL = 3;  // axes there is room for; those that are not there have extent 1

struct ConvParams {
    long x_start;
    long x_batch;
    long x_steps[SPATIAL];
    long x_channel;
    long w_start;
    long w_out;
    long w_steps[SPATIAL];
    long w_channel;
    uint size[SPATIAL];      // of x, after it was dilated: (extent - 1) * spacing + 1
    uint taps[SPATIAL];
    uint positions[SPATIAL];
    uint stride[SPATIAL];
    int padding[SPATIAL];
    uint dilation[SPATIAL];  // of the taps
    uint spacing[SPATIAL];   // of x
    uint rows;               // N * positions
    uint channels;           // C / groups
    uint outputs;            // O / groups
    uint groups;
    uint k;                  // taps * channels
};

// Offset in x of position `at`, tap and channel, or -1 where there is nothing.
METAL_FUNC long input_offset(constant ConvParams& params, uint image, uint3 at, uint3 tap) {
    long offset = params.x_start + long(image) * params.x_batch;
    for (uint axis = 0; axis < SPATIAL; ++axis) {
        const uint reached = at[axis] * params.stride[axis] + tap[axis] * params.dilation[axis];
        const int place = int(reached) - params.padding[axis];
        if (place < 0 || uint(place) >= params.size[axis] || uint(place) % params.spacing[axis] != 0)
            return -1;
        offset += long(uint(place) / params.spacing[axis]) * params.x_steps[axis];
    }
    return offset;
}

METAL_FUNC uint3 unravel(uint index, constant uint* extents) {
    return uint3(index / extents[2] / extents[1], index / extents[2] % extents[1], index % extents[2]);
}

kernel void conv(device const uchar* x [[buffer(0)]],
                 device const uchar* w [[buffer(1)]],
                 device uchar* out [[buffer(2)]],
                 constant ConvParams& params [[buffer(3)]],
                 uint3 tile [[threadgroup_position_in_grid]],
                 uint lid [[thread_index_in_threadgroup]],
                 uint lane [[thread_index_in_simdgroup]],
                 uint simd [[simdgroup_index_in_threadgroup]]) {
    constexpr uint EDGE = 32, BK = 16, THREADS = 4 * SIMD, STRIDE_X = BK + 4, STRIDE_W = EDGE + 4, F = 2;
    threadgroup float block_x[EDGE * STRIDE_X];
    threadgroup float block_w[BK * STRIDE_W];
    threadgroup float band[4][8 * F * 8];
    const uint row = tile.y * EDGE, column = tile.x * EDGE, group = tile.z;
    const uint top = simd / 2 * (EDGE / 2), left = simd % 2 * (EDGE / 2);
    const uint positions = params.positions[0] * params.positions[1] * params.positions[2];

    simdgroup_matrix<float, 8, 8> acc[F][F];
    for (uint i = 0; i < F; ++i)
        for (uint j = 0; j < F; ++j)
            acc[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);

    for (uint k = 0; k < params.k; k += BK) {
        for (uint i = lid; i < EDGE * BK; i += THREADS) {
            const uint m = row + i / BK, kk = k + i % BK;
            float value = 0.0f;
            if (m < params.rows && kk < params.k) {
                const uint3 tap = unravel(kk / params.channels, params.taps);
                const uint3 at = unravel(m % positions, params.positions);
                const long offset = input_offset(params, m / positions, at, tap);
                const uint channel = group * params.channels + kk % params.channels;
                if (offset >= 0)
                    value = load_float(x, offset + long(channel) * params.x_channel, dtype_x);
            }
            block_x[i / BK * STRIDE_X + i % BK] = value;
        }
        for (uint i = lid; i < BK * EDGE; i += THREADS) {
            const uint n = column + i / BK, kk = k + i % BK;
            float value = 0.0f;
            if (n < params.outputs && kk < params.k) {
                uint3 tap = unravel(kk / params.channels, params.taps);
                if (flip)
                    tap = uint3(params.taps[0] - 1, params.taps[1] - 1, params.taps[2] - 1) - tap;
                long offset = params.w_start + long(group * params.outputs + n) * params.w_out +
                              long(kk % params.channels) * params.w_channel;
                for (uint axis = 0; axis < SPATIAL; ++axis)
                    offset += long(tap[axis]) * params.w_steps[axis];
                value = load_float(w, offset, dtype_w);
            }
            block_w[i % BK * STRIDE_W + i / BK] = value;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint kk = 0; kk < BK; kk += 8) {
            simdgroup_matrix<float, 8, 8> fx[F], fw[F];
            for (uint i = 0; i < F; ++i)
                simdgroup_load(fx[i], block_x + (top + i * 8) * STRIDE_X + kk, STRIDE_X);
            for (uint j = 0; j < F; ++j)
                simdgroup_load(fw[j], block_w + kk * STRIDE_W + left + j * 8, STRIDE_W);
            for (uint i = 0; i < F; ++i)
                for (uint j = 0; j < F; ++j)
                    simdgroup_multiply_accumulate(acc[i][j], fx[i], fw[j], acc[i][j]);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    for (uint i = 0; i < F; ++i) {
        for (uint j = 0; j < F; ++j)
            simdgroup_store(acc[i][j], band[simd] + j * 8, F * 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint e = lane; e < 8 * F * 8; e += SIMD) {
            const uint m = row + top + i * 8 + e / (F * 8), n = column + left + e % (F * 8);
            if (m < params.rows && n < params.outputs)
                store_float(out, (long(m) * params.groups + group) * params.outputs + n, band[simd][e], dtype_out);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}
