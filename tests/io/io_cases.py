"""Builders of files and tensors that the IO tests share. Must not use the code under test to make its own input."""

from __future__ import annotations

import json
import struct

import numpy as np

import mlxr as mx
from mlxr.core.dtype import ALL_DTYPES

NAMES = [dtype.name for dtype in ALL_DTYPES]

# mlxr's dtype name -> the safetensors name, and the NumPy dtype of the same bits.
FORMAT_NAMES = {
    "bool": "BOOL", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "int8": "I8", "int16": "I16",
    "int32": "I32", "int64": "I64", "float16": "F16", "float32": "F32", "float64": "F64", "bfloat16": "BF16",
    "complex64": "C64",
}  # fmt: skip


def bits_dtype(name):
    """Return the NumPy dtype that holds the bits of the mlxr dtype `name`."""
    return np.dtype("uint16" if name == "bfloat16" else name)


def assemble(header, data=b"", length=None):
    """Return a safetensors file from a header (bytes or an object for JSON), its data, and the length to claim."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def describe(dtype="F32", shape=(1,), offsets=(0, 4)):
    """Return one tensor's description."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def random_bits(rng, name, shape):
    """Return an array of random elements of the mlxr dtype `name`: any bits at all, except that a bool is 0 or 1."""
    dtype = bits_dtype(name)
    if name == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.frombuffer(rng.bytes(count), dtype).reshape(shape)


def tensor_of(bits, name):
    """Return a tensor of dtype `name` with the given bits."""
    if name == "bfloat16":
        return mx.array(bits).view(mx.bfloat16)
    return mx.array(bits, mx.float64) if name == "float64" else mx.array(bits)


def bits_of(tensor):
    """Return a tensor's elements as bytes in row-major order."""
    return np.asarray(tensor.view(mx.uint16) if tensor.dtype == mx.bfloat16 else tensor).tobytes()
