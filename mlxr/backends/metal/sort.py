"""Launch plans of sorts, partitions and searches. Must not know how keys are compared."""

from __future__ import annotations

import struct
from typing import Any

from mlxr.backends.metal.copy import REAL_DTYPES, View
from mlxr.backends.metal.launch import (
    Argument,
    At,
    Launch,
    Scratch,
    ceil_div,
    check_dtypes,
    check_size,
    collapse,
    layout,
    lowest,
    plan,
    row_major,
    strided,
)
from mlxr.core.dtype import Dtype
from mlxr.core.tensor import Tensor

__all__ = ["argsorted"]

# Pairs that a threadgroup sorts in its memory, and threads of a group elsewhere.
MAX_LENGTH = 1024
GROUP = 256


def _key(kind: Dtype) -> tuple[str, int]:
    """Return the type that a dtype's keys have, and its bytes."""
    return ("ulong", 8) if kind.itemsize == 8 else ("uint", 4)


def _launches(
    source: tuple[Argument, int], kind: Dtype, extent: int, x_step: int,
    x_rows: tuple[tuple[int, ...], tuple[int, ...]], out: Tensor | Scratch, out_step: int, out_rows: tuple[int, ...],
    by_value: bool, kth: int = 0, order: Scratch | None = None,
) -> list[Launch]:
    """Return the launches that sort rows.

    Parameters
    ----------
    source : (Argument, int)
        The elements, from their lowest address, and where the first one lies.
    kind : Dtype
        Of the elements.
    extent : int
        Elements of a row.
    x_step, out_step : int
        Steps along a row.
    x_rows : (tuple of int, tuple of int)
        Extents of the rows' index space, and x's strides there.
    out : Tensor or Scratch
        Where elements go, or uint32 indices.
    out_rows : tuple of int
        The result's strides in the space of rows.
    by_value : bool
    kth : int
    order : Scratch, optional
        Where given, elements are sorted by comparison with the one at rank `kth`; holds the order of each row.
    """
    x, start = source
    rows = collapse(x_rows[0], x_rows[1], out_rows)
    key, key_bytes = _key(kind)
    length = 2
    while length < min(extent, MAX_LENGTH):
        length *= 2
    blocks = ceil_div(extent, length)
    widths = []
    width = length
    while width < extent:
        widths.append(width)
        width *= 2

    def params(run: int) -> bytes:
        return struct.pack("<2I2i2I", extent, run, x_step, out_step, kth, 0) + strided(rows, (start, 0))

    def constants(last: bool) -> tuple[tuple[int, str, Any], ...]:
        return (
            (0, "uint", kind.code), (1, "uint", kind.itemsize), (2, "bool", by_value), (3, "bool", last),
            (4, "uint", length), (6, "bool", order is not None),
        )

    pairs: list[tuple[Argument, Argument]] = [
        (Scratch(rows.size * extent * key_bytes), Scratch(rows.size * extent * 4)) for _ in widths[:2]
    ] or [(out, out)]
    launches = [
        Launch(
            "sort", f"sort_blocks_{key}", constants(not widths),
            (x, *pairs[0], out, out if order is None else order, params(length)), (blocks, rows.size, 1),
            (max(length // 2, 32), 1, 1),
        )
    ]
    for turn, width in enumerate(widths):
        last = turn == len(widths) - 1
        to = (out, out) if last else pairs[(turn + 1) % 2]
        launches.append(
            Launch(
                "sort", f"merge_runs_{key}", constants(last), (x, *pairs[turn % 2], *to, out, params(width)),
                (ceil_div(extent, GROUP), rows.size, 1), (GROUP, 1, 1),
            )
        )
    return launches


def argsorted(keys: View, out: Scratch) -> list[Launch]:
    """Return the launches that put the stable order of a dense row of keys, as uint32 indices, into scratch."""
    (extent,) = keys.shape
    assert isinstance(keys.memory, Scratch)
    return _launches((keys.memory, 0), keys.dtype, extent, 1, ((1,), (0,)), out, 1, (0,), False)


def _along(op: str, x: Tensor, out: Tensor, axis: int, by_value: bool, kth: int | None = None) -> list[Launch]:
    """Return the launches that sort a tensor along an axis, or partition it around rank `kth`."""
    check_dtypes(op, (x,), REAL_DTYPES)
    check_size(op, (x,))
    if not out.size:
        return []
    others = [k for k in range(x.ndim) if k != axis]
    shape = tuple(x.shape[k] for k in others)
    rows = shape, tuple(x.strides[k] for k in others)
    extent, step = x.shape[axis], x.strides[axis]
    source = lowest(op, x, x.shape, x.strides)
    out_strides = row_major(out.shape)
    target = out, out_strides[axis], tuple(out_strides[k] for k in others)
    if kth is None:
        return _launches(source, x.dtype, extent, step, rows, *target, by_value)
    order = Scratch(4 * x.size)
    dense = order, 1, tuple(extent * stride for stride in row_major(shape))
    return [
        *_launches(source, x.dtype, extent, step, rows, *dense, False),
        *_launches(source, x.dtype, extent, step, rows, *target, by_value, kth, order),
    ]


@plan("sort")
def sort(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan sorted elements; params (axis,)."""
    return _along("sort", inputs[0], outputs[0], params[0], True)


@plan("argsort")
def argsort(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan the indices that sort; params (axis,)."""
    return _along("argsort", inputs[0], outputs[0], params[0], False)


@plan("partition")
def partition(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan the elements less than that of rank kth, its equals, then the rest, each in their order; (kth, axis)."""
    return _along("partition", inputs[0], outputs[0], params[1], True, params[0])


@plan("argpartition")
def argpartition(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan the indices that partition; params (kth, axis)."""
    return _along("argpartition", inputs[0], outputs[0], params[1], False, params[0])


@plan("searchsorted")
def searchsorted(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan binary searches; params (right,)."""
    ordered, values = inputs
    out = outputs[0]
    check_dtypes("searchsorted", inputs, REAL_DTYPES)
    check_size("searchsorted", (ordered, values))
    if not out.size:
        return []
    where: Tensor | At
    where, start = lowest("searchsorted", ordered, ordered.shape, ordered.strides)
    space = layout(values.shape, values)
    what, values_start = lowest("searchsorted", values, space.shape, space.strides[0])
    packed = struct.pack("<Ii2I", ordered.size, ordered.strides[0], start, 0) + strided(space, (values_start,))
    constants = ((0, "uint", ordered.dtype.code), (5, "bool", bool(params[0])))
    return [
        Launch(
            "sort", f"search_{_key(ordered.dtype)[0]}", constants, (where, what, out, packed),
            (ceil_div(out.size, GROUP), 1, 1), (GROUP, 1, 1),
        )
    ]
