"""Random numbers under MLX's name ``mlxr.random``: see mlxr/ops/random.py."""

import time as _time

from mlxr.backends import registry as _registry  # a key is a tensor, and its device needs a backend
from mlxr.ops.random import (
    bernoulli,
    bits,
    categorical,
    gumbel,
    key,
    laplace,
    multivariate_normal,
    normal,
    permutation,
    randint,
    seed,
    split,
    state,
    truncated_normal,
    uniform,
)

__all__ = [
    "bernoulli", "bits", "categorical", "gumbel", "key", "laplace", "multivariate_normal", "normal", "permutation",
    "randint", "seed", "split", "state", "truncated_normal", "uniform",
]

seed(int(_time.time() * 1000))
