"""Launch plans of gather, scatter and their along-an-axis forms, and of masks to indices.

Whether an index is in range is known when the kernels have run: plans hand them a Fault, and what waits raises.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from mlxr.backends.metal.copy import COPIED_DTYPES, LANES, View, copies, view_of
from mlxr.backends.metal.launch import (
    Argument,
    Fault,
    Launch,
    Scratch,
    ceil_div,
    check_dtypes,
    check_size,
    collapse,
    layout,
    lowest,
    plan,
    refuse,
    row_major,
    strided,
)
from mlxr.backends.metal.sort import argsorted
from mlxr.core import dtype
from mlxr.core.tensor import Tensor

# In the order of the enum in metal/kernels/indexing.metal.
MODES = ("assign", "add", "prod", "max", "min")
GROUP = 256
ELEMENTS = 4
INDEX_DTYPES = {
    dtype.uint8, dtype.uint16, dtype.uint32, dtype.uint64, dtype.int8, dtype.int16, dtype.int32, dtype.int64
}
# Words that elements move as when they are replaced.
WORDS = {1: dtype.uint8, 2: dtype.uint16, 4: dtype.uint32, 8: dtype.uint64}


def _offsets(
    op: str,
    indices: Sequence[Tensor],
    shape: tuple[int, ...],
    axes: Sequence[int],
    extents: Sequence[int],
    sizes: Sequence[int],
    steps: Sequence[int],
    base: tuple[int, ...] | None = None,
) -> tuple[Scratch, list[Launch]]:
    """Return scratch with the offset of each position of index arrays, and the launches that fill it.

    Parameters
    ----------
    op : str
    indices : sequence of Tensor
        Index arrays, broadcast to `shape`.
    shape : tuple of int
    axes : sequence of int
        Axis of each index array, for errors.
    extents, sizes, steps : sequence of int
        Extent of that axis, of the slice there, and elements from an index to the next.
    base : tuple of int, optional
        Elements that a step along each axis of `shape` adds.
    """
    check_dtypes(op, indices, INDEX_DTYPES)
    offsets = Scratch(4 * max(math.prod(shape), 1))
    fault = Fault(op, tuple(axes), tuple(extents))
    launches = []
    for k, index in enumerate(indices):
        index_strides = view_of(index, shape).strides
        own = base if base is not None and k == 0 else (0,) * len(shape)
        space = collapse(shape, index_strides, own)
        argument, start = lowest(op, index, space.shape, space.strides[0])
        packed = struct.pack("<2I2i", k, extents[k], extents[k] - sizes[k], steps[k]) + strided(space, (start, 0))
        launches.append(
            Launch(
                "indexing", "find_offsets", ((0, "uint", index.dtype.code), (1, "bool", k > 0)),
                (argument, offsets, fault, packed), (ceil_div(space.size, GROUP), 1, 1), (GROUP, 1, 1),
            )
        )
    return offsets, launches


def _gathered(
    op: str, x: Tensor, offsets: Scratch, out: Tensor, x_strides: tuple[int, ...], offset_strides: tuple[int, ...]
) -> Launch:
    """Return the launch that gathers; strides are in out's index space."""
    space = collapse(out.shape, x_strides, offset_strides)
    # Offsets reach over all of x, so the whole of it is bound.
    argument, start = lowest(op, x, x.shape, x.strides)
    return Launch(
        "indexing", f"gather_{x.dtype.itemsize}", (), (argument, offsets, out, strided(space, (start, 0))),
        (ceil_div(out.size, GROUP * ELEMENTS), 1, 1), (GROUP, 1, 1),
    )


@plan("gather")
def gather(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan slices of x at index arrays; params (axes, sizes)."""
    x, *indices = inputs
    out = outputs[0]
    axes, sizes = params
    check_dtypes("gather", (x,), COPIED_DTYPES)
    check_size("gather", (x, *indices, out))
    if not indices:
        return copies("gather", View(x, x.dtype, tuple(sizes), x.strides), view_of(out))
    shape = indices[0].shape
    if not math.prod(shape):
        return []
    offsets, launches = _offsets(
        "gather", indices, shape, axes, [x.shape[k] for k in axes], [sizes[k] for k in axes],
        [x.strides[k] for k in axes],
    )
    if out.size:
        rest = (0,) * len(sizes)
        launches.append(_gathered("gather", x, offsets, out, (0,) * len(shape) + x.strides, row_major(shape) + rest))
    return launches


@plan("take")
def take(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan x with an axis replaced by those of the indices; params (axis,)."""
    x, indices = inputs
    out = outputs[0]
    axis = params[0]
    check_dtypes("take", (x,), COPIED_DTYPES)
    check_size("take", (x, indices, out))
    if not indices.size:
        return []
    offsets, launches = _offsets(
        "take", (indices,), indices.shape, (axis,), (x.shape[axis],), (1,), (x.strides[axis],)
    )
    if out.size:
        before, after = (0,) * axis, (0,) * (x.ndim - axis - 1)
        launches.append(
            _gathered(
                "take", x, offsets, out, x.strides[:axis] + (0,) * indices.ndim + x.strides[axis + 1:],
                before + row_major(indices.shape) + after,
            )
        )
    return launches


@plan("take_along_axis")
def take_along_axis(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan an element of x for each index; params (axis,)."""
    x, indices = inputs
    out = outputs[0]
    axis = params[0]
    check_dtypes("take_along_axis", (x,), COPIED_DTYPES)
    check_size("take_along_axis", (x, indices, out))
    if not out.size:
        return []
    offsets, launches = _offsets(
        "take_along_axis", (indices,), out.shape, (axis,), (x.shape[axis],), (1,), (x.strides[axis],)
    )
    x_strides = tuple(0 if k == axis else step for k, step in enumerate(x.strides))
    return [*launches, _gathered("take_along_axis", x, offsets, out, x_strides, row_major(out.shape))]


def _scattered(
    op: str,
    updates: Tensor,
    offsets: Scratch,
    out: Tensor,
    shape: tuple[int, ...],
    sizes: tuple[int, ...],
    slice_strides: tuple[int, ...],
    mode: str,
) -> list[Launch]:
    """Return the launches that combine updates with the result.

    Parameters
    ----------
    updates : Tensor
        Of shape `shape` + `sizes`.
    shape : tuple of int
        Of the positions.
    sizes, slice_strides : tuple of int
        Extents of a slice, and the result's steps there.
    """
    positions, elements = math.prod(shape), math.prod(sizes)
    argument, start = lowest(op, updates, updates.shape, updates.strides)
    places = collapse(shape, updates.strides[: len(shape)])
    slices = collapse(sizes, slice_strides, updates.strides[len(shape):])
    kind = WORDS[out.dtype.itemsize] if mode == "assign" else out.dtype
    order: Argument = offsets
    launches = []
    if positions > 1:
        order = Scratch(4 * positions)
        launches = argsorted(View(offsets, dtype.int32, (positions,), (1,)), order)
    packed = struct.pack("<2I", positions, elements) + strided(places, (start,)) + strided(slices, (0, 0))
    constants = ((0, "uint", kind.code), (2, "uint", MODES.index(mode)), (3, "bool", positions > 1))
    group = (GROUP, 1, 1) if elements >= GROUP else (32, 8, 1) if elements > 1 else (1, GROUP, 1)
    grid = (ceil_div(elements, group[0]), ceil_div(positions, group[1]), 1)
    function = f"scatter_{LANES[kind]}"
    return [*launches, Launch("indexing", function, constants, (argument, offsets, order, out, packed), grid, group)]


def _check_update(op: str, x: Tensor, updates: Tensor, mode: str) -> None:
    check_dtypes(op, (x, updates), COPIED_DTYPES if mode == "assign" else COPIED_DTYPES - {dtype.complex64})


@plan("scatter")
def scatter(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan x with slices at index arrays combined with updates; params (axes, sizes, mode)."""
    x, *indices, updates = inputs
    out = outputs[0]
    axes, sizes, mode = params
    _check_update("scatter", x, updates, mode)
    check_size("scatter", (x, *indices, updates))
    launches = copies("scatter", view_of(x), view_of(out))
    shape = indices[0].shape if indices else ()
    if not updates.size and not math.prod(shape):
        return launches
    if math.prod(shape) > 1 and any(sizes[k] != 1 for k in axes):
        raise refuse("scatter", "the Metal backend has no scatter of slices that can overlap", inputs)
    strides = row_major(out.shape)
    lowest("scatter", out, out.shape, strides)
    if indices:
        offsets, further = _offsets(
            "scatter", indices, shape, axes, [x.shape[k] for k in axes], [sizes[k] for k in axes],
            [strides[k] for k in axes],
        )
        launches += further
    else:
        part = View(out, out.dtype, tuple(sizes), strides)
        if mode != "assign":
            raise refuse("scatter", "the Metal backend combines at index arrays only", inputs)
        return launches + copies("scatter", view_of(updates), part)
    if not updates.size:
        return launches
    return launches + _scattered("scatter", updates, offsets, out, shape, tuple(sizes), strides, mode)


@plan("put_along_axis")
def put_along_axis(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan x with an element for each index combined with an update; params (axis, mode)."""
    x, indices, updates = inputs
    out = outputs[0]
    axis, mode = params
    _check_update("put_along_axis", x, updates, mode)
    check_size("put_along_axis", (x, indices, updates))
    launches = copies("put_along_axis", view_of(x), view_of(out))
    if not updates.size:
        return launches
    strides = row_major(out.shape)
    lowest("put_along_axis", out, out.shape, strides)
    base = tuple(0 if k == axis else step for k, step in enumerate(strides))
    offsets, further = _offsets(
        "put_along_axis", (indices,), indices.shape, (axis,), (x.shape[axis],), (1,), (strides[axis],), base
    )
    return [
        *launches,
        *further,
        *_scattered("put_along_axis", updates, offsets, out, updates.shape, (), (), mode),
    ]


@plan("nonzero")
def nonzero(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan the row-major positions of the true elements; the result's size is their number."""
    mask, out = inputs[0], outputs[0]
    check_size("nonzero", (mask,))
    if not out.size:
        return []
    space = layout(mask.shape, mask)
    argument, start = lowest("nonzero", mask, space.shape, space.strides[0])
    blocks = ceil_div(mask.size, GROUP * ELEMENTS)
    counts = Scratch(4 * blocks)
    packed = struct.pack("<2I", blocks, out.size) + strided(space, (start,))
    grid, one, group = (blocks, 1, 1), (1, 1, 1), (GROUP, 1, 1)
    return [
        Launch("indexing", "count_true", (), (argument, counts, packed), grid, group),
        Launch("indexing", "add_counts", (), (counts, packed), one, group),
        Launch("indexing", "positions", (), (argument, counts, out, packed), grid, group),
    ]
