// Sort, argsort, partition and search: stable merge sort of (key, index) pairs.
//
// Pairs are unequal, since indices are, so any network that sorts them is stable, and every result is one particular
// permutation. Sorted values are fetched by index at the end, so that they keep their bits (signs of zeros, NaN). A
// partition is a second sort, by whether an element is less than, equal to or greater than the one that belongs at kth.
//
// Memory plan. `sort_blocks`: a threadgroup sorts up to 1024 pairs in threadgroup memory (at most 12 KB) with a bitonic
// network. `merge_runs`: every element counts, by binary search, what comes before it in the neighbouring run; passes
// double the runs. Expected limit (not measured): blocks by barriers, 55 for 1024 pairs; merges by log2(run) dependent
// reads of an element, mostly from cache. Rows of up to 1024 elements take one launch.
#include "order.h"
#include "strides.h"
#include "types.h"
using namespace metal;

constant uint DTYPE [[function_constant(0)]];
constant uint ITEMSIZE [[function_constant(1)]];  // of x
constant bool VALUES [[function_constant(2)]];    // the result: elements of x, else uint32 indices
constant bool LAST [[function_constant(3)]];      // write the result, else pairs
constant uint LENGTH [[function_constant(4)]];    // pairs of a block: a power of two, 2 to MAX_LENGTH
constant bool RIGHT [[function_constant(5)]];     // search: count equals too
constant bool CLASSES [[function_constant(6)]];   // sort_blocks: sort by comparison with the element at kth

constant constexpr uint MAX_LENGTH = 1024;

struct SortParams {
    uint extent;    // elements of a row
    uint width;     // merge_runs: elements of a sorted run
    int x_step;     // elements from one of a row to the next
    int out_step;
    uint kth;       // CLASSES: rank of the element that the others are compared with
    uint unused;
    Strided<2> rows;  // of x and of the result
};

template <typename K>
METAL_FUNC bool before(K a, uint ia, K b, uint ib) {
    return a < b || (a == b && ia < ib);
}

METAL_FUNC void store_result(device const uchar* x, device uchar* out, constant SortParams& p, int x_row, int out_row,
                             uint position, uint index) {
    const uint to = uint(out_row + int(position) * p.out_step);
    if (!VALUES) {
        ((device uint*)out)[to] = index;
        return;
    }
    const uint from = uint(x_row + int(index) * p.x_step);
    switch (ITEMSIZE) {
    case 1: out[to] = x[from]; break;
    case 2: ((device ushort*)out)[to] = ((device const ushort*)x)[from]; break;
    case 4: ((device uint*)out)[to] = ((device const uint*)x)[from]; break;
    default: ((device ulong*)out)[to] = ((device const ulong*)x)[from]; break;
    }
}

// Grid: (blocks of a row, rows); LENGTH / 2 threads, at least one SIMD group of them. `order`: indices of each row's
// elements in sorted order, for CLASSES.
template <typename K>
[[kernel]] void sort_blocks(device const uchar* x [[buffer(0)]], device K* keys_out [[buffer(1)]],
                            device uint* indices_out [[buffer(2)]], device uchar* out [[buffer(3)]],
                            device const uint* order [[buffer(4)]], constant SortParams& p [[buffer(5)]],
                            uint2 group [[threadgroup_position_in_grid]],
                            uint2 local [[thread_position_in_threadgroup]]) {
    threadgroup K keys[MAX_LENGTH];
    threadgroup uint indices[MAX_LENGTH];
    const uint t = local.x;
    const uint first = group.x * LENGTH;
    const bool used = t < LENGTH / 2;
    Walk<2> row(p.rows, group.y);
    K pivot = K(0);
    if (CLASSES) {
        const uint at = order[group.y * p.extent + p.kth];
        load_key(x, DTYPE, uint(row.at[0] + int(at) * p.x_step), pivot);
    }
    for (uint k = 2 * t; used && k < 2 * t + 2; ++k) {
        const uint i = first + k;
        K key = ~K(0);
        if (i < p.extent) {
            load_key(x, DTYPE, uint(row.at[0] + int(i) * p.x_step), key);
            if (CLASSES) key = key < pivot ? K(0) : key == pivot ? K(1) : K(2);
        }
        keys[k] = key;
        indices[k] = i < p.extent ? i : 0xffffffffu;  // what fills a block up comes last
    }
    // No barrier: the first step compares the pair that a thread has written itself.
    for (uint size = 2; size <= LENGTH; size *= 2) {
        for (uint stride = size / 2; stride > 0; stride /= 2) {
            if (used) {
                const uint i = 2 * t - (t & (stride - 1));
                const uint j = i + stride;
                const bool ascending = (i & size) == 0;
                if (before(keys[j], indices[j], keys[i], indices[i]) == ascending) {
                    const K key = keys[i];
                    const uint index = indices[i];
                    keys[i] = keys[j];
                    indices[i] = indices[j];
                    keys[j] = key;
                    indices[j] = index;
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
    for (uint k = 2 * t; used && k < 2 * t + 2; ++k) {
        const uint i = first + k;
        if (i >= p.extent) continue;
        if (LAST) {
            store_result(x, out, p, row.at[0], row.at[1], i, indices[k]);
        } else {
            keys_out[group.y * p.extent + i] = keys[k];
            indices_out[group.y * p.extent + i] = indices[k];
        }
    }
}

// Grid: (elements of a row, rows).
template <typename K>
[[kernel]] void merge_runs(device const uchar* x [[buffer(0)]], device const K* keys [[buffer(1)]],
                           device const uint* indices [[buffer(2)]], device K* keys_out [[buffer(3)]],
                           device uint* indices_out [[buffer(4)]], device uchar* out [[buffer(5)]],
                           constant SortParams& p [[buffer(6)]], uint2 gid [[thread_position_in_grid]]) {
    const uint i = gid.x;
    if (i >= p.extent) return;
    const uint base = gid.y * p.extent;
    const K key = keys[base + i];
    const uint index = indices[base + i];
    const uint run = i / p.width;
    const uint other = run ^ 1u;
    // What comes before in the other run: between low and high.
    const uint begin = min(other * p.width, p.extent);
    uint low = begin;
    uint high = min(begin + p.width, p.extent);
    while (low < high) {
        const uint middle = low + (high - low) / 2;
        if (before(keys[base + middle], indices[base + middle], key, index)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const uint to = (run & ~1u) * p.width + (i - run * p.width) + (low - begin);
    if (LAST) {
        Walk<2> row(p.rows, gid.y);
        store_result(x, out, p, row.at[0], row.at[1], to, index);
    } else {
        keys_out[base + to] = key;
        indices_out[base + to] = index;
    }
}

struct SearchParams {
    uint extent;  // of `ordered`
    int step;
    uint start;   // elements from the bound address to the first of `ordered`
    uint unused;
    Strided<1> values;
};

// For each value, how many elements of `ordered` are less than it (RIGHT: not greater).
template <typename K>
[[kernel]] void search(device const uchar* ordered [[buffer(0)]], device const uchar* values [[buffer(1)]],
                       device uint* out [[buffer(2)]], constant SearchParams& p [[buffer(3)]],
                       uint i [[thread_position_in_grid]]) {
    if (i >= p.values.size) return;
    Walk<1> walk(p.values, i);
    K key = K(0);
    load_key(values, DTYPE, uint(walk.at[0]), key);
    uint low = 0;
    uint high = p.extent;
    while (low < high) {
        const uint middle = low + (high - low) / 2;
        K probe = K(0);
        load_key(ordered, DTYPE, uint(int(p.start) + int(middle) * p.step), probe);
        if (probe < key || (RIGHT && probe == key)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    out[i] = low;
}

#define instantiate_sort(K)                                                                                          \
    template [[host_name("sort_blocks_" #K)]] [[kernel]] void sort_blocks<K>(                                        \
        device const uchar*, device K*, device uint*, device uchar*, device const uint*, constant SortParams&,       \
        uint2, uint2);                                                                                               \
    template [[host_name("merge_runs_" #K)]] [[kernel]] void merge_runs<K>(                                          \
        device const uchar*, device const K*, device const uint*, device K*, device uint*, device uchar*,            \
        constant SortParams&, uint2);                                                                                \
    template [[host_name("search_" #K)]] [[kernel]] void search<K>(device const uchar*, device const uchar*,         \
                                                                   device uint*, constant SearchParams&, uint);

instantiate_sort(uint)
instantiate_sort(ulong)
