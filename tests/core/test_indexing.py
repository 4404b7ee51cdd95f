"""Indexing and assignment against NumPy: ints, slices with steps, None, ``...``, arrays, and mixtures of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxr as mx
from mlxr.errors import ArgumentTypeError, BoundsError, MlxrError, ShapeError


@st.composite
def indexed(draw, arrays: bool):
    """A shape and an index of it; with `arrays`, integer arrays (all of one shape, side by side) occur."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    consumed = draw(st.integers(0, len(shape)))
    dots = draw(st.booleans())
    axes = list(range(consumed))
    if dots and consumed:
        cut = draw(st.integers(0, consumed))
        axes = [*range(cut), *range(len(shape) - (consumed - cut), len(shape))]
    else:
        cut = None
    batch = tuple(draw(st.lists(st.integers(1, 3), min_size=0, max_size=2)))
    kinds = [draw(st.sampled_from(["int", "slice", "slice"])) for _ in axes]
    if arrays and axes:
        first = draw(st.integers(0, len(axes) - 1))
        last = draw(st.integers(first, len(axes) - 1))
        if cut is not None and first < cut <= last:
            last = max(first, cut - 1)
        kinds[first:last + 1] = ["array"] * (last - first + 1)
        # A lone int beside arrays is an array of its own to NumPy; keep the arrays the only advanced indices.
        kinds = ["slice" if kind == "int" else kind for kind in kinds]
    items = []
    for position, (axis, kind) in enumerate(zip(axes, kinds, strict=True)):
        if cut is not None and position == cut:
            items.append(Ellipsis)
        n = shape[axis]
        if kind == "int":
            items.append(draw(st.integers(-n, n - 1)))
        elif kind == "slice":
            bounds = st.none() | st.integers(-n - 2, n + 2)
            items.append(slice(draw(bounds), draw(bounds), draw(st.none() | st.integers(-3, 3).filter(bool))))
        else:
            items.append(np.array(draw(st.lists(st.integers(-n, n - 1), min_size=int(np.prod(batch)),
                                                max_size=int(np.prod(batch)))), np.int32).reshape(batch))
    if cut is not None and cut == len(axes):
        items.append(Ellipsis)
    if not arrays:
        for _ in range(draw(st.integers(0, 2))):
            items.insert(draw(st.integers(0, len(items))), None)
    return shape, tuple(items)


def ours(index):
    """The same index with tensors for arrays."""
    return tuple(mx.array(item) if isinstance(item, np.ndarray) else item for item in index)


def filled(shape):
    return np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)


@given(indexed(arrays=False))
def test_basic_reading(case) -> None:
    shape, index = case
    source = filled(shape)
    wanted = source[index]
    got = mx.array(source)[index]
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(np.array(got), wanted)


@given(indexed(arrays=True))
def test_reading_with_integer_arrays(case) -> None:
    shape, index = case
    source = filled(shape)
    wanted = source[index]
    got = mx.array(source)[ours(index)]
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(np.array(got), wanted)


@given(indexed(arrays=False), st.booleans())
def test_basic_assignment(case, scalar) -> None:
    shape, index = case
    source = filled(shape)
    x = mx.array(source)
    region = source[index].shape
    value = -7 if scalar else -1 - np.arange(int(np.prod(region)), dtype=np.int32).reshape(region)
    source[index] = value
    x[index] = value if scalar else mx.array(value)
    np.testing.assert_array_equal(np.array(x), source)


@given(indexed(arrays=False), st.integers(0, 2**30))
def test_assigned_values_broadcast(case, seed) -> None:
    shape, index = case
    source = filled(shape)
    x = mx.array(source)
    rng = np.random.default_rng(seed)
    region = source[index].shape
    value = filled([n if rng.random() < 0.5 else 1 for n in region[int(rng.integers(0, len(region) + 1)):]]) - 99
    source[index] = value
    x[index] = mx.array(value)
    np.testing.assert_array_equal(np.array(x), source)


@pytest.mark.parametrize(("index", "taken"), [
    ((), ...), (slice(None), slice(None, None, -1)), (slice(None, None, -1), slice(None)),
    (slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None)), ((slice(None), slice(0, 3)), np.s_[:, 1:]),
])
@pytest.mark.parametrize("whole", [False, True])
def test_assigning_a_tensor_to_itself(index, taken, whole) -> None:
    """The memory that is read is what is written: with the tensor itself as the value, and with a view of it."""
    source = filled((4, 4))
    x = mx.array(source)
    if whole and source[index].shape == source.shape:
        source[index], x[index] = source.copy(), x
    else:
        source[index], x[index] = source[taken].copy(), x[taken]
    np.testing.assert_array_equal(np.array(x), source)


def test_assignment_writes_in_place_unless_somebody_else_sees_the_memory() -> None:
    x = mx.zeros((4, 4))
    before = np.array(x, copy=False).ctypes.data
    x[1:3, ::2] = mx.ones((2, 2))
    assert np.array(x, copy=False).ctypes.data == before
    view = x[1]
    x[1, 0] = 5
    assert view.tolist() == [1, 0, 1, 0]
    assert np.array(x, copy=False).ctypes.data != before


@given(indexed(arrays=True))
def test_assignment_with_integer_arrays(case) -> None:
    shape, index = case
    source = filled(shape)
    x = mx.array(source)
    source[index] = -7  # one value: what repeated indices do is then the same in any order
    x[ours(index)] = -7
    np.testing.assert_array_equal(np.array(x), source)


@given(indexed(arrays=True))
def test_at_add_counts_repeated_indices(case) -> None:
    shape, index = case
    source = filled(shape)
    x = mx.array(source)
    got = x.at[ours(index)].add(2)
    assert np.array(x).tolist() == source.tolist()
    np.add.at(source, index, 2)
    np.testing.assert_array_equal(np.array(got), source)


@pytest.mark.parametrize(("method", "ufunc"), [("add", np.add), ("subtract", np.subtract), ("multiply", np.multiply),
                                               ("maximum", np.maximum), ("minimum", np.minimum), ("divide", np.divide)])
def test_at_methods(method, ufunc) -> None:
    source = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    index, value = np.array([0, 2, 0]), np.array([2.0, 5.0, 4.0], np.float32)
    got = getattr(mx.array(source).at[mx.array(index)], method)(mx.array(value))
    ufunc.at(source, index, value)
    np.testing.assert_allclose(np.array(got), source, rtol=1e-6)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 2**30))
def test_assignment_through_a_boolean_mask(shape, seed) -> None:
    rng = np.random.default_rng(seed)
    source = filled(shape).astype(np.float32)
    mask = rng.random(shape) > 0.5
    x = mx.array(source)
    source[mask] = -1
    x[mx.array(mask)] = -1
    np.testing.assert_array_equal(np.array(x), source)


@pytest.mark.parametrize("index", [4, -5, (0, 3), (0, 0, 0), (0, -4)])
def test_integers_out_of_range(index) -> None:
    x = mx.arange(12).reshape(4, 3)
    for attempt in (lambda: x[index], lambda: x.__setitem__(index, 0)):
        with pytest.raises(IndexError) as caught:
            attempt()
        assert isinstance(caught.value, MlxrError)
        assert isinstance(caught.value, ValueError)
    assert x.tolist() == np.arange(12).reshape(4, 3).tolist()


@pytest.mark.parametrize("index", [[4], [0, -5], [[1], [9]]])
def test_array_indices_out_of_range(index) -> None:
    x = mx.arange(12).reshape(4, 3)
    for attempt in (lambda: x[mx.array(index)], lambda: x.__setitem__(mx.array(index), 0),
                    lambda: x.at[mx.array(index)].add(1), lambda: mx.take(x, mx.array(index), axis=0)):
        with pytest.raises(BoundsError) as caught:
            attempt()
        assert caught.value.size == 4
    assert x.tolist() == np.arange(12).reshape(4, 3).tolist()


@pytest.mark.parametrize("index", ["a", 1.0, object(), slice(0.5), (slice(None), "b"), {}])
def test_what_is_no_index(index) -> None:
    x = mx.arange(12).reshape(4, 3)
    with pytest.raises(ArgumentTypeError):
        x[index]
    with pytest.raises(ArgumentTypeError):
        x[index] = 0


def test_float_array_is_no_index() -> None:
    x = mx.arange(4)
    with pytest.raises(MlxrError):
        x[mx.array([0.0])]


def test_zero_step_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        mx.arange(4)[::0]
    assert isinstance(caught.value, MlxrError)


def test_value_that_does_not_fit_is_refused() -> None:
    x = mx.zeros((4, 3))
    with pytest.raises(ShapeError):
        x[1:3] = mx.ones((3, 3))
    assert x.sum().item() == 0


def test_views_share_memory_and_gathers_do_not() -> None:
    x = mx.arange(12).reshape(4, 3)
    for index in (1, slice(None, None, -1), (slice(1), None), (Ellipsis, 0)):
        assert x[index].shares_memory(x)
    assert not x[mx.array([0, 1])].shares_memory(x)


def test_numpy_and_list_indices() -> None:
    x = mx.arange(12).reshape(4, 3)
    assert x[np.int64(1)].tolist() == [3, 4, 5]
    assert x[np.array([0, 3])].tolist() == [[0, 1, 2], [9, 10, 11]]
    assert x[mx.array(2)].tolist() == [6, 7, 8]
