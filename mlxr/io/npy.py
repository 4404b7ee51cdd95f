"""NumPy's .npy and .npz formats, by way of NumPy's own code, for tensors.

bfloat16, which NumPy lacks, is stored as the two-byte void type ``V2``, as upstream MLX does.
Must not know where the bytes come from or go to.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import IO, Any, NoReturn

import numpy as np

from mlxr.errors import FileFormatError, MlxrError
from mlxr.io.layout import brief, byte_size
from mlxr.io.tensors import Tensor, host_array, tensor_at

__all__ = ["read_npy", "read_npz", "write_npy", "write_npz"]

_MAX_HEADER_BYTES = 16384  # more than NumPy itself reads of a header (10,000)

# NumPy's kind and size -> mlxr's dtype name.
_DTYPES = {
    "b1": "bool",
    "u1": "uint8",
    "u2": "uint16",
    "u4": "uint32",
    "u8": "uint64",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "c8": "complex64",
    "V2": "bfloat16",
}


def _refuse(file: str, tensor: str | None, reason: str, cause: Exception | None = None) -> NoReturn:
    """Raise the error that says what is wrong with `file`."""
    where = file if tensor is None else f"{file}: tensor {brief(tensor)}"
    raise FileFormatError(f"[load] {where}: {reason}", file=file, tensor=tensor, reason=reason) from cause


def read_npy(data: Any, file: str, tensor: str | None = None) -> Tensor:
    """Return the tensor that a .npy file holds, sharing its memory where the layout allows.

    Parameters
    ----------
    data : buffer of bytes
        The whole file.
    file : str
        What error messages call the file.
    tensor : str, optional
        What error messages call the tensor, if it is one of several in the file.

    Returns
    -------
    Tensor

    Raises
    ------
    FileFormatError
        Naming the file, the tensor and the reason.
    """
    shape, fortran_order, descr, start = _read_header(data, file, tensor)
    dtype = _DTYPES.get(f"{descr.kind}{descr.itemsize}")
    if dtype is None or descr.names is not None or descr.subdtype is not None:
        _refuse(file, tensor, f"its dtype {brief(descr.str)} is not supported")
    try:
        nbytes = byte_size(shape, descr.itemsize)
        available = len(memoryview(data).cast("B")) - start
        if nbytes > available:
            _refuse(file, tensor, f"the array takes {nbytes} bytes, but the file holds {available}: it is cut short")
        if nbytes and not descr.isnative:
            stored = np.frombuffer(data, descr, nbytes // descr.itemsize, start)
            data, start = stored.astype(descr.newbyteorder("=")), 0
        # An array in Fortran order is the transpose of a row-major one. With one axis there is no difference.
        if fortran_order and len(shape) > 1:
            return tensor_at(data, start, shape[::-1], dtype).transpose()
        return tensor_at(data, start, shape, dtype)
    except MlxrError:
        raise
    except ValueError as error:
        _refuse(file, tensor, str(error), error)


def _read_header(data: Any, file: str, tensor: str | None) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return (shape, Fortran order, dtype, offset of the elements), the shape not yet checked."""
    stream = io.BytesIO(bytes(memoryview(data).cast("B")[:_MAX_HEADER_BYTES]))
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"version {version[0]}.{version[1]} of the format is not supported")
    except Exception as error:  # NumPy parses Python literals here, which can raise almost anything
        _refuse(file, tensor, f"the header is not sound: {brief(str(error))}", error)
    return (*header, stream.tell())


def write_npy(stream: IO[bytes], tensor: Tensor) -> None:
    """Write a tensor as a .npy file.

    Parameters
    ----------
    stream : file object
        Opened for writing bytes.
    tensor : Tensor
    """
    array, dtype = host_array(tensor)
    if dtype == "bfloat16":
        array = array.view("V2")
    np.lib.format.write_array(stream, array, allow_pickle=False)


def read_npz(stream: IO[bytes], file: str) -> dict[str, Tensor]:
    """Return the tensors of a .npz archive by name, in the archive's order.

    Parameters
    ----------
    stream : file object
        Seekable, opened for reading bytes.
    file : str
        What error messages call the file.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    FileFormatError
        Naming the file, the tensor and the reason.
    """
    tensors: dict[str, Tensor] = {}
    name: str | None = None
    try:
        with zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in tensors:
                    _refuse(file, name, "two members of the archive have this name")
                tensors[name] = read_npy(_read_member(archive, member, file, name), file, name)
    except (MlxrError, OSError, MemoryError):
        raise
    except Exception as error:  # zipfile and its decompressors raise many things
        _refuse(file, name, f"the zip archive is not sound: {brief(str(error))}", error)
    return tensors


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: str, name: str) -> bytes:
    """Return a member's bytes, having checked that they are as many as its own .npy header says."""
    with archive.open(member) as stream:
        shape, _, descr, start = _read_header(stream.read(_MAX_HEADER_BYTES), file, name)
    try:
        nbytes = byte_size(shape, descr.itemsize)
    except ValueError as error:
        _refuse(file, name, str(error), error)
    if start + nbytes != member.file_size:
        _refuse(file, name, f"the member holds {member.file_size} bytes, but its array takes {start + nbytes}")
    return archive.read(member)


def write_npz(stream: Any, tensors: Mapping[str, Tensor], compressed: bool) -> None:
    """Write tensors as a .npz archive.

    The archive's bytes depend on the tensors alone: members carry no time.

    Parameters
    ----------
    stream : file object
        Opened for writing bytes.
    tensors : mapping of str to Tensor
    compressed : bool
    """
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", method, allowZip64=True) as archive:
        for name, tensor in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_npy(member, tensor)
