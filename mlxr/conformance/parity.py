"""The command ``python -m mlxr parity``: the CPU backend against upstream and against Metal, and the record of it.

Every declared op that a Metal kernel is asked for runs on all three, on the cases of the core suite. The result is a
page, ``docs/parity.md``, and a record with the device, its driver, the kernels' hashes and the date, which is what
``mlxr.backends.default`` decides by. Knows suites and records; nothing of devices.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlxr
from mlxr._version import __version__
from mlxr.backends import default
from mlxr.backends.default import Place
from mlxr.conformance import golden
from mlxr.conformance.cases import Case, cases
from mlxr.conformance.compare import Difference
from mlxr.conformance.engine import Worker
from mlxr.conformance.exceptions import EXCEPTIONS, METAL_EXCEPTIONS
from mlxr.conformance.suite import OURS, TARGETS, Result, Side, machine, run
from mlxr.errors import BackendUnavailableError
from mlxr.ops.declare import REGISTRY

__all__ = ["add_arguments", "coverage", "execute", "make_record", "page", "parity_cases"]

# Metal has no float64, and complex64 for moving it only.
DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
)
# Where it is tested; a file that is driven by the declarations tests every op.
TESTS: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {"unit": ("tests/ops", "tests/reduce", "tests/sort", "tests/conv", "tests/fft", "tests/linalg"),
            "property": ("tests/property", "tests/ops/test_declared_ops.py")},
    "upstream": {"unit": ("tests/backends/test_upstream.py",)},
    "metal": {"unit": ("tests/metal", "tests/backends/test_metal.py"), "property": ("tests/metal",)},
}
BENCHMARKS = ("asv_bench/benchmarks",)
# The first run of a kernel compiles it, which on the stand-in is a C++ compiler's work.
PATIENCE = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--ops", nargs="+", metavar="NAME", help="only these ops; the record is then of no use")
    parser.add_argument("--record", type=Path, metavar="FILE", help="where the record goes (default: this user's, "
                        "which decides about the default device)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the matrix as Markdown, as docs/parity.md is")


def parity_cases(ops: Sequence[str] | None = None) -> list[Case]:
    """Return the cases that all backends are asked: of the core suite, those in Metal's dtypes."""
    names = [n for n in REGISTRY if n in default.required_ops() and (ops is None or n in ops)]
    return [c for c in cases("core", names) if c.dtype in DTYPES and c.kind != "scalar"]


# ------------------------------------------------------------------ verdicts

def _beyond_metal(found: Difference) -> bool:
    """Tell whether a case needs what Metal has not: float64, complex numbers, or a decomposition by a host library."""
    return found.kind == "unsupported" and any(
        text in found.text for text in ("float64", "complex64", "[svd]", "only 'affine'")
    )


def verdicts(result: Result | None) -> dict[str, dict[str, Any]]:
    """Return for each op how a backend fared: ``passed`` or ``failed``, with counts."""
    if result is None:
        return {}
    beyond = Counter(d.case.op for d in result.omitted if _beyond_metal(d))
    table = {}
    for op in result.ops:
        counts = result.of_op(op)
        lacking = counts["unsupported"] - beyond[op]
        good = not counts["failed"] and not lacking and counts["same"] + counts["explained"] > 0
        table[op] = {"verdict": "passed" if good else "failed", **{k: n for k, n in sorted(counts.items()) if n}}
    return table


def make_record(
    place: Place | None, upstream: Result | None, metal: Result | None, facts: dict[str, str]
) -> dict[str, Any]:
    """Return the record of a run, with its checksum."""
    columns = {"upstream": verdicts(upstream), "metal": verdicts(metal)}
    names = [n for n in REGISTRY if any(n in column for column in columns.values())]
    absent = {"verdict": "absent"}
    record: dict[str, Any] = {
        "format": default.FORMAT,
        "mlxr": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **facts,
        "device": place.device if place else "none",
        "driver": place.driver if place else "none",
        "stand_in": place.stand_in if place else None,
        "kernels": place.kernels if place else {},
        "ops": {name: {key: column.get(name, absent) for key, column in columns.items()} for name in names},
    }
    record["checksum"] = default.checksum(record)
    return record


# ------------------------------------------------------------------ the page

def coverage(root: Path) -> dict[tuple[str, str], set[str]]:
    """Return for each (backend, kind of test) the ops that a test names or is driven over; none outside a checkout."""

    def covered(places: Sequence[str], naming: str = "") -> set[str]:
        found: set[str] = set()
        for place in places:
            path = root / place
            for file in [path] if path.suffix == ".py" else sorted(path.rglob("*.py")):
                if not file.exists():
                    continue
                text = file.read_text()
                if naming not in text:
                    continue
                if "REGISTRY" in text:
                    return set(REGISTRY)
                words = set(re.findall(r"\w+", text)) | ({"matmul"} if re.search(r"\w @ \w", text) else set())
                found |= {name for name in REGISTRY if name.rsplit(".", 1)[-1] in words}
        return found

    table = {(b, kind): covered(places) for b, kinds in TESTS.items() for kind, places in kinds.items()}
    recorded = {case.op for case in cases("core")} if (root / "tests/golden/conformance.xz").exists() else set()
    for backend in TESTS:
        table[backend, "benchmark"] = covered(BENCHMARKS, "" if backend == "cpu" else backend)
        table[backend, "golden"] = recorded
    return table


COLUMNS = (
    ("cpu", ("unit", "property", "golden", "benchmark")),
    ("upstream", ("unit", "parity")),
    ("metal", ("unit", "property", "golden", "parity", "benchmark")),
)
MARKS = {"passed": "yes", "failed": "**no**", "absent": "absent"}


def _cells(op: str, record: dict[str, Any], covered: dict[tuple[str, str], set[str]]) -> Iterator[str]:
    for backend, kinds in COLUMNS:
        for kind in kinds:
            if kind == "parity":
                yield MARKS[record["ops"].get(op, {}).get(backend, {}).get("verdict", "absent")]
            elif backend == "metal" and kind == "golden":  # equal to the CPU, which is equal to the recorded values
                passed = record["ops"].get(op, {}).get("metal", {}).get("verdict") == "passed"
                yield "yes" if passed and op in covered["cpu", "golden"] else "-"
            else:
                yield "yes" if op in covered.get((backend, kind), ()) else "-"


def page(record: dict[str, Any], covered: dict[tuple[str, str], set[str]]) -> str:
    """Return the matrix as Markdown."""
    totals = {b: Counter(row[b]["verdict"] for row in record["ops"].values()) for b in ("upstream", "metal")}
    where = f"`{record['device']}`"
    if record["stand_in"]:
        where += ". **That is the software stand-in, not a GPU**: it shows that kernels are right, and nothing more"
    elif record["stand_in"] is not None:
        where += f" ({record['driver']})"
    lines = [
        "# Parity", "",
        "Written by `python -m mlxr parity --page docs/parity.md`; do not edit. The cases are those of the core suite",
        "of [conformance](conformance.md) in Metal's dtypes. The CPU backend is the oracle; `parity` says whether a",
        "backend agrees with it on every case, within the op's tolerance or as declared.", "",
        f"- Metal: {where}.",
        f"- Upstream: {record['upstream']}.",
        f"- Date: {record['date']}; mlxr {record['mlxr']}.",
        f"- Kernels: {len(record['kernels'])} files; their hashes are in the record.",
    ]
    for backend, total in totals.items():
        lines.append(f"- {backend}: {total['passed']} ops agree, {total['failed']} do not, {total['absent']} not run.")
    lines += [
        "",
        "`unit`, `property` and `benchmark` say that a test or benchmark names the op or is driven over all declared",
        "ops; `golden` that upstream's recorded values are compared. Metal becomes the default device only by a record",
        "in which every op here passes on the very GPU, driver and kernels at hand (`mlxr/backends/default.py`); a",
        "record of the stand-in never does that.", "",
        "| op | " + " | ".join(f"{b} {kind}" for b, kinds in COLUMNS for kind in kinds) + " |",
        "|---|" + "---|" * sum(len(kinds) for _, kinds in COLUMNS),
    ]
    lines += [f"| `{op}` | " + " | ".join(_cells(op, record, covered)) + " |" for op in record["ops"]]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ the command

def _compare(chosen: list[Case], theirs: Side, exceptions: Any, name: str) -> Result:
    with ExitStack() as ends:
        ends.callback(theirs.close)
        ours = Worker(OURS)
        ends.callback(ours.close)
        print(f"comparing {len(chosen):,} cases with {name}", file=sys.stderr)
        result = run(chosen, ours, theirs, facts={"suite": "parity"}, exceptions=exceptions)
    for found in result.failures:
        print(f"  {found.case.key}: {found.kind}: {found.text[:200]}", file=sys.stderr)
    return result


def _upstream() -> Side:
    try:
        return Worker(TARGETS["mlx"])
    except BackendUnavailableError as error:
        print(f"{error}\nComparing with what was recorded from it instead.", file=sys.stderr)
        return golden.Golden()


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; the exit status is 0 if every backend that is here agrees on every op."""
    chosen = parity_cases(arguments.ops)
    if not chosen:
        print("no such required op", file=sys.stderr)
        return 2
    theirs = _upstream()
    facts = {"machine": machine()["machine"], "upstream": "{library} {version}, {device}".format(**theirs.facts)}
    upstream = _compare(chosen, theirs, EXCEPTIONS, facts["upstream"])
    place, metal = None, None
    try:
        place = default.metal_here()
        metal = _compare(chosen, Worker(TARGETS["metal"], PATIENCE), METAL_EXCEPTIONS, f"Metal on {place.device}")
    except BackendUnavailableError as error:
        print(f"Metal is a column that says so: {error}", file=sys.stderr)
    record = make_record(place, upstream, metal, facts)
    file = arguments.record or default.record_path()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {file}", file=sys.stderr)
    if arguments.page:
        arguments.page.write_text(page(record, coverage(Path(mlxr.__file__).parent.parent)))
        print(f"wrote {arguments.page}", file=sys.stderr)
    good = True
    for backend in ("upstream", "metal"):
        rows = {op: row[backend] for op, row in record["ops"].items()}
        count = Counter(row["verdict"] for row in rows.values())
        good = good and not count["failed"]
        print(f"{backend:<10}{count['passed']} ops agree, {count['failed']} do not, {count['absent']} not run")
        for op, row in rows.items():
            if row["verdict"] == "failed":
                print(f"    {op}: " + ", ".join(f"{n} {k}" for k, n in row.items() if k != "verdict"))
    if place is not None:
        refused = default.judge(record, place, default.required_ops())
        print(f"default   stays the CPU: {refused}" if refused else "default   Metal, by this record")
    return 0 if good else 1
