"""How fast are the fused ops of transformers?"""

import mlxr as mx

from .common import tensor


class Rows:
    """Softmax and normalizations of rows."""

    params = (["float32", "bfloat16"], [(32, 64), (1024, 2048)])
    param_names = ("dtype", "shape")

    def setup(self, dtype, shape):
        """Make the operands."""
        self.x = tensor(*shape, dtype=dtype)
        self.w, self.b = tensor(shape[-1], dtype=dtype, seed=1), tensor(shape[-1], dtype=dtype, seed=2)

    def time_softmax(self, dtype, shape):
        mx.softmax(self.x, axis=-1)

    def time_layer_norm(self, dtype, shape):
        mx.fast.layer_norm(self.x, self.w, self.b, 1e-5)

    def time_rms_norm(self, dtype, shape):
        mx.fast.rms_norm(self.x, self.w, 1e-5)


class Rope:
    """Rotary embedding."""

    params = ([True, False], ["float32", "bfloat16"])
    param_names = ("traditional", "dtype")

    def setup(self, traditional, dtype):
        """Make the operand."""
        self.x = tensor(1, 8, 512, 64, dtype=dtype)

    def time_rope(self, traditional, dtype):
        mx.fast.rope(self.x, 64, traditional=traditional, base=10000.0, scale=1.0, offset=0)


class Attention:
    """Prefill and decode, with grouped heads."""

    params = (["prefill", "prefill causal", "decode"], ["float32", "bfloat16"])
    param_names = ("case", "dtype")

    def setup(self, case, dtype):
        """Make the operands."""
        queries = 1 if case == "decode" else 256
        self.q = tensor(1, 8, queries, 64, dtype=dtype)
        self.k, self.v = tensor(1, 2, 512, 64, dtype=dtype, seed=1), tensor(1, 2, 512, 64, dtype=dtype, seed=2)
        self.mask = "causal" if case == "prefill causal" else None

    def time_attention(self, case, dtype):
        mx.fast.scaled_dot_product_attention(self.q, self.k, self.v, scale=0.125, mask=self.mask)

    def peakmem_attention(self, case, dtype):
        mx.fast.scaled_dot_product_attention(self.q, self.k, self.v, scale=0.125, mask=self.mask)
