"""Functions that answer plain calls in C are, for everybody else, the Python functions that they stand for."""

import copy
import inspect
import pickle

import numpy as np
import pytest

import mlxr as mx
from mlxr.core.function import Function


def test_elementwise_ops_and_barriers_are_such_functions():
    assert all(type(f) is Function for f in (mx.add, mx.exp, mx.eval, mx.async_eval))


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: mx.add(x, y),
        lambda x, y: mx.add(x, y, None),
        lambda x, y: mx.add(x, b=y),
        lambda x, y: mx.add(b=y, a=x),
        lambda x, y: mx.add(x, y, stream=mx.cpu),
        lambda x, y: mx.add(*[x, y]),
        lambda x, y: x + y,
        lambda x, y: mx.add(x, np.asarray(y)),
    ],
)
def test_all_ways_to_call_agree(call):
    x, y = mx.array([1.0, 2.0]), mx.array([3.0, 5.0])
    assert call(x, y).tolist() == [4.0, 7.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: mx.exp(),
        lambda x: mx.exp(x, x),
        lambda x: mx.exp(a=x),
        lambda x: mx.add(x),
        lambda x: mx.add(x, x, y=1),
    ],
)
def test_wrong_arguments_are_type_errors(call):
    with pytest.raises(TypeError, match="argument"):
        call(mx.array([1.0]))


def test_it_tells_what_a_python_function_tells():
    assert str(inspect.signature(mx.exp)) == "(a, /, *, stream=None)"
    assert str(inspect.signature(mx.add)) == "(a, b, stream=None)"
    assert (mx.exp.__name__, mx.exp.__qualname__, mx.exp.__module__) == ("exp", "exp", "mlxr")
    assert mx.exp.__doc__.startswith("Return the elementwise exponential")
    assert repr(mx.exp) == "<function exp>"
    with pytest.raises(AttributeError):
        _ = mx.exp.nothing_of_the_kind


def test_it_is_pickled_by_name_and_copied_as_itself():
    assert pickle.loads(pickle.dumps(mx.add)) is mx.add
    assert copy.deepcopy([mx.exp])[0] is mx.exp


def test_it_is_a_method_where_it_is_an_attribute_of_a_class():
    class Number:
        values = mx.array([-1.0])
        doubled = mx.add

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values)

    assert Number().doubled(1.0).tolist() == [0.0]


def test_it_is_not_made_by_hand():
    with pytest.raises(TypeError, match="made by"):
        Function()


def test_eval_takes_trees_and_any_number_of_them():
    x = mx.array([1.0])
    assert mx.eval() is None
    assert mx.eval(x) is None
    assert mx.eval({"a": [x, (x, None)]}, x, 3) is None
    assert mx.async_eval([x], x) is None


@pytest.mark.parametrize("ndim", [6, 7, 12])
def test_tensors_of_many_axes_keep_their_extents(ndim):
    shape = (2,) + (1,) * (ndim - 2) + (3,)
    x = mx.array(np.arange(6, dtype=np.float32).reshape(shape))
    view = x.transpose()
    assert view.shape == shape[::-1]
    y = mx.zeros((1,))
    for _ in range(3):  # the block of extents is given back, not kept
        y += x
        assert y.shape == shape
    del x
    assert (view + view).sum().item() == 30.0
    assert y.tolist() == (view.transpose() * 3).tolist()
