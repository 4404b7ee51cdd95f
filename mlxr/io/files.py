"""The ``file`` argument of loading and saving: paths and file objects, their bytes, and errors of the file system.

Must not know about file formats or tensors.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from typing import Any

from mlxr.errors import FileAccessError, FileMissingError, InvalidValueError
from mlxr.io.mapping import Mapping

__all__ = ["as_path", "check_binary", "file_errors", "name_of", "read_bytes"]


def as_path(file: Any) -> str | None:
    """Return the path that `file` is, or None if it is not a path."""
    if isinstance(file, str):
        return file
    if isinstance(file, os.PathLike):
        return os.fsdecode(os.fspath(file))
    return None


def name_of(file: Any) -> str:
    """Return what messages call a path or file object."""
    path = as_path(file)
    if path is not None:
        return path
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else f"<{type(file).__name__}>"


@contextlib.contextmanager
def file_errors(op: str, file: Any) -> Iterator[None]:
    """Turn the operating system's errors about `file` into mlxr's."""
    try:
        yield
    except (FileAccessError, InvalidValueError):
        raise
    except OSError as error:
        kind = FileMissingError if isinstance(error, FileNotFoundError) else FileAccessError
        reason = error.strerror or str(error)
        message = f"[{op}] {name_of(file)}: {reason}"
        raise kind(message, op=op, file=name_of(file), reason=reason, errno=error.errno) from error


def read_bytes(file: Any, op: str) -> Any:
    """Return all bytes of a file as a read-only buffer: a mapping where `file` is a regular file on disk.

    Parameters
    ----------
    file : str, os.PathLike or file object
        A file object is read from where it stands. One of Python's own, unbuffered or buffered for reading, is mapped.
    op : str
        The function to name in error messages.

    Returns
    -------
    buffer of bytes

    Raises
    ------
    FileAccessError
        If the file cannot be opened or read.
    InvalidValueError
        If `file` is neither a path nor a file object opened in binary mode.
    """
    path = as_path(file)
    with file_errors(op, file):
        if path is not None:
            with open(path, "rb", buffering=0) as stream:
                return _map(stream) or stream.readall()
        check_binary(file, op, "read")
        raw = file.raw if isinstance(file, io.BufferedReader) else file
        # Only these are known to show the same bytes as their descriptor: a GzipFile, say, has one too.
        mapping = _map(raw) if isinstance(raw, io.FileIO) and file.seekable() and file.tell() == 0 else None
        data = mapping or file.read()
        if not isinstance(data, (bytes, Mapping)):
            raise InvalidValueError(f"[{op}] {name_of(file)} reads {type(data).__name__}, not bytes", op=op, file=file)
        return data


def check_binary(file: Any, op: str, method: str) -> None:
    """Refuse what is not an open, binary file object that has `method`."""
    if not callable(getattr(file, method, None)) or isinstance(file, io.TextIOBase):
        raise InvalidValueError(
            f"[{op}] Input must be a file-like object opened in binary mode, or string; got {type(file).__name__}",
            op=op,
            file=file,
        )
    if getattr(file, "closed", False):
        raise InvalidValueError(f"[{op}] {name_of(file)} is closed", op=op, file=file)


def _map(stream: io.FileIO) -> Mapping | None:
    """Map an open file; None for a pipe, a device or an empty file, which must be read."""
    status = os.fstat(stream.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return Mapping(stream.fileno(), status.st_size)
    return None
