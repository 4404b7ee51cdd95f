"""Devices: names, scopes, what is unavailable and why, and operands that live apart."""

from __future__ import annotations

import pickle

import pytest

import mlxr as mx
from mlxr.errors import (
    ArgumentTypeError,
    BackendUnavailableError,
    DeviceMismatchError,
    InvalidValueError,
    MlxrError,
)

ABSENT = [name for name in ("metal", "mlx:cpu", "mlx:gpu") if not mx.is_available(mx.Device(name))]


def test_default_is_the_cpu() -> None:
    assert mx.default_device() == mx.Device(mx.cpu)
    assert mx.default_device() == mx.cpu
    assert mx.zeros((2,)).device == mx.Device("cpu")
    assert mx.zeros((2,), device="cpu").device is mx.zeros((2,)).device
    assert mx.is_available(mx.cpu)


def test_devices_are_values() -> None:
    a, b = mx.Device("cpu"), mx.Device(mx.cpu, 0)
    assert a == b
    assert hash(a) == hash(b)
    assert a != mx.Device("metal")
    assert pickle.loads(pickle.dumps(a)) == a
    assert repr(a) == "Device(cpu, 0)"
    assert mx.Device(mx.gpu).type is mx.gpu


@pytest.mark.parametrize(("name", "error"), [
    ("cuda", InvalidValueError), (7, ArgumentTypeError), (None, ArgumentTypeError),
])
def test_what_is_no_device(name, error) -> None:
    with pytest.raises(error) as caught:
        mx.Device(name)
    assert isinstance(caught.value, MlxrError)


def test_negative_index_is_refused() -> None:
    with pytest.raises(InvalidValueError):
        mx.Device("cpu", -1)


@pytest.mark.parametrize("name", ABSENT)
def test_absent_backend_says_why(name) -> None:
    for attempt in (lambda: mx.zeros((2,), device=name), lambda: mx.array([1.0], device=name),
                    lambda: mx.arange(3, device=name), lambda: mx.set_default_device(name),
                    lambda: mx.default_device(name).__enter__()):
        with pytest.raises(BackendUnavailableError) as caught:
            attempt()
        assert caught.value.reason
        assert caught.value.device == name
        assert isinstance(caught.value, RuntimeError)
        again = pickle.loads(pickle.dumps(caught.value))
        assert again.facts == caught.value.facts
    assert mx.default_device() == mx.cpu
    assert mx.zeros((2,)).device == mx.cpu


def test_scope_ends_with_its_block_also_by_an_error() -> None:
    def fail() -> None:
        with mx.default_device("cpu") as device:
            assert mx.default_device() is device
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert mx.default_device() == mx.cpu


@pytest.mark.parametrize("stream", [mx.cpu, mx.Device("cpu"), "default", None])
def test_stream_on_the_operands_device_is_accepted(stream) -> None:
    x = mx.array([1.0, 4.0])
    stream = mx.default_stream(mx.cpu) if stream == "default" else stream
    assert mx.sqrt(x, stream=stream).tolist() == [1, 2]
    assert mx.add(x, x, stream=stream).tolist() == [2, 8]
    assert mx.sum(x, stream=stream).item() == 5
    assert mx.matmul(x, x, stream=stream).item() == 17


@pytest.mark.parametrize("name", ["metal", "mlx:cpu"])
def test_stream_elsewhere_is_refused(name) -> None:
    x = mx.array([1.0, 4.0])
    for op in (mx.sqrt, mx.sum):
        with pytest.raises(DeviceMismatchError) as caught:
            op(x, stream=mx.Device(name))
        assert [d.name for d in caught.value.devices] == ["cpu", name]
    with pytest.raises(DeviceMismatchError):
        mx.add(x, x, stream=mx.Device(name))


def test_streams() -> None:
    a, b = mx.new_stream(mx.cpu), mx.new_stream(mx.cpu)
    assert a != b
    assert mx.default_stream(mx.cpu) == mx.default_stream(mx.Device("cpu"))
    with mx.stream(a):
        assert mx.zeros((1,)).device == mx.cpu
    with mx.stream(mx.cpu):
        assert mx.default_device() == mx.cpu
    with pytest.raises(ArgumentTypeError):
        mx.set_default_stream("cpu")
