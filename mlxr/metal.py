"""The Metal device: MLX's ``mx.metal``, and the counters of mlxr's own runtime (docs/metal.md).

Nothing here is needed to compute on Metal: that takes ``device="metal"``. Must not import the backend before somebody
asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mlxr.core import device as _device
from mlxr.core.storage import set_wired_limit
from mlxr.shim import abi

if TYPE_CHECKING:
    from mlxr.backends.metal.backend import MetalBackend

__all__ = [
    "clear_cache", "counters", "device_info", "get_active_memory", "get_cache_memory", "get_peak_memory",
    "is_available", "reset_peak_memory", "set_cache_limit", "set_memory_limit", "set_wired_limit", "start_capture",
    "stop_capture",
]


def _backend() -> MetalBackend:
    return cast("MetalBackend", _device.backend_of("metal"))


def is_available() -> bool:
    """Tell whether ``device="metal"`` can be used here: on a GPU, or on its software stand-in if that was asked for."""
    return _device.is_available("metal")


def device_info() -> dict[str, str | int]:
    """Return facts about the Metal device, under MLX's names; empty where there is none.

    ``stand_in`` is 1 where the device is no GPU but software.
    """
    if not is_available():
        return {}
    info = _backend().runtime.info
    return {
        "device_name": info.name,
        "architecture": f"apple{info.family}" if info.family else "unknown",
        "max_buffer_length": info.max_buffer_length,
        "max_recommended_working_set_size": info.working_set,
        "stand_in": int(info.stand_in),
    }


def start_capture(path: str) -> None:
    """Record what is submitted to the GPU, in a file that Xcode opens.

    Parameters
    ----------
    path : str
        Ends with ``.gputrace``.

    Raises
    ------
    BackendUnavailableError
        If there is no Metal device.
    UnsupportedOpError
        If the system does not allow it: on a Mac, unless ``METAL_CAPTURE_ENABLED=1`` is set.
    """
    backend = _backend()
    backend.synchronize()
    backend.runtime.start_capture(path)


def stop_capture() -> None:
    """End the recording that :func:`start_capture` began, after what was given to the device until now."""
    backend = _backend()
    backend.synchronize()
    backend.runtime.stop_capture()


def counters() -> dict[str, int]:
    """Return what the Metal runtime has done: dispatches, command buffers, bytes copied and shared, allocations, ...

    Returns
    -------
    dict of str to int
        ``bytes_copied`` counts what came from the host by copying, ``bytes_shared`` what was shared instead. The fields
        are those of ``mlxr_metal_counters`` in shim/include/mlxr_shim.h.
    """
    return _backend().runtime.counters()


# The figures below are the device's; those of the host have the same names in ``mlxr``.


def _memory(figure: int) -> int:
    return _backend().runtime.memory(figure) if is_available() else 0


def get_active_memory() -> int:
    """Return the bytes in Metal buffers that are in use; memory that the host shares with Metal is the host's."""
    return _memory(abi.MEMORY_ACTIVE)


def get_peak_memory() -> int:
    """Return the largest value that :func:`get_active_memory` had since the start or the last reset."""
    return _memory(abi.MEMORY_PEAK)


def reset_peak_memory() -> None:
    """Set the peak to zero; it rises again with the next buffer."""
    _backend().runtime.set_memory(abi.MEMORY_PEAK, 0)


def get_cache_memory() -> int:
    """Return the bytes of freed buffers that are kept for reuse."""
    return _memory(abi.MEMORY_CACHE)


def set_cache_limit(limit: int) -> int:
    """Set how many bytes of freed buffers may be kept for reuse; return the previous limit."""
    return _backend().runtime.set_memory(abi.MEMORY_CACHE_LIMIT, limit)


def set_memory_limit(limit: int) -> int:
    """Set where freed buffers are given back before more memory is asked for; return the previous limit."""
    return _backend().runtime.set_memory(abi.MEMORY_LIMIT, limit)


def clear_cache() -> None:
    """Give all kept buffers back to the device."""
    _backend().runtime.clear_cache()
