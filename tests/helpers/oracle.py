"""Bring the samples of a declared op to a dtype, and measure results in units of the last place.

Shared by the tests of ops, gradients and determinism. Knows NumPy and the public API, nothing of kernels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import mlxr as mx

FLOATS = (mx.float32, mx.float16, mx.bfloat16, mx.float64)
# Bits of the significand, and exponent of the smallest normal number.
PRECISION = {mx.float16: (11, -14), mx.bfloat16: (8, -126), mx.float32: (24, -126), mx.float64: (53, -1022),
             mx.complex64: (24, -126)}
NUMPY = {name: np.dtype(name) for name in (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
    "complex64")}


def round_to(values: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """Return float64 `values` rounded once, to nearest even, to a floating dtype; still float64."""
    values = np.asarray(values, np.float64)
    if dtype is not mx.bfloat16:
        with np.errstate(over="ignore"):
            return values.astype(NUMPY[dtype.name]).astype(np.float64)
    bits, lowest = PRECISION[dtype]
    exponent = np.maximum(np.frexp(values)[1] - 1, lowest)
    unit = np.ldexp(1.0, exponent - bits + 1)
    with np.errstate(invalid="ignore"):
        rounded = np.rint(values / unit) * unit
    rounded = np.where(np.abs(rounded) >= 2.0**128, np.copysign(np.inf, values), rounded)
    return np.where(np.isfinite(values), rounded, values)


def values_for(array: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """Return the sample values that `dtype` stands for: as NumPy holds them, bfloat16 as float64."""
    if array.dtype.kind in "biu":
        return array  # indices and masks
    if dtype.kind == "b":
        return array > 0
    if dtype.kind == "c":
        return (array + 0.5j * np.flip(array)).astype(np.complex64)
    if dtype.kind == "f":
        return round_to(array, dtype)
    whole = np.trunc(np.nan_to_num(array, posinf=3, neginf=-3))
    return (np.abs(whole) if dtype.kind == "u" else whole).astype(NUMPY[dtype.name])


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


def map_arrays(function: Callable[[np.ndarray], Any], value: Any) -> Any:
    """Return an argument with every ndarray in it (also within lists and tuples) replaced by ``function(array)``."""
    if isinstance(value, np.ndarray):
        return function(value)
    if isinstance(value, list) or (isinstance(value, tuple) and any(isinstance(v, np.ndarray) for v in value)):
        return type(value)(map_arrays(function, v) for v in value)
    return value


def call_with(function: Callable[..., Any], sample: Any, convert: Callable[[np.ndarray], Any]) -> Any:
    """Call `function` on a sample whose arrays have gone through `convert`."""
    args = [map_arrays(convert, a) for a in sample.args]
    return function(*args, **{k: map_arrays(convert, v) for k, v in sample.kwargs.items()})


def results(value: Any) -> list[Any]:
    """Return the one or several results of an op as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def unit_in_last_place(magnitude: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """Return the distance between neighbouring numbers of `dtype` near `magnitude`."""
    bits, lowest = PRECISION[dtype]
    exponent = np.maximum(np.frexp(np.asarray(magnitude, np.float64))[1] - 1, lowest)
    return np.ldexp(1.0, exponent - bits + 1)


def worst_ulps(got: np.ndarray, wanted: np.ndarray, dtype: mx.Dtype, scale: Any = None) -> float:
    """Return the largest error in units of the last place of max(abs(wanted), scale); infinite where no unit helps."""
    wanted = np.asarray(wanted)
    if wanted.size == 0:
        return 0.0
    if dtype.kind == "c":
        rounded = wanted.astype(np.complex64)
        magnitude = np.abs(wanted)
    else:
        rounded = round_to(wanted, dtype)
        magnitude = np.abs(np.asarray(wanted, np.float64))
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    if same.all():
        return 0.0
    finite = np.isfinite(got) & np.isfinite(wanted)
    if not (same | finite).all():
        return float("inf")
    if scale is not None:
        magnitude = np.maximum(magnitude, np.broadcast_to(np.asarray(scale, np.float64), magnitude.shape))
    with np.errstate(invalid="ignore"):
        error = np.abs(got - wanted) / unit_in_last_place(np.where(finite, magnitude, 1.0), dtype)
    return float(np.max(np.where(same, 0.0, error)))


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
