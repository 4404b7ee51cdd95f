"""Sorting and selection: order of NaN, ties and complex numbers, laws that hold for any input, gradients."""
import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import AxisError, InvalidValueError

NAN = float("nan")
matrices = arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=3, max_side=9),
                         elements=st.floats(-8, 8, width=16) | st.just(NAN))


@hypothesis.given(matrices, st.data())
def test_sort_and_argsort_equal_numpys(a, data):
    axis = data.draw(st.integers(-a.ndim, a.ndim - 1) | st.none())
    x = mx.array(a)
    np.testing.assert_array_equal(np.array(mx.sort(x, axis)), np.sort(a, axis))
    np.testing.assert_array_equal(np.array(mx.argsort(x, axis)), np.argsort(a, axis, kind="stable"))


@hypothesis.given(matrices, st.data())
def test_partition_puts_one_rank_in_its_place(a, data):
    axis = data.draw(st.integers(0, a.ndim - 1))
    kth = data.draw(st.integers(-a.shape[axis], a.shape[axis] - 1))
    x = mx.array(a)
    parted, order = np.array(mx.partition(x, kth, axis)), np.array(mx.argpartition(x, kth, axis)).astype(np.int64)
    np.testing.assert_array_equal(np.take_along_axis(a, order, axis), parted)
    expected = np.sort(a, axis)
    kth %= a.shape[axis]
    np.testing.assert_array_equal(np.take(parted, kth, axis), np.take(expected, kth, axis))
    np.testing.assert_array_equal(np.sort(np.take(parted, range(kth), axis), axis), np.take(expected, range(kth), axis))
    np.testing.assert_array_equal(np.sort(np.array(mx.topk(x, kth, axis)), axis),
                                  np.take(expected, range(a.shape[axis] - kth, a.shape[axis]), axis))


@hypothesis.given(arrays.arrays(np.int32, st.integers(0, 30), elements=st.integers(-4, 4)), st.integers(0, 12))
def test_unique_rebuilds_its_input(a, size):
    values, index, inverse, counts = mx.unique(mx.array(a), size, True, True, True, fill_value=99)
    expected = np.unique(a)[:size]
    assert np.array(values).tolist() == expected.tolist() + [99] * (size - expected.size)
    assert np.array(counts).tolist() == [int((a == v).sum()) for v in expected] + [0] * (size - expected.size)
    assert [a.tolist().index(v) for v in expected] == np.array(index).tolist()[: expected.size]
    if size >= np.unique(a).size:
        np.testing.assert_array_equal(np.array(values)[np.array(inverse)] if a.size else a, a)


def test_nan_is_last_and_ties_keep_their_order():
    x = mx.array([NAN, 1.0, -0.0, 0.0, NAN, -np.inf, np.inf])
    assert np.array(mx.argsort(x)).tolist() == [5, 2, 3, 1, 6, 0, 4]
    assert np.signbit(np.array(mx.sort(x))[1:3]).tolist() == [True, False]


def test_complex_numbers_are_ordered_by_real_then_imaginary_part():
    x = np.array([1j, 2, 1, -1j, 1 - 2j], np.complex64)
    np.testing.assert_array_equal(np.array(mx.sort(mx.array(x))), np.sort(x))


def test_median_of_nan_is_nan():
    assert np.isnan(mx.median(mx.array([1.0, NAN, 3.0, 4.0])).item())
    assert mx.median(mx.array([5, 1, 2, 4])).item() == 3.0


def test_searchsorted_promotes():
    found = mx.searchsorted(mx.array([1, 3, 5]), mx.array([0.5, 3.0, 9.0]), "right")
    assert found.tolist() == [0, 2, 3]
    assert found.dtype is mx.uint32


def test_gradient_of_the_gradient_of_sort():
    x = mx.array([3.0, 1.0, 2.0])
    weights = mx.array([1.0, 10.0, 100.0])
    first = mx.grad(lambda t: mx.sum(mx.sort(t) ** 3 * weights))
    second = mx.grad(lambda t: mx.sum(first(t)))
    assert first(x).tolist() == [2700.0, 3.0, 120.0]
    assert second(x).tolist() == [1800.0, 6.0, 120.0]


def test_refusals_leave_the_operand_alone():
    x = mx.array([[3, 1, 2]])
    for call, error in [(lambda: mx.sort(x, 2), AxisError), (lambda: mx.partition(x, 3), InvalidValueError),
                        (lambda: mx.topk(x, 4), InvalidValueError), (lambda: mx.unique(x, -1), InvalidValueError)]:
        with pytest.raises(error):
            call()
    assert x.tolist() == [[3, 1, 2]]
