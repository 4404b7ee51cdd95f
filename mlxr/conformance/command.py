"""The command ``python -m mlxr conformance``.

Knows what the command line says, and hands it to the suite and the reports.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mlxr.conformance import golden, report
from mlxr.conformance.cases import SUITES, Case, cases
from mlxr.conformance.engine import Worker, answers
from mlxr.conformance.suite import OURS, TARGETS, Result, Shard, Side, exceptions_for, run
from mlxr.errors import BackendUnavailableError, FileAccessError
from mlxr.ops.declare import REGISTRY

__all__ = ["add_arguments", "execute"]

AGAINST = ("mlx", "shim", "golden")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--suite", choices=SUITES, default="core", help="what gates every change, or everything")
    parser.add_argument("--ops", nargs="+", metavar="PATTERN", help='only ops with such names ("fast.*")')
    parser.add_argument(
        "--against", choices=AGAINST, help="upstream's own Python, mlxr on mlx:cpu, or recorded answers of the core "
        "suite (default: upstream where it is installed, else golden)",
    )
    parser.add_argument("--golden", type=Path, default=golden.DEFAULT, metavar="FILE", help="recorded answers")
    parser.add_argument("--record", type=Path, metavar="FILE", help="record upstream's answers, and compare nothing")
    parser.add_argument("--shard", type=_shard, default=Shard(), metavar="I/N", help="run the I-th of N parts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the result as JUnit's XML")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the result as a page")


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _chosen(patterns: list[str] | None) -> list[str]:
    """Return the declared ops that a pattern names.

    Raises
    ------
    BackendUnavailableError
        If a pattern names none.
    """
    if patterns is None:
        return list(REGISTRY)
    for pattern in patterns:
        if not fnmatch.filter(REGISTRY, pattern):
            raise BackendUnavailableError(f"no declared op is called {pattern!r}", device="", reason="no such op")
    return [name for name in REGISTRY if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _side(against: str | None, file: Path) -> tuple[str, Side]:
    """Return what to compare with; where nothing is named, upstream if it is here, else the golden file."""
    if against == "golden":
        return against, golden.Golden(file)
    if against is not None:
        return against, Worker(TARGETS[against])
    try:
        return "mlx", Worker(TARGETS["mlx"])
    except BackendUnavailableError as error:
        print(f"{error}\nComparing with what was recorded from it instead.", file=sys.stderr)
        return "golden", golden.Golden(file)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Result, Case], None]]:
    """Give a function to be called after each case: a progress bar where tqdm is, else a line now and then."""
    tqdm = importlib.import_module("tqdm").tqdm if importlib.util.find_spec("tqdm") else None
    if tqdm is not None and sys.stderr.isatty():
        with tqdm(total=total, unit=" cases", smoothing=0.05, file=sys.stderr) as bar:
            op = ""

            def advance(result: Result, case: Case) -> None:
                nonlocal op
                bar.update()
                if case.op != op:
                    op = case.op
                    bar.set_postfix_str(f"{len(result.failures)} failed, {op}", refresh=False)

            yield advance
        return
    done, said = 0, time.monotonic()

    def say(result: Result, case: Case) -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said > 10:
            said = time.monotonic()
            failed = f"{len(result.failures)} failed"
            print(f"{done:,} of {total:,} cases, {failed} ({case.op})", file=sys.stderr, flush=True)

    yield say


def _write(path: Path | None, text: Callable[[], str]) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(), encoding="utf-8")
    except OSError as error:
        raise FileAccessError(f"{path} cannot be written: {error}", file=str(path), reason=str(error)) from error
    print(f"wrote {path}", file=sys.stderr)


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; the exit status is 0 if nothing is unexplained."""
    try:
        return _execute(arguments)
    except (BackendUnavailableError, FileAccessError) as error:
        print(error, file=sys.stderr)
        return 2


def _execute(arguments: argparse.Namespace) -> int:
    chosen = arguments.shard.of(cases(arguments.suite, _chosen(arguments.ops)))
    with ExitStack() as ends:
        if arguments.record:
            return _record(arguments.record, chosen, ends)
        against, theirs = _side(arguments.against, arguments.golden)
        ends.callback(theirs.close)
        ours = Worker(OURS)
        ends.callback(ours.close)
        facts = {"suite": arguments.suite, "against": against}
        if arguments.shard.count > 1:
            facts["shard"] = f"{arguments.shard.index}/{arguments.shard.count}"
        # A part of the cases, or another side than upstream itself, may leave exceptions without use.
        complete = (arguments.suite, arguments.ops, arguments.shard.count, against) == ("full", None, 1, "mlx")
        with _progress(len(chosen)) as progress:
            result = run(chosen, ours, theirs, facts=facts, exceptions=exceptions_for(against), complete=complete,
                         progress=progress)
    outputs: tuple[tuple[Path | None, Callable[[Result], Any]], ...] = (
        (arguments.json, report.to_json), (arguments.junit, report.to_junit), (arguments.html, report.to_html),
    )
    for line in (*report.table(result), "", *report.summary(result)):
        print(line)
    for path, text in outputs:
        _write(path, lambda text=text: text(result))  # type: ignore[misc]
    return 0 if result.passed else 1


def _record(path: Path, chosen: list[Case], ends: ExitStack) -> int:
    theirs = Worker(TARGETS["mlx"])
    ends.callback(theirs.close)
    count = golden.write(path, theirs.facts, ((case, answer) for case, (answer,) in answers([theirs], chosen)))
    print(f"wrote {count:,} answers to {path} ({path.stat().st_size:,} bytes)")
    return 0
