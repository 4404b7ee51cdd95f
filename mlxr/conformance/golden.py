"""What upstream answered to the core suite, in one file, for machines on which it cannot be installed.

Knows cases and answers; nothing of how they are compared.
"""

from __future__ import annotations

import lzma
import marshal
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import mlxr
from mlxr.conformance.cases import Case
from mlxr.conformance.engine import Answer
from mlxr.errors import BackendUnavailableError

__all__ = ["DEFAULT", "Golden", "write"]

# In a checkout; an installed package has no tests.
DEFAULT = Path(mlxr.__file__).parent.parent / "tests" / "golden" / "conformance.xz"
FORMAT = 1


def write(path: Path, facts: dict[str, str], answered: Iterable[tuple[Case, Answer]]) -> int:
    """Write the answers to a file, and return how many there are."""
    table = {case.key: (case.fingerprint, answer) for case, answer in answered}
    data = lzma.compress(marshal.dumps((FORMAT, facts, table), 2), preset=9)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    Path(temporary).chmod(0o644)
    Path(temporary).replace(path)
    return len(table)


class Golden:
    """Answers from a file, with the interface of ``engine.Worker``.

    Raises
    ------
    BackendUnavailableError
        If there is no such file, or it is of another format (fact ``reason``).
    """

    starts = 1

    def __init__(self, path: Path = DEFAULT) -> None:
        try:
            form, facts, self._table = marshal.loads(lzma.decompress(path.read_bytes()))
        except (OSError, lzma.LZMAError, ValueError, EOFError, TypeError) as error:
            reason = f"{path} cannot be read: {error}"
            raise BackendUnavailableError(reason, device="golden", reason=reason) from error
        if form != FORMAT:
            reason = f"{path} is of format {form}, not {FORMAT}"
            raise BackendUnavailableError(reason, device="golden", reason=reason)
        self.facts: dict[str, str] = {**facts, "device": f"recorded in {path.name}"}

    def run(self, batch: Sequence[Case]) -> list[Answer]:
        """Return the recorded answers: ``("unrecorded", text)`` where there is none, or one to another call."""
        answers: list[Answer] = []
        for case in batch:
            fingerprint, answer = self._table.get(case.key, (None, None))
            if fingerprint == case.fingerprint:
                answers.append(tuple(answer))
            else:
                why = "no answer was recorded" if fingerprint is None else "what was recorded had other arguments"
                answers.append(("unrecorded", why))
        return answers

    def close(self) -> None:
        """Nothing to end."""
