"""The Metal backend: launch plans of the primitives, one module per family, and what runs them (docs/metal.md)."""

from __future__ import annotations

from mlxr.backends.base import Backend
from mlxr.core.device import Device


def make(device: Device) -> Backend:
    """Return the backend of ``metal``; see :func:`mlxr.backends.metal.backend.make`."""
    # Imported here: whoever reads plans needs no runtime.
    from mlxr.backends.metal import backend

    return backend.make(device)
