"""Cases, answers and sides made by hand. Shared by the tests of conformance."""

from __future__ import annotations

import numpy as np

from mlxr.conformance.cases import Case, encode_array

X = np.array([1.0, 2.0, 3.0])


def case(op="sin", dtype="float32", kind="sample", label="0", args=(X,), layout="row-major", **kwargs):
    encoded = tuple(encode_array(a, dtype, layout) if isinstance(a, np.ndarray) else ("v", a) for a in args)
    return Case(op, dtype, kind, layout, label, encoded, {k: ("v", v) for k, v in kwargs.items()})


def values(*arrays, dtype="float32"):
    return ("values", [encode_array(np.asarray(a), dtype) for a in arrays])


def error(*names, text="no"):
    return ("error", [*names, "Exception", "object"], text)


class Side:
    """Gives the same answer to every case, or what a function says."""

    starts = 1

    def __init__(self, answer):
        self.answer = answer
        self.facts = {"library": "made", "version": "1", "device": "here"}

    def run(self, batch):
        return [self.answer(c) if callable(self.answer) else self.answer for c in batch]

    def close(self):
        pass
