"""Neural networks: modules, layers, activations, losses, initializers; MLX's ``mlx.nn``."""

from mlxr.nn import init as init
from mlxr.nn import losses as losses
from mlxr.nn.layers import *
from mlxr.nn.utils import value_and_grad as value_and_grad
