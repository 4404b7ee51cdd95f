"""Make tensors of the samples of a declared op, in every layout, and take results apart.

Shared by the tests of ops, gradients and determinism. How values get to a dtype, and how far results are off, is
``mlxr.conformance.measure``'s. Knows NumPy and the public API, nothing of kernels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import mlxr as mx
from mlxr.conformance.measure import NUMPY, map_arrays, round_to, values_for, worst_ulps

__all__ = [
    "NUMPY", "bits_of", "call_with", "layouts", "map_arrays", "numpy_of", "results", "round_to", "samples_of",
    "tensor_of", "unaligned", "values_for", "worst_ulps",
]


def tensor_of(values: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """Return values of :func:`values_for` as a row-major tensor."""
    if values.dtype.kind in "biu":
        return mx.array(np.ascontiguousarray(values).reshape(values.shape))
    if dtype is mx.bfloat16:  # every bfloat16 is a float32 whose low half is zero
        halves = (np.asarray(values, np.float32).reshape(-1).view(np.uint32) >> 16).astype(np.uint16)
        return mx.array(halves).view(mx.bfloat16).reshape(values.shape)
    return mx.array(np.asarray(values, NUMPY[dtype.name], order="C"), dtype)


def numpy_of(x: mx.array) -> np.ndarray:
    """Return a tensor's elements as NumPy holds them; bfloat16 exactly, as float64."""
    if x.dtype is mx.bfloat16:
        halves = np.array(x.view(mx.uint16)).astype(np.uint32) << 16
        return halves.view(np.float32).astype(np.float64).reshape(x.shape)
    return np.array(x)


def bits_of(x: mx.array) -> tuple[Any, ...]:
    """Return what two tensors of the same bits have in common."""
    raw = x if x.dtype is not mx.bfloat16 else x.view(mx.uint16)
    return x.shape, x.dtype, np.array(raw).tobytes()


def call_with(function: Callable[..., Any], sample: Any, convert: Callable[[np.ndarray], Any]) -> Any:
    """Call `function` on a sample whose arrays have gone through `convert`."""
    args = [map_arrays(convert, a) for a in sample.args]
    return function(*args, **{k: map_arrays(convert, v) for k, v in sample.kwargs.items()})


def results(value: Any) -> list[Any]:
    """Return the one or several results of an op as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def layouts(x: mx.array) -> Iterator[tuple[str, mx.array]]:
    """Yield tensors with the elements of row-major `x` in other layouts: transposed, strided, reversed, unaligned."""
    if x.ndim > 1:
        yield "transposed", mx.contiguous(x.T).T
    if x.ndim:
        wide = mx.stack([x, mx.zeros_like(x)], -1)
        yield "strided", wide[..., 0]
        yield "reversed", mx.contiguous(x[..., ::-1])[..., ::-1]
    if x.ndim > 2:
        order = [*range(1, x.ndim), 0]
        yield "permuted", mx.contiguous(mx.transpose(x, order)).transpose(-1, *range(x.ndim - 1))
    yield "unaligned", unaligned(x)
    if x.dtype is not mx.bfloat16:
        frozen = np.array(x)
        frozen.flags.writeable = False
        yield "read-only", mx.asarray(frozen, x.dtype)


def unaligned(x: mx.array) -> mx.array:
    """Return the elements of `x` at an address that no dtype of more than one byte is aligned to."""
    from mlxr.core.interop import from_memory

    raw = np.array(x if x.dtype is not mx.bfloat16 else x.view(mx.uint16)).tobytes()
    return from_memory(b"\0" * 3 + raw, 3, x.shape, x.dtype)


def samples_of(op: Any, seed: int = 0) -> list[Any]:
    """Return the samples that an op declares, drawn from a seeded generator."""
    return list(itertools.islice(op.samples(np.random.default_rng(seed)), 64))
