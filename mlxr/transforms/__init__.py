"""Function transformations: automatic differentiation and evaluation."""

from mlxr.transforms.autograd import checkpoint, custom_function, grad, jvp, stop_gradient, value_and_grad, vjp
from mlxr.transforms.evaluation import async_eval, depends, eval, synchronize

__all__ = [
    "async_eval", "checkpoint", "custom_function", "depends", "eval", "grad", "jvp", "stop_gradient", "synchronize",
    "value_and_grad", "vjp",
]
