"""The Metal half of the C ABI, on a GPU or on the software stand-in: what it exports, counts, refuses and survives."""

import concurrent.futures
import ctypes
import gc
import mmap
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from mlxr.errors import BackendUnavailableError, InvalidValueError, OutOfMemoryError, UnsupportedOpError
from mlxr.shim import abi, metal
from mlxr.shim.errors import DeviceLostError, HandleError, KernelCompileError, KernelError, ShimError
from mlxr.shim.native import METAL_FUNCTIONS

REPOSITORY = pathlib.Path(__file__).parents[2]

NOT_BUILT = "the Metal runtime is not built: run `make metal-standin`"
pytestmark = pytest.mark.skipif(not metal.available(), reason=NOT_BUILT)

SOURCE = """
#line 1 "runtime_test.metal"
#include <metal_stdlib>
using namespace metal;

constant int bias [[function_constant(0)]];
constant float gain [[function_constant(1)]];
constant bool twice [[function_constant(2)]];

kernel void add(device const float *a [[buffer(0)]], device float *out [[buffer(1)]], constant uint &n [[buffer(2)]],
                uint i [[thread_position_in_grid]]) {
    if (i < n) out[i] = a[i] + 1.0f;
}

kernel void scaled(device const float *a [[buffer(0)]], device float *out [[buffer(1)]], constant uint &n [[buffer(2)]],
                   uint i [[thread_position_in_grid]]) {
    if (i < n) out[i] = (twice ? 2.0f : 1.0f) * (a[i] * gain + float(bias));
}

kernel void reversed(device const float *a [[buffer(0)]], device float *out [[buffer(1)]],
                     threadgroup float *tile [[threadgroup(0)]], uint i [[thread_position_in_threadgroup]],
                     uint n [[threads_per_threadgroup]]) {
    tile[i] = a[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = tile[n - 1u - i];
}
"""
PAGE_FAULT, OUT_OF_MEMORY, DEVICE_REMOVED = 3, 8, 11
UNLIMITED = 1 << 36  # bytes of device memory
N = 1000


@pytest.fixture(scope="module")
def rt():
    return metal.load()


@pytest.fixture(scope="module")
def standin(rt):
    """The stand-in's own functions, which plant failures and delays: see metal/standin/objc/inspect.h."""
    if not rt.info.stand_in:
        pytest.skip("plants failures in the software stand-in, and this device is a GPU")
    f = rt.functions
    f.standin_live_objects.restype = ctypes.c_int64
    f.standin_set_memory_limit.argtypes = [ctypes.c_uint64]
    f.standin_device_bytes.restype = ctypes.c_uint64
    yield f
    f.standin_set_memory_limit(UNLIMITED)
    f.standin_set_delay(0)
    f.standin_restore_device()


@pytest.fixture(scope="module")
def library(rt):
    return rt.library("runtime_test", SOURCE)


@pytest.fixture(scope="module")
def add(rt, library):
    return rt.pipeline(library, "add")


@pytest.fixture
def queue(rt):
    return rt.queue()


def batch_of(pipeline, source, target, n=N, *, count=1, offset=0):
    """`count` launches of an elementwise kernel."""
    batch = metal.Batch()
    for _ in range(count):
        arguments = ((source, offset), (target, offset), np.uint32(n).tobytes())
        batch.launch(pipeline, arguments, (-(-n // 64), 1, 1), (64, 1, 1))
    return batch


def upload(rt, x):
    return rt.copy(x.ctypes.data, x.nbytes)


def view(rt, buffer, n=N, dtype=np.float32):
    """A NumPy array on a buffer's memory; the caller keeps the buffer."""
    kind = np.dtype(dtype)
    return np.frombuffer((ctypes.c_char * (n * kind.itemsize)).from_address(rt.address(buffer)), kind)


@pytest.fixture
def x():
    return np.arange(N, dtype=np.float32)


# ---- the library


@pytest.mark.skipif(shutil.which("nm") is None or sys.platform != "linux", reason="needs nm of binutils")
def test_exports_are_its_half_of_the_header_and_nothing_else(rt):
    command = ["nm", "-D", "--defined-only", "--with-symbol-versions", rt.path]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    names = {line.split()[-1] for line in lines} - {"MLXR_1.1", "MLXR_1.1@@MLXR_1.1"}
    assert names == {f"{name}@@MLXR_1.1" for name in METAL_FUNCTIONS}


def test_versions_and_capabilities(rt):
    assert rt.functions.mlxr_abi_version() == abi.ABI_MAJOR << 16 | abi.ABI_MINOR
    assert rt.functions.mlxr_upstream_version_loaded() == b""
    kinds = {abi.CAP_UPSTREAM: 0, abi.CAP_METAL: 1, abi.CAP_CPU_COUNT: 0, abi.CAP_GPU_COUNT: 1}
    assert {kind: rt.capability(kind) for kind in kinds} == kinds
    with pytest.raises(UnsupportedOpError, match="capability 99"):
        rt.capability(99)
    assert not rt.functions.mlxr_supports(abi.ADD, abi.FLOAT32, abi.GPU)


def test_the_stand_in_says_what_it_is(rt, standin):
    assert "stand-in" in rt.info.name
    assert "not a GPU" in rt.info.name
    assert rt.info.unified
    assert rt.info.page_size == 16384
    assert rt.info.threadgroup_memory == 32768
    assert rt.info.max_threads[0] == 1024


def run_program(code, *, expect=0, env=None):
    """Run code in a process of its own, after loading the runtime; return what it printed."""
    preamble = "import numpy as np\nfrom mlxr.shim import abi, metal\n"
    command = [sys.executable, "-c", preamble + code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=env, timeout=120)
    assert result.returncode == expect, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def test_nothing_works_before_init(rt):
    code = """
import ctypes
from mlxr.shim.native import METAL_FUNCTIONS
f = ctypes.CDLL(str(metal.library_path()))
free = {"mlxr_abi_version", "mlxr_init", "mlxr_upstream_version_compiled", "mlxr_upstream_version_loaded",
        "mlxr_last_error_code", "mlxr_last_error", "mlxr_supports"}
quiet = {"mlxr_metal_free", "mlxr_metal_live_objects", "mlxr_metal_released"}
for name in METAL_FUNCTIONS:
    result, arguments = abi.PROTOTYPES[name]
    function = getattr(f, name)
    function.argtypes, function.restype = arguments, result
    if name in free: continue
    status = function(*[None if a is ctypes.c_void_p else a(0).value for a in arguments])
    assert status == (0 if name in abi.METAL_MAKERS or name in quiet else abi.E_STATE), (name, status)
print("done")
"""
    assert run_program(code) == "done\n"


def test_a_library_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("MLXR_SHIM_METAL", str(tmp_path / "nothing.so"))
    monkeypatch.setattr(metal, "_runtime", None)
    assert not metal.available()
    with pytest.raises(BackendUnavailableError, match="does not exist"):
        metal.load()


# ---- libraries and pipelines


def test_functions_of_a_library(rt, library):
    assert sorted(rt.library_functions(library)) == ["add", "reversed", "scaled"]


def test_constants_specialise_a_kernel(rt, library, queue, x):
    source, target = upload(rt, x), rt.buffer(x.nbytes)
    for bias, gain, twice in ((-3, 0.5, False), (7, -1.25, True)):
        constants = [(0, "int", bias), (1, "float", gain), (2, "bool", twice)]
        pipeline = rt.pipeline(library, "scaled", constants)
        rt.wait(rt.submit(queue, batch_of(pipeline, source, target)))
        np.testing.assert_allclose(view(rt, target), (2 if twice else 1) * (x * gain + bias), rtol=1e-6)


def test_pipelines_are_compiled_once_for_each_set_of_constants(rt, library):
    constants = [(0, "int", 41), (1, "float", 1.0), (2, "bool", False)]
    first = rt.pipeline(library, "scaled", constants)
    before = rt.counters()["pipelines_compiled"]
    assert rt.pipeline(library, "scaled", constants).value != first.value  # a handle of its own, of the same pipeline
    assert rt.counters()["pipelines_compiled"] == before
    rt.pipeline(library, "scaled", [(0, "int", 42), *constants[1:]])
    assert rt.counters()["pipelines_compiled"] == before + 1


def test_pipeline_info(rt, add):
    most, simd, own = rt.pipeline_info(add)
    assert (most, simd, own) == (1024, 32, 0)


def test_a_compile_error_has_file_and_line(rt):
    broken = SOURCE.replace("out[i] = a[i] + 1.0f", "out[i] = missing[i]")
    line = next(k for k, text in enumerate(broken.splitlines(), -1) if "missing" in text)
    live = rt.live_handles()
    with pytest.raises(KernelCompileError, match=rf"broken does not compile(.|\n)*runtime_test\.metal:{line}"):
        rt.library("broken", broken)
    assert rt.live_handles() == live


def test_a_kernel_that_is_not_there(rt, library):
    with pytest.raises(KernelCompileError, match="kernel subtract of runtime_test"):
        rt.pipeline(library, "subtract")


def test_constants_that_are_missing_or_impossible(rt, library):
    with pytest.raises(KernelCompileError, match="scaled"):
        rt.pipeline(library, "scaled", [(0, "int", 1)])
    with pytest.raises(InvalidValueError, match="-1 is no index"):
        rt.pipeline(library, "scaled", [(-1, "int", 1)])


def test_a_metallib_that_is_none(rt, tmp_path):
    (tmp_path / "no.metallib").write_text("nothing")
    with pytest.raises(KernelCompileError, match=r"no\.metallib"):
        rt.library_file(str(tmp_path / "no.metallib"))


def test_pipelines_are_kept_between_processes(rt, tmp_path):
    (tmp_path / "source.metal").write_text(SOURCE)
    code = f"""
rt = metal.load()
rt.cache_folder({str(tmp_path)!r})
lib = rt.library("runtime_test", open({str(tmp_path / "source.metal")!r}).read())
keep = [rt.pipeline(lib, "add"), rt.pipeline(lib, "scaled", [(0, "int", 3), (1, "float", 2.0), (2, "bool", True)])]
counters = rt.counters()
print(counters["pipelines_compiled"], counters["pipelines_loaded"])
"""
    assert run_program(code) == "2 0\n"
    kept = list(tmp_path.glob("*.pipelines"))
    assert len(kept) == 1
    assert run_program(code) == "0 2\n"
    kept[0].write_bytes(b"torn")  # a file that another system wrote, or half of one
    assert run_program(code) == "2 0\n"
    assert run_program(code) == "0 2\n"
    assert list(tmp_path.glob("*.pipelines")) == kept  # nothing is left beside it


def test_a_cache_folder_that_is_none(rt, tmp_path):
    with pytest.raises(InvalidValueError, match="no folder"):
        rt.cache_folder(str(tmp_path / "missing"))


# ---- buffers


def test_memory_in_whole_pages_is_shared(rt, add, queue):
    memory = mmap.mmap(-1, 4 * 16384)  # mapped memory begins at a page of 4096 bytes at least
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start = -(-base // 16384) * 16384
    x = np.frombuffer(memory, np.float32, 16384 // 4, start - base)
    x[:] = np.arange(len(x))
    before = rt.counters()
    buffer = rt.share(memory, start, 16384)
    assert rt.address(buffer) == start
    rt.wait(rt.submit(queue, batch_of(add, buffer, buffer, len(x))))
    np.testing.assert_array_equal(x, np.arange(len(x)) + 1)
    after = rt.counters()
    assert after["bytes_copied"] == before["bytes_copied"]
    assert after["bytes_shared"] == before["bytes_shared"] + 16384
    del x


def test_memory_that_is_not_whole_pages_is_refused(rt):
    block = np.zeros(1 << 18, np.uint8)
    start = -(-block.ctypes.data // 16384) * 16384
    owners = rt.shared_owners()
    for address, nbytes in ((start + 64, 16384), (start, 16384 + 64), (start, 0), (0, 16384)):
        with pytest.raises((UnsupportedOpError, InvalidValueError)):
            rt.share(block, address, nbytes)
    assert rt.shared_owners() == owners


def test_shared_memory_is_let_go_of_when_the_last_commands_have_run(rt, standin, add, queue):
    block = np.zeros(1 << 18, np.uint8)
    start = -(-block.ctypes.data // 16384) * 16384
    target = rt.buffer(16384)
    owners = rt.shared_owners()
    standin.standin_set_delay(20000)
    buffer = rt.share(block, start, 65536)
    commands = rt.submit(queue, batch_of(add, buffer, target, 100))
    del buffer
    assert rt.shared_owners() == owners + 1  # in flight
    rt.wait(commands)
    standin.standin_set_delay(0)
    standin.standin_wait_idle()
    assert rt.shared_owners() == owners


def test_copies_are_counted(rt, x):
    before = rt.counters()["bytes_copied"]
    buffer = upload(rt, x)
    assert rt.counters()["bytes_copied"] == before + x.nbytes
    np.testing.assert_array_equal(view(rt, buffer), x)


def test_freed_buffers_are_used_again(rt):
    rt.clear_cache()
    first = rt.buffer(100_000)
    address = rt.address(first)
    before = rt.counters()
    del first
    second = rt.buffer(99_000)
    assert rt.address(second) == address
    after = rt.counters()
    assert after["reuses"] == before["reuses"] + 1
    assert after["allocations"] == before["allocations"]


def test_memory_figures(rt):
    rt.clear_cache()
    active = rt.memory(abi.MEMORY_ACTIVE)
    buffer = rt.buffer(1 << 20)
    assert rt.memory(abi.MEMORY_ACTIVE) == active + (1 << 20)
    assert rt.memory(abi.MEMORY_PEAK) >= active + (1 << 20)
    del buffer
    assert rt.memory(abi.MEMORY_ACTIVE) == active
    assert rt.memory(abi.MEMORY_CACHE) == 1 << 20
    limit = rt.set_memory(abi.MEMORY_CACHE_LIMIT, 1000)
    assert rt.memory(abi.MEMORY_CACHE) == 0
    buffer = rt.buffer(1 << 20)
    del buffer
    assert rt.memory(abi.MEMORY_CACHE) == 0  # larger than what is kept
    assert rt.set_memory(abi.MEMORY_CACHE_LIMIT, limit) == 1000
    with pytest.raises(InvalidValueError):
        rt.memory(99)
    with pytest.raises(InvalidValueError):
        rt.set_memory(abi.MEMORY_ACTIVE, 0)


def test_out_of_memory_is_typed_and_leaves_the_rest_alone(rt, standin, add, queue, x):
    rt.clear_cache()
    standin.standin_wait_idle()
    used = standin.standin_device_bytes()
    standin.standin_set_memory_limit(used + (6 << 20))
    try:
        held = [rt.buffer(1 << 20) for _ in range(5)]
        with pytest.raises(OutOfMemoryError, match="no memory for a buffer of 2097152 bytes"):
            rt.buffer(2 << 20)
        del held
        big = rt.buffer(4 << 20)  # what was freed is kept in five pieces, and has to be given back first
        del big
        source, target = upload(rt, x), rt.buffer(x.nbytes)
        rt.wait(rt.submit(queue, batch_of(add, source, target)))
        np.testing.assert_array_equal(view(rt, target), x + 1)
    finally:
        standin.standin_set_memory_limit(UNLIMITED)
    with pytest.raises(OutOfMemoryError, match="larger than the device allows"):
        rt.buffer(1 << 50)


def test_memory_of_commands_in_flight_is_waited_for(rt, standin, add, queue):
    rt.clear_cache()
    standin.standin_wait_idle()
    standin.standin_set_memory_limit(standin.standin_device_bytes() + (5 << 20))
    standin.standin_set_delay(30000)
    try:
        source, target = rt.buffer(2 << 20), rt.buffer(2 << 20)
        commands = rt.submit(queue, batch_of(add, source, target))
        del source, target
        rt.collect()
        assert rt.buffer(3 << 20).value  # more than is there until the commands have run
        assert rt.done(commands)
    finally:
        standin.standin_set_delay(0)
        standin.standin_set_memory_limit(UNLIMITED)


# ---- commands


def test_launches_of_a_batch_see_what_earlier_ones_wrote(rt, add, queue, x):
    buffer = upload(rt, x)
    rt.wait(rt.submit(queue, batch_of(add, buffer, buffer, count=20)))
    np.testing.assert_array_equal(view(rt, buffer), x + 20)


def test_threadgroup_memory(rt, library, queue):
    x = np.arange(64, dtype=np.float32)
    source, target = upload(rt, x), rt.buffer(x.nbytes)
    batch = metal.Batch()
    batch.launch(rt.pipeline(library, "reversed"), ((source, 0), (target, 0)), (1, 1, 1), (64, 1, 1), (256,))
    rt.wait(rt.submit(queue, batch))
    np.testing.assert_array_equal(view(rt, target, 64), x[::-1])


def test_nothing_to_run(rt, add, queue):
    commands = rt.submit(queue, metal.Batch())
    rt.wait(commands)
    buffer = rt.buffer(16)
    batch = metal.Batch()
    batch.launch(add, ((buffer, 0), (buffer, 0), b"\0\0\0\0"), (0, 1, 1), (64, 1, 1))
    before = rt.counters()["dispatches"]
    rt.wait(rt.submit(queue, batch))
    assert rt.counters()["dispatches"] == before


def test_what_metal_would_abort_over_is_refused_with_the_kernels_name(rt, add, library, queue):
    buffer = rt.buffer(4096)
    reverse = rt.pipeline(library, "reversed")

    usual = ((buffer, 0), (buffer, 0), b"1234")

    def refused(match, pipeline=add, grid=(1, 1, 1), group=(64, 1, 1), memory=(), arguments=usual):
        batch = metal.Batch()
        batch.launch(pipeline, arguments, grid, group, memory)
        before = rt.counters()["command_buffers"]
        with pytest.raises(InvalidValueError, match=match):
            rt.submit(queue, batch)
        assert rt.counters()["command_buffers"] == before

    refused("kernel add: argument 1 begins at byte 8192", arguments=((buffer, 0), (buffer, 8192), b"1234"))
    refused("kernel add: threadgroups of 2048 threads", group=(2048, 1, 1))
    refused("kernel add: threadgroups of 0 threads", group=(0, 1, 1))
    refused("threads", group=(1 << 16, 1 << 16, 1 << 16))
    refused("argument 2 of 4097 bytes by value", arguments=((buffer, 0), (buffer, 0), bytes(4097)))
    refused("argument 2 of 0 bytes by value", arguments=((buffer, 0), (buffer, 0), b""))
    refused("more than 31", arguments=[(buffer, 0)] * 32)
    refused("kernel reversed: 32784 bytes of threadgroup memory", reverse, memory=(32784,))
    refused("kernel reversed: threadgroup memory of 250 bytes", reverse, memory=(250,))


def test_handles_that_are_stale_foreign_or_of_another_kind(rt, add, library, queue):
    buffer = rt.buffer(64)
    for wrong in (0, 12345, (1 << 64) - 1, buffer.value ^ 1 << 40):
        with pytest.raises(HandleError):
            rt.address(ctypes.c_uint64(wrong))
    with pytest.raises(HandleError, match="of another kind than buffer"):
        rt.address(queue)
    with pytest.raises(HandleError, match="of another kind than library"):
        rt.pipeline(buffer, "add")
    with pytest.raises(HandleError, match="of another kind than queue"):
        rt.submit(add, metal.Batch())
    with pytest.raises(HandleError, match="of another kind than commands"):
        rt.wait(buffer)
    batch = metal.Batch()
    batch.launch(add, [(library, 0)], (1, 1, 1), (64, 1, 1))
    with pytest.raises(HandleError):
        rt.submit(queue, batch)


def test_handles_are_freed_once(rt):
    f = rt.functions
    one = rt.buffer(64)
    number = ctypes.c_uint64(one.value).value
    one.value = 0  # this test owns it
    assert f.mlxr_metal_free(0) == abi.OK
    assert f.mlxr_metal_free(number) == abi.OK
    assert f.mlxr_metal_free(number) == abi.E_HANDLE
    assert f.mlxr_metal_free_many(None, -1) == abi.E_INVALID
    assert f.mlxr_metal_free_many(None, 1) == abi.E_INVALID


def test_times(rt, standin, add, queue, x):
    source, target = upload(rt, x), rt.buffer(x.nbytes)
    standin.standin_set_delay(20000)
    commands = rt.submit(queue, batch_of(add, source, target))
    with pytest.raises(ShimError, match="not ended"):
        rt.times(commands)
    assert not rt.done(commands)
    rt.wait(commands)
    standin.standin_set_delay(0)
    start, end = rt.times(commands)
    assert 0 < start <= end
    assert rt.done(commands)


def test_what_is_freed_lives_until_its_commands_have_run(rt, standin, add, queue, x):
    standin.standin_set_delay(20000)
    source, target = upload(rt, x), rt.buffer(x.nbytes)
    commands = rt.submit(queue, batch_of(add, source, target))
    del source
    gc.collect()
    rt.collect()
    other = upload(rt, np.full(N, -1, np.float32))  # must not get the memory that is still to be read
    rt.wait(commands)
    standin.standin_set_delay(0)
    np.testing.assert_array_equal(view(rt, target), x + 1)
    del other


def test_a_thousand_command_buffers_in_flight_leave_nothing_behind(rt, standin, add, x):
    standin.standin_wait_idle()
    rt.clear_cache()
    rt.collect()
    objects, handles, before = standin.standin_live_objects(), rt.live_handles(), rt.counters()
    queue = rt.queue(1000)
    standin.standin_set_delay(200)
    commands, targets = [], []
    for _ in range(1000):
        source, target = upload(rt, x), rt.buffer(x.nbytes)
        commands.append(rt.submit(queue, batch_of(add, source, target, 8)))
        targets.append(target)
    assert rt.counters()["in_flight"] > 500
    rt.synchronize(queue)
    standin.standin_set_delay(0)
    assert rt.counters()["in_flight"] == 0
    assert all(rt.done(c) for c in commands)
    assert all((view(rt, target, 8) == x[:8] + 1).all() for target in targets)
    del commands, targets, source, target, queue
    rt.collect()
    standin.standin_wait_idle()
    after = rt.counters()
    assert after["command_buffers"] == before["command_buffers"] + 1000
    assert (after["live_buffers"], after["live_bytes"]) == (before["live_buffers"], before["live_bytes"])
    assert rt.live_handles() == handles
    rt.clear_cache()
    assert standin.standin_live_objects() == objects


def test_a_queue_that_is_full_makes_submitting_wait(rt, standin, add, x):
    queue = rt.queue(2)
    source, target = upload(rt, x), rt.buffer(x.nbytes)
    standin.standin_set_delay(10000)
    start = time.perf_counter()
    for _ in range(6):
        rt.submit(queue, batch_of(add, source, target))
    assert time.perf_counter() - start > 0.02
    rt.synchronize(queue)
    standin.standin_set_delay(0)
    for bad in (0, -1, 65537):
        with pytest.raises(InvalidValueError):
            rt.queue(bad)


@pytest.mark.parametrize(
    ("code", "error"),
    [(PAGE_FAULT, KernelError), (OUT_OF_MEMORY, OutOfMemoryError), (DEVICE_REMOVED, DeviceLostError)],
)
def test_failures_name_the_kernels_and_are_told_every_time(rt, standin, add, queue, x, code, error):
    source, target = upload(rt, x), rt.buffer(x.nbytes)
    before = rt.counters()["failures"]
    standin.standin_inject_failure(code, 0)
    commands = rt.submit(queue, batch_of(add, source, target))
    for _ in range(2):
        with pytest.raises(error, match="a command buffer with add failed"):
            rt.wait(commands)
    assert rt.counters()["failures"] == before + 1
    if code == DEVICE_REMOVED:
        with pytest.raises(DeviceLostError):  # and stays lost
            rt.wait(rt.submit(queue, batch_of(add, source, target)))
    standin.standin_restore_device()
    rt.wait(rt.submit(queue, batch_of(add, source, target)))
    np.testing.assert_array_equal(view(rt, target), x + 1)


def test_failures_leave_nothing_behind(rt, standin, add, queue, x):
    standin.standin_wait_idle()
    rt.clear_cache()
    objects, handles = standin.standin_live_objects(), rt.live_handles()
    for code in (PAGE_FAULT, OUT_OF_MEMORY):
        source, target = upload(rt, x), rt.buffer(x.nbytes)
        standin.standin_inject_failure(code, 0)
        with pytest.raises((KernelError, OutOfMemoryError)):
            rt.wait(rt.submit(queue, batch_of(add, source, target)))
        del source, target
    with pytest.raises(KernelCompileError):
        rt.library("broken", "kernel void nothing(")
    gc.collect()
    standin.standin_wait_idle()
    assert rt.live_handles() == handles
    rt.clear_cache()
    assert standin.standin_live_objects() == objects


# ---- events


def test_events_order_queues(rt, standin, add, x):
    first, second, event = rt.queue(), rt.queue(), rt.event()
    buffer = upload(rt, x)
    waiting = rt.submit(second, batch_of(add, buffer, buffer), wait=(event, 1))
    time.sleep(0.02)
    assert not rt.done(waiting)
    rt.submit(first, batch_of(add, buffer, buffer, count=3), signal=(event, 1))
    rt.wait(waiting)
    assert rt.event_value(event) == 1
    np.testing.assert_array_equal(view(rt, buffer), x + 4)


def test_the_host_sets_events(rt, add, queue, x):
    event, buffer = rt.event(), upload(rt, x)
    waiting = rt.submit(queue, batch_of(add, buffer, buffer), wait=(event, 5))
    rt.set_event(event, 4)
    time.sleep(0.01)
    assert not rt.done(waiting)
    rt.set_event(event, 5)
    rt.wait(waiting)
    with pytest.raises(HandleError, match="another kind than event"):
        rt.event_value(queue)


# ---- the rest


def test_capture_is_refused_on_the_stand_in(rt, standin, tmp_path):
    with pytest.raises(UnsupportedOpError, match="stand-in"):
        rt.start_capture(str(tmp_path / "x.gputrace"))
    with pytest.raises(ShimError, match="no capture is on"):
        rt.stop_capture()


def test_counters_are_reset(rt, add, queue, x):
    buffer = upload(rt, x)
    rt.wait(rt.submit(queue, batch_of(add, buffer, buffer)))
    assert rt.counters()["dispatches"]
    rt.reset_counters()
    after = rt.counters()
    assert (after["dispatches"], after["command_buffers"], after["bytes_copied"]) == (0, 0, 0)
    assert after["live_buffers"] >= 1


def test_structs_of_an_older_caller_are_refused(rt):
    info = abi.MetalCounters(size=8)
    with pytest.raises(BackendUnavailableError, match="counters->size is 8"):
        rt.check(rt.functions.mlxr_metal_counters_get(ctypes.byref(info)))


def test_threads(rt, add, x):
    def work(seed):
        queue = rt.queue(64)
        for k in range(20):
            mine = x + np.float32(seed)
            buffer = upload(rt, mine)
            rt.wait(rt.submit(queue, batch_of(add, buffer, buffer, count=1 + k % 3)))
            np.testing.assert_array_equal(view(rt, buffer), mine + 1 + k % 3)
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_a_forked_child_is_told(rt):
    code = """
import os
from mlxr.shim.errors import ForkError
rt = metal.load()
buffer = rt.buffer(64)
child = os.fork()
if child == 0:
    try:
        rt.buffer(64)
    except ForkError:
        os._exit(7)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
rt.buffer(64)
"""
    assert run_program(code) == "7\n"


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)", "raise SystemExit(0)"])
def test_exit_with_work_in_flight(standin, end, tmp_path):
    (tmp_path / "source.metal").write_text(SOURCE)
    code = f"""
rt = metal.load()
rt.functions.standin_set_delay(2000)
lib = rt.library("runtime_test", open({str(tmp_path / "source.metal")!r}).read())
add, queue, buffer = rt.pipeline(lib, "add"), rt.queue(), rt.buffer(4096)
for _ in range(50):
    batch = metal.Batch()
    batch.launch(add, ((buffer, 0), (buffer, 0), np.uint32(8).tobytes()), (1, 1, 1), (64, 1, 1))
    commands = rt.submit(queue, batch)
print("in flight", flush=True)
{end}
"""
    assert run_program(code) == "in flight\n"


@pytest.mark.parametrize("seed", range(2))
def test_random_calls_survive(standin, tmp_path, seed):
    """Any handle, any number, NULL or zeroed memory: every call returns, and a failure has a code and a text."""
    (tmp_path / "source.metal").write_text(SOURCE)
    code = f"""
import ctypes, random
from mlxr.shim.native import METAL_FUNCTIONS
rng = random.Random({seed})
rt = metal.load()
lib = rt.library("runtime_test", open({str(tmp_path / "source.metal")!r}).read())
keep = [rt.pipeline(lib, "add"), rt.queue(8), rt.buffer(4096), rt.event(), lib]
keep.append(rt.submit(keep[1], metal.Batch()))
f = ctypes.CDLL(str(rt.path))
for name in METAL_FUNCTIONS:
    function = getattr(f, name)
    function.restype, function.argtypes = abi.PROTOTYPES[name]
made = []
names = sorted(set(METAL_FUNCTIONS) - {{"mlxr_metal_library_source", "mlxr_metal_queue_new", "mlxr_metal_memory_set"}})
for step in range(3000):
    name = rng.choice(names)
    values, held = [], []
    for kind in abi.PROTOTYPES[name][1]:
        if kind is ctypes.c_void_p:
            memory = ctypes.create_string_buffer(8192)
            sized = ctypes.c_uint32.from_buffer(memory)
            sized.value = rng.choice([0, 8, 24, 80, 4096])
            held.append(memory)
            values.append(rng.choice([None, ctypes.addressof(memory)]))
        elif kind is ctypes.c_uint64:
            values.append(rng.choice([0, 1, 12345, 1 << 63, rng.getrandbits(64), *[k.value for k in keep], *made[-8:]]))
        elif kind is ctypes.c_size_t:
            values.append(rng.choice([0, 1, 64]))
        else:
            values.append(rng.choice([-1, 0, 1, 2, 7, 1 << 30, -(1 << 31)]) if name != "mlxr_metal_free_many" else 0)
    if name in ("mlxr_metal_free", "mlxr_metal_event_set") and values[0] in [k.value for k in keep]:
        continue
    result = getattr(f, name)(*values)
    if name in abi.METAL_MAKERS and result:
        made.append(result)
    elif name in abi.METAL_MAKERS or (abi.PROTOTYPES[name][0] is ctypes.c_int32 and result > 0
                                      and name not in ("mlxr_last_error_code", "mlxr_supports")):
        assert f.mlxr_last_error_code() > 0 and f.mlxr_last_error(), name
print("survived", flush=True)
"""
    assert run_program(code) == "survived\n"
