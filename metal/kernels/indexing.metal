// Gather and scatter by index arrays, and positions of true elements.
//
// First `find_offsets` turns index arrays into the offset of each position, in elements, and notes indices outside their axis;
// one launch for each index array. Then `gather` or `scatter` moves elements. An offset of NOWHERE marks a wrong index:
// gather leaves a zero there, scatter nothing; neither uses it as an address, and the host raises (launch.py: Fault).
//
// Scatter is deterministic. Positions are sorted by offset first (sort.metal, stable), and one thread for each element
// of a slice applies all updates with that offset in the order of the index arrays, rounding after each, as the CPU
// backend does. So every mode and dtype gives the CPU's bits, without atomics. Updates of one place are sequential.
//
// Memory plan: gather reads and writes whole slices in unbroken runs where their innermost steps are one; indices are read
// once. Expected limit (not measured): bandwidth, bytes of slices / peak; scattered single elements cost a cache line
// each. Scatter adds a sort of as many pairs as there are positions.
#include "strides.h"
#include "types.h"
using namespace metal;

constant uint DTYPE [[function_constant(0)]];    // find_offsets: of the indices; scatter: of the elements
constant bool FURTHER [[function_constant(1)]];  // find_offsets: add to those of the index arrays before
constant uint MODE [[function_constant(2)]];     // scatter
constant bool SORTED [[function_constant(3)]];   // scatter: `order` holds the positions by offset; else there is one

// The numbers of mlxr/backends/metal/indexing.py.
enum Mode : uint { ASSIGN, ADD, PROD, MAX, MIN };

constant constexpr int NOWHERE = int(0x80000000u);
constant constexpr uint ELEMENTS = 4;

struct OffsetParams {
    uint array;   // number of this index array, for the record
    uint extent;  // of its axis
    int last;     // the largest index that leaves room for the slice; -1 if there is none
    int step;     // elements from an index to the next
    Strided<2> s; // the indices, and what each position adds to its offset
};

kernel void find_offsets(device const uchar* indices [[buffer(0)]], device int* out [[buffer(1)]],
                    device atomic_uint* fault [[buffer(2)]], constant OffsetParams& p [[buffer(3)]],
                    uint i [[thread_position_in_grid]]) {
    if (i >= p.s.size) return;
    Walk<2> walk(p.s, i);
    const uint from = uint(walk.at[0]);
    long index;
    if (DTYPE == DT_UINT64) {
        const ulong word = ((device const ulong*)indices)[from];
        index = word > 0x7ffffffffffffffful ? 0x7fffffffffffffffl : long(word);  // out of range as it is
    } else {
        index = load_as<long>(indices, DTYPE, DT_INT64, from);
    }
    const long at = index < 0 ? index + long(p.extent) : index;
    if (at < 0 || at > long(p.last)) {
        out[i] = NOWHERE;
        if (atomic_exchange_explicit(&fault[0], 1u, memory_order_relaxed) == 0u) {
            atomic_store_explicit(&fault[1], p.array, memory_order_relaxed);
            atomic_store_explicit(&fault[2], uint(ulong(index)), memory_order_relaxed);
            atomic_store_explicit(&fault[3], uint(ulong(index) >> 32), memory_order_relaxed);
        }
        return;
    }
    const int offset = walk.at[1] + int(at) * p.step;
    if (!FURTHER) {
        out[i] = offset;
    } else if (out[i] != NOWHERE) {
        out[i] += offset;
    }
}

// s: elements of x (steps of 0 along positions), then places in `offsets`. The result is contiguous.
template <typename T>
[[kernel]] void gather(device const T* x [[buffer(0)]], device const int* offsets [[buffer(1)]],
                       device T* out [[buffer(2)]], constant Strided<2>& s [[buffer(3)]],
                       uint gid [[thread_position_in_grid]]) {
    const uint first = gid * ELEMENTS;
    if (first >= s.size) return;
    const uint count = min(ELEMENTS, s.size - first);
    Walk<2> walk(s, first);
    for (uint i = 0; i < count; ++i) {
        if (i > 0) walk.step(s, first + i);
        const int offset = offsets[walk.at[1]];
        out[first + i] = offset == NOWHERE ? T(0) : x[walk.at[0] + offset];
    }
}

struct ScatterParams {
    uint positions;
    uint slice;         // elements of a slice
    Strided<1> places;  // of updates, by position
    Strided<2> slices;  // of the result and of updates, by element of a slice
};

template <typename Lane>
METAL_FUNC Lane combined(Lane old, Lane update) {
    switch (MODE) {
    case ADD: return narrow(Lane(old + update), DTYPE);
    case PROD: return narrow(Lane(old * update), DTYPE);
    case MAX: return old > update ? old : update;
    case MIN: return old < update ? old : update;
    default: return update;
    }
}

// Grid: positions x elements of a slice. The thread whose position is the first of its offset does the work.
template <typename Lane>
[[kernel]] void scatter(device const uchar* updates [[buffer(0)]], device const int* offsets [[buffer(1)]],
                        device const uint* order [[buffer(2)]], device uchar* out [[buffer(3)]],
                        constant ScatterParams& p [[buffer(4)]], uint2 gid [[thread_position_in_grid]]) {
    if (gid.x >= p.slice || gid.y >= p.positions) return;
    const int offset = offsets[SORTED ? order[gid.y] : gid.y];
    if (offset == NOWHERE) return;
    if (SORTED && gid.y > 0 && offsets[order[gid.y - 1]] == offset) return;
    const Walk<2> element(p.slices, gid.x);
    const uint to = uint(element.at[0] + offset);
    Lane value = load_as<Lane>(out, DTYPE, DTYPE, to);
    for (uint q = gid.y; q < p.positions; ++q) {
        const uint position = SORTED ? order[q] : q;
        if (offsets[position] != offset) break;
        const Walk<1> place(p.places, position);
        value = combined(value, load_as<Lane>(updates, DTYPE, DTYPE, uint(place.at[0] + element.at[1])));
    }
    store_as(out, DTYPE, to, value);
}

#define instantiate_gather(name, T)                                                                                  \
    template [[host_name("gather_" name)]] [[kernel]] void gather<T>(device const T*, device const int*, device T*,  \
                                                                     constant Strided<2>&, uint);

instantiate_gather("1", uchar)
instantiate_gather("2", ushort)
instantiate_gather("4", uint)
instantiate_gather("8", uint2)

#define instantiate_scatter(Lane)                                                                                    \
    template [[host_name("scatter_" #Lane)]] [[kernel]] void scatter<Lane>(                                          \
        device const uchar*, device const int*, device const uint*, device uchar*, constant ScatterParams&, uint2);

instantiate_scatter(float)
instantiate_scatter(int)
instantiate_scatter(uint)
instantiate_scatter(long)
instantiate_scatter(ulong)

// ---- Positions of true elements --------------------------------------------------------------------------------------

constant constexpr uint GROUP = 256;
constant constexpr uint BLOCK = GROUP * ELEMENTS;

struct NonzeroParams {
    uint blocks;
    uint outputs;
    Strided<1> mask;
};

METAL_FUNC uint counted(device const uchar* mask, constant NonzeroParams& p, uint first, thread bool* holds) {
    uint count = 0;
    if (first < p.mask.size) {
        Walk<1> walk(p.mask, first);
        for (uint i = 0; i < ELEMENTS; ++i) {
            if (first + i >= p.mask.size) break;
            if (i > 0) walk.step(p.mask, first + i);
            holds[i] = mask[walk.at[0]] != 0;
            count += holds[i] ? 1 : 0;
        }
    }
    return count;
}

// Sums of `mine` over the threads before this one; the total in `total`. All threads of a group of GROUP call it.
METAL_FUNC uint sum_before(uint mine, threadgroup uint* sums, uint lane, uint simd, thread uint& total) {
    const uint before = simd_prefix_exclusive_sum(mine);
    if (lane == 31) sums[simd] = before + mine;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint result = before;
    total = 0;
    for (uint k = 0; k < GROUP / 32; ++k) {
        if (k < simd) result += sums[k];
        total += sums[k];
    }
    return result;
}

kernel void count_true(device const uchar* mask [[buffer(0)]], device uint* counts [[buffer(1)]],
                       constant NonzeroParams& p [[buffer(2)]], uint group [[threadgroup_position_in_grid]],
                       uint t [[thread_position_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                       uint simd [[simdgroup_index_in_threadgroup]]) {
    threadgroup uint sums[GROUP / 32];
    bool holds[ELEMENTS] = {false, false, false, false};
    uint total = 0;
    sum_before(counted(mask, p, group * BLOCK + t * ELEMENTS, holds), sums, lane, simd, total);
    if (t == 0) counts[group] = total;
}

// counts[k] becomes the number of true elements in the blocks before block k. One threadgroup.
kernel void add_counts(device uint* counts [[buffer(0)]], constant NonzeroParams& p [[buffer(1)]],
                       uint t [[thread_position_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                       uint simd [[simdgroup_index_in_threadgroup]]) {
    threadgroup uint sums[GROUP / 32];
    uint before = 0;
    for (uint first = 0; first < p.blocks; first += GROUP) {
        const uint k = first + t;
        uint total = 0;
        const uint sum = before + sum_before(k < p.blocks ? counts[k] : 0, sums, lane, simd, total);
        if (k < p.blocks) counts[k] = sum;
        before += total;
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

kernel void positions(device const uchar* mask [[buffer(0)]], device const uint* counts [[buffer(1)]],
                      device long* out [[buffer(2)]], constant NonzeroParams& p [[buffer(3)]],
                      uint group [[threadgroup_position_in_grid]], uint t [[thread_position_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
    threadgroup uint sums[GROUP / 32];
    bool holds[ELEMENTS] = {false, false, false, false};
    const uint first = group * BLOCK + t * ELEMENTS;
    uint total = 0;
    uint to = counts[group] + sum_before(counted(mask, p, first, holds), sums, lane, simd, total);
    for (uint i = 0; i < ELEMENTS; ++i) {
        if (holds[i] && to < p.outputs) out[to++] = long(first + i);
    }
}
