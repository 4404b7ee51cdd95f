r"""Optimizers that treat every element of a parameter on its own: SGD and those that adapt a step size per element.

In the formulas `w` is the parameter, `g` its gradient and `\lambda` the learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.optimizers.base import Optimizer, Scheduled, Tree

__all__ = ["SGD", "AdaDelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "RMSprop"]


class _Elementwise(Optimizer):
    """An optimizer that keeps, for every parameter, arrays of its shape that begin with zeros."""

    _kept: tuple[str, ...] = ()

    def __init__(self, learning_rate: Scheduled) -> None:
        super().__init__()
        self._maybe_schedule("learning_rate", learning_rate)

    def init_single(self, parameter: mx.array, state: Tree) -> None:
        for name in self._kept:
            state[name] = mx.zeros_like(parameter)

    def _rate(self, gradient: mx.array) -> mx.array:
        """Return the learning rate in the dtype of the gradient, so that it does not promote the parameter."""
        return self.learning_rate.astype(gradient.dtype)

    def _require(self, name: str, ok: bool, condition: str) -> None:
        value = getattr(self, name)
        if not ok:
            raise InvalidValueError(
                f"{name} of {type(self).__name__} must be {condition}, not {value}", **{name: value}
            )

    def _require_betas(self, betas: Sequence[float]) -> None:
        self._require("betas", all(0.0 <= beta < 1.0 for beta in betas), "in [0, 1)")


class SGD(_Elementwise):
    r"""Stochastic gradient descent, with momentum if wanted.

    .. math::
        v_t &= \mu v_{t-1} + (1 - \tau) g_t \\
        w_t &= w_{t-1} - \lambda v_t

    Parameters
    ----------
    learning_rate
        A number or a schedule.
    momentum
        The factor :math:`\mu`.
    weight_decay
        What of the parameter is added to its gradient.
    dampening
        The share :math:`\tau`.
    nesterov
        Whether the step is :math:`g_t + \mu v_t`.

    Raises
    ------
    InvalidValueError
        If `nesterov` without momentum, or with dampening.
    """

    _kept = ("v",)

    def __init__(
        self,
        learning_rate: Scheduled,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(learning_rate)
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.dampening = dampening
        self.nesterov = nesterov
        self._require("nesterov", not nesterov or (momentum > 0 and dampening == 0), "with momentum and no dampening")

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        if self.weight_decay != 0:
            gradient = gradient + self.weight_decay * parameter
        step = gradient
        if self.momentum > 0:
            fresh = (1 - self.dampening) * gradient if self.dampening > 0 else gradient
            state["v"] = self.momentum * state["v"] + fresh
            step = gradient + self.momentum * state["v"] if self.nesterov else state["v"]
        return parameter - self._rate(gradient) * step


class RMSprop(_Elementwise):
    r"""Divide by the root of a running mean of squares.

    .. math::
        v_t &= \alpha v_{t-1} + (1 - \alpha) g_t^2 \\
        w_t &= w_{t-1} - \lambda g_t / (\sqrt{v_t} + \epsilon)

    Parameters
    ----------
    learning_rate
        A number or a schedule.
    alpha
        The factor :math:`\alpha`.
    eps
        The number :math:`\epsilon`.

    Raises
    ------
    InvalidValueError
        If `alpha` is negative or `eps` is not positive.
    """

    _kept = ("v",)

    def __init__(self, learning_rate: Scheduled, alpha: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(learning_rate)
        self.alpha = alpha
        self.eps = eps
        self._require("alpha", alpha >= 0, "at least 0")
        self._require("eps", eps > 0, "positive")

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        state["v"] = self.alpha * state["v"] + (1 - self.alpha) * mx.square(gradient)
        return parameter - self._rate(gradient) * gradient / (mx.sqrt(state["v"]) + self.eps)


class Adagrad(_Elementwise):
    r"""Divide by the root of the sum of squares.

    .. math::
        v_t &= v_{t-1} + g_t^2 \\
        w_t &= w_{t-1} - \lambda g_t / (\sqrt{v_t} + \epsilon)

    Parameters
    ----------
    learning_rate
        A number or a schedule.
    eps
        The number :math:`\epsilon`.

    Raises
    ------
    InvalidValueError
        If `eps` is not positive.
    """

    _kept = ("v",)

    def __init__(self, learning_rate: Scheduled, eps: float = 1e-8) -> None:
        super().__init__(learning_rate)
        self.eps = eps
        self._require("eps", eps > 0, "positive")

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        state["v"] = state["v"] + mx.square(gradient)
        return parameter - self._rate(gradient) * gradient / (mx.sqrt(state["v"]) + self.eps)


class AdaDelta(_Elementwise):
    r"""Scale by the ratio of running means of the squares of steps and gradients.

    .. math::
        v_t &= \rho v_{t-1} + (1 - \rho) g_t^2 \\
        d_t &= g_t \sqrt{u_{t-1} + \epsilon} / \sqrt{v_t + \epsilon} \\
        u_t &= \rho u_{t-1} + (1 - \rho) d_t^2 \\
        w_t &= w_{t-1} - \lambda d_t

    Parameters
    ----------
    learning_rate
        A number or a schedule.
    rho
        The factor :math:`\rho`.
    eps
        The number :math:`\epsilon`.

    Raises
    ------
    InvalidValueError
        If `rho` is negative or `eps` is not positive.
    """

    _kept = ("v", "u")

    def __init__(self, learning_rate: Scheduled, rho: float = 0.9, eps: float = 1e-6) -> None:
        super().__init__(learning_rate)
        self.rho = rho
        self.eps = eps
        self._require("rho", rho >= 0, "at least 0")
        self._require("eps", eps > 0, "positive")

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        state["v"] = self.rho * state["v"] + (1 - self.rho) * mx.square(gradient)
        step = mx.sqrt(state["u"] + self.eps) / mx.sqrt(state["v"] + self.eps) * gradient
        state["u"] = self.rho * state["u"] + (1 - self.rho) * mx.square(step)
        return parameter - self._rate(gradient) * step


class Adam(_Elementwise):
    r"""Divide a running mean by the root of a running mean of squares.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        w_t &= w_{t-1} - \lambda m_t / (\sqrt{v_t} + \epsilon)

    Parameters
    ----------
    learning_rate
        A number or a schedule.
    betas
        The factors :math:`\beta_1` and :math:`\beta_2`.
    eps
        The number :math:`\epsilon`.
    bias_correction
        Whether the means are divided by :math:`1 - \beta^t`, because they begin with zero.

    Raises
    ------
    InvalidValueError
        If a beta is not in [0, 1) or `eps` is negative.
    """

    _kept = ("m", "v")

    def __init__(
        self,
        learning_rate: Scheduled,
        betas: Sequence[float] = [0.9, 0.999],
        eps: float = 1e-8,
        bias_correction: bool = False,
    ) -> None:
        super().__init__(learning_rate)
        self.betas = betas
        self.eps = eps
        self.bias_correction = bias_correction
        self._require_betas(betas)
        self._require("eps", eps >= 0, "at least 0")

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        b1, b2 = self.betas
        rate = self._rate(gradient)
        m = state["m"] = b1 * state["m"] + (1 - b1) * gradient
        v = state["v"] = b2 * state["v"] + (1 - b2) * mx.square(gradient)
        if not self.bias_correction:
            return parameter - rate * m / (mx.sqrt(v) + self.eps)
        rate = (rate / (1 - b1**self.step)).astype(gradient.dtype)
        scale = mx.rsqrt(1 - b2**self.step).astype(gradient.dtype)
        return parameter - rate * m / (mx.sqrt(v) * scale + self.eps)


class AdamW(Adam):
    r"""`Adam`, after the parameter is multiplied by :math:`1 - \lambda d`.

    Parameters
    ----------
    learning_rate, betas, eps, bias_correction
        As of `Adam`.
    weight_decay
        The number :math:`d`.
    """

    def __init__(
        self,
        learning_rate: Scheduled,
        betas: Sequence[float] = [0.9, 0.999],
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        bias_correction: bool = False,
    ) -> None:
        super().__init__(learning_rate, betas, eps, bias_correction)
        self.weight_decay = weight_decay

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        decayed = parameter * (1 - self._rate(gradient) * self.weight_decay)
        return super().apply_single(gradient, decayed, state)


class Adamax(Adam):
    r"""`Adam` with a running maximum in the place of the root.

    .. math::
        v_t &= \max(\beta_2 v_{t-1}, |g_t|) \\
        w_t &= w_{t-1} - \lambda m_t / (v_t + \epsilon)

    Parameters
    ----------
    learning_rate, betas, eps
        As of `Adam`.
    """

    def __init__(
        self,
        learning_rate: Scheduled,
        betas: Sequence[float] = [0.9, 0.999],
        eps: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate, betas, eps)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        b1, b2 = self.betas
        m = state["m"] = b1 * state["m"] + (1 - b1) * gradient
        v = state["v"] = mx.maximum(b2 * state["v"], mx.abs(gradient))
        return parameter - self._rate(gradient) * m / (v + self.eps)


class Lion(_Elementwise):
    r"""Steps of one size, in the direction of the sign of a running mean.

    .. math::
        c_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2) g_t \\
        w_t &= (1 - \lambda d) w_{t-1} - \lambda \, \mathrm{sign}(c_t)

    Parameters
    ----------
    learning_rate
        A number or a schedule.
    betas
        The factors :math:`\beta_1` and :math:`\beta_2`.
    weight_decay
        The number :math:`d`.

    Raises
    ------
    InvalidValueError
        If a beta is not in [0, 1).
    """

    _kept = ("m",)

    def __init__(
        self,
        learning_rate: Scheduled,
        betas: Sequence[float] = [0.9, 0.99],
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate)
        self.betas = betas
        self.weight_decay = weight_decay
        self._require_betas(betas)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: Tree) -> mx.array:
        b1, b2 = self.betas
        rate = self._rate(gradient)
        m = state["m"]
        direction = mx.sign(b1 * m + (1 - b1) * gradient)
        state["m"] = b2 * m + (1 - b2) * gradient
        if self.weight_decay > 0:
            parameter = (1 - rate * self.weight_decay) * parameter
        return parameter - rate * direction
