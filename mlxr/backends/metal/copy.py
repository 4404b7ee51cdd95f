"""Launch plans of copies: between layouts and dtypes, into parts of a result, and of constants and ranges.

Whatever moves elements without computing is a list of copies from one view to another. Must not know about indices that
are data (indexing.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlxr.backends.metal.launch import (
    MAX_ELEMENTS,
    Argument,
    At,
    Launch,
    Scratch,
    below_start,
    ceil_div,
    check_dtypes,
    check_size,
    collapse,
    plan,
    refuse,
    row_major,
    strided,
)
from mlxr.core import dtype
from mlxr.core.dtype import Dtype
from mlxr.core.tensor import Tensor

__all__ = ["COPIED_DTYPES", "LANES", "REAL_DTYPES", "View", "copies", "parts_of_complex", "view_of", "write"]

# The type in which kernels hold an element of each dtype (metal/kernels/types.h).
LANES: dict[Dtype, str] = {
    dtype.bool_: "uint", dtype.uint8: "uint", dtype.uint16: "uint", dtype.uint32: "uint", dtype.uint64: "ulong",
    dtype.int8: "int", dtype.int16: "int", dtype.int32: "int", dtype.int64: "long",
    dtype.float16: "float", dtype.bfloat16: "float", dtype.float32: "float",
}
REAL_DTYPES = frozenset(LANES)
COPIED_DTYPES = REAL_DTYPES | {dtype.complex64}

GROUP = 256
ELEMENTS = 4
TILE = 32
TILE_ROWS = 8


@dataclass(frozen=True)
class View:
    """A window on the memory of a tensor or of scratch.

    Attributes
    ----------
    memory : Tensor or Scratch
    dtype : Dtype
    shape, strides : tuple of int
        In elements of `dtype`.
    offset : int
        Elements from the tensor's first one to the window's.
    """

    memory: Tensor | Scratch
    dtype: Dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


def view_of(x: Tensor, shape: Sequence[int] | None = None) -> View:
    """Return a tensor as a window, broadcast to `shape` if that is given."""
    shape = x.shape if shape is None else tuple(shape)
    missing = len(shape) - x.ndim
    strides = (0,) * missing + tuple(
        0 if x.shape[axis] == 1 and shape[missing + axis] != 1 else x.strides[axis] for axis in range(x.ndim)
    )
    return View(x, x.dtype, shape, strides)


def _bind(op: str, view: View, shape: Sequence[int], strides: Sequence[int]) -> tuple[Argument, int]:
    """Return the argument for a view walked by `strides`, and the elements from there to its first one."""
    below = below_start(op, shape, strides, (view.memory,) if isinstance(view.memory, Tensor) else ())
    moved = (view.offset - below) * view.dtype.itemsize
    if isinstance(view.memory, Scratch):
        if moved:
            raise ValueError("windows on scratch begin at its start")
        return view.memory, below
    return (At(view.memory, moved) if moved else view.memory), below


def _tiles(shape: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, int] | None:
    """Return (row axis, column axis) if a copy is a batch of transposes that tiles pay for."""
    column = len(shape) - 1
    if len(shape) < 2 or target[column] != 1 or source[column] in (0, 1) or shape[column] < TILE // 2:
        return None
    for row in range(column):
        if source[row] == 1 and shape[row] >= TILE // 2:
            return row, column
    return None


def copies(op: str, source: View, target: View) -> list[Launch]:
    """Return the launches that copy and cast every element of a view into another view of the same shape.

    Parameters
    ----------
    op : str
        For errors.
    source, target : View
        Of one shape. No two elements of `target` share memory.
    """
    space = collapse(target.shape, source.strides, target.strides)
    if not space.size:
        return []
    if space.size >= MAX_ELEMENTS:
        raise refuse(op, f"Metal kernels count elements in 32 bits; here are {space.size}", ())
    shape, (from_, to) = space
    x, x_start = _bind(op, source, shape, from_)
    out, out_start = _bind(op, target, shape, to)
    cast = source.dtype is not target.dtype
    tiles = None if cast else _tiles(shape, from_, to)
    if tiles and len(shape) <= 3 and x_start == 0 and out_start == 0:
        row, column = tiles
        batch = next((axis for axis in range(len(shape)) if axis not in tiles), None)
        params = struct.pack(
            "<2I4i", shape[row], shape[column], from_[column], to[row],
            0 if batch is None else from_[batch], 0 if batch is None else to[batch],
        )
        grid = (ceil_div(shape[column], TILE), ceil_div(shape[row], TILE), 1 if batch is None else shape[batch])
        return [
            Launch("copy", f"transpose_{source.dtype.itemsize}", (), (x, out, params), grid, (TILE, TILE_ROWS, 1))
        ]
    scalar = space.is_scalar(0)
    is_strided = not ((scalar or space.is_dense(0)) and space.is_dense(1))
    params = strided(space, (x_start, out_start))
    constants: tuple[tuple[int, str, Any], ...] = ((3, "bool", is_strided), (4, "bool", scalar))
    if cast:
        function = f"cast_{LANES.get(source.dtype, 'float')}"
        compute = dtype.bool_ if target.dtype is dtype.bool_ else source.dtype
        constants = (
            (0, "uint", source.dtype.code), (1, "uint", target.dtype.code), (2, "uint", compute.code), *constants
        )
    else:
        function = f"copy_{source.dtype.itemsize}"
    grid = (ceil_div(space.size, GROUP * ELEMENTS), 1, 1)
    return [Launch("copy", function, constants, (x, out, params), grid, (GROUP, 1, 1))]


def write(target: Tensor, value: Tensor) -> list[Launch]:
    """Return the launches that store `value`, broadcast and cast, in the elements that `target` views."""
    check_dtypes("write", (target, value), COPIED_DTYPES)
    return copies("write", view_of(value, target.shape), view_of(target))


def parts_of_complex(x: Tensor, out: Tensor, part: int) -> list[Launch]:
    """Return the launches that copy the real (0) or imaginary (1) parts of a complex tensor."""
    parts = View(x, dtype.float32, x.shape, tuple(2 * step for step in x.strides), part)
    return copies("imag" if part else "real", parts, view_of(out))


@plan("copy")
def copy(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan a row-major copy."""
    check_dtypes("copy", inputs, COPIED_DTYPES)
    return copies("copy", view_of(inputs[0]), view_of(outputs[0]))


@plan("astype")
def astype(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan a cast."""
    check_dtypes("astype", (*inputs, *outputs), COPIED_DTYPES)
    return copies("astype", view_of(inputs[0]), view_of(outputs[0]))


@plan("full")
def full(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan a result whose elements are all the 0-dimensional input."""
    check_dtypes("full", outputs, COPIED_DTYPES)
    return copies("full", view_of(inputs[0], outputs[0].shape), view_of(outputs[0]))


def _to_int64(value: float) -> int:
    """Cast as the CPU backend does: truncated, and the lowest integer for what does not fit."""
    return int(value) if abs(value) < 2.0**63 else -(2**63)


def _signed64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _float_pair(value: float) -> tuple[float, float]:
    """Return two float32 numbers whose sum is nearly `value`."""
    high = struct.unpack("<f", struct.pack("<f", value))[0] if abs(value) <= 3.4028234663852886e38 else value
    return high, value - high if abs(high) < float("inf") else 0.0


@plan("arange")
def arange(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan ``start + i step``; params (start, step), both ints for exact integers."""
    out = outputs[0]
    start, step = params
    check_dtypes("arange", outputs, REAL_DTYPES)
    check_size("arange", outputs)
    if not out.size:
        return []
    if out.dtype.kind == "f":
        function = "arange_float"
        packed = struct.pack("<4fI", *_float_pair(float(start)), *_float_pair(float(step)), out.size)
    else:
        if not (isinstance(start, int) and isinstance(step, int)):
            start, step = _to_int64(start), _to_int64(start + step) - _to_int64(start)
        function = "arange_int"
        packed = struct.pack("<2q2I", _signed64(start), _signed64(step), out.size, 0)
    grid = (ceil_div(out.size, GROUP * ELEMENTS), 1, 1)
    return [Launch("copy", function, ((1, "uint", out.dtype.code),), (out, packed), grid, (GROUP, 1, 1))]


@plan("slice_update")
def slice_update(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan x with the elements of a slice replaced; params (starts, shape, steps)."""
    x, update = inputs
    out = outputs[0]
    check_dtypes("slice_update", (x, update, out), COPIED_DTYPES)
    starts, shape, steps = params
    whole = view_of(out)
    part = replace(
        whole,
        shape=tuple(shape),
        strides=tuple(stride * step for stride, step in zip(whole.strides, steps, strict=True)),
        offset=sum(start * stride for start, stride in zip(starts, whole.strides, strict=True)),
    )
    return [
        *copies("slice_update", view_of(x), whole),
        *copies("slice_update", view_of(update, shape), part),
    ]


@plan("concatenate")
def concatenate(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan inputs one after another along an axis; params (axis,)."""
    out = outputs[0]
    check_dtypes("concatenate", (*inputs, out), COPIED_DTYPES)
    axis = params[0]
    strides = row_major(out.shape)
    launches = []
    at = 0
    for x in inputs:
        launches += copies("concatenate", view_of(x), View(out, out.dtype, x.shape, strides, at * strides[axis]))
        at += x.shape[axis]
    return launches
