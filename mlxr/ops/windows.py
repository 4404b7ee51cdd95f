"""Window functions of signal processing."""

from __future__ import annotations

import operator

import numpy as np

from mlxr.core import dtype as dtypes
from mlxr.core.device import device_of
from mlxr.core.tensor import Tensor
from mlxr.errors import ArgumentTypeError
from mlxr.ops.declare import Refusal, Sample, operation

__all__ = ["bartlett", "blackman", "hamming", "hanning"]

_DOC = """
    Parameters
    ----------
    M : int
        Number of points; below 1 there are none.
    stream : Stream or Device, optional
        Where the tensor is made.

    Returns
    -------
    Tensor
        Of dtype float32.

    Raises
    ------
    ArgumentTypeError
        If `M` is no int.
    """


def _window(values, m, op, stream):
    """Return the float32 tensor of a window function of NumPy."""
    try:
        points = operator.index(m)
    except TypeError:
        raise ArgumentTypeError(f"[{op}] the number of points is an int, got {m!r}", op=op, M=m) from None
    # In double, as NumPy has it: where the window is zero, rounding may leave less than a float32's step.
    exact = values(points)
    return Tensor(np.where(np.abs(exact) < 1e-15, 0.0, exact), dtypes.float32, device=device_of(stream))


def _declared(reference):
    return operation(
        "elementwise", reference=reference, samples=lambda rng: (Sample((n,)) for n in (0, 1, 2, 5, 64)), ulps=1,
        dtypes=(dtypes.float32,), refusals=(Refusal((2.5,), ArgumentTypeError),), scale=lambda m: 1.0,
    )


@_declared(np.bartlett)
def bartlett(M, *, stream=None):
    """Return the Bartlett window: a triangle that ends in zeros."""
    return _window(np.bartlett, M, "bartlett", stream)


@_declared(np.blackman)
def blackman(M, *, stream=None):
    """Return the Blackman window: three cosine terms, close to zero at its ends."""
    return _window(np.blackman, M, "blackman", stream)


@_declared(np.hamming)
def hamming(M, *, stream=None):
    """Return the Hamming window: a raised cosine that ends in 0.08."""
    return _window(np.hamming, M, "hamming", stream)


@_declared(np.hanning)
def hanning(M, *, stream=None):
    """Return the Hann window: a raised cosine that ends in zeros."""
    return _window(np.hanning, M, "hanning", stream)


for _function in (bartlett, blackman, hamming, hanning):
    _function.__doc__ += "\n" + _DOC
