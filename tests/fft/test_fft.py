"""Fourier transforms: complex operands, gradients, short-time transforms, and upstream where it is installed."""
import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import InvalidValueError, ShapeError


def signal(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize("name", ["fft", "ifft", "fft2", "ifft2", "fftn", "ifftn", "irfft", "irfft2", "irfftn"])
@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
def test_complex_operands_equal_numpys(name, norm):
    x = signal(3, 4, 5)
    got, expected = np.array(getattr(mx.fft, name)(mx.array(x), norm=norm)), getattr(np.fft, name)(x, norm=norm)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("forward", "inverse", "shape"), [
    ("fft", "ifft", (5, 12)), ("fft2", "ifft2", (2, 3, 4)), ("fftn", "ifftn", (2, 3, 4)), ("rfft", "irfft", (3, 8)),
    ("rfft2", "irfft2", (3, 8)), ("rfftn", "irfftn", (3, 5, 6)),
])
def test_inverse_takes_back(forward, inverse, shape):
    x = mx.array(signal(*shape).real)
    back = getattr(mx.fft, inverse)(getattr(mx.fft, forward)(x))
    np.testing.assert_allclose(np.array(back).real, np.array(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "shape", "args"), [
    ("fft", (7,), {}), ("fft", (3, 8), {"axis": 0, "n": 5}), ("fftn", (3, 4), {"norm": "ortho"}), ("rfft", (8,), {}),
    ("rfft", (7,), {"norm": "forward"}), ("rfft2", (3, 6), {}), ("irfft", (5,), {}), ("irfft", (5,), {"n": 7}),
    ("irfft2", (3, 4), {}), ("ifft2", (3, 4), {}),
])
def test_gradients_by_finite_differences(name, shape, args):
    x = signal(*shape, seed=1).real.copy()
    transform = getattr(mx.fft, name)
    out = transform(mx.array(x), **args)
    weights = mx.array(signal(*out.shape, seed=2))

    def f(x):
        out = transform(x, **args)
        return mx.sum(mx.real(out) * mx.real(weights) + mx.imag(out) * mx.imag(weights))

    got, step = np.array(mx.grad(f)(mx.array(x))), 0.5  # linear: any step is exact
    for index in np.ndindex(*shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        numeric = (f(mx.array(up)).item() - f(mx.array(down)).item()) / (2 * step)
        assert got[index] == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_gradient_in_a_complex_operand_equals_upstreams():
    upstream = pytest.importorskip("mlx.core")
    x = signal(3, 5)
    for name in ("fft", "ifft2", "irfft"):
        grads = []
        for module in (mx, upstream):
            def f(z, module=module, name=name):
                return module.sum(module.abs(getattr(module.fft, name)(z, stream=module.cpu)) ** 2)

            grads.append(np.array(module.grad(f)(module.array(x))))
        np.testing.assert_allclose(*grads, rtol=1e-4, atol=1e-4)


def test_frequencies_and_shifts():
    for n in (1, 4, 5):
        np.testing.assert_allclose(np.array(mx.fft.fftfreq(n, 0.5)), np.fft.fftfreq(n, 0.5), rtol=1e-6)
        np.testing.assert_allclose(np.array(mx.fft.rfftfreq(n, 0.5)), np.fft.rfftfreq(n, 0.5), rtol=1e-6)
        x = np.arange(3 * n).reshape(3, n)
        for axes in (None, 0, (0, 1)):
            np.testing.assert_array_equal(np.array(mx.fft.fftshift(mx.array(x), axes)), np.fft.fftshift(x, axes))
            back = mx.fft.ifftshift(mx.fft.fftshift(mx.array(x), axes), axes)
            np.testing.assert_array_equal(np.array(back), x)


STFT = [
    {"n_fft": 16}, {"n_fft": 16, "hop_length": 5, "win_length": 10, "center": False}, {"n_fft": 15, "pad_mode": "edge"},
    {"n_fft": 16, "pad_mode": "constant", "norm": "ortho"}, {"n_fft": 16, "onesided": False},
]


@pytest.mark.parametrize("args", STFT)
def test_short_time_transforms_equal_upstream(args):
    upstream = pytest.importorskip("mlx.core")
    x = signal(2, 64).real.copy()
    length = args.get("win_length", args["n_fft"])
    spectra = []
    for module in (mx, upstream):
        window = module.array(np.hanning(length + 2)[1:-1].astype(np.float32))
        spectrum = module.fft.stft(module.array(x), window=window, stream=module.cpu, **args)
        inverse = {k: v for k, v in args.items() if k != "pad_mode"}
        back = module.fft.istft(spectrum, window=window, stream=module.cpu, **inverse)
        spectra.append((np.array(spectrum), np.array(back)))
    for mine, theirs in zip(*spectra, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_istft_takes_back():
    x = mx.array(signal(3, 100).real)
    window = mx.hanning(18)[1:-1]
    back = mx.fft.istft(mx.fft.stft(x, 16, window=window), 16, window=window, length=100)
    np.testing.assert_allclose(np.array(back), np.array(x), rtol=1e-4, atol=1e-4)


def test_refusals():
    x = mx.ones((8,))
    for call, error in [
        (lambda: mx.fft.stft(x, 16, center=False), ShapeError),
        (lambda: mx.fft.stft(x, 4, window=mx.ones(5)), ShapeError),
        (lambda: mx.fft.stft(x, 4, pad_mode="wrap"), InvalidValueError), (lambda: mx.fft.stft(x, 0), InvalidValueError),
        (lambda: mx.fft.istft(mx.ones((3, 4)), 16), ShapeError), (lambda: mx.fft.fftfreq(0), InvalidValueError),
        (lambda: mx.fft.fftn(x, axes=(0, 0)), InvalidValueError), (lambda: mx.fft.fftn(x, s=(2,)), InvalidValueError),
    ]:
        with pytest.raises(error):
            call()
