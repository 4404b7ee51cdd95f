"""Launch plans of affine-quantized matrices and of products with them.

Mirrors metal/kernels/quantized.metal, whose comments say how memory is walked. Sees layouts, never storages.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from mlxr.backends.metal.launch import SIMD, Argument, Fault, Launch, ceil_div, plan
from mlxr.backends.metal.operands import (
    INDICES,
    bind,
    broadcast_strides,
    dtype_constants,
    joined,
    pack_lead,
    pack_matrix,
    pack_steps,
    require,
)
from mlxr.core import dtype as dtypes
from mlxr.core.tensor import Tensor

EDGE, TILE_THREADS = 32, 4 * SIMD
UNIT = 8                         # columns that a thread unpacks at once
VECTORS = 4                      # rows of x that a matrix-vector kernel takes at most
VECTOR_SIMDS, VECTOR_ROWS = 8, 4
WORDS = frozenset((dtypes.uint32,))

BITS, GROUP, DTYPE_X, DTYPE_SCALES, DTYPE_BIASES, DTYPE_OUT, TRANSPOSED, GATHERED, VECTORS_AT_ONCE = range(9)

Axes = tuple[int, ...]
Tensors = tuple[Tensor, ...]
Params = tuple[Any, ...]


def _format(group_size: int, bits: int) -> tuple[tuple[int, str, int], ...]:
    return (BITS, "uint", bits), (GROUP, "uint", group_size)


@plan("quantize")
def _quantize(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    (x,), (words, scales, biases), (group_size, bits) = inputs, outputs, params
    require("quantize", (x, scales, biases))
    if not x.size:
        return []
    rows, groups = math.prod(x.shape[:-1]), x.shape[-1] // group_size
    lead, (steps,) = joined("quantize", x.shape[:-1], [x.strides[:-1]])
    bound, start = bind("quantize", x, lead, x.shape[-1], steps, x.strides[-1])
    packed = pack_lead(lead) + pack_steps(start, steps, x.strides[-1]) + struct.pack("<II", rows, groups)
    constants = (*_format(group_size, bits), *dtype_constants(DTYPE_X, (x, scales, biases)))
    return [Launch("quantized", "quantize", constants, (bound, words, scales, biases, packed),
                   (ceil_div(rows * groups, VECTOR_SIMDS), 1, 1), (VECTOR_SIMDS * SIMD, 1, 1))]


@plan("dequantize")
def _dequantize(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    (_, scales, biases), (out,), (group_size, bits, _) = inputs, outputs, params
    require("dequantize", (scales, biases, out))
    if not out.size:
        return []
    rows, columns = math.prod(out.shape[:-1]), out.shape[-1]
    lead, strides = joined("dequantize", out.shape[:-1], [x.strides[:-1] for x in inputs])
    bound, packed = [], [pack_lead(lead), pack_matrix(0, (), 0, 0)]
    for x, steps in zip(inputs, strides, strict=True):
        argument, start = bind("dequantize", x, lead, x.shape[-1], steps, x.strides[-1])
        bound.append(argument)
        packed.append(pack_matrix(start, steps, 0, x.strides[-1]))
    packed.append(struct.pack("<6I", rows, columns, 0, 0, 0, 0))
    constants = (*_format(group_size, bits), *dtype_constants(DTYPE_SCALES, (scales, biases, out)))
    return [Launch("quantized", "dequantize", constants, (*bound, out, b"".join(packed)),
                   (ceil_div(columns, SIMD), ceil_div(rows, 4), 1), (SIMD, 4, 1))]


def _product(op: str, operands: Tensors, out: Tensor, params: Params,
             indices: Sequence[Argument] | None = None) -> list[Launch]:
    """Products of stacks of matrices; `indices`, and where to note a wrong one, name those of a gathered product."""
    transpose, group_size, bits = params
    x, w, scales, biases = operands
    require(op, (x, scales, biases, out))
    require(op, (w,), WORDS)
    if not out.size:
        return []
    gathered = indices is not None
    front = out.shape[:-2]
    m, n, k = out.shape[-2], out.shape[-1], x.shape[-1]
    if gathered:
        lead: Axes = ()
        strides: Sequence[Axes] = [t.strides[:1] for t in operands]
    else:
        lead, strides = joined(op, front, [broadcast_strides(t, front) for t in operands])
    bound: list[Argument] = []
    packed = [pack_lead(lead)]
    for t, steps in zip(operands, strides, strict=True):
        window = (*(t.shape[:1] if gathered else lead), t.shape[-2])
        row, column = t.strides[-2:]
        # An operand without elements has no memory, and nothing is read of it.
        argument, start = bind(op, t, window, t.shape[-1], (*steps, row), column) if t.size else (out, 0)
        bound.append(argument)
        packed.append(pack_matrix(start, steps, row, column))
    packed.append(struct.pack("<6I", m, n, k, x.shape[0], w.shape[0], 0))
    constants = (*_format(group_size, bits), *dtype_constants(DTYPE_X, (x, scales, biases, out)),
                 (GATHERED, "bool", gathered))
    arguments = (*bound, *(indices or (out,) * 3), out, b"".join(packed))
    batch = math.prod(front)
    if m <= VECTORS:
        function = "quantized_vector_rows" if transpose else "quantized_vector_columns"
        columns = VECTOR_SIMDS * VECTOR_ROWS if transpose else SIMD * UNIT
        return [Launch("quantized", function, (*constants, (VECTORS_AT_ONCE, "uint", m)), arguments,
                       (ceil_div(n, columns), 1, batch), (VECTOR_SIMDS * SIMD, 1, 1))]
    return [Launch("quantized", "quantized_tiles", (*constants, (TRANSPOSED, "bool", transpose)), arguments,
                   (ceil_div(n, EDGE), ceil_div(m, EDGE), batch), (TILE_THREADS, 1, 1))]


@plan("quantized_matmul")
def _quantized_matmul(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    return _product("quantized_matmul", inputs, outputs[0], params)


@plan("gather_qmm")
def _gather_qmm(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    *operands, lhs, rhs = inputs
    require("gather_qmm", (lhs, rhs), INDICES)
    fault = Fault("gather_qmm", (0, 0), (operands[0].shape[0], operands[1].shape[0]))
    return _product("gather_qmm", tuple(operands), outputs[0], params, (lhs, rhs, fault))
