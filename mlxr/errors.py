"""The typed errors of mlxr's public boundary.

Every error that a user can cause is a :class:`MlxrError` and, at the same time, the builtin exception that upstream MLX
raises in that place, so programs written for MLX keep their ``except`` clauses. The facts that led to an error are
attributes, not only text. This module must not import anything of mlxr.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArgumentTypeError",
    "AxisError",
    "BackendUnavailableError",
    "BoundsError",
    "ConversionError",
    "DeviceMismatchError",
    "DtypeError",
    "ExportError",
    "FactorizationError",
    "FileAccessError",
    "FileFormatError",
    "FileMissingError",
    "InvalidValueError",
    "MlxrError",
    "OutOfMemoryError",
    "ShapeError",
    "TransformError",
    "UnsupportedOpError",
]


class MlxrError(Exception):
    """Base class of all errors that mlxr raises on purpose.

    Parameters
    ----------
    message : str
        What went wrong, with the facts in words.
    **facts
        The same facts as values (``op``, ``shapes``, ``dtypes``, ``axis``, ``device``, ...); each becomes an attribute.
    """

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.facts)


def _rebuild(cls: type[MlxrError], message: str, facts: dict[str, Any]) -> MlxrError:
    """Unpickle an error with its facts."""
    return cls(message, **facts)


class ShapeError(MlxrError, ValueError):
    """Shapes do not fit each other or the operation (facts: ``op``, ``shapes``)."""


class AxisError(MlxrError, ValueError, IndexError):
    """An axis is out of range or repeated (facts: ``op``, ``axis``, ``ndim``)."""


class DtypeError(MlxrError, ValueError, TypeError):
    """The operation does not take these dtypes (facts: ``op``, ``dtypes``)."""


class InvalidValueError(MlxrError, ValueError):
    """An argument has the right type and a value that cannot be used (facts: the argument)."""


class ArgumentTypeError(MlxrError, TypeError, ValueError):
    """An argument has a type that the function does not take; upstream raises either (facts: the argument)."""


class BoundsError(MlxrError, IndexError, ValueError):
    """An index lies outside its axis (facts: ``index``, ``axis``, ``size``)."""


class ConversionError(MlxrError, ValueError, OverflowError):
    """A Python value cannot be held by the dtype (facts: ``value``, ``dtype``)."""


class DeviceMismatchError(MlxrError, ValueError):
    """Operands live on different devices (facts: ``op``, ``devices``)."""


class BackendUnavailableError(MlxrError, RuntimeError, ValueError):
    """The device's backend does not exist here (facts: ``device``, ``reason``)."""


class UnsupportedOpError(MlxrError, NotImplementedError, ValueError):
    """The backend lacks this primitive for these dtypes (facts: ``op``, ``dtypes``, ``backend``)."""


class OutOfMemoryError(MlxrError, MemoryError):
    """An allocation failed (facts: ``nbytes``)."""


class TransformError(MlxrError, ValueError):
    """A function transformation was misused, or an op has no rule for it (facts: ``op``, ``transform``)."""


class ExportError(MlxrError, BufferError):
    """A tensor's memory cannot be handed to another library as asked (facts: ``dtype``)."""


class FactorizationError(MlxrError, RuntimeError, ValueError):
    """A matrix has no inverse or no such factorization (facts: ``op``)."""


class FileFormatError(MlxrError, ValueError, RuntimeError):
    """A file is not what it says it is (facts: ``file``, ``tensor``, ``reason``)."""


class FileAccessError(MlxrError, OSError, RuntimeError, ValueError):
    """The operating system refused to open, read or write a file (facts: ``file``, ``reason``, ``errno``)."""

    # OSError's own would print its errno and leave out the rest.
    __str__ = Exception.__str__


class FileMissingError(FileAccessError, FileNotFoundError):
    """A file or its folder does not exist (facts: ``file``, ``reason``, ``errno``)."""
