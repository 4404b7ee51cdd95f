"""The library in a process: threads, fork, exit, and upstream's own Python beside it."""

import ctypes.util
import os
import pathlib
import threading

import numpy as np
import pytest

from mlxr import shim
from mlxr.shim import abi


def in_threads(count, work):
    """Run work(i) in threads that start together; raise what they raised."""
    barrier = threading.Barrier(count)
    failures = []

    def body(i):
        try:
            barrier.wait()
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_threads_of_independent_work(lib, given):
    x = np.random.default_rng(0).random(4096, np.float32)
    shared = given(x)
    expected = np.exp(2 * x) * 2 * x

    def work(_):
        for _ in range(100):
            a = lib.binary(abi.ADD, shared, shared)
            b = lib.binary(abi.MULTIPLY, lib.unary(abi.EXP, a), a)
            np.testing.assert_allclose(lib.to_numpy(b), expected, rtol=1e-5)

    in_threads(8, work)


def test_one_graph_evaluated_by_many_threads(lib, given):
    for round_ in range(15):
        x = np.random.default_rng(round_).random(4096, np.float32)
        a = given(x)
        graph = a
        for _ in range(10):
            graph = lib.unary(abi.TANH, lib.binary(abi.ADD, graph, a))
        results = [None] * 8

        def work(i, graph=graph, results=results):
            results[i] = lib.to_numpy(graph).copy()

        in_threads(8, work)
        for result in results:
            np.testing.assert_array_equal(result, results[0])
        assert results[0].any()


def test_building_on_a_graph_while_it_is_evaluated(lib, given):
    a = given(np.random.default_rng(1).random(4096, np.float32))
    for _ in range(50):
        lazy = lib.unary(abi.EXP, lib.binary(abi.ADD, a, a))
        built = []

        def work(i, lazy=lazy, built=built):
            if i == 0:
                lib.eval(lazy)
            else:
                built.extend(lib.binary(abi.MULTIPLY, lazy, a) for _ in range(5))

        in_threads(3, work)
        lib.eval(*built)
        np.testing.assert_array_equal(lib.to_numpy(built[0]), lib.to_numpy(built[-1]))


def test_no_unfinished_data_is_seen(lib, given):
    """Upstream calls arrays available as soon as their evaluation has started; the shim must not."""
    rng = np.random.default_rng(0)
    m = given((rng.standard_normal((300, 300)) / 17).astype(np.float32))
    graph = m
    for _ in range(4):
        graph = lib.matmul(graph, m)
    early = []

    def work(i):
        if i == 0:
            lib.eval(graph)
        else:
            while not (what := lib.describe(graph)).available:
                pass
            early.append(np.asarray(shim.binding._View(graph, what)).copy())

    in_threads(2, work)
    np.testing.assert_array_equal(early[0], lib.to_numpy(graph))


def test_graph_of_a_dead_thread(lib, given):
    x, made = np.zeros(8, np.float32), []
    thread = threading.Thread(target=lambda: made.append(lib.unary(abi.EXP, given(x))))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(lib.to_numpy(made[0]), 1)


def test_threads_that_free_what_others_use(lib):
    """Handles are freed under readers: each use succeeds or is refused, and nothing else happens."""
    f = lib.functions
    x = np.ones(64, np.float32)
    cells = [lib.copy(x.ctypes.data, (64,), abi.FLOAT32) for _ in range(16)]
    for cell in cells:
        f.mlxr_array_retain(cell)
    handles = [cell.value for cell in cells]
    outcomes = set()

    def work(i):
        rng = np.random.default_rng(i)
        for k in rng.integers(0, 16, 400):
            if i == 0 and k < 4:
                f.mlxr_array_free(handles[k])
                handles[k] = lib.retain(lib.copy(x.ctypes.data, (64,), abi.FLOAT32)).value
            else:
                result = f.mlxr_binary(abi.ADD, handles[k], handles[(k + 1) % 16], 0)
                outcomes.add(abi.OK if result else f.mlxr_last_error_code())

    in_threads(6, work)
    assert outcomes <= {abi.OK, abi.E_HANDLE}


FORK = """
import ctypes.util
import os
import pathlib
from mlxr.shim.errors import ForkError
a = array([1.0, 2.0], np.float32)
lib.eval(lib.binary(abi.ADD, a, a))
pid = os.fork()
if pid == 0:
    codes = []
    for call in (lambda: lib.binary(abi.ADD, a, a), lambda: lib.eval(a), lambda: lib.describe(a),
                 lambda: lib.linalg(abi.INV, a), lambda: lib.synchronize(), lambda: lib.stream(abi.CPU)):
        try: call()
        except ForkError as error: codes.append(error.code)
    assert codes == ["E_FORK"] * 6, codes
    assert lib.functions.mlxr_live_handles() == 0
    del a
    lib.collect()
    END
_, status = os.waitpid(pid, 0)
assert status == 0, status
print(lib.to_numpy(lib.binary(abi.ADD, a, a)))
"""


def test_fork_is_refused_in_the_child(run_program):
    assert run_program(FORK.replace("END", "os._exit(0)")) == "[2. 4.]\n"


def test_a_forked_child_can_end_in_the_ordinary_way(run_program):
    assert run_program(FORK.replace("END", "raise SystemExit(0)")) == "[2. 4.]\n"


def test_fork_before_the_library_is_loaded(run_program):
    code = """
import ctypes.util
import os
import pathlib
pid = os.fork()
from mlxr import shim
from mlxr.shim import abi
import numpy as np
lib = shim.load()
print(float(lib.to_numpy(lib.reduce(abi.SUM, lib.from_numpy(np.ones(10, np.float32), copy=True)))), flush=True)
if pid: os.waitpid(pid, 0)
"""
    assert run_program(code, preamble="") == "10.0\n10.0\n"


@pytest.mark.parametrize("round_", range(3))
def test_exit_with_work_in_flight(run_program, round_):
    code = """
x = np.random.default_rng(0).random((700, 700), np.float32)
h = given(x)
r = h
for _ in range(6): r = lib.matmul(r, h)
lib.async_eval(r)
view = lib.to_numpy(lib.unary(abi.ABS, h))
print("leaving", flush=True)
"""
    assert run_program(code) == "leaving\n"


def test_exit_with_live_arrays_in_many_places(run_program):
    code = """
import builtins, threading
cycle = [given(np.ones(10, np.float32))]; cycle.append(cycle)
builtins.kept = lib.unary(abi.EXP, cycle[0])
thread = threading.Thread(target=lambda: lib.eval(builtins.kept)); thread.start()
print("leaving", flush=True)
"""
    assert run_program(code) == "leaving\n"


@pytest.mark.parametrize("first", ["shim", "mlx"])
def test_beside_upstreams_python(run_program, first):
    pytest.importorskip("mlx.core", reason="upstream MLX is not installed")
    load = "import mlx.core as mx\n"
    code = """
assert lib.upstream_version == mx.__version__
images = {line.split()[-1] for line in open("/proc/self/maps") if "libmlx." in line} if MAPS else {1}
assert len(images) == 1, images
before = mx.get_active_memory()
a = array(np.ones(1 << 18), np.float32)
assert mx.get_active_memory() - before >= 1 << 20
b = mx.ones(10) + 1
mx.eval(b)
print(float(lib.to_numpy(lib.reduce(abi.SUM, a))), float(b.sum()))
""".replace("MAPS", str(pathlib.Path("/proc/self/maps").exists()))
    before, after = (load, "") if first == "mlx" else ("", load)
    assert run_program(after + code, before=before) == "262144.0 20.0\n"


def test_missing_library_says_how_to_build_it(run_program, tmp_path):
    env = {**os.environ, "MLXR_SHIM": str(tmp_path / "nothing.so")}
    code = """
from mlxr import shim
from mlxr.errors import BackendUnavailableError
assert not shim.available()
try: shim.load()
except BackendUnavailableError as error: print("make shim" in str(error), error.reason)
"""
    assert run_program(code, preamble="", env=env) == "True not built\n"


def test_foreign_library_is_refused(run_program, tmp_path):
    libm = ctypes.util.find_library("m") or pytest.skip("no libm")
    ctypes.CDLL(libm)
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps")
    other = tmp_path / "other.so"
    other.symlink_to(next(line.split()[-1] for line in maps.read_text().splitlines() if line.endswith(libm)))
    code = """
from mlxr import shim
from mlxr.shim.errors import AbiError
try: shim.load()
except AbiError as error: print("build the shim again" in str(error))
"""
    assert run_program(code, preamble="", env={**os.environ, "MLXR_SHIM": str(other)}) == "True\n"


def test_preloaded_blas(run_program, library_file):
    folder = pathlib.Path(np.__file__).parents[1] / "numpy.libs"
    if not library_file.with_name("libmlxr_blas.so").exists() or not folder.is_dir():
        pytest.skip("no forwarder, or a NumPy without its own OpenBLAS")
    code = """
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64, np.complex64):
    x, y = (rng.standard_normal((2, 70, 70)) + (1j if dtype == np.complex64 else 0)).astype(dtype)
    r = lib.to_numpy(lib.matmul(array(x), lib.transpose(array(y))))
    assert abs(r - x @ y.T).max() < 1e-3, dtype
print("scipy_openblas" in open("/proc/self/maps").read())
"""
    assert run_program(code, env={**os.environ, "MLXR_SHIM_BLAS": "numpy"}) == "True\n"


def test_unknown_blas_is_an_error(run_program):
    code = """
from mlxr import shim
from mlxr.errors import BackendUnavailableError
try: shim.load()
except BackendUnavailableError as error: print("nowhere" in str(error))
"""
    assert run_program(code, preamble="", env={**os.environ, "MLXR_SHIM_BLAS": "/nowhere/libblas.so"}) == "True\n"


def test_load_is_idempotent(lib):
    assert shim.load() is lib
