// Legal kernels near the planted bugs: none of them may be reported.
#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

constant bool has_bias [[function_constant(0)]];
constant float gain [[function_constant(1)]];
constant float gain_or_one = is_function_constant_defined(gain) ? gain : 1.0f;

// metal-check: run reversed grid=2 group=64 0=float[128]
kernel void reversed(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]],
                     uint g [[threadgroup_position_in_grid]]) {
    threadgroup float shared[64];
    shared[i] = float(i);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[g * 64 + i] = shared[63 - i];
}

// metal-check: run rounds grid=1 group=64 0=float[64]
kernel void rounds(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup float shared[64];
    float sum = 0.0f;
    for (int k = 0; k < 4; ++k) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        shared[i] = float(i) + float(k);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        sum += shared[63 - i];
    }
    out[i] = sum;
}

// metal-check: run through_device_memory grid=1 group=64 0=float[64] 1=float[64]
kernel void through_device_memory(device float *out [[buffer(0)]], device float *scratch [[buffer(1)]],
                                  uint i [[thread_position_in_threadgroup]]) {
    scratch[i] = float(i);
    threadgroup_barrier(mem_flags::mem_device);
    out[i] = scratch[63 - i];
}

// metal-check: run within_a_simdgroup grid=1 group=64 0=float[64]
kernel void within_a_simdgroup(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]],
                               uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
    threadgroup float shared[2][32];
    shared[simd][lane] = float(i);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = shared[simd][31 - lane];
}

// metal-check: run counts grid=4 group=64 0=uint[1]=0 1=float[1]=0
kernel void counts(device atomic_uint *counter [[buffer(0)]], device atomic_float *sum [[buffer(1)]],
                   uint i [[thread_position_in_grid]]) {
    atomic_fetch_add_explicit(counter, 1u, memory_order_relaxed);
    atomic_fetch_add_explicit(sum, 0.5f, memory_order_relaxed);
}

// metal-check: run histogram grid=1 group=64 0=uint[8]=0
kernel void histogram(device uint *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    threadgroup atomic_uint bins[8];
    if (i < 8)
        atomic_store_explicit(&bins[i], 0u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    atomic_fetch_add_explicit(&bins[i % 8], 1u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < 8)
        out[i] = atomic_load_explicit(&bins[i], memory_order_relaxed);
}

// All read one value, one thread replaces it after a barrier.
// metal-check: run read_by_all grid=1 group=64 0=float[64] 1=float[1]
kernel void read_by_all(device float *out [[buffer(0)]], device float *value [[buffer(1)]],
                        uint i [[thread_position_in_threadgroup]]) {
    out[i] = value[0];
    threadgroup_barrier(mem_flags::mem_device);
    if (i == 0)
        value[0] = 2.0f;
}

// Lanes that returned take no part in a reduction.
// metal-check: run fewer_lanes grid=1 group=32 0=float[32]
kernel void fewer_lanes(device float *out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
    if (i % 2)
        return;
    out[i] = simd_sum(1.0f);
}

// metal-check: run edge grid=2 group=64 0=half[100] 1=uint:100
kernel void edge(device half *out [[buffer(0)]], constant uint &n [[buffer(1)]], uint i [[thread_position_in_grid]]) {
    if (i < n)
        out[i] = half(i) * 0.5h;
}

// metal-check: run bias grid=1 group=32 0=bfloat[32] fc0=false
// metal-check: run bias grid=1 group=32 0=bfloat[32] 1=bfloat[32] fc0=true fc1=2.0
kernel void bias(device bfloat *out [[buffer(0)]],
                 device const bfloat *added [[buffer(1), function_constant(has_bias)]],
                 uint i [[thread_position_in_grid]]) {
    float v = float(i) * gain_or_one;
    if (has_bias)
        v += float(added[i]);
    out[i] = bfloat(v);
}

// metal-check: run product grid=1 group=64 0=half[128] 1=half[128] 2=float[128]=0
kernel void product(device const half *a [[buffer(0)]], device const half *b [[buffer(1)]],
                    device float *out [[buffer(2)]], uint simd [[simdgroup_index_in_threadgroup]]) {
    threadgroup half tile[2][64];
    simdgroup_half8x8 x, y;
    simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    simdgroup_load(x, a + simd * 64, 8);
    simdgroup_store(x, tile[simd], 8);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_load(x, tile[simd], 8, ulong2(0, 0), true);
    simdgroup_load(y, b + simd * 64, 8);
    simdgroup_multiply_accumulate(sum, x, y, sum);
    simdgroup_store(sum, out + simd * 64, 8);
}

// metal-check: run scan grid=1 group=32 0=int[32]=1
kernel void scan(device int *data [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    data[i] = simd_prefix_inclusive_sum(data[i]);
}
