"""What layers promise beyond the values of one call: errors, randomness, statistics, and how parameters start."""

from __future__ import annotations

import numpy as np
import pytest

import mlxr as mx
from mlxr import nn
from mlxr.errors import InvalidValueError, ShapeError, UnsupportedOpError
from mlxr.utils import tree_flatten

X = mx.ones((2, 6, 6, 4))


def require_mode(mode: str) -> None:
    """Skip the test where no kernel quantizes in `mode`."""
    try:
        mx.quantize(mx.ones((2, 64)), mode=mode)
    except UnsupportedOpError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LayerNorm(4, eps=0),
        lambda: nn.RMSNorm(4, eps=-1.0),
        lambda: nn.BatchNorm(4, eps=float("nan")),
        lambda: nn.InstanceNorm(4, eps=0),
        lambda: nn.GroupNorm(0, 4),
        lambda: nn.GroupNorm(3, 4),
        lambda: nn.GroupNorm(2, -4),
        lambda: nn.Dropout(1.0),
        lambda: nn.Dropout2d(-0.1),
        lambda: nn.GELU("exact"),
        lambda: nn.MultiHeadAttention(8, 3),
        lambda: nn.SinusoidalPositionalEncoding(5),
        lambda: nn.SinusoidalPositionalEncoding(0),
        lambda: nn.RNN(4, 3, nonlinearity="tanh"),
        lambda: nn.MaxPool1d(0),
        lambda: nn.MaxPool2d(2, stride=(1, 0)),
        lambda: nn.AvgPool2d(2, padding=-1),
        lambda: nn.AvgPool3d((2, 2)),
        lambda: nn.MaxPool1d(1.5),
        lambda: nn.Conv2d(3, 4, 3, groups=2),
        lambda: nn.Upsample(2, mode="area"),
        lambda: nn.Upsample(2, antialias=True),
        lambda: nn.Upsample(2, mode="linear", align_corners=True, antialias=True),
        lambda: nn.QuantizedLinear(64, 64, mode="int4"),
        lambda: nn.Linear(64, 64).to_quantized(quantize_input=True),
        lambda: nn.Embedding(8, 64).to_quantized(quantize_input=True),
        lambda: nn.losses.cross_entropy(X, X, label_smoothing=1.0),
        lambda: nn.losses.mse_loss(X, X, reduction="max"),
        lambda: nn.init.he_normal()(X, mode="fan"),
    ],
)
def test_bad_values(make) -> None:
    with pytest.raises(InvalidValueError) as raised:
        make()
    assert isinstance(raised.value, ValueError)
    assert raised.value.facts


@pytest.mark.parametrize(
    "call",
    [
        lambda: nn.InstanceNorm(4)(mx.ones((2, 4))),
        lambda: nn.BatchNorm(4)(mx.ones((4,))),
        lambda: nn.BatchNorm(4)(mx.ones((1, 1, 4))),
        lambda: nn.Dropout2d()(mx.ones((2, 4))),
        lambda: nn.Dropout3d()(mx.ones((2, 3, 4))),
        lambda: nn.MaxPool2d(2)(mx.ones((2, 4, 4))),
        lambda: nn.MaxPool1d(5)(mx.ones((2, 4, 4))),
        lambda: nn.Upsample(2)(mx.ones((2, 4))),
        lambda: nn.Upsample((2, 2))(mx.ones((2, 4, 3))),
        lambda: nn.losses.mse_loss(X, X[0]),
        lambda: nn.losses.cross_entropy(mx.ones((4, 5)), mx.array([0, 1, 2])),
        lambda: nn.losses.cross_entropy(mx.ones((4, 5)), mx.ones((4, 6))),
        lambda: nn.losses.cross_entropy(mx.ones((1, 5)), mx.array([0]), weights=mx.ones((2,))),
        lambda: nn.losses.margin_ranking_loss(X, X, X[0]),
        lambda: nn.init.identity()(mx.ones((2, 3))),
        lambda: nn.init.sparse(0.5)(mx.ones((2,))),
        lambda: nn.init.orthogonal()(mx.ones((2, 2, 2))),
        lambda: nn.init.glorot_normal()(mx.ones((2,))),
    ],
)
def test_bad_shapes(call) -> None:
    with pytest.raises(ShapeError) as raised:
        call()
    assert isinstance(raised.value, ValueError)
    assert raised.value.shapes


# ---- dropout ----


@pytest.mark.parametrize(
    ("layer", "shape", "together"),
    [
        (nn.Dropout(0.25), (40, 50, 5), ()),
        (nn.Dropout2d(0.25), (40, 3, 4, 50), (1, 2)),
        (nn.Dropout2d(0.25), (3, 4, 1000), (0, 1)),
        (nn.Dropout3d(0.25), (40, 2, 3, 4, 50), (1, 2, 3)),
    ],
)
def test_dropout(layer, shape, together) -> None:
    mx.random.seed(3)
    y = np.array(layer(mx.ones(shape)))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
    kept = (y > 0).mean(axis=together) if together else (y > 0)
    assert set(np.unique(kept)) == {0, 1}  # channels are dropped whole
    assert abs(kept.mean() - 0.75) < 0.05
    assert (np.array(layer(mx.ones(shape))) != y).any()
    x = mx.ones(shape)
    assert layer.eval()(x) is x
    layer.train()


# ---- statistics ----


def test_batch_norm_tracks_statistics_without_training_them() -> None:
    generator = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm(3))
    norm = model.layers[1]
    model.unfreeze()
    names = {name for name, _ in tree_flatten(model.trainable_parameters())}
    assert names == {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"}
    assert {"layers.1.running_mean", "layers.1.running_var"} <= {n for n, _ in tree_flatten(model.parameters())}
    step = nn.value_and_grad(model, lambda x: model(x).square().sum())
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(5):
        x = generator.standard_normal((16, 4)).astype(np.float32)
        before = np.array(model.layers[0](mx.array(x)))
        step(mx.array(x))
        mean = 0.9 * mean + 0.1 * before.mean(0)
        variance = 0.9 * variance + 0.1 * before.var(0, ddof=1)
    np.testing.assert_allclose(np.array(norm.running_mean), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.array(norm.running_var), variance, rtol=1e-4)
    model.eval()
    model(mx.array(x))
    np.testing.assert_allclose(np.array(norm.running_mean), mean, rtol=1e-4, atol=1e-5)


def test_batch_norm_evaluates_single_samples() -> None:
    assert nn.BatchNorm(3).eval()(mx.ones((1, 3))).shape == (1, 3)


# ---- recurrent ----


def test_rnn_takes_a_module_as_nonlinearity() -> None:
    mx.random.seed(0)
    layer = nn.RNN(4, 3, nonlinearity=nn.ReLU())
    hidden = np.array(layer(mx.ones((2, 5, 4))))
    assert hidden.min() == 0
    assert "nonlinearity" in layer.children()


# ---- quantized ----


def test_quantize_replaces_layers() -> None:
    model = nn.Sequential(nn.Embedding(8, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    tokens = mx.array([[1, 2, 3]])
    exact = np.array(model(tokens))
    nn.quantize(model, 32, 8, class_predicate=lambda path, m: hasattr(m, "to_quantized") and path != "layers.3")
    kinds = [type(layer) for layer in model.layers]
    assert kinds == [nn.QuantizedEmbedding, nn.QuantizedLinear, nn.ReLU, nn.Linear]
    assert {name for name, _ in tree_flatten(model.trainable_parameters())} == {
        "layers.1.bias",  # which is not quantized, so it can be trained
        "layers.3.weight",
        "layers.3.bias",
    }
    np.testing.assert_allclose(np.array(model(tokens)), exact, atol=0.02)
    nn.quantize(model, class_predicate=lambda path, m: {"group_size": 64, "bits": 4} if path == "layers.3" else False)
    assert (model.layers[3].group_size, model.layers[3].bits) == (64, 4)
    assert model.layers[0].as_linear(mx.ones((2, 64))).shape == (2, 8)


def test_quantize_refuses() -> None:
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(InvalidValueError) as raised:
        nn.quantize(model, class_predicate=lambda path, m: True)
    assert raised.value.path == "layers.0"
    with pytest.raises(InvalidValueError):
        nn.quantize(nn.Sequential(nn.Linear(64, 64)), class_predicate=lambda path, m: "yes")
    with pytest.raises(UnsupportedOpError):
        nn.QQLinear.from_linear(nn.Linear(64, 64))


@pytest.mark.parametrize(
    ("mode", "keys"), [("affine", {"weight", "scales", "biases"}), ("mxfp4", {"weight", "scales"})]
)
def test_quantized_parameters(mode: str, keys: set[str]) -> None:
    require_mode(mode)
    layer = nn.Linear(64, 32, bias=False).to_quantized(mode=mode)
    assert {name for name, _ in tree_flatten(layer.parameters())} == keys
    assert layer(mx.ones((2, 64))).shape == (2, 32)
    assert not layer.trainable_parameters()


def test_qqlinear_keeps_its_weight_while_training() -> None:
    require_mode("mxfp8")
    layer = nn.Linear(64, 32, bias=False)
    trained = layer.to_quantized(mode="mxfp8", quantize_input=True)
    np.testing.assert_array_equal(np.array(trained.weight), np.array(layer.weight))
    printed = repr(trained)
    trained.eval()
    assert {name: a.dtype for name, a in trained.parameters().items()} == {"weight": mx.uint32, "scales": mx.uint8}
    assert repr(trained) == printed
    trained.train()
    assert set(trained.parameters()) == {"weight"}
    weight = np.array(trained.weight.astype(mx.float32))
    np.testing.assert_allclose(weight, np.array(layer.weight), rtol=0.1, atol=0.005)


# ---- how parameters start ----


def test_linear_starts_within_its_limit() -> None:
    mx.random.seed(0)
    layer = nn.Linear(100, 400)
    for parameter in (layer.weight, layer.bias):
        values = np.array(parameter)
        assert np.abs(values).max() <= 0.1
        assert abs(values.std() - 0.1 / np.sqrt(3)) < 0.005
    assert abs(np.array(nn.Embedding(400, 100).weight).std() - 0.1) < 0.002


@pytest.mark.parametrize(
    ("initializer", "std", "largest"),
    [
        (nn.init.normal(1.0, 0.5), 0.5, None),
        (nn.init.uniform(-1, 1), 1 / np.sqrt(3), 1),
        (nn.init.glorot_normal(), np.sqrt(2 / 500), None),
        (nn.init.glorot_uniform(), np.sqrt(2 / 500), np.sqrt(6 / 500)),
        (nn.init.he_normal(), np.sqrt(1 / 300), None),
        (nn.init.he_uniform(), np.sqrt(1 / 300), np.sqrt(3 / 300)),
        (lambda a: nn.init.he_normal()(a, mode="fan_out", gain=2.0), 2 * np.sqrt(1 / 200), None),
        (lambda a: nn.init.glorot_uniform()(a, 0.5), 0.5 * np.sqrt(2 / 500), 0.5 * np.sqrt(6 / 500)),
    ],
)
def test_initializers(initializer, std, largest) -> None:
    mx.random.seed(1)
    values = np.array(initializer(mx.zeros((200, 300))))
    assert values.shape == (200, 300)
    assert values.dtype == np.float32
    assert abs(values.std() / std - 1) < 0.02
    if largest is not None:
        assert np.abs(values).max() <= largest * (1 + 1e-6)


def test_fans_count_the_kernel() -> None:
    mx.random.seed(1)
    values = np.array(nn.init.he_normal()(mx.zeros((50, 3, 3, 40))))
    assert abs(values.std() / np.sqrt(1 / 360) - 1) < 0.05


def test_initializers_of_structure() -> None:
    mx.random.seed(2)
    np.testing.assert_array_equal(np.array(nn.init.constant(0.5)(mx.zeros((2, 3)))), np.full((2, 3), 0.5))
    assert nn.init.constant(1, mx.float16)(mx.zeros((2,))).dtype == mx.float16
    np.testing.assert_array_equal(np.array(nn.init.identity()(mx.zeros((3, 3)))), np.eye(3))
    sparse = np.array(nn.init.sparse(0.3, mean=5.0)(mx.zeros((20, 10))))
    np.testing.assert_array_equal((sparse == 0).sum(axis=1), np.full(20, 3))


@pytest.mark.skipif(not hasattr(mx.linalg, "qr"), reason="mlxr has no linalg.qr yet")
def test_orthogonal() -> None:
    mx.random.seed(2)
    tall = np.array(nn.init.orthogonal(2.0)(mx.zeros((6, 4))))
    np.testing.assert_allclose(tall.T @ tall, 4 * np.eye(4), atol=1e-5)
    wide = np.array(nn.init.orthogonal()(mx.zeros((4, 6))))
    np.testing.assert_allclose(wide @ wide.T, np.eye(4), atol=1e-5)
