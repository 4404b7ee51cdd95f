// Planted bugs: barriers and SIMD-group functions that not all threads come to, and loops without an end.
#include <metal_stdlib>
using namespace metal;

// metal-check: run barrier_in_a_branch grid=1 group=64 0=float[64]
kernel void barrier_in_a_branch(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    if (i < 32)
        threadgroup_barrier(mem_flags::mem_threadgroup); // BUG: barrier-divergence
    out[i] = float(i);
}

// metal-check: run return_before_the_barrier grid=1 group=64 0=float[64] 1=uint:40
kernel void return_before_the_barrier(device float *out [[buffer(0)]], constant uint &n [[buffer(1)]],
                                      uint i [[thread_position_in_threadgroup]]) {
    threadgroup float shared[64];
    if (i >= n)
        return;
    shared[i] = float(i);
    threadgroup_barrier(mem_flags::mem_threadgroup); // BUG: barrier-divergence
    out[i] = shared[n - 1 - i];
}

// metal-check: run two_barriers grid=1 group=64 0=float[64]
kernel void two_barriers(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    if (i & 1)
        threadgroup_barrier(mem_flags::mem_threadgroup);
    else
        threadgroup_barrier(mem_flags::mem_threadgroup); // BUG: barrier-divergence
    out[i] = float(i);
}

// metal-check: run loop_of_different_lengths grid=1 group=64 0=float[64]
kernel void loop_of_different_lengths(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    for (uint k = 0; k < i / 32 + 1; ++k)
        threadgroup_barrier(mem_flags::mem_threadgroup); // BUG: barrier-divergence
    out[i] = float(i);
}

// metal-check: run different_simd_functions grid=1 group=32 0=float[32]
kernel void different_simd_functions(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    float v = float(i);
    if (i % 2)
        v = simd_sum(v); // BUG: simd-divergence
    else
        v = simd_max(v);
    out[i] = v;
}

// metal-check: run matrix_arguments_differ grid=1 group=32 0=float[80]
kernel void matrix_arguments_differ(device float *out [[buffer(0)]], uint i [[thread_index_in_simdgroup]]) {
    simdgroup_float8x8 a, b(1.0f), c(0.0f);
    simdgroup_load(a, out + i % 2, 8);
    simdgroup_multiply_accumulate(c, a, b, c); // BUG: simd-divergence
    simdgroup_store(c, out, 8);
}

// metal-check: run shuffle_from_a_lane_that_left grid=1 group=32 0=float[32]
kernel void shuffle_from_a_lane_that_left(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    if (i % 2)
        return;
    out[i] = simd_shuffle_xor(1.0f, 1); // BUG: inactive-lane
}

// metal-check: run broadcast_in_half_a_simdgroup grid=1 group=16 0=float[16]
kernel void broadcast_in_half_a_simdgroup(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    out[i] = simd_broadcast(float(i), 16); // BUG: inactive-lane
}

// metal-check: run matrix_in_half_a_simdgroup grid=1 group=16 0=float[64]
kernel void matrix_in_half_a_simdgroup(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    simdgroup_float8x8 a(1.0f), b(1.0f), c(0.0f);
    simdgroup_multiply_accumulate(c, a, b, c); // BUG: inactive-lane
    out[i] = float(i);
}

// One half waits for a barrier, the other for its own simdgroup, of which a lane is in the barrier.
// metal-check: run waits_for_each_other grid=1 group=64 0=float[64]
kernel void waits_for_each_other(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    float v = 0.0f;
    if (i == 32)
        threadgroup_barrier(mem_flags::mem_none); // BUG: deadlock
    else
        v = simd_sum(1.0f);
    out[i] = v;
}

// One lane waits for the threadgroup, the others of its simdgroup for that lane.
// metal-check: run barriers_of_two_sizes grid=1 group=32 0=float[32]
kernel void barriers_of_two_sizes(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    if (i == 0)
        threadgroup_barrier(mem_flags::mem_threadgroup); // BUG: deadlock
    else
        simdgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = float(i);
}

// metal-check: run spin_for_another_thread grid=1 group=64 0=uint[1]=0
kernel void spin_for_another_thread(device atomic_uint *flag [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    if (i == 63)
        atomic_store_explicit(flag, 1u, memory_order_relaxed);
    while (atomic_load_explicit(flag, memory_order_relaxed) == 0u) { // BUG: endless-loop
    }
}

// metal-check: run never_counts grid=1 group=1 0=uint[1]=0 1=uint:10
kernel void never_counts(device uint *out [[buffer(0)]], constant uint &n [[buffer(1)]]) {
    uint sum = 0;
    for (uint k = 0; k < n; sum += k) // BUG: endless-loop
        ;
    out[0] = sum;
}
