// Kernels on rows: softmax, layer and RMS normalization, cross entropy, each with its gradient, and rotary embedding.
//
// Memory plan. A row belongs to one threadgroup (`wide`), or, when it is short, to one simdgroup of a threadgroup that
// holds several. Each thread keeps READS elements of its row in registers, in runs of RUN neighbours, so that a
// simdgroup reads one stretch of memory. A row that fits the registers of its threads is read once and written once; a
// longer one is walked in spans, and read again by each walk. Sums are float32: in a thread, then in a simdgroup, then
// over the simdgroups through threadgroup memory. Results are rounded once.
//
// Expected limit (not measured on a GPU): memory bandwidth. Bytes of a row, read and written once, over bandwidth,
// up to wide rows of 1024 * READS elements; above that half or a third of it.
//
// Knows nothing of tensors; mlxr/backends/metal/rows.py makes the launches.
#include "operands.h"

constant bool wide [[function_constant(0)]];
constant uint dtype_0 [[function_constant(1)]];
constant uint dtype_1 [[function_constant(2)]];
constant uint dtype_2 [[function_constant(3)]];
constant uint dtype_3 [[function_constant(4)]];
constant bool has_weight [[function_constant(7)]];
constant bool has_bias [[function_constant(8)]];
constant int mask_kind [[function_constant(9)]];

constant constexpr uint SIMD = 32;
constant constexpr uint RUN = 4;
constant constexpr uint READS = 8;

struct RowsParams {
    Lead lead;
    Steps operand[4];
    uint rows;
    uint n;
    float eps;
    uint queries;  // causal softmax: row r is query r % queries
};

// ------------------------------------------------------------------ a row and its threads

// A thread's place in the row it works on.
struct Place {
    uint row;
    uint lid;      // of the threads of the row
    uint threads;  // of the row
    uint span;     // elements that those threads hold at once
};

METAL_FUNC Place place_of(uint group, uint lid, uint lane, uint simd, uint simds) {
    Place p;
    p.row = wide ? group : group * simds + simd;
    p.lid = wide ? lid : lane;
    p.threads = wide ? simds * SIMD : SIMD;
    p.span = p.threads * READS;
    return p;
}

// The column of element r of those that a thread holds in the span at `base`.
METAL_FUNC uint column_of(Place p, uint base, uint r) {
    return base + (r / RUN * p.threads + p.lid) * RUN + r % RUN;
}

// Elements outside the row become `fill`.
METAL_FUNC void read_span(thread float* v, device const uchar* data, long offset, long step, Place p, uint base, uint n,
                          float fill, uint dtype) {
    for (uint r = 0; r < READS; ++r) {
        const uint i = column_of(p, base, r);
        v[r] = i < n ? load_float(data, offset + long(i) * step, dtype) : fill;
    }
}

// Reductions over the threads of a row; all of them get the result. The first barrier keeps this reduction's writes
// behind the reads of the one before.
METAL_FUNC float row_sum(float v, threadgroup float* scratch, uint lane, uint simd, uint simds) {
    v = simd_sum(v);
    if (wide) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (lane == 0)
            scratch[simd] = v;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        v = simd_sum(lane < simds ? scratch[lane] : 0.0f);
    }
    return v;
}

// Comes first in a kernel: there are no reads to wait for.
METAL_FUNC float row_max(float v, threadgroup float* scratch, uint lane, uint simd, uint simds) {
    v = simd_max(v);
    if (wide) {
        if (lane == 0)
            scratch[simd] = v;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        v = simd_max(lane < simds ? scratch[lane] : -INFINITY);
    }
    return v;
}

// A running maximum and the sum of exp(v - maximum). Minus infinity stands for "nothing yet", and adds nothing; NaN
// and infinity make the sum NaN.
struct Running {
    float maximum;
    float sum;
};

METAL_FUNC float finite_or_zero(float maximum) {
    return maximum == -INFINITY ? 0.0f : maximum;
}

METAL_FUNC Running join_span(Running a, thread const float* v) {
    Running b;
    b.maximum = a.maximum;
    for (uint r = 0; r < READS; ++r)
        b.maximum = max(b.maximum, v[r]);
    const float about = finite_or_zero(b.maximum);
    b.sum = a.sum * precise::exp(a.maximum - about);
    for (uint r = 0; r < READS; ++r)
        b.sum += precise::exp(v[r] - about);
    return b;
}

METAL_FUNC Running join_row(Running a, threadgroup float* scratch, uint lane, uint simd, uint simds) {
    Running b;
    b.maximum = row_max(a.maximum, scratch, lane, simd, simds);
    b.sum = row_sum(a.sum * precise::exp(a.maximum - finite_or_zero(b.maximum)), scratch, lane, simd, simds);
    return b;
}

// ------------------------------------------------------------------ softmax

// out = softmax(x), or of x under a mask: boolean (false scores the lowest finite number), added, or causal (row r, the
// query r % queries of `queries`, sees the columns up to r % queries + n - queries).
METAL_FUNC void read_masked(thread float* v, device const uchar* x, device const uchar* mask,
                            constant RowsParams& params, long at_x, long at_mask, Place p, uint base) {
    const long step = params.operand[0].inner;
    read_span(v, x, at_x, step, p, base, params.n, -INFINITY, dtype_0);
    if (mask_kind == MASK_NONE)
        return;
    const float lowest = dtype_0 == DT_FLOAT32 ? -FLT_MAX : dtype_0 == DT_FLOAT16 ? -65504.0f : -3.38953139e38f;
    for (uint r = 0; r < READS; ++r) {
        const uint i = column_of(p, base, r);
        if (i >= params.n)
            continue;
        const long at = at_mask + long(i) * params.operand[1].inner;
        if (mask_kind == MASK_CAUSAL) {
            if (i + params.queries > p.row % params.queries + params.n)
                v[r] = lowest;
        } else if (mask_kind == MASK_BOOL) {
            if (mask[at] == 0)
                v[r] = lowest;
        } else
            v[r] += load_float(mask, at, dtype_1);
    }
}

kernel void softmax(device const uchar* x [[buffer(0)]],
                    device const uchar* mask [[buffer(1)]],
                    device uchar* out [[buffer(2)]],
                    constant RowsParams& params [[buffer(3)]],
                    uint group [[threadgroup_position_in_grid]],
                    uint lid [[thread_index_in_threadgroup]],
                    uint lane [[thread_index_in_simdgroup]],
                    uint simd [[simdgroup_index_in_threadgroup]],
                    uint simds [[simdgroups_per_threadgroup]]) {
    threadgroup float scratch[SIMD];
    const Place p = place_of(group, lid, lane, simd, simds);
    if (p.row >= params.rows)
        return;
    const long at_x = lead_offset(params.lead, params.operand[0], p.row);
    const long at_mask = lead_offset(params.lead, params.operand[1], p.row);
    float v[READS];
    Running all;
    all.maximum = -INFINITY;
    all.sum = 0.0f;
    for (uint base = 0; base < params.n; base += p.span) {
        read_masked(v, x, mask, params, at_x, at_mask, p, base);
        all = join_span(all, v);
    }
    all = join_row(all, scratch, lane, simd, simds);
    const float scale = 1.0f / all.sum;
    for (uint base = 0; base < params.n; base += p.span) {
        if (params.n > p.span)
            read_masked(v, x, mask, params, at_x, at_mask, p, base);
        for (uint r = 0; r < READS; ++r) {
            const uint i = column_of(p, base, r);
            if (i < params.n)
                store_float(out, long(p.row) * params.n + i, precise::exp(v[r] - all.maximum) * scale, dtype_2);
        }
    }
}

// dx = y * (g - sum(g * y)), y the result of softmax.
kernel void softmax_vjp(device const uchar* y [[buffer(0)]],
                        device const uchar* g [[buffer(1)]],
                        device uchar* dx [[buffer(2)]],
                        constant RowsParams& params [[buffer(3)]],
                        uint group [[threadgroup_position_in_grid]],
                        uint lid [[thread_index_in_threadgroup]],
                        uint lane [[thread_index_in_simdgroup]],
                        uint simd [[simdgroup_index_in_threadgroup]],
                        uint simds [[simdgroups_per_threadgroup]]) {
    threadgroup float scratch[SIMD];
    const Place p = place_of(group, lid, lane, simd, simds);
    if (p.row >= params.rows)
        return;
    const long at_y = lead_offset(params.lead, params.operand[0], p.row);
    const long at_g = lead_offset(params.lead, params.operand[1], p.row);
    float vy[READS], vg[READS];
    float dot = 0.0f;
    for (uint base = 0; base < params.n; base += p.span) {
        read_span(vy, y, at_y, params.operand[0].inner, p, base, params.n, 0.0f, dtype_0);
        read_span(vg, g, at_g, params.operand[1].inner, p, base, params.n, 0.0f, dtype_1);
        for (uint r = 0; r < READS; ++r)
            dot += vy[r] * vg[r];
    }
    dot = row_sum(dot, scratch, lane, simd, simds);
    for (uint base = 0; base < params.n; base += p.span) {
        if (params.n > p.span) {
            read_span(vy, y, at_y, params.operand[0].inner, p, base, params.n, 0.0f, dtype_0);
            read_span(vg, g, at_g, params.operand[1].inner, p, base, params.n, 0.0f, dtype_1);
        }
        for (uint r = 0; r < READS; ++r) {
            const uint i = column_of(p, base, r);
            if (i < params.n)
                store_float(dx, long(p.row) * params.n + i, vy[r] * (vg[r] - dot), dtype_2);
        }
    }
}

// ------------------------------------------------------------------ normalization

// Mean (0 if not `centred`) and reciprocal root of the mean square about it. v holds the row if it fits.
METAL_FUNC float2 row_moments(thread float* v, device const uchar* x, constant RowsParams& params, long at,
                              bool centred, Place p, threadgroup float* scratch, uint lane, uint simd, uint simds) {
    const long step = params.operand[0].inner;
    const float count = float(params.n);
    float mean = 0.0f;
    if (centred) {
        float sum = 0.0f;
        for (uint base = 0; base < params.n; base += p.span) {
            read_span(v, x, at, step, p, base, params.n, 0.0f, dtype_0);
            for (uint r = 0; r < READS; ++r)
                sum += v[r];
        }
        mean = row_sum(sum, scratch, lane, simd, simds) / count;
    }
    float squares = 0.0f;
    for (uint base = 0; base < params.n; base += p.span) {
        if (!centred || params.n > p.span)
            read_span(v, x, at, step, p, base, params.n, 0.0f, dtype_0);
        for (uint r = 0; r < READS; ++r) {
            const float d = column_of(p, base, r) < params.n ? v[r] - mean : 0.0f;
            squares += d * d;
        }
    }
    squares = row_sum(squares, scratch, lane, simd, simds);
    return float2(mean, precise::rsqrt(squares / count + params.eps));
}

// out = (x - mean) * scale * w + b
template <bool CENTRED>
[[kernel]] void norm(device const uchar* x [[buffer(0)]],
                     device const uchar* w [[buffer(1)]],
                     device const uchar* b [[buffer(2)]],
                     device uchar* out [[buffer(3)]],
                     constant RowsParams& params [[buffer(4)]],
                     uint group [[threadgroup_position_in_grid]],
                     uint lid [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint simd [[simdgroup_index_in_threadgroup]],
                     uint simds [[simdgroups_per_threadgroup]]) {
    threadgroup float scratch[SIMD];
    const Place p = place_of(group, lid, lane, simd, simds);
    if (p.row >= params.rows)
        return;
    const long at = lead_offset(params.lead, params.operand[0], p.row);
    float v[READS];
    const float2 moments = row_moments(v, x, params, at, CENTRED, p, scratch, lane, simd, simds);
    for (uint base = 0; base < params.n; base += p.span) {
        if (params.n > p.span)
            read_span(v, x, at, params.operand[0].inner, p, base, params.n, 0.0f, dtype_0);
        for (uint r = 0; r < READS; ++r) {
            const uint i = column_of(p, base, r);
            if (i >= params.n)
                continue;
            float value = (v[r] - moments.x) * moments.y;
            if (has_weight)
                value *= load_float(w, params.operand[1].start + long(i) * params.operand[1].inner, dtype_1);
            if (has_bias)
                value += load_float(b, params.operand[2].start + long(i) * params.operand[2].inner, dtype_2);
            store_float(out, long(p.row) * params.n + i, value, dtype_3);
        }
    }
}

template [[host_name("layer_norm")]] [[kernel]] void norm<true>(
    device const uchar* x [[buffer(0)]], device const uchar* w [[buffer(1)]], device const uchar* b [[buffer(2)]],
    device uchar* out [[buffer(3)]], constant RowsParams& params [[buffer(4)]],
    uint group [[threadgroup_position_in_grid]], uint lid [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
    uint simds [[simdgroups_per_threadgroup]]);
template [[host_name("rms_norm")]] [[kernel]] void norm<false>(
    device const uchar* x [[buffer(0)]], device const uchar* w [[buffer(1)]], device const uchar* b [[buffer(2)]],
    device uchar* out [[buffer(3)]], constant RowsParams& params [[buffer(4)]],
    uint group [[threadgroup_position_in_grid]], uint lid [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
    uint simds [[simdgroups_per_threadgroup]]);

// dx = scale * (wg - mean(wg) - normal * mean(wg * normal)), the middle term only if CENTRED, with normal the
// normalized row and wg = g * w. Mean and scale of each row go to `moments`, for norm_vjp_weight.
template <bool CENTRED>
[[kernel]] void norm_vjp(device const uchar* x [[buffer(0)]],
                         device const uchar* g [[buffer(1)]],
                         device const uchar* w [[buffer(2)]],
                         device uchar* dx [[buffer(3)]],
                         device float2* moments [[buffer(4)]],
                         constant RowsParams& params [[buffer(5)]],
                         uint group [[threadgroup_position_in_grid]],
                         uint lid [[thread_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]],
                         uint simd [[simdgroup_index_in_threadgroup]],
                         uint simds [[simdgroups_per_threadgroup]]) {
    threadgroup float scratch[SIMD];
    const Place p = place_of(group, lid, lane, simd, simds);
    if (p.row >= params.rows)
        return;
    const long at_x = lead_offset(params.lead, params.operand[0], p.row);
    const long at_g = lead_offset(params.lead, params.operand[1], p.row);
    float vx[READS], vg[READS];
    const float2 row = row_moments(vx, x, params, at_x, CENTRED, p, scratch, lane, simd, simds);
    if (p.lid == 0)
        moments[p.row] = row;
    float sum_g = 0.0f, sum_gn = 0.0f;
    for (uint base = 0; base < params.n; base += p.span) {
        if (params.n > p.span)
            read_span(vx, x, at_x, params.operand[0].inner, p, base, params.n, 0.0f, dtype_0);
        read_span(vg, g, at_g, params.operand[1].inner, p, base, params.n, 0.0f, dtype_1);
        for (uint r = 0; r < READS; ++r) {
            const uint i = column_of(p, base, r);
            if (has_weight && i < params.n)
                vg[r] *= load_float(w, params.operand[2].start + long(i) * params.operand[2].inner, dtype_2);
            sum_g += vg[r];
            sum_gn += vg[r] * (vx[r] - row.x) * row.y;
        }
    }
    const float count = float(params.n);
    const float mean_g = CENTRED ? row_sum(sum_g, scratch, lane, simd, simds) / count : 0.0f;
    const float mean_gn = row_sum(sum_gn, scratch, lane, simd, simds) / count;
    for (uint base = 0; base < params.n; base += p.span) {
        if (params.n > p.span) {
            read_span(vx, x, at_x, params.operand[0].inner, p, base, params.n, 0.0f, dtype_0);
            read_span(vg, g, at_g, params.operand[1].inner, p, base, params.n, 0.0f, dtype_1);
        }
        for (uint r = 0; r < READS; ++r) {
            const uint i = column_of(p, base, r);
            if (i >= params.n)
                continue;
            if (has_weight && params.n > p.span)
                vg[r] *= load_float(w, params.operand[2].start + long(i) * params.operand[2].inner, dtype_2);
            const float normal = (vx[r] - row.x) * row.y;
            store_float(dx, long(p.row) * params.n + i, row.y * (vg[r] - mean_g - normal * mean_gn), dtype_3);
        }
    }
}

template [[host_name("layer_norm_vjp")]] [[kernel]] void norm_vjp<true>(
    device const uchar* x [[buffer(0)]], device const uchar* g [[buffer(1)]], device const uchar* w [[buffer(2)]],
    device uchar* dx [[buffer(3)]], device float2* moments [[buffer(4)]], constant RowsParams& params [[buffer(5)]],
    uint group [[threadgroup_position_in_grid]], uint lid [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
    uint simds [[simdgroups_per_threadgroup]]);
template [[host_name("rms_norm_vjp")]] [[kernel]] void norm_vjp<false>(
    device const uchar* x [[buffer(0)]], device const uchar* g [[buffer(1)]], device const uchar* w [[buffer(2)]],
    device uchar* dx [[buffer(3)]], device float2* moments [[buffer(4)]], constant RowsParams& params [[buffer(5)]],
    uint group [[threadgroup_position_in_grid]], uint lid [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
    uint simds [[simdgroups_per_threadgroup]]);

// Sums over rows, for the gradients of weight (g * normal) and bias (g). A threadgroup takes 32 columns of a block of
// rows: a lane owns a column, the simdgroups share the rows, so that a simdgroup reads neighbours. Partial sums of the
// blocks, weight's then bias's, go to `partial` [blocks][2][n], and sum_blocks adds them.
struct BlocksParams {
    RowsParams rows;
    uint block;   // rows of a block
    uint blocks;
};

kernel void norm_vjp_weight(device const uchar* x [[buffer(0)]],
                            device const uchar* g [[buffer(1)]],
                            device const float2* moments [[buffer(2)]],
                            device float* partial [[buffer(3)]],
                            constant BlocksParams& params [[buffer(4)]],
                            uint3 group [[threadgroup_position_in_grid]],
                            uint lane [[thread_index_in_simdgroup]],
                            uint simd [[simdgroup_index_in_threadgroup]],
                            uint simds [[simdgroups_per_threadgroup]]) {
    threadgroup float sums[2][SIMD][SIMD];
    const uint column = group.x * SIMD + lane, n = params.rows.n;
    const uint first = group.y * params.block, last = min(first + params.block, params.rows.rows);
    float weight = 0.0f, bias = 0.0f;
    if (column < n) {
        for (uint row = first + simd; row < last; row += simds) {
            const long at_x = lead_offset(params.rows.lead, params.rows.operand[0], row);
            const long at_g = lead_offset(params.rows.lead, params.rows.operand[1], row);
            const float vx = load_float(x, at_x + long(column) * params.rows.operand[0].inner, dtype_0);
            const float vg = load_float(g, at_g + long(column) * params.rows.operand[1].inner, dtype_1);
            const float2 m = moments[row];
            weight += vg * ((vx - m.x) * m.y);
            bias += vg;
        }
    }
    sums[0][simd][lane] = weight;
    sums[1][simd][lane] = bias;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simd < 2 && column < n) {
        float sum = 0.0f;
        for (uint k = 0; k < simds; ++k)
            sum += sums[simd][k][lane];
        partial[(ulong(group.y) * 2 + simd) * n + column] = sum;
    }
}

// out[i] = sum over blocks of partial[block][which][i]
kernel void sum_blocks(device const float* partial [[buffer(0)]],
                       device uchar* out [[buffer(1)]],
                       constant uint4& params [[buffer(2)]],  // n, blocks, which
                       uint i [[thread_position_in_grid]]) {
    if (i >= params.x)
        return;
    float sum = 0.0f;
    for (uint block = 0; block < params.y; ++block)
        sum += partial[(ulong(block) * 2 + params.z) * params.x + i];
    store_float(out, long(i), sum, dtype_0);
}

// ------------------------------------------------------------------ cross entropy

METAL_FUNC Running row_running(thread float* v, device const uchar* logits, constant RowsParams& params, long at,
                               Place p, threadgroup float* scratch, uint lane, uint simd, uint simds) {
    Running all;
    all.maximum = -INFINITY;
    all.sum = 0.0f;
    for (uint base = 0; base < params.n; base += p.span) {
        read_span(v, logits, at, params.operand[0].inner, p, base, params.n, -INFINITY, dtype_0);
        all = join_span(all, v);
    }
    return join_row(all, scratch, lane, simd, simds);
}

METAL_FUNC long target_of(device const uchar* targets, constant RowsParams& params, uint row) {
    const uint at = uint(lead_offset(params.lead, params.operand[1], row));
    const long target = load_as<long>(targets, dtype_1, DT_INT64, at);
    return target < 0 ? target + long(params.n) : target;
}

// out = logsumexp(logits) - logits[target], in one walk over the row; NaN for a target that is no class.
kernel void cross_entropy(device const uchar* logits [[buffer(0)]],
                          device const uchar* targets [[buffer(1)]],
                          device uchar* out [[buffer(2)]],
                          constant RowsParams& params [[buffer(3)]],
                          uint group [[threadgroup_position_in_grid]],
                          uint lid [[thread_index_in_threadgroup]],
                          uint lane [[thread_index_in_simdgroup]],
                          uint simd [[simdgroup_index_in_threadgroup]],
                          uint simds [[simdgroups_per_threadgroup]]) {
    threadgroup float scratch[SIMD];
    const Place p = place_of(group, lid, lane, simd, simds);
    if (p.row >= params.rows)
        return;
    const long at = lead_offset(params.lead, params.operand[0], p.row);
    float v[READS];
    const Running all = row_running(v, logits, params, at, p, scratch, lane, simd, simds);
    if (p.lid == 0) {
        const long target = target_of(targets, params, p.row);
        const bool known = target >= 0 && target < long(params.n);
        const float own = known ? load_float(logits, at + target * params.operand[0].inner, dtype_0) : NAN;
        store_float(out, long(p.row), precise::log(all.sum) + (all.maximum - own), dtype_2);
    }
}

// dlogits = (softmax(logits) - onehot(target)) * g
kernel void cross_entropy_vjp(device const uchar* logits [[buffer(0)]],
                              device const uchar* targets [[buffer(1)]],
                              device const uchar* g [[buffer(2)]],
                              device uchar* out [[buffer(3)]],
                              constant RowsParams& params [[buffer(4)]],
                              uint group [[threadgroup_position_in_grid]],
                              uint lid [[thread_index_in_threadgroup]],
                              uint lane [[thread_index_in_simdgroup]],
                              uint simd [[simdgroup_index_in_threadgroup]],
                              uint simds [[simdgroups_per_threadgroup]]) {
    threadgroup float scratch[SIMD];
    const Place p = place_of(group, lid, lane, simd, simds);
    if (p.row >= params.rows)
        return;
    const long at = lead_offset(params.lead, params.operand[0], p.row);
    float v[READS];
    const Running all = row_running(v, logits, params, at, p, scratch, lane, simd, simds);
    const long target = target_of(targets, params, p.row);
    const float scale = 1.0f / all.sum;
    const float weight = load_float(g, lead_offset(params.lead, params.operand[2], p.row), dtype_2);
    for (uint base = 0; base < params.n; base += p.span) {
        if (params.n > p.span)
            read_span(v, logits, at, params.operand[0].inner, p, base, params.n, -INFINITY, dtype_0);
        for (uint r = 0; r < READS; ++r) {
            const uint i = column_of(p, base, r);
            if (i >= params.n)
                continue;
            const float probability = precise::exp(v[r] - all.maximum) * scale;
            const float residual = long(i) == target ? probability - 1.0f : probability;
            store_float(out, long(p.row) * params.n + i, residual * weight, dtype_3);
        }
    }
}

// ------------------------------------------------------------------ rotary embedding

// x [B, heads, T, D]: a thread computes one angle and turns that pair in HEADS heads; the grid's x numbers the
// pairs, then the elements from `dims` on, which are copied. An angle is the product of a position, an integer, with
// a rate that is a sum of two floats; the product's error is kept while it is reduced to [-pi, pi], so that sines
// and cosines are good to a few units of float32's last place at positions up to 2^24.
// Expected limit (not measured on a GPU): memory bandwidth, x read and written once.
constant constexpr uint HEADS = 4;

constant bool traditional [[function_constant(10)]];
constant bool has_freqs [[function_constant(11)]];
constant bool has_offsets [[function_constant(12)]];

struct RopeParams {
    Lead heads;          // axes between the first and the last two
    Steps head;          // x, within those
    long x_steps[3];     // x: B, T, D
    Steps freqs;
    Steps offsets;       // inner is 0 if one offset serves all
    long offset;
    uint batch;
    uint head_count;
    uint length;         // T
    uint depth;          // D
    uint dims;
    float sign;          // -1 turns the other way
    float2 scale;        // of positions, as a sum of two floats; rates contain it
};

METAL_FUNC float reduced_angle(float position, float2 rate) {
    const float angle = position * rate.x;
    const float rest = fma(position, rate.x, -angle) + position * rate.y;
    const float turns = rint(angle * 0.159154943f);
    float reduced = fma(-turns, 6.28318548f, angle);  // 2 pi = 6.28318548 - 1.74845553e-7
    reduced = fma(turns, 1.74845553e-7f, reduced);
    return reduced + rest;
}

kernel void rope(device const uchar* x [[buffer(0)]],
                 device const uchar* freqs [[buffer(1)]],
                 device const uchar* offsets [[buffer(2)]],
                 device uchar* out [[buffer(3)]],
                 constant float2* rates [[buffer(4)]],
                 constant RopeParams& params [[buffer(5)]],
                 uint3 at [[thread_position_in_grid]]) {
    const uint pairs = params.dims / 2;
    const uint head_blocks = (params.head_count + HEADS - 1) / HEADS;
    if (at.x >= pairs + params.depth - params.dims || at.y >= params.length)
        return;
    const uint b = at.z / head_blocks, first = at.z % head_blocks * HEADS;
    const uint last = min(first + HEADS, params.head_count);
    const bool turned = at.x < pairs;
    const uint one = !turned ? at.x + pairs : traditional ? 2 * at.x : at.x;
    const uint two = !turned ? one : traditional ? one + 1 : one + pairs;
    float c = 1.0f, s = 0.0f;
    if (turned) {
        long offset = params.offset;
        if (has_offsets)
            offset = load_as<long>(offsets, dtype_2, DT_INT64,
                                   uint(params.offsets.start + long(b) * params.offsets.inner));
        float2 rate;
        if (has_freqs) {
            const float freq = load_float(freqs, params.freqs.start + long(at.x) * params.freqs.inner, DT_FLOAT32);
            rate.x = params.scale.x / freq;
            rate.y = rate.x == 0.0f ? 0.0f : (fma(-rate.x, freq, params.scale.x) + params.scale.y) / freq;
        } else
            rate = rates[at.x];
        const float angle = reduced_angle(float(offset + long(at.y)), rate);
        c = precise::cos(angle);
        s = precise::sin(angle) * params.sign;
    }
    for (uint head = first; head < last; ++head) {
        const long from = lead_offset(params.heads, params.head, head) + long(b) * params.x_steps[0] +
                          long(at.y) * params.x_steps[1];
        const long to = ((long(b) * params.head_count + head) * params.length + at.y) * params.depth;
        const float u = load_float(x, from + long(one) * params.x_steps[2], dtype_0);
        if (turned) {
            const float v = load_float(x, from + long(two) * params.x_steps[2], dtype_0);
            store_float(out, to + one, u * c - v * s, dtype_3);
            store_float(out, to + two, u * s + v * c, dtype_3);
        } else
            store_float(out, to + one, u, dtype_3);
    }
}
