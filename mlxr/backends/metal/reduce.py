"""Launch plans of reductions. Must not know how elements are combined, only what is combined with what."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlxr.backends.metal.copy import LANES, REAL_DTYPES
from mlxr.backends.metal.launch import (
    MAX_DIMS,
    SIMD,
    Argument,
    Launch,
    Scratch,
    ceil_div,
    check_dtypes,
    check_size,
    collapse,
    lowest,
    plan,
)
from mlxr.core import dtype
from mlxr.core.dtype import Dtype
from mlxr.core.tensor import Tensor

__all__ = ["OPS", "Reduced", "identity_of", "reduced"]

# In the order of the enums in metal/kernels/reduce.metal.
OPS = ("sum", "prod", "max", "min", "all", "any", "argmax", "argmin")
AS_IS, SQUARED_DISTANCE, EXP_OF_DIFFERENCE, CANDIDATE = range(4)
STORE, DIVIDE, LOG_AND_ADD = range(3)

# SIMD groups of a threadgroup; threads that share a column.
GROUPS = 8
ROWS = 8
# Elements of a row that one SIMD group reduces alone.
SHORT = 256
# Threadgroups that fill a GPU; with fewer, long reductions are cut into parts of at least so many elements.
ENOUGH = 256
PART_OF_ROW = 8192
PART_OF_COLUMN = 512

# What partial results of each lane type are stored as.
PARTIAL = {
    "float": dtype.float32, "int": dtype.int32, "uint": dtype.uint32, "long": dtype.int64, "ulong": dtype.uint64
}
UNUSED = bytes(16)


def identity_of(op: str, kind: Dtype) -> float | int:
    """Return what combines with every number of a dtype to that number."""
    if op in ("sum", "any"):
        return 0
    if op in ("prod", "all"):
        return 1
    largest = op in ("max", "argmax")
    if kind.kind == "f":
        return -math.inf if largest else math.inf
    if kind.kind == "b":
        return 0 if largest else 1
    bits = 8 * kind.itemsize
    low, high = (0, 2**bits - 1) if kind.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return low if largest else high


def lane_bits(value: float | int, lane: str) -> int:
    """Return the bits of a lane as an unsigned 64-bit number, for ``lane_from`` in metal/kernels/lanes.h."""
    if lane == "float":
        return int.from_bytes(struct.pack("<f", value), "little")
    return int(value) % 2**64


class Reduced(NamedTuple):
    """The places of a reduction's elements: an index space of the results and one of what each takes."""

    argument: Argument
    start: int
    kept: tuple[tuple[int, ...], tuple[int, ...]]
    taken: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def outputs(self) -> int:
        """Number of results."""
        return math.prod(self.kept[0])

    @property
    def extent(self) -> int:
        """Number of elements of a result."""
        return math.prod(self.taken[0])


def reduced(op: str, x: Tensor, axes: tuple[int, ...]) -> Reduced:
    """Return where the elements are that each result of a reduction over `axes` takes."""
    argument, start = lowest(op, x, x.shape, x.strides)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    spaces = []
    for group in (kept, sorted(axes)):
        space = collapse([x.shape[axis] for axis in group], [x.strides[axis] for axis in group])
        spaces.append((space.shape, space.strides[0]))
    return Reduced(argument, start, spaces[0], spaces[1])


def _packed(places: Reduced, extent: int, parts: int, part: int, identity: int, divisor: float) -> bytes:
    """Return ``ReduceParams``."""
    (kept, kept_steps), (taken, taken_steps) = places.kept, places.taken

    def room(values: tuple[int, ...]) -> tuple[int, ...]:
        return values + (0,) * (MAX_DIMS - len(values))

    return struct.pack(
        f"<4IQf3I{MAX_DIMS}I{MAX_DIMS}i{MAX_DIMS}I{MAX_DIMS}i",
        places.outputs, extent, parts, part, identity, divisor, places.start, len(kept), len(taken),
        *room(kept), *room(kept_steps), *room(taken), *room(taken_steps),
    )


def _launches(
    op: str,
    places: Reduced,
    source: Dtype,
    compute: Dtype,
    out: Tensor | Scratch,
    result: Dtype,
    extra: Argument = UNUSED,
    prepare: int = AS_IS,
    finish: int = STORE,
    divisor: float = 1.0,
) -> list[Launch]:
    """Return the launches of one reduction.

    Parameters
    ----------
    op : str
        Of ``OPS``.
    places : Reduced
    source : Dtype
        Of the elements in memory.
    compute : Dtype
        That they are cast to, and combined in the lane type of.
    out : Tensor or Scratch
    result : Dtype
        Of `out`.
    extra : Argument
        A float32 per result, for `prepare` and `finish`.
    prepare, finish : int
    divisor : float
        For ``DIVIDE``.
    """
    lane = LANES[compute]
    extent = places.extent
    outputs = places.outputs
    neighbours = places.kept[0][-1] if places.kept[1][-1] == 1 else 1  # results whose elements lie side by side
    by_columns = neighbours >= ROWS and extent > 1 and places.taken[1][-1] != 1
    if by_columns:
        simds = 1
        groups, shortest = ceil_div(outputs, SIMD), PART_OF_COLUMN
    else:
        simds = 1 if extent <= SHORT else GROUPS
        groups, shortest = ceil_div(outputs, GROUPS // simds), PART_OF_ROW
    parts = 1
    if groups < ENOUGH and extent >= 2 * shortest:
        parts = min(extent // shortest, ceil_div(ENOUGH, groups))
    part = ceil_div(max(extent, 1), parts)
    parts = ceil_div(max(extent, 1), part)
    identity = lane_bits(identity_of(op, compute), lane)
    is_position = op in ("argmax", "argmin")
    partial = dtype.uint32 if is_position else PARTIAL[lane]
    target, target_dtype = (out, result) if parts == 1 else (Scratch(outputs * parts * partial.itemsize), partial)
    constants = (
        (0, "uint", OPS.index(op)), (1, "uint", source.code), (2, "uint", compute.code), (3, "uint", target_dtype.code),
        (4, "uint", prepare), (5, "uint", finish if parts == 1 else STORE), (6, "uint", simds),
    )
    grid, group = (groups, parts, 1), ((SIMD, ROWS, 1) if by_columns else (SIMD * GROUPS, 1, 1))
    packed = _packed(places, extent, parts, part, identity, divisor)
    function = f"{'columns' if by_columns else 'rows'}_{lane}"
    first = Launch("reduce", function, constants, (places.argument, extra, target, packed), grid, group)
    if parts == 1:
        return [first]
    if is_position:
        # the same elements again, but only those that won their part
        return [first, *_candidates(op, places, source, compute, out, result, target, parts)]
    dense = Reduced(target, 0, ((outputs,), (parts,)), ((parts,), (1,)))
    return [first, *_launches(op, dense, partial, partial, out, result, extra, AS_IS, finish, divisor)]


def _candidates(
    op: str, places: Reduced, source: Dtype, compute: Dtype, out: Tensor | Scratch, result: Dtype, indices: Argument,
    count: int,
) -> list[Launch]:
    """Return the launch that finds the extremum among `count` positions for each result."""
    lane = LANES[compute]
    constants = (
        (0, "uint", OPS.index(op)), (1, "uint", source.code), (2, "uint", compute.code), (3, "uint", result.code),
        (4, "uint", CANDIDATE), (5, "uint", STORE), (6, "uint", 1),
    )
    packed = _packed(places, count, 1, count, lane_bits(identity_of(op, compute), lane), 1.0)
    grid = (ceil_div(places.outputs, GROUPS), 1, 1)
    return [
        Launch(
            "reduce", f"rows_{lane}", constants, (places.argument, indices, out, packed), grid, (SIMD * GROUPS, 1, 1)
        )
    ]


def _places(op: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], axes: Sequence[int]) -> Reduced | None:
    """Return the places of a reduction after the checks that all share; None if there is no result."""
    check_dtypes(op, inputs, REAL_DTYPES)
    check_size(op, (*inputs, *outputs))
    return reduced(op, inputs[0], tuple(axes)) if outputs[0].size else None


def _plain(op: str) -> None:
    @plan(op)
    def reduction(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
        x, out = inputs[0], outputs[0]
        places = _places(op, inputs, outputs, params[0])
        if places is None:
            return []
        compute = x.dtype
        if op in ("sum", "prod"):
            compute = out.dtype
        elif op in ("all", "any"):
            compute = dtype.bool_
        return _launches(op, places, x.dtype, compute, out, out.dtype)


for _op in OPS:
    _plain(_op)


@plan("mean")
def mean(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan the sum divided by the number of elements; params (axes,)."""
    x, out = inputs[0], outputs[0]
    places = _places("mean", inputs, outputs, params[0])
    if places is None:
        return []
    return _launches(
        "sum", places, x.dtype, dtype.float32, out, out.dtype, finish=DIVIDE, divisor=float(places.extent)
    )


@plan("var")
def var(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan the mean, then the sum of squared distances from it; params (axes, ddof)."""
    x, out = inputs[0], outputs[0]
    places = _places("var", inputs, outputs, params[0])
    if places is None:
        return []
    center = Scratch(4 * places.outputs)
    count = float(places.extent)
    return [
        *_launches("sum", places, x.dtype, dtype.float32, center, dtype.float32, finish=DIVIDE, divisor=count),
        *_launches(
            "sum", places, x.dtype, dtype.float32, out, out.dtype, center, SQUARED_DISTANCE, DIVIDE,
            max(count - params[1], 0.0),
        ),
    ]


@plan("logsumexp")
def logsumexp(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
    """Plan the maximum, then the logarithm of the sum of exponentials of the differences from it; params (axes,)."""
    x, out = inputs[0], outputs[0]
    places = _places("logsumexp", inputs, outputs, params[0])
    if places is None:
        return []
    center = Scratch(4 * places.outputs)
    return [
        *_launches("max", places, x.dtype, dtype.float32, center, dtype.float32),
        *_launches(
            "sum", places, x.dtype, dtype.float32, out, out.dtype, center, EXP_OF_DIFFERENCE, LOG_AND_ADD
        ),
    ]
