# cython: language_level=3, binding=True, embedsignature=True
"""Primitive: one word of the small vocabulary that backends execute and the tape records.

A primitive is a name, a family, the rule that gives shape and dtype of its results, and the rules of the transforms.
It is declared next to its op in ``mlxr.ops`` and knows no backend. Must not know about tensors or kernels.
"""
from mlxr.core.dtype cimport Dtype

from mlxr.core.dtype import ALL_DTYPES

FAMILIES = (
    "elementwise", "reduce", "scan", "sort", "matmul", "indexing", "layout", "convolution", "random", "fused", "host",
    "transform",
)

# name -> Primitive, in order of declaration.
registry = {}


cdef class Primitive:
    """One operation as backends see it.

    Parameters
    ----------
    name : str
        Unique among registered primitives.
    family : str
        One of ``FAMILIES``.
    infer : callable, optional
        ``infer(inputs, params)`` returns ``(shape, dtype)``, or a tuple of such pairs for several results, and raises
        a typed error for inputs that do not fit. Elementwise primitives have none: their rule is broadcasting.
    vjp : callable, optional
        ``vjp(needs, cotangent, output, *inputs, *params)`` returns the gradients of the inputs (one tensor, or a tuple
        with None where ``needs`` is False), written in terms of ops. For several results `cotangent` and `output` are
        tuples.
    jvp : callable, optional
        ``jvp(tangents, output, *inputs, *params)``. Where absent, it is derived from `vjp`.
    vmap : callable, optional
        Batching rule.
    registered : bool
        False for primitives made at run time, such as custom functions.
    """

    def __init__(
        self, str name, str family, infer=None, vjp=None, *, jvp=None, vmap=None, bint linear=False, registered=True
    ):
        if family not in FAMILIES:
            raise ValueError(f"unknown family {family!r}")
        self.name = name
        self.family = family
        self.infer = infer
        self.vjp = vjp
        self.jvp = jvp
        self.vmap = vmap
        self.linear = linear
        self.registered = registered
        if registered:
            if name in registry:
                raise ValueError(f"primitive {name!r} is declared twice")
            if len(registry) >= MAX_PRIMITIVES:
                raise ValueError("too many primitives: raise MAX_PRIMITIVES")
            self.index = len(registry)
            registry[name] = self
        else:
            self.index = -1

    def set_dtype_rule(self, compute, result, refusal=None):
        """Fill the dtype tables of an elementwise primitive.

        Parameters
        ----------
        compute : callable
            ``compute(a, b)`` (unary: ``compute(a)``) returns the dtype of the lanes, or None where refused.
        result : callable
            ``result(lane)`` returns the dtype of the result.
        refusal : str, optional
            What to say about refused dtypes.
        """
        cdef Dtype a, b, lane, out
        self.refusal = refusal
        for a in ALL_DTYPES:
            out = result(a)
            self.result[a.code] = <signed char>out.code
            for b in ALL_DTYPES:
                lane = compute(a, b)
                self.compute[a.code][b.code] = -1 if lane is None else <signed char>lane.code

    def __repr__(self):
        return f"<primitive {self.name}>"

    def __reduce__(self):
        return _find, (self.name,)


def _find(name):
    """Return the registered primitive called `name` (what unpickling calls)."""
    return registry[name]
