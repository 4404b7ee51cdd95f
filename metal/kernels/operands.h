// Floating operands whose dtype is a function constant, and rows and matrices with any strides.
//
// The fused kernels take float32, float16 and bfloat16 in any mixture, and compute in float32. Knows nothing of what
// they compute.
#pragma once
#include "types.h"
using namespace metal;

METAL_FUNC float load_float(device const uchar* data, long index, uint dtype) {
    if (dtype == DT_FLOAT32)
        return ((device const float*)data)[index];
    if (dtype == DT_FLOAT16)
        return float(((device const half*)data)[index]);
    return float(((device const bfloat*)data)[index]);
}

METAL_FUNC void store_float(device uchar* data, long index, float value, uint dtype) {
    if (dtype == DT_FLOAT32)
        ((device float*)data)[index] = value;
    else if (dtype == DT_FLOAT16)
        ((device half*)data)[index] = half(value);
    else
        ((device bfloat*)data)[index] = bfloat(value);
}

// Leading axes, those that number rows or matrices, after adjacent ones that step alike were joined.
constant constexpr uint MAX_LEAD = 6;

struct Lead {
    uint ndim;
    uint shape[MAX_LEAD];
    uint unused;
};

// Where element (row, i) of an operand lies, in elements from the address it is bound to, its lowest.
struct Steps {
    long start;
    long inner;
    long lead[MAX_LEAD];
};

METAL_FUNC long lead_offset(constant Lead& lead, constant Steps& steps, uint index) {
    long offset = steps.start;
    for (uint axis = lead.ndim; axis > 0; --axis) {
        offset += long(index % lead.shape[axis - 1]) * steps.lead[axis - 1];
        index /= lead.shape[axis - 1];
    }
    return offset;
}

// What hides elements of a row of scores. A hidden one, by a boolean mask or a causal one, counts as the lowest finite
// number, so that a row of which nothing is seen has equal weights; an added mask is added.
constant constexpr int MASK_NONE = 0;
constant constexpr int MASK_BOOL = 1;
constant constexpr int MASK_ADDED = 2;
constant constexpr int MASK_CAUSAL = 3;

// A matrix of a stack: rows `row` apart; steps.inner from column to column.
struct Matrix {
    Steps steps;
    long row;
};

// ------------------------------------------------------------------ products of matrices that are named by index

// The record in which kernels note an index out of bounds: class Fault in mlxr/backends/metal/launch.py.
struct FaultRecord {
    atomic_uint claimed;
    uint array;
    long index;
};

// Where the matrix that indices[batch] names begins. An index without a matrix is noted, by one thread of the group
// that meets it first, and the first matrix taken in its place.
METAL_FUNC long gathered_offset(constant Matrix& matrix, device const uint* indices, uint batch, uint count, uint array,
                                device FaultRecord* fault, bool notes) {
    const uint index = indices[batch];
    if (index < count)
        return matrix.steps.start + long(index) * matrix.steps.lead[0];
    if (notes && atomic_exchange_explicit(&fault->claimed, 1u, memory_order_relaxed) == 0u) {
        fault->array = array;
        fault->index = long(index);
    }
    return matrix.steps.start;
}
