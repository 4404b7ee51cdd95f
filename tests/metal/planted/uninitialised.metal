// Planted bugs: threadgroup memory that is read before anybody wrote it, and variables of a thread likewise.
#include <metal_stdlib>
using namespace metal;

// metal-check: run one_thread_short grid=1 group=64 0=float[64]
kernel void one_thread_short(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup float shared[64];
    if (i < 63)
        shared[i] = 1.0f;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = shared[i]; // BUG: uninitialised-read
}

// metal-check: run padding_of_a_tile grid=1 group=64 0=float[64]
kernel void padding_of_a_tile(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup float tile[8][9];
    tile[i / 8][i % 8] = float(i);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = tile[i / 8][i % 8 + 1]; // BUG: uninitialised-read
}

// The accumulator is added to before it was cleared.
// metal-check: run counter grid=1 group=32 0=uint[1]
kernel void counter(device uint *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup atomic_uint count;
    atomic_fetch_add_explicit(&count, 1u, memory_order_relaxed); // BUG: uninitialised-read
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i == 0)
        out[0] = atomic_load_explicit(&count, memory_order_relaxed);
}
