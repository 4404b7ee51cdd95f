"""Fused operations under MLX's name ``mlxr.fast``."""

from mlxr.ops.fused import cross_entropy, layer_norm, rms_norm, rope, scaled_dot_product_attention

__all__ = ["cross_entropy", "layer_norm", "rms_norm", "rope", "scaled_dot_product_attention"]
