"""A seeded fuzz of the safetensors reader: every damaged file is refused with a typed error, or loads correctly.

Correct is what the safetensors package says. We accept nothing that it refuses; STRICTER says what it accepts and we
refuse.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors
from io_cases import FORMAT_NAMES, NAMES, assemble, bits_of, random_bits

import mlxr as mx
from mlxr.errors import FileFormatError
from mlxr.io.safetensors import DTYPES

FILES = 5000

# Reasons for which we refuse a file that the package accepts.
STRICTER = (
    "duplicate name",  # the package keeps the last
    "does not begin with '{'",  # the format's rule; the package lets space pass
    "is not supported",  # dtypes that MLX lacks
    "more than 32 axes",
    "neither 0 nor 1",
    "nests deeper",  # the package's limit is higher
    "2**63 - 1 bytes",  # of an empty tensor, whose strides would overflow
)

NUMBERS = [*range(-1, 9), 16, 2**31, 2**32, 2**53, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30]
ODD = [*NUMBERS, -0.0, 1.0, 1.5, 1e300, True, False, None, "", "F32", "0", [], {}, [0], [[0]], [0, 4], {"dtype": "F32"}]
TOKENS = [
    *[bytes([character]) for character in b'{}[],:"\\ \n\0\xff'],
    *[b"\\u0061", b"\\ud800", b"\xc3\xa9", b"NaN", b"1e999", b"-0", b"null", b"true"],
    *[b'"dtype":"F32",', b'"__metadata__":', b"[" * 64],
]


def sound_file(rng):
    """Return (header, data) of a sound file with up to five tensors."""
    header, data, position = {}, [], 0
    if rng.random() < 0.4:
        header["__metadata__"] = {f"k{i}": "v" * int(rng.integers(4)) for i in range(rng.integers(3))}
    for i in range(rng.integers(6)):
        name = NAMES[rng.integers(len(NAMES))]
        shape = rng.integers(0, 5, rng.integers(4)).tolist()
        raw = random_bits(rng, name, shape).tobytes()
        header[f"t{i}"] = {
            "dtype": FORMAT_NAMES[name], "shape": shape, "data_offsets": [position, position + len(raw)]
        }  # fmt: skip
        data.append(raw)
        position += len(raw)
    return header, b"".join(data)


def pick(rng, values):
    """Return one of `values`, as it is (a generator's own choice() would make NumPy objects of them)."""
    return values[int(rng.integers(len(values)))]


def mutate_structure(rng, header, data):
    """Return a file whose header is still JSON, with a few changes to its tree."""
    header = json.loads(json.dumps(header))
    for _ in range(1 + int(rng.geometric(0.7)) // 2):
        tensors = [value for name, value in header.items() if name != "__metadata__" and isinstance(value, dict)]
        action = rng.integers(12)
        if action == 0 or not tensors:
            header[pick(rng, ["__metadata__", "t0", "new", ""])] = pick(rng, [*ODD, {"k": pick(rng, ODD)}])
            continue
        tensor = pick(rng, tensors)
        shape, offsets = tensor.get("shape"), tensor.get("data_offsets")
        if action == 1:
            tensor[pick(rng, ["dtype", "shape", "data_offsets", "extra"])] = pick(rng, ODD)
        elif action == 2:
            tensor["dtype"] = pick(rng, [*DTYPES, "F8_E5M2", "F4", "F6_E2M3", "bool", "f32", "F128"])
        elif action == 3 and isinstance(shape, list):
            shape.insert(int(rng.integers(len(shape) + 1)), pick(rng, ODD))
        elif action == 4 and isinstance(shape, list) and shape:
            shape[int(rng.integers(len(shape)))] = pick(rng, ODD)
        elif action == 5 and isinstance(offsets, list) and offsets:
            offsets[int(rng.integers(len(offsets)))] = pick(rng, [*ODD, len(data), len(data) + 1])
        elif action == 6:
            other = pick(rng, tensors)
            tensor["data_offsets"], other["data_offsets"] = other.get("data_offsets"), tensor.get("data_offsets")
        elif action == 7:
            tensor.pop(pick(rng, ["dtype", "shape", "data_offsets"]), None)
        elif action == 8 and isinstance(shape, list):  # from here on the file stays sound, if it was
            shape[:] = [*shape[::-1], 1]
        elif action == 9:
            header = {name: header[name] for name in rng.permutation(list(header)).tolist()}
        elif action == 10:
            header = {name + "\u00e9": value for name, value in header.items()}
        else:
            tensor["note"] = pick(rng, ODD)
    raw = json.dumps(header, separators=pick(rng, [(",", ":"), (", ", ": ")])).encode()
    if rng.random() < 0.2:  # the same header, its first tensor written twice
        raw = raw[:-1] + b"," + raw[1:] if len(raw) > 2 else raw
    return assemble(raw + b" " * int(rng.integers(9)), data)


def mutate_bytes(rng, raw):
    """Return the file with bits flipped, parts cut, repeated or replaced by JSON's tokens."""
    raw = bytearray(raw)
    for _ in range(1 + int(rng.geometric(0.7)) // 2):
        action = rng.integers(7)
        at = int(rng.integers(len(raw) + 1))
        header_end = min(len(raw), 8 + int.from_bytes(raw[:8], "little"))
        if action == 0 and raw:
            raw[at % len(raw)] ^= 1 << int(rng.integers(8))
        elif action == 1:
            del raw[at:]
        elif action == 2:
            del raw[at : at + int(rng.integers(1, 9))]
        elif action == 3:
            raw[at:at] = raw[at : at + int(rng.integers(1, 40))]
        elif action == 4:
            raw += rng.bytes(int(rng.integers(1, 9)))
        elif action == 5:
            raw[:8] = struct.pack("<Q", pick(rng, [number for number in NUMBERS if 0 <= number < 2**64]))
        elif header_end > 8:  # a token inside the header, and the length that goes with it
            token = pick(rng, TOKENS)
            at = int(rng.integers(8, header_end))
            keep = at + int(rng.integers(0, 3))
            raw[at:keep] = token
            length = max(0, header_end - 8 + len(token) - (keep - at))
            raw[:8] = struct.pack("<Q", length)
    return bytes(raw)


def read_by_the_package(raw):
    """Return {name: (dtype, shape, bytes)} as the safetensors package reads it, or None if it refuses."""
    try:
        tensors = dict(safetensors.deserialize(raw))
    except safetensors.SafetensorError:
        return None
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in tensors.items()}


def try_to_load(path):
    """Return (tensors, None), or (None, the typed error). Any other exception passes through."""
    try:
        return mx.load(path), None
    except FileFormatError as error:
        return None, error


@pytest.mark.parametrize("seed", range(4))
def test_fuzz(folder, seed):
    rng = np.random.default_rng(seed)
    outcomes = {"loaded": 0, "refused": 0, "stricter": 0}
    path = folder / "x.safetensors"
    for _ in range(FILES // 4):
        header, data = sound_file(rng)
        raw = assemble(json.dumps(header).encode(), data)
        if rng.random() < 0.5:
            raw = mutate_structure(rng, header, data)
            if rng.random() < 0.2:
                raw = mutate_bytes(rng, raw)
        else:
            raw = mutate_bytes(rng, raw)
        expected = read_by_the_package(raw)
        path.write_bytes(raw)
        loaded, error = try_to_load(path)
        if error is not None:
            assert error.file == str(path)
            outcomes["refused"] += 1
            if expected is not None:
                assert any(reason in error.reason for reason in STRICTER), (error, raw)
                outcomes["stricter"] += 1
            continue
        outcomes["loaded"] += 1
        assert expected is not None, raw
        assert loaded.keys() == expected.keys(), raw
        for name, tensor in loaded.items():
            dtype, shape, stored = expected[name]
            assert (tensor.dtype.name, tensor.shape) == (DTYPES[dtype][0], shape), raw
            assert bits_of(tensor) == stored, raw
    # The mutations must reach both sides of the fence, or the test shows nothing.
    assert outcomes["loaded"] > 50, outcomes
    assert outcomes["refused"] - outcomes["stricter"] > 500, outcomes
    assert outcomes["stricter"] > 10, outcomes
