"""Every optimizer and schedule computes what upstream MLX computes, and has its state."""

from __future__ import annotations

from pathlib import Path

import cases_optimizers
import numpy as np
import packed
import pytest

import mlxr as mx
from mlxr import optimizers

GOLDEN = packed.load(Path(__file__).parent.parent / "golden" / "optimizers.npz")

# What rounding to the parameters' dtype in every step may add up to.
TOLERANCE = {"float16": 5e-3, "bfloat16": 4e-2}


def require_equal(name: str, found: cases_optimizers.Arrays, expected: cases_optimizers.Arrays) -> None:
    """Compare arrays by name: names, dtypes and shapes exactly, values to rounding."""
    tolerance = TOLERANCE.get(name.rsplit(" ", maxsplit=1)[-1], 2e-5)
    assert sorted(found) == sorted(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype, key
        assert found[key].shape == array.shape, key
        np.testing.assert_allclose(found[key], array, rtol=tolerance, atol=tolerance, err_msg=key)


def test_golden_file_has_every_case() -> None:
    assert set(GOLDEN) == set(cases_optimizers.CASES)


@pytest.mark.parametrize("name", cases_optimizers.CASES)
def test_as_golden(name: str) -> None:
    require_equal(name, cases_optimizers.CASES[name].run(mx, optimizers), GOLDEN[name])


@pytest.mark.parametrize("name", cases_optimizers.CASES)
def test_as_upstream(name: str) -> None:
    core = pytest.importorskip("mlx.core", reason="upstream MLX is not installed")
    upstream = pytest.importorskip("mlx.optimizers", reason="upstream MLX is not installed")
    case = cases_optimizers.CASES[name]
    require_equal(name, case.run(mx, optimizers), case.run(core, upstream))
