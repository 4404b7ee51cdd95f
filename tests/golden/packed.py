"""Many small arrays in one small file: their bytes end to end, and a JSON index of dtype, shape and offset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

Cases = dict[str, dict[str, np.ndarray]]


def save(file: Path, cases: Cases) -> None:
    """Write arrays by case and name."""
    index: dict[str, dict[str, tuple]] = {}
    data = bytearray()
    for case, arrays in cases.items():
        for name, array in arrays.items():
            index.setdefault(case, {})[name] = (array.dtype.str, array.shape, len(data))
            data += np.ascontiguousarray(array).tobytes()
    np.savez_compressed(file, data=np.frombuffer(data, np.uint8), index=np.array(json.dumps(index)))


def load(file: Path) -> Cases:
    """Read what `save` wrote."""
    with np.load(file) as archive:
        data = archive["data"].tobytes()
        index = json.loads(str(archive["index"]))
    return {
        case: {
            name: np.frombuffer(data, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)
            for name, (dtype, shape, offset) in arrays.items()
        }
        for case, arrays in index.items()
    }
