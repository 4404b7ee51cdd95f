"""Linear algebra under MLX's name ``mlxr.linalg``: see mlxr/ops/linalg.py."""

from mlxr.ops.linalg import svd

__all__ = ["svd"]
