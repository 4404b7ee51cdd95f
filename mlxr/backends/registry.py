"""Which backends exist, and why one is unavailable. Binds each device to its backend when the device is first used.

Must not know about ops or kernels: a backend is found by importing the module named here and calling its ``make``.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from mlxr.backends.base import Backend
from mlxr.core import device as devices
from mlxr.core.device import Device
from mlxr.errors import BackendUnavailableError

__all__ = ["BACKENDS", "Entry", "Status", "bind", "statuses"]


@dataclass(frozen=True)
class Entry:
    """Where the backend of a device comes from.

    Attributes
    ----------
    device : str
        Device name.
    module : str
        Module with ``make(device) -> Backend``, which raises BackendUnavailableError with the reason if it cannot.
    summary : str
        One line for ``python -m mlxr info``.
    """

    device: str
    module: str
    summary: str


BACKENDS: dict[str, Entry] = {
    entry.device: entry
    for entry in (
        Entry("cpu", "mlxr.backends.cpu", "mlxr's own kernels"),
        Entry("mlx:cpu", "mlxr.backends.upstream", "upstream MLX on the CPU, through the shim"),
        Entry("mlx:gpu", "mlxr.backends.upstream", "upstream MLX on Metal or CUDA, through the shim"),
        Entry("metal", "mlxr.backends.metal", "mlxr's Metal kernels, through the shim"),
    )
}


@dataclass(frozen=True)
class Status:
    """Whether a backend can be used here (``backend`` is set) or why not (``reason``)."""

    entry: Entry
    backend: Backend | None
    reason: str | None


def bind(device: Device) -> Backend:
    """Return the backend for `device`.

    Raises
    ------
    BackendUnavailableError
        With the reason, if it does not exist here.
    """
    entry = BACKENDS[device.name]
    try:
        if importlib.util.find_spec(entry.module) is None:
            raise BackendUnavailableError(f"{entry.module} is not part of this build")
        return importlib.import_module(entry.module).make(device)
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"device {device.name!r} ({entry.summary}) is not available: {error}",
            device=device.name, reason=str(error),
        ) from error


def statuses() -> list[Status]:
    """Return the status of every known backend."""
    result = []
    for entry in BACKENDS.values():
        try:
            result.append(Status(entry, devices.backend_of(entry.device), None))
        except BackendUnavailableError as error:
            result.append(Status(entry, None, error.facts["reason"]))
    return result


devices.install_binder(bind)
