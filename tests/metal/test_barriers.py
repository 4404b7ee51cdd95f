"""Each barrier of each shipped kernel is needed, or is known not to be: deleted, the checker notices.

A barrier is deleted while kernels run (`DeletedBarrier`), so nothing is compiled again. The workouts call every family
at sizes that make its kernels go round their loops more than once; a new barrier that no workout comes to fails here.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from metal_launches import run, tensor
from standin.harness import KERNELS, ORDERS, CheckError, DeletedBarrier

import mlxr as mx
from mlxr.backends.metal.launch import PLANS
from mlxr.core.dispatch import apply
from mlxr.core.primitive import registry

#: Barriers that can go without harm: (file, enclosing function, which one of it) and the reason.
HARMLESS: dict[tuple[str, str, int], str] = {}

BARRIER = re.compile(r"^\s*(?:else\s+)?(?:threadgroup_barrier|simdgroup_barrier)\(mem_flags::(?!mem_none)")
FUNCTION = re.compile(r"^(?!\s|//|#|\}|template\b|typedef\b|struct\b|constant\b|using\b)[\w\[\]:<>&*(), ]*?(\w+)\(")


def barriers() -> list[tuple[str, int, tuple[str, str, int]]]:
    """Return file, line and name of every barrier in the shipped kernels and headers."""
    found = []
    for path in sorted([*KERNELS.glob("*.metal"), *KERNELS.glob("*.h")]):
        function, count = "", 0
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if (start := FUNCTION.match(line)) and not line.rstrip().endswith(";"):
                function, count = start[1], 0
            if BARRIER.match(line):
                found.append((path.name, number, (path.name, function, count)))
                count += 1
    return found


def plan(name: str, inputs, params=(), order="forward") -> None:
    """Run a primitive's plan with every memory access checked."""
    result = apply(registry[name], tuple(inputs), tuple(params))
    results = result if isinstance(result, (tuple, list)) else (result,)
    outs = tuple(mx.zeros(r.shape, dtype=r.dtype) for r in results)
    run(PLANS[name](tuple(inputs), outs, tuple(params)), order, checked=True)


def attention(order):
    rng = np.random.default_rng(0)
    params = (0.4, False, False, False, mx.float32)
    for b, hq, hk, tq, tk, d, dv in ((1, 2, 1, 40, 70, 20, 20), (1, 4, 2, 1, 700, 16, 24)):
        q, k, v = tensor(rng, (b, hq, tq, d)), tensor(rng, (b, hk, tk, d)), tensor(rng, (b, hk, tk, dv))
        plan("scaled_dot_product_attention", (q, k, v), params, order)
        if tq > 1:
            g = tensor(rng, (b, hq, tq, dv))
            plan("scaled_dot_product_attention_vjp", (q, k, v, g), params, order)
    q, k, v = (tensor(rng, (1, 2, 12, 16)) for _ in range(3))
    sinks = tensor(rng, (2,))
    inputs = (q, k, v, tensor(rng, (1, 2, 12, 16)), sinks)
    plan("scaled_dot_product_attention_vjp", inputs, (0.4, False, False, True, mx.float32), order)


def conv(order):
    rng = np.random.default_rng(0)
    for groups in (1, 2):
        x, w = tensor(rng, (2, 9, 9, 24)), tensor(rng, (40, 3, 3, 24 // groups))
        plan("conv", (x, w), ((1, 1), (1, 1), (1, 1), (1, 1), groups, False, (9, 9)), order)


def copy(order):
    plan("copy", (tensor(np.random.default_rng(0), (70, 50)).T,), (), order)


def matmul(order):
    rng = np.random.default_rng(0)
    for m, n, k in ((40, 40, 70), (1, 300, 130), (300, 1, 130), (2, 3, 700), (8, 40, 9)):
        plan("matmul", (tensor(rng, (m, k)), tensor(rng, (k, n))), (), order)
    plan("matmul", (tensor(rng, (1, 130)), tensor(rng, (300, 130)).T), (), order)
    plan("matmul", (tensor(rng, (130, 300)).T, tensor(rng, (130, 1))), (), order)
    plan("matmul", (tensor(rng, (16, 97, 40)), tensor(rng, (16, 40, 66))), (), order)


def quantized(order):
    rng = np.random.default_rng(0)
    for m, transpose in ((1, True), (1, False), (3, False), (37, True), (37, False)):
        rows, columns, group = 64, 384, 64
        words = mx.array(rng.integers(0, 2**32, (rows, columns // 8), np.uint32))
        scales, biases = tensor(rng, (rows, columns // group)), tensor(rng, (rows, columns // group))
        x = tensor(rng, (m, columns if transpose else rows))
        plan("quantized_matmul", (x, words, scales, biases), (transpose, group, 4), order)


def rows(order):
    rng = np.random.default_rng(0)
    x, g, w = tensor(rng, (3, 3000)), tensor(rng, (3, 3000)), tensor(rng, (3000,))
    plan("softmax", (x,), (), order)
    plan("softmax_vjp", (mx.softmax(x, -1), g), (), order)
    plan("layer_norm", (x, w, w), (1e-3, True, True, mx.float32), order)
    plan("layer_norm_vjp", (x, g, w), (1e-3, True), order)
    x, g = tensor(rng, (130, 40)), tensor(rng, (130, 40))
    plan("rms_norm_vjp", (x, g, w[:40]), (1e-3, True), order)


def on_device(function):
    """Make a workout of public functions, which run on the device of plans."""

    def workout(order, device, backend):
        backend.checked, backend.order = True, order
        random = np.random.default_rng(0)
        function(lambda shape: mx.array(random.standard_normal(shape).astype(np.float32), device=device))

    return workout


@on_device
def indexing(some):
    x = some((3000,))
    assert x[x > 0.5].size
    x = some((300_000,))
    assert x[x > 0.5].size


@on_device
def reduce(some):
    mx.sum(some((5, 3000)), 1)
    mx.sum(some((300, 40)), 0)
    mx.argmax(some((300, 40)), 0)
    mx.logsumexp(some((3, 3000)), 1)


@on_device
def scan(some):
    mx.cumsum(some((3, 5000)), 1)
    mx.cumsum(some((600, 5)), 0)


@on_device
def sort(some):
    mx.sort(some((2, 700)), -1)
    mx.sort(some((2, 5000)), -1)


PLAIN = {w.__name__: w for w in (attention, conv, copy, matmul, quantized, rows)}
ON_DEVICE = {"indexing": indexing, "reduce": reduce, "scan": scan, "sort": sort}


def exercise(stem: str, order: str, device, backend) -> None:
    """Run the workout of a file."""
    if stem in PLAIN:
        PLAIN[stem](order)
    else:
        ON_DEVICE[stem](order, device, backend)


@pytest.fixture(scope="module")
def clean(device) -> set[str]:
    """Return the files whose workout has been seen to find nothing while all barriers are there."""
    return set()


@pytest.mark.parametrize(("file", "line", "name"), barriers(), ids=[f"{n[0]}-{n[1]}-{n[2]}" for *_, n in barriers()])
def test_a_deleted_barrier_is_noticed(file: str, line: int, name, device, backend, clean: set[str]) -> None:
    stem = Path(file).stem
    assert stem in PLAIN or stem in ON_DEVICE, f"no workout comes to the barriers of {file}"
    if stem not in clean:
        exercise(stem, "forward", device, backend)
        clean.add(stem)
    found, reached = None, 0
    for order in ORDERS:
        with DeletedBarrier(KERNELS / file, line) as deleted:
            try:
                exercise(stem, order, device, backend)
            except CheckError as error:
                found = error
        reached += deleted.reached
        if found:
            break
    assert reached, "no launch of the workout comes to it"
    if name in HARMLESS:
        assert not found, f"listed as harmless: {HARMLESS[name]}; but {found}"
    else:
        assert found, "nobody noticed"


def test_what_is_listed_exists() -> None:
    assert set(HARMLESS) <= {name for *_, name in barriers()}
    assert len(barriers()) >= 40
