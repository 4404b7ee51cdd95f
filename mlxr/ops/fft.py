"""Discrete Fourier transforms: one complex and two real primitives, the rest composed of them.

Everything is computed as complex64 or float32, as upstream does.
"""

from __future__ import annotations

import math

import numpy as np

import mlxr.ops as ops  # other families: complete by the time a function runs
from mlxr.core import dtype as dtypes
from mlxr.core.device import device_of
from mlxr.core.dispatch import apply, as_operand
from mlxr.core.tensor import Tensor
from mlxr.errors import AxisError, InvalidValueError, ShapeError
from mlxr.ops.declare import Refusal, Sample, operation, primitive, spread
from mlxr.ops.elementwise import astype, multiply, real
from mlxr.ops.layout import normalize_axes, normalize_axis, swapaxes

__all__ = [
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "ifft", "ifft2", "ifftn", "ifftshift", "irfft", "irfft2", "irfftn",
    "istft", "rfft", "rfft2", "rfftfreq", "rfftn", "stft",
]


# ------------------------------------------------------------------ primitives

def _count(shape, axes):
    return math.prod(shape[k] for k in axes)


def _fft_back(needs, g, out, x, axes, inverse):
    n = _count(x.shape, axes)
    return multiply(apply(fft_p, (g,), (axes, not inverse)), 1 / n if inverse else float(n))


def _resized(x, sizes):
    """Return `x` cut, or extended by zeros, to an extent for each axis in `sizes`."""
    cut = tuple(slice(0, sizes.get(k, n)) for k, n in enumerate(x.shape))
    widths = [(0, max(sizes.get(k, n) - n, 0)) for k, n in enumerate(x.shape)]
    x = x[cut] if any(sizes.get(k, n) < n for k, n in enumerate(x.shape)) else x
    return ops.pad(x, widths) if any(high for _, high in widths) else x


def _half(n):
    return n // 2 + 1


def _with_extent(shape, axis, n):
    return (*shape[:axis], n, *shape[axis + 1:])


def _rfft_back(needs, g, out, x, axis):
    n = x.shape[axis]
    whole = _resized(g, {axis: n})
    return multiply(real(apply(fft_p, (whole,), ((axis,), True))), float(n))


def _irfft_back(needs, g, out, x, axis, n):
    # Every coefficient but the first, and the middle one of an even length, stands for two conjugate ones.
    m = _half(n)
    weights = np.full(m, 2.0 / n)
    weights[0] = 1.0 / n
    if n % 2 == 0:
        weights[-1] = 1.0 / n
    shape = [m if k == axis else 1 for k in range(x.ndim)]
    dx = multiply(apply(rfft_p, (g,), (axis,)), Tensor(weights.reshape(shape), dtypes.float32, device=x.device))
    return _resized(dx, {axis: x.shape[axis]})


fft_p = primitive("fft", "host", lambda inputs, params: (inputs[0].shape, dtypes.complex64), vjp=_fft_back)
rfft_p = primitive(
    "rfft", "host",
    lambda inputs, params: (
        _with_extent(inputs[0].shape, params[0], _half(inputs[0].shape[params[0]])), dtypes.complex64
    ),
    vjp=_rfft_back,
)
irfft_p = primitive(
    "irfft", "host", lambda inputs, params: (_with_extent(inputs[0].shape, *params), dtypes.float32), vjp=_irfft_back,
)


# ------------------------------------------------------------------ arguments

def _checked(a, s, axes, op):
    """Return the operand, the axes counted from the front, and the extent wanted of each (None: as it is)."""
    a = as_operand(a, op)
    if axes is None:
        if s is not None:
            raise InvalidValueError(f"[{op}] `axes` should not be `None` if `s` is not `None`.", op=op)
        axes = range(a.ndim)
    axes = [normalize_axis(k, a.ndim, op) for k in axes]
    if len(set(axes)) != len(axes):
        raise InvalidValueError(f"[{op}] Duplicated axis received {tuple(axes)}", op=op, axes=tuple(axes))
    sizes = [None] * len(axes) if s is None else list(s)
    if len(sizes) != len(axes):
        raise InvalidValueError(f"[{op}] Shape and axes have different sizes.", op=op, s=tuple(sizes))
    return a, tuple(axes), sizes


def _check_sizes(sizes, op):
    if any(n < 1 for n in sizes.values()):
        raise ShapeError(f"[{op}] Invalid FFT output size requested {tuple(sizes.values())}", op=op,
                         shapes=(tuple(sizes.values()),))
    return sizes


def _factor(norm, n, inverse, op):
    """Return what an unscaled forward, or fully scaled inverse, transform is multiplied by."""
    if norm not in ("backward", "ortho", "forward"):
        raise InvalidValueError(f"[{op}] Invalid norm. Expected one of {{'backward', 'ortho', 'forward'}}.", op=op,
                                norm=norm)
    power = {"backward": 0.0, "ortho": 0.5, "forward": 1.0}[norm]
    return float(n) ** (power if inverse else -power)


def _scaled(x, factor):
    return x if factor == 1 else multiply(x, factor)


def _complex(a, s, axes, norm, inverse, op, stream):
    a, axes, sizes = _checked(a, s, axes, op)
    wanted = _check_sizes({axis: a.shape[axis] if n is None else n for axis, n in zip(axes, sizes, strict=True)}, op)
    factor = _factor(norm, math.prod(wanted.values()), inverse, op)
    if not axes:
        return a
    x = _resized(astype(a, dtypes.complex64), wanted)
    return _scaled(apply(fft_p, (x,), (axes, inverse), stream), factor)


def _real_forward(a, s, axes, norm, op, stream):
    a, axes, sizes = _checked(a, s, axes, op)
    wanted = _check_sizes({axis: a.shape[axis] if n is None else n for axis, n in zip(axes, sizes, strict=True)}, op)
    factor = _factor(norm, math.prod(wanted.values()), False, op)
    if not axes:
        return a
    x = _resized(real(a) if a.dtype.kind == "c" else astype(a, dtypes.float32), wanted)
    x = apply(rfft_p, (x,), (axes[-1],), stream)
    return _scaled(apply(fft_p, (x,), (axes[:-1], False)) if axes[:-1] else x, factor)


def _real_inverse(a, s, axes, norm, op, stream):
    a, axes, sizes = _checked(a, s, axes, op)
    wanted = {axis: a.shape[axis] if n is None else n for axis, n in zip(axes, sizes, strict=True)}
    if axes and sizes[-1] is None:
        wanted[axes[-1]] = 2 * (a.shape[axes[-1]] - 1)
    _check_sizes(wanted, op)
    factor = _factor(norm, math.prod(wanted.values()), True, op)
    if not axes:
        return a
    last = axes[-1]
    n = wanted[last]
    x = _resized(astype(a, dtypes.complex64), {**wanted, last: _half(n)})
    x = apply(fft_p, (x,), (axes[:-1], True), stream) if axes[:-1] else x
    return _scaled(apply(irfft_p, (x,), (last, n), stream), factor)


# ------------------------------------------------------------------ declarations

_DOC = """

    Parameters
    ----------
    a : Tensor
    {size}
    {axes}
    norm : {{"backward", "ortho", "forward"}}
        Which direction is divided by the number of elements: the inverse, both by its root, or the forward one.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor
        Of dtype {result}.

    Raises
    ------
    ShapeError, AxisError, InvalidValueError
        If there is no such axis, extent or norm.
    """
_SIZES = {
    1: ("n : int, optional\n        Cut or extend the axis by zeros to this extent{last}.",
        "axis : int\n        The axis that is transformed."),
    2: ("s : sequence of int, optional\n        Cut or extend the axes by zeros to these extents{last}.",
        "axes : sequence of int, optional\n        The axes that are transformed."),
}


def _declare(function, dims, kind):
    """Declare a transform of one axis (`dims` 1), two, or any number (0); `kind` is "", "r" or "ir"."""
    name = function.__name__
    last = " (of the result, with `a` its non-negative frequencies)" if kind == "ir" else ""
    size, axes = _SIZES[1 if dims == 1 else 2]
    function.__doc__ += _DOC.format(
        size=size.format(last=last), axes=axes, result="float32" if kind == "ir" else "complex64",
    )
    cases = {
        1: [((7,), {}), ((8,), {}), ((3, 8), {"axis": 0}), ((2, 9), {"n": 5}), ((2, 5), {"n": 8, "norm": "ortho"}),
            ((4,), {"norm": "forward"}), ((3,), {"n": 2})],
        2: [((4, 6), {}), ((2, 3, 4), {}), ((2, 3, 4), {"axes": (0, 1)}), ((3, 4), {"s": (4, 6), "norm": "ortho"})],
        0: [((3, 4), {}), ((2, 3, 4), {"axes": (2, 0)}), ((2, 3, 4), {"s": (4, 2), "axes": (0, 1), "norm": "forward"})],
    }[dims]
    axis = "axis" if dims == 1 else "axes"
    beyond = 9 if dims == 1 else (0, 9)
    x = np.ones((3, 4), np.float32)
    operation(
        "host", name=f"fft.{name}", primitive={"": fft_p, "r": rfft_p, "ir": irfft_p}[kind], ulps=32,
        dtypes=(dtypes.float32,), reference=getattr(np.fft, name),
        samples=lambda rng: (Sample((spread(rng, shape, -1, 1),), kw) for shape, kw in cases),
        scale=lambda a, *args, **kw: np.abs(a).sum(),
        refusals=(Refusal((x,), AxisError, {axis: beyond}), Refusal((x,), InvalidValueError, {"norm": "unit"}),
                  Refusal((x, 0 if dims == 1 else (0, 1)), ShapeError, {} if dims != 0 else {"axes": (0, 1)})),
    )(function)
    return function


def fft(a, n=None, axis=-1, norm="backward", stream=None):
    """Return the discrete Fourier transform along an axis."""
    return _complex(a, None if n is None else (n,), (axis,), norm, False, "fft", stream)


def ifft(a, n=None, axis=-1, norm="backward", stream=None):
    """Return the inverse of :func:`fft`."""
    return _complex(a, None if n is None else (n,), (axis,), norm, True, "ifft", stream)


def fft2(a, s=None, axes=(-2, -1), norm="backward", stream=None):
    """Return the discrete Fourier transform over two axes."""
    return _complex(a, s, axes, norm, False, "fft2", stream)


def ifft2(a, s=None, axes=(-2, -1), norm="backward", stream=None):
    """Return the inverse of :func:`fft2`."""
    return _complex(a, s, axes, norm, True, "ifft2", stream)


def fftn(a, s=None, axes=None, norm="backward", stream=None):
    """Return the discrete Fourier transform over several axes."""
    return _complex(a, s, axes, norm, False, "fftn", stream)


def ifftn(a, s=None, axes=None, norm="backward", stream=None):
    """Return the inverse of :func:`fftn`."""
    return _complex(a, s, axes, norm, True, "ifftn", stream)


def rfft(a, n=None, axis=-1, norm="backward", stream=None):
    """Return the non-negative frequencies of the discrete Fourier transform of a real array along an axis."""
    return _real_forward(a, None if n is None else (n,), (axis,), norm, "rfft", stream)


def irfft(a, n=None, axis=-1, norm="backward", stream=None):
    """Return the inverse of :func:`rfft`."""
    return _real_inverse(a, None if n is None else (n,), (axis,), norm, "irfft", stream)


def rfft2(a, s=None, axes=(-2, -1), norm="backward", stream=None):
    """Return :func:`fft2` of a real array, of the last axis the non-negative frequencies."""
    return _real_forward(a, s, axes, norm, "rfft2", stream)


def irfft2(a, s=None, axes=(-2, -1), norm="backward", stream=None):
    """Return the inverse of :func:`rfft2`."""
    return _real_inverse(a, s, axes, norm, "irfft2", stream)


def rfftn(a, s=None, axes=None, norm="backward", stream=None):
    """Return :func:`fftn` of a real array, of the last axis the non-negative frequencies."""
    return _real_forward(a, s, axes, norm, "rfftn", stream)


def irfftn(a, s=None, axes=None, norm="backward", stream=None):
    """Return the inverse of :func:`rfftn`."""
    return _real_inverse(a, s, axes, norm, "irfftn", stream)


for _dims, _kind, _functions in (
    (1, "", (fft, ifft)), (2, "", (fft2, ifft2)), (0, "", (fftn, ifftn)), (1, "r", (rfft,)), (2, "r", (rfft2,)),
    (0, "r", (rfftn,)), (1, "ir", (irfft,)), (2, "ir", (irfft2,)), (0, "ir", (irfftn,)),
):
    for _function in _functions:
        _declare(_function, _dims, _kind)


# ------------------------------------------------------------------ frequencies

def _frequencies(values, n, d, op, stream):
    if n <= 0:
        raise InvalidValueError(f"[{op}] `n` must be greater than 0.", op=op, n=n)
    if d == 0:
        raise InvalidValueError(f"[{op}] `d` must be non-zero.", op=op, d=d)
    return Tensor(values(n, d), dtypes.float32, device=device_of(stream))


def fftfreq(n, d=1.0, stream=None):
    """Return the frequencies of the elements of :func:`fft`.

    Parameters
    ----------
    n : int
        Extent of the transform.
    d : float
        Distance between samples.
    stream : Stream or Device, optional
        Where the tensor is made.

    Returns
    -------
    Tensor

    Raises
    ------
    InvalidValueError
        If `n` is not positive or `d` is zero.
    """
    return _frequencies(np.fft.fftfreq, n, d, "fftfreq", stream)


def rfftfreq(n, d=1.0, stream=None):
    """Return the frequencies of the elements of :func:`rfft`; parameters as :func:`fftfreq`."""
    return _frequencies(np.fft.rfftfreq, n, d, "rfftfreq", stream)


def _shift(a, axes, sign, op):
    a = as_operand(a, op)
    axes = normalize_axes(axes, a.ndim, op)
    for axis in axes:
        n = a.shape[axis]
        if n:
            a = ops.roll(a, n // 2 if sign > 0 else -(n // 2), axis)
    return a


def fftshift(a, axes=None, stream=None):
    """Return a spectrum with the zero frequency in the middle.

    Parameters
    ----------
    a : Tensor
    axes : int or sequence of int, optional
        All axes by default.
    stream : Stream or Device, optional
        Must be on the operand's device.

    Returns
    -------
    Tensor

    Raises
    ------
    AxisError
        If there is no such axis.
    """
    return _shift(a, axes, 1, "fftshift")


def ifftshift(a, axes=None, stream=None):
    """Return the inverse of :func:`fftshift`; parameters as there."""
    return _shift(a, axes, -1, "ifftshift")


# ------------------------------------------------------------------ short-time transforms

def _window(window, win_length, n_fft, device, op):
    """Return the window as float32, centred among zeros to `n_fft` points."""
    length = n_fft if win_length is None else win_length
    window = ops.ones((length,), device=device) if window is None else as_operand(window, op)
    if window.ndim != 1 or window.size > n_fft or (win_length is not None and window.size != win_length):
        raise ShapeError(f"[{op}] a window of shape {window.shape} does not fit win_length={win_length} and "
                         f"n_fft={n_fft}", op=op, shapes=(window.shape,))
    left = (n_fft - window.size) // 2
    return ops.pad(astype(window, dtypes.float32), (left, n_fft - window.size - left))


def _steps(n_fft, hop_length, op):
    hop = n_fft // 4 if hop_length is None else hop_length
    if n_fft < 1 or hop < 1:
        raise InvalidValueError(f"[{op}] n_fft and hop_length are positive, got {n_fft} and {hop}", op=op,
                                n_fft=n_fft, hop_length=hop)
    return hop


def stft(x, n_fft=2048, hop_length=None, win_length=None, window=None, center=True, pad_mode="reflect",
         norm="backward", onesided=None, stream=None):
    """Return the Fourier transforms of overlapping frames of a signal.

    Parameters
    ----------
    x : Tensor
        Signals along the last axis.
    n_fft : int
        Points of a frame.
    hop_length : int, optional
        Points between frames; a quarter of `n_fft` by default.
    win_length : int, optional
        Points of the window; `n_fft` by default.
    window : Tensor, optional
        What frames are multiplied by, centred; ones by default.
    center : bool
        Pad the signal on both sides, so that frames are centred on their place.
    pad_mode : {"reflect", "constant", "edge"}
        How to pad.
    norm : {"backward", "ortho", "forward"}
        As for :func:`fft`.
    onesided : bool, optional
        Only the non-negative frequencies; by default for real signals.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of shape (..., frequencies, frames) and dtype complex64.

    Raises
    ------
    ShapeError
        If the signal is shorter than a frame, or the window does not fit.
    InvalidValueError
        If a number or mode has no meaning.
    """
    x = as_operand(x, "stft")
    hop = _steps(n_fft, hop_length, "stft")
    if x.ndim < 1:
        raise ShapeError("[stft] the signal needs an axis", op="stft", shapes=(x.shape,))
    is_complex = x.dtype.kind == "c"
    onesided = not is_complex if onesided is None else onesided
    window = _window(window, win_length, n_fft, x.device, "stft")
    if center:
        half = n_fft // 2
        if pad_mode == "constant":
            x = ops.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)])
        elif pad_mode in ("reflect", "edge") and x.shape[-1]:
            places = np.pad(np.arange(x.shape[-1], dtype=np.int32), half, pad_mode)
            x = ops.take(x, Tensor(places, device=x.device), -1)
        elif x.shape[-1]:
            raise InvalidValueError(f"[stft] Invalid padding mode {pad_mode!r}.", op="stft", pad_mode=pad_mode)
    if x.shape[-1] < n_fft:
        raise ShapeError(f"[stft] a signal of {x.shape[-1]} points is shorter than a frame of {n_fft}", op="stft",
                         shapes=(x.shape,))
    count = (x.shape[-1] - n_fft) // hop + 1
    places = np.arange(count, dtype=np.int32)[:, None] * hop + np.arange(n_fft, dtype=np.int32)
    frames = multiply(ops.take(x, Tensor(places, device=x.device), -1), window)
    spectra = (rfft if onesided else fft)(frames, norm=norm, stream=stream)
    return swapaxes(spectra, -1, -2)


def istft(stft_matrix, n_fft=None, hop_length=None, win_length=None, window=None, center=True, norm="backward",
          onesided=None, length=None, stream=None):
    """Return the signal whose :func:`stft` is given: its frames, added up where they overlap.

    Parameters
    ----------
    stft_matrix : Tensor
        Of shape (..., frequencies, frames).
    n_fft : int, optional
        Points of a frame; by default the even number that the frequencies suggest.
    hop_length, win_length, window, center, norm
        As given to :func:`stft`.
    onesided : bool, optional
        Whether there are only non-negative frequencies; True by default.
    length : int, optional
        Cut the signal or extend it by zeros to so many points.
    stream : Stream or Device, optional
        Must be on the operands' device.

    Returns
    -------
    Tensor
        Of dtype float32.

    Raises
    ------
    ShapeError
        If the frequencies do not fit `n_fft`, or the window does not fit.
    InvalidValueError
        If a number has no meaning.
    """
    x = as_operand(stft_matrix, "istft")
    if x.ndim < 2:
        raise ShapeError(f"[istft] expected shape (..., frequencies, frames), got {x.shape}", op="istft",
                         shapes=(x.shape,))
    onesided = True if onesided is None else onesided
    found = x.shape[-2]
    if n_fft is None:
        n_fft = 2 * (found - 1) if onesided else found
    hop = _steps(n_fft, hop_length, "istft")
    if found != (_half(n_fft) if onesided else n_fft):
        raise ShapeError(f"[istft] {found} frequencies do not belong to frames of {n_fft} points", op="istft",
                         shapes=(x.shape,))
    window = _window(window, win_length, n_fft, x.device, "istft")
    spectra = swapaxes(x, -1, -2)
    inverse = irfft if onesided else ifft
    frames = real(inverse(spectra, n_fft, norm=norm, stream=stream))
    count = frames.shape[-2]
    size = (count - 1) * hop + n_fft
    places = Tensor(np.arange(count, dtype=np.int32)[:, None] * hop + np.arange(n_fft, dtype=np.int32), device=x.device)
    signal = ops.zeros((*x.shape[:-2], size), device=x.device).at[..., places].add(multiply(frames, window))
    squares = ops.broadcast_to(ops.square(window), (count, n_fft))
    envelope = ops.zeros((size,), device=x.device).at[places].add(squares)
    signal = ops.where(ops.greater(envelope, 1e-10), ops.divide(signal, ops.maximum(envelope, 1e-10)), signal)
    if center:
        signal = signal[..., n_fft // 2:size - n_fft // 2]
    return signal if length is None else _resized(signal, {signal.ndim - 1: length})
