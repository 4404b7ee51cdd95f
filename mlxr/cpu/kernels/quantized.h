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

/* Column `e` of a unit whose words lie NR lanes apart, as float32. */
MLXR_INLINE vf32 unit_column(const int bits, const uint32_t *words, const int e) {
    const int word = e * bits / 32, shift = e * bits % 32;
    vu32 q = (vu32)load_f32(words + word * GEMM_NR_f32) >> shift;
    if (shift + bits > 32) q |= (vu32)load_f32(words + (word + 1) * GEMM_NR_f32) << (32 - shift);
    if (shift + bits != 32) q &= (1u << bits) - 1;
    return __builtin_convertvector((vi32)q, vf32);
}

/* What is needed next: the same columns of the strip that follows, in the order of addresses, which DRAM serves best.
 * Unpacking computes for long enough to hide its way here, provided that the requests are spread out. Asking for what
 * does not exist is harmless. */
typedef struct {
    const char *words;    /* as many bytes for a unit of columns as this strip has; NULL: nothing is wanted */
    const char *grids[2]; /* scales and biases: up to a cache line for a unit */
    Py_ssize_t grid_step;
} Ahead;

/* Asks for what belongs to a unit. */
MLXR_INLINE void ask_for(Ahead *ahead, const int bits) {
    const int bytes = GEMM_NR_f32 * 4 * bits;
    MLXR_UNROLL for (int i = 0; i < bytes; i += 64) __builtin_prefetch(ahead->words + i, 0, 2);
    ahead->words += bytes;
    MLXR_UNROLL for (int i = 0; i < 2; i++) {
        __builtin_prefetch(ahead->grids[i], 0, 2);
        ahead->grids[i] += ahead->grid_step;
    }
}

/* nk columns (a multiple of 32, the first being column k0 of its row) of a strip of NR rows. With x NULL they go to
 * dst, NR lanes each; otherwise dst gets one vector of NR sums, the chains of x[k] * w[k] in increasing k from zero.
 * scale * q + bias is rounded once. Limit: arithmetic for one row of A (four or five operations a vector of weights).
 *
 * Where few fields fill a word, they are not shifted down: q * 2^shift is converted, and multiplied by scale / 2^shift.
 * Both powers of two are exact, unless the scale is below 2^-102. */
MLXR_INLINE void unpack_strip_of(const int bits, const int summed, const uint32_t *words, Py_ssize_t k0, Py_ssize_t nk,
                                 Py_ssize_t group, const float *scales, const float *biases, const float *x, float *dst,
                                 const Ahead *ahead) {
    enum { FIELDS = 8 };
    const int in_place = bits == 4 || bits == 8;
    Ahead next = *ahead;
    vf32 sum[2] = {{0}, {0}};
    for (Py_ssize_t k = 0; k < nk;) {
        const Py_ssize_t g = (k0 + k) / group, left = (g + 1) * group - k0 - k;
        const Py_ssize_t end = k + (left < nk - k ? left : nk - k);
        const float *at = scales + g * GEMM_NR_f32;
        const vf32 scale[2] = {load_f32(at), load_f32(at + F32_LANES)};
        const vf32 bias[2] = {load_f32(biases + g * GEMM_NR_f32), load_f32(biases + g * GEMM_NR_f32 + F32_LANES)};
        vf32 shifted[FIELDS][2]; /* scales of the fields of a word */
        if (in_place)
            MLXR_UNROLL for (int f = 0; f * bits < 32 - bits; f++) MLXR_UNROLL for (int v = 0; v < 2; v++)
                shifted[f][v] = scale[v] * splat_f32(1.0f / (float)(1u << (f * bits)));
        for (; k < end; k += 32, words += bits * GEMM_NR_f32) {
            if (next.words) ask_for(&next, bits);
            MLXR_UNROLL_32 for (int e = 0; e < 32; e++) {
                const int word = e * bits / 32, shift = e * bits % 32;
                MLXR_UNROLL for (int v = 0; v < 2; v++) {
                    vf32 w;
                    if (in_place && shift + bits < 32) {
                        vu32 q = (vu32)load_f32(words + word * GEMM_NR_f32 + v * F32_LANES);
                        q &= ((1u << bits) - 1) << shift;
                        w = fma_f32(shifted[shift / bits][v], __builtin_convertvector((vi32)q, vf32), bias[v]);
                    } else {
                        w = fma_f32(scale[v], unit_column(bits, words + v * F32_LANES, e), bias[v]);
                    }
                    if (summed)
                        sum[v] = fma_f32(splat_f32(x[k + e]), w, sum[v]);
                    else
                        store_f32(dst + (k + e) * GEMM_NR_f32 + v * F32_LANES, w);
                }
            }
        }
    }
    if (summed)
        for (int v = 0; v < 2; v++)
            store_f32(dst + v * F32_LANES, sum[v]);
}

/* Words of up to NR rows, transposed: dst[word][row]. As pack_f32, with everything but the rows' distance a constant. */
static void pack_words(const char *words, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t count, uint32_t *dst) {
    Py_ssize_t t = 0;
    if (rows == GEMM_NR_f32)
        for (; t + F32_LANES <= count; t += F32_LANES)
            for (int v = 0; v < 2; v++) {
                vf32 block[F32_LANES];
                const char *p = words + v * F32_LANES * row + t * 4;
                uint32_t *to = dst + t * GEMM_NR_f32 + v * F32_LANES;
                MLXR_UNROLL for (int i = 0; i < F32_LANES; i++, p += row) block[i] = load_f32(p);
                transpose_f32(block);
                MLXR_UNROLL for (int i = 0; i < F32_LANES; i++) store_f32(to + i * GEMM_NR_f32, block[i]);
            }
    if (t < count)
        pack_f32(CODE_F32, words + t * 4, row / 4, 1, rows, count - t, GEMM_NR_f32, GEMM_NR_f32,
                 (float *)(dst + t * GEMM_NR_f32));
}

static void unpack_strip(int bits, const uint32_t *words, Py_ssize_t k0, Py_ssize_t nk, Py_ssize_t group,
                         const float *scales, const float *biases, const float *x, float *dst, const Ahead *ahead) {
#define WITH_BITS(B)                                                                                                   \
    case B:                                                                                                            \
        if (x)                                                                                                         \
            unpack_strip_of(B, 1, words, k0, nk, group, scales, biases, x, dst, ahead);                                \
        else                                                                                                           \
            unpack_strip_of(B, 0, words, k0, nk, group, scales, biases, x, dst, ahead);                                \
        break;
    switch (bits) { WITH_BITS(1) WITH_BITS(2) WITH_BITS(3) WITH_BITS(4) WITH_BITS(5) WITH_BITS(6) WITH_BITS(8) }
#undef WITH_BITS
}

#endif
