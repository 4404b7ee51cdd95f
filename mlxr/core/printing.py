"""How tensors print: upstream MLX's format. Must not know about ops, except the ones that fetch elements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from mlxr.errors import InvalidValueError

__all__ = ["PrintOptions", "format_tensor", "get_printoptions", "printoptions", "set_printoptions", "to_string"]

EDGE = 3  # elements shown at each end of an axis longer than twice this


@dataclass(frozen=True)
class PrintOptions:
    """How numbers print.

    Attributes
    ----------
    precision : int
        Decimal places; -1 for six significant digits.
    """

    precision: int = -1


class _Options:
    """The process-wide options, and the override of the running context."""

    default = PrintOptions()
    scoped: ContextVar[PrintOptions | None] = ContextVar("mlxr_printoptions", default=None)


def _checked(precision: int) -> PrintOptions:
    if not -1 <= precision <= 100:
        raise InvalidValueError(f"a precision lies between -1 and 100, got {precision}", precision=precision)
    return PrintOptions(precision)


def set_printoptions(precision: int = -1) -> None:
    """Set how numbers print.

    Parameters
    ----------
    precision : int
        Decimal places; -1 for six significant digits.
    """
    _Options.default = _checked(precision)


def get_printoptions() -> PrintOptions:
    """Return how numbers print at present."""
    return _Options.scoped.get() or _Options.default


@contextmanager
def printoptions(precision: int = -1) -> Iterator[PrintOptions]:
    """Return a context in which numbers print with `precision`; see :func:`set_printoptions`."""
    options = _checked(precision)
    token = _Options.scoped.set(options)
    try:
        yield options
    finally:
        _Options.scoped.reset(token)


def _number(value: Any, precision: int) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}" if precision < 0 else f"{value:.{precision}f}"
    if isinstance(value, complex):
        imaginary = _number(value.imag, precision)
        sign = "" if imaginary.startswith("-") else "+"
        return f"{_number(value.real, precision)}{sign}{imaginary}j"
    return str(value)


def _body(x: Any, indent: int, precision: int) -> str:
    if x.ndim == 0:
        return _number(x.item(), precision)
    n = x.shape[0]
    shown = list(range(n)) if n <= 2 * EDGE else [*range(EDGE), None, *range(n - EDGE, n)]
    parts = ["..." if k is None else _body(x[k], indent + 1, precision) for k in shown]
    return "[" + (", " if x.ndim == 1 else ",\n" + " " * (indent + 1)).join(parts) + "]"


def to_string(x: Any) -> str:
    """Return the representation of a tensor: at most the first and last three elements of each axis."""
    from mlxr.core.tape import detach

    return f"array({_body(detach(x), 6, get_printoptions().precision)}, dtype={x.dtype.name})"


def format_tensor(x: Any, spec: str) -> str:
    """Return ``format(x, spec)``: the element's format for a scalar; other tensors take no format.

    Raises
    ------
    TypeError
        If a format is given for a tensor with axes, as for any object that has none.
    """
    if not spec:
        return str(x)
    if x.ndim == 0:
        return format(x.item(), spec)
    raise TypeError("unsupported format string passed to mlxr.array.__format__")
