// Matrix products: tiles on simdgroup matrices, and a path for one row or one column.
//
// Memory plan of gemm. A threadgroup of four simdgroups makes a tile of BM x BN results. For every BK of k it copies a
// BM x BK block of A and a BK x BN block of B to threadgroup memory, each element once, walking device memory along
// whichever axis has stride 1 (function constants), so that no operand is ever copied to be transposed. Each simdgroup
// then makes a quarter of the tile from 8 x 8 fragments, with float32 sums. The result goes through threadgroup memory,
// so that a simdgroup writes whole stretches of rows; there alpha, beta and the added matrix are applied, and results
// are rounded, once. Blocks that overlap an edge are filled with zeros. When there are few tiles and a long k, k is cut
// into parts (`split`), whose float32 sums gemm_join adds in order.
//
// Expected limit (not measured on a GPU): arithmetic. A 64 x 64 tile reads 2 * 64 elements per 64 * 64 products: 32
// operations a byte in float32 and 64 in half precision, above the ratio of peak to bandwidth of Apple's GPUs through
// the M3 generation.
//
// Knows nothing of tensors; mlxr/backends/metal/matmul.py makes the launches.
#include <metal_simdgroup_matrix>
#include "operands.h"

constant bool a_by_columns [[function_constant(0)]];  // A's elements along k are neighbours
constant bool b_by_columns [[function_constant(1)]];  // B's elements along n are neighbours
constant bool has_addend [[function_constant(2)]];
constant bool gathered [[function_constant(3)]];
constant bool split [[function_constant(4)]];

constant constexpr uint SIMD = 32;

struct GemmParams {
    Lead lead;
    Matrix a;
    Matrix b;
    Matrix c;
    uint m;
    uint n;
    uint k;
    uint k_part;  // multiplications of each part, a multiple of BK, when k is split
    uint parts;
    float alpha;
    float beta;
    uint lhs_count;  // matrices that lhs and rhs may name
    uint rhs_count;
    uint unused;
};

// A block of `rows` x `columns` elements at (row, column) of a matrix of `row_end` x `column_end`, to threadgroup
// memory. Threads take runs along the axis of stride 1, neighbours next to each other.
template <typename T, uint ROWS, uint COLUMNS, uint STRIDE, uint THREADS>
METAL_FUNC void load_block(threadgroup T* to, device const T* from, long row_step, long column_step, uint row,
                           uint column, uint row_end, uint column_end, bool by_columns, uint lid) {
    const bool inside = row + ROWS <= row_end && column + COLUMNS <= column_end;
    device const T* block = from + long(row) * row_step + long(column) * column_step;
    if (by_columns) {
        for (uint i = lid; i < ROWS * COLUMNS; i += THREADS) {
            const uint r = i / COLUMNS, c = i % COLUMNS;
            const bool in = inside || (row + r < row_end && column + c < column_end);
            to[r * STRIDE + c] = in ? block[long(r) * row_step + long(c)] : T(0.0f);
        }
    } else {
        for (uint i = lid; i < ROWS * COLUMNS; i += THREADS) {
            const uint r = i % ROWS, c = i / ROWS;
            const bool in = inside || (row + r < row_end && column + c < column_end);
            to[r * STRIDE + c] = in ? block[long(r) * row_step + long(c) * column_step] : T(0.0f);
        }
    }
}

template <typename T>
METAL_FUNC T finished(float sum, device const T* c, constant GemmParams& params, long at_c, uint row, uint column) {
    float value = params.alpha * sum;
    if (has_addend)
        value += params.beta * float(c[at_c + long(row) * params.c.row + long(column) * params.c.steps.inner]);
    return T(value);
}

// ------------------------------------------------------------------ tiles

// out = alpha * a @ b + beta * c for each matrix of the stack; with `gathered`, of the matrices that lhs and rhs name.
template <typename T, uint BM, uint BN>
[[kernel]] void gemm(device const T* a [[buffer(0)]],
                     device const T* b [[buffer(1)]],
                     device const T* c [[buffer(2)]],
                     device const uint* lhs [[buffer(3)]],
                     device const uint* rhs [[buffer(4)]],
                     device FaultRecord* fault [[buffer(5)]],
                     device T* out [[buffer(6)]],
                     device float* sums [[buffer(7)]],
                     constant GemmParams& params [[buffer(8)]],
                     uint3 tile [[threadgroup_position_in_grid]],
                     uint lid [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint simd [[simdgroup_index_in_threadgroup]]) {
    constexpr uint BK = 16, THREADS = 4 * SIMD, PAD = 16 / sizeof(T);
    constexpr uint STRIDE_A = BK + PAD, STRIDE_B = BN + PAD;
    constexpr uint FM = BM / 16, FN = BN / 16;  // fragments of a simdgroup
    constexpr uint WIDTH = FN * 8;
    threadgroup T block_a[BM * STRIDE_A];
    threadgroup T block_b[BK * STRIDE_B];
    threadgroup float band[4][8 * WIDTH];

    const uint part = split ? tile.z % params.parts : 0;
    const uint batch = split ? tile.z / params.parts : tile.z;
    const uint row = tile.y * BM, column = tile.x * BN;
    const uint k_begin = part * params.k_part;
    const uint k_end = split ? min(params.k, k_begin + params.k_part) : params.k;
    device const T* from_a = a;
    device const T* from_b = b;
    if (gathered) {
        from_a += gathered_offset(params.a, lhs, batch, params.lhs_count, 0, fault, lid == 0);
        from_b += gathered_offset(params.b, rhs, batch, params.rhs_count, 1, fault, lid == 0);
    } else {
        from_a += lead_offset(params.lead, params.a.steps, batch);
        from_b += lead_offset(params.lead, params.b.steps, batch);
    }

    simdgroup_matrix<float, 8, 8> acc[FM][FN];
    for (uint i = 0; i < FM; ++i)
        for (uint j = 0; j < FN; ++j)
            acc[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    const uint top = simd / 2 * (BM / 2), left = simd % 2 * (BN / 2);

    for (uint k = k_begin; k < k_end; k += BK) {
        load_block<T, BM, BK, STRIDE_A, THREADS>(block_a, from_a, params.a.row, params.a.steps.inner, row, k, params.m,
                                                 k_end, a_by_columns, lid);
        load_block<T, BK, BN, STRIDE_B, THREADS>(block_b, from_b, params.b.row, params.b.steps.inner, k, column, k_end,
                                                 params.n, b_by_columns, lid);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint kk = 0; kk < BK; kk += 8) {
            simdgroup_matrix<T, 8, 8> fa[FM], fb[FN];
            for (uint i = 0; i < FM; ++i)
                simdgroup_load(fa[i], block_a + (top + i * 8) * STRIDE_A + kk, STRIDE_A);
            for (uint j = 0; j < FN; ++j)
                simdgroup_load(fb[j], block_b + kk * STRIDE_B + left + j * 8, STRIDE_B);
            for (uint i = 0; i < FM; ++i)
                for (uint j = 0; j < FN; ++j)
                    simdgroup_multiply_accumulate(acc[i][j], fa[i], fb[j], acc[i][j]);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    const long at_c = has_addend && !split ? lead_offset(params.lead, params.c.steps, batch) : 0;
    const ulong at_out = ulong(batch) * params.m * params.n;
    const ulong at_sums = ulong(tile.z) * params.m * params.n;
    for (uint i = 0; i < FM; ++i) {
        for (uint j = 0; j < FN; ++j)
            simdgroup_store(acc[i][j], band[simd] + j * 8, WIDTH);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint e = lane; e < 8 * WIDTH; e += SIMD) {
            const uint r = row + top + i * 8 + e / WIDTH, col = column + left + e % WIDTH;
            if (r < params.m && col < params.n) {
                const ulong at = ulong(r) * params.n + col;
                if (split)
                    sums[at_sums + at] = band[simd][e];
                else
                    out[at_out + at] = finished(band[simd][e], c, params, at_c, r, col);
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}

// Adds the parts of k of each result, in order.
template <typename T>
[[kernel]] void gemm_join(device const float* sums [[buffer(0)]],
                          device const T* c [[buffer(1)]],
                          device T* out [[buffer(2)]],
                          constant GemmParams& params [[buffer(3)]],
                          uint3 at [[thread_position_in_grid]]) {
    if (at.x >= params.n)
        return;
    const ulong size = ulong(params.m) * params.n, element = ulong(at.y) * params.n + at.x;
    float sum = 0.0f;
    for (uint part = 0; part < params.parts; ++part)
        sum += sums[(ulong(at.z) * params.parts + part) * size + element];
    const long at_c = has_addend ? lead_offset(params.lead, params.c.steps, at.z) : 0;
    out[ulong(at.z) * size + element] = finished(sum, c, params, at_c, at.y, at.x);
}

// ------------------------------------------------------------------ one row or one column

// Results r = sum over k of matrix[r][k] * vector[k]: the plan makes either operand of a product the matrix. `a` is the
// matrix (steps.inner along k, row along r), `b` the vector (inner along k), `c` the added matrix (inner along r).
// Expected limit (not measured on a GPU): memory bandwidth, the matrix read once.

// The matrix has its neighbours along k: a simdgroup makes ROWS results, its lanes share k in runs of RUN neighbours.
template <typename T>
[[kernel]] void matvec_rows(device const T* matrix [[buffer(0)]],
                            device const T* vector [[buffer(1)]],
                            device const T* c [[buffer(2)]],
                            device T* out [[buffer(3)]],
                            constant GemmParams& params [[buffer(4)]],
                            uint3 group [[threadgroup_position_in_grid]],
                            uint lane [[thread_index_in_simdgroup]],
                            uint simd [[simdgroup_index_in_threadgroup]],
                            uint simds [[simdgroups_per_threadgroup]]) {
    constexpr uint ROWS = 4, RUN = 4;
    const uint first = (group.x * simds + simd) * ROWS;
    if (first >= params.m)
        return;
    device const T* m = matrix + lead_offset(params.lead, params.a.steps, group.z);
    device const T* v = vector + lead_offset(params.lead, params.b.steps, group.z);
    const long step = a_by_columns ? 1 : params.a.steps.inner;
    float sums[ROWS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint base = lane * RUN; base < params.k; base += SIMD * RUN) {
        float x[RUN];
        for (uint i = 0; i < RUN; ++i)
            x[i] = base + i < params.k ? float(v[long(base + i) * params.b.steps.inner]) : 0.0f;
        for (uint r = 0; r < ROWS; ++r) {
            if (first + r >= params.m)
                continue;
            device const T* row = m + long(first + r) * params.a.row;
            for (uint i = 0; i < RUN; ++i)
                if (base + i < params.k)
                    sums[r] = fma(float(row[long(base + i) * step]), x[i], sums[r]);
        }
    }
    const long at_c = has_addend ? lead_offset(params.lead, params.c.steps, group.z) : 0;
    for (uint r = 0; r < ROWS; ++r) {
        const float sum = simd_sum(sums[r]);
        if (lane == r && first + r < params.m)
            out[ulong(group.z) * params.m + first + r] = finished(sum, c, params, at_c, 0, first + r);
    }
}

// The matrix has its neighbours along r: a lane owns a result, the simdgroups share k.
template <typename T>
[[kernel]] void matvec_columns(device const T* matrix [[buffer(0)]],
                               device const T* vector [[buffer(1)]],
                               device const T* c [[buffer(2)]],
                               device T* out [[buffer(3)]],
                               constant GemmParams& params [[buffer(4)]],
                               uint3 group [[threadgroup_position_in_grid]],
                               uint lane [[thread_index_in_simdgroup]],
                               uint simd [[simdgroup_index_in_threadgroup]],
                               uint simds [[simdgroups_per_threadgroup]]) {
    threadgroup float sums[SIMD][SIMD];
    const uint r = group.x * SIMD + lane;
    device const T* m = matrix + lead_offset(params.lead, params.a.steps, group.z);
    device const T* v = vector + lead_offset(params.lead, params.b.steps, group.z);
    float sum = 0.0f;
    if (r < params.m)
        for (uint k = simd; k < params.k; k += simds)
            sum = fma(float(m[long(r) * params.a.row + long(k) * params.a.steps.inner]),
                      float(v[long(k) * params.b.steps.inner]), sum);
    sums[simd][lane] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simd == 0 && r < params.m) {
        for (uint other = 1; other < simds; ++other)
            sum += sums[other][lane];
        const long at_c = has_addend ? lead_offset(params.lead, params.c.steps, group.z) : 0;
        out[ulong(group.z) * params.m + r] = finished(sum, c, params, at_c, 0, r);
    }
}

// ------------------------------------------------------------------ instances

#define INSTANTIATE_GEMM(name, T, BM, BN)                                                                              \
    template [[host_name(name)]] [[kernel]] void gemm<T, BM, BN>(                                                      \
        device const T* a [[buffer(0)]], device const T* b [[buffer(1)]], device const T* c [[buffer(2)]],             \
        device const uint* lhs [[buffer(3)]], device const uint* rhs [[buffer(4)]],                                    \
        device FaultRecord* fault [[buffer(5)]], device T* out [[buffer(6)]], device float* sums [[buffer(7)]],        \
        constant GemmParams& params [[buffer(8)]],                                                                     \
        uint3 tile [[threadgroup_position_in_grid]], uint lid [[thread_index_in_threadgroup]],                         \
        uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]);

#define INSTANTIATE_JOIN(name, T)                                                                                      \
    template [[host_name(name)]] [[kernel]] void gemm_join<T>(                                                         \
        device const float* sums [[buffer(0)]], device const T* c [[buffer(1)]], device T* out [[buffer(2)]],          \
        constant GemmParams& params [[buffer(3)]], uint3 at [[thread_position_in_grid]]);

#define INSTANTIATE_MATVEC(name, kernel_name, T)                                                                       \
    template [[host_name(name)]] [[kernel]] void kernel_name<T>(                                                       \
        device const T* matrix [[buffer(0)]], device const T* vector [[buffer(1)]], device const T* c [[buffer(2)]],   \
        device T* out [[buffer(3)]], constant GemmParams& params [[buffer(4)]],                                        \
        uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],                         \
        uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]);

#define INSTANTIATE_ALL(suffix, T)                                                                                     \
    INSTANTIATE_GEMM("gemm_64_" suffix, T, 64, 64)                                                                     \
    INSTANTIATE_GEMM("gemm_32_" suffix, T, 32, 32)                                                                     \
    INSTANTIATE_JOIN("gemm_join_" suffix, T)                                                                           \
    INSTANTIATE_MATVEC("matvec_rows_" suffix, matvec_rows, T)                                                          \
    INSTANTIATE_MATVEC("matvec_columns_" suffix, matvec_columns, T)

INSTANTIATE_ALL("float32", float)
INSTANTIATE_ALL("float16", half)
INSTANTIATE_ALL("bfloat16", bfloat)
