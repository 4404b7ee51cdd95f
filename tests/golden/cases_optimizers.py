"""Optimizers and schedules as cases that run on any package with MLX's API.

The golden file is made by running them on upstream MLX; the tests run them on mlxr, and on upstream where it is
installed. A case takes the array package and its optimizers, and returns arrays by name. Nothing here imports either.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

STEPS = 4
SHAPES = {"w": (4, 3), "b": (3,), "layers": [{"k": (2, 3, 4)}, {"tall": (5, 2)}]}


def map_leaves(function: Callable[[Any], Any], tree: Any, is_leaf: type) -> Any:
    """Return nested dicts and lists of ``function(leaf)``."""
    if isinstance(tree, is_leaf):
        return function(tree)
    if isinstance(tree, dict):
        return {k: map_leaves(function, v, is_leaf) for k, v in tree.items()}
    return [map_leaves(function, v, is_leaf) for v in tree]


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts and lists by dotted path."""
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return {path: tree}
    return {k: v for key, below in items for k, v in leaves(below, f"{path}.{key}" if path else str(key)).items()}


class Run:
    """Some steps of an optimizer on drawn parameters and gradients: the parameters and the state after them."""

    def __init__(self, name: str, make: Callable[[Any], Any], dtype: str = "float32") -> None:
        self.name = name
        self.make = make
        self.dtype = dtype

    def trees(self, mx: Any) -> tuple[Any, list[Any]]:
        """Return the parameters, and the gradients of every step."""
        generator = np.random.default_rng(zlib.crc32(self.name.encode()))

        def draw() -> Any:
            return map_leaves(
                lambda shape: mx.array(generator.standard_normal(shape).astype(np.float32)).astype(
                    getattr(mx, self.dtype)
                ),
                SHAPES,
                tuple,
            )

        return draw(), [draw() for _ in range(STEPS)]

    def run(self, mx: Any, optimizers: Any) -> Arrays:
        """Return the parameters and the state after all steps."""
        optimizer = self.make(optimizers)
        parameters, gradients = self.trees(mx)
        for gradient in gradients:
            parameters = optimizer.apply_gradients(gradient, parameters)
        found = {f"parameters.{k}": v for k, v in leaves(parameters).items()}
        found.update({f"state.{k}": v for k, v in leaves(optimizer.state).items()})
        return {k: np.array(v.astype(mx.float32) if "float" in str(v.dtype) else v) for k, v in found.items()}


class Values:
    """A schedule at some steps."""

    def __init__(self, name: str, make: Callable[[Any], Any]) -> None:
        self.name = name
        self.make = make

    def run(self, mx: Any, optimizers: Any) -> Arrays:
        """Return the values at integer arrays, as an optimizer calls it, and at Python integers."""
        schedule = self.make(optimizers)
        steps = [0, 1, 2, 5, 9, 10, 11, 25]
        by_array = [np.array(schedule(mx.array(step, mx.uint64))) for step in steps]
        by_integer = [float(schedule(step)) for step in steps]
        return {"by_array": np.array(by_array), "by_integer": np.array(by_integer, np.float32)}


class Clip:
    """Clipped gradients and their norm."""

    def __init__(self, name: str, max_norm: float, dtype: str = "float32") -> None:
        self.name = name
        self.max_norm = max_norm
        self.trees = Run(name, lambda _: None, dtype).trees

    def run(self, mx: Any, optimizers: Any) -> Arrays:
        """Return the clipped gradients and the norm."""
        clipped, norm = optimizers.clip_grad_norm(self.trees(mx)[0], self.max_norm)
        return {k: np.array(v) for k, v in leaves({"clipped": clipped, "norm": norm}).items()}


def _multi(o: Any) -> Any:
    is_matrix = lambda path, gradient: gradient.ndim == 2  # noqa: E731
    in_layers = lambda path, gradient: path.startswith("layers.1")  # noqa: E731
    return o.MultiOptimizer([o.Lion(1e-2), o.Muon(1e-2), o.SGD(1e-1, momentum=0.5)], [in_layers, is_matrix])


CASES = {
    case.name: case
    for case in [
        Run("SGD", lambda o: o.SGD(0.1)),
        Run("SGD momentum", lambda o: o.SGD(0.1, momentum=0.9, weight_decay=0.01)),
        Run("SGD dampening", lambda o: o.SGD(0.1, momentum=0.9, dampening=0.3)),
        Run("SGD nesterov", lambda o: o.SGD(0.1, momentum=0.9, nesterov=True)),
        Run("RMSprop", lambda o: o.RMSprop(0.01, alpha=0.9)),
        Run("Adagrad", lambda o: o.Adagrad(0.1)),
        Run("AdaDelta", lambda o: o.AdaDelta(1.0)),
        Run("Adam", lambda o: o.Adam(0.01)),
        Run("Adam bias_correction", lambda o: o.Adam(0.01, betas=[0.8, 0.9], eps=1e-6, bias_correction=True)),
        Run("Adam float16", lambda o: o.Adam(0.01, eps=1e-3, bias_correction=True), "float16"),
        Run("Adam scheduled", lambda o: o.Adam(o.cosine_decay(0.1, 3))),
        Run("AdamW", lambda o: o.AdamW(0.01, weight_decay=0.1)),
        Run("AdamW bfloat16", lambda o: o.AdamW(0.01, eps=1e-3, weight_decay=0.1), "bfloat16"),
        Run("Adamax", lambda o: o.Adamax(0.01)),
        Run("Lion", lambda o: o.Lion(0.01, weight_decay=0.1)),
        Run("Adafactor", lambda o: o.Adafactor()),
        Run("Adafactor warmup", lambda o: o.Adafactor(beta_1=0.9, weight_decay=0.1, warmup_init=True)),
        Run("Adafactor rate", lambda o: o.Adafactor(0.1, relative_step=False, scale_parameter=False)),
        Run("Muon", lambda o: o.Muon(0.01)),
        Run("Muon plain", lambda o: o.Muon(0.01, nesterov=False, weight_decay=0, ns_steps=3)),
        Run("MultiOptimizer", _multi),
        Values("exponential_decay", lambda o: o.exponential_decay(0.5, 0.9)),
        Values("step_decay", lambda o: o.step_decay(0.5, 0.9, 5)),
        Values("cosine_decay", lambda o: o.cosine_decay(0.5, 10, 0.1)),
        Values("linear_schedule", lambda o: o.linear_schedule(0.1, 0.5, 10)),
        Values(
            "join_schedules",
            lambda o: o.join_schedules(
                [o.linear_schedule(0.0, 0.5, 5), o.cosine_decay(0.5, 5), o.exponential_decay(0.1, 0.5)], [5, 10]
            ),
        ),
        Clip("clip_grad_norm", 0.5),
        Clip("clip_grad_norm not needed", 1e6),
        Clip("clip_grad_norm float16", 0.5, "float16"),
    ]
}
