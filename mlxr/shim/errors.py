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
    "DeviceLostError",
    "ExtentError",
    "ForkError",
    "HandleError",
    "IntegerDivisionError",
    "KernelCompileError",
    "KernelError",
    "PoisonedError",
    "ShimError",
    "UpstreamError",
    "error_for",
]


class ShimError(MlxrError, RuntimeError):
    """A native library failed (facts: ``code``)."""


class UpstreamError(ShimError):
    """Upstream MLX failed, e.g. on a singular matrix (facts: ``code``)."""


class KernelError(ShimError):
    """A Metal kernel failed while it ran (facts: ``code``)."""


class KernelCompileError(ShimError):
    """Metal source, or a kernel in it, that the compiler refuses; the message has file and line (facts: ``code``)."""


class DeviceLostError(ShimError):
    """The GPU was removed, or its access revoked (facts: ``code``)."""


class AbiError(BackendUnavailableError):
    """The library, its caller and upstream MLX are of versions that do not fit (facts: ``code``)."""


class ForkError(ShimError):
    """The process was forked after the library had started, whose workers do not exist here (facts: ``code``)."""


class HandleError(ShimError, ValueError):
    """A handle is stale, was freed, or never was one (facts: ``code``)."""


class PoisonedError(ShimError):
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
    abi.E_STATE: ShimError,
    abi.E_ABI: AbiError,
    abi.E_FORK: ForkError,
    abi.E_OPCODE: UnsupportedOpError,
    abi.E_RUNTIME: UpstreamError,
    abi.E_INTERNAL: ShimError,
    abi.E_COMPILE: KernelCompileError,
    abi.E_EXECUTION: KernelError,
    abi.E_DEVICE_LOST: DeviceLostError,
}


def error_for(code: int, message: str) -> MlxrError:
    """Return the exception for an error code of the shim.

    Parameters
    ----------
    code : int
        One of ``abi.E_*``. Codes of later versions of the library become :class:`ShimError`.
    message : str
        The library's own text.
    """
    return _CLASSES.get(code, ShimError)(message, code=abi.ERROR_NAMES.get(code, str(code)))
