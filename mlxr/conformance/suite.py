"""Runs a suite: asks both sides, compares, looks differences up among the declared ones, and counts.

Knows how the parts fit together; nothing of how results are shown.
"""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mlxr.conformance.cases import Case
from mlxr.conformance.compare import Difference, compare
from mlxr.conformance.engine import Answer, Target, answers
from mlxr.conformance.exceptions import EXCEPTIONS, SHIM_EXCEPTIONS, Explained, explain

__all__ = ["OURS", "TARGETS", "Result", "Shard", "Side", "run"]

OURS = Target("mlxr on cpu", ("mlxr", "cpu"))
TARGETS = {
    "mlx": Target("upstream MLX", ("mlx",)),
    "shim": Target("mlxr on mlx:cpu", ("mlxr", "mlx:cpu")),
    "metal": Target("mlxr on metal", ("mlxr", "metal")),
}
# What a backend says that it lacks is listed, and no failure; so are cases that a golden file does not know.
OMITTED = ("unsupported", "unrecorded")


class Side(Protocol):
    """What answers cases: a ``Worker``, or a ``Golden``."""

    facts: dict[str, str]
    starts: int

    def run(self, batch: Sequence[Case]) -> list[Answer]:
        """Return the answers to some cases, in their order."""

    def close(self) -> None:
        """End what was started."""


@dataclass(frozen=True)
class Shard:
    """Every `count`-th case, beginning with the `index`-th (from 1)."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that ``"i/n"`` names.

        Raises
        ------
        ValueError
            If it names none.
        """
        index, _, count = text.partition("/")
        shard = cls(int(index), int(count))
        if not 1 <= shard.index <= shard.count:
            raise ValueError(f"a shard is i/n with 1 <= i <= n, got {text!r}")
        return shard

    def of(self, cases: Iterable[Case]) -> list[Case]:
        """Return the cases of this shard."""
        return list(cases)[self.index - 1::self.count]


@dataclass
class Result:
    """What a run found.

    Attributes
    ----------
    facts : dict
        Machine, versions, and what was run.
    counts : dict
        For each (op, dtype), how many cases had which outcome: ``same``, ``explained``, ``failed``, or a word of
        ``OMITTED``.
    failures : list of Difference
        What nothing explains.
    explained : dict
        For each exception that covered something, the differences.
    unused : list of Explained
        Exceptions that covered nothing, if the run was complete.
    """

    facts: dict[str, str]
    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    failures: list[Difference] = field(default_factory=list)
    explained: dict[Explained, list[Difference]] = field(default_factory=dict)
    omitted: list[Difference] = field(default_factory=list)
    unused: list[Explained] = field(default_factory=list)

    @property
    def total(self) -> Counter[str]:
        """The outcomes of all cases."""
        total: Counter[str] = Counter()
        for counter in self.counts.values():
            total += counter
        return total

    @property
    def passed(self) -> bool:
        """Whether nothing is unexplained, nothing explained in vain, and anything was compared."""
        return bool(self.total["same"]) and not self.failures and not self.unused

    def of_op(self, op: str) -> Counter[str]:
        """Return the outcomes of one op's cases."""
        total: Counter[str] = Counter()
        for (name, _), counter in self.counts.items():
            if name == op:
                total += counter
        return total

    @property
    def ops(self) -> list[str]:
        """The ops that were run, in their order."""
        return list(dict.fromkeys(op for op, _ in self.counts))


def machine() -> dict[str, str]:
    """Return what a report says of the machine."""
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def run(
    cases: Sequence[Case],
    ours: Side,
    theirs: Side,
    *,
    facts: dict[str, str],
    exceptions: Sequence[Explained] = EXCEPTIONS,
    complete: bool = False,
    progress: Callable[[Result, Case], None] = lambda result, case: None,
) -> Result:
    """Ask both sides, compare, and count.

    Parameters
    ----------
    cases : sequence of Case
    ours, theirs : Side
    facts : dict of str
        Goes into the result.
    exceptions : sequence of Explained
        Declared differences.
    complete : bool
        Whether every exception has to cover something.
    progress : callable
        Called after each case.
    """
    start = time.monotonic()
    result = Result({
        **facts, "ours": _describe(ours), "theirs": _describe(theirs), **machine(), "cases": str(len(cases)),
    })
    for case, (mine, other) in answers([ours, theirs], cases):
        counter = result.counts.setdefault((case.op, case.dtype), Counter())
        found = compare(case, mine, other)
        if found is None:
            counter["same"] += 1
        elif found.kind in OMITTED:
            counter[found.kind] += 1
            result.omitted.append(found)
        else:
            declared = explain(found, tuple(exceptions))
            if declared is None:
                counter["failed"] += 1
                result.failures.append(found)
            else:
                counter["explained"] += 1
                result.explained.setdefault(declared, []).append(found)
        progress(result, case)
    result.facts["seconds"] = f"{time.monotonic() - start:.1f}"
    result.facts["restarts"] = f"{ours.starts - 1} here, {theirs.starts - 1} there"
    if complete:
        result.unused = [e for e in exceptions if e not in result.explained]
    return result


def _describe(side: Side) -> str:
    facts = side.facts
    return f"{facts['library']} {facts['version']}, {facts['device']}"


def exceptions_for(against: str) -> tuple[Explained, ...]:
    """Return the declared differences of a target."""
    return EXCEPTIONS if against in ("mlx", "golden") else SHIM_EXCEPTIONS
