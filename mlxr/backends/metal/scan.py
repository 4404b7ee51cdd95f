"""Launch plans of scans along an axis. Must not know how elements are combined."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

from mlxr.backends.metal.copy import LANES, REAL_DTYPES
from mlxr.backends.metal.launch import (
    Argument,
    Launch,
    Layout,
    Scratch,
    ceil_div,
    check_dtypes,
    check_size,
    collapse,
    lowest,
    plan,
    row_major,
    strided,
)
from mlxr.backends.metal.reduce import PARTIAL, UNUSED, identity_of, lane_bits
from mlxr.core import dtype
from mlxr.core.dtype import Dtype
from mlxr.core.tensor import Tensor

# In the order of the enum in metal/kernels/scan.metal.
OPS = {"cumsum": "sum", "cumprod": "prod", "cummax": "max", "cummin": "min", "logcumsumexp": "logsumexp"}

GROUP = 256
BLOCK = 1024
# Threadgroups that fill a GPU; with fewer rows, long ones are cut into chunks of at least CHUNK elements.
ENOUGH = 128
CHUNK = 8 * BLOCK
# Rows whose elements lie side by side, from which on a thread walks each.
NEIGHBOURS = 32


class _Scan(NamedTuple):
    """One scan: what is the same in all of its launches."""

    op: str
    compute: Dtype
    reverse: bool
    inclusive: bool

    @property
    def lane(self) -> str:
        """The type that kernels compute in."""
        return LANES[self.compute]

    def constants(self, source: Dtype, result: Dtype) -> tuple[tuple[int, str, Any], ...]:
        """Return the function constants that every launch has."""
        return (
            (0, "uint", list(OPS).index(self.op)), (1, "uint", source.code), (2, "uint", self.compute.code),
            (3, "uint", result.code), (4, "bool", self.reverse), (5, "bool", self.inclusive),
        )

    def packed(self, rows: Layout, extent: int, chunk: int, steps: tuple[int, int], start: int) -> bytes:
        """Return ``ScanParams``; `steps` along a row of the operand and of the result."""
        value = -math.inf if self.op == "logcumsumexp" else identity_of(OPS[self.op], self.compute)
        head = struct.pack(
            "<Q3I2iI", lane_bits(value, self.lane), extent, chunk, ceil_div(extent, chunk), *steps, 0
        )
        return head + strided(rows, (start, 0))

    def rows(
        self, source: tuple[Argument, Dtype], carry: Argument | None, target: tuple[Tensor | Scratch, Dtype],
        info: bytes, grid: tuple[int, int], totals: bool = False,
    ) -> Launch:
        """Return the launch of ``scan_rows``: chunks of rows, which start from `carry` if that is given."""
        constants = (
            *self.constants(source[1], target[1]), (6, "bool", totals), (7, "bool", carry is not None)
        )
        arguments = (source[0], UNUSED if carry is None else carry, target[0], info)
        return Launch("scan", f"scan_rows_{self.lane}", constants, arguments, (*grid, 1), (GROUP, 1, 1))


def _launches(op: str, x: Tensor, out: Tensor, axis: int, reverse: bool, inclusive: bool) -> list[Launch]:
    compute = dtype.float32 if op == "logcumsumexp" else out.dtype if x.dtype.kind in "bui" else x.dtype
    scan = _Scan(op, compute, reverse, inclusive)
    others = [k for k in range(x.ndim) if k != axis]
    out_strides = row_major(out.shape)
    rows = collapse([x.shape[k] for k in others], [x.strides[k] for k in others], [out_strides[k] for k in others])
    argument, start = lowest(op, x, x.shape, x.strides)
    extent, steps = x.shape[axis], (x.strides[axis], out_strides[axis])

    neighbours = rows.shape[-1] if rows.strides[0][-1] == 1 else 1
    if neighbours >= NEIGHBOURS and steps[0] != 1:
        info = scan.packed(rows, extent, extent, steps, start)
        constants, groups = scan.constants(x.dtype, out.dtype), ceil_div(rows.size, GROUP)
        return [
            Launch(
                "scan", f"scan_columns_{scan.lane}", constants, (argument, out, info), (groups, 1, 1), (GROUP, 1, 1)
            )
        ]

    chunk = extent
    if rows.size < ENOUGH and extent >= 2 * CHUNK:
        chunk = max(ceil_div(ceil_div(extent, ceil_div(ENOUGH, rows.size)), BLOCK) * BLOCK, CHUNK)
    chunks = ceil_div(extent, chunk)
    info = scan.packed(rows, extent, chunk, steps, start)
    source = (argument, x.dtype)
    target: tuple[Tensor | Scratch, Dtype] = (out, out.dtype)
    grid = (chunks, rows.size)
    if chunks == 1:
        return [scan.rows(source, None, target, info, grid)]
    # The total of each chunk, then what comes before each, then the chunks from there.
    partial = PARTIAL[scan.lane]
    totals, before = (Scratch(rows.size * chunks * partial.itemsize) for _ in range(2))
    between = _Scan(op, partial, False, False)
    dense = Layout((rows.size,), ((chunks,), (chunks,)))
    return [
        scan.rows(source, None, (totals, partial), info, grid, totals=True),
        between.rows(
            (totals, partial), None, (before, partial), between.packed(dense, chunks, chunks, (1, 1), 0), (1, rows.size)
        ),
        scan.rows(source, before, target, info, grid),
    ]


def _scan(op: str) -> None:
    @plan(op)
    def scan(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], params: tuple[Any, ...]) -> list[Launch]:
        axis, reverse, inclusive = params
        check_dtypes(op, inputs, REAL_DTYPES)
        check_size(op, inputs)
        return _launches(op, inputs[0], outputs[0], axis, bool(reverse), bool(inclusive)) if outputs[0].size else []


for _op in OPS:
    _scan(_op)
