"""Sequential: modules one after the other. It knows nothing of what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxr.nn.module import Module

__all__ = ["Sequential"]


class Sequential(Module):
    """Call modules, or any functions, one after the other.

    Parameters
    ----------
    *modules
        Each takes what the one before it returned.
    """

    def __init__(self, *modules: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layers = list(modules)

    def __call__(self, x: Any) -> Any:
        for layer in self["layers"]:
            x = layer(x)
        return x
