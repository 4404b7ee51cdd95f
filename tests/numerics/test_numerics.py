"""The tables of docs/numerics.md are what was measured, and a sample of the inputs is within them.

measure.py does the work; it must not be trusted to see errors, which the last tests plant.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import measure
import numpy as np
import pytest

from mlxr.backends import cpu
from mlxr.cpu import select

ISAS = [isa for isa in select.built() if isa in select.supported()]
# One set of each column of the table: those that share a column share their bits.
MEASURED = {measure.column(isa): isa for isa in ISAS}
# Primitives that give no floating number or copy what they are given.
NOT_MEASURED = {"bitwise_invert", "real", "imag", "conjugate", "logical_not", "isnan", "isinf", "isfinite", "isposinf",
                "isneginf", "bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift", "equal",
                "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or",
                "logical_xor", "equal_nan"}
KEPT = measure.load()


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    measure.build()


def compare(name: str, operands: np.ndarray, results: np.ndarray, other: np.ndarray | None = None) -> measure.Measured:
    found, lib = measure.Measured(), measure.library()
    a, got = np.ascontiguousarray(operands, np.float32), np.ascontiguousarray(results, np.float32)
    b = a if other is None else np.ascontiguousarray(other, np.float32)
    lib.ulp_compare(lib.ulp_find(name.encode()), a.ctypes.data, b.ctypes.data, got.ctypes.data, a.size, 0,
                    ctypes.byref(measure.FORMATS["float32"]), ctypes.byref(found))
    return found


def test_every_function_is_measured() -> None:
    codes = {*cpu.UNARY_CODES, *cpu.BINARY_CODES} - NOT_MEASURED
    assert {"round" if name == "rint" else name for name in codes} == {*measure.UNARY, *measure.BINARY}
    assert all(measure.library().ulp_find(name.encode()) >= 0 for name in (*measure.UNARY, *measure.BINARY))


@pytest.mark.parametrize("name", [*measure.UNARY, *measure.BINARY])
def test_measured_errors_are_within_the_targets(name) -> None:
    for column, kept in KEPT.items():
        assert kept[name]["float32"]["count"] >= measure.total(name) // measure.THINNED
        for dtype, m in kept[name].items():
            assert max(m["ulp"], m["tiny"]) <= measure.limit(name, column), dtype
            assert m["wrong"] == 0, dtype
            assert m["reference"] < 1e-5, dtype


def test_the_page_is_what_was_measured() -> None:
    assert measure.GENERATED.search(measure.PAGE.read_text())
    assert measure.page_with(KEPT) == measure.PAGE.read_text()


@pytest.mark.parametrize("column", [column for column in KEPT if KEPT[column]])
def test_a_sample_is_within_the_table(column) -> None:
    if column not in MEASURED:
        pytest.skip(f"no instruction set of column {column} is built and runs here: {ISAS}")
    ran = subprocess.run(
        [sys.executable, measure.__file__, "--sample", "--isa", MEASURED[column], "--jobs", "2"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    worse = [line for line in ran.stdout.splitlines() if line.endswith("make numerics")]
    assert (ran.returncode, worse) == (0, []), ran.stderr


def test_errors_are_seen() -> None:
    x = np.linspace(0.1, 3, 5000, dtype=np.float32)
    right = np.exp(x.astype(np.float64)).astype(np.float32)
    assert compare("exp", x, right).worst <= 0.5
    off = right.copy()
    off[4321] = np.nextafter(np.nextafter(off[4321], np.float32(np.inf)), np.float32(np.inf))
    found = compare("exp", x, off)
    assert 1.5 <= found.worst <= 2.5
    assert (found.at[0], found.count, found.not_nearest) == (x[4321], 5000, 1)
    off[17] = np.nan
    found = compare("exp", x, off)
    assert (found.wrong, found.wrong_at[0]) == (1, x[17])


@pytest.mark.parametrize(("name", "operand", "result", "wrong"), [
    ("sin", 0.0, -0.0, 1), ("sin", -0.0, -0.0, 0), ("log", -1.0, np.nan, 0), ("log", -1.0, 0.0, 1),
    ("log", 0.0, -np.inf, 0), ("log", 0.0, np.inf, 1), ("exp", 100.0, np.inf, 0), ("exp", -200.0, 0.0, 0),
    ("exp", -200.0, -0.0, 1), ("arctanh", 1.0, 3e38, 1), ("silu", -np.inf, -0.0, 0), ("erfinv", 1.0, np.inf, 0),
])
def test_classes_and_signs_are_seen(name, operand, result, wrong) -> None:
    assert compare(name, np.array([operand]), np.array([result])).wrong == wrong


def test_subnormal_results_are_measured_in_the_smallest_number() -> None:
    found = compare("exp", np.array([-100.0]), np.array([np.exp(-100.0) + 2.0**-148]))
    assert 1.0 <= found.worst_tiny <= 3.0
    assert found.worst == 0


def test_pairs_repeat() -> None:
    lib = measure.library()
    for kind in range(6):
        a, b, c, d = (np.empty(1000, np.float32) for _ in range(4))
        lib.ulp_pairs(kind, 0, 1000, a.ctypes.data, b.ctypes.data)
        lib.ulp_pairs(kind, 600, 400, c.ctypes.data, d.ctypes.data)
        assert a[600:].tobytes() + b[600:].tobytes() == c[:400].tobytes() + d[:400].tobytes()
        assert len(set(a.tobytes())) > 1
