"""Transposed convolution layers: the gradients of convolutions by their inputs, with weights of their own."""

from __future__ import annotations

import mlxr as mx
from mlxr.nn.layers.convolution import ConvBase, Size2, Size3, pair, triple

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _ConvTranspose(ConvBase):
    def _extra_repr(self) -> str:
        return self._describe("stride", "padding", "dilation", "output_padding")


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of ``(N, L, C)``.

    Parameters
    ----------
    in_channels, out_channels
        Sizes of the last axis of input and output.
    kernel_size
        Size of the window.
    stride
        From window to window of the output.
    padding
        How many elements are cut off at both ends of the output.
    dilation
        From element to element of a window.
    output_padding
        How many elements are added at the end of the output.
    bias
        Whether ``bias`` is added.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        output_padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, (kernel_size,), bias)
        self.padding = padding
        self.dilation = dilation
        self.stride = stride
        self.output_padding = output_padding

    def __call__(self, x: mx.array) -> mx.array:
        return self._add_bias(
            mx.conv_transpose1d(x, self["weight"], self.stride, self.padding, self.dilation, self.output_padding)
        )


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of ``(N, H, W, C)``.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, bias
        As of `ConvTranspose1d`; sizes are one number or two.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 = 0,
        dilation: Size2 = 1,
        output_padding: Size2 = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, pair(kernel_size), bias)
        self.padding = pair(padding)
        self.stride = pair(stride)
        self.dilation = dilation
        self.output_padding = pair(output_padding)

    def __call__(self, x: mx.array) -> mx.array:
        return self._add_bias(
            mx.conv_transpose2d(x, self["weight"], self.stride, self.padding, self.dilation, self.output_padding)
        )


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of ``(N, D, H, W, C)``.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, bias
        As of `ConvTranspose1d`; sizes are one number or three.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        dilation: Size3 = 1,
        output_padding: Size3 = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, triple(kernel_size), bias)
        self.padding = triple(padding)
        self.stride = triple(stride)
        self.dilation = dilation
        self.output_padding = triple(output_padding)

    def __call__(self, x: mx.array) -> mx.array:
        return self._add_bias(
            mx.conv_transpose3d(x, self["weight"], self.stride, self.padding, self.dilation, self.output_padding)
        )
