# cython: language_level=3, binding=True, embedsignature=True, boundscheck=False, wraparound=False, cdivision=True
"""The CPU backend: primitives on host storages, executed at once by the kernels of the selected instruction set.

This module holds the backend and the elementwise family; each module in ``mlxr/cpu`` holds another family and adds its
handlers when the registry loads it. Knows storages, layouts and kernels; must not know about ops, the tape or public
functions.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.string cimport memcpy

import os

from mlxr.errors import InvalidValueError, OutOfMemoryError, UnsupportedOpError

from mlxr.backends.base cimport Backend
from mlxr.core.abi cimport GIL_WORK, MAX_NDIM, ArrayRef
from mlxr.core.device cimport Device
from mlxr.core.dtype cimport ITEMSIZES
from mlxr.core.primitive cimport MAX_PRIMITIVES, Primitive
from mlxr.core.storage cimport host_storage
from mlxr.core.tensor cimport Tensor, attach
from mlxr.cpu.kernels cimport elementwise as kernels
from mlxr.cpu.kernels.elementwise cimport ElementwiseTable

from mlxr.cpu import select

# Primitive name -> op code of the elementwise kernels. The names are the primitives', the codes the kernels'.
UNARY_CODES = {
    "abs": kernels.ABS, "negative": kernels.NEGATIVE, "sign": kernels.SIGN, "square": kernels.SQUARE,
    "sqrt": kernels.SQRT, "rsqrt": kernels.RSQRT, "reciprocal": kernels.RECIPROCAL, "exp": kernels.EXP,
    "expm1": kernels.EXPM1, "log": kernels.LOG, "log2": kernels.LOG2, "log10": kernels.LOG10, "log1p": kernels.LOG1P,
    "sin": kernels.SIN, "cos": kernels.COS, "tan": kernels.TAN, "arcsin": kernels.ARCSIN, "arccos": kernels.ARCCOS,
    "arctan": kernels.ARCTAN, "sinh": kernels.SINH, "cosh": kernels.COSH, "tanh": kernels.TANH,
    "arcsinh": kernels.ARCSINH, "arccosh": kernels.ARCCOSH, "arctanh": kernels.ARCTANH, "sigmoid": kernels.SIGMOID,
    "erf": kernels.ERF, "erfinv": kernels.ERFINV, "floor": kernels.FLOOR, "ceil": kernels.CEIL,
    "trunc": kernels.TRUNC, "rint": kernels.ROUND, "bitwise_invert": kernels.BITWISE_INVERT, "real": kernels.REAL,
    "imag": kernels.IMAG, "conjugate": kernels.CONJUGATE, "relu": kernels.RELU, "silu": kernels.SILU,
    "gelu": kernels.GELU, "gelu_tanh": kernels.GELU_TANH, "gelu_sigmoid": kernels.GELU_SIGMOID,
    "softplus": kernels.SOFTPLUS, "logical_not": kernels.LOGICAL_NOT, "isnan": kernels.ISNAN, "isinf": kernels.ISINF,
    "isfinite": kernels.ISFINITE, "isposinf": kernels.ISPOSINF, "isneginf": kernels.ISNEGINF,
}
BINARY_CODES = {
    "add": kernels.ADD, "subtract": kernels.SUBTRACT, "multiply": kernels.MULTIPLY, "divide": kernels.DIVIDE,
    "floor_divide": kernels.FLOOR_DIVIDE, "remainder": kernels.REMAINDER, "power": kernels.POWER,
    "maximum": kernels.MAXIMUM, "minimum": kernels.MINIMUM, "logaddexp": kernels.LOGADDEXP,
    "arctan2": kernels.ARCTAN2, "bitwise_and": kernels.BITWISE_AND, "bitwise_or": kernels.BITWISE_OR,
    "bitwise_xor": kernels.BITWISE_XOR, "left_shift": kernels.LEFT_SHIFT, "right_shift": kernels.RIGHT_SHIFT,
    "equal": kernels.EQUAL, "not_equal": kernels.NOT_EQUAL, "less": kernels.LESS, "less_equal": kernels.LESS_EQUAL,
    "greater": kernels.GREATER, "greater_equal": kernels.GREATER_EQUAL, "logical_and": kernels.LOGICAL_AND,
    "logical_or": kernels.LOGICAL_OR, "logical_xor": kernels.LOGICAL_XOR, "equal_nan": kernels.EQUAL_NAN,
}


cdef void broadcast_ref(Tensor x, const ArrayRef *to, ArrayRef *view, Py_ssize_t *strides) noexcept:
    cdef int axis, source
    view[0] = x.ref
    if x.ref.ndim == to.ndim and x.ref.size == to.size:
        return
    view.ndim = to.ndim
    view.shape = to.shape
    view.strides = strides
    view.size = to.size
    view.contiguous = to.size <= 1
    for axis in range(to.ndim):
        source = axis - to.ndim + x.ref.ndim
        if source < 0 or (x.ref.shape[source] == 1 and to.shape[axis] != 1):
            strides[axis] = 0
        else:
            strides[axis] = x.ref.strides[source]


cdef int check_status(int status, Primitive p, tuple inputs) except -1:
    """Turn the status of an elementwise kernel into a typed error."""
    if status == kernels.OK:
        return 0
    if status == kernels.NO_MEMORY:
        raise OutOfMemoryError(f"[{p.name}] no memory for scratch space", op=p.name)
    dtypes = tuple([x.dtype for x in inputs])
    raise UnsupportedOpError(
        f"[{p.name}] the CPU backend has no kernel for {', '.join([d.name for d in dtypes])}",
        op=p.name, dtypes=dtypes, backend="cpu",
    )


@cython.final
cdef class CpuBackend(Backend):
    """mlxr's own kernels on host memory.

    Parameters
    ----------
    device : Device
    isa : str, optional
        Instruction set of the kernels; the best one that the processor runs and the build has, or what MLXR_ISA says.
    """

    def __init__(self, Device device not None, isa=None):
        cdef int k
        Backend.__init__(self, "cpu", device, True)
        self.isa = select.choose(isa)
        self.threads = select.default_threads()
        for k in range(MAX_PRIMITIVES):
            self.elementwise_code[k] = -1
            self.handlers[k] = NULL
        self.elementwise = <const ElementwiseTable *>self.table("elementwise")

    # ------------------------------------------------------------------ set-up

    cdef const void *table(self, str family) except NULL:
        """Return the kernel table of `family` for the selected instruction set."""
        capsule = select.load(self.isa, family).table
        return PyCapsule_GetPointer(capsule, f"mlxr.cpu.{family}".encode())

    cdef int bind(self, str primitive, Handler handler) except -1:
        """Let `handler` execute the primitive called `primitive`."""
        from mlxr.core.primitive import registry

        self.handlers[(<Primitive>registry[primitive]).index] = handler
        return 0

    def bind_elementwise(self):
        """Look up the op code of every elementwise primitive declared so far."""
        from mlxr.core.primitive import registry

        for codes in (UNARY_CODES, BINARY_CODES):
            for name, code in codes.items():
                if name in registry:
                    self.elementwise_code[(<Primitive>registry[name]).index] = code

    def set_threads(self, int count):
        """Set the most threads that one call may use; return the previous number."""
        if count < 1:
            raise InvalidValueError(f"the number of threads must be at least 1, got {count}", threads=count)
        previous = self.threads
        self.threads = count
        return previous

    def get_threads(self):
        """Return the most threads that one call may use."""
        return self.threads

    # ------------------------------------------------------------------ memory

    cdef int give_storage(self, Tensor out) except -1:
        attach(out, host_storage(out.ref.size * ITEMSIZES[out.ref.dtype]))
        return 0

    def allocate(self, Tensor out not None):
        """Give `out` a storage of its own with undefined content."""
        self.give_storage(out)

    def copy_in(self, source, Tensor out not None):
        """Give `out` a storage that holds the bytes of `source`."""
        cdef const unsigned char[::1] view = memoryview(source).cast("B")
        self.give_storage(out)
        if view.shape[0]:
            memcpy(out.ref.data, &view[0], view.shape[0])

    def copy_out(self, Tensor x not None, destination):
        """Write the elements of `x` in row-major order into `destination`."""
        cdef unsigned char[::1] view = memoryview(destination).cast("B")
        cdef Py_ssize_t strides[MAX_NDIM]
        cdef ArrayRef target = x.ref
        cdef Py_ssize_t step = 1
        cdef int axis
        if not view.shape[0]:
            return
        target.data = <char *>&view[0]
        target.strides = strides
        target.contiguous = True
        for axis in range(x.ref.ndim - 1, -1, -1):
            strides[axis] = step
            step *= x.ref.shape[axis]
        self.copy(&x.ref, &target)

    cdef int copy(self, const ArrayRef *source, const ArrayRef *target) except -1:
        """Cast and copy `source` into the elements of `target`, which has the same shape."""
        cdef int threads = self.threads, status
        if target.size > GIL_WORK:
            with nogil:
                status = self.elementwise.copy(source, target, threads)
        else:
            status = self.elementwise.copy(source, target, 1)
        if status:
            raise OutOfMemoryError("[copy] no memory for scratch space", op="copy")
        return 0

    def write(self, Tensor target not None, Tensor value not None):
        """Store `value`, broadcast to target's shape, in the elements that `target` views."""
        cdef Py_ssize_t strides[MAX_NDIM]
        cdef ArrayRef source
        broadcast_ref(value, &target.ref, &source, strides)
        self.copy(&source, &target.ref)

    # --------------------------------------------------------------- execution

    cdef int unary(self, Primitive p, int compute, Tensor x, Tensor out) except -1:
        cdef int code = self.elementwise_code[p.index], status, threads = self.threads
        cdef kernels.UnaryLoop loop
        if code < 0:
            return self.missing(p, (x,))
        self.give_storage(out)
        if out.ref.size <= GIL_WORK:
            loop = self.elementwise.unary_contig[compute]
            if loop != NULL and x.ref.contiguous and x.ref.dtype == compute:
                status = loop(code, x.ref.data, out.ref.data, out.ref.size)
            else:
                status = self.elementwise.unary(code, compute, &x.ref, &out.ref, 1)
        else:
            with nogil:
                status = self.elementwise.unary(code, compute, &x.ref, &out.ref, threads)
        return check_status(status, p, (x,)) if status else 0

    cdef int binary(self, Primitive p, int compute, Tensor x, Tensor y, Tensor out) except -1:
        cdef int code = self.elementwise_code[p.index], status
        cdef kernels.BinaryLoop loop = self.elementwise.binary_contig[compute]
        if code < 0:
            return self.missing(p, (x, y))
        self.give_storage(out)
        if loop != NULL and x.ref.dtype == compute and y.ref.dtype == compute and x.ref.contiguous \
                and y.ref.contiguous and x.ref.size == out.ref.size and y.ref.size == out.ref.size <= GIL_WORK:
            status = loop(code, x.ref.data, y.ref.data, out.ref.data, out.ref.size)
        else:
            status = self.strided_binary(code, compute, x, y, out)
        return check_status(status, p, (x, y)) if status else 0

    cdef int strided_binary(self, int code, int compute, Tensor x, Tensor y, Tensor out) noexcept:
        cdef Py_ssize_t x_strides[MAX_NDIM]
        cdef Py_ssize_t y_strides[MAX_NDIM]
        cdef ArrayRef a, b
        cdef int status, threads = self.threads
        broadcast_ref(x, &out.ref, &a, x_strides)
        broadcast_ref(y, &out.ref, &b, y_strides)
        if out.ref.size <= GIL_WORK:
            return self.elementwise.binary(code, compute, &a, &b, &out.ref, 1)
        with nogil:
            status = self.elementwise.binary(code, compute, &a, &b, &out.ref, threads)
        return status

    cdef int run(self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
        cdef Handler handler = self.handlers[p.index] if p.index >= 0 else NULL
        if handler == NULL:
            return self.missing(p, inputs)
        return handler(self, p, inputs, outputs, params)

    cdef int missing(self, Primitive p, tuple inputs) except -1:
        """Bind what was declared after the backend was made, or say that the primitive has no kernel."""
        raise UnsupportedOpError(
            f"[{p.name}] the CPU backend has no kernel for this primitive", op=p.name, backend="cpu",
            dtypes=tuple([x.dtype for x in inputs]),
        )

    def execute(self, Primitive primitive not None, tuple inputs, tuple outputs, tuple params):
        """Compute `outputs` from `inputs`; see the base class."""
        if self.elementwise_code[primitive.index] >= 0:
            if len(inputs) == 1:
                self.unary(primitive, params[0], inputs[0], outputs[0])
            else:
                self.binary(primitive, params[0], inputs[0], inputs[1], outputs[0])
        else:
            self.run(primitive, inputs, outputs, params)

    def supports(self, Primitive primitive not None, dtypes):
        """Tell whether `primitive` has a kernel (for elementwise ones: in these operand dtypes)."""
        if primitive.index < 0:
            return False
        if self.elementwise_code[primitive.index] >= 0:
            return primitive.compute[dtypes[0].code][dtypes[len(dtypes) - 1].code] >= 0
        return self.handlers[primitive.index] != NULL

    def info(self):
        """Return facts for ``python -m mlxr info``."""
        return {
            "instruction set": self.isa,
            "instruction sets built": ", ".join(select.built()),
            "threads": str(self.threads),
        }


cdef int _copy(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """copy, contiguous and astype: the elements of the input in row-major order, as the output's dtype."""
    cdef Tensor x = <Tensor>inputs[0], out = <Tensor>outputs[0]
    self.give_storage(out)
    return self.copy(&x.ref, &out.ref)


cdef int _fill(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """full: every element is the 0-dimensional input."""
    cdef Tensor value = <Tensor>inputs[0], out = <Tensor>outputs[0]
    cdef int threads = self.threads
    self.give_storage(out)
    with nogil:
        self.elementwise.fill(&out.ref, value.ref.data, threads)
    return 0


cdef int _arange(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """arange: params (start, step), ints for integer outputs."""
    cdef Tensor out = <Tensor>outputs[0]
    self.give_storage(out)
    if isinstance(params[0], int) and isinstance(params[1], int):
        self.elementwise.arange_int(&out.ref, params[0], params[1])
    else:
        self.elementwise.arange(&out.ref, params[0], params[1])
    return 0


cdef int _select(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """select: x where the condition holds, y elsewhere."""
    cdef Tensor out = <Tensor>outputs[0]
    cdef Py_ssize_t strides[3][MAX_NDIM]
    cdef ArrayRef views[3]
    cdef int threads = self.threads, status, k
    for k in range(3):
        broadcast_ref(<Tensor>inputs[k], &out.ref, &views[k], strides[k])
    self.give_storage(out)
    if out.ref.size <= GIL_WORK:
        status = self.elementwise.select(&views[0], &views[1], &views[2], &out.ref, 1)
    else:
        with nogil:
            status = self.elementwise.select(&views[0], &views[1], &views[2], &out.ref, threads)
    return check_status(status, p, inputs) if status else 0


cdef int _slice_update(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """slice_update: x with the elements of a slice replaced; params (starts, shape, steps)."""
    cdef Tensor x = <Tensor>inputs[0], update = <Tensor>inputs[1], out = <Tensor>outputs[0]
    cdef Py_ssize_t strides[MAX_NDIM]
    cdef Py_ssize_t view_shape[MAX_NDIM]
    cdef Py_ssize_t view_strides[MAX_NDIM]
    cdef ArrayRef view, source
    cdef Py_ssize_t offset = 0
    cdef int axis
    self.give_storage(out)
    self.copy(&x.ref, &out.ref)
    starts, shape, steps = params
    view = out.ref
    view.shape = view_shape
    view.strides = view_strides
    view.contiguous = False
    view.size = 1
    for axis in range(out.ref.ndim):
        view_shape[axis] = shape[axis]
        view_strides[axis] = out.ref.strides[axis] * <Py_ssize_t>steps[axis]
        offset += <Py_ssize_t>starts[axis] * out.ref.strides[axis]
        view.size *= view_shape[axis]
    if view.size == 0:
        return 0
    view.data = out.ref.data + offset * ITEMSIZES[out.ref.dtype]
    broadcast_ref(update, &view, &source, strides)
    return self.copy(&source, &view)


def make(Device device not None):
    """Return the CPU backend with the handlers of every family (called by the registry, once)."""
    cdef CpuBackend backend = CpuBackend(device)
    backend.bind_elementwise()
    backend.bind("copy", _copy)
    backend.bind("astype", _copy)
    backend.bind("full", _fill)
    backend.bind("arange", _arange)
    backend.bind("select", _select)
    backend.bind("slice_update", _slice_update)
    for module in select.families():
        module.register(backend)
    os.register_at_fork(after_in_child=lambda: backend.set_threads(1))
    return backend
