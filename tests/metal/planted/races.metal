// Planted bugs: data races, within a threadgroup and between threadgroups.
#include <metal_stdlib>
using namespace metal;

// metal-check: run two_threads_one_place grid=1 group=64 0=float[64]
kernel void two_threads_one_place(device float *out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    out[i / 2] = float(i); // BUG: data-race
}

// metal-check: run two_groups_one_place grid=2 group=32 0=float[32]
kernel void two_groups_one_place(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]],
                                 uint g [[threadgroup_position_in_grid]]) {
    out[i] = float(g); // BUG: data-race
}

// The first barrier is there; the one before the next round is not.
// metal-check: run missing_second_barrier grid=1 group=64 0=float[64]
kernel void missing_second_barrier(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup float shared[64];
    float sum = 0.0f;
    for (int k = 0; k < 4; ++k) {
        shared[i] = float(i) + float(k);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        sum += shared[63 - i]; // BUG: data-race
    }
    out[i] = sum;
}

// A barrier, but for threadgroup memory, and the data is in device memory.
// metal-check: run wrong_flag grid=1 group=64 0=float[64] 1=float[64]
kernel void wrong_flag(device float *out [[buffer(0)]], device float *scratch [[buffer(1)]],
                       uint i [[thread_position_in_threadgroup]]) {
    scratch[i] = float(i);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = scratch[63 - i]; // BUG: data-race
}

// metal-check: run device_flag_for_threadgroup_memory grid=1 group=64 0=float[64]
kernel void device_flag_for_threadgroup_memory(device float *out [[buffer(0)]],
                                               uint i [[thread_position_in_threadgroup]]) {
    threadgroup float shared[64];
    shared[i] = float(i);
    threadgroup_barrier(mem_flags::mem_device);
    out[i] = shared[i ^ 1]; // BUG: data-race
}

// metal-check: run no_flag grid=1 group=64 0=float[64]
kernel void no_flag(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup float shared[64];
    shared[i] = float(i);
    threadgroup_barrier(mem_flags::mem_none);
    out[i] = shared[i ^ 1]; // BUG: data-race
}

// No barrier orders two threadgroups.
// metal-check: run across_groups grid=2 group=32 0=float[64] 1=float[64]=0
kernel void across_groups(device float *out [[buffer(0)]], device float *scratch [[buffer(1)]],
                          uint i [[thread_position_in_grid]]) {
    scratch[i] = float(i); // BUG: data-race
    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    out[i] = scratch[63 - i];
}

// simd_sum waits for the lanes, but orders no memory.
// metal-check: run simd_function_is_no_barrier grid=1 group=64 0=float[64]
kernel void simd_function_is_no_barrier(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]],
                                        uint lane [[thread_index_in_simdgroup]],
                                        uint simd [[simdgroup_index_in_threadgroup]]) {
    threadgroup float shared[2][32];
    shared[simd][lane] = float(i);
    float sum = simd_sum(1.0f);
    out[i] = shared[simd][31 - lane] + sum; // BUG: data-race
}

// A simdgroup barrier orders one simdgroup, not the other.
// metal-check: run simdgroup_barrier_is_too_small grid=1 group=64 0=float[64]
kernel void simdgroup_barrier_is_too_small(device float *out [[buffer(0)]],
                                           uint i [[thread_position_in_threadgroup]]) {
    threadgroup float shared[64];
    shared[i] = 0.0f;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    shared[i] = float(i);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = shared[63 - i]; // BUG: data-race
}

// metal-check: run atomic_and_plain grid=2 group=32 0=uint[1]=0 1=uint[64]
kernel void atomic_and_plain(device atomic_uint *counter [[buffer(0)]], device uint *out [[buffer(1)]],
                             uint i [[thread_position_in_grid]]) {
    atomic_fetch_add_explicit(counter, 1u, memory_order_relaxed); // BUG: data-race
    out[i] = *(device uint *)counter;
}
