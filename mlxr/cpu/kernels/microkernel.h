/* Vector layer of the matmul kernels: what Cython cannot express.
 *
 * Vector types and widths of the instruction set that this file is compiled for, lane conversions of the storage
 * formats, in-register transposition, and the register-blocked micro-kernel. It knows of addresses, strides and
 * counts; it must not know of matrices' shapes, packing plans, threads or Python. microkernel_real.h holds what
 * exists once per arithmetic type and is included twice at the end.
 *
 * Results never depend on the widths chosen here: every lane is an element of C with its own chain of fused
 * multiply-adds, and lanes are never summed together.
 */
#ifndef MLXR_MICROKERNEL_H
#define MLXR_MICROKERNEL_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define MLXR_INLINE static inline __attribute__((always_inline))

#if defined(__clang__)
#define MLXR_UNROLL _Pragma("clang loop unroll(full)")
#define MLXR_UNROLL_32 MLXR_UNROLL
#else
#define MLXR_UNROLL _Pragma("GCC unroll 16")
#define MLXR_UNROLL_32 _Pragma("GCC unroll 32")
#endif

/* MR x 2 vectors of accumulators, 2 vectors of B and one broadcast element of A have to fit the register file
 * (32 registers in AVX-512 and AArch64, 16 before). SP is the stride of packed A: MR rounded up to whole vectors of
 * either type, so that a transposed block is stored without touching its neighbour. */
#if defined(__AVX512F__)
enum { F32_LANES = 16, F64_LANES = 8, GEMM_MR = 14, GEMM_SP = 16 };
#elif defined(__AVX2__)
enum { F32_LANES = 8, F64_LANES = 4, GEMM_MR = 6, GEMM_SP = 8 };
#elif defined(__aarch64__)
enum { F32_LANES = 4, F64_LANES = 2, GEMM_MR = 8, GEMM_SP = 8 };
#else
enum { F32_LANES = 4, F64_LANES = 2, GEMM_MR = 4, GEMM_SP = 4 };
#endif

typedef float vf32 __attribute__((vector_size(F32_LANES * 4)));
typedef uint32_t vu32 __attribute__((vector_size(F32_LANES * 4)));
typedef int32_t vi32 __attribute__((vector_size(F32_LANES * 4)));
typedef uint16_t vu16 __attribute__((vector_size(F32_LANES * 2)));
typedef double vf64 __attribute__((vector_size(F64_LANES * 8)));

/* a * b + c, rounded once where the machine can (x86-64-v2 cannot: two roundings there). */
MLXR_INLINE vf32 fma_f32(vf32 a, vf32 b, vf32 c) {
#if defined(__AVX512F__)
    return (vf32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vf32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

MLXR_INLINE vf64 fma_f64(vf64 a, vf64 b, vf64 c) {
#if defined(__AVX512F__)
    return (vf64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (vf64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
    return (vf64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

MLXR_INLINE float fma1_f32(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

MLXR_INLINE double fma1_f64(double a, double b, double c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

MLXR_INLINE vf32 load_f32(const void *p) {
    vf32 v;
    memcpy(&v, p, sizeof v);
    return v;
}
MLXR_INLINE vf64 load_f64(const void *p) {
    vf64 v;
    memcpy(&v, p, sizeof v);
    return v;
}
MLXR_INLINE void store_f32(void *p, vf32 v) { memcpy(p, &v, sizeof v); }
MLXR_INLINE void store_f64(void *p, vf64 v) { memcpy(p, &v, sizeof v); }

#define SPLAT2(x) x, x
#define SPLAT4(x) SPLAT2(x), SPLAT2(x)
#define SPLAT8(x) SPLAT4(x), SPLAT4(x)
#define SPLAT16(x) SPLAT8(x), SPLAT8(x)
#define SPLATN_(n, x) SPLAT##n(x)
#if defined(__AVX512F__)
#define SPLAT_F32 SPLAT16
#define SPLAT_F64 SPLAT8
#elif defined(__AVX2__)
#define SPLAT_F32 SPLAT8
#define SPLAT_F64 SPLAT4
#else
#define SPLAT_F32 SPLAT4
#define SPLAT_F64 SPLAT2
#endif
MLXR_INLINE vf32 splat_f32(float x) { return (vf32){SPLAT_F32(x)}; }
MLXR_INLINE vf64 splat_f64(double x) { return (vf64){SPLAT_F64(x)}; }
MLXR_INLINE vu32 splat_u32(uint32_t x) { return (vu32){SPLAT_F32(x)}; }

/* mask lanes are 0 or ~0, as vector comparisons give them */
MLXR_INLINE vu32 select_u32(vu32 mask, vu32 yes, vu32 no) { return (yes & mask) | (no & ~mask); }

/* ---- storage formats: 16-bit floats to float32 lanes and back, to nearest even ---- */

MLXR_INLINE vf32 f16_to_f32(vu16 h) {
#if defined(__AVX512F__)
    return (vf32)_mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__)
    return (vf32)_mm256_cvtph_ps((__m128i)h);
#elif defined(__aarch64__)
    return (vf32)vcvt_f32_f16((float16x4_t)h);
#else
    /* Exponent and mantissa moved into place and rescaled by 2^112: exact, and right for subnormals too. */
    vu32 w = __builtin_convertvector(h, vu32), em = w & 0x7fffu, sign = (w & 0x8000u) << 16;
    vu32 finite = (vu32)((vf32)(em << 13) * splat_f32(0x1p112f));
    vu32 special = (em << 13) | 0x7f800000u | ((vu32)(em > splat_u32(0x7c00u)) & 0x00400000u);
    return (vf32)(select_u32((vu32)(em >= splat_u32(0x7c00u)), special, finite) | sign);
#endif
}

MLXR_INLINE vu16 f32_to_f16(vf32 f) {
#if defined(__AVX512F__)
    return (vu16)_mm512_cvtps_ph((__m512)f, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
    return (vu16)_mm256_cvtps_ph((__m256)f, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__aarch64__)
    return (vu16)vcvt_f16_f32((float32x4_t)f);
#else
    vu32 x = (vu32)f, sign = (x >> 16) & 0x8000u, a = x & 0x7fffffffu;
    /* Subnormal halves: adding 0.5 leaves the rounded mantissa in the low bits. */
    vu32 tiny = (vu32)((vf32)a + splat_f32(0.5f)) - 0x3f000000u;
    vu32 normal = (a - 0x37fff001u + ((a >> 13) & 1u)) >> 13;
    vu32 nan = 0x7e00u | ((a >> 13) & 0x3ffu);
    vu32 h = select_u32((vu32)(a < splat_u32(0x38800000u)), tiny, normal);
    h = select_u32((vu32)(a >= splat_u32(0x47800000u)), splat_u32(0x7c00u), h);
    h = select_u32((vu32)(a > splat_u32(0x7f800000u)), nan, h);
    return __builtin_convertvector(h | sign, vu16);
#endif
}

/* GCC 12 splits wide convertvector into scalars or halves; these are the single instructions. */
MLXR_INLINE vu32 widen_u16(vu16 h) {
#if defined(__AVX512F__)
    return (vu32)_mm512_cvtepu16_epi32((__m256i)h);
#elif defined(__AVX2__)
    return (vu32)_mm256_cvtepu16_epi32((__m128i)h);
#else
    return __builtin_convertvector(h, vu32);
#endif
}
MLXR_INLINE vu16 narrow_u32(vu32 x) /* of lanes < 65536 */
{
#if defined(__AVX512F__)
    return (vu16)_mm512_cvtepi32_epi16((__m512i)x);
#elif defined(__AVX2__)
    __m256i y = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)x, (__m256i)x), 0x08);
    return (vu16)_mm256_castsi256_si128(y);
#else
    return __builtin_convertvector(x, vu16);
#endif
}

MLXR_INLINE vf32 bf16_to_f32(vu16 h) { return (vf32)(widen_u16(h) << 16); }

MLXR_INLINE vu16 f32_to_bf16(vf32 f) {
    vu32 x = (vu32)f, nan = (vu32)((x & 0x7fffffffu) > splat_u32(0x7f800000u));
    vu32 rounded = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
    return narrow_u32(select_u32(nan, (x >> 16) | 0x40u, rounded));
}

/* The dtype codes of mlxr/core/abi.pxd that occur here. */
enum { CODE_F16 = 9, CODE_F32 = 10, CODE_F64 = 11, CODE_BF16 = 12 };

MLXR_INLINE vu16 load_u16(const void *p) {
    vu16 v;
    memcpy(&v, p, sizeof v);
    return v;
}
MLXR_INLINE void store_u16(void *p, vu16 v) { memcpy(p, &v, sizeof v); }

/* One element of any of the formats, as the arithmetic type. */
MLXR_INLINE float scalar_to_f32(const char *p, int dtype) {
    if (dtype == CODE_F32) {
        float x;
        memcpy(&x, p, 4);
        return x;
    }
    if (dtype == CODE_F64) {
        double x;
        memcpy(&x, p, 8);
        return (float)x;
    }
    uint16_t h;
    memcpy(&h, p, 2);
    vu16 v = {0};
    v[0] = h;
    return dtype == CODE_F16 ? f16_to_f32(v)[0] : bf16_to_f32(v)[0];
}
MLXR_INLINE double scalar_to_f64(const char *p, int dtype) {
    if (dtype == CODE_F64) {
        double x;
        memcpy(&x, p, 8);
        return x;
    }
    return scalar_to_f32(p, dtype);
}

/* F32_LANES (F64_LANES) contiguous elements. `dtype` is a constant at every call, so the branches fold away. */
MLXR_INLINE vf32 lanes_to_f32(const char *p, int dtype) {
    if (dtype == CODE_F16) return f16_to_f32(load_u16(p));
    if (dtype == CODE_BF16) return bf16_to_f32(load_u16(p));
    return load_f32(p);
}
MLXR_INLINE vf64 lanes_to_f64(const char *p, int dtype) {
    (void)dtype;
    return load_f64(p);
}

MLXR_INLINE int item_bytes(int dtype) { return dtype == CODE_F64 ? 8 : dtype == CODE_F32 ? 4 : 2; }

/* Narrowing store of `n` float32 to a row whose elements lie `stride` elements apart. */
MLXR_INLINE void f32_to_row_of(const int dtype, char *p, Py_ssize_t stride, Py_ssize_t n, const float *src) {
    Py_ssize_t i = 0;
    if (stride == 1) {
        for (; i + F32_LANES <= n; i += F32_LANES)
            store_u16(p + i * 2, dtype == CODE_F16 ? f32_to_f16(load_f32(src + i)) : f32_to_bf16(load_f32(src + i)));
    }
    for (; i < n; i++) {
        vf32 v = {0};
        v[0] = src[i];
        uint16_t h = dtype == CODE_F16 ? f32_to_f16(v)[0] : f32_to_bf16(v)[0];
        memcpy(p + i * stride * 2, &h, 2);
    }
}
static void f32_to_row(int dtype, char *p, Py_ssize_t stride, Py_ssize_t n, const float *src) {
    if (dtype == CODE_F16)
        f32_to_row_of(CODE_F16, p, stride, n, src);
    else if (dtype == CODE_BF16)
        f32_to_row_of(CODE_BF16, p, stride, n, src);
    else if (stride == 1)
        memcpy(p, src, (size_t)n * 4);
    else
        for (Py_ssize_t i = 0; i < n; i++)
            memcpy(p + i * stride * 4, src + i, 4);
}
static void f64_to_row(int dtype, char *p, Py_ssize_t stride, Py_ssize_t n, const double *src) {
    (void)dtype;
    for (Py_ssize_t i = 0; i < n; i++)
        memcpy(p + i * stride * 8, src + i, 8);
}

/* ---- transposition of a square block held in registers: one stage per power of two ---- */

#if defined(__AVX512F__)
/* Interleave within 128-bit quarters first (cheap unpacks), then move the quarters. */
#define UNPACK32(a, b, o)                                                                                              \
    __builtin_shufflevector(a, b, 0 + o, 16 + o, 1 + o, 17 + o, 4 + o, 20 + o, 5 + o, 21 + o, 8 + o, 24 + o, 9 + o,    \
                            25 + o, 12 + o, 28 + o, 13 + o, 29 + o)
#define UNPACK64(a, b, o)                                                                                              \
    __builtin_shufflevector(a, b, 0 + o, 1 + o, 16 + o, 17 + o, 4 + o, 5 + o, 20 + o, 21 + o, 8 + o, 9 + o, 24 + o,    \
                            25 + o, 12 + o, 13 + o, 28 + o, 29 + o)
#define QUARTERS(a, b, x, y)                                                                                           \
    __builtin_shufflevector(a, b, 4 * x, 4 * x + 1, 4 * x + 2, 4 * x + 3, 4 * y, 4 * y + 1, 4 * y + 2, 4 * y + 3,      \
                            16 + 4 * x, 17 + 4 * x, 18 + 4 * x, 19 + 4 * x, 16 + 4 * y, 17 + 4 * y, 18 + 4 * y,        \
                            19 + 4 * y)
MLXR_INLINE void transpose_f32(vf32 r[F32_LANES]) {
    vf32 t[16], u[16];
    MLXR_UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = UNPACK32(r[i], r[i + 1], 0);
        t[i + 1] = UNPACK32(r[i], r[i + 1], 2);
    }
    MLXR_UNROLL for (int i = 0; i < 16; i += 4) { /* u[i + c]: column 4q + c of rows i..i+3, in quarter q */
        u[i] = UNPACK64(t[i], t[i + 2], 0);
        u[i + 1] = UNPACK64(t[i], t[i + 2], 2);
        u[i + 2] = UNPACK64(t[i + 1], t[i + 3], 0);
        u[i + 3] = UNPACK64(t[i + 1], t[i + 3], 2);
    }
    MLXR_UNROLL for (int c = 0; c < 4; c++) {
        vf32 even_lo = QUARTERS(u[c], u[c + 4], 0, 2), even_hi = QUARTERS(u[c + 8], u[c + 12], 0, 2);
        vf32 odd_lo = QUARTERS(u[c], u[c + 4], 1, 3), odd_hi = QUARTERS(u[c + 8], u[c + 12], 1, 3);
        r[c] = QUARTERS(even_lo, even_hi, 0, 2);
        r[c + 8] = QUARTERS(even_lo, even_hi, 1, 3);
        r[c + 4] = QUARTERS(odd_lo, odd_hi, 0, 2);
        r[c + 12] = QUARTERS(odd_lo, odd_hi, 1, 3);
    }
}
#elif defined(__AVX2__)
MLXR_INLINE void transpose_f32(vf32 r[F32_LANES]) {
    vf32 t[8], u[8];
    MLXR_UNROLL for (int i = 0; i < 8; i += 2) {
        t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    MLXR_UNROLL for (int i = 0; i < 8; i += 4) {
        u[i] = __builtin_shufflevector(t[i], t[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        u[i + 1] = __builtin_shufflevector(t[i], t[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        u[i + 2] = __builtin_shufflevector(t[i + 1], t[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        u[i + 3] = __builtin_shufflevector(t[i + 1], t[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    MLXR_UNROLL for (int c = 0; c < 4; c++) {
        r[c] = __builtin_shufflevector(u[c], u[c + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        r[c + 4] = __builtin_shufflevector(u[c], u[c + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
#else
MLXR_INLINE void transpose_f32(vf32 r[F32_LANES]) {
    vf32 a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    vf32 c = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}
#endif

#if defined(__AVX512F__)
#define HALVES(a, b, x, y)                                                                                             \
    __builtin_shufflevector(a, b, 2 * x, 2 * x + 1, 2 * y, 2 * y + 1, 8 + 2 * x, 9 + 2 * x, 8 + 2 * y, 9 + 2 * y)
MLXR_INLINE void transpose_f64(vf64 r[F64_LANES]) {
    vf64 u[8];
    MLXR_UNROLL for (int i = 0; i < 8; i += 2) {
        u[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        u[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    MLXR_UNROLL for (int c = 0; c < 2; c++) {
        vf64 even_lo = HALVES(u[c], u[c + 2], 0, 2), even_hi = HALVES(u[c + 4], u[c + 6], 0, 2);
        vf64 odd_lo = HALVES(u[c], u[c + 2], 1, 3), odd_hi = HALVES(u[c + 4], u[c + 6], 1, 3);
        r[c] = HALVES(even_lo, even_hi, 0, 2);
        r[c + 4] = HALVES(even_lo, even_hi, 1, 3);
        r[c + 2] = HALVES(odd_lo, odd_hi, 0, 2);
        r[c + 6] = HALVES(odd_lo, odd_hi, 1, 3);
    }
}
#elif defined(__AVX2__)
MLXR_INLINE void transpose_f64(vf64 r[F64_LANES]) {
    vf64 a = __builtin_shufflevector(r[0], r[1], 0, 4, 2, 6), b = __builtin_shufflevector(r[0], r[1], 1, 5, 3, 7);
    vf64 c = __builtin_shufflevector(r[2], r[3], 0, 4, 2, 6), d = __builtin_shufflevector(r[2], r[3], 1, 5, 3, 7);
    r[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    r[2] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    r[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}
#else
MLXR_INLINE void transpose_f64(vf64 r[F64_LANES]) {
    vf64 a = __builtin_shufflevector(r[0], r[1], 0, 2);
    r[1] = __builtin_shufflevector(r[0], r[1], 1, 3);
    r[0] = a;
}
#endif

/* Packed pairs of 16-bit elements in 32-bit lanes: the first elements, and the second ones. */
MLXR_INLINE vf32 low_half_f32(vf32 pair, int dtype) {
    return dtype == CODE_BF16 ? (vf32)((vu32)pair << 16) : f16_to_f32(narrow_u32((vu32)pair & 0xffffu));
}
MLXR_INLINE vf32 high_half_f32(vf32 pair, int dtype) {
    return dtype == CODE_BF16 ? (vf32)((vu32)pair & 0xffff0000u) : f16_to_f32(narrow_u32((vu32)pair >> 16));
}

enum { PREFETCH_BYTES = 512 };

/* k of one row of A taken at a time against B where it lies: a few streams that the hardware can follow. */
enum { ROW_STEPS = 8 };

/* X(D, rows) for every height of the micro-kernel */
#if defined(__AVX512F__)
#define EACH_HEIGHT(X, D)                                                                                              \
    X(D, 1) X(D, 2) X(D, 3) X(D, 4) X(D, 5) X(D, 6) X(D, 7) X(D, 8) X(D, 9) X(D, 10) X(D, 11) X(D, 12) X(D, 13) X(D, 14)
#elif defined(__AVX2__)
#define EACH_HEIGHT(X, D) X(D, 1) X(D, 2) X(D, 3) X(D, 4) X(D, 5) X(D, 6)
#elif defined(__aarch64__)
#define EACH_HEIGHT(X, D) X(D, 1) X(D, 2) X(D, 3) X(D, 4) X(D, 5) X(D, 6) X(D, 7) X(D, 8)
#else
#define EACH_HEIGHT(X, D) X(D, 1) X(D, 2) X(D, 3) X(D, 4)
#endif

#define REAL float
#define HAS_HALVES
#define VREAL vf32
#define LANES F32_LANES
#define NATIVE CODE_F32
#define NAME(x) x##_f32
#include "microkernel_real.h"

#define REAL double
#define VREAL vf64
#define LANES F64_LANES
#define NATIVE CODE_F64
#define NAME(x) x##_f64
#include "microkernel_real.h"

#endif
