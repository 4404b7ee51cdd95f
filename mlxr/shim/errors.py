"""Errors of the shim that the rest of mlxr does not have, and the translation of its error codes.

Must not load the library.
"""

from __future__ import annotations

from mlxr.errors import (
    BackendUnavailableError,
    BoundsError,
    DtypeError,
    InvalidValueError,
    MlxrError,
    OutOfMemoryError,
    ShapeError,
    UnsupportedOpError,
)
from mlxr.shim import abi

__all__ = [
    "AbiError",
    "ExtentError",
    "ForkError",
    "HandleError",
    "IntegerDivisionError",
    "PoisonedError",
    "UpstreamError",
    "error_for",
]


class UpstreamError(MlxrError, RuntimeError):
    """Upstream MLX failed, e.g. on a singular matrix (facts: ``code``)."""


class AbiError(BackendUnavailableError):
    """The library, its caller and upstream MLX are of versions that do not fit (facts: ``code``)."""


class ForkError(UpstreamError):
    """The process was forked after upstream MLX had started; its workers do not exist here (facts: ``code``)."""


class HandleError(UpstreamError, ValueError):
    """An array handle is stale, was freed, or never was one (facts: ``code``)."""


class PoisonedError(UpstreamError):
    """An earlier evaluation failed and may have left this array unfinished (facts: ``code``)."""


class ExtentError(ShapeError, OverflowError):
    """An extent or a number of elements is larger than upstream can count (facts: ``code``)."""


class IntegerDivisionError(MlxrError, ZeroDivisionError, ValueError):
    """An integer division by zero, or one whose quotient does not fit (facts: ``code``)."""


_CLASSES: dict[int, type[MlxrError]] = {
    abi.E_INVALID: InvalidValueError,
    abi.E_INDEX: BoundsError,
    abi.E_DTYPE: DtypeError,
    abi.E_MEMORY: OutOfMemoryError,
    abi.E_OVERFLOW: ExtentError,
    abi.E_ARITHMETIC: IntegerDivisionError,
    abi.E_DEVICE: BackendUnavailableError,
    abi.E_UNSUPPORTED: UnsupportedOpError,
    abi.E_HANDLE: HandleError,
    abi.E_POISONED: PoisonedError,
    abi.E_STATE: UpstreamError,
    abi.E_ABI: AbiError,
    abi.E_FORK: ForkError,
    abi.E_OPCODE: UnsupportedOpError,
    abi.E_RUNTIME: UpstreamError,
    abi.E_INTERNAL: UpstreamError,
}


def error_for(code: int, message: str) -> MlxrError:
    """Return the exception for an error code of the shim.

    Parameters
    ----------
    code : int
        One of ``abi.E_*``. Codes of later versions of the library become :class:`UpstreamError`.
    message : str
        The library's own text.
    """
    return _CLASSES.get(code, UpstreamError)(message, code=abi.ERROR_NAMES.get(code, str(code)))
