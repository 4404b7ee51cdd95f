# cython: language_level=3, binding=True, embedsignature=True
"""Upstream MLX as a backend: primitives become operations of upstream, through the shim.

Nothing runs when it is called. Most primitives are first recorded here, in plain C arrays, as steps of a program; the
shim builds a whole program in one call when a value is needed, or an operation comes that cannot be part of one. So a
chain of operations costs less than calls of upstream's own Python would. What upstream then builds is lazy too, until a
tensor is waited for.

A storage holds a :class:`Value`: elements in row-major order, on upstream's side. Views are windows on it. Values are
never changed. Knows storages, layouts and the shim's binding; must not know about ops, the tape or public functions.
"""
cimport cython
from cpython.list cimport PyList_GET_ITEM
from cpython.long cimport PyLong_AsSsize_t
from cpython.pythread cimport (
    NOWAIT_LOCK, WAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock,
    PyThread_get_thread_ident, PyThread_release_lock, PyThread_type_lock
)
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, malloc, realloc

import ctypes
import math

import numpy as np

from mlxr.errors import FactorizationError, OutOfMemoryError, UnsupportedOpError
from mlxr.shim import Array, abi, load
from mlxr.shim.errors import UpstreamError, error_for

from mlxr.backends.base cimport Backend
from mlxr.core.device cimport Device
from mlxr.core.dtype cimport ITEMSIZES
from mlxr.core.primitive cimport MAX_PRIMITIVES, Primitive
from mlxr.core.storage cimport foreign_storage
from mlxr.core.tensor cimport Tensor, attach, finish_view, shape_tuple, strides_tuple

from mlxr.core.dtype import ALL_DTYPES
from mlxr.core.primitive import registry

# Primitive name -> operation of the shim, where the two agree.
UNARY = {name: getattr(abi, name.upper()) for name in (
    "abs negative sign square sqrt rsqrt reciprocal exp expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan "
    "sinh cosh tanh arcsinh arccosh arctanh sigmoid erf erfinv floor ceil trunc bitwise_invert real imag conjugate "
    "logical_not isnan isinf isfinite isposinf isneginf"
).split()} | {"rint": abi.ROUND}
BINARY = {name: getattr(abi, name.upper()) for name in (
    "add subtract multiply divide floor_divide remainder power maximum minimum logaddexp arctan2 bitwise_and "
    "bitwise_or bitwise_xor left_shift right_shift equal not_equal less less_equal greater greater_equal logical_and "
    "logical_or logical_xor"
).split()}
REDUCE = {name: getattr(abi, name.upper()) for name in (
    "sum prod max min all any mean logsumexp var argmax argmin"
).split()}
SCAN = {name: getattr(abi, name.upper()) for name in "cumsum cumprod cummax cummin logcumsumexp".split()}
LINALG = "svd qr inv cholesky eig eigvals eigh eigvalsh lu_factor".split()
UPDATES = {
    "assign": abi.UPDATE_SET, "add": abi.UPDATE_ADD, "prod": abi.UPDATE_PROD, "max": abi.UPDATE_MAX,
    "min": abi.UPDATE_MIN,
}

# What is recorded before it is handed over without being asked for: bounds the memory of what nobody ever reads.
cdef enum:
    STEP_LIMIT = 1024
    CONSTANT_LIMIT = 256    # scalars that are kept, for programs that never stop making new ones


# mlxr_instr and mlxr_program of the shim's header; test_upstream.py compares the sizes with the binding's.
cdef struct Step:
    unsigned int size
    int32_t op
    int32_t operands[4]
    int32_t ints
    int32_t nints
    int32_t floats
    int32_t nfloats


cdef struct Program:
    unsigned int size
    int32_t ninputs
    int32_t ninstrs
    int32_t nresults
    int32_t nints
    int32_t nfloats
    const Step *instrs
    const int32_t *results
    const int64_t *ints
    const double *floats


# mlxr_run(), called without ctypes: a program that waits for a result must not hold the GIL.
ctypedef int32_t (*Run)(const Program *, const uint64_t *, int32_t, uint64_t *) noexcept nogil

SIZES = sizeof(Step), sizeof(Program)


@cython.final
cdef class Value:
    """Row-major elements on upstream's side: an array of the shim, or a step of the program being recorded."""

    cdef object array       # mlxr.shim.Array; None while it is only recorded
    cdef object error       # why it could not be built
    cdef readonly tuple shape
    cdef readonly int dtype
    cdef int32_t number     # operand code in the program of `epoch`: >= 0 a step, <= -2 an input
    cdef int64_t epoch


cdef Value value_of(object array, tuple shape, int dtype):
    cdef Value value = Value.__new__(Value)
    value.array = array
    value.shape = shape
    value.dtype = dtype
    value.epoch = -1
    return value


cdef bint has_shape(Tensor x, tuple shape) except -1:
    """Tell whether a tensor's extents are `shape`."""
    cdef int axis
    if x.ref.ndim != len(shape):
        return False
    for axis in range(x.ref.ndim):
        if x.ref.shape[axis] != PyLong_AsSsize_t(<object>PyTuple_GET_ITEM(shape, axis)):
            return False
    return True


cdef tuple shape_like(Tensor x, Value value):
    """Return a tensor's shape; the tuple of `value` if it is the same, which is cheaper than a new one."""
    return value.shape if has_shape(x, value.shape) else shape_tuple(x)


cdef bint is_whole(Tensor x, Value base) except -1:
    """Tell whether a tensor is its storage's value itself, and no window on it."""
    return x.offset == 0 and x.ref.contiguous and base.dtype == x.ref.dtype and has_shape(x, base.shape)


@cython.final
cdef class Lock:
    """A lock that its holder may take again. `threading.RLock` took a third of the time of recording an operation."""

    cdef PyThread_type_lock lock
    cdef unsigned long holder   # the thread's identity, while depth is not 0
    cdef int depth

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise OutOfMemoryError("no memory for a lock")

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef void take(self) noexcept:
        cdef unsigned long me = PyThread_get_thread_ident()
        # Only this thread can have made itself the holder, so what others write meanwhile makes no difference.
        if self.depth == 0 or self.holder != me:
            if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
                with nogil:
                    PyThread_acquire_lock(self.lock, WAIT_LOCK)
            self.holder = me
        self.depth += 1

    cdef void let_go(self) noexcept:
        self.depth -= 1
        if self.depth == 0:
            PyThread_release_lock(self.lock)

    def __enter__(self):
        self.take()

    def __exit__(self, *failure):
        self.let_go()


cdef class Recorder:
    """The program being recorded on one stream."""

    cdef object lib
    cdef int stream
    cdef int64_t epoch
    cdef list values            # one for each step
    cdef list inputs            # arrays
    cdef Step *steps
    cdef Py_ssize_t step_room
    cdef int64_t *ints
    cdef Py_ssize_t nints, int_room
    cdef double *floats
    cdef Py_ssize_t nfloats, float_room
    cdef Run call
    cdef Lock lock

    def __cinit__(self):
        self.steps = NULL
        self.ints = NULL
        self.floats = NULL

    def __init__(self, lib, int stream):
        self.lib = lib
        self.call = <Run><size_t>ctypes.cast(lib.functions.mlxr_run, ctypes.c_void_p).value
        self.stream = stream
        self.lock = Lock()
        self.values = []
        self.inputs = []

    def __dealloc__(self):
        free(self.steps)
        free(self.ints)
        free(self.floats)

    cdef int32_t operand(self, Value value) except? -1:
        """Return the code under which `value` is an operand of the next step."""
        if value is None:
            return -1
        if value.error is not None:
            raise value.error
        if value.epoch != self.epoch:
            self.inputs.append(value.array)
            value.number = -1 - <int32_t>len(self.inputs)
            value.epoch = self.epoch
        return value.number

    cdef Step *begin(self, int op) except NULL:
        """Return the next step, without operands and parameters yet. It is part of the program after :meth:`end`."""
        cdef Py_ssize_t n = len(self.values)
        cdef Step *step
        if n >= STEP_LIMIT:
            self.flush()
            n = 0
        if n >= self.step_room:
            self.steps = <Step *>_grown(self.steps, &self.step_room, n + 1, sizeof(Step))
        step = &self.steps[n]
        step.size = sizeof(Step)
        step.op = op
        step.operands[:] = [-1, -1, -1, -1]
        step.ints, step.nints = <int32_t>self.nints, 0
        step.floats, step.nfloats = <int32_t>self.nfloats, 0
        return step

    cdef Value end(self, tuple shape, int dtype):
        """Make the step that was begun part of the program; returns its result."""
        cdef Value value = value_of(None, shape, dtype)
        value.number = <int32_t>len(self.values)
        value.epoch = self.epoch
        self.values.append(value)
        return value

    cdef Value apply(self, int op, Value x, Value y, tuple shape, int dtype):
        """Append a step without parameters, of one operand, or of two."""
        cdef Step *step = self.begin(op)
        step.operands[0] = self.operand(x)
        step.operands[1] = self.operand(y)
        return self.end(shape, dtype)

    cdef Value record(self, int op, tuple operands, tuple shape, int dtype, tuple ints=(), tuple floats=()):
        """Append any step; `shape` and `dtype` are those of its result."""
        cdef Py_ssize_t k
        cdef Step *step = self.begin(op)
        for k in range(len(operands)):
            step.operands[k] = self.operand(<Value>operands[k])
        if self.nints + len(ints) > self.int_room:
            self.ints = <int64_t *>_grown(self.ints, &self.int_room, self.nints + len(ints), sizeof(int64_t))
        if self.nfloats + len(floats) > self.float_room:
            self.floats = <double *>_grown(self.floats, &self.float_room, self.nfloats + len(floats), sizeof(double))
        for k in range(len(ints)):
            self.ints[self.nints + k] = ints[k]
        for k in range(len(floats)):
            self.floats[self.nfloats + k] = floats[k]
        step.nints = <int32_t>len(ints)
        step.nfloats = <int32_t>len(floats)
        self.nints += len(ints)
        self.nfloats += len(floats)
        return self.end(shape, dtype)

    cdef object array(self, Value value):
        """Return the array of the shim behind `value`, building what was recorded if need be."""
        with self.lock:
            if value.array is None and value.error is None:
                self.flush()
        if value.error is not None:
            raise value.error
        return value.array

    cdef list flush(self):
        """Build what was recorded. Returns the values that somebody still holds."""
        cdef list values = self.values, inputs = self.inputs, alive = []
        cdef int32_t ninputs = <int32_t>len(inputs)
        cdef int32_t *operand
        cdef Py_ssize_t i, k
        self.values = []
        self.inputs = []
        self.epoch += 1
        for i in range(len(values)):
            # The list holds one reference; what has no other is a temporary of the program.
            if PyList_GET_ITEM(values, i).ob_refcnt > 1:
                alive.append(<object>PyList_GET_ITEM(values, i))
            for k in range(4):
                operand = &self.steps[i].operands[k]
                if operand[0] >= 0:
                    operand[0] += ninputs
                elif operand[0] <= -2:
                    operand[0] = -2 - operand[0]
        if values:
            self.build(values, inputs, alive)
        self.nints = 0
        self.nfloats = 0
        return alive

    cdef int build(self, list values, list inputs, list alive) except -1:
        """Give arrays, or errors, to the values that are alive."""
        cdef Py_ssize_t n = len(values), i, k
        cdef Value value
        cdef list arrays = self.run(0, n, inputs, [len(inputs) + value.number for value in alive])
        if arrays is not None:
            for value, array in zip(alive, arrays):
                value.array = array
            return 0
        # Some step is wrong. One by one: it fails, and what depends on it, and nothing else.
        built = list(inputs)
        failures = {}
        for i in range(n):
            error = None
            for k in range(4):
                if self.steps[i].operands[k] in failures:
                    error = failures[self.steps[i].operands[k]]
            if error is None:
                arrays = self.run(i, 1, [a if a is not None else built[0] for a in built], [len(built)])
                if arrays is None:
                    f = self.lib.functions
                    error = error_for(f.mlxr_last_error_code(), f.mlxr_last_error().decode(errors="replace"))
            value = values[i]
            if error is None:
                built.append(arrays[0])
                value.array = arrays[0]
            else:
                failures[len(built)] = error
                built.append(None)
                value.error = error
        return 0

    cdef list run(self, Py_ssize_t first, Py_ssize_t count, list inputs, list numbers):
        """Run steps as a program; returns the arrays, or None where the shim refuses."""
        cdef Py_ssize_t ninputs = len(inputs), nresults = len(numbers), i
        cdef uint64_t *handles = <uint64_t *>malloc(8 * ninputs + 12 * nresults + 1)
        cdef uint64_t *out = handles + ninputs
        cdef int32_t *results = <int32_t *>(out + nresults)
        cdef int32_t status
        cdef Program program
        if handles == NULL:
            raise OutOfMemoryError(f"no memory for the operands of {count} steps")
        try:
            for i in range(ninputs):
                handles[i] = inputs[i].value
            for i in range(nresults):
                results[i] = numbers[i]
            program.size = sizeof(Program)
            program.ninputs = <int32_t>ninputs
            program.ninstrs = <int32_t>count
            program.nresults = <int32_t>nresults
            program.nints = <int32_t>self.nints
            program.nfloats = <int32_t>self.nfloats
            program.instrs = &self.steps[first]
            program.results = results
            program.ints = self.ints
            program.floats = self.floats
            with nogil:
                status = self.call(&program, handles, self.stream, out)
            return None if status else [Array(out[i]) for i in range(nresults)]
        finally:
            free(handles)


cdef void *_grown(void *block, Py_ssize_t *room, Py_ssize_t need, size_t size) except NULL:
    cdef Py_ssize_t wanted = max(2 * room[0], need, 64)
    cdef void *grown = realloc(block, wanted * size)
    if grown == NULL:
        raise OutOfMemoryError(f"no memory for a program of {wanted} steps", nbytes=wanted * size)
    room[0] = wanted
    return grown


cdef class UpstreamBackend(Backend):
    """Upstream MLX on one of its devices.

    Parameters
    ----------
    device : Device
    """

    cdef readonly object lib
    cdef readonly int stream
    cdef Recorder recorder
    cdef dict constants
    cdef int32_t codes[MAX_PRIMITIVES]      # the shim's operation for each elementwise primitive, or -1

    def __init__(self, Device device not None):
        cdef int index
        Backend.__init__(self, device.name, device, False)
        self.lib = load()
        kind = abi.GPU if device.name == "mlx:gpu" else abi.CPU
        self.stream = self.lib.stream(kind, device.index)
        self.recorder = Recorder(self.lib, self.stream)
        self.constants = {}
        for index in range(MAX_PRIMITIVES):
            self.codes[index] = -1
        for name, op in (UNARY | BINARY).items():
            self.codes[(<Primitive>registry[name]).index] = op

    # ------------------------------------------------------------------ values and storages

    cdef int give(self, Tensor out, Value value) except -1:
        """Put a tensor fresh from dispatch on a value."""
        attach(out, foreign_storage(NULL, out.ref.size * ITEMSIZES[out.ref.dtype], value, False))
        return 0

    cdef Value view(self, Tensor x):
        """Return the value of a tensor: its storage's, or a window on that."""
        cdef Value base = <Value?>x.storage.owner
        cdef int itemsize = ITEMSIZES[x.ref.dtype]
        cdef int64_t count
        if is_whole(x, base):
            return base
        shape = shape_tuple(x)
        if base.dtype != x.ref.dtype:
            count = math.prod(base.shape) * ALL_DTYPES[base.dtype].itemsize // itemsize
            flat = self.recorder.record(abi.RESHAPE, (base,), (math.prod(base.shape),), base.dtype, (-1,)) \
                if base.shape else base
            flat = flat if base.shape else self.recorder.record(abi.RESHAPE, (base,), (1,), base.dtype, (1,))
            base = self.recorder.record(abi.VIEW, (flat,), (count,), x.ref.dtype, (x.ref.dtype,))
        if x.ref.size == 0 or (x.ref.contiguous and x.offset == 0 and x.ref.size == math.prod(base.shape)):
            if x.ref.size == 0 and math.prod(base.shape) != 0:
                zeros = self.constant(0, x.ref.dtype)
                return self.recorder.record(abi.BROADCAST_TO, (zeros,), shape, x.ref.dtype, shape)
            return self.recorder.record(abi.RESHAPE, (base,), shape, x.ref.dtype, shape)
        return self.recorder.record(
            abi.AS_STRIDED, (base,), shape, x.ref.dtype, (*shape, *strides_tuple(x), x.offset // itemsize)
        )

    cdef Value constant(self, object number, int dtype):
        """Return a scalar; kept, because few are ever needed."""
        cdef Value value = self.constants.get((number, dtype))
        if value is None:
            kind = np.float32 if dtype == abi.BFLOAT16 else np.dtype(ALL_DTYPES[dtype].name)
            array = self.lib.from_numpy(np.array(number, kind), copy=True)
            if dtype == abi.BFLOAT16:
                array = self.lib.cast(abi.ASTYPE, array, dtype, stream=self.stream)
                self.lib.eval(array)  # what is kept must not be in flight when something else fails
            value = value_of(array, (), dtype)
            if len(self.constants) >= CONSTANT_LIMIT:
                self.constants.clear()
            self.constants[number, dtype] = value
        return value

    cdef object array(self, Tensor x):
        """Return the array of the shim that has a tensor's elements."""
        with self.recorder.lock:
            value = self.view(x)
        return self.recorder.array(value)

    def handle(self, Tensor x not None):
        """Return the array of upstream behind `x`, for the tests."""
        return self.array(x)

    # ------------------------------------------------------------------ memory

    def allocate(self, Tensor out not None):
        """Give `out` zeros: upstream has no elements without a value."""
        with self.recorder.lock:
            zero = self.constant(0, out.ref.dtype)
            shape = shape_tuple(out)
            self.give(out, self.recorder.record(abi.BROADCAST_TO, (zero,), shape, out.ref.dtype, shape))

    def copy_in(self, source, Tensor out not None):
        """Give `out` an array with a copy of the bytes of `source`."""
        cdef const unsigned char[::1] data = memoryview(source).cast("B")
        address = <size_t>&data[0] if data.shape[0] else 0
        array = self.lib.copy(address, shape_tuple(out), out.ref.dtype)
        self.give(out, value_of(array, shape_tuple(out), out.ref.dtype))

    def share(self, Tensor x not None, Tensor out not None):
        """Give `out` the memory of `x`, which lives on the host; False where upstream cannot use it."""
        if x.ref.data == NULL or not self.lib.capability(abi.CAP_SHARE_HOST):
            return False
        try:
            array = self.lib.share(
                x.storage, <size_t>x.ref.data, shape_tuple(x), strides_tuple(x), x.ref.dtype
            )
        except UnsupportedOpError:
            return False
        # From now on x's memory is copied before it is written, and `x` keeps its storage for others.
        x.storage.readonly = True
        self.give(out, value_of(array, shape_tuple(x), x.ref.dtype))
        return True

    def lend(self, Tensor x not None, Tensor out not None):
        """Give `out`, on a host backend, the memory of `x`; False where the host cannot see it."""
        if not x.ref.size or not self.lib.capability(abi.CAP_SHARE_HOST):
            return False
        array = self.array(x)
        self.lib.eval(array)
        what = self.lib.describe(array)
        if not what.address or any(step < 0 for step in what.strides):
            return False
        reach = sum((n - 1) * step for n, step in zip(what.shape, what.strides)) + 1
        storage = foreign_storage(<char *><size_t>what.address, reach * ITEMSIZES[x.ref.dtype], array, True)
        out.storage = storage
        out.offset = 0
        for axis in range(out.ref.ndim):
            out.ref.strides[axis] = what.strides[axis]
        finish_view(out)
        return True

    def copy_out(self, Tensor x not None, destination):
        """Write the elements of `x` in row-major order into `destination`."""
        view = memoryview(destination).cast("B")
        if not len(view):
            return
        array = self.lib.cast(abi.VIEW, self.lib.reshape(self.array(x), (-1,), stream=self.stream), abi.UINT8,
                              stream=self.stream)
        np.frombuffer(view, np.uint8)[:] = self.lib.to_numpy(array)

    def wait(self, Tensor x not None):
        """Return when the elements of `x` are computed, and whatever else was recorded with them."""
        cdef Value value
        with self.recorder.lock:
            target = self.view(x)
            alive = self.recorder.flush()
        arrays = [value.array for value in alive if value is not target and value.array is not None]
        self.lib.eval(self.recorder.array(target), *arrays)

    def synchronize(self):
        """Return when all work given to upstream on this device is done."""
        with self.recorder.lock:
            self.recorder.flush()
        self.lib.synchronize(self.stream)

    # ------------------------------------------------------------------ execution

    cdef int unary(self, Primitive p, int compute, Tensor x, Tensor out) except -1:
        cdef int op = self.codes[p.index]
        cdef Value a, value
        self.recorder.lock.take()
        try:
            a = self.view(x)
            if op >= 0:
                value = self.recorder.apply(op, a, None, shape_like(out, a), out.ref.dtype)
            else:
                value = self.composed(p, compute, out, a)
            self.give(out, value)
        finally:
            self.recorder.lock.let_go()
        return 0

    cdef int binary(self, Primitive p, int compute, Tensor x, Tensor y, Tensor out) except -1:
        cdef int op = self.codes[p.index]
        cdef Value a, b, value
        self.recorder.lock.take()
        try:
            a, b = self.view(x), self.view(y)
            if op >= 0:
                value = self.recorder.apply(op, a, b, shape_like(out, a), out.ref.dtype)
            elif p.name == "equal_nan":
                value = self.equal_nan(shape_tuple(out), a, b)
            else:
                self.missing(p, (x, y))
            self.give(out, value)
        finally:
            self.recorder.lock.let_go()
        return 0

    cdef int run(self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
        cdef Tensor x
        handler = HANDLERS.get(p.name)
        if handler is None:
            self.missing(p, inputs)
        with self.recorder.lock:
            operands = tuple([self.view(x) for x in inputs])
            results = handler(Builder(self), operands, outputs, params)
            for x, value in zip(outputs, results if type(results) is tuple else (results,)):
                self.give(x, <Value?>value)
        return 0

    def execute(self, Primitive primitive not None, tuple inputs, tuple outputs, tuple params):
        """Compute `outputs` from `inputs`."""
        if len(inputs) == 1 and (primitive.name in UNARY or primitive.name in COMPOSED):
            self.unary(primitive, params[0], inputs[0], outputs[0])
        elif len(inputs) == 2 and (primitive.name in BINARY or primitive.name == "equal_nan"):
            self.binary(primitive, params[0], inputs[0], inputs[1], outputs[0])
        else:
            self.run(primitive, inputs, outputs, params)

    cdef Value composed(self, Primitive p, int compute, Tensor out, Value x):
        formula = COMPOSED.get(p.name)
        if formula is None:
            raise UnsupportedOpError(
                f"upstream MLX has no {p.name}", op=p.name, backend=self.name, dtypes=(ALL_DTYPES[x.dtype],)
            )
        build = Builder(self)
        return build.cast(formula(build, build.cast(x, compute)), out.ref.dtype)

    cdef Value equal_nan(self, tuple shape, Value x, Value y):
        build = Builder(self)
        both = build.step(abi.LOGICAL_AND, shape, abi.BOOL, build.step(abi.ISNAN, x.shape, abi.BOOL, x),
                          build.step(abi.ISNAN, y.shape, abi.BOOL, y))
        return build.step(abi.LOGICAL_OR, shape, abi.BOOL, build.step(abi.EQUAL, shape, abi.BOOL, x, y), both)

    cdef int missing(self, Primitive p, tuple inputs) except -1:
        cdef Tensor x
        raise UnsupportedOpError(
            f"[{p.name}] upstream MLX, through the shim, has no such operation", op=p.name, backend=self.name,
            dtypes=tuple([x.dtype for x in inputs]),
        )

    def supports(self, Primitive primitive not None, dtypes):
        """Tell whether `primitive` exists for these operand dtypes."""
        cdef bint known = (
            primitive.name in UNARY or primitive.name in BINARY or primitive.name in HANDLERS
            or primitive.name in COMPOSED or primitive.name == "equal_nan"
        )
        if not known or self.device.name != "mlx:gpu":
            return known
        return all(d.name != "float64" for d in dtypes)

    def info(self):
        """Return facts about upstream and its device."""
        kind = abi.GPU if self.device.name == "mlx:gpu" else abi.CPU
        return {"mlx": self.lib.upstream_version, **self.lib.device_info(kind, self.device.index)}


class Builder:
    """Records steps for the handlers below, which are ordinary Python."""

    def __init__(self, UpstreamBackend backend not None):
        self.backend = backend
        self.lib = backend.lib
        self.stream = backend.stream
        self.gpu = backend.device.name == "mlx:gpu"

    def step(self, op, shape, dtype, *operands, ints=(), floats=()):
        """Record an operation."""
        return (<UpstreamBackend>self.backend).recorder.record(op, operands, tuple(shape), dtype, ints, floats)

    def like(self, op, x, *others):
        """Record an elementwise operation with the shape and dtype of `x`."""
        return self.step(op, x.shape, x.dtype, x, *others)

    def constant(self, value, dtype):
        """A scalar."""
        return (<UpstreamBackend>self.backend).constant(value, dtype)

    def number(self, value, x):
        """A scalar of x's dtype."""
        return self.constant(value, x.dtype)

    def cast(self, x, dtype):
        """`x` in another dtype."""
        return x if x.dtype == dtype else self.step(abi.ASTYPE, x.shape, dtype, x, ints=(dtype,))

    def reshape(self, x, shape):
        """`x` under another shape."""
        return x if x.shape == tuple(shape) else self.step(abi.RESHAPE, shape, x.dtype, x, ints=tuple(shape))

    def zeros(self, shape, dtype):
        """Zeros."""
        return self.step(abi.BROADCAST_TO, shape, dtype, self.constant(0, dtype), ints=tuple(shape))

    def part(self, x, axis, start, stop):
        """The elements from `start` to `stop` along an axis."""
        n = len(x.shape)
        starts, stops = [0] * n, list(x.shape)
        starts[axis], stops[axis] = start, stop
        shape = [last - first for first, last in zip(starts, stops)]
        return self.step(abi.SLICE, shape, x.dtype, x, ints=(*starts, *stops, *[1] * n))

    def turned(self, x):
        """`x` with its last two axes exchanged."""
        n = len(x.shape)
        shape = (*x.shape[:-2], x.shape[-1], x.shape[-2])
        return self.step(abi.TRANSPOSE, shape, x.dtype, x, ints=(*range(n - 2), n - 1, n - 2))

    def joined(self, parts, axis):
        """The concatenation of `parts`."""
        while len(parts) > 1:  # a step has four operands
            groups, parts = [parts[i : i + 4] for i in range(0, len(parts), 4)], []
            for group in groups:
                shape = list(group[0].shape)
                shape[axis] = sum(x.shape[axis] for x in group)
                whole = len(group) == 1
                parts.append(group[0] if whole else
                             self.step(abi.CONCATENATE, shape, group[0].dtype, *group, ints=(axis,)))
        return parts[0]

    def last(self, op, x, keep=True):
        """A reduction of the last axis."""
        shape = (*x.shape[:-1], 1) if keep else x.shape[:-1]
        return self.step(op, shape, x.dtype, x, ints=(int(keep), 0, -1))

    def array(self, value):
        """The array of the shim behind a value: builds what was recorded."""
        return (<UpstreamBackend>self.backend).recorder.array(value)

    def value(self, array, out):
        """A value for an output tensor."""
        cdef Tensor x = out
        return value_of(array, shape_tuple(x), x.ref.dtype)


# ---------------------------------------------------------------------- elementwise operations that upstream lacks

def _relu(b, x):
    return b.like(abi.MAXIMUM, x, b.number(0, x))


def _silu(b, x):
    return b.like(abi.MULTIPLY, x, b.like(abi.SIGMOID, x))


def _half_of_one_plus(b, x, y):
    return b.like(abi.MULTIPLY, b.like(abi.MULTIPLY, x, b.number(0.5, x)), b.like(abi.ADD, y, b.number(1, x)))


def _gelu(b, x):
    return _half_of_one_plus(b, x, b.like(abi.ERF, b.like(abi.MULTIPLY, x, b.number(math.sqrt(0.5), x))))


def _gelu_tanh(b, x):
    cube = b.like(abi.MULTIPLY, b.like(abi.MULTIPLY, x, x), x)
    inner = b.like(abi.ADD, x, b.like(abi.MULTIPLY, cube, b.number(0.044715, x)))
    return _half_of_one_plus(b, x, b.like(abi.TANH, b.like(abi.MULTIPLY, inner, b.number(math.sqrt(2 / math.pi), x))))


def _gelu_sigmoid(b, x):
    return b.like(abi.MULTIPLY, x, b.like(abi.SIGMOID, b.like(abi.MULTIPLY, x, b.number(1.702, x))))


def _softplus(b, x):
    return b.like(abi.LOGADDEXP, x, b.number(0, x))


COMPOSED = {
    "relu": _relu, "silu": _silu, "gelu": _gelu, "gelu_tanh": _gelu_tanh, "gelu_sigmoid": _gelu_sigmoid,
    "softplus": _softplus,
}


# ---------------------------------------------------------------------- everything else
# A handler takes a builder, the operands as values, the outputs as tensors without a storage, and the parameters.

def _full(b, operands, outputs, params):
    (x,), (out,) = operands, outputs
    return b.step(abi.BROADCAST_TO, out.shape, x.dtype, x, ints=out.shape)


def _arange(b, operands, outputs, params):
    (out,), (start, step) = outputs, params
    dtype = out.dtype.code
    lanes = dtype if out.dtype.kind in "ui" or dtype == abi.FLOAT64 else abi.FLOAT32
    counted = b.lib.arange(0, out.size, 1, lanes, stream=b.stream)
    x = value_of(counted, (out.size,), lanes)
    if step != 1:
        x = b.like(abi.MULTIPLY, x, b.number(step, x))
    if start != 0:
        x = b.like(abi.ADD, x, b.number(start, x))
    return b.reshape(b.cast(x, dtype), out.shape)


def _copy(b, operands, outputs, params):
    return b.like(abi.CONTIGUOUS, operands[0])


def _astype(b, operands, outputs, params):
    (x,) = operands
    return b.step(abi.ASTYPE, x.shape, params[0].code, x, ints=(params[0].code,))


def _select(b, operands, outputs, params):
    (out,) = outputs
    return b.step(abi.WHERE, out.shape, out.dtype.code, *operands)


def _reduction(op):
    def handler(b, operands, outputs, params):
        (x,), (out,) = operands, outputs
        axes, *rest = params
        if not axes and x.shape:  # a program takes no axes for all of them
            x, axes = b.reshape(x, (*x.shape, 1)), (len(x.shape),)
        parameter = rest[0] if rest else 0
        return b.step(op, out.shape, out.dtype.code, x, ints=(0, parameter, *axes))

    return handler


def _scan(op):
    def handler(b, operands, outputs, params):
        (x,), (out,), (axis, reverse, inclusive) = operands, outputs, params
        return b.step(op, out.shape, out.dtype.code, x, ints=(axis, int(reverse), int(inclusive)))

    return handler


def _matmul(b, operands, outputs, params):
    (out,) = outputs
    return b.step(abi.MATMUL, out.shape, out.dtype.code, *operands)


def _addmm(b, operands, outputs, params):
    (out,) = outputs
    return b.step(abi.ADDMM, out.shape, out.dtype.code, *operands, floats=params)


def _softmax(b, operands, outputs, params):
    (x,) = operands
    return b.step(abi.SOFTMAX, x.shape, x.dtype, x, ints=(1, -1))


def _softmax_vjp(b, operands, outputs, params):
    out, g = operands
    total = b.last(abi.SUM, b.like(abi.MULTIPLY, g, out))
    return b.like(abi.MULTIPLY, out, b.like(abi.SUBTRACT, g, total))


def _rms_norm(b, operands, outputs, params):
    x, weight = operands[0], operands[1] if params[1] else None
    return b.cast(b.step(abi.RMS_NORM, x.shape, x.dtype, x, weight, floats=(params[0],)), params[2].code)


def _layer_norm(b, operands, outputs, params):
    eps, has_weight, has_bias, dtype = params
    x, *rest = operands
    weight = rest[0] if has_weight else None
    bias = rest[-1] if has_bias else None
    return b.cast(b.step(abi.LAYER_NORM, x.shape, x.dtype, x, weight, bias, floats=(eps,)), dtype.code)


def _sum_rows(b, x):
    """The sum over all axes but the last."""
    return b.step(abi.SUM, x.shape[-1:], x.dtype, x, ints=(0, 0, *range(len(x.shape) - 1))) if len(x.shape) > 1 else x


def _norm_back(b, operands, outputs, params, centre):
    # With y = (x - mean) r and r = 1 / sqrt(mean square + eps):
    # dx = r (h - mean(h) - y mean(h y)) for h = g w; without centring the term mean(h) is absent.
    eps, has_weight = params[0], params[1]
    x, g, *weights = [b.cast(v, abi.FLOAT32) if v.dtype != abi.FLOAT64 else v for v in operands]
    if centre:
        x = b.like(abi.SUBTRACT, x, b.last(abi.MEAN, x))
    square = b.last(abi.MEAN, b.like(abi.MULTIPLY, x, x))
    scale = b.like(abi.RSQRT, b.like(abi.ADD, square, b.number(eps, x)))
    y = b.like(abi.MULTIPLY, x, scale)
    h = b.like(abi.MULTIPLY, g, weights[0]) if has_weight else g
    inner = b.like(abi.MULTIPLY, y, b.last(abi.MEAN, b.like(abi.MULTIPLY, h, y)))
    if centre:
        inner = b.like(abi.ADD, inner, b.last(abi.MEAN, h))
    dx = b.like(abi.MULTIPLY, b.like(abi.SUBTRACT, h, inner), scale)
    results = (dx, _sum_rows(b, b.like(abi.MULTIPLY, g, y)), _sum_rows(b, g))
    return tuple([b.cast(value, out.dtype.code) for value, out in zip(results, outputs)])


def _rms_norm_vjp(b, operands, outputs, params):
    return _norm_back(b, operands, outputs, params, False)


def _layer_norm_vjp(b, operands, outputs, params):
    return _norm_back(b, operands, outputs, params, True)


def _rope(b, operands, outputs, params):
    dims, traditional, base, scale, offset, which, inverse = params
    x, *tensors = operands
    given = dict(zip(which, tensors))
    positions = given.get("o")
    if positions is not None:
        positions = b.cast(positions, abi.INT32)
    # Turning back is turning at negative positions.
    return b.step(abi.ROPE, x.shape, x.dtype, x, positions, given.get("f"), ints=(dims, int(traditional), offset),
                  floats=(base, -scale if inverse else scale))


def _cross_entropy(b, operands, outputs, params):
    logits, targets = operands
    index = b.reshape(targets, (*targets.shape, 1))
    picked = b.step(abi.TAKE_ALONG_AXIS, index.shape, logits.dtype, logits, index, ints=(-1,))
    loss = b.step(abi.SUBTRACT, targets.shape, logits.dtype, b.last(abi.LOGSUMEXP, logits, False),
                  b.reshape(picked, targets.shape))
    return b.cast(loss, outputs[0].dtype.code)


def _cross_entropy_vjp(b, operands, outputs, params):
    logits, targets, g = operands
    n = logits.shape[-1]
    index = b.reshape(b.cast(targets, abi.INT64), (*targets.shape, 1))
    negative = b.step(abi.LESS, index.shape, abi.BOOL, index, b.number(0, index))
    wrapped = b.step(abi.WHERE, index.shape, index.dtype, negative, b.like(abi.ADD, index, b.number(n, index)), index)
    classes = value_of(b.lib.arange(0, n, 1, abi.INT64, stream=b.stream), (n,), abi.INT64)
    hit = b.cast(b.step(abi.EQUAL, logits.shape, abi.BOOL, wrapped, classes), logits.dtype)
    p = b.step(abi.SOFTMAX, logits.shape, logits.dtype, logits, ints=(1, -1))
    return b.like(abi.MULTIPLY, b.like(abi.SUBTRACT, p, hit), b.reshape(b.cast(g, logits.dtype), (*g.shape, 1)))


def _attention(b, operands, outputs, params):
    scale, causal, has_mask, has_sinks, dtype = params
    (out,) = outputs
    q, k, v, *rest = [b.cast(x, dtype.code) if x.dtype != abi.BOOL else x for x in operands]
    mask = rest[0] if has_mask else None
    if has_sinks:
        arrays = [b.array(x) for x in (q, k, v)]
        array = b.lib.sdpa(*arrays, scale, mask=None if mask is None else b.array(mask), causal=causal,
                           sinks=b.array(rest[-1]), stream=b.stream)
        return b.value(array, out)
    mode = abi.MASK_CAUSAL if causal else abi.MASK_NONE if mask is None else abi.MASK_ARRAY
    return b.step(abi.SDPA, out.shape, dtype.code, q, k, v, mask, ints=(mode,), floats=(scale,))


def _visible(b, rows, columns):
    """Booleans (rows, columns): whether a query sees a key, under the causal mask."""
    row = value_of(b.lib.arange(0, rows, 1, abi.INT32, stream=b.stream), (rows,), abi.INT32)
    column = value_of(b.lib.arange(0, columns, 1, abi.INT32, stream=b.stream), (columns,), abi.INT32)
    last = b.like(abi.ADD, b.reshape(row, (rows, 1)), b.number(columns - rows, row))
    return b.step(abi.LESS_EQUAL, (rows, columns), abi.BOOL, column, last)


def _attention_vjp(b, operands, outputs, params):
    # Query heads that share a key head are further rows of it, so that all products are plain batched ones. In float32.
    scale, causal, has_mask, has_sinks, _ = params
    q, k, v, g, *rest = [x if x.dtype in (abi.BOOL, abi.FLOAT64) else b.cast(x, abi.FLOAT32) for x in operands]
    batch, heads, queries, depth = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    groups, dtype = heads // kv_heads, q.dtype
    rows = groups * queries
    front, scores_shape = (batch, kv_heads, rows), (batch, kv_heads, rows, keys)

    def product(x, y, *shape):
        return b.step(abi.MATMUL, shape, dtype, x, y)

    q_rows = b.reshape(b.like(abi.MULTIPLY, q, b.number(scale, q)), (*front, depth))
    g_rows = b.reshape(g, (*front, v.shape[-1]))
    scores = product(q_rows, b.turned(k), *scores_shape)
    lowest = b.number(float(np.finfo(np.float64 if dtype == abi.FLOAT64 else np.float32).min), scores)
    by_head = (batch, kv_heads, groups, queries, keys)
    if causal:
        split = b.reshape(scores, by_head)
        split = b.step(abi.WHERE, by_head, dtype, _visible(b, queries, keys), split, lowest)
        scores = b.reshape(split, scores_shape)
    if has_mask:
        mask = b.reshape(rest[0], scores_shape)
        if mask.dtype == abi.BOOL:
            scores = b.step(abi.WHERE, scores_shape, dtype, mask, scores, lowest)
        else:
            scores = b.like(abi.ADD, scores, mask)
    if has_sinks:
        sinks = b.reshape(rest[-1], (1, kv_heads, groups, 1, 1))
        sinks = b.step(abi.BROADCAST_TO, (*by_head[:-1], 1), dtype, sinks, ints=(*by_head[:-1], 1))
        with_sinks = (*front, keys + 1)
        scores = b.step(abi.CONCATENATE, with_sinks, dtype, scores, b.reshape(sinks, (*front, 1)), ints=(3,))
    weights = b.step(abi.SOFTMAX, scores.shape, dtype, scores, ints=(1, -1))
    if has_sinks:
        sink_weights = b.part(weights, 3, keys, keys + 1)
        weights = b.part(weights, 3, 0, keys)
    slope = b.like(abi.MULTIPLY, weights, product(g_rows, b.turned(v), *scores_shape))
    total = b.last(abi.SUM, slope)
    d_scores = b.like(abi.SUBTRACT, slope, b.like(abi.MULTIPLY, weights, total))
    dq = product(d_scores, k, *front, depth)
    dq = b.reshape(b.like(abi.MULTIPLY, dq, b.number(scale, dq)), q.shape)
    dk = product(b.turned(d_scores), q_rows, *k.shape)
    dv = product(b.turned(weights), g_rows, *v.shape)
    results = [dq, dk, dv]
    if has_sinks:
        by_row = b.like(abi.NEGATIVE, b.like(abi.MULTIPLY, sink_weights, total))
        by_row = b.reshape(by_row, (batch, kv_heads, groups, queries))
        results.append(b.reshape(b.step(abi.SUM, (kv_heads, groups), dtype, by_row, ints=(0, 0, 0, 3)), (heads,)))
    return tuple([b.cast(value, out.dtype.code) for value, out in zip(results, outputs)])


def _concatenate(b, operands, outputs, params):
    return b.joined(operands, params[0])


def _take(b, operands, outputs, params):
    (out,) = outputs
    return b.step(abi.TAKE, out.shape, out.dtype.code, *operands, ints=params)


def _take_along_axis(b, operands, outputs, params):
    (out,) = outputs
    return b.step(abi.TAKE_ALONG_AXIS, out.shape, out.dtype.code, *operands, ints=params)


def _gather(b, operands, outputs, params):
    (out,), (axes, sizes) = outputs, params
    x, *indices = [b.array(value) for value in operands]
    return b.value(b.lib.gather(x, indices, axes, sizes, stream=b.stream), out)


def _scatter(b, operands, outputs, params):
    (out,), (axes, sizes, mode) = outputs, params
    x, *indices, updates = [b.array(value) for value in operands]
    return b.value(b.lib.scatter(UPDATES[mode], x, indices, axes, updates, stream=b.stream), out)


def _put_along_axis(b, operands, outputs, params):
    (out,), (axis, mode) = outputs, params
    x, indices, updates = [b.array(value) for value in operands]
    return b.value(b.lib.scatter_axis(UPDATES[mode], x, indices, updates, axis, stream=b.stream), out)


def _slice_update(b, operands, outputs, params):
    (out,), (starts, shape, steps) = outputs, params
    x, update = operands
    stops = []
    for extent, start, n, step in zip(x.shape, starts, shape, steps):
        stop = start + n * step
        stops.append(stop if stop >= 0 else -extent - 1)  # before the first element
    if not all(shape):
        return x
    array = b.lib.slice_update(abi.UPDATE_SET, b.array(x), b.array(update), starts, stops, steps, stream=b.stream)
    return b.value(array, out)


def _nonzero(b, operands, outputs, params):
    (out,) = outputs
    found = np.flatnonzero(b.lib.to_numpy(b.array(operands[0])))
    return b.value(b.lib.from_numpy(found.astype(np.int64), copy=True), out)


def _sort(op):
    def handler(b, operands, outputs, params):
        (x,), (out,), (*kth, axis) = operands, outputs, params
        return b.step(op, out.shape, out.dtype.code, x, ints=(axis, kth[0] if kth else 0))

    return handler


def _searchsorted(b, operands, outputs, params):
    (out,), (right,) = outputs, params
    ordered, values = [b.array(value) for value in operands]
    return b.value(b.lib.searchsorted(ordered, values, right=right, stream=b.stream), out)


UNSIGNED = {1: abi.UINT8, 2: abi.UINT16, 4: abi.UINT32}


def _words(b, keys, shape, width=4):
    """Random integers of `width` bytes: `shape` of them for each key."""
    dtype = UNSIGNED[width]
    if len(keys.shape) == 1:
        return value_of(b.lib.random_bits(b.array(keys), shape, width, stream=b.stream), shape, dtype)
    count = math.prod(keys.shape[:-1])
    if not count:
        return b.step(abi.BROADCAST_TO, (*keys.shape[:-1], *shape), dtype, b.constant(0, dtype),
                      ints=(*keys.shape[:-1], *shape))
    rows = b.reshape(keys, (count, 2))
    parts = [_words(b, b.reshape(b.part(rows, 0, i, i + 1), (2,)), shape, width) for i in range(count)]
    stacked = b.joined([b.reshape(part, (1, *shape)) for part in parts], 0)
    return b.reshape(stacked, (*keys.shape[:-1], *shape))


def _unit(b, words, dtype):
    """Numbers in [0, 1) of a dtype from random words."""
    x = b.cast(words, abi.FLOAT32)
    x = b.cast(b.like(abi.MULTIPLY, x, b.number(2.0**-32, x)), dtype)
    return b.like(abi.MINIMUM, x, b.number(1 - 2.0**-MANTISSA[dtype], x))


# Bits of the mantissa, the implied one included.
MANTISSA = {abi.FLOAT16: 11, abi.BFLOAT16: 8, abi.FLOAT32: 24}


def _random_bits(b, operands, outputs, params):
    (keys,), (shape, dtype) = operands, params
    return _words(b, keys, tuple(shape), dtype.itemsize)


def _random_uniform(b, operands, outputs, params):
    (keys,), (shape, dtype, low, high) = operands, params
    x = _unit(b, _words(b, keys, tuple(shape)), dtype.code)
    width = b.like(abi.SUBTRACT, b.number(high, x), b.number(low, x))
    return b.like(abi.ADD, b.like(abi.MULTIPLY, x, width), b.number(low, x))


def _random_normal(b, operands, outputs, params):
    (keys,), (shape, dtype, loc, factor) = operands, params
    parts = dtype.code == abi.COMPLEX64
    words = _words(b, keys, (*shape, 2) if parts else tuple(shape))
    x = _unit(b, words, abi.FLOAT32)
    largest = b.number(1 - 2.0**-24, x)
    x = b.like(abi.ERFINV, b.like(abi.SUBTRACT, b.like(abi.ADD, x, x), largest))
    if parts:
        x = b.like(abi.MULTIPLY, x, b.number(factor, x))
        x = b.step(abi.VIEW, (*words.shape[:-1], 1), abi.COMPLEX64, x, ints=(abi.COMPLEX64,))
        x = b.reshape(x, words.shape[:-1])
    else:
        x = b.cast(x, dtype.code)
        x = b.like(abi.MULTIPLY, x, b.number(factor, x))
    return b.like(abi.ADD, x, b.number(loc, x))


def _random_bernoulli(b, operands, outputs, params):
    (keys,), (shape, threshold) = operands, params
    x = b.cast(_words(b, keys, tuple(shape)), abi.FLOAT32)
    return b.step(abi.LESS, x.shape, abi.BOOL, x, b.number(threshold, x))


# ---------------------------------------------------------------------- linear algebra and Fourier transforms

def _factored(b, op, operands, flag=False, outputs=1, name=""):
    """Run an operation of LAPACK; returns arrays of the shim."""
    try:
        return b.lib.linalg(op, *[b.array(x) for x in operands], flag=flag, outputs=outputs)
    except UpstreamError as error:
        if error.facts.get("code") != "E_RUNTIME":
            raise
        raise FactorizationError(f"[{name}] {error}", op=name) from error


def _linalg(op, name):
    def handler(b, operands, outputs, params):
        flag = bool(params) and params[0] in (True, "U", "u")
        if op in EMPTY_TRAPS and not math.prod(operands[0].shape[-2:]):
            return tuple([b.zeros(out.shape, out.dtype.code) for out in outputs])
        found = _factored(b, op, operands, flag, len(outputs), name)
        return tuple([b.value(array, out) for array, out in zip(found, outputs)])

    return handler


# What the shim refuses of an empty matrix; the results then have no elements.
EMPTY_TRAPS = {abi.INV, abi.SOLVE, abi.LU_FACTOR}


def _solve(b, operands, outputs, params):
    # Upstream takes a vector only beside a single matrix, and no axes that broadcast.
    (a, y), (out,) = operands, outputs
    vector = len(y.shape) == len(a.shape) - 1
    columns = (*y.shape, 1) if vector else y.shape
    if not math.prod(a.shape[-2:]) or not math.prod(columns):
        return b.zeros(out.shape, out.dtype.code)
    (array,) = _factored(b, abi.SOLVE, (a, b.reshape(y, columns)), name="solve")
    return b.reshape(value_of(array, columns, y.dtype), out.shape)


def _diagonal_and_sign(b, x):
    """The diagonal of U in P x = L U, and the sign of the permutation, 1 or -1 for each matrix."""
    *front, n, _ = x.shape
    if not n:
        ones = b.step(abi.BROADCAST_TO, front, x.dtype, b.number(1, x), ints=tuple(front))
        return b.zeros((*front, 0), x.dtype), ones
    compact, pivots = _factored(b, abi.LU_FACTOR, (x,), outputs=2, name="lu_factor")
    compact, pivots = value_of(compact, x.shape, x.dtype), value_of(pivots, (*front, n), abi.UINT32)
    steps = [n * n * math.prod(front[i + 1 :]) for i in range(len(front))]
    diagonal = b.step(abi.AS_STRIDED, (*front, n), x.dtype, compact, ints=(*front, n, *steps, n + 1, 0))
    stays = value_of(b.lib.arange(0, n, 1, abi.UINT32, stream=b.stream), (n,), abi.UINT32)
    moved = b.cast(b.step(abi.NOT_EQUAL, pivots.shape, abi.BOOL, pivots, stays), x.dtype)
    signs = b.step(abi.SUBTRACT, moved.shape, moved.dtype, b.number(1, moved), b.like(abi.ADD, moved, moved))
    return diagonal, b.last(abi.PROD, signs, False)


def _det(b, operands, outputs, params):
    diagonal, sign = _diagonal_and_sign(b, operands[0])
    return b.like(abi.MULTIPLY, b.last(abi.PROD, diagonal, False), sign)


def _slogdet(b, operands, outputs, params):
    diagonal, sign = _diagonal_and_sign(b, operands[0])
    sign = b.like(abi.MULTIPLY, sign, b.last(abi.PROD, b.like(abi.SIGN, diagonal), False))
    return sign, b.last(abi.SUM, b.like(abi.LOG, b.like(abi.ABS, diagonal)), False)


def _fft(b, operands, outputs, params):
    (x,), (out,), (axes, inverse) = operands, outputs, params
    lengths = [x.shape[axis] for axis in axes]
    if not axes:
        return b.cast(x, abi.COMPLEX64)
    if not math.prod(x.shape):
        return b.zeros(out.shape, abi.COMPLEX64)
    return b.value(b.lib.fft(abi.IFFT if inverse else abi.FFT, b.array(x), lengths, axes, stream=b.stream), out)


def _rfft(b, operands, outputs, params):
    (x,), (out,), (axis,) = operands, outputs, params
    if not math.prod(out.shape):
        return b.zeros(out.shape, out.dtype.code)
    return b.value(b.lib.fft(abi.RFFT, b.array(x), [x.shape[axis]], [axis], stream=b.stream), out)


def _irfft(b, operands, outputs, params):
    (x,), (out,), (axis, n) = operands, outputs, params
    if not math.prod(out.shape):
        return b.zeros(out.shape, out.dtype.code)
    return b.value(b.lib.fft(abi.IRFFT, b.array(x), [n], [axis], stream=b.stream), out)


# ---------------------------------------------------------------------- quantized and gathered products

def _check_width(b, op, bits):
    """Upstream's GPU kernels have no single bits: they give nonsense, or fail so that later work fails too."""
    if bits == 1 and b.gpu:
        raise UnsupportedOpError(f"[{op}] upstream has no 1-bit matrices on a GPU", op=op, backend=b.backend.name)


def _quantize(b, operands, outputs, params):
    group_size, bits = params
    _check_width(b, "quantize", bits)
    if not math.prod(operands[0].shape):
        return tuple([b.zeros(out.shape, out.dtype.code) for out in outputs])
    found = b.lib.quantize(b.array(operands[0]), group_size, bits, stream=b.stream)
    return tuple([b.value(array, out) for array, out in zip(found, outputs)])


def _quantized(b, w, scales, biases, dtype):
    """A quantized matrix as upstream multiplies by it: in one dtype, and on a GPU without gaps, which CUDA's kernels
    refuse."""
    parts = w, b.cast(scales, dtype), b.cast(biases, dtype)
    return tuple([b.like(abi.CONTIGUOUS, x) for x in parts]) if b.gpu else parts


def _dequantize(b, operands, outputs, params):
    (out,), (group_size, bits, dtype) = outputs, params
    _check_width(b, "dequantize", bits)
    if not math.prod(out.shape):
        return b.zeros(out.shape, out.dtype.code)
    w, scales, biases = operands
    # Upstream computes in the dtype of the scales; the result is in that of `dtype`.
    arrays = [b.array(x) for x in (w, b.cast(scales, dtype.code), b.cast(biases, dtype.code))]
    return b.value(b.lib.dequantize(*arrays, group_size, bits, stream=b.stream), out)


def _quantized_matmul(b, operands, outputs, params):
    (out,), (transpose, group_size, bits) = outputs, params
    _check_width(b, "quantized_matmul", bits)
    x, w, scales, biases = operands
    if not math.prod(x.shape) or not math.prod(w.shape):  # a sum over nothing
        return b.zeros(out.shape, out.dtype.code)
    parts = _quantized(b, w, scales, biases, x.dtype)
    if b.gpu and transpose and group_size >= x.shape[-1]:
        # For rows of a single group upstream compiles a kernel of its own on NVIDIA's Hopper, which raised for float32.
        rows = (*w.shape[:-1], x.shape[-1])
        array = b.lib.dequantize(*[b.array(part) for part in parts], group_size, bits, stream=b.stream)
        return b.step(abi.MATMUL, out.shape, x.dtype, x, b.turned(value_of(array, rows, x.dtype)))
    return b.step(abi.QUANTIZED_MATMUL, out.shape, x.dtype, x, *parts,
                  ints=(int(transpose), group_size, bits, abi.AFFINE))


def _gather_mm(b, operands, outputs, params):
    (out,) = outputs
    if not math.prod(out.shape) or not operands[0].shape[2]:
        return b.zeros(out.shape, out.dtype.code)
    return b.value(b.lib.gather_mm(*[b.array(value) for value in operands], stream=b.stream), out)


def _gather_qmm(b, operands, outputs, params):
    (out,), (transpose, group_size, bits) = outputs, params
    _check_width(b, "gather_qmm", bits)
    x, w, scales, biases, *indices = operands
    if not math.prod(x.shape) or not math.prod(w.shape) or not math.prod(out.shape):
        return b.zeros(out.shape, out.dtype.code)
    arrays = [b.array(v) for v in (x, *_quantized(b, w, scales, biases, x.dtype), *indices)]
    return b.value(b.lib.gather_qmm(*arrays, transpose=transpose, group_size=group_size, bits=bits, stream=b.stream),
                   out)


def _dilated(b, x, spacing):
    """`x` with zeros between the elements of its spatial axes."""
    shape = (x.shape[0], *[(n - 1) * e + 1 for n, e in zip(x.shape[1:-1], spacing)], x.shape[-1])
    array = b.lib.slice_update(abi.UPDATE_SET, b.array(b.zeros(shape, x.dtype)), b.array(x), (0,) * len(shape), shape,
                               (1, *spacing, 1), stream=b.stream)
    return value_of(array, shape, x.dtype)


def _conv(b, operands, outputs, params):
    stride, low, dilation, spacing, groups, flip, extents = params
    (x, w), (out,) = operands, outputs
    if not math.prod(x.shape) or not math.prod(w.shape):  # a sum over nothing
        return b.zeros(out.shape, x.dtype)
    spatial = range(len(stride))
    reach = [(w.shape[1 + i] - 1) * dilation[i] + 1 for i in spatial]
    room = [(x.shape[1 + i] - 1) * spacing[i] + 1 + low[i] for i in spatial]
    high = [(extents[i] - 1) * stride[i] + reach[i] - room[i] for i in spatial]
    # What the extents leave open is chosen as 0.
    high = [0 if high[i] < 0 and (room[i] - reach[i]) // stride[i] + 1 == extents[i] else high[i] for i in spatial]
    if any(spacing[i] > 1 and (min(low[i], high[i]) < 0 or b.gpu) for i in spatial):
        # Upstream crops before it dilates on the CPU, and gives wrong sums for some dilated inputs on CUDA.
        x, spacing = _dilated(b, x, spacing), (1,) * len(stride)
    shape = tuple(out.shape)

    def convolve(x, w, groups, channels):
        array = b.lib.conv(
            b.array(x), b.array(w), stride=stride, padding_low=low, padding_high=high, kernel_dilation=dilation,
            input_dilation=spacing, groups=groups, flip=flip, stream=b.stream,
        )
        return value_of(array, (*shape[:-1], channels), x.dtype)

    if groups == 1 or len(stride) < 3:
        return convolve(x, w, groups, shape[-1])
    # Upstream has groups over one and two axes only.
    n, taken, made = len(x.shape) - 1, x.shape[-1] // groups, shape[-1] // groups
    return b.joined([
        convolve(b.part(x, n, i * taken, (i + 1) * taken), b.part(w, 0, i * made, (i + 1) * made), 1, made)
        for i in range(groups)
    ], n)


HANDLERS = {
    "sort": _sort(abi.SORT), "argsort": _sort(abi.ARGSORT), "partition": _sort(abi.PARTITION),
    "argpartition": _sort(abi.ARGPARTITION), "searchsorted": _searchsorted, "conv": _conv,
    "random_bits": _random_bits, "random_uniform": _random_uniform, "random_normal": _random_normal,
    "random_bernoulli": _random_bernoulli,
    "solve": _solve, "det": _det, "slogdet": _slogdet, "fft": _fft, "rfft": _rfft, "irfft": _irfft,
    "quantize": _quantize, "dequantize": _dequantize, "quantized_matmul": _quantized_matmul,
    "gather_mm": _gather_mm, "gather_qmm": _gather_qmm,
    "full": _full, "arange": _arange, "copy": _copy, "astype": _astype, "select": _select,
    "matmul": _matmul, "addmm": _addmm,
    "softmax": _softmax, "softmax_vjp": _softmax_vjp, "rms_norm": _rms_norm, "rms_norm_vjp": _rms_norm_vjp,
    "layer_norm": _layer_norm, "layer_norm_vjp": _layer_norm_vjp, "rope": _rope, "cross_entropy": _cross_entropy,
    "cross_entropy_vjp": _cross_entropy_vjp, "scaled_dot_product_attention": _attention,
    "scaled_dot_product_attention_vjp": _attention_vjp,
    "concatenate": _concatenate, "take": _take, "take_along_axis": _take_along_axis, "gather": _gather,
    "scatter": _scatter, "put_along_axis": _put_along_axis, "slice_update": _slice_update, "nonzero": _nonzero,
    **{name: _linalg(getattr(abi, name.upper()), name) for name in LINALG},
    **{name: _reduction(op) for name, op in REDUCE.items()},
    **{name: _scan(op) for name, op in SCAN.items()},
}


def make(Device device not None):
    """Return the backend of ``mlx:cpu`` or ``mlx:gpu``.

    Raises
    ------
    BackendUnavailableError
        If the shim is not built, or upstream has no such device.
    """
    return UpstreamBackend(device)
