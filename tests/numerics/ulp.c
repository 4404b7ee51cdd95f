/* The error of float32, float16 and bfloat16 results in units in the last place, and the operands to measure it on.
 *
 * measure.py compiles and drives this. It must not know how results came about: it is given operands and results, all
 * widened to float32, and compares them with the references in functions.h. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* glibc has vector versions, good to 4 ULP of double, which is 1e-8 ULP of float32. Compilers use them if told. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#if __GLIBC_PREREQ(2, 35)
#define VECTOR(name) extern double name(double) __attribute__((simd("notinbranch"), const));
VECTOR(exp)
VECTOR(expm1)
VECTOR(log)
VECTOR(log2)
VECTOR(log10)
VECTOR(log1p)
VECTOR(sin)
VECTOR(cos)
VECTOR(tan)
VECTOR(asin)
VECTOR(acos)
VECTOR(atan)
VECTOR(sinh)
VECTOR(cosh)
VECTOR(tanh)
VECTOR(asinh)
VECTOR(acosh)
VECTOR(atanh)
VECTOR(erf)
VECTOR(erfc)
extern double pow(double, double) __attribute__((simd("notinbranch"), const));
extern double atan2(double, double) __attribute__((simd("notinbranch"), const));
#endif
#endif

/* clang-format off */
#define EACH(DO)                                                                                                       \
    DO(abs) DO(negative) DO(sign) DO(square) DO(sqrt) DO(rsqrt) DO(reciprocal) DO(exp) DO(expm1) DO(log) DO(log2)      \
    DO(log10) DO(log1p) DO(sin) DO(cos) DO(tan) DO(arcsin) DO(arccos) DO(arctan) DO(sinh) DO(cosh) DO(tanh)            \
    DO(arcsinh) DO(arccosh) DO(arctanh) DO(sigmoid) DO(erf) DO(erfinv) DO(floor) DO(ceil) DO(trunc) DO(round)          \
    DO(relu) DO(silu) DO(gelu) DO(gelu_tanh) DO(gelu_sigmoid) DO(softplus) DO(add) DO(subtract) DO(multiply)           \
    DO(divide) DO(floor_divide) DO(remainder) DO(power) DO(maximum) DO(minimum) DO(logaddexp) DO(arctan2)
/* clang-format on */

#define R double
#define F(name) name
#define NAME(name) double_##name
#include "functions.h"
#undef R
#undef F
#undef NAME
#define R long double
#define F(name) name##l
#define NAME(name) long_##name
#include "functions.h"
#undef R
#undef F
#undef NAME

enum { BLOCK = 1024, CHECKED = 4099 }; /* one in CHECKED inputs has its reference checked in long double */

/* A floating format: bits behind the point, exponents of normal numbers, the largest number. */
typedef struct {
    int32_t digits, lowest, highest;
    double largest;
} Format;

typedef struct {
    /* The largest error in ULP where the result is normal or infinite, and where it is zero or subnormal: there an ULP
     * is the smallest number. Of float32 only errors beyond 0.5 are told apart; others are 0 or 0.5. */
    double worst, worst_tiny;
    /* the largest difference between the two references, in ULP, where both were computed */
    double reference;
    /* results; those off by more than half an ULP; those of the wrong class */
    uint64_t count, not_nearest, wrong;
    /* operands of the first worst results beyond 0.5, and of the first of the wrong class */
    float at[2], tiny_at[2], wrong_at[2];
} Measured;

typedef void Reference(const float *a, const float *b, const float *got, ptrdiff_t n, double *out);
typedef long double LongReference(long double a, long double b, long double got);

#define DEFINE(name)                                                                                                   \
    static void block_##name(const float *restrict a, const float *restrict b, const float *restrict got, ptrdiff_t n, \
                             double *restrict out) {                                                                   \
        _Pragma("omp simd") for (ptrdiff_t i = 0; i < n; i++) out[i] =                                                 \
            double_##name((double)a[i], (double)b[i], (double)got[i]);                                                 \
    }
EACH(DEFINE)
#undef DEFINE

static const struct {
    const char *name;
    Reference *block;
    LongReference *precise;
} FUNCTIONS[] = {
#define DEFINE(name) {#name, block_##name, long_##name},
    EACH(DEFINE)
#undef DEFINE
};

/* The number of a function, or -1. */
int ulp_find(const char *name) {
    for (size_t k = 0; k < sizeof FUNCTIONS / sizeof *FUNCTIONS; k++)
        if (strcmp(FUNCTIONS[k].name, name) == 0) return (int)k;
    return -1;
}

static inline uint64_t bits_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline double from_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* 1 / ULP at r */
static inline double scale_at(double r, const Format *f) {
    int64_t exponent = (int64_t)(bits_of(r) >> 52 & 0x7ff) - 1023;
    int64_t e = exponent < f->lowest ? f->lowest : exponent;
    return from_bits((uint64_t)(1023 + f->digits - (e > 1000 ? 1000 : e)) << 52);
}

/* The error, in ULP of `unit`, of `got` where `wanted` is right. Infinity, if only one of them is NaN, or if `got` is a
 * zero or an infinity of the wrong sign. An infinite `got` counts as the power of two behind the largest number, and is
 * right beyond it. */
static inline double error_of(double got, double wanted, double unit, const Format *f) {
    double beyond = from_bits((uint64_t)(1023 + f->highest + 1) << 52);
    double g = fabs(got) > f->largest ? copysign(beyond, got) : got;
    double w = (fabs(got) > f->largest) & (fabs(wanted) > beyond) ? copysign(beyond, wanted) : wanted;
    double e = fabs(g - w) * scale_at(unit, f);
    int opposite = (int)(bits_of(got) >> 63) != (int)(bits_of(wanted) >> 63);
    e = ((got == 0) | (fabs(got) > f->largest)) & opposite ? INFINITY : e;
    int nan_got = got != got, nan_wanted = wanted != wanted;
    return nan_got | nan_wanted ? (nan_got & nan_wanted ? 0.0 : INFINITY) : e;
}

static void note(const float *a, const float *b, ptrdiff_t i, float *at) {
    at[0] = a[i];
    at[1] = b[i];
}

/* Compare results with the reference of a function, and join what is found to `m`. `first` numbers the first result
 * among all of a run: it decides which references are checked.
 *
 * Most results are the float32 nearest to the reference, which is quickly seen; that makes an error of half an ULP, if
 * not of zero. The others, and all of narrower formats, are looked at one by one. */
void ulp_compare(int function, const float *a, const float *b, const float *got, ptrdiff_t n, uint64_t first,
                 const Format *format, Measured *m) {
    const Format f = *format;
    double wanted[BLOCK];
    uint32_t differs[BLOCK];
    double tiny = from_bits((uint64_t)(1023 + f.lowest) << 52);
    int narrow = f.digits < 23;
    /* Where logaddexp is near zero, its operands' own rounding is far more than an ULP of it: it is held to theirs. */
    int cancels = FUNCTIONS[function].block == block_logaddexp;
    for (ptrdiff_t start = 0; start < n; start += BLOCK) {
        ptrdiff_t count = n - start < BLOCK ? n - start : BLOCK;
        const float *x = a + start, *y = b + start, *g = got + start;
        FUNCTIONS[function].block(x, y, g, count, wanted);
        uint32_t others = 0, inexact = 0, inexact_tiny = 0;
#pragma omp simd reduction(+ : others, inexact, inexact_tiny)
        for (ptrdiff_t i = 0; i < count; i++) {
            uint32_t nan = (g[i] != g[i]) & (wanted[i] != wanted[i]);
            differs[i] = (bits_of_float(g[i]) != bits_of_float((float)wanted[i])) & ~nan;
            others += differs[i];
            uint32_t rounded = ((double)g[i] != wanted[i]) & ~nan, small = fabs(wanted[i]) < tiny;
            inexact += rounded & ~small;
            inexact_tiny += rounded & small;
        }
        m->count += (uint64_t)count;
        if (inexact && m->worst < 0.5 && !narrow) m->worst = 0.5;
        if (inexact_tiny && m->worst_tiny < 0.5 && !narrow) m->worst_tiny = 0.5;
        for (ptrdiff_t i = 0; (others || narrow) && i < count; i++) {
            if (!differs[i] && !narrow) continue;
            double w = wanted[i], larger = (double)(x[i] > y[i] ? x[i] : y[i]);
            int held_to_larger = cancels && fabs(larger) > fabs(w) && isfinite(larger);
            double e = error_of((double)g[i], w, held_to_larger ? larger : w, &f);
            m->not_nearest += e > 0.5000001;
            if (e == (double)INFINITY) {
                if (m->wrong == 0) note(x, y, i, m->wrong_at);
                m->wrong++;
            } else if (fabs(w) < tiny) {
                if (e > m->worst_tiny) {
                    m->worst_tiny = e;
                    note(x, y, i, m->tiny_at);
                }
            } else if (e > m->worst) {
                m->worst = e;
                note(x, y, i, m->at);
            }
        }
        uint64_t from = first + (uint64_t)start;
        for (ptrdiff_t i = (ptrdiff_t)((CHECKED - from % CHECKED) % CHECKED); i < count; i += CHECKED) {
            long double precise = FUNCTIONS[function].precise(x[i], y[i], g[i]);
            if (fabsl(precise) > (long double)f.largest || precise != precise) continue;
            double difference = (double)fabsl(precise - (long double)wanted[i]) * scale_at((double)precise, &f);
            m->reference = !(difference <= m->reference) ? difference : m->reference;
        }
    }
}

/* ---- operands ---------------------------------------------------------------------------------------------------- */

/* The floats whose bits are first, first + stride, ... */
void ulp_bits(uint64_t first, uint64_t stride, ptrdiff_t n, float *out) {
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = float_of((uint32_t)(first + stride * (uint64_t)i));
}

/* 64 well mixed bits of a number: the finalizer of SplitMix64 */
static inline uint64_t mixed(uint64_t x) {
    x = (x + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Any sign and mantissa, and an exponent in -12 ... 11 */
static inline float moderate(uint32_t bits) {
    uint32_t exponent = 127 - 12 + ((bits >> 23 & 0xff) * 24 >> 8);
    return float_of((bits & 0x807fffff) | exponent << 23);
}

/* What pairs are drawn from; `first` numbers the pairs of a kind, and a number always gives the same pair.
 *   0  any bits
 *   1  magnitudes from 2^-12 to 2^12
 *   2  neighbours: a moderate number, and one within up to 2^24 steps of it
 *   3  multiples of 1/16 below 256
 *   4  bases, and exponents that keep the power near the range of float32
 *   5  numbers whose exponentials add to nearly one */
void ulp_pairs(int kind, uint64_t first, ptrdiff_t n, float *a, float *b) {
    for (ptrdiff_t i = 0; i < n; i++) {
        uint64_t bits = mixed((first + (uint64_t)i) * 8 + (uint64_t)kind);
        uint32_t low = (uint32_t)bits, high = (uint32_t)(bits >> 32);
        if (kind == 0) {
            a[i] = float_of(low);
            b[i] = float_of(high);
        } else if (kind == 1) {
            a[i] = moderate(low);
            b[i] = moderate(high);
        } else if (kind == 2) {
            uint32_t step = (high & 0xffffff) >> (high >> 27);
            a[i] = moderate(low);
            b[i] = float_of(bits_of_float(a[i]) + (high & 1u << 26 ? step : 0u - step));
        } else if (kind == 3) {
            a[i] = (float)((int32_t)(low & 0x1fff) - 4096) / 16;
            b[i] = (float)((int32_t)(high & 0x1fff) - 4096) / 16;
        } else if (kind == 4) {
            a[i] = fabsf(moderate(low));
            b[i] = (float)((-150.0 + 280.0 * high / 4294967296.0) / log2((double)a[i]));
        } else {
            a[i] = (float)(-7.0 * (low + 1.0) / 4294967296.0);
            b[i] = float_of(bits_of_float((float)log(-expm1((double)a[i]))) + (high & 15) - 8);
        }
    }
}
