"""Judges two answers to one case: whether they agree, and if not, in what, and by how much.

Knows declarations (tolerance, reference) and cases; nothing of processes, exceptions or reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlxr.conformance.cases import Case, decode
from mlxr.conformance.engine import Answer
from mlxr.conformance.measure import DTYPES, difference, worst_ulps
from mlxr.ops.declare import REGISTRY

__all__ = ["KINDS", "Difference", "compare", "tolerance"]

KINDS = {
    "value": "values differ by more than the tolerance",
    "sign": "zeros of other signs",
    "dtype": "results of another dtype",
    "shape": "results of another shape",
    "count": "another number of results",
    "refuses": "an error here, a result there",
    "accepts": "a result here, an error there",
    "error": "errors of unrelated classes",
    "crash": "the process there was killed",
    "exit": "the process there ended",
    "hang": "no answer there",
    "absent": "no such function there",
    "unsupported": "the backend there says that it lacks the op",
    "unrecorded": "the golden file has no answer",
    "broken": "the process here ended, or hangs",
}


@dataclass(frozen=True)
class Difference:
    """In what two answers to a case differ.

    Attributes
    ----------
    kind : str
        Key of ``KINDS``.
    text : str
        One line with the facts.
    ulps : float or None
        Largest distance of values, in units of the last place (integers: of 1).
    result : int
        Which of the results.
    """

    case: Case
    kind: str
    text: str
    ours: Answer
    theirs: Answer
    ulps: float | None = None
    result: int = 0

    def closer(self) -> bool:
        """Tell whether our largest error against the op's reference is at most half of theirs."""
        wanted = _reference(self.case)
        if wanted is None or len(wanted) != len(self.ours[1]):
            return False
        dtype, scale = DTYPES[self.ours[1][self.result][1]], _scale(self.case)
        ours, theirs = (
            worst_ulps(decode(side[1][self.result]), wanted[self.result], dtype, scale)
            for side in (self.ours, self.theirs)
        )
        return ours <= theirs / 2 and bool(np.isfinite(ours))

    def accurate(self, among: np.ndarray | bool = True) -> bool:
        """Tell whether our values are within the op's tolerance of its reference wherever (`among`) theirs differ."""
        wanted = _reference(self.case)
        if wanted is None or len(wanted) != len(self.ours[1]):
            return False
        value = self.ours[1][self.result]
        got, reference, dtype = decode(value), wanted[self.result], DTYPES[value[1]]
        if got.shape != reference.shape:
            return False
        differs = among & (_distance(self.case, self.ours, self.theirs, self.result) > tolerance(self.case))
        if dtype.kind in "biu":
            with np.errstate(all="ignore"):
                return bool((got == reference.astype(got.dtype))[differs].all())
        scale = _scale(self.case)
        if scale is not None:
            scale = np.broadcast_to(scale, got.shape)[differs]
        allowed = max(REGISTRY[self.case.op].ulps, 0.5)
        if dtype.itemsize == 8 and dtype.kind == "f":
            allowed *= 2  # the reference is computed in float64 too, and off by as much
        return worst_ulps(got[differs], reference[differs], dtype, scale) <= allowed


def tolerance(case: Case) -> float:
    """Return the distance allowed between two results: each may be off by the op's tolerance."""
    return 2 * REGISTRY[case.op].ulps


def _scale(case: Case) -> Any:
    """Return the magnitude that the op's rounding errors refer to, or None."""
    scale = REGISTRY[case.op].scale
    if scale is None:
        return None
    try:
        with np.errstate(all="ignore"):
            return np.abs(scale(*_widened(case.args), **{k: _widen(decode(v)) for k, v in case.kwargs.items()}))
    except (TypeError, ValueError, IndexError):  # of calls that have no result, or of dtypes that it does not take
        return None


def _widen(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
        return value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
    if isinstance(value, (list, tuple)):
        return type(value)(_widen(v) for v in value)
    return value


def _widened(args: tuple[Any, ...]) -> list[Any]:
    return [_widen(decode(a)) for a in args]


def _reference(case: Case) -> list[np.ndarray] | None:
    """Return the results of the op's reference; None without one, or where it does not take the values."""
    op = REGISTRY[case.op]
    if op.reference is None:
        return None
    try:
        with np.errstate(all="ignore"):
            wanted = op.reference(*_widened(case.args), **{k: _widen(decode(v)) for k, v in case.kwargs.items()})
    except Exception:  # it is declared for samples, and may fail in any way at other values
        return None
    return [np.asarray(w) for w in (wanted if isinstance(wanted, (list, tuple)) else [wanted])]


def _distance(case: Case, ours: Answer, theirs: Answer, result: int) -> np.ndarray:
    """Return how far two results of one shape and dtype are apart, element by element."""
    a, b = ours[1][result], theirs[1][result]
    dtype = DTYPES[a[1]]
    return difference(decode(a), decode(b), dtype, _scale(case) if dtype.kind in "fc" else None)


def compare(case: Case, ours: Answer, theirs: Answer) -> Difference | None:
    """Return in what two answers differ, or None if they agree.

    Values agree within twice the op's tolerance: each side may be off by as much. Of an op without tolerance they agree
    exactly. Two errors agree if ours is also of the class of theirs.
    """
    if ours[0] in ("crash", "exit", "hang", "absent"):
        return Difference(case, "broken", f"{ours[0]}: {ours[1]}", ours, theirs)
    if theirs[0] in ("crash", "exit", "hang", "absent", "unrecorded"):
        return Difference(case, theirs[0], theirs[1], ours, theirs)
    if theirs[0] == "error":
        if "UnsupportedOpError" in theirs[1]:
            return Difference(case, "unsupported", theirs[2], ours, theirs)
        if ours[0] == "values":
            return Difference(case, "accepts", f"{theirs[1][0]} there: {theirs[2]}", ours, theirs)
        # Of two errors of mlxr's own, one class is enough: backends notice some mistakes in other places.
        if theirs[1][0] in ours[1] or "MlxrError" in theirs[1]:
            return None
        return Difference(case, "error", f"{ours[1][0]} here, {theirs[1][0]} there: {theirs[2]}", ours, theirs)
    if ours[0] == "error":
        return Difference(case, "refuses", f"{ours[1][0]} here: {ours[2]}", ours, theirs)
    if ours[1] == theirs[1]:
        return None
    return _compare_values(case, ours, theirs)


def _compare_values(case: Case, ours: Answer, theirs: Answer) -> Difference | None:
    if len(ours[1]) != len(theirs[1]):
        return Difference(case, "count", f"{len(ours[1])} results here, {len(theirs[1])} there", ours, theirs)
    for k, (a, b) in enumerate(zip(ours[1], theirs[1], strict=True)):
        if a == b:
            continue
        if a[0] != "a" or b[0] != "a":
            return Difference(case, "value", f"{a[1]} here, {b[1]} there", ours, theirs, result=k)
        if a[1] != b[1]:
            return Difference(case, "dtype", f"{a[1]} here, {b[1]} there", ours, theirs, result=k)
        if a[2] != b[2]:
            return Difference(case, "shape", f"{tuple(a[2])} here, {tuple(b[2])} there", ours, theirs, result=k)
        x, y, dtype = decode(a), decode(b), DTYPES[a[1]]
        distance = _distance(case, ours, theirs, k)
        worst = float(distance.max(initial=0.0))
        if worst > (tolerance(case) if dtype.kind in "fc" else 0):
            unit = "ULP" if dtype.kind in "fc" else "units"
            at = np.unravel_index(int(distance.argmax()), distance.shape)
            text = f"{x[at]} here, {y[at]} there at {tuple(int(i) for i in at)}: {worst:.4g} {unit}"
            return Difference(case, "value", text, ours, theirs, worst, k)
        if case.kind in ("edge", "pole") and dtype.kind == "f" and REGISTRY[case.op].family == "elementwise":
            zeros = (x == 0) & (y == 0) & (np.signbit(x) != np.signbit(y))
            if zeros.any():
                at = np.unravel_index(int(zeros.argmax()), zeros.shape)
                text = f"{x[at]} here, {y[at]} there at {tuple(int(i) for i in at)}"
                return Difference(case, "sign", text, ours, theirs, 0.0, k)
    return None
