"""How an operation is declared, and the registry that everything else reads.

A declaration holds the public function and all that the rest of the system needs to know of it: its family, the
primitive behind it, a NumPy reference in float64, samples, inputs that must be refused, and its tolerance. Dispatch,
gradient checks, the conformance and parity suites, benchmarks and the API reference come from this one table.

Adding an elementwise op is one call of :func:`unary` or :func:`binary`; CONTRIBUTING.md shows one from end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlxr._typing import BinaryFunction, UnaryFunction
from mlxr.core import dispatch, dtype
from mlxr.core.dtype import Dtype
from mlxr.core.primitive import Primitive

__all__ = ["REGISTRY", "Op", "Refusal", "Sample", "binary", "operation", "primitive", "unary"]

FLOATING = (dtype.float32, dtype.float16, dtype.bfloat16, dtype.float64)
INTEGER = (
    dtype.uint8, dtype.uint16, dtype.uint32, dtype.uint64, dtype.int8, dtype.int16, dtype.int32, dtype.int64,
)
COMPLEX = (dtype.complex64,)
BOOL = (dtype.bool_,)
REAL = FLOATING + INTEGER + BOOL
NUMERIC = FLOATING + INTEGER + COMPLEX
EVERY = BOOL + INTEGER + FLOATING + COMPLEX


@dataclass(frozen=True)
class Sample:
    """One call of an op: NumPy arrays stand for tensors and are cast to the dtype under test.

    Attributes
    ----------
    args, kwargs
        Arguments of the op. An ndarray becomes a tensor of the dtype under test, unless it is an integer or boolean
        array, which keeps its dtype (indices, masks).
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A call that must raise `error` and leave its operands alone. Array arguments are used as they are."""

    args: tuple[Any, ...]
    error: type[Exception]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Op:
    """The declaration of one public operation.

    Attributes
    ----------
    name : str
        As users call it; dotted for namespaces (``"fast.rms_norm"``).
    function : callable
        What users call.
    family : str
        One of ``mlxr.core.primitive.FAMILIES``.
    primitive : Primitive or None
        The word of the backends' vocabulary behind it; None for compositions of other ops.
    samples : callable
        ``samples(rng)`` yields :class:`Sample` objects; `rng` is a seeded ``numpy.random.Generator``.
    reference : callable or None
        The same function on float64 (or integer) ndarrays.
    dtypes : tuple of Dtype
        Dtypes of the array arguments that the op supports.
    differentiable : tuple of int
        Positions of arguments with a gradient.
    refusals : tuple of Refusal
    ulps : float
        Tolerance: largest error against `reference`, in units of the last place of the result's dtype, relative to
        the larger of the value and `scale`.
    scale : callable or None
        ``scale(*args)`` gives the magnitude that rounding errors refer to, for ops with cancellation (sums, matmul).
    """

    name: str
    function: Callable[..., Any]
    family: str
    primitive: Primitive | None = None
    samples: Callable[[np.random.Generator], Iterator[Sample]] | None = None
    reference: Callable[..., Any] | None = None
    dtypes: tuple[Dtype, ...] = FLOATING
    differentiable: tuple[int, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    ulps: float = 4.0
    scale: Callable[..., Any] | None = None


REGISTRY: dict[str, Op] = {}


def _register(op: Op) -> Op:
    if op.name in REGISTRY:
        raise ValueError(f"op {op.name!r} is declared twice")
    REGISTRY[op.name] = op
    return op


def primitive(name: str, family: str, infer: Callable[..., Any] | None = None, **rules: Any) -> Primitive:
    """Declare a primitive; `rules` are ``vjp``, ``jvp``, ``vmap``, ``linear``."""
    return Primitive(name, family, infer, **rules)


def operation(
    family: str,
    *,
    name: str | None = None,
    primitive: Primitive | None = None,
    samples: Callable[[np.random.Generator], Iterator[Sample]] | None = None,
    reference: Callable[..., Any] | None = None,
    dtypes: tuple[Dtype, ...] = FLOATING,
    differentiable: Sequence[int] = (),
    refusals: Sequence[Refusal] = (),
    ulps: float = 4.0,
    scale: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the decorated function as an op; parameters as the attributes of :class:`Op`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__module__ = "mlxr"
        _register(
            Op(
                name or function.__name__, function, family, primitive, samples, reference, dtypes,
                tuple(differentiable), tuple(refusals), ulps, scale,
            )
        )
        return function

    return decorate


# ------------------------------------------------------------------ elementwise: dtype rules

Rule = tuple[Callable[..., "Dtype | None"], Callable[[Dtype], Dtype], str]


def _same(lane: Dtype) -> Dtype:
    return lane


def _to_bool(_: Dtype) -> Dtype:
    return dtype.bool_


def _real_of(lane: Dtype) -> Dtype:
    return dtype.float32 if lane is dtype.complex64 else lane


def _at_least_float(a: Dtype, b: Dtype | None = None) -> Dtype:
    lane = a if b is None else dtype.promote_types(a, b)
    return lane if lane.kind in "fc" else dtype.float32


def _bits(a: Dtype, b: Dtype) -> Dtype:
    lane = dtype.promote_types(a, b)
    return dtype.uint8 if lane is dtype.bool_ else lane


def _number(a: Dtype, b: Dtype) -> Dtype:
    lane = dtype.promote_types(a, b)
    return dtype.int32 if lane is dtype.bool_ else lane


def _only(kinds: str, lanes: Callable[..., Dtype]) -> Callable[..., Dtype | None]:
    def compute(a: Dtype, b: Dtype) -> Dtype | None:
        lane = lanes(a, b)
        return lane if lane.kind in kinds else None

    return compute


RULES: dict[str, Rule] = {
    # lanes in the promoted dtype, result alike
    "any": (dtype.promote_types, _same, ""),
    "number": (_only("uifc", dtype.promote_types), _same, "is not defined"),
    "real": (_only("buif", dtype.promote_types), _same, "is only defined for real numbers, not"),
    "real number": (_only("uif", _number), _same, "is only defined for real numbers, not"),  # booleans become int32
    "integer": (_only("bui", dtype.promote_types), _same, "is only defined for integers and booleans, not"),
    "bits": (_only("ui", _bits), _same, "is only defined for integers and booleans, not"),  # booleans become uint8
    # integers become float32
    "float": (_at_least_float, _same, ""),
    "real float": (_only("f", _at_least_float), _same, "is only defined for real numbers, not"),
    # results of another dtype
    "compare": (dtype.promote_types, _to_bool, ""),
    "logical": (lambda a, b: dtype.bool_, _to_bool, ""),
    "magnitude": (dtype.promote_types, _real_of, ""),
}


# ------------------------------------------------------------------ elementwise: samples

def spread(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Return values spread evenly over [low, high], in random order: every region is met, whatever the shape."""
    n = int(np.prod(shape))
    return rng.permutation(np.linspace(low, high, max(n, 2))[:n]).reshape(shape)


def unary_samples(low: float, high: float) -> Callable[[np.random.Generator], Iterator[Sample]]:
    """Samples of one operand over [low, high]: scalar, empty, vector, matrix, transposed and strided."""

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for shape in [(), (0,), (1,), (7,), (33,), (5, 4), (2, 3, 5)]:
            yield Sample((spread(rng, shape, low, high),))
        yield Sample((spread(rng, (4, 6), low, high).T,))
        yield Sample((spread(rng, (3, 20), low, high)[:, ::2],))

    return samples


def binary_samples(
    low: float, high: float, low2: float | None = None, high2: float | None = None
) -> Callable[[np.random.Generator], Iterator[Sample]]:
    """Samples of two operands: equal shapes, broadcasting on either side, scalars, empty, transposed."""
    low2 = low if low2 is None else low2
    high2 = high if high2 is None else high2

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
            ((), ()), ((0,), (0,)), ((6,), (6,)), ((4, 5), (4, 5)), ((4, 5), (5,)), ((4, 1), (1, 5)), ((3,), ()),
            ((2, 1, 4), (3, 1)), ((1,), (0,)), ((17, 33), (33,)),
        ]
        for a, b in shapes:
            yield Sample((spread(rng, a, low, high), spread(rng, b, low2, high2)))
        yield Sample((spread(rng, (3, 4), low, high), spread(rng, (4, 3), low2, high2).T))

    return samples


# ------------------------------------------------------------------ elementwise: declarations

def _doc(summary: str, parameters: str, result: str, notes: str) -> str:
    text = f"{summary}\n\nParameters\n----------\n{parameters}"
    text += (
        "\nstream : Stream or Device, optional\n    Must be on the operands' device.\n\n"
        f"Returns\n-------\nTensor\n    {result}\n\n"
        "Raises\n------\nDtypeError\n    If the operation is not defined for the dtype.\n"
    )
    if notes:
        text += f"\nNotes\n-----\n{notes}\n"
    return text


def unary(
    name: str,
    summary: str,
    *,
    rule: str,
    reference: Callable[..., Any],
    domain: tuple[float, float] = (-3.0, 3.0),
    vjp: Callable[..., Any] | None = None,
    dtypes: tuple[Dtype, ...] = FLOATING,
    notes: str = "",
    ulps: float = 4.0,
    namespace: str = "",
) -> UnaryFunction:
    """Declare an elementwise op of one operand and return its function.

    Parameters
    ----------
    name : str
        Name of the op and of its primitive.
    summary : str
        First line of the docstring.
    rule : str
        Key of ``RULES``: which dtypes it takes and what it returns.
    reference : callable
        The function on ndarrays.
    domain : (float, float)
        Interval that samples are taken from.
    vjp : callable, optional
        ``vjp(g, out, x)`` returns the gradient of x in terms of ops. None: not differentiable.
    """
    rules: dict[str, Any] = {"vjp": lambda needs, g, out, x: vjp(g, out, x)} if vjp else {}
    p = Primitive(name, "elementwise", **rules)
    compute, result, refusal = RULES[rule]
    p.set_dtype_rule(compute, result, refusal)
    doc = _doc(summary, "a : Tensor or scalar", "Elementwise result, of a's shape.", notes)
    function = dispatch.unary_function(p, name, doc)
    _register(
        Op(
            namespace + name, function, "elementwise", p, unary_samples(*domain), reference, dtypes,
            (0,) if vjp else (), (), ulps,
        )
    )
    return function


def binary(
    name: str,
    summary: str,
    *,
    rule: str,
    reference: Callable[..., Any],
    domain: tuple[float, ...] = (-3.0, 3.0),
    vjp: tuple[Callable[..., Any] | None, Callable[..., Any] | None] | None = None,
    dtypes: tuple[Dtype, ...] = FLOATING,
    notes: str = "",
    ulps: float = 4.0,
) -> BinaryFunction:
    """Declare an elementwise op of two operands and return its function.

    Parameters as :func:`unary`; `domain` may hold a second interval for the second operand, and `vjp` is a pair of
    ``f(g, out, a, b)``, one per operand. Gradients come back in the result's shape: dispatch sums what was broadcast.
    """
    rules: dict[str, Any] = {}
    if vjp:

        def both(needs: Sequence[bool], g: Any, out: Any, a: Any, b: Any) -> tuple[Any, ...]:
            return tuple(f(g, out, a, b) if need and f else None for need, f in zip(needs, vjp, strict=True))

        rules["vjp"] = both
    p = Primitive(name, "elementwise", **rules)
    compute, result, refusal = RULES[rule]
    p.set_dtype_rule(compute, result, refusal)
    parameters = "a, b : Tensor or scalar\n    Broadcast against each other. Python scalars take the other's dtype."
    doc = _doc(summary, parameters, "Elementwise result, of the broadcast shape.", notes)
    function = dispatch.binary_function(p, name, doc)
    _register(
        Op(
            name, function, "elementwise", p, binary_samples(*domain), reference, dtypes,
            tuple(k for k, f in enumerate(vjp or ()) if f), (), ulps,
        )
    )
    return function
