"""Barriers of lazy evaluation: eval, async_eval, synchronize. On the eager CPU backend they cost nothing."""

from __future__ import annotations

from typing import Any

from mlxr.core.device import backend_of
from mlxr.core.evaluation import eval

__all__ = ["async_eval", "eval", "synchronize"]




def async_eval(*args: Any) -> None:
    """Start the computation of trees of tensors without waiting for it.

    Every backend starts its work when an op is called, or when a result is asked for; so there is nothing to do.

    Parameters
    ----------
    *args : tree of Tensor
    """


def synchronize(stream: Any = None) -> None:
    """Return when all work given to a device is done.

    Parameters
    ----------
    stream : Stream or Device, optional
        The default device if None.
    """
    backend_of(stream).synchronize()
