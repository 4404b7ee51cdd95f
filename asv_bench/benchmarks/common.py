"""What the benchmarks share: seeded tensors of any dtype."""

import numpy as np

import mlxr as mx


def tensor(*shape, dtype="float32", seed=0, positive=False):
    """Return a tensor of normal deviates (their magnitude plus a tenth if `positive`)."""
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    if positive:
        values = np.abs(values) + np.float32(0.1)
    return mx.array(values).astype(getattr(mx, dtype))
