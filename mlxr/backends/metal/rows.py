"""Launch plans of the kernels on rows: softmax, normalization, cross entropy, rotary embedding, and their gradients.

Mirrors metal/kernels/rows.metal, whose comments say how memory is walked. Sees layouts, never storages.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlxr.backends.metal.launch import SIMD, Argument, Launch, Scratch, ceil_div, plan, refuse
from mlxr.backends.metal.operands import (
    FLOATS,
    INTEGERS,
    MASK_ADDED,
    MASK_BOOL,
    MASK_CAUSAL,
    MASK_NONE,
    bind,
    dtype_constants,
    joined,
    pack_lead,
    pack_steps,
    require,
)
from mlxr.core import dtype as dtypes
from mlxr.core.tensor import Tensor

READS, MOST_SIMDS = 8, 32
NARROW = SIMD * READS        # rows up to this length belong to one simdgroup
NARROW_ROWS = 8              # such rows per threadgroup
OPERANDS = 4                 # Steps in RowsParams
HEADS = 4                    # heads that share the angles of a thread in rope
RATE_BYTES = 8
MOST_CONSTANT_BYTES = 4096   # of setBytes

Tensors = tuple[Tensor, ...]
Params = tuple[Any, ...]

WIDE, DTYPE, HAS_WEIGHT, HAS_BIAS, MASK_KIND, TRADITIONAL, HAS_FREQS, HAS_OFFSETS = 0, 1, 7, 8, 9, 10, 11, 12


class Rows:
    """The rows of one call: how many, how long, and how each operand steps through them.

    Attributes
    ----------
    bound : list of Argument
        The operands (rows, or one number per row), then the weights (one row for all), in the order they were given.
        In the place of a weight that is not there stands the first operand, which is not read in its place.
    """

    def __init__(self, op: str, lead: tuple[int, ...], n: int, operands: Sequence[Tensor],
                 weights: Sequence[Tensor | None] = (), eps: float = 0.0, queries: int = 1) -> None:
        self.count, self.n = math.prod(lead), n
        self.wide = n > NARROW
        self.bound: list[Argument] = []
        walks = [(x.strides[:-1], x.strides[-1]) if x.ndim > len(lead) else (x.strides, 0) for x in operands]
        shape, strides = joined(op, lead, [own for own, _ in walks])
        packed = []
        for x, own, (_, inner) in zip(operands, strides, walks, strict=True):
            argument, start = bind(op, x, shape, n if inner else 1, own, inner)
            self.bound.append(argument)
            packed.append(pack_steps(start, own, inner))
        for w in weights:
            argument, start = (self.bound[0], 0) if w is None else bind(op, w, (), n, (), w.strides[0])
            self.bound.append(argument)
            packed.append(pack_steps(start, (), 0 if w is None else w.strides[0]))
        packed += [pack_steps(0, (), 0)] * (OPERANDS - len(packed))
        self.params = pack_lead(shape) + b"".join(packed) + struct.pack("<IIfI", self.count, n, eps, queries)

    def launch(self, function: str, arguments: Sequence[Argument], constants: tuple[Any, ...]) -> Launch:
        """Return one launch over all the rows, with the parameters as its last argument."""
        if self.wide:
            simds, groups = min(ceil_div(self.n, NARROW), MOST_SIMDS), self.count
        else:
            simds = min(self.count, NARROW_ROWS)
            groups = ceil_div(self.count, simds)
        constants = ((WIDE, "bool", self.wide), *constants)
        return Launch("rows", function, constants, (*arguments, self.params), (groups, 1, 1), (simds * SIMD, 1, 1))


# ------------------------------------------------------------------ softmax

def softmax_plan(x: Tensor, out: Tensor, mask: Tensor | None = None, causal: bool = False) -> list[Launch]:
    """Softmax of rows; `mask` has the shape of `x`; `causal` takes the last two axes of `x` as queries and keys."""
    require("softmax", (x, out))
    if not x.size:
        return []
    kind = MASK_CAUSAL if causal else MASK_NONE
    if mask is not None:
        require("softmax", (mask,), FLOATS | {dtypes.bool_})
        kind = MASK_BOOL if mask.dtype is dtypes.bool_ else MASK_ADDED
    mask = x if mask is None else mask  # an argument that is not there is bound to x, and not read
    rows = Rows("softmax", x.shape[:-1], x.shape[-1], (x, mask), queries=x.shape[-2] if causal else 1)
    constants = (*dtype_constants(DTYPE, (x, mask, out)), (MASK_KIND, "int", kind))
    return [rows.launch("softmax", (*rows.bound, out), constants)]


@plan("softmax")
def _softmax(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    return softmax_plan(inputs[0], outputs[0])


@plan("softmax_vjp")
def _softmax_vjp(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    (y, g), (dx,) = inputs, outputs
    require("softmax_vjp", (y, g, dx))
    if not dx.size:
        return []
    rows = Rows("softmax_vjp", y.shape[:-1], y.shape[-1], (y, g))
    return [rows.launch("softmax_vjp", (*rows.bound, dx), dtype_constants(DTYPE, (y, g, dx)))]


# ------------------------------------------------------------------ normalization

def _norm(op: str, x: Tensor, w: Tensor | None, b: Tensor | None, eps: float, out: Tensor) -> list[Launch]:
    present = (x, x if w is None else w, x if b is None else b, out)
    require(op, present)
    if not out.size:
        return []
    rows = Rows(op, x.shape[:-1], x.shape[-1], (x,), (w, b), eps)
    constants = (*dtype_constants(DTYPE, present), (HAS_WEIGHT, "bool", w is not None),
                 (HAS_BIAS, "bool", b is not None))
    return [rows.launch(op, (*rows.bound, out), constants)]


@plan("layer_norm")
def _layer_norm(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    eps, has_w, has_b, _ = params
    return _norm("layer_norm", inputs[0], inputs[1] if has_w else None, inputs[-1] if has_b else None, eps, outputs[0])


@plan("rms_norm")
def _rms_norm(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    eps, has_w, _ = params
    return _norm("rms_norm", inputs[0], inputs[1] if has_w else None, None, eps, outputs[0])


@plan("layer_norm_vjp")
def _layer_norm_vjp(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    return _norm_vjp("layer_norm_vjp", inputs, outputs, params)


@plan("rms_norm_vjp")
def _rms_norm_vjp(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    return _norm_vjp("rms_norm_vjp", inputs, outputs, params)


def _norm_vjp(op: str, inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    """The gradient in x, with the moments of each row; then sums over blocks of rows; then over the blocks."""
    eps, has_w = params
    x, g = inputs[:2]
    w = inputs[2] if has_w else None
    require(op, (*inputs, *outputs))
    dx, *sums = outputs
    n = x.shape[-1]
    if not n:
        return []
    rows = Rows(op, x.shape[:-1], n, (x, g), (w,), eps)
    moments = Scratch(max(rows.count, 1) * 8)
    launches = []
    if rows.count:
        constants = (*dtype_constants(DTYPE, (x, g, x if w is None else w, dx)), (HAS_WEIGHT, "bool", has_w))
        launches.append(rows.launch(op, (*rows.bound, dx, moments), constants))
    block = max(64, ceil_div(rows.count, 64))
    blocks = max(ceil_div(rows.count, block), 1)
    partial = Scratch(blocks * 2 * n * 4)
    sources = rows.bound[:2] if rows.count else [partial, partial]  # nothing is read of an x that has no memory
    launches.append(Launch("rows", "norm_vjp_weight", dtype_constants(DTYPE, (x, g)),
                           (*sources, moments, partial, rows.params + struct.pack("<II", block, blocks)),
                           (ceil_div(n, SIMD), blocks, 1), (8 * SIMD, 1, 1)))
    for which, out in enumerate(sums):
        launches.append(Launch("rows", "sum_blocks", dtype_constants(DTYPE, (out,)),
                               (partial, out, struct.pack("<4I", n, blocks, which, 0)), (ceil_div(n, 64), 1, 1),
                               (64, 1, 1)))
    return launches


# ------------------------------------------------------------------ cross entropy

@plan("cross_entropy")
def _cross_entropy(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    (logits, targets), (out,) = inputs, outputs
    require("cross_entropy", (logits, out))
    require("cross_entropy", (targets,), INTEGERS)
    if not out.size:
        return []
    rows = Rows("cross_entropy", targets.shape, logits.shape[-1], (logits, targets))
    return [rows.launch("cross_entropy", (*rows.bound, out), dtype_constants(DTYPE, (logits, targets, out)))]


@plan("cross_entropy_vjp")
def _cross_entropy_vjp(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    (logits, targets, g), (out,) = inputs, outputs
    require("cross_entropy_vjp", (logits, g, out))
    require("cross_entropy_vjp", (targets,), INTEGERS)
    if not out.size:
        return []
    rows = Rows("cross_entropy_vjp", targets.shape, logits.shape[-1], inputs)
    return [rows.launch("cross_entropy_vjp", (*rows.bound, out), dtype_constants(DTYPE, (*inputs, out)))]


# ------------------------------------------------------------------ rotary embedding

def _two_floats(values: np.ndarray) -> bytes:
    """Numbers in float64 as pairs of float32, whose sum they are."""
    high = values.astype(np.float32)
    return np.stack([high, (values - high).astype(np.float32)], -1).tobytes()


def _vector(op: str, x: Tensor | None, stand_in: Tensor) -> tuple[Argument, bytes]:
    """What to bind for a vector of at most one axis, and its Steps; an operand that is not there is not read."""
    if x is None:
        return stand_in, pack_steps(0, (), 0)
    step = x.strides[0] if x.size > 1 else 0
    argument, start = bind(op, x, (), x.size, (), step)
    return argument, pack_steps(start, (), step)


@plan("rope")
def _rope(inputs: Tensors, outputs: Tensors, params: Params) -> list[Launch]:
    op = "rope"
    dims, traditional, base, scale, offset, which, inverse = params
    x, out = inputs[0], outputs[0]
    freqs = inputs[1] if "f" in which else None
    offsets = inputs[-1] if "o" in which else None
    require(op, (x, out))
    if offsets is not None:
        require(op, (offsets,), INTEGERS)
    if dims // 2 * RATE_BYTES > MOST_CONSTANT_BYTES:
        raise refuse(op, f"the Metal backend turns at most {MOST_CONSTANT_BYTES // 4} dims, not {dims}", inputs)
    if not out.size:
        return []
    batch, length, depth = x.shape[0], x.shape[-2], x.shape[-1]
    heads, (steps,) = joined(op, x.shape[1:-2], [x.strides[1:-2]])
    bound_x, start = bind(op, x, (batch, *x.shape[1:-1]), depth, x.strides[:-1], x.strides[-1])
    bound_freqs, freqs_steps = _vector(op, freqs, x)
    bound_offsets, offsets_steps = _vector(op, offsets, x)
    head_count = math.prod(heads)
    rates = np.zeros(1) if freqs is not None else scale * base ** (-np.arange(dims // 2) / (dims // 2))
    packed = b"".join((
        pack_lead(heads), pack_steps(start, steps, 0), struct.pack("<3q", x.strides[0], x.strides[-2], x.strides[-1]),
        freqs_steps, offsets_steps,
        struct.pack("<q5If", offset, batch, head_count, length, depth, dims, -1.0 if inverse else 1.0),
        _two_floats(np.array([scale])),
    ))
    constants = (
        *dtype_constants(DTYPE, (x,)), *dtype_constants(DTYPE + 2, (x if offsets is None else offsets, out)),
        (TRADITIONAL, "bool", traditional), (HAS_FREQS, "bool", freqs is not None),
        (HAS_OFFSETS, "bool", offsets is not None),
    )
    grid = (ceil_div(depth - dims // 2, SIMD), ceil_div(length, 4), batch * ceil_div(head_count, HEADS))
    arguments = (bound_x, bound_freqs, bound_offsets, out, _two_floats(rates), packed)
    return [Launch("rows", "rope", constants, arguments, grid, (SIMD, 4, 1))]
