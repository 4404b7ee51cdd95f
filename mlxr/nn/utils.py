"""Transforms of functions of a module: gradients by its parameters, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import mlxr as mx
from mlxr.nn.module import Module

__all__ = ["checkpoint", "value_and_grad"]


@contextmanager
def _with_parameters(model: Module, parameters: dict[str, Any]) -> Iterator[None]:
    """Let `model` have other trainable parameters for a while: those that a transform traces."""
    own = model.trainable_parameters()
    model.update(parameters)
    try:
        yield
    finally:
        model.update(own)


def value_and_grad(model: Module, fn: Callable) -> Callable:
    """Return a function that computes `fn` and its gradients by the trainable parameters of `model`.

    Parameters
    ----------
    model
        The module. Which of its parameters are trainable is looked up at every call.
    fn
        Returns a scalar, or a tuple that begins with one. It uses `model` as it is, most often by calling it.

    Returns
    -------
    callable
        Takes the arguments of `fn`, and returns its value and the tree of gradients.

    Examples
    --------
    >>> model = Linear(2, 1)
    >>> def loss(x, y):
    ...     return mse_loss(model(x), y)
    >>> value, gradients = value_and_grad(model, loss)(mx.ones((3, 2)), mx.zeros((3, 1)))
    """

    def of_parameters(parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        with _with_parameters(model, parameters):
            return fn(*args, **kwargs)

    transformed = mx.value_and_grad(of_parameters)

    @wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return transformed(model.trainable_parameters(), *args, **kwargs)

    return wrapped


def checkpoint(module: Module, fn: Callable | None = None) -> Callable:
    """Return a function that computes `fn`, and computes it again for the gradients instead of keeping what it needs.

    Parameters
    ----------
    module
        The module whose trainable parameters have gradients.
    fn
        The function; by default the module itself.

    Returns
    -------
    callable
        Takes the arguments of `fn` and returns its value.
    """
    function = module if fn is None else fn

    def of_parameters(parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        with _with_parameters(module, parameters):
            return function(*args, **kwargs)

    transformed = mx.checkpoint(of_parameters)

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return transformed(module.trainable_parameters(), *args, **kwargs)

    return wrapped
