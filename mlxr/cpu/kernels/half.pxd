# cython: language_level=3
"""16-bit float formats as inline conversions to and from float32, and the fused multiply-add that kernels may write.

Everything here is branch free, so that a loop over it vectorizes on every instruction set, and every conversion gives
the same bits on all of them. It must not know about arrays, dtypes codes or kernels.
"""
from libc.stdint cimport uint16_t, uint32_t

# Fused where the hardware can; elsewhere (x86-64-v2) two roundings, because a software fma costs a hundred times as
# much.
cdef extern from *:
    """
    #if defined(__FMA__) || defined(__aarch64__) || defined(__ARM_FEATURE_FMA)
    #define MLXR_FMAF(a, b, c) __builtin_fmaf((a), (b), (c))
    #define MLXR_FMA(a, b, c) __builtin_fma((a), (b), (c))
    #define MLXR_RESIDUE(a, b, c) __builtin_fmaf((a), (b), (c))
    #else
    #define MLXR_FMAF(a, b, c) ((a) * (b) + (c))
    #define MLXR_FMA(a, b, c) ((a) * (b) + (c))
    #define MLXR_RESIDUE(a, b, c) ((float) ((double) (a) * (b) + (c)))
    #endif
    """
    float fused_f32 "MLXR_FMAF"(float a, float b, float c) noexcept nogil
    double fused_f64 "MLXR_FMA"(double a, double b, double c) noexcept nogil
    # a * b + c, exactly, where c nearly cancels the product: what rounding took from it. Exact everywhere.
    float residue_f32 "MLXR_RESIDUE"(float a, float b, float c) noexcept nogil

cdef extern from "half_runs.h" nogil:
    Py_ssize_t f16_head_to_f32 "mlxr_f16_to_f32_run"(const uint16_t *x, float *out, Py_ssize_t n) noexcept
    Py_ssize_t f32_head_to_f16 "mlxr_f32_to_f16_run"(const float *x, uint16_t *out, Py_ssize_t n) noexcept

cdef union Float32Bits:
    float value
    uint32_t bits


cdef inline uint32_t float_bits(float value) noexcept nogil:
    cdef Float32Bits cast
    cast.value = value
    return cast.bits


cdef inline float float_from_bits(uint32_t bits) noexcept nogil:
    cdef Float32Bits cast
    cast.bits = bits
    return cast.value


cdef inline float f16_to_f32(uint16_t half) noexcept nogil:
    # Move exponent and mantissa into place and rebias the exponent by 112. Infinities and NaN need the rest of the way
    # to 255; subnormals are normalized by the subtraction, which is exact and touches no float32 subnormal.
    cdef uint32_t magnitude = (<uint32_t>half & 0x7FFFu) << 13
    cdef uint32_t rebiased = magnitude + (112u << 23)
    rebiased += (112u << 23) if magnitude >= (31u << 23) else 0u
    rebiased |= (1u << 22) if magnitude > (31u << 23) else 0u
    cdef float small = float_from_bits(magnitude + (113u << 23)) - float_from_bits(113u << 23)
    cdef uint32_t result = float_bits(small) if magnitude < (1u << 23) else rebiased
    return float_from_bits(result | ((<uint32_t>half & 0x8000u) << 16))


cdef inline uint16_t f32_to_f16(float value) noexcept nogil:
    # To nearest, ties to even. Below 2**-14 the result is subnormal: adding 0.5, whose last place is the spacing of
    # float16's subnormals, lets the hardware round.
    cdef uint32_t bits = float_bits(value)
    cdef uint32_t magnitude = bits & 0x7FFFFFFFu
    cdef uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13
    cdef uint32_t subnormal = float_bits(float_from_bits(magnitude) + <float>0.5) - (126u << 23)
    cdef uint32_t overflow = (0x7E00u | ((magnitude >> 13) & 0x3FFu)) if magnitude > (255u << 23) else 0x7C00u
    cdef uint32_t finite = subnormal if magnitude < (113u << 23) else normal
    cdef uint32_t result = overflow if magnitude >= (143u << 23) else finite
    return <uint16_t>(result | ((bits >> 16) & 0x8000u))


cdef inline float bf16_to_f32(uint16_t half) noexcept nogil:
    return float_from_bits(<uint32_t>half << 16)


cdef inline uint16_t f32_to_bf16(float value) noexcept nogil:
    # To nearest, ties to even; a NaN keeps its top bits and is made quiet, so that rounding cannot turn it into
    # infinity.
    cdef uint32_t bits = float_bits(value)
    cdef uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16
    cdef uint32_t quiet = (bits >> 16) | 0x40u
    return <uint16_t>(rounded if value == value else quiet)


cdef inline void f16_run_to_f32(const uint16_t *x, float *out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(f16_head_to_f32(x, out, n), n):
        out[i] = f16_to_f32(x[i])


cdef inline void f32_run_to_f16(const float *x, uint16_t *out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(f32_head_to_f16(x, out, n), n):
        out[i] = f32_to_f16(x[i])
