"""The Metal backend: launch plans of the primitives, one module per family, and what runs them (docs/metal.md)."""

from __future__ import annotations

from mlxr.backends.base import Backend
from mlxr.core.device import Device
from mlxr.errors import BackendUnavailableError


def make(device: Device) -> Backend:
    """Return the backend of ``metal``.

    Raises
    ------
    BackendUnavailableError
        If the Metal runtime is not built, or this machine has no Metal device.
    """
    raise BackendUnavailableError("the Metal runtime is not built", device=device.name)
