"""The address-space lint: parses kernels as C++ for OpenCL, whose rules for address spaces are close to Metal's.

The host's compiler has no address spaces, so a threadgroup pointer that is given a device address passes there. Here it
is an error. What the lint cannot express is left alone: it looks for errors about address spaces and nothing else.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Diagnostic
from ..rewriter import Rewriter
from ..toolchain import HERE, clang, library_folder, parse_messages, preprocess

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What clang says about address spaces, in all its ways.
_ABOUT_ADDRESS_SPACES = re.compile(
    r"address space|__(?:global|local|private|constant|generic)\b|no matching (?:function|member function)"
    r"|const-qualified|read-only"
)


class _Keeping(Rewriter):
    """Leaves address spaces in place."""

    keep_address_spaces = True


def lint(path: Path, include: Iterable[Path] = ()) -> list[Diagnostic]:
    """Return what is wrong with the address spaces of a kernel file that the host's compiler accepts."""
    rewriter = _Keeping(preprocess(path, include))
    rewriter.scope(rewriter.tokens)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernels.clcpp"
        source.write_text("".join(rewriter.out))
        flags = ["-x", "clcpp", "-cl-std=CLC++2021", "-cl-no-stdinc", "--target=spir64", "-fdeclspec", "-fsyntax-only",
                 "-w", "-ferror-limit=0", "-I", str(library_folder()), "-include",
                 str(HERE / "lint" / "metal_lint.h")]  # fmt: skip
        done = subprocess.run([clang(), *flags, str(source)], capture_output=True, text=True, check=False)
    found = [d for d in parse_messages(done.stderr) if _ABOUT_ADDRESS_SPACES.search(d.message)]
    # `c ? value : memory[i]` of vectors, where Metal reads the memory first.
    return [d for d in found if not d.message.startswith("incompatible operand types")]
