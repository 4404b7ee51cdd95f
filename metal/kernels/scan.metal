// Running sums, products, extrema and log-sum-exp along an axis.
//
// `scan_rows`: a threadgroup walks a row in blocks of BLOCK elements and carries the total along. Long rows, where there
// are few, are cut into chunks: a first launch finds each chunk's total, a second one scans the totals, a third one scans
// the chunks from there. `scan_columns`: where neighbours in memory belong to different rows, a thread walks a row.
//
// Memory plan: elements are read once (twice for chunks) and written once, in unbroken runs. Expected limit (not
// measured): bandwidth, twice the bytes / peak, for many rows; one threadgroup's rate for a row without chunks.
//
// The order of operations is fixed by shape: threads scan ELEMENTS neighbours in order, their totals are scanned as a
// tree, and blocks follow one another. NaN stays once met. No atomics: results are the same on every run.
#include "lanes.h"
#include "mathematics.h"
#include "strides.h"
#include "types.h"
using namespace metal;

constant uint OP [[function_constant(0)]];
constant uint DTYPE_IN [[function_constant(1)]];
constant uint COMPUTE [[function_constant(2)]];
constant uint DTYPE_OUT [[function_constant(3)]];
constant bool REVERSE [[function_constant(4)]];
constant bool INCLUSIVE [[function_constant(5)]];
constant bool TOTALS [[function_constant(6)]];   // write the total of each chunk, and nothing else
constant bool CARRIED [[function_constant(7)]];  // chunks start from `carry`

// The numbers of mlxr/backends/metal/scan.py.
enum Scan : uint { SUM, PROD, MAX, MIN, LOGSUMEXP };

constant constexpr uint GROUP = 256;
constant constexpr uint ELEMENTS = 4;
constant constexpr uint BLOCK = GROUP * ELEMENTS;

struct ScanParams {
    ulong identity;   // bits of a lane
    uint extent;      // elements of a row
    uint chunk;       // elements of a chunk; the last one of a row may be shorter
    uint chunks;      // of a row
    int x_step;       // elements from one of a row to the next
    int out_step;
    uint unused;
    Strided<2> rows;  // of x and of the result
};

METAL_FUNC float combined(float a, float b) {
    switch (OP) {
    case SUM: return a + b;
    case PROD: return a * b;
    case MAX: return a > b || a != a ? a : b;
    case MIN: return a < b || a != a ? a : b;
    default: return logaddexp_f32(a, b);
    }
}
template <typename Lane>
METAL_FUNC Lane combined(Lane a, Lane b) {
    typedef typename unsigned_of<Lane>::type U;
    switch (OP) {
    case SUM: return Lane(U(a) + U(b));
    case PROD: return Lane(U(a) * U(b));
    case MAX: return a > b ? a : b;
    default: return a < b ? a : b;
    }
}

METAL_FUNC uint place_in_row(uint i, uint extent) { return REVERSE ? extent - 1 - i : i; }

// Grid: (chunks, rows).
template <typename Lane>
[[kernel]] void scan_rows(device const uchar* x [[buffer(0)]], device const Lane* carry [[buffer(1)]],
                          device uchar* out [[buffer(2)]], constant ScanParams& p [[buffer(3)]],
                          uint2 group [[threadgroup_position_in_grid]],
                          uint2 local [[thread_position_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                          uint simd [[simdgroup_index_in_threadgroup]]) {
    threadgroup Lane totals[GROUP / SIMD_SIZE];
    Lane identity = Lane(0);
    identity = lane_from(p.identity, identity);
    const Walk<2> row(p.rows, group.y);
    const uint begin = group.x * p.chunk;
    const uint end = min(begin + p.chunk, p.extent);
    Lane before = identity;
    if (CARRIED) before = carry[group.y * p.chunks + group.x];
    for (uint first = begin; first < end; first += BLOCK) {
        // in a thread
        Lane own[ELEMENTS];
        const uint mine = first + local.x * ELEMENTS;
        for (uint k = 0; k < ELEMENTS; ++k) {
            own[k] = identity;
            if (mine + k < end) {
                const int at = row.at[0] + int(place_in_row(mine + k, p.extent)) * p.x_step;
                own[k] = load_as<Lane>(x, DTYPE_IN, COMPUTE, uint(at));
            }
            if (k > 0) own[k] = combined(own[k - 1], own[k]);
        }
        // in a SIMD group
        Lane sum = own[ELEMENTS - 1];
        for (ushort d = 1; d < SIMD_SIZE; d *= 2) {
            const Lane other = shuffle(sum, ushort(lane >= d ? lane - d : lane));
            if (lane >= d) sum = combined(other, sum);
        }
        const Lane neighbour = shuffle(sum, ushort(lane > 0 ? lane - 1 : 0));
        if (lane == SIMD_SIZE - 1) totals[simd] = sum;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        // in the threadgroup
        Lane base = before;
        for (uint k = 0; k < GROUP / SIMD_SIZE; ++k) {
            if (k < simd) base = combined(base, totals[k]);
            before = combined(before, totals[k]);
        }
        if (lane > 0) base = combined(base, neighbour);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (TOTALS) continue;
        for (uint k = 0; k < ELEMENTS && mine + k < end; ++k) {
            const int at = row.at[1] + int(place_in_row(mine + k, p.extent)) * p.out_step;
            Lane result = base;
            if (INCLUSIVE) {
                result = combined(base, own[k]);
            } else if (k > 0) {
                result = combined(base, own[k - 1]);
            }
            store_as(out, DTYPE_OUT, uint(at), result);
        }
    }
    if (TOTALS && local.x == 0) ((device Lane*)out)[group.y * p.chunks + group.x] = before;
}

// Grid: (rows).
template <typename Lane>
[[kernel]] void scan_columns(device const uchar* x [[buffer(0)]], device uchar* out [[buffer(1)]],
                             constant ScanParams& p [[buffer(2)]], uint gid [[thread_position_in_grid]]) {
    if (gid >= p.rows.size) return;
    const Walk<2> row(p.rows, gid);
    Lane total = Lane(0);
    total = lane_from(p.identity, total);
    for (uint i = 0; i < p.extent; ++i) {
        const uint place = place_in_row(i, p.extent);
        const Lane own = load_as<Lane>(x, DTYPE_IN, COMPUTE, uint(row.at[0] + int(place) * p.x_step));
        const uint to = uint(row.at[1] + int(place) * p.out_step);
        if (!INCLUSIVE) store_as(out, DTYPE_OUT, to, total);
        total = i == 0 ? own : combined(total, own);
        if (INCLUSIVE) store_as(out, DTYPE_OUT, to, total);
    }
}

#define instantiate_scan(Lane)                                                                                       \
    template [[host_name("scan_rows_" #Lane)]] [[kernel]] void scan_rows<Lane>(                                      \
        device const uchar*, device const Lane*, device uchar*, constant ScanParams&, uint2, uint2, uint, uint);     \
    template [[host_name("scan_columns_" #Lane)]] [[kernel]] void scan_columns<Lane>(                                \
        device const uchar*, device uchar*, constant ScanParams&, uint);

instantiate_scan(float)
instantiate_scan(int)
instantiate_scan(uint)
instantiate_scan(long)
instantiate_scan(ulong)
