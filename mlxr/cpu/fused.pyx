# cython: language_level=3, binding=True, boundscheck=False, wraparound=False
"""Executes the primitives of the fused family, attention among them, on the CPU kernels."""
from mlxr.backends.cpu cimport CpuBackend
from mlxr.core.abi cimport ArrayRef
from mlxr.core.primitive cimport Primitive
from mlxr.core.tensor cimport Tensor
from mlxr.cpu.kernels.attention cimport AttentionTable
from mlxr.cpu.kernels.fused cimport FusedTable

from mlxr.errors import OutOfMemoryError

cdef const FusedTable *table = NULL
cdef const AttentionTable *attention = NULL


cdef int finish(Primitive p, int status) except -1:
    if status:
        raise OutOfMemoryError(f"[{p.name}] no memory for scratch rows", op=p.name)
    return 0


cdef inline const ArrayRef *ref(object x) noexcept:
    return &(<Tensor>x).ref


cdef int give_all(CpuBackend self, tuple outputs) except -1:
    for out in outputs:
        self.give_storage(<Tensor>out)
    return 0


cdef int _softmax(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef const ArrayRef *x = ref(inputs[0])
    cdef const ArrayRef *out
    cdef int threads = self.threads, status
    give_all(self, outputs)
    out = ref(outputs[0])
    with nogil:
        status = table.softmax(x, out, threads)
    return finish(p, status)


cdef int _softmax_vjp(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef const ArrayRef *y = ref(inputs[0])
    cdef const ArrayRef *g = ref(inputs[1])
    cdef const ArrayRef *out
    cdef int threads = self.threads, status
    give_all(self, outputs)
    out = ref(outputs[0])
    with nogil:
        status = table.softmax_vjp(y, g, out, threads)
    return finish(p, status)


cdef int _layer_norm(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """Params: eps, has weight, has bias, dtype."""
    cdef const ArrayRef *x = ref(inputs[0])
    cdef const ArrayRef *w = ref(inputs[1]) if params[1] else NULL
    cdef const ArrayRef *b = ref(inputs[len(inputs) - 1]) if params[2] else NULL
    cdef const ArrayRef *out
    cdef double eps = params[0]
    cdef int threads = self.threads, status
    give_all(self, outputs)
    out = ref(outputs[0])
    with nogil:
        status = table.layer_norm(x, w, b, eps, out, threads)
    return finish(p, status)


cdef int _layer_norm_vjp(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """Inputs: x, cotangent[, weight]; params: eps, has weight; outputs: dx, dw, db."""
    cdef const ArrayRef *x = ref(inputs[0])
    cdef const ArrayRef *g = ref(inputs[1])
    cdef const ArrayRef *w = ref(inputs[2]) if params[1] else NULL
    cdef const ArrayRef *dx
    cdef const ArrayRef *dw
    cdef const ArrayRef *db
    cdef double eps = params[0]
    cdef int threads = self.threads, status
    give_all(self, outputs)
    dx, dw, db = ref(outputs[0]), ref(outputs[1]), ref(outputs[2])
    with nogil:
        status = table.layer_norm_vjp(x, w, g, eps, dx, dw, db, threads)
    return finish(p, status)


cdef int _rms_norm(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """Params: eps, has weight, dtype."""
    cdef const ArrayRef *x = ref(inputs[0])
    cdef const ArrayRef *w = ref(inputs[1]) if params[1] else NULL
    cdef const ArrayRef *out
    cdef double eps = params[0]
    cdef int threads = self.threads, status
    give_all(self, outputs)
    out = ref(outputs[0])
    with nogil:
        status = table.rms_norm(x, w, eps, out, threads)
    return finish(p, status)


cdef int _rms_norm_vjp(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """Inputs: x, cotangent[, weight]; params: eps, has weight; outputs: dx, dw."""
    cdef const ArrayRef *x = ref(inputs[0])
    cdef const ArrayRef *g = ref(inputs[1])
    cdef const ArrayRef *w = ref(inputs[2]) if params[1] else NULL
    cdef const ArrayRef *dx
    cdef const ArrayRef *dw
    cdef double eps = params[0]
    cdef int threads = self.threads, status
    give_all(self, outputs)
    dx, dw = ref(outputs[0]), ref(outputs[1])
    with nogil:
        status = table.rms_norm_vjp(x, w, g, eps, dx, dw, threads)
    return finish(p, status)


cdef int _rope(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """Params: dims, traditional, base, scale, offset, which tensors follow x ("f" freqs, "o" offsets), inverse."""
    cdef const ArrayRef *x = ref(inputs[0])
    cdef const ArrayRef *freqs = ref(inputs[1]) if "f" in params[5] else NULL
    cdef const ArrayRef *offsets = ref(inputs[len(inputs) - 1]) if "o" in params[5] else NULL
    cdef const ArrayRef *out
    cdef Py_ssize_t dims = params[0], offset = params[4]
    cdef bint traditional = params[1], inverse = params[6]
    cdef double base = params[2], scale = params[3]
    cdef int threads = self.threads, status
    give_all(self, outputs)
    out = ref(outputs[0])
    with nogil:
        status = table.rope(x, dims, traditional, base, freqs, scale, offset, offsets, inverse, out, threads)
    return finish(p, status)


cdef int _cross_entropy(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef const ArrayRef *logits = ref(inputs[0])
    cdef const ArrayRef *targets = ref(inputs[1])
    cdef const ArrayRef *out
    cdef int threads = self.threads, status
    give_all(self, outputs)
    out = ref(outputs[0])
    with nogil:
        status = table.cross_entropy(logits, targets, out, threads)
    return finish(p, status)


cdef int _cross_entropy_vjp(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    cdef const ArrayRef *logits = ref(inputs[0])
    cdef const ArrayRef *targets = ref(inputs[1])
    cdef const ArrayRef *g = ref(inputs[2])
    cdef const ArrayRef *out
    cdef int threads = self.threads, status
    give_all(self, outputs)
    out = ref(outputs[0])
    with nogil:
        status = table.cross_entropy_vjp(logits, targets, g, out, threads)
    return finish(p, status)


cdef int _sdpa(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """Inputs: q, k, v[, mask][, sinks]; params: scale, causal, has mask, has sinks, dtype."""
    cdef const ArrayRef *q = ref(inputs[0])
    cdef const ArrayRef *k = ref(inputs[1])
    cdef const ArrayRef *v = ref(inputs[2])
    cdef const ArrayRef *mask = ref(inputs[3]) if params[2] else NULL
    cdef const ArrayRef *sinks = ref(inputs[len(inputs) - 1]) if params[3] else NULL
    cdef const ArrayRef *out
    cdef double scale = params[0]
    cdef bint causal = params[1]
    cdef int threads = self.threads, status
    give_all(self, outputs)
    out = ref(outputs[0])
    with nogil:
        status = attention.sdpa(q, k, v, scale, causal, mask, sinks, out, threads)
    return finish(p, status)


cdef int _sdpa_vjp(CpuBackend self, Primitive p, tuple inputs, tuple outputs, tuple params) except -1:
    """Inputs: q, k, v, cotangent[, mask][, sinks]; params as of sdpa; outputs: dq, dk, dv[, dsinks]."""
    cdef const ArrayRef *q = ref(inputs[0])
    cdef const ArrayRef *k = ref(inputs[1])
    cdef const ArrayRef *v = ref(inputs[2])
    cdef const ArrayRef *g = ref(inputs[3])
    cdef const ArrayRef *mask = ref(inputs[4]) if params[2] else NULL
    cdef const ArrayRef *sinks = ref(inputs[len(inputs) - 1]) if params[3] else NULL
    cdef const ArrayRef *dq
    cdef const ArrayRef *dk
    cdef const ArrayRef *dv
    cdef const ArrayRef *dsinks = NULL
    cdef double scale = params[0]
    cdef bint causal = params[1]
    cdef int threads = self.threads, status
    give_all(self, outputs)
    dq, dk, dv = ref(outputs[0]), ref(outputs[1]), ref(outputs[2])
    if params[3]:
        dsinks = ref(outputs[3])
    with nogil:
        status = attention.sdpa_vjp(q, k, v, g, scale, causal, mask, sinks, dq, dk, dv, dsinks, threads)
    return finish(p, status)


def register(CpuBackend backend not None):
    """Add this family's handlers to the backend."""
    global table, attention
    table = <const FusedTable *>backend.table("fused")
    attention = <const AttentionTable *>backend.table("attention")
    backend.bind("softmax", _softmax)
    backend.bind("softmax_vjp", _softmax_vjp)
    backend.bind("layer_norm", _layer_norm)
    backend.bind("layer_norm_vjp", _layer_norm_vjp)
    backend.bind("rms_norm", _rms_norm)
    backend.bind("rms_norm_vjp", _rms_norm_vjp)
    backend.bind("rope", _rope)
    backend.bind("cross_entropy", _cross_entropy)
    backend.bind("cross_entropy_vjp", _cross_entropy_vjp)
    backend.bind("scaled_dot_product_attention", _sdpa)
    backend.bind("scaled_dot_product_attention_vjp", _sdpa_vjp)
