"""Functions over trees: nested lists, tuples and dicts whose leaves are anything else.

Parameters, gradients and optimizer states are such trees. Nothing here knows of tensors, modules or optimizers: a
leaf is whatever is not a container, or whatever ``is_leaf`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

from mlxr.errors import InvalidValueError

__all__ = ["tree_flatten", "tree_map", "tree_map_with_path", "tree_merge", "tree_reduce", "tree_unflatten"]

LeafTest = Callable[[Any], bool]


def _keys(tree: Any, is_leaf: LeafTest | None) -> Iterable[Any] | None:
    """Return what indexes the children of `tree`, or None where `tree` is a leaf."""
    if is_leaf is not None and is_leaf(tree):
        return None
    if isinstance(tree, dict):
        return tree.keys()
    if isinstance(tree, (list, tuple)):
        return range(len(tree))
    return None


def _rebuild(like: Any, keys: Iterable[Any], children: Iterable[Any]) -> Any:
    """Return a container of the kind of `like` (any dict becomes a plain one) that holds `children`."""
    if isinstance(like, dict):
        return dict(zip(keys, children, strict=True))
    if hasattr(like, "_fields"):  # a named tuple takes its fields one by one
        return type(like)(*children)
    return type(like)(children)


def tree_map(fn: Callable, tree: Any, *rest: Any, is_leaf: LeafTest | None = None) -> Any:
    """Apply `fn` to every leaf of `tree`.

    Parameters
    ----------
    fn
        Called as ``fn(leaf, *others)``, where ``others`` are found at the same place in `rest`.
    tree
        The tree that decides the structure.
    *rest
        More trees. Each has at least the keys of `tree`; what it has beyond them is ignored.
    is_leaf
        Where it returns True, the node counts as a leaf though it is a container.

    Returns
    -------
    Any
        A tree of the structure of `tree` that holds the results.

    Examples
    --------
    >>> tree_map(lambda a, b: a + b, {"x": 1, "y": [2, 3]}, {"x": 10, "y": [20, 30], "z": 0})
    {'x': 11, 'y': [22, 33]}
    """
    keys = _keys(tree, is_leaf)
    if keys is None:
        return fn(tree, *rest)
    children = [tree_map(fn, tree[k], *[other[k] for other in rest], is_leaf=is_leaf) for k in keys]
    return _rebuild(tree, keys, children)


def tree_map_with_path(
    fn: Callable, tree: Any, *rest: Any, is_leaf: LeafTest | None = None, path: Any | None = None
) -> Any:
    """Apply `fn` to every leaf of `tree` and its path.

    Parameters
    ----------
    fn
        Called as ``fn(path, leaf, *others)``. A path joins keys and indices with dots, such as ``"layers.0.weight"``.
    tree, *rest, is_leaf
        As in `tree_map`.
    path
        Put in front of every path, followed by a dot.

    Returns
    -------
    Any
        A tree of the structure of `tree` that holds the results.

    Examples
    --------
    >>> tree_map_with_path(lambda path, leaf: f"{path}={leaf}", {"a": [1, 2]})
    {'a': ['a.0=1', 'a.1=2']}
    """
    keys = _keys(tree, is_leaf)
    if keys is None:
        return fn(path, tree, *rest)
    prefix = f"{path}." if path else ""
    children = [
        tree_map_with_path(fn, tree[k], *[other[k] for other in rest], is_leaf=is_leaf, path=f"{prefix}{k}")
        for k in keys
    ]
    return _rebuild(tree, keys, children)


@overload
def tree_flatten(
    tree: Any, prefix: str = "", is_leaf: LeafTest | None = None, destination: list[tuple[str, Any]] | None = None
) -> list[tuple[str, Any]]: ...


@overload
def tree_flatten(
    tree: Any, prefix: str = "", is_leaf: LeafTest | None = None, *, destination: dict[str, Any]
) -> dict[str, Any]: ...


def tree_flatten(
    tree: Any,
    prefix: str = "",
    is_leaf: LeafTest | None = None,
    destination: list[tuple[str, Any]] | dict[str, Any] | None = None,
) -> list[tuple[str, Any]] | dict[str, Any]:
    """List the leaves of `tree` with their paths.

    Parameters
    ----------
    tree
        The tree. Its dict keys should be free of dots, or `tree_unflatten` cannot find them back.
    prefix
        Put in front of every path, followed by a dot. Its own first character is dropped, so it is written ``".name"``.
    is_leaf
        As in `tree_map`.
    destination
        A list or a dict to add to; a new list where it is None.

    Returns
    -------
    list or dict
        `destination`, with a pair of path and leaf (list) or an entry (dict) for every leaf.

    Raises
    ------
    InvalidValueError
        If `destination` is neither a list, nor a dict, nor None.

    Examples
    --------
    >>> tree_flatten({"a": {"b": 1}, "c": [2, 3]})
    [('a.b', 1), ('c.0', 2), ('c.1', 3)]
    >>> tree_flatten({"a": {"b": 1}}, destination={})
    {'a.b': 1}
    """
    if destination is None:
        destination = []
    if isinstance(destination, list):
        _visit_leaves(tree, prefix, is_leaf, lambda path, leaf: destination.append((path, leaf)))
    elif isinstance(destination, dict):
        _visit_leaves(tree, prefix, is_leaf, destination.__setitem__)
    else:
        raise InvalidValueError(
            f"destination must be a list, a dict or None, not {type(destination).__name__}",
            destination=destination,
        )
    return destination


def _visit_leaves(tree: Any, path: str, is_leaf: LeafTest | None, visit: Callable[[str, Any], None]) -> None:
    """Call ``visit(path, leaf)`` for every leaf; paths grow as ``".key.key"`` and lose the first dot."""
    keys = _keys(tree, is_leaf)
    if keys is None:
        visit(path[1:], tree)
        return
    for k in keys:
        _visit_leaves(tree[k], f"{path}.{k}", is_leaf, visit)


def tree_unflatten(tree: Sequence[tuple[str, Any]] | dict[str, Any]) -> Any:
    """Rebuild the tree that `tree_flatten` listed.

    Parameters
    ----------
    tree
        Pairs of path and leaf, or a dict from path to leaf.

    Returns
    -------
    Any
        Dicts, and lists where all keys of a level are different integers; an index that no path names holds ``{}``.
        A single pair with the empty path is the leaf itself.

    Examples
    --------
    >>> tree_unflatten([("a.b", 1), ("c.0", 2), ("c.1", 3)])
    {'a': {'b': 1}, 'c': [2, 3]}
    """
    pairs = list(tree.items() if isinstance(tree, dict) else tree)
    if len(pairs) == 1 and pairs[0][0] == "":
        return pairs[0][1]

    levels: dict[str, list[tuple[str, Any]]] = {}
    for path, leaf in pairs:
        head, _, tail = path.partition(".")
        levels.setdefault(head, []).append((tail, leaf))
    children = {head: tree_unflatten(below) for head, below in levels.items()}

    positions = _list_positions(children)
    if positions is None:
        return children
    result: list[Any] = []
    for position, head in sorted(positions.items()):
        result.extend({} for _ in range(len(result), position))
        result.append(children[head])
    return result


def _list_positions(keys: Iterable[str]) -> dict[int, str] | None:
    """Return the keys by the index that they spell, or None unless all spell different integers."""
    positions: dict[int, str] = {}
    for key in keys:
        try:
            position = int(key)
        except ValueError:
            return None
        if position in positions:  # "1" and "01" are two keys of a dict
            return None
        positions[position] = key
    return positions


def tree_reduce(fn: Callable, tree: Any, initializer: Any = None, is_leaf: LeafTest | None = None) -> Any:
    """Combine the leaves of `tree` from left to right.

    Parameters
    ----------
    fn
        Called as ``fn(accumulated, leaf)``; returns the next accumulated value.
    tree
        The tree.
    initializer
        The first accumulated value; None takes the first leaf.
    is_leaf
        As in `tree_map`.

    Returns
    -------
    Any
        The last accumulated value; `initializer` where the tree has no leaves.

    Examples
    --------
    >>> tree_reduce(lambda total, leaf: total + leaf, {"a": [1, 2], "b": 3}, 0)
    6
    """
    keys = _keys(tree, is_leaf)
    if keys is None:
        return tree if initializer is None else fn(initializer, tree)
    for k in keys:
        initializer = tree_reduce(fn, tree[k], initializer, is_leaf)
    return initializer


def tree_merge(tree_a: Any, tree_b: Any, merge_fn: Callable | None = None) -> Any:
    """Put two trees together.

    Parameters
    ----------
    tree_a, tree_b
        The trees. Lists and tuples are merged index by index, dicts key by key. None and an empty container count as
        absent.
    merge_fn
        Called as ``merge_fn(a, b)`` where both trees have something that cannot be merged further.

    Returns
    -------
    Any
        The tree with the leaves of both.

    Raises
    ------
    InvalidValueError
        If both have a leaf at the same place and there is no `merge_fn`, or empty containers of two types meet.

    Examples
    --------
    >>> tree_merge({"a": [1, {}]}, {"a": [{}, 2], "b": 3})
    {'a': [1, 2], 'b': 3}
    """
    absent_a, absent_b = _absent(tree_a), _absent(tree_b)
    if absent_a and absent_b:
        return _merge_absent(tree_a, tree_b)
    if absent_a or absent_b:
        return tree_b if absent_a else tree_a

    if isinstance(tree_a, dict) and isinstance(tree_b, dict):
        keys = dict.fromkeys([*tree_a, *tree_b])
        return {k: tree_merge(tree_a.get(k), tree_b.get(k), merge_fn) for k in keys}
    if isinstance(tree_a, (list, tuple)) and isinstance(tree_b, (list, tuple)):
        positions = range(max(len(tree_a), len(tree_b)))
        children = [
            tree_merge(
                tree_a[i] if i < len(tree_a) else None,
                tree_b[i] if i < len(tree_b) else None,
                merge_fn,
            )
            for i in positions
        ]
        return _rebuild(tree_a, positions, children)
    if merge_fn is None:
        raise InvalidValueError(
            "both trees have a leaf at the same place, and no merge_fn says how to merge them",
            merge_fn=None,
        )
    return merge_fn(tree_a, tree_b)


def _absent(tree: Any) -> bool:
    return tree is None or (isinstance(tree, (dict, list, tuple)) and len(tree) == 0)


def _merge_absent(tree_a: Any, tree_b: Any) -> Any:
    """Return the empty container that two absent trees leave (None against one is that one)."""
    if tree_a is None or tree_b is None:
        return tree_b if tree_a is None else tree_a
    if type(tree_a) is not type(tree_b):
        raise InvalidValueError(
            f"an empty {type(tree_a).__name__} and an empty {type(tree_b).__name__} cannot be merged",
            tree_b=tree_b,
        )
    return type(tree_a)()
