"""Linear maps of the last axis: Identity, Linear, Bilinear."""

from __future__ import annotations

import math
from typing import Any

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.nn.layers.quantized import QQLinear, QuantizedLinear
from mlxr.nn.module import Module

__all__ = ["Bilinear", "Identity", "Linear"]


class Identity(Module):
    """Return the input, whatever arguments the layer was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __call__(self, x: mx.array) -> mx.array:
        return x


class Linear(Module):
    r"""Return :math:`x W^\top + b`.

    Parameters
    ----------
    input_dims, output_dims
        Sizes of the last axis of input and output. ``weight`` has the shape ``(output_dims, input_dims)``.
    bias
        Whether ``bias`` is added.

    Notes
    -----
    Parameters start uniformly distributed within :math:`\pm 1 / \sqrt{\text{input\_dims}}`.
    """

    def __init__(self, input_dims: int, output_dims: int, bias: bool = True) -> None:
        super().__init__()
        limit = math.sqrt(1.0 / input_dims)
        self.weight = mx.random.uniform(-limit, limit, (output_dims, input_dims))
        if bias:
            self.bias = mx.random.uniform(-limit, limit, (output_dims,))

    def _extra_repr(self) -> str:
        output_dims, input_dims = self.weight.shape
        return f"input_dims={input_dims}, output_dims={output_dims}, bias={'bias' in self}"

    def __call__(self, x: mx.array) -> mx.array:
        if "bias" in self:
            return mx.addmm(self["bias"], x, self["weight"].T)
        return x @ self["weight"].T

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,
    ) -> Module:
        """Return a `QuantizedLinear` of this layer, or a `QQLinear` where the input is quantized too.

        Raises
        ------
        InvalidValueError
            If `quantize_input` and `mode` is neither ``"nvfp4"`` nor ``"mxfp8"``.
        """
        if not quantize_input:
            return QuantizedLinear.from_linear(self, group_size, bits, mode)
        if mode not in ("nvfp4", "mxfp8"):
            raise InvalidValueError(f"inputs are quantized in the modes nvfp4 and mxfp8, not {mode!r}", mode=mode)
        return QQLinear.from_linear(self, group_size, bits, mode)


class Bilinear(Module):
    r"""Return :math:`y_o = x_1^\top W_o^\top x_2 + b_o` for every output feature `o`.

    Parameters
    ----------
    input1_dims, input2_dims, output_dims
        Sizes of the last axes. ``weight`` has the shape ``(output_dims, input2_dims, input1_dims)``.
    bias
        Whether ``bias`` is added.
    """

    def __init__(self, input1_dims: int, input2_dims: int, output_dims: int, bias: bool = True) -> None:
        super().__init__()
        limit = math.sqrt(1.0 / input1_dims)
        self.weight = mx.random.uniform(-limit, limit, (output_dims, input2_dims, input1_dims))
        if bias:
            self.bias = mx.random.uniform(-limit, limit, (output_dims,))

    def _extra_repr(self) -> str:
        output_dims, input2_dims, input1_dims = self.weight.shape
        return f"input1_dims={input1_dims}, input2_dims={input2_dims}, output_dims={output_dims}, bias={'bias' in self}"

    def __call__(self, x1: mx.array, x2: mx.array) -> mx.array:
        output_dims, input2_dims, input1_dims = self["weight"].shape
        # One GEMM over all rows contracts x1; what is left is a small matrix per row, which x2 contracts.
        rows = x1.reshape(-1, input1_dims) @ self["weight"].reshape(-1, input1_dims).T
        matrices = rows.reshape(-1, output_dims, input2_dims)
        y = (matrices @ x2.reshape(-1, input2_dims, 1)).reshape(*x1.shape[:-1], output_dims)
        return y + self["bias"] if "bias" in self else y
