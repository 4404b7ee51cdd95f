/* Transposing a rectangle that fits the L1 cache, by squares that live in vector registers: out[i][j] = x[j][i].
 *
 * Written with the compiler's vector types, because compilers turn the plain loop into scatter instructions, which are
 * slower than scalar code. One function per element size; it must know nothing of arrays or dtypes.
 */
#ifndef MLXR_TRANSPOSE_H
#define MLXR_TRANSPOSE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t mlxr_u16x8 __attribute__((vector_size(16)));
typedef uint32_t mlxr_u32x4 __attribute__((vector_size(16)));
typedef uint64_t mlxr_u64x2 __attribute__((vector_size(16)));

#define MLXR_LOW16(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define MLXR_HIGH16(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define MLXR_LOW32(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define MLXR_HIGH32(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define MLXR_LOW64(a, b) __builtin_shufflevector(a, b, 0, 2)
#define MLXR_HIGH64(a, b) __builtin_shufflevector(a, b, 1, 3)

/* Interleaving the halves of a square log2(side) times transposes it. */
static inline __attribute__((always_inline)) void mlxr_square_u16(const uint16_t *x, ptrdiff_t stride, uint16_t *out,
                                                                  ptrdiff_t out_stride) {
    mlxr_u16x8 a[8], b[8];
    for (int k = 0; k < 8; k++)
        memcpy(&a[k], x + k * stride, 16);
    for (int k = 0; k < 4; k++)
        b[2 * k] = MLXR_LOW16(a[k], a[k + 4]), b[2 * k + 1] = MLXR_HIGH16(a[k], a[k + 4]);
    for (int k = 0; k < 4; k++)
        a[2 * k] = MLXR_LOW16(b[k], b[k + 4]), a[2 * k + 1] = MLXR_HIGH16(b[k], b[k + 4]);
    for (int k = 0; k < 4; k++)
        b[2 * k] = MLXR_LOW16(a[k], a[k + 4]), b[2 * k + 1] = MLXR_HIGH16(a[k], a[k + 4]);
    for (int k = 0; k < 8; k++)
        memcpy(out + k * out_stride, &b[k], 16);
}

static inline __attribute__((always_inline)) void mlxr_square_u32(const uint32_t *x, ptrdiff_t stride, uint32_t *out,
                                                                  ptrdiff_t out_stride) {
    mlxr_u32x4 a[4], b[4];
    for (int k = 0; k < 4; k++)
        memcpy(&a[k], x + k * stride, 16);
    for (int k = 0; k < 2; k++)
        b[2 * k] = MLXR_LOW32(a[k], a[k + 2]), b[2 * k + 1] = MLXR_HIGH32(a[k], a[k + 2]);
    for (int k = 0; k < 2; k++)
        a[2 * k] = MLXR_LOW32(b[k], b[k + 2]), a[2 * k + 1] = MLXR_HIGH32(b[k], b[k + 2]);
    for (int k = 0; k < 4; k++)
        memcpy(out + k * out_stride, &a[k], 16);
}

static inline __attribute__((always_inline)) void mlxr_square_u64(const uint64_t *x, ptrdiff_t stride, uint64_t *out,
                                                                  ptrdiff_t out_stride) {
    mlxr_u64x2 a[2], b[2];
    for (int k = 0; k < 2; k++)
        memcpy(&a[k], x + k * stride, 16);
    b[0] = MLXR_LOW64(a[0], a[1]), b[1] = MLXR_HIGH64(a[0], a[1]);
    for (int k = 0; k < 2; k++)
        memcpy(out + k * out_stride, &b[k], 16);
}

/* x has `cols` runs of `rows` elements, `stride` apart; out has `rows` runs of `cols` elements, `out_stride` apart. */
#define MLXR_TRANSPOSE(NAME, TYPE, SIDE)                                                                               \
    static void mlxr_transpose_##NAME(const TYPE *x, ptrdiff_t stride, TYPE *out, ptrdiff_t out_stride,                \
                                      ptrdiff_t rows, ptrdiff_t cols) {                                                \
        ptrdiff_t whole_rows = rows - rows % SIDE, whole_cols = cols - cols % SIDE, i, j;                              \
        for (j = 0; j < whole_cols; j += SIDE)                                                                         \
            for (i = 0; i < whole_rows; i += SIDE)                                                                     \
                mlxr_square_##NAME(x + j * stride + i, stride, out + i * out_stride + j, out_stride);                  \
        for (j = 0; j < cols; j++)                                                                                     \
            for (i = j < whole_cols ? whole_rows : 0; i < rows; i++)                                                   \
                out[i * out_stride + j] = x[j * stride + i];                                                           \
    }

MLXR_TRANSPOSE(u16, uint16_t, 8)
MLXR_TRANSPOSE(u32, uint32_t, 4)
MLXR_TRANSPOSE(u64, uint64_t, 2)

#endif
