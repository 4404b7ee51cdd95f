"""Every declared gradient against central differences in float64, the gradients of gradients, and their dtypes.

A directional derivative in a random direction sees every element of a gradient at once. The directions avoid kinks by
stepping far less than the samples' spacing, and samples are moved a little, at random, because they like to sit on them
(zero, ties, whole numbers).
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import mlxr as mx
from mlxr.ops.declare import REGISTRY

CASES = [
    pytest.param(op, k, id=f"{op.name}-{k}")
    for op in REGISTRY.values() if mx.float64 in op.dtypes for k in op.differentiable
]
STEP = 1e-5


def off_kinks(rng):
    """Return what makes a float64 tensor of a sample's array, a little beside it."""

    def convert(array):
        if array.dtype.kind == "f":
            array = array + rng.uniform(0.003, 0.02, array.shape) * rng.choice([-1, 1], array.shape)
        return oracle.tensor_of(array, mx.float64)

    return convert


def bound(op, sample, position, rng):
    """Return f(x) of one argument, the others fixed, its value, or None where the sample does not give it a tensor."""
    convert = off_kinks(rng)
    args = [oracle.map_arrays(convert, a) for a in sample.args]
    kwargs = {k: oracle.map_arrays(convert, v) for k, v in sample.kwargs.items()}
    if position >= len(args) or not isinstance(args[position], mx.array) or args[position].size == 0:
        return None

    def function(x):
        return op.function(*args[:position], x, *args[position + 1:], **kwargs)

    return function, args[position]


def weighted(function, rng):
    """Return the sum of f's elements under fixed random weights: a scalar whose gradient is a product with them."""
    weights = {}

    def loss(x):
        total = mx.zeros((), mx.float64)
        for k, y in enumerate(oracle.results(function(x))):
            if k not in weights:
                weights[k] = mx.array(rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1, 1], y.shape), mx.float64)
            # What a scan without its own element starts from is infinite, and constant.
            total = total + mx.where(mx.isfinite(y), y * weights[k], 0.0).sum()
        return total

    return loss


def slope(loss, x, direction):
    """The derivative of `loss` at x along a direction, by central differences of fourth order."""
    def at(t):
        return loss(x + mx.array(t * direction, mx.float64)).item()

    return (8 * (at(STEP) - at(-STEP)) - (at(2 * STEP) - at(-2 * STEP))) / (12 * STEP)


def check(loss, x, rng, tolerance, what) -> None:
    gradient = mx.grad(loss)(x)
    assert gradient.shape == x.shape
    assert gradient.dtype is x.dtype
    gradient = np.array(gradient)
    assert np.isfinite(gradient).all(), what
    for _ in range(2):
        direction = rng.uniform(0.3, 1.0, x.shape) * rng.choice([-1, 1], x.shape)
        wanted = slope(loss, x, direction)
        magnitude = max(float(np.sum(np.abs(gradient * direction))), 1e-2)
        assert abs(float(np.sum(gradient * direction)) - wanted) <= tolerance * magnitude, f"{what}: slope {wanted}"


@pytest.mark.parametrize(("op", "position"), CASES)
def test_gradient_is_the_slope(op, position) -> None:
    rng = np.random.default_rng(1)
    checked = 0
    for index, sample in enumerate(oracle.samples_of(op)):
        case = bound(op, sample, position, rng)
        if case is not None:
            check(weighted(case[0], rng), case[1], rng, 1e-7, f"{op.name} sample {index}")
            checked += 1
    assert checked


@pytest.mark.parametrize(("op", "position"), CASES)
def test_gradient_of_the_gradient_is_the_slope_of_the_gradient(op, position) -> None:
    rng = np.random.default_rng(2)
    for index, sample in enumerate(oracle.samples_of(op)):
        case = bound(op, sample, position, rng)
        if case is None or case[1].size > 64:
            continue
        loss = weighted(case[0], rng)
        check(weighted(mx.grad(loss), rng), case[1], rng, 1e-6, f"{op.name} sample {index}")


@pytest.mark.parametrize(("op", "position"), [c for c in CASES if c.values[0].primitive is not None])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=lambda d: d.name)
def test_gradient_has_the_dtype_of_its_argument(op, position, dtype) -> None:
    if dtype not in op.dtypes:
        return

    def convert(array):
        return oracle.tensor_of(oracle.values_for(array, dtype), dtype)

    for sample in oracle.samples_of(op)[:6]:
        args = [oracle.map_arrays(convert, a) for a in sample.args]
        kwargs = {k: oracle.map_arrays(convert, v) for k, v in sample.kwargs.items()}
        if position < len(args) and isinstance(args[position], mx.array):
            gradient = mx.grad(
                lambda *a, kwargs=kwargs: oracle.results(op.function(*a, **kwargs))[0].sum(), argnums=position)(*args)
            assert gradient.dtype is dtype
            assert gradient.shape == args[position].shape
