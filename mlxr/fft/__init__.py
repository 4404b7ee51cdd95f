"""Fourier transforms under MLX's name ``mlxr.fft``: see mlxr/ops/fft.py."""

from mlxr.ops.fft import (
    fft,
    fft2,
    fftfreq,
    fftn,
    fftshift,
    ifft,
    ifft2,
    ifftn,
    ifftshift,
    irfft,
    irfft2,
    irfftn,
    istft,
    rfft,
    rfft2,
    rfftfreq,
    rfftn,
    stft,
)

__all__ = [
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "ifft", "ifft2", "ifftn", "ifftshift", "irfft", "irfft2", "irfftn",
    "istft", "rfft", "rfft2", "rfftfreq", "rfftn", "stft",
]
