"""The safetensors format: from bytes to a table of tensors that is proved to be sound.

A file is a little-endian 64-bit length, a JSON header of that length, and the tensors' bytes without gaps. Everything
is checked here, before any tensor exists: a :class:`Header` that comes out of :func:`parse_header` can be trusted.
Must not know about tensors, files or mappings; it sees bytes and a name to put into error messages.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, NoReturn

from mlxr.errors import FileFormatError
from mlxr.io.layout import brief, byte_size

__all__ = ["DTYPES", "MAX_HEADER_BYTES", "Entry", "Header", "parse_header"]

MAX_HEADER_BYTES = 100_000_000  # the format's own cap
MAX_DEPTH = 16  # a sound header nests three deep; the cap keeps the JSON parser's recursion off the C stack

# The format's dtype names -> (mlxr's dtype name, bytes per element). As in upstream MLX, the two 8-bit float formats
# that its quantization modes use arrive as raw bytes; the other 8-, 6- and 4-bit formats are refused.
DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
    "C64": ("complex64", 8),
    "F8_E4M3": ("uint8", 1),
    "F8_E8M0": ("uint8", 1),
}

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class Entry(NamedTuple):
    """One tensor of the table; its bytes are ``data[begin:end]``, counted from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """A sound table: the entries in the header's order, the metadata, and where in the file the data begins."""

    entries: list[Entry]
    metadata: dict[str, str]
    data_start: int


def parse_header(data: Any, file: str) -> Header:
    """Read and check the header of a safetensors file.

    Parameters
    ----------
    data : buffer of bytes
        The whole file. Only the header's bytes are read.
    file : str
        What error messages call the file.

    Returns
    -------
    Header
        Its entries lie inside `data`, side by side, each as long as its dtype and shape say.

    Raises
    ------
    FileFormatError
        Naming the file, the tensor (where one is at fault) and the reason.
    """
    view = memoryview(data).cast("B")
    if len(view) < 8:
        _refuse(file, f"the file is {len(view)} bytes long, too short for the 8 bytes of a header length")
    length = int.from_bytes(view[:8], "little")
    if length < 2:
        _refuse(file, f"the header length is {length}, and the shortest header, '{{}}', is 2 bytes long")
    if length > MAX_HEADER_BYTES:
        _refuse(file, f"the header length is {length}, above the format's limit of {MAX_HEADER_BYTES} bytes")
    if length > len(view) - 8:
        _refuse(file, f"the header length is {length}, but only {len(view) - 8} bytes follow it: the file is cut short")
    data_start = 8 + length
    fields = _decode(bytes(view[8:data_start]), file)
    metadata = _check_metadata(fields.pop("__metadata__", None), file)
    entries = [_check_entry(name, value, file) for name, value in fields.items()]
    _check_layout(entries, len(view) - data_start, file)
    return Header(entries, metadata, data_start)


def _refuse(file: str, reason: str, tensor: str | None = None, cause: Exception | None = None) -> NoReturn:
    """Raise the error that says what is wrong with `file`."""
    where = file if tensor is None else f"{file}: tensor {brief(tensor)}"
    raise FileFormatError(f"[load_safetensors] {where}: {reason}", file=file, tensor=tensor, reason=reason) from cause


def _decode(raw: bytes, file: str) -> dict[str, Any]:
    """Turn the header's bytes into a dict, or refuse them."""
    if raw[:1] != b"{":
        _refuse(file, "the header does not begin with '{'")
    # Outside of strings only brackets nest. Cancelling the innermost pairs MAX_DEPTH times leaves a sound header empty;
    # a few that are left over do not match, or are deep but harmless: json.loads says which.
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if len(brackets) > MAX_DEPTH:
        _refuse(file, f"the header nests deeper than {MAX_DEPTH} levels, or its brackets do not match")
    try:
        text = raw.decode("utf-8")
        fields = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(fields, ensure_ascii=False).encode("utf-8")  # fails on an unpaired surrogate
    except UnicodeDecodeError as error:
        _refuse(file, f"the header is not UTF-8: {error.reason} at byte {error.start}", cause=error)
    except UnicodeEncodeError as error:
        _refuse(file, "the header holds an unpaired surrogate", cause=error)
    except ValueError as error:
        _refuse(file, f"the header is not sound JSON: {error}", cause=error)
    return fields  # the text begins with '{', so it is a dict


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing a name that comes twice (json itself keeps the last)."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"duplicate name {brief(name)}")
            seen.add(name)
    return fields


def _integer(text: str) -> int | float:
    """Read an integer; one that no 64-bit counter holds, and -0, becomes a float, which no field accepts."""
    return int(text) if len(text) <= 20 and text != "-0" else _finite(text)


def _finite(text: str) -> float:
    """Read a float, refusing one that overflows."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"number out of range: {brief(text)}")
    return value


def _no_constant(text: str) -> NoReturn:
    """Refuse NaN and Infinity, which json knows and JSON does not."""
    raise ValueError(f"{text} is not JSON")


def _check_metadata(value: Any, file: str) -> dict[str, str]:
    """Return the metadata; a missing one and null (which upstream MLX writes) are empty."""
    if value is None:
        return {}
    if type(value) is not dict:
        _refuse(file, "__metadata__ is not an object")
    for key, text in value.items():
        if type(text) is not str:
            _refuse(file, f"__metadata__ maps {brief(key)} to something that is not a string")
    return value


def _check_entry(name: str, value: Any, file: str) -> Entry:
    """Check one tensor's description on its own."""
    if type(value) is not dict:
        _refuse(file, "its description is not an object", name)
    for field in ("dtype", "shape", "data_offsets"):
        if field not in value:
            _refuse(file, f"its description has no {field!r}", name)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is not str or dtype not in DTYPES:
        _refuse(file, f"its dtype {brief(dtype)} is not supported", name)
    if type(shape) is not list:
        _refuse(file, "its shape is not a list", name)
    try:
        nbytes = byte_size(shape, DTYPES[dtype][1])
    except ValueError as error:
        _refuse(file, str(error), name, cause=error)
    if type(offsets) is not list or len(offsets) != 2 or type(offsets[0]) is not int or type(offsets[1]) is not int:
        _refuse(file, "its data_offsets are not a pair of integers", name)
    begin, end = offsets
    if begin < 0 or end < begin:
        _refuse(file, f"its data_offsets [{begin}, {end}] are negative or in the wrong order", name)
    if end - begin != nbytes:
        reason = f"its data_offsets [{begin}, {end}] span {end - begin} bytes, but {dtype} {shape} takes {nbytes}"
        _refuse(file, reason, name)
    return Entry(name, dtype, tuple(shape), begin, end)


def _check_layout(entries: list[Entry], available: int, file: str) -> None:
    """Check that the entries tile the data: in bounds, no overlap, no gap, nothing behind the last."""
    position = 0
    previous = ""
    for entry in sorted(entries, key=lambda e: (e.begin, e.end)):
        if entry.end > available:
            reason = (
                f"its data_offsets [{entry.begin}, {entry.end}] leave the file, which holds {available} bytes of data"
            )
            _refuse(file, reason, entry.name)
        if entry.begin < position:
            _refuse(file, f"it overlaps tensor {brief(previous)}", entry.name)
        if entry.begin > position:
            _refuse(file, f"{entry.begin - position} bytes in front of it belong to no tensor", entry.name)
        position, previous = entry.end, entry.name
    if position != available:
        _refuse(file, f"{available - position} bytes at the end of the file belong to no tensor")
