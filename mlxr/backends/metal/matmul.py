"""Launch plans of matrix products.

Mirrors metal/kernels/matmul.metal, whose comments say how memory is walked. Transposes are strides, so no operand is
copied. Sees layouts, never storages.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlxr.backends.metal.launch import SIMD, Argument, Fault, Launch, Scratch, ceil_div, plan
from mlxr.backends.metal.operands import INDICES, bind, broadcast_strides, joined, pack_lead, pack_matrix, require
from mlxr.core.tensor import Tensor

LARGE, SMALL = 64, 32        # edges of tiles
GEMM_THREADS = 4 * SIMD
BLOCK_K = 16
ENOUGH_GROUPS = 64           # threadgroups that keep a GPU busy: below that, tiles are smaller, and k may be cut
LEAST_PART = 256             # multiplications that a part of k has at least
MATVEC_SIMDS, MATVEC_ROWS = 8, 4

A_BY_COLUMNS, B_BY_COLUMNS, HAS_ADDEND, GATHERED, SPLIT = range(5)

Axes = tuple[int, ...]
Tensors = tuple[Tensor, ...]
Params = tuple[Any, ...]


class _Operand(NamedTuple):
    """One operand of a product, as a stack of matrices: what to bind, and struct Matrix."""

    argument: Argument
    packed: bytes

    @classmethod
    def make(cls, op: str, x: Tensor, lead: Axes, steps: Axes, extents: Axes, strides: Axes) -> _Operand:
        argument, start = bind(op, x, (*lead, extents[0]), extents[1], (*steps, strides[0]), strides[1])
        return cls(argument, pack_matrix(start, steps, *strides))


def _absent(stand_in: Tensor) -> _Operand:
    """Return an operand that kernels do not read, bound to the memory of another."""
    return _Operand(stand_in, pack_matrix(0, (), 0, 0))


class _Product:
    """One call: extents, strides of the operands and what multiplies them."""

    def __init__(self, op: str, a: Tensor, b: Tensor, c: Tensor | None, out: Tensor, alpha: float = 1.0,
                 beta: float = 0.0, gathered: bool = False) -> None:
        operands = (a, b) if c is None else (a, b, c)
        require(op, (out,))
        require(op, (*operands, out), frozenset((out.dtype,)))
        self.op, self.a, self.b, self.c, self.out = op, a, b, c, out
        self.alpha, self.beta = alpha, beta
        self.m, self.n, self.k = out.shape[-2], out.shape[-1], a.shape[-1]
        self.gathered = gathered
        self.batch = math.prod(out.shape[:-2])
        self.lead: Axes = ()
        self.steps: Sequence[Axes]
        if gathered:
            self.steps = tuple(x.strides[:1] for x in operands)
        else:
            lead = out.shape[:-2]
            self.lead, self.steps = joined(op, lead, [broadcast_strides(x, lead) for x in operands])
        self.constants = ((HAS_ADDEND, "bool", c is not None),)

    def operand(self, position: int, extents: Axes, strides: Axes) -> _Operand:
        """Return an operand (0: a, 1: b, 2: c) under other names of its last two axes."""
        x = (self.a, self.b, self.c)[position]
        if x is None or not x.size:
            return _absent(self.out)
        lead = x.shape[:1] if self.gathered else self.lead
        return _Operand.make(self.op, x, lead, self.steps[position], extents, strides)

    def params(self, a: _Operand, b: _Operand, c: _Operand, m: int, n: int, k_part: int = 0, parts: int = 1) -> bytes:
        """Return struct GemmParams."""
        counts = (self.a.shape[0], self.b.shape[0], 0)  # read for gathered products only
        numbers = struct.pack("<5I2f3I", m, n, self.k, k_part, parts, self.alpha, self.beta, *counts)
        return pack_lead(self.lead) + a.packed + b.packed + c.packed + numbers

    def launches(self) -> list[Launch]:
        """Return the launches that make the product."""
        if not self.out.size:
            return []
        return self.matvec() if min(self.m, self.n) == 1 else self.tiles()

    def matvec(self) -> list[Launch]:
        """One row or one column: the larger operand is the matrix."""
        row, column = self.out.strides[-2:] if self.c is None else self.c.strides[-2:]
        if self.m == 1:
            results, along = self.n, column
            matrix = self.operand(1, (self.n, self.k), (self.b.strides[-1], self.b.strides[-2]))
            row_step, k_step = self.b.strides[-1], self.b.strides[-2]
            vector = self.operand(0, (1, self.k), (0, self.a.strides[-1]))
        else:
            results, along = self.m, row
            matrix = self.operand(0, (self.m, self.k), self.a.strides[-2:])
            row_step, k_step = self.a.strides[-2:]
            vector = self.operand(1, (1, self.k), (0, self.b.strides[-2]))
        addend = self.operand(2, (1, results), (0, along))
        by_rows = results == 1 or abs(k_step) <= abs(row_step)
        function = "matvec_rows_" if by_rows else "matvec_columns_"
        groups = ceil_div(results, MATVEC_SIMDS * MATVEC_ROWS if by_rows else SIMD)
        constants = (*self.constants, (A_BY_COLUMNS, "bool", k_step == 1)) if by_rows else self.constants
        return [Launch("matmul", function + self.out.dtype.name, constants,
                       (matrix.argument, vector.argument, addend.argument, self.out,
                        self.params(matrix, vector, addend, results, 1)),
                       (groups, 1, self.batch), (MATVEC_SIMDS * SIMD, 1, 1))]

    def tiles(self, indices: tuple[Argument, ...] = ()) -> list[Launch]:
        """Tiles of the result; `indices`, and where to note a wrong one, name the matrices of a gathered product."""
        dtype = self.out.dtype.name
        a = self.operand(0, (self.m, self.k), self.a.strides[-2:])
        b = self.operand(1, (self.k, self.n), self.b.strides[-2:])
        c = self.operand(2, (self.m, self.n), (self.out if self.c is None else self.c).strides[-2:])
        edge = LARGE
        if self.batch * ceil_div(self.m, LARGE) * ceil_div(self.n, LARGE) < ENOUGH_GROUPS:
            edge = SMALL
        grid = (ceil_div(self.n, edge), ceil_div(self.m, edge))
        groups = math.prod(grid) * self.batch
        parts = 1 if self.gathered else max(min(ENOUGH_GROUPS // groups, self.k // LEAST_PART), 1)
        k_part = ceil_div(ceil_div(self.k, parts), BLOCK_K) * BLOCK_K
        parts = ceil_div(self.k, k_part) if k_part else 1
        sums = Scratch(parts * self.out.size * 4) if parts > 1 else self.out
        packed = self.params(a, b, c, self.m, self.n, k_part, parts)
        constants = (
            *self.constants, (A_BY_COLUMNS, "bool", self.a.strides[-1] == 1),
            (B_BY_COLUMNS, "bool", self.b.strides[-1] == 1), (GATHERED, "bool", self.gathered),
            (SPLIT, "bool", parts > 1),
        )
        indices = indices or (self.out,) * 3
        arguments = (a.argument, b.argument, c.argument, *indices, self.out, sums, packed)
        launches = [Launch("matmul", f"gemm_{edge}_{dtype}", constants, arguments, (*grid, self.batch * parts),
                           (GEMM_THREADS, 1, 1))]
        if parts > 1:
            width = min(self.n, 256)
            launches.append(Launch("matmul", f"gemm_join_{dtype}", self.constants,
                                   (sums, c.argument, self.out, packed),
                                   (ceil_div(self.n, width), self.m, self.batch), (width, 1, 1)))
        return launches


@plan("matmul")
def _matmul(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    return _Product("matmul", inputs[0], inputs[1], None, outputs[0]).launches()


@plan("addmm")
def _addmm(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    (c, a, b), (alpha, beta) = inputs, params
    return _Product("addmm", a, b, c, outputs[0], alpha, beta).launches()


@plan("gather_mm")
def _gather_mm(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    (a, b, lhs, rhs), (out,) = inputs, outputs
    require("gather_mm", (lhs, rhs), INDICES)
    if not out.size:
        return []
    fault = Fault("gather_mm", (0, 0), (a.shape[0], b.shape[0]))
    return _Product("gather_mm", a, b, None, out, gathered=True).tiles((lhs, rhs, fault))
