"""From the declarations to calls: every sample in every dtype and layout, and systematic variants of them.

A case is one call with all that it takes, encoded as ``worker.py`` has it, so that any process can run it. Which cases
there are depends on the declarations alone: the same ones, in the same order, on every machine. Knows the declarations
and NumPy; nothing of how cases are run or judged.

Kinds of cases
--------------
sample
    A declared sample, in each dtype of the op; the full suite draws them from several seeds.
layout
    The same with operands that are transposed, strided, reversed, offset, permuted or broadcast.
dense
    Elementwise ops on many values spread over the domain of their samples.
long
    Reductions and scans of a quarter of a million elements.
edge
    Infinities, NaN, signed zeros, subnormal, largest and smallest numbers; elementwise ops on all pairs of them.
pole
    Integers divided by zero, and the lowest integer by -1.
mixed
    Two different dtypes: the first tensor's, and that of the others.
scalar
    A Python scalar beside a tensor, on either side.
foreign
    A dtype that the op does not declare: both libraries should refuse it, or agree.
refusal
    A declared call that must raise.
"""

from __future__ import annotations

import itertools
import marshal
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mlxr.conformance.measure import DTYPES, NUMPY, round_to, values_for
from mlxr.conformance.worker import LAYOUTS
from mlxr.core.dtype import Dtype
from mlxr.ops.declare import REGISTRY, Op, Sample

__all__ = ["KINDS", "SUITES", "Case", "arrays_of", "cases", "decode", "encode_array"]

KINDS = ("sample", "layout", "dense", "long", "edge", "pole", "mixed", "scalar", "foreign", "refusal")
SUITES = ("core", "full")
SEEDS = {"core": (0,), "full": (0, 1)}

Encoded = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes
    ----------
    op, dtype, kind, layout
        What it exercises; `dtype` is the one under test (of a refusal, the operands' own).
    label : str
        Tells it from others with the same four.
    args, kwargs
        Encoded arguments.
    """

    op: str
    dtype: str
    kind: str
    layout: str
    label: str
    args: tuple[Encoded, ...]
    kwargs: dict[str, Encoded]

    @property
    def key(self) -> str:
        """The name of the case: unique, and the same from run to run."""
        return f"{self.op}/{self.dtype}/{self.kind}/{self.layout}/{self.label}"

    @property
    def fingerprint(self) -> int:
        """A checksum of the arguments."""
        return zlib.crc32(marshal.dumps((self.args, self.kwargs), 2))  # later versions depend on reference counts


# ------------------------------------------------------------------ encoding

def encode_array(values: np.ndarray, dtype: str, layout: str = "row-major") -> Encoded:
    """Encode values, as :func:`mlxr.conformance.measure.values_for` has them, as a tensor."""
    stored = values[:1] if layout == "broadcast" else values
    if dtype == "bfloat16":  # every bfloat16 is a float32 whose low half is zero
        data = (np.asarray(stored, np.float32, order="C").view(np.uint32) >> 16).astype(np.uint16).tobytes()
    else:
        data = np.asarray(stored, NUMPY[dtype]).tobytes()
    return ("a", dtype, list(values.shape), data, layout)


def decode(value: Encoded) -> Any:
    """Return an encoded argument with ndarrays for tensors: bfloat16 as float64, dtypes as mlxr's."""
    tag = value[0]
    if tag == "a":
        _, dtype, shape, data, layout = value
        if dtype == "bfloat16":
            halves = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
            flat = halves.view(np.float32).astype(np.float64)
        else:
            flat = np.frombuffer(data, dtype)
        return np.broadcast_to(flat.reshape([1, *shape[1:]]), shape) if layout == "broadcast" else flat.reshape(shape)
    if tag == "d":
        return DTYPES[value[1]]
    if tag == "v":
        return value[1]
    items = [decode(v) for v in value[1]]
    return items if tag == "l" else tuple(items)


def _encode(value: Any, array: Callable[[np.ndarray], Encoded]) -> Encoded:
    if isinstance(value, np.ndarray):
        return array(value)
    if isinstance(value, Dtype):
        return ("d", value.name)
    if isinstance(value, (list, tuple)):
        return ("l" if isinstance(value, list) else "t", [_encode(v, array) for v in value])
    return ("v", value.item() if isinstance(value, np.generic) else value)


def arrays_of(value: Any) -> Iterator[np.ndarray]:
    """Yield the ndarrays within an argument, or a sequence of arguments."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from arrays_of(v)


def _tested(sample: Sample) -> list[np.ndarray]:
    """Return the sample's arrays that take the dtype under test."""
    every = itertools.chain(arrays_of(sample.args), arrays_of(list(sample.kwargs.values())))
    return [a for a in every if a.dtype.kind == "f"]


def _make(
    op: Op, dtype: str, kind: str, layout: str, label: str, call: Any, array: Callable[[np.ndarray], Encoded]
) -> Case:
    args = tuple(_encode(a, array) for a in call.args)
    return Case(op.name, dtype, kind, layout, label, args, {k: _encode(v, array) for k, v in call.kwargs.items()})


def _in_dtype(dtype: str, layout: str = "row-major") -> Callable[[np.ndarray], Encoded]:
    """Return what encodes a sample's array in the dtype under test."""

    def array(a: np.ndarray) -> Encoded:
        how = layout if _has_layout(a.shape, layout) else "row-major"
        if how == "broadcast":
            a = np.broadcast_to(a[:1], a.shape)
        values = values_for(a, DTYPES[dtype])
        return encode_array(values, values.dtype.name if a.dtype.kind in "biu" else dtype, how)

    return array


def _has_layout(shape: tuple[int, ...], layout: str) -> bool:
    """Tell whether `layout` puts an array of this shape into memory in another way than row-major."""
    if 0 in shape or layout == "row-major":
        return False
    if layout == "broadcast":
        return bool(shape) and shape[0] > 1
    least = {"transposed": 2, "permuted": 3}.get(layout, 1)
    return len(shape) >= least


# ------------------------------------------------------------------ values

FLOAT_EDGES = [0.0, 1.0, 0.5, 1.5, 2.5, 3.0, 7.0, np.inf]
INT_EDGES = [0, 1, 2, 3, 7, 100]


def edge_values(dtype: str) -> np.ndarray:
    """Return the values at which functions of `dtype` go wrong, as ``values_for`` has them."""
    d = DTYPES[dtype]
    if d.kind == "b":
        return np.array([False, True])
    if d.kind in "iu":
        info = np.iinfo(dtype)
        values = [*INT_EDGES, info.max, info.max - 1] + ([info.min, info.min + 1, -1, -2, -7] if d.kind == "i" else [])
        return np.array(values, dtype)
    if d.kind == "c":
        parts = [0.0, -0.0, 1.0, -2.5, 1e-3, 30.0]
        return np.array([complex(a, b) for a in parts for b in parts], np.complex64)
    lowest, highest, eps = {
        "float16": (2.0**-14, 65504.0, 2.0**-10), "bfloat16": (2.0**-126, (2 - 2.0**-7) * 2.0**127, 2.0**-7),
        "float32": (2.0**-126, (2 - 2.0**-23) * 2.0**127, 2.0**-23),
        "float64": (2.0**-1022, np.finfo(np.float64).max, 2.0**-52),
    }[dtype]
    some = [*FLOAT_EDGES, lowest, lowest * eps, lowest * 0.5, highest, 1.0 + eps, 1.0 - eps / 2, eps, 1e3, 4e4]
    positive = np.array(some)
    return round_to(np.concatenate([positive, -positive, [np.nan]]), d)


def _pairs(values: np.ndarray, divisor: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs of `values`; with `divisor`, only those that an integer division traps at, else without them."""
    a, b = (x.reshape(-1) for x in np.meshgrid(values, values, indexing="ij"))
    if values.dtype.kind not in "iu":
        return (a, b) if not divisor else (a[:0], b[:0])
    traps = b == 0
    if values.dtype.kind == "i":
        traps |= (a == np.iinfo(values.dtype).min) & (b == -1)
    keep = traps if divisor else ~traps
    return a[keep], b[keep]


def _domain(samples: Sequence[Sample], position: int) -> tuple[float, float]:
    every = [s.args[position] for s in samples if s.args[position].size]
    return min(float(a.min()) for a in every), max(float(a.max()) for a in every)


def _elementwise_operands(op: Op, samples: Sequence[Sample]) -> int:
    """Return how many operands an op has whose arguments are all alike tensors, else 0."""
    if op.family != "elementwise" or op.primitive is None:
        return 0
    counts = {len(s.args) for s in samples}
    plain = all(isinstance(a, np.ndarray) and a.dtype.kind == "f" for s in samples for a in s.args)
    return counts.pop() if plain and len(counts) == 1 and not any(s.kwargs for s in samples) else 0


# ------------------------------------------------------------------ the generators, one for each kind

def _samples(op: Op, suite: str) -> list[tuple[str, Sample]]:
    if op.samples is None:
        return []
    drawn = []
    for seed in SEEDS[suite]:
        for k, sample in enumerate(itertools.islice(op.samples(np.random.default_rng(seed)), 64)):
            drawn.append((f"{k}" if seed == 0 else f"{k}.{seed}", sample))
    return drawn


def _some(samples: list[tuple[str, Sample]], suite: str, position: int, count: int) -> list[tuple[str, Sample]]:
    """Return all samples in the full suite, and `count` in the core suite: others in each dtype."""
    if suite == "full" or len(samples) <= count:
        return samples
    step = max(1, len(samples) // count)
    return [samples[(position + k * step) % len(samples)] for k in range(count)]


def _sample_cases(op: Op, suite: str, samples: list[tuple[str, Sample]]) -> Iterator[Case]:
    for position, dtype in enumerate(op.dtypes):
        count = len(samples) if position == 0 else 2
        for label, sample in _some(samples, suite, position, count):
            yield _make(op, dtype.name, "sample", "row-major", label, sample, _in_dtype(dtype.name))


def _layout_cases(op: Op, suite: str, samples: list[tuple[str, Sample]]) -> Iterator[Case]:
    first = [(label, s) for label, s in samples if "." not in label]
    for position, dtype in enumerate(op.dtypes if suite == "full" else op.dtypes[:1]):
        for turn, layout in enumerate(LAYOUTS[1:]):
            if layout == "broadcast" and (op.family == "host" or op.primitive is None):
                continue  # a matrix of equal rows has no inverse, and sorted operands must stay sorted
            fit = [(label, s) for label, s in first if any(_has_layout(a.shape, layout) for a in _tested(s))]
            for label, sample in _some(fit, suite, position + turn, 1):
                yield _make(op, dtype.name, "layout", layout, label, sample, _in_dtype(dtype.name, layout))


def _dense_cases(op: Op, suite: str, samples: list[tuple[str, Sample]]) -> Iterator[Case]:
    plain = [s for _, s in samples]
    operands = _elementwise_operands(op, plain)
    if not operands or suite == "core":
        return
    rng = np.random.default_rng(zlib.crc32(op.name.encode()))
    sample = Sample(tuple(rng.uniform(*_domain(plain, k), 1024) for k in range(operands)))
    for dtype in op.dtypes:
        yield _make(op, dtype.name, "dense", "row-major", "0", sample, _in_dtype(dtype.name))


def _long_cases(op: Op, suite: str, samples: list[tuple[str, Sample]]) -> Iterator[Case]:
    if suite == "core" or op.family not in ("reduce", "scan") or op.primitive is None:
        return
    rng = np.random.default_rng(zlib.crc32(op.name.encode()))
    low, high = _domain([s for _, s in samples], 0)
    sample = Sample((rng.uniform(max(low, 0.0), high, 1 << 18),))  # nothing cancels: every rounding adds to the error
    for dtype in op.dtypes:
        yield _make(op, dtype.name, "long", "row-major", "0", sample, _in_dtype(dtype.name))


EDGE_FAMILIES = ("elementwise", "reduce", "scan", "sort", "indexing", "layout")


def _edge_cases(op: Op, suite: str, samples: list[tuple[str, Sample]]) -> Iterator[Case]:
    if op.family not in EDGE_FAMILIES:
        return
    operands = _elementwise_operands(op, [s for _, s in samples])
    for position, dtype in enumerate(op.dtypes):
        name = dtype.name
        values = edge_values(name)
        if operands == 1:
            yield _make(op, name, "edge", "row-major", "0", Sample((values,)), partial(encode_array, dtype=name))
        elif operands == 2:
            if suite == "core":
                values = values[::2]
            for kind, divisor in (("edge", False), ("pole", True)):
                a, b = _pairs(values, divisor)
                if a.size:
                    yield _make(op, name, kind, "row-major", "0", Sample((a, b)), partial(encode_array, dtype=name))
        else:
            fit = [(label, s) for label, s in samples if "." not in label and any(a.size for a in _tested(s))]
            for label, sample in _some(fit, suite, position, 1)[:4]:
                yield _make(op, name, "edge", "row-major", label, sample, _salted(name, values))


def _salted(dtype: str, values: np.ndarray) -> Callable[[np.ndarray], Encoded]:
    """Return what encodes a sample's array with every third of its elements replaced by an edge value."""

    def array(a: np.ndarray) -> Encoded:
        plain = values_for(a, DTYPES[dtype])
        if a.dtype.kind in "biu":
            return encode_array(plain, plain.dtype.name)
        flat = plain.reshape(-1).copy()
        flat[::3] = np.resize(values[::-1], flat[::3].shape)
        return encode_array(flat.reshape(plain.shape), dtype)

    return array


def _mixed_cases(op: Op, suite: str, samples: list[tuple[str, Sample]]) -> Iterator[Case]:
    fit = [(label, s) for label, s in samples if len(_tested(s)) > 1 and all(a.size for a in _tested(s))]
    if suite == "core" or not fit:
        return
    label, sample = fit[len(fit) // 2]
    for first, second in itertools.permutations(op.dtypes, 2):
        turn = itertools.chain([first.name], itertools.repeat(second.name))

        def array(a: np.ndarray, turn: Iterator[str] = turn) -> Encoded:
            return _in_dtype(next(turn) if a.dtype.kind == "f" else "float32")(a)

        yield _make(op, first.name, "mixed", "row-major", f"{label}.{second.name}", sample, array)


SCALARS = (True, 3, -2, 2.5, 1j)


def _scalar_cases(op: Op, suite: str, samples: list[tuple[str, Sample]]) -> Iterator[Case]:
    if _elementwise_operands(op, [s for _, s in samples]) != 2:
        return
    tensor = np.array([3.0, 1.0, 2.0])
    for position, dtype in enumerate(op.dtypes):
        for k, scalar in enumerate(SCALARS):
            if suite == "core" and (position + k) % 5:
                continue
            for side, args in (("right", (tensor, scalar)), ("left", (scalar, tensor))):
                label = f"{side}.{scalar}"
                yield _make(op, dtype.name, "scalar", "row-major", label, Sample(args), _in_dtype(dtype.name))


def _foreign_cases(op: Op, suite: str, samples: list[tuple[str, Sample]]) -> Iterator[Case]:
    fit = [(label, s) for label, s in samples if any(a.size for a in _tested(s))]
    if suite == "core" or not fit:
        return
    label, sample = fit[len(fit) // 2]
    for name, dtype in DTYPES.items():
        if dtype not in op.dtypes:
            yield _make(op, name, "foreign", "row-major", label, sample, _in_dtype(name))


def _refusal_cases(op: Op, suite: str, samples: list[tuple[str, Sample]]) -> Iterator[Case]:
    def array(a: np.ndarray) -> Encoded:
        return encode_array(a, "float32" if a.dtype.name == "float64" else a.dtype.name)  # as ``mx.array`` takes it

    for k, refusal in enumerate(op.refusals):
        every = itertools.chain(arrays_of(refusal.args), arrays_of(list(refusal.kwargs.values())))
        dtype = next((array(a)[1] for a in every), "float32")
        yield _make(op, dtype, "refusal", "row-major", str(k), refusal, array)


GENERATORS = (
    _sample_cases, _layout_cases, _dense_cases, _long_cases, _edge_cases, _mixed_cases, _scalar_cases, _foreign_cases,
    _refusal_cases,
)


def cases(suite: str = "full", ops: Sequence[str] | None = None) -> Iterator[Case]:
    """Yield the cases of a suite, op by op.

    Parameters
    ----------
    suite : {"core", "full"}
        What gates every change, or everything.
    ops : sequence of str, optional
        Names of ops; all by default.
    """
    with np.errstate(all="ignore"):
        for name in REGISTRY if ops is None else ops:
            op = REGISTRY[name]
            samples = _samples(op, suite)
            for generate in GENERATORS:
                yield from generate(op, suite, samples)
