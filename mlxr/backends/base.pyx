# cython: language_level=3, binding=True, embedsignature=True
"""The contract of a backend: the narrow waist between dispatch and kernels.

Dispatch has checked devices and inferred shapes and dtypes before a backend is asked. It hands over tensors as views
(storage, layout, dtype); a backend reads those and nothing else of a tensor. Results arrive as tensors with a row-major
layout and no storage: the backend gives each one its storage. A backend that lacks a primitive raises
UnsupportedOpError; it never falls back in silence. Must not know about ops, transforms or the tape.
"""
from mlxr.errors import UnsupportedOpError

from mlxr.core.device cimport Device
from mlxr.core.primitive cimport Primitive
from mlxr.core.tensor cimport Tensor


cdef class Backend:
    """Base class of all backends.

    A backend in Python overrides the methods below. A backend in Cython may also override the C methods ``unary``,
    ``binary`` and ``run``, which dispatch calls and which lead to :meth:`execute` by default.

    Parameters
    ----------
    name : str
        What ``python -m mlxr info`` calls it.
    device : Device
        The one device it serves.

    Attributes
    ----------
    host : bool
        Whether its storages are host memory.
    """

    def __init__(self, str name, Device device not None, bint host=False):
        self.name = name
        self.device = device
        self.host = host

    cdef int unary(self, Primitive p, int compute, Tensor x, Tensor out) except -1:
        self.execute(p, (x,), (out,), (compute,))
        return 0

    cdef int binary(self, Primitive p, int compute, Tensor x, Tensor y, Tensor out) except -1:
        self.execute(p, (x, y), (out,), (compute,))
        return 0

    cdef int run(self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
        self.execute(p, inputs, outputs, params)
        return 0

    def allocate(self, Tensor out not None):
        """Give `out` a storage of its own with undefined content."""
        raise UnsupportedOpError(f"backend {self.name} cannot allocate", op="allocate", backend=self.name)

    def copy_in(self, source, Tensor out not None):
        """Give `out` a storage that holds the bytes of `source`, a C-contiguous buffer of out's dtype and shape."""
        raise UnsupportedOpError(f"backend {self.name} cannot copy in", op="copy_in", backend=self.name)

    def copy_out(self, Tensor x not None, destination):
        """Write the elements of `x` in row-major order into the writable buffer `destination`."""
        raise UnsupportedOpError(f"backend {self.name} cannot copy out", op="copy_out", backend=self.name)

    def share(self, Tensor x not None, Tensor out not None):
        """Give `out` (same layout as `x`, which lives on a host backend) x's memory; False where that is impossible."""
        return False

    def lend(self, Tensor x not None, Tensor out not None):
        """Give `out`, which lives on a host backend, the memory of `x`; False where the host cannot see that memory."""
        return False

    def execute(self, Primitive primitive not None, tuple inputs, tuple outputs, tuple params):
        """Compute `outputs` from `inputs`, giving every output its storage.

        Parameters
        ----------
        primitive : Primitive
        inputs : tuple of Tensor
            On this backend's device, any strides.
        outputs : tuple of Tensor
            Shape and dtype set, row-major, without storage.
        params : tuple
            The primitive's own parameters, as its declaration lists them. Elementwise primitives have one: the code
            of the dtype to compute in.

        Raises
        ------
        UnsupportedOpError
            If the backend lacks the primitive for these dtypes.
        """
        raise UnsupportedOpError(
            f"backend {self.name} has no {primitive.name}", op=primitive.name, backend=self.name,
            dtypes=tuple([x.dtype for x in inputs]),
        )

    def write(self, Tensor target not None, Tensor value not None):
        """Store `value` (broadcast to target's shape already) in the elements that `target` views, in place.

        Dispatch has made sure that nobody else sees the storage.
        """
        raise UnsupportedOpError(f"backend {self.name} cannot write in place", op="write", backend=self.name)

    def start(self, Tensor x not None):
        """Begin to compute `x` if that has only been asked for, and return without waiting."""

    def wait(self, Tensor x not None):
        """Return when the elements of `x` are computed (at once on an eager backend)."""

    def synchronize(self):
        """Return when all work given to this backend is done."""

    def supports(self, Primitive primitive not None, dtypes):
        """Tell whether `primitive` exists for these operand dtypes."""
        return False

    def info(self):
        """Return facts about the backend for ``python -m mlxr info``, as a dict of strings."""
        return {}
