"""Barriers of lazy evaluation: eval, async_eval, synchronize. On the eager CPU backend they cost nothing."""

from __future__ import annotations

from typing import Any

from mlxr.core.device import backend_of
from mlxr.core.evaluation import async_eval, eval
from mlxr.core.tensor import Tensor

__all__ = ["async_eval", "depends", "eval", "synchronize"]




def synchronize(stream: Any = None) -> None:
    """Return when all work given to a device is done.

    Parameters
    ----------
    stream : Stream or Device, optional
        The default device if None.
    """
    backend_of(stream).synchronize()


def depends(inputs: Any, dependencies: Any) -> Any:
    """Return `inputs`, to be computed after `dependencies`.

    Ops run in the order in which they are called, so both are computed already.

    Parameters
    ----------
    inputs, dependencies : Tensor or sequence of Tensor

    Returns
    -------
    Tensor or list of Tensor
        As `inputs`.
    """
    return inputs if isinstance(inputs, Tensor) else list(inputs)
