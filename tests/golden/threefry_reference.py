"""Upstream MLX's random numbers from their definition, in plain NumPy: what tests compare mlxr's results with.

Found by experiment with upstream 0.32.4 (its exported graphs name every step; make_random_golden.py keeps its values).
Bits, integers, permutations, uniform and Bernoulli samples equal upstream's exactly; where a logarithm, erf or erfinv
is involved, they agree to that function's rounding. This module must not use mlxr.

How each distribution derives from bits. `word` is a uint32 of `bits`, one per sample; "in D" means that the operation
rounds to the output dtype D; nothing is fused.

    key(seed)            (seed >> 32, seed & 0xFFFFFFFF) as uint32
    split(key, num)      bits(key, [num, 2])
    global generator     state is a key; a draw does state, used = split(state) and samples with `used`
    u(word, D)           min(float32(word) * 2**-32, upper) in float32, upper = largest value of D below 1; cast to D
    uniform              low + (high - low) * u, each operation in D; low, high cast to D first.
                         float16, bfloat16, float32
    randint              floor(uniform(float32(low), float32(high)) in float32) cast to D, then min(., high - 1) and
                         max(., low) in D (high - 1 is computed in the dtype of `high`, then cast to D)
    bernoulli(p)         float32(word) < float32(p) * 4294967808, in float32
    x(word)              2 * u(word, float32) - (1 - 2**-24) in float32: between -1 and 1, never either
    normal               z = erfinv(x) in float32, cast to D. factor = sqrt2 in D, times scale in D if one is given.
                         factor * z in D; loc + that in D if a loc is given. sqrt2 is 1.4142135381698608 in D
                         (float64: 1.4142135623730951)
                         complex64: two words per sample, erfinv(x0) + i * erfinv(x1), no factor; times scale; plus loc
    truncated_normal     s = sqrt2 in D; a = erf(lower / s), b = erf(upper / s) in D; v = uniform(a, b) in D;
                         max(min(s * erfinv(v), upper), lower) in D
    gumbel               -log(-log(uniform(0, 1))), each in D
    laplace              x in float32; sign(x) * log1p(-abs(x)) in float32 (float64: in float64), cast to D; times scale
                         in D if scale != 1; plus loc in D if loc != 0
    categorical          argmax along the axis of gumbel + logits, in float32 (the promotion of float32 with the
                         logits). The noise has the logits' shape. num_samples: one more axis of that extent at the end,
                         which the logits gain too. shape: its axes that broadcast come in front, and the category axis
                         is put back in its place counted from the end. uint32
    permutation(n)       argsort(bits(key, [n])), stable: uint32
    permutation(x, axis) take(x, permutation(x.shape[axis]), axis)
    multivariate_normal  mean + normal(shape + [n]) @ (U * sqrt(S)) @ V with U, S, V = svd(cov); float32
"""
from __future__ import annotations

import statistics

import numpy as np

SQRT2 = np.float32(1.4142135381698608)
LARGEST = {"float32": np.float32(1 - 2**-24), "float16": np.float32(1 - 2**-11), "bfloat16": np.float32(1 - 2**-8)}


def threefry(key, first, second):
    """Encrypt the counters (first[i], second[i]) with Threefry-2x32, 20 rounds."""
    keys = [np.uint32(key[0]), np.uint32(key[1])]
    keys.append(keys[0] ^ keys[1] ^ np.uint32(0x1BD11BDA))
    with np.errstate(over="ignore"):
        x = np.asarray(first, np.uint32) + keys[0]
        y = np.asarray(second, np.uint32) + keys[1]
        for group in range(5):
            for by in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
                x = x + y
                y = ((y << np.uint32(by)) | (y >> np.uint32(32 - by))) ^ x
            x = x + keys[(group + 1) % 3]
            y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def key(seed):
    return np.array([(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)


def bits(key, shape, width=4):
    """Random unsigned integers of `width` bytes."""
    dtype = {1: np.uint8, 2: np.uint16, 4: np.uint32}[width]
    count = int(np.prod(shape, dtype=np.int64))
    words = (count * width + 3) // 4
    half, odd = divmod(words, 2)
    i = np.arange(half, dtype=np.uint32)
    first, second = threefry(key, i, i + np.uint32(half + odd))
    middle = threefry(key, np.array([half], np.uint32), np.array([0], np.uint32))[0][:odd]
    stream = np.concatenate([first, middle, second]).astype("<u4")
    return stream.view(np.uint8)[: count * width].view(dtype).reshape(shape)


def split(key, num=2):
    return bits(key, (num, 2))


def rounded(x, dtype):
    """x in float32, rounded to the values of a dtype (bfloat16 stays in float32: NumPy has none)."""
    x = np.asarray(x, np.float32)
    if dtype == "bfloat16":
        word = x.view(np.uint32)
        word = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return word.view(np.float32)
    return x.astype(dtype).astype(np.float32)


def unit(word, dtype="float32"):
    return rounded(np.minimum(word.astype(np.float32) * np.float32(2**-32), LARGEST[dtype]), dtype)


def uniform(key, low=0.0, high=1.0, shape=(), dtype="float32"):
    low, high = rounded(low, dtype), rounded(high, dtype)
    width = rounded(high - low, dtype)
    return rounded(rounded(width * unit(bits(key, shape), dtype), dtype) + low, dtype)


def randint(key, low, high, shape=(), dtype="int32"):
    drawn = np.floor(uniform(key, low, high, shape)).astype(dtype)
    return np.maximum(np.minimum(drawn, np.asarray(high - 1).astype(dtype)), np.asarray(low).astype(dtype))


def bernoulli(key, p=0.5, shape=()):
    return bits(key, shape).astype(np.float32) < np.float32(p) * np.float32(4294967808.0)


def symmetric(word):
    return np.float32(2) * unit(word) - LARGEST["float32"]


def erfinv(x):
    quantile = statistics.NormalDist(0.0, np.sqrt(0.5)).inv_cdf
    x = np.asarray(x, np.float64)
    return np.array([quantile((1 + v) / 2) for v in x.ravel()], np.float32).reshape(x.shape)


def normal(key, shape=(), dtype="float32", loc=None, scale=None):
    if dtype == "complex64":
        z = erfinv(symmetric(bits(key, (*shape, 2))))
        return (z[..., 0] + 1j * z[..., 1]) * np.float32(1 if scale is None else scale) + np.float32(loc or 0)
    factor = rounded(SQRT2, dtype)
    if scale is not None:
        factor = rounded(factor * rounded(scale, dtype), dtype)
    sample = rounded(factor * rounded(erfinv(symmetric(bits(key, shape))), dtype), dtype)
    return sample if loc is None else rounded(rounded(loc, dtype) + sample, dtype)


def gumbel(key, shape=(), dtype="float32"):
    with np.errstate(divide="ignore"):
        inner = rounded(np.log(uniform(key, 0, 1, shape, dtype).astype(np.float64)), dtype)
        return -rounded(np.log(-inner.astype(np.float64)), dtype)


def laplace(key, shape=(), dtype="float32", loc=0.0, scale=1.0):
    x = symmetric(bits(key, shape))
    sample = rounded(np.sign(x) * np.log1p(-np.abs(x).astype(np.float64)).astype(np.float32), dtype)
    if scale != 1:
        sample = rounded(rounded(scale, dtype) * sample, dtype)
    return sample if loc == 0 else rounded(rounded(loc, dtype) + sample, dtype)


def categorical(key, logits, axis=-1, num_samples=None):
    """For float32 logits."""
    axis %= logits.ndim
    shape = logits.shape if num_samples is None else (*logits.shape, num_samples)
    logits = logits if num_samples is None else logits[..., None]
    return np.argmax(gumbel(key, shape) + logits, axis=axis).astype(np.uint32)


def permutation(key, n):
    return np.argsort(bits(key, (n,)), kind="stable").astype(np.uint32)
