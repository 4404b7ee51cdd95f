"""Convolution against the CPU backend."""

from __future__ import annotations

import numpy as np
import pytest
from metal_launches import check, tensor

import mlxr as mx

FLOATS = (mx.float32, mx.float16, mx.bfloat16)


def extent(size, taps, stride, padding, dilation, spacing):
    """Positions of a convolution with the same padding on both sides."""
    return ((size - 1) * spacing + 1 + 2 * padding - dilation * (taps - 1) - 1) // stride + 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions(dtype, axes):
    rng = np.random.default_rng(axes)
    for groups, stride, padding, dilation, spacing, flip in (
        (1, 1, 0, 1, 1, False), (1, 2, 1, 1, 1, True), (2, 1, 2, 2, 1, False), (4, 3, 1, 1, 2, True),
        (1, 1, -1, 1, 3, False),
    ):
        sizes, taps = (7, 5, 3)[:axes], (3, 2, 1)[:axes]
        x, w = tensor(rng, (2, *sizes, 8), dtype), tensor(rng, (36 if axes == 1 else 4, *taps, 8 // groups), dtype)
        extents = tuple(extent(s, t, stride, padding, dilation, spacing) for s, t in zip(sizes, taps, strict=True))
        several = tuple((n,) * axes for n in (stride, padding, dilation, spacing))
        check("conv", (x, w), (*several, groups, flip, extents), ulps=12, scale=4.0)


def test_layouts():
    rng = np.random.default_rng(0)
    x = tensor(rng, (3, 6, 2, 7)).transpose(2, 3, 1, 0)[:, ::-1]
    w = tensor(rng, (3, 2, 5, 3)).transpose(2, 3, 1, 0)[::-1]
    check("conv", (x, w), ((1, 1), (0, 0), (1, 1), (1, 1), 1, False, (5, 5)), ulps=12, scale=4.0)


def test_no_channels_give_zeros():
    check("conv", (mx.ones((1, 4, 0)), mx.ones((2, 3, 0))), ((1,), (0,), (1,), (1,), 1, False, (2,)))
