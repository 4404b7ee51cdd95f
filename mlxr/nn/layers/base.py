"""Where MLX programs look for Module; the class is in mlxr.nn.module."""

from mlxr.nn.module import Module

__all__ = ["Module"]
