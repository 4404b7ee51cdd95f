"""Broadcasting, shape inference, dtypes, views, reductions and products over random shapes, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mlxr as mx
from mlxr.errors import AxisError, MlxrError, ShapeError

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
DTYPES = st.sampled_from([mx.bool_, mx.uint8, mx.int16, mx.int32, mx.int64, mx.float16, mx.float32, mx.float64])


def filled(shape, dtype=np.int32):
    return (np.arange(int(np.prod(shape))) % 97 - 13).astype(dtype).reshape(shape)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=4))
def test_broadcasting(shapes) -> None:
    a, b = (filled(s) for s in shapes.input_shapes)
    got = mx.array(a) - mx.array(b)
    assert got.shape == shapes.result_shape == mx.broadcast_shapes(*shapes.input_shapes)
    np.testing.assert_array_equal(np.array(got), a - b)
    for x, y in zip(mx.broadcast_arrays(mx.array(a), mx.array(b)), np.broadcast_arrays(a, b), strict=True):
        np.testing.assert_array_equal(np.array(x), y)
    np.testing.assert_array_equal(np.array(mx.where(mx.array(a) > 3, mx.array(a), mx.array(b))), np.where(a > 3, a, b))


@given(SHAPES, SHAPES)
def test_broadcasting_is_refused_exactly_where_numpy_refuses(first, second) -> None:
    try:
        wanted = np.broadcast_shapes(first, second)
    except ValueError:
        for attempt in (lambda: mx.zeros(first) + mx.zeros(second), lambda: mx.broadcast_shapes(first, second)):
            with pytest.raises(ShapeError):
                attempt()
    else:
        assert (mx.zeros(first) + mx.zeros(second)).shape == wanted


@given(SHAPES, DTYPES, DTYPES)
def test_dtype_of_a_result_does_not_depend_on_shape_or_order(shape, a, b) -> None:
    result = mx.zeros(shape, a) + mx.zeros((), b)
    assert result.dtype is (mx.zeros((), b) + mx.zeros(shape, a)).dtype
    assert result.dtype is (mx.zeros((1,), a) + mx.zeros((1,), b)).dtype
    assert (mx.zeros(shape, a) < mx.zeros((), b)).dtype is mx.bool_


@given(SHAPES, st.data())
def test_chains_of_views(shape, data) -> None:
    array = filled(shape)
    x = mx.array(array)
    base = x
    for _ in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(["transpose", "reshape", "slice", "expand", "squeeze", "flip", "broadcast"]))
        if kind == "transpose":
            axes = data.draw(st.permutations(range(array.ndim)))
            array, x = array.transpose(axes), x.transpose(axes)
        elif kind == "reshape" and array.size:
            factors = [array.size] if array.ndim else [1]
            for divisor in (2, 3):
                if factors[-1] % divisor == 0:
                    factors[-1:] = [divisor, factors[-1] // divisor]
            array, x = array.reshape(factors), x.reshape(factors)
        elif kind == "slice" and array.ndim:
            bound = st.none() | st.integers(-5, 5)
            index = tuple(slice(*data.draw(st.tuples(bound, bound, st.sampled_from([1, 2, -1])))) for _ in array.shape)
            array, x = array[index], x[index]
        elif kind == "expand" and array.ndim < 5:
            axis = data.draw(st.integers(-array.ndim - 1, array.ndim))
            array, x = np.expand_dims(array, axis), mx.expand_dims(x, axis)
        elif kind == "squeeze":
            array, x = array.squeeze(), x.squeeze()
        elif kind == "flip" and array.ndim:
            array, x = np.flip(array, 0), mx.flip(x, 0)
        elif kind == "broadcast" and array.ndim < 5:
            array, x = np.broadcast_to(array, (2, *array.shape)), mx.broadcast_to(x, (2, *x.shape))
    assert x.shape == array.shape
    np.testing.assert_array_equal(np.array(x), array)
    np.testing.assert_array_equal(np.array(x * 2 - base.sum()), array * 2 - np.array(base).sum())
    np.testing.assert_array_equal(np.array(mx.contiguous(x)), array)


@given(SHAPES, st.data(), st.booleans())
def test_reductions_over_any_axes_of_any_layout(shape, data, keepdims) -> None:
    array = filled(shape, np.float64)
    axes = data.draw(st.none() | st.lists(st.integers(-len(shape), len(shape) - 1), unique=True).map(tuple)
                     if shape else st.none())
    if axes is not None:
        assume(len({axis % len(shape) for axis in axes}) == len(axes))
    order = data.draw(st.permutations(range(len(shape))))
    inverse = np.argsort(order) if order else []
    x = mx.contiguous(mx.array(array, mx.float64).transpose(order)).transpose([int(k) for k in inverse])
    for name in ("sum", "prod", "any", "all"):
        wanted = getattr(np, name)(array, axis=axes, keepdims=keepdims)
        got = getattr(mx, name)(x, axis=axes, keepdims=keepdims)
        assert got.shape == wanted.shape
        np.testing.assert_allclose(np.array(got), wanted, rtol=1e-12)
    if array.size:
        for name in ("max", "min", "mean", "var"):
            wanted = getattr(np, name)(array, axis=axes, keepdims=keepdims)
            got = getattr(mx, name)(x, axis=axes, keepdims=keepdims)
            assert got.shape == wanted.shape
            np.testing.assert_allclose(np.array(got), wanted, rtol=1e-12, atol=1e-12)


@given(SHAPES.filter(bool), st.integers(-6, 6))
def test_axis_out_of_range_is_refused(shape, axis) -> None:
    x = mx.zeros(shape)
    for function in (lambda: mx.sum(x, axis), lambda: mx.cumsum(x, axis), lambda: mx.flip(x, axis),
                     lambda: mx.softmax(x, axis), lambda: mx.sort(x, axis), lambda: mx.moveaxis(x, axis, 0)):
        if -len(shape) <= axis < len(shape):
            function()
        else:
            with pytest.raises(AxisError):
                function()


PRODUCTS = hnp.mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=2, min_side=0, max_side=5)


@given(PRODUCTS, st.booleans())
def test_matmul_shapes(shapes, turned) -> None:
    a, b = (filled(s, np.float32) for s in shapes.input_shapes)
    x = mx.array(a)
    if turned:
        x = mx.swapaxes(mx.contiguous(mx.swapaxes(x, -1, -2)), -1, -2)
    got = x @ mx.array(b)
    assert got.shape == shapes.result_shape
    np.testing.assert_array_equal(np.array(got), a @ b)  # small whole numbers: exact


@given(SHAPES, SHAPES)
def test_matmul_is_refused_exactly_where_numpy_refuses(first, second) -> None:
    try:
        wanted = np.matmul(np.zeros(first, np.float32), np.zeros(second, np.float32)).shape
    except ValueError:
        with pytest.raises(ShapeError):
            mx.matmul(mx.zeros(first), mx.zeros(second))
    else:
        assert mx.matmul(mx.zeros(first), mx.zeros(second)).shape == wanted


@given(SHAPES.filter(bool), st.integers(1, 3), st.data())
def test_concatenate_and_split_are_inverses(shape, count, data) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    parts = [filled(shape) + 100 * k for k in range(count)]
    joined = mx.concatenate([mx.array(p) for p in parts], axis)
    np.testing.assert_array_equal(np.array(joined), np.concatenate(parts, axis))
    if shape[axis]:
        for got, wanted in zip(mx.split(joined, count, axis), parts, strict=True):
            np.testing.assert_array_equal(np.array(got), wanted)
    np.testing.assert_array_equal(np.array(mx.stack([mx.array(p) for p in parts], axis)), np.stack(parts, axis))


@given(SHAPES, SHAPES)
def test_reshape_keeps_the_size_or_is_refused(shape, other) -> None:
    x = mx.array(filled(shape))
    if int(np.prod(shape)) == int(np.prod(other)):
        np.testing.assert_array_equal(np.array(x.reshape(other)), filled(shape).reshape(other))
    else:
        with pytest.raises(ShapeError):
            x.reshape(other)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(width=32)))
def test_special_values_go_through_elementwise_ops_and_extremes(array) -> None:
    x = mx.array(array)
    with np.errstate(all="ignore"):
        for ours, theirs in ((mx.abs, np.abs), (mx.negative, np.negative), (mx.square, np.square), (mx.floor, np.floor),
                             (mx.isnan, np.isnan), (mx.isinf, np.isinf), (mx.sqrt, np.sqrt), (mx.max, np.max),
                             (mx.min, np.min), (mx.ceil, np.ceil)):
            np.testing.assert_array_equal(np.array(ours(x)), theirs(array))
        np.testing.assert_array_equal(np.array(mx.maximum(x, x[..., ::-1])), np.maximum(array, array[..., ::-1]))
        for to in (mx.float16, mx.float64):
            np.testing.assert_array_equal(np.array(x.astype(to)), array.astype(to.name))


@given(st.lists(st.integers(-3, 5), min_size=0, max_size=4))
def test_creation_from_any_shape(shape) -> None:
    if any(n < 0 for n in shape):
        with pytest.raises(MlxrError):
            mx.zeros(shape)
    else:
        x = mx.full(shape, 3, mx.int16)
        assert x.shape == tuple(shape)
        assert x.size == int(np.prod(shape))
        assert int(x.sum()) == 3 * x.size
