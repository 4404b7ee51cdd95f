"""The stand-in: groups in parallel, orders of threads, failures that are survived, products, the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from standin import check, toolchain
from standin.errors import CheckError, CompileError, ToolchainError
from standin.harness import KERNELS, ORDERS, Library

from mlxr import metal_check

SOURCE = """#include <metal_stdlib>
#include "twice.h"
using namespace metal;
// metal-check: run indices grid=3,2 group=8,4 0=uint[192]
kernel void indices(device uint *out [[buffer(0)]], uint2 at [[thread_position_in_grid]],
                    uint2 grid [[threads_per_grid]], uint lane [[thread_index_in_simdgroup]]) {
    out[at.y * grid.x + at.x] = twice(at.y * 1000 + at.x) + (lane & 0u);
}
kernel void order_of_groups(device atomic_uint *next [[buffer(0)]], device uint *out [[buffer(1)]],
                            uint g [[threadgroup_position_in_grid]]) {
    out[g] = atomic_fetch_add_explicit(next, 1u, memory_order_relaxed);
}
kernel void order_of_threads(device atomic_uint *next [[buffer(0)]], device uint *out [[buffer(1)]],
                             uint i [[thread_position_in_threadgroup]]) {
    out[i] = atomic_fetch_add_explicit(next, 1u, memory_order_relaxed);
}
kernel void nowhere(device uint *out [[buffer(0)]], constant ulong &far [[buffer(1)]]) { out[far] = 1u; }
kernel void half_precision(device half *out [[buffer(0)]], device bfloat *other [[buffer(1)]],
                           device const float *in [[buffer(2)]], uint i [[thread_position_in_grid]]) {
    out[i] = half(in[i]);
    other[i] = bfloat(in[i]);
}
"""
HEADER = "#pragma once\nMETAL uint twice(uint x) { return 2 * x; }\n".replace("METAL", "inline")


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    try:
        toolchain.clang()
    except ToolchainError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "twice.h").write_text(HEADER)
    (folder / "some.metal").write_text(SOURCE)
    return folder / "some.metal"


@pytest.fixture(scope="module")
def library(path: Path) -> Library:
    return Library(path)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_positions(library: Library, order: str, threads: int) -> None:
    out = np.zeros((8, 24), np.uint32)
    library.run("indices", (3, 2), (8, 4), [out], order=order, seed=3, threads=threads)
    assert np.array_equal(out, 2 * (np.arange(8)[:, None] * 1000 + np.arange(24)))


def test_orders_are_what_they_are_called(library: Library) -> None:
    def run(kernel: str, n: int, **options) -> list[int]:
        out = np.zeros(n, np.uint32)
        sizes = ((n,), (1,)) if kernel == "order_of_groups" else ((1,), (n,))
        library.run(kernel, *sizes, [np.zeros(1, np.uint32), out], threads=1, **options)
        return out.tolist()

    for kernel, n in (("order_of_groups", 50), ("order_of_threads", 64)):
        assert run(kernel, n) == list(range(n))
        assert run(kernel, n, order="reverse") == list(range(n))[::-1]
        shuffled = [tuple(run(kernel, n, order="shuffled", seed=s)) for s in (1, 1, 2)]
        assert shuffled[0] == shuffled[1] != shuffled[2]
        assert all(sorted(s) == list(range(n)) for s in shuffled)


def test_an_access_to_no_memory_is_survived(library: Library, path: Path) -> None:
    out = np.zeros(4, np.uint32)
    for _ in range(2):
        with pytest.raises(CheckError, match="is no memory") as caught:
            library.run("nowhere", (1,), (1,), [out, np.uint64(1 << 44).tobytes()])
        assert caught.value.kind == "invalid-access"
        assert caught.value.file == str(path)
        assert "out[far]" in SOURCE.splitlines()[caught.value.line - 1]
    test_positions(library, "forward", 2)


def test_rounding_to_half_and_bfloat(library: Library) -> None:
    values = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    values[:8] = [0.0, -0.0, np.inf, -np.inf, 65519.9, 1e-8, 1.00390625, 3.3e38]
    half, bfloat = np.zeros(256, np.float16), np.zeros(256, np.uint16)
    library.run("half_precision", (8,), (32,), [half, bfloat, values])
    with np.errstate(over="ignore"):
        assert np.array_equal(half.view(np.uint16), values.astype(np.float16).view(np.uint16))
    bits = values.view(np.uint32).astype(np.uint64)
    assert np.array_equal(bfloat, ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16))


def test_products_are_kept_until_something_changes(path: Path) -> None:
    first = toolchain.compile_kernels(path)
    made = first.stat().st_mtime_ns
    assert toolchain.compile_kernels(path) == first
    assert first.stat().st_mtime_ns == made
    (path.parent / "twice.h").write_text(HEADER.replace("2 * x", "x + x"))
    try:
        assert toolchain.compile_kernels(path) != first
    finally:
        (path.parent / "twice.h").write_text(HEADER)
    assert toolchain.compile_kernels(path, checked=True) != first


def test_lines_are_those_of_the_file(path: Path, tmp_path: Path) -> None:
    # Whatever is rewritten in front of it: attributes, threadgroup variables, comments, macros over several lines.
    text = SOURCE.replace("kernel void nowhere", "kernel void /*\n\n*/ nowhere").replace("out[far]", "\n\nwrong[far]")
    copy = tmp_path / "lines.metal"
    copy.write_text(text)
    with pytest.raises(CompileError) as caught:
        toolchain.compile_kernels(copy, include=[path.parent])
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.file == str(copy)
    assert "wrong[far]" in text.splitlines()[diagnostic.line - 1]


def test_command_line(path: Path, tmp_path: Path, capsys) -> None:
    assert metal_check.main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"some.metal: 5 kernels, 1 launches, not run: .*; no findings \(software stand-in", printed)
    bad = tmp_path / "bad.metal"
    bad.write_text(SOURCE.replace("0=uint[192]", "0=uint[191] 1=what"))
    assert metal_check.main([str(bad), "-I", str(path.parent), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(f["kind"], f["kernel"]) for f in found] == [("directive", "indices"), ("out-of-bounds", "indices")]
    assert metal_check.main([str(bad), "-I", str(path.parent), "--no-run"]) == 0
    assert metal_check.main([str(tmp_path / "none.metal")]) == 1


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.metal")), ids=lambda p: p.stem)
def test_nothing_is_wrong_with_shipped_kernels(path: Path) -> None:
    report = check.check_file(path, run=False)
    assert report.findings == []
    assert report.kernels


def test_module_runs(path: Path) -> None:
    command = [sys.executable, "-m", "mlxr.metal_check", "--no-run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 kernels" in done.stdout


def test_a_missing_stand_in_is_said(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("MLXR_METAL_STANDIN", str(tmp_path))
    assert metal_check.main(["x.metal"]) == 2
    assert "MLXR_METAL_STANDIN" in capsys.readouterr().err


def test_a_missing_compiler_is_said(monkeypatch, path: Path, capsys) -> None:
    toolchain.clang.cache_clear()
    monkeypatch.setenv("MLXR_STANDIN_CLANG", "no-such-clang")
    try:
        assert check.main([str(path)]) == 2
    finally:
        toolchain.clang.cache_clear()
    assert "apt-get install clang-19" in capsys.readouterr().err
