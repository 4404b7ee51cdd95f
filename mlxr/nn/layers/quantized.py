"""Quantized layers: weights kept in few bits, and `quantize`, which puts them in the place of others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlxr as mx
from mlxr.errors import InvalidValueError, UnsupportedOpError
from mlxr.nn.module import Module
from mlxr.utils import tree_map_with_path

__all__ = ["QQLinear", "QuantizedEmbedding", "QuantizedLinear", "quantize"]

# By mode: the sizes of a group and of a code that are taken where none is given.
_DEFAULTS = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}

Predicate = Callable[[str, Module], "bool | dict[str, Any]"]


def quantize(
    model: Module,
    group_size: int | None = None,
    bits: int | None = None,
    *,
    mode: str = "affine",
    quantize_input: bool = False,
    class_predicate: Predicate | None = None,
) -> None:
    """Replace layers of `model` by quantized ones.

    Parameters
    ----------
    model
        Changed in place.
    group_size
        How many weights share a scale; by default what the mode prescribes.
    bits
        The size of a weight; by default what the mode prescribes.
    mode
        ``"affine"``, ``"mxfp4"``, ``"nvfp4"`` or ``"mxfp8"``.
    quantize_input
        Whether the input is quantized too.
    class_predicate
        Called as ``class_predicate(path, module)``; says whether a layer is replaced, or returns the arguments of its
        ``to_quantized``. By default all layers that have this method are replaced.

    Raises
    ------
    InvalidValueError
        If the predicate selects a layer that has no ``to_quantized``, or returns something else.
    """
    arguments: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": mode}
    if quantize_input:
        arguments["quantize_input"] = True
    select = class_predicate or (lambda _, layer: hasattr(layer, "to_quantized"))

    def replace(path: str, layer: Module) -> Module:
        choice = select(path, layer)
        if not choice:
            return layer
        if not hasattr(layer, "to_quantized"):
            raise InvalidValueError(f"{path!r}, a {type(layer).__name__}, has no to_quantized", path=path)
        if isinstance(choice, bool):
            return layer.to_quantized(**arguments)
        if isinstance(choice, dict):
            # A layer without this argument takes the dict of one that has it, as long as it asks for nothing.
            chosen = {k: v for k, v in choice.items() if k != "quantize_input" or v}
            return layer.to_quantized(**chosen)
        raise InvalidValueError(
            f"class_predicate must return a bool or a dict, not a {type(choice).__name__}", path=path, choice=choice
        )

    model.update_modules(tree_map_with_path(replace, model.leaf_modules(), is_leaf=Module.is_module))


class _Quantized(Module):
    """What the layers share: ``weight`` (codes), ``scales`` and, in the affine mode, ``biases``."""

    def __init__(self, group_size: int | None, bits: int | None, mode: str) -> None:
        super().__init__()
        if mode not in _DEFAULTS:
            raise InvalidValueError(f"mode must be one of {list(_DEFAULTS)}, not {mode!r}", mode=mode)
        default_group_size, default_bits = _DEFAULTS[mode]
        self.group_size = group_size or default_group_size
        self.bits = bits or default_bits
        self.mode = mode

    def _format(self) -> dict[str, Any]:
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def _set_weight(self, weight: mx.array) -> None:
        self.weight, self.scales, *biases = mx.quantize(weight, **self._format())
        self.biases = biases[0] if biases else None

    def _times_weight(self, x: mx.array) -> mx.array:
        return mx.quantized_matmul(
            x, self["weight"], scales=self["scales"], biases=self.get("biases"), transpose=True, **self._format()
        )

    def _format_repr(self) -> str:
        return f"group_size={self.group_size}, bits={self.bits}, mode={self.mode}"


class QuantizedEmbedding(_Quantized):
    """An `Embedding` whose table is quantized, and frozen.

    Parameters
    ----------
    num_embeddings, dims
        As of `Embedding`.
    group_size, bits, mode
        As of `quantize`.
    """

    def __init__(
        self,
        num_embeddings: int,
        dims: int,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
    ) -> None:
        super().__init__(group_size, bits, mode)
        self.num_embeddings = num_embeddings
        self.dims = dims
        self._set_weight(mx.random.normal((num_embeddings, dims), scale=math.sqrt(1 / dims)))
        self.freeze()

    def _extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.dims}, {self._format_repr()}"

    def __call__(self, x: mx.array) -> mx.array:
        biases = self.get("biases")
        return mx.dequantize(
            self["weight"][x],
            scales=self["scales"][x],
            biases=None if biases is None else biases[x],
            **self._format(),
        )

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the products of `x` and every row of the table."""
        return self._times_weight(x)

    @classmethod
    def from_embedding(
        cls, embedding_layer: Module, group_size: int | None = None, bits: int | None = None, mode: str = "affine"
    ) -> QuantizedEmbedding:
        """Return a layer with the quantized table of `embedding_layer`."""
        num_embeddings, dims = embedding_layer.weight.shape
        layer = cls(num_embeddings, dims, group_size, bits, mode=mode)
        layer._set_weight(embedding_layer.weight)
        return layer


class QuantizedLinear(_Quantized):
    """A `Linear` whose weight is quantized, and frozen; the bias is not quantized.

    Parameters
    ----------
    input_dims, output_dims, bias
        As of `Linear`.
    group_size, bits, mode
        As of `quantize`.
    """

    def __init__(
        self,
        input_dims: int,
        output_dims: int,
        bias: bool = True,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
    ) -> None:
        super().__init__(group_size, bits, mode)
        limit = math.sqrt(1 / input_dims)
        self._set_weight(mx.random.uniform(-limit, limit, (output_dims, input_dims)))
        if bias:
            self.bias = mx.zeros((output_dims,))
        self.freeze()

    def _extra_repr(self) -> str:
        output_dims, words = self.weight.shape
        return (
            f"input_dims={words * 32 // self.bits}, output_dims={output_dims}, bias={'bias' in self}, "
            f"{self._format_repr()}"
        )

    def __call__(self, x: mx.array) -> mx.array:
        y = self._times_weight(x)
        return y + self["bias"] if "bias" in self else y

    @classmethod
    def from_linear(
        cls, linear_layer: Module, group_size: int | None = None, bits: int | None = None, mode: str = "affine"
    ) -> QuantizedLinear:
        """Return a layer with the quantized weight of `linear_layer`, and with its bias, which is not frozen."""
        output_dims, input_dims = linear_layer.weight.shape
        layer = cls(input_dims, output_dims, False, group_size, bits, mode=mode)
        layer._set_weight(linear_layer.weight)
        if "bias" in linear_layer:
            layer.bias = linear_layer.bias
        return layer


class QQLinear(_Quantized):
    """A linear layer without bias that quantizes its input and its weight.

    In training mode the weight is kept as it is and quantized in every call; in evaluation mode it is kept quantized.

    Parameters
    ----------
    input_dims, output_dims
        As of `Linear`.
    group_size, bits, mode
        As of `quantize`.
    """

    def __init__(
        self,
        input_dims: int,
        output_dims: int,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "nvfp4",
    ) -> None:
        super().__init__(group_size, bits, mode)
        limit = math.sqrt(1 / input_dims)
        self.weight = mx.random.uniform(-limit, limit, (output_dims, input_dims))
        self._quantized = False

    def _extra_repr(self) -> str:
        output_dims, input_dims = self.weight.shape
        if self._quantized:
            input_dims = input_dims * 32 // self.bits
        return f"input_dims={input_dims}, output_dims={output_dims}, {self._format_repr()}"

    def __call__(self, x: mx.array) -> mx.array:
        return mx.qqmm(  # type: ignore[attr-defined]
            x, self["weight"], scales=self.get("scales"), **self._format()
        )

    def quantize(self) -> None:
        """Quantize the weight, unless it is."""
        if not self._quantized:
            self._set_weight(self.weight)
            self._quantized = True

    def dequantize(self) -> None:
        """Put the nearest floating weight in the place of the quantized one, unless it is not quantized."""
        if self._quantized:
            self.weight = mx.dequantize(self.weight, scales=self.scales, **self._format())
            del self.scales
            self._quantized = False

    def _set_training_mode(self, mode: bool) -> None:
        if mode:
            self.dequantize()
        else:
            self.quantize()
        super()._set_training_mode(mode)

    @classmethod
    def from_linear(
        cls, linear_layer: Module, group_size: int | None = None, bits: int | None = None, mode: str = "nvfp4"
    ) -> QQLinear:
        """Return a layer with the weight and the mode of `linear_layer`.

        Raises
        ------
        UnsupportedOpError
            If `linear_layer` has a bias.
        """
        if linear_layer.get("bias") is not None:
            raise UnsupportedOpError("QQLinear has no bias, and the linear layer has one", op="QQLinear")
        output_dims, input_dims = linear_layer.weight.shape
        layer = cls(input_dims, output_dims, group_size, bits, mode)
        layer.weight = linear_layer.weight
        layer.train(linear_layer.training)
        return layer
