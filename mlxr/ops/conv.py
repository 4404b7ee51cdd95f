"""Convolution: one primitive, and the public functions that call it.

Layout is channels last: inputs [N, spatial..., C], weights [O, kernel..., C / groups]. Transposed convolutions and
both gradients are convolutions again, so gradients of any order are.

Negative padding crops the input after it was dilated, which is what transposed convolutions and gradients need.
Upstream 0.32.4 crops first: there ``conv_transpose1d(x, w, stride=2, padding=1)`` with a kernel of one tap lacks two
values, and gradients of transposed convolutions with output padding have the wrong shape.
"""

from __future__ import annotations

import itertools

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core.dispatch import apply, as_operand
from mlxr.core.dtype import promote_types
from mlxr.errors import DtypeError, InvalidValueError, ShapeError
from mlxr.ops.declare import Refusal, Sample, operation, primitive, spread
from mlxr.ops.elementwise import astype
from mlxr.ops.layout import flip as reverse
from mlxr.ops.layout import reshape, swapaxes

__all__ = [
    "conv1d", "conv2d", "conv3d", "conv_general", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "convolve",
]


# ------------------------------------------------------------------ primitive

def _infer(inputs, params):
    x, w = inputs
    return (x.shape[0], *params[-1], w.shape[0]), x.dtype


def _back(needs, g, out, x, w, stride, low, dilation, spacing, groups, flip, extents):
    dx = dw = None
    kernel = w.shape[1:-1]
    if needs[0]:
        # The cotangent, spread by the stride, under the turned kernel with the roles of its channels exchanged.
        turned = reshape(w, (groups, w.shape[0] // groups, *w.shape[1:]))
        turned = reshape(swapaxes(turned, 1, -1), (x.shape[-1], *kernel, w.shape[0] // groups))
        padding = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, low, strict=True))
        dx = apply(conv_p, (g, turned), (spacing, padding, dilation, stride, groups, not flip, x.shape[1:-1]))
    if needs[1]:
        # Contracts over images and positions: the images are the channels.
        parts = []
        for xs, gs in zip(ops.split(x, groups, -1), ops.split(g, groups, -1), strict=True):
            images = (swapaxes(xs, 0, -1), swapaxes(gs, 0, -1))
            part = apply(conv_p, images, (dilation, low, stride, spacing, 1, False, kernel))
            parts.append(swapaxes(part, 0, -1))
        dw = parts[0] if groups == 1 else ops.concatenate(parts, 0)
        if flip:
            dw = reverse(dw, list(range(1, dw.ndim - 1)))
    return dx, dw


conv_p = primitive("conv", "convolution", _infer, vjp=_back)


# ------------------------------------------------------------------ arguments

def _per_axis(value, n, name):
    """Return an argument (an int, or one int or one per axis) as a tuple with one int per spatial axis."""
    numbers = (value,) if hasattr(value, "__index__") else tuple(value)
    numbers = tuple(k.__index__() for k in numbers)
    if len(numbers) == 1:
        numbers *= n
    if len(numbers) != n:
        raise InvalidValueError(f"[conv] Invalid {name} {numbers} for {n}D convolution.", op="conv", **{name: numbers})
    return numbers


def _operands(x, w, groups, n=None):
    """Return input and weight in one floating dtype, their shapes checked against each other."""
    x, w = as_operand(x, "conv"), as_operand(w, "conv")
    for role, t in (("input", x), ("weight", w)):
        if t.dtype.kind != "f":
            raise DtypeError(f"[conv] Invalid {role} array with type {t.dtype.name}. Convolution currently only "
                             "supports floating point types", op="conv", dtypes=(x.dtype, w.dtype))
    shapes = (x.shape, w.shape)
    n = x.ndim - 2 if n is None else n
    if not 1 <= n <= 3 or x.ndim != n + 2:
        axes = n if n > 0 else "1 to 3"
        raise ShapeError(f"[conv] inputs are [N, spatial..., C] with {axes} spatial axes, got shape {x.shape}",
                         op="conv", shapes=shapes)
    if w.ndim != x.ndim:
        raise ShapeError(f"[conv] Invalid weight array with {w.ndim} dimensions for {n}D convolution: expected "
                         "[C_out, kernel..., C_in]", op="conv", shapes=shapes)
    if 0 in w.shape[1:-1]:
        raise ShapeError(f"[conv] a kernel of shape {w.shape[1:-1]} is empty", op="conv", shapes=shapes)
    if groups < 1 or w.shape[0] % groups or x.shape[-1] != w.shape[-1] * groups:
        raise ShapeError(
            f"[conv] Expect the input channels in the input and weight array to match but got shapes - input: "
            f"{x.shape} and weight: {w.shape}, in {groups} groups that also divide the output channels", op="conv",
            shapes=shapes,
        )
    dtype = promote_types(x.dtype, w.dtype)
    return astype(x, dtype), astype(w, dtype)


def _conv(x, w, stride, low, high, dilation, spacing, groups, flip, stream):
    """Convolve checked operands; the numbers come as one per spatial axis."""
    for name, numbers in (("stride", stride), ("kernel dilation", dilation), ("input dilation", spacing)):
        if min(numbers) < 1:
            raise InvalidValueError(f"[conv] {name} sizes must be positive, got {numbers}", op="conv", sizes=numbers)
    extents = []
    for n, k, s, lo, hi, d, e in zip(x.shape[1:-1], w.shape[1:-1], stride, low, high, dilation, spacing, strict=True):
        room = lo + hi + ((n - 1) * e + 1 if n else 0) - (d * (k - 1) + 1)
        if room < 0:
            raise ShapeError(
                f"[conv] Spatial dimensions of input after padding cannot be smaller than weight spatial dimensions: "
                f"input {x.shape}, weight {w.shape}, padding {low} and {high}", op="conv", shapes=(x.shape, w.shape),
            )
        extents.append(room // s + 1)
    return apply(conv_p, (x, w), (stride, low, dilation, spacing, groups, bool(flip), tuple(extents)), stream)


# ------------------------------------------------------------------ reference and samples

def _reference(x, w, stride, low, high, dilation, spacing, groups, flip):
    """Convolve ndarrays by the definition."""
    n = x.ndim - 2
    kernel = w.shape[1:-1]
    extents = [(m - 1) * e + 1 for m, e in zip(x.shape[1:-1], spacing, strict=True)]
    spaced = np.zeros((x.shape[0], *extents, x.shape[-1]))
    places = (slice(None), *(slice(None, None, e) for e in spacing))
    spaced[places] = x
    padded = np.pad(spaced, [(0, 0), *((max(lo, 0), max(hi, 0)) for lo, hi in zip(low, high, strict=True)), (0, 0)])
    crop = [slice(max(-lo, 0), m - max(-hi, 0)) for lo, hi, m in zip(low, high, padded.shape[1:-1], strict=True)]
    inside = (slice(None), *crop)
    padded = padded[inside]
    w = np.flip(w, tuple(range(1, n + 1))) if flip else w
    extents = [(m - d * (k - 1) - 1) // s + 1
               for m, d, k, s in zip(padded.shape[1:-1], dilation, kernel, stride, strict=True)]
    out = np.zeros((x.shape[0], *extents, groups, w.shape[0] // groups))
    weight = np.moveaxis(w.reshape(groups, w.shape[0] // groups, *w.shape[1:]), (0, 1), (-3, -2))
    for tap in itertools.product(*(range(k) for k in kernel)):
        window = (slice(None), *(slice(d * t, d * t + (m - 1) * s + 1, s)
                                 for t, d, m, s in zip(tap, dilation, extents, stride, strict=True)))
        part = padded[window].reshape(x.shape[0], *extents, groups, w.shape[-1])
        out += np.einsum("...gc,goc->...go", part, weight[tap])
    return out.reshape(x.shape[0], *extents, w.shape[0])


def _reference_general(x, w, stride=1, padding=0, kernel_dilation=1, input_dilation=1, groups=1, flip=False):
    n = x.ndim - 2
    low, high = padding if isinstance(padding, tuple) and not isinstance(padding[0], int) else (padding, padding)
    numbers = [_per_axis(k, n, "argument") for k in (stride, low, high, kernel_dilation, input_dilation)]
    return _reference(x, w, *numbers, groups, flip)


def _reference_conv(x, w, stride=1, padding=0, dilation=1, groups=1):
    return _reference_general(x, w, stride, padding, dilation, 1, groups)


def _reference_transpose(x, w, stride=1, padding=0, dilation=1, output_padding=0, groups=1):
    n = x.ndim - 2
    stride, padding, dilation, more = (_per_axis(k, n, "argument") for k in (stride, padding, dilation, output_padding))
    low, high = _transposed_padding(w.shape[1:-1], padding, dilation, more)
    return _reference(x, w, (1,) * n, low, high, dilation, stride, groups, True)


def _magnitude(reference):
    return lambda x, w, *args, **kwargs: reference(np.abs(x), np.abs(w), *args, **kwargs)


def _samples(*cases):
    def samples(rng):
        for x, w, kwargs in cases:
            yield Sample((spread(rng, x, -1, 1), spread(rng, w, -1, 1)), kwargs)
        x, w, kwargs = cases[0]
        yield Sample((np.swapaxes(spread(rng, (*x[:-2], x[-1], x[-2]), -1, 1), -1, -2), spread(rng, w, -1, 1)), kwargs)

    return samples


def _refusals(n):
    x, w = np.ones((2, *(5,) * n, 4), np.float32), np.ones((3, *(2,) * n, 4), np.float32)
    return (
        Refusal((x[0], w), ShapeError), Refusal((x, w[0]), ShapeError), Refusal((x, w[..., :3]), ShapeError),
        Refusal((x, w), ShapeError, {"groups": 2}), Refusal((x, w), ShapeError, {"groups": 0}),
        Refusal((x, w[:, :0]), ShapeError), Refusal((x.astype(np.int32), w), DtypeError),
        Refusal((x, w), InvalidValueError, {"stride": 0}),
        Refusal((x, w), InvalidValueError, {"stride": (1,) * (n + 1)}),
        Refusal((x, w.repeat(3, 1)), ShapeError),
    )


_DOC = """
    Parameters
    ----------
    input : Tensor
        [N, {axes}, C_in], floating.
    weight : Tensor
        [C_out, {kernel}, C_in / groups].
    stride, padding, dilation{more} : int{each}
        Steps of the kernel; zeros around the input{on}; steps between the kernel's taps{why}.
    groups : int
        Groups of channels that do not mix.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        [N, {axes}, C_out]

    Raises
    ------
    ShapeError
        If the shapes do not fit each other, or the kernel does not fit the padded input.
    DtypeError
        If an operand is not floating.
    InvalidValueError
        If a number has no meaning.
    """


def _document(n, transposed):
    axes = ", ".join(("L",) if n == 1 else ("D", "H", "W")[-n:])
    return _DOC.format(
        axes=axes, kernel=", ".join(f"k{axis}" for axis in axes.split(", ")),
        each="" if n == 1 else " or tuple of int", more=", output_padding" if transposed else "",
        on=" of the convolution that this transposes" if transposed else " on both sides of each axis",
        why="; extents added to the result" if transposed else "",
    )


# ------------------------------------------------------------------ functions

def _forward(n, x, w, stride, padding, dilation, groups, stream):
    x, w = _operands(x, w, groups, n)
    stride, padding, dilation = (
        _per_axis(k, n, name) for k, name in ((stride, "stride"), (padding, "padding"), (dilation, "dilation"))
    )
    return _conv(x, w, stride, padding, padding, dilation, (1,) * n, groups, False, stream)


@operation("convolution", primitive=conv_p, differentiable=(0, 1), reference=_reference_conv, ulps=4,
           scale=_magnitude(_reference_conv), refusals=_refusals(1),
           samples=_samples(
               ((2, 9, 4), (3, 3, 4), {}), ((2, 9, 4), (6, 2, 2), {"stride": 2, "padding": 1, "groups": 2}),
               ((1, 8, 3), (3, 3, 1), {"dilation": 2, "padding": 2, "groups": 3}), ((0, 4, 2), (3, 2, 2), {}),
               ((2, 5, 2), (2, 2, 2), {"padding": -1}), ((1, 5, 0), (2, 2, 0), {}),
           ))
def conv1d(input, weight, /, stride=1, padding=0, dilation=1, groups=1, *, stream=None):
    """Return the cross-correlation of a sequence with a kernel."""
    return _forward(1, input, weight, stride, padding, dilation, groups, stream)


@operation("convolution", primitive=conv_p, differentiable=(0, 1), reference=_reference_conv, ulps=4,
           scale=_magnitude(_reference_conv), refusals=_refusals(2),
           samples=_samples(
               ((2, 5, 4, 3), (2, 3, 2, 3), {}),
               ((1, 6, 5, 2), (4, 3, 2, 1), {"stride": (2, 1), "padding": (1, 0), "groups": 2}),
               ((1, 5, 5, 2), (2, 2, 2, 2), {"dilation": (2, 1), "padding": 1}),
               ((1, 4, 4, 3), (3, 3, 3, 1), {"groups": 3}),
               ((1, 3, 3, 5), (4, 1, 1, 5), {}),
           ))
def conv2d(input, weight, /, stride=1, padding=0, dilation=1, groups=1, *, stream=None):
    """Return the cross-correlation of images with a kernel."""
    return _forward(2, input, weight, stride, padding, dilation, groups, stream)


@operation("convolution", primitive=conv_p, differentiable=(0, 1), reference=_reference_conv, ulps=4,
           scale=_magnitude(_reference_conv), refusals=_refusals(3),
           samples=_samples(
               ((1, 3, 4, 3, 2), (2, 2, 2, 2, 2), {}),
               ((1, 3, 3, 3, 2), (2, 2, 1, 3, 1), {"stride": (1, 2, 1), "padding": 1, "groups": 2}),
           ))
def conv3d(input, weight, /, stride=1, padding=0, dilation=1, groups=1, *, stream=None):
    """Return the cross-correlation of volumes with a kernel."""
    return _forward(3, input, weight, stride, padding, dilation, groups, stream)


def _transposed_padding(kernel, padding, dilation, output_padding):
    low = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True))
    return low, tuple(lo + a for lo, a in zip(low, output_padding, strict=True))


def _transposed(n, x, w, stride, padding, dilation, output_padding, groups, stream):
    x, w = _operands(x, w, groups, n)
    stride, padding, dilation, output_padding = (
        _per_axis(k, n, name) for k, name in (
            (stride, "stride"), (padding, "padding"), (dilation, "dilation"), (output_padding, "output_padding"))
    )
    low, high = _transposed_padding(w.shape[1:-1], padding, dilation, output_padding)
    return _conv(x, w, (1,) * n, low, high, dilation, stride, groups, True, stream)


@operation("convolution", primitive=conv_p, differentiable=(0, 1), reference=_reference_transpose, ulps=4,
           scale=_magnitude(_reference_transpose), refusals=_refusals(1)[:-1],
           samples=_samples(
               ((2, 5, 4), (3, 3, 4), {}),
               ((1, 4, 4), (6, 3, 2), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
               ((1, 4, 2), (2, 2, 2), {"stride": 3, "dilation": 2}),
           ))
def conv_transpose1d(input, weight, /, stride=1, padding=0, dilation=1, output_padding=0, groups=1, *, stream=None):
    """Return the transposed convolution of a sequence: the gradient of :func:`conv1d` in its input, as a layer."""
    return _transposed(1, input, weight, stride, padding, dilation, output_padding, groups, stream)


@operation("convolution", primitive=conv_p, differentiable=(0, 1), reference=_reference_transpose, ulps=4,
           scale=_magnitude(_reference_transpose), refusals=_refusals(2)[:-1],
           samples=_samples(
               ((1, 3, 4, 2), (3, 2, 3, 2), {}),
               ((1, 3, 3, 4), (2, 3, 2, 2),
                {"stride": (2, 1), "padding": (1, 0), "output_padding": (1, 0), "groups": 2}),
           ))
def conv_transpose2d(input, weight, /, stride=1, padding=0, dilation=1, output_padding=0, groups=1, *, stream=None):
    """Return the transposed convolution of images: the gradient of :func:`conv2d` in its input, as a layer."""
    return _transposed(2, input, weight, stride, padding, dilation, output_padding, groups, stream)


@operation("convolution", primitive=conv_p, differentiable=(0, 1), reference=_reference_transpose, ulps=4,
           scale=_magnitude(_reference_transpose), refusals=_refusals(3)[:-1],
           samples=_samples(
               ((1, 2, 3, 2, 2), (2, 2, 2, 2, 2), {"stride": (2, 1, 1), "padding": 1, "output_padding": 1}),
           ))
def conv_transpose3d(input, weight, /, stride=1, padding=0, dilation=1, output_padding=0, groups=1, *, stream=None):
    """Return the transposed convolution of volumes: the gradient of :func:`conv3d` in its input, as a layer."""
    return _transposed(3, input, weight, stride, padding, dilation, output_padding, groups, stream)


for _n, _function in enumerate((conv1d, conv2d, conv3d), 1):
    _function.__doc__ += "\n" + _document(_n, False)
for _n, _function in enumerate((conv_transpose1d, conv_transpose2d, conv_transpose3d), 1):
    _function.__doc__ += "\n" + _document(_n, True)


@operation("convolution", primitive=conv_p, differentiable=(0, 1), reference=_reference_general, ulps=4,
           scale=_magnitude(_reference_general), refusals=_refusals(2),
           samples=_samples(
               ((1, 5, 4, 2), (2, 2, 3, 2), {"padding": ([1, 0], [0, 2])}),
               ((1, 4, 4, 2), (2, 2, 2, 1), {"stride": [2], "input_dilation": (2, 3), "flip": True, "groups": 2}),
               ((1, 7, 2), (2, 3, 2), {"kernel_dilation": 2, "padding": [1], "flip": True}),
               ((1, 3, 3, 3, 1), (1, 2, 2, 2, 1), {"padding": (1, 0, 2)}),
           ))
def conv_general(input, weight, /, stride=1, padding=0, kernel_dilation=1, input_dilation=1, groups=1, flip=False, *,
                 stream=None):
    """Return the cross-correlation over one, two or three axes.

    Parameters
    ----------
    input : Tensor
        [N, spatial..., C_in], floating.
    weight : Tensor
        [C_out, kernel..., C_in / groups].
    stride : int or sequence of int
        Steps of the kernel.
    padding : int, sequence of int, or pair of sequences of int
        Zeros on both sides of each axis, or those in front and those behind; negative ones crop.
    kernel_dilation, input_dilation : int or sequence of int
        Steps between taps, and between the elements of the input.
    groups : int
        Groups of channels that do not mix.
    flip : bool
        Turn the kernel around: a convolution in the mathematical sense.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        [N, spatial..., C_out]

    Raises
    ------
    ShapeError
        If the shapes do not fit each other, or the kernel does not fit the padded input.
    DtypeError
        If an operand is not floating.
    InvalidValueError
        If a number has no meaning.
    """
    x, w = _operands(input, weight, groups)
    n = x.ndim - 2
    pair = not hasattr(padding, "__index__") and len(padding) == 2 and not hasattr(padding[0], "__index__")
    low, high = padding if pair else (padding, padding)
    low, high = _per_axis(low, n, "padding"), _per_axis(high, n, "padding")
    stride, dilation, spacing = (
        _per_axis(k, n, name) for k, name in (
            (stride, "stride"), (kernel_dilation, "kernel_dilation"), (input_dilation, "input_dilation"))
    )
    return _conv(x, w, stride, low, high, dilation, spacing, groups, flip, stream)


@operation("convolution", primitive=conv_p, differentiable=(0, 1), reference=np.convolve, ulps=4,
           scale=lambda a, v, mode="full": np.convolve(np.abs(a), np.abs(v), mode),
           samples=lambda rng: iter([
               Sample((spread(rng, (n,), -1, 1), spread(rng, (k,), -1, 1)), {"mode": mode})
               for n, k in ((5, 3), (3, 5), (4, 2), (2, 4), (4, 4)) for mode in ("full", "same", "valid")
           ]),
           refusals=(Refusal((np.ones(3, np.float32), np.ones((2, 2), np.float32)), ShapeError),
                     Refusal((np.ones(3, np.float32), np.ones(0, np.float32)), ShapeError),
                     Refusal((np.ones(3, np.float32), np.ones(2, np.float32), "wrap"), InvalidValueError)))
def convolve(a, v, /, mode="full", *, stream=None):
    """Return the convolution of two sequences.

    Parameters
    ----------
    a, v : Tensor
        One-dimensional and floating.
    mode : {"full", "same", "valid"}
        Where they overlap at all; as many values as the longer one has, from the middle; or where they overlap
        completely.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If an operand has not one axis, or is empty.
    InvalidValueError
        If there is no such mode.
    """
    a, v = as_operand(a, "convolve"), as_operand(v, "convolve")
    if a.ndim != 1 or v.ndim != 1 or not a.size or not v.size:
        raise ShapeError(f"[convolve] expected two sequences with elements, got shapes {a.shape} and {v.shape}",
                         op="convolve", shapes=(a.shape, v.shape))
    if a.size < v.size:
        a, v = v, a
    k = v.size
    paddings = {"full": (k - 1, k - 1), "same": (k // 2, k - 1 - k // 2), "valid": (0, 0)}
    if mode not in paddings:
        raise InvalidValueError(f"[convolve] Invalid mode {mode!r}.", op="convolve", mode=mode)
    low, high = paddings[mode]
    x, w = _operands(reshape(a, (1, -1, 1)), reshape(v, (1, -1, 1)), 1)
    return reshape(_conv(x, w, (1,), (low,), (high,), (1,), (1,), 1, True, stream), (-1,))
