"""What all optimizers share: their state, its relation to the tree of parameters, and schedules.

An optimizer's state is one tree: ``step``, the scheduled numbers, and, in the structure of the parameters, a dict of
arrays for each parameter. So it is saved, loaded and compiled as any other tree. This file knows no update rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.nn.module import Module
from mlxr.utils import tree_flatten, tree_map, tree_merge, tree_reduce, tree_unflatten

__all__ = ["MultiOptimizer", "Optimizer", "clip_grad_norm"]

Tree: TypeAlias = dict[str, Any]
# A number, or a function from the step to one.
Scheduled: TypeAlias = float | mx.array | Callable[[mx.array], mx.array]


class Optimizer:
    """The base class of optimizers. A subclass defines `init_single` and `apply_single`.

    Parameters
    ----------
    schedulers
        By name, schedules of numbers of the state.
    """

    def __init__(self, schedulers: dict[str, Callable[[mx.array], mx.array]] | None = None) -> None:
        self._initialized = False
        self._state: Tree = {"step": mx.array(0, mx.uint64)}
        self._schedulers = dict(schedulers or {})

    # ---- what a subclass defines ----

    def init_single(self, parameter: mx.array, state: Tree) -> None:
        """Fill `state` with what the rule keeps for `parameter`."""
        raise NotImplementedError(f"{type(self).__name__} does not define init_single")

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        """Return the next value of `parameter`, and update `state`."""
        raise NotImplementedError(f"{type(self).__name__} does not define apply_single")

    # ---- what a user calls ----

    def update(self, model: Module, gradients: Tree) -> None:
        """Take one step: replace the parameters of `model` that have gradients."""
        model.update(self.apply_gradients(gradients, model))

    def apply_gradients(self, gradients: Tree, parameters: Tree) -> Tree:
        """Return the parameters after one step.

        Parameters
        ----------
        gradients
            A tree of gradients.
        parameters
            A tree, or a module, that has a parameter for every gradient.

        Returns
        -------
        dict
            The new parameters, in the structure of `gradients`.
        """
        if not self._initialized:
            self.init(gradients)
        # A step is taken with the numbers of the steps before it.
        for name, schedule in self._schedulers.items():
            self.state[name] = schedule(self.step)
        self.state["step"] = self.step + 1
        return tree_map(self.apply_single, gradients, parameters, self.state)

    def init(self, parameters: Tree) -> None:
        """Give the state a place for every parameter; what it has already, such as from a file, stays.

        It is called by the first `apply_gradients`. Call it before, to have the state's structure without a step.
        """
        self._grow(parameters, self._state)
        self._initialized = True

    def _grow(self, parameters: Any, state: Any) -> Any:
        """Return `state` with a dict, filled by `init_single`, for every leaf of `parameters`."""
        if isinstance(parameters, dict):
            for key, below in parameters.items():
                state[key] = self._grow(below, state.get(key, {}))
            return state
        if isinstance(parameters, (list, tuple)):
            # A level that a file's state lacks is an empty dict, whatever it stands for.
            places = list(state) if isinstance(state, (list, tuple)) else []
            places.extend({} for _ in range(len(parameters) - len(places)))
            return type(parameters)(map(self._grow, parameters, places))
        if not state:
            self.init_single(parameters, state)
        return state

    @property
    def state(self) -> Tree:
        """The tree of everything that the optimizer keeps between steps."""
        return self._state

    @state.setter
    def state(self, state: Tree) -> None:
        self._initialized = False
        self._state = state

    @property
    def step(self) -> mx.array:
        """How many steps have been taken."""
        return self.state["step"]

    @property
    def learning_rate(self) -> mx.array:
        """The learning rate of the last step, or the one that was set."""
        return self.state["learning_rate"]

    @learning_rate.setter
    def learning_rate(self, learning_rate: float | mx.array) -> None:
        self.state["learning_rate"] = mx.array(learning_rate)

    def _maybe_schedule(self, name: str, value: Scheduled) -> None:
        """Put a number into the state, or the first one of a schedule."""
        if callable(value):
            self._schedulers[name] = value
            self.state[name] = value(self.step)
        else:
            self.state[name] = mx.array(value)


class MultiOptimizer(Optimizer):
    """Several optimizers, each for some of the parameters.

    Parameters
    ----------
    optimizers
        The optimizers.
    filters
        One for each optimizer but the last, called as ``filter(path, gradient)``. A parameter belongs to the first
        optimizer whose filter returns True, or to the last one.

    Raises
    ------
    InvalidValueError
        If there is not one filter fewer than optimizers.
    """

    def __init__(self, optimizers: list[Optimizer], filters: list[Callable[[str, mx.array], bool]] | None = None):
        super().__init__()
        filters = list(filters or ())
        if len(filters) != len(optimizers) - 1:
            raise InvalidValueError(
                f"{len(optimizers)} optimizers need {len(optimizers) - 1} filters, not {len(filters)}", filters=filters
            )
        self._state = {}
        self.optimizers = optimizers
        self.filters = [*filters, lambda path, gradient: True]

    def _split(self, tree: Tree) -> list[Tree]:
        """Return the part of `tree` that belongs to each optimizer."""
        if len(self.optimizers) == 1:
            return [tree]
        parts: list[dict[str, Any]] = [{} for _ in self.optimizers]
        for path, leaf in tree_flatten(tree):
            owner = next(i for i, belongs in enumerate(self.filters) if belongs(path, leaf))
            parts[owner][path] = leaf
        return [tree_unflatten(part) if part else {} for part in parts]

    def init(self, parameters: Tree) -> None:
        for optimizer, part in zip(self.optimizers, self._split(parameters), strict=True):
            optimizer.init(part)

    def apply_gradients(self, gradients: Tree, parameters: Tree) -> Tree:
        updated: Tree = {}
        for optimizer, part in zip(self.optimizers, self._split(gradients), strict=True):
            updated = tree_merge(updated, optimizer.apply_gradients(part, parameters))
        return updated

    @property
    def state(self) -> Tree:
        """The states of the optimizers, under ``states``."""
        return {"states": [optimizer.state for optimizer in self.optimizers]}

    @state.setter
    def state(self, state: Tree) -> None:
        states = state.get("states", ())
        if len(states) != len(self.optimizers):
            raise InvalidValueError(
                f"the state must have {len(self.optimizers)} entries under 'states', and has {len(states)}",
                expected=len(self.optimizers),
                received=len(states),
            )
        for optimizer, own in zip(self.optimizers, states, strict=True):
            optimizer.state = own

    @property
    def learning_rate(self) -> mx.array:
        """The learning rate of the first optimizer; setting it sets all."""
        return self.optimizers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: float | mx.array) -> None:
        for optimizer in self.optimizers:
            optimizer.learning_rate = learning_rate


def clip_grad_norm(grads: Tree, max_norm: float) -> tuple[Tree, mx.array]:
    """Scale gradients down where their norm, taken over all of them, is larger than `max_norm`.

    Parameters
    ----------
    grads
        A tree of gradients.
    max_norm
        The largest norm, not negative.

    Returns
    -------
    tuple
        The tree of scaled gradients, and the norm before scaling.

    Raises
    ------
    InvalidValueError
        If `max_norm` is negative.
    """
    if max_norm < 0:
        raise InvalidValueError(f"max_norm must not be negative, and is {max_norm}", max_norm=max_norm)

    def add_square(total: Any, gradient: mx.array) -> mx.array:
        if gradient.dtype == mx.float16:  # whose largest number is 65504
            gradient = gradient.astype(mx.float32)
        return total + gradient.square().sum()

    norm = mx.sqrt(tree_reduce(add_square, grads, 0.0))
    factor = mx.minimum(max_norm / (norm + 1e-6), 1.0)

    def scale(gradient: mx.array) -> mx.array:
        scaled = gradient * factor
        return scaled.astype(gradient.dtype) if mx.issubdtype(gradient.dtype, mx.floating) else scaled

    return tree_map(scale, grads), norm
