"""What the bindings of both native libraries share: loading one, its version, and its failures as exceptions.

Must not know what the functions do.
"""

from __future__ import annotations

import ctypes
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from mlxr.errors import BackendUnavailableError
from mlxr.shim import abi
from mlxr.shim.errors import AbiError, error_for

__all__ = ["METAL_FUNCTIONS", "UPSTREAM_FUNCTIONS", "Native"]

# What each library exports. Versions, errors and capabilities are in both.
_COMMON = frozenset((
    "mlxr_abi_version", "mlxr_init", "mlxr_upstream_version_compiled", "mlxr_upstream_version_loaded",
    "mlxr_last_error_code", "mlxr_last_error", "mlxr_capability", "mlxr_supports",
))  # fmt: skip
UPSTREAM_FUNCTIONS = tuple(name for name in abi.PROTOTYPES if not name.startswith("mlxr_metal_"))
METAL_FUNCTIONS = tuple(name for name in abi.PROTOTYPES if name.startswith("mlxr_metal_") or name in _COMMON)


class Native:
    """A loaded library of the shim.

    Parameters
    ----------
    path : pathlib.Path
        The shared library.
    names : iterable of str
        Its functions; those of the other library are not there.
    results : mapping of str to type
        Types of results where they are other than the header's.

    Attributes
    ----------
    functions : ctypes.CDLL
        The functions of the C ABI with their prototypes, for callers that count nanoseconds. What they return has to
        be checked: ``if not result: library.fail()``.
    path : pathlib.Path
    """

    def __init__(self, path: pathlib.Path, names: Iterable[str], results: Mapping[str, Any]) -> None:
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
            result, function.argtypes = abi.PROTOTYPES[name]
            function.restype = results.get(name, result)
        self.check(self.functions.mlxr_init(abi.ABI_MAJOR << 16 | abi.ABI_MINOR))

    def fail(self) -> None:
        """Raise the exception for the calling thread's last failure."""
        f = self.functions
        raise error_for(f.mlxr_last_error_code(), f.mlxr_last_error().decode(errors="replace"))

    def check(self, status: int) -> None:
        """Raise if a status is not OK."""
        if status:
            self.fail()
