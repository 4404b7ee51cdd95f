"""Upstream MLX as a backend of mlxr: every op's own samples, laziness, gradients, and whose memory it is.

``MLXR_TEST_DEVICE=mlx:gpu`` runs all of it on upstream's GPU (with an NVIDIA one, set ``MLX_ENABLE_TF32=0`` too: its
float32 products are rounded to 10 bits of mantissa otherwise).
"""

import concurrent.futures
import ctypes
import os
import pathlib
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from samples import moved, narrowed, numbers

import mlxr as mx
from mlxr import shim
from mlxr.backends.upstream import BINARY, COMPOSED, HANDLERS, SIZES, UNARY
from mlxr.core.device import backend_of
from mlxr.core.dispatch import apply, unary_function
from mlxr.core.interop import to_device
from mlxr.core.primitive import Primitive, registry
from mlxr.errors import (
    BackendUnavailableError,
    BoundsError,
    InvalidValueError,
    MlxrError,
    ShapeError,
    UnsupportedOpError,
)
from mlxr.ops.declare import REGISTRY
from mlxr.shim import abi
from mlxr.shim.errors import PoisonedError, UpstreamError

pytestmark = pytest.mark.skipif(not shim.available(), reason="the shim is not built: run `make shim`")

DEVICE = os.environ.get("MLXR_TEST_DEVICE", "mlx:cpu")


@pytest.fixture(scope="module")
def backend():
    """The backend under test."""
    return backend_of(DEVICE)


@pytest.fixture
def on_upstream():
    with mx.default_device(DEVICE):
        yield


def refusal_on_gpus(name, sample):
    """What a GPU has not: weights of a single bit, and double precision."""
    if sample.kwargs.get("bits") == 1 and "quantize" in name:
        return UnsupportedOpError
    doubles = any(value is mx.float64 for value in (*sample.args, *sample.kwargs.values()))
    return InvalidValueError if doubles else None


def codes(words, bits):
    """The numbers of `bits` bits that are packed in words of 32."""
    stream = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    return np.packbits(stream.reshape(*words.shape[:-1], -1, bits), -1, bitorder="little")[..., 0].astype(np.int16)


# What these put around the k-th element, and in which order, is anybody's choice; so is the order of eigenvalues, and
# the sign of their vectors. Each has a test of its own.
UNORDERED = {"partition", "argpartition", "topk", "linalg.eig", "linalg.eigvals", "linalg.eigh"}
SAMPLED = sorted(name for name, op in REGISTRY.items() if op.samples is not None and name not in UNORDERED)


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_agree_with_the_cpu_backend(name):
    op = REGISTRY[name]
    compared = 0
    for sample in op.samples(np.random.default_rng(0)):
        arguments = [narrowed(x, op) for x in sample.args]
        with mx.default_device("cpu"):
            expected = numbers(op.function(*moved(arguments, "cpu"), **moved(sample.kwargs, "cpu")))
        refused = refusal_on_gpus(name, sample) if DEVICE == "mlx:gpu" else None
        with mx.default_device(DEVICE), pytest.raises(refused) if refused else nullcontext():
            actual = numbers(op.function(*moved(arguments, DEVICE), **moved(sample.kwargs, DEVICE)))
        if refused:
            continue
        for ours, theirs in zip(actual, expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
            if name == "quantize" and DEVICE == "mlx:gpu" and ours.dtype == np.uint32:
                # A GPU divides by the scale with another rounding: what lies between two codes may become either.
                bits = sample.kwargs.get("bits", 4)
                apart = np.abs(codes(ours, bits) - codes(theirs, bits))
                assert apart.max(initial=0) <= 1
                assert apart.sum() <= 0.01 * apart.size
            else:
                np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
            compared += 1
    assert compared


@pytest.mark.parametrize("name", sorted(COMPOSED))
@pytest.mark.parametrize("dtype", [mx.bool_, mx.int8, mx.uint32], ids=lambda d: d.name)
def test_composed_functions_of_integers_are_computed_in_the_results_dtype(name, dtype):
    values = np.array([0, 1, 3])
    wanted = REGISTRY[f"nn.{name}"].function(mx.array(values).astype(dtype))
    with mx.default_device(DEVICE):
        got = REGISTRY[f"nn.{name}"].function(mx.array(values).astype(dtype))
    assert got.dtype is wanted.dtype
    np.testing.assert_allclose(np.array(got), np.array(wanted), rtol=2e-4)


def test_eigenvalues(on_upstream):
    x = np.random.default_rng(3).standard_normal((2, 5, 5)).astype(np.float32)
    values, vectors = (np.array(v) for v in mx.linalg.eig(mx.array(x)))
    np.testing.assert_allclose(x @ vectors, vectors * values[:, None], atol=1e-5)
    alone = np.array(mx.linalg.eigvals(mx.array(x)))
    np.testing.assert_allclose(np.sort_complex(alone), np.sort_complex(np.linalg.eigvals(x)), atol=1e-5)
    symmetric = x + x.transpose(0, 2, 1)
    values, vectors = (np.array(v) for v in mx.linalg.eigh(mx.array(symmetric)))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(symmetric), atol=1e-5)
    np.testing.assert_allclose(symmetric @ vectors, vectors * values[:, None], atol=1e-5)


def test_every_primitive_is_served(backend):
    """All that mlxr declares: views are dispatch's own business, and upstream, or a composition, has all the rest."""
    kinds = {name: "a view" if p.family == "layout" else "upstream's" if backend.supports(p, ()) else "missing"
             for name, p in registry.items()}  # fmt: skip
    print(*(f"{name:36s}{kind}" for name, kind in kinds.items()), sep="\n")
    assert [name for name, kind in kinds.items() if kind == "missing"] == []
    # Nothing is served that is not declared.
    assert set(HANDLERS) | set(UNARY) | set(BINARY) | set(COMPOSED) <= set(registry)


def test_what_is_not_there_says_so(backend):
    unknown = Primitive("unknown", "fused", lambda inputs, params: (inputs[0].shape, inputs[0].dtype), registered=False)
    assert not backend.supports(unknown, ())
    with pytest.raises(UnsupportedOpError, match="unknown"):
        apply(unknown, (mx.array([1.0], device=DEVICE),))


def test_structs_have_the_layout_of_the_header():
    assert (ctypes.sizeof(abi.Instr), ctypes.sizeof(abi.Program)) == SIZES


def test_chains_are_lazy_and_evaluated_once(on_upstream, backend):
    a = mx.array(np.arange(6, dtype=np.float32).reshape(2, 3))
    before = backend.lib.live_handles()
    b = a
    for _ in range(100):
        b = b + a
    assert backend.lib.live_handles() <= before + 1  # nothing was built
    np.testing.assert_array_equal(np.array(b), 101 * np.arange(6).reshape(2, 3))
    del b
    assert backend.lib.live_handles() <= before + 2


def test_threads_record_and_wait_at_the_same_time():
    x = np.arange(8, dtype=np.float32)

    def chain(k):
        with mx.default_device(DEVICE):
            a, shared = mx.array(x + k), common
            for i in range(1500):  # longer than what is recorded before it is handed over
                a = a + shared
                if i % 250 == k:
                    mx.eval(a)
            return np.array(mx.where(a > 0, a, a))

    with mx.default_device(DEVICE):
        common = mx.array(np.ones(8, np.float32)) * 1
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for k, found in enumerate(pool.map(chain, range(8))):
            np.testing.assert_array_equal(found, x + k + 1500)


def test_partitions(on_upstream):
    x = np.random.default_rng(2).permutation(11).astype(np.float32)
    a = mx.array(x)
    assert np.array(mx.partition(a, 4))[4] == 4
    assert x[np.array(mx.argpartition(a, 4))[4]] == 4
    assert sorted(np.array(mx.topk(a, 3)).tolist()) == [8, 9, 10]


def test_lists(on_upstream):
    assert (mx.array([[1, 2], [3, 4]]) + 1).T.tolist() == [[2, 4], [3, 5]]


def test_views_are_windows(on_upstream):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    a = mx.array(x) * 1
    for ours, theirs in (
        (a.T, x.T), (a[1], x[1]), (a[:, ::2], x[:, ::2]), (a[:, ::-1, 1:3], x[:, ::-1, 1:3]),
        (a.reshape(6, 4)[2:5], x.reshape(6, 4)[2:5]),
        (mx.broadcast_to(a[0, 0], (3, 4)), np.broadcast_to(x[0, 0], (3, 4))),
        (a.view(mx.int32), x.view(np.int32)), (a.T.reshape(-1), x.T.reshape(-1)), (a[:0], x[:0]),
    ):  # fmt: skip
        np.testing.assert_array_equal(np.array(ours), theirs)
        np.testing.assert_array_equal(np.array(ours + 0 if theirs.dtype == np.float32 else ours), theirs)


def test_views_of_moved_views():
    x = mx.array(np.arange(24, dtype=np.float32))
    one = x[:1].reshape(1, 1)
    for here in (x[::3], mx.broadcast_to(x[5:6], (4,)), x.reshape(4, 6).T, mx.broadcast_to(one, (3, 2))):
        there = to_device(here, DEVICE)
        for view in (lambda t: t[1:3], lambda t: t[::-1], lambda t: (t + 0)[1:], lambda t: mx.abs(t)[..., :1]):
            np.testing.assert_array_equal(np.array(view(there)), np.array(view(here)))


@pytest.mark.parametrize("name", sorted(COMPOSED))
@pytest.mark.parametrize("dtype", ["bool_", "uint8", "int32", "float16"])
def test_compositions_compute_in_the_dtype_of_the_primitive(name, dtype):
    x = np.array([[0, 1, 3]], np.float32)
    function = unary_function(registry[name], name, "")
    theirs, ours = on_both(lambda x: function(x.astype(getattr(mx, dtype))), x)
    assert ours[0].dtype == theirs[0].dtype
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-3 if dtype == "float16" else 2e-6, atol=1e-6)


def test_indexed_assignment(on_upstream):
    x = np.zeros((3, 4), np.float32)
    a = mx.zeros((3, 4))
    a[1] = 2.0
    a[:, 2] = mx.array([5.0, 6.0, 7.0])
    x[1] = 2
    x[:, 2] = [5, 6, 7]
    np.testing.assert_array_equal(np.array(a), x)


def test_gradients_agree_with_the_cpu_backend():
    rng = np.random.default_rng(1)
    w, x, y = rng.standard_normal((4, 3)), rng.standard_normal((5, 4)), rng.integers(0, 3, 5)

    def loss(w, x, y):
        return mx.mean(mx.fast.cross_entropy(mx.tanh(x @ w) * 3, y))

    results = {}
    for device in ("cpu", DEVICE):
        with mx.default_device(device):
            arguments = [mx.array(v.astype(np.float32)) for v in (w, x)] + [mx.array(y)]
            value, grad = mx.value_and_grad(loss)(*arguments)
            results[device] = np.array(value), np.array(grad)
    for ours, theirs in zip(results[DEVICE], results["cpu"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def on_both(function, *arguments):
    """Results of a function of tensors on the CPU backend and on upstream."""
    found = []
    for device in ("cpu", DEVICE):
        with mx.default_device(device):
            found.append(numbers(function(*moved(list(arguments), device))))
    return found


ATTENTION = {
    "plain": {},
    "causal": {"mask": "causal"},
    "boolean mask": {"mask": np.random.default_rng(5).random((4, 7)) > 0.3},
    "added mask": {"mask": np.random.default_rng(6).standard_normal((2, 1, 4, 7)).astype(np.float32)},
    "sinks": {"sinks": np.linspace(-1, 1, 6, dtype=np.float32), "mask": "causal"},
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("case", ATTENTION)
def test_attention_gradients_agree_with_the_cpu_backend(case, dtype):
    rng = np.random.default_rng(4)
    q, k, v, g = (rng.standard_normal(s).astype(np.float32) for s in ((2, 6, 4, 8), (2, 3, 7, 8), (2, 3, 7, 5),
                                                                      (2, 6, 4, 5)))  # fmt: skip
    options = ATTENTION[case]

    def gradients(q, k, v, g, options):
        q, k, v, g = (x.astype(getattr(mx, dtype)) for x in (q, k, v, g))
        options = {n: x.astype(q.dtype) if isinstance(x, mx.array) and x.dtype == mx.float32 else x
                   for n, x in options.items()}  # fmt: skip
        sinks = [options["sinks"]] if "sinks" in options else []

        def loss(q, k, v, *sinks):
            changed = {**options, **({"sinks": sinks[0]} if sinks else {})}
            return mx.sum(mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, **changed) * g)

        found = mx.grad(loss, argnums=tuple(range(3 + len(sinks))))(q, k, v, *sinks)
        return [x.astype(mx.float32) for x in found]

    theirs, ours = on_both(gradients, q, k, v, g, options)
    tolerance = {"float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_second_derivatives_agree_with_the_cpu_backend():
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)

    def twice(x):
        return mx.grad(lambda x: mx.sum(mx.grad(lambda x: mx.sum(mx.softmax(mx.tanh(x) * x, -1) ** 2))(x) ** 2))(x)

    theirs, ours = on_both(twice, x)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_random_samples_are_those_of_the_cpu_backend(dtype):
    def samples(seed):
        dt = getattr(mx, dtype)
        key = mx.random.key(7, device=seed.device)
        return [
            mx.random.uniform(-2, 5, (33,), dt, key).astype(mx.float32),
            mx.random.bernoulli(0.3, (40,), key),
            mx.random.bits((5,), 2, key),
            mx.random.split(key, 3),
        ]

    theirs, ours = on_both(samples, np.zeros(1, np.float32))
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, y)


def train(make, batches, loss, optimizer):
    """Losses of a few steps of training, for a model whose initial parameters are the same on every device."""
    import mlxr.nn as nn
    from mlxr.utils import tree_map

    mx.random.seed(0)
    model = make()
    rng = np.random.default_rng(8)
    model.update(tree_map(lambda p: mx.array(rng.uniform(-0.3, 0.3, p.shape).astype(np.float32)), model.parameters()))
    step, losses = nn.value_and_grad(model, loss), []
    for batch in batches:
        value, grads = step(model, *(mx.array(x) for x in batch))
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state)
        losses.append(value.item())
    return losses


def models():
    """Models of several layers each, with inputs."""
    import mlxr.nn as nn

    class Convolutional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm(4), nn.MaxPool2d(2), nn.Linear(4 * 9, 3)]

        def __call__(self, x):
            for layer in self.layers[:-1]:
                x = nn.relu(layer(x))
            return self.layers[-1](x.flatten(1))

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(11, 8)
            self.encoder = nn.TransformerEncoder(1, 8, 2, 16)
            self.recurrent = nn.GRU(8, 6)
            self.out = nn.Linear(6, 3)

        def __call__(self, x):
            x = self.embedding(x)
            x = self.encoder(x, nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1]))
            return self.out(self.recurrent(x)[:, -1])

    rng = np.random.default_rng(9)
    y = rng.integers(0, 3, 8)
    return {
        "dense": (lambda: nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.RMSNorm(16), nn.Linear(16, 3)),
                  rng.standard_normal((8, 6)).astype(np.float32), y),
        "convolutional": (Convolutional, rng.standard_normal((8, 6, 6, 2)).astype(np.float32), y),
        "sequence": (Sequence, rng.integers(0, 11, (8, 5)), y),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_convolutions_agree_with_the_cpu_backend(seed):
    """All parameters at random: groups, both dilations, padding that crops; and the gradients."""
    rng = np.random.default_rng(seed)
    n, groups = int(rng.integers(1, 4)), int(rng.integers(1, 3))

    def each(low, high):
        return tuple(int(k) for k in rng.integers(low, high, n))

    x = rng.standard_normal((2, *each(4, 7), 2 * groups)).astype(np.float32)
    w = rng.standard_normal((3 * groups, *each(1, 4), 2)).astype(np.float32)
    options = {"stride": each(1, 3), "padding": (each(-1, 3), each(-1, 3)), "kernel_dilation": each(1, 3),
               "input_dilation": each(1, 3), "groups": groups, "flip": bool(rng.integers(2))}  # fmt: skip

    def run(x, w):
        y = mx.conv_general(x, w, **options)
        weights = mx.cos(mx.arange(y.size).reshape(y.shape).astype(mx.float32))
        return [y, *mx.grad(lambda x, w: mx.sum(mx.conv_general(x, w, **options) * weights), argnums=(0, 1))(x, w)]

    try:
        with mx.default_device("cpu"):
            mx.conv_general(mx.array(x), mx.array(w), **options)
    except ShapeError:
        options["padding"] = 3  # what was left of the input was smaller than the kernel
    theirs, ours = on_both(run, x, w)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "Lion", "Adafactor", "Muon"])
@pytest.mark.parametrize("name", ["dense", "convolutional", "sequence"])
def test_training_agrees_with_the_cpu_backend(name, optimizer):
    import mlxr.nn as nn
    from mlxr import optimizers

    make, x, y = models()[name]

    def loss(model, x, y):
        return nn.losses.cross_entropy(model(x), y, reduction="mean")

    found = {}
    for device in ("cpu", DEVICE):
        with mx.default_device(device):
            steps = getattr(optimizers, optimizer)(**({} if optimizer == "Adafactor" else {"learning_rate": 1e-2}))
            found[device] = train(make, [(x, y)] * 4, loss, steps)
    assert found["cpu"][-1] < found["cpu"][0]
    np.testing.assert_allclose(found[DEVICE], found["cpu"], rtol=1e-4, atol=1e-5)


def test_quantized_layers_agree_with_the_cpu_backend():
    import mlxr.nn as nn

    def run(x):
        layer = nn.Linear(128, 6, bias=False)
        layer.update({"weight": mx.sin(mx.arange(6 * 128).reshape(6, 128).astype(mx.float32))})
        layer = nn.QuantizedLinear.from_linear(layer, 32, 4)
        return layer(x), mx.grad(lambda x: mx.sum(layer(x) ** 2))(x)

    theirs, ours = on_both(run, np.random.default_rng(1).standard_normal((3, 128)).astype(np.float32))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("group_size", "columns"), [(64, 64), (128, 128), (32, 96), (64, 192)])
def test_quantized_products_agree_with_the_cpu_backend(group_size, columns, dtype):
    """Rows of one group, and of several; few rows, and many: upstream has different kernels for them on a GPU."""
    rng = np.random.default_rng(columns)
    matrix = rng.standard_normal((128, columns)).astype(np.float32)
    words, scales, biases = (np.array(part) for part in mx.quantize(mx.array(matrix, device="cpu"), group_size))

    def products(x, words, scales, biases):
        x, scales, biases = (part.astype(getattr(mx, dtype)) for part in (x, scales, biases))
        multiply = partial(mx.quantized_matmul, group_size=group_size)
        found = [multiply(x[:rows], words, scales, biases) for rows in (1, 6, 40)]
        found.append(multiply(x[:5, :6] @ mx.ones((6, 128), x.dtype), words, scales, biases, transpose=False))
        found.append(multiply(x[:4], words[::2], scales[::2], biases[::2]))
        return [part.astype(mx.float32) for part in found]

    x = rng.standard_normal((40, columns)).astype(np.float32)
    theirs, ours = on_both(products, x, words, scales, biases)
    tolerance = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def test_the_main_job_starts_as_on_the_cpu():
    """The losses that `python -m mlxr smoke --device` compares, at a fraction of the size."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, which is not installed")
    example = pathlib.Path(__file__).parents[2] / "examples" / "digits.py"
    losses = {
        device: [float(word) for word in subprocess.run(
            [sys.executable, str(example), "--device", device, "--losses", "20", "--hidden", "64"],
            check=True, capture_output=True, text=True,
        ).stdout.split()]
        for device in ("cpu", DEVICE)
    }  # fmt: skip
    assert len(losses["cpu"]) == 20
    np.testing.assert_allclose(losses[DEVICE], losses["cpu"], rtol=1e-4)


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T,
    "sliced": lambda x: x[1:4, 2:7],
    "stepped": lambda x: x[::2, ::3],
    "broadcast": lambda x: mx.broadcast_to(x[0], (5, 8)),
}


@pytest.fixture
def in_host_memory(backend):
    if not backend.lib.capability(abi.CAP_SHARE_HOST):
        pytest.skip("needs arrays in host memory, which this build of upstream (CUDA) does not have")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("in_host_memory")
def test_moving_between_devices_copies_nothing(layout, backend):
    x = LAYOUTS[layout](mx.array(np.arange(48, dtype=np.float32).reshape(6, 8)))
    mx.reset_copied_bytes()
    there = to_device(x, DEVICE)
    back = to_device(there, "cpu")
    assert mx.get_copied_bytes() == 0
    assert backend.lib.describe(backend.handle(there)).address == x.data_ptr == back.data_ptr
    assert back.strides == x.strides
    np.testing.assert_array_equal(np.array(back), np.array(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("in_host_memory")
def test_results_of_upstream_come_back_without_copying(layout, backend):
    x = np.arange(48, dtype=np.float32).reshape(6, 8)
    made = mx.array(x, device=DEVICE) * 2
    mx.eval(made)
    view = LAYOUTS[layout](made)
    mx.reset_copied_bytes()
    back = to_device(view, "cpu")
    assert mx.get_copied_bytes() == 0
    base = backend.lib.describe(backend.handle(made)).address
    assert base <= back.data_ptr < base + x.nbytes
    window = backend.handle(view)
    backend.lib.eval(window)
    assert back.data_ptr == backend.lib.describe(window).address
    np.testing.assert_array_equal(np.array(back), np.array(LAYOUTS[layout](mx.array(2 * x))))


def test_shared_memory_is_copied_before_it_is_written():
    x = mx.array(np.ones(4, np.float32))
    there = to_device(x, DEVICE)
    x[0] = 7.0
    np.testing.assert_array_equal(np.array(there), 1)
    np.testing.assert_array_equal(np.array(x), [7, 1, 1, 1])


def test_a_failing_step_takes_only_its_dependents_along(on_upstream):
    a = mx.array(np.array([1, 2], np.int32))
    zero = a - a
    good = a * 3
    bad = a // zero
    worse = bad + 1
    np.testing.assert_array_equal(np.array(good), [3, 6])
    for value in (bad, worse):
        with pytest.raises(ZeroDivisionError):
            np.array(value)
    np.testing.assert_array_equal(np.array(good + 1), [4, 7])


def test_a_failure_is_told_however_often_the_values_are_asked_for():
    """NumPy asks twice, and drops what was raised the first time."""
    backend = backend_of("mlx:cpu")  # wherever the other tests run: it is the CPU's failure
    half = mx.array(np.ones((3, 3), np.float32), device="mlx:cpu").astype(mx.float16)
    index = backend.lib.from_numpy(np.zeros(1, np.uint32), copy=True)
    array = backend.handle(half)
    product = backend.lib.gather_mm(array, array, index, index)  # upstream's CPU has no such product
    pending = half + half
    waiting = backend.handle(pending)
    with mx.default_device("mlx:cpu"):
        mx.random.seed(3)
        drawn = mx.random.uniform(shape=(4,)).tolist()
    with pytest.raises(UpstreamError, match="GatherMM"):
        backend.lib.eval(product)
    for read in (np.array, lambda x: np.array(x.reshape(9)), lambda x: np.array(x * 2)):
        with pytest.raises(PoisonedError, match="GatherMM"):
            read(pending)
    del waiting
    # What the backend keeps for later is not hit, nor is the generator of random numbers.
    with mx.default_device("mlx:cpu"):
        assert mx.random.uniform(shape=(4,)).tolist() != drawn
    bfloats = mx.array([-1.0, 2.0], device="mlx:cpu").astype(mx.bfloat16)
    np.testing.assert_array_equal(np.array(mx.nn.relu(bfloats).astype(mx.float32)), [0, 2])


def test_index_out_of_range_is_a_typed_error(on_upstream):
    with pytest.raises(BoundsError):
        np.array(mx.take(mx.array([1.0, 2.0]), mx.array([5]), axis=0))


def test_operands_on_two_devices_are_refused():
    with pytest.raises(MlxrError):
        mx.array([1.0]) + mx.array([1.0], device=DEVICE)


def test_a_device_that_does_not_exist_says_so():
    if shim.load().device_count(abi.GPU):
        pytest.skip("needs a machine on which mlx:gpu is missing, and here is a GPU")
    with pytest.raises(BackendUnavailableError):
        mx.array([1.0], device="mlx:gpu")
