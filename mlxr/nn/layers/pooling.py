"""Pooling: the largest element or the mean of windows. Channels are the last axis.

A window is a strided view of the input, so pooling is a reduction over the axes that the view adds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import mlxr as mx
from mlxr.errors import InvalidValueError, ShapeError
from mlxr.nn.module import Module

__all__ = ["AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d"]

Size = int | tuple[int, ...]


class _Pool(Module):
    """Pooling over ``_rank`` axes by ``_reduce``; padding has the value ``_padding_value``."""

    _rank: int
    _reduce: Callable[..., mx.array]
    _padding_value: float

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self._window = _Window(
            self._sizes("kernel_size", kernel_size, 1),
            self._sizes("stride", kernel_size if stride is None else stride, 1),
            self._sizes("padding", padding, 0),
        )

    def _sizes(self, name: str, value: Size, least: int) -> tuple[int, ...]:
        """Return one number per axis."""
        sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,) * self._rank
        if len(sizes) != self._rank or not all(isinstance(size, int) for size in sizes):
            raise InvalidValueError(
                f"{name} of {type(self).__name__} must be an integer or {self._rank} of them, not {value!r}",
                **{name: value},
            )
        if min(sizes) < least:
            raise InvalidValueError(
                f"{name} of {type(self).__name__} must be at least {least}, not {value!r}", **{name: value}
            )
        return sizes

    def _extra_repr(self) -> str:
        window = self._window
        return f"kernel_size={window.kernel_size}, stride={window.stride}, padding={window.padding}"

    def __call__(self, x: mx.array) -> mx.array:
        window = self._window
        if x.ndim != self._rank + 2:
            raise ShapeError(
                f"{type(self).__name__} takes {self._rank + 2} dimensions (N, ..., C), not {x.ndim}", shapes=[x.shape]
            )
        if any(window.padding):
            x = mx.pad(x, [(0, 0), *((p, p) for p in window.padding), (0, 0)], constant_values=self._padding_value)
        return type(self)._reduce(window.view(x), axis=tuple(range(-self._rank - 1, -1)))


class _Window:
    """Where windows lie."""

    def __init__(self, kernel_size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> None:
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding

    def view(self, x: mx.array) -> mx.array:
        """Return ``(N, *positions, *kernel_size, C)`` of ``(N, *sizes, C)``."""
        batch, *sizes, channels = x.shape
        if any(size < kernel for size, kernel in zip(sizes, self.kernel_size, strict=True)):
            raise ShapeError(f"windows of {self.kernel_size} do not fit {tuple(sizes)}", shapes=[x.shape])
        steps = [prod(x.shape[axis + 2 :]) for axis in range(len(sizes))]
        positions = [
            (size - kernel) // stride + 1
            for size, kernel, stride in zip(sizes, self.kernel_size, self.stride, strict=True)
        ]
        between = [step * stride for step, stride in zip(steps, self.stride, strict=True)]
        return mx.as_strided(
            x, (batch, *positions, *self.kernel_size, channels), (prod(x.shape[1:]), *between, *steps, 1)
        )


class _MaxPool(_Pool):
    _reduce = staticmethod(mx.max)
    _padding_value = -float("inf")


class _AvgPool(_Pool):
    _reduce = staticmethod(mx.mean)
    _padding_value = 0


class MaxPool1d(_MaxPool):
    """The largest element of windows of ``(N, L, C)``.

    Parameters
    ----------
    kernel_size
        Size of a window.
    stride
        From window to window; by default `kernel_size`.
    padding
        How many elements of negative infinity are added at both ends.

    Raises
    ------
    InvalidValueError
        If a number is out of range or there are too many.
    """

    _rank = 1


class MaxPool2d(_MaxPool):
    """The largest element of windows of ``(N, H, W, C)``; parameters as of `MaxPool1d`, of 1 or 2 numbers."""

    _rank = 2


class MaxPool3d(_MaxPool):
    """The largest element of windows of ``(N, D, H, W, C)``; parameters as of `MaxPool1d`, of 1 or 3 numbers."""

    _rank = 3


class AvgPool1d(_AvgPool):
    """The mean of windows of ``(N, L, C)``.

    Parameters
    ----------
    kernel_size
        Size of a window.
    stride
        From window to window; by default `kernel_size`.
    padding
        How many zeros are added at both ends; they count in the mean.

    Raises
    ------
    InvalidValueError
        If a number is out of range or there are too many.
    """

    _rank = 1


class AvgPool2d(_AvgPool):
    """The mean of windows of ``(N, H, W, C)``; parameters as of `AvgPool1d`, of 1 or 2 numbers."""

    _rank = 2


class AvgPool3d(_AvgPool):
    """The mean of windows of ``(N, D, H, W, C)``; parameters as of `AvgPool1d`, of 1 or 3 numbers."""

    _rank = 3
