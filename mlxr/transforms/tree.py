"""Trees of tensors: nested lists, tuples and dicts, as arguments and results of transformed functions.

Must not know about autograd. (``mlxr.utils`` has the public tree functions, which name their leaves.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlxr.core.tensor import Tensor

__all__ = ["flatten", "leaves"]


def leaves(tree: Any, found: list[Any]) -> list[Any]:
    """Append the leaves of `tree`, in order, to `found`."""
    if isinstance(tree, dict):
        for value in tree.values():
            leaves(value, found)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            leaves(value, found)
    else:
        found.append(tree)
    return found


def _rebuild(tree: Any, values: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _rebuild(value, values) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [_rebuild(value, values) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return next(values) if isinstance(tree, Tensor) else tree


def flatten(tree: Any) -> tuple[list[Tensor], Callable[[Sequence[Any]], Any]]:
    """Return the tensors of `tree` and a function that puts others in their places.

    Leaves that are no tensors stay where they are.
    """
    tensors = [leaf for leaf in leaves(tree, []) if isinstance(leaf, Tensor)]
    return tensors, lambda values: _rebuild(tree, iter(values))
