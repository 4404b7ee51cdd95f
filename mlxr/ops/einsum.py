"""Einstein summation over matrix products, in the order that NumPy plans."""

from __future__ import annotations

import math
import string

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core.dispatch import as_operand
from mlxr.errors import InvalidValueError, ShapeError
from mlxr.ops.declare import COMPLEX, FLOATING, Refusal, Sample, operation, spread
from mlxr.ops.elementwise import multiply
from mlxr.ops.layout import broadcast_to, reshape, transpose

__all__ = ["einsum", "einsum_path"]


def _refuse(message):
    raise InvalidValueError(f"[einsum] {message}", op="einsum")


def _labels(text, ndim, rest):
    """Return the labels of one operand or of the result; those of an ellipsis come from the end of `rest`."""
    if text.count("...") > 1 or text.replace("...", "").strip(string.ascii_letters):
        _refuse(f"Subscripts must be letters and one ellipsis, but got {text!r}.")
    if "..." not in text:
        return list(text)
    front, back = text.split("...")
    count = len(rest) if ndim is None else ndim - len(front) - len(back)
    if count < 0 or count > len(rest):
        _refuse(f"Invalid number of subscripts in {text!r} for {ndim} dimensions.")
    return [*front, *rest[len(rest) - count:], *back]


def _parse(subscripts, shapes):
    """Return the labels of each operand and of the result, and the extent of each label."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        _refuse(f"Number of operands, {len(shapes)}, does not match number of input subscripts, {len(terms)}")
    # The axes under an ellipsis are numbered; the last ones of all operands are the same.
    under = [len(s) - len(t.replace("...", "")) for t, s in zip(terms, shapes, strict=True) if "..." in t]
    rest = list(range(max(under, default=0)))
    operands = [_labels(term, len(shape), rest) for term, shape in zip(terms, shapes, strict=True)]
    extents = {}
    for k, (labels, shape) in enumerate(zip(operands, shapes, strict=True)):
        if len(labels) != len(shape):
            _refuse(f"Invalid number of subscripts {len(labels)} for input {k} with {len(shape)} dimensions.")
        for axis, (label, n) in enumerate(zip(labels, shape, strict=True)):
            known = extents.setdefault(label, n)
            if n != known and n != 1 and known != 1:
                raise ShapeError(f"[einsum] Cannot broadcast dimension {axis} of input {k} with shape {shape} to size "
                                 f"{known}.", op="einsum", shapes=tuple(shapes))
            if known == 1:
                extents[label] = n
    if arrow:
        result = _labels(right, None, rest)
    else:
        every = [label for labels in operands for label in labels]
        result = rest + sorted(x for x in extents if isinstance(x, str) and every.count(x) == 1)
    if len(set(result)) != len(result):
        _refuse("Repeat indices not allowed in output.")
    if not set(result) <= set(extents):
        _refuse(f"The result has subscripts that no operand has: {right!r}.")
    return operands, result, extents


def _path(operands, result, extents):
    """Return NumPy's order of contractions and its description."""
    letters = dict(zip(extents, string.ascii_letters, strict=False))
    if len(extents) > len(letters):
        _refuse(f"more than {len(letters)} different axes")
    terms = ",".join("".join(letters[x] for x in labels) for labels in operands)
    # Arrays of the right shapes without elements of their own.
    shapes = [np.broadcast_to(np.float32(0), [extents[x] for x in labels]) for labels in operands]
    path, text = np.einsum_path(terms + "->" + "".join(letters[x] for x in result), *shapes, optimize="greedy")
    return path[1:], text


def _reduced(x, labels, keep):
    """Return `x` with repeated labels as one axis (its diagonal) and labels outside of `keep` summed."""
    labels = list(labels)
    for label in sorted(set(labels), key=labels.index):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            x = ops.diagonal(x, 0, first, second)
            labels = [y for k, y in enumerate(labels) if k not in (first, second)] + [label]
    drop = [k for k, label in enumerate(labels) if label not in keep]
    return (ops.sum(x, drop) if drop else x), [label for label in labels if label in keep]


def _pair(a, b, result, stream):
    """Contract two operands (tensor and labels) to the labels in `result`."""
    (x, xs), (y, ys) = a, b
    x, xs = _reduced(x, xs, {*result, *ys})
    y, ys = _reduced(y, ys, {*result, *xs})
    both = [label for label in xs if label in ys]
    parts, inner = [s for s in both if s in result], [s for s in both if s not in result]
    rows, columns = [s for s in xs if s not in both], [s for s in ys if s not in both]
    extents = dict(zip(xs, x.shape, strict=True))
    for label, n in zip(ys, y.shape, strict=True):
        extents[label] = n if extents.get(label, 1) == 1 else extents[label]

    def arranged(t, labels, order):
        t = transpose(t, [labels.index(label) for label in order])
        return broadcast_to(t, [extents[label] for label in order])

    x, y = arranged(x, xs, parts + rows + inner), arranged(y, ys, parts + inner + columns)
    if not inner:
        x = reshape(x, (*x.shape, *(1,) * len(columns)))
        y = reshape(y, (*y.shape[:len(parts)], *(1,) * len(rows), *y.shape[len(parts):]))
        return multiply(x, y, stream=stream), parts + rows + columns
    size = lambda labels: math.prod(extents[label] for label in labels)  # noqa: E731
    front = [extents[label] for label in parts]
    x, y = reshape(x, (*front, size(rows), size(inner))), reshape(y, (*front, size(inner), size(columns)))
    product = ops.matmul(x, y, stream=stream)
    return reshape(product, [extents[label] for label in parts + rows + columns]), parts + rows + columns


def einsum_path(subscripts, *operands):
    """Return the order in which :func:`einsum` contracts its operands.

    Parameters
    ----------
    subscripts : str
    *operands : Tensor

    Returns
    -------
    tuple
        Positions of the operands of each step (results go to the end), and a description.

    Raises
    ------
    InvalidValueError, ShapeError
        As :func:`einsum`.
    """
    parsed = _parse(subscripts, [as_operand(x, "einsum_path").shape for x in operands])
    return _path(*parsed)


def _einsum_samples(rng):
    for subscripts, *shapes in [
        ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("bA", (2, 3)), ("ii->", (3, 3)), ("ii->i", (3, 3)),
        ("...ij,...jk->...ik", (5, 2, 3), (3, 4)), ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
        ("i,j->ij", (2,), (3,)),
        ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)), ("ij,ij->i", (2, 3), (2, 3)), ("iij,jk->ik", (2, 2, 3), (3, 4)),
        ("i,ij,j->", (2,), (2, 3), (3,)), (" i j -> j i ", (2, 3)), ("...->...", (2, 3)), ("ab,c->b", (2, 3), (4,)),
    ]:
        yield Sample((subscripts, *(spread(rng, shape, -1, 1) for shape in shapes)))


@operation("matmul", samples=_einsum_samples, reference=np.einsum, dtypes=FLOATING + COMPLEX, differentiable=(1, 2, 3),
           scale=lambda subscripts, *operands: np.einsum(subscripts, *(np.abs(x) for x in operands)), ulps=8,
           refusals=(Refusal(("ij,jk->ik", np.ones((2, 3), np.float32)), InvalidValueError),
                     Refusal(("ij,jk->ik", np.ones((2, 3), np.float32), np.ones((4, 4), np.float32)), ShapeError),
                     Refusal(("ijk->i", np.ones((2, 3), np.float32)), InvalidValueError),
                     Refusal(("ij->il", np.ones((2, 3), np.float32)), InvalidValueError),
                     Refusal(("i->ii", np.ones(2, np.float32)), InvalidValueError),
                     Refusal(("1->1", np.ones(2, np.float32)), InvalidValueError)))
def einsum(subscripts, *operands, stream=None):
    """Return sums of products over named axes.

    Parameters
    ----------
    subscripts : str
        A letter for each axis of each operand, ``...`` for axes that broadcast, and after ``->`` the axes of the
        result; without it, the letters that occur once, sorted. Letters that are not in the result are summed.
    *operands : Tensor
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If the subscripts do not fit the operands.
    ShapeError
        If axes with the same letter have different extents.
    """
    operands = [as_operand(x, "einsum") for x in operands]
    labels, result, extents = _parse(subscripts, [x.shape for x in operands])
    held = list(zip(operands, labels, strict=True))
    steps = _path(labels, result, extents)[0] if len(held) > 2 else [tuple(range(len(held)))]
    for step in steps:
        taken = [held.pop(k) for k in sorted(step, reverse=True)]
        while len(taken) > 1:
            wanted = {*result, *(label for _, names in held + taken[:-2] for label in names)}
            taken[-2:] = [_pair(taken[-1], taken[-2], wanted, stream)]
        held.append(taken[0])
    x, names = _reduced(*held[0], set(result))
    x = transpose(x, [names.index(label) for label in result])
    return broadcast_to(x, [extents[label] for label in result])
