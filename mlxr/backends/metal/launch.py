"""What a launch plan is, and what the plans of all families share.

A plan turns one call of a primitive into launches of Metal kernels. It sees layouts (shape, strides, dtype) and the
primitive's parameters, never the elements, so it can be tested without a device. This module must not know about the
runtime that executes launches, nor about any one kernel.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from mlxr.core.dtype import Dtype
from mlxr.core.tensor import Tensor
from mlxr.errors import BoundsError, UnsupportedOpError

__all__ = [
    "FAULT_BYTES", "MAX_DIMS", "MAX_ELEMENTS", "PLANS", "SIMD", "Argument", "At", "Fault", "Launch", "Layout", "Plan",
    "Scratch", "below_start", "ceil_div", "check_dtypes", "check_size", "collapse", "layout", "lowest", "plan",
    "refuse", "row_major", "strided",
]

# Threads of a SIMD group on every Apple GPU; kernels and plans rely on it.
SIMD = 32
# Extents that a kernel's Params hold: what tensors may have at most (mlxr/core/abi.pxd).
MAX_DIMS = 32
# Kernels count elements in 32 bits; strided operands span at most half of that, because steps are signed.
MAX_ELEMENTS = 2**32
# Bytes of the record that a Fault stands for: uint claimed, uint array, and the index as a 64-bit integer.
FAULT_BYTES = 16


@dataclass(frozen=True, eq=False)
class Scratch:
    """Uninitialised device memory; the launches of one plan that name the same object share it.

    Attributes
    ----------
    nbytes : int
    """

    nbytes: int


@dataclass(frozen=True, eq=False)
class Fault:
    """A record of ``FAULT_BYTES`` bytes, zero before the plan's first launch, in which kernels note a wrong index.

    Kernels never use an index outside its axis as an address. The first thread that meets one (which, is not
    determined) claims the record and notes the index. Whoever waits for the launches reads the record afterwards, and
    raises what :meth:`error` returns.

    Attributes
    ----------
    op : str
    axes : tuple of int
        Axis to which each index array belongs.
    sizes : tuple of int
        Extents of those axes.
    """

    op: str
    axes: tuple[int, ...]
    sizes: tuple[int, ...]

    def error(self, record: bytes) -> BoundsError | None:
        """Return the error that a record tells of.

        Parameters
        ----------
        record : bytes
            As the launches left it.

        Returns
        -------
        BoundsError or None
        """
        claimed, array, index = struct.unpack("<IIq", record)
        if not claimed:
            return None
        axis, size = self.axes[array], self.sizes[array]
        return BoundsError(
            f"[{self.op}] index {index} is out of bounds for axis {axis} with size {size}",
            op=self.op, index=index, axis=axis, size=size,
        )


class At(NamedTuple):
    """A tensor's memory from `offset` bytes after (before, if negative) its first element."""

    tensor: Tensor
    offset: int


# What goes to [[buffer(i)]]: a tensor's memory from its first element, or from elsewhere; bytes (setBytes, at most
# 4096); device memory.
Argument: TypeAlias = Tensor | At | bytes | Scratch | Fault


class Launch(NamedTuple):
    """One dispatch of a kernel, in whole threadgroups. Launches of a plan run in order, each seeing the one before.

    Attributes
    ----------
    library : str
        Stem of ``metal/kernels/<library>.metal``.
    function : str
        The kernel's host_name.
    constants : tuple
        Function constants: ``(index, "bool" | "int" | "uint" | "float", value)`` each.
    arguments : tuple
        In the order of ``[[buffer(i)]]``: inputs, outputs, then the kernel's ``Params``.
    grid : tuple of int
        Threadgroups along x, y, z. No launch has an empty grid.
    group : tuple of int
        Threads of a threadgroup along x, y, z.
    threadgroup_memory : tuple of int
        Bytes of each ``[[threadgroup(i)]]``.
    """

    library: str
    function: str
    constants: tuple[tuple[int, str, Any], ...]
    arguments: tuple[Argument, ...]
    grid: tuple[int, int, int]
    group: tuple[int, int, int]
    threadgroup_memory: tuple[int, ...] = ()


# (inputs, outputs, params) as Backend.execute gets them.
Plan: TypeAlias = Callable[[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Any, ...]], list[Launch]]

# By name of the primitive. What is not here, Metal does not have.
PLANS: dict[str, Plan] = {}


class _Remembered:
    """A plan that is made once for each combination of layouts and parameters: making one costs more than a launch.

    Plans depend on nothing else, so what changes between two calls is which tensors the launches name.
    """

    # Combinations that are kept; a program has few, and one that has more than this starts over.
    LIMIT = 2048

    def __init__(self, function: Plan) -> None:
        self.function = function
        self.made: dict[Any, list[tuple[Launch, list[tuple[int, int, int | None]]]]] = {}

    def __call__(
        self, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]
    ) -> list[Launch]:
        tensors = inputs + outputs
        slots = {id(x): k for k, x in enumerate(tensors)}
        # 1, 1.0 and True are equal, and so are zeros of either sign, but not the same parameter.
        key = (
            len(inputs), tuple([(x.shape, x.strides, x.dtype) for x in tensors]),
            None if len(slots) == len(tensors) else tuple([slots[id(x)] for x in tensors]),  # one tensor in two places
            tuple([(type(p), repr(p) if type(p) is float else p) for p in params]),
        )
        steps = self.made.get(key)
        if steps is None:
            launches = self.function(inputs, outputs, params)
            if len(self.made) >= self.LIMIT:
                self.made.clear()
            self.made[key] = [(one._replace(arguments=_unnamed(one)), _named(one, slots)) for one in launches]
            return launches
        launches = []
        for launch, names in steps:
            arguments = list(launch.arguments)
            for k, slot, offset in names:
                arguments[k] = tensors[slot] if offset is None else At(tensors[slot], offset)
            launches.append(Launch(*launch[:3], tuple(arguments), *launch[4:]))
        return launches


def _unnamed(launch: Launch) -> tuple[Any, ...]:
    """Return a launch's arguments without its tensors, which a memory of plans must not keep alive."""
    return tuple(None if isinstance(x, (Tensor, At)) else x for x in launch.arguments)


def _named(launch: Launch, slots: dict[int, int]) -> list[tuple[int, int, int | None]]:
    """Return which arguments of a launch are tensors: position, number of the tensor, and offset if there is one."""
    found: list[tuple[int, int, int | None]] = []
    for k, argument in enumerate(launch.arguments):
        if isinstance(argument, At):
            found.append((k, slots[id(argument.tensor)], argument.offset))
        elif isinstance(argument, Tensor):
            found.append((k, slots[id(argument)], None))
    return found


def plan(*names: str) -> Callable[[Plan], Plan]:
    """Return a decorator that registers a function as the plan of the primitives called `names`.

    The function sees layouts, dtypes and parameters, and its result depends on nothing else: it is called once for each
    combination of them.
    """

    def register(function: Plan) -> Plan:
        for name in names:
            if name in PLANS:
                raise ValueError(f"primitive {name!r} has two plans")
            PLANS[name] = _Remembered(function)
        return function

    return register


def refuse(op: str, reason: str, tensors: Sequence[Tensor]) -> UnsupportedOpError:
    """Return the error for operands that no kernel takes.

    Parameters
    ----------
    op : str
    reason : str
        What Metal lacks, as in "the Metal backend has no kernel for float64".
    tensors : sequence of Tensor
    """
    dtypes = tuple(x.dtype for x in tensors)
    return UnsupportedOpError(f"[{op}] {reason}", op=op, dtypes=dtypes, backend="metal")


def check_dtypes(op: str, tensors: Sequence[Tensor], allowed: frozenset[Dtype] | set[Dtype]) -> None:
    """Raise UnsupportedOpError if a tensor's dtype is not among `allowed`."""
    for x in tensors:
        if x.dtype not in allowed:
            raise refuse(op, f"the Metal backend has no kernel for {x.dtype.name}", tensors)


def check_size(op: str, tensors: Sequence[Tensor]) -> None:
    """Raise UnsupportedOpError if a tensor has too many elements for 32-bit counters."""
    for x in tensors:
        if x.size >= MAX_ELEMENTS:
            raise refuse(op, f"Metal kernels count elements in 32 bits; here are {x.size}", tensors)


def ceil_div(a: int, b: int) -> int:
    """Return ``a / b``, rounded up."""
    return -(-a // b)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a row-major array."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


class Layout(NamedTuple):
    """An index space and where each of several arrays has the elements: extents, and strides per array (elements)."""

    shape: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def is_dense(self, array: int) -> bool:
        """Tell whether an array is one row-major run (after :func:`collapse`)."""
        return self.size <= 1 or self.strides[array] == row_major(self.shape)

    def is_scalar(self, array: int) -> bool:
        """Tell whether an array is one element seen everywhere."""
        return not any(step for extent, step in zip(self.shape, self.strides[array], strict=True) if extent > 1)


def layout(shape: Sequence[int], *tensors: Tensor) -> Layout:
    """Return the layout of tensors broadcast to `shape`, with as few dimensions as describe it."""
    strides = []
    for x in tensors:
        missing = len(shape) - x.ndim
        strides.append(
            (0,) * missing
            + tuple(
                0 if x.shape[axis] == 1 and shape[missing + axis] != 1 else x.strides[axis] for axis in range(x.ndim)
            )
        )
    return collapse(shape, *strides)


def collapse(shape: Sequence[int], *strides: Sequence[int]) -> Layout:
    """Merge neighbouring dimensions that every array walks as one, and drop those of extent 1.

    Parameters
    ----------
    shape : sequence of int
    *strides : sequence of int
        Per array, in elements.

    Returns
    -------
    Layout
        Of at least one dimension, in the same row-major order.
    """
    extents: list[int] = []
    steps: list[list[int]] = []
    for axis in range(len(shape) - 1, -1, -1):
        extent = shape[axis]
        here = [array[axis] for array in strides]
        if extent == 1:
            continue
        if extents and all(new == old * extents[-1] for new, old in zip(here, steps[-1], strict=True)):
            extents[-1] *= extent
        else:
            extents.append(extent)
            steps.append(here)
    if not extents:
        extents, steps = [1], [[0] * len(strides)]
    extents.reverse()
    steps.reverse()
    return Layout(tuple(extents), tuple(tuple(step[k] for step in steps) for k in range(len(strides))))


def below_start(op: str, shape: Sequence[int], strides: Sequence[int], tensors: Sequence[Tensor]) -> int:
    """Return how many elements before its first one the lowest address of a strided array lies.

    Raises
    ------
    UnsupportedOpError
        If the array spans more than signed 32-bit offsets reach. It names the dtypes of `tensors`.
    """
    ends = [(extent - 1) * step for extent, step in zip(shape, strides, strict=True) if extent]
    below, above = -sum(end for end in ends if end < 0), sum(end for end in ends if end > 0)
    if below + above >= MAX_ELEMENTS // 2:
        raise refuse(op, f"Metal kernels step over less than 2**31 elements; this view spans {below + above}", tensors)
    return below


def lowest(op: str, x: Tensor, shape: Sequence[int], strides: Sequence[int]) -> tuple[Tensor | At, int]:
    """Return the memory of a view from its lowest address, and how many elements after that its first one lies.

    Views may walk dimensions backwards; kernels get no address below what they are bound to.
    """
    below = below_start(op, shape, strides, (x,))
    return (At(x, -below * x.itemsize) if below else x), below


def strided(space: Layout, starts: Sequence[int]) -> bytes:
    """Return the ``Strided<N>`` of metal/kernels/strides.h.

    Parameters
    ----------
    space : Layout
    starts : sequence of int
        Per array, elements from the bound address to the first element.
    """
    room = (0,) * (MAX_DIMS - len(space.shape))
    head = (space.size, len(space.shape), *starts, *space.shape, *room)
    steps = [step for array in space.strides for step in (*array, *room)]
    return struct.pack(f"<{len(head)}I{len(steps)}i", *head, *steps)
