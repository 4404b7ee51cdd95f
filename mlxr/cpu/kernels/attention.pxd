# cython: language_level=3
"""Scaled dot-product attention in blocks of keys, with an online softmax.

The module is compiled once per instruction set and exports `table`, a capsule named "mlxr.cpu.attention" that holds
an `AttentionTable *`. It must not know about Python objects beyond that capsule, tensors, devices or operations.

Operands: q [B, Hq, Tq, D], k [B, Hk, Tk, D], v [B, Hk, Tk, Dv], with Hq a multiple of Hk (query head h reads key head
h // (Hq / Hk); nothing is repeated in memory), out [B, Hq, Tq, Dv]. Inputs have any strides, any alignment and any
floating dtype each; out is row-major contiguous and overlaps no input. Arithmetic is float32, or float64 if q, k, v
or out is float64; the result is rounded to the dtype of out once. The score matrix never exists as a whole.

Order of operations, the same for every path, thread count and (with fused multiply-add in hardware) instruction set:
q is multiplied by the scale and rounded; a score is one chain of fused multiply-adds over D in increasing order; keys
come in blocks of KEYS from key 0; in a block, weights are exp(score - the block's maximum), their sum is taken in 16
lanes (key j in lane j % 16) and a tree, and each output element is one chain over the keys in increasing order; blocks
are joined in increasing order. A query's result therefore depends on that query and on the keys it sees alone: it has
the same bits in a decode step as inside any prefill, whatever the batch and the number of heads. (Where v holds
infinity or NaN at a key that a query does not see, prefill may give NaN where decoding does not.)
"""
from mlxr.core.abi cimport ArrayRef

ctypedef struct AttentionTable:
    # causal: query i sees the keys up to i + Tk - Tq, inclusive.
    # mask: NULL, or [B, Hq, Tq, Tk] with any strides (0 where it is broadcast): a boolean mask is true where a query
    # sees a key, a floating one is added to the scores. A key that a query does not see scores the lowest finite
    # number, so a query that sees none averages over all keys, as upstream's; added -infinity everywhere gives NaN.
    # sinks: NULL, or [Hq], floating: a further score of each query of that head, with no value.
    # Returns 0, or -1 when the memory for scratch is refused. `threads` is the most threads to use.
    int (*sdpa)(const ArrayRef *q, const ArrayRef *k, const ArrayRef *v, double scale, bint causal,
                const ArrayRef *mask, const ArrayRef *sinks, const ArrayRef *out, int threads) noexcept nogil

    # Gradients of sdpa for the cotangent g [B, Hq, Tq, Dv]; the other arguments are sdpa's. dq, dk, dv and dsinks
    # have the shapes of what they are gradients of, are row-major contiguous, and are NULL where not wanted. The mask
    # has no gradient here. The scores are computed anew, those of one strip of queries at a time. dk and dv add up the
    # queries of all the heads that share a key head in increasing order, in one chain each. Bound by arithmetic: five
    # products. Threads divide the key heads of the batch among them.
    int (*sdpa_vjp)(const ArrayRef *q, const ArrayRef *k, const ArrayRef *v, const ArrayRef *g, double scale,
                    bint causal, const ArrayRef *mask, const ArrayRef *sinks, const ArrayRef *dq, const ArrayRef *dk,
                    const ArrayRef *dv, const ArrayRef *dsinks, int threads) noexcept nogil
