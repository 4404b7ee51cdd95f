// Reductions over any axes: sum, product, extrema, all, any, positions of extrema, and the sums behind mean, variance and
// log-sum-exp.
//
// A result takes `extent` elements, whose places follow from two index spaces: kept axes and reduced axes. Long
// reductions with few results are cut into parts, whose results a second launch reduces; cuts depend on shapes alone.
//
// Memory plan. `rows`: the elements of a result are spread over one SIMD group (short extents) or a threadgroup; lanes
// take neighbours, so contiguous rows are read in unbroken runs. `columns`: where neighbours in memory belong to
// different results, a SIMD group takes 32 results, and ROWS of them share the extent. Every element is read once (twice
// for variance and log-sum-exp, whose first launch finds the mean or the maximum). Expected limit (not measured): memory
// bandwidth, bytes of the operand / peak; below some 10^5 elements the cost of launches.
//
// The order of additions is fixed by layout and shape: threads add what they meet in order, then partial results are
// added as a tree. No atomics: results are the same on every run.
#include "lanes.h"
#include "mathematics.h"
#include "strides.h"
#include "types.h"
using namespace metal;

constant uint OP [[function_constant(0)]];
constant uint DTYPE_IN [[function_constant(1)]];
constant uint COMPUTE [[function_constant(2)]];  // the dtype that elements are cast to
constant uint DTYPE_OUT [[function_constant(3)]];
constant uint PREPARE [[function_constant(4)]];  // what happens to an element before it is combined
constant uint FINISH [[function_constant(5)]];   // what happens to a result before it is stored
constant uint SIMDS [[function_constant(6)]];    // rows: SIMD groups that share a result, 1 or GROUPS

// The numbers of mlxr/backends/metal/reduce.py.
enum Op : uint { SUM, PROD, MAX, MIN, ALL, ANY, ARGMAX, ARGMIN };
enum Prepare : uint { AS_IS, SQUARED_DISTANCE, EXP_OF_DIFFERENCE, CANDIDATE };
enum Finish : uint { STORE, DIVIDE, LOG_AND_ADD };

constant constexpr uint GROUPS = 8;  // SIMD groups of a threadgroup
constant constexpr uint ROWS = 8;    // threads that share a column

struct ReduceParams {
    uint outputs;
    uint extent;
    uint parts;     // per result
    uint part;      // elements of a part; the last one may be shorter
    ulong identity; // bits of a lane
    float divisor;
    uint start;     // elements from the bound address to the first one
    uint kept_ndim;
    uint reduced_ndim;
    uint kept_shape[MAX_DIMS];
    int kept_strides[MAX_DIMS];
    uint reduced_shape[MAX_DIMS];
    int reduced_strides[MAX_DIMS];
};

METAL_FUNC int place(uint position, uint ndim, constant uint* shape, constant int* strides) {
    int at = 0;
    for (uint d = ndim - 1; d > 0; --d) {
        at += int(position % shape[d]) * strides[d];
        position /= shape[d];
    }
    return at + int(position) * strides[0];
}

// A partial result. `index` counts only for positions of extrema, and folds away elsewhere.
template <typename Lane>
struct Partial {
    Lane value;
    uint index;
};

template <typename Lane>
METAL_FUNC Partial<Lane> combined(Partial<Lane> a, Partial<Lane> b) {
    typedef typename unsigned_of<Lane>::type U;
    const bool a_nan = a.value != a.value;
    const bool b_nan = b.value != b.value;
    switch (OP) {
    case SUM: a.value = Lane(U(a.value) + U(b.value)); break;
    case PROD: a.value = Lane(U(a.value) * U(b.value)); break;
    case MAX: a.value = a.value > b.value || a_nan ? a.value : b.value; break;
    case MIN: a.value = a.value < b.value || a_nan ? a.value : b.value; break;
    case ALL: a.value = Lane(a.value != Lane(0) && b.value != Lane(0)); break;
    case ANY: a.value = Lane(a.value != Lane(0) || b.value != Lane(0)); break;
    default: {
        // NaN beats numbers, and the first of equals wins.
        const bool beyond = OP == ARGMAX ? b.value > a.value : b.value < a.value;
        const bool equal = a.value == b.value || (a_nan && b_nan);
        if ((b_nan && !a_nan) || (beyond && !a_nan) || (equal && b.index < a.index)) a = b;
        break;
    }
    }
    return a;
}

// Nothing yet. An index that no element has marks it, so that a lane without elements never wins.
template <typename Lane>
METAL_FUNC Partial<Lane> nothing(constant ReduceParams& p) {
    Partial<Lane> none;
    none.value = Lane(0);
    none.value = lane_from(p.identity, none.value);
    none.index = 0xffffffffu;
    return none;
}

METAL_FUNC float prepared(float v, float center) {
    if (PREPARE == SQUARED_DISTANCE) return (v - center) * (v - center);
    if (PREPARE == EXP_OF_DIFFERENCE) return exp_f32(v - (fabs(center) == INFINITY ? 0.0f : center));
    return v;
}
template <typename Lane>
METAL_FUNC Lane prepared(Lane v, float) {
    return v;
}

METAL_FUNC float finished(float v, float center, float divisor) {
    if (v != v) return NAN;
    if (FINISH == DIVIDE) return v / divisor;
    if (FINISH == LOG_AND_ADD) return log_f32(v) + (fabs(center) == INFINITY ? 0.0f : center);
    return v;
}
template <typename Lane>
METAL_FUNC Lane finished(Lane v, float, float) {
    return v;
}

// Element `i` of the result whose kept axes put it at `base`. `extra`: candidates of an earlier launch, parts of them for
// each result.
template <typename Lane>
METAL_FUNC Partial<Lane> element(device const uchar* x, device const uint* extra, constant ReduceParams& p, int base,
                                 uint output, float center, uint i) {
    Partial<Lane> one;
    one.index = PREPARE == CANDIDATE ? extra[output * p.extent + i] : i;
    const uint at = uint(base + place(one.index, p.reduced_ndim, p.reduced_shape, p.reduced_strides));
    one.value = prepared(load_as<Lane>(x, DTYPE_IN, COMPUTE, at), center);
    return one;
}

METAL_FUNC float center_of(device const uint* extra, uint output) {
    const bool needed = PREPARE == SQUARED_DISTANCE || PREPARE == EXP_OF_DIFFERENCE || FINISH == LOG_AND_ADD;
    return needed ? as_type<float>(extra[output]) : 0.0f;
}

template <typename Lane>
METAL_FUNC void store_result(device uchar* out, constant ReduceParams& p, uint output, uint part, float center,
                             Partial<Lane> result) {
    const uint at = output * p.parts + part;
    if (OP == ARGMAX || OP == ARGMIN) {
        store_as(out, DTYPE_OUT, at, result.index);
    } else {
        store_as(out, DTYPE_OUT, at, finished(result.value, center, p.divisor));
    }
}

// Grid: (results / (GROUPS / SIMDS), parts); 32 * GROUPS threads.
template <typename Lane>
[[kernel]] void rows(device const uchar* x [[buffer(0)]], device const uint* extra [[buffer(1)]],
                     device uchar* out [[buffer(2)]], constant ReduceParams& p [[buffer(3)]],
                     uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                     uint simd [[simdgroup_index_in_threadgroup]]) {
    threadgroup Lane values[GROUPS];
    threadgroup uint indices[GROUPS];
    const uint output = SIMDS == 1 ? group.x * GROUPS + simd : group.x;
    const uint member = SIMDS == 1 ? lane : simd * SIMD_SIZE + lane;
    const uint first = group.y * p.part;
    const uint last = min(first + p.part, p.extent);
    const bool used = output < p.outputs;

    Partial<Lane> result = nothing<Lane>(p);
    float center = 0.0f;
    if (used) {
        const int base = int(p.start) + place(output, p.kept_ndim, p.kept_shape, p.kept_strides);
        center = center_of(extra, output);
        for (uint i = first + member; i < last; i += SIMDS * SIMD_SIZE) {
            result = combined(result, element<Lane>(x, extra, p, base, output, center, i));
        }
    }
    for (ushort d = SIMD_SIZE / 2; d > 0; d >>= 1) {
        Partial<Lane> other;
        other.value = shuffle_xor(result.value, d);
        other.index = shuffle_xor(result.index, d);
        result = combined(result, other);
    }
    if (SIMDS == 1) {
        if (used && lane == 0) store_result(out, p, output, group.y, center, result);
        return;
    }
    if (lane == 0) {
        values[simd] = result.value;
        indices[simd] = result.index;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (member == 0) {
        for (uint k = 1; k < GROUPS; ++k) {
            Partial<Lane> other;
            other.value = values[k];
            other.index = indices[k];
            result = combined(result, other);
        }
        store_result(out, p, output, group.y, center, result);
    }
}

// Grid: (results / 32, parts); 32 x ROWS threads, a SIMD group along the results.
template <typename Lane>
[[kernel]] void columns(device const uchar* x [[buffer(0)]], device const uint* extra [[buffer(1)]],
                        device uchar* out [[buffer(2)]], constant ReduceParams& p [[buffer(3)]],
                        uint3 group [[threadgroup_position_in_grid]], uint3 local [[thread_position_in_threadgroup]]) {
    threadgroup Lane values[ROWS * SIMD_SIZE];
    threadgroup uint indices[ROWS * SIMD_SIZE];
    const uint output = group.x * SIMD_SIZE + local.x;
    const uint first = group.y * p.part;
    const uint last = min(first + p.part, p.extent);
    const bool used = output < p.outputs;

    Partial<Lane> result = nothing<Lane>(p);
    float center = 0.0f;
    if (used) {
        const int base = int(p.start) + place(output, p.kept_ndim, p.kept_shape, p.kept_strides);
        center = center_of(extra, output);
        for (uint i = first + local.y; i < last; i += ROWS) {
            result = combined(result, element<Lane>(x, extra, p, base, output, center, i));
        }
    }
    values[local.y * SIMD_SIZE + local.x] = result.value;
    indices[local.y * SIMD_SIZE + local.x] = result.index;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (used && local.y == 0) {
        for (uint k = 1; k < ROWS; ++k) {
            Partial<Lane> other;
            other.value = values[k * SIMD_SIZE + local.x];
            other.index = indices[k * SIMD_SIZE + local.x];
            result = combined(result, other);
        }
        store_result(out, p, output, group.y, center, result);
    }
}

#define instantiate_reduce(Lane)                                                                                     \
    template [[host_name("rows_" #Lane)]] [[kernel]] void rows<Lane>(                                                \
        device const uchar*, device const uint*, device uchar*, constant ReduceParams&, uint3, uint, uint);          \
    template [[host_name("columns_" #Lane)]] [[kernel]] void columns<Lane>(                                          \
        device const uchar*, device const uint*, device uchar*, constant ReduceParams&, uint3, uint3);

instantiate_reduce(float)
instantiate_reduce(int)
instantiate_reduce(uint)
instantiate_reduce(long)
instantiate_reduce(ulong)
