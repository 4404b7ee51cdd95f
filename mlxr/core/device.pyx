# cython: language_level=3, binding=True, embedsignature=True
"""Devices, streams and the scope that says where new tensors are made.

A Device names a place where storages live and the backend that serves it. Devices are interned: equal devices are one
object. Must not know about tensors; backends are bound by ``mlxr.backends.registry``.
"""
import enum
from contextlib import contextmanager
from contextvars import ContextVar

from mlxr.errors import ArgumentTypeError, BackendUnavailableError, DeviceMismatchError, InvalidValueError


class DeviceType(enum.Enum):
    """The kind of processor behind a device."""

    cpu = 0
    gpu = 1

    def __repr__(self):
        return f"DeviceType.{self.name}"


cpu = DeviceType.cpu
gpu = DeviceType.gpu

# name -> Device. Filled by the backend registry and by Device(); never shrinks.
_devices = {}
# DeviceType -> name of the device that `mlxr.cpu` / `mlxr.gpu` stand for. The registry may rebind gpu.
_type_names = {DeviceType.cpu: "cpu", DeviceType.gpu: "mlx:gpu"}
# callable(Device) -> Backend; raises BackendUnavailableError. Installed by mlxr.backends.registry.
_bind = None


cdef class Device:
    """A device to make tensors on and run operations on.

    Parameters
    ----------
    type : DeviceType or str
        ``mlxr.cpu``, ``mlxr.gpu``, or a device name: ``"cpu"`` (mlxr's own kernels), ``"mlx:cpu"`` and ``"mlx:gpu"``
        (upstream MLX through the shim), ``"metal"`` (mlxr's Metal kernels).
    index : int
        Ordinal among the devices of that kind.

    Raises
    ------
    InvalidValueError
        If the name is not one of a known kind of device. Whether its backend exists here is asked when it is used.
    """

    def __cinit__(self, type=DeviceType.cpu, int index=0):
        pass

    def __init__(self, type=DeviceType.cpu, int index=0):
        cdef str name
        if isinstance(type, DeviceType):
            name = _type_names[type]
        elif isinstance(type, str):
            name = type
            if name == "gpu":
                name = _type_names[DeviceType.gpu]
        else:
            raise ArgumentTypeError(f"a device is named by a DeviceType or a str, got {type!r}", device=type)
        if name not in KNOWN:
            raise InvalidValueError(
                f"no device is called {name!r}; known: {', '.join(KNOWN)}", device=name
            )
        if index < 0:
            raise InvalidValueError(f"a device index cannot be negative, got {index}", device=name, index=index)
        self.type = DeviceType.gpu if KNOWN[name] else DeviceType.cpu
        self.index = index
        self.name = name
        self.backend = None

    cdef object require_backend(self):
        """Return the backend that serves this device, binding it at first use."""
        if self.backend is None:
            if _bind is None:
                raise BackendUnavailableError(
                    f"device {self.name!r} has no backend: the registry is not loaded",
                    device=self.name, reason="registry not loaded",
                )
            self.backend = _bind(self)
        return self.backend

    def __repr__(self):
        if self.name == "cpu" or self.name == "mlx:gpu":
            return f"Device({self.type.name}, {self.index})"
        return f"Device({self.name}, {self.index})"

    def __eq__(self, other):
        if isinstance(other, DeviceType):
            return self.type is other
        if isinstance(other, Device):
            return self.name == (<Device>other).name and self.index == (<Device>other).index
        return NotImplemented

    def __hash__(self):
        return hash((self.name, self.index))

    def __reduce__(self):
        return get_device, (self.name, self.index)


# Device names -> whether the processor is a GPU.
KNOWN = {"cpu": False, "mlx:cpu": False, "mlx:gpu": True, "metal": True}


def get_device(str name, int index=0):
    """Return the one Device object called `name` with ordinal `index`."""
    key = (name, index)
    device = _devices.get(key)
    if device is None:
        device = _devices.setdefault(key, Device(name, index))
    return device


cdef Device as_device(object value):
    """Return the interned device that `value` (Device, Stream, DeviceType, str or None) stands for."""
    if value is None:
        return current_device()
    if isinstance(value, Device):
        return <Device>get_device((<Device>value).name, (<Device>value).index)
    if isinstance(value, Stream):
        return (<Stream>value).device
    if isinstance(value, (DeviceType, str)):
        device = Device(value)
        return <Device>get_device((<Device>device).name, 0)
    raise ArgumentTypeError(f"expected a Device, Stream, DeviceType or device name, got {value!r}", device=value)


cdef class Stream:
    """An ordered queue of work on a device. The CPU backend is eager, so its streams only name the device.

    Obtain one with :func:`default_stream` or :func:`new_stream`.
    """

    def __init__(self, device, int index=0):
        self.device = as_device(device)
        self.index = index

    def __repr__(self):
        return f"Stream({self.device!r}, {self.index})"

    def __eq__(self, other):
        if not isinstance(other, Stream):
            return NotImplemented
        return self.device is (<Stream>other).device and self.index == (<Stream>other).index

    def __hash__(self):
        return hash((self.device, self.index))


# The process-wide default, changed by set_default_device alone, and the scoped override of the running context.
cdef Device _default = get_device("cpu")
_scope = ContextVar("mlxr_device", default=None)
cdef int _scopes = 0  # how many scopes were ever entered: 0 keeps the context variable off the common path


cdef Device current_device():
    if _scopes:
        scoped = _scope.get()
        if scoped is not None:
            return <Device>scoped
    return _default


def default_device(device=None):
    """Return the device on which new tensors are made; with an argument, a scope that changes it.

    Parameters
    ----------
    device : Device, DeviceType or str, optional
        If given, the result is a context manager: inside ``with default_device("cpu"):`` new tensors of the running
        thread or task are made on that device.

    Returns
    -------
    Device or context manager

    Raises
    ------
    BackendUnavailableError
        If the device's backend does not exist here.
    """
    if device is None:
        return current_device()
    return _device_scope(device)


@contextmanager
def _device_scope(device):
    global _scopes
    cdef Device target = as_device(device)
    target.require_backend()
    _scopes += 1
    token = _scope.set(target)
    try:
        yield target
    finally:
        _scope.reset(token)


def set_default_device(device):
    """Set the device on which new tensors are made, for the whole process.

    Parameters
    ----------
    device : Device, DeviceType or str

    Raises
    ------
    BackendUnavailableError
        If the device's backend does not exist here; the default stays as it was.
    """
    global _default
    cdef Device target = as_device(device)
    target.require_backend()
    _default = target


def stream(s):
    """Return a scope in which new tensors are made on the device of `s` (a Stream or Device), as upstream's does."""
    return _device_scope(s)


def default_stream(device=None):
    """Return the default stream of `device`."""
    return Stream(as_device(device), 0)


def set_default_stream(stream):
    """Make `stream` the default of its device. mlxr's CPU streams are all alike, so this checks its argument only."""
    if not isinstance(stream, Stream):
        raise ArgumentTypeError(f"expected a Stream, got {stream!r}", stream=stream)


_stream_count = 0


def new_stream(device=None):
    """Return a new stream on `device`."""
    global _stream_count
    _stream_count += 1
    return Stream(as_device(device), _stream_count)


def is_available(device):
    """Tell whether the backend of `device` exists here."""
    cdef Device target
    try:
        target = as_device(device)
        target.require_backend()
    except BackendUnavailableError:
        return False
    return True


def device_of(value):
    """Return the interned Device for a Device, Stream, DeviceType, name or None (the current device)."""
    return as_device(value)


def backend_of(value):
    """Return the backend that serves the device `value` stands for."""
    return as_device(value).require_backend()


cdef int check_stream(object stream, Device device, object op) except -1:
    """Raise unless `stream` (None, Stream, Device, DeviceType) names the device on which the operands live."""
    cdef Device wanted
    if stream is None:
        return 0
    wanted = as_device(stream)
    if wanted is not device:
        raise DeviceMismatchError(
            f"[{op}] the operands live on {device!r} and the stream is on {wanted!r}; move the operands first",
            op=str(op), devices=(device, wanted),
        )
    return 0


def install_binder(bind, type_names=None):
    """Install the registry's function that finds a device's backend. Called once, by mlxr.backends.registry."""
    global _bind
    _bind = bind
    if type_names:
        _type_names.update(type_names)
