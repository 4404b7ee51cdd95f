# cython: language_level=3, binding=True, embedsignature=True
"""The tape: what reverse-mode differentiation needs to know of a computation.

A transform opens a tape and marks its arguments as leaves. An op with a marked input adds a node that names the
primitive, its inputs, outputs and parameters. Outside transforms no tensor is marked and nothing is recorded. Nodes are
numbered in the order of execution, which is a topological order, so the reverse traversal is a walk down the numbers.

Nested transforms share the outermost transform's tape; gradients of gradients work because gradients are computed by
ops that are recorded like any other while an outer transform is running.

Must not know about ops, backends or kernels.
"""
cimport cython

import threading

from mlxr.core.primitive cimport Primitive
from mlxr.core.tensor cimport Tensor, aliases, new_alias

# The running tape of each thread: a dynamic scope, like the device scope (docs/decisions/0003).
_running = threading.local()

cdef Py_ssize_t _next_order = 0


@cython.final
cdef class Node:
    """One executed primitive on a tape, or a leaf (``primitive is None``)."""

    def __repr__(self):
        return f"<node {self.order}: {self.primitive.name if self.primitive is not None else 'leaf'}>"

    def clear(self):
        """Forget inputs and outputs, so that their memory can be reused."""
        self.inputs = ()
        self.outputs = ()
        self.params = ()


cdef class Tape:
    """The record of one outermost transform; use :func:`scope`.

    Attributes
    ----------
    recording : bool
        Whether ops add nodes. Off while the outermost gradient is computed, and for good when the scope has ended, so
        tensors that leak out of a transform are constants afterwards.
    depth : int
        How many nested transforms are running.
    """

    def __init__(self):
        self.nodes = []
        self.recording = True
        self.depth = 0

    def close(self):
        """End the tape: stop recording and break the reference cycles between nodes and tensors."""
        cdef Node node
        self.recording = False
        for node in self.nodes:
            node.clear()
        self.nodes.clear()


class scope:
    """Context of a running transform.

    Joins the tape that an outer transform has opened, so that what happens inside is part of its record; where there is
    none, or it is paused, opens a tape of its own.
    """

    __slots__ = ("outer", "tape")

    def __enter__(self):
        self.outer = running_tape()
        if self.outer is None or not self.outer.recording:
            _running.tape = Tape()
        self.tape = _running.tape
        self.tape.depth += 1
        return self.tape

    def __exit__(self, *exc):
        self.tape.depth -= 1
        if self.tape.depth == 0:
            self.tape.close()
        _running.tape = self.outer
        return False


class paused:
    """Context in which `tape` records nothing."""

    __slots__ = ("tape", "was")

    def __init__(self, tape):
        self.tape = tape

    def __enter__(self):
        self.was = self.tape.recording
        self.tape.recording = False

    def __exit__(self, *exc):
        self.tape.recording = self.was
        return False


def running_tape():
    """Return the tape of the transform that this thread is in, or None."""
    return getattr(_running, "tape", None)


cdef Node _new_node(Tape tape, Primitive p, tuple inputs, tuple outputs, tuple params):
    global _next_order
    cdef Node node = Node.__new__(Node)
    cdef Tensor x
    cdef int k = 0
    _next_order += 1
    node.order = _next_order
    node.tape = tape
    node.primitive = p
    node.params = params
    for x in outputs:
        x.node = node
        x.output_index = k
        k += 1
    # The node keeps aliases: a tensor object may become another value (x += y), and the alias' reference to the storage
    # makes a later write in place copy first.
    node.inputs = aliases(inputs)
    node.outputs = aliases(outputs)
    tape.nodes.append(node)
    return node


cdef bint is_traced(Tensor x):
    """Whether a running transform records what happens to `x`. Drops the marks of tapes that have ended."""
    if x.node is None:
        return False
    if (<Node>x.node).tape.recording:
        return True
    if (<Node>x.node).tape.depth == 0:
        x.node = None
    return False


cdef int record(Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """Add a node if one of `inputs` is traced."""
    cdef Tensor x
    for x in inputs:
        if is_traced(x):
            _new_node((<Node>x.node).tape, p, inputs, outputs, params)
            return 0
    return 0


def alias(Tensor x not None):
    """Return another tensor object for the value and mark of `x`: what is done to it in place leaves `x` alone."""
    return new_alias(x)


def detach(Tensor x not None):
    """Return the same value without a mark: a constant to every transform."""
    cdef Tensor alias = new_alias(x)
    alias.node = None
    return alias


def useful_nodes(outputs, set wanted not None):
    """Return the nodes on the ways from `wanted` leaves to `outputs`, latest first."""
    cdef Py_ssize_t oldest = min([(<Node>leaf).order for leaf in wanted], default=0)
    cdef set seen = set(), useful = set()
    cdef list stack = [(<Tensor>x).node for x in outputs], found = []
    cdef Node node
    cdef Tensor x
    while stack:
        node = stack.pop()
        if node is None or node.order < oldest or node in seen:
            continue
        seen.add(node)
        found.append(node)
        if node not in wanted:
            for x in node.inputs:
                stack.append(x.node)
    found.sort(key=_order)
    for node in found:
        if node in wanted:
            useful.add(node)
            continue
        for x in node.inputs:
            if x.node in useful:
                useful.add(node)
                break
    return [node for node in reversed(found) if node in useful]


def _order(Node node not None):
    """Return the number of `node`: the key that sorts nodes."""
    return node.order


def attach_node(Primitive p not None, tuple inputs, tuple outputs, tuple params):
    """Record `outputs` as the results of `p`; for primitives whose forward pass is Python code."""
    record(p, inputs, outputs, params)


def leaf(Tape tape not None, Tensor x not None, Primitive identity):
    """Return an alias of `x` marked as a leaf of `tape`.

    If an outer transform traces `x`, the leaf is recorded as ``identity(x)``, so that the outer gradient passes it.
    """
    cdef Tensor view = detach(x)
    if is_traced(x):
        _new_node(tape, identity, (x,), (view,), ())
    else:
        _new_node(tape, None, (), (view,), ())
    return view


def node_of(Tensor x not None):
    """Return the node that made `x`, or None for a constant."""
    return x.node


def is_recorded(Tensor x not None):
    """Tell whether a running transform records what happens to `x`."""
    return is_traced(x)


def position_of(Tensor x not None):
    """Return which output of its node `x` is."""
    return x.output_index
