// Random bits and what is made of them in one pass: uniform, normal and Bernoulli samples.
//
// Threefry-2x32 of a counter: any word of the output can be computed alone, so a thread takes one counter and gives two
// words. Layout and formulas: mlxr/cpu/kernels/random.pxd. Bits, uniform and Bernoulli samples are the CPU backend's bit
// for bit; normal samples differ by erfinv's rounding in float32 (mathematics.h).
//
// Memory plan: nothing is read but the key; each half of the output is written in unbroken runs. Expected limit (not
// measured): some 70 integer operations for two words, so arithmetic rather than bandwidth on GPUs of more than a few
// hundred GB/s.
#include "mathematics.h"
#include "strides.h"
#include "types.h"
using namespace metal;

constant uint SAMPLE [[function_constant(0)]];
constant uint DTYPE_OUT [[function_constant(1)]];

// The numbers of mlxr/backends/metal/random.py.
enum Sample : uint { BITS, UNIFORM, NORMAL, BERNOULLI };

struct RandomParams {
    uint elements;  // of the output, per key
    uint words;     // per key
    float offset;   // low, or loc
    float factor;   // high - low, factor, or threshold
    Strided<1> keys;
};

METAL_FUNC uint rotated(uint x, uint by) { return (x << by) | (x >> (32u - by)); }

METAL_FUNC uint2 four_rounds(uint2 v, uint a, uint b, uint c, uint d) {
    v.x += v.y;
    v.y = rotated(v.y, a) ^ v.x;
    v.x += v.y;
    v.y = rotated(v.y, b) ^ v.x;
    v.x += v.y;
    v.y = rotated(v.y, c) ^ v.x;
    v.x += v.y;
    v.y = rotated(v.y, d) ^ v.x;
    return v;
}

METAL_FUNC uint2 threefry(uint2 key, uint2 counter) {
    const uint third = key.x ^ key.y ^ 0x1BD11BDAu;
    uint2 v = counter + key;
    v = four_rounds(v, 13, 15, 26, 6) + uint2(key.y, third + 1u);
    v = four_rounds(v, 17, 29, 16, 24) + uint2(third, key.x + 2u);
    v = four_rounds(v, 13, 15, 26, 6) + uint2(key.x, key.y + 3u);
    v = four_rounds(v, 17, 29, 16, 24) + uint2(key.y, third + 4u);
    return four_rounds(v, 13, 15, 26, 6) + uint2(third, key.x + 5u);
}

METAL_FUNC float unit_interval(uint word, float upper) {
    const float u = float(word) * 2.3283064365386963e-10f;
    return u > upper ? upper : u;
}

// Make of word number `j` of one key its part of that key's output, which starts at element `first`.
METAL_FUNC void emit(device uchar* out, constant RandomParams& p, uint first, uint j, uint word) {
    switch (SAMPLE) {
    case BITS:
        if (DTYPE_OUT == DT_UINT32) {
            ((device uint*)out)[first + j] = word;
        } else if (DTYPE_OUT == DT_UINT16) {
            for (uint k = 0; k < 2 && 2 * j + k < p.elements; ++k) {
                ((device ushort*)out)[first + 2 * j + k] = ushort(word >> (16 * k));
            }
        } else {
            for (uint k = 0; k < 4 && 4 * j + k < p.elements; ++k) out[first + 4 * j + k] = uchar(word >> (8 * k));
        }
        break;
    case UNIFORM: {
        const float upper = DTYPE_OUT == DT_FLOAT16 ? 0.99951171875f : DTYPE_OUT == DT_BFLOAT16 ? 0.99609375f : 0.99999994f;
        const float u = narrow(unit_interval(word, upper), DTYPE_OUT);
        const float scaled = narrow(narrow(p.factor, DTYPE_OUT) * u, DTYPE_OUT);
        store_as(out, DTYPE_OUT, first + j, scaled + p.offset);
        break;
    }
    case NORMAL: {
        const float doubled = 2.0f * unit_interval(word, 0.99999994f);
        const float z = narrow(erfinv_f32(doubled - 0.99999994f), DTYPE_OUT);
        const float scaled = narrow(p.factor * z, DTYPE_OUT);
        if (DTYPE_OUT == DT_COMPLEX64) {
            ((device float*)out)[2 * ulong(first) + j] = (j & 1u) != 0 ? scaled : scaled + p.offset;
        } else {
            store_as(out, DTYPE_OUT, first + j, p.offset + scaled);
        }
        break;
    }
    default:
        out[first + j] = uchar(float(word) < p.factor);
        break;
    }
}

// Grid: (counters, keys).
kernel void random(device const uint* keys [[buffer(0)]], device uchar* out [[buffer(1)]],
                   constant RandomParams& p [[buffer(2)]], uint2 gid [[thread_position_in_grid]]) {
    const uint pairs = p.words / 2;
    const uint odd = p.words % 2;
    const uint i = gid.x;
    if (i >= pairs + odd) return;
    Walk<1> walk(p.keys, 2 * gid.y);
    const uint low = keys[walk.at[0]];
    walk.step(p.keys, 2 * gid.y + 1);
    const uint2 key = uint2(low, keys[walk.at[0]]);
    const uint first = gid.y * p.elements;
    if (i < pairs) {
        const uint2 v = threefry(key, uint2(i, pairs + odd + i));
        emit(out, p, first, i, v.x);
        emit(out, p, first, pairs + odd + i, v.y);
    } else {
        emit(out, p, first, i, threefry(key, uint2(pairs, 0)).x);
    }
}
