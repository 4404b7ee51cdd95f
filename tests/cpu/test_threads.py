"""Python threads on shared and own tensors, and fork: right results, whoever else is computing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import mlxr as mx

SECONDS = float(os.environ.get("MLXR_STRESS_SECONDS", "10"))
THREADS = 8


def workload(shared: mx.array, own: mx.array) -> list[mx.array]:
    """A bit of everything that takes its own path through dispatch: layout, kernels, gradients, writes in place."""
    mine = own + shared[0]
    mine[1:3] = 0.5
    mine += shared
    product = mine @ shared.T
    gradient = mx.grad(lambda x: (mx.softmax(x @ shared, -1) * x).sum())(own)
    gathered = mx.take(shared, mx.array([3, 1, 2]), axis=0)
    total = mx.concatenate([mine, gathered]).astype(mx.float16).sum(0)
    return [mine, product, gradient, total, mx.sort(own, 0), mx.cumsum(own, 1), mx.fast.rms_norm(own, shared[1], 1e-5)]


def as_bytes(tensors: list[mx.array]) -> list[bytes]:
    return [np.array(x).tobytes() for x in tensors]


def test_eight_threads_on_shared_and_own_tensors() -> None:
    rng = np.random.default_rng(0)
    shared = mx.array(rng.standard_normal((96, 96)).astype(np.float32))
    sources = [rng.standard_normal((96, 96)).astype(np.float32) for _ in range(THREADS)]
    wanted = [as_bytes(workload(shared, mx.array(source))) for source in sources]
    before = np.array(shared).tobytes()
    failures, rounds, until = [], [0] * THREADS, time.monotonic() + SECONDS

    def work(k: int) -> None:
        try:
            while time.monotonic() < until and not failures:
                if as_bytes(workload(shared, mx.array(sources[k]))) != wanted[k]:
                    failures.append(f"thread {k}, round {rounds[k]}: other bits")
                rounds[k] += 1
        except Exception as error:  # a failure on any thread fails the test
            failures.append(repr(error))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    assert min(rounds) > 0
    assert np.array(shared).tobytes() == before


def test_memory_is_balanced_after_threads() -> None:
    def work() -> None:
        for _ in range(200):
            x = mx.ones((50, 50))
            mx.grad(lambda y: (y @ y).sum())(x)

    work()
    before = mx.get_active_memory()
    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert mx.get_active_memory() == before


def test_transforms_of_two_threads_do_not_mix() -> None:
    barrier, found = threading.Barrier(2), {}

    def work(name: str, factor: float) -> None:
        def function(x):
            y = x * factor
            barrier.wait(10)
            return (y * x).sum()

        found[name] = mx.grad(function)(mx.array([1.0, 2.0])).tolist()

    workers = [threading.Thread(target=work, args=(n, f)) for n, f in (("a", 1.0), ("b", 5.0))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {"a": [2, 4], "b": [10, 20]}


def test_default_device_of_a_scope_is_the_threads_own() -> None:
    inside = []
    with mx.default_device("cpu"):
        worker = threading.Thread(target=lambda: inside.append(mx.zeros((2,)).device))
        worker.start()
        worker.join()
    assert inside == [mx.default_device()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_computes_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    a = mx.array(rng.standard_normal((400, 400)).astype(np.float32))
    wanted = np.array(a @ a).tobytes()  # the parent's threads exist now
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if np.array(a @ a).tobytes() == wanted and float(mx.exp(a).sum()) > 0 else 2
        finally:
            os.write(writing, bytes([status]))
            os._exit(status)
    os.close(writing)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    os.close(reading)
    assert os.waitstatus_to_exitcode(status) == 0
    assert np.array(a @ a).tobytes() == wanted


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs processor affinity, which Linux has")
def test_workers_keep_off_the_callers_processor() -> None:
    """In a process of its own: threads of other libraries, and of this one's other tests, have other affinities."""
    program = """
import json, os
import mlxr as mx

def threads():
    return set(map(int, os.listdir("/proc/self/task")))

def run(count):
    mx.set_num_threads(count)
    before = threads()
    mx.exp(mx.ones((2_000_000,)))
    allowed = os.sched_getaffinity(0)
    return [[len(allowed - os.sched_getaffinity(t)), len(allowed)] for t in threads() - before]

processors = len(os.sched_getaffinity(0))
first = run(2)
more = run(processors + 3)
print(json.dumps([processors, len(os.sched_getaffinity(0)), first, more]))
"""
    free = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run([sys.executable, "-c", program], env=free, capture_output=True, text=True, check=True)
    processors, after, first, more = json.loads(done.stdout)
    assert after == processors  # the caller's own affinity, and so that of the programs that it starts
    assert first == [[1 if processors > 1 else 0, processors]]
    assert more  # new workers, for more threads than there are processors: any processor will do
    assert all(kept_off == 0 for kept_off, _ in more)


def test_interpreter_switches_threads_during_a_kernel() -> None:
    a = mx.ones((1200, 1200))
    ticks, stop = [], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.0005)

    interval = sys.getswitchinterval()
    clock = threading.Thread(target=tick)
    clock.start()
    try:
        time.sleep(0.01)
        start = time.monotonic()
        for _ in range(3):
            a @ a
        end = time.monotonic()
    finally:
        stop.set()
        clock.join()
        sys.setswitchinterval(interval)
    assert any(start < t < end for t in ticks)
