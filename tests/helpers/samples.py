"""Samples of the ops' declarations, brought to a device and back. Must not know about any one backend."""

import numpy as np

import mlxr as mx


def moved(value, device):
    """Arrays of a sample as tensors on a device; the rest as it is."""
    if isinstance(value, np.ndarray):
        return mx.array(value, device=device)
    if isinstance(value, (list, tuple)):
        return type(value)(moved(v, device) for v in value)
    if isinstance(value, dict):
        return {k: moved(v, device) for k, v in value.items()}
    return value


def narrowed(x, op):
    """The samples' float64 as a dtype that the op takes and every backend has."""
    if isinstance(x, (list, tuple)):
        return type(x)(narrowed(v, op) for v in x)
    if not isinstance(x, np.ndarray) or x.dtype != np.float64:
        return x
    return x.astype(np.float32 if any(d.name == "float32" for d in op.dtypes) else np.int32)


def numbers(result):
    """Results as a list of NumPy arrays."""
    results = result if isinstance(result, (list, tuple)) else [result]
    return [np.array(r) for r in results]
