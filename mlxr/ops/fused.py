"""Fused operations on rows: softmax, normalizations, rotary embedding, cross entropy, attention.

Each is one primitive with a kernel of its own, because composed of elementwise ops it would cross memory several times.
"""

from __future__ import annotations

import math

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core.dispatch import apply, as_operand
from mlxr.core.dtype import promote_types
from mlxr.core.primitive import Primitive
from mlxr.core.tensor import Tensor
from mlxr.errors import BoundsError, DtypeError, InvalidValueError, ShapeError
from mlxr.ops.declare import FLOATING, Refusal, Sample, operation, primitive, spread
from mlxr.ops.elementwise import astype, multiply, subtract, where
from mlxr.ops.layout import broadcast_to, expand_dims, normalize_axes, reshape, swapaxes, transpose

__all__ = ["softmax"]


def _float(x, op):
    """Return `x` with a floating dtype: integers become float32."""
    if x.dtype.kind == "c":
        raise DtypeError(f"[{op}] is not defined for {x.dtype.name}", op=op, dtypes=(x.dtype,))
    return x if x.dtype.kind == "f" else astype(x, dtypes.float32)


def _only_float(x, op):
    """Return `x`, which must have a floating dtype."""
    if x.dtype.kind != "f":
        raise DtypeError(f"[{op}] takes floating dtypes, got {x.dtype.name}", op=op, dtypes=(x.dtype,))
    return x


def _like_first(inputs, params):
    return inputs[0].shape, inputs[0].dtype


# ------------------------------------------------------------------ softmax

softmax_p = primitive(
    "softmax", "fused", _like_first, vjp=lambda needs, g, out, x: apply(softmax_vjp_p, (out, g)),
)


def _softmax_vjp_back(needs, ct, dx, out, g):
    # dx = out * (g - s), with s = sum(g * out) along the row; bilinear in (out, g).
    s = ops.sum(multiply(g, out), -1, keepdims=True)
    t = ops.sum(multiply(ct, out), -1, keepdims=True)
    d_out = subtract(multiply(ct, subtract(g, s)), multiply(t, g)) if needs[0] else None
    d_g = multiply(out, subtract(ct, t)) if needs[1] else None
    return d_out, d_g


softmax_vjp_p: Primitive = primitive("softmax_vjp", "fused", _like_first, vjp=_softmax_vjp_back)


def _softmax_reference(a, axis=None, precise=False):
    axis = tuple(range(a.ndim)) if axis is None else (tuple(axis) if isinstance(axis, (list, tuple)) else axis)
    if a.size == 0:
        return a
    e = np.exp(a - a.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@operation(
    "fused",
    primitive=softmax_p,
    dtypes=FLOATING,
    differentiable=(0,),
    reference=_softmax_reference,
    ulps=6,
    samples=lambda rng: iter(
        [
            Sample((spread(rng, shape, -4, 4),), {"axis": axis})
            for shape, axis in [
                ((5,), -1),
                ((4, 7), -1),
                ((4, 7), 0),
                ((2, 3, 4), (0, 2)),
                ((3, 4), None),
                ((2, 300), -1),
                ((0, 3), -1),
            ]
        ]
    ),
)
def softmax(a, /, axis=None, *, precise=False, stream=None):
    """Return ``exp(a) / sum(exp(a))`` along axes, without overflow.

    Parameters
    ----------
    a : Tensor
    axis : int or sequence of int, optional
        All axes by default.
    precise : bool
        Accepted for MLX's sake: sums are always accumulated in float32 or better.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        A row that holds NaN or infinity, or only minus infinity, is NaN.
    """
    a = _float(as_operand(a, "softmax"), "softmax")
    axes = normalize_axes(axis, a.ndim, "softmax")
    if a.ndim == 0:
        return reshape(apply(softmax_p, (reshape(a, (1,)),), (), stream), ())
    if axes == (a.ndim - 1,):
        return apply(softmax_p, (a,), (), stream)
    if not axes:
        return ops.ones_like(a)
    # Bring the axes to the end and make them one row.
    order = [k for k in range(a.ndim) if k not in axes] + list(axes)
    moved = transpose(a, order)
    rows = reshape(moved, (*moved.shape[: a.ndim - len(axes)], math.prod(a.shape[k] for k in axes)))
    result = reshape(apply(softmax_p, (rows,), (), stream), moved.shape)
    inverse = [0] * a.ndim
    for position, k in enumerate(order):
        inverse[k] = position
    return transpose(result, inverse)


# ------------------------------------------------------------------ normalization

def _norm_operands(x, weights, op):
    """Check x and one-dimensional weights; return them, and the promoted dtype."""
    x = _only_float(as_operand(x, op), op)
    if x.ndim < 1:
        raise ShapeError(f"[{op}] Input must have at least 1 dimension but got input with 0 dimensions.", op=op,
                         shapes=(x.shape,))
    dtype = x.dtype
    checked = []
    for w in weights:
        if w is not None:
            w = _only_float(as_operand(w, op), op)
            if w.ndim != 1 or w.shape[0] != x.shape[-1]:
                raise ShapeError(f"[{op}] a weight of shape {w.shape} does not fit rows of {x.shape[-1]} elements",
                                 op=op, shapes=(x.shape, w.shape))
            dtype = promote_types(dtype, w.dtype)
        checked.append(w)
    return x, checked, dtype


def _centred(x, eps):
    """Return the normalized rows of x and the reciprocal standard deviations, composed of ops."""
    centred = subtract(x, ops.mean(x, -1, keepdims=True))
    scale = ops.rsqrt(ops.add(ops.mean(ops.square(centred), -1, keepdims=True), eps))
    return multiply(centred, scale), scale


def _layer_norm_infer(inputs, params):
    return inputs[0].shape, params[-1]


def _layer_norm_back(needs, g, out, x, *rest):
    *weights, eps, has_w, has_b, _ = rest
    w = weights[0] if has_w else None
    grads = apply(layer_norm_vjp_p, (x, g, *((w,) if has_w else ())), (eps, has_w))
    dx, dw, db = grads
    return (dx, *((dw,) if has_w else ()), *((db,) if has_b else ()))


def _rows_sum(t, n):
    return ops.sum(reshape(t, (-1, n)), 0)


def _layer_norm_vjp_composed(x, g, w, eps):
    n = x.shape[-1]
    normal, scale = _centred(x, eps)
    wg = g if w is None else multiply(g, w)
    mean_g = ops.mean(wg, -1, keepdims=True)
    mean_gn = ops.mean(multiply(wg, normal), -1, keepdims=True)
    dx = multiply(scale, subtract(subtract(wg, mean_g), multiply(normal, mean_gn)))
    return dx, _rows_sum(multiply(g, normal), n), _rows_sum(g, n)


def _rms_norm_vjp_composed(x, g, w, eps):
    n = x.shape[-1]
    scale = ops.rsqrt(ops.add(ops.mean(ops.square(x), -1, keepdims=True), eps))
    normal = multiply(x, scale)
    wg = g if w is None else multiply(g, w)
    dx = multiply(scale, subtract(wg, multiply(normal, ops.mean(multiply(wg, normal), -1, keepdims=True))))
    return dx, _rows_sum(multiply(g, normal), n)


def _second_order(composed):
    """Return the VJP of a gradient kernel: that of the same gradient composed of ops."""

    def back(needs, cotangents, outs, x, g, *rest):
        from mlxr.transforms.autograd import vjp

        *weights, eps, _ = rest
        inputs = (x, g, *weights)

        def function(x, g, w=None):
            return list(composed(x, g, w, eps))

        return tuple(vjp(function, inputs, list(cotangents))[1])

    return back


layer_norm_p = primitive("layer_norm", "fused", _layer_norm_infer, vjp=_layer_norm_back)
layer_norm_vjp_p = primitive(
    "layer_norm_vjp",
    "fused",
    lambda inputs, params: (
        (inputs[0].shape, inputs[0].dtype),
        ((inputs[0].shape[-1],), inputs[-1].dtype if params[1] else inputs[0].dtype),
        ((inputs[0].shape[-1],), inputs[-1].dtype if params[1] else inputs[0].dtype),
    ),
    vjp=_second_order(_layer_norm_vjp_composed),
)


def _layer_norm_reference(x, weight, bias, eps):
    out = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


_NORM_SHAPES = [(5,), (4, 6), (2, 3, 8), (2, 300)]


@operation(
    "fused",
    name="fast.layer_norm",
    primitive=layer_norm_p,
    dtypes=FLOATING,
    differentiable=(0, 1, 2),
    ulps=16,
    reference=_layer_norm_reference,
    scale=lambda x, w, b, eps: 4.0,
    samples=lambda rng: iter(
        [
            Sample((spread(rng, s, -2, 2), spread(rng, s[-1:], 0.5, 1.5), spread(rng, s[-1:], -1, 1), 1e-5))
            for s in _NORM_SHAPES
        ]
        + [
            Sample((spread(rng, (4, 6), -2, 2), None, None, 1e-5)),
            Sample((spread(rng, (6, 4), -2, 2).T, None, None, 1e-3)),
        ]
    ),
    refusals=(
        Refusal((np.ones((2, 3), np.float32), np.ones(4, np.float32), None, 1e-5), ShapeError),
        Refusal((np.ones((), np.float32), None, None, 1e-5), ShapeError),
    ),
)
def layer_norm(x, weight, bias, eps, *, stream=None):
    """Return rows with mean zero and variance one, times a weight, plus a bias.

    Parameters
    ----------
    x : Tensor
        Rows are the last axis.
    weight, bias : Tensor or None
        One-dimensional, of the length of a row.
    eps : float
        Added to the variance.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of the promoted dtype; computed in float32 or better.

    Raises
    ------
    ShapeError
        If a weight does not fit the rows, or `x` has no axis.
    """
    x, (w, b), dtype = _norm_operands(x, (weight, bias), "layer_norm")
    inputs = (x, *((w,) if w is not None else ()), *((b,) if b is not None else ()))
    return apply(layer_norm_p, inputs, (float(eps), w is not None, b is not None, dtype), stream)


def _rms_norm_back(needs, g, out, x, *rest):
    *weights, eps, has_w, _ = rest
    dx, dw = apply(rms_norm_vjp_p, (x, g, *weights), (eps, has_w))
    return (dx, dw) if has_w else (dx,)


rms_norm_p = primitive("rms_norm", "fused", _layer_norm_infer, vjp=_rms_norm_back)
rms_norm_vjp_p = primitive(
    "rms_norm_vjp",
    "fused",
    lambda inputs, params: (
        (inputs[0].shape, inputs[0].dtype),
        ((inputs[0].shape[-1],), inputs[-1].dtype if params[1] else inputs[0].dtype),
    ),
    vjp=_second_order(_rms_norm_vjp_composed),
)


def _rms_norm_reference(x, weight, eps):
    out = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return out if weight is None else out * weight


@operation("fused", name="fast.rms_norm", primitive=rms_norm_p, dtypes=FLOATING, differentiable=(0, 1), ulps=8,
           reference=_rms_norm_reference,
           samples=lambda rng: iter([
               Sample((spread(rng, s, -2, 2), spread(rng, s[-1:], 0.5, 1.5), 1e-5)) for s in _NORM_SHAPES
           ] + [Sample((spread(rng, (4, 6), -2, 2), None, 1e-5))]),
           refusals=(Refusal((np.ones((2, 3), np.float32), np.ones(4, np.float32), 1e-5), ShapeError),))
def rms_norm(x, weight, eps, *, stream=None):
    """Return rows divided by the root of their mean square, times a weight.

    Parameters
    ----------
    x : Tensor
        Rows are the last axis.
    weight : Tensor or None
        One-dimensional, of the length of a row.
    eps : float
        Added to the mean square.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of the promoted dtype; computed in float32 or better.

    Raises
    ------
    ShapeError
        If the weight does not fit the rows, or `x` has no axis.
    """
    x, (w,), dtype = _norm_operands(x, (weight,), "rms_norm")
    return apply(rms_norm_p, (x, *((w,) if w is not None else ())), (float(eps), w is not None, dtype), stream)


# ------------------------------------------------------------------ rotary embedding

def _rope_back(needs, g, out, x, *rest):
    *tensors, dims, traditional, base, scale, offset, which, inverse = rest
    dx = apply(rope_p, (g, *tensors), (dims, traditional, base, scale, offset, which, not inverse))
    return (dx, *(None for _ in tensors))


rope_p = primitive("rope", "fused", _like_first, vjp=_rope_back)


def _rope_reference(x, dims, *, traditional=False, base=10000.0, scale=1.0, offset=0, freqs=None):
    half = dims // 2
    rates = base ** (-np.arange(half) / half) if freqs is None else 1.0 / freqs
    offset = np.asarray(offset).reshape(-1, *(1,) * (x.ndim - 2))
    positions = (np.arange(x.shape[-2]) + offset) * scale  # [B or 1, (1...,) T]
    angle = positions[..., None] * rates
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = (x[..., :dims:2], x[..., 1:dims:2]) if traditional else (x[..., :half], x[..., half:dims])
    u, v = a * cos - b * sin, a * sin + b * cos
    turned = np.stack([u, v], -1).reshape(*x.shape[:-1], dims) if traditional else np.concatenate([u, v], -1)
    return np.concatenate([turned, x[..., dims:]], -1)


@operation(
    "fused",
    name="fast.rope",
    primitive=rope_p,
    dtypes=FLOATING,
    differentiable=(0,),
    ulps=16,
    reference=_rope_reference,
    scale=lambda *a, **k: 2.0,
    samples=lambda rng: iter(
        [
            Sample(
                (spread(rng, (1, 2, 5, 8), -2, 2), 8),
                {"traditional": False, "base": 10000.0, "scale": 1.0, "offset": 0},
            ),
            Sample((spread(rng, (2, 3, 8), -2, 2), 6), {"traditional": True, "base": 100.0, "scale": 0.5, "offset": 3}),
            Sample(
                (spread(rng, (2, 2, 3, 8), -2, 2), 8),
                {"traditional": False, "base": 10000.0, "scale": 1.0, "offset": np.array([0, 4])},
            ),
        ]
    ),
    refusals=(
        Refusal(
            (np.ones((1, 2, 8), np.float32), 9),
            InvalidValueError,
            {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 0},
        ),
        Refusal(
            (np.ones((2, 8), np.float32), 8), ShapeError, {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 0}
        ),
    ),
)
def rope(a, dims, *, traditional, base, scale, offset, freqs=None, stream=None):
    """Return rotary positional embedding: pairs of elements turned by an angle that grows with the position.

    Parameters
    ----------
    a : Tensor
        Of shape (B, ..., T, D).
    dims : int
        How many elements of each row are turned, even and at most D; the others are copied.
    traditional : bool
        Pairs are neighbours; otherwise one from each half.
    base : float or None
        Of the geometric series of angles; None if `freqs` is given.
    scale : float
        Multiplies positions.
    offset : int or Tensor of integers
        Position of the first row; a tensor has one for each of the B sequences.
    freqs : Tensor, optional
        Periods (reciprocal rates) of the dims / 2 pairs, instead of `base`.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If `a` has fewer than three axes, or `freqs` or `offset` do not fit.
    InvalidValueError
        If `dims` is odd or larger than D, or not exactly one of `base` and `freqs` is given.
    """
    op = "rope"
    x = _only_float(as_operand(a, op), op)
    if x.ndim < 3:
        raise ShapeError(f"[{op}] Input must have at least 3 dimensions but got input with {x.ndim} dimensions.", op=op,
                         shapes=(x.shape,))
    if dims % 2 or not 0 < dims <= x.shape[-1]:
        raise InvalidValueError(f"[{op}] dims must be even and in 1..{x.shape[-1]}, got {dims}", op=op, dims=dims)
    if (base is None) == (freqs is None):
        raise InvalidValueError(f"[{op}] Only one of base or freqs can have a value.", op=op)
    tensors, which = [], ""
    if freqs is not None:
        freqs = astype(as_operand(freqs, op), dtypes.float32)
        if freqs.shape != (dims // 2,):
            raise ShapeError(f"[{op}] freqs of shape {freqs.shape} for {dims} dims", op=op, shapes=(freqs.shape,))
        tensors.append(freqs)
        which += "f"
    if isinstance(offset, (Tensor, np.ndarray)):
        offsets = as_operand(offset, op)
        if offsets.dtype.kind not in "ui":
            raise DtypeError(f"[{op}] offsets are integers, got {offsets.dtype.name}", op=op, dtypes=(offsets.dtype,))
        if offsets.size not in (1, x.shape[0]) or offsets.ndim > 1:
            raise ShapeError(f"[{op}] offset must be a scalar or vector with {x.shape[0]} elements but has shape "
                             f"{offsets.shape}.", op=op, shapes=(offsets.shape,))
        tensors.append(offsets)
        which += "o"
        offset = 0
    params = (int(dims), bool(traditional), float(base or 0.0), float(scale), int(offset), which, False)
    return apply(rope_p, (x, *tensors), params, stream)


# ------------------------------------------------------------------ cross entropy

def _one_hot(targets, n, dtype):
    classes = ops.arange(n, device=targets.device)
    wrapped = where(ops.less(targets, 0), ops.add(targets, n), targets)
    return astype(ops.equal(expand_dims(wrapped, -1), classes), dtype)


def _cross_entropy_back(needs, g, out, logits, targets):
    return apply(cross_entropy_vjp_p, (logits, targets, g)), None


def _cross_entropy_vjp_back(needs, ct, out, logits, targets, g):
    p = softmax(logits, -1)
    residual = subtract(p, _one_hot(targets, logits.shape[-1], logits.dtype))
    row = expand_dims(astype(g, logits.dtype), -1)
    d_logits = multiply(apply(softmax_vjp_p, (p, ct)), row) if needs[0] else None
    d_g = astype(ops.sum(multiply(ct, residual), -1), g.dtype) if needs[2] else None
    return d_logits, None, d_g


def _cross_entropy_infer(inputs, params):
    logits, targets = inputs
    return targets.shape, promote_types(logits.dtype, dtypes.float32)


cross_entropy_p = primitive("cross_entropy", "fused", _cross_entropy_infer, vjp=_cross_entropy_back)
cross_entropy_vjp_p = primitive("cross_entropy_vjp", "fused", _like_first, vjp=_cross_entropy_vjp_back)


def _cross_entropy_reference(logits, targets):
    lse = np.log(np.exp(logits).sum(-1))
    return lse - np.take_along_axis(logits, targets.astype(np.int64)[..., None], -1)[..., 0]


@operation("fused", name="fast.cross_entropy", primitive=cross_entropy_p, dtypes=FLOATING, differentiable=(0,),
           reference=_cross_entropy_reference, scale=lambda logits, targets: 4.0, ulps=8,
           samples=lambda rng: iter([
               Sample((spread(rng, (5, 7), -2, 2), rng.integers(0, 7, 5))),
               Sample((spread(rng, (2, 3, 40), -2, 2), rng.integers(-40, 40, (2, 3)))),
           ]),
           refusals=(Refusal((np.ones((2, 3), np.float32), np.array([0, 1, 2])), ShapeError),
                     Refusal((np.ones((2, 3), np.float32), np.array([0, 3])), BoundsError)))
def cross_entropy(logits, targets, *, stream=None):
    """Return ``logsumexp(logits) - logits[target]`` for each row, in one pass.

    Parameters
    ----------
    logits : Tensor
        Of shape (..., classes).
    targets : Tensor of integers
        Of shape (...); negative ones count from the end.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of the shape of `targets`, in float32 (of float64 logits, in float64).

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    BoundsError
        If a target is no class.
    """
    op = "cross_entropy"
    logits, targets = _only_float(as_operand(logits, op), op), as_operand(targets, op)
    if targets.dtype.kind not in "ui":
        raise DtypeError(f"[{op}] targets are integers, got {targets.dtype.name}", op=op, dtypes=(targets.dtype,))
    if logits.ndim < 1 or logits.shape[:-1] != targets.shape:
        raise ShapeError(f"[{op}] targets of shape {targets.shape} for logits of shape {logits.shape}", op=op,
                         shapes=(logits.shape, targets.shape))
    if targets.size:
        n = logits.shape[-1]
        low, high = int(ops.min(targets).item()), int(ops.max(targets).item())
        if low < -n or high >= n:
            raise BoundsError(f"[{op}] target {high if high >= n else low} is out of bounds for {n} classes", op=op,
                              index=high if high >= n else low, size=n)
    return apply(cross_entropy_p, (logits, targets), (), stream)


# ------------------------------------------------------------------ attention

def _attention_composed(q, k, v, mask, sinks, scale, causal):
    """Attention written out in ops, with the whole score matrix: what gradients are derived from."""
    groups = q.shape[1] // k.shape[1]
    batch, heads, rows, depth = q.shape
    q = reshape(multiply(q, scale), (batch, k.shape[1], groups, rows, depth))
    k, v = expand_dims(k, 2), expand_dims(v, 2)
    scores = ops.matmul(q, swapaxes(k, -1, -2))
    lowest = dtypes.finfo(scores.dtype).min
    if causal:
        columns = k.shape[-2]
        visible = ops.tri(rows, columns, columns - rows, dtypes.bool_, device=q.device)
        scores = where(visible, scores, lowest)
    if mask is not None:
        mask = reshape(broadcast_to(mask, (batch, heads, rows, k.shape[-2])), scores.shape)
        scores = where(mask, scores, lowest) if mask.dtype is dtypes.bool_ else ops.add(scores, mask)
    if sinks is not None:
        extra = broadcast_to(reshape(sinks, (1, k.shape[1], groups, 1, 1)), (*scores.shape[:-1], 1))
        weights = softmax(ops.concatenate([extra, scores], -1), -1)[..., 1:]
    else:
        weights = softmax(scores, -1)
    return reshape(ops.matmul(weights, v), (batch, heads, rows, v.shape[-1]))


def _sdpa_function(scale, causal, has_mask, has_sinks, dtype):
    """Return attention composed of ops as a function of q, k, v and the optional tensors."""

    def function(q, k, v, *tensors):
        mask = tensors[0] if has_mask else None
        sinks = tensors[-1] if has_sinks else None
        return astype(_attention_composed(q, k, v, mask, sinks, scale, causal), dtype)

    return function


def _sdpa_back(needs, g, out, q, k, v, *rest):
    from mlxr.transforms.autograd import vjp

    *tensors, scale, causal, has_mask, has_sinks, dtype = rest
    if has_mask and needs[3]:
        # The kernel has no gradient in the mask: it would have the size of the score matrix that it avoids.
        function = _sdpa_function(scale, causal, has_mask, has_sinks, dtype)
        return tuple(vjp(function, (q, k, v, *tensors), [g])[1])
    dq, dk, dv, *dsinks = apply(sdpa_vjp_p, (q, k, v, g, *tensors), (scale, causal, has_mask, has_sinks, dtype))
    return dq, dk, dv, *((None,) if has_mask else ()), *dsinks


def _sdpa_vjp_infer(inputs, params):
    has_sinks = params[3]
    results = inputs[:3] + (inputs[-1:] if has_sinks else ())
    return tuple((x.shape, x.dtype) for x in results)


def _sdpa_vjp_back(needs, cotangents, outs, q, k, v, g, *rest):
    from mlxr.transforms.autograd import vjp

    *tensors, scale, causal, has_mask, has_sinks, dtype = rest
    function = _sdpa_function(scale, causal, has_mask, has_sinks, dtype)

    def gradient(q, k, v, g, *tensors):
        found = vjp(function, (q, k, v, *tensors), [g])[1]
        return [*found[:3], *(found[-1:] if has_sinks else ())]

    return tuple(vjp(gradient, (q, k, v, g, *tensors), list(cotangents))[1])


sdpa_vjp_p = primitive("scaled_dot_product_attention_vjp", "fused", _sdpa_vjp_infer, vjp=_sdpa_vjp_back)
sdpa_p = primitive(
    "scaled_dot_product_attention", "fused",
    lambda inputs, params: ((*inputs[0].shape[:-1], inputs[2].shape[-1]), params[-1]), vjp=_sdpa_back,
)


def _sdpa_reference(q, k, v, *, scale, mask=None, sinks=None):
    groups = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, groups, 1), np.repeat(v, groups, 1)
    scores = scale * q @ np.swapaxes(k, -1, -2)
    if isinstance(mask, str):
        mask = np.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], dtype=bool)
    if mask is not None:
        scores = np.where(mask, scores, -1e30) if mask.dtype == bool else scores + mask
    if sinks is not None:
        scores = np.concatenate([np.broadcast_to(sinks[None, :, None, None], (*scores.shape[:-1], 1)), scores], -1)
    weights = _softmax_reference(scores, -1)
    return (weights if sinks is None else weights[..., 1:]) @ v


def _sdpa_samples(rng):
    def t(*shape):
        return spread(rng, shape, -1, 1)

    yield Sample((t(1, 2, 5, 8), t(1, 2, 5, 8), t(1, 2, 5, 8)), {"scale": 0.35})
    yield Sample((t(2, 4, 3, 8), t(2, 2, 7, 8), t(2, 2, 7, 6)), {"scale": 0.35, "mask": "causal"})
    yield Sample((t(1, 4, 1, 16), t(1, 1, 70, 16), t(1, 1, 70, 16)), {"scale": 0.25})
    yield Sample((t(1, 2, 4, 8), t(1, 2, 6, 8), t(1, 2, 6, 8)), {"scale": 0.3, "mask": rng.random((4, 6)) > 0.3})
    yield Sample((t(1, 2, 4, 8), t(1, 2, 6, 8), t(1, 2, 6, 8)), {"scale": 0.3, "mask": t(1, 1, 4, 6)})
    yield Sample(
        (t(1, 5, 2, 8).transpose(0, 2, 1, 3), t(1, 5, 2, 8).transpose(0, 2, 1, 3), t(1, 5, 2, 8).transpose(0, 2, 1, 3)),
        {"scale": 0.3, "mask": "causal"},
    )


@operation(
    "fused",
    name="fast.scaled_dot_product_attention",
    primitive=sdpa_p,
    dtypes=FLOATING,
    differentiable=(0, 1, 2),
    reference=_sdpa_reference,
    samples=_sdpa_samples,
    ulps=16,
    scale=lambda *a, **k: 1.0,
    refusals=(
        Refusal(
            (np.ones((1, 3, 2, 4), np.float32), np.ones((1, 2, 2, 4), np.float32), np.ones((1, 2, 2, 4), np.float32)),
            ShapeError,
            {"scale": 1.0},
        ),
        Refusal((np.ones((1, 2, 4), np.float32),) * 3, ShapeError, {"scale": 1.0}),
    ),
)
def scaled_dot_product_attention(q, k, v, *, scale, mask=None, sinks=None, stream=None):
    """Return ``softmax(scale * q @ k^T + mask) @ v`` without ever holding the whole score matrix.

    Parameters
    ----------
    q : Tensor
        Of shape (B, Hq, Tq, D).
    k, v : Tensor
        Of shapes (B, Hk, Tk, D) and (B, Hk, Tk, Dv), where Hk divides Hq; nothing is repeated in memory.
    scale : float
    mask : str or Tensor, optional
        ``"causal"``: query i sees the keys up to i + Tk - Tq. Boolean: true where a query sees a key. Floating: added
        to the scores. Broadcast to (B, Hq, Tq, Tk).
    sinks : Tensor, optional
        One further score per query head, with no value.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of shape (B, Hq, Tq, Dv).

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    InvalidValueError
        If `mask` is another string.
    """
    op = "scaled_dot_product_attention"
    q, k, v = (_only_float(as_operand(t, op), op) for t in (q, k, v))
    shapes = (q.shape, k.shape, v.shape)
    if any(t.ndim != 4 for t in (q, k, v)):
        raise ShapeError(f"[{op}] q, k and v have four axes, got shapes {shapes}", op=op, shapes=shapes)
    if (q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1] or k.shape[:3] != v.shape[:3]
            or not k.shape[1] or q.shape[1] % k.shape[1]):
        raise ShapeError(f"[{op}] the shapes {shapes} do not fit each other", op=op, shapes=shapes)
    dtype = promote_types(promote_types(q.dtype, k.dtype), v.dtype)
    tensors, causal = [], False
    if isinstance(mask, str):
        if mask != "causal":
            raise InvalidValueError(f"[{op}] mask is 'causal', a tensor or None, got {mask!r}", op=op, mask=mask)
        causal = True
    elif mask is not None:
        mask = as_operand(mask, op)
        if mask.dtype.kind != "b" and (mask.dtype.kind != "f" or promote_types(mask.dtype, dtype) is not dtype):
            raise DtypeError(f"[{op}] a mask of {mask.dtype.name} does not promote to {dtype.name}", op=op,
                             dtypes=(mask.dtype, dtype))
        tensors.append(broadcast_to(mask, (*q.shape[:3], k.shape[2])))
    if sinks is not None:
        sinks = _only_float(as_operand(sinks, op), op)
        if sinks.shape != (q.shape[1],):
            raise ShapeError(
                f"[{op}] sinks of shape {sinks.shape} for {q.shape[1]} heads", op=op, shapes=(sinks.shape,)
            )
        tensors.append(sinks)
    has_mask = bool(tensors) and mask is not None and not causal
    return apply(sdpa_p, (q, k, v, *tensors), (float(scale), causal, has_mask, sinks is not None, dtype), stream)
