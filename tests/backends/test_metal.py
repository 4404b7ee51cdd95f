"""The Metal backend: the contract, whose memory it is, when things run, and failures (those on the stand-in)."""

import concurrent.futures
import ctypes
import gc
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from samples import moved, narrowed, numbers

import mlxr as mx
from mlxr import __main__ as command_line
from mlxr import nn, optimizers
from mlxr.core.device import backend_of
from mlxr.core.interop import to_device
from mlxr.core.primitive import registry as primitives
from mlxr.errors import (
    BackendUnavailableError,
    BoundsError,
    DeviceMismatchError,
    MlxrError,
    OutOfMemoryError,
    UnsupportedOpError,
)
from mlxr.ops.declare import REGISTRY
from mlxr.shim import metal
from mlxr.shim.errors import DeviceLostError, KernelCompileError, KernelError
from mlxr.utils import tree_flatten, tree_map

NOT_BUILT = "the Metal runtime is not built: run `make metal-standin`"
pytestmark = pytest.mark.skipif(not metal.available(), reason=NOT_BUILT)
REPOSITORY = pathlib.Path(__file__).parents[2]
DEVICE = "metal"
PAGE_FAULT, DEVICE_REMOVED = 3, 11


@pytest.fixture(scope="module")
def backend():
    return backend_of(DEVICE)


@pytest.fixture(scope="module")
def standin(backend):
    """The stand-in's own functions, which plant failures and delays: see metal/standin/objc/inspect.h."""
    if not backend.runtime.info.stand_in:
        pytest.skip("plants failures in the software stand-in, and this device is a GPU")
    f = backend.runtime.functions
    f.standin_live_objects.restype = ctypes.c_int64
    f.standin_set_memory_limit.argtypes = [ctypes.c_uint64]
    f.standin_device_bytes.restype = ctypes.c_uint64
    yield f
    f.standin_set_memory_limit(1 << 36)
    f.standin_set_delay(0)
    f.standin_restore_device()


@pytest.fixture
def on_metal(backend):
    with mx.default_device(DEVICE):
        yield
    backend.synchronize()


@pytest.fixture
def counted(backend):
    """A function that returns what the counters gained since the test began."""
    backend.synchronize()
    before = backend.runtime.counters()
    return lambda: {name: value - before[name] for name, value in backend.runtime.counters().items()}


def address(x):
    return np.asarray(x).__array_interface__["data"][0]


# ---- whose memory it is


def test_a_large_tensor_goes_there_and_back_without_a_copy(backend, counted):
    with mx.default_device("cpu"):
        x = mx.arange(16 << 20, dtype=mx.float32)  # 64 MB
    mx.reset_copied_bytes()
    there = to_device(x, DEVICE)
    back = np.array(there, copy=False)
    assert address(back) == x.data_ptr
    assert mx.get_copied_bytes() == 0
    gained = counted()
    assert gained["bytes_copied"] == 0
    assert gained["bytes_shared"] == x.nbytes == 64 << 20
    assert back[0] == 0
    assert back[-1] == (16 << 20) - 1


def test_results_are_read_where_they_were_computed(on_metal, counted):
    x = to_device(mx.ones((300, 300), device="cpu"), DEVICE)
    y = x + x
    mx.reset_copied_bytes()
    first = np.array(y, copy=False)
    second = np.array(y, copy=False)
    assert address(first) == address(second) != 0
    assert mx.get_copied_bytes() == 0
    assert counted()["bytes_copied"] <= 360_000  # of x alone, if its block was too small to share
    assert (first == 2).all()
    assert not first.flags.writeable


def test_misaligned_memory_is_copied_counted_and_right(backend, counted):
    block = np.arange((1 << 20) + 1, dtype=np.float32)[1:]
    with mx.default_device("cpu"):
        x = mx.asarray(block, copy=False)
    assert x.data_ptr == block.ctypes.data
    mx.reset_copied_bytes()
    there = to_device(x, DEVICE)
    assert mx.get_copied_bytes() == block.nbytes
    gained = counted()
    assert gained["bytes_copied"] == block.nbytes
    assert gained["bytes_shared"] == 0
    np.testing.assert_array_equal(np.array(there), block)


def test_views_of_shared_memory(backend):
    with mx.default_device("cpu"):
        x = mx.arange(1 << 18, dtype=mx.float32).reshape(512, 512)
    expected = np.array(x)
    for cut in (np.s_[3:, ::2], np.s_[::-1, 5], np.s_[7]):
        mx.reset_copied_bytes()
        there = to_device(x[cut], DEVICE)
        assert mx.get_copied_bytes() == 0
        np.testing.assert_array_equal(np.array(there + there), 2 * expected[cut])
        np.testing.assert_array_equal(np.array(there), expected[cut])


def test_the_host_writes_to_a_copy_of_what_it_shared(backend):
    with mx.default_device("cpu"):
        x = mx.ones((1 << 16,))
        there = to_device(x, DEVICE)
        x[3] = 7.0
    assert np.array(there)[3] == 1
    assert np.array(x)[3] == 7


def test_shared_memory_is_kept_as_long_as_it_is_needed(backend, standin):
    standin.standin_set_delay(20000)
    with mx.default_device("cpu"):
        x = mx.full((1 << 16,), 3.0)
    there = to_device(x, DEVICE)
    result = there * 2.0
    mx.async_eval(result)
    del x, there
    gc.collect()
    with mx.default_device("cpu"):
        other = [mx.full((1 << 16,), -1.0) for _ in range(4)]  # would take the block, if it were free
    np.testing.assert_array_equal(np.array(result), 6)
    standin.standin_set_delay(0)
    del other, result
    gc.collect()
    backend.synchronize()
    standin.standin_wait_idle()
    assert backend.runtime.shared_owners() == 0


def test_memory_returns_to_where_it_was(backend, standin):
    def work():
        x = to_device(mx.ones((1 << 16,), device="cpu"), DEVICE)
        for _ in range(10):
            x = x * 1.5 + x
        return float(mx.sum(x).item())

    with mx.default_device(DEVICE):
        work()
        gc.collect()
        backend.synchronize()
        standin.standin_wait_idle()
        backend.runtime.clear_cache()
        before, objects = backend.runtime.counters(), standin.standin_live_objects()
        for _ in range(5):
            work()
        gc.collect()
        backend.synchronize()
        standin.standin_wait_idle()
        backend.runtime.clear_cache()
        after = backend.runtime.counters()
        for name in ("live_buffers", "live_bytes", "in_flight"):
            assert after[name] == before[name], name
        assert backend.runtime.shared_owners() == 0
        assert standin.standin_live_objects() <= objects


def test_freed_memory_is_used_again(on_metal, counted):
    x = mx.ones((1 << 14,))
    for _ in range(50):
        mx.eval(x + 1.0)
    gained = counted()
    assert gained["allocations"] <= 5
    assert gained["reuses"] >= 45


def test_pickles_and_lists(on_metal):
    import pickle

    x = mx.array([[1.5, 2], [3, 4]])
    assert (x.T * 2).tolist() == [[3, 6], [4, 8]]
    assert x[1, 0].item() == 3
    back = pickle.loads(pickle.dumps(x.T))
    assert back.device == x.device
    assert back.tolist() == x.T.tolist()
    assert np.array(mx.zeros((0, 3))).shape == (0, 3)
    assert mx.array(True).item() is True


def test_writing_in_place(on_metal, backend):
    x = mx.array(np.arange(100, dtype=np.float32)) + 0.0
    backend.write(x[10:20], mx.array(np.float32(-1)))
    backend.write(x[50:52], mx.array(np.array([7, 8], np.int32)))
    expected = np.arange(100, dtype=np.float32)
    expected[10:20], expected[50:52] = -1, [7, 8]
    np.testing.assert_array_equal(np.array(x), expected)


def test_bfloat16_and_pieces_of_memory_that_end_where_a_buffer_does(on_metal):
    x = mx.arange(1024, dtype=mx.float32)
    assert np.array(mx.sum(x[1024:])) == 0
    assert np.array(mx.array([1.5, -2.0], dtype=mx.bfloat16) * 2).tolist() == [3, -4]


# ---- when things run


def test_launches_gather_until_a_value_is_needed(on_metal, counted):
    x = mx.array(np.arange(8, dtype=np.float32))
    y = x
    for _ in range(20):
        y = y + 1.0
    assert counted()["command_buffers"] == 0
    np.testing.assert_array_equal(np.array(y), np.arange(8) + 20)
    gained = counted()
    assert gained["command_buffers"] == 1
    assert gained["dispatches"] == 20


def test_much_work_is_submitted_before_it_is_asked_for(on_metal, counted, backend):
    x = mx.array(np.arange(8, dtype=np.float32))
    for _ in range(130):
        x = x + 1.0
    assert counted()["command_buffers"] == 2
    big = mx.ones((1 << 22,))
    for _ in range(5):
        big = big + 1.0
    assert counted()["command_buffers"] >= 3
    np.testing.assert_array_equal(np.array(x), np.arange(8) + 130)


def test_async_eval_starts_and_does_not_wait(on_metal, backend, standin, counted):
    x = mx.array(np.arange(8, dtype=np.float32)) + 1.0
    backend.synchronize()
    standin.standin_set_delay(50000)
    y = x * 2.0
    mx.async_eval({"y": [y]})
    assert counted()["command_buffers"] == 2
    assert backend.runtime.counters()["in_flight"] == 1
    standin.standin_set_delay(0)
    np.testing.assert_array_equal(np.array(y), 2 * np.arange(8) + 2)


def test_temporaries_that_are_gone_live_until_they_were_read(on_metal, standin):
    standin.standin_set_delay(5000)
    x = np.arange(1000, dtype=np.float32)
    results = []
    for k in range(30):
        t = mx.array(x) + float(k)
        results.append(t * 2.0)
        mx.async_eval(results[-1])
        del t
    standin.standin_set_delay(0)
    for k, result in enumerate(results):
        np.testing.assert_array_equal(np.array(result), 2 * (x + k))


# ---- failures


def test_a_kernel_that_fails_fails_what_depends_on_it(on_metal, backend, standin):
    x = mx.array(np.arange(100, dtype=np.float32))
    good = x + 1.0
    mx.eval(good)
    standin.standin_inject_failure(PAGE_FAULT, 0)
    standin.standin_set_delay(20000)  # nobody knows of the failure before the next operations are launched
    bad = x * 2.0
    mx.async_eval(bad)
    dependent = bad + good
    other = good - 1.0
    standin.standin_set_delay(0)
    for wrong in (bad, dependent):
        for _ in range(2):
            with pytest.raises(KernelError, match="a command buffer with"):
                mx.eval(wrong)
    with pytest.raises(KernelError):
        np.array(bad + 1.0)
    np.testing.assert_array_equal(np.array(good), np.arange(100) + 1)
    np.testing.assert_array_equal(np.array(other), np.arange(100))
    np.testing.assert_array_equal(np.array(x * 2.0), 2 * np.arange(100))


def test_a_lost_device(on_metal, backend, standin):
    x = mx.array(np.arange(100, dtype=np.float32))
    standin.standin_inject_failure(DEVICE_REMOVED, 0)
    with pytest.raises(DeviceLostError):
        mx.eval(x + 1.0)
    with pytest.raises(DeviceLostError):
        mx.eval(x + 2.0)
    standin.standin_restore_device()
    np.testing.assert_array_equal(np.array(x + 1.0), np.arange(100) + 1)


def test_out_of_memory(on_metal, backend, standin):
    x = mx.ones((1 << 20,))
    mx.eval(x)
    backend.runtime.clear_cache()
    standin.standin_wait_idle()
    standin.standin_set_memory_limit(standin.standin_device_bytes() + (9 << 20))
    try:
        held = [x + 1.0]

        def go_on():
            while len(held) < 10:
                held.append(x + 1.0)

        with pytest.raises(OutOfMemoryError):
            go_on()
        assert 1 <= len(held) <= 3
        for y in held:
            assert (np.array(y) == 2).all()
        held.clear()
        del y
        gc.collect()
        assert (np.array(x + 2.0) == 3).all()
    finally:
        standin.standin_set_memory_limit(1 << 36)


def test_a_kernel_that_does_not_compile(backend, monkeypatch, tmp_path):
    (tmp_path / "elementwise.metal").write_text("#include <metal_stdlib>\nkernel void broken(int) { nothing; }\n")
    monkeypatch.setenv("MLXR_METAL_KERNELS", str(tmp_path))
    monkeypatch.setattr(backend, "_libraries", {})
    monkeypatch.setattr(backend, "_pipelines", {})
    with mx.default_device(DEVICE):
        x = mx.array(np.arange(100, dtype=np.float32))
        with pytest.raises(KernelCompileError, match=r"elementwise\.metal:2"):
            x + x
        monkeypatch.undo()
        np.testing.assert_array_equal(np.array(x + x), 2 * np.arange(100))


def test_an_index_out_of_range_is_told_when_the_value_is_needed(on_metal, backend):
    x = mx.array(np.arange(10, dtype=np.float32))
    good = mx.take(x, mx.array([1, 2]))
    bad = mx.take(x, mx.array([1, 12]))
    later = bad + 1.0
    np.testing.assert_array_equal(np.array(good), [1, 2])
    for wrong in (bad, later):
        with pytest.raises(BoundsError, match="index 12 is out of bounds for axis 0 with size 10"):
            np.array(wrong)
    with pytest.raises(BoundsError):
        bad * 2.0
    np.testing.assert_array_equal(np.array(x + 1.0), np.arange(10) + 1)


def test_what_metal_lacks_says_so(on_metal):
    with pytest.raises(UnsupportedOpError) as caught:
        mx.linalg.svd(mx.eye(3), stream=None)
    assert caught.value.backend == DEVICE
    with pytest.raises(UnsupportedOpError):
        mx.zeros((3,), dtype=mx.float64) + 1.0


def test_operands_on_two_devices(on_metal):
    with pytest.raises(DeviceMismatchError):
        mx.ones((3,)) + mx.ones((3,), device="cpu")


def test_supports(backend):
    assert backend.supports(primitives["add"], (mx.float32, mx.float32))
    assert not backend.supports(primitives["add"], (mx.float64, mx.float64))
    assert not backend.supports(primitives["svd"], (mx.float32,))


# ---- processes and threads


def run_program(code, *, expect=0, **environment):
    env = {**os.environ, "MLXR_METAL": "stand-in", **environment}
    preamble = "import os\nimport numpy as np\nimport mlxr as mx\n"
    result = subprocess.run(
        [sys.executable, "-c", preamble + code], capture_output=True, text=True, cwd=REPOSITORY, env=env, timeout=240
    )
    assert result.returncode == expect, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def test_the_stand_in_is_used_by_those_who_ask_for_it(standin):
    code = """
from mlxr.errors import BackendUnavailableError
print(mx.metal.is_available(), mx.metal.device_info())
try:
    mx.ones((2,), device="metal")
except BackendUnavailableError as error:
    print(error)
"""
    out = run_program(code, MLXR_METAL="")
    assert out.startswith("False {}")
    assert "stand-in (not a GPU)" in out
    assert "MLXR_METAL=stand-in" in out


def test_there_is_one_device(backend):
    with pytest.raises(BackendUnavailableError, match="one Metal device"):
        mx.ones((2,), device=mx.Device(DEVICE, 1))


def test_mx_metal(backend, on_metal):
    assert mx.metal.is_available()
    info = mx.metal.device_info()
    assert info["device_name"] == backend.runtime.info.name
    assert info["stand_in"] == backend.runtime.info.stand_in
    mx.eval(mx.ones((4,)) + 1.0)
    assert mx.metal.counters()["dispatches"] > 0


def test_captures_need_a_gpu(standin, tmp_path):
    with pytest.raises(UnsupportedOpError, match="stand-in"):
        mx.metal.start_capture(str(tmp_path / "x.gputrace"))


def test_memory_of_the_device(backend, on_metal):
    gc.collect()
    backend.synchronize()
    mx.metal.clear_cache()
    active = mx.metal.get_active_memory()
    x = mx.ones((1 << 18,)) + 1.0
    mx.eval(x)
    assert mx.metal.get_active_memory() >= active + x.nbytes
    assert mx.metal.get_peak_memory() >= active + x.nbytes
    del x
    backend.runtime.collect()
    assert mx.metal.get_active_memory() == active
    assert mx.metal.get_cache_memory() >= 1 << 20
    limit = mx.metal.set_cache_limit(0)
    assert mx.metal.get_cache_memory() == 0
    assert mx.metal.set_cache_limit(limit) == 0
    mx.metal.set_memory_limit(mx.metal.set_memory_limit(1 << 30))
    mx.metal.reset_peak_memory()
    assert mx.metal.get_peak_memory() == 0


def test_threads(backend):
    x = np.arange(256, dtype=np.float32)

    def work(seed):
        with mx.default_device(DEVICE):
            a = mx.array(x) + float(seed)
            for _ in range(20):
                a = a + 1.0
            return bool((np.array(a) == x + seed + 20).all())

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(12)))


def test_a_forked_child_is_told_and_the_parent_goes_on():
    code = """
from mlxr.shim.errors import ForkError
mx.set_default_device("metal")
x = mx.array(np.arange(100, dtype=np.float32)) + 1.0
child = os.fork()
if child == 0:
    try:
        np.array(x)
    except ForkError:
        os._exit(7)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array(x)[:2])
"""
    assert run_program(code) == "7 [1. 2.]\n"


def test_exit_with_work_in_flight():
    code = """
mx.set_default_device("metal")
x = mx.array(np.arange(1000, dtype=np.float32))
keep = []
for _ in range(30):
    keep.append(x + 1.0)
    mx.async_eval(keep[-1])
keep.append(x + 2.0)
print("done")
"""
    assert run_program(code, MLXR_STANDIN_DELAY_US="3000") == "done\n"


# ---- what is built on it


# What these put around the k-th element, and in which order, is anybody's choice.
UNORDERED = {"partition", "argpartition", "topk"}
SAMPLED = sorted(name for name, op in REGISTRY.items() if op.samples is not None and name not in UNORDERED)


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_agree_with_the_cpu_backend(name, backend):
    op = REGISTRY[name]
    compared, refused = 0, None
    for sample in op.samples(np.random.default_rng(0)):
        arguments = [narrowed(x, op) for x in sample.args]
        with mx.default_device("cpu"):
            expected = numbers(op.function(*moved(arguments, "cpu"), **moved(sample.kwargs, "cpu")))
        with mx.default_device(DEVICE):
            try:
                actual = numbers(op.function(*moved(arguments, DEVICE), **moved(sample.kwargs, DEVICE)))
            except UnsupportedOpError as error:
                refused = error
                continue
        for ours, theirs in zip(actual, expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
            compared += 1
    if refused and not compared:
        pytest.skip(f"Metal has no such primitive, by a typed error: {refused}")
    assert compared


def on_both(function):
    """The results of a function of the device, as lists of arrays, on the CPU and on Metal."""
    results = []
    for device in ("cpu", DEVICE):
        with mx.default_device(device):
            mx.random.seed(3)
            results.append([np.array(x) for _, x in tree_flatten(function())])
    return results


def agree(function, rtol=2e-5, atol=2e-5):
    expected, actual = on_both(function)
    assert len(expected) == len(actual) > 0
    for theirs, ours in zip(expected, actual, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


def test_indexed_assignment(on_metal):
    x = np.zeros((3, 4), np.float32)
    a = mx.zeros((3, 4))
    a[1] = 2.0
    a[:, 2] = mx.array([5.0, 6.0, 7.0])
    x[1] = 2
    x[:, 2] = [5, 6, 7]
    np.testing.assert_array_equal(np.array(a), x)


def test_gradients():
    rng = np.random.default_rng(1)
    w, x, y = rng.standard_normal((4, 3)), rng.standard_normal((5, 4)), rng.integers(0, 3, 5)

    def run():
        arguments = [mx.array(v.astype(np.float32)) for v in (w, x)] + [mx.array(y)]
        loss = lambda w, x, y: mx.mean(mx.fast.cross_entropy(mx.tanh(x @ w) * 3, y))  # noqa: E731
        value, grads = mx.value_and_grad(loss, argnums=(0, 1))(*arguments)
        second = mx.grad(lambda w: mx.sum(mx.grad(loss)(w, *arguments[1:]) ** 2))(arguments[0])
        return value, grads, second

    agree(run)


LAYERS = {
    "linear": (lambda: nn.Linear(8, 5), (3, 8)),
    "norms": (lambda: nn.Sequential(nn.LayerNorm(8), nn.RMSNorm(8)), (2, 3, 8)),
    "activations": (lambda: nn.Sequential(nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Softplus(), nn.ReLU()), (4, 8)),
    "attention": (lambda: Attention(), (2, 5, 8)),
    "dropout": (lambda: nn.Dropout(0.4), (16, 8)),
}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiHeadAttention(8, 2)

    def __call__(self, x):
        return self.inner(x, x, x)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_their_gradients(name):
    make, shape = LAYERS[name]
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)

    def run():
        layer = make()
        value, grads = nn.value_and_grad(layer, lambda a: mx.mean(layer(a) ** 2))(mx.array(x))
        return layer(mx.array(x)), value, grads

    agree(run, rtol=1e-4)


def test_embedding():
    def run():
        layer = nn.Embedding(11, 6)
        tokens = mx.array([[1, 2, 10], [0, 0, 3]])
        return layer(tokens), nn.value_and_grad(layer, lambda t: mx.sum(layer(t) ** 2))(tokens)[1]

    agree(run)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW", "Adamax", "Lion", "Adagrad", "AdaDelta"])
def test_optimizers(name):
    def run():
        optimizer = getattr(optimizers, name)(learning_rate=0.05)
        parameters = {"a": mx.array([[1.0, -2.0], [0.5, 3.0]]), "b": mx.array([0.25, -1.5])}
        for _ in range(4):
            gradients = tree_map(lambda p: mx.sin(p) + 0.1, parameters)
            parameters = optimizer.apply_gradients(gradients, parameters)
        return parameters

    agree(run)


def test_a_training_run_follows_the_cpu():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((32, 6)).astype(np.float32), rng.integers(0, 3, 32).astype(np.int32)

    def run():
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = optimizers.AdamW(1e-2)
        inputs, labels = mx.array(x), mx.array(y)
        step = nn.value_and_grad(model, lambda a, b: nn.losses.cross_entropy(model(a), b, reduction="mean"))
        losses = []
        for _ in range(10):
            value, gradients = step(inputs, labels)
            optimizer.update(model, gradients)
            mx.eval(model.state, optimizer.state)
            losses.append(value)
        return losses, model.parameters()

    agree(run, rtol=1e-3, atol=1e-4)


def test_the_example_trains_as_on_the_cpu(backend):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    verdict = command_line._compare_losses(REPOSITORY / "examples" / "digits.py", DEVICE, 32)
    assert verdict.startswith("ok"), verdict


def test_an_error_is_one_of_mlxrs(on_metal, standin):
    standin.standin_inject_failure(PAGE_FAULT, 0)
    with pytest.raises(MlxrError):
        mx.eval(mx.ones((4,)) + 1.0)
