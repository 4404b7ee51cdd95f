// Planted bugs: accesses outside of buffers, threadgroup memory and arrays of a thread. `BUG` names what has to be found
// in its line; test_planted.py compares.
#include <metal_stdlib>
using namespace metal;

// metal-check: run write_past_the_end grid=1 group=64 0=float[64]
kernel void write_past_the_end(device float *out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    out[i + 1] = 1.0f; // BUG: out-of-bounds
}

// metal-check: run read_before_the_beginning grid=1 group=64 0=float[64]=0 1=float[64]
kernel void read_before_the_beginning(device float *out [[buffer(0)]], device const float *in [[buffer(1)]],
                                      uint i [[thread_position_in_grid]]) {
    out[i] = in[int(i) - 1]; // BUG: out-of-bounds
}

// The grid covers more than the array, and nobody asks.
// metal-check: run no_bounds_check grid=2 group=64 0=half[100]
kernel void no_bounds_check(device half *out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    out[i] = half(i); // BUG: out-of-bounds
}

// metal-check: run vector_over_the_edge grid=1 group=16 0=float[60]=0 1=float[64]
kernel void vector_over_the_edge(device float4 *out [[buffer(0)]], device const float4 *in [[buffer(1)]],
                                 uint i [[thread_position_in_grid]]) {
    out[i] = in[i]; // BUG: out-of-bounds
}

// metal-check: run threadgroup_parameter grid=1 group=64 0=float[64] tg0=240
kernel void threadgroup_parameter(device float *out [[buffer(0)]], threadgroup float *shared [[threadgroup(0)]],
                                  uint i [[thread_position_in_threadgroup]]) {
    shared[i] = float(i); // BUG: out-of-bounds
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = shared[63 - i];
}

// One variable is not another's neighbour.
// metal-check: run threadgroup_variable grid=1 group=64 0=float[64]
kernel void threadgroup_variable(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup float first[64];
    threadgroup float second[64];
    first[i] = 1.0f;
    second[i] = 2.0f;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = first[i + 1]; // BUG: out-of-bounds
}

// Inside the tile, but in the next row.
// metal-check: run row_of_a_tile grid=1 group=64 0=float[64]
kernel void row_of_a_tile(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup float tile[8][8];
    tile[i / 8][i % 8] = float(i);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = tile[i / 9][i % 8 + 1]; // BUG: out-of-bounds
}

// metal-check: run array_of_a_thread grid=1 group=32 0=float[32] 1=uint:4
kernel void array_of_a_thread(device float *out [[buffer(0)]], constant uint &n [[buffer(1)]],
                              uint i [[thread_position_in_grid]]) {
    float local[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint k = 0; k <= n; ++k)
        local[k] += float(i); // BUG: out-of-bounds
    out[i] = local[0] + local[1] + local[2] + local[3];
}

// metal-check: run matrix_past_the_end grid=1 group=32 0=float[60]
kernel void matrix_past_the_end(device float *out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    simdgroup_float8x8 ones = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
    simdgroup_store(ones, out, 8); // BUG: out-of-bounds
}
