// The order of sorts as unsigned integers: numbers ascend, every NaN comes after every number, zeros are equal.
#pragma once
#include "types.h"

METAL_FUNC uint key_of(float v) {
    const uint bits = as_type<uint>(v == 0.0f ? 0.0f : v);
    const uint key = (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
    return v != v ? 0xffffffffu : key;
}

// The key of element `i` of a buffer of `dtype`, as 32 bits (dtypes of up to 32 bits) or 64.
METAL_FUNC void load_key(device const uchar* x, uint dtype, uint i, thread uint& key) {
    switch (dtype) {
    case DT_FLOAT16:
    case DT_BFLOAT16:
    case DT_FLOAT32:
        key = key_of(load_as<float>(x, dtype, dtype, i));
        break;
    case DT_INT8:
    case DT_INT16:
    case DT_INT32:
        key = uint(load_as<int>(x, dtype, dtype, i)) ^ 0x80000000u;
        break;
    default:
        key = load_as<uint>(x, dtype, dtype, i);
        break;
    }
}
METAL_FUNC void load_key(device const uchar* x, uint dtype, uint i, thread ulong& key) {
    const ulong word = ((device const ulong*)x)[i];
    key = dtype == DT_INT64 ? word ^ 0x8000000000000000ul : word;
}
