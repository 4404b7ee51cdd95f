/* The part of microkernel.h that exists once per arithmetic type: packing of panels and the micro-kernel.
 *
 * No include guard: microkernel.h includes it with REAL, VREAL, LANES, NATIVE (the dtype code of REAL) and NAME set.
 * It must not know of plans, threads or Python.
 */

enum { NAME(GEMM_NR) = 2 * LANES };

/* `n` elements, `stride` apart, as the arithmetic type. */
MLXR_INLINE void NAME(row_of)(const int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, REAL *dst) {
    const int size = item_bytes(dtype);
    Py_ssize_t i = 0;
    if (stride == 1)
        for (; i + LANES <= n; i += LANES)
            NAME(store)(dst + i, NAME(lanes_to)(src + i * size, dtype));
    for (; i < n; i++)
        dst[i] = NAME(scalar_to)(src + i * stride * size, dtype);
}
static void NAME(row_to)(int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, REAL *dst) {
    if (dtype == NATIVE)
        NAME(row_of)(NATIVE, src, stride, n, dst);
    else if (NATIVE == CODE_F32 && dtype == CODE_F16)
        NAME(row_of)(CODE_F16, src, stride, n, dst);
    else if (NATIVE == CODE_F32 && dtype == CODE_BF16)
        NAME(row_of)(CODE_BF16, src, stride, n, dst);
    else
        for (Py_ssize_t i = 0; i < n; i++)
            dst[i] = NAME(scalar_to)(src + i * stride * item_bytes(dtype), dtype);
}

/* Packs a panel: element (w, k) of the source, at src + w * sw + k * sk (in elements of `dtype`), goes to lane w % per
 * of step k of strip w / per; a strip is nk steps of `width` lanes. Lanes past `nw` are zero in the last strip, lanes
 * past `per` are unspecified: the micro-kernel uses neither. `per` <= `width`, a multiple of LANES.
 *
 * Where lanes are neighbours in memory: whole rows of the source are walked, all strips abreast. */
MLXR_INLINE void NAME(pack_lanes_of)(const int dtype, const char *src, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                                     Py_ssize_t per, Py_ssize_t width, REAL *dst) {
    const int size = item_bytes(dtype);
    for (Py_ssize_t k = 0; k < nk; k++, src += sk * size) {
        REAL *step = dst + k * width;
        for (Py_ssize_t w0 = 0; w0 < nw; w0 += per, step += nk * width) {
            Py_ssize_t w = 0;
            for (; w < width && w0 + w + LANES <= nw; w += LANES)
                NAME(store)(step + w, NAME(lanes_to)(src + (w0 + w) * size, dtype));
            for (; w < width; w++)
                step[w] = w0 + w < nw ? NAME(scalar_to)(src + (w0 + w) * size, dtype) : 0;
        }
    }
}

/* Elements of one step-contiguous row that fill a vector. */
MLXR_INLINE Py_ssize_t NAME(block_steps)(int dtype) { return LANES * (Py_ssize_t)sizeof(REAL) / item_bytes(dtype); }

/* A vector from each of `used` <= LANES rows, transposed in registers: steps[k] has the rows as lanes. 16-bit elements
 * travel in pairs, which halves the shuffles, and give 2 * LANES steps. */
MLXR_INLINE void NAME(transposed_block)(const int dtype, const char *corner, Py_ssize_t row, Py_ssize_t used,
                                        VREAL steps[2 * LANES]) {
    VREAL block[LANES];
    if (used >= LANES) {
        MLXR_UNROLL for (int i = 0; i < LANES; i++) {
            block[i] = NAME(load)(corner + i * row);
            __builtin_prefetch(corner + i * row + PREFETCH_BYTES, 0, 2);
        }
    } else {
        for (int i = 0; i < LANES; i++)
            block[i] = i < used ? NAME(load)(corner + i * row) : (VREAL){0};
    }
    NAME(transpose)(block);
    MLXR_UNROLL for (int i = 0; i < LANES; i++) {
        if (dtype == NATIVE) steps[i] = block[i];
#ifdef HAS_HALVES
        else {
            steps[2 * i] = NAME(low_half)(block[i], dtype);
            steps[2 * i + 1] = NAME(high_half)(block[i], dtype);
        }
#endif
    }
}

/* Steps from the first one that starts a cache line of every row, where the rows allow it. Rows a power of two apart
 * share a set of the L1 cache, which a line read twice would not survive. */
MLXR_INLINE Py_ssize_t NAME(line_start)(int dtype, const char *src, Py_ssize_t row) {
    const Py_ssize_t off = (Py_ssize_t)((uintptr_t)src & 63), size = item_bytes(dtype);
    return off != 0 && row % 64 == 0 && off % size == 0 ? (64 - off) / size % NAME(block_steps)(dtype) : 0;
}

/* Where steps are neighbours in memory. Blocks are aligned to cache lines; the first and the last overlap their
 * neighbours instead of being partial, which is why nk has to be a block at least. */
MLXR_INLINE void NAME(pack_steps_of)(const int dtype, const char *src, Py_ssize_t sw, Py_ssize_t nw, Py_ssize_t nk,
                                     Py_ssize_t per, Py_ssize_t width, REAL *dst) {
    const Py_ssize_t size = item_bytes(dtype), row = sw * size, steps = NAME(block_steps)(dtype);
    const Py_ssize_t second = NAME(line_start)(dtype, src, row);
    for (Py_ssize_t w0 = 0; w0 < nw; w0 += per, dst += nk * width, src += per * row) {
        Py_ssize_t used = nw - w0 < per ? nw - w0 : per, k = 0;
        while (1) {
            for (Py_ssize_t w = 0; w < width; w += LANES) {
                VREAL block[2 * LANES];
                REAL *to = dst + k * width + w;
                NAME(transposed_block)(dtype, src + w * row + k * size, row, used - w, block);
                MLXR_UNROLL_32 for (int i = 0; i < steps; i++) NAME(store)(to + i * width, block[i]);
            }
            if (k + steps >= nk) break;
            k = k == 0 && second ? second : k + steps;
            if (k + steps > nk) k = nk - steps;
        }
    }
}

/* Fewer neighbouring steps than fill a vector of the source, as the scales of a quantized matrix have them, and the odd
 * words of its rows: rows are converted as they are loaded. A load that reaches into the next row is one vector instead
 * of a loop; at the end of the source there is no next row. */
MLXR_INLINE void NAME(pack_few_of)(const int dtype, const char *src, Py_ssize_t sw, Py_ssize_t nw, Py_ssize_t nk,
                                   Py_ssize_t per, Py_ssize_t width, REAL *dst) {
    const Py_ssize_t size = item_bytes(dtype), row = sw * size;
    const char *end = src + ((nw - 1) * sw + nk) * size;
    for (Py_ssize_t w0 = 0; w0 < nw; w0 += per, dst += nk * width, src += per * row) {
        const Py_ssize_t used = nw - w0 < per ? nw - w0 : per;
        for (Py_ssize_t k = 0; k < nk; k += LANES) {
            const Py_ssize_t steps = nk - k < LANES ? nk - k : LANES;
            for (Py_ssize_t w = 0; w < width; w += LANES) {
                VREAL block[LANES];
                const char *p = src + w * row + k * size;
                MLXR_UNROLL for (int i = 0; i < LANES; i++, p += row) {
                    REAL part[LANES] = {0};
                    if (w + i < used && p + LANES * size <= end)
                        block[i] = NAME(lanes_to)(p, dtype);
                    else {
                        for (Py_ssize_t x = 0; w + i < used && x < steps; x++)
                            part[x] = NAME(scalar_to)(p + x * size, dtype);
                        block[i] = NAME(load)(part);
                    }
                }
                NAME(transpose)(block);
                REAL *to = dst + k * width + w;
                for (Py_ssize_t i = 0; i < steps; i++)
                    NAME(store)(to + i * width, block[i]);
            }
        }
    }
}

/* Any dtype, any strides: rows are converted into a buffer and transposed from there. */
enum { NAME(STRETCH) = 512 / sizeof(REAL) };
static void NAME(pack_any)(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                           Py_ssize_t per, Py_ssize_t width, REAL *dst) {
    enum { LD = NAME(STRETCH) + LANES };
    REAL rows[LANES * LD] __attribute__((aligned(64)));
    const Py_ssize_t size = item_bytes(dtype);
    for (Py_ssize_t w0 = 0; w0 < nw; w0 += per, dst += nk * width, src += per * sw * size) {
        Py_ssize_t used = nw - w0 < per ? nw - w0 : per;
        for (Py_ssize_t k = 0; k < nk; k += NAME(STRETCH)) {
            Py_ssize_t len = nk - k < NAME(STRETCH) ? nk - k : NAME(STRETCH);
            for (Py_ssize_t w = 0; w < width; w += LANES) {
                for (Py_ssize_t i = 0; i < LANES; i++) {
                    if (w + i < used)
                        NAME(row_to)(dtype, src + ((w + i) * sw + k * sk) * size, sk, len, rows + i * LD);
                    else
                        memset(rows + i * LD, 0, (size_t)len * sizeof(REAL));
                }
                for (Py_ssize_t x = 0; x < len; x += LANES) {
                    VREAL block[LANES];
                    MLXR_UNROLL for (int i = 0; i < LANES; i++) block[i] = NAME(load)(rows + i * LD + x);
                    NAME(transpose)(block);
                    REAL *to = dst + (k + x) * width + w;
                    for (Py_ssize_t i = 0; i < LANES && x + i < len; i++)
                        NAME(store)(to + i * width, block[i]);
                }
            }
        }
    }
}

static void NAME(pack)(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                       Py_ssize_t per, Py_ssize_t width, REAL *dst) {
    const int f16 = NATIVE == CODE_F32 && dtype == CODE_F16, bf16 = NATIVE == CODE_F32 && dtype == CODE_BF16;
    if (sw == 1 && dtype == NATIVE)
        NAME(pack_lanes_of)(NATIVE, src, sk, nw, nk, per, width, dst);
    else if (sw == 1 && f16)
        NAME(pack_lanes_of)(CODE_F16, src, sk, nw, nk, per, width, dst);
    else if (sw == 1 && bf16)
        NAME(pack_lanes_of)(CODE_BF16, src, sk, nw, nk, per, width, dst);
    else if (sk != 1 || sw < nk)
        NAME(pack_any)(dtype, src, sw, sk, nw, nk, per, width, dst);
    else if (dtype == NATIVE && nk < NAME(block_steps)(NATIVE))
        NAME(pack_few_of)(NATIVE, src, sw, nw, nk, per, width, dst);
    else if (f16 && nk < NAME(block_steps)(CODE_F16))
        NAME(pack_few_of)(CODE_F16, src, sw, nw, nk, per, width, dst);
    else if (bf16 && nk < NAME(block_steps)(CODE_BF16))
        NAME(pack_few_of)(CODE_BF16, src, sw, nw, nk, per, width, dst);
    else if (dtype == NATIVE)
        NAME(pack_steps_of)(NATIVE, src, sw, nw, nk, per, width, dst);
    else if (f16)
        NAME(pack_steps_of)(CODE_F16, src, sw, nw, nk, per, width, dst);
    else if (bf16)
        NAME(pack_steps_of)(CODE_BF16, src, sw, nw, nk, per, width, dst);
    else
        NAME(pack_any)(dtype, src, sw, sk, nw, nk, per, width, dst);
}

/* One row of A against a strip of up to NR rows of B whose steps are neighbours in memory: dst[j] is the chain of
 * x[k] * B(j, k) in increasing k, from zero. Blocks go from the transposition into the sums without being stored. */
MLXR_INLINE void NAME(dot_strip_of)(const int dtype, const char *src, Py_ssize_t sw, Py_ssize_t nw, Py_ssize_t nk,
                                    const REAL *x, REAL *dst) {
    enum { NR = 2 * LANES };
    const Py_ssize_t size = item_bytes(dtype), row = sw * size, steps = NAME(block_steps)(dtype);
    REAL part[NR * NR];
    VREAL sum[2] = {{0}, {0}};
    for (Py_ssize_t k = 0, left; k < nk; k += left) {
        left = nk - k < steps ? nk - k : steps;
        if (k == 0 && NAME(line_start)(dtype, src, row)) left = NAME(line_start)(dtype, src, row);
        if (left > nk) left = nk;
        if (left == steps) {
            MLXR_UNROLL for (int v = 0; v < 2; v++) {
                VREAL block[2 * LANES];
                NAME(transposed_block)(dtype, src + v * LANES * row + k * size, row, nw - v * LANES, block);
                MLXR_UNROLL_32 for (int i = 0; i < steps; i++) sum[v] =
                    NAME(fma)(NAME(splat)(x[k + i]), block[i], sum[v]);
            }
        } else {
            NAME(pack_any)(dtype, src + k * size, sw, 1, nw, left, NR, NR, part);
            for (Py_ssize_t i = 0; i < left; i++)
                for (int v = 0; v < 2; v++)
                    sum[v] = NAME(fma)(NAME(splat)(x[k + i]), NAME(load)(part + i * NR + v * LANES), sum[v]);
        }
    }
    for (int v = 0; v < 2; v++)
        NAME(store)(dst + v * LANES, sum[v]);
}
static void NAME(dot_strip)(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t nw, Py_ssize_t nk, const REAL *x,
                            REAL *dst) {
    if (dtype == NATIVE) NAME(dot_strip_of)(NATIVE, src, sw, nw, nk, x, dst);
#ifdef HAS_HALVES
    else if (dtype == CODE_F16)
        NAME(dot_strip_of)(CODE_F16, src, sw, nw, nk, x, dst);
    else
        NAME(dot_strip_of)(CODE_BF16, src, sw, nw, nk, x, dst);
#endif
}

/* sums[lane] continued by the products of two packed strips of NR lanes, step by step. */
static void NAME(lane_products)(Py_ssize_t nk, const REAL *a, const REAL *b, REAL *sums) {
    VREAL sum[2] = {NAME(load)(sums), NAME(load)(sums + LANES)};
    for (Py_ssize_t k = 0; k < nk; k++, a += 2 * LANES, b += 2 * LANES)
        for (int v = 0; v < 2; v++)
            sum[v] = NAME(fma)(NAME(load)(a + v * LANES), NAME(load)(b + v * LANES), sum[v]);
    for (int v = 0; v < 2; v++)
        NAME(store)(sums + v * LANES, sum[v]);
}

/* The micro-kernel: an m x (nv vectors) block of C, `m` and `nv` constant after inlining.
 *   a     packed, `lda` elements per step of k
 *   b     of `dtype`, `ldb` elements per step of k: a packed strip (ldb = NR), or a row-major matrix where it lies
 *   init  NULL, or where the chains start from (chains continued over several calls)
 *   add   NULL, or what the finished chains are added to (earlier blocks of k)
 *   dst   result; init and add have rows `ldt` apart, dst `ldd` apart
 * Each element is one chain of fused multiply-adds in increasing k: the order that the whole family promises. */
MLXR_INLINE void NAME(block)(const int dtype, const int m, const int nv, Py_ssize_t kc, const REAL *a, Py_ssize_t lda,
                             const char *b, Py_ssize_t ldb, const REAL *init, const REAL *add, Py_ssize_t ldt,
                             REAL *dst, Py_ssize_t ldd) {
    const Py_ssize_t size = item_bytes(dtype);
    VREAL acc[GEMM_MR][2];
    MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] = (VREAL){0};
    if (init)
        MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] =
            NAME(load)(init + i * ldt + v * LANES);
    for (Py_ssize_t k = 0; k < kc; k++) {
        VREAL bv[2];
        MLXR_UNROLL for (int v = 0; v < nv; v++) bv[v] = NAME(lanes_to)(b + v * LANES * size, dtype);
        MLXR_UNROLL for (int i = 0; i < m; i++) {
            VREAL ai = NAME(splat)(a[i]);
            MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] = NAME(fma)(ai, bv[v], acc[i][v]);
        }
        a += lda;
        b += ldb * size;
    }
    if (add)
        MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] =
            NAME(load)(add + i * ldt + v * LANES) + acc[i][v];
    MLXR_UNROLL for (int i = 0; i < m; i++) MLXR_UNROLL for (int v = 0; v < nv; v++)
        NAME(store)(dst + i * ldd + v * LANES, acc[i][v]);
}

typedef void (*NAME(block_fn))(Py_ssize_t, const REAL *, Py_ssize_t, const char *, Py_ssize_t, const REAL *,
                               const REAL *, Py_ssize_t, REAL *, Py_ssize_t);

/* Every height and width as a function of its own: blocks[dtype of B][rows - 1][vectors - 1]. The tables of 16-bit B,
 * read where it lies, exist for float32 alone. */
#define BLOCK(D, M, V)                                                                                                 \
    static __attribute__((noinline)) void NAME(block_##D##_##M##_##V)(                                                 \
        Py_ssize_t kc, const REAL *a, Py_ssize_t lda, const char *b, Py_ssize_t ldb, const REAL *init,                 \
        const REAL *add, Py_ssize_t ldt, REAL *dst, Py_ssize_t ldd) {                                                  \
        NAME(block)(D, M, V, kc, a, lda, b, ldb, init, add, ldt, dst, ldd);                                            \
    }
#define BLOCKS(D, M) BLOCK(D, M, 1) BLOCK(D, M, 2)
#define ENTRY(D, M) {NAME(block_##D##_##M##_1), NAME(block_##D##_##M##_2)},
#define TABLE_OF(D)                                                                                                    \
    EACH_HEIGHT(BLOCKS, D) static const NAME(block_fn) NAME(blocks_##D)[GEMM_MR][2] = {EACH_HEIGHT(ENTRY, D)};

TABLE_OF(NATIVE)
#ifdef HAS_HALVES
TABLE_OF(CODE_F16)
TABLE_OF(CODE_BF16)
#endif

static void NAME(run_block)(int dtype, Py_ssize_t rows, Py_ssize_t vectors, Py_ssize_t kc, const REAL *a,
                            Py_ssize_t lda, const char *b, Py_ssize_t ldb, const REAL *init, const REAL *add,
                            Py_ssize_t ldt, REAL *dst, Py_ssize_t ldd) {
    const NAME(block_fn)(*table)[2] = NAME(blocks_NATIVE);
#ifdef HAS_HALVES
    if (dtype == CODE_F16) table = NAME(blocks_CODE_F16);
    if (dtype == CODE_BF16) table = NAME(blocks_CODE_BF16);
#endif
    table[rows - 1][vectors - 1](kc, a, lda, b, ldb, init, add, ldt, dst, ldd);
}

/* One row of A against a strip of B where it lies; the same columns of the next kc of k are asked for. */
MLXR_INLINE void NAME(row_strip)(const int dtype, Py_ssize_t kc, const REAL *a, const char *b, Py_ssize_t ldb,
                                 const REAL *init, const REAL *add, REAL *dst) {
    const Py_ssize_t size = item_bytes(dtype);
    for (Py_ssize_t k = kc; k < 2 * kc; k++)
        for (Py_ssize_t line = 0; line < 2 * LANES * size; line += 64)
            __builtin_prefetch(b + k * ldb * size + line, 0, 2);
    NAME(block)(dtype, 1, 2, kc, a, 1, b, ldb, init, add, 0, dst, 0);
}

/* `strips` neighbouring strips, without calls between them. */
MLXR_INLINE void NAME(row_of_strips)(const int dtype, Py_ssize_t strips, Py_ssize_t kc, const REAL *a, const char *b,
                                     Py_ssize_t ldb, const REAL *init, const REAL *add, REAL *dst) {
    for (Py_ssize_t j = 0; j < strips * 2 * LANES; j += 2 * LANES) {
        const char *strip = b + j * item_bytes(dtype);
        const REAL *from = init ? init + j : NULL, *sums = add ? add + j : NULL;
        if (kc == ROW_STEPS)
            NAME(row_strip)(dtype, ROW_STEPS, a, strip, ldb, from, sums, dst + j);
        else
            NAME(row_strip)(dtype, kc, a, strip, ldb, from, sums, dst + j);
    }
}
static void NAME(run_row)(int dtype, Py_ssize_t strips, Py_ssize_t kc, const REAL *a, const char *b, Py_ssize_t ldb,
                          const REAL *init, const REAL *add, REAL *dst) {
#ifdef HAS_HALVES
    if (dtype == CODE_F16) {
        NAME(row_of_strips)(CODE_F16, strips, kc, a, b, ldb, init, add, dst);
        return;
    }
    if (dtype == CODE_BF16) {
        NAME(row_of_strips)(CODE_BF16, strips, kc, a, b, ldb, init, add, dst);
        return;
    }
#endif
    NAME(row_of_strips)(NATIVE, strips, kc, a, b, ldb, init, add, dst);
}
#undef BLOCK
#undef BLOCKS
#undef ENTRY
#undef TABLE_OF
#undef HAS_HALVES

#undef REAL
#undef VREAL
#undef LANES
#undef NATIVE
#undef NAME
