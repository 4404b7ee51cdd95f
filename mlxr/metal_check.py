"""``python -m mlxr.metal_check file.metal``: check Metal kernels on a machine without Metal.

The work is done by the software stand-in, which is part of mlxr's source tree (``metal/standin``) and not of its
wheels; ``MLXR_METAL_STANDIN`` names it where it lies elsewhere. It needs clang 19. This module only finds it: what it
checks, and what it cannot know, is in ``docs/metal.md``.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxr.errors import MlxrError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["find_standin", "main"]


def find_standin() -> Any:
    """Return the module that checks files.

    Raises
    ------
    MlxrError
        If the stand-in is not there.
    """
    named = os.environ.get("MLXR_METAL_STANDIN")
    folder = Path(named) if named else Path(__file__).resolve().parents[1] / "metal" / "standin"
    if not (folder / "check.py").exists():
        raise MlxrError(
            f"the software stand-in for Metal is not at {folder}; it is part of mlxr's source tree, "
            "and MLXR_METAL_STANDIN names its folder"
        )
    if str(folder.parent) not in sys.path:
        sys.path.append(str(folder.parent))
    return importlib.import_module(f"{folder.name}.check")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        check = find_standin()
    except MlxrError as error:
        print(error, file=sys.stderr)
        return 2
    return int(check.main(arguments))


if __name__ == "__main__":
    sys.exit(main())
