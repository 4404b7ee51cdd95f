"""Dropout: zeros at random while training. The random numbers come from mlxr.random's global state."""

from __future__ import annotations

import mlxr as mx
from mlxr.errors import InvalidValueError, ShapeError
from mlxr.nn.module import Module

__all__ = ["Dropout", "Dropout2d", "Dropout3d"]


class Dropout(Module):
    r"""Set elements to zero with the probability `p` and multiply the others by :math:`1 / (1 - p)`.

    In evaluation mode the input is returned as it is.

    Parameters
    ----------
    p
        The probability, at least 0 and below 1.

    Raises
    ------
    InvalidValueError
        If `p` is another number.
    """

    # How many axes in front of the last one are set to zero together, and the ranks that the input may have.
    _shared_axes = 0
    _ranks: frozenset[int] | None = None

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise InvalidValueError(f"the dropout probability must be in [0, 1), not {p}", p=p)
        self._p_1 = 1 - p

    def _extra_repr(self) -> str:
        return f"p={1 - self._p_1}"

    def __call__(self, x: mx.array) -> mx.array:
        if self._ranks is not None and x.ndim not in self._ranks:
            ranks = " or ".join(map(str, sorted(self._ranks)))
            raise ShapeError(f"{type(self).__name__} takes {ranks} dimensions, not {x.ndim}", shapes=[x.shape])
        if self._p_1 == 1 or not self._training:
            return x
        return self._mask(x) * x * (1 / self._p_1)

    def _mask(self, x: mx.array) -> mx.array:
        shape = list(x.shape)
        for axis in range(-1 - self._shared_axes, -1):
            shape[axis] = 1
        return mx.random.bernoulli(self._p_1, shape)


class Dropout2d(Dropout):
    """`Dropout` of whole channels of images ``(H, W, C)`` or batches of them ``(N, H, W, C)``.

    Raises
    ------
    InvalidValueError
        If `p` is outside of [0, 1).
    ShapeError
        When called with an input of another rank.
    """

    _shared_axes = 2
    _ranks = frozenset({3, 4})


class Dropout3d(Dropout):
    """`Dropout` of whole channels of volumes ``(D, H, W, C)`` or batches of them ``(N, D, H, W, C)``.

    Raises
    ------
    InvalidValueError
        If `p` is outside of [0, 1).
    ShapeError
        When called with an input of another rank.
    """

    _shared_axes = 3
    _ranks = frozenset({4, 5})
