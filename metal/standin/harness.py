"""Runs kernels without the Metal API: for their tests and for ``mlxr.metal_check``.

`Library` compiles one ``.metal`` file and launches its kernels on arrays; `run_launches` runs a plan of such launches.
It knows NumPy and the executor's C interface, and nothing of mlxr.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import KINDS, CheckError, CompileError, StandinError, ToolchainError
from .toolchain import HERE, compile_kernels, executor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["CheckError", "CompileError", "DeletedBarrier", "Library", "StandinError", "ToolchainError", "run_launches"]

ORDERS = ("forward", "reverse", "shuffled")
KERNELS = HERE.parent / "kernels"


class _Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("initialised", ctypes.c_void_p)]


class _Constant(ctypes.Structure):
    _fields_ = [("index", ctypes.c_int32), ("size", ctypes.c_uint32), ("value", ctypes.c_void_p)]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint32 * 3),
        ("group", ctypes.c_uint32 * 3),
        ("buffer_count", ctypes.c_uint32),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("threadgroup_count", ctypes.c_uint32),
        ("threadgroup_sizes", ctypes.POINTER(ctypes.c_size_t)),
        ("constant_count", ctypes.c_uint32),
        ("constants", ctypes.POINTER(_Constant)),
        ("order", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("threads", ctypes.c_uint32),
        ("time_limit", ctypes.c_double),
        ("deleted_file", ctypes.c_char_p),
        ("deleted_line", ctypes.c_int32),
        ("deleted_count", ctypes.POINTER(ctypes.c_uint32)),
    ]


class _Error(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int32),
        ("line", ctypes.c_int32),
        ("file", ctypes.c_char * 512),
        ("kernel", ctypes.c_char * 128),
        ("message", ctypes.c_char * 1024),
    ]


class _KernelInfo(ctypes.Structure):
    _fields_ = [("max_threads", ctypes.c_uint32), ("parameter_count", ctypes.c_uint32)]


@cache
def _executor() -> ctypes.CDLL:
    library = ctypes.CDLL(str(executor()))
    library.standin_run.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Launch), ctypes.POINTER(_Error)]
    library.standin_kernel_names.argtypes = [ctypes.c_void_p]
    library.standin_kernel_names.restype = ctypes.c_char_p
    library.standin_describe.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(_KernelInfo)]
    library.standin_constant_type.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_uint32)]
    library.standin_constant_type.restype = ctypes.c_char
    return library


def _three(values: Sequence[int]) -> list[int]:
    return [*map(int, values), 1, 1, 1][:3]


class DeletedBarrier:
    """A barrier that launches pass as if it were not there, while this is entered: what the checker has to notice.

    Attributes
    ----------
    reached : int
        How often threads came to it.
    """

    def __init__(self, file: str | Path, line: int) -> None:
        self._file, self._line, self._count = str(file).encode(), line, ctypes.c_uint32(0)

    @property
    def reached(self) -> int:
        """Return how often threads came to it."""
        return self._count.value

    def fields(self) -> dict[str, Any]:
        """Return what a launch is told of it."""
        return {
            "deleted_file": self._file,
            "deleted_line": self._line,
            "deleted_count": ctypes.pointer(self._count),
        }

    def __enter__(self) -> DeletedBarrier:
        global _deleted
        _deleted = self
        return self

    def __exit__(self, *_: object) -> None:
        global _deleted
        _deleted = None


_deleted: DeletedBarrier | None = None


class Library:
    """The kernels of one ``.metal`` file.

    Parameters
    ----------
    path : path-like
        The file.
    checked : bool
        Whether every memory access is checked: bounds, races, uninitialised reads. Some 30 times slower.
    include : sequence of path-like
        Further folders of headers; the file's own folder is always searched.

    Raises
    ------
    CompileError
        With the messages, if the file is not accepted.
    ToolchainError
        If there is no clang 19.
    """

    def __init__(self, path: str | Path, checked: bool = False, include: Iterable[str | Path] = ()) -> None:
        self.path = Path(path)
        self.checked = checked
        shared = compile_kernels(self.path, checked, [Path(p) for p in include])
        self._executor = _executor()
        self._dll = ctypes.CDLL(str(shared))
        self._dll.standin_module.restype = ctypes.c_void_p
        self._module = self._dll.standin_module()

    @property
    def functions(self) -> list[str]:
        """Host names of the kernels, in the order of the file."""
        return self._executor.standin_kernel_names(self._module).decode().split("\n")[:-1]

    def max_threads(self, function: str) -> int:
        """Return the largest threadgroup that a kernel allows."""
        info = _KernelInfo()
        if self._executor.standin_describe(self._module, function.encode(), ctypes.byref(info)):
            raise KeyError(function)
        return info.max_threads

    def _constants(self, values: Mapping[int, Any]) -> tuple[Any, list[np.ndarray]]:
        kept, packed = [], []
        for index, value in values.items():
            size = ctypes.c_uint32()
            letter = self._executor.standin_constant_type(self._module, index, ctypes.byref(size)).decode()
            if letter == "\0":
                continue  # of another kernel of the plan's family
            dtype = {"b": "?", "f": "f4", "h": "f2"}.get(letter, f"{letter}{size.value}")
            array = np.array(value, dtype=dtype)
            kept.append(array)
            packed.append(_Constant(index, array.nbytes, array.ctypes.data))
        return (_Constant * max(1, len(packed)))(*packed), kept

    def run(
        self,
        function: str,
        grid: Sequence[int],
        group: Sequence[int],
        buffers: Sequence[np.ndarray | bytes | None] = (),
        constants: Mapping[int, Any] | None = None,
        threadgroup_memory: Sequence[int] = (),
        order: str = "forward",
        seed: int = 0,
        *,
        threads: int = 0,
        time_limit: float = 0.0,
        initialised: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        """Launch a kernel and wait for it.

        Parameters
        ----------
        function : str
            The kernel's host name.
        grid, group : sequence of int
            Threadgroups, and threads of one, in up to three dimensions.
        buffers : sequence of ndarray, bytes or None
            In the order of ``[[buffer(i)]]``; arrays are contiguous and are written in place, bytes are copied.
        constants : mapping of int to value
            Function constants.
        threadgroup_memory : sequence of int
            Bytes for each ``[[threadgroup(i)]]``.
        order : {"forward", "reverse", "shuffled"}
            In which order threads and groups run; a correct kernel does not show it.
        seed : int
            For the shuffled order.
        threads : int
            Operating-system threads that share the groups; 0 for all processors. A checked library uses one.
        time_limit : float
            Seconds of processor time that one threadgroup may take; 0 for 10.
        initialised : mapping of int to ndarray of uint8
            For buffers that begin uninitialised: per byte whether it was written, read and updated by the checker.

        Raises
        ------
        CheckError
            If the launch is wrong, or the kernel does what a GPU would not forgive.
        """
        held: list[Any] = []
        bound = (_Buffer * max(1, len(buffers)))()
        for i, buffer in enumerate(buffers):
            if buffer is None:
                continue
            if isinstance(buffer, (bytes, bytearray)):
                array = np.zeros(len(buffer) + 64, np.uint8)  # bytes may lie anywhere; arguments are aligned
                start = -array.ctypes.data % 64
                array = array[start : start + len(buffer)]
                array[:] = np.frombuffer(buffer, np.uint8)
            else:
                array = buffer
                if not array.flags.c_contiguous:
                    raise ValueError(f"buffer {i} is not contiguous")
            held.append(array)
            record = (initialised or {}).get(i)
            bound[i] = _Buffer(array.ctypes.data, array.nbytes, None if record is None else record.ctypes.data)
        values, kept = self._constants(constants or {})
        sizes = (ctypes.c_size_t * max(1, len(threadgroup_memory)))(*threadgroup_memory)
        groups, size = _three(grid), _three(group)
        launch = _Launch(
            kernel=function.encode(),
            grid=(ctypes.c_uint32 * 3)(*(a * b for a, b in zip(groups, size, strict=True))),
            group=(ctypes.c_uint32 * 3)(*size),
            buffer_count=len(buffers),
            buffers=bound,
            threadgroup_count=len(threadgroup_memory),
            threadgroup_sizes=sizes,
            constant_count=len(kept),
            constants=values,
            order=ORDERS.index(order),
            seed=seed,
            threads=threads,
            time_limit=time_limit,
            **({} if _deleted is None else _deleted.fields()),
        )
        error = _Error()
        if self._executor.standin_run(self._module, ctypes.byref(launch), ctypes.byref(error)):
            raise CheckError(KINDS[error.kind - 1], error.file.decode(), error.line, error.kernel.decode(),
                             error.message.decode(errors="replace"))  # fmt: skip


@cache
def _shipped(name: str, checked: bool) -> Library:
    return Library(KERNELS / f"{name}.metal", checked)


def run_launches(
    launches: Iterable[Any],
    arrays: Callable[[Any], np.ndarray],
    checked: bool = False,
    order: str = "forward",
    seed: int = 0,
) -> None:
    """Run a plan: the launches that serve one primitive, one after the other.

    Parameters
    ----------
    launches : iterable of Launch
        As ``mlxr.backends.metal.launch`` defines them.
    arrays : callable
        Returns the contiguous memory, as an array of any dtype, that a tensor of the plan begins at.
    checked : bool
        Whether memory accesses are checked. Scratch memory counts as uninitialised then.
    order, seed
        As for `Library.run`.
    """
    scratch: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    keep = list(launches)
    for launch in keep:
        buffers: list[np.ndarray | bytes | None] = []
        initialised = {}
        for i, argument in enumerate(launch.arguments):
            if argument is None or isinstance(argument, (bytes, bytearray)):
                buffers.append(argument)
            elif hasattr(argument, "nbytes") and type(argument).__name__ == "Scratch":
                if id(argument) not in scratch:
                    memory = np.full(argument.nbytes + 64, 0xFF, np.uint8)
                    start = -memory.ctypes.data % 64
                    scratch[id(argument)] = (
                        memory[start : start + argument.nbytes],
                        np.zeros(argument.nbytes, np.uint8),
                    )
                memory, initialised[i] = scratch[id(argument)]
                buffers.append(memory)
            else:
                buffers.append(arrays(argument))
        _shipped(launch.library, checked).run(
            launch.function,
            launch.grid,
            launch.group,
            buffers,
            {index: value for index, _, value in launch.constants},
            launch.threadgroup_memory,
            order,
            seed,
            initialised=initialised,
        )
