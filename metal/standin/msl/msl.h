// The Metal Shading Language's library on the host: what every translated kernel file is compiled after.
#pragma once
#include "interface.h"
#include "types.h"

#include "math.h"

#include "atomics.h"
#include "simd.h"

#include "arguments.h"

using metal::array;
using metal::as_type; // global in Metal, as the vector types are
#define STANDIN_GLOBAL(T)                                                                                              \
    using metal::T##2;                                                                                                 \
    using metal::T##3;                                                                                                 \
    using metal::T##4;                                                                                                 \
    using metal::packed_##T##2;                                                                                        \
    using metal::packed_##T##3;                                                                                        \
    using metal::packed_##T##4;
STANDIN_GLOBAL(bool)
STANDIN_GLOBAL(char)
STANDIN_GLOBAL(uchar)
STANDIN_GLOBAL(short)
STANDIN_GLOBAL(ushort)
STANDIN_GLOBAL(int)
STANDIN_GLOBAL(uint)
STANDIN_GLOBAL(long)
STANDIN_GLOBAL(ulong)
STANDIN_GLOBAL(half)
STANDIN_GLOBAL(bfloat)
STANDIN_GLOBAL(float)
#undef STANDIN_GLOBAL
