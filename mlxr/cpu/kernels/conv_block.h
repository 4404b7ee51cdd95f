/* Micro-kernels of the convolution family: what Cython cannot express.
 *
 * Like the block of microkernel_real.h, but the rows of A lie `step` elements apart in memory (neighbouring outputs
 * read neighbouring positions of an input row), and k runs over several pieces of memory without leaving the
 * registers. It knows of addresses and counts; it must not know of taps, padding, threads or Python.
 *
 * The file includes itself, once per arithmetic type.
 */
#ifndef NAME
#ifndef MLXR_CONV_BLOCK_H
#define MLXR_CONV_BLOCK_H

#include "microkernel.h"

enum { DEPTHWISE_LANES = 64 };

#define REAL float
#define VREAL vf32
#define LANES F32_LANES
#define NAME(x) x##_f32
#include "conv_block.h"
#undef REAL
#undef VREAL
#undef LANES
#undef NAME

#define REAL double
#define VREAL vf64
#define LANES F64_LANES
#define NAME(x) x##_f64
#include "conv_block.h"
#undef REAL
#undef VREAL
#undef LANES
#undef NAME

#endif
#else

/* n steps of k whose elements lie together: row i of A from a + i * step on, B from b on in strips of NR. A step of A is
 * one element, or (`spread`) one for each of the NR lanes: lanes of several groups see channels of their own. */
typedef struct {
    const REAL *a, *b;
    Py_ssize_t n;
} NAME(conv_run);

/* An m x (nv vectors) block of outputs; `at` is added to the address of every run of A. `add` and `dst` are as in the
 * block of microkernel_real.h. Each element is one chain of fused multiply-adds over the runs in order. */
MLXR_INLINE void NAME(conv)(const int spread, const int m, const int nv, const NAME(conv_run) * runs, Py_ssize_t count,
                            Py_ssize_t at, Py_ssize_t step, const REAL *add, Py_ssize_t lda, REAL *dst,
                            Py_ssize_t ldd) {
    VREAL acc[GEMM_MR][2];
    MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] = (VREAL){0};
    for (Py_ssize_t r = 0; r < count; r++) {
        /* Three rows per pointer: base, base + step, base + 2 * step are addresses that x86 forms by itself. */
        const REAL *a[(GEMM_MR + 2) / 3], *b = runs[r].b;
        MLXR_UNROLL for (int j = 0; j < (m + 2) / 3; j++) a[j] = runs[r].a + at + 3 * j * step;
        for (Py_ssize_t k = 0; k < runs[r].n; k++) {
            VREAL bv[2];
            MLXR_UNROLL for (int v = 0; v < nv; v++) bv[v] = NAME(load)(b + v * LANES);
            MLXR_UNROLL for (int i = 0; i < m; i++) {
                const REAL *ai = a[i / 3] + (i % 3) * step;
                MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] =
                    NAME(fma)(spread ? NAME(load)(ai + v * LANES) : NAME(splat)(*ai), bv[v], acc[i][v]);
            }
            MLXR_UNROLL for (int j = 0; j < (m + 2) / 3; j++) a[j] += spread ? 2 * LANES : 1;
            b += 2 * LANES;
        }
    }
    if (add)
        MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] =
            NAME(load)(add + i * lda + v * LANES) + acc[i][v];
    MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++)
        NAME(store)(dst + i * ldd + v * LANES, acc[i][v]);
}

#define BLOCK(S, M, V)                                                                                                 \
    static __attribute__((noinline)) void NAME(conv_##S##_##M##_##V)(const NAME(conv_run) * runs, Py_ssize_t count,    \
                                                                     Py_ssize_t at, Py_ssize_t step, const REAL *add,  \
                                                                     Py_ssize_t lda, REAL *dst, Py_ssize_t ldd) {      \
        NAME(conv)(S, M, V, runs, count, at, step, add, lda, dst, ldd);                                                \
    }
#define BLOCKS(M) BLOCK(0, M, 1) BLOCK(0, M, 2) BLOCK(1, M, 1) BLOCK(1, M, 2)
#define ENTRY(M) {NAME(conv_0_##M##_1), NAME(conv_0_##M##_2)},
#define SPREAD_ENTRY(M) {NAME(conv_1_##M##_1), NAME(conv_1_##M##_2)},
#if defined(__AVX512F__)
#define EACH(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif defined(__AVX2__)
#define EACH(X) X(1) X(2) X(3) X(4) X(5) X(6)
#elif defined(__aarch64__)
#define EACH(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#else
#define EACH(X) X(1) X(2) X(3) X(4)
#endif

EACH(BLOCKS)

typedef void (*NAME(conv_fn))(const NAME(conv_run) *, Py_ssize_t, Py_ssize_t, Py_ssize_t, const REAL *, Py_ssize_t,
                              REAL *, Py_ssize_t);
static const NAME(conv_fn) NAME(conv_blocks)[GEMM_MR][2] = {EACH(ENTRY)};
static const NAME(conv_fn) NAME(spread_blocks)[GEMM_MR][2] = {EACH(SPREAD_ENTRY)};

#undef BLOCK
#undef BLOCKS
#undef ENTRY
#undef SPREAD_ENTRY
#undef EACH

/* The channels of `groups` groups at one position, [group][cin], for lanes [group][cout]: dst[c][lane] is channel c of the
 * lane's group; lanes past the groups are zero. */
MLXR_INLINE void NAME(spread_of)(const REAL *x, Py_ssize_t groups, Py_ssize_t cin, const Py_ssize_t cout, REAL *dst) {
    enum { NR = 2 * LANES };
    for (Py_ssize_t c = 0; c < cin; c++, dst += NR) {
        REAL *lane = dst;
        for (Py_ssize_t g = 0; g < groups; g++, lane += cout)
            for (Py_ssize_t i = 0; i < cout; i++)
                lane[i] = x[g * cin + c];
        for (; lane < dst + NR; lane++)
            *lane = 0;
    }
}
static void NAME(spread)(const REAL *x, Py_ssize_t groups, Py_ssize_t cin, Py_ssize_t cout, REAL *dst) {
    if (cout == 2)
        NAME(spread_of)(x, groups, cin, 2, dst);
    else if (cout == 4)
        NAME(spread_of)(x, groups, cin, 4, dst);
    else if (cout == 8)
        NAME(spread_of)(x, groups, cin, 8, dst);
    else
        NAME(spread_of)(x, groups, cin, cout, dst);
}

/* chain[c] = fma(x[xs[t] + c], w[ws[t] + c], chain[c]) for t = 0, 1, ... in order, for all DEPTHWISE_LANES lanes c. */
static void NAME(depthwise)(const REAL *x, const Py_ssize_t *xs, const REAL *w, const Py_ssize_t *ws, Py_ssize_t count,
                            REAL *chain) {
    enum { GROUP = 4 * LANES }; /* four independent chains hide the latency of one */
    for (int c = 0; c < DEPTHWISE_LANES; c += GROUP) {
        VREAL acc[4];
        MLXR_UNROLL for (int v = 0; v < 4; v++) acc[v] = NAME(load)(chain + c + v * LANES);
        for (Py_ssize_t t = 0; t < count; t++)
            MLXR_UNROLL for (int v = 0; v < 4; v++) acc[v] =
                NAME(fma)(NAME(load)(x + xs[t] + c + v * LANES), NAME(load)(w + ws[t] + c + v * LANES), acc[v]);
        MLXR_UNROLL for (int v = 0; v < 4; v++) NAME(store)(chain + c + v * LANES, acc[v]);
    }
}

#endif
