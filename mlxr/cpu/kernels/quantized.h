/* Strips of affine-quantized matrices: bits to float32 lanes, and the matrix-vector product on them.
 *
 * A row of the matrix is a little-endian stream of `bits`-bit integers in 32-bit words; w = scale * q + bias, each
 * group of columns with its own scale and bias. 32 columns fill `bits` words whatever `bits` is, so that is the unit.
 * Lanes are rows: words, scales and biases come transposed, as packing makes them. Like microkernel.h this knows of
 * addresses and counts only.
 */
#ifndef MLXR_QUANTIZED_H
#define MLXR_QUANTIZED_H

#include "microkernel.h"

#define MLXR_UNROLL_32 _Pragma("GCC unroll 32")
#if defined(__clang__)
#undef MLXR_UNROLL_32
#define MLXR_UNROLL_32 MLXR_UNROLL
#endif

/* Column `e` of a unit whose words lie NR lanes apart, as float32. */
MLXR_INLINE vf32 unit_column(const int bits, const uint32_t *words, const int e)
{
    const int word = e * bits / 32, shift = e * bits % 32;
    vu32 q = (vu32)load_f32(words + word * GEMM_NR_f32) >> shift;
    if (shift + bits > 32) q |= (vu32)load_f32(words + (word + 1) * GEMM_NR_f32) << (32 - shift);
    if (shift + bits != 32) q &= (1u << bits) - 1;
    return __builtin_convertvector((vi32)q, vf32);
}

/* nk columns (a multiple of 32, the first being column k0 of its row) of a strip of NR rows. With x NULL they go to
 * dst, NR lanes each; otherwise dst gets one vector of NR sums, the chains of x[k] * w[k] in increasing k from zero.
 * Product and sum of scale * q + bias are rounded separately, as dequantize does. */
MLXR_INLINE void unpack_strip_of(const int bits, const int summed, const uint32_t *words, Py_ssize_t k0, Py_ssize_t nk,
                                 Py_ssize_t group, const float *scales, const float *biases, const float *x,
                                 float *dst)
{
    vf32 sum[2] = {{0}, {0}};
    for (Py_ssize_t k = 0; k < nk; k += 32, words += bits * GEMM_NR_f32) {
        const Py_ssize_t g = (k0 + k) / group * GEMM_NR_f32;
        const vf32 scale[2] = {load_f32(scales + g), load_f32(scales + g + F32_LANES)};
        const vf32 bias[2] = {load_f32(biases + g), load_f32(biases + g + F32_LANES)};
        MLXR_UNROLL_32 for (int e = 0; e < 32; e++) {
            MLXR_UNROLL for (int v = 0; v < 2; v++) {
                vf32 w = scale[v] * unit_column(bits, words + v * F32_LANES, e) + bias[v];
                if (summed) sum[v] = fma_f32(splat_f32(x[k + e]), w, sum[v]);
                else store_f32(dst + (k + e) * GEMM_NR_f32 + v * F32_LANES, w);
            }
        }
    }
    if (summed)
        for (int v = 0; v < 2; v++) store_f32(dst + v * F32_LANES, sum[v]);
}

static void unpack_strip(int bits, const uint32_t *words, Py_ssize_t k0, Py_ssize_t nk, Py_ssize_t group,
                         const float *scales, const float *biases, const float *x, float *dst)
{
#define WITH_BITS(B)                                                                                                 \
    case B:                                                                                                          \
        if (x) unpack_strip_of(B, 1, words, k0, nk, group, scales, biases, x, dst);                                  \
        else unpack_strip_of(B, 0, words, k0, nk, group, scales, biases, x, dst);                                    \
        break;
    switch (bits) {
        WITH_BITS(1) WITH_BITS(2) WITH_BITS(3) WITH_BITS(4) WITH_BITS(5) WITH_BITS(6) WITH_BITS(8)
    }
#undef WITH_BITS
}

#endif
