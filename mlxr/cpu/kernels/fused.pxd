# cython: language_level=3
"""Fused row kernels: softmax, normalizations, rotary embedding, cross entropy, each with its gradient.

The module is compiled once per instruction set and exports `table`, a capsule named "mlxr.cpu.fused" that holds a
`FusedTable *`. It must not know about Python objects beyond that capsule, tensors, devices or operations.

Common to all:

- A row is the last axis. Inputs have any strides, any alignment and any floating dtype each (indices: any integer
  dtype); outputs are row-major contiguous and aligned, and overlap no input, except where said otherwise.
- Arithmetic is float32 if no floating operand or output is float64, else float64. Each output is rounded to its own
  dtype once, to nearest even.
- A row's result depends on that row (and on weights) alone: not on how many rows there are, on threads, strides or
  alignment, nor, with fused multiply-add in hardware, on the instruction set. Sums over rows (dw, db) run over blocks
  of rows that depend on the shape alone.
- Kernels return 0, or -1 when the memory for scratch rows is refused; outputs are then undefined.
- `threads` is the most threads to use; small work stays on the calling thread.
"""
from mlxr.core.abi cimport ArrayRef

ctypedef struct FusedTable:
    # out = softmax(x): exp(x - max) / sum. A row that holds NaN or +infinity, or only -infinity, gives NaN throughout.
    int (*softmax)(const ArrayRef *x, const ArrayRef *out, int threads) noexcept nogil

    # dx = out * (g - sum(g * out)), where out is the result of softmax.
    int (*softmax_vjp)(const ArrayRef *out, const ArrayRef *g, const ArrayRef *dx, int threads) noexcept nogil

    # out = (x - mean) * rsqrt(variance + eps) * w + b; variance without Bessel's correction, from the centred values.
    # w and b are one-dimensional, of the length of a row; NULL for either leaves that step out.
    int (*layer_norm)(const ArrayRef *x, const ArrayRef *w, const ArrayRef *b, double eps, const ArrayRef *out,
                      int threads) noexcept nogil

    # Gradients of layer_norm in x, w and b for the cotangent g. w NULL as above; dx, dw and db NULL where not wanted.
    int (*layer_norm_vjp)(const ArrayRef *x, const ArrayRef *w, const ArrayRef *g, double eps, const ArrayRef *dx,
                          const ArrayRef *dw, const ArrayRef *db, int threads) noexcept nogil

    # out = x * rsqrt(mean(x^2) + eps) * w.
    int (*rms_norm)(const ArrayRef *x, const ArrayRef *w, double eps, const ArrayRef *out, int threads) noexcept nogil

    # Gradients of rms_norm in x and w.
    int (*rms_norm_vjp)(const ArrayRef *x, const ArrayRef *w, const ArrayRef *g, double eps, const ArrayRef *dx,
                        const ArrayRef *dw, int threads) noexcept nogil

    # Rotary embedding of x [B, ..., T, D], D >= dims, dims even. Pair i of position t turns by the angle
    # (t + offset) * scale * f(i), with f(i) = base^(-2i/dims), or 1 / freqs[i] when freqs (length dims/2) is given.
    # A pair is (x[2i], x[2i + 1]) if traditional, else (x[i], x[i + dims/2]); elements from `dims` on are copied.
    # The offset is `offset`, or, when `offsets` is given, offsets[b] (one-dimensional, of length B or 1, or scalar).
    # inverse turns the other way, which is the gradient in x. Angles, sines and cosines are computed in float64 and
    # rounded once (angles up to 2^31). x must have three axes or more.
    int (*rope)(const ArrayRef *x, Py_ssize_t dims, bint traditional, double base, const ArrayRef *freqs, double scale,
                Py_ssize_t offset, const ArrayRef *offsets, bint inverse, const ArrayRef *out,
                int threads) noexcept nogil

    # out = logsumexp(logits) - logits[target] for each row, in one pass over the logits. targets and out have the
    # shape of logits without its last axis. A negative target counts from the end; one out of range gives NaN.
    int (*cross_entropy)(const ArrayRef *logits, const ArrayRef *targets, const ArrayRef *out,
                         int threads) noexcept nogil

    # dlogits = (softmax(logits) - onehot(target)) * g, where g has the shape of targets.
    int (*cross_entropy_vjp)(const ArrayRef *logits, const ArrayRef *targets, const ArrayRef *g,
                             const ArrayRef *dlogits, int threads) noexcept nogil
