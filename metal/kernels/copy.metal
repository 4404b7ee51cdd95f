// Copies between layouts and dtypes, transposes through threadgroup memory, and arange.
//
// Memory plan. Same dtype: elements move as words of their width, so every dtype, complex64 included, takes the same
// kernels. A thread takes ELEMENTS neighbours of the target; contiguous, scalar and innermost-contiguous sources are read
// in unbroken runs. A source whose target neighbours lie far apart (a transpose) goes through 32 x 32 tiles: both sides
// are then read and written in runs of 32 elements. Expected limit everywhere (not measured): memory bandwidth, twice the
// bytes of the array; for strided access beyond tiles the number of cache lines touched.
#include "strides.h"
#include "types.h"
using namespace metal;

constant uint DTYPE_IN [[function_constant(0)]];
constant uint DTYPE_OUT [[function_constant(1)]];
constant uint COMPUTE [[function_constant(2)]];   // bool if the target is: then nonzero means true, also of imaginary parts
constant bool STRIDED [[function_constant(3)]];   // else both sides are contiguous, or the source is one element
constant bool SCALAR [[function_constant(4)]];

constant constexpr uint ELEMENTS = 4;
constant constexpr uint TILE = 32;
constant constexpr uint TILE_ROWS = 8;  // of threads; each takes TILE / TILE_ROWS elements

// s: the source, then the target.
template <typename T>
[[kernel]] void copy(device const T* x [[buffer(0)]], device T* out [[buffer(1)]],
                     constant Strided<2>& s [[buffer(2)]], uint gid [[thread_position_in_grid]]) {
    const uint first = gid * ELEMENTS;
    if (first >= s.size) return;
    const uint count = min(ELEMENTS, s.size - first);
    if (STRIDED) {
        Walk<2> walk(s, first);
        for (uint i = 0; i < count; ++i) {
            if (i > 0) walk.step(s, first + i);
            out[walk.at[1]] = x[walk.at[0]];
        }
    } else {
        for (uint i = first; i < first + count; ++i) out[i] = x[SCALAR ? 0 : i];
    }
}

// Lane is that of the source.
template <typename Lane>
[[kernel]] void cast(device const uchar* x [[buffer(0)]], device uchar* out [[buffer(1)]],
                     constant Strided<2>& s [[buffer(2)]], uint gid [[thread_position_in_grid]]) {
    const uint first = gid * ELEMENTS;
    if (first >= s.size) return;
    const uint count = min(ELEMENTS, s.size - first);
    if (STRIDED) {
        Walk<2> walk(s, first);
        for (uint i = 0; i < count; ++i) {
            if (i > 0) walk.step(s, first + i);
            store_as(out, DTYPE_OUT, uint(walk.at[1]), load_as<Lane>(x, DTYPE_IN, COMPUTE, uint(walk.at[0])));
        }
    } else {
        for (uint i = first; i < first + count; ++i) {
            store_as(out, DTYPE_OUT, i, load_as<Lane>(x, DTYPE_IN, COMPUTE, SCALAR ? 0 : i));
        }
    }
}

// A batch of matrices: rows x columns in the target, whose columns are neighbours; in the source, rows are.
struct TransposeParams {
    uint rows;
    uint columns;
    int source_column;  // elements from a column to the next, in the source
    int target_row;     // elements from a row to the next, in the target
    int source_batch;
    int target_batch;
};

template <typename T>
[[kernel]] void transpose_tiles(device const T* x [[buffer(0)]], device T* out [[buffer(1)]],
                                constant TransposeParams& p [[buffer(2)]],
                                uint3 tile [[threadgroup_position_in_grid]],
                                uint3 local [[thread_position_in_threadgroup]]) {
    threadgroup T block[TILE * (TILE + 1)];  // a word more per row, so that columns lie in different banks
    const uint row0 = tile.y * TILE;
    const uint column0 = tile.x * TILE;
    x += int(tile.z) * p.source_batch;
    out += int(tile.z) * p.target_batch;
    for (uint k = local.y; k < TILE; k += TILE_ROWS) {
        const uint row = row0 + local.x;
        const uint column = column0 + k;
        if (row < p.rows && column < p.columns) {
            block[k * (TILE + 1) + local.x] = x[int(column) * p.source_column + int(row)];
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = local.y; k < TILE; k += TILE_ROWS) {
        const uint row = row0 + k;
        const uint column = column0 + local.x;
        if (row < p.rows && column < p.columns) {
            out[int(row) * p.target_row + int(column)] = block[local.x * (TILE + 1) + k];
        }
    }
}

#define instantiate_copy(name, T)                                                                                    \
    template [[host_name("copy_" name)]] [[kernel]] void copy<T>(device const T*, device T*, constant Strided<2>&,   \
                                                                 uint);                                              \
    template [[host_name("transpose_" name)]] [[kernel]] void transpose_tiles<T>(                                    \
        device const T*, device T*, constant TransposeParams&, uint3, uint3);

instantiate_copy("1", uchar)
instantiate_copy("2", ushort)
instantiate_copy("4", uint)
instantiate_copy("8", uint2)

#define instantiate_cast(Lane)                                                                                       \
    template [[host_name("cast_" #Lane)]] [[kernel]] void cast<Lane>(device const uchar*, device uchar*,             \
                                                                     constant Strided<2>&, uint);

instantiate_cast(float)
instantiate_cast(int)
instantiate_cast(uint)
instantiate_cast(long)
instantiate_cast(ulong)

// ---- arange ----------------------------------------------------------------------------------------------------------

struct ArangeParams {
    float start_high;  // start and step as sums of two floats
    float start_low;
    float step_high;
    float step_low;
    uint size;
};

// start + i step in twice float's precision, rounded once: a GPU has no double.
kernel void arange_float(device uchar* out [[buffer(0)]], constant ArangeParams& p [[buffer(1)]],
                         uint gid [[thread_position_in_grid]]) {
#pragma METAL fp contract(off)
    const uint first = gid * ELEMENTS;
    if (first >= p.size) return;
    const uint count = min(ELEMENTS, p.size - first);
    for (uint i = first; i < first + count; ++i) {
        float high = p.start_high;
        float low = p.start_low;
        for (uint part = 0; part < 2; ++part) {
            const float n = float(part == 0 ? i & 0xffff0000u : i & 0xffffu);
            const float product = n * p.step_high;
            const float rest = fma(n, p.step_high, -product) + n * p.step_low;
            const float sum = high + product;
            const float from_product = sum - high;
            low += ((high - (sum - from_product)) + (product - from_product)) + rest;
            high = sum;
        }
        store_as(out, DTYPE_OUT, i, high + low);
    }
}

struct ArangeIntParams {
    long start;
    long step;
    uint size;
    uint unused;
};

// Modulo 2**64, then cut to the dtype.
kernel void arange_int(device uchar* out [[buffer(0)]], constant ArangeIntParams& p [[buffer(1)]],
                       uint gid [[thread_position_in_grid]]) {
    const uint first = gid * ELEMENTS;
    if (first >= p.size) return;
    const uint count = min(ELEMENTS, p.size - first);
    for (uint i = first; i < first + count; ++i) {
        store_as(out, DTYPE_OUT, i, ulong(p.start) + ulong(i) * ulong(p.step));
    }
}
