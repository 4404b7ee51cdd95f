"""The checker finds what was planted, at the line where it was planted, and nothing in the controls."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from standin import check
from standin.errors import KINDS, CheckError, CompileError
from standin.harness import ORDERS, Library
from standin.lint import lint

PLANTED = Path(__file__).parent / "planted"
RUNNING = ["bounds", "races", "uninitialised", "convergence", "launches"]
#: What only the checked flavour can see.
MEMORY = {"out-of-bounds", "uninitialised-read", "data-race", "undefined-behaviour"}


@cache
def library(name: str, checked: bool) -> Library:
    return Library(PLANTED / f"{name}.metal", checked)


def planted() -> list[tuple[str, check.Run, str, int]]:
    """Return file, launch, kind and line of every planted bug that shows when it runs."""
    found = []
    for name in RUNNING:
        path = PLANTED / f"{name}.metal"
        runs, wrong = check.directives(path)
        assert not wrong
        lines = path.read_text().splitlines()
        for run, following in zip(runs, [*runs[1:], None], strict=True):
            end = following.line - 1 if following else len(lines)
            marks = [(n, m[1]) for n in range(run.line, end + 1) if (m := re.search(r"BUG: ([\w-]+)", lines[n - 1]))]
            assert len(marks) == 1, run
            line, kind = marks[0]
            found.append((name, run, kind, 0 if line == run.line else line))
    return found


@pytest.mark.parametrize(("name", "run", "kind", "line"), planted(), ids=lambda v: getattr(v, "kernel", str(v)))
def test_a_planted_bug_is_found(name: str, run: check.Run, kind: str, line: int) -> None:
    # Work that is divided wrongly is found whatever the order; a thread that never comes is found in one of them.
    arguments = {"time_limit": 0.5} if kind == "endless-loop" else {}
    sizes = [run.threadgroup.get(i, 0) for i in range(max(run.threadgroup, default=-1) + 1)]
    with pytest.raises(CheckError) as caught:
        library(name, True).run(run.kernel, run.grid, run.group, run.arrays(), run.constants, sizes, **arguments)
    error = caught.value
    assert (error.kind, error.kernel, error.line) == (kind, run.kernel, line), error
    assert not line or error.file == str(PLANTED / f"{name}.metal")


@pytest.mark.parametrize(("name", "run", "kind", "line"), [p for p in planted() if p[2] not in MEMORY],
                         ids=lambda v: getattr(v, "kernel", str(v)))  # fmt: skip
def test_what_is_no_matter_of_memory_is_found_unchecked_too(name: str, run: check.Run, kind: str, line: int) -> None:
    arguments = {"time_limit": 0.5} if kind == "endless-loop" else {}
    sizes = [run.threadgroup.get(i, 0) for i in range(max(run.threadgroup, default=-1) + 1)]
    with pytest.raises(CheckError) as caught:
        library(name, False).run(run.kernel, run.grid, run.group, run.arrays(), run.constants, sizes, **arguments)
    assert (caught.value.kind, caught.value.line) == (kind, line), caught.value


def test_every_kind_was_planted_more_than_once() -> None:
    kinds = Counter(kind for _, _, kind, _ in planted())
    assert sum(kinds.values()) >= 40
    # What is no memory at all the checker calls out of bounds; unchecked it is test_standin.py's.
    assert {k for k in KINDS if kinds[k] < 2} == {"invalid-access"}


def test_controls_are_clean() -> None:
    report = check.check_file(PLANTED / "controls.metal")
    assert report.findings == []
    assert set(report.ran) == set(report.kernels)
    assert len(report.ran) >= 12


@pytest.mark.parametrize("order", ORDERS)
def test_controls_are_right(order: str) -> None:
    runs = {run.kernel: run for run in check.directives(PLANTED / "controls.metal")[0]}
    plain = library("controls", False)
    out = check.launch(plain, runs["reversed"], order)[0]
    assert out[:64].tolist() == list(range(63, -1, -1)) == out[64:].tolist()
    assert check.launch(plain, runs["counts"], order)[0][0] == 256
    assert check.launch(plain, runs["counts"], order)[1][0] == 128
    assert check.launch(plain, runs["scan"], order)[0].tolist() == list(range(1, 33))
    assert check.launch(plain, runs["fewer_lanes"], order)[0][::2].tolist() == [16.0] * 16
    a, b, product = check.launch(plain, runs["product"], order)
    for k in range(2):
        x, y = (m[k * 64 : k * 64 + 64].reshape(8, 8).astype("f4") for m in (a, b))
        assert abs(product[k * 64 : k * 64 + 64].reshape(8, 8) - x.T @ y).max() < 1e-5


def snippets() -> list[tuple[str, str, int, str]]:
    """Return title, source, line and message of every planted error of the language."""
    parts = re.split(r"^//---- (.*)\n", (PLANTED / "language.metal").read_text(), flags=re.M)[1:]
    found = []
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        marks = [
            (n, m[1].strip())
            for n, text in enumerate(body.splitlines(), 1)
            if (m := re.search(r"// ERROR: (.*)", text))
        ]
        assert len(marks) == 1, title
        found.append((title, body, *marks[0]))
    return found


@pytest.mark.parametrize(("title", "body", "line", "message"), snippets(), ids=[s[0] for s in snippets()])
def test_an_error_of_the_language_is_found(title: str, body: str, line: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "snippet.metal"
    path.write_text('#include <metal_stdlib>\nusing namespace metal;\n#line 1 "snippet"\n' + body)
    try:
        Library(path)
        found = lint(path)
    except CompileError as error:
        found = error.diagnostics
    assert any(d.line == line and message in d.message for d in found), found
