"""grad, value_and_grad, vjp, jvp, checkpoint, custom functions: what they return, nest to, and refuse."""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import ArgumentTypeError, InvalidValueError, MlxrError, ShapeError, TransformError

X = mx.array([0.3, -1.2, 2.0])


def close(got, wanted) -> None:
    np.testing.assert_allclose(np.array(got), np.asarray(wanted), rtol=2e-6, atol=1e-6)


def test_value_and_grad_agree_with_the_function() -> None:
    value, gradient = mx.value_and_grad(lambda x: (x * x).sum())(X)
    close(value, (np.array(X) ** 2).sum())
    close(gradient, 2 * np.array(X))


def test_auxiliary_results_pass_through() -> None:
    (value, extra, text), gradient = mx.value_and_grad(lambda x: ((x * 3).sum(), x + 1, "note"))(X)
    close(value, 3 * np.array(X).sum())
    close(extra, np.array(X) + 1)
    assert text == "note"
    close(gradient, [3, 3, 3])


class Pair(NamedTuple):
    left: mx.array
    right: mx.array


def test_gradients_have_the_structure_of_their_argument() -> None:
    tree = {"a": X, "b": [X * 2, (X * 3, {"c": mx.array(2.0)})], "pair": Pair(X, X), "none": None}

    def loss(t):
        return (t["a"] * t["b"][0]).sum() + (t["b"][1][0] * t["b"][1][1]["c"]).sum() + (t["pair"].left * 5).sum()

    gradient = mx.grad(loss)(tree)
    close(gradient["a"], 2 * np.array(X))
    close(gradient["b"][0], np.array(X))
    close(gradient["b"][1][0], [2, 2, 2])
    close(gradient["b"][1][1]["c"], 3 * np.array(X).sum())
    assert isinstance(gradient["pair"], Pair)
    close(gradient["pair"].left, [5, 5, 5])
    close(gradient["pair"].right, [0, 0, 0])
    assert gradient["none"] is None


def test_unused_argument_has_a_zero_gradient() -> None:
    a, b = mx.grad(lambda a, b: (a * 2).sum(), argnums=(0, 1))(X, mx.ones((2, 2), mx.float16))
    close(a, [2, 2, 2])
    assert b.dtype is mx.float16
    assert b.tolist() == [[0, 0], [0, 0]]


def test_the_same_tensor_twice() -> None:
    close(mx.grad(lambda a, b: (a * b).sum())(X, X), np.array(X))
    close(mx.grad(lambda a, b: (a * b).sum(), argnums=(0, 1))(X, X)[1], np.array(X))
    close(mx.grad(lambda t: (t[0] * t[1]).sum())([X, X])[0], np.array(X))


@pytest.mark.parametrize(("function", "derivatives"), [
    (lambda x: x**4, (lambda x: 4 * x**3, lambda x: 12 * x**2, lambda x: 24 * x)),
    (mx.sin, (math.cos, lambda x: -math.sin(x), lambda x: -math.cos(x))),
    (mx.exp, (math.exp, math.exp, math.exp)),
    (lambda x: mx.log(x) * x, (lambda x: math.log(x) + 1, lambda x: 1 / x, lambda x: -1 / x**2)),
    (mx.tanh, (
        lambda x: 1 - math.tanh(x) ** 2, lambda x: -2 * math.tanh(x) * (1 - math.tanh(x) ** 2),
        lambda x: (1 - math.tanh(x) ** 2) * (6 * math.tanh(x) ** 2 - 2))),
])
def test_three_orders(function, derivatives) -> None:
    x = 0.7
    for wanted in derivatives:
        function = mx.grad(function)
        got = function(mx.array(x, mx.float64))
        assert got.dtype is mx.float64
        assert abs(got.item() - wanted(x)) < 1e-12


def test_nested_transforms_keep_their_variables_apart() -> None:
    # d/dx (x * d/dy (x + y)) = 1, not 2: the inner gradient must not see x.
    close(mx.grad(lambda x: x * mx.grad(lambda y: x + y)(mx.array(1.0)))(mx.array(5.0)), 1.0)
    # d/dx (x * d/dy (x * y)) = 2x
    close(mx.grad(lambda x: x * mx.grad(lambda y: x * y)(mx.array(1.0)))(mx.array(5.0)), 10.0)


def test_closures_are_constants_of_the_inner_transform_alone() -> None:
    scale = mx.array(3.0)
    close(mx.grad(lambda x: (x * scale).sum())(X), [3, 3, 3])

    def outer(s):
        return (mx.grad(lambda x: (x * x * s).sum())(X)).sum()

    close(mx.grad(outer)(scale), 2 * np.array(X).sum())


def test_hessian_vector_product() -> None:
    def f(x):
        return (x[0] ** 2 * x[1] + mx.sin(x[1]) * x[2]).reshape(())

    v = mx.array([1.0, -2.0, 0.5])
    a, b, c = np.array(X, np.float64)
    hessian = np.array([[2 * b, 2 * a, 0], [2 * a, -math.sin(b) * c, math.cos(b)], [0, math.cos(b), 0]])
    close(mx.grad(lambda x: (mx.grad(f)(x) * v).sum())(X), hessian @ np.array(v))
    close(mx.jvp(mx.grad(f), [X], [v])[1][0], hessian @ np.array(v))


def test_vjp_and_jvp_are_transposes() -> None:
    def f(x, y):
        return [mx.sin(x) @ y, (x * 2).sum(), mx.softmax(y, -1)]

    rng = np.random.default_rng(0)
    x, y, dx, dy = (mx.array(rng.standard_normal(s).astype(np.float32)) for s in ((2, 3), (3, 4), (2, 3), (3, 4)))
    outputs, tangents = mx.jvp(f, [x, y], [dx, dy])
    cotangents = [mx.array(rng.standard_normal(o.shape).astype(np.float32)) for o in outputs]
    again, gradients = mx.vjp(f, [x, y], cotangents)
    for a, b in zip(outputs, again, strict=True):
        close(a, np.array(b))
    left = sum(float((t * c).sum()) for t, c in zip(tangents, cotangents, strict=True))
    right = sum(float((g * d).sum()) for g, d in zip(gradients, (dx, dy), strict=True))
    assert abs(left - right) < 1e-4


def test_vjp_of_one_output() -> None:
    outputs, gradients = mx.vjp(mx.exp, [X], [mx.ones((3,))])
    close(outputs[0], np.exp(np.array(X)))
    close(gradients[0], np.exp(np.array(X)))


def test_stop_gradient() -> None:
    close(mx.grad(lambda x: (x * mx.stop_gradient(x)).sum())(X), np.array(X))
    close(mx.grad(lambda x: (mx.stop_gradient(x * x)).sum() + x.sum())(X), [1, 1, 1])


def test_integers_and_comparisons_are_constants() -> None:
    close(mx.grad(lambda x: mx.where(x > 0, x, 0.0).sum())(X), [1, 0, 1])
    close(mx.grad(lambda x: (x * mx.argmax(x)).sum())(X), [2, 2, 2])
    close(mx.grad(lambda x: (x.astype(mx.int32) * x).sum())(X), [0, -1, 2])
    close(mx.grad(lambda x: x[mx.argsort(x)][0])(X), [0, 1, 0])


def test_broadcast_operands_get_summed_gradients() -> None:
    a, b = mx.grad(lambda a, b: (a * b).sum(), (0, 1))(mx.ones((3, 1)), mx.ones((2, 1, 4)))
    assert a.tolist() == [[8.0]] * 3
    assert b.tolist() == [[[3.0] * 4]] * 2


def test_dtype_of_mixed_gradients() -> None:
    a, b = mx.grad(lambda a, b: (a * b).sum(), (0, 1))(mx.ones((3,), mx.float16), mx.ones((3,), mx.float32))
    assert (a.dtype, b.dtype) == (mx.float16, mx.float32)


def test_in_place_updates_are_differentiated() -> None:
    def f(x):
        y = x * 1
        y += x
        y *= 3
        y[0] = 5.0
        y[1] = x[2] * x[2]
        y[2:] += x[:1]
        return y.sum()

    close(mx.grad(f)(X), [1, 0, 2 * 2.0 + 6])
    assert X.tolist() == mx.array([0.3, -1.2, 2.0]).tolist()


def test_argument_updated_in_place_inside() -> None:
    def f(x):
        x += 1
        x *= x
        return x.sum()

    source = mx.array([1.0, 2.0])
    close(mx.grad(f)(source), [4, 6])
    assert source.tolist() == [1, 2]


def test_at_updates_are_differentiated() -> None:
    index = mx.array([0, 2, 0])
    x, v = mx.grad(lambda x, v: (x.at[index].add(v) ** 2).sum(), (0, 1))(X, mx.ones((3,)))
    changed = np.array(X) + np.array([2, 0, 1])
    close(x, 2 * changed)
    close(v, 2 * changed[[0, 2, 0]])


def test_indexing_repeats_accumulate() -> None:
    close(mx.grad(lambda x: x[mx.array([0, 0, 1])].sum())(X), [2, 1, 0])
    close(mx.grad(lambda x: (x[::-1] * mx.arange(3)).sum())(X), [2, 1, 0])


def test_tensor_that_leaks_out_is_a_constant() -> None:
    leaked = []

    def f(x):
        leaked.append(x * 2)
        return leaked[0].sum()

    close(mx.grad(f)(X), [2, 2, 2])
    close(mx.grad(lambda x: (x * leaked[0]).sum())(X), 2 * np.array(X))
    close(leaked[0] + 1, 2 * np.array(X) + 1)


def test_tape_ends_when_the_function_raises() -> None:
    def f(x):
        (x * 2).sum()
        raise KeyError

    for _ in range(3):
        with pytest.raises(KeyError):
            mx.grad(f)(X)
    close(mx.grad(lambda x: (x * x).sum())(X), 2 * np.array(X))


def test_memory_is_released_after_a_transform() -> None:
    x = mx.ones((256, 256))

    def f(x):
        for _ in range(20):
            x = mx.tanh(x @ x * 1e-3)
        return x.sum()

    mx.grad(f)(x)
    before = mx.get_active_memory()
    for _ in range(3):
        mx.grad(f)(x)
    assert mx.get_active_memory() == before


def test_checkpoint_gives_the_same_gradients_with_less_memory() -> None:
    def block(x, w):
        for _ in range(8):
            x = mx.tanh(x @ w)
        return x

    x, w = mx.ones((128, 128)) * 0.01, mx.eye(128) * 0.9

    def loss(f):
        def total(x, w):
            for _ in range(4):
                x = f(x, w)
            return x.sum()

        return total

    def peak(f):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        result = mx.grad(loss(f), (0, 1))(x, w)
        return mx.get_peak_memory() - before, result

    plain, wanted = peak(block)
    lean, got = peak(mx.checkpoint(block))
    assert lean < 0.6 * plain
    for a, b in zip(got, wanted, strict=True):
        assert np.array_equal(np.array(a), np.array(b))
    close(mx.checkpoint(block)(x, w), np.array(block(x, w)))


def test_checkpoint_of_second_order_and_of_keywords() -> None:
    f = mx.checkpoint(lambda x, scale=1.0: (mx.sin(x) * scale).sum())
    close(mx.grad(lambda x: mx.grad(f)(x).sum())(X), -np.sin(np.array(X)))
    close(mx.grad(lambda x: f(x, scale=3.0))(X), 3 * np.cos(np.array(X)))


def test_custom_function() -> None:
    @mx.custom_function
    def f(x, y):
        return x * y

    @f.vjp
    def f_vjp(primals, cotangent, output):
        x, y = primals
        return 10 * cotangent * y, 100 * cotangent * x

    close(f(X, X), np.array(X) ** 2)
    a, b = mx.grad(lambda x, y: f(x, y).sum(), (0, 1))(X, X + 1)
    close(a, 10 * (np.array(X) + 1))
    close(b, 100 * np.array(X))


def test_custom_function_without_a_rule_is_the_function() -> None:
    f = mx.custom_function(lambda x: x * x)
    close(mx.grad(lambda x: f(x).sum())(X), 2 * np.array(X))


def test_gradient_rule_may_take_a_gradient() -> None:
    @mx.custom_function
    def f(x):
        return mx.sin(x)

    @f.vjp
    def f_vjp(primals, cotangent, output):
        return cotangent * mx.grad(lambda x: mx.sin(x).sum())(primals)

    close(mx.grad(lambda x: f(x).sum())(X), np.cos(np.array(X)))
    close(mx.grad(lambda x: mx.grad(lambda x: f(x).sum())(x).sum())(X), -np.sin(np.array(X)))


def test_gradient_inside_a_custom_function_and_a_checkpoint() -> None:
    def slope(x):
        return mx.grad(lambda t: (t**3).sum())(x)

    f = mx.custom_function(slope)
    f.vjp(lambda primals, cotangent, output: cotangent * 7)
    close(mx.grad(lambda x: f(x).sum())(X), [7, 7, 7])
    close(mx.grad(lambda x: mx.checkpoint(slope)(x).sum())(X), 6 * np.array(X))


@pytest.mark.parametrize("order", [1, 2])
def test_threads_have_tapes_of_their_own(order) -> None:
    results, errors = {}, []

    def work(k: int) -> None:
        try:
            for _ in range(30):
                function = lambda x: (mx.sin(x * k)).sum()  # noqa: E731
                for _ in range(order - 1):
                    inner = function
                    function = lambda x, inner=inner: mx.grad(inner)(x).sum()  # noqa: E731
                results[k] = np.array(mx.grad(function)(X))
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(1, 7)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    for k, got in results.items():
        x = np.array(X)
        wanted = k * np.cos(k * x) if order == 1 else -k * k * np.sin(k * x)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("attempt", "error"), [
    (lambda: mx.grad(lambda x: x)(X), ShapeError),
    (lambda: mx.grad(lambda x: 3.0)(X), ArgumentTypeError),
    (lambda: mx.grad(lambda x: (x > 0).sum())(X), TransformError),
    (lambda: mx.grad(lambda x: x.sum(), argnums=1)(X), InvalidValueError),
    (lambda: mx.grad(lambda x: x.sum(), argnums=(0, 0)), InvalidValueError),
    (lambda: mx.grad(lambda x: x.sum(), argnums=-1), InvalidValueError),
    (lambda: mx.grad(lambda x: x.sum(), argnames="y")(X), InvalidValueError),
    (lambda: mx.grad(lambda x: x.sum())("text"), ArgumentTypeError),
    (lambda: mx.vjp(mx.exp, [X], [mx.ones((2,))]), ShapeError),
    (lambda: mx.vjp(mx.exp, [X], []), InvalidValueError),
    (lambda: mx.jvp(mx.exp, [X], [mx.ones((2,))]), ShapeError),
])
def test_misuse_is_a_typed_error(attempt, error) -> None:
    with pytest.raises(error) as caught:
        attempt()
    assert isinstance(caught.value, MlxrError)
    close(mx.grad(lambda x: x.sum())(X), [1, 1, 1])


UPSTREAM = {
    "attention": lambda mx, x, w: (mx.softmax((x @ w) @ (x @ w).T, -1) @ x).sum(),
    "norm": lambda mx, x, w: (mx.fast.layer_norm(x @ w, None, None, 1e-5) * x).sum(),
    "pieces": lambda mx, x, w: mx.logsumexp(mx.concatenate([x[1:], w[:2] * 2]).reshape(-1)[::2], -1),
    "extremes": lambda mx, x, w: (mx.maximum(x, x @ w).max(0) * mx.minimum(w[0], 0.1)).sum(),
    "scan": lambda mx, x, w: (mx.cumsum(x, 0) * mx.tanh(w[:3])).sum(),
    "powers": lambda mx, x, w: (mx.abs(x) ** 1.5 + mx.sqrt(mx.abs(w[:3]) + 1)).sum(),
    "take": lambda mx, x, w: (mx.take(w, mx.array([1, 1, 3]), axis=0) * x).sum(),
}


@pytest.mark.parametrize("name", UPSTREAM)
def test_gradients_are_upstreams(name) -> None:
    upstream = pytest.importorskip("mlx.core")
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal((4, 4)).astype(np.float32)
    ours = mx.value_and_grad(lambda x, w: UPSTREAM[name](mx, x, w), (0, 1))(mx.array(x), mx.array(w))
    with upstream.stream(upstream.cpu):
        theirs = upstream.value_and_grad(lambda x, w: UPSTREAM[name](upstream, x, w), (0, 1))(
            upstream.array(x), upstream.array(w))
        for a, b in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
            np.testing.assert_allclose(np.array(a), np.array(b), rtol=3e-5, atol=1e-5)
