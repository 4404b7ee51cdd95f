"""The Metal half of the shim: the ctypes binding of `libmlxr_shim_metal`.

Methods of :class:`Runtime` correspond to the functions ``mlxr_metal_*`` of `shim/include/mlxr_shim.h`, which documents
what they do. On Linux the library runs on the software stand-in (docs/metal.md). Must not know of mlxr's tensors, ops
or kernels.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import pathlib
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mlxr.errors import BackendUnavailableError, InvalidValueError
from mlxr.shim import abi
from mlxr.shim.native import METAL_FUNCTIONS, Native, OwnedHandle, packer

__all__ = ["Handle", "Info", "Runtime", "available", "library_path", "load"]

LIBRARY = "libmlxr_shim_metal.dylib" if sys.platform == "darwin" else "libmlxr_shim_metal.so"

# Structs as `struct` packs them: ctypes structures would cost more than the launch.
_ARGUMENT_SIZE = struct.calcsize("IIQQ")
_LAUNCH = struct.Struct("Iii3I3I4IQ")
_CONSTANT = struct.Struct("IiiI")
_CONSTANT_TYPES: dict[str, tuple[int, Callable[[Any], int]]] = {
    "bool": (abi.METAL_BOOL, lambda value: int(bool(value))),
    "int": (abi.METAL_INT, lambda value: value & 0xFFFFFFFF),
    "uint": (abi.METAL_UINT, int),
    "float": (abi.METAL_FLOAT, lambda value: struct.unpack("I", struct.pack("f", value))[0]),
}


class Handle(OwnedHandle):
    """An object of the runtime."""

    __slots__ = ()


class Info(NamedTuple):
    """A device and its limits, in bytes and threads.

    Attributes
    ----------
    name : str
    stand_in : bool
        It is no GPU, but software that behaves like one.
    unified : bool
        Host and device share their memory.
    family : int
        The highest Apple GPU family; 0 if it is none.
    max_buffer_length, working_set, threadgroup_memory, page_size : int
    max_threads : tuple of int
    """

    name: str
    stand_in: bool
    unified: bool
    family: int
    max_buffer_length: int
    working_set: int
    threadgroup_memory: int
    page_size: int
    max_threads: tuple[int, ...]


class Batch:
    """Launches that become one command buffer, in the form that the runtime takes.

    Nothing is checked here: the runtime does that, when it is submitted.
    """

    def __init__(self) -> None:
        self.count = 0
        self._arguments = bytearray()
        self._narguments = 0
        self._launches = bytearray()
        self._bytes = bytearray()
        self._handles: list[Handle] = []  # what the launches name: alive until the runtime has taken hold of it

    def launch(
        self,
        pipeline: Handle,
        arguments: Sequence[bytes | tuple[Handle, int]],
        grid: Sequence[int],
        group: Sequence[int],
        threadgroup_memory: Sequence[int] = (),
    ) -> None:
        """Append a launch of whole threadgroups.

        Parameters
        ----------
        pipeline : Handle
        arguments : sequence
            In the order of ``[[buffer(i)]]``: bytes that go by value, or a buffer and the byte where it begins.
        grid, group : sequence of int
            Three extents each: threadgroups, and threads of one.
        threadgroup_memory : sequence of int
            Bytes of each ``[[threadgroup(i)]]``.
        """
        if len(threadgroup_memory) > abi.METAL_MAX_THREADGROUP_BUFFERS:
            raise InvalidValueError(f"a launch has at most 4 threadgroup arguments, got {len(threadgroup_memory)}")
        fields: list[int] = []
        for argument in arguments:
            if isinstance(argument, bytes):
                fields += (_ARGUMENT_SIZE, len(argument), 0, len(self._bytes))
                self._bytes += argument
            else:
                handle, offset = argument
                fields += (_ARGUMENT_SIZE, 0, handle.value, offset)
                self._handles.append(handle)
        memory = (*threadgroup_memory, 0, 0, 0, 0)[:4]
        self._launches += _LAUNCH.pack(
            _LAUNCH.size, self._narguments, len(arguments), *grid, *group, *memory, pipeline.value
        )
        self._arguments += packer(len(arguments), "IIQQ")(*fields)
        self._handles.append(pipeline)
        self._narguments += len(arguments)
        self.count += 1

    def packed(self, wait: tuple[Handle, int] | None, signal: tuple[Handle, int] | None) -> tuple[abi.MetalBatch, Any]:
        """Return the C struct, and what it points into."""
        texts = self._launches, self._arguments, self._bytes
        parts = [(ctypes.c_char * len(text)).from_buffer(text) for text in texts]
        launches, arguments, data = (ctypes.addressof(part) for part in parts)
        struct_ = abi.MetalBatch(
            size=ctypes.sizeof(abi.MetalBatch), nlaunches=self.count, narguments=self._narguments,
            nbytes=len(self._bytes), launches=launches, arguments=arguments, bytes=data,
        )  # fmt: skip
        if wait is not None:
            struct_.wait_event, struct_.wait_value = wait[0].value, wait[1]
        if signal is not None:
            struct_.signal_event, struct_.signal_value = signal[0].value, signal[1]
        return struct_, parts


_OWN = {
    "free_many": "mlxr_metal_free_many",
    "live": "mlxr_metal_live_objects",
    "released": "mlxr_metal_released",
    "memory_get": "mlxr_metal_memory_get",
    "memory_set": "mlxr_metal_memory_set",
    "clear_cache": "mlxr_metal_memory_clear_cache",
}


class Runtime(Native):
    """The loaded Metal runtime. Get it from :func:`load`.

    Parameters
    ----------
    path : pathlib.Path
        The shared library.

    Attributes
    ----------
    info : Info
        The device.
    """

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path, METAL_FUNCTIONS, abi.METAL_MAKERS, Handle, _OWN)
        info = abi.MetalDeviceInfo(size=ctypes.sizeof(abi.MetalDeviceInfo))
        self.check(self.functions.mlxr_metal_device_info_get(ctypes.byref(info)))
        stand_in, unified = (bool(info.flags & flag) for flag in (abi.METAL_STAND_IN, abi.METAL_UNIFIED))
        sizes = info.max_buffer_length, info.working_set, info.threadgroup_memory, info.page_size
        self.info = Info(info.name.decode(), stand_in, unified, info.family, *sizes, tuple(info.max_threads))

    def counters(self) -> dict[str, int]:
        """Return what the runtime has done, and what there is now."""
        self.collect()
        counters = abi.MetalCounters(size=ctypes.sizeof(abi.MetalCounters))
        self.check(self.functions.mlxr_metal_counters_get(ctypes.byref(counters)))
        return {name: getattr(counters, name) for name, _ in counters._fields_[1:]}

    def reset_counters(self) -> None:
        """Set to 0 what counts events."""
        self.check(self.functions.mlxr_metal_counters_reset())

    # ---- libraries and pipelines

    def cache_folder(self, folder: str | None) -> None:
        """Say where compiled pipelines are kept between processes; None: nowhere."""
        self.check(self.functions.mlxr_metal_cache_folder(None if folder is None else os.fsencode(folder)))

    def write_cache(self) -> None:
        """Write compiled pipelines that are new to the cache on disk."""
        self.check(self.functions.mlxr_metal_cache_write())

    def library(self, name: str, source: str) -> Handle:
        """Return a library of kernels compiled from source."""
        return self._made(self.functions.mlxr_metal_library_source(name.encode(), source.encode()))

    def library_file(self, path: str) -> Handle:
        """Return a library of kernels from a .metallib file."""
        return self._made(self.functions.mlxr_metal_library_file(os.fsencode(path)))

    def library_functions(self, library: Handle) -> list[str]:
        """Return the names of a library's kernels."""
        needed = ctypes.c_size_t()
        self.check(self.functions.mlxr_metal_library_functions(library, None, 0, ctypes.byref(needed)))
        text = ctypes.create_string_buffer(needed.value)
        self.check(self.functions.mlxr_metal_library_functions(library, text, needed.value, None))
        return text.value.decode().splitlines()

    def pipeline(self, library: Handle, function: str, constants: Sequence[tuple[int, str, Any]] = ()) -> Handle:
        """Return a kernel, specialised by function constants: ``(index, "bool" | "int" | "uint" | "float", value)``."""
        packed = bytearray()
        for index, kind, value in constants:
            code, bits = _CONSTANT_TYPES[kind]
            packed += _CONSTANT.pack(_CONSTANT.size, index, code, bits(value))
        get = self.functions.mlxr_metal_pipeline_get
        return self._made(get(library, function.encode(), bytes(packed), len(constants)))

    def pipeline_info(self, pipeline: Handle) -> tuple[int, int, int]:
        """Return most threads per threadgroup, threads of a SIMD group, and own threadgroup memory of a kernel."""
        info = abi.MetalPipelineInfo(size=ctypes.sizeof(abi.MetalPipelineInfo))
        self.check(self.functions.mlxr_metal_pipeline_info_get(pipeline, ctypes.byref(info)))
        return info.max_threads, info.simd_width, info.threadgroup_memory

    # ---- buffers

    def buffer(self, nbytes: int) -> Handle:
        """Return a buffer of undefined content."""
        if self._retired:
            self.collect()  # the memory of dead buffers is what new ones are made of
        return self._made(self.functions.mlxr_metal_buffer_new(nbytes))

    def can_share(self, address: int, nbytes: int) -> bool:
        """Tell whether memory can be shared: pointer and length are multiples of the page size."""
        return nbytes > 0 and address % self.info.page_size == 0 and nbytes % self.info.page_size == 0

    def share(self, owner: Any, address: int, nbytes: int) -> Handle:
        """Return a buffer on the memory at `address`, without copying. `owner` is kept until nothing uses it.

        Raises
        ------
        UnsupportedOpError
            If it is not whole pages; see :meth:`can_share`.
        """
        make = self.functions.mlxr_metal_buffer_share
        return self._shared(owner, lambda token: make(address, nbytes, token))

    def copy(self, address: int | bytes, nbytes: int) -> Handle:
        """Return a buffer with a copy of the memory at `address`."""
        return self._made(self.functions.mlxr_metal_buffer_copy(address, nbytes))

    def address(self, buffer: Handle) -> int:
        """Return where the host finds a buffer's bytes."""
        info = abi.MetalBufferInfo(size=ctypes.sizeof(abi.MetalBufferInfo))
        self.check(self.functions.mlxr_metal_buffer_info_get(buffer, ctypes.byref(info)))
        return info.data or 0

    # ---- commands

    def queue(self, in_flight: int = 1024) -> Handle:
        """Return a queue that holds this many command buffers before submitting waits."""
        return self._made(self.functions.mlxr_metal_queue_new(in_flight))

    def submit(
        self,
        queue: Handle,
        batch: Batch,
        *,
        wait: tuple[Handle, int] | None = None,
        signal: tuple[Handle, int] | None = None,
    ) -> Handle:
        """Commit launches as one command buffer, between an event's value waited for and one set; returns commands."""
        self.collect()
        packed, parts = batch.packed(wait, signal)
        handle = self.functions.mlxr_metal_submit(queue, ctypes.byref(packed))
        del parts
        return self._made(handle)

    def wait(self, commands: Handle) -> None:
        """Wait for commands, and raise what they failed with."""
        self.check(self.functions.mlxr_metal_wait(commands))

    def done(self, commands: Handle) -> bool:
        """Tell whether commands have ended."""
        value = ctypes.c_int32()
        self.check(self.functions.mlxr_metal_done(commands, ctypes.byref(value)))
        return bool(value.value)

    def times(self, commands: Handle) -> tuple[float, float]:
        """Return when the GPU began and ended, in seconds of its own clock."""
        start, end = ctypes.c_double(), ctypes.c_double()
        self.check(self.functions.mlxr_metal_times(commands, ctypes.byref(start), ctypes.byref(end)))
        return start.value, end.value

    def synchronize(self, queue: Handle | None = None) -> None:
        """Wait for everything that was submitted to a queue, or to any. Reports no failures."""
        self.check(self.functions.mlxr_metal_synchronize(0 if queue is None else queue))
        self.collect()

    # ---- events

    def event(self) -> Handle:
        """Return a new event, at 0."""
        return self._made(self.functions.mlxr_metal_event_new())

    def event_value(self, event: Handle) -> int:
        """Return what an event has reached."""
        value = ctypes.c_uint64()
        self.check(self.functions.mlxr_metal_event_get(event, ctypes.byref(value)))
        return value.value

    def set_event(self, event: Handle, value: int) -> None:
        """Let an event reach a value."""
        self.check(self.functions.mlxr_metal_event_set(event, value))

    # ---- capture

    def start_capture(self, path: str) -> None:
        """Record everything that is submitted into a .gputrace that Xcode opens."""
        self.check(self.functions.mlxr_metal_capture_start(os.fsencode(path)))

    def stop_capture(self) -> None:
        """End the recording."""
        self.check(self.functions.mlxr_metal_capture_stop())


# ---- loading

_runtime: Runtime | None = None
_loading = threading.Lock()


def library_path() -> pathlib.Path:
    """Return where the library is expected: the environment variable ``MLXR_SHIM_METAL``, or beside this module."""
    return pathlib.Path(os.environ.get("MLXR_SHIM_METAL") or pathlib.Path(__file__).with_name(LIBRARY))


def available() -> bool:
    """Tell whether the library has been built."""
    return library_path().exists()


def load() -> Runtime:
    """Load the library, or return it if it is loaded.

    Raises
    ------
    BackendUnavailableError
        If it is not built or cannot be loaded, or the machine has no Metal device.
    AbiError
        If it was built for another version of this package.
    """
    global _runtime
    with _loading:
        if _runtime is None:
            path = library_path()
            if not path.exists():
                target = "make shim" if sys.platform == "darwin" else "make metal-standin"
                raise BackendUnavailableError(f"{path} does not exist: run `{target}`", reason="not built")
            _runtime = Runtime(path)
            atexit.register(_finish, _runtime)
        return _runtime


def _finish(runtime: Runtime) -> None:
    """At exit: wait for what is in flight, and keep what was compiled."""
    runtime.collect()
    runtime.functions.mlxr_metal_synchronize(0)
    runtime.functions.mlxr_metal_cache_write()
