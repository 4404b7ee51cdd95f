// Element types as the host numbers them, and how kernels load and store elements of any of them.
//
// A kernel computes in one of five lane types (float, int, uint, long, ulong) and is told the dtypes of its buffers by
// function constants. The switches below fold away when a pipeline is made, so one kernel per lane type serves every
// combination of dtypes. Must not know about any one operation.
#pragma once
#include <metal_stdlib>

// mlxr/core/abi.pxd
enum Dtype : uint {
    DT_BOOL = 0,
    DT_UINT8 = 1,
    DT_UINT16 = 2,
    DT_UINT32 = 3,
    DT_UINT64 = 4,
    DT_INT8 = 5,
    DT_INT16 = 6,
    DT_INT32 = 7,
    DT_INT64 = 8,
    DT_FLOAT16 = 9,
    DT_FLOAT32 = 10,
    DT_BFLOAT16 = 12,
    DT_COMPLEX64 = 13,
};

// ---- Casts -----------------------------------------------------------------------------------------------------------
//
// Between integers: the low bits. From float: truncated; what does not fit gives what the CPU backend gives (the bits of
// the most negative integer), where C++ leaves it open.

template <typename From>
METAL_FUNC int to_int32(From v) {
    return int(v);
}
METAL_FUNC int to_int32(float v) { return metal::fabs(v) < 2147483648.0f ? int(v) : int(0x80000000u); }

template <typename From>
METAL_FUNC uint to_uint32(From v) {
    return uint(v);
}
METAL_FUNC uint to_uint32(float v) {
    return v >= 2147483648.0f ? uint(to_int32(v - 2147483648.0f)) + 0x80000000u : uint(to_int32(v));
}

template <typename From>
METAL_FUNC long to_int64(From v) {
    return long(v);
}
METAL_FUNC long to_int64(float v) {
    return metal::fabs(v) < 9223372036854775808.0f ? long(v) : long(0x8000000000000000ul);
}

template <typename From>
METAL_FUNC ulong to_uint64(From v) {
    return ulong(v);
}
METAL_FUNC ulong to_uint64(float v) {
    return v >= 9223372036854775808.0f ? ulong(to_int64(v - 9223372036854775808.0f)) + 0x8000000000000000ul
                                       : ulong(to_int64(v));
}

// Round or wrap a lane to what `dtype` can hold: what happens to an operand that is cast before it is used.
METAL_FUNC float narrow(float v, uint dtype) {
    if (dtype == DT_FLOAT16) return float(half(v));
    if (dtype == DT_BFLOAT16) return float(bfloat(v));
    return v;
}
METAL_FUNC int narrow(int v, uint dtype) {
    if (dtype == DT_INT8) return int(char(v));
    if (dtype == DT_INT16) return int(short(v));
    return v;
}
METAL_FUNC uint narrow(uint v, uint dtype) {
    if (dtype == DT_UINT8) return uint(uchar(v));
    if (dtype == DT_UINT16) return uint(ushort(v));
    return v;
}
METAL_FUNC long narrow(long v, uint) { return v; }
METAL_FUNC ulong narrow(ulong v, uint) { return v; }

template <typename Lane, typename From>
METAL_FUNC Lane to_lane(From v, uint compute) {
    return compute == DT_BOOL ? Lane(v != From(0)) : narrow(Lane(v), compute);
}

// ---- Elements --------------------------------------------------------------------------------------------------------

// Element `i` of a buffer of `dtype`, cast to `compute` (a dtype whose lane type is Lane).
template <typename Lane>
METAL_FUNC Lane load_as(device const uchar* p, uint dtype, uint compute, uint i) {
    switch (dtype) {
    case DT_BOOL:
        return Lane(p[i] != 0);
    case DT_UINT8:
        return to_lane<Lane>(uint(p[i]), compute);
    case DT_UINT16:
        return to_lane<Lane>(uint(((device const ushort*)p)[i]), compute);
    case DT_UINT32:
        return to_lane<Lane>(((device const uint*)p)[i], compute);
    case DT_UINT64:
        return to_lane<Lane>(((device const ulong*)p)[i], compute);
    case DT_INT8:
        return to_lane<Lane>(int(((device const char*)p)[i]), compute);
    case DT_INT16:
        return to_lane<Lane>(int(((device const short*)p)[i]), compute);
    case DT_INT32:
        return to_lane<Lane>(((device const int*)p)[i], compute);
    case DT_INT64:
        return to_lane<Lane>(((device const long*)p)[i], compute);
    case DT_FLOAT16:
        return to_lane<Lane>(float(((device const half*)p)[i]), compute);
    case DT_BFLOAT16:
        return to_lane<Lane>(float(((device const bfloat*)p)[i]), compute);
    case DT_COMPLEX64: {
        const float2 z = ((device const float2*)p)[i];
        return compute == DT_BOOL ? Lane(z.x != 0.0f || z.y != 0.0f) : to_lane<Lane>(z.x, compute);
    }
    default:
        return to_lane<Lane>(((device const float*)p)[i], compute);
    }
}

// Cast `v` to `dtype` and make it element `i` of a buffer.
template <typename Lane>
METAL_FUNC void store_as(device uchar* p, uint dtype, uint i, Lane v) {
    switch (dtype) {
    case DT_BOOL:
        p[i] = uchar(v != Lane(0));
        break;
    case DT_UINT8:
        p[i] = uchar(to_int32(v));
        break;
    case DT_UINT16:
        ((device ushort*)p)[i] = ushort(to_int32(v));
        break;
    case DT_UINT32:
        ((device uint*)p)[i] = to_uint32(v);
        break;
    case DT_UINT64:
        ((device ulong*)p)[i] = to_uint64(v);
        break;
    case DT_INT8:
        ((device char*)p)[i] = char(to_int32(v));
        break;
    case DT_INT16:
        ((device short*)p)[i] = short(to_int32(v));
        break;
    case DT_INT32:
        ((device int*)p)[i] = to_int32(v);
        break;
    case DT_INT64:
        ((device long*)p)[i] = to_int64(v);
        break;
    case DT_FLOAT16:
        ((device half*)p)[i] = half(float(v));
        break;
    case DT_BFLOAT16:
        ((device bfloat*)p)[i] = bfloat(float(v));
        break;
    case DT_COMPLEX64:
        ((device float2*)p)[i] = float2(float(v), 0.0f);
        break;
    default:
        ((device float*)p)[i] = float(v);
        break;
    }
}
