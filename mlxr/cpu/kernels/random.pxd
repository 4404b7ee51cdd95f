# cython: language_level=3
"""Kernel table of the random family: MLX's key-based generator and the distributions that are fused with it.

A key is two uint32 words. Random bits are Threefry-2x32 (20 rounds) of a counter, so any part of an output can be
computed alone, and the result depends on key and shape only: never on threads, blocks or instruction set.

Layout, for one key and an output of `nbytes` bytes, which equals upstream's:

    words = ceil(nbytes / 4);  half = words // 2;  odd = words % 2
    for i < half:   (first, second) = threefry(key, counter=(i, half + odd + i))
                    word[i] = first;  word[half + odd + i] = second
    if odd:         word[half] = first of threefry(key, counter=(half, 0))

The output is the first `nbytes` bytes of these little-endian words, whatever the element width. Several keys each fill
an equal share of the output, one after another, and each share is laid out as above by itself.

Preconditions of every entry (the caller checks):
  - `keys` is UINT32 of shape [..., 2], any strides. `out` is contiguous, and out.size is a multiple of the number of
    keys (keys.size / 2). No keys or an empty output: nothing is written.
  - `threads` >= 1.

Distributions are defined on u(word) = min(float32(word) / 2**32, upper), one word per element whatever the dtype, where
upper is the largest value of the output dtype below one (float16: 1 - 2**-11, bfloat16: 1 - 2**-8, float32: 1 - 2**-24;
complex64 as float32).
"""
from mlxr.core.abi cimport ArrayRef


ctypedef struct RandomTable:
    # Raw bits into UINT32, UINT16 or UINT8 (upstream's width 4, 2, 1); the key of split() is bits of shape [num, 2].
    void (*bits)(const ArrayRef *keys, const ArrayRef *out, int threads) noexcept nogil

    # low + (high - low) * u, for FLOAT32, FLOAT16, BFLOAT16. Every operation rounds to the output dtype, as composed
    # ops do; `low` and `high` must hold values of that dtype.
    void (*uniform)(const ArrayRef *keys, float low, float high, const ArrayRef *out, int threads) noexcept nogil

    # loc + factor * erfinv(x) with x = 2 * u - (1 - 2**-24) in float32, for FLOAT32, FLOAT16, BFLOAT16, COMPLEX64.
    # The caller folds the standard deviation into factor, in the output dtype: factor = sqrt(2) * scale, where sqrt(2)
    # is the dtype's value of 1.4142135381698608. erfinv rounds to the dtype, then the product does, then the sum.
    # COMPLEX64 takes two words per element (real, imaginary), factor = scale, and adds loc to the real part.
    void (*normal)(const ArrayRef *keys, float loc, float factor, const ArrayRef *out, int threads) noexcept nogil

    # float32(word) < threshold into BOOL, one word per element. bernoulli(p) has threshold = float32(p) * 4294967808.
    void (*bernoulli)(const ArrayRef *keys, float threshold, const ArrayRef *out, int threads) noexcept nogil
