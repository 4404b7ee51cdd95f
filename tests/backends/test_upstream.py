"""Upstream MLX as a backend of mlxr: every op's own samples, laziness, gradients, and whose memory it is.

``MLXR_TEST_DEVICE=mlx:gpu`` runs all of it on upstream's GPU (with an NVIDIA one, set ``MLX_ENABLE_TF32=0`` too: its
float32 products are rounded to 10 bits of mantissa otherwise).
"""

import ctypes
import os

import numpy as np
import pytest

import mlxr as mx
from mlxr import shim
from mlxr.core.interop import to_device
from mlxr.errors import BackendUnavailableError, BoundsError, MlxrError, UnsupportedOpError
from mlxr.ops.declare import REGISTRY
from mlxr.shim import abi

pytestmark = pytest.mark.skipif(not shim.available(), reason="the shim is not built: run `make shim`")

DEVICE = os.environ.get("MLXR_TEST_DEVICE", "mlx:cpu")


@pytest.fixture(scope="module")
def backend():
    """The backend under test."""
    from mlxr.core.device import backend_of

    return backend_of(DEVICE)


@pytest.fixture
def on_upstream():
    with mx.default_device(DEVICE):
        yield


def moved(value, device):
    """Arrays of a sample as tensors on a device; the rest as it is."""
    if isinstance(value, np.ndarray):
        return mx.array(value, device=device)
    if isinstance(value, (list, tuple)):
        return type(value)(moved(v, device) for v in value)
    if isinstance(value, dict):
        return {k: moved(v, device) for k, v in value.items()}
    return value


def narrowed(x, op):
    """The samples' float64 as a dtype that the op takes and upstream has everywhere."""
    if isinstance(x, (list, tuple)):
        return type(x)(narrowed(v, op) for v in x)
    if not isinstance(x, np.ndarray) or x.dtype != np.float64:
        return x
    return x.astype(np.float32 if any(d.name == "float32" for d in op.dtypes) else np.int32)


def numbers(result):
    """Results as a list of NumPy arrays."""
    results = result if isinstance(result, (list, tuple)) else [result]
    return [np.array(r) for r in results]


# What these put around the k-th element, and in which order, is anybody's choice.
UNORDERED = {"partition", "argpartition", "topk"}
SAMPLED = sorted(name for name, op in REGISTRY.items() if op.samples is not None and name not in UNORDERED)


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_agree_with_the_cpu_backend(name):
    op = REGISTRY[name]
    compared = 0
    for sample in op.samples(np.random.default_rng(0)):
        arguments = [narrowed(x, op) for x in sample.args]
        with mx.default_device("cpu"):
            expected = numbers(op.function(*moved(arguments, "cpu"), **moved(sample.kwargs, "cpu")))
        with mx.default_device(DEVICE):
            try:
                actual = numbers(op.function(*moved(arguments, DEVICE), **moved(sample.kwargs, DEVICE)))
            except UnsupportedOpError as error:
                pytest.skip(f"not on this backend: {error}")
        for ours, theirs in zip(actual, expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
            compared += 1
    assert compared


def test_steps_have_the_layout_of_the_header(backend):
    assert ctypes.sizeof(abi.Instr) == 40


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


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "sliced", "broadcast"])
def test_moving_between_devices_copies_nothing(layout):
    x = mx.array(np.arange(48, dtype=np.float32).reshape(6, 8))
    x = {"contiguous": x, "transposed": x.T, "sliced": x[1:4, 2:7], "broadcast": mx.broadcast_to(x[0], (5, 8))}[layout]
    if not shim.load().capability(abi.CAP_SHARE_HOST):
        pytest.skip("this build of upstream does not keep its arrays in host memory")
    mx.reset_copied_bytes()
    there = to_device(x, DEVICE)
    back = to_device(there, "cpu")
    assert mx.get_copied_bytes() == 0
    assert back.data_ptr == x.data_ptr
    np.testing.assert_array_equal(np.array(back), np.array(x))
    doubled = to_device(there + there, "cpu")
    assert mx.get_copied_bytes() == 0
    np.testing.assert_array_equal(np.array(doubled), 2 * np.array(x))


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


def test_index_out_of_range_is_a_typed_error(on_upstream):
    with pytest.raises(BoundsError):
        np.array(mx.take(mx.array([1.0, 2.0]), mx.array([5]), axis=0))


def test_operands_on_two_devices_are_refused():
    with pytest.raises(MlxrError):
        mx.array([1.0]) + mx.array([1.0], device=DEVICE)


def test_a_device_that_does_not_exist_says_so():
    if shim.load().device_count(abi.GPU):
        pytest.skip("there is a GPU")
    with pytest.raises(BackendUnavailableError):
        mx.array([1.0], device="mlx:gpu")
