"""Reductions and scans: one declaration each."""

from __future__ import annotations

import math

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core.dispatch import apply, as_operand
from mlxr.core.layout import with_unit_axes, without_axes
from mlxr.errors import ShapeError
from mlxr.ops.declare import (
    EVERY,
    FLOATING,
    INTEGER,
    NUMERIC,
    REAL,
    Refusal,
    Sample,
    operation,
    primitive,
    spread,
)
from mlxr.ops.elementwise import (
    astype,
    divide,
    equal,
    exp,
    isfinite,
    multiply,
    negative,
    subtract,
    where,
)
from mlxr.ops.layout import broadcast_to, flip, normalize_axes, normalize_axis, reshape

__all__ = [
    "all", "any", "argmax", "argmin", "count_nonzero", "cummax", "cummin", "cumprod", "cumsum", "cumulative_prod",
    "cumulative_sum", "logcumsumexp", "logsumexp", "max", "mean", "min", "minmax", "prod", "std", "sum", "var",
]




def _ones(shape, axes):
    """`shape` with the reduced axes as extents of 1: what broadcasts against the operand."""
    return tuple(1 if axis in axes else n for axis, n in enumerate(shape))


def _spread_back(g, x, axes):
    return broadcast_to(reshape(g, _ones(x.shape, axes)), x.shape)


# Small integers add up in 32 bits, as upstream has it.
_WIDER = {
    dtypes.bool_: dtypes.int32, dtypes.int8: dtypes.int32, dtypes.int16: dtypes.int32,
    dtypes.uint8: dtypes.uint32, dtypes.uint16: dtypes.uint32,
}


def _sum_dtype(dtype):
    return _WIDER.get(dtype, dtype)


def _infer(result):
    def infer(inputs, params):
        return without_axes(inputs[0].shape, params[0]), result(inputs[0].dtype)

    return infer


def _at_least_float(dtype):
    return dtype if dtype.kind in "fc" else dtypes.float32


def _prod_back(needs, g, out, x, axes):
    # The product of all others, as (product before) * (product behind): right where elements are zero.
    order = [k for k in range(x.ndim) if k not in axes] + list(axes)
    moved = ops.transpose(x, order)
    kept = moved.shape[: x.ndim - len(axes)]
    flat = reshape(moved, (*kept, math.prod(moved.shape[x.ndim - len(axes):])))
    others = multiply(cumprod(flat, -1, inclusive=False), cumprod(flat, -1, reverse=True, inclusive=False))
    inverse = [0] * x.ndim
    for position, axis in enumerate(order):
        inverse[axis] = position
    others = ops.transpose(reshape(others, moved.shape), inverse)
    return multiply(_spread_back(g, x, axes), others)


def _extreme_back(needs, g, out, x, axes):
    # Ties share the gradient equally.
    mask = astype(equal(x, reshape(out, _ones(x.shape, axes))), g.dtype)
    count = reshape(sum(mask, axes), _ones(x.shape, axes))
    return multiply(divide(reshape(g, _ones(x.shape, axes)), count), mask)


def _logsumexp_back(needs, g, out, x, axes):
    shift = reshape(out, _ones(x.shape, axes))
    weights = where(isfinite(shift), exp(subtract(x, shift)), astype(equal(x, shift), x.dtype))
    return multiply(reshape(g, _ones(x.shape, axes)), weights)


def _var_back(needs, g, out, x, axes, ddof):
    n = math.prod(x.shape[axis] for axis in axes)
    mean_ = reshape(mean(x, axes), _ones(x.shape, axes))
    scale = 2.0 / (n - ddof) if n != ddof else math.inf
    return multiply(_spread_back(g, x, axes), multiply(subtract(x, mean_), scale))


sum_p = primitive(
    "sum", "reduce", _infer(_sum_dtype), vjp=lambda needs, g, out, x, axes: _spread_back(g, x, axes), linear=True
)
prod_p = primitive("prod", "reduce", _infer(_sum_dtype), vjp=_prod_back)
max_p = primitive("max", "reduce", _infer(lambda d: d), vjp=_extreme_back)
min_p = primitive("min", "reduce", _infer(lambda d: d), vjp=_extreme_back)
all_p = primitive("all", "reduce", _infer(lambda d: dtypes.bool_))
any_p = primitive("any", "reduce", _infer(lambda d: dtypes.bool_))
mean_p = primitive(
    "mean", "reduce", _infer(_at_least_float), linear=True,
    vjp=lambda needs, g, out, x, axes: multiply(
        _spread_back(g, x, axes), 1.0 / max_of_1(math.prod(x.shape[axis] for axis in axes))
    ),
)
var_p = primitive(
    "var", "reduce",
    lambda inputs, params: (
        without_axes(inputs[0].shape, params[0]),
        dtypes.float32 if inputs[0].dtype.kind == "c" else _at_least_float(inputs[0].dtype),
    ),
    vjp=_var_back,
)
logsumexp_p = primitive("logsumexp", "reduce", _infer(_at_least_float), vjp=_logsumexp_back)
argmax_p = primitive("argmax", "reduce", _infer(lambda d: dtypes.uint32))
argmin_p = primitive("argmin", "reduce", _infer(lambda d: dtypes.uint32))


def max_of_1(n):
    """Return `n`, but at least 1: a mean over nothing has no gradient to divide."""
    return n if n > 1 else 1


def _reduce(p, a, axis, keepdims, stream, *params):
    """Apply a reducing primitive; with `keepdims`, put the reduced axes back as extents of 1."""
    a = as_operand(a, p.name)
    axes = normalize_axes(axis, a.ndim, p.name)
    result = apply(p, (a,), (axes, *params), stream)
    if not axes and p in (sum_p, prod_p):  # nothing is added up, so that small integers need no more room
        result = ops.astype(result, a.dtype)
    return reshape(result, with_unit_axes(result.shape, axes)) if keepdims else result


def _numpy(function, **fixed):
    def reference(a, axis=None, keepdims=False, **kwargs):
        axis = tuple(axis) if isinstance(axis, (list, tuple)) else axis
        return function(a, axis=axis, keepdims=keepdims, **fixed, **kwargs)

    return reference


def _samples(low=-2.0, high=2.0, empty=True):
    def samples(rng):
        for shape, kwargs in [
            ((7,), {}),
            ((4, 5), {}),
            ((4, 5), {"axis": 0}),
            ((4, 5), {"axis": -1, "keepdims": True}),
            ((2, 3, 4), {"axis": (0, 2)}),
            ((2, 3, 4), {"axis": [1], "keepdims": True}),
            ((), {}),
            ((1, 300), {"axis": 1}),
            ((40, 3), {"axis": 0}),
        ]:
            yield Sample((spread(rng, shape, low, high),), kwargs)
        yield Sample((spread(rng, (5, 4), low, high).T,), {"axis": 0})
        yield Sample((spread(rng, (3, 8), low, high)[:, ::2],), {"axis": 1})
        if empty:
            yield Sample((np.zeros((0, 3)),), {"axis": 0})
            yield Sample((np.zeros((2, 0)),), {"axis": 0})

    return samples


def _refusals():
    from mlxr.errors import AxisError

    return (
        Refusal((np.ones((2, 3)),), AxisError, {"axis": 2}), Refusal((np.ones((2, 3)),), AxisError, {"axis": (0, 0)}),
        Refusal((np.ones((2, 3)),), AxisError, {"axis": -3}),
    )


def _absolute_sum(a, axis=None, keepdims=False):
    return _numpy(np.sum)(np.abs(a), axis, keepdims)


@operation("reduce", primitive=sum_p, samples=_samples(), reference=_numpy(np.sum), dtypes=EVERY, differentiable=(0,),
           refusals=_refusals(), scale=_absolute_sum)
def sum(a, /, axis=None, keepdims=False, *, stream=None):
    """Return the sum of elements.

    Parameters
    ----------
    a : Tensor
    axis : int or sequence of int, optional
        All axes by default.
    keepdims : bool
        Keep the reduced axes with extent 1.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Booleans and integers of less than 32 bits add up in 32 bits.

    Raises
    ------
    AxisError
        If an axis is out of range or repeated.

    Notes
    -----
    The order of additions is fixed by the extents of the reduced axes: see docs/numerics.md.
    """
    return _reduce(sum_p, a, axis, keepdims, stream)


@operation("reduce", primitive=prod_p, samples=_samples(0.5, 1.5), reference=_numpy(np.prod), dtypes=EVERY,
           differentiable=(0,), refusals=_refusals(), ulps=200)
def prod(a, /, axis=None, keepdims=False, *, stream=None):
    """Return the product of elements; parameters as :func:`sum`."""
    return _reduce(prod_p, a, axis, keepdims, stream)


def _not_empty(a, axis, op):
    a = as_operand(a, op)
    axes = normalize_axes(axis, a.ndim, op)
    if a.size == 0 and math.prod(a.shape[k] for k in axes) == 0:
        raise ShapeError(f"[{op}] cannot {op} over an empty axis of shape {a.shape}", op=op, shapes=(a.shape,))
    return a


@operation("reduce", primitive=max_p, samples=_samples(empty=False), reference=_numpy(np.max), dtypes=EVERY,
           differentiable=(0,), refusals=(*_refusals(), Refusal((np.zeros((0, 3)),), ShapeError)), ulps=0)
def max(a, /, axis=None, keepdims=False, *, stream=None):
    """Return the largest element, NaN if there is one; parameters as :func:`sum`.

    Raises
    ------
    ShapeError
        If there is nothing to choose from.
    """
    return _reduce(max_p, _not_empty(a, axis, "max"), axis, keepdims, stream)


@operation("reduce", primitive=min_p, samples=_samples(empty=False), reference=_numpy(np.min), dtypes=EVERY,
           differentiable=(0,), refusals=(*_refusals(), Refusal((np.zeros((0, 3)),), ShapeError)), ulps=0)
def min(a, /, axis=None, keepdims=False, *, stream=None):
    """Return the smallest element, NaN if there is one; parameters as :func:`sum`.

    Raises
    ------
    ShapeError
        If there is nothing to choose from.
    """
    return _reduce(min_p, _not_empty(a, axis, "min"), axis, keepdims, stream)


@operation(
    "reduce", primitive=all_p, samples=_samples(), reference=_numpy(np.all), dtypes=EVERY, refusals=_refusals(), ulps=0
)
def all(a, /, axis=None, keepdims=False, *, stream=None):
    """Tell whether all elements are nonzero; parameters as :func:`sum`."""
    return _reduce(all_p, a, axis, keepdims, stream)


@operation(
    "reduce", primitive=any_p, samples=_samples(), reference=_numpy(np.any), dtypes=EVERY, refusals=_refusals(), ulps=0
)
def any(a, /, axis=None, keepdims=False, *, stream=None):
    """Tell whether any element is nonzero; parameters as :func:`sum`."""
    return _reduce(any_p, a, axis, keepdims, stream)


@operation(
    "reduce",
    primitive=mean_p,
    samples=_samples(empty=False),
    reference=_numpy(np.mean),
    dtypes=NUMERIC,
    differentiable=(0,),
    refusals=_refusals(),
    scale=lambda a, axis=None, keepdims=False: _numpy(np.mean)(np.abs(a), axis, keepdims),
)
def mean(a, /, axis=None, keepdims=False, *, stream=None):
    """Return the mean of elements (float32 for integers; NaN over nothing); parameters as :func:`sum`."""
    return _reduce(mean_p, a, axis, keepdims, stream)


def _ddof(ddof, correction):
    return ddof if correction is None else correction


def _var_reference(a, axis=None, keepdims=False, ddof=0):
    return _numpy(np.var)(a, axis, keepdims, ddof=ddof)


@operation(
    "reduce",
    primitive=var_p,
    dtypes=FLOATING + INTEGER,
    reference=_var_reference,
    differentiable=(0,),
    ulps=16,
    samples=lambda rng: iter(
        [*_samples(empty=False)(rng), Sample((spread(rng, (6, 4), -2, 2),), {"axis": 0, "ddof": 1})]
    ),
    refusals=_refusals(),
)
def var(a, /, axis=None, keepdims=False, ddof=0, *, correction=None, stream=None):
    """Return the variance of elements.

    Parameters
    ----------
    a : Tensor
    axis : int or sequence of int, optional
        All axes by default.
    keepdims : bool
        Keep the reduced axes with extent 1.
    ddof : int
        The divisor is the number of elements less `ddof`.
    correction : int, optional
        Another name for `ddof`.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
    """
    return _reduce(var_p, a, axis, keepdims, stream, _ddof(ddof, correction))


@operation(
    "reduce",
    dtypes=FLOATING,
    ulps=16,
    differentiable=(0,),
    reference=lambda a, axis=None, keepdims=False, ddof=0: np.sqrt(_var_reference(a, axis, keepdims, ddof)),
    samples=lambda rng: iter(
        [Sample((spread(rng, (6, 4), -2, 2),), {"axis": k, "ddof": d}) for k, d in ((0, 0), (1, 1), (None, 0))]
    ),
)
def std(a, /, axis=None, keepdims=False, ddof=0, *, correction=None, stream=None):
    """Return the standard deviation of elements; parameters as :func:`var`."""
    return ops.sqrt(var(a, axis, keepdims, _ddof(ddof, correction), stream=stream))


def _logsumexp_reference(a, axis=None, keepdims=False):
    return np.log(_numpy(np.sum)(np.exp(a), axis, keepdims))


@operation(
    "reduce",
    primitive=logsumexp_p,
    dtypes=FLOATING,
    samples=_samples(empty=False),
    reference=_logsumexp_reference,
    differentiable=(0,),
    refusals=_refusals(),
    scale=lambda a, axis=None, keepdims=False: 1.0,
)
def logsumexp(a, /, axis=None, keepdims=False, *, stream=None):
    """Return ``log(sum(exp(a)))`` without overflow; parameters as :func:`sum`."""
    return _reduce(logsumexp_p, a, axis, keepdims, stream)


def _arg(p, a, axis, keepdims, stream):
    a = as_operand(a, p.name)
    if a.size == 0:
        raise ShapeError(
            f"[{p.name}] cannot choose from an empty array of shape {a.shape}", op=p.name, shapes=(a.shape,)
        )
    if axis is None:
        result = apply(p, (reshape(a, (-1,)),), ((0,),), stream)
        return reshape(result, (1,) * a.ndim) if keepdims else result
    if a.ndim == 0:
        normalize_axis(axis, 1, p.name)
        return apply(p, (reshape(a, (1,)),), ((0,),), stream)
    return _reduce(p, a, normalize_axis(axis, a.ndim, p.name), keepdims, stream)


def _arg_samples(rng):
    yield Sample((spread(rng, (4, 5), -2, 2),), {})
    yield Sample((spread(rng, (4, 5), -2, 2),), {"axis": 0})
    yield Sample((spread(rng, (4, 5), -2, 2).T,), {"axis": 1, "keepdims": True})
    yield Sample((np.array([2.0, 5.0, 5.0, 1.0]),), {})


@operation("reduce", primitive=argmax_p, samples=_arg_samples, reference=_numpy(np.argmax), dtypes=REAL, ulps=0,
           refusals=(*_refusals()[:1], Refusal((np.zeros((0, 3)),), ShapeError)))
def argmax(a, /, axis=None, keepdims=False, *, stream=None):
    """Return the index of the first largest element.

    Parameters
    ----------
    a : Tensor
    axis : int, optional
        By default the index into the flattened array.
    keepdims : bool
        Keep the reduced axis with extent 1.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Of dtype uint32.

    Raises
    ------
    ShapeError
        If the array is empty.
    """
    return _arg(argmax_p, a, axis, keepdims, stream)


@operation("reduce", primitive=argmin_p, samples=_arg_samples, reference=_numpy(np.argmin), dtypes=REAL, ulps=0,
           refusals=(*_refusals()[:1], Refusal((np.zeros((0, 3)),), ShapeError)))
def argmin(a, /, axis=None, keepdims=False, *, stream=None):
    """Return the index of the first smallest element; parameters as :func:`argmax`."""
    return _arg(argmin_p, a, axis, keepdims, stream)


def count_nonzero(a, /, axis=None, keepdims=False, *, stream=None):
    """Return how many elements are nonzero; parameters as :func:`sum`."""
    return sum(ops.not_equal(a, 0), axis, keepdims, stream=stream)


def minmax(a, /, axis=None, keepdims=False, *, stream=None):
    """Return the smallest and the largest element; parameters as :func:`sum`."""
    return min(a, axis, keepdims, stream=stream), max(a, axis, keepdims, stream=stream)


# ------------------------------------------------------------------ scans

def _cumsum_back(needs, g, out, x, axis, reverse, inclusive):
    return cumsum(g, axis, reverse=not reverse, inclusive=inclusive)


def _cumprod_back(needs, g, out, x, axis, reverse, inclusive):
    # d out[i] / d x[j] is the product of the others of the prefix. Through cumsum of g * out / x where no element is
    # zero; elements that are zero are handled by recomputing with the zero taken out, which needs a loop over zeros,
    # so the general case multiplies prefix and suffix products of every pair.
    n = x.shape[axis]
    moved = ops.moveaxis(x, axis, -1)
    grad = ops.moveaxis(g, axis, -1)
    if reverse:
        moved, grad = flip(moved, -1), flip(grad, -1)
    columns = ops.arange(n, device=x.device)
    # partial[..., i, j] = product of x[k] for k <= i (k < i if exclusive), k != j, and 0 for j > i.
    rows = reshape(columns, (n, 1))
    limit = rows if inclusive else subtract(rows, 1)
    without = where(equal(rows, columns), 1, broadcast_to(ops.expand_dims(moved, -2), (*moved.shape, n)))
    # without[..., j, k]: x[k] with x[j] replaced by one; its scan over k gives the partial products.
    partial = cumprod(without, -1, inclusive=inclusive)
    keep = astype(ops.less_equal(rows, reshape(ops.moveaxis(limit, 0, -1), (1, n))), x.dtype)
    result = sum(multiply(multiply(partial, keep), ops.expand_dims(grad, -2)), -1)
    if reverse:
        result = flip(result, -1)
    return ops.moveaxis(result, -1, axis)


def _cumextreme_back(largest):
    def back(needs, g, out, x, axis, reverse, inclusive):
        # The gradient of each result goes to the position that holds the extreme: the last one up to there.
        n = x.shape[axis]
        moved, held, grad = (ops.moveaxis(t, axis, -1) for t in (x, out, g))
        if reverse:
            moved, held, grad = (flip(t, -1) for t in (moved, held, grad))
        position = ops.arange(n, device=x.device)
        is_new = (
            equal(moved, held)
            if inclusive
            else equal(moved, ops.maximum(moved, held) if largest else ops.minimum(moved, held))
        )
        owner = cummax(where(is_new, position, -1), -1, inclusive=inclusive)
        hits = astype(equal(ops.expand_dims(owner, -2), reshape(position, (n, 1))), g.dtype)
        result = sum(multiply(hits, ops.expand_dims(grad, -2)), -1)
        if reverse:
            result = flip(result, -1)
        return ops.moveaxis(result, -1, axis)

    return back


def _logcumsumexp_back(needs, g, out, x, axis, reverse, inclusive):
    # d out[i] / d x[j] = exp(x[j] - out[i]) for j in the prefix of i.
    weights = cumsum(multiply(g, exp(negative(out))), axis, reverse=not reverse, inclusive=inclusive)
    return multiply(exp(x), weights)


def _scan(name, result, vjp):
    return primitive(
        name, "scan", lambda inputs, params: (inputs[0].shape, result(inputs[0].dtype)), vjp=vjp,
        linear=name == "cumsum",
    )


cumsum_p = _scan("cumsum", lambda d: dtypes.int32 if d.kind == "b" else d, _cumsum_back)
cumprod_p = _scan("cumprod", lambda d: d, _cumprod_back)
cummax_p = _scan("cummax", lambda d: d, _cumextreme_back(True))
cummin_p = _scan("cummin", lambda d: d, _cumextreme_back(False))
logcumsumexp_p = _scan("logcumsumexp", _at_least_float, _logcumsumexp_back)


def _apply_scan(p, a, axis, reverse, inclusive, stream, dtype=None):
    a = as_operand(a, p.name)
    if dtype is not None:
        a = astype(a, dtype)
    if axis is None:
        a, axis = reshape(a, (-1,)), 0
    axis = normalize_axis(axis, a.ndim, p.name)
    return apply(p, (a,), (axis, bool(reverse), bool(inclusive)), stream)


def _scan_reference(ufunc, identity):
    def reference(a, axis=None, reverse=False, inclusive=True):
        if axis is None:
            a, axis = a.reshape(-1), 0
        a = np.flip(a, axis) if reverse else a
        out = ufunc.accumulate(a, axis)
        if not inclusive:
            out = np.roll(out, 1, axis)
            first = [slice(None)] * a.ndim
            first[axis] = slice(0, 1)
            out[tuple(first)] = identity
        return np.flip(out, axis) if reverse else out

    return reference


def _scan_samples(low, high):
    def samples(rng):
        for shape, kwargs in [
            ((6,), {}), ((3, 5), {}), ((3, 5), {"axis": 0}), ((3, 5), {"axis": -1, "reverse": True}),
            ((3, 5), {"axis": 1, "inclusive": False}), ((2, 4, 3), {"axis": 1, "reverse": True, "inclusive": False}),
        ]:
            yield Sample((spread(rng, shape, low, high),), kwargs)
        yield Sample((spread(rng, (5, 3), low, high).T,), {"axis": 1})

    return samples


_SCAN_DOC = """

    Parameters
    ----------
    a : Tensor
    axis : int, optional
        By default the array is flattened first.
    reverse : bool
        Run from the last element to the first.
    inclusive : bool
        Whether each result includes its own element.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
    """


@operation("scan", primitive=cumsum_p, samples=_scan_samples(-2, 2), reference=_scan_reference(np.add, 0),
           dtypes=NUMERIC, differentiable=(0,), scale=lambda a, **kw: np.sum(np.abs(a)))
def cumsum(a, /, axis=None, *, reverse=False, inclusive=True, dtype=None, stream=None):
    """Return the running sum of elements."""
    return _apply_scan(cumsum_p, a, axis, reverse, inclusive, stream, dtype)


@operation("scan", primitive=cumprod_p, samples=_scan_samples(0.5, 1.5), reference=_scan_reference(np.multiply, 1),
           dtypes=FLOATING, differentiable=(0,), ulps=64)
def cumprod(a, /, axis=None, *, reverse=False, inclusive=True, dtype=None, stream=None):
    """Return the running product of elements."""
    return _apply_scan(cumprod_p, a, axis, reverse, inclusive, stream, dtype)


@operation("scan", primitive=cummax_p, samples=_scan_samples(-2, 2), reference=_scan_reference(np.maximum, -np.inf),
           dtypes=FLOATING, differentiable=(0,), ulps=0)
def cummax(a, /, axis=None, *, reverse=False, inclusive=True, stream=None):
    """Return the running maximum of elements."""
    return _apply_scan(cummax_p, a, axis, reverse, inclusive, stream)


@operation("scan", primitive=cummin_p, samples=_scan_samples(-2, 2), reference=_scan_reference(np.minimum, np.inf),
           dtypes=FLOATING, differentiable=(0,), ulps=0)
def cummin(a, /, axis=None, *, reverse=False, inclusive=True, stream=None):
    """Return the running minimum of elements."""
    return _apply_scan(cummin_p, a, axis, reverse, inclusive, stream)


@operation("scan", primitive=logcumsumexp_p, samples=_scan_samples(-2, 2), differentiable=(0,), ulps=16,
           reference=_scan_reference(np.logaddexp, -np.inf), scale=lambda a, **kw: 1.0)
def logcumsumexp(a, /, axis=None, *, reverse=False, inclusive=True, stream=None):
    """Return the running ``log(sum(exp(a)))`` of elements."""
    return _apply_scan(logcumsumexp_p, a, axis, reverse, inclusive, stream)


_SCAN_DTYPE = """    dtype : Dtype, optional
        Convert the elements to this dtype first.
    stream"""

for _function in (cumsum, cumprod, cummax, cummin, logcumsumexp):
    _function.__doc__ = (
        f"{_function.__doc__}{_SCAN_DOC}".replace("    stream", _SCAN_DTYPE)
        if _function in (cumsum, cumprod)
        else _SCAN_DOC
    )

# Other names for the same functions, as upstream has them.
cumulative_sum, cumulative_prod = cumsum, cumprod
