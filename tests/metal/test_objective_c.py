"""The stand-in's Objective-C runtime, Foundation and Metal: programs written for Apple's, compiled and run here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from standin import toolchain
from standin.errors import ToolchainError

SOURCES = Path(__file__).parent / "objc"
RULES = (
    "wait-before-commit", "large-bytes", "no-bytes", "buffer-index", "buffer-offset", "no-pipeline",
    "threadgroup-memory", "two-encoders", "commit-while-encoding", "too-many-threads", "empty-grid", "forgotten-end",
    "end-twice", "encoder-after-end", "commit-twice", "encode-after-commit", "handler-after-commit",
)  # fmt: skip


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """Return the folder of the compiled programs."""
    folder = tmp_path_factory.mktemp("objc")
    try:
        for name, optimise in (("language", "-O2"), ("rules", "-O0")):
            toolchain.run([
                toolchain.clang(), *toolchain.objective_cxx_flags(), optimise, "-Wall", "-I",
                str(toolchain.HERE / "objc"),
                "-x", "objective-c++", str(SOURCES / f"{name}.mm"), "-x", "none", "-o", str(folder / name),
                *toolchain.framework_link_flags(), "-lpthread",
            ])  # fmt: skip
    except ToolchainError as error:
        pytest.skip(str(error))
    return folder


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, timeout=300,
                          env={**os.environ, **environment})  # fmt: skip


def test_language(programs: Path) -> None:
    done = run(programs / "language")
    assert done.stdout == "failures 0, live 0, errors 0\n", done.stdout + done.stderr
    assert done.returncode == 0


def test_over_release_ends_the_process(programs: Path) -> None:
    done = run(programs / "language", "over-release")
    assert done.returncode < 0
    assert "over-release" in done.stderr


def test_over_release_is_counted(programs: Path) -> None:
    assert run(programs / "language", "tolerated").stdout == "errors 1\n"


def test_unknown_messages_end_the_process(programs: Path) -> None:
    done = run(programs / "language", "unrecognized")
    assert done.returncode < 0
    assert "-[Thing performUnknownThing]: unrecognized selector" in done.stderr


@pytest.mark.parametrize("environment", [{}, {"MLXR_STANDIN_CHECKED": "1", "MLXR_STANDIN_ORDER": "shuffled"}])
def test_metal(programs: Path, environment: dict[str, str]) -> None:
    done = run(programs / "rules", "ok", **environment)
    assert done.stdout == "failures 0, left over 0, bytes 0, errors 0\n", done.stdout + done.stderr
    assert done.returncode == 0


def test_the_process_may_end_with_work_in_flight(programs: Path) -> None:
    assert run(programs / "rules", "ok", "and leave").returncode == 0


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_ends_the_process(programs: Path, rule: str) -> None:
    done = run(programs / "rules", rule)
    assert done.returncode < 0, done.stdout
    assert "API misuse" in done.stderr
