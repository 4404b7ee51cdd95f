"""Replacing a file so that a reader, or a crash, only ever meets the old content or the new.

Must not know about tensors or file formats.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import stat
from collections.abc import Iterator

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Give a temporary path to write to, and put that file in the place of `path` when the block ends well.

    The temporary file lies in the folder of `path`, so that the final rename is atomic, and is on the disk before the
    rename. If the block raises, it is removed and `path` is left as it was. A killed process can leave the temporary
    file behind (``.mlxr-*.tmp``), never a half-written `path`.

    A symbolic link is followed: what it points at is replaced. An existing file keeps its permission bits; a new one
    gets those of the process's umask.

    Parameters
    ----------
    path : str
        The file to make or to replace.

    Yields
    ------
    str
        Path of an empty file. The block may write to it or put another file in its place.

    Raises
    ------
    OSError
        As the operating system reports it; also if `path` exists and is not a regular file.
    """
    target = pathlib.Path(path).resolve()
    temporary = target.parent / f".mlxr-{secrets.token_hex(8)}.tmp"
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(f"not a regular file: {str(target)!r}")
    # Made here, not by whoever writes, so that the umask (which cannot be read without changing it) sets the bits.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        if mode is None:
            mode = temporary.stat().st_mode
        yield str(temporary)
        descriptor = os.open(temporary, os.O_RDWR)
        try:
            os.fchmod(descriptor, stat.S_IMODE(mode))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself reaches the disk with the folder. Not every file system can do that: the content is safe anyway.
    with contextlib.suppress(OSError):
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
