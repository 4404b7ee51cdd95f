// Planted bugs: launches that do not give a kernel what it needs, and kernels that need more than there is.
#include <metal_stdlib>
using namespace metal;

constant float gain [[function_constant(0)]];
constant bool has_bias [[function_constant(1)]];

struct Params {
    uint n;
    float scale;
};

// metal-check: run missing_buffer grid=1 group=32 0=float[32]  // BUG: missing-binding
kernel void missing_buffer(device float *out [[buffer(0)]], device const float *in [[buffer(1)]],
                           uint i [[thread_position_in_grid]]) {
    out[i] = in[i];
}

// metal-check: run missing_threadgroup_length grid=1 group=32 0=float[32]  // BUG: missing-binding
kernel void missing_threadgroup_length(device float *out [[buffer(0)]], threadgroup float *shared [[threadgroup(0)]],
                                       uint i [[thread_position_in_grid]]) {
    shared[i] = 1.0f;
    out[i] = shared[i];
}

// metal-check: run missing_conditional_buffer grid=1 group=32 0=float[32] fc1=true  // BUG: missing-binding
kernel void missing_conditional_buffer(device float *out [[buffer(0)]],
                                       device const float *bias [[buffer(1), function_constant(has_bias)]],
                                       uint i [[thread_position_in_grid]]) {
    out[i] = has_bias ? bias[i] : 0.0f;
}

constant float twice_the_gain = 2.0f * gain;

// metal-check: run missing_constant_of_a_constant grid=1 group=32 0=float[32]  // BUG: missing-constant
kernel void missing_constant_of_a_constant(device float *out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    out[i] = twice_the_gain;
}

float amplified(float v) { return v * gain; }

// metal-check: run missing_constant grid=1 group=32 0=float[32]  // BUG: missing-constant
kernel void missing_constant(device float *out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    out[i] = amplified(1.0f);
}

// metal-check: run short_argument grid=1 group=32 0=float[32] 1=uint:32  // BUG: bad-launch
kernel void short_argument(device float *out [[buffer(0)]], constant Params &params [[buffer(1)]],
                           uint i [[thread_position_in_grid]]) {
    out[i] = params.scale;
}

// metal-check: run too_many_threads grid=1 group=2048 0=float[2048]  // BUG: bad-launch
kernel void too_many_threads(device float *out [[buffer(0)]], uint i [[thread_position_in_grid]]) { out[i] = 1.0f; }

// metal-check: run more_than_it_allows grid=1 group=128 0=float[128]  // BUG: bad-launch
[[max_total_threads_per_threadgroup(64)]] kernel void more_than_it_allows(device float *out [[buffer(0)]],
                                                                          uint i [[thread_position_in_grid]]) {
    out[i] = 1.0f;
}

// metal-check: run too_much_memory grid=1 group=32 0=float[32]
kernel void too_much_memory(device float *out [[buffer(0)]], uint i [[thread_position_in_grid]]) { // BUG: threadgroup-memory
    threadgroup float shared[8193];
    shared[i] = 1.0f;
    out[i] = shared[i];
}

// metal-check: run too_much_memory_in_all grid=1 group=32 0=float[32] tg0=20000
kernel void too_much_memory_in_all(device float *out [[buffer(0)]], // BUG: threadgroup-memory
                                   threadgroup float *first [[threadgroup(0)]], uint i [[thread_position_in_grid]]) {
    threadgroup float second[4096];
    first[i] = 1.0f;
    second[i] = first[i];
    out[i] = second[i];
}

// metal-check: run divides_by_zero grid=1 group=32 0=uint[32] 1=uint:0
kernel void divides_by_zero(device uint *out [[buffer(0)]], constant uint &n [[buffer(1)]],
                            uint i [[thread_position_in_grid]]) {
    out[i] = i / n; // BUG: undefined-behaviour
}

// metal-check: run shifts_too_far grid=1 group=64 0=uint[64]
kernel void shifts_too_far(device uint *out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    out[i] = 1u << i; // BUG: undefined-behaviour
}
