"""Embedding: rows of a table by integer."""

from __future__ import annotations

import math

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.nn.layers.quantized import QuantizedEmbedding
from mlxr.nn.module import Module

__all__ = ["Embedding"]


class Embedding(Module):
    r"""Return the row of a table for every integer of the input.

    Parameters
    ----------
    num_embeddings
        Rows of ``weight``.
    dims
        Columns of ``weight``.

    Notes
    -----
    The table starts normally distributed with the standard deviation :math:`1 / \sqrt{\text{dims}}`.
    """

    def __init__(self, num_embeddings: int, dims: int) -> None:
        super().__init__()
        self.weight = mx.random.normal((num_embeddings, dims), scale=math.sqrt(1 / dims))

    def _extra_repr(self) -> str:
        num_embeddings, dims = self.weight.shape
        return f"{num_embeddings}, {dims}"

    def __call__(self, x: mx.array) -> mx.array:
        return self["weight"][x]

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the products of `x` and every row: the table as the weight of a linear layer without bias."""
        return x @ self["weight"].T

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,
    ) -> QuantizedEmbedding:
        """Return a `QuantizedEmbedding` of this layer.

        Raises
        ------
        InvalidValueError
            If `quantize_input`: the input is integers.
        """
        if quantize_input:
            raise InvalidValueError("the input of an embedding cannot be quantized", quantize_input=quantize_input)
        return QuantizedEmbedding.from_embedding(self, group_size, bits, mode)
