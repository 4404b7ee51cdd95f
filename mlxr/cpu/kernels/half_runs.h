/* Runs of float16 <-> float32 with the processor's conversion instructions, which compilers do not yet find by themselves.
 *
 * Each function converts as many leading elements as it has instructions for and returns how many; half.pxd does the
 * rest, with the same bits. Nothing else belongs here.
 */
#ifndef MLXR_HALF_RUNS_H
#define MLXR_HALF_RUNS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__F16C__) && defined(__AVX__)
#include <immintrin.h>

static inline ptrdiff_t mlxr_f16_to_f32_run(const uint16_t *x, float *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
#ifdef __AVX512F__
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + i))));
#endif
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
    return i;
}

static inline ptrdiff_t mlxr_f32_to_f16_run(const float *x, uint16_t *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
#ifdef __AVX512F__
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    return i;
}

#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>

static inline ptrdiff_t mlxr_f16_to_f32_run(const uint16_t *x, float *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x + i))));
    return i;
}

static inline ptrdiff_t mlxr_f32_to_f16_run(const float *x, uint16_t *out, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    return i;
}

#else

static inline ptrdiff_t mlxr_f16_to_f32_run(const uint16_t *x, float *out, ptrdiff_t n) {
    (void)x, (void)out, (void)n;
    return 0;
}

static inline ptrdiff_t mlxr_f32_to_f16_run(const float *x, uint16_t *out, ptrdiff_t n) {
    (void)x, (void)out, (void)n;
    return 0;
}

#endif
#endif
