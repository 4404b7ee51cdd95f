"""Measure the error of elementwise functions, in units in the last place, over all inputs: `make numerics`.

Every float32, float16 and bfloat16 input of a function of one operand, and 10**9 seeded pairs for a function of two, go
through mlxr itself and are compared with references in double (ulp.c, functions.h). What is found is kept in
measured.json, and the tables of docs/numerics.md are made from that. `--sample` takes a few seconds, measures a subset
and compares it with what is kept. This must not know how a function is computed.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
KEPT = HERE / "measured.json"
PAGE = ROOT / "docs" / "numerics.md"
LIBRARY = ROOT / "build" / "numerics" / "libulp.so"
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp-simd"]

EXACT = ("abs", "negative", "sign", "square", "sqrt", "reciprocal", "floor", "ceil", "trunc", "round", "relu")
UNARY = (
    *EXACT, "rsqrt", "exp", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "arcsin", "arccos", "arctan",
    "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "sigmoid", "erf", "erfinv", "silu", "gelu", "gelu_tanh",
    "gelu_sigmoid", "softplus",
)
BINARY = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "floor_divide", "remainder", "power", "logaddexp",
    "arctan2",
)
# Kinds of pairs, see `ulp_pairs`.
KINDS = {"power": (0, 1, 2, 3, 4), "logaddexp": (0, 1, 2, 3, 5)}
USUAL_KINDS = (0, 1, 2, 3)
PAIRS = 10**9
# The largest errors that are accepted: in ULP, of normal results.
TIGHT = ("exp", "log", "rsqrt", "tanh", "sigmoid", "erf")
# What is kept of an instruction set stands for others: those with fused multiply-add give the same bits
# (tests/cpu/test_determinism.py).
COLUMNS = {"v2": "v2"}

CHUNK = 1 << 17                 # inputs that are in hand at a time: they fit the L2 cache
PART = 1 << 26                  # inputs that a process takes at a time
THINNED = 31                    # of how many inputs or pairs one is measured on v2, which few processors need
SAMPLED = 133 * THINNED         # and of how many a sample has one: they are among the others


class Format(ctypes.Structure):
    """A floating format, as ulp.c has it."""

    _fields_ = [("digits", ctypes.c_int32), ("lowest", ctypes.c_int32), ("highest", ctypes.c_int32),
                ("largest", ctypes.c_double)]


class Measured(ctypes.Structure):
    """What was found, as ulp.c has it."""

    _fields_ = [("worst", ctypes.c_double), ("worst_tiny", ctypes.c_double), ("reference", ctypes.c_double),
                ("count", ctypes.c_uint64), ("not_nearest", ctypes.c_uint64), ("wrong", ctypes.c_uint64),
                ("at", ctypes.c_float * 2), ("tiny_at", ctypes.c_float * 2), ("wrong_at", ctypes.c_float * 2)]


FORMATS = {
    "float32": Format(23, -126, 127, float(np.finfo(np.float32).max)),
    "float16": Format(10, -14, 15, 65504.0),
    "bfloat16": Format(7, -126, 127, (2 - 2.0**-7) * 2.0**127),
}


class Task(NamedTuple):
    """A part of the inputs of one function: `count` from number `first` on, every `stride`th."""

    function: str
    dtype: str
    kind: int                   # of pairs; -1 for functions of one operand
    first: int
    count: int
    stride: int = 1


def tasks(function: str, every: int) -> list[Task]:
    """Return the parts of what is to be measured of a function, on one input of `every`."""
    if function in BINARY:
        kinds = KINDS.get(function, USUAL_KINDS)
        each = PAIRS // len(kinds) // every
        return [Task(function, "float32", -2, 0, 0), *(
            Task(function, "float32", kind, first, min(PART, each - first))
            for kind in kinds for first in range(0, each, PART)
        )]
    inputs = -(-(1 << 32) // every)
    halves = [Task(function, dtype, -1, 0, 1 << 16) for dtype in ("float16", "bfloat16")]
    return [*halves, *(
        Task(function, "float32", -1, first, min(PART, inputs - first), every) for first in range(0, inputs, PART)
    )]


def build() -> None:
    """Compile ulp.c, if it is newer than the library."""
    sources = [HERE / "ulp.c", HERE / "functions.h"]
    if LIBRARY.exists() and LIBRARY.stat().st_mtime > max(s.stat().st_mtime for s in sources):
        return
    LIBRARY.parent.mkdir(parents=True, exist_ok=True)
    fresh = LIBRARY.with_suffix(f".{os.getpid()}")
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, *FLAGS, "-shared", "-fPIC", str(sources[0]), "-o", str(fresh), "-lm"], check=True)
    fresh.replace(LIBRARY)


@functools.cache
def library() -> ctypes.CDLL:
    """Return the compiled ulp.c."""
    loaded = ctypes.CDLL(str(LIBRARY))
    pointer, long, size = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_ssize_t
    loaded.ulp_compare.argtypes = [ctypes.c_int, pointer, pointer, pointer, size, long, pointer, pointer]
    loaded.ulp_bits.argtypes = [long, long, size, pointer]
    loaded.ulp_pairs.argtypes = [ctypes.c_int, long, size, pointer, pointer]
    return loaded


def edges() -> np.ndarray:
    """Return numbers at which functions change: zeros, limits of the format, infinities, NaN, small integers."""
    positive = np.array([
        0, 2**-149, 2**-126 - 2**-149, 2**-126, 1e-30, 2**-24, 0.25, 0.5, 1 - 2**-24, 1, 1 + 2**-23, 1.5, 2, 3, 4, 127,
        128, 2**23 - 0.5, 2**23, 2**23 + 1, 2**24, 2**31, 2**63, 1e30, float(np.finfo(np.float32).max), np.inf, np.nan,
    ], np.float32)
    return np.concatenate([positive, -positive])


def operands(task: Task) -> itertools.chain:
    """Yield (number of the first, operand, other operand) for chunks of a task, as float32 arrays."""
    if task.kind == -2:
        a, b = (np.ascontiguousarray(x).ravel() for x in np.meshgrid(edges(), edges()))
        yield 0, a, b
        return
    if task.dtype != "float32":
        import mlxr as mx

        bits = mx.array(np.arange(task.count, dtype=np.uint16)).view(getattr(mx, task.dtype))
        x = np.array(bits.astype(mx.float32))
        yield 0, x, x
        return
    a, b = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    for start in range(0, task.count, CHUNK):
        n, first = min(CHUNK, task.count - start), task.first + start
        if task.kind >= 0:
            library().ulp_pairs(task.kind, first, n, a.ctypes.data, b.ctypes.data)
        else:
            library().ulp_bits(first * task.stride, task.stride, n, a.ctypes.data)
        yield first, a[:n], b[:n]


def measure(task: Task) -> tuple[Task, Measured, float]:
    """Run one task; the processor time it took comes with what was found."""
    import mlxr as mx
    from mlxr.ops import elementwise

    began = time.process_time()
    found, number = Measured(), library().ulp_find(task.function.encode())
    function, dtype = getattr(elementwise, task.function), getattr(mx, task.dtype)
    for first, a, b in operands(task):
        arguments = [mx.array(x).astype(dtype) for x in ((a, b) if task.kind != -1 else (a,))]
        got = np.asarray(function(*arguments).astype(mx.float32))
        library().ulp_compare(number, a.ctypes.data, b.ctypes.data, got.ctypes.data, a.size, first,
                              ctypes.byref(FORMATS[task.dtype]), ctypes.byref(found))
    return task, found, time.process_time() - began


def joined(parts: list[tuple[Task, Measured]], dtype: str) -> dict:
    """Return what was found over the parts of one dtype, as it is kept."""
    found = [m for task, m in parts if task.dtype == dtype]
    count = 2 if parts[0][0].function in BINARY else 1
    worst, tiny = max(found, key=lambda m: m.worst), max(found, key=lambda m: m.worst_tiny)
    wrong = next((m for m in found if m.wrong), found[0])
    return {
        "count": sum(m.count for m in found),
        "ulp": up(worst.worst), "at": list(worst.at[:count]) if worst.worst > 0.5 else [],
        "tiny": up(tiny.worst_tiny), "tiny_at": list(tiny.tiny_at[:count]) if tiny.worst_tiny > 0.5 else [],
        "not_nearest": sum(m.not_nearest for m in found),
        "wrong": sum(m.wrong for m in found), "wrong_at": list(wrong.wrong_at[:count]) if wrong.wrong else [],
        "reference": max(m.reference for m in found),
    }


def up(error: float) -> float:
    """Round up to six digits behind the point."""
    return math.ceil(error * 1e6) / 1e6


def run(functions: list[str], every: int, jobs: int) -> Iterator[tuple[str, dict, float]]:
    """Yield (function, {dtype: what was found}, processor time) in order, from processes with one thread each."""
    build()
    os.environ["OMP_NUM_THREADS"] = "1"
    work = {f: tasks(f, every) for f in functions}
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        results = pool.imap(measure, itertools.chain(*work.values()))
        for function, parts in work.items():
            done = [next(results) for _ in parts]
            pairs = [(task, m) for task, m, _ in done]
            yield function, {d: joined(pairs, d) for d in FORMATS if any(t.dtype == d for t, _ in pairs)}, sum(
                seconds for *_, seconds in done)


def total(function: str) -> int:
    """Return how many float32 results there are to measure."""
    return PAIRS if function in BINARY else 1 << 32


def column(isa: str) -> str:
    """Return the name under which results of an instruction set are kept."""
    return COLUMNS.get(isa, "fma")


def limit(function: str, column: str = "fma") -> float:
    """Return the largest error that is accepted of a function."""
    if column == "v2" and function in TIGHT:
        return 1.2  # products and sums round apart there
    return 0.5000001 if function in EXACT else 1.0 if function in TIGHT else 2.0


# ---- tables --------------------------------------------------------------------------------------------------------


def number(x: float) -> str:
    """Return a float32 number in as few digits as it takes."""
    return str(np.float32(x))


def row(function: str, kept: dict) -> str:
    """Return one line of a table."""
    found = kept["fma"][function]
    single, other = found["float32"], kept["v2"].get(function)
    cells = [
        f"`{function}`", f"{single['ulp']:.3f}", ", ".join(map(number, single["at"])), f"{single['tiny']:.3f}",
        f"{100 * single['not_nearest'] / single['count']:.2f}",
    ]
    if function in UNARY:
        cells += [f"{found[d]['ulp']:.3f}" for d in ("float16", "bfloat16")]
    cells.append(f"{other['float32']['ulp']:.3f}" if other else "")
    return "| " + " | ".join(cells) + " |\n"


def tables(kept: dict) -> str:
    """Return the generated part of docs/numerics.md."""
    heads = {
        UNARY: "| function | float32 | at | subnormal results | not nearest, % | float16 | bfloat16 | float32, v2 |\n"
               "|---|---|---|---|---|---|---|---|\n",
        BINARY: "| function | float32 | at | subnormal results | not nearest, % | float32, v2 |\n"
                "|---|---|---|---|---|---|\n",
    }
    every = [(f, m) for isa in kept.values() for f, dtypes in isa.items() for m in dtypes.values()]
    wrong = sorted({f for f, m in every if m["wrong"]})
    reference = max(m["reference"] for _, m in every)
    partly = ["v2"] * bool(kept["v2"])
    partly += [f"`{f}`" for f, found in kept["fma"].items() if found["float32"]["count"] < total(f)]
    notes = (
        "NaN, infinities and the signs of zeros are right for all inputs"
        + (f", but for {', '.join(f'`{f}`' for f in wrong)}" if wrong else "")
        + f".\nMeasured on one input of {THINNED}: {', '.join(partly)}.\n"
        + f"The references in double differ from those in long double by at most {reference:.1g} ULP of the result.\n"
    )
    return "\n".join([
        *(head + "".join(row(f, kept) for f in names if f in kept["fma"]) for names, head in heads.items()), notes])


GENERATED = re.compile(r"(<!-- make numerics -->\n).*?(<!-- end -->\n)", re.DOTALL)


def page_with(kept: dict) -> str:
    """Return docs/numerics.md with the tables of what is kept."""
    return GENERATED.sub(lambda m: m[1] + tables(kept) + m[2], PAGE.read_text())


def load() -> dict:
    """Return what is kept: instruction sets, functions, dtypes."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {"fma": {}, "v2": {}}


def keep(isa: str, function: str, found: dict) -> None:
    """Keep what was found of one function, and write the page."""
    kept = load()
    kept[column(isa)][function] = found
    order = {f: k for k, f in enumerate((*UNARY, *BINARY))}
    kept = {c: dict(sorted(functions.items(), key=lambda item: order[item[0]])) for c, functions in kept.items()}
    lines = json.dumps(kept, indent=1)
    lines = re.sub(r"\[\s+([^\]\[{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", lines)
    KEPT.write_text(re.sub(r"(\"(?:float32|float16|bfloat16)\": )\{([^{}]*)\}",
                           lambda m: m[1] + "{" + re.sub(r"\s+", " ", m[2]).strip() + "}", lines) + "\n")
    PAGE.write_text(page_with(kept))


def main() -> int:
    """Measure, print, and keep or compare."""
    parser = argparse.ArgumentParser(description="Measure the error of elementwise functions in ULP.")
    parser.add_argument("functions", nargs="*", metavar="FUNCTION", help="which functions; all of them by default")
    parser.add_argument("--isa", help="instruction set; by default the best one, and v2 if it is built")
    parser.add_argument("--every", type=int, help="measure one input of so many")
    parser.add_argument("--sample", action="store_true", help="a subset, in seconds; compare it with what is kept")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes to run at a time")
    options = parser.parse_args()
    functions = options.functions or [*UNARY, *BINARY]
    unknown = set(functions) - {*UNARY, *BINARY}
    if unknown:
        parser.error(f"unknown functions {sorted(unknown)}")
    from mlxr.cpu import select

    usable = [isa for isa in select.built() if isa in select.supported()]
    wanted = [options.isa] if options.isa else list({column(isa): isa for isa in usable}.values())
    bad = []
    for isa in wanted:
        os.environ["MLXR_ISA"] = isa
        every = SAMPLED if options.sample else options.every or (THINNED if column(isa) == "v2" else 1)
        print(f"instruction set {isa}, one input of {every}, {options.jobs} processes", flush=True)
        for function, found, seconds in run(functions, every, options.jobs):
            for dtype, m in found.items():
                print(f"{function:14}{dtype:9} {m['ulp']:.4f} at {', '.join(map(number, m['at']))}; "
                      f"tiny {m['tiny']:.4f}; wrong {m['wrong']} {', '.join(map(number, m['wrong_at']))}; "
                      f"reference {m['reference']:.1g}; {seconds:.1f} s", flush=True)
            if options.sample:
                bad += exceeds(isa, function, found)
            else:
                keep(isa, function, found)
    for line in bad:
        print(line)
    return 1 if bad else 0


def exceeds(isa: str, function: str, found: dict) -> list[str]:
    """Return what a sample found that is worse than what is kept."""
    kept = load()[column(isa)].get(function, {})
    return [
        f"{function} {dtype}: {name} is {m[name]}, kept is {kept.get(dtype, {}).get(name)}: make numerics"
        for dtype, m in found.items() for name in ("ulp", "tiny", "wrong")
        if not m[name] <= kept.get(dtype, {}).get(name, -1) + 1e-6
    ]


if __name__ == "__main__":
    sys.exit(main())
