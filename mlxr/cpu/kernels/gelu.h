/* GELU where |x| <= 5.5: a lookup of coefficients, which Cython cannot vectorize.
 *
 * gelu(x) = x Phi(x) = max(x, 0) - a Phi(-a) with a = |x|. Phi(-a) is a polynomial in a - centre on each of 16 intervals,
 * which get shorter as a grows; every row of the table fills one 512-bit register, and a permutation of it looks up 16
 * elements at once. Other instruction sets pick the same numbers another way, so that all get the same bits. It must
 * not know of arrays' shapes, threads or Python.
 *
 * The constants are Phi(-centre). Centres were searched for, three quarters into their intervals, among the numbers where
 * it is a float32 to some 2**-33: so nothing is lost there. Of the other powers each is a least-squares fit to the error
 * that rounding the lower ones left; all in all 2**-27 of Phi(-a). The centre of the first interval is 0, whose
 * product with the constant is exact.
 */
#ifndef MLXR_GELU_H
#define MLXR_GELU_H

#include "microkernel.h"

enum { GELU_DEGREE = 7 };

static const float GELU_TABLE[2 + GELU_DEGREE][16] __attribute__((aligned(64))) = {
    {0.0f, 0.991675615f, 1.5610292f, 2.02946305f, 2.43823099f, 2.80613828f, 3.14296818f, 3.45518565f, 3.74815655f,
     4.02538586f, 4.28723812f, 4.53838825f, 4.77839708f, 5.01017952f, 5.23357153f, 5.44666672f},
    {0.5f, 0.160677895f, 0.0592584312f, 0.0212055743f, 0.0073796697f, 0.00250695855f, 0.000836220104f, 0.000274957012f,
     8.90695301e-05f, 2.84409834e-05f, 9.04541685e-06f, 2.83429108e-06f, 8.83490827e-07f, 2.71896425e-07f,
     8.31328109e-08f, 2.56612491e-08f},
    {-0.398942292f, -0.243984923f, -0.11796768f, -0.050879322f, -0.0204162579f, -0.00778042339f, -0.00285677193f,
     -0.00101985736f, -0.000355041004f, -0.000120868885f, -4.07056395e-05f, -1.34380207e-05f, -4.39308906e-06f,
     -1.41286932e-06f, -4.4997492e-07f, -1.4420533e-07f},
    {4.26546563e-07f, 0.120977007f, 0.0920754895f, 0.0516288467f, 0.0248897765f, 0.0109164724f, 0.00448937202f,
     0.00176189828f, 0.000665374624f, 0.000243271948f, 8.72573801e-05f, 3.04934747e-05f, 1.04959609e-05f,
     3.53936412e-06f, 1.17748777e-06f, 3.9271913e-07f},
    {0.0664844513f, 0.000673064322f, -0.0282492619f, -0.0264464822f, -0.0168263968f, -0.00891425367f, -0.00422716374f,
     -0.00185926328f, -0.000772133935f, -0.000306277303f, -0.000117913944f, -4.38907809e-05f, -1.59858882e-05f,
     -5.67546613e-06f, -1.97915233e-06f, -6.88963098e-07f},
    {4.0824918e-05f, -0.0203358512f, -0.00431974605f, 0.00481367717f, 0.00610806653f, 0.00443431828f, 0.00257324241f,
     0.0013123221f, 0.000612632663f, 0.000267672935f, 0.000111838228f, 4.47172351e-05f, 1.73474546e-05f,
     6.51915889e-06f, 2.39342035e-06f, 8.72762485e-07f},
    {-0.0101260561f, 0.00394680677f, 0.00557940546f, 0.00201813737f, -0.000449854124f, -0.00115502835f,
     -0.000985564315f, -0.000627090747f, -0.000343606516f, -0.000169450999f, -7.81430572e-05f, -3.39944709e-05f,
     -1.41626124e-05f, -5.68101723e-06f, -2.20906168e-06f, -8.48266438e-07f},
    {0.000305266411f, 0.0022082387f, -0.000950044079f, -0.00132652384f, -0.000601079257f, -6.85713749e-05f,
     0.000162667668f, 0.000194795808f, 0.000131443347f, 7.87208264e-05f, 4.12577501e-05f, 1.9653613e-05f,
     9.04914214e-06f, 3.82362259e-06f, 1.57427201e-06f, 6.32564593e-07f},
    {0.000913868251f, -0.000472191459f, -0.000664642255f, 6.83771068e-05f, 0.000319433893f, 0.00015428543f,
     3.89615998e-05f, 4.00433555e-06f, -3.28505193e-05f, -2.45618794e-05f, -1.64873218e-05f, -9.95981009e-06f,
     -4.81002962e-06f, -2.50624771e-06f, -1.16090189e-06f, -5.24050904e-07f},
};

/* row[index % 16] of each lane */
MLXR_INLINE vf32 gelu_pick(const float *row, vu32 index) {
#if defined(__AVX512F__)
    return (vf32)_mm512_permutexvar_ps((__m512i)index, _mm512_load_ps(row));
#elif defined(__AVX2__)
    __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(row), (__m256i)index);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(row + 8), (__m256i)index);
    return (vf32)_mm256_blendv_ps(low, high, _mm256_castsi256_ps((__m256i)(index << 28)));
#else
    vf32 picked;
    for (int i = 0; i < F32_LANES; i++)
        picked[i] = row[index[i] & 15];
    return picked;
#endif
}

MLXR_INLINE vf32 gelu_near_lanes(vf32 x) {
    vf32 a = (vf32)((vu32)x & 0x7fffffffu);
    /* The number of the interval, 0.352 a (a + 2.5) to the nearest integer, is left in the low bits. */
    vf32 number = fma_f32(fma_f32(a, splat_f32(0.352045447f), splat_f32(0.880113661f)), a, splat_f32(12582912.0f));
    vu32 index = (vu32)number;
    vf32 u = a - gelu_pick(GELU_TABLE[0], index);
    vf32 p = gelu_pick(GELU_TABLE[1 + GELU_DEGREE], index);
    MLXR_UNROLL for (int power = GELU_DEGREE - 1; power > 0; power--) p =
        fma_f32(u, p, gelu_pick(GELU_TABLE[1 + power], index));
    /* The larger part first: the smaller one corrects its rounding. */
    vf32 positive = (vf32)((vu32)x & (vu32)(x > 0));
    vf32 larger = fma_f32(-a, gelu_pick(GELU_TABLE[1], index), positive);
    vu32 result = (vu32)fma_f32(-a, u * p, larger);
    return (vf32)((result & 0x7fffffffu) | ((vu32)x & 0x80000000u)); /* zero keeps its sign */
}

/* out may be x. */
static void gelu_near_run(const float *x, float *out, Py_ssize_t n) {
    Py_ssize_t i = 0;
    for (; i + F32_LANES <= n; i += F32_LANES)
        store_f32(out + i, gelu_near_lanes(load_f32(x + i)));
    if (i < n) {
        float rest[F32_LANES] = {0};
        memcpy(rest, x + i, (n - i) * sizeof(float));
        store_f32(rest, gelu_near_lanes(load_f32(rest)));
        memcpy(out + i, rest, (n - i) * sizeof(float));
    }
}

#endif
