"""What the plans of fused kernels and products share: dtypes as function constants, layouts as bytes.

Mirrors metal/kernels/operands.h. Sees layouts and dtypes, never storages; knows nothing of what kernels compute.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from mlxr.backends.metal.launch import Argument, check_dtypes, check_size, collapse, lowest, refuse
from mlxr.core import dtype as dtypes
from mlxr.core.dtype import Dtype
from mlxr.core.tensor import Tensor

__all__ = [
    "FLOATS", "INDICES", "INTEGERS", "MASK_ADDED", "MASK_BOOL", "MASK_CAUSAL", "MASK_NONE", "MAX_LEAD", "bind",
    "broadcast_strides", "dtype_constants", "joined", "pack_lead", "pack_matrix", "pack_steps", "require",
]

FLOATS = frozenset((dtypes.float32, dtypes.float16, dtypes.bfloat16))
INTEGERS = frozenset((
    dtypes.uint8, dtypes.uint16, dtypes.uint32, dtypes.uint64, dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64,
))
INDICES = frozenset((dtypes.uint32,))  # of gathered products
MASK_NONE, MASK_BOOL, MASK_ADDED, MASK_CAUSAL = range(4)
MAX_LEAD = 6  # leading axes that Lead holds

Axes = tuple[int, ...]


def require(op: str, tensors: Sequence[Tensor], allowed: frozenset[Dtype] = FLOATS) -> None:
    """Refuse dtypes that no kernel of the family has, and tensors too large for 32-bit numbers."""
    check_dtypes(op, tensors, allowed)
    check_size(op, tensors)


def dtype_constants(first: int, tensors: Sequence[Tensor]) -> tuple[tuple[int, str, int], ...]:
    """Return function constants from index `first` on: the dtype codes of `tensors`."""
    return tuple((first + k, "uint", t.dtype.code) for k, t in enumerate(tensors))


def joined(op: str, shape: Axes, strides: Sequence[Axes]) -> tuple[Axes, tuple[Axes, ...]]:
    """Return leading axes with those joined that all operands walk as one, and the operands' strides over them."""
    result = collapse(shape, *strides)
    if len(result.shape) > MAX_LEAD:
        raise refuse(op, f"leading axes {shape} that do not join to {MAX_LEAD} or fewer have no kernel on Metal: make "
                     "the operand contiguous", ())
    return result.shape, result.strides


def bind(op: str, x: Tensor, lead: Axes, n: int, strides: Axes, inner: int) -> tuple[Argument, int]:
    """Return what to bind for a window of `x`, and where in it, in elements, the first element lies."""
    return lowest(op, x, (*lead, n), (*strides, inner))


def broadcast_strides(x: Tensor, lead: Axes) -> Axes:
    """Return the strides of a stack of matrices over the leading extents of a result."""
    missing = len(lead) - max(x.ndim - 2, 0)
    return (0,) * missing + tuple(
        0 if extent == 1 else step for extent, step in zip(x.shape[:-2], x.strides[:-2], strict=True)
    )


def pack_lead(shape: Axes) -> bytes:
    """Return struct Lead: the extents of leading axes."""
    return struct.pack(f"<{MAX_LEAD + 2}I", len(shape), *shape, *(0,) * (MAX_LEAD - len(shape)), 0)


def pack_steps(start: int, lead: Axes, inner: int) -> bytes:
    """Return struct Steps: where an operand begins, and its strides within a row and over the leading axes."""
    return struct.pack(f"<{MAX_LEAD + 2}q", start, inner, *lead, *(0,) * (MAX_LEAD - len(lead)))


def pack_matrix(start: int, lead: Axes, row: int, column: int) -> bytes:
    """Return struct Matrix: a stack of matrices, with the strides of their rows and columns."""
    return pack_steps(start, lead, column) + struct.pack("<q", row)
