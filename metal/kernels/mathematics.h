// Functions of one float that Metal lacks, or that the CPU backend defines more exactly than Metal does.
//
// Metal computes in float32 only, so what the CPU backend (mlxr/cpu/kernels/vecmath.pxd) does in double carries its
// rounding errors along here. The largest differences from the CPU backend, in units in the last place, are stated and
// tested (tests/metal/test_elementwise.py): 2 for exp, log, tanh, sigmoid, silu, gelu_sigmoid and erf, 3 for gelu, and
// as said at the others. Libraries are compiled without fast math: NaN and infinities count. No buffers here.
#pragma once
#include <metal_stdlib>
#pragma METAL fp contract(off)

// 1.5 * 2**23 + 127: n + EXPONENT_MAGIC holds the biased exponent of 2**n in its low bits.
constant constexpr float EXPONENT_MAGIC = 12583039.0f;

METAL_FUNC float with_sign_of(float magnitude, float sign) {
    return as_type<float>((as_type<uint>(magnitude) & 0x7fffffffu) | (as_type<uint>(sign) & 0x80000000u));
}

// 2**n for shifted = n + EXPONENT_MAGIC, -126 <= n <= 127.
METAL_FUNC float power_of_two(float shifted) { return as_type<float>(as_type<uint>(shifted) << 23); }

// exp(t + rest - n log(2)) - 1, where n is the integer nearest to t / log(2) and rest is tiny.
METAL_FUNC float exp_tail(float t, float n, float rest) {
    const float r = metal::fma(n, -0.693145751953125f, t);
    const float low = metal::fma(n, -1.428606765330187e-06f, rest);
    const float s = r + low;
    float q = 0.001395057519525953f;
    q = metal::fma(q, s, 0.00836895342849832f);
    q = metal::fma(q, s, 0.04166620449722392f);
    q = metal::fma(q, s, 0.1666651830791319f);
    q = metal::fma(q, s, 0.5000000095661987f);
    return r + metal::fma(q * s, s, low);
}

// x 2**n for x near one, in two factors: the result may be subnormal or overflow.
METAL_FUNC float scaled_by(float x, uint n) {
    const uint part = uint(int(n) >> 1);
    const float once = x * as_type<float>((part + 127u) << 23);
    return once * as_type<float>((n - part + 127u) << 23);
}

METAL_FUNC float exp_f32(float x) {
    float t = x > 89.0f ? 89.0f : x;
    t = t < -104.0f ? -104.0f : t;
    const float z = metal::fma(t, 1.4426950408889634f, 12582912.0f);
    const float tail = exp_tail(t, z - 12582912.0f, 0.0f);
    return scaled_by(1.0f + tail, as_type<uint>(z) - as_type<uint>(12582912.0f));
}

// 2**n (1 + tail) - 1, with 2**n taken in two halves where it has no float32 of its own. 2 ulp.
METAL_FUNC float expm1_f32(float x) {
    float t = x > 89.0f ? 89.0f : x;
    t = t < -18.0f ? -18.0f : t;
    const float z = metal::fma(t, 1.4426950408889634f, 12582912.0f);
    const float tail = exp_tail(t, z - 12582912.0f, 0.0f);
    const float halved = as_type<float>((as_type<uint>(z) - as_type<uint>(12582912.0f) + 126u) << 23);
    const float sum = metal::fma(tail, halved, halved - 0.5f);
    return x == 0.0f ? x : sum + sum;
}

METAL_FUNC float log_f32(float x) {
    const bool subnormal = x < 1.1754943508222875e-38f;
    const uint bits = as_type<uint>(subnormal ? x * 8388608.0f : x);
    const int k = int(bits - 0x3f3504f3u) >> 23;
    const float m = as_type<float>(bits - (uint(k) << 23));
    const float n = subnormal ? float(k) - 23.0f : float(k);
    const float f = m - 1.0f;
    float q = 0.06746648464072927f;
    q = metal::fma(q, f, -0.1167566934010245f);
    q = metal::fma(q, f, 0.1188816822756286f);
    q = metal::fma(q, f, -0.12405587112772473f);
    q = metal::fma(q, f, 0.14219551545046188f);
    q = metal::fma(q, f, -0.1666799587317598f);
    q = metal::fma(q, f, 0.20002118675452857f);
    q = metal::fma(q, f, -0.2500000960077397f);
    q = metal::fma(q, f, 0.3333331260464049f);
    // n log(2) + f + f**2 (q f - 1/2), the large terms added with their rounding errors
    const float tail = f * f * metal::fma(q, f, -0.5f);
    const float inner = f + tail;
    const float large = n * 0.693145751953125f;
    const float total = large + inner;
    const float error = (large - total) + inner + (tail - (inner - f));
    float value = total + metal::fma(n, 1.428606765330187e-06f, error);
    value = value != value || x < INFINITY ? value : x + x;
    value = x != x ? x : value;
    value = x == 0.0f ? -INFINITY : value;
    return x < 0.0f ? NAN : value;
}

// The logarithm of the rounded sum, and what the rounding took away. 2 ulp.
METAL_FUNC float log1p_f32(float x) {
    const float u = 1.0f + x;
    const float lost = metal::fabs(x) > 1.0f ? 1.0f - (u - x) : x - (u - 1.0f);
    const float value = log_f32(u) + (u > 0.0f && u < INFINITY ? lost / u : 0.0f);
    return u == 1.0f ? x : value;
}

METAL_FUNC float tanh_f32(float x) {
    const float a = metal::fabs(x);
    // |x| < 1: x + x**3 p(x**2)
    const float z = x * x;
    float p = -0.0003584548912457728f;
    p = metal::fma(p, z, 0.002301374431498702f);
    p = metal::fma(p, z, -0.007946119459237148f);
    p = metal::fma(p, z, 0.02148666599105819f);
    p = metal::fma(p, z, -0.053879805424486074f);
    p = metal::fma(p, z, 0.1333234461224116f);
    p = metal::fma(p, z, -0.3333329543368511f);
    const float small = metal::fma(p * z, x, x);
    // otherwise 1 - 2 / (exp(2 |x|) + 1), which is one from 10 on
    const float t = a > 10.0f ? 20.0f : a + a;
    const float n = metal::fma(t, 1.4426950408889634f, EXPONENT_MAGIC);
    const float power = power_of_two(n);
    const float grown = metal::fma(exp_tail(t, n - EXPONENT_MAGIC, 0.0f), power, power);
    const float large = 1.0f - 2.0f / (grown + 1.0f);
    return x != x ? x : with_sign_of(a < 1.0f ? small : large, x);
}

// u + 1 - whole exactly, for whole = u + 1 rounded and u > 0.
METAL_FUNC float lost_in_sum(float u, float whole) {
    const bool small = u < 1.0f;
    return ((small ? 1.0f : u) - whole) + (small ? u : 1.0f);
}

METAL_FUNC float sigmoid_f32(float x) {
    // 1 / (1 + 2**n (1 + tail)) = u / (u + 1 + tail), with u = 2**-n: u + 1 needs no rounding where it matters
    float t = x > 18.0f ? 18.0f : x;
    t = t < -104.0f ? 104.0f : -t;
    const float n = metal::fma(t, -1.4426950408889634f, EXPONENT_MAGIC + 24.0f);
    const float tail = exp_tail(t, (EXPONENT_MAGIC + 24.0f) - n, 0.0f);
    const float scaled = power_of_two(n);  // 2**24 u: u itself may be subnormal
    const float u = scaled * 5.9604644775390625e-08f;
    const float whole = u + 1.0f;
    const float d = whole + tail;
    // what rounding took from the denominator, in both sums
    const float rest = lost_in_sum(u, whole) + ((whole - d) + tail);
    float q = 1.0f / d;
    q = metal::fma(q, metal::fma(-q, rest, metal::fma(-q, d, 1.0f)), q);
    return q * scaled * 5.9604644775390625e-08f;
}

// x sigmoid(v + rest), for -125 <= v <= 18 and a tiny rest.
METAL_FUNC float sigmoid_times(float x, float v, float rest) {
    const float n = metal::fma(v, 1.4426950408889634f, EXPONENT_MAGIC + 64.0f);
    const float tail = exp_tail(-v, (EXPONENT_MAGIC + 64.0f) - n, -rest);
    const float scaled = power_of_two(n);  // 2**64 u, see sigmoid_f32
    const float u = scaled * 5.421010862427522e-20f;
    const float whole = u + 1.0f;
    const float d = whole + (tail + lost_in_sum(u, whole));
    return x / d * scaled * 5.421010862427522e-20f;
}

METAL_FUNC float silu_f32(float x) {
    const float c = x < -125.0f ? -125.0f : x;
    return x > 18.0f ? x : sigmoid_times(c, c, 0.0f);
}

// x sigmoid(1.702 x)
METAL_FUNC float gelu_sigmoid_f32(float x) {
    const float c = x < -73.0f ? -73.0f : x;
    const float v = c * 1.702f;
    const float rest = metal::fma(c, 1.702f, -v) + c * -2.1934509319976314e-08f;
    return x > 10.5f ? x : sigmoid_times(c, v, rest);
}

// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3))), which is x sigmoid of twice the argument. Far left of zero the
// exponential multiplies the argument's rounding errors, so they are kept. 4 ulp.
METAL_FUNC float gelu_tanh_f32(float x) {
    const float c = x < -11.2f ? -11.2f : x;
    const float square = c * c;
    const float cubic = square * 0.07135481627159982f;
    const float slope = 1.5957691216057308f + cubic;
    const float small = cubic < 1.5957691216057308f ? cubic : 1.5957691216057308f;
    const float large = cubic < 1.5957691216057308f ? 1.5957691216057308f : cubic;
    float slope_rest = (large - slope) + small;
    slope_rest += metal::fma(square, 0.07135481627159982f, -cubic);
    slope_rest += metal::fma(metal::fma(c, c, -square), 0.07135481627159982f, square * 2.397831960765373e-09f);
    slope_rest += -4.534068032135963e-08f;
    const float v = c * slope;
    const float rest = metal::fma(c, slope, -v) + c * slope_rest;
    return x > 5.0f ? x : sigmoid_times(c, v, rest);
}

// x Phi(x). With a = |x| and y = a / (a + 3): a Phi(-a) = exp(-a**2/2) y w(2 y - 1), w a polynomial.
METAL_FUNC float gelu_f32(float x) {
    const float a = metal::fabs(x) > 14.5f ? 14.5f : metal::fabs(x);
    const float d = a + 3.0f;
    const float y = a / d;
    // what rounding took from y: the remainder of the division over a + 3, whose inverse is (1 - y) / 3
    float y_rest = metal::fma(-y, a - (d - 3.0f), metal::fma(-y, d, a));
    y_rest = y_rest * metal::fma(y, -0.3333333333333333f, 0.3333333333333333f);
    const float u = y + y - 1.0f;
    float w = 5.44550111885668e-05f;
    w = metal::fma(w, u, 0.00013125386845011297f);
    w = metal::fma(w, u, -0.00024475454176275615f);
    w = metal::fma(w, u, -0.001032524129239856f);
    w = metal::fma(w, u, 0.0010247839669037847f);
    w = metal::fma(w, u, 0.006969302301527544f);
    w = metal::fma(w, u, -0.010462520338094649f);
    w = metal::fma(w, u, -0.04726268761118065f);
    w = metal::fma(w, u, 0.23001769995528254f);
    w = metal::fma(w, u, -0.5093319914065105f);
    w = metal::fma(w, u, 0.7290836903700867f);
    const float g = y * w;
    const float slope = metal::fma(y + y, metal::fma(u, 0.46f, -0.509f), w);  // of g in y, roughly
    // and what rounding the coefficients adds to w, on average
    const float g_rest = metal::fma(y_rest, slope, metal::fma(y, w, -g)) - y * 2.2e-08f;
    // exp(-a**2/2), the square with its rounding error
    const float square = a * a;
    const float t = -0.5f * square;
    const float n = metal::fma(t, 1.4426950408889634f, EXPONENT_MAGIC + 64.0f);
    const float tail = exp_tail(t, n - (EXPONENT_MAGIC + 64.0f), -0.5f * metal::fma(a, a, -square));
    float lower = g + metal::fma(g, tail, g_rest);
    lower = lower * power_of_two(n) * 5.421010862427522e-20f;
    return x >= 0.0f ? x - lower : -lower;
}

METAL_FUNC float erf_f32(float x) {
    const float a = metal::fabs(x);
    // |x| < 1.12: x + x p(x**2 - 0.5), centred so that the terms and their rounding errors stay small
    const float z = metal::fma(x, x, -0.5f);
    float p = -8.640294584551172e-06f;
    p = metal::fma(p, z, 7.863089730004756e-05f);
    p = metal::fma(p, z, -0.0005616630806481517f);
    p = metal::fma(p, z, 0.00348026103732275f);
    p = metal::fma(p, z, -0.018283818591464638f);
    p = metal::fma(p, z, 0.07940998507467437f);
    p = metal::fma(p, z, -0.2810721803841441f);
    p = metal::fma(p, z, -0.034531261297940485f);
    // otherwise 1 - exp(q(|x|)), which is one from 4 on
    const float t = a > 4.0f ? 4.0f : a;
    float q = 0.0001719054811743615f;
    q = metal::fma(q, t, -0.002796165226245004f);
    q = metal::fma(q, t, 0.02119058700003843f);
    q = metal::fma(q, t, -0.10165951988316023f);
    q = metal::fma(q, t, -0.6399303090092241f);
    q = metal::fma(q, t, -1.125935543231237f);
    q = metal::fma(q, t, -0.0006467610783065604f);
    const float large = 1.0f - exp_f32(q);
    return x != x ? x : a < 1.12f ? metal::fma(p, x, x) : with_sign_of(large, x);
}

// x p(w) with w = -log(1 - x**2), in two pieces. 4 ulp.
METAL_FUNC float erfinv_f32(float x) {
    const float a = metal::fabs(x);
    const float w = -log_f32((1.0f - a) * (1.0f + a));
    float s = w - 2.5f;
    float p = 1.3285738816211805e-10f;
    p = metal::fma(p, s, 4.3702945970536514e-10f);
    p = metal::fma(p, s, -1.1023187103824306e-08f);
    p = metal::fma(p, s, 1.6457254572949478e-08f);
    p = metal::fma(p, s, 4.796986915768533e-07f);
    p = metal::fma(p, s, -3.4260122833568305e-06f);
    p = metal::fma(p, s, -4.998759369647347e-06f);
    p = metal::fma(p, s, 0.00021826355773677246f);
    p = metal::fma(p, s, -0.0012527048771845447f);
    p = metal::fma(p, s, -0.004177324636433471f);
    p = metal::fma(p, s, 0.2466402757856253f);
    p = metal::fma(p, s, 1.5014093516925653f);
    s = metal::precise::sqrt(w) - 3.0f;
    float q = -2.6229467734106003e-05f;
    q = metal::fma(q, s, 0.00015864545147297355f);
    q = metal::fma(q, s, -0.00028317522754585795f);
    q = metal::fma(q, s, -0.00011762590152500115f);
    q = metal::fma(q, s, 0.0014786984771830885f);
    q = metal::fma(q, s, -0.0035680381169837312f);
    q = metal::fma(q, s, 0.0056867490807965505f);
    q = metal::fma(q, s, -0.007642647566330757f);
    q = metal::fma(q, s, 0.009445391183435658f);
    q = metal::fma(q, s, 1.0016752342508575f);
    q = metal::fma(q, s, 2.832976800206116f);
    const float r = x * (w < 5.0f ? p : q);
    return a == 1.0f ? with_sign_of(INFINITY, x) : a <= 1.0f ? r : NAN;
}

// log(1 + exp(x)). 2 ulp.
METAL_FUNC float softplus_f32(float x) {
    const float r = log1p_f32(exp_f32(-metal::fabs(x)));
    return x > 0.0f ? x + r : x != x ? x : r;
}

// The larger, and the logarithm of the rest. 2 ulp of the larger operand.
METAL_FUNC float logaddexp_f32(float x, float y) {
    const float high = x > y ? x : y;
    const float low = x > y ? y : x;
    const float r = high + log1p_f32(exp_f32(low - high));
    if (x != x || y != y) return x + y;
    return low == -INFINITY || high == INFINITY ? high : r;
}

// The magnitude is Metal's; sign and special values are settled here.
METAL_FUNC float power_f32(float x, float y) {
    const float a = metal::fabs(x);
    const bool whole = metal::floor(y) == y;
    const float part = y * 0.5f;
    const bool odd = whole && metal::floor(part) != part;
    float value = metal::precise::pow(a, y);
    value = as_type<float>(as_type<uint>(value) | (odd ? as_type<uint>(x) & 0x80000000u : 0u));
    if (x < 0.0f && a < INFINITY && !whole) value = NAN;
    if (x != x || y != y) value = NAN;
    return y == 0.0f || (a == 1.0f && (x == 1.0f || metal::fabs(y) == INFINITY)) ? 1.0f : value;
}

// The sign of the divisor; a zero has the dividend's.
METAL_FUNC float remainder_f32(float x, float y) {
    const float r = metal::fabs(y) < INFINITY ? metal::precise::fmod(x, y) : y != y ? y : metal::fabs(x) < INFINITY ? x : NAN;
    if (r == 0.0f) return with_sign_of(r, x);
    return (r < 0.0f) != (y < 0.0f) ? r + y : r;
}
