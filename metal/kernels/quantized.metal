// Affine-quantized matrices: quantize, dequantize, and products with them.
//
// A row is a stream of integers of `bits` bits in 32-bit words; an element is scale * q + bias, and `group` neighbours
// share scale and bias. Eight elements are `bits` bytes and lie in at most two words, whatever `bits` is, so eight is
// the unit in which threads read; 32 elements fill `bits` words, and a group holds whole units of 32.
//
// Expected limit (not measured on a GPU): quantize, dequantize and products with up to VECTORS rows are bound by memory
// bandwidth (the words are read once); products with more rows by arithmetic, as in matmul.metal.
//
// Knows nothing of tensors; mlxr/backends/metal/quantized.py makes the launches.
#include <metal_simdgroup_matrix>
#include "operands.h"

constant uint bits [[function_constant(0)]];
constant uint group [[function_constant(1)]];
constant uint dtype_x [[function_constant(2)]];
constant uint dtype_scales [[function_constant(3)]];
constant uint dtype_biases [[function_constant(4)]];
constant uint dtype_out [[function_constant(5)]];
constant bool transposed [[function_constant(6)]];
constant bool gathered [[function_constant(7)]];
constant uint vectors [[function_constant(8)]];  // rows of x that a matrix-vector kernel takes at once

constant constexpr uint SIMD = 32;
constant constexpr uint UNIT = 8;
constant constexpr uint VECTORS = 4;
constant constexpr uint MAX_GROUP = 128;

struct QuantizedParams {
    Lead lead;
    Matrix x;
    Matrix w;
    Matrix scales;
    Matrix biases;
    uint m;
    uint n;
    uint k;
    uint lhs_count;  // matrices that lhs and rhs may name
    uint rhs_count;
    uint unused;
};

// Eight integers from column `column`, a multiple of eight, of a row of words.
METAL_FUNC void unpack(thread float* q, device const uint* row, uint column) {
    const uint bit = column * bits, word = bit / 32, shift = bit % 32;
    ulong both = ulong(row[word]) >> shift;
    if (shift + UNIT * bits > 32)
        both |= ulong(row[word + 1]) << (32 - shift);
    for (uint i = 0; i < UNIT; ++i) {
        q[i] = float(uint(both) & ((1u << bits) - 1u));
        both >>= bits;
    }
}

// Scale and bias at one place of the matrix.
METAL_FUNC float2 affine(device const uchar* scales, device const uchar* biases, long at_scales, long at_biases,
                         constant QuantizedParams& params, uint row, uint column) {
    const uint g = column / group;
    return float2(load_float(scales, at_scales + long(row) * params.scales.row + long(g) * params.scales.steps.inner,
                             dtype_scales),
                  load_float(biases, at_biases + long(row) * params.biases.row + long(g) * params.biases.steps.inner,
                             dtype_biases));
}

// Where the matrices of one product begin.
struct Places {
    long x;
    long w;
    long scales;
    long biases;
};

METAL_FUNC Places places_of(constant QuantizedParams& params, device const uint* lhs, device const uint* rhs,
                            device FaultRecord* fault, uint batch, bool notes) {
    Places p;
    if (gathered) {
        p.x = gathered_offset(params.x, lhs, batch, params.lhs_count, 0, fault, notes);
        p.w = gathered_offset(params.w, rhs, batch, params.rhs_count, 1, fault, notes);
        p.scales = gathered_offset(params.scales, rhs, batch, params.rhs_count, 1, fault, false);
        p.biases = gathered_offset(params.biases, rhs, batch, params.rhs_count, 1, fault, false);
    } else {
        p.x = lead_offset(params.lead, params.x.steps, batch);
        p.w = lead_offset(params.lead, params.w.steps, batch);
        p.scales = lead_offset(params.lead, params.scales.steps, batch);
        p.biases = lead_offset(params.lead, params.biases.steps, batch);
    }
    return p;
}

// ------------------------------------------------------------------ there and back

// A simdgroup quantizes a group of a row: the edge of its range that is farther from zero is represented exactly, and
// zero too if an integer allows it. x is [rows, columns]; words, scales and biases are row-major. A lane holds one
// element of each unit of 32, and the lanes' bits are joined into words.
struct QuantizeParams {
    Lead lead;
    Steps x;
    uint rows;
    uint groups;  // of a row
};

kernel void quantize(device const uchar* x [[buffer(0)]],
                     device uint* words [[buffer(1)]],
                     device uchar* scales [[buffer(2)]],
                     device uchar* biases [[buffer(3)]],
                     constant QuantizeParams& params [[buffer(4)]],
                     uint threadgroup_index [[threadgroup_position_in_grid]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint simd [[simdgroup_index_in_threadgroup]],
                     uint simds [[simdgroups_per_threadgroup]]) {
    const uint index = threadgroup_index * simds + simd;
    if (index >= params.rows * params.groups)
        return;
    const uint first = index % params.groups * group;
    const long at = lead_offset(params.lead, params.x, index / params.groups);
    const float top = float((1u << bits) - 1u);
    float v[MAX_GROUP / SIMD];
    float low = INFINITY, high = -INFINITY;
    for (uint unit = 0; unit < MAX_GROUP / SIMD; ++unit)
        if (unit * SIMD < group) {
            v[unit] = load_float(x, at + long(first + unit * SIMD + lane) * params.x.inner, dtype_x);
            low = min(low, v[unit]);
            high = max(high, v[unit]);
        }
    low = simd_min(low);
    high = simd_max(high);
    float step = max((high - low) / top, 1e-7f), bias = low;
    if (bits > 1) {
        const bool upwards = fabs(low) > fabs(high);
        step = upwards ? step : -step;
        const float edge = upwards ? low : high, at_zero = rint(edge / step);
        bias = at_zero == 0.0f ? 0.0f : edge;
        step = at_zero == 0.0f ? step : edge / at_zero;
    }
    if (lane == 0) {
        store_float(scales, long(index), step, dtype_scales);
        store_float(biases, long(index), bias, dtype_biases);
    }
    device uint* to = words + ulong(index) * (group / SIMD) * bits;
    const uint bit = lane * bits;
    for (uint unit = 0; unit < MAX_GROUP / SIMD; ++unit) {
        if (unit * SIMD >= group)
            break;
        const uint q = uint(clamp(rint((v[unit] - bias) / step), 0.0f, top));
        for (uint word = 0; word < bits; ++word) {
            uint part = 0;
            if (bit / 32 == word)
                part = q << (bit % 32);
            else if (bit / 32 + 1 == word && bit % 32 + bits > 32)
                part = q >> (32 - bit % 32);
            part = simd_or(part);
            if (lane == 0)
                to[unit * bits + word] = part;
        }
    }
}

// A thread makes one element; params.n columns in params.m rows. The product and its sum with the bias are each rounded
// to the result's dtype.
kernel void dequantize(device const uint* words [[buffer(0)]],
                       device const uchar* scales [[buffer(1)]],
                       device const uchar* biases [[buffer(2)]],
                       device uchar* out [[buffer(3)]],
                       constant QuantizedParams& params [[buffer(4)]],
                       uint2 at [[thread_position_in_grid]]) {
    if (at.x >= params.n || at.y >= params.m)
        return;
    const long at_w = lead_offset(params.lead, params.w.steps, at.y);
    const long at_scales = lead_offset(params.lead, params.scales.steps, at.y);
    const long at_biases = lead_offset(params.lead, params.biases.steps, at.y);
    const uint bit = at.x * bits, shift = bit % 32;
    uint q = words[at_w + bit / 32] >> shift;
    if (shift + bits > 32)
        q |= words[at_w + bit / 32 + 1] << (32 - shift);
    q &= (1u << bits) - 1u;
    const float2 s = affine(scales, biases, at_scales, at_biases, params, 0, at.x);
    const float product = narrow(s.x * float(q), dtype_out);
    store_float(out, long(at.y) * params.n + at.x, product + s.y, dtype_out);
}

// ------------------------------------------------------------------ products with many rows

// out = x @ w^T if transposed (w [n, k]), else x @ w (w [k, n]). As gemm in matmul.metal, with blocks of float32: that
// of x is converted, that of w unpacked on its way to threadgroup memory, one unit of eight by each thread.
kernel void quantized_tiles(device const uchar* x [[buffer(0)]],
                            device const uint* w [[buffer(1)]],
                            device const uchar* scales [[buffer(2)]],
                            device const uchar* biases [[buffer(3)]],
                            device const uint* lhs [[buffer(4)]],
                            device const uint* rhs [[buffer(5)]],
                            device FaultRecord* fault [[buffer(6)]],
                            device uchar* out [[buffer(7)]],
                            constant QuantizedParams& params [[buffer(8)]],
                            uint3 tile [[threadgroup_position_in_grid]],
                            uint lid [[thread_index_in_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]],
                            uint simd [[simdgroup_index_in_threadgroup]]) {
    constexpr uint EDGE = 32, THREADS = 4 * SIMD, STRIDE = EDGE + 4, F = 2;
    threadgroup float block_x[EDGE * STRIDE];
    threadgroup float block_w[EDGE * STRIDE];
    threadgroup float band[4][8 * F * 8];
    const Places p = places_of(params, lhs, rhs, fault, tile.z, lid == 0);
    const uint row = tile.y * EDGE, column = tile.x * EDGE;
    const uint top = simd / 2 * (EDGE / 2), left = simd % 2 * (EDGE / 2);

    simdgroup_matrix<float, 8, 8> acc[F][F];
    for (uint i = 0; i < F; ++i)
        for (uint j = 0; j < F; ++j)
            acc[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);

    for (uint k = 0; k < params.k; k += EDGE) {
        for (uint i = lid; i < EDGE * EDGE; i += THREADS) {
            const uint r = row + i / EDGE, c = k + i % EDGE;
            const bool in = r < params.m && c < params.k;
            block_x[i / EDGE * STRIDE + i % EDGE] =
                in ? load_float(x, p.x + long(r) * params.x.row + long(c) * params.x.steps.inner, dtype_x) : 0.0f;
        }
        // The thread's unit of w: along k if transposed, else along n.
        const uint major = lid / (EDGE / UNIT), minor = lid % (EDGE / UNIT) * UNIT;
        const uint w_row = (transposed ? column : k) + major, w_column = (transposed ? k : column) + minor;
        const bool in = w_row < (transposed ? params.n : params.k) && w_column < (transposed ? params.k : params.n);
        float q[UNIT] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        float2 s = float2(0.0f);
        if (in) {
            unpack(q, w + p.w + long(w_row) * params.w.row, w_column);
            s = affine(scales, biases, p.scales, p.biases, params, w_row, w_column);
        }
        for (uint i = 0; i < UNIT; ++i)
            block_w[transposed ? (minor + i) * STRIDE + major : major * STRIDE + minor + i] = fma(s.x, q[i], s.y);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint kk = 0; kk < EDGE; kk += 8) {
            simdgroup_matrix<float, 8, 8> fx[F], fw[F];
            for (uint i = 0; i < F; ++i)
                simdgroup_load(fx[i], block_x + (top + i * 8) * STRIDE + kk, STRIDE);
            for (uint j = 0; j < F; ++j)
                simdgroup_load(fw[j], block_w + kk * STRIDE + left + j * 8, STRIDE);
            for (uint i = 0; i < F; ++i)
                for (uint j = 0; j < F; ++j)
                    simdgroup_multiply_accumulate(acc[i][j], fx[i], fw[j], acc[i][j]);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    const ulong at_out = ulong(tile.z) * params.m * params.n;
    for (uint i = 0; i < F; ++i) {
        for (uint j = 0; j < F; ++j)
            simdgroup_store(acc[i][j], band[simd] + j * 8, F * 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint e = lane; e < 8 * F * 8; e += SIMD) {
            const uint r = row + top + i * 8 + e / (F * 8), c = column + left + e % (F * 8);
            if (r < params.m && c < params.n)
                store_float(out, long(at_out + ulong(r) * params.n + c), band[simd][e], dtype_out);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

// ------------------------------------------------------------------ products with few rows

// w is [n, k]: a simdgroup makes ROWS results for each of `vectors` rows of x. A lane takes a unit of each row of w,
// and the same eight elements of x for all of them; of a unit, scale * sum(q * x) + bias * sum(x) is summed.
kernel void quantized_vector_rows(device const uchar* x [[buffer(0)]],
                                  device const uint* w [[buffer(1)]],
                                  device const uchar* scales [[buffer(2)]],
                                  device const uchar* biases [[buffer(3)]],
                                  device const uint* lhs [[buffer(4)]],
                                  device const uint* rhs [[buffer(5)]],
                                  device FaultRecord* fault [[buffer(6)]],
                                  device uchar* out [[buffer(7)]],
                                  constant QuantizedParams& params [[buffer(8)]],
                                  uint3 at [[threadgroup_position_in_grid]],
                                  uint lid [[thread_index_in_threadgroup]],
                                  uint lane [[thread_index_in_simdgroup]],
                                  uint simd [[simdgroup_index_in_threadgroup]],
                                  uint simds [[simdgroups_per_threadgroup]]) {
    constexpr uint ROWS = 4;
    const Places p = places_of(params, lhs, rhs, fault, at.z, lid == 0);
    const uint first = (at.x * simds + simd) * ROWS, vector = at.y * vectors;
    float sums[ROWS][VECTORS];
    for (uint r = 0; r < ROWS; ++r)
        for (uint v = 0; v < VECTORS; ++v)
            sums[r][v] = 0.0f;
    for (uint k = lane * UNIT; k < params.k; k += SIMD * UNIT) {
        float xs[VECTORS][UNIT], total[VECTORS];
        for (uint v = 0; v < vectors; ++v) {
            total[v] = 0.0f;
            for (uint i = 0; i < UNIT; ++i) {
                xs[v][i] = vector + v < params.m ? load_float(x, p.x + long(vector + v) * params.x.row +
                                                                  long(k + i) * params.x.steps.inner, dtype_x) : 0.0f;
                total[v] += xs[v][i];
            }
        }
        for (uint r = 0; r < ROWS; ++r) {
            if (first + r >= params.n)
                continue;
            float q[UNIT];
            unpack(q, w + p.w + long(first + r) * params.w.row, k);
            const float2 s = affine(scales, biases, p.scales, p.biases, params, first + r, k);
            for (uint v = 0; v < vectors; ++v) {
                float dot = 0.0f;
                for (uint i = 0; i < UNIT; ++i)
                    dot = fma(q[i], xs[v][i], dot);
                sums[r][v] = fma(s.x, dot, fma(s.y, total[v], sums[r][v]));
            }
        }
    }
    for (uint r = 0; r < ROWS; ++r)
        for (uint v = 0; v < vectors; ++v) {
            const float sum = simd_sum(sums[r][v]);
            if (lane == 0 && first + r < params.n && vector + v < params.m)
                store_float(out, (long(at.z) * params.m + vector + v) * params.n + first + r, sum, dtype_out);
        }
}

// w is [k, n]: a lane owns the eight columns of a unit, for `vectors` rows of x; the simdgroups share k.
kernel void quantized_vector_columns(device const uchar* x [[buffer(0)]],
                                     device const uint* w [[buffer(1)]],
                                     device const uchar* scales [[buffer(2)]],
                                     device const uchar* biases [[buffer(3)]],
                                     device const uint* lhs [[buffer(4)]],
                                     device const uint* rhs [[buffer(5)]],
                                     device FaultRecord* fault [[buffer(6)]],
                                     device uchar* out [[buffer(7)]],
                                     constant QuantizedParams& params [[buffer(8)]],
                                     uint3 at [[threadgroup_position_in_grid]],
                                     uint lid [[thread_index_in_threadgroup]],
                                     uint lane [[thread_index_in_simdgroup]],
                                     uint simd [[simdgroup_index_in_threadgroup]],
                                     uint simds [[simdgroups_per_threadgroup]]) {
    constexpr uint SIMDS = 8;
    threadgroup float parts[SIMDS][SIMD * UNIT];
    const Places p = places_of(params, lhs, rhs, fault, at.z, lid == 0);
    const uint column = (at.x * SIMD + lane) * UNIT, vector = at.y * vectors;
    float sums[VECTORS][UNIT];
    for (uint v = 0; v < VECTORS; ++v)
        for (uint i = 0; i < UNIT; ++i)
            sums[v][i] = 0.0f;
    if (column < params.n)
        for (uint k = simd; k < params.k; k += simds) {
            float q[UNIT];
            unpack(q, w + p.w + long(k) * params.w.row, column);
            const float2 s = affine(scales, biases, p.scales, p.biases, params, k, column);
            for (uint v = 0; v < vectors; ++v) {
                if (vector + v >= params.m)
                    continue;
                const float element = load_float(x, p.x + long(vector + v) * params.x.row +
                                                 long(k) * params.x.steps.inner, dtype_x);
                for (uint i = 0; i < UNIT; ++i)
                    sums[v][i] = fma(fma(s.x, q[i], s.y), element, sums[v][i]);
            }
        }
    for (uint v = 0; v < vectors; ++v) {
        for (uint i = 0; i < UNIT; ++i)
            parts[simd][lane * UNIT + i] = sums[v][i];
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint c = lid; c < SIMD * UNIT; c += simds * SIMD) {
            const uint to = at.x * SIMD * UNIT + c;
            float sum = 0.0f;
            for (uint part = 0; part < simds; ++part)
                sum += parts[part][c];
            if (to < params.n && vector + v < params.m)
                store_float(out, (long(at.z) * params.m + vector + v) * params.n + to, sum, dtype_out);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}
