"""Layers and losses as cases that run on any package with MLX's API.

The golden file is made by running them on upstream MLX; the tests run them on mlxr, and on upstream where it is
installed. A case takes the array package and its nn, and returns arrays by name. Nothing here imports either.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def rng(name: str) -> np.random.Generator:
    """Return the generator of a case: its numbers depend on its name alone."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts and lists by dotted path."""
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return {path: tree}
    return {k: v for key, below in items for k, v in leaves(below, f"{path}.{key}" if path else str(key)).items()}


def draw(generator: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Return an input: by `kind`.

    ``f`` is normal, ``p`` positive, ``u`` in (0, 1), ``s`` signs, ``l`` log probabilities, ``i7`` integers below 7.
    """
    if kind.startswith("i"):
        return generator.integers(0, int(kind[1:]), shape).astype(np.int32)
    if kind == "s":
        return generator.choice([-1.0, 1.0], shape).astype(np.float32)
    values = generator.standard_normal(shape)
    if kind == "p":
        values = np.abs(values) + 0.1
    elif kind == "u":
        values = 1 / (1 + np.exp(-values))
    elif kind == "l":
        values = values - np.log(np.exp(values).sum(-1, keepdims=True))
    return values.astype(np.float32)


class Layer:
    """A layer with drawn parameters and inputs: its outputs, and the gradients of a weighted sum of them."""

    def __init__(
        self,
        name: str,
        make: Callable[[Any], Any],
        *inputs: tuple,
        then: Callable[[Any, Any], Any] | None = None,
        grad: bool = True,
        **call: Any,
    ) -> None:
        self.name = name
        self.make = make
        self.inputs = inputs
        self.grad = grad
        self.then = then
        self.call = call

    def run(self, mx: Any, nn: Any) -> Arrays:
        generator = rng(self.name)
        layer = self.make(nn)
        names = leaves(layer.parameters())
        drawn = {
            n: mx.array(draw(generator, tuple(names[n].shape), "p" if n.endswith("running_var") else "f") * 0.5)
            for n in sorted(names)
            if hasattr(names[n], "shape")
        }
        layer.load_weights(list(drawn.items()))
        if self.then:
            layer = self.then(nn, layer)
        inputs = [mx.array(draw(generator, shape, kind)) for shape, kind in self.inputs]
        outputs = leaves(layer(*inputs, **self.call))
        weights = {k: mx.array(draw(generator, tuple(v.shape), "f")) for k, v in sorted(outputs.items())}
        result = {f"out.{k}": np.array(v) for k, v in outputs.items()}
        if not hasattr(layer, "nonlinearity"):  # which is printed with its address
            result["repr"] = np.array(repr(layer))
        for k, v in leaves(layer.parameters()).items():
            if hasattr(v, "shape"):
                result[f"param.{k}"] = np.array(v)
        if self.grad:
            result.update(self.gradients(mx, layer, inputs, weights))
        return result

    def gradients(self, mx: Any, layer: Any, inputs: list, weights: dict[str, Any]) -> Arrays:
        floating = [i for i, (_, kind) in enumerate(self.inputs) if not kind.startswith("i")]

        def total(parameters: Any, floats: list) -> Any:
            layer.update(parameters)
            given = list(inputs)
            for i, value in zip(floating, floats, strict=True):
                given[i] = value
            out = leaves(layer(*given, **self.call))
            return sum((out[k] * weights[k]).sum() for k in sorted(out))

        by_parameter, by_input = mx.grad(total, argnums=(0, 1))(
            layer.trainable_parameters(), [inputs[i] for i in floating]
        )
        found = {f"grad.{k}": v for k, v in leaves(by_parameter).items() if hasattr(v, "shape")}
        found.update({f"grad_input.{k}": v for k, v in leaves(by_input).items()})
        return {k: np.array(v) for k, v in found.items()}


class Call:
    """A function of drawn inputs, and its gradients by the floating ones."""

    def __init__(self, name: str, function: Callable[..., Any], *inputs: tuple, grad: bool = True):
        self.name = name
        self.function = function
        self.inputs = inputs
        self.grad = grad

    def run(self, mx: Any, nn: Any) -> Arrays:
        generator = rng(self.name)
        inputs = [mx.array(draw(generator, shape, kind)) for shape, kind in self.inputs]
        out = self.function(mx, nn, *inputs)
        weights = mx.array(draw(generator, tuple(out.shape), "f"))
        result = {"out": np.array(out)}
        floating = [i for i, (_, kind) in enumerate(self.inputs) if not kind.startswith("i")]
        if self.grad:
            gradient = mx.grad(lambda *a: (self.function(mx, nn, *a) * weights).sum(), argnums=floating)(*inputs)
            found = gradient if len(floating) > 1 else [gradient]
            result.update({f"grad.{i}": np.array(g) for i, g in zip(floating, found, strict=True)})
        return result


def _eval(layer: Any) -> Any:
    layer.eval()
    return layer


ACTIVATIONS = """
celu elu gelu gelu_approx gelu_fast_approx glu hard_shrink hard_tanh hardswish leaky_relu log_sigmoid log_softmax mish
relu relu2 relu6 selu sigmoid silu softmax softmin softplus softshrink softsign tanh
""".split()  # noqa: SIM905

ACTIVATION_MODULES = """
CELU ELU GELU GLU HardShrink HardTanh Hardswish LeakyReLU LogSigmoid LogSoftmax Mish ReLU ReLU2 ReLU6 SELU SiLU Sigmoid
Softmax Softmin Softplus Softshrink Softsign Step Tanh
""".split()  # noqa: SIM905

F = "f"

LAYERS = [
    Layer("Linear", lambda nn: nn.Linear(5, 3), ((4, 5), F)),
    Layer("Linear 3-D", lambda nn: nn.Linear(5, 3), ((2, 4, 5), F)),
    Layer("Linear 1-D", lambda nn: nn.Linear(5, 3), ((5,), F)),
    Layer("Linear bias=False", lambda nn: nn.Linear(5, 3, bias=False), ((4, 5), F)),
    Layer("Identity", lambda nn: nn.Identity(1, x=2), ((4, 5), F)),
    Layer("Bilinear", lambda nn: nn.Bilinear(4, 5, 3), ((6, 4), F), ((6, 5), F)),
    Layer("Bilinear 3-D", lambda nn: nn.Bilinear(4, 5, 3, bias=False), ((2, 6, 4), F), ((2, 6, 5), F)),
    Layer("Embedding", lambda nn: nn.Embedding(7, 4), ((2, 3), "i7")),
    Layer("LayerNorm", lambda nn: nn.LayerNorm(8), ((4, 8), F)),
    Layer("LayerNorm bias=False", lambda nn: nn.LayerNorm(8, bias=False), ((4, 8), F)),
    Layer("LayerNorm affine=False", lambda nn: nn.LayerNorm(8, eps=1e-3, affine=False), ((2, 4, 8), F)),
    Layer("RMSNorm", lambda nn: nn.RMSNorm(8), ((4, 8), F)),
    Layer("GroupNorm", lambda nn: nn.GroupNorm(2, 8), ((2, 3, 3, 8), F)),
    Layer("GroupNorm pytorch", lambda nn: nn.GroupNorm(2, 8, pytorch_compatible=True), ((2, 3, 3, 8), F)),
    Layer("GroupNorm 2-D affine=False", lambda nn: nn.GroupNorm(2, 8, affine=False), ((2, 8), F)),
    Layer("InstanceNorm", lambda nn: nn.InstanceNorm(4), ((2, 5, 4), F)),
    Layer("InstanceNorm affine", lambda nn: nn.InstanceNorm(4, affine=True), ((2, 5, 3, 4), F)),
    Layer("BatchNorm", lambda nn: nn.BatchNorm(4), ((8, 4), F)),
    Layer("BatchNorm 4-D", lambda nn: nn.BatchNorm(4, momentum=0.3), ((2, 3, 3, 4), F)),
    Layer("BatchNorm eval", lambda nn: _eval(nn.BatchNorm(4)), ((2, 3, 4), F)),
    Layer("BatchNorm untracked", lambda nn: nn.BatchNorm(4, affine=False, track_running_stats=False), ((8, 4), F)),
    Layer("Dropout eval", lambda nn: _eval(nn.Dropout(0.3)), ((4, 5), F)),
    Layer("Dropout p=0", lambda nn: nn.Dropout(0), ((4, 5), F)),
    Layer("Sequential", lambda nn: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.tanh, nn.Linear(4, 2)), ((3, 5), F)),
    Layer("PReLU", lambda nn: nn.PReLU(), ((4, 5), F)),
    Layer("PReLU per feature", lambda nn: nn.PReLU(5, 0.1), ((4, 5), F)),
    Layer("GELU tanh", lambda nn: nn.GELU("tanh"), ((4, 5), F)),
    Layer("GELU fast", lambda nn: nn.GELU("fast"), ((4, 5), F)),
    Layer("GLU axis=0", lambda nn: nn.GLU(0), ((4, 5), F)),
    *(
        Layer(name, lambda nn, name=name: getattr(nn, name)(), ((4, 6), F), grad=name != "Step")
        for name in ACTIVATION_MODULES
    ),
    Layer("MultiHeadAttention", lambda nn: nn.MultiHeadAttention(8, 2), ((2, 3, 8), F), ((2, 5, 8), F), ((2, 5, 8), F)),
    Layer(
        "MultiHeadAttention sizes",
        lambda nn: nn.MultiHeadAttention(8, 2, 5, 6, 7, value_dims=4, value_output_dims=3, bias=True),
        ((2, 3, 5), F),
        ((2, 5, 6), F),
        ((2, 5, 7), F),
    ),
    Layer(
        "MultiHeadAttention mask",
        lambda nn: nn.MultiHeadAttention(8, 2),
        *[((2, 4, 8), F)] * 3,
        ((4, 4), F),
    ),
    Layer("TransformerEncoderLayer", lambda nn: nn.TransformerEncoderLayer(8, 2, 12), ((2, 3, 8), F), mask=None),
    Layer(
        "TransformerEncoderLayer post",
        lambda nn: nn.TransformerEncoderLayer(8, 2, 12, activation=nn.gelu, norm_first=False),
        ((2, 3, 8), F),
        ((3, 3), F),
    ),
    Layer("TransformerEncoder", lambda nn: nn.TransformerEncoder(2, 8, 2), ((2, 3, 8), F), mask=None),
    Layer(
        "TransformerEncoder checkpoint",
        lambda nn: nn.TransformerEncoder(2, 8, 2, checkpoint=True),
        ((2, 3, 8), F),
        ((3, 3), F),
    ),
    Layer(
        "TransformerDecoderLayer post",
        lambda nn: nn.TransformerDecoderLayer(8, 2, 12, norm_first=False),
        ((2, 3, 8), F),
        ((2, 4, 8), F),
        ((3, 3), F),
        memory_mask=None,
    ),
    Layer(
        "Transformer",
        lambda nn: nn.Transformer(8, 2, 1, 1, 12),
        ((2, 4, 8), F),
        ((2, 3, 8), F),
        src_mask=None,
        tgt_mask=None,
        memory_mask=None,
    ),
    Layer("RoPE", lambda nn: nn.RoPE(4), ((2, 2, 5, 8), F)),
    Layer("RoPE traditional", lambda nn: nn.RoPE(8, traditional=True, base=100, scale=0.5), ((2, 5, 8), F), offset=3),
    Layer("SinusoidalPositionalEncoding", lambda nn: nn.SinusoidalPositionalEncoding(8), ((5,), F)),
    Layer(
        "SinusoidalPositionalEncoding options",
        lambda nn: nn.SinusoidalPositionalEncoding(6, 0.01, 2, 1.0, True, True),
        ((2, 5), F),
    ),
    Layer("SinusoidalPositionalEncoding dims=2", lambda nn: nn.SinusoidalPositionalEncoding(2), ((5,), F)),
    Layer("ALiBi", lambda nn: nn.ALiBi(), ((2, 4, 3, 5), F)),
    Layer("ALiBi 6 heads", lambda nn: nn.ALiBi(), ((2, 6, 3, 5), F), offset=2),
    Call("ALiBi mask", lambda mx, nn, x, m: nn.ALiBi()(x, mask=m), ((2, 4, 3, 5), F), ((3, 5), F)),
    Layer("RNN", lambda nn: nn.RNN(4, 3), ((2, 5, 4), F)),
    Layer("RNN no bias", lambda nn: nn.RNN(4, 3, bias=False, nonlinearity=nn.relu), ((5, 4), F), ((3,), F)),
    Layer("GRU", lambda nn: nn.GRU(4, 3), ((2, 5, 4), F)),
    Layer("GRU hidden", lambda nn: nn.GRU(4, 3, bias=False), ((2, 5, 4), F), ((2, 3), F)),
    Layer("GRU hidden bias", lambda nn: nn.GRU(4, 3), ((2, 5, 4), F), ((2, 3), F)),
    Layer("LSTM", lambda nn: nn.LSTM(4, 3), ((2, 5, 4), F)),
    Layer("LSTM hidden", lambda nn: nn.LSTM(4, 3, bias=False), ((2, 5, 4), F), ((2, 3), F), ((2, 3), F)),
    Layer("MaxPool1d", lambda nn: nn.MaxPool1d(2), ((2, 6, 3), F)),
    Layer("MaxPool1d overlap", lambda nn: nn.MaxPool1d(3, 2, 1), ((2, 7, 3), F)),
    Layer("AvgPool1d", lambda nn: nn.AvgPool1d(3, 1, 1), ((2, 7, 3), F)),
    Layer("MaxPool2d", lambda nn: nn.MaxPool2d((2, 3), (2, 1), (1, 0)), ((2, 5, 6, 3), F)),
    Layer("AvgPool2d", lambda nn: nn.AvgPool2d(2), ((2, 4, 6, 3), F)),
    Layer("MaxPool3d", lambda nn: nn.MaxPool3d(2), ((1, 4, 4, 4, 2), F)),
    Layer("AvgPool3d", lambda nn: nn.AvgPool3d(2, 1, (0, 1, 0)), ((1, 3, 3, 4, 2), F)),
    Layer("Conv1d", lambda nn: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), ((2, 7, 4), F)),
    Layer("Conv2d", lambda nn: nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=1, dilation=1), ((2, 5, 6, 3), F)),
    Layer("Conv3d", lambda nn: nn.Conv3d(2, 3, 2, bias=False), ((1, 3, 4, 3, 2), F)),
    Layer(
        "ConvTranspose1d", lambda nn: nn.ConvTranspose1d(4, 3, 3, stride=2, padding=1, output_padding=1), ((2, 5, 4), F)
    ),
    Layer("ConvTranspose2d", lambda nn: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=(1, 0)), ((2, 3, 4, 3), F)),
    Layer("ConvTranspose3d", lambda nn: nn.ConvTranspose3d(2, 2, 2), ((1, 2, 3, 2, 2), F)),
    *(
        Layer(
            f"Upsample {mode} {scale} {align} {antialias}",
            lambda nn, a=(scale, mode, align, antialias): nn.Upsample(*a),
            ((2, 5, 4, 2), F),
        )
        for mode, scale, align, antialias in [
            ("nearest", 2, False, False),
            ("nearest", (1.5, 2.3), False, False),
            ("nearest", 0.5, False, False),
            ("linear", 2, False, False),
            ("linear", (1.5, 0.6), True, False),
            ("linear", 0.5, False, True),
            ("cubic", 2, False, False),
            ("cubic", (1.7, 0.8), True, False),
            ("cubic", (0.5, 1.5), False, True),
        ]
    ),
    Layer(
        "QuantizedLinear",
        lambda nn: nn.Linear(64, 32),
        ((3, 64), F),
        then=lambda nn, layer: nn.QuantizedLinear.from_linear(layer, 32, 8),
    ),
    Layer(
        "QuantizedLinear unfrozen bias",
        lambda nn: nn.Linear(64, 32),
        ((3, 64), F),
        then=lambda nn, layer: nn.QuantizedLinear.from_linear(layer).unfreeze(keys="bias"),
    ),
    Layer(
        "QuantizedEmbedding",
        lambda nn: nn.Embedding(6, 64),
        ((2, 3), "i6"),
        then=lambda nn, layer: nn.QuantizedEmbedding.from_embedding(layer, 64, 4),
        grad=False,
    ),
]

_COMMON = [((4, 5), F), ((4, 5), F)]
_CLASSES = [((4, 5), F), ((4,), "i5")]

CALLS = [
    *(Call(name, lambda mx, nn, x, name=name: getattr(nn, name)(x), ((4, 6), F)) for name in ACTIVATIONS),
    Call("prelu", lambda mx, nn, x, a: nn.prelu(x, a), ((4, 6), F), ((6,), F)),
    Call("step", lambda mx, nn, x: nn.step(x, 0.2), ((4, 6), F), grad=False),
    Call("softmax axis=0", lambda mx, nn, x: nn.softmax(x, axis=0), ((4, 6), F)),
    Call("log_softmax axis=0", lambda mx, nn, x: nn.log_softmax(x, axis=0), ((4, 6), F)),
    Call("cross_entropy", lambda mx, nn, x, t: nn.losses.cross_entropy(x, t), *_CLASSES),
    Call("cross_entropy mean", lambda mx, nn, x, t: nn.losses.cross_entropy(x, t, reduction="mean"), *_CLASSES),
    Call(
        "cross_entropy axis", lambda mx, nn, x, t: nn.losses.cross_entropy(x, t, axis=1), ((2, 5, 3), F), ((2, 3), "i5")
    ),
    Call("cross_entropy probs", lambda mx, nn, x, t: nn.losses.cross_entropy(x, t), ((4, 5), F), ((4, 5), "u")),
    Call(
        "cross_entropy weights",
        lambda mx, nn, x, t, w: nn.losses.cross_entropy(x, t, w, label_smoothing=0.1, reduction="sum"),
        *_CLASSES,
        ((4,), "p"),
    ),
    Call(
        "cross_entropy smooth probs",
        lambda mx, nn, x, t: nn.losses.cross_entropy(x, t, label_smoothing=0.3),
        ((4, 5), F),
        ((4, 5), "u"),
    ),
    Call("binary_cross_entropy", lambda mx, nn, x, t: nn.losses.binary_cross_entropy(x, t), ((4, 5), F), ((4, 5), "u")),
    Call(
        "binary_cross_entropy probs",
        lambda mx, nn, x, t: nn.losses.binary_cross_entropy(x, t, with_logits=False, reduction="none"),
        ((4, 5), "u"),
        ((4, 5), "u"),
    ),
    Call(
        "binary_cross_entropy weights",
        lambda mx, nn, x, t, w: nn.losses.binary_cross_entropy(x, t, w, reduction="none"),
        ((4, 5), F),
        ((4, 5), "u"),
        ((4, 5), "p"),
    ),
    Call("l1_loss", lambda mx, nn, x, t: nn.losses.l1_loss(x, t), *_COMMON),
    Call("mse_loss", lambda mx, nn, x, t: nn.losses.mse_loss(x, t), *_COMMON),
    Call("nll_loss", lambda mx, nn, x, t: nn.losses.nll_loss(x, t), ((4, 5), "l"), ((4,), "i5")),
    Call("gaussian_nll_loss", lambda mx, nn, x, t, v: nn.losses.gaussian_nll_loss(x, t, v), *_COMMON, ((4, 5), "p")),
    Call(
        "gaussian_nll_loss full",
        lambda mx, nn, x, t, v: nn.losses.gaussian_nll_loss(x, t, v, full=True, reduction="none"),
        *_COMMON,
        ((4, 5), "p"),
    ),
    Call("kl_div_loss", lambda mx, nn, x, t: nn.losses.kl_div_loss(x, t), ((4, 5), "l"), ((4, 5), "l")),
    Call("smooth_l1_loss", lambda mx, nn, x, t: nn.losses.smooth_l1_loss(x, t), *_COMMON),
    Call("smooth_l1_loss beta", lambda mx, nn, x, t: nn.losses.smooth_l1_loss(x, t, 0.3, reduction="none"), *_COMMON),
    Call("triplet_loss", lambda mx, nn, a, p, n: nn.losses.triplet_loss(a, p, n), *_COMMON, ((4, 5), F)),
    Call(
        "triplet_loss p",
        lambda mx, nn, a, p, n: nn.losses.triplet_loss(a, p, n, p=3, margin=0.5, reduction="mean"),
        *_COMMON,
        ((4, 5), F),
    ),
    Call("hinge_loss", lambda mx, nn, x, t: nn.losses.hinge_loss(x, t), ((4, 5), F), ((4, 5), "s")),
    Call("huber_loss", lambda mx, nn, x, t: nn.losses.huber_loss(x, t, 0.7), *_COMMON),
    Call("log_cosh_loss", lambda mx, nn, x, t: nn.losses.log_cosh_loss(x, t), *_COMMON),
    Call("cosine_similarity_loss", lambda mx, nn, x, t: nn.losses.cosine_similarity_loss(x, t), *_COMMON),
    Call(
        "margin_ranking_loss",
        lambda mx, nn, x, y, t: nn.losses.margin_ranking_loss(x, y, t, 0.2),
        *_COMMON,
        ((4, 5), "s"),
    ),
    Call(
        "create_additive_causal_mask",
        lambda mx, nn, x: x + nn.MultiHeadAttention.create_additive_causal_mask(4),
        ((4, 4), F),
        grad=False,
    ),
]

CASES = {case.name: case for case in [*LAYERS, *CALLS]}
