"""What shape gradients have for each way to name the arguments to differentiate; equal to upstream's."""

from __future__ import annotations

import numpy as np
import pytest

import mlxr as mx


def product(a: mx.array, b: mx.array) -> mx.array:
    return (a * b).sum()


A, B = mx.array([1.0, 2.0]), mx.array([3.0, 4.0])


@pytest.mark.parametrize("argnums", [None, 0, [0], (0,)])
def test_one_argument(argnums) -> None:
    np.testing.assert_array_equal(np.array(mx.grad(product, argnums)(A, B)), [3, 4])


def test_several_arguments() -> None:
    value, gradients = mx.value_and_grad(product, argnums=[1, 0])(A, B)
    assert value.item() == 11
    assert isinstance(gradients, tuple)
    np.testing.assert_array_equal(np.array(gradients[0]), [1, 2])
    np.testing.assert_array_equal(np.array(gradients[1]), [3, 4])


@pytest.mark.parametrize("argnames", ["b", ["b"]])
def test_named_arguments(argnames) -> None:
    positional, named = mx.grad(product, argnames=argnames)(A, b=B)
    assert positional is None
    assert set(named) == {"b"}
    np.testing.assert_array_equal(np.array(named["b"]), [1, 2])
    positional, named = mx.grad(product, argnums=[0], argnames=argnames)(A, b=B)
    np.testing.assert_array_equal(np.array(positional), [3, 4])
    np.testing.assert_array_equal(np.array(named["b"]), [1, 2])
