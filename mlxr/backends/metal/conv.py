"""Launch plan of convolution.

Mirrors metal/kernels/conv.metal, whose comments say how memory is walked. Sees layouts, never storages.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from mlxr.backends.metal.launch import SIMD, Launch, ceil_div, lowest, plan, refuse
from mlxr.backends.metal.operands import dtype_constants, require
from mlxr.core.tensor import Tensor

EDGE, THREADS = 32, 4 * SIMD
SPATIAL = 3
DTYPE, FLIP = 0, 3

Tensors = tuple[Tensor, ...]
Params = tuple[Any, ...]


def _padded(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """One number for each of the SPATIAL axes: those that are not there come first."""
    return (fill,) * (SPATIAL - len(values)) + tuple(values)


@plan("conv")
def _conv(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    (x, w), (out,) = inputs, outputs
    stride, padding, dilation, spacing, groups, flip, extents = params
    require("conv", (x, w, out))
    if len(extents) > SPATIAL:
        raise refuse("conv", f"the Metal backend has at most {SPATIAL} spatial axes, not {len(extents)}", inputs)
    if not out.size:
        return []
    # An operand without elements has no memory, and nothing is read of it.
    bound_x, x_start = lowest("conv", x, x.shape, x.strides) if x.size else (out, 0)
    bound_w, w_start = lowest("conv", w, w.shape, w.strides) if w.size else (out, 0)
    taps, channels = w.shape[1:-1], w.shape[-1]
    size = [(extent - 1) * step + 1 if extent else 0 for extent, step in zip(x.shape[1:-1], spacing, strict=True)]
    rows, columns = x.shape[0] * math.prod(extents), w.shape[0] // groups
    packed = struct.pack(
        "<12q26I", x_start, x.strides[0], *_padded(x.strides[1:-1], 0), x.strides[-1],
        w_start, w.strides[0], *_padded(w.strides[1:-1], 0), w.strides[-1],
        *_padded(size, 1), *_padded(taps, 1), *_padded(extents, 1), *_padded(stride, 1),
        *(p % 2**32 for p in _padded(padding, 0)), *_padded(dilation, 1), *_padded(spacing, 1),
        rows, channels, columns, groups, math.prod(taps) * channels,
    )
    constants = (*dtype_constants(DTYPE, (x, w, out)), (FLIP, "bool", flip))
    return [Launch("conv", "conv", constants, (bound_x, bound_w, out, packed),
                   (ceil_div(columns, EDGE), ceil_div(rows, EDGE), groups), (THREADS, 1, 1))]
