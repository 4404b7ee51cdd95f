"""Normalization: LayerNorm, RMSNorm, GroupNorm, InstanceNorm, BatchNorm. Channels are the last axis."""

from __future__ import annotations

import mlxr as mx
from mlxr.errors import InvalidValueError, ShapeError
from mlxr.nn.module import Module

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class _Norm(Module):
    """What the normalizations share: the check of `eps`, and scale and shift per channel."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        if not eps > 0:
            raise InvalidValueError(f"eps of {type(self).__name__} must be positive, not {eps}", eps=eps)
        self.eps = eps

    def _add_affine(self, dims: int) -> None:
        self.weight = mx.ones((dims,))
        self.bias = mx.zeros((dims,))

    def _affine(self, x: mx.array) -> mx.array:
        return self["weight"] * x + self["bias"] if "weight" in self else x


class LayerNorm(_Norm):
    r"""Normalize the last axis to mean 0 and variance 1: :math:`(x - \bar x) / \sqrt{\mathrm{var}(x) + \epsilon}`.

    Parameters
    ----------
    dims
        Size of the last axis.
    eps
        Added to the variance.
    affine
        Whether the result is multiplied by ``weight``.
    bias
        Whether ``bias`` is added (only where `affine`).

    Raises
    ------
    InvalidValueError
        If `eps` is not positive.
    """

    def __init__(self, dims: int, eps: float = 1e-5, affine: bool = True, bias: bool = True) -> None:
        super().__init__(eps)
        self.dims = dims
        if affine:
            self.weight = mx.ones((dims,))
            if bias:
                self.bias = mx.zeros((dims,))

    def _extra_repr(self) -> str:
        return f"{self.dims}, eps={self.eps}, affine={'weight' in self}"

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.layer_norm(x, self.get("weight"), self.get("bias"), self.eps)


class RMSNorm(_Norm):
    r"""Divide the last axis by its root mean square: :math:`w x / \sqrt{\overline{x^2} + \epsilon}`.

    Parameters
    ----------
    dims
        Size of the last axis.
    eps
        Added to the mean square.

    Raises
    ------
    InvalidValueError
        If `eps` is not positive.
    """

    def __init__(self, dims: int, eps: float = 1e-5) -> None:
        super().__init__(eps)
        self.weight = mx.ones((dims,))

    def _extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self["weight"], self.eps)


class GroupNorm(_Norm):
    """Normalize groups of channels, over their channels and all positions, for each sample on its own.

    Parameters
    ----------
    num_groups
        Into how many groups the channels are divided.
    dims
        Size of the last axis, a multiple of `num_groups`.
    eps
        Added to the variance.
    affine
        Whether the result is multiplied by ``weight`` and ``bias`` is added.
    pytorch_compatible
        Whether a group is a run of neighbouring channels, as in PyTorch. By default it is every `num_groups`-th
        channel.

    Raises
    ------
    InvalidValueError
        If a number is not positive or `dims` is no multiple of `num_groups`.
    """

    def __init__(
        self, num_groups: int, dims: int, eps: float = 1e-5, affine: bool = True, pytorch_compatible: bool = False
    ) -> None:
        super().__init__(eps)
        if num_groups <= 0:
            raise InvalidValueError(f"num_groups must be positive, not {num_groups}", num_groups=num_groups)
        if dims <= 0 or dims % num_groups:
            raise InvalidValueError(
                f"dims must be a positive multiple of num_groups={num_groups}, not {dims}",
                dims=dims,
                num_groups=num_groups,
            )
        self.num_groups = num_groups
        self.dims = dims
        self.pytorch_compatible = pytorch_compatible
        if affine:
            self._add_affine(dims)

    def _extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.dims}, eps={self.eps}, affine={'weight' in self}, "
            f"pytorch_compatible={self.pytorch_compatible}"
        )

    def __call__(self, x: mx.array) -> mx.array:
        normalize = self._neighbouring if self.pytorch_compatible else self._strided
        return self._affine(normalize(x))

    def _neighbouring(self, x: mx.array) -> mx.array:
        batch, channels = x.shape[0], x.shape[-1]
        split = (batch, -1, self.num_groups, channels // self.num_groups)
        groups_first = x.reshape(split).transpose(0, 2, 1, 3)
        flat = mx.fast.layer_norm(groups_first.reshape(batch, self.num_groups, -1), None, None, self.eps)
        return flat.reshape(groups_first.shape).transpose(0, 2, 1, 3).reshape(x.shape)

    def _strided(self, x: mx.array) -> mx.array:
        groups = x.reshape(x.shape[0], -1, self.num_groups)
        mean = mx.mean(groups, axis=1, keepdims=True)
        variance = mx.var(groups, axis=1, keepdims=True)
        return ((groups - mean) * mx.rsqrt(variance + self.eps)).reshape(x.shape)


class InstanceNorm(_Norm):
    """Normalize each channel over all positions, for each sample on its own.

    Parameters
    ----------
    dims
        Size of the last axis.
    eps
        Added to the variance.
    affine
        Whether the result is multiplied by ``weight`` and ``bias`` is added.

    Raises
    ------
    InvalidValueError
        If `eps` is not positive.
    ShapeError
        When called with an input that is not ``(N, ..., C)`` with at least one axis between.
    """

    def __init__(self, dims: int, eps: float = 1e-5, affine: bool = False) -> None:
        super().__init__(eps)
        self.dims = dims
        if affine:
            self._add_affine(dims)

    def _extra_repr(self) -> str:
        return f"{self.dims}, eps={self.eps}, affine={'weight' in self}"

    def __call__(self, x: mx.array) -> mx.array:
        if x.ndim < 3:
            raise ShapeError(f"InstanceNorm takes at least 3 dimensions (N, ..., C), not {x.ndim}", shapes=[x.shape])
        channels_first = mx.moveaxis(x, -1, 1)
        flat = channels_first.reshape(x.shape[0], x.shape[-1], -1)
        normalized = mx.fast.layer_norm(flat, None, None, self.eps)
        return self._affine(mx.moveaxis(normalized.reshape(channels_first.shape), 1, -1))


class BatchNorm(_Norm):
    """Normalize each channel over the batch and all positions.

    In training mode with the statistics of the input, in evaluation mode with running averages of them.

    Parameters
    ----------
    num_features
        Size of the last axis.
    eps
        Added to the variance.
    momentum
        Weight of the newest statistics in the running averages.
    affine
        Whether the result is multiplied by ``weight`` and ``bias`` is added.
    track_running_stats
        Whether ``running_mean`` and ``running_var`` are kept; they are saved with the parameters and never trained.

    Raises
    ------
    InvalidValueError
        If `eps` is not positive.
    ShapeError
        When called with an input that is not ``(N, C)``, ``(N, L, C)`` or ``(N, H, W, C)``, or, in training mode, that
        has one value per channel.
    """

    _never_trainable = frozenset({"running_mean", "running_var"})

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(eps)
        self.num_features = num_features
        self.momentum = momentum
        self.track_running_stats = track_running_stats
        if affine:
            self._add_affine(num_features)
        if track_running_stats:
            self.running_mean = mx.zeros((num_features,))
            self.running_var = mx.ones((num_features,))
        self._no_grad.update(self._never_trainable)

    def _extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={'weight' in self}, "
            f"track_running_stats={self.track_running_stats}"
        )

    def __call__(self, x: mx.array) -> mx.array:
        if not 2 <= x.ndim <= 4:
            raise ShapeError(f"BatchNorm takes 2, 3 or 4 dimensions, not {x.ndim}", shapes=[x.shape])
        if self._training and x.size == x.shape[-1]:
            raise ShapeError(f"BatchNorm cannot train on one value per channel: {x.shape}", shapes=[x.shape])
        if self.track_running_stats and not self._training:
            mean, variance = self["running_mean"], self["running_var"]
        else:
            axes = tuple(range(x.ndim - 1))
            mean, variance = mx.mean(x, axis=axes), mx.var(x, axis=axes)
            if self.track_running_stats:
                self._track(mean, mx.var(x, axis=axes, ddof=1))
        return self._affine((x - mean) * mx.rsqrt(variance + self.eps))

    def _track(self, mean: mx.array, variance: mx.array) -> None:
        # The averages outlive the step, and must not keep what it recorded for its gradients.
        new = self.momentum
        self.running_mean = (1 - new) * self["running_mean"] + new * mx.stop_gradient(mean)
        self.running_var = (1 - new) * self["running_var"] + new * mx.stop_gradient(variance)
