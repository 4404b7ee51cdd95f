"""Runs calls that another process sends on one tensor library, and answers what came of each.

Started by its path, as a program of its own: ``worker.py LIBRARY [DEVICE]``. Whatever a call does to this process
(crash, exit, hang) is a result to the process that started it. Must not import mlxr unless LIBRARY is mlxr: upstream
is judged in a process that mlxr is not part of. Knows NumPy.

Messages are a length of 8 bytes and a ``marshal`` of plain values. A message in is a list of calls ``(name, args,
kwargs)``; each call is answered by one message. Values are encoded as

    ("v", value)                                     None, numbers, strings
    ("d", name)                                      a dtype
    ("l" | "t", [encoded, ...])                      a list or a tuple
    ("a", dtype, shape, row-major bytes, layout)     a tensor; the last says how it is laid out in memory

and answers are ``("values", [("a", ...), ...])`` or ``("error", names of the class and its bases, message)``.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import struct
import sys
from collections.abc import Callable
from importlib import metadata
from typing import IO, Any

import numpy as np

__all__ = ["LAYOUTS", "Library", "receive", "send", "serve"]

LENGTH = struct.Struct("<Q")
LAYOUTS = ("row-major", "transposed", "strided", "reversed", "offset", "permuted", "broadcast")


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message."""
    data = marshal.dumps(message)
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message.

    Raises
    ------
    EOFError
        If the other side is gone.
    """
    head = stream.read(LENGTH.size)
    if head is None or len(head) < LENGTH.size:
        raise EOFError
    (size,) = LENGTH.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return marshal.loads(data)


class Library:
    """A tensor library with MLX's names: how tensors get in and out of it, and how an op's name is found.

    Parameters
    ----------
    module : module
        ``mlx.core`` or ``mlxr``.
    nn : module
        Where the names that start with ``nn.`` are.
    facts : dict of str
        What it is and where it computes, for the report.
    missing : dict of str to callable
        Ops that the library lacks a name for, as compositions of those that it has.
    """

    def __init__(self, module: Any, nn: Any, facts: dict[str, str], missing: dict[str, Callable[..., Any]]) -> None:
        self.module = module
        self.facts = facts
        self._namespaces = {"nn": nn}
        self._functions = dict(missing)

    def function(self, name: str) -> Callable[..., Any]:
        """Return the op of that (dotted) name."""
        found = self._functions.get(name)
        if found is None:
            space, *rest = name.split(".")
            found = self._namespaces.get(space) or getattr(self.module, space)
            for part in rest:
                found = getattr(found, part)
            self._functions[name] = found
        return found

    def dtype(self, name: str) -> Any:
        """Return the library's dtype of that name."""
        return getattr(self.module, "bool_" if name == "bool" else name)

    def tensor(self, dtype: str, shape: list[int], data: bytes, layout: str) -> Any:
        """Return a tensor of these elements, laid out in memory as asked."""
        stored = [1, *shape[1:]] if layout == "broadcast" else shape
        raw = np.frombuffer(data, "uint16" if dtype == "bfloat16" else dtype).reshape(stored)
        x = self.module.array(raw, self.dtype("uint16" if dtype == "bfloat16" else dtype))
        if dtype == "bfloat16":
            x = x.view(self.dtype(dtype))
        return _arrange(self.module, x, shape, layout)

    def encode(self, value: Any) -> tuple[Any, ...]:
        """Return one result in the encoding of messages."""
        if not hasattr(value, "dtype"):
            return ("v", value if isinstance(value, (bool, int, float, complex, str)) else repr(value))
        name = str(value.dtype).rsplit(".", 1)[-1].rstrip("_")
        raw = value.view(self.dtype("uint16")) if name == "bfloat16" else value
        return ("a", name, list(value.shape), np.array(raw).tobytes(), "row-major")

    def decode(self, value: tuple[Any, ...]) -> Any:
        """Return the argument that a message encodes."""
        tag = value[0]
        if tag == "a":
            return self.tensor(*value[1:])
        if tag == "d":
            return self.dtype(value[1])
        if tag == "v":
            return value[1]
        items = [self.decode(v) for v in value[1]]
        return items if tag == "l" else tuple(items)

    def call(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Run one call to its end and return the answer."""
        try:
            function = self.function(name)
        except AttributeError:
            return ("absent", f"no {name}")
        try:
            result = function(*[self.decode(a) for a in args], **{k: self.decode(v) for k, v in kwargs.items()})
            results = list(result) if isinstance(result, (list, tuple)) else [result]
            self.module.eval(results)
            return ("values", [self.encode(r) for r in results])
        except Exception as error:
            with contextlib.suppress(Exception):  # what the call has left behind must not be blamed on the next
                self.module.synchronize()
            return ("error", [cls.__name__ for cls in type(error).__mro__], str(error)[:500])


def _arrange(m: Any, x: Any, shape: list[int], layout: str) -> Any:
    """Return `x` with its elements in another place or order in memory."""
    if layout == "transposed":
        return m.transpose(m.contiguous(m.transpose(x)))
    if layout == "strided":
        return m.stack([x, x], -1)[..., 0]
    if layout == "reversed":
        return m.contiguous(x[..., ::-1])[..., ::-1]
    if layout == "offset":
        return m.concatenate([x[:1], x], 0)[1:]
    if layout == "permuted":
        return m.transpose(m.contiguous(m.transpose(x, [*range(1, x.ndim), 0])), [x.ndim - 1, *range(x.ndim - 1)])
    if layout == "broadcast":
        return m.broadcast_to(x, shape)
    return x


def _upstream(_: str) -> Library:
    import mlx.core as mx
    import mlx.nn as nn

    mx.set_default_device(mx.cpu)
    mx.disable_compile()  # mlx.nn's activations are compiled functions, which upstream hands to a C++ compiler
    # Functions that are mlxr's own names for what upstream calls otherwise or composes.
    missing: dict[str, Callable[..., Any]] = {
        "core.rint": mx.round,
        "equal_nan": lambda a, b: mx.logical_or(mx.equal(a, b), mx.logical_and(mx.isnan(a), mx.isnan(b))),
        "nn.gelu_sigmoid": nn.gelu_fast_approx,
        "nn.gelu_tanh": nn.gelu_approx,
    }
    facts = {"library": "mlx", "version": metadata.version("mlx"), "device": str(mx.default_device())}
    return Library(mx, nn, facts, missing)


def _mlxr(device: str) -> Library:
    import mlxr
    import mlxr.ops
    from mlxr.ops.declare import REGISTRY

    mlxr.set_default_device(device)
    facts = {"library": "mlxr", "version": mlxr.__version__, "device": device}
    return Library(mlxr, mlxr, facts, {name: op.function for name, op in REGISTRY.items()})


LIBRARIES: dict[str, Callable[[str], Library]] = {"mlx": _upstream, "mlxr": _mlxr}


def serve(library: Library, commands: IO[bytes], answers: IO[bytes]) -> None:
    """Answer calls until the other side closes."""
    send(answers, ("ready", library.facts))
    while True:
        try:
            calls = receive(commands)
        except EOFError:
            return
        for name, args, kwargs in calls:
            send(answers, library.call(name, args, kwargs))


def main() -> None:
    """Serve the library named by the first argument on standard input and output."""
    # Standard output belongs to the protocol alone: what a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    commands = os.fdopen(os.dup(0), "rb")
    sys.path.pop(0)  # this file's folder, whose modules must not shadow others
    np.seterr(all="ignore")
    try:
        library = LIBRARIES[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else "cpu")
    except Exception as error:
        send(answers, ("unavailable", f"{type(error).__name__}: {error}"))
        return
    serve(library, commands, answers)


if __name__ == "__main__":
    main()
