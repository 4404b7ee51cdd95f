"""Attention and the encoder-decoder transformer made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.nn.layers.activations import relu
from mlxr.nn.layers.dropout import Dropout
from mlxr.nn.layers.linear import Linear
from mlxr.nn.layers.normalization import LayerNorm
from mlxr.nn.module import Module
from mlxr.nn.utils import checkpoint as checkpointed

__all__ = [
    "MultiHeadAttention",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]

Activation = Callable[[mx.array], mx.array]


class MultiHeadAttention(Module):
    """Scaled dot product attention in several heads, between linear projections.

    Parameters
    ----------
    dims
        Size of all heads together.
    num_heads
        How many heads there are; a divisor of `dims`.
    query_input_dims, key_input_dims
        Sizes of the inputs; by default `dims`.
    value_input_dims
        Size of the input of the values; by default that of the keys.
    value_dims
        Size of the values of all heads together; by default `dims`.
    value_output_dims
        Size of the output; by default `dims`.
    bias
        Whether the projections have biases.

    Raises
    ------
    InvalidValueError
        If `dims` is no multiple of `num_heads`.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        query_input_dims: int | None = None,
        key_input_dims: int | None = None,
        value_input_dims: int | None = None,
        value_dims: int | None = None,
        value_output_dims: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if dims % num_heads:
            raise InvalidValueError(
                f"dims must be a multiple of num_heads={num_heads}, not {dims}", dims=dims, num_heads=num_heads
            )
        key_input_dims = key_input_dims or dims
        value_dims = value_dims or dims
        self.num_heads = num_heads
        self.query_proj = Linear(query_input_dims or dims, dims, bias=bias)
        self.key_proj = Linear(key_input_dims, dims, bias=bias)
        self.value_proj = Linear(value_input_dims or key_input_dims, value_dims, bias=bias)
        self.out_proj = Linear(value_dims, value_output_dims or dims, bias=bias)

    def __call__(
        self, queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None = None
    ) -> mx.array:
        q = self._heads(self["query_proj"](queries))
        k = self._heads(self["key_proj"](keys))
        v = self._heads(self["value_proj"](values))
        attended = mx.fast.scaled_dot_product_attention(q, k, v, scale=math.sqrt(1 / q.shape[-1]), mask=mask)
        return self["out_proj"](attended.transpose(0, 2, 1, 3).flatten(-2, -1))

    def _heads(self, x: mx.array) -> mx.array:
        """Return ``(N, L, heads * D)`` as ``(N, heads, L, D)``."""
        return x.reshape(*x.shape[:-1], self.num_heads, -1).transpose(0, 2, 1, 3)

    @staticmethod
    def create_additive_causal_mask(N: int, dtype: mx.Dtype = mx.float32) -> mx.array:
        """Return an ``(N, N)`` mask that, added to scores, hides from each position those after it."""
        positions = mx.arange(N)
        return (positions[:, None] < positions).astype(dtype) * mx.finfo(dtype).min


class _FeedForward(Module):
    """What encoder and decoder layers share: the two linear maps, and the two places for a normalization."""

    def __init__(self, activation: Activation, norm_first: bool) -> None:
        super().__init__()
        self.activation = activation
        self.norm_first = norm_first

    def _residual(self, x: mx.array, norm: Module, branch: Activation) -> mx.array:
        """Add what `branch` makes of `x`; normalize the input of the branch, or else the sum."""
        if self.norm_first:
            return x + branch(norm(x))
        return norm(x + branch(x))

    def _mlp(self, x: mx.array, dropout: Module) -> mx.array:
        return self["linear2"](dropout(self.activation(self["linear1"](x))))


class TransformerEncoderLayer(_FeedForward):
    """Self attention and two linear maps, each added to its input.

    Parameters
    ----------
    dims
        Size of the input and the output.
    num_heads
        How many heads the attention has.
    mlp_dims
        Size between the two linear maps; by default ``4 * dims``.
    dropout
        Probability of `Dropout`, after the attention and between the linear maps.
    activation
        Between the linear maps.
    norm_first
        Whether inputs are normalized; otherwise the sums are.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        mlp_dims: int | None = None,
        dropout: float = 0.0,
        activation: Activation = relu,
        norm_first: bool = True,
    ) -> None:
        super().__init__(activation, norm_first)
        mlp_dims = mlp_dims or dims * 4
        self.attention = MultiHeadAttention(dims, num_heads)
        self.ln1 = LayerNorm(dims)
        self.ln2 = LayerNorm(dims)
        self.linear1 = Linear(dims, mlp_dims)
        self.linear2 = Linear(mlp_dims, dims)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)

    def __call__(self, x: mx.array, mask: mx.array | str | None) -> mx.array:
        x = self._residual(x, self["ln1"], lambda y: self["dropout1"](self["attention"](y, y, y, mask)))
        return self._residual(x, self["ln2"], lambda y: self._mlp(y, self["dropout2"]))


class TransformerDecoderLayer(_FeedForward):
    """Self attention, attention to a memory, and two linear maps, each added to its input.

    Parameters
    ----------
    dims, num_heads, mlp_dims, dropout, activation, norm_first
        As of `TransformerEncoderLayer`.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        mlp_dims: int | None = None,
        dropout: float = 0.0,
        activation: Activation = relu,
        norm_first: bool = True,
    ) -> None:
        super().__init__(activation, norm_first)
        mlp_dims = mlp_dims or dims * 4
        self.self_attention = MultiHeadAttention(dims, num_heads)
        self.cross_attention = MultiHeadAttention(dims, num_heads)
        self.ln1 = LayerNorm(dims)
        self.ln2 = LayerNorm(dims)
        self.ln3 = LayerNorm(dims)
        self.linear1 = Linear(dims, mlp_dims)
        self.linear2 = Linear(mlp_dims, dims)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)

    def __call__(
        self,
        x: mx.array,
        memory: mx.array,
        x_mask: mx.array | str | None,
        memory_mask: mx.array | str | None,
    ) -> mx.array:
        x = self._residual(x, self["ln1"], lambda y: self["dropout1"](self["self_attention"](y, y, y, x_mask)))
        x = self._residual(
            x, self["ln2"], lambda y: self["dropout2"](self["cross_attention"](y, memory, memory, memory_mask))
        )
        return self._residual(x, self["ln3"], lambda y: self._mlp(y, self["dropout3"]))


class _Stack(Module):
    """Layers one after the other, with a normalization at the end."""

    def __init__(self, layers: list[Module], dims: int, checkpoint: bool) -> None:
        super().__init__()
        self.layers = layers
        self.ln = LayerNorm(dims)
        self.checkpoint = checkpoint

    def __call__(self, x: mx.array, *others: Any) -> mx.array:
        for layer in self["layers"]:
            x = (checkpointed(layer) if self.checkpoint else layer)(x, *others)
        return self["ln"](x)


class TransformerEncoder(_Stack):
    """A stack of `TransformerEncoderLayer`, called with the input and its mask.

    Parameters
    ----------
    num_layers
        How many layers there are.
    dims, num_heads, mlp_dims, dropout, activation, norm_first
        As of `TransformerEncoderLayer`.
    checkpoint
        Whether layers are computed again for the gradients, to save memory.
    """

    def __init__(
        self,
        num_layers: int,
        dims: int,
        num_heads: int,
        mlp_dims: int | None = None,
        dropout: float = 0.0,
        activation: Activation = relu,
        norm_first: bool = True,
        checkpoint: bool = False,
    ) -> None:
        layers: list[Module] = [
            TransformerEncoderLayer(dims, num_heads, mlp_dims, dropout, activation, norm_first)
            for _ in range(num_layers)
        ]
        super().__init__(layers, dims, checkpoint)

    def __call__(self, x: mx.array, mask: mx.array | str | None) -> mx.array:
        return super().__call__(x, mask)


class TransformerDecoder(_Stack):
    """A stack of `TransformerDecoderLayer`, called with the input, the memory and a mask for each.

    Parameters
    ----------
    num_layers, dims, num_heads, mlp_dims, dropout, activation, norm_first, checkpoint
        As of `TransformerEncoder`.
    """

    def __init__(
        self,
        num_layers: int,
        dims: int,
        num_heads: int,
        mlp_dims: int | None = None,
        dropout: float = 0.0,
        activation: Activation = relu,
        norm_first: bool = True,
        checkpoint: bool = False,
    ) -> None:
        layers: list[Module] = [
            TransformerDecoderLayer(dims, num_heads, mlp_dims, dropout, activation, norm_first)
            for _ in range(num_layers)
        ]
        super().__init__(layers, dims, checkpoint)

    def __call__(
        self,
        x: mx.array,
        memory: mx.array,
        x_mask: mx.array | str | None,
        memory_mask: mx.array | str | None,
    ) -> mx.array:
        return super().__call__(x, memory, x_mask, memory_mask)


class Transformer(Module):
    """An encoder, and a decoder that attends to what it returns.

    Parameters
    ----------
    dims, num_heads, mlp_dims, dropout, activation, norm_first, checkpoint
        As of `TransformerEncoder`.
    num_encoder_layers, num_decoder_layers
        How many layers there are.
    custom_encoder, custom_decoder
        Modules in the place of the standard ones.
    """

    def __init__(
        self,
        dims: int = 512,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        mlp_dims: int | None = None,
        dropout: float = 0.0,
        activation: Activation = relu,
        custom_encoder: Any | None = None,
        custom_decoder: Any | None = None,
        norm_first: bool = True,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        shared = (dims, num_heads, mlp_dims, dropout, activation, norm_first, checkpoint)
        self.encoder = TransformerEncoder(num_encoder_layers, *shared) if custom_encoder is None else custom_encoder
        self.decoder = TransformerDecoder(num_decoder_layers, *shared) if custom_decoder is None else custom_decoder

    def __call__(
        self,
        src: mx.array,
        tgt: mx.array,
        src_mask: mx.array | str | None,
        tgt_mask: mx.array | str | None,
        memory_mask: mx.array | str | None,
    ) -> mx.array:
        return self.decoder(tgt, self.encoder(src, src_mask), tgt_mask, memory_mask)
