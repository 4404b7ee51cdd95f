/* Sums and products of contiguous chunks, at the speed of memory: what Cython cannot say.
 *
 * Two things decide how fast memory comes in. Processors guess from the order of the loads what will be read next, and
 * compilers load the terms of an expression in any order: a block read out of order takes a third longer. And they look
 * ahead a fixed number of instructions, so few of them per cache line means more lines under way. They also keep the
 * history of few load instructions, so the loop over blocks stays a loop.
 * reduce.pxd states what is computed; this must not know of shapes, threads or Python.
 */
#ifndef MLXR_REDUCE_RUN_H
#define MLXR_REDUCE_RUN_H

#include <stdint.h>

#if defined(__AVX512F__)
#define RUN_BYTES 64
#define RUN_FOLD_32(v, OP) RUN_FOLD_16_LANES(v, OP)
#define RUN_FOLD_64(v, OP) RUN_FOLD_8_LANES(v, OP)
#elif defined(__AVX2__)
#define RUN_BYTES 32
#define RUN_FOLD_32(v, OP) RUN_FOLD_8_LANES(v, OP)
#define RUN_FOLD_64(v, OP) RUN_FOLD_4_LANES(v, OP)
#else
#define RUN_BYTES 16
#define RUN_FOLD_32(v, OP) RUN_FOLD_4_LANES(v, OP)
#define RUN_FOLD_64(v, OP) RUN_FOLD_2_LANES(v, OP)
#endif

/* The tree over the lanes of one vector: each half with the other, until all lanes hold the result. */
#define RUN_FOLD_2_LANES(v, OP) v = v OP __builtin_shufflevector(v, v, 1, 0)
#define RUN_FOLD_4_LANES(v, OP)                                                                                        \
    v = v OP __builtin_shufflevector(v, v, 2, 3, 0, 1);                                                                \
    v = v OP __builtin_shufflevector(v, v, 1, 0, 3, 2)
#define RUN_FOLD_8_LANES(v, OP)                                                                                        \
    v = v OP __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);                                                    \
    v = v OP __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);                                                    \
    v = v OP __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6)
#define RUN_FOLD_16_LANES(v, OP)                                                                                       \
    v = v OP __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);                      \
    v = v OP __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);                      \
    v = v OP __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);                      \
    v = v OP __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)

#if defined(__clang__)
#define RUN_UNROLL _Pragma("clang loop unroll(full)")
#define RUN_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define RUN_UNROLL _Pragma("GCC unroll 8")
#define RUN_ROLLED _Pragma("GCC unroll 1")
#endif

/* Loads written before this come before those written after it. */
#define RUN_IN_ORDER() __asm__ volatile("" ::: "memory")

/* NAME(x, chunks, part): the results of so many chunks of 1024 elements, in 16 lanes and blocks of 128. */
#define MLXR_RUN(NAME, T, OP, IDENTITY, FOLD)                                                                          \
    static void NAME(const T *x, Py_ssize_t chunks, T *part) {                                                         \
        typedef T vec __attribute__((vector_size(RUN_BYTES), aligned(sizeof(T)), may_alias));                          \
        enum { N = 16 * sizeof(T) / RUN_BYTES };                                                                       \
        for (; chunks > 0; chunks--) {                                                                                 \
            vec total[N], a[N], b[N], c[N];                                                                            \
            RUN_UNROLL for (int v = 0; v < N; v++) total[v] = (vec){0} + (T)(IDENTITY);                                \
            RUN_ROLLED for (int block = 0; block < 8; block++, x += 128) {                                             \
                const vec *p = (const vec *)x;                                                                         \
                RUN_UNROLL for (int v = 0; v < N; v++) a[v] = p[v] OP p[v + N];                                        \
                RUN_IN_ORDER();                                                                                        \
                RUN_UNROLL for (int v = 0; v < N; v++) b[v] = p[v + 2 * N] OP p[v + 3 * N];                            \
                RUN_IN_ORDER();                                                                                        \
                RUN_UNROLL for (int v = 0; v < N; v++) a[v] = a[v] OP b[v];                                            \
                RUN_UNROLL for (int v = 0; v < N; v++) b[v] = p[v + 4 * N] OP p[v + 5 * N];                            \
                RUN_IN_ORDER();                                                                                        \
                RUN_UNROLL for (int v = 0; v < N; v++) c[v] = p[v + 6 * N] OP p[v + 7 * N];                            \
                RUN_IN_ORDER();                                                                                        \
                RUN_UNROLL for (int v = 0; v < N; v++) total[v] = total[v] OP(a[v] OP(b[v] OP c[v]));                  \
            }                                                                                                          \
            RUN_UNROLL for (int half = N / 2; half > 0; half /= 2) {                                                   \
                RUN_UNROLL for (int v = 0; v < half; v++) total[v] = total[v] OP total[v + half];                      \
            }                                                                                                          \
            FOLD(total[0], OP);                                                                                        \
            *part++ = total[0][0];                                                                                     \
        }                                                                                                              \
    }

MLXR_RUN(sum_chunks_f32, float, +, 0, RUN_FOLD_32)
MLXR_RUN(sum_chunks_f64, double, +, 0, RUN_FOLD_64)
MLXR_RUN(sum_chunks_u32, uint32_t, +, 0, RUN_FOLD_32)
MLXR_RUN(sum_chunks_u64, uint64_t, +, 0, RUN_FOLD_64)
MLXR_RUN(prod_chunks_f32, float, *, 1, RUN_FOLD_32)
MLXR_RUN(prod_chunks_f64, double, *, 1, RUN_FOLD_64)
MLXR_RUN(prod_chunks_u32, uint32_t, *, 1, RUN_FOLD_32)
MLXR_RUN(prod_chunks_u64, uint64_t, *, 1, RUN_FOLD_64)

#endif
