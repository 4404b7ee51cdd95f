"""Launch plans of attention and its gradients.

Mirrors metal/kernels/attention.metal, whose comments say how memory is walked. Sees layouts, never storages.
"""

from __future__ import annotations

import struct
from typing import Any

from mlxr.backends.metal.launch import SIMD, Argument, Launch, Scratch, ceil_div, lowest, plan, refuse
from mlxr.backends.metal.operands import (
    FLOATS,
    MASK_ADDED,
    MASK_BOOL,
    MASK_CAUSAL,
    MASK_NONE,
    dtype_constants,
    require,
)
from mlxr.core import dtype as dtypes
from mlxr.core.tensor import Tensor

DEPTHS = {64: 32, 128: 32, 256: 16}  # elements of a row that there are kernels for, and queries of their tiles
FEW_QUERIES = 4                      # of a head: up to here, keys and values are read once for all rows of a key head
ROWS, ROWS_SIMDS = 4, 8
ENOUGH_GROUPS = 64                   # threadgroups that keep a GPU busy: below that, keys are shared by several
LEAST_KEYS = 128                     # keys that each of them has at least
GRADIENT_SIMDS = 4

DTYPE_Q, DTYPE_OUT, MASK_KIND, DTYPE_MASK, HAS_SINKS, DTYPE_SINKS, WANTS_MOMENTS, ROWS_AT_ONCE, SPLIT, DTYPE_FROM = (
    0, 3, 4, 5, 6, 7, 8, 9, 10, 11
)

Tensors = tuple[Tensor, ...]
Params = tuple[Any, ...]


def _bind4(op: str, x: Tensor, instead: Argument) -> tuple[Argument, bytes]:
    """What to bind for a tensor of four axes, and struct Steps4; one without elements is not read."""
    argument, start = lowest(op, x, x.shape, x.strides) if x.size else (instead, 0)
    return argument, struct.pack("<5q", start, *x.strides)


class _Attention:
    """One call: what to bind for its operands, and what all its kernels are told."""

    def __init__(self, op: str, inputs: Tensors, tensors: Tensors, params: Params, out: Argument) -> None:
        scale, causal, has_mask, has_sinks, _ = params
        q, k, v = inputs
        require(op, inputs)
        self.op, self.has_sinks = op, has_sinks
        self.batch, self.heads, self.tq, self.d = q.shape
        self.key_heads, self.tk, self.dv = k.shape[1], k.shape[2], v.shape[3]
        depths = [depth for depth in DEPTHS if depth >= max(self.d, self.dv)]
        if not depths:
            raise refuse(op, f"the Metal backend has rows of at most {max(DEPTHS)} elements", inputs)
        self.depth = depths[0]
        self.kind = MASK_CAUSAL if causal else MASK_NONE
        mask = q
        if has_mask:
            mask = tensors[0]
            require(op, (mask,), FLOATS | {dtypes.bool_})
            self.kind = MASK_BOOL if mask.dtype is dtypes.bool_ else MASK_ADDED
        sinks = tensors[-1] if has_sinks else q
        require(op, (sinks,))
        bound = [_bind4(op, x, out) for x in (q, k, v, mask)]
        self.bound = [argument for argument, _ in bound]
        self.sinks: Argument = self.bound[0]
        start = step = 0
        if has_sinks:
            step = sinks.strides[0]
            self.sinks, start = lowest(op, sinks, sinks.shape, sinks.strides)
        self.numbers = (self.heads, self.key_heads, self.tq, self.tk, self.d, self.dv, scale)
        self.steps = b"".join(packed for _, packed in bound) + struct.pack("<2q", start, step)
        self.constants = (
            *dtype_constants(DTYPE_Q, inputs), (MASK_KIND, "int", self.kind), *dtype_constants(DTYPE_MASK, (mask,)),
            (HAS_SINKS, "bool", has_sinks), *dtype_constants(DTYPE_SINKS, (sinks,)),
        )

    def params(self, splits: int = 1) -> bytes:
        """Return struct AttentionParams."""
        return self.steps + struct.pack("<6IfI", *self.numbers, splits)

    def tiles(self, out: Argument, dtype: int, moments: Argument | None = None) -> Launch:
        """Many queries: the result, and maximum and sum of each row if there is room for them."""
        queries = DEPTHS[self.depth]
        constants = (*self.constants, (DTYPE_OUT, "uint", dtype), (WANTS_MOMENTS, "bool", moments is not None))
        arguments = (*self.bound, self.sinks, out, out if moments is None else moments, self.params())
        return Launch("attention", f"attention_tiles_{self.depth}", constants, arguments,
                      (ceil_div(self.tq, queries), self.heads, self.batch), (queries // 8 * SIMD, 1, 1))

    def rows(self, out: Tensor) -> list[Launch]:
        """Few queries."""
        rows = self.heads // self.key_heads * self.tq
        at_once = min(rows, ROWS)
        groups = ceil_div(rows, at_once) * self.key_heads * self.batch
        splits = max(min(ceil_div(ENOUGH_GROUPS, groups), self.tk // LEAST_KEYS), 1)
        parts = Scratch(out.size // self.dv * splits * (self.dv + 2) * 4) if splits > 1 else out
        constants = (*self.constants, *dtype_constants(DTYPE_OUT, (out,)), (ROWS_AT_ONCE, "uint", at_once),
                     (SPLIT, "bool", splits > 1))
        packed = self.params(splits)
        launches = [Launch("attention", f"attention_rows_{self.depth}", constants,
                           (*self.bound, self.sinks, out, parts, packed),
                           (ceil_div(rows, at_once), self.key_heads, self.batch * splits), (ROWS_SIMDS * SIMD, 1, 1))]
        if splits > 1:
            launches.append(Launch("attention", "attention_join", constants, (parts, self.sinks, out, packed),
                                   (self.batch * self.heads * self.tq, 1, 1), (SIMD, 1, 1)))
        return launches


@plan("scaled_dot_product_attention")
def _sdpa(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    op = "scaled_dot_product_attention"
    out = outputs[0]
    require(op, (out,))
    if not out.size:
        return []
    attention = _Attention(op, inputs[:3], inputs[3:], params, out)
    return attention.rows(out) if attention.tq <= FEW_QUERIES else [attention.tiles(out, out.dtype.code)]


# ------------------------------------------------------------------ gradients

def _eights(n: int) -> int:
    """The next multiple of 8."""
    return ceil_div(n, 8) * 8


def _pack(op: str, x: Tensor, factor: float) -> tuple[Scratch, list[Launch]]:
    """A tensor as float32 in whole fragments: its memory, and what fills it."""
    batch, heads, rows, columns = x.shape
    packed_rows, packed_columns = _eights(rows), _eights(columns)
    memory = Scratch(max(batch * heads * packed_rows * packed_columns, 1) * 4)
    if not x.size:
        return memory, []
    argument, steps = _bind4(op, x, memory)
    packed = steps + struct.pack("<5If", heads, rows, columns, packed_rows, packed_columns, factor)
    constants = dtype_constants(DTYPE_FROM, (x,))
    return memory, [Launch("attention", "attention_pack", constants, (argument, memory, packed),
                           (ceil_div(packed_columns, SIMD), ceil_div(packed_rows, 8), batch * heads), (SIMD, 8, 1))]


@plan("scaled_dot_product_attention_vjp")
def _sdpa_vjp(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    """The forward pass again, for result and moments; packed operands; delta; then dq, and dk with dv."""
    op = "scaled_dot_product_attention_vjp"
    q, k, v, g, *tensors = inputs
    dq, dk, dv, *dsinks = outputs
    require(op, (g, *outputs))
    attention = _Attention(op, (q, k, v), tuple(tensors), params, q if q.size else k)
    if not attention.batch or not attention.heads:
        return []
    rows = attention.batch * attention.heads * attention.tq
    result = Scratch(max(rows * attention.dv, 1) * 4)
    moments, delta = Scratch(max(rows, 1) * 8), Scratch(max(rows, 1) * 4)
    launches: list[Launch] = []
    memory: list[Argument] = []
    for x, factor in ((q, params[0]), (k, 1.0), (v, 1.0), (g, 1.0)):
        packed, fill = _pack(op, x, factor)
        memory.append(packed)
        launches += fill
    own = attention.params() + struct.pack(
        "<4I", _eights(attention.tq), _eights(attention.tk), _eights(attention.d), _eights(attention.dv)
    )
    if rows:
        launches.append(attention.tiles(result, dtypes.float32.code, moments))
        launches.append(Launch("attention", "attention_delta", (), (memory[3], result, delta, own), (rows, 1, 1),
                               (SIMD, 1, 1)))
    sources = (*memory, attention.bound[3], moments, delta)
    group, per_group = (GRADIENT_SIMDS * SIMD, 1, 1), GRADIENT_SIMDS * 8
    if dq.size:
        constants = (*attention.constants, *dtype_constants(DTYPE_OUT, (dq,)))
        launches.append(Launch("attention", f"attention_dq_{attention.depth}", constants, (*sources, dq, own),
                               (ceil_div(attention.tq, per_group), attention.heads, attention.batch), group))
    if dk.size:
        launches.append(Launch("attention", f"attention_dkv_{attention.depth}", attention.constants,
                               (*sources, dk, dv, own),
                               (ceil_div(attention.tk, per_group), attention.key_heads, attention.batch), group))
    for out in dsinks:
        constants = (*attention.constants, *dtype_constants(DTYPE_OUT, (out,)))
        launches.append(Launch("attention", "attention_dsinks", constants,
                               (attention.sinks, moments, delta, out, attention.params(),
                                struct.pack("<I", attention.batch)),
                               (attention.heads, 1, 1), (8 * SIMD, 1, 1)))
    return launches
