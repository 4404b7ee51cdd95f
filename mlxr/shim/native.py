"""What the bindings of both native libraries share.

Loading one, its version, its failures as exceptions, who owns its handles, memory that it shares with Python, and its
counters. Must not know of operations or kernels.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import pathlib
import struct
import threading
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from mlxr.errors import BackendUnavailableError
from mlxr.shim import abi
from mlxr.shim.errors import AbiError, error_for

__all__ = ["METAL_FUNCTIONS", "UPSTREAM_FUNCTIONS", "Native", "OwnedHandle", "packer"]

# What each library exports. Versions, errors and capabilities are in both.
_COMMON = frozenset((
    "mlxr_abi_version", "mlxr_init", "mlxr_upstream_version_compiled", "mlxr_upstream_version_loaded",
    "mlxr_last_error_code", "mlxr_last_error", "mlxr_capability", "mlxr_supports",
))  # fmt: skip
UPSTREAM_FUNCTIONS = tuple(name for name in abi.PROTOTYPES if not name.startswith("mlxr_metal_"))
METAL_FUNCTIONS = tuple(name for name in abi.PROTOTYPES if name.startswith("mlxr_metal_") or name in _COMMON)


@functools.cache
def packer(count: int, form: str) -> Callable[..., bytes]:
    """Return what packs `count` items of a form that :mod:`struct` knows."""
    return struct.Struct(form * count).pack


class OwnedHandle(ctypes.c_uint64):
    """An owned handle, which is given back when this object dies. Each library has a subclass.

    Calls return it and take it as it is, so that passing a handle costs no conversion. It must not be copied through
    ``value``, which would own the handle twice.
    """

    __slots__ = ()

    # Handles are given back whenever this many have lost their owners: a call for each would cost as much as the
    # operation that made it. An attribute, because the last owners die after the names of this module.
    _retired_limit: ClassVar[int] = 128
    # Of the subclass: handles whose owners have died, and the library that they go back to.
    _retired: ClassVar[list[int]]
    _library: ClassVar[Native | None] = None

    def __init_subclass__(cls) -> None:
        cls._retired = []

    def __del__(self) -> None:
        retired = self._retired
        retired.append(self.value)
        if len(retired) >= self._retired_limit and self._library is not None:
            self._library.collect()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.value:#x}>"


_Handle = TypeVar("_Handle", bound=OwnedHandle)


class Native:
    """A loaded library of the shim.

    Parameters
    ----------
    path : pathlib.Path
        The shared library.
    names : iterable of str
        Its functions; those of the other library are not there.
    makers : iterable of str
        Those that return an owned handle.
    handle : type
        The type of these handles.
    own : mapping of str to str
        The functions that both libraries have under names of their own: ``free_many``, ``live``, ``released``,
        ``memory_get``, ``memory_set`` and ``clear_cache``.

    Attributes
    ----------
    functions : ctypes.CDLL
        The functions of the C ABI with their prototypes, for callers that count nanoseconds. What they return has to
        be checked: ``if not result: library.fail()``.
    path : pathlib.Path
    """

    def __init__(
        self,
        path: pathlib.Path,
        names: Iterable[str],
        makers: Iterable[str],
        handle: type[OwnedHandle],
        own: Mapping[str, str],
    ) -> None:
        try:
            self.functions = ctypes.CDLL(str(path))
        except OSError as error:
            raise BackendUnavailableError(f"{path} cannot be loaded: {error}", reason=str(error)) from error
        self.path = path
        for name in names:
            try:
                function = getattr(self.functions, name)
            except AttributeError:
                raise AbiError(f"{path} has no {name}: build the shim again", code="E_ABI") from None
            function.restype, function.argtypes = abi.PROTOTYPES[name]
        for name in makers:
            getattr(self.functions, name).restype = handle
        self.check(self.functions.mlxr_init(abi.ABI_MAJOR << 16 | abi.ABI_MINOR))
        self._own = types.SimpleNamespace(**{name: getattr(self.functions, own[name]) for name in own})
        self._retired = handle._retired
        self._owners: dict[int, Any] = {}  # of shared memory, by the tokens that the library releases
        self._numbers = itertools.count(1)
        self._collecting = threading.Lock()
        self._tokens = (ctypes.c_uint64 * 64)()
        handle._library = self

    def fail(self) -> None:
        """Raise the exception for the calling thread's last failure."""
        f = self.functions
        raise error_for(f.mlxr_last_error_code(), f.mlxr_last_error().decode(errors="replace"))

    def check(self, status: int) -> None:
        """Raise if a status is not OK."""
        if status:
            self.fail()

    def _made(self, handle: _Handle) -> _Handle:
        if not handle:
            self.fail()
        return handle

    # ---- handles, and memory of Python's

    def collect(self) -> None:
        """Give back the handles of dead objects, and let go of memory that the library no longer uses."""
        if not self._collecting.acquire(blocking=False):
            return  # another thread is at it, or the garbage collector interrupted this very function
        try:
            retired = self._retired
            if retired:
                dead = retired[:]
                del retired[: len(dead)]
                # In a forked child this is refused, and right so: the handles are the parent's.
                self._own.free_many(packer(len(dead), "Q")(*dead), len(dead))
            while self._owners:
                count = self._own.released(self._tokens, len(self._tokens))
                for token in self._tokens[:count]:
                    self._owners.pop(token, None)
                if count < len(self._tokens):
                    break
        finally:
            self._collecting.release()

    def _shared(self, owner: Any, make: Callable[[int], _Handle]) -> _Handle:
        """Return what `make` makes of a token; `owner` is kept until the library releases the token."""
        self.collect()
        token = next(self._numbers)
        self._owners[token] = owner
        handle = make(token)
        if not handle:
            del self._owners[token]
            self.fail()
        return handle

    def shared_owners(self) -> int:
        """Return how many objects are kept alive because the library uses their memory."""
        self.collect()
        return len(self._owners)

    # ---- figures

    def live_handles(self) -> int:
        """Return the number of handles that have not been given back."""
        self.collect()
        return self._own.live()

    def capability(self, kind: int) -> int:
        """Return one of the figures ``abi.CAP_*``."""
        value = ctypes.c_int64()
        self.check(self.functions.mlxr_capability(kind, ctypes.byref(value)))
        return value.value

    def memory(self, figure: int) -> int:
        """Return one of the figures ``abi.MEMORY_*``, in bytes."""
        self.collect()
        value = ctypes.c_uint64()
        self.check(self._own.memory_get(figure, ctypes.byref(value)))
        return value.value

    def set_memory(self, figure: int, value: int) -> int:
        """Set one of the figures ``abi.MEMORY_*``; returns what it was."""
        previous = ctypes.c_uint64()
        self.check(self._own.memory_set(figure, value, ctypes.byref(previous)))
        return previous.value

    def clear_cache(self) -> None:
        """Give cached buffers back to the system."""
        self.collect()
        self.check(self._own.clear_cache())
