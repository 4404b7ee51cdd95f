// What kernels that combine elements across threads share: identities from bits, shuffles of every lane type.
#pragma once
#include <metal_simdgroup>
#include <metal_stdlib>

constant constexpr uint SIMD_SIZE = 32;

template <typename T>
struct unsigned_of {
    typedef T type;
};
template <>
struct unsigned_of<int> {
    typedef uint type;
};
template <>
struct unsigned_of<long> {
    typedef ulong type;
};

// A lane whose bits the host packed into the low end of a 64-bit word.
METAL_FUNC float lane_from(ulong bits, thread const float&) { return as_type<float>(uint(bits)); }
METAL_FUNC int lane_from(ulong bits, thread const int&) { return int(uint(bits)); }
METAL_FUNC uint lane_from(ulong bits, thread const uint&) { return uint(bits); }
METAL_FUNC long lane_from(ulong bits, thread const long&) { return long(bits); }
METAL_FUNC ulong lane_from(ulong bits, thread const ulong&) { return bits; }

// Shuffles exist for words of 32 bits; longer ones go as two.
template <typename T>
METAL_FUNC T shuffle_xor(T v, ushort mask) {
    return metal::simd_shuffle_xor(v, mask);
}
METAL_FUNC long shuffle_xor(long v, ushort mask) {
    return as_type<long>(metal::simd_shuffle_xor(as_type<uint2>(v), mask));
}
METAL_FUNC ulong shuffle_xor(ulong v, ushort mask) {
    return as_type<ulong>(metal::simd_shuffle_xor(as_type<uint2>(v), mask));
}

template <typename T>
METAL_FUNC T shuffle(T v, ushort lane) {
    return metal::simd_shuffle(v, lane);
}
METAL_FUNC long shuffle(long v, ushort lane) { return as_type<long>(metal::simd_shuffle(as_type<uint2>(v), lane)); }
METAL_FUNC ulong shuffle(ulong v, ushort lane) { return as_type<ulong>(metal::simd_shuffle(as_type<uint2>(v), lane)); }
