"""Every layer and loss computes what upstream MLX computes, and has its gradients, parameters and dtypes."""

from __future__ import annotations

from pathlib import Path

import cases_nn
import numpy as np
import packed
import pytest

import mlxr as mx
from mlxr import nn

GOLDEN = packed.load(Path(__file__).parent.parent / "golden" / "nn.npz")


def require_equal(found: cases_nn.Arrays, expected: cases_nn.Arrays) -> None:
    """Compare arrays by name: names, dtypes, shapes and texts exactly, numbers to rounding."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        if array.dtype.kind == "U":
            assert str(found[name]) == str(array)
            continue
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        np.testing.assert_allclose(found[name], array, rtol=3e-5, atol=2e-5, err_msg=name)


def test_golden_file_has_every_case() -> None:
    assert set(GOLDEN) == set(cases_nn.CASES)


@pytest.mark.parametrize("name", cases_nn.CASES)
def test_as_golden(name: str) -> None:
    require_equal(cases_nn.CASES[name].run(mx, nn), GOLDEN[name])


@pytest.mark.parametrize("name", cases_nn.CASES)
def test_as_upstream(name: str) -> None:
    core = pytest.importorskip("mlx.core", reason="upstream MLX is not installed")
    upstream = pytest.importorskip("mlx.nn", reason="upstream MLX is not installed")
    require_equal(cases_nn.CASES[name].run(core, upstream), GOLDEN[name])
    require_equal(cases_nn.CASES[name].run(mx, nn), cases_nn.CASES[name].run(core, upstream))
