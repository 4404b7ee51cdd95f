"""Products whose extents straddle the kernel's blocks, strips and slices, on one thread and on several."""

from __future__ import annotations

import numpy as np
import pytest

import mlxr as mx

# (m, k, n): whole and broken strips, narrow column blocks, few rows on wide matrices, tall and thin.
SHAPES = [
    (400, 400, 400), (384, 384, 384), (65, 385, 400), (64, 700, 350), (37, 513, 912), (9, 40, 3700),
    (5, 33, 6600), (17, 129, 2049), (2100, 60, 96), (2049, 260, 200), (4100, 16, 31), (1, 900, 1700), (1700, 900, 1),
    (1, 5000, 1), (3, 1, 3000), (300, 5000, 7),
]
LAYOUTS = {"plain": mx.array, "turned": lambda a: mx.array(np.ascontiguousarray(a.T)).T}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product(shape, threads) -> None:
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, s).astype(np.float32) for s in ((m, k), (k, n)))
    wanted = a @ b  # whole numbers below 2**24: exact in any order
    before = mx.set_num_threads(threads)
    try:
        for left in LAYOUTS.values():
            for right in LAYOUTS.values():
                np.testing.assert_array_equal(np.array(left(a) @ right(b)), wanted)
        c = rng.integers(-4, 5, n).astype(np.float32)
        np.testing.assert_array_equal(np.array(mx.addmm(mx.array(c), mx.array(a), mx.array(b))), wanted + c)
        np.testing.assert_array_equal(np.array(mx.array(a, mx.float64) @ mx.array(b, mx.float64)), wanted)
    finally:
        mx.set_num_threads(before)
