// The AdamW step in one kernel: what composed of elementwise operations would cross memory some fifteen times.
//
// Memory plan. A thread makes one element of each result; neighbours in a row are neighbours in a simdgroup. Arithmetic
// is float32; each result is rounded once. A result may take the memory of its operand, if both lie alike.
// Expected limit (not measured on a GPU): memory bandwidth, four elements read and three written.
//
// Knows nothing of tensors; mlxr/backends/metal/optimizer.py makes the launches.
#include "operands.h"

constant uint dtype_parameter [[function_constant(0)]];
constant uint dtype_gradient [[function_constant(1)]];
constant uint dtype_m [[function_constant(2)]];
constant uint dtype_v [[function_constant(3)]];
constant uint dtype_rate [[function_constant(4)]];

struct AdamParams {
    Lead lead;
    Steps parameter;
    Steps gradient;
    Steps m;
    Steps v;
    uint rows;
    uint n;
    float beta1;
    float beta2;
    float eps;
    float decay;
    float rate_factor;  // of the learning rate: 1 / (1 - beta1^t) with bias correction, else 1
    float root_factor;  // of the root of v: 1 / sqrt(1 - beta2^t), else 1
};

// m' = b1 m + (1 - b1) g;  v' = b2 v + (1 - b2) g^2;  w' = w (1 - rate decay) - rate m' / (sqrt(v') + eps)
kernel void adamw_step(device const uchar* parameter [[buffer(0)]],
                       device const uchar* gradient [[buffer(1)]],
                       device const uchar* m [[buffer(2)]],
                       device const uchar* v [[buffer(3)]],
                       device const uchar* rate [[buffer(4)]],
                       device uchar* new_parameter [[buffer(5)]],
                       device uchar* new_m [[buffer(6)]],
                       device uchar* new_v [[buffer(7)]],
                       constant AdamParams& params [[buffer(8)]],
                       uint2 at [[thread_position_in_grid]]) {
    if (at.x >= params.n || at.y >= params.rows)
        return;
    const long to = long(at.y) * params.n + at.x, i = long(at.x);
    const float w = load_float(parameter, lead_offset(params.lead, params.parameter, at.y) + i * params.parameter.inner,
                               dtype_parameter);
    const float g = load_float(gradient, lead_offset(params.lead, params.gradient, at.y) + i * params.gradient.inner,
                               dtype_gradient);
    const float old_m = load_float(m, lead_offset(params.lead, params.m, at.y) + i * params.m.inner, dtype_m);
    const float old_v = load_float(v, lead_offset(params.lead, params.v, at.y) + i * params.v.inner, dtype_v);
    const float step = load_float(rate, 0, dtype_rate);
    const float mean = params.beta1 * old_m + (1.0f - params.beta1) * g;
    const float square = params.beta2 * old_v + (1.0f - params.beta2) * g * g;
    const float root = precise::sqrt(square) * params.root_factor + params.eps;
    store_float(new_parameter, to, w * (1.0f - step * params.decay) - step * params.rate_factor * mean / root,
                dtype_parameter);
    store_float(new_m, to, mean, dtype_m);
    store_float(new_v, to, square, dtype_v);
}
