"""Optimizers and schedules of their numbers; MLX's ``mlx.optimizers``."""

from mlxr.optimizers.adaptive import SGD, AdaDelta, Adagrad, Adam, Adamax, AdamW, Lion, RMSprop
from mlxr.optimizers.base import MultiOptimizer, Optimizer, clip_grad_norm
from mlxr.optimizers.matrix import Adafactor, Muon
from mlxr.optimizers.schedulers import (
    cosine_decay,
    exponential_decay,
    join_schedules,
    linear_schedule,
    step_decay,
)

__all__ = [
    "SGD",
    "AdaDelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "MultiOptimizer",
    "Muon",
    "Optimizer",
    "RMSprop",
    "clip_grad_norm",
    "cosine_decay",
    "exponential_decay",
    "join_schedules",
    "linear_schedule",
    "step_decay",
]
