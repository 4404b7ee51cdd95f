"""Activations: functions of one array, and the modules that apply them.

A module here holds at most a few numbers (PReLU: one array); it knows no other layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.nn.module import Module
from mlxr.ops import elementwise as fused

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "HardShrink",
    "HardTanh",
    "Hardswish",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU2",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Step",
    "Tanh",
    "celu",
    "elu",
    "gelu",
    "gelu_approx",
    "gelu_fast_approx",
    "glu",
    "hard_shrink",
    "hard_tanh",
    "hardswish",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "prelu",
    "relu",
    "relu2",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "step",
    "tanh",
]

# ---- functions ----


def sigmoid(x: mx.array) -> mx.array:
    r"""Return :math:`1 / (1 + e^{-x})`."""
    return mx.sigmoid(x)


def relu(x: mx.array) -> mx.array:
    r"""Return :math:`\max(x, 0)`."""
    return mx.maximum(x, 0)


def relu2(x: mx.array) -> mx.array:
    r"""Return :math:`\max(x, 0)^2`."""
    return mx.square(relu(x))


def relu6(x: mx.array) -> mx.array:
    r"""Return :math:`\min(\max(x, 0), 6)`."""
    return mx.minimum(relu(x), 6.0)


def leaky_relu(x: mx.array, negative_slope: float = 0.01) -> mx.array:
    r"""Return `x` where it is positive, ``negative_slope * x`` elsewhere (for slopes below 1)."""
    return mx.maximum(x * negative_slope, x)


def log_softmax(x: mx.array, axis: int = -1) -> mx.array:
    r"""Return :math:`x - \log \sum e^x` along `axis`."""
    # Shifting by the maximum changes nothing but the rounding, and so needs no gradient.
    shifted = x - mx.stop_gradient(mx.max(x, axis=axis, keepdims=True))
    return shifted - mx.logsumexp(shifted, axis=axis, keepdims=True)


def elu(x: mx.array, alpha: float = 1.0) -> mx.array:
    r"""Return `x` where it is positive, :math:`\alpha (e^x - 1)` elsewhere."""
    return mx.where(x > 0, x, alpha * (mx.exp(x) - 1))


def softmax(x: mx.array, axis: int = -1) -> mx.array:
    r"""Return :math:`e^x / \sum e^x` along `axis`."""
    return mx.softmax(x, axis=axis)


def softmin(x: mx.array, axis: int = -1) -> mx.array:
    r"""Return :math:`e^{-x} / \sum e^{-x}` along `axis`."""
    return mx.softmax(-x, axis=axis)


def softplus(x: mx.array) -> mx.array:
    r"""Return :math:`\log(1 + e^x)`."""
    return mx.logaddexp(x, 0)


def softsign(x: mx.array) -> mx.array:
    r"""Return :math:`x / (1 + |x|)`."""
    return x / (mx.abs(x) + 1)


def softshrink(x: mx.array, lambd: float = 0.5) -> mx.array:
    r"""Return `x` moved towards 0 by `lambd`, and 0 where it is nearer than that."""
    return mx.where(mx.abs(x) > lambd, x - lambd * mx.sign(x), 0)


def hard_shrink(x: mx.array, lambd: float = 0.5) -> mx.array:
    r"""Return `x` where :math:`|x| > \lambda`, and 0 elsewhere."""
    return mx.where(mx.abs(x) > lambd, x, 0)


def celu(x: mx.array, alpha: float = 1.0) -> mx.array:
    r"""Return :math:`\max(x, 0) + \alpha (e^{\min(x, 0) / \alpha} - 1)`."""
    return mx.maximum(x, 0.0) + alpha * (mx.exp(mx.minimum(x, 0.0) / alpha) - 1)


def silu(x: mx.array) -> mx.array:
    r"""Return :math:`x \sigma(x)`, where :math:`\sigma` is the sigmoid; it is also called swish."""
    return fused.silu(x)


def log_sigmoid(x: mx.array) -> mx.array:
    r"""Return :math:`\log \sigma(x)`."""
    return -softplus(-x)


def gelu(x: mx.array) -> mx.array:
    r"""Return :math:`x \Phi(x)`, where :math:`\Phi` is the normal distribution function.

    See Also
    --------
    gelu_approx, gelu_fast_approx
    """
    return fused.gelu(x)


def gelu_approx(x: mx.array) -> mx.array:
    r"""Return `gelu` by :math:`x / 2 \cdot (1 + \tanh(\sqrt{2 / \pi} (x + 0.044715 x^3)))`."""
    return fused.gelu_tanh(x)


def gelu_fast_approx(x: mx.array) -> mx.array:
    r"""Return `gelu` by :math:`x \sigma(1.702 x)`."""
    return fused.gelu_sigmoid(x)


def glu(x: mx.array, axis: int = -1) -> mx.array:
    r"""Return :math:`a \sigma(b)`, where `a` and `b` are the halves of `x` along `axis`."""
    a, b = mx.split(x, 2, axis=axis)
    return a * mx.sigmoid(b)


def step(x: mx.array, threshold: float = 0.0) -> mx.array:
    r"""Return the integer 1 where `x` is at least `threshold`, and 0 elsewhere."""
    return mx.where(x >= threshold, 1, 0)


def selu(x: mx.array) -> mx.array:
    r"""Return :math:`1.0507 \cdot \mathrm{elu}(x, 1.67326)`."""
    return elu(x, 1.67326) * 1.0507


def prelu(x: mx.array, alpha: mx.array) -> mx.array:
    r"""Return :math:`\max(0, x) + \alpha \min(0, x)`, where `alpha` is an array that is learned."""
    return mx.maximum(0, x) + alpha * mx.minimum(0, x)


def mish(x: mx.array) -> mx.array:
    r"""Return :math:`x \tanh(\mathrm{softplus}(x))`."""
    return x * mx.tanh(softplus(x))


def hardswish(x: mx.array) -> mx.array:
    r"""Return :math:`x \min(\max(x + 3, 0), 6) / 6`."""
    return x * relu6(x + 3) / 6


def hard_tanh(x: mx.array, min_val: float = -1.0, max_val: float = 1.0) -> mx.array:
    r"""Return `x`, cut off at `min_val` and `max_val`."""
    return mx.minimum(mx.maximum(x, min_val), max_val)


def tanh(x: mx.array) -> mx.array:
    r"""Return the hyperbolic tangent of `x`."""
    return mx.tanh(x)


# ---- modules ----


class _Activation(Module):
    """A module that applies one function; a subclass names it."""

    _function: Callable[..., mx.array]

    def __call__(self, x: mx.array) -> mx.array:
        return self._function(x)


class Sigmoid(_Activation):
    """Apply `sigmoid`."""

    _function = staticmethod(sigmoid)


class ReLU(_Activation):
    """Apply `relu`."""

    _function = staticmethod(relu)


class ReLU2(_Activation):
    """Apply `relu2`."""

    _function = staticmethod(relu2)


class ReLU6(_Activation):
    """Apply `relu6`."""

    _function = staticmethod(relu6)


class Softmax(_Activation):
    """Apply `softmax` along the last axis."""

    _function = staticmethod(softmax)


class Softmin(_Activation):
    """Apply `softmin` along the last axis."""

    _function = staticmethod(softmin)


class LogSoftmax(_Activation):
    """Apply `log_softmax` along the last axis."""

    _function = staticmethod(log_softmax)


class Softplus(_Activation):
    """Apply `softplus`."""

    _function = staticmethod(softplus)


class Softsign(_Activation):
    """Apply `softsign`."""

    _function = staticmethod(softsign)


class SiLU(_Activation):
    """Apply `silu`."""

    _function = staticmethod(silu)


class LogSigmoid(_Activation):
    """Apply `log_sigmoid`."""

    _function = staticmethod(log_sigmoid)


class SELU(_Activation):
    """Apply `selu`."""

    _function = staticmethod(selu)


class Mish(_Activation):
    """Apply `mish`."""

    _function = staticmethod(mish)


class Hardswish(_Activation):
    """Apply `hardswish`."""

    _function = staticmethod(hardswish)


class HardTanh(_Activation):
    """Apply `hard_tanh` with its default limits."""

    _function = staticmethod(hard_tanh)


class Tanh(_Activation):
    """Apply `tanh`."""

    _function = staticmethod(tanh)


class GLU(Module):
    """Apply `glu` along an axis."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def __call__(self, x: mx.array) -> mx.array:
        return glu(x, self.axis)


class LeakyReLU(Module):
    """Apply `leaky_relu`."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self._negative_slope = negative_slope

    def __call__(self, x: mx.array) -> mx.array:
        return leaky_relu(x, self._negative_slope)


class ELU(Module):
    """Apply `elu`."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self._alpha = alpha

    def __call__(self, x: mx.array) -> mx.array:
        return elu(x, self._alpha)


class CELU(Module):
    """Apply `celu`."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self._alpha = alpha

    def __call__(self, x: mx.array) -> mx.array:
        return celu(x, self._alpha)


class Softshrink(Module):
    """Apply `softshrink`."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def __call__(self, x: mx.array) -> mx.array:
        return softshrink(x, self.lambd)


class HardShrink(Module):
    """Apply `hard_shrink`."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def __call__(self, x: mx.array) -> mx.array:
        return hard_shrink(x, self.lambd)


class Step(Module):
    """Apply `step`."""

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = threshold

    def __call__(self, x: mx.array) -> mx.array:
        return step(x, self.threshold)


class PReLU(Module):
    """Apply `prelu` with a slope that is learned.

    Parameters
    ----------
    num_parameters
        1, or the size of the last axis of the input for a slope per feature.
    init
        The first value of every slope.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        self.weight = mx.full([num_parameters], init)

    def __call__(self, x: mx.array) -> mx.array:
        return prelu(x, self["weight"])


class GELU(Module):
    """Apply `gelu` or an approximation of it.

    Parameters
    ----------
    approx
        ``"none"`` for `gelu`, ``"precise"`` or ``"tanh"`` for `gelu_approx`, ``"fast"`` for `gelu_fast_approx`.

    Raises
    ------
    InvalidValueError
        If `approx` is something else.
    """

    _functions: ClassVar = {"none": gelu, "precise": gelu_approx, "tanh": gelu_approx, "fast": gelu_fast_approx}

    def __init__(self, approx: str = "none") -> None:
        super().__init__()
        if approx not in self._functions:
            raise InvalidValueError(f"approx must be one of {list(self._functions)}, not {approx!r}", approx=approx)
        self._approx = approx

    def __call__(self, x: mx.array) -> mx.array:
        return self._functions[self._approx](x)
