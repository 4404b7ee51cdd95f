// Walking strided arrays: from a row-major position in an index space to the elements of several arrays.
//
// Hosts merge dimensions first (mlxr/backends/metal/launch.py: collapse) and bind views from their lowest address, so
// that all sums of offsets lie in [0, 2**31). Must not know about element types.
#pragma once
#include <metal_stdlib>

// mlxr/backends/metal/launch.py: MAX_DIMS
constant constexpr uint MAX_DIMS = 32;

// An index space and N arrays in it. Packed by launch.py: strided.
template <uint N>
struct Strided {
    uint size;             // number of positions
    uint ndim;             // at least 1
    uint start[N];         // elements from the bound address to position 0
    uint shape[MAX_DIMS];  // extents
    int strides[N][MAX_DIMS];
};

// Elements from the bound addresses to one position, and the way to the next ones: most steps stay in the innermost
// dimension and cost an addition for each array.
template <uint N>
struct Walk {
    int at[N];
    uint column;

    METAL_FUNC Walk(constant Strided<N>& s, uint position) { seek(s, position); }

    METAL_FUNC void seek(constant Strided<N>& s, uint position) {
        for (uint k = 0; k < N; ++k) at[k] = int(s.start[k]);
        uint rest = position;
        for (uint d = s.ndim; d-- > 0;) {
            const uint extent = s.shape[d];
            const uint index = rest % extent;
            rest /= extent;
            if (d + 1 == s.ndim) column = index;
            for (uint k = 0; k < N; ++k) at[k] += int(index) * s.strides[k][d];
        }
    }

    // From `position` - 1 to `position`.
    METAL_FUNC void step(constant Strided<N>& s, uint position) {
        const uint inner = s.ndim - 1;
        if (++column < s.shape[inner]) {
            for (uint k = 0; k < N; ++k) at[k] += s.strides[k][inner];
        } else {
            seek(s, position);
        }
    }
};
