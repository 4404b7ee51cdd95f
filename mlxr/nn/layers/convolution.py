"""Convolution layers. Channels are the last axis of inputs; weights are ``(out, *kernel_size, in)``."""

from __future__ import annotations

import math

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.nn.module import Module

__all__ = ["Conv1d", "Conv2d", "Conv3d"]

Size2 = int | tuple[int, int]
Size3 = int | tuple[int, int, int]


def pair(size: Size2) -> tuple[int, int]:
    """Return `size` for each of two axes."""
    first, second = (size, size) if isinstance(size, int) else size
    return first, second


def triple(size: Size3) -> tuple[int, int, int]:
    """Return `size` for each of three axes."""
    first, second, third = (size, size, size) if isinstance(size, int) else size
    return first, second, third


class ConvBase(Module):
    """What convolutions and transposed convolutions of any rank share: parameters, their start, and printing."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, ...], bias: bool, groups: int = 1
    ) -> None:
        super().__init__()
        if in_channels % groups:
            raise InvalidValueError(
                f"in_channels must be a multiple of groups={groups}, not {in_channels}",
                in_channels=in_channels,
                groups=groups,
            )
        group_channels = in_channels // groups
        limit = math.sqrt(1 / (group_channels * math.prod(kernel_size)))
        self.weight = mx.random.uniform(-limit, limit, (out_channels, *kernel_size, group_channels))
        if bias:
            self.bias = mx.zeros((out_channels,))

    def _describe(self, *options: str, groups: int = 1) -> str:
        out_channels, *kernel_size, group_channels = self.weight.shape
        kernel = kernel_size[0] if len(kernel_size) == 1 else tuple(kernel_size)
        values = "".join(f"{name}={getattr(self, name)}, " for name in options)
        return f"{group_channels * groups}, {out_channels}, kernel_size={kernel}, {values}bias={'bias' in self}"

    def _add_bias(self, y: mx.array) -> mx.array:
        return y + self["bias"] if "bias" in self else y


class Conv1d(ConvBase):
    """Convolution of ``(N, L, C)``.

    Parameters
    ----------
    in_channels, out_channels
        Sizes of the last axis of input and output.
    kernel_size
        Size of the window.
    stride
        From window to window.
    padding
        How many zeros are added at both ends.
    dilation
        From element to element of a window.
    groups
        Into how many groups, with weights of their own, the channels are divided.
    bias
        Whether ``bias`` is added.

    Raises
    ------
    InvalidValueError
        If `in_channels` is no multiple of `groups`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, (kernel_size,), bias, groups)
        self.padding = padding
        self.dilation = dilation
        self.stride = stride
        self.groups = groups

    def _extra_repr(self) -> str:
        return self._describe("stride", "padding", "dilation", "groups", groups=self.groups)

    def __call__(self, x: mx.array) -> mx.array:
        y = mx.conv1d(x, self["weight"], self.stride, self.padding, self.dilation, self.groups)
        return self._add_bias(y)


class Conv2d(ConvBase):
    """Convolution of ``(N, H, W, C)``.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        As of `Conv1d`; sizes are one number or two.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, pair(kernel_size), bias, groups)
        self.padding = pair(padding)
        self.stride = pair(stride)
        self.dilation = dilation
        self.groups = groups

    def _extra_repr(self) -> str:
        return self._describe("stride", "padding", "dilation", "groups", groups=self.groups)

    def __call__(self, x: mx.array) -> mx.array:
        y = mx.conv2d(x, self["weight"], self.stride, self.padding, self.dilation, self.groups)
        return self._add_bias(y)


class Conv3d(ConvBase):
    """Convolution of ``(N, D, H, W, C)``.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, bias
        As of `Conv1d`; sizes are one number or three.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        dilation: Size3 = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, triple(kernel_size), bias)
        self.padding = triple(padding)
        self.stride = triple(stride)
        self.dilation = dilation

    def _extra_repr(self) -> str:
        return self._describe("stride", "padding", "dilation")

    def __call__(self, x: mx.array) -> mx.array:
        return self._add_bias(mx.conv3d(x, self["weight"], self.stride, self.padding, self.dilation))
