"""Encodings of positions: RoPE, SinusoidalPositionalEncoding, ALiBi."""

from __future__ import annotations

import math

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.nn.module import Module

__all__ = ["ALiBi", "RoPE", "SinusoidalPositionalEncoding"]


class RoPE(Module):
    """Rotate pairs of features by angles that grow with the position (rotary encoding).

    Parameters
    ----------
    dims
        How many features are rotated; those beyond stay.
    traditional
        Whether pairs are neighbours; by default they are half of `dims` apart.
    base
        Of the geometric sequence of angles.
    scale
        Factor of the positions.
    """

    def __init__(self, dims: int, traditional: bool = False, base: float = 10000, scale: float = 1.0) -> None:
        super().__init__()
        self.dims = dims
        self.traditional = traditional
        self.base = base
        self.scale = scale

    def _extra_repr(self) -> str:
        return f"{self.dims}, traditional={self.traditional}"

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        return mx.fast.rope(x, self.dims, traditional=self.traditional, base=self.base, scale=self.scale, offset=offset)


class SinusoidalPositionalEncoding(Module):
    r"""Return sines and cosines of each element of the input, at frequencies in geometric sequence.

    Parameters
    ----------
    dims
        Size of the axis that is added: half are sines, half cosines.
    min_freq, max_freq
        The ends of the sequence; it begins with the largest.
    scale
        Factor of the result; by default :math:`\sqrt{2 / \text{dims}}`.
    cos_first
        Whether the cosines come first.
    full_turns
        Whether frequencies count turns, not radians.

    Raises
    ------
    InvalidValueError
        If `dims` is not positive and even.
    """

    def __init__(
        self,
        dims: int,
        min_freq: float = 0.0001,
        max_freq: float = 1,
        scale: float | None = None,
        cos_first: bool = False,
        full_turns: bool = False,
    ) -> None:
        super().__init__()
        if dims <= 0 or dims % 2:
            raise InvalidValueError(f"dims must be positive and even, not {dims}", dims=dims)
        count = dims // 2
        # From 1 down to 0; a single frequency is the largest.
        along = 1 - mx.arange(count) / max(count - 1, 1)
        low, high = math.log(min_freq), math.log(max_freq)
        self._sigmas = mx.exp(along * (high - low) + low)
        if full_turns:
            self._sigmas = self._sigmas * (2 * math.pi)
        self.scale = (2 / dims) ** 0.5 if scale is None else scale
        self.cos_first = cos_first

    def __call__(self, x: mx.array) -> mx.array:
        angles = x[..., None] * self["_sigmas"]
        waves = [mx.sin(angles), mx.cos(angles)]
        if self.cos_first:
            waves.reverse()
        y = mx.concatenate(waves, axis=-1)
        return y if self.scale == 1 else y * self.scale


class ALiBi(Module):
    """Subtract from attention scores the distance of query and key, times a slope per head."""

    @staticmethod
    def create_alibi_slope(num_heads: int, dtype: mx.Dtype = mx.float32) -> mx.array:
        """Return the slopes, of the shape ``(num_heads, 1, 1)``.

        For a power of two of heads they are in geometric sequence from ``2**(-8 / heads)`` to ``2**-8``. For others,
        every second slope of the next power of two follows those of the last one.
        """
        power = 1 << (num_heads.bit_length() - 1)
        slopes = _geometric(power) + _geometric(2 * power)[::2]
        return mx.array(slopes[:num_heads], dtype=dtype).reshape(-1, 1, 1)

    @staticmethod
    def create_alibi_matrix(
        q_sequence_length: int,
        k_sequence_length: int,
        num_heads: int,
        offset: int = 0,
        dtype: mx.Dtype = mx.float32,
    ) -> mx.array:
        """Return what is added to the scores.

        Parameters
        ----------
        q_sequence_length
            One more than the last position of a query.
        k_sequence_length
            How many keys there are.
        num_heads
            How many heads there are.
        offset
            The first position of a query.
        dtype
            Of the result.

        Returns
        -------
        array
            Of the shape ``(1, num_heads, q_sequence_length - offset, k_sequence_length)``.
        """
        queries = mx.arange(offset, q_sequence_length).reshape(1, 1, -1, 1)
        distances = mx.abs(queries - mx.arange(k_sequence_length))
        return (-distances * ALiBi.create_alibi_slope(num_heads, dtype)).astype(dtype)

    def __call__(self, attention_scores: mx.array, offset: int = 0, mask: mx.array | None = None) -> mx.array:
        _, num_heads, queries, keys = attention_scores.shape
        bias = self.create_alibi_matrix(queries + offset, keys, num_heads, offset, attention_scores.dtype)
        return attention_scores + (bias if mask is None else bias + mask)


def _geometric(count: int) -> list[float]:
    ratio = 2 ** (-8 / count)
    return [ratio ** (i + 1) for i in range(count)]
