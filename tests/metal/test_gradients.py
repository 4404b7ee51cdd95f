"""Gradients of every declared op that Metal has, on the stand-in against the CPU backend.

They are composed of ops, so what is tested is that the whole chain of them has plans, stays on the device, and agrees.
"""

import numpy as np
import oracle
import pytest
from metal_plans import agree, on

import mlxr as mx
from mlxr.ops.declare import REGISTRY

OPS = {
    op.name: op for op in REGISTRY.values() if op.samples and op.differentiable and mx.float32 in op.dtypes
}
# Host libraries (LAPACK, FFT) have no Metal kernels, and complex numbers are only moved.
LACKING = {name for name in OPS if name.startswith(("linalg.", "fft."))} - {"linalg.norm", "linalg.cross"}
SAMPLES = 3


def tensors(value, device):
    """Return a sample's arguments with its arrays as float32 tensors of a device (None: the CPU)."""
    if isinstance(value, (np.ndarray, np.generic)):
        x = oracle.tensor_of(oracle.values_for(np.asarray(value), mx.float32), mx.float32)
        return x if device is None else on(device, x)[0]
    if isinstance(value, (list, tuple)):
        return type(value)(tensors(item, device) for item in value)
    return {k: tensors(v, device) for k, v in value.items()} if isinstance(value, dict) else value


def leaves(tree):
    """Return the tensors of nested sequences."""
    return [leaf for item in tree for leaf in leaves(item)] if isinstance(tree, (list, tuple)) else [tree]


def gradients(op, sample, device):
    args, kwargs = tensors(sample.args, device), tensors(sample.kwargs, device)

    def loss(*args):
        results = op.function(*args, **kwargs)
        total = mx.zeros((), device=device or "cpu")
        for x in results if isinstance(results, (list, tuple)) else [results]:
            if x.dtype.kind == "f" and x.size:
                weights = np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
                total = total + mx.sum(x * mx.array(weights, device=x.device))
        return total

    positions = tuple(k for k in op.differentiable if k < len(args))
    return leaves(mx.grad(loss, argnums=positions)(*args))


@pytest.mark.parametrize("name", sorted(set(OPS) - LACKING))
def test_gradients_agree(name, device):
    op = OPS[name]
    compared = 0
    for sample in op.samples(np.random.default_rng(0)):
        if compared == SAMPLES:
            break
        expected = gradients(op, sample, None)
        for x, y in zip(expected, gradients(op, sample, device), strict=True):
            largest = float(mx.max(mx.abs(x)).item()) if x.size else 1.0
            agree(x, y, 64, max(largest, 1.0))
        compared += 1
    assert compared
