// Attention: softmax(scale * q @ k^T + mask) @ v and its gradients. The score matrix never exists as a whole, and query
// heads that share a key head read it where it lies.
//
// q is [B, Hq, Tq, D], k [B, Hk, Tk, D], v [B, Hk, Tk, Dv], with Hq a multiple of Hk; query head h reads key head h
// / (Hq / Hk). Scores, their softmax and all sums are float32; results are rounded once. q is multiplied by the
// scale when it is read. A running maximum and sum join blocks of keys; a score further than all others is that of
// the `sink`.
//
// Knows nothing of tensors; mlxr/backends/metal/attention.py makes the launches.
#include <metal_simdgroup_matrix>
#include "operands.h"

constant uint dtype_q [[function_constant(0)]];
constant uint dtype_k [[function_constant(1)]];
constant uint dtype_v [[function_constant(2)]];
constant uint dtype_out [[function_constant(3)]];
constant int mask_kind [[function_constant(4)]];
constant uint dtype_mask [[function_constant(5)]];
constant bool has_sinks [[function_constant(6)]];
constant uint dtype_sinks [[function_constant(7)]];
constant bool wants_moments [[function_constant(8)]];  // also write maximum and sum of each row, for the gradients
constant uint rows_at_once [[function_constant(9)]];   // of attention_rows, at most ROWS
constant bool split [[function_constant(10)]];         // keys are shared by several threadgroups

constant constexpr uint SIMD = 32;

// A tensor of four axes: B, heads, T, D.
struct Steps4 {
    long start;
    long batch;
    long head;
    long row;
    long column;
};

struct AttentionParams {
    Steps4 q;
    Steps4 k;
    Steps4 v;
    Steps4 mask;  // [B, Hq, Tq, Tk]
    long sinks_start;
    long sinks_step;
    uint heads;
    uint key_heads;
    uint tq;
    uint tk;
    uint d;
    uint dv;
    float scale;
    uint splits;  // threadgroups that share the keys
};

METAL_FUNC long head_offset(constant Steps4& s, uint batch, uint head) {
    return s.start + long(batch) * s.batch + long(head) * s.head;
}

// What a query makes of its score with a key: the masked score, and 1 if it depends on the score, else 0. A key that
// does not exist scores minus infinity.
METAL_FUNC float2 masked(float score, uint query, uint key, device const uchar* mask, long at_mask,
                         constant AttentionParams& params) {
    if (key >= params.tk || query >= params.tq)
        return float2(-INFINITY, 0.0f);
    if (mask_kind == MASK_NONE)
        return float2(score, 1.0f);
    if (mask_kind == MASK_CAUSAL)
        return key + params.tq <= query + params.tk ? float2(score, 1.0f) : float2(-FLT_MAX, 0.0f);
    const long at = at_mask + long(query) * params.mask.row + long(key) * params.mask.column;
    if (mask_kind == MASK_BOOL)
        return mask[at] != 0 ? float2(score, 1.0f) : float2(-FLT_MAX, 0.0f);
    return float2(score + load_float(mask, at, dtype_mask), 1.0f);
}

// The end of the keys that matter to queries [first, last): all, unless each of them sees a key and they see no
// further.
METAL_FUNC uint keys_seen(uint first, uint last, constant AttentionParams& params) {
    if (mask_kind != MASK_CAUSAL || first + params.tk < params.tq)
        return params.tk;
    return min(params.tk, last + params.tk - params.tq);
}

METAL_FUNC float finite_or_zero(float maximum) {
    return maximum == -INFINITY ? 0.0f : maximum;
}

METAL_FUNC float sink_of(device const uchar* sinks, uint head, constant AttentionParams& params) {
    return has_sinks ? load_float(sinks, params.sinks_start + long(head) * params.sinks_step, dtype_sinks) : -INFINITY;
}

// ------------------------------------------------------------------ many queries

// Memory plan. A threadgroup takes BQ queries of a head, a simdgroup eight of them. q lies in threadgroup memory as
// float32 from the start; blocks of BK keys, then of their values, go through another part of it, read once by the
// threadgroup. A simdgroup keeps its 8 x Dv results in fragments. The scores of a block pass through threadgroup
// memory, where four lanes share a row: they mask it, find its maximum and exponentials. Earlier results are
// rescaled by a product with a diagonal matrix, so that nothing depends on where fragments keep their elements. A
// row whose weights are NaN is kept out of that product, and made NaN at the end.
// Expected limit (not measured on a GPU): arithmetic, 4 * Tq * Tk * D operations a head (half of it if causal), at the
// float32 rate of simdgroup matrices; threadgroup memory leaves room for one threadgroup a core when D > 64.
template <uint BQ, uint BK, uint DEPTH>
[[kernel]] void attention_tiles(device const uchar* q [[buffer(0)]],
                                device const uchar* k [[buffer(1)]],
                                device const uchar* v [[buffer(2)]],
                                device const uchar* mask [[buffer(3)]],
                                device const uchar* sinks [[buffer(4)]],
                                device uchar* out [[buffer(5)]],
                                device float2* moments [[buffer(6)]],
                                constant AttentionParams& params [[buffer(7)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint lid [[thread_index_in_threadgroup]],
                                uint lane [[thread_index_in_simdgroup]],
                                uint simd [[simdgroup_index_in_threadgroup]]) {
    constexpr uint SIMDS = BQ / 8, THREADS = SIMDS * SIMD, STRIDE = DEPTH + 4, F = DEPTH / 8, FK = BK / 8;
    threadgroup float queries[BQ * STRIDE];
    threadgroup float block[BK * STRIDE];
    threadgroup float scores[SIMDS][8 * BK];
    threadgroup float diagonal[SIMDS][64];

    const uint first = group.x * BQ, head = group.y, key_head = head / (params.heads / params.key_heads);
    const long at_q = head_offset(params.q, group.z, head), at_mask = head_offset(params.mask, group.z, head);
    const long at_k = head_offset(params.k, group.z, key_head), at_v = head_offset(params.v, group.z, key_head);
    for (uint i = lid; i < BQ * DEPTH; i += THREADS) {
        const uint r = first + i / DEPTH, c = i % DEPTH;
        queries[i / DEPTH * STRIDE + c] =
            r < params.tq && c < params.d
                ? params.scale * load_float(q, at_q + long(r) * params.q.row + long(c) * params.q.column, dtype_q)
                : 0.0f;
    }
    diagonal[simd][lane] = 0.0f;
    diagonal[simd][lane + SIMD] = 0.0f;

    simdgroup_matrix<float, 8, 8> acc[F];
    for (uint i = 0; i < F; ++i)
        acc[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    // Four lanes hold the state of a row.
    const uint row = lane / 4, query = first + simd * 8 + row;
    float maximum = sink_of(sinks, head, params), sum = has_sinks ? 1.0f : 0.0f;

    const uint end = keys_seen(first, first + BQ, params);
    for (uint key = 0; key < end; key += BK) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = lid; i < BK * DEPTH; i += THREADS) {
            const uint r = key + i / DEPTH, c = i % DEPTH;
            block[i / DEPTH * STRIDE + c] =
                r < params.tk && c < params.d
                    ? load_float(k, at_k + long(r) * params.k.row + long(c) * params.k.column, dtype_k) : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint j = 0; j < FK; ++j) {
            simdgroup_matrix<float, 8, 8> s = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            for (uint i = 0; i < F; ++i) {
                simdgroup_matrix<float, 8, 8> fq, fk;
                simdgroup_load(fq, queries + simd * 8 * STRIDE + i * 8, STRIDE);
                simdgroup_load(fk, block + j * 8 * STRIDE + i * 8, STRIDE, ulong2(0, 0), true);
                simdgroup_multiply_accumulate(s, fq, fk, s);
            }
            simdgroup_store(s, scores[simd] + j * 8, BK);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);

        float p[BK / 4];
        float highest = maximum;
        for (uint i = 0; i < BK / 4; ++i) {
            const uint c = lane % 4 + i * 4;
            p[i] = masked(scores[simd][row * BK + c], query, key + c, mask, at_mask, params).x;
            highest = max(highest, p[i]);
        }
        highest = max(highest, simd_shuffle_xor(highest, ushort(1)));
        highest = max(highest, simd_shuffle_xor(highest, ushort(2)));
        const float about = finite_or_zero(highest), rescale = precise::exp(maximum - about);
        float added = 0.0f;
        for (uint i = 0; i < BK / 4; ++i) {
            p[i] = precise::exp(p[i] - about);
            added += p[i];
        }
        added += simd_shuffle_xor(added, ushort(1));
        added += simd_shuffle_xor(added, ushort(2));
        sum = sum * rescale + added;
        maximum = highest;
        const bool lost = isnan(sum);
        for (uint i = 0; i < BK / 4; ++i)
            scores[simd][row * BK + lane % 4 + i * 4] = lost ? 0.0f : p[i];
        if (lane % 4 == 0)
            diagonal[simd][row * 9] = lost ? 0.0f : rescale;
        threadgroup_barrier(mem_flags::mem_threadgroup);

        for (uint i = lid; i < BK * DEPTH; i += THREADS) {
            const uint r = key + i / DEPTH, c = i % DEPTH;
            block[i / DEPTH * STRIDE + c] =
                r < params.tk && c < params.dv
                    ? load_float(v, at_v + long(r) * params.v.row + long(c) * params.v.column, dtype_v) : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_matrix<float, 8, 8> turn;
        simdgroup_load(turn, diagonal[simd], 8);
        for (uint i = 0; i < F; ++i) {
            simdgroup_matrix<float, 8, 8> o;
            simdgroup_multiply(o, turn, acc[i]);
            for (uint j = 0; j < FK; ++j) {
                simdgroup_matrix<float, 8, 8> fp, fv;
                simdgroup_load(fp, scores[simd] + j * 8, BK);
                simdgroup_load(fv, block + j * 8 * STRIDE + i * 8, STRIDE);
                simdgroup_multiply_accumulate(o, fp, fv, o);
            }
            acc[i] = o;
        }
    }

    const ulong at_row = (ulong(group.z) * params.heads + head) * params.tq + query;
    if (wants_moments && lane % 4 == 0 && query < params.tq)
        moments[at_row] = float2(maximum, sum);
    for (uint i = 0; i < F; ++i) {
        simdgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_store(acc[i], diagonal[simd], 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint half_row = 0; half_row < 2; ++half_row) {
            const uint c = lane % 4 * 2 + half_row;
            if (query < params.tq && i * 8 + c < params.dv)
                store_float(out, long(at_row * params.dv + i * 8 + c), diagonal[simd][row * 8 + c] / sum, dtype_out);
        }
    }
}

#define INSTANTIATE_TILES(name, BQ, BK, DEPTH)                                                                         \
    template [[host_name(name)]] [[kernel]] void attention_tiles<BQ, BK, DEPTH>(                                       \
        device const uchar* q [[buffer(0)]], device const uchar* k [[buffer(1)]], device const uchar* v [[buffer(2)]], \
        device const uchar* mask [[buffer(3)]], device const uchar* sinks [[buffer(4)]],                               \
        device uchar* out [[buffer(5)]], device float2* moments [[buffer(6)]],                                         \
        constant AttentionParams& params [[buffer(7)]], uint3 group [[threadgroup_position_in_grid]],                  \
        uint lid [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],                             \
        uint simd [[simdgroup_index_in_threadgroup]]);

INSTANTIATE_TILES("attention_tiles_64", 32, 32, 64)
INSTANTIATE_TILES("attention_tiles_128", 32, 16, 128)
INSTANTIATE_TILES("attention_tiles_256", 16, 8, 256)

// ------------------------------------------------------------------ few queries

// Memory plan. The rows of one key head (its query heads' queries) go together, ROWS at most in a threadgroup, so
// that a key or value is read once for all of them. A lane holds every 32nd element of a row; the simdgroups share
// the keys, and join what they found through threadgroup memory. With `split`, several threadgroups share the keys,
// and attention_join joins what they found.
// Expected limit (not measured on a GPU): memory bandwidth, keys and values read once.
constant constexpr uint ROWS = 4;
constant constexpr uint ROWS_SIMDS = 8;

template <uint E>
[[kernel]] void attention_rows(device const uchar* q [[buffer(0)]],
                               device const uchar* k [[buffer(1)]],
                               device const uchar* v [[buffer(2)]],
                               device const uchar* mask [[buffer(3)]],
                               device const uchar* sinks [[buffer(4)]],
                               device uchar* out [[buffer(5)]],
                               device float* parts [[buffer(6)]],  // [rows][splits][maximum, sum, Dv results]
                               constant AttentionParams& params [[buffer(7)]],
                               uint3 group [[threadgroup_position_in_grid]],
                               uint lid [[thread_index_in_threadgroup]],
                               uint lane [[thread_index_in_simdgroup]],
                               uint simd [[simdgroup_index_in_threadgroup]]) {
    threadgroup float results[ROWS_SIMDS][SIMD * E];
    threadgroup float2 found[ROWS_SIMDS];
    const uint key_head = group.y, batch = group.z / params.splits, part = group.z % params.splits;
    const uint shared = params.heads / params.key_heads;
    const uint first = group.x * rows_at_once, rows = shared * params.tq;
    const long at_k = head_offset(params.k, batch, key_head), at_v = head_offset(params.v, batch, key_head);

    float qs[ROWS][E], acc[ROWS][E], maximum[ROWS], sum[ROWS];
    for (uint r = 0; r < rows_at_once; ++r) {
        const uint index = min(first + r, rows - 1), head = key_head * shared + index / params.tq;
        const long at_q = head_offset(params.q, batch, head) + long(index % params.tq) * params.q.row;
        for (uint e = 0; e < E; ++e) {
            const uint c = e * SIMD + lane;
            qs[r][e] = c < params.d ? params.scale * load_float(q, at_q + long(c) * params.q.column, dtype_q) : 0.0f;
            acc[r][e] = 0.0f;
        }
        maximum[r] = -INFINITY;
        sum[r] = 0.0f;
    }

    const uint share = (params.tk + params.splits - 1) / params.splits;
    const uint end = min(params.tk, (part + 1) * share);
    for (uint key = part * share + simd; key < end; key += ROWS_SIMDS) {
        float ks[E], vs[E];
        for (uint e = 0; e < E; ++e) {
            const uint c = e * SIMD + lane;
            ks[e] = c < params.d ? load_float(k, at_k + long(key) * params.k.row + long(c) * params.k.column, dtype_k)
                                 : 0.0f;
            vs[e] = c < params.dv ? load_float(v, at_v + long(key) * params.v.row + long(c) * params.v.column, dtype_v)
                                  : 0.0f;
        }
        for (uint r = 0; r < rows_at_once; ++r) {
            const uint index = min(first + r, rows - 1), head = key_head * shared + index / params.tq;
            float dot = 0.0f;
            for (uint e = 0; e < E; ++e)
                dot = fma(qs[r][e], ks[e], dot);
            const float score = masked(simd_sum(dot), index % params.tq, key, mask,
                                       head_offset(params.mask, batch, head), params).x;
            const float highest = max(maximum[r], score), about = finite_or_zero(highest);
            const float rescale = precise::exp(maximum[r] - about), weight = precise::exp(score - about);
            maximum[r] = highest;
            sum[r] = sum[r] * rescale + weight;
            for (uint e = 0; e < E; ++e)
                acc[r][e] = fma(weight, vs[e], acc[r][e] * rescale);
        }
    }

    for (uint r = 0; r < rows_at_once; ++r) {
        for (uint e = 0; e < E; ++e)
            results[simd][e * SIMD + lane] = acc[r][e];
        if (lane == 0)
            found[simd] = float2(maximum[r], sum[r]);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint index = first + r;
        if (index < rows) {
            const uint head = key_head * shared + index / params.tq;
            const float sink = split ? -INFINITY : sink_of(sinks, head, params);
            float highest = sink;
            for (uint s = 0; s < ROWS_SIMDS; ++s)
                highest = max(highest, found[s].x);
            const float about = finite_or_zero(highest);
            float total = precise::exp(sink - about);
            for (uint s = 0; s < ROWS_SIMDS; ++s)
                total += found[s].y * precise::exp(found[s].x - about);
            const ulong at_row = (ulong(batch) * params.heads + head) * params.tq + index % params.tq;
            const ulong at_part = (at_row * params.splits + part) * (params.dv + 2);
            if (split && lid == 0) {
                parts[at_part] = highest;
                parts[at_part + 1] = total;
            }
            for (uint c = lid; c < params.dv; c += ROWS_SIMDS * SIMD) {
                float value = 0.0f;
                for (uint s = 0; s < ROWS_SIMDS; ++s)
                    value += results[s][c] * precise::exp(found[s].x - about);
                if (split)
                    parts[at_part + 2 + c] = value;
                else
                    store_float(out, long(at_row * params.dv + c), value / total, dtype_out);
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

#define INSTANTIATE_ROWS(name, E)                                                                                      \
    template [[host_name(name)]] [[kernel]] void attention_rows<E>(                                                    \
        device const uchar* q [[buffer(0)]], device const uchar* k [[buffer(1)]], device const uchar* v [[buffer(2)]], \
        device const uchar* mask [[buffer(3)]], device const uchar* sinks [[buffer(4)]],                               \
        device uchar* out [[buffer(5)]], device float* parts [[buffer(6)]],                                            \
        constant AttentionParams& params [[buffer(7)]], uint3 group [[threadgroup_position_in_grid]],                  \
        uint lid [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],                             \
        uint simd [[simdgroup_index_in_threadgroup]]);

INSTANTIATE_ROWS("attention_rows_64", 2)
INSTANTIATE_ROWS("attention_rows_128", 4)
INSTANTIATE_ROWS("attention_rows_256", 8)

// A simdgroup joins the parts of a row.
kernel void attention_join(device const float* parts [[buffer(0)]],
                           device const uchar* sinks [[buffer(1)]],
                           device uchar* out [[buffer(2)]],
                           constant AttentionParams& params [[buffer(3)]],
                           uint row [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]]) {
    const uint head = row / params.tq % params.heads, width = params.dv + 2;
    device const float* mine = parts + ulong(row) * params.splits * width;
    const float sink = sink_of(sinks, head, params);
    float highest = sink;
    for (uint s = 0; s < params.splits; ++s)
        highest = max(highest, mine[s * width]);
    const float about = finite_or_zero(highest);
    float total = precise::exp(sink - about);
    for (uint s = 0; s < params.splits; ++s)
        total += mine[s * width + 1] * precise::exp(mine[s * width] - about);
    for (uint c = lane; c < params.dv; c += SIMD) {
        float value = 0.0f;
        for (uint s = 0; s < params.splits; ++s)
            value += mine[s * width + 2 + c] * precise::exp(mine[s * width] - about);
        store_float(out, long(ulong(row) * params.dv + c), value / total, dtype_out);
    }
}

// ------------------------------------------------------------------ gradients

// With p the weights, o the result, g its cotangent: dp = g @ v^T, ds = p * (dp - delta), delta = sum(g * o) of a row,
// dq = scale * ds @ k, dk = ds^T @ (scale * q), dv = p^T @ g. attention_tiles runs again, for o and the moments of the
// rows; p is computed anew from those. attention_pack first copies q (scaled), k, v and g as float32, filled with zeros
// to whole fragments of eight rows and eight columns, so that both kernels below load fragments from device memory with
// no edges to mind: each simdgroup reads for itself, its neighbours the same, through the cache.
// Expected limit (not measured on a GPU): bandwidth of the cache, one fragment loaded for each 1024 operations.

// Sizes of the packed tensors: rows and columns are multiples of 8.
struct PackedParams {
    AttentionParams attention;
    uint rows_q;
    uint rows_k;
    uint width;     // columns of packed q and k
    uint width_v;   // of packed v and g
};

struct PackParams {
    Steps4 from;
    uint heads;
    uint rows;
    uint columns;
    uint packed_rows;
    uint packed_columns;
    float factor;
};

constant uint dtype_from [[function_constant(11)]];

kernel void attention_pack(device const uchar* from [[buffer(0)]],
                           device float* to [[buffer(1)]],
                           constant PackParams& params [[buffer(2)]],
                           uint3 at [[thread_position_in_grid]]) {
    if (at.x >= params.packed_columns || at.y >= params.packed_rows)
        return;
    const bool in = at.x < params.columns && at.y < params.rows;
    const long source = head_offset(params.from, at.z / params.heads, at.z % params.heads) +
                        long(at.y) * params.from.row + long(at.x) * params.from.column;
    to[(ulong(at.z) * params.packed_rows + at.y) * params.packed_columns + at.x] =
        in ? params.factor * load_float(from, source, dtype_from) : 0.0f;
}

// A simdgroup makes a row's delta.
kernel void attention_delta(device const float* g [[buffer(0)]],  // packed
                            device const float* out [[buffer(1)]],
                            device float* delta [[buffer(2)]],
                            constant PackedParams& params [[buffer(3)]],
                            uint row [[threadgroup_position_in_grid]],
                            uint lane [[thread_index_in_simdgroup]]) {
    const uint tq = params.attention.tq, dv = params.attention.dv;
    device const float* mine = g + (ulong(row / tq) * params.rows_q + row % tq) * params.width_v;
    float sum = 0.0f;
    for (uint c = lane; c < dv; c += SIMD)
        sum += mine[c] * out[ulong(row) * dv + c];
    sum = simd_sum(sum);
    if (lane == 0)
        delta[row] = sum;
}

// Weight and ds of a query and a key.
METAL_FUNC float2 weight_and_slope(float score, float slope, uint query, uint key, device const uchar* mask,
                                   long at_mask, device const float2* moments, device const float* delta,
                                   constant AttentionParams& params) {
    const float2 s = masked(score, query, key, mask, at_mask, params);
    if (query >= params.tq || key >= params.tk)
        return float2(0.0f);
    const float weight = precise::exp(s.x - moments[query].x) / moments[query].y;
    return float2(weight, s.y * weight * (slope - delta[query]));
}

// A simdgroup makes eight rows of dq.
template <uint F>
[[kernel]] void attention_dq(device const float* q [[buffer(0)]],
                             device const float* k [[buffer(1)]],
                             device const float* v [[buffer(2)]],
                             device const float* g [[buffer(3)]],
                             device const uchar* mask [[buffer(4)]],
                             device const float2* moments [[buffer(5)]],
                             device const float* delta [[buffer(6)]],
                             device uchar* dq [[buffer(7)]],
                             constant PackedParams& params [[buffer(8)]],
                             uint3 group [[threadgroup_position_in_grid]],
                             uint lane [[thread_index_in_simdgroup]],
                             uint simd [[simdgroup_index_in_threadgroup]],
                             uint simds [[simdgroups_per_threadgroup]]) {
    constexpr uint SIMDS = 4;
    threadgroup float tiles[SIMDS][3][64];  // scores, dp, ds
    const uint first = (group.x * simds + simd) * 8;
    if (first >= params.attention.tq)
        return;
    const uint head = group.y, heads = params.attention.heads;
    const uint key_head = head / (heads / params.attention.key_heads);
    const ulong query_head = ulong(group.z) * heads + head;
    const ulong key_stack = ulong(group.z) * params.attention.key_heads + key_head;
    device const float* my_q = q + (query_head * params.rows_q + first) * params.width;
    device const float* my_g = g + (query_head * params.rows_q + first) * params.width_v;
    device const float* my_k = k + key_stack * params.rows_k * params.width;
    device const float* my_v = v + key_stack * params.rows_k * params.width_v;
    device const float2* my_moments = moments + query_head * params.attention.tq;
    device const float* my_delta = delta + query_head * params.attention.tq;
    const long at_mask = head_offset(params.attention.mask, group.z, head);

    simdgroup_matrix<float, 8, 8> acc[F];
    for (uint i = 0; i < F; ++i)
        acc[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    const uint end = keys_seen(first, first + 8, params.attention);
    for (uint key = 0; key < end; key += 8) {
        simdgroup_matrix<float, 8, 8> s = make_filled_simdgroup_matrix<float, 8, 8>(0.0f), dp = s, one, two;
        for (uint c = 0; c < params.width; c += 8) {
            simdgroup_load(one, my_q + c, params.width);
            simdgroup_load(two, my_k + ulong(key) * params.width + c, params.width, ulong2(0, 0), true);
            simdgroup_multiply_accumulate(s, one, two, s);
        }
        for (uint c = 0; c < params.width_v; c += 8) {
            simdgroup_load(one, my_g + c, params.width_v);
            simdgroup_load(two, my_v + ulong(key) * params.width_v + c, params.width_v, ulong2(0, 0), true);
            simdgroup_multiply_accumulate(dp, one, two, dp);
        }
        simdgroup_store(s, tiles[simd][0], 8);
        simdgroup_store(dp, tiles[simd][1], 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint e = lane; e < 64; e += SIMD)
            tiles[simd][2][e] = weight_and_slope(tiles[simd][0][e], tiles[simd][1][e], first + e / 8, key + e % 8, mask,
                                                 at_mask, my_moments, my_delta, params.attention).y;
        simdgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_load(one, tiles[simd][2], 8);
        for (uint i = 0; i < F; ++i)
            if (i * 8 < params.width) {
                simdgroup_load(two, my_k + ulong(key) * params.width + i * 8, params.width);
                simdgroup_multiply_accumulate(acc[i], one, two, acc[i]);
            }
    }
    for (uint i = 0; i < F; ++i) {
        if (i * 8 >= params.width)
            continue;
        simdgroup_store(acc[i], tiles[simd][0], 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint e = lane; e < 64; e += SIMD) {
            const uint r = first + e / 8, c = i * 8 + e % 8;
            if (r < params.attention.tq && c < params.attention.d)
                store_float(dq, long((query_head * params.attention.tq + r) * params.attention.d + c),
                            params.attention.scale * tiles[simd][0][e], dtype_out);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

// A simdgroup makes eight rows of dk and dv, over the queries of all the heads that share the key head.
template <uint F>
[[kernel]] void attention_dkv(device const float* q [[buffer(0)]],
                              device const float* k [[buffer(1)]],
                              device const float* v [[buffer(2)]],
                              device const float* g [[buffer(3)]],
                              device const uchar* mask [[buffer(4)]],
                              device const float2* moments [[buffer(5)]],
                              device const float* delta [[buffer(6)]],
                              device uchar* dk [[buffer(7)]],
                              device uchar* dv [[buffer(8)]],
                              constant PackedParams& params [[buffer(9)]],
                              uint3 group [[threadgroup_position_in_grid]],
                              uint lane [[thread_index_in_simdgroup]],
                              uint simd [[simdgroup_index_in_threadgroup]],
                              uint simds [[simdgroups_per_threadgroup]]) {
    constexpr uint SIMDS = 4;
    threadgroup float tiles[SIMDS][4][64];  // scores, dp, weights, ds
    const uint first = (group.x * simds + simd) * 8;
    if (first >= params.attention.tk)
        return;
    const uint key_head = group.y, heads = params.attention.heads, tq = params.attention.tq, tk = params.attention.tk;
    const uint shared = heads / params.attention.key_heads;
    const ulong key_stack = ulong(group.z) * params.attention.key_heads + key_head;
    device const float* my_k = k + (key_stack * params.rows_k + first) * params.width;
    device const float* my_v = v + (key_stack * params.rows_k + first) * params.width_v;

    simdgroup_matrix<float, 8, 8> acc_k[F], acc_v[F];
    for (uint i = 0; i < F; ++i) {
        acc_k[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        acc_v[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    // A causal mask hides these keys from the queries before this one, if every query sees some key.
    const uint begin = mask_kind == MASK_CAUSAL && tk >= tq && first > tk - tq ? (first - (tk - tq)) / 8 * 8 : 0;
    for (uint head = key_head * shared; head < (key_head + 1) * shared; ++head) {
        const ulong query_head = ulong(group.z) * heads + head;
        device const float* my_q = q + query_head * params.rows_q * params.width;
        device const float* my_g = g + query_head * params.rows_q * params.width_v;
        device const float2* my_moments = moments + query_head * tq;
        device const float* my_delta = delta + query_head * tq;
        const long at_mask = head_offset(params.attention.mask, group.z, head);
        for (uint query = begin; query < tq; query += 8) {
            // Transposed: rows are keys, columns queries.
            simdgroup_matrix<float, 8, 8> s = make_filled_simdgroup_matrix<float, 8, 8>(0.0f), dp = s, one, two;
            for (uint c = 0; c < params.width; c += 8) {
                simdgroup_load(one, my_k + c, params.width);
                simdgroup_load(two, my_q + ulong(query) * params.width + c, params.width, ulong2(0, 0), true);
                simdgroup_multiply_accumulate(s, one, two, s);
            }
            for (uint c = 0; c < params.width_v; c += 8) {
                simdgroup_load(one, my_v + c, params.width_v);
                simdgroup_load(two, my_g + ulong(query) * params.width_v + c, params.width_v, ulong2(0, 0), true);
                simdgroup_multiply_accumulate(dp, one, two, dp);
            }
            simdgroup_store(s, tiles[simd][0], 8);
            simdgroup_store(dp, tiles[simd][1], 8);
            simdgroup_barrier(mem_flags::mem_threadgroup);
            for (uint e = lane; e < 64; e += SIMD) {
                const float2 both = weight_and_slope(tiles[simd][0][e], tiles[simd][1][e], query + e % 8, first + e / 8,
                                                     mask, at_mask, my_moments, my_delta, params.attention);
                tiles[simd][2][e] = both.x;
                tiles[simd][3][e] = both.y;
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
            simdgroup_load(one, tiles[simd][2], 8);
            for (uint i = 0; i < F; ++i)
                if (i * 8 < params.width_v) {
                    simdgroup_load(two, my_g + ulong(query) * params.width_v + i * 8, params.width_v);
                    simdgroup_multiply_accumulate(acc_v[i], one, two, acc_v[i]);
                }
            simdgroup_load(one, tiles[simd][3], 8);
            for (uint i = 0; i < F; ++i)
                if (i * 8 < params.width) {
                    simdgroup_load(two, my_q + ulong(query) * params.width + i * 8, params.width);
                    simdgroup_multiply_accumulate(acc_k[i], one, two, acc_k[i]);
                }
        }
    }
    for (uint i = 0; i < F; ++i) {
        simdgroup_store(acc_k[i], tiles[simd][0], 8);
        simdgroup_store(acc_v[i], tiles[simd][1], 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint e = lane; e < 64; e += SIMD) {
            const uint r = first + e / 8, c = i * 8 + e % 8;
            if (r < tk && c < params.attention.d)
                store_float(dk, long((key_stack * tk + r) * params.attention.d + c), tiles[simd][0][e], dtype_k);
            if (r < tk && c < params.attention.dv)
                store_float(dv, long((key_stack * tk + r) * params.attention.dv + c), tiles[simd][1][e], dtype_v);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

// A threadgroup makes the gradient of a head's sink: minus the sum of its weight times delta.
kernel void attention_dsinks(device const uchar* sinks [[buffer(0)]],
                             device const float2* moments [[buffer(1)]],
                             device const float* delta [[buffer(2)]],
                             device uchar* dsinks [[buffer(3)]],
                             constant AttentionParams& params [[buffer(4)]],
                             constant uint& batch [[buffer(5)]],
                             uint head [[threadgroup_position_in_grid]],
                             uint lid [[thread_index_in_threadgroup]],
                             uint lane [[thread_index_in_simdgroup]],
                             uint simd [[simdgroup_index_in_threadgroup]],
                             uint simds [[simdgroups_per_threadgroup]]) {
    threadgroup float sums[SIMD];
    const float sink = sink_of(sinks, head, params);
    float sum = 0.0f;
    for (uint i = lid; i < batch * params.tq; i += simds * SIMD) {
        const ulong row = (ulong(i / params.tq) * params.heads + head) * params.tq + i % params.tq;
        sum -= precise::exp(sink - moments[row].x) / moments[row].y * delta[row];
    }
    sum = simd_sum(sum);
    if (lane == 0)
        sums[simd] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simd == 0) {
        sum = simd_sum(lane < simds ? sums[lane] : 0.0f);
        if (lane == 0)
            store_float(dsinks, long(head), sum, dtype_out);
    }
}

#define INSTANTIATE_GRADIENTS(name_dq, name_dkv, F)                                                                    \
    template [[host_name(name_dq)]] [[kernel]] void attention_dq<F>(                                                   \
        device const float* q [[buffer(0)]], device const float* k [[buffer(1)]], device const float* v [[buffer(2)]], \
        device const float* g [[buffer(3)]], device const uchar* mask [[buffer(4)]],                                   \
        device const float2* moments [[buffer(5)]], device const float* delta [[buffer(6)]],                           \
        device uchar* dq [[buffer(7)]], constant PackedParams& params [[buffer(8)]],                                   \
        uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],                         \
        uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]);                      \
    template [[host_name(name_dkv)]] [[kernel]] void attention_dkv<F>(                                                 \
        device const float* q [[buffer(0)]], device const float* k [[buffer(1)]], device const float* v [[buffer(2)]], \
        device const float* g [[buffer(3)]], device const uchar* mask [[buffer(4)]],                                   \
        device const float2* moments [[buffer(5)]], device const float* delta [[buffer(6)]],                           \
        device uchar* dk [[buffer(7)]], device uchar* dv [[buffer(8)]], constant PackedParams& params [[buffer(9)]],   \
        uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],                         \
        uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]);

INSTANTIATE_GRADIENTS("attention_dq_64", "attention_dkv_64", 8)
INSTANTIATE_GRADIENTS("attention_dq_128", "attention_dkv_128", 16)
INSTANTIATE_GRADIENTS("attention_dq_256", "attention_dkv_256", 32)
