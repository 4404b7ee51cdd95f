"""How many threads the CPU backend may use. Must not know about kernels or OpenMP."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mlxr.core import device as devices
from mlxr.errors import ArgumentTypeError, InvalidValueError

if TYPE_CHECKING:
    from mlxr.backends.cpu import CpuBackend

__all__ = ["get_num_threads", "set_num_threads"]


def _backend() -> CpuBackend:
    return cast("CpuBackend", devices.backend_of("cpu"))


def set_num_threads(count: int) -> int:
    """Set the most threads that one operation on the CPU may use, for the whole process.

    The results do not depend on it: every operation gives the same bits for any number of threads.

    Parameters
    ----------
    count : int
        At least 1. At the start it is ``OMP_NUM_THREADS``, or the number of processors.

    Returns
    -------
    int
        The previous number.

    Raises
    ------
    InvalidValueError
        If `count` is less than 1, or absurdly large.
    """
    if not hasattr(count, "__index__"):
        raise ArgumentTypeError(f"a number of threads is an int, got {count!r}", count=count)
    if not 1 <= count < 1 << 16:
        raise InvalidValueError(f"a number of threads lies in [1, 65536), got {count}", count=count)
    return _backend().set_threads(count.__index__())


def get_num_threads() -> int:
    """Return the most threads that one operation on the CPU may use."""
    return _backend().get_threads()
