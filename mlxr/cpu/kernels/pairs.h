/* Products of two bfloat16 matrices: pairs of neighbouring k, in the order of the processors' own instruction.
 *
 * vdpbf16ps (AVX512-BF16, twice the speed of float32) adds a pair of products to a float32 as two fused
 * multiply-adds, the odd k first, rounded to nearest even, subnormal inputs and results taken as zero. That order is
 * the one that matmul.pxd declares, so that processors without the instruction compute the same bits.
 *
 * Packed operands come in one of two forms. JOINED: one 32-bit lane holds a pair, even k in its low half, for the
 * instruction. SPLIT: float32 steps, odd k before even, for the ordinary micro-kernel of microkernel.h, under a
 * floating-point mode that flushes subnormals. An odd number of k is a pair with zero at the end. A strip takes the
 * room of its float32 steps in both forms.
 *
 * Like microkernel.h this knows of addresses, strides and counts only.
 */
#ifndef MLXR_PAIRS_H
#define MLXR_PAIRS_H

#include "microkernel.h"

enum { FORM_FLOATS, FORM_SPLIT, FORM_JOINED };

/* ---- the floating-point mode; one thread's own ---- */

static inline uint64_t flush_subnormals(void) {
    uint64_t mode = 0;
#if defined(__x86_64__)
    mode = _mm_getcsr();
    _mm_setcsr((unsigned)mode | 0x8040u); /* flush results to zero, take inputs as zero */
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | 1u << 24));
#endif
    __asm__ volatile("" : : : "memory"); /* what is computed from memory stays behind this line */
    return mode;
}

static inline void restore_mode(uint64_t mode) {
    __asm__ volatile("" : : : "memory");
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#endif
}

/* ---- one pair ---- */

#if defined(__AVX512F__)
/* As an assembler line, because the file is compiled for processors with and without the instruction. */
MLXR_INLINE vf32 dot_pairs(vf32 acc, vu32 a, vu32 b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
}
#endif
MLXR_INLINE vf32 odd_half(vu32 pair) { return (vf32)(pair & 0xffff0000u); }
MLXR_INLINE vf32 even_half(vu32 pair) { return (vf32)(pair << 16); }

/* Whether the processor has the instruction, and it computes what is declared (an emulated one might not). */
static int joined_pairs_work(void) {
#if defined(__AVX512F__)
    uint32_t bits = 1;
    int same = 1;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512bf16")) return 0;
    const uint64_t mode = flush_subnormals();
    for (int round = 0; round < 64 && same; round++) {
        uint32_t lanes[3 * F32_LANES];
        vu32 x[3];
        for (int i = 0; i < 3 * F32_LANES; i++) {
            bits = bits * 1664525u + 1013904223u;
            lanes[i] = bits & 0xbfffbfffu; /* no NaN, whose bits are not promised */
        }
        memcpy(x, lanes, sizeof x);
        vf32 acc = (vf32)x[2], wanted = fma_f32(odd_half(x[0]), odd_half(x[1]), acc);
        wanted = fma_f32(even_half(x[0]), even_half(x[1]), wanted);
        acc = dot_pairs(acc, x[0], x[1]);
        same = memcmp(&acc, &wanted, sizeof acc) == 0;
    }
    restore_mode(mode);
    return same;
#else
    return 0;
#endif
}

/* ---- packing ---- */

/* `nk` float32 steps of a strip, exact bfloat16 numbers, turned into one of the two forms where they lie. */
static void pair_steps(int form, Py_ssize_t nk, Py_ssize_t width, float *strip) {
    if (nk % 2) memset(strip + nk * width, 0, (size_t)width * 4);
    for (Py_ssize_t k = 0; k < nk; k += 2) {
        float *even = strip + k * width, *odd = even + width, *joined = strip + k / 2 * width;
        Py_ssize_t w = 0;
        for (; w + F32_LANES <= width; w += F32_LANES) {
            const vu32 e = (vu32)load_f32(even + w), o = (vu32)load_f32(odd + w);
            if (form == FORM_JOINED) {
                store_f32(joined + w, (vf32)(e >> 16 | o));
            } else {
                store_f32(even + w, (vf32)o);
                store_f32(odd + w, (vf32)e);
            }
        }
        for (; w < width; w++) {
            uint32_t e, o;
            memcpy(&e, even + w, 4);
            memcpy(&o, odd + w, 4);
            if (form == FORM_JOINED) {
                e = e >> 16 | o;
                memcpy(joined + w, &e, 4);
            } else {
                memcpy(even + w, &o, 4);
                memcpy(odd + w, &e, 4);
            }
        }
    }
}

/* One step of pairs: `width` lanes of rows k and k + 1 (NULL: zeros) of a matrix, of which `left` exist. */
MLXR_INLINE void pair_lanes_of(const int form, const char *even, const char *odd, Py_ssize_t left, Py_ssize_t width,
                               float *step) {
    for (Py_ssize_t w = 0; w < width; w += F32_LANES) {
        vu32 e = splat_u32(0), o = splat_u32(0);
        if (w + F32_LANES <= left) {
            e = widen_u16(load_u16(even + 2 * w));
            if (odd) o = widen_u16(load_u16(odd + 2 * w));
        } else {
            for (int i = 0; i < left - w; i++) {
                uint16_t h;
                memcpy(&h, even + 2 * (w + i), 2);
                e[i] = h;
                if (odd) memcpy(&h, odd + 2 * (w + i), 2);
                o[i] = odd ? h : 0;
            }
        }
        if (form == FORM_JOINED) {
            store_f32(step + w, (vf32)(e | o << 16));
        } else {
            store_f32(step + w, (vf32)(o << 16));
            store_f32(step + width + w, (vf32)(e << 16));
        }
    }
}

/* Strips whose lanes are neighbours in memory: rows are walked in pairs, all strips abreast. */
static void pair_lanes(int form, const char *src, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk, Py_ssize_t per,
                       Py_ssize_t width, float *dst) {
    for (Py_ssize_t k = 0; k < nk; k += 2, src += 4 * sk) {
        float *step = dst + (form == FORM_JOINED ? k / 2 : k) * width;
        for (Py_ssize_t w = 0; w < nw; w += per, step += (nk + nk % 2) * width) {
            const char *even = src + 2 * w, *odd = k + 1 < nk ? even + 2 * sk : NULL;
            __builtin_prefetch(even + 16 * 2 * sk, 0, 3);
            __builtin_prefetch(even + 17 * 2 * sk, 0, 3);
            if (form == FORM_JOINED)
                pair_lanes_of(FORM_JOINED, even, odd, nw - w, width, step);
            else
                pair_lanes_of(FORM_SPLIT, even, odd, nw - w, width, step);
        }
    }
}

/* As pack_f32, in a paired form: strips lie nk steps apart, an odd nk rounded up. */
static void pack_pairs(int form, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                       Py_ssize_t per, Py_ssize_t width, float *dst) {
    const Py_ssize_t room = (nk + nk % 2) * width;
    if (sw == 1 && width > 1) {
        pair_lanes(form, src, sk, nw, nk, per, width, dst);
        return;
    }
    for (; nw > 0; nw -= per, src += per * sw * 2, dst += room) {
        const Py_ssize_t used = nw < per ? nw : per;
        if (form == FORM_JOINED && width > 1 && sk == 1 && sw % 2 == 0 && nk % 2 == 0) {
            pack_f32(CODE_F32, src, sw / 2, 1, used, nk / 2, per, width, dst); /* pairs as they lie, 4 bytes each */
            continue;
        }
        if (width == 1)
            row_to_f32(CODE_BF16, src, sk, nk, dst);
        else
            pack_f32(CODE_BF16, src, sw, sk, used, nk, per, width, dst);
        pair_steps(form, nk, width, dst);
    }
}

/* ---- products ---- */

/* As `block` of microkernel_real.h for `k` of k, with packed A in `form`. B is a packed strip of JOINED pairs, `ldb` lanes
 * to a step; or, if `placed`, a row-major matrix of bfloat16 where it lies, `ldb` elements to a row. */
MLXR_INLINE void pair_block(const int form, const int placed, const int m, const int nv, Py_ssize_t k, const float *a,
                            Py_ssize_t lda, const char *b, Py_ssize_t ldb, const float *init, const float *add,
                            Py_ssize_t ldt, float *dst, Py_ssize_t ldd) {
    vf32 acc[GEMM_MR][2];
    MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] = (vf32){0};
    if (init)
        MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] =
            load_f32(init + i * ldt + v * F32_LANES);
    for (; k > 0; k -= 2) {
        vu16 even[2], odd[2];
        if (placed) MLXR_UNROLL for (int v = 0; v < nv; v++) {
                even[v] = load_u16(b + v * F32_LANES * 2);
                odd[v] = k > 1 ? load_u16(b + (ldb + v * F32_LANES) * 2) : (vu16){0};
            }
#if defined(__AVX512F__)
        if (form == FORM_JOINED) {
            vu32 pairs[2];
            MLXR_UNROLL for (int v = 0; v < nv; v++) pairs[v] =
                placed ? widen_u16(even[v]) | widen_u16(odd[v]) << 16 : (vu32)load_f32(b + v * F32_LANES * 4);
            MLXR_UNROLL for (int i = 0; i < m; i++) {
                const vu32 ai = (vu32)splat_f32(a[i]);
                MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] = dot_pairs(acc[i][v], ai, pairs[v]);
            }
            a += lda;
        }
#endif
        if (form == FORM_SPLIT) {
            MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] =
                fma_f32(splat_f32(a[i]), bf16_to_f32(odd[v]), acc[i][v]);
            a += lda;
            MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] =
                fma_f32(splat_f32(a[i]), bf16_to_f32(even[v]), acc[i][v]);
            a += lda;
        }
        b += ldb * 4; /* a step of pairs, or two rows */
    }
    if (add)
        MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] =
            load_f32(add + i * ldt + v * F32_LANES) + acc[i][v];
    MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++)
        store_f32(dst + i * ldd + v * F32_LANES, acc[i][v]);
}

#define PAIR_BLOCK(F, P, M, V)                                                                                         \
    static __attribute__((noinline)) void pair_block_##F##_##P##_##M##_##V(                                            \
        Py_ssize_t k, const float *a, Py_ssize_t lda, const char *b, Py_ssize_t ldb, const float *init,                \
        const float *add, Py_ssize_t ldt, float *dst, Py_ssize_t ldd) {                                                \
        pair_block(F, P, M, V, k, a, lda, b, ldb, init, add, ldt, dst, ldd);                                           \
    }
#define SPLIT_PLACED(D, M) PAIR_BLOCK(FORM_SPLIT, 1, M, 1) PAIR_BLOCK(FORM_SPLIT, 1, M, 2)
#define JOINED_PLACED(D, M) PAIR_BLOCK(FORM_JOINED, 1, M, 1) PAIR_BLOCK(FORM_JOINED, 1, M, 2)
#define JOINED_PACKED(D, M) PAIR_BLOCK(FORM_JOINED, 0, M, 1) PAIR_BLOCK(FORM_JOINED, 0, M, 2)
#define SPLIT_PLACED_ENTRY(D, M) {pair_block_FORM_SPLIT_1_##M##_1, pair_block_FORM_SPLIT_1_##M##_2},
#define JOINED_PLACED_ENTRY(D, M) {pair_block_FORM_JOINED_1_##M##_1, pair_block_FORM_JOINED_1_##M##_2},
#define JOINED_PACKED_ENTRY(D, M) {pair_block_FORM_JOINED_0_##M##_1, pair_block_FORM_JOINED_0_##M##_2},

EACH_HEIGHT(SPLIT_PLACED, 0)
static const block_fn_f32 split_placed[GEMM_MR][2] = {EACH_HEIGHT(SPLIT_PLACED_ENTRY, 0)};
#if defined(__AVX512F__)
EACH_HEIGHT(JOINED_PLACED, 0)
EACH_HEIGHT(JOINED_PACKED, 0)
static const block_fn_f32 joined_placed[GEMM_MR][2] = {EACH_HEIGHT(JOINED_PLACED_ENTRY, 0)};
static const block_fn_f32 joined_packed[GEMM_MR][2] = {EACH_HEIGHT(JOINED_PACKED_ENTRY, 0)};
#endif
#undef PAIR_BLOCK
#undef SPLIT_PLACED
#undef JOINED_PLACED
#undef JOINED_PACKED
#undef SPLIT_PLACED_ENTRY
#undef JOINED_PLACED_ENTRY
#undef JOINED_PACKED_ENTRY

/* A block for `k` of k. B is a packed strip in the same form as A, or `placed`. */
static void run_pair_block(int form, int placed, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t k, const float *a,
                           Py_ssize_t lda, const char *b, Py_ssize_t ldb, const float *init, const float *add,
                           Py_ssize_t ldt, float *dst, Py_ssize_t ldd) {
    block_fn_f32 block = placed ? split_placed[rows - 1][vectors - 1] : blocks_NATIVE_f32[rows - 1][vectors - 1];
#if defined(__AVX512F__)
    if (form == FORM_JOINED)
        block = placed ? joined_placed[rows - 1][vectors - 1] : joined_packed[rows - 1][vectors - 1];
#endif
    if (form == FORM_SPLIT && !placed) k += k % 2; /* the zero of an odd last pair is a step of its own */
    block(k, a, lda, b, ldb, init, add, ldt, dst, ldd);
}

/* As the functions of these names in microkernel_real.h, for pairs of bfloat16. */
MLXR_INLINE void pair_row_strip(const int form, Py_ssize_t k, const float *a, const char *b, Py_ssize_t ldb,
                                const float *init, const float *add, float *dst) {
    for (Py_ssize_t ahead = k; ahead < 2 * k; ahead++)
        __builtin_prefetch(b + ahead * ldb * 2, 0, 2);
    pair_block(form, 1, 1, 2, k, a, 1, b, ldb, init, add, 0, dst, 0);
}
MLXR_INLINE void pair_row(const int form, Py_ssize_t strips, Py_ssize_t k, const float *a, const char *b,
                          Py_ssize_t ldb, const float *init, const float *add, float *dst) {
    for (Py_ssize_t j = 0; j < strips * 2 * F32_LANES; j += 2 * F32_LANES) {
        const float *from = init ? init + j : NULL, *sums = add ? add + j : NULL;
        if (k == ROW_STEPS)
            pair_row_strip(form, ROW_STEPS, a, b + j * 2, ldb, from, sums, dst + j);
        else
            pair_row_strip(form, k, a, b + j * 2, ldb, from, sums, dst + j);
    }
}
static void run_pair_row(int form, Py_ssize_t strips, Py_ssize_t k, const float *a, const char *b, Py_ssize_t ldb,
                         const float *init, const float *add, float *dst) {
#if defined(__AVX512F__)
    if (form == FORM_JOINED) {
        pair_row(FORM_JOINED, strips, k, a, b, ldb, init, add, dst);
        return;
    }
#endif
    pair_row(FORM_SPLIT, strips, k, a, b, ldb, init, add, dst);
}

/* `sum` and the pair of products of k and k + 1; one row of A, in `form`, and one pair of B a lane. */
MLXR_INLINE vf32 add_pair(const int form, const float *x, Py_ssize_t k, vf32 pair, vf32 sum) {
#if defined(__AVX512F__)
    if (form == FORM_JOINED) return dot_pairs(sum, (vu32)splat_f32(x[k / 2]), (vu32)pair);
#endif
    sum = fma_f32(splat_f32(x[k]), odd_half((vu32)pair), sum);
    return fma_f32(splat_f32(x[k + 1]), even_half((vu32)pair), sum);
}

/* As dot_strip_f32: one row of A, in `form`, against a strip of up to NR columns of B whose k are neighbours. */
MLXR_INLINE void pair_dot_strip_of(const int form, const char *src, Py_ssize_t sw, Py_ssize_t nw, Py_ssize_t nk,
                                   const float *x, float *dst) {
    enum { NR = 2 * F32_LANES, STEPS = 2 * F32_LANES }; /* k in a transposed block */
    const Py_ssize_t row = sw * 2, first = line_start_f32(CODE_F32, src, row) * 2;
    float part[NR * STEPS];
    vf32 sum[2] = {{0}, {0}};
    for (Py_ssize_t k = 0, left; k < nk; k += left) {
        left = nk - k < STEPS ? nk - k : STEPS;
        if (k == 0 && first && first < nk) left = first;
        if (left == STEPS) {
            MLXR_UNROLL for (int v = 0; v < 2; v++) {
                vf32 block[2 * F32_LANES];
                transposed_block_f32(CODE_F32, src + v * F32_LANES * row + k * 2, row, nw - v * F32_LANES, block);
                MLXR_UNROLL for (int i = 0; i < F32_LANES; i++) sum[v] = add_pair(form, x, k + 2 * i, block[i], sum[v]);
            }
        } else {
            pack_any_f32(CODE_BF16, src + k * 2, sw, 1, nw, left, NR, NR, part);
            pair_steps(FORM_JOINED, left, NR, part);
            for (Py_ssize_t i = 0; 2 * i < left; i++)
                for (int v = 0; v < 2; v++)
                    sum[v] = add_pair(form, x, k + 2 * i, load_f32(part + i * NR + v * F32_LANES), sum[v]);
        }
    }
    for (int v = 0; v < 2; v++)
        store_f32(dst + v * F32_LANES, sum[v]);
}
static void pair_dot_strip(int form, const char *src, Py_ssize_t sw, Py_ssize_t nw, Py_ssize_t nk, const float *x,
                           float *dst) {
#if defined(__AVX512F__)
    if (form == FORM_JOINED) {
        pair_dot_strip_of(FORM_JOINED, src, sw, nw, nk, x, dst);
        return;
    }
#endif
    pair_dot_strip_of(FORM_SPLIT, src, sw, nw, nk, x, dst);
}

#endif
