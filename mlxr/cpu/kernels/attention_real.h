/* The kernels of decoding, once per arithmetic type: few rows against keys and values that are read where they lie.
 *
 * No include guard: attention.pyx includes it after microkernel.h, with REAL, VREAL, LANES, NATIVE (the dtype code of
 * REAL) and NAME set. It knows of addresses, strides and counts; it must not know of shapes, masks, threads or Python.
 *
 * `m`, the number of rows, is 1, 2, 4 or 8; `dtype` is that of the keys or values. Each result is one chain of fused
 * multiply-adds in increasing depth, or in increasing key: the order that the micro-kernel has as well. */

/* Scores of m rows q [m][depth] against `count` <= LANES keys, `step` bytes apart, as dst [m][LANES] with rows `ldd`
 * apart. LANES x LANES blocks of keys are transposed in registers. Lanes past `count` repeat the last key. */
MLXR_INLINE void NAME(scores_of)(const int m, const int dtype, Py_ssize_t depth, const REAL *q, const char *keys,
                                 Py_ssize_t step, Py_ssize_t count, REAL *dst, Py_ssize_t ldd) {
    const int size = item_bytes(dtype);
    const char *row[LANES];
    VREAL acc[8];
    Py_ssize_t d = 0;
    for (int i = 0; i < LANES; i++)
        row[i] = keys + (i < count ? i : count - 1) * step;
    MLXR_UNROLL for (int r = 0; r < m; r++) acc[r] = (VREAL){0};
    for (; d + LANES <= depth; d += LANES) {
        VREAL block[LANES];
        MLXR_UNROLL for (int i = 0; i < LANES; i++) block[i] = NAME(lanes_to)(row[i] + d * size, dtype);
        NAME(transpose)(block);
        MLXR_UNROLL for (int i = 0; i < LANES; i++) MLXR_UNROLL for (int r = 0; r < m; r++) acc[r] =
            NAME(fma)(NAME(splat)(q[r * depth + d + i]), block[i], acc[r]);
    }
    for (; d < depth; d++) {
        VREAL column = {0};
        for (int i = 0; i < LANES; i++)
            column[i] = NAME(scalar_to)(row[i] + d * size, dtype);
        MLXR_UNROLL for (int r = 0; r < m; r++) acc[r] = NAME(fma)(NAME(splat)(q[r * depth + d]), column, acc[r]);
    }
    MLXR_UNROLL for (int r = 0; r < m; r++) NAME(store)(dst + r * ldd, acc[r]);
}

/* dst [m][columns] (+)= weights [m][count] times values [count][columns], whose rows lie `step` bytes apart; rows of
 * weights are `ldw` apart and of dst `ldd`. `columns` is a multiple of LANES; `more` continues chains begun before. */
MLXR_INLINE void NAME(values_of)(const int m, const int nv, const int dtype, Py_ssize_t count, const REAL *weights,
                                 Py_ssize_t ldw, const char *values, Py_ssize_t step, REAL *dst, Py_ssize_t ldd,
                                 int more) {
    const int size = item_bytes(dtype);
    VREAL acc[8][8];
    MLXR_UNROLL for (int r = 0; r < m; r++) MLXR_UNROLL for (int v = 0; v < nv; v++) acc[r][v] =
        more ? NAME(load)(dst + r * ldd + v * LANES) : (VREAL){0};
    for (Py_ssize_t j = 0; j < count; j++, values += step) {
        VREAL value[8];
        MLXR_UNROLL for (int v = 0; v < nv; v++) value[v] = NAME(lanes_to)(values + v * LANES * size, dtype);
        MLXR_UNROLL for (int r = 0; r < m; r++) {
            VREAL weight = NAME(splat)(weights[r * ldw + j]);
            MLXR_UNROLL for (int v = 0; v < nv; v++) acc[r][v] = NAME(fma)(weight, value[v], acc[r][v]);
        }
    }
    MLXR_UNROLL for (int r = 0; r < m; r++) MLXR_UNROLL for (int v = 0; v < nv; v++)
        NAME(store)(dst + r * ldd + v * LANES, acc[r][v]);
}

/* As many accumulators as leave room for the values in the register file. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define ABREAST(m) ((m) == 1 ? 8 : 16 / (m))
#else
#define ABREAST(m) (8 / (m))
#endif

MLXR_INLINE void NAME(all_values_of)(const int m, const int dtype, Py_ssize_t columns, Py_ssize_t count,
                                     const REAL *weights, Py_ssize_t ldw, const char *values, Py_ssize_t step,
                                     REAL *dst, Py_ssize_t ldd, int more) {
    const Py_ssize_t wide = ABREAST(m) * LANES, size = item_bytes(dtype);
    Py_ssize_t c = 0;
    for (; c + wide <= columns; c += wide)
        NAME(values_of)(m, ABREAST(m), dtype, count, weights, ldw, values + c * size, step, dst + c, ldd, more);
    for (; c < columns; c += LANES)
        NAME(values_of)(m, 1, dtype, count, weights, ldw, values + c * size, step, dst + c, ldd, more);
}
#undef ABREAST

#define FOR_ROWS(M, TAG, DTYPE)                                                                                        \
    static __attribute__((noinline)) void NAME(scores_##M##_##TAG)(Py_ssize_t depth, const REAL *q, const char *keys,  \
                                                                   Py_ssize_t step, Py_ssize_t count, REAL *dst,       \
                                                                   Py_ssize_t ldd) {                                   \
        NAME(scores_of)(M, DTYPE, depth, q, keys, step, count, dst, ldd);                                              \
    }                                                                                                                  \
    static __attribute__((noinline)) void NAME(values_##M##_##TAG)(                                                    \
        Py_ssize_t columns, Py_ssize_t count, const REAL *weights, Py_ssize_t ldw, const char *values,                 \
        Py_ssize_t step, REAL *dst, Py_ssize_t ldd, int more) {                                                        \
        NAME(all_values_of)(M, DTYPE, columns, count, weights, ldw, values, step, dst, ldd, more);                     \
    }
#define FOR_DTYPE(TAG, DTYPE)                                                                                          \
    FOR_ROWS(1, TAG, DTYPE) FOR_ROWS(2, TAG, DTYPE) FOR_ROWS(4, TAG, DTYPE) FOR_ROWS(8, TAG, DTYPE)
#define CALL(FN, TAG, ...)                                                                                             \
    do {                                                                                                               \
        if (m == 1)                                                                                                    \
            NAME(FN##_1_##TAG)(__VA_ARGS__);                                                                           \
        else if (m == 2)                                                                                               \
            NAME(FN##_2_##TAG)(__VA_ARGS__);                                                                           \
        else if (m == 4)                                                                                               \
            NAME(FN##_4_##TAG)(__VA_ARGS__);                                                                           \
        else                                                                                                           \
            NAME(FN##_8_##TAG)(__VA_ARGS__);                                                                           \
    } while (0)

FOR_DTYPE(native, NATIVE)
#if HAS_16BIT
FOR_DTYPE(f16, CODE_F16)
FOR_DTYPE(bf16, CODE_BF16)
#endif

static void NAME(scores)(int m, int dtype, Py_ssize_t depth, const REAL *q, const char *keys, Py_ssize_t step,
                         Py_ssize_t count, REAL *dst, Py_ssize_t ldd) {
#if HAS_16BIT
    if (dtype == CODE_F16) {
        CALL(scores, f16, depth, q, keys, step, count, dst, ldd);
        return;
    }
    if (dtype == CODE_BF16) {
        CALL(scores, bf16, depth, q, keys, step, count, dst, ldd);
        return;
    }
#endif
    (void)dtype;
    CALL(scores, native, depth, q, keys, step, count, dst, ldd);
}

static void NAME(values)(int m, int dtype, Py_ssize_t columns, Py_ssize_t count, const REAL *weights, Py_ssize_t ldw,
                         const char *values, Py_ssize_t step, REAL *dst, Py_ssize_t ldd, int more) {
#if HAS_16BIT
    if (dtype == CODE_F16) {
        CALL(values, f16, columns, count, weights, ldw, values, step, dst, ldd, more);
        return;
    }
    if (dtype == CODE_BF16) {
        CALL(values, bf16, columns, count, weights, ldw, values, step, dst, ldd, more);
        return;
    }
#endif
    (void)dtype;
    CALL(values, native, columns, count, weights, ldw, values, step, dst, ldd, more);
}

#undef FOR_ROWS
#undef FOR_DTYPE
#undef CALL
#undef REAL
#undef VREAL
#undef LANES
#undef NATIVE
#undef HAS_16BIT
#undef NAME
