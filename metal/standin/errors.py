"""The errors of the stand-in: what a kernel file, a launch or the toolchain can do wrong."""

from __future__ import annotations

from typing import NamedTuple


class StandinError(Exception):
    """Base of everything that the stand-in raises."""


class ToolchainError(StandinError):
    """Clang, or a part of it, is missing or too old."""


class Diagnostic(NamedTuple):
    """One complaint about a source file."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: error: {self.message}"


class CompileError(StandinError):
    """A kernel file is not accepted.

    Attributes
    ----------
    diagnostics : list of Diagnostic
        What was found, in the order of the source.
    """

    def __init__(self, diagnostics: list[Diagnostic], text: str = "") -> None:
        self.diagnostics = diagnostics
        super().__init__(text or "\n".join(map(str, diagnostics)))


class CheckError(StandinError):
    """A launch is wrong, or a kernel did what a GPU would not forgive.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    file, line : str, int
        Where in the kernel's source; line 0 where there is no place, as for a missing binding.
    kernel : str
        The kernel's host name.
    message : str
        What happened, without the place.
    """

    def __init__(self, kind: str, file: str, line: int, kernel: str, message: str) -> None:
        self.kind, self.file, self.line, self.kernel, self.message = kind, file, line, kernel, message
        place = f"{file}:{line}: " if line else ""
        super().__init__(f"{place}{kind}: {message} [{kernel}]")


#: Kinds of `CheckError`, in the order of the executor's codes (executor.h), which start at 1.
KINDS = (
    "bad-launch",
    "missing-binding",
    "missing-constant",
    "threadgroup-memory",
    "barrier-divergence",
    "simd-divergence",
    "inactive-lane",
    "deadlock",
    "endless-loop",
    "invalid-access",
    "out-of-bounds",
    "uninitialised-read",
    "data-race",
    "undefined-behaviour",
)
