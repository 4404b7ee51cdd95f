"""MLX's functions for loading and saving tensors.

Every save to a path is atomic (see :mod:`mlxr.io.atomic`). Must not know how a format is laid out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from os import PathLike
from typing import IO, Any

import safetensors

from mlxr.errors import ArgumentTypeError, FileAccessError, FileFormatError, InvalidValueError
from mlxr.io.atomic import replacing
from mlxr.io.files import as_path, check_binary, file_errors, name_of, read_bytes
from mlxr.io.layout import brief
from mlxr.io.npy import read_npy, read_npz, write_npy, write_npz
from mlxr.io.safetensors import DTYPES, parse_header
from mlxr.io.tensors import Tensor, device_of, host_array, tensor_at, to_device

__all__ = ["load", "save", "save_safetensors", "savez", "savez_compressed"]

File = str | PathLike[str] | IO[bytes]


def load(
    file: File, /, format: str | None = None, return_metadata: bool = False, *, stream: Any = None
) -> Tensor | dict[str, Tensor] | tuple[dict[str, Tensor], dict[str, str]]:
    """Load tensors from a ``.npy``, ``.npz`` or ``.safetensors`` file.

    Tensors of a ``.npy`` or ``.safetensors`` file on disk share one read-only mapping of it: loading reads the header
    alone, and a tensor's bytes are read when they are first used. The file may be deleted or replaced (not cut short)
    while they live.

    Parameters
    ----------
    file : str, os.PathLike or file object
        The file to load; a file object must be opened in binary mode.
    format : str, optional
        ``"npy"``, ``"npz"`` or ``"safetensors"``. By default the extension of the file's name says it.
    return_metadata : bool
        Also return the metadata (safetensors only).
    stream : Stream or Device, optional
        Where the tensors are to live; the default device if None. On a device other than the CPU they share the
        mapping only if its backend can.

    Returns
    -------
    Tensor, dict, or tuple
        The tensor of a ``.npy`` file; the tensors by name of the other formats, in the file's order; with
        `return_metadata`, a pair of that dict and the metadata.

    Raises
    ------
    FileFormatError
        If the content is damaged: names the file, the tensor and the reason.
    FileAccessError
        If the file cannot be opened or read.
    InvalidValueError
        If the format is unknown or `file` is of a wrong type.
    """
    if format is None:
        format = _extension(file)
    if format not in _LOADERS:
        raise InvalidValueError(
            f"[load] Unknown file format {format}; known: {', '.join(_LOADERS)}", op="load", format=format
        )
    if return_metadata and format != "safetensors":
        raise InvalidValueError(f"[load] metadata not supported for format {format}", op="load", format=format)
    device = device_of(stream)
    loaded, metadata = _LOADERS[format](file)
    if isinstance(loaded, dict):
        tensors = {name: to_device(tensor, device) for name, tensor in loaded.items()}
        return (tensors, metadata) if return_metadata else tensors
    return to_device(loaded, device)


def _extension(file: Any) -> str:
    """Return the format that the name of `file` ends in."""
    name = name_of(file)
    _, dot, extension = name.rpartition(".")
    if not dot or "/" in extension:
        raise InvalidValueError(f"[load] Could not infer file format from extension of {name}", op="load", file=name)
    return extension


def _load_npy(file: File) -> tuple[Tensor, dict[str, str]]:
    return read_npy(read_bytes(file, "load"), name_of(file)), {}


def _load_npz(file: File) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = as_path(file)
    with file_errors("load", file):
        if path is not None:
            with open(path, "rb") as stream:
                return read_npz(stream, path), {}
        check_binary(file, "load", "read")
        return read_npz(file, name_of(file)), {}  # type: ignore[arg-type]


def _load_safetensors(file: File) -> tuple[dict[str, Tensor], dict[str, str]]:
    data = read_bytes(file, "load")
    name = name_of(file)
    header = parse_header(data, name)
    tensors = {}
    for entry in header.entries:
        try:
            tensors[entry.name] = tensor_at(data, header.data_start + entry.begin, entry.shape, DTYPES[entry.dtype][0])
        except ValueError as error:
            raise FileFormatError(
                f"[load_safetensors] {name}: tensor {brief(entry.name)}: {error}",
                file=name,
                tensor=entry.name,
                reason=str(error),
            ) from error
    return tensors, header.metadata


_LOADERS: dict[str, Callable[[File], tuple[Any, dict[str, str]]]] = {
    "npy": _load_npy,
    "npz": _load_npz,
    "safetensors": _load_safetensors,
}


def save(file: File, arr: Tensor) -> None:
    """Save a tensor in NumPy's ``.npy`` format.

    Parameters
    ----------
    file : str, os.PathLike or file object
        A path that does not end in ``.npy`` gets it appended, and is replaced atomically.
    arr : Tensor

    Raises
    ------
    ArgumentTypeError
        If `arr` is not a tensor.
    FileAccessError
        If the file cannot be written.
    """
    _check_tensor("save", "arr", arr)
    with _writing("save", file, ".npy") as stream:
        write_npy(stream, arr)


def savez(file: File, *args: Tensor, **kwargs: Tensor) -> None:
    """Save tensors in NumPy's ``.npz`` format, not compressed.

    Parameters
    ----------
    file : str, os.PathLike or file object
        A path that does not end in ``.npz`` gets it appended, and is replaced atomically.
    *args : Tensor
        Saved as ``arr_0``, ``arr_1``, ...
    **kwargs : Tensor
        Saved under their names.

    Raises
    ------
    InvalidValueError
        If a keyword is the name of an unnamed tensor.
    ArgumentTypeError
        If an argument is not a tensor.
    FileAccessError
        If the file cannot be written.
    """
    _savez("savez", file, args, kwargs, compressed=False)


def savez_compressed(file: File, *args: Tensor, **kwargs: Tensor) -> None:
    """Save tensors in NumPy's ``.npz`` format, compressed.

    Parameters
    ----------
    file : str, os.PathLike or file object
        A path that does not end in ``.npz`` gets it appended, and is replaced atomically.
    *args : Tensor
        Saved as ``arr_0``, ``arr_1``, ...
    **kwargs : Tensor
        Saved under their names.

    Raises
    ------
    InvalidValueError, ArgumentTypeError, FileAccessError
        As :func:`savez`.
    """
    _savez("savez_compressed", file, args, kwargs, compressed=True)


def _savez(op: str, file: File, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], compressed: bool) -> None:
    tensors = {f"arr_{i}": tensor for i, tensor in enumerate(args)}
    for name, tensor in kwargs.items():
        if name in tensors:
            raise InvalidValueError(f"[{op}] Cannot use un-named variables and keyword {name}", op=op, name=name)
        _check_name(op, name)
        if "\0" in name:  # where zip ends a name
            raise InvalidValueError(f"[{op}] the name {name!r} holds NUL", op=op, name=name)
        tensors[name] = tensor
    for name, tensor in tensors.items():
        _check_tensor(op, name, tensor)
    with _writing(op, file, ".npz") as stream:
        write_npz(stream, tensors, compressed)


def save_safetensors(file: File, arrays: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Save tensors in the ``.safetensors`` format.

    Parameters
    ----------
    file : str, os.PathLike or file object
        A path that does not end in ``.safetensors`` gets it appended, and is replaced atomically.
    arrays : dict of str to Tensor
    metadata : dict of str to str, optional

    Raises
    ------
    ArgumentTypeError
        If `arrays` is not a dict of names to tensors.
    InvalidValueError
        If a name or the metadata cannot be stored.
    FileAccessError
        If the file cannot be written.
    """
    op = "save_safetensors"
    if not isinstance(arrays, dict):
        raise ArgumentTypeError(f"[{op}] arrays must be a dict, got {type(arrays).__name__}", op=op, arrays=arrays)
    for name, tensor in arrays.items():
        _check_name(op, name)
        _check_tensor(op, name, tensor)
    if "__metadata__" in arrays:
        raise InvalidValueError(f"[{op}] the format reserves the name '__metadata__'", op=op, name="__metadata__")
    if metadata is not None:
        if not isinstance(metadata, dict) or not all(isinstance(x, str) for pair in metadata.items() for x in pair):
            raise InvalidValueError(
                f"[{op}] Metadata must be a dictionary with string keys and values", op=op, metadata=metadata
            )
        for text in (*metadata, *metadata.values()):
            _check_name(op, text)
    # The package takes addresses: `hosts` keeps the memory alive until it has written.
    hosts = {name: host_array(tensor) for name, tensor in arrays.items()}
    specs = {
        name: safetensors.TensorSpec(dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
        for name, (array, dtype) in hosts.items()
    }
    path = as_path(file)
    try:
        if path is None:
            with _writing(op, file, ".safetensors") as stream:
                stream.write(safetensors.serialize(specs, metadata or None))
        else:
            with file_errors(op, file), replacing(_with_extension(path, ".safetensors")) as temporary:
                safetensors.serialize_file(specs, temporary, metadata or None)
    except safetensors.SafetensorError as error:  # names, dtypes and shapes were sound: the disk is full, or such
        raise FileAccessError(
            f"[{op}] {name_of(file)}: {error}", op=op, file=name_of(file), reason=str(error)
        ) from error


def _with_extension(path: str, extension: str) -> str:
    """Return `path` with `extension` appended, unless it ends so."""
    return path if path.endswith(extension) else path + extension


@contextlib.contextmanager
def _writing(op: str, file: Any, extension: str) -> Iterator[IO[bytes]]:
    """Open `file` for writing: a path atomically and with its extension, a file object as it is."""
    path = as_path(file)
    if path is None:
        check_binary(file, op, "write")
        with file_errors(op, file):
            yield file
        return
    with (
        file_errors(op, file),
        replacing(_with_extension(path, extension)) as temporary,
        open(temporary, "wb") as stream,
    ):
        yield stream


def _check_tensor(op: str, name: str, value: Any) -> None:
    """Refuse what is not a tensor."""
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(f"[{op}] {name} must be an array, got {type(value).__name__}", op=op, name=name)


def _check_name(op: str, name: Any) -> None:
    """Refuse what no file can hold as a name."""
    if not isinstance(name, str):
        raise ArgumentTypeError(f"[{op}] names must be strings, got {name!r}", op=op, name=name)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidValueError(f"[{op}] the name {name!r} is not valid Unicode", op=op, name=name) from error
