"""Launch plans of the random primitives: one word of Threefry, or two, for each element."""

from __future__ import annotations

import struct
from typing import Any

from mlxr.backends.metal.launch import (
    MAX_ELEMENTS,
    Launch,
    ceil_div,
    check_dtypes,
    check_size,
    layout,
    lowest,
    plan,
    refuse,
    strided,
)
from mlxr.core import dtype
from mlxr.core.tensor import Tensor

# In the order of the enum in metal/kernels/random.metal.
BITS, UNIFORM, NORMAL, BERNOULLI = range(4)
GROUP = 256
FLOATS = {dtype.float32, dtype.float16, dtype.bfloat16}


def _launches(
    op: str, sample: int, keys: Tensor, out: Tensor, offset: float = 0.0, factor: float = 0.0, words_per: int = 1
) -> list[Launch]:
    """Return the launch that fills `out`, each key an equal share; `words_per` words go into an element."""
    count = keys.size // 2
    if not out.size or not count:
        return []
    check_size(op, (keys, out))
    elements = out.size // count
    words = ceil_div(elements * out.itemsize, 4) if sample == BITS else elements * words_per
    if words >= MAX_ELEMENTS:
        raise refuse(op, f"Metal kernels count words in 32 bits; here are {words} of one key", (keys, out))
    space = layout(keys.shape, keys)
    argument, start = lowest(op, keys, space.shape, space.strides[0])
    packed = struct.pack("<2I2f", elements, words, offset, factor) + strided(space, (start,))
    constants = ((0, "uint", sample), (1, "uint", out.dtype.code))
    grid = (ceil_div(ceil_div(words, 2), GROUP), count, 1)
    return [Launch("random", "random", constants, (argument, out, packed), grid, (GROUP, 1, 1))]


@plan("random_bits")
def bits(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan raw bits into uint32, uint16 or uint8."""
    return _launches("random_bits", BITS, inputs[0], outputs[0])


@plan("random_uniform")
def uniform(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan samples between params[2] and params[3]."""
    check_dtypes("random_uniform", outputs, FLOATS)
    low, high = _float32(params[2]), _float32(params[3])
    return _launches("random_uniform", UNIFORM, inputs[0], outputs[0], low, high - low)


@plan("random_normal")
def normal(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan samples around params[2]; params[3] is the standard deviation, times the square root of 2 unless complex."""
    check_dtypes("random_normal", outputs, FLOATS | {dtype.complex64})
    words_per = 2 if outputs[0].dtype is dtype.complex64 else 1
    return _launches("random_normal", NORMAL, inputs[0], outputs[0], params[2], params[3], words_per)


@plan("random_bernoulli")
def bernoulli(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan booleans that are true where the word is below params[1]."""
    return _launches("random_bernoulli", BERNOULLI, inputs[0], outputs[0], 0.0, params[1])


def _float32(value: float) -> float:
    """Return the float32 nearest to a number."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
