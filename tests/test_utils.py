"""Trees: the functions of mlxr.utils, by examples, by properties, and against upstream where it is installed."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxr.errors import InvalidValueError
from mlxr.utils import (
    tree_flatten,
    tree_map,
    tree_map_with_path,
    tree_merge,
    tree_reduce,
    tree_unflatten,
)


class Point(NamedTuple):
    """A container that is rebuilt by fields."""

    x: Any
    y: Any


names = st.text("abc_", min_size=1, max_size=3)
trees = st.recursive(
    st.integers(),
    lambda below: st.one_of(
        st.lists(below, max_size=3), st.dictionaries(names, below, max_size=3), st.tuples(below, below)
    ),
    max_leaves=12,
)
# Trees that paths describe in full: no tuples and no empty containers.
plain_trees = st.recursive(
    st.integers(),
    lambda below: st.one_of(
        st.lists(below, min_size=1, max_size=3), st.dictionaries(names, below, min_size=1, max_size=3)
    ),
    max_leaves=12,
)
dict_trees = st.dictionaries(
    names,
    st.recursive(st.integers(), lambda below: st.dictionaries(names, below, min_size=1, max_size=3), max_leaves=12),
    min_size=1,
    max_size=3,
)


def test_map_keeps_structure() -> None:
    tree = {"a": [1, (2, 3)], "b": Point(4, {"c": 5})}
    assert tree_map(lambda v: v * 10, tree) == {"a": [10, (20, 30)], "b": Point(40, {"c": 50})}
    assert isinstance(tree_map(lambda v: v, tree)["b"], Point)


def test_map_takes_supersets() -> None:
    assert tree_map(lambda a, b, c: a + b + c, {"a": [1]}, {"a": [2, 0], "b": 0}, {"a": [3]}) == {"a": [6]}


def test_map_refuses_subsets() -> None:
    with pytest.raises(KeyError):
        tree_map(lambda a, b: a + b, {"a": 1, "b": 2}, {"a": 1})


def test_is_leaf_stops_the_descent() -> None:
    tree = {"a": [1, 2], "b": 3}
    assert tree_map(str, tree, is_leaf=lambda t: isinstance(t, list)) == {"a": "[1, 2]", "b": "3"}
    assert tree_flatten(tree, is_leaf=lambda t: isinstance(t, list)) == [("a", [1, 2]), ("b", 3)]
    assert tree_reduce(lambda n, leaf: n + len(str(leaf)), tree, 0, lambda t: isinstance(t, list)) == 7


def test_map_with_path() -> None:
    seen = tree_map_with_path(lambda path, v: f"{path}:{v}", {"m": [{"w": 1}, 2]})
    assert seen == {"m": [{"w": "m.0.w:1"}, "m.1:2"]}
    assert tree_map_with_path(lambda path, v: path, [0], path="root") == ["root.0"]
    assert tree_map_with_path(lambda path, a, b: (path, a + b), [1], [2]) == [("0", 3)]


def test_flatten_destinations() -> None:
    there = [("x", 0)]
    assert tree_flatten({"a": 1}, destination=there) is there
    assert there == [("x", 0), ("a", 1)]
    assert tree_flatten([[1]], prefix=".p", destination={}) == {"p.0.0": 1}
    with pytest.raises(InvalidValueError) as raised:
        tree_flatten(1, destination=())
    assert raised.value.destination == ()


@pytest.mark.parametrize(
    ("flat", "tree"),
    [
        ([("", 5)], 5),
        ([("a.b", 1), ("a.c.0", 2)], {"a": {"b": 1, "c": [2]}}),
        ([("2", "c"), ("0", "a")], ["a", {}, "c"]),
        ([("0", 1), ("x", 2)], {"0": 1, "x": 2}),
        ([("1", 1), ("01", 2)], {"1": 1, "01": 2}),
        ({"a.0.w": 1, "a.1.w": 2}, {"a": [{"w": 1}, {"w": 2}]}),
        ([], []),
    ],
)
def test_unflatten(flat: Any, tree: Any) -> None:
    assert tree_unflatten(flat) == tree


@given(plain_trees)
def test_unflatten_inverts_flatten(tree: Any) -> None:
    assert tree_unflatten(tree_flatten(tree)) == tree
    assert tree_unflatten(tree_flatten(tree, destination={})) == tree


@given(trees)
def test_reduce_visits_leaves_in_order(tree: Any) -> None:
    leaves = [leaf for _, leaf in tree_flatten(tree)]
    assert tree_reduce(lambda seen, leaf: [*seen, leaf], tree, []) == leaves
    assert tree_reduce(lambda total, leaf: total + leaf, tree) == (sum(leaves) if leaves else None)


@given(dict_trees, st.randoms(use_true_random=False))
def test_merge_puts_parts_together(tree: Any, random: Any) -> None:
    flat = tree_flatten(tree)
    random.shuffle(flat)
    half = len(flat) // 2
    assert tree_merge(*(tree_unflatten(part) if part else {} for part in (flat[:half], flat[half:]))) == tree


def test_merge() -> None:
    assert tree_merge({"a": [1, {}]}, {"a": [{}, 2, 3], "b": 4}) == {"a": [1, 2, 3], "b": 4}
    assert tree_merge(None, {"a": 1}) == {"a": 1}
    assert tree_merge([], (1,)) == (1,)
    assert tree_merge({}, {}) == {}
    assert tree_merge(Point(1, {}), Point({}, 2)) == Point(1, 2)
    assert tree_merge({"a": 1}, {"a": 2}, lambda a, b: a - b) == {"a": -1}


@pytest.mark.parametrize(("a", "b"), [({"a": 1}, {"a": 2}), ([], {}), ({"a": [1]}, {"a": {"b": 1}})])
def test_merge_refuses(a: Any, b: Any) -> None:
    with pytest.raises(InvalidValueError):
        tree_merge(a, b)


@given(trees, trees)
def test_as_upstream(a: Any, b: Any) -> None:
    upstream = pytest.importorskip("mlx.utils", reason="upstream MLX is not installed")
    assert tree_flatten(a) == upstream.tree_flatten(a)
    assert tree_unflatten(tree_flatten(a)) == upstream.tree_unflatten(upstream.tree_flatten(a))
    assert tree_map(str, a) == upstream.tree_map(str, a)
    assert tree_map_with_path(lambda p, v: (p, v), a) == upstream.tree_map_with_path(lambda p, v: (p, v), a)
    try:
        merged = upstream.tree_merge(a, b, lambda x, y: (x, y))
    except ValueError:
        return
    # Where None meets an empty container, upstream merges two Nones, and mlxr keeps the container.
    if (None, None) not in tree_reduce(lambda seen, leaf: [*seen, leaf], merged, [], lambda t: t == (None, None)):
        assert tree_merge(a, b, lambda x, y: (x, y)) == merged
