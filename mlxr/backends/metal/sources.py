"""Where the kernels' sources are, and how one becomes a single text.

Metal compiles a text and has no folder to look for its includes in, so ``#include "file"`` is replaced here by the
file, with ``#line`` directives: messages name the line that was written. Must not know about plans or the runtime.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlxr.errors import BackendUnavailableError

__all__ = ["folder", "source"]

_INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')


def folder() -> Path:
    """Return the folder of the kernels: ``MLXR_METAL_KERNELS``, the package's, or that of the checkout it is used from.

    Raises
    ------
    BackendUnavailableError
        If there is none.
    """
    named = os.environ.get("MLXR_METAL_KERNELS")
    packaged = Path(__file__).parent / "kernels"  # a wheel has them (setup.py)
    checkout = Path(__file__).parents[3] / "metal" / "kernels"
    candidates = [Path(named)] if named else [packaged, checkout]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise BackendUnavailableError(f"no Metal kernels in {' or '.join(map(str, candidates))}", reason="no kernels")


def source(library: str) -> str:
    """Return the text of ``<library>.metal`` with its own includes in it, each once.

    Parameters
    ----------
    library : str
        Stem of a file in :func:`folder`.
    """
    return _expanded(folder() / f"{library}.metal", set())


def _expanded(path: Path, seen: set[Path]) -> str:
    seen.add(path)
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text().splitlines(), 1):
        include = _INCLUDE.match(line)
        if include is None:
            lines.append("" if line.strip() == "#pragma once" else line)
            continue
        included = (path.parent / include[1]).resolve()
        if included not in seen:
            lines.append(_expanded(included, seen))
        lines.append(f'#line {number + 1} "{path.name}"')
    return "\n".join(lines)
