/* The part of microkernel.h that exists once per arithmetic type: packing of panels and the micro-kernel.
 *
 * No include guard: microkernel.h includes it with REAL, VREAL, LANES, NATIVE (the dtype code of REAL) and NAME set.
 * It must not know of plans, threads or Python.
 */

enum { NAME(GEMM_NR) = 2 * LANES };

/* Packs a panel: element (w, k) of the source, at src + w * sw + k * sk (in elements of `dtype`), goes to lane w % per
 * of step k of strip w / per; a strip is nk steps of `width` lanes. Lanes past `nw` are zero in the last strip and
 * lanes past `per` are unspecified: the micro-kernel computes with neither.
 * `per` <= `width`, and `width` is a multiple of LANES. */
MLXR_INLINE void NAME(pack_of)(const int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw,
                               Py_ssize_t nk, Py_ssize_t per, Py_ssize_t width, REAL *dst)
{
    const int size = item_bytes(dtype);
    if (sw == 1 || nw == 1) {
        /* Lanes are neighbours in memory: walk whole rows of the source, all strips abreast. */
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
        return;
    }
    /* Steps are neighbours in memory: transpose LANES x LANES blocks in registers. */
    for (Py_ssize_t w0 = 0; w0 < nw; w0 += per, dst += nk * width, src += per * sw * size) {
        Py_ssize_t rows = nw - w0 < per ? nw - w0 : per, k = 0;
        for (; k + LANES <= nk; k += LANES) {
            for (Py_ssize_t w = 0; w < width; w += LANES) {
                VREAL block[LANES];
                const char *corner = src + (w * sw + k) * size;
                if (w + LANES <= rows) {
                    MLXR_UNROLL for (int i = 0; i < LANES; i++) {
                        block[i] = NAME(lanes_to)(corner + i * sw * size, dtype);
                        __builtin_prefetch(corner + i * sw * size + 256);
                    }
                } else {
                    for (int i = 0; i < LANES; i++)
                        block[i] = w + i < rows ? NAME(lanes_to)(corner + i * sw * size, dtype) : (VREAL){0};
                }
                NAME(transpose)(block);
                MLXR_UNROLL for (int i = 0; i < LANES; i++) NAME(store)(dst + (k + i) * width + w, block[i]);
            }
        }
        for (; k < nk; k++)
            for (Py_ssize_t w = 0; w < width; w++)
                dst[k * width + w] = w < rows ? NAME(scalar_to)(src + (w * sw + k) * size, dtype) : 0;
    }
}

/* Any dtype, any strides. */
static void NAME(pack)(int dtype, const char *src, Py_ssize_t sw, Py_ssize_t sk, Py_ssize_t nw, Py_ssize_t nk,
                       Py_ssize_t per, Py_ssize_t width, REAL *dst)
{
    int lanes_or_steps = sw == 1 || nw == 1 || sk == 1;
    if (dtype == NATIVE && lanes_or_steps) { NAME(pack_of)(NATIVE, src, sw, sk, nw, nk, per, width, dst); return; }
    if (NATIVE == CODE_F32 && lanes_or_steps) {
        if (dtype == CODE_F16) { NAME(pack_of)(CODE_F16, src, sw, sk, nw, nk, per, width, dst); return; }
        if (dtype == CODE_BF16) { NAME(pack_of)(CODE_BF16, src, sw, sk, nw, nk, per, width, dst); return; }
    }
    const int size = item_bytes(dtype);
    for (Py_ssize_t w0 = 0; w0 < nw; w0 += per, dst += nk * width)
        for (Py_ssize_t k = 0; k < nk; k++)
            for (Py_ssize_t w = 0; w < width; w++)
                dst[k * width + w] =
                    w < per && w0 + w < nw ? NAME(scalar_to)(src + ((w0 + w) * sw + k * sk) * size, dtype) : 0;
}

/* `n` elements, `stride` apart, as the arithmetic type. */
MLXR_INLINE void NAME(row_of)(const int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, REAL *dst)
{
    const int size = item_bytes(dtype);
    Py_ssize_t i = 0;
    if (stride == 1)
        for (; i + LANES <= n; i += LANES) NAME(store)(dst + i, NAME(lanes_to)(src + i * size, dtype));
    for (; i < n; i++) dst[i] = NAME(scalar_to)(src + i * stride * size, dtype);
}
static void NAME(row_to)(int dtype, const char *src, Py_ssize_t stride, Py_ssize_t n, REAL *dst)
{
    if (dtype == NATIVE) NAME(row_of)(NATIVE, src, stride, n, dst);
    else if (NATIVE == CODE_F32 && dtype == CODE_F16) NAME(row_of)(CODE_F16, src, stride, n, dst);
    else if (NATIVE == CODE_F32 && dtype == CODE_BF16) NAME(row_of)(CODE_BF16, src, stride, n, dst);
    else
        for (Py_ssize_t i = 0; i < n; i++) dst[i] = NAME(scalar_to)(src + i * stride * item_bytes(dtype), dtype);
}

/* The micro-kernel: an m x (nv vectors) block of C, `m` and `nv` constant after inlining.
 *   a     packed, `lda` elements per step of k
 *   b     `ldb` elements per step of k (packed: NR; a row-major float matrix can be read where it lies)
 *   init  NULL, or where the chains start from (chains continued over several calls)
 *   add   NULL, or what the finished chains are added to (earlier blocks of k)
 *   dst   result; init and add have rows `ldt` apart, dst `ldd` apart
 * Each element is one chain of fused multiply-adds in increasing k: the order that the whole family promises. */
MLXR_INLINE void NAME(block)(const int m, const int nv, Py_ssize_t kc, const REAL *a, Py_ssize_t lda, const REAL *b,
                             Py_ssize_t ldb, const REAL *init, const REAL *add, Py_ssize_t ldt, REAL *dst,
                             Py_ssize_t ldd)
{
    VREAL acc[GEMM_MR][2];
    MLXR_UNROLL for (int i = 0; i < m; i++)
        MLXR_UNROLL for (int v = 0; v < nv; v++)
            acc[i][v] = (VREAL){0};
    if (init)
        MLXR_UNROLL for (int i = 0; i < m; i++)
            MLXR_UNROLL for (int v = 0; v < nv; v++)
                acc[i][v] = NAME(load)(init + i * ldt + v * LANES);
    for (Py_ssize_t k = 0; k < kc; k++) {
        VREAL bv[2];
        MLXR_UNROLL for (int v = 0; v < nv; v++) bv[v] = NAME(load)(b + v * LANES);
        MLXR_UNROLL for (int i = 0; i < m; i++) {
            VREAL ai = NAME(splat)(a[i]);
            MLXR_UNROLL for (int v = 0; v < nv; v++) acc[i][v] = NAME(fma)(ai, bv[v], acc[i][v]);
        }
        a += lda;
        b += ldb;
    }
    if (add)
        MLXR_UNROLL for (int i = 0; i < m; i++)
            MLXR_UNROLL for (int v = 0; v < nv; v++)
                acc[i][v] = NAME(load)(add + i * ldt + v * LANES) + acc[i][v];
    MLXR_UNROLL for (int i = 0; i < m; i++)
        MLXR_UNROLL for (int v = 0; v < nv; v++)
            NAME(store)(dst + i * ldd + v * LANES, acc[i][v]);
}

#define BLOCK(M, V)                                                                                                  \
    static __attribute__((noinline)) void NAME(block_##M##_##V)(Py_ssize_t kc, const REAL *a,                        \
        Py_ssize_t lda, const REAL *b, Py_ssize_t ldb, const REAL *init, const REAL *add, Py_ssize_t ldt, REAL *dst, \
        Py_ssize_t ldd)                                                                                              \
    { NAME(block)(M, V, kc, a, lda, b, ldb, init, add, ldt, dst, ldd); }
#define BLOCKS(M) BLOCK(M, 1) BLOCK(M, 2)
BLOCKS(1) BLOCKS(2) BLOCKS(3) BLOCKS(4)
#if defined(__AVX512F__) || defined(__AVX2__) || defined(__aarch64__)
BLOCKS(5) BLOCKS(6)
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
BLOCKS(7) BLOCKS(8)
#endif
#if defined(__AVX512F__)
BLOCKS(9) BLOCKS(10) BLOCKS(11) BLOCKS(12) BLOCKS(13) BLOCKS(14)
#endif
#undef BLOCK
#undef BLOCKS

typedef void (*NAME(block_fn))(Py_ssize_t, const REAL *, Py_ssize_t, const REAL *, Py_ssize_t, const REAL *,
                               const REAL *, Py_ssize_t, REAL *, Py_ssize_t);

#define ENTRY(M) {NAME(block_##M##_1), NAME(block_##M##_2)},
static const NAME(block_fn) NAME(blocks)[GEMM_MR][2] = {
    ENTRY(1) ENTRY(2) ENTRY(3) ENTRY(4)
#if defined(__AVX512F__) || defined(__AVX2__) || defined(__aarch64__)
    ENTRY(5) ENTRY(6)
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
    ENTRY(7) ENTRY(8)
#endif
#if defined(__AVX512F__)
    ENTRY(9) ENTRY(10) ENTRY(11) ENTRY(12) ENTRY(13) ENTRY(14)
#endif
};
#undef ENTRY

#undef REAL
#undef VREAL
#undef LANES
#undef NATIVE
#undef NAME
