"""Losses: how far predictions are from targets. Every loss ends in a reduction: none, mean or sum."""

from __future__ import annotations

import math
from typing import Any, Literal

import mlxr as mx
from mlxr.errors import InvalidValueError, ShapeError

__all__ = [
    "binary_cross_entropy",
    "cosine_similarity_loss",
    "cross_entropy",
    "gaussian_nll_loss",
    "hinge_loss",
    "huber_loss",
    "kl_div_loss",
    "l1_loss",
    "log_cosh_loss",
    "margin_ranking_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
    "triplet_loss",
]

Reduction = Literal["none", "mean", "sum"]

_REDUCTIONS: dict[str, Any] = {"none": lambda loss: loss, "mean": mx.mean, "sum": mx.sum}


def _reduce(loss: mx.array, reduction: str) -> mx.array:
    if reduction not in _REDUCTIONS:
        raise InvalidValueError(f"reduction must be one of {list(_REDUCTIONS)}, not {reduction!r}", reduction=reduction)
    return _REDUCTIONS[reduction](loss)


def _require_same_shape(op: str, **arrays: mx.array) -> None:
    shapes = {name: tuple(a.shape) for name, a in arrays.items()}
    if len(set(shapes.values())) > 1:
        described = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ShapeError(f"{op} takes arrays of one shape, not {described}", op=op, shapes=list(shapes.values()))


def _weighted(op: str, loss: mx.array, weights: mx.array | None) -> mx.array:
    if weights is None:
        return loss
    _require_same_shape(op, weights=weights, loss=loss)
    return loss * weights


def _pick(x: mx.array, indices: mx.array, axis: int) -> mx.array:
    """Return the element of `x` along `axis` that `indices`, which lack that axis, name."""
    return mx.take_along_axis(x, mx.expand_dims(indices, axis), axis).squeeze(axis)


def cross_entropy(
    logits: mx.array,
    targets: mx.array,
    weights: mx.array | None = None,
    axis: int = -1,
    label_smoothing: float = 0.0,
    reduction: Reduction = "none",
) -> mx.array:
    """Return the negative log likelihood of the targets under the softmax of the logits.

    Parameters
    ----------
    logits
        Unnormalized log probabilities along `axis`.
    targets
        Class indices, of the shape of `logits` without `axis`; or probabilities, of the shape of `logits`.
    weights
        Factors of the losses, of their shape.
    axis
        The axis of the classes.
    label_smoothing
        Share of the probability, at least 0 and below 1, that is spread evenly over all classes.
    reduction
        ``"none"``, ``"mean"`` or ``"sum"``.

    Returns
    -------
    array
        The losses, or one number.

    Raises
    ------
    InvalidValueError
        If `label_smoothing` or `reduction` is out of range.
    ShapeError
        If the shapes do not fit.
    """
    if not 0 <= label_smoothing < 1:
        raise InvalidValueError(
            f"label_smoothing must be in [0, 1), not {label_smoothing}", label_smoothing=label_smoothing
        )
    classes = axis % logits.ndim
    per_target = (*logits.shape[:classes], *logits.shape[classes + 1 :])
    if tuple(targets.shape) not in (tuple(logits.shape), per_target):
        raise ShapeError(
            f"targets of shape {targets.shape} do not fit logits of shape {logits.shape}",
            op="cross_entropy",
            shapes=[logits.shape, targets.shape],
        )

    # Shifting by the maximum changes nothing but the rounding, and so needs no gradient.
    logits = logits - mx.stop_gradient(mx.max(logits, axis=axis, keepdims=True))
    are_probabilities = targets.ndim == logits.ndim
    score = mx.sum(logits * targets, axis=axis) if are_probabilities else _pick(logits, targets, axis)
    loss = mx.logsumexp(logits, axis=axis)
    if label_smoothing > 0:
        loss = loss - (1 - label_smoothing) * score - label_smoothing * mx.mean(logits, axis=axis)
    else:
        loss = loss - score
    return _reduce(_weighted("cross_entropy", loss, weights), reduction)


def binary_cross_entropy(
    inputs: mx.array,
    targets: mx.array,
    weights: mx.array | None = None,
    with_logits: bool = True,
    reduction: Reduction = "mean",
) -> mx.array:
    """Return the negative log likelihood of probabilities between two outcomes.

    Parameters
    ----------
    inputs
        Log odds, or probabilities where `with_logits` is False; the logarithms of those are cut off at -100.
    targets
        Probabilities, of the same shape.
    weights
        Factors of the losses, of the same shape.
    with_logits
        What `inputs` are.
    reduction
        ``"none"``, ``"mean"`` or ``"sum"``.

    Returns
    -------
    array
        The losses, or one number.

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    _require_same_shape("binary_cross_entropy", inputs=inputs, targets=targets)
    if with_logits:
        loss = mx.logaddexp(0.0, inputs) - inputs * targets
    else:
        log_true = mx.maximum(mx.log(inputs), -100)
        log_false = mx.maximum(mx.log(1 - inputs), -100)
        loss = -(targets * log_true + (1 - targets) * log_false)
    return _reduce(_weighted("binary_cross_entropy", loss, weights), reduction)


def l1_loss(predictions: mx.array, targets: mx.array, reduction: Reduction = "mean") -> mx.array:
    """Return the absolute differences of two arrays of one shape (``ShapeError`` where they differ)."""
    _require_same_shape("l1_loss", predictions=predictions, targets=targets)
    return _reduce(mx.abs(predictions - targets), reduction)


def mse_loss(predictions: mx.array, targets: mx.array, reduction: Reduction = "mean") -> mx.array:
    """Return the squared differences of two arrays of one shape (``ShapeError`` where they differ)."""
    _require_same_shape("mse_loss", predictions=predictions, targets=targets)
    return _reduce(mx.square(predictions - targets), reduction)


def nll_loss(inputs: mx.array, targets: mx.array, axis: int = -1, reduction: Reduction = "none") -> mx.array:
    """Return the negative log likelihood of the targets.

    Parameters
    ----------
    inputs
        Log probabilities along `axis`.
    targets
        Class indices, of the shape of `inputs` without `axis`.
    axis
        The axis of the classes.
    reduction
        ``"none"``, ``"mean"`` or ``"sum"``.

    Returns
    -------
    array
        The losses, or one number.
    """
    return _reduce(-_pick(inputs, targets, axis), reduction)


def gaussian_nll_loss(
    inputs: mx.array,
    targets: mx.array,
    vars: mx.array,
    full: bool = False,
    eps: float = 1e-6,
    reduction: Reduction = "mean",
) -> mx.array:
    """Return the negative log likelihood of the targets under normal distributions.

    Parameters
    ----------
    inputs
        The means.
    targets
        The values, of the same shape.
    vars
        The variances, of the same shape.
    full
        Whether the constant term is added.
    eps
        The least variance.
    reduction
        ``"none"``, ``"mean"`` or ``"sum"``.

    Returns
    -------
    array
        The losses, or one number.

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    _require_same_shape("gaussian_nll_loss", inputs=inputs, targets=targets, vars=vars)
    variance = mx.maximum(vars, eps)
    loss = 0.5 * (mx.log(variance) + mx.square(targets - inputs) / variance)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return _reduce(loss, reduction)


def kl_div_loss(inputs: mx.array, targets: mx.array, axis: int = -1, reduction: Reduction = "none") -> mx.array:
    """Return the Kullback-Leibler divergence of the targets from the inputs, both log probabilities along `axis`."""
    return _reduce(mx.sum(mx.exp(targets) * (targets - inputs), axis), reduction)


def smooth_l1_loss(
    predictions: mx.array, targets: mx.array, beta: float = 1.0, reduction: Reduction = "mean"
) -> mx.array:
    """Return `mse_loss` over twice `beta` for differences below `beta`, and `l1_loss` less half `beta` beyond.

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    _require_same_shape("smooth_l1_loss", predictions=predictions, targets=targets)
    distance = mx.abs(predictions - targets)
    return _reduce(mx.where(distance < beta, 0.5 * mx.square(distance) / beta, distance - 0.5 * beta), reduction)


def triplet_loss(
    anchors: mx.array,
    positives: mx.array,
    negatives: mx.array,
    axis: int = -1,
    p: int = 2,
    margin: float = 1.0,
    eps: float = 1e-6,
    reduction: Reduction = "none",
) -> mx.array:
    """Return by how much the positives fail to be nearer to the anchors, by `margin`, than the negatives.

    Parameters
    ----------
    anchors, positives, negatives
        Points along `axis`.
    axis
        The axis of the coordinates.
    p
        The norm of the distance.
    margin
        The difference that is wanted.
    eps
        Added to the sum under the root.
    reduction
        ``"none"``, ``"mean"`` or ``"sum"``.

    Returns
    -------
    array
        The losses, or one number.
    """

    def distance(others: mx.array) -> mx.array:
        return mx.power(mx.sum(mx.power(mx.abs(anchors - others), p), axis) + eps, 1.0 / p)

    return _reduce(mx.maximum(distance(positives) - distance(negatives) + margin, 0), reduction)


def hinge_loss(inputs: mx.array, targets: mx.array, reduction: Reduction = "none") -> mx.array:
    r"""Return :math:`\max(0, 1 - \text{inputs} \cdot \text{targets})`, where targets are -1 or 1."""
    return _reduce(mx.maximum(1 - inputs * targets, 0), reduction)


def huber_loss(inputs: mx.array, targets: mx.array, delta: float = 1.0, reduction: Reduction = "none") -> mx.array:
    """Return half the squared difference up to `delta`, and its tangent beyond."""
    distance = mx.abs(inputs - targets)
    near = mx.minimum(distance, delta)
    return _reduce(0.5 * mx.square(near) + delta * (distance - near), reduction)


def log_cosh_loss(inputs: mx.array, targets: mx.array, reduction: Reduction = "none") -> mx.array:
    """Return the logarithm of the hyperbolic cosine of the difference."""
    errors = inputs - targets
    return _reduce(mx.logaddexp(errors, -errors) - math.log(2), reduction)


def cosine_similarity_loss(
    x1: mx.array, x2: mx.array, axis: int = 1, eps: float = 1e-8, reduction: Reduction = "none"
) -> mx.array:
    """Return the cosine of the angle between two arrays of vectors along `axis`.

    The product of the lengths is at least `eps`. The value is largest for vectors that agree: to bring vectors
    together, minimize its negative.
    """
    lengths = mx.sqrt(mx.sum(mx.square(x1), axis=axis)) * mx.sqrt(mx.sum(mx.square(x2), axis=axis))
    return _reduce(mx.sum(x1 * x2, axis=axis) / mx.maximum(lengths, eps), reduction)


def margin_ranking_loss(
    inputs1: mx.array, inputs2: mx.array, targets: mx.array, margin: float = 0.0, reduction: Reduction = "none"
) -> mx.array:
    """Return by how much two arrays of scores fail to be ordered as the targets say.

    Parameters
    ----------
    inputs1, inputs2
        The scores.
    targets
        1 where the first score should be the larger one by `margin`, -1 where the second.
    margin
        The difference that is wanted.
    reduction
        ``"none"``, ``"mean"`` or ``"sum"``.

    Returns
    -------
    array
        The losses, or one number.

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    _require_same_shape("margin_ranking_loss", inputs1=inputs1, inputs2=inputs2, targets=targets)
    return _reduce(mx.maximum(0, margin - targets * (inputs1 - inputs2)), reduction)
