"""What optimizers promise beyond the values of some steps: state, files, schedules, dtypes, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mlxr as mx
from mlxr import nn, optimizers
from mlxr.errors import InvalidValueError
from mlxr.utils import tree_flatten, tree_map, tree_unflatten

ALL = {
    "SGD": lambda: optimizers.SGD(1e-2, momentum=0.9),
    "RMSprop": lambda: optimizers.RMSprop(1e-3),
    "Adagrad": lambda: optimizers.Adagrad(1e-2),
    "AdaDelta": lambda: optimizers.AdaDelta(1.0),
    "Adam": lambda: optimizers.Adam(1e-2, bias_correction=True),
    "AdamW": lambda: optimizers.AdamW(optimizers.cosine_decay(1e-2, 10)),
    "Adamax": lambda: optimizers.Adamax(1e-2),
    "Lion": lambda: optimizers.Lion(1e-3),
    "Adafactor": lambda: optimizers.Adafactor(beta_1=0.9),
    "Muon": lambda: optimizers.Muon(1e-2),
    "MultiOptimizer": lambda: optimizers.MultiOptimizer(
        [optimizers.Muon(1e-2), optimizers.Adam(1e-3)], [lambda path, g: g.ndim == 2]
    ),
}


def flat(tree) -> dict[str, np.ndarray]:
    return {k: np.array(v) for k, v in tree_flatten(tree)}


def problem() -> tuple[nn.Module, mx.array, mx.array]:
    """Return a model, inputs and targets."""
    generator = np.random.default_rng(0)
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x = mx.array(generator.standard_normal((16, 4)).astype(np.float32))
    y = mx.array(generator.standard_normal((16, 2)).astype(np.float32))
    return model, x, y


def steps(optimizer, model: nn.Module, x: mx.array, y: mx.array, count: int) -> list[float]:
    """Take some steps; return the losses before each."""
    function = nn.value_and_grad(model, lambda: nn.losses.mse_loss(model(x), y))
    losses = []
    for _ in range(count):
        loss, gradients = function()
        optimizer.update(model, gradients)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ALL)
def test_steps_lower_the_loss(name: str) -> None:
    losses = steps(ALL[name](), *problem(), 30)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ALL)
def test_state_goes_through_a_file(name: str, tmp_path: Path) -> None:
    model, x, y = problem()
    optimizer = ALL[name]()
    steps(optimizer, model, x, y, 3)
    mx.save_safetensors(str(tmp_path / "state.safetensors"), dict(tree_flatten(optimizer.state)))
    model.save_weights(str(tmp_path / "model.safetensors"))
    steps(optimizer, model, x, y, 3)

    again = problem()[0].load_weights(str(tmp_path / "model.safetensors"))
    loaded = ALL[name]()
    loaded.state = tree_unflatten(mx.load(str(tmp_path / "state.safetensors")))
    steps(loaded, again, x, y, 3)
    for expected, found in (
        (flat(model.parameters()), flat(again.parameters())),
        (flat(optimizer.state), flat(loaded.state)),
    ):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(value, found[key], err_msg=key)


@pytest.mark.parametrize("name", ALL)
def test_init_makes_the_state_of_a_step(name: str) -> None:
    model, x, y = problem()
    before, after = ALL[name](), ALL[name]()
    before.init(model.trainable_parameters())
    steps(after, model, x, y, 1)
    assert {k: v.shape for k, v in flat(before.state).items()} == {k: v.shape for k, v in flat(after.state).items()}


@pytest.mark.parametrize("name", ALL)
def test_half_precision_stays_half(name: str) -> None:
    parameters = {"w": mx.ones((4, 3), dtype=mx.float16), "b": [mx.ones((3,), dtype=mx.float16)]}
    optimizer = ALL[name]()
    for _ in range(2):
        parameters = optimizer.apply_gradients(tree_map(lambda p: p * 0.5, parameters), parameters)
    assert {str(v.dtype) for _, v in tree_flatten(parameters)} == {str(mx.float16)}


def test_state_grows_with_the_parameters() -> None:
    optimizer = optimizers.Adam(1e-2)
    one = mx.ones((2,))
    optimizer.init({"a": one, "layers": [{"w": one}]})
    optimizer.apply_gradients({"a": one, "layers": [{"w": one}]}, {"a": one, "layers": [{"w": one}]})
    moment = optimizer.state["a"]["m"]
    optimizer.init({"a": one, "b": one, "layers": [{"w": one}, {"w": one}]})
    assert optimizer.state["a"]["m"] is moment
    assert set(flat(optimizer.state)) == {
        "step",
        "learning_rate",
        *(f"{p}.{s}" for p in ("a", "b", "layers.0.w", "layers.1.w") for s in "mv"),
    }


def test_only_given_gradients_change_parameters() -> None:
    model, x, y = problem()
    model.layers[0].freeze()
    before = flat(model.parameters())
    steps(optimizers.SGD(0.1), model, x, y, 1)
    changed = {k for k, v in flat(model.parameters()).items() if not np.array_equal(v, before[k])}
    assert changed == {"layers.2.weight", "layers.2.bias"}


def test_learning_rate_and_step() -> None:
    optimizer = optimizers.SGD(0.5)
    w = {"w": mx.ones((1,))}
    assert optimizer.learning_rate.item() == 0.5
    optimizer.learning_rate = 0.25
    assert optimizer.apply_gradients(w, w)["w"].item() == 0.75
    assert optimizer.step.item() == 1
    assert optimizer.step.dtype == mx.uint64

    scheduled = optimizers.SGD(optimizers.linear_schedule(1.0, 0.0, 4))
    rates = []
    for _ in range(6):
        scheduled.apply_gradients(w, w)
        rates.append(scheduled.learning_rate.item())
    np.testing.assert_allclose(rates, [1, 0.75, 0.5, 0.25, 0, 0], atol=1e-7)


def test_other_numbers_can_be_scheduled() -> None:
    optimizer = optimizers.Optimizer(schedulers={"warmth": lambda step: step * 2})
    optimizer.init_single = lambda parameter, state: state.update(kept=parameter)
    optimizer.apply_single = lambda gradient, parameter, state: parameter - gradient * optimizer.state["warmth"]
    w = {"w": mx.array([1.0])}
    for expected in (1.0, -1.0):
        assert optimizer.apply_gradients(w, w)["w"].item() == expected


def test_multi_optimizer() -> None:
    first, second = optimizers.SGD(1.0), optimizers.SGD(0.5)
    multi = optimizers.MultiOptimizer([first, second], [lambda path, g: path.startswith("a")])
    tree = {"a": mx.array([1.0]), "b": [mx.array([1.0]), mx.array([2.0])]}
    new = multi.apply_gradients(tree, tree)
    assert [new["a"].item(), new["b"][0].item(), new["b"][1].item()] == [0.0, 0.5, 1.0]
    assert multi.learning_rate.item() == 1.0
    multi.learning_rate = 0.1
    np.testing.assert_allclose([first.learning_rate.item(), second.learning_rate.item()], [0.1, 0.1])
    with pytest.raises(InvalidValueError):
        multi.state = {"states": [first.state]}
    with pytest.raises(InvalidValueError):
        optimizers.MultiOptimizer([first, second])


def test_clip_grad_norm() -> None:
    tree = {"a": mx.array([3.0]), "b": [mx.array([4.0])]}
    clipped, norm = optimizers.clip_grad_norm(tree, 1.0)
    assert norm.item() == 5.0
    np.testing.assert_allclose([clipped["a"].item(), clipped["b"][0].item()], [0.6, 0.8], rtol=1e-5)
    assert optimizers.clip_grad_norm(tree, 10.0)[0]["a"].item() == 3.0
    large = {"a": mx.full((100,), 1000.0, dtype=mx.float16)}
    clipped, norm = optimizers.clip_grad_norm(large, 1.0)
    assert norm.item() == 10000.0
    assert clipped["a"].dtype == mx.float16


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.SGD(0.1, nesterov=True),
        lambda: optimizers.SGD(0.1, momentum=0.9, dampening=0.1, nesterov=True),
        lambda: optimizers.RMSprop(0.1, alpha=-1),
        lambda: optimizers.RMSprop(0.1, eps=0),
        lambda: optimizers.Adagrad(0.1, eps=-1),
        lambda: optimizers.AdaDelta(0.1, rho=-0.1),
        lambda: optimizers.AdaDelta(0.1, eps=0),
        lambda: optimizers.Adam(0.1, betas=[0.9, 1.0]),
        lambda: optimizers.AdamW(0.1, eps=-1e-8),
        lambda: optimizers.Lion(0.1, betas=[-0.1, 0.9]),
        lambda: optimizers.step_decay(0.1, 0.9, 0),
        lambda: optimizers.cosine_decay(0.1, 0),
        lambda: optimizers.linear_schedule(0.1, 0.2, 0),
        lambda: optimizers.join_schedules([], []),
        lambda: optimizers.join_schedules([lambda step: step], [1]),
        lambda: optimizers.clip_grad_norm({}, -1.0),
    ],
)
def test_bad_values(make) -> None:
    with pytest.raises(InvalidValueError) as raised:
        make()
    assert isinstance(raised.value, ValueError)
    assert raised.value.facts


def test_base_class_has_no_rule() -> None:
    with pytest.raises(NotImplementedError, match="Optimizer"):
        optimizers.Optimizer().apply_gradients({"w": mx.ones((1,))}, {"w": mx.ones((1,))})
