"""Upsample: images and signals in another size, by the nearest element or by interpolation.

Every mode is separable, so axes are resampled one after the other. Along one axis a mode is a list of taps: which
elements are read for every output element, and with which weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import mlxr as mx
from mlxr.errors import InvalidValueError, ShapeError
from mlxr.nn.module import Module

__all__ = ["Upsample", "upsample_cubic", "upsample_linear", "upsample_nearest"]

# Indices of elements, and weights (None for 1), each of the output's size along the axis.
Tap = tuple[mx.array, mx.array | None]
Taps = Callable[[int, float], list[Tap]]

# The free parameter of the cubic kernel: -0.75 is usual for images, -0.5 for antialiasing.
_CUBIC, _CUBIC_ANTIALIAS = -0.75, -0.5


def _positions(size: int, scale: float, align_corners: bool) -> mx.array:
    """Return where output elements lie between the input elements 0, 1, ..., ``size - 1``."""
    count = int(scale * size)
    outputs = mx.arange(count, dtype=mx.float32)
    if align_corners:  # first on first and last on last
        return outputs * ((size - 1) / max(count - 1, 1))
    step = 1 / scale
    return outputs * step - ((count - 1) * step - size + 1) / 2  # centre on centre


def _index(positions: mx.array, size: int) -> mx.array:
    return mx.clip(positions, 0, size - 1).astype(mx.uint32)


def _nearest_taps(size: int, scale: float) -> list[Tap]:
    count = int(scale * size)
    outputs = mx.arange(count, dtype=mx.float32)
    ratio = size / max(count, 1)
    positions = mx.round((outputs + 0.5) * ratio - 0.5) if count > size else outputs * ratio
    return [(positions.astype(mx.uint32), None)]


def _linear_taps(size: int, scale: float, *, align_corners: bool) -> list[Tap]:
    positions = mx.clip(_positions(size, scale, align_corners), 0, size - 1)
    left = mx.floor(positions)
    weight = positions - left
    return [(_index(left, size), 1 - weight), (_index(mx.ceil(positions), size), weight)]


def _cubic_taps(size: int, scale: float, *, align_corners: bool) -> list[Tap]:
    positions = _positions(size, scale, align_corners)
    left = mx.floor(positions)
    return [(_index(left + k, size), _cubic(mx.abs(positions - (left + k)), _CUBIC)) for k in (0, 1, -1, 2)]


def _antialias_taps(size: int, scale: float, *, kernel: Callable[[mx.array], mx.array], radius: float) -> list[Tap]:
    """Return taps that, where the output is smaller, reach as far as an output element is wide."""
    positions = _positions(size, scale, align_corners=False)
    width = max(1 / scale, 1.0)
    reach = math.ceil(radius * width)
    left = mx.floor(positions)
    taps = []
    for k in range(-reach, reach + 1):
        element = left + k
        weight = kernel(mx.abs(positions - element) / width)
        taps.append((element, mx.where((element >= 0) & (element < size), weight, 0.0)))
    total = sum(weight for _, weight in taps)
    total = mx.where(total > 0, total, 1.0)
    return [(_index(element, size), weight / total) for element, weight in taps]


def _triangle(distance: mx.array) -> mx.array:
    return mx.maximum(1.0 - distance, 0.0)


def _cubic(distance: mx.array, a: float) -> mx.array:
    """Return the cubic convolution kernel with the free parameter `a`."""
    near = ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return mx.where(distance <= 1.0, near, mx.where(distance <= 2.0, far, 0.0))


def _resample(x: mx.array, scale_factor: tuple[float, ...], taps: Taps) -> mx.array:
    if len(scale_factor) != x.ndim - 2:
        raise ShapeError(
            f"one scale per spatial axis is needed: {x.ndim - 2}, not {len(scale_factor)}", shapes=[x.shape]
        )
    for axis, scale in enumerate(scale_factor, start=1):
        along = (-1,) + (1,) * (x.ndim - axis - 1)
        parts = [
            mx.take(x, indices, axis=axis) if weight is None else mx.take(x, indices, axis=axis) * weight.reshape(along)
            for indices, weight in taps(x.shape[axis], scale)
        ]
        x = sum(parts[1:], start=parts[0])
    return x


def _check_antialias(align_corners: bool, antialias: bool) -> None:
    if antialias and align_corners:
        raise InvalidValueError(
            "antialias and align_corners exclude each other", antialias=antialias, align_corners=align_corners
        )


def upsample_nearest(x: mx.array, scale_factor: tuple[float, ...]) -> mx.array:
    """Resample ``(N, ..., C)`` by the nearest element; one scale per axis between."""
    return _resample(x, scale_factor, _nearest_taps)


def upsample_linear(
    x: mx.array, scale_factor: tuple[float, ...], align_corners: bool = False, antialias: bool = False
) -> mx.array:
    """Resample ``(N, ..., C)`` by linear interpolation; one scale per axis between."""
    _check_antialias(align_corners, antialias)
    if antialias:
        return _resample(x, scale_factor, partial(_antialias_taps, kernel=_triangle, radius=1.0))
    return _resample(x, scale_factor, partial(_linear_taps, align_corners=align_corners))


def upsample_cubic(
    x: mx.array, scale_factor: tuple[float, ...], align_corners: bool = False, antialias: bool = False
) -> mx.array:
    """Resample ``(N, ..., C)`` by cubic interpolation; one scale per axis between."""
    _check_antialias(align_corners, antialias)
    if antialias:
        kernel = partial(_cubic, a=_CUBIC_ANTIALIAS)
        return _resample(x, scale_factor, partial(_antialias_taps, kernel=kernel, radius=2.0))
    return _resample(x, scale_factor, partial(_cubic_taps, align_corners=align_corners))


class Upsample(Module):
    """Resample ``(N, ..., C)`` along the axes between.

    Parameters
    ----------
    scale_factor
        Output size over input size: one number, or one per axis.
    mode
        ``"nearest"``, ``"linear"`` or ``"cubic"``.
    align_corners
        Whether the centres of the corner elements stay where they are; by default the corners of the image do.
    antialias
        Whether, where the output is smaller, every output element is a mean over its width. Not with ``"nearest"`` or
        `align_corners`.

    Raises
    ------
    InvalidValueError
        If `mode` is something else or the options exclude each other.
    ShapeError
        When called with fewer than 3 dimensions, or other than one scale per axis.
    """

    def __init__(
        self,
        scale_factor: float | tuple[float, ...],
        mode: Literal["nearest", "linear", "cubic"] = "nearest",
        align_corners: bool = False,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        if mode not in ("nearest", "linear", "cubic"):
            raise InvalidValueError(f"mode must be 'nearest', 'linear' or 'cubic', not {mode!r}", mode=mode)
        if antialias and mode == "nearest":
            raise InvalidValueError("antialias is not for the mode 'nearest'", antialias=antialias, mode=mode)
        _check_antialias(align_corners, antialias)
        self.scale_factor = (
            tuple(map(float, scale_factor)) if isinstance(scale_factor, (tuple, list)) else float(scale_factor)
        )
        self.mode = mode
        self.align_corners = align_corners
        self.antialias = antialias

    def _extra_repr(self) -> str:
        text = f"scale_factor={self.scale_factor}, mode={self.mode!r}, align_corners={self.align_corners}"
        return f"{text}, antialias=True" if self.antialias else text

    def __call__(self, x: mx.array) -> mx.array:
        if x.ndim < 3:
            raise ShapeError(f"Upsample takes at least 3 dimensions (N, ..., C), not {x.ndim}", shapes=[x.shape])
        scale = self.scale_factor
        scales = scale if isinstance(scale, tuple) else (scale,) * (x.ndim - 2)
        if self.mode == "nearest":
            return upsample_nearest(x, scales)
        interpolate = upsample_linear if self.mode == "linear" else upsample_cubic
        return interpolate(x, scales, self.align_corners, self.antialias)
