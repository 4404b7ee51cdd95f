"""Reverse-mode differentiation over the tape: grad, value_and_grad, vjp, jvp, checkpoint, custom functions.

Gradients are ops on tensors, recorded like any other op while an outer transform is running: that makes gradients of
gradients work. The numbering of nodes is a topological order, so the reverse traversal walks it downwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import mlxr.ops as ops
from mlxr.core import tape as tapes
from mlxr.core.primitive import Primitive
from mlxr.core.tensor import Tensor
from mlxr.errors import ArgumentTypeError, InvalidValueError, ShapeError, TransformError
from mlxr.ops.layout import identity_p, sum_to_shape
from mlxr.transforms import tree

__all__ = ["checkpoint", "custom_function", "grad", "jvp", "stop_gradient", "value_and_grad", "vjp"]


# ------------------------------------------------------------------ the reverse traversal

def _fitted(gradient: Tensor, x: Tensor) -> Tensor:
    """Return a gradient with x's shape and dtype: what was broadcast is summed, what was promoted is cast back."""
    if gradient.shape != x.shape:
        gradient = sum_to_shape(gradient, x.shape)
    if gradient.dtype is not x.dtype:
        if gradient.dtype.kind == "c" and x.dtype.kind != "c":
            gradient = ops.real(gradient)
        gradient = ops.astype(gradient, x.dtype)
    return gradient


def _differentiable(x: Tensor) -> bool:
    return x.dtype.kind in "fc"


def _backward(
    outputs: Sequence[Tensor], cotangents: Sequence[Tensor], leaves: Sequence[Tensor], release: bool
) -> list[Tensor | None]:
    """Return the gradients of `leaves`: the cotangents of `outputs` pulled back along the tape.

    Parameters
    ----------
    outputs, cotangents : sequence of Tensor
    leaves : sequence of Tensor
        Tensors that :func:`mlxr.core.tape.leaf` made.
    release : bool
        Forget each node as soon as it is done, so that its memory can be reused.

    Returns
    -------
    list
        None where no output depends on the leaf.

    Raises
    ------
    TransformError
        If a primitive on the way has no gradient.
    """
    wanted = {tapes.node_of(leaf) for leaf in leaves}
    pending: dict[Any, list[Tensor | None]] = {}

    def accumulate(x: Tensor, gradient: Tensor) -> None:
        node, position = tapes.node_of(x), tapes.position_of(x)
        assert node is not None, "only values on the tape have gradients"
        slots = pending.get(node)
        if slots is None:
            slots = pending[node] = [None] * max(1, len(node.outputs))
        sum_so_far = slots[position]
        slots[position] = gradient if sum_so_far is None else ops.add(sum_so_far, gradient)

    nodes = tapes.useful_nodes(outputs, wanted)
    useful = set(nodes)
    for x, cotangent in zip(outputs, cotangents, strict=True):
        if tapes.node_of(x) in useful:
            accumulate(x, cotangent)
    for node in nodes:
        if node in wanted or node not in pending:
            continue
        slots = pending.pop(node)
        primitive, inputs, outs = node.primitive, node.inputs, node.outputs
        needs = tuple([tapes.node_of(x) in useful and _differentiable(x) for x in inputs])
        if True not in needs:
            continue
        if primitive.vjp is None:
            raise TransformError(f"[vjp] {primitive.name} has no gradient", op=primitive.name, transform="vjp")
        if len(outs) == 1:
            gradients = primitive.vjp(needs, slots[0], outs[0], *inputs, *node.params)
        else:
            full = tuple(ops.zeros_like(x) if g is None else g for x, g in zip(outs, slots, strict=True))
            gradients = primitive.vjp(needs, full, outs, *inputs, *node.params)
        if isinstance(gradients, Tensor):
            gradients = (gradients,)
        for need, x, gradient in zip(needs, inputs, gradients, strict=False):
            if need and gradient is not None:
                accumulate(x, _fitted(gradient, x))
        if release:
            node.clear()
    return [pending.get(tapes.node_of(leaf), [None])[0] for leaf in leaves]


def _gradients(
    tape: tapes.Tape, outputs: Sequence[Tensor], cotangents: Sequence[Tensor], leaves: Sequence[Tensor]
) -> list[Tensor]:
    """Run the traversal in the running scope; leaves on which nothing depends get zeros.

    The gradients themselves are recorded unless this is the outermost transform.
    """
    if tape.depth == 1:
        with tapes.paused(tape):
            found = _backward(outputs, cotangents, leaves, release=True)
            return [ops.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
    found = _backward(outputs, cotangents, leaves, release=False)
    return [ops.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


# ------------------------------------------------------------------ public transforms

def _argument_selection(argnums: Any, argnames: Any, op: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    names = (argnames,) if isinstance(argnames, str) else tuple(argnames or ())
    if argnums is None:
        numbers: tuple[int, ...] = () if names else (0,)
    else:
        numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not numbers and not names:
        raise InvalidValueError(f"[{op}] no argument to differentiate with respect to", op=op)
    if any(n < 0 for n in numbers) or len(set(numbers)) != len(numbers) or len(set(names)) != len(names):
        raise InvalidValueError(f"[{op}] argnums are distinct and not negative, got {numbers} {names}", op=op)
    return numbers, names


def _scalar_loss(value: Any, op: str) -> Tensor:
    loss = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(loss, Tensor):
        raise ArgumentTypeError(
            f"[{op}] the function must return a tensor, or a tuple or list that starts with one, "
            f"got {type(loss).__name__}", op=op,
        )
    if loss.size != 1:
        raise ShapeError(f"[{op}] the function must return a scalar, got shape {loss.shape}", op=op,
                         shapes=(loss.shape,))
    if not _differentiable(loss):
        raise TransformError(f"[{op}] the function returned {loss.dtype.name}, which has no gradient", op=op,
                             transform=op)
    return loss


def value_and_grad(
    fun: Callable[..., Any], argnums: int | Sequence[int] | None = None, argnames: str | Sequence[str] = ()
) -> Callable[..., Any]:
    """Return a function that computes the value of `fun` and its gradient.

    Parameters
    ----------
    fun : callable
        Returns a scalar tensor, or a tuple or list whose first element is one.
    argnums : int or sequence of int, optional
        Positional arguments to differentiate with respect to: tensors or trees of them. 0 by default, or none if
        `argnames` is given.
    argnames : str or sequence of str
        Keyword arguments to differentiate with respect to.

    Returns
    -------
    callable
        Returns ``(value, gradients)``. The gradients have the structure of the argument; of several positional
        arguments they are a tuple (of one, however `argnums` names it, no tuple, and of none None); with `argnames`
        they are ``(positional, {name: gradient})``.

    Raises
    ------
    TransformError, ShapeError, ArgumentTypeError
        By the returned function: if `fun` does not return a scalar of a floating dtype, or an op has no gradient.
    """
    op = "value_and_grad"
    numbers, names = _argument_selection(argnums, argnames, op)

    @wraps(fun)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        if numbers and max(numbers) >= len(args):
            raise InvalidValueError(f"[{op}] argnums {numbers} for a call with {len(args)} positional arguments", op=op)
        missing = [name for name in names if name not in kwargs]
        if missing:
            raise InvalidValueError(f"[{op}] no argument is called {', '.join(missing)}", op=op)
        selected = [args[n] for n in numbers] + [kwargs[name] for name in names]
        for leaf in tree.leaves(selected, []):
            if not isinstance(leaf, Tensor) and leaf is not None:
                raise ArgumentTypeError(
                    f"[{op}] the arguments to differentiate are trees of tensors; found {type(leaf).__name__}",
                    op=op, value=leaf,
                )
        tensors, rebuild = tree.flatten(selected)
        with tapes.scope() as tape:
            leaves = [tapes.leaf(tape, x, identity_p) for x in tensors]
            marked = rebuild([tapes.alias(x) for x in leaves])
            call_args = list(args)
            for n, argument in zip(numbers, marked, strict=False):
                call_args[n] = argument
            value = fun(*call_args, **{**kwargs, **dict(zip(names, marked[len(numbers):], strict=True))})
            loss = _scalar_loss(value, op)
            gradients = rebuild(_gradients(tape, [loss], [ops.ones_like(loss)], leaves))
        by_number = gradients[: len(numbers)]
        positional: Any = tuple(by_number) if len(numbers) > 1 else by_number[0] if numbers else None
        if names:
            return value, (positional, dict(zip(names, gradients[len(numbers):], strict=True)))
        return value, positional

    return transformed


def grad(
    fun: Callable[..., Any], argnums: int | Sequence[int] | None = None, argnames: str | Sequence[str] = ()
) -> Callable[..., Any]:
    """Return a function that computes the gradient of `fun`; parameters as :func:`value_and_grad`.

    Returns
    -------
    callable
        Returns the gradients alone.
    """
    both = value_and_grad(fun, argnums, argnames)

    @wraps(fun)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return transformed


def _listed(value: Any, op: str) -> list[Tensor]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    for x in values:
        if not isinstance(x, Tensor):
            raise ArgumentTypeError(f"[{op}] expected tensors, got {type(x).__name__}", op=op, value=x)
    return values


def _match(values: Sequence[Tensor], references: Sequence[Tensor], op: str, what: str) -> None:
    if len(values) != len(references):
        raise InvalidValueError(f"[{op}] {len(references)} {what} are needed, got {len(values)}", op=op)
    for x, y in zip(values, references, strict=True):
        if x.shape != y.shape:
            raise ShapeError(f"[{op}] {what} of shape {x.shape} for a value of shape {y.shape}", op=op,
                             shapes=(x.shape, y.shape))


def vjp(
    fun: Callable[..., Any], primals: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs of `fun` and the product of cotangents with its Jacobian.

    Parameters
    ----------
    fun : callable
        Takes tensors, returns a tensor or a sequence of them.
    primals : sequence of Tensor
        Where to evaluate.
    cotangents : sequence of Tensor
        One per output, of its shape.

    Returns
    -------
    (list of Tensor, list of Tensor)
        Outputs, and one gradient per primal.
    """
    primals, cotangents = _listed(primals, "vjp"), _listed(cotangents, "vjp")
    with tapes.scope() as tape:
        leaves = [tapes.leaf(tape, x, identity_p) for x in primals]
        outputs = _listed(fun(*map(tapes.alias, leaves)), "vjp")
        _match(cotangents, outputs, "vjp", "cotangents")
        cast = [ops.astype(c, y.dtype) for c, y in zip(cotangents, outputs, strict=True)]
        return outputs, _gradients(tape, outputs, cast, leaves)


def jvp(
    fun: Callable[..., Any], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs of `fun` and the product of its Jacobian with tangents.

    Parameters
    ----------
    fun : callable
        Takes tensors, returns a tensor or a sequence of them.
    primals : sequence of Tensor
        Where to evaluate.
    tangents : sequence of Tensor
        One per primal, of its shape.

    Returns
    -------
    (list of Tensor, list of Tensor)
        Outputs, and one tangent per output.

    Notes
    -----
    The vector-Jacobian product is linear in the cotangent; its own transpose is the Jacobian-vector product. So no op
    needs a forward rule: the tangent is the gradient, with respect to the cotangent, of <vjp(cotangent), tangent>.
    """
    primals, tangents = _listed(primals, "jvp"), _listed(tangents, "jvp")
    _match(tangents, primals, "jvp", "tangents")
    with tapes.scope() as tape:
        leaves = [tapes.leaf(tape, x, identity_p) for x in primals]
        outputs = _listed(fun(*map(tapes.alias, leaves)), "jvp")
        dummies = [tapes.leaf(tape, ops.zeros_like(y), identity_p) for y in outputs]
        found = _backward(outputs, dummies, leaves, release=False)
        pairs = [(g, ops.astype(t, g.dtype)) for g, t in zip(found, tangents, strict=True) if g is not None]
        return outputs, _gradients(tape, [g for g, _ in pairs], [t for _, t in pairs], dummies)


def stop_gradient(a: Tensor, /, *, stream: Any = None) -> Tensor:
    """Return `a` as a constant to every transform.

    Parameters
    ----------
    a : Tensor
    stream : Stream or Device, optional

    Returns
    -------
    Tensor
    """
    return tapes.detach(ops.asarray(a))


# ------------------------------------------------------------------ functions with gradients of their own

def _as_one_node(
    name: str, compute: Callable[[], Any], tensors: Sequence[Tensor], make_vjp: Callable[..., Callable[..., Any]]
) -> Any:
    """Run `compute` unrecorded, and record its outputs as the results of one primitive with inputs `tensors`.

    Parameters
    ----------
    name : str
        Of the primitive.
    compute : callable
        Returns a tree of tensors.
    tensors : sequence of Tensor
    make_vjp : callable
        ``make_vjp(value, rebuild)`` returns ``f(inputs, cotangents, outputs)``, which gives one gradient per input;
        `value` is what `compute` returned, and ``rebuild(tensors)`` gives its structure to other tensors.
    """
    tape = tapes.running_tape()
    assert tape is not None, "outside a transform there is nothing to record"
    with tapes.paused(tape):
        value = compute()
    computed, rebuild = tree.flatten(value)
    outputs = tuple(tapes.detach(y) for y in computed)
    pull_back = make_vjp(value, rebuild)

    def rule(needs: Any, cotangents: Any, outs: Any, *inputs: Tensor) -> tuple[Any, ...]:
        if len(outputs) == 1:
            cotangents, outs = (cotangents,), (outs,)
        gradients = tuple(pull_back(inputs, cotangents, outs))
        if len(gradients) != len(inputs):
            raise InvalidValueError(f"[{name}] the vjp returned {len(gradients)} gradients for {len(inputs)} inputs",
                                    op=name)
        return gradients

    primitive = Primitive(name, "transform", vjp=rule, registered=False)
    tapes.attach_node(primitive, tuple(tensors), outputs, ())
    return rebuild(outputs)


def _recorded(tensors: Sequence[Tensor]) -> bool:
    return any(tapes.is_recorded(x) for x in tensors)


class custom_function:  # noqa: N801 -- MLX's name
    """A function with transforms of its own.

    Use as a decorator, and its :meth:`vjp` to say how it is differentiated::

        @mx.custom_function
        def clipped_exp(x):
            return mx.exp(x)

        @clipped_exp.vjp
        def clipped_exp_vjp(primals, cotangents, outputs):
            return mx.minimum(cotangents * outputs, 1.0)

    Parameters
    ----------
    f : callable
        Takes trees of tensors, returns a tensor or a sequence of them.
    """

    def __init__(self, f: Callable[..., Any]) -> None:
        self._f = f
        self._vjp: Callable[..., Any] | None = None
        self._jvp: Callable[..., Any] | None = None
        self._vmap: Callable[..., Any] | None = None
        wraps(f)(self)

    def vjp(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """Set ``f(primals, cotangents, outputs)``, which returns the gradients of the primals."""
        self._vjp = f
        return f

    def jvp(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """Set ``f(primals, tangents)``, which returns the tangents of the outputs."""
        self._jvp = f
        return f

    def vmap(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """Set ``f(inputs, axes)``, which returns the outputs and their batch axes."""
        self._vmap = f
        return f

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, with its own rules while a transform is running."""
        tensors, rebuild_args = tree.flatten(args)
        rule = self._vjp
        if rule is None or not _recorded(tensors):
            return self._f(*args, **kwargs)

        def make_vjp(value: Any, rebuild: Callable[..., Any]) -> Callable[..., Any]:
            def pull_back(inputs: Any, cotangents: Any, outputs: Any) -> Any:
                primals = rebuild_args(inputs)
                gradients = rule(
                    primals[0] if len(primals) == 1 else primals, rebuild(cotangents), rebuild(outputs)
                )
                return tree.leaves(gradients, [])

            return pull_back

        name = getattr(self._f, "__name__", "custom_function")
        return _as_one_node(name, lambda: self._f(*args, **kwargs), tensors, make_vjp)


def checkpoint(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fun` with its intermediate results computed again for the gradient, instead of kept.

    Parameters
    ----------
    fun : callable
        Takes and returns trees of tensors.

    Returns
    -------
    callable
    """

    @wraps(fun)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        tensors, rebuild_args = tree.flatten((args, kwargs))
        if not _recorded(tensors):
            return fun(*args, **kwargs)

        def pull_back(inputs: Any, cotangents: Any, outputs: Any) -> list[Tensor]:
            with tapes.scope() as tape:
                leaves = [tapes.leaf(tape, x, identity_p) for x in inputs]
                call_args, call_kwargs = rebuild_args([tapes.alias(x) for x in leaves])
                again = tree.flatten(fun(*call_args, **call_kwargs))[0]
                return _gradients(tape, again, cotangents, leaves)

        return _as_one_node("checkpoint", lambda: fun(*args, **kwargs), tensors, lambda value, rebuild: pull_back)

    return checkpointed
