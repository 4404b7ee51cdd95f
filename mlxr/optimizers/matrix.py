"""Optimizers that look at a parameter as a matrix: Adafactor and Muon."""

from __future__ import annotations

import mlxr as mx
from mlxr.optimizers.base import Optimizer, Scheduled, Tree

__all__ = ["Adafactor", "Muon"]


def _rms(x: mx.array) -> mx.array:
    return mx.sqrt(mx.mean(mx.square(x)))


class Adafactor(Optimizer):
    r"""Adaptive steps with memory for rows and columns only, in the place of one number per element.

    The running mean of squares of a matrix is kept as the means of its rows and of its columns; their outer product,
    divided by the mean of the rows, stands for it.

    Parameters
    ----------
    learning_rate
        A number or a schedule; needed where `relative_step` is False.
    eps
        What is added to squares, and the least scale of a parameter.
    clip_threshold
        The largest root mean square of a step before the learning rate.
    decay_rate
        The exponent :math:`c` of the factor :math:`1 - t^c` of the running means.
    beta_1
        The factor of a running mean of steps; None keeps none.
    weight_decay
        What of the parameter, times the learning rate, is subtracted.
    scale_parameter
        Whether the learning rate is multiplied by the root mean square of the parameter.
    relative_step
        Whether the learning rate is :math:`\min(0.01, 1 / \sqrt t)`.
    warmup_init
        Whether the 0.01 of that is :math:`10^{-6} t`.
    """

    def __init__(
        self,
        learning_rate: Scheduled | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta_1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
    ) -> None:
        super().__init__()
        if learning_rate is not None:
            self._maybe_schedule("learning_rate", learning_rate)
        self.eps = eps
        self.clip_threshold = clip_threshold
        self.decay_rate = decay_rate
        self.beta_1 = beta_1
        self.weight_decay = weight_decay
        self.scale_parameter = scale_parameter
        self.relative_step = relative_step
        self.warmup_init = warmup_init

    def init_single(self, parameter: mx.array, state: Tree) -> None:
        if parameter.ndim >= 2:
            *batch, rows, columns = parameter.shape
            state["exp_avg_sq_row"] = mx.zeros((*batch, rows), dtype=parameter.dtype)
            state["exp_avg_sq_col"] = mx.zeros((*batch, columns), dtype=parameter.dtype)
        else:
            state["exp_avg_sq"] = mx.zeros_like(parameter)
        if self.beta_1 is not None:
            state["exp_avg"] = mx.zeros_like(parameter)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        scale = _rms(parameter)
        rate = self._rate(scale)
        step = self._inverse_root(gradient, state, scale.dtype) * gradient
        step = rate * (step / mx.maximum(1.0, _rms(step) / self.clip_threshold))
        if self.beta_1 is not None:
            step = state["exp_avg"] = self.beta_1 * state["exp_avg"] + (1 - self.beta_1) * step
        if self.weight_decay != 0:
            parameter = parameter - parameter * (self.weight_decay * rate)
        return parameter - step

    def _rate(self, scale: mx.array) -> mx.array:
        """Return the learning rate for a parameter whose root mean square is `scale`."""
        if self.relative_step:
            largest = 1e-6 * self.step if self.warmup_init else 1e-2
            rate = mx.minimum(largest, mx.rsqrt(self.step))
        else:
            rate = self.learning_rate
        rate = rate.astype(scale.dtype)
        return mx.maximum(self.eps[1], scale) * rate if self.scale_parameter else rate

    def _inverse_root(self, gradient: mx.array, state: Tree, dtype: mx.Dtype) -> mx.array:
        """Update the running means of squares, and return 1 over the root of what they stand for."""
        keep = 1.0 - (self.step**self.decay_rate).astype(dtype)
        squares = mx.square(gradient) + self.eps[0]
        if gradient.ndim < 2:
            state["exp_avg_sq"] = keep * state["exp_avg_sq"] + (1 - keep) * squares
            return mx.rsqrt(state["exp_avg_sq"])
        rows = state["exp_avg_sq_row"] = keep * state["exp_avg_sq_row"] + (1 - keep) * mx.mean(squares, axis=-1)
        columns = state["exp_avg_sq_col"] = keep * state["exp_avg_sq_col"] + (1 - keep) * mx.mean(squares, axis=-2)
        by_row = mx.rsqrt(rows / mx.mean(rows, axis=-1, keepdims=True))
        return mx.expand_dims(by_row, -1) * mx.expand_dims(mx.rsqrt(columns), -2)


class Muon(Optimizer):
    r"""Momentum, made orthogonal: all singular values of the step of a matrix become nearly 1.

    Parameters with more than two axes are matrices of their first axis and the rest; those with fewer take the
    momentum as it is, and are better left to another optimizer (`MultiOptimizer`).

    Parameters
    ----------
    learning_rate
        A number or a schedule. It is multiplied by the root of rows over columns where that is more than 1.
    momentum
        The factor of the running mean.
    weight_decay
        What of the parameter is added to its gradient.
    nesterov
        Whether the step looks ahead.
    ns_steps
        How many Newton-Schulz iterations there are.
    """

    # A quintic that maps the singular values between 0 and 1 to about 1 in few iterations.
    _quintic = (3.4445, -4.7750, 2.0315)

    def __init__(
        self,
        learning_rate: Scheduled,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        nesterov: bool = True,
        ns_steps: int = 5,
    ) -> None:
        super().__init__()
        self._maybe_schedule("learning_rate", learning_rate)
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.ns_steps = ns_steps

    def init_single(self, parameter: mx.array, state: Tree) -> None:
        state["v"] = mx.zeros_like(parameter)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        if self.weight_decay != 0:
            gradient = gradient + self.weight_decay * parameter
        fresh = 1 - self.momentum
        step = state["v"] = self.momentum * state["v"] + fresh * gradient
        if self.nesterov:
            step = fresh * gradient + self.momentum * step
        rate = self.learning_rate.astype(gradient.dtype)
        if step.ndim >= 2:
            rows, columns = step.shape[-2:]
            step = self._orthogonal(step.reshape(step.shape[0], -1)).reshape(step.shape)
            rate = rate * max(1, rows / columns) ** 0.5
        return parameter - rate * step

    def _orthogonal(self, x: mx.array) -> mx.array:
        """Return `x` with singular values of nearly 1, by Newton-Schulz iterations."""
        if x.shape[0] > x.shape[1]:  # the smaller Gram matrix is the cheaper one
            return self._orthogonal(x.T).T
        a, b, c = self._quintic
        x = x / (mx.sqrt(mx.sum(mx.square(x))) + 1e-7)
        for _ in range(self.ns_steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        return x
