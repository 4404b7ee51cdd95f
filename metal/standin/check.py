"""Checks a ``.metal`` file: its language, its address spaces, and its kernels by running them.

A file says in comments how its kernels are to be run::

    // metal-check: run add grid=4 group=64 0=float[250] 1=float[250] 2=float[250]=0 3=uint:250
    // metal-check: run reduce grid=2,1,1 group=128 0=half[4096] 1=float[2] tg0=512 fc0=true fc1=2.5

``grid`` counts threadgroups. Buffers are given by their index: ``type[count]`` is filled with seeded random values,
``type[count]=value`` with one value, ``type:value,type:value`` is a struct, ``none`` stays unbound. ``tgN`` is the
length of threadgroup memory in bytes and ``fcN`` the value of a function constant. Nothing here knows mlxr.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CheckError, CompileError, StandinError, ToolchainError
from .harness import ORDERS, Library
from .lint import lint

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Metal's scalar types as NumPy has them; bfloat is given as its bits.
DTYPES = {
    "bool": "?", "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "long": "i8",
    "ulong": "u8", "half": "f2", "bfloat": "u2", "float": "f4",
}  # fmt: skip
_DIRECTIVE = re.compile(r"//\s*metal-check:\s*run\s+(.*?)(?:\s+//.*)?$")
_ARRAY = re.compile(r"(\w+)\[(\d+)\](?:=(\S+))?")


@dataclass(frozen=True)
class Finding:
    """Something wrong with a file."""

    kind: str
    file: str
    line: int
    kernel: str
    message: str

    def __str__(self) -> str:
        kernel = f" [{self.kernel}]" if self.kernel else ""
        return f"{self.file}:{self.line}: {self.kind}: {self.message}{kernel}"


@dataclass
class Run:
    """One launch that a file asks for."""

    kernel: str
    line: int
    grid: tuple[int, ...] = (1,)
    group: tuple[int, ...] = (1,)
    buffers: dict[int, str] = field(default_factory=dict)
    threadgroup: dict[int, int] = field(default_factory=dict)
    constants: dict[int, Any] = field(default_factory=dict)

    def arrays(self, seed: int = 0) -> list[np.ndarray | None]:
        """Return new buffers, in the order of their indices; the same ones each time."""
        random = np.random.default_rng(seed)
        made: list[np.ndarray | None] = [None] * (max(self.buffers, default=-1) + 1)
        for index, text in sorted(self.buffers.items()):
            made[index] = buffer(text, random)
        return made


def buffer(text: str, random: np.random.Generator) -> np.ndarray | None:
    """Return the memory that a directive describes."""
    if text == "none":
        return None
    if match := _ARRAY.fullmatch(text):
        dtype, count = np.dtype(DTYPES[match[1]]), int(match[2])
        if match[3] is not None:
            return np.full(count, float(match[3]) if dtype.kind == "f" else int(match[3], 0), dtype)
        if match[1] == "bfloat":
            return (random.standard_normal(count).astype("f4").view("u4") >> 16).astype("u2")
        return (
            random.standard_normal(count).astype(dtype)
            if dtype.kind == "f"
            else random.integers(0, 2, count).astype(dtype)
        )
    fields = [part.split(":") for part in text.split(",")]
    record = np.dtype([(f"f{i}", DTYPES[kind]) for i, (kind, _) in enumerate(fields)], align=True)
    made = np.zeros(1, record)
    for i, (kind, value) in enumerate(fields):
        made[f"f{i}"] = float(value) if kind in ("half", "float") else int(value, 0)
    return made


def constant(text: str) -> Any:
    """Return the value of a function constant."""
    if text in ("true", "false"):
        return text == "true"
    return int(text, 0) if re.fullmatch(r"-?(0x)?[\da-fA-F]+", text) and "." not in text else float(text)


def directives(path: Path) -> tuple[list[Run], list[Finding]]:
    """Return the launches that a file asks for, and what is wrong with how it asks."""
    runs, findings = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = _DIRECTIVE.search(line)
        if not match:
            continue
        kernel, *words = match[1].split()
        run = Run(kernel, number)
        for word in words:
            key, _, value = word.partition("=")
            try:
                if key in ("grid", "group"):
                    setattr(run, key, tuple(int(v) for v in value.split(",")))
                elif key.startswith("tg"):
                    run.threadgroup[int(key[2:])] = int(value)
                elif key.startswith("fc"):
                    run.constants[int(key[2:])] = constant(value)
                else:
                    buffer(value, np.random.default_rng(0))
                    run.buffers[int(key)] = value
            except (ValueError, KeyError):
                findings.append(Finding("directive", str(path), number, kernel, f"'{word}' is not understood"))
        runs.append(run)
    return runs, findings


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two results agree: bits, except for what the order of float additions may change."""
    if a.dtype.kind != "f":
        return a.tobytes() == b.tobytes()
    tolerance = 1e-2 if a.dtype.itemsize == 2 else 1e-4
    return np.allclose(a.astype("f8"), b.astype("f8"), rtol=tolerance, atol=tolerance, equal_nan=True)


def launch(library: Library, run: Run, order: str) -> list[np.ndarray | None]:
    """Run a directive and return the buffers."""
    arrays = run.arrays()
    sizes = [run.threadgroup.get(i, 0) for i in range(max(run.threadgroup, default=-1) + 1)]
    library.run(run.kernel, run.grid, run.group, arrays, run.constants, sizes, order)
    return arrays


def check_run(run: Run, path: Path, plain: Library, checked: Library) -> Finding | None:
    """Return what is wrong with one launch, or None."""
    try:
        for order in ORDERS:
            launch(checked, run, order)
        results = [launch(plain, run, order) for order in ORDERS]
    except CheckError as error:
        return Finding(error.kind, error.file or str(path), error.line or run.line, error.kernel, error.message)
    for index, first in enumerate(results[0]):
        if first is not None and not all(same(first, other[index]) for other in results[1:]):
            message = f"buffer {index} depends on the order in which threads and groups run"
            return Finding("order-dependent", str(path), run.line, run.kernel, message)
    return None


@dataclass
class Report:
    """What a check of one file found."""

    path: Path
    kernels: list[str]
    ran: list[str]
    findings: list[Finding]

    def __str__(self) -> str:
        missing = [k for k in self.kernels if k not in self.ran]
        lines = [str(f) for f in self.findings]
        summary = f"{self.path}: {len(self.kernels)} kernels, {len(self.ran)} launches"
        if missing:
            summary += f", not run: {', '.join(missing)}"
        return "\n".join([*lines, f"{summary}; {len(self.findings) or 'no'} findings (software stand-in, not a GPU)"])


def check_file(path: Path, include: Sequence[Path] = (), run: bool = True) -> Report:
    """Check one file: compile it, look at its address spaces, and launch what it says that can be launched.

    Raises
    ------
    ToolchainError
        If there is no clang 19.
    """
    report = Report(path, [], [], [])
    try:
        plain = Library(path, include=include)
        report.kernels = plain.functions
        report.findings += [Finding("address-space", d.file, d.line, "", d.message) for d in lint(path, include)]
        if not run:
            return report
        runs, wrong = directives(path)
        report.findings += wrong
        checked = Library(path, checked=True, include=include) if runs else plain
    except CompileError as error:
        report.findings += [Finding("compile", d.file, d.line, "", d.message) for d in error.diagnostics] or [
            Finding("compile", str(path), 0, "", str(error))
        ]
        return report
    for one in runs:
        report.ran.append(one.kernel)
        found = check_run(one, path, plain, checked)
        if found:
            report.findings.append(found)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 for nothing found, 1 for findings, 2 for no compiler."""
    parser = argparse.ArgumentParser(prog="python -m mlxr.metal_check", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="file.metal")
    parser.add_argument("-I", dest="include", action="append", type=Path, default=[], help="a folder of headers")
    parser.add_argument("--no-run", action="store_true", help="only compile, and look at address spaces")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    options = parser.parse_args(arguments)
    try:
        reports = [check_file(path, options.include, not options.no_run) for path in options.files]
    except ToolchainError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, StandinError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([asdict(f) for report in reports for f in report.findings], indent=2))
    else:
        print("\n".join(map(str, reports)))
    return int(any(report.findings for report in reports))
