"""Transforms inside of the gradients of others."""

from __future__ import annotations

import numpy as np
import pytest

import mlxr as mx

X = mx.array([0.5, -1.0, 2.0])


def cube_by_inner_vjp():
    """Return a function whose gradient is computed by another transform."""

    @mx.custom_function
    def cube(x):
        return x * x * x

    @cube.vjp
    def cube_vjp(primal, cotangent, output):
        return mx.vjp(lambda x: x * x * x, [primal], [cotangent])[1][0]

    return cube


@pytest.mark.parametrize("transform", [lambda f: f, mx.checkpoint])
def test_transform_in_a_gradient(transform) -> None:
    cube = transform(cube_by_inner_vjp())
    np.testing.assert_allclose(np.array(mx.grad(lambda x: cube(x).sum())(X)), 3 * np.array(X) ** 2, rtol=1e-6)
    second = mx.grad(lambda x: mx.grad(lambda y: cube(y).sum())(x).sum())(X)
    np.testing.assert_allclose(np.array(second), 6 * np.array(X), rtol=1e-6)


def test_outer_tape_goes_on_after_an_inner_transform() -> None:
    cube = cube_by_inner_vjp()

    def loss(x):
        inner = mx.grad(lambda y: (y * y).sum())(mx.stop_gradient(x))
        return (cube(x) * inner + x).sum()

    expected = 3 * np.array(X) ** 2 * 2 * np.array(X) + 1
    np.testing.assert_allclose(np.array(mx.grad(loss)(X)), expected, rtol=1e-6)
    np.testing.assert_allclose(np.array(mx.grad(loss)(X)), expected, rtol=1e-6)
