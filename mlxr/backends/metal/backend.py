"""The Metal backend: primitives become launches of mlxr's kernels, which run later, on the GPU.

Plans (see launch.py) say what to launch. Launches gather in a piece of work, which is submitted as one command buffer
when it is large enough or when somebody waits for a value. A storage's owner is a :class:`Memory`; it lives until the
commands that use it have run. Knows storages, layouts, plans and the runtime's binding; must not know about ops, the
tape or any one kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pkgutil
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlxr.backends.base import Backend
from mlxr.backends.metal import copy, sources
from mlxr.backends.metal.launch import FAULT_BYTES, PLANS, Argument, At, Fault, Launch, Scratch
from mlxr.backends.metal.memory import freeze, give, host_block, place, view_like
from mlxr.core.device import Device
from mlxr.core.dtype import Dtype
from mlxr.core.primitive import Primitive
from mlxr.core.tensor import Tensor
from mlxr.errors import BackendUnavailableError, MlxrError, UnsupportedOpError
from mlxr.shim import metal

__all__ = ["Memory", "MetalBackend", "make"]

# When work is submitted without being asked for: launches, and bytes of results that wait to be computed.
SUBMIT_LAUNCHES = 64
SUBMIT_BYTES = 1 << 26
# Command buffers that may be in flight; submitting another one waits.
IN_FLIGHT = 1024
# Memory of at most this many bytes that comes from the host goes by value, and needs no buffer.
VALUE_BYTES = 64


class Work:
    """Launches that are gathered, and then run as one command buffer."""

    __slots__ = ("batch", "commands", "error", "faults", "nbytes", "resolved")

    def __init__(self) -> None:
        self.batch = metal.Batch()
        self.nbytes = 0  # of results
        self.commands: metal.Handle | None = None
        self.faults: list[tuple[Fault, Memory]] = []
        self.error: MlxrError | None = None
        self.resolved = False  # it has ended, well or with `error`

    def resolve(self, error: MlxrError | None) -> None:
        """Note how it ended."""
        self.error = error
        self.commands = None
        self.resolved = True


class Memory:
    """What a Metal storage is: a buffer, or a few bytes that come from the host and are never written.

    Attributes
    ----------
    work : Work or None
        What computes it; None for memory that came from the host.
    origins : tuple of Work
        Work whose failure makes it worthless, `work` and what that reads included.
    faults : tuple of tuple
        Records of wrong indices that what it holds may depend on, with their memory.
    """

    __slots__ = ("_address", "faults", "handle", "nbytes", "origins", "value", "work")

    def __init__(self, nbytes: int, handle: metal.Handle | None, value: bytes = b"") -> None:
        self.nbytes = nbytes
        self.handle = handle
        self.value = value
        self.work: Work | None = None
        self.origins: tuple[Work, ...] = ()
        self.faults: tuple[tuple[Fault, Memory], ...] = ()
        self._address = 0

    def address(self, runtime: metal.Runtime) -> int:
        """Return where the host finds the bytes; 0 where they have no address."""
        if not self._address and self.handle is not None:
            self._address = runtime.address(self.handle)
        return self._address


class MetalBackend(Backend):
    """mlxr's Metal kernels on a GPU, or on its software stand-in.

    Parameters
    ----------
    device : Device
    runtime : mlxr.shim.metal.Runtime, optional

    Attributes
    ----------
    runtime : mlxr.shim.metal.Runtime
    """

    def __init__(self, device: Device, runtime: metal.Runtime | None = None) -> None:
        super().__init__(device.name, device)
        self.runtime = metal.load() if runtime is None else runtime
        self._queue = self.runtime.queue(IN_FLIGHT)
        self._libraries: dict[str, metal.Handle] = {}
        self._pipelines: dict[tuple[Any, ...], metal.Handle] = {}
        self._work = Work()
        # In order, until it is known how they ended.
        self._submitted: deque[tuple[Work, metal.Handle]] = deque()
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=self._forget_lock)

    def _forget_lock(self) -> None:
        """In a forked child: another thread of the parent may have held it. The runtime refuses every call anyway."""
        self._lock = threading.RLock()

    # ------------------------------------------------------------------ memory

    def _new(self, nbytes: int) -> Memory:
        return Memory(nbytes, self.runtime.buffer(nbytes))

    def allocate(self, out: Tensor) -> None:
        """Give `out` a storage of its own with undefined content."""
        give(out, self._new(out.nbytes), out.nbytes)

    def copy_in(self, source: Any, out: Tensor) -> None:
        """Give `out` a storage that holds the bytes of `source`."""
        view = memoryview(source).cast("B")
        nbytes = len(view)
        if 0 < nbytes <= VALUE_BYTES:
            memory = Memory(nbytes, None, bytes(view))
        else:
            address = np.frombuffer(view, np.uint8).ctypes.data
            memory = Memory(nbytes, self.runtime.copy(address, nbytes))
        give(out, memory, nbytes)

    def share(self, x: Tensor, out: Tensor) -> bool:
        """Give `out` the memory of `x`, which lives on the host; False where it is not whole pages."""
        if not x.data_ptr or not x.size or not self.runtime.info.unified:
            return False
        storage, address, nbytes = host_block(x)
        if not self.runtime.can_share(address, nbytes):
            return False
        try:
            memory = Memory(nbytes, self.runtime.share(storage, address, nbytes))
        except UnsupportedOpError:
            return False  # whole pages, but of a kind that the device does not take
        # From now on x's memory is copied before it is written, and `x` keeps its storage for others.
        freeze(x)
        view_like(x, out, memory, 0, nbytes)
        return True

    def lend(self, x: Tensor, out: Tensor) -> bool:
        """Give `out`, on a host backend, the memory of `x`; False where it has no address."""
        memory, _ = place(x)
        if not x.size or memory.handle is None or not self.runtime.info.unified:
            return False
        self.wait(x)
        view_like(x, out, memory, memory.address(self.runtime), memory.nbytes)
        return True

    def copy_out(self, x: Tensor, destination: Any) -> None:
        """Write the elements of `x` in row-major order into `destination`."""
        target = np.frombuffer(memoryview(destination).cast("B"), np.uint8)
        if not x.size:
            return
        self.wait(x)
        memory, offset = place(x)
        data: Any = memory.value
        if memory.handle is not None:
            data = (ctypes.c_char * memory.nbytes).from_address(memory.address(self.runtime))
        strides = (*(step * x.itemsize for step in x.strides), 1)
        target[:] = np.ndarray((*x.shape, x.itemsize), np.uint8, data, offset, strides).reshape(-1)

    # ------------------------------------------------------------------ execution

    def execute(
        self, primitive: Primitive, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]
    ) -> None:
        """Launch the kernels that compute `outputs` from `inputs`; see the base class."""
        plan = PLANS.get(primitive.name)
        if plan is None:
            raise UnsupportedOpError(
                f"[{primitive.name}] the Metal backend has no kernel for this primitive", op=primitive.name,
                backend=self.name, dtypes=tuple(x.dtype for x in inputs),
            )  # fmt: skip
        self._launch(plan(inputs, outputs, params), inputs, outputs, fresh=True)

    def write(self, target: Tensor, value: Tensor) -> None:
        """Store `value` in the elements that `target` views, after what was launched before."""
        self._launch(copy.write(target, value), (value,), (target,), fresh=False)

    def _launch(
        self, launches: Sequence[Launch], inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, fresh: bool
    ) -> None:
        """Gather the launches that compute `outputs`, which get a storage if they are `fresh`, from `inputs`."""
        with self._lock:
            pipelines = [self._pipeline(launch) for launch in launches]
            read = [place(x)[0] for x in (inputs if fresh else (*inputs, *outputs))]
            for memory in read:
                self._check(memory)
            work = self._work
            if fresh:
                for out in outputs:
                    give(out, self._new(out.nbytes), out.nbytes)
            before = len(work.faults)
            self._gather(work, launches, pipelines)
            faults, origins = [*work.faults[before:]], [work]
            for memory in read:
                faults += memory.faults
                origins += [origin for origin in memory.origins if not origin.resolved]
            for out in outputs:
                memory, _ = place(out)
                memory.work = work
                memory.faults, memory.origins = tuple(dict.fromkeys(faults)), tuple(dict.fromkeys(origins))
                work.nbytes += out.nbytes
            if work.batch.count >= SUBMIT_LAUNCHES or work.nbytes >= SUBMIT_BYTES:
                self._submit()

    def _gather(self, work: Work, launches: Sequence[Launch], pipelines: Sequence[metal.Handle]) -> None:
        """Append launches to the work."""
        made: dict[Scratch | Fault, Memory] = {}  # for the launches of this plan
        # All memory first: where there is none, nothing is launched.
        located = [[self._locate(argument, work, made) for argument in launch.arguments] for launch in launches]
        for launch, pipeline, arguments in zip(launches, pipelines, located, strict=True):
            work.batch.launch(pipeline, arguments, launch.grid, launch.group, launch.threadgroup_memory)

    def _locate(
        self, argument: Argument, work: Work, made: dict[Scratch | Fault, Memory]
    ) -> bytes | tuple[metal.Handle, int]:
        """Return a launch's argument as the runtime takes it."""
        if isinstance(argument, bytes):
            return argument
        if isinstance(argument, (Scratch, Fault)):
            memory, offset = self._scratch(argument, work, made), 0
        else:
            x, beyond = argument if isinstance(argument, At) else (argument, 0)
            memory, offset = place(x)
            offset = offset + beyond if x.size else 0  # an empty view may begin at the end
        return memory.value[offset:] if memory.handle is None else (memory.handle, offset)

    def _scratch(self, argument: Scratch | Fault, work: Work, made: dict[Scratch | Fault, Memory]) -> Memory:
        """Return the device memory that the launches of one plan share under a name."""
        memory = made.get(argument)
        if memory is None:
            if isinstance(argument, Fault):
                memory = self._new(FAULT_BYTES)
                ctypes.memset(memory.address(self.runtime), 0, FAULT_BYTES)
                work.faults.append((argument, memory))
            else:
                memory = self._new(argument.nbytes)
            made[argument] = memory
        return memory

    def _pipeline(self, launch: Launch) -> metal.Handle:
        key = (launch.library, launch.function, launch.constants)
        pipeline = self._pipelines.get(key)
        if pipeline is None:
            library = self._libraries.get(launch.library)
            if library is None:
                library = self.runtime.library(launch.library, sources.source(launch.library))
                self._libraries[launch.library] = library
            pipeline = self.runtime.pipeline(library, launch.function, launch.constants)
            self._pipelines[key] = pipeline
        return pipeline

    # ------------------------------------------------------------------ submitting and waiting

    def _submit(self) -> None:
        """Hand what was gathered to the GPU. A failure is reported by what it was to compute."""
        work = self._work
        if not work.batch.count:
            return
        self._work = Work()
        try:
            work.commands = self.runtime.submit(self._queue, work.batch)
        except MlxrError as error:
            work.resolve(error)
            return
        work.batch = metal.Batch()
        self._submitted.append((work, work.commands))
        while self._submitted and self.runtime.done(self._submitted[0][1]):
            self._settle()

    def _settle(self) -> None:
        """Find out how the oldest work ended."""
        work, commands = self._submitted.popleft()
        try:
            self.runtime.wait(commands)
        except MlxrError as error:
            work.resolve(error)
        else:
            work.resolve(None)

    def _finish(self, work: Work) -> None:
        """Wait for work, submitting it if need be."""
        with self._lock:
            if work is self._work:
                self._submit()
            commands = work.commands
        if work.resolved or commands is None:
            return
        with contextlib.suppress(MlxrError):  # it is raised to everybody who depends on it
            self.runtime.wait(commands)  # without the lock: other threads may go on
        with self._lock:
            while not work.resolved:
                self._settle()

    def wait(self, x: Tensor) -> None:
        """Return when the elements of `x` are computed.

        Raises
        ------
        MlxrError
            What the kernels that compute it failed with: KernelError, OutOfMemoryError, DeviceLostError, BoundsError.
        """
        memory, _ = place(x)
        if memory.work is None:
            return
        self._finish(memory.work)
        self._check(memory)

    def _check(self, memory: Memory) -> None:
        """Raise what the work that `memory` depends on is known to have failed with."""
        for origin in memory.origins:
            if origin.error is not None:
                raise origin.error
        if memory.work is None or not memory.work.resolved:
            return
        for fault, record in memory.faults:
            error = fault.error(ctypes.string_at(record.address(self.runtime), FAULT_BYTES))
            if error is not None:
                raise error
        memory.faults = memory.origins = ()

    def start(self, x: Tensor) -> None:
        """Submit what computes `x`, and return without waiting."""
        memory, _ = place(x)
        with self._lock:
            if memory.work is self._work:
                self._submit()

    def synchronize(self) -> None:
        """Return when all work given to this backend is done."""
        with self._lock:
            self._submit()
            last = self._submitted[-1][0] if self._submitted else None
        if last is not None:
            self._finish(last)

    # ------------------------------------------------------------------ facts

    def supports(self, primitive: Primitive, dtypes: Sequence[Dtype]) -> bool:
        """Tell whether `primitive` has a plan; Metal has no float64."""
        return primitive.name in PLANS and all(dtype.name != "float64" for dtype in dtypes)

    def info(self) -> dict[str, str]:
        """Return facts for ``python -m mlxr info``."""
        info = self.runtime.info
        facts = {"device": info.name}
        if info.stand_in:
            facts["stand-in"] = "kernels run in software on the CPU: right or wrong, but never fast"
        return facts | {
            "GPU family": f"Apple {info.family}" if info.family else "no Apple GPU",
            "unified memory": "yes" if info.unified else "no",
            "recommended memory": f"{info.working_set >> 20} MiB",
            "kernels": str(sources.folder()),
        }


def _cache_folder() -> Path:
    """Return where compiled pipelines are kept: ``MLXR_METAL_CACHE``, or the user's folder for caches."""
    named = os.environ.get("MLXR_METAL_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlxr" / "metal"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxr" / "metal"


def _load_plans() -> None:
    """Import every module of this package: those that hold plans register them."""
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{__package__}.{module.name}")


def make(device: Device) -> MetalBackend:
    """Return the backend of ``metal``.

    Raises
    ------
    BackendUnavailableError
        If the runtime is not built, the machine has no Metal device, or the only one is the stand-in and nobody asked
        for it.
    """
    if device.index:
        raise BackendUnavailableError("there is one Metal device", reason="no such device")
    runtime = metal.load()
    if runtime.info.stand_in and not (os.environ.get("MLXR_METAL") == "stand-in" or "MLXR_SHIM_METAL" in os.environ):
        raise BackendUnavailableError(
            f"this machine has no Metal device, only the {runtime.info.name}; MLXR_METAL=stand-in uses it",
            reason="stand-in only",
        )
    folder = _cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        runtime.cache_folder(str(folder))
    except OSError:
        runtime.cache_folder(None)  # a home that cannot be written: kernels are compiled in every process
    _load_plans()
    return MetalBackend(device, runtime)
