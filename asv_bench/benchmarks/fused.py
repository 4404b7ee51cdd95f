"""How fast are the fused ops of transformers, and their gradients?"""

import mlxr as mx

from .common import tensor

DTYPES = ["float32", "bfloat16"]

ROWS = {
    "softmax": lambda x, w, b: mx.softmax(x, axis=-1),
    "layer_norm": lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5),
    "rms_norm": lambda x, w, b: mx.fast.rms_norm(x, w, 1e-5),
}


class Rows:
    """Softmax and normalizations of rows, short and few, or long and many."""

    params = (list(ROWS), DTYPES, [(32, 64), (1024, 2048)])
    param_names = ("op", "dtype", "shape")

    def setup(self, op, dtype, shape):
        """Make the operands, and the function with its gradients."""
        self.f = ROWS[op]
        self.x = tensor(*shape, dtype=dtype)
        self.w, self.b = tensor(shape[-1], dtype=dtype, seed=1), tensor(shape[-1], dtype=dtype, seed=2)
        weights = {"softmax": (0,), "layer_norm": (0, 1, 2), "rms_norm": (0, 1)}[op]
        self.gradient = mx.value_and_grad(lambda x, w, b: mx.sum(self.f(x, w, b)), argnums=weights)

    def time_forward(self, op, dtype, shape):
        self.f(self.x, self.w, self.b)

    def time_value_and_grad(self, op, dtype, shape):
        self.gradient(self.x, self.w, self.b)


class CrossEntropy:
    """The loss of a language model's last layer."""

    params = (DTYPES, [1000, 32000])
    param_names = ("dtype", "classes")

    def setup(self, dtype, classes):
        """Make logits and targets."""
        self.logits, self.targets = tensor(128, classes, dtype=dtype), mx.arange(128)
        self.gradient = mx.value_and_grad(lambda x: mx.sum(mx.fast.cross_entropy(x, self.targets)))

    def time_value_and_grad(self, dtype, classes):
        self.gradient(self.logits)

    def peakmem_value_and_grad(self, dtype, classes):
        self.gradient(self.logits)


class Rope:
    """Rotary embedding: interleaved pairs or halves."""

    params = ([True, False], DTYPES, [1, 512])
    param_names = ("traditional", "dtype", "tokens")

    def setup(self, traditional, dtype, tokens):
        """Make the operand."""
        self.x = tensor(1, 8, tokens, 64, dtype=dtype)

    def time_rope(self, traditional, dtype, tokens):
        mx.fast.rope(self.x, 64, traditional=traditional, base=10000.0, scale=1.0, offset=3)


class Attention:
    """Prefill and decode, with grouped heads."""

    params = (["prefill", "prefill causal", "prefill mask", "decode"], DTYPES, [512, 2048])
    param_names = ("case", "dtype", "keys")

    def setup(self, case, dtype, keys):
        """Make the operands."""
        queries = 1 if case == "decode" else 256
        self.q = tensor(1, 8, queries, 64, dtype=dtype)
        self.k, self.v = tensor(1, 2, keys, 64, dtype=dtype, seed=1), tensor(1, 2, keys, 64, dtype=dtype, seed=2)
        self.mask = {"prefill causal": "causal", "prefill mask": tensor(queries, keys) > 0}.get(case)

    def time_attention(self, case, dtype, keys):
        mx.fast.scaled_dot_product_attention(self.q, self.k, self.v, scale=0.125, mask=self.mask)

    def peakmem_attention(self, case, dtype, keys):
        mx.fast.scaled_dot_product_attention(self.q, self.k, self.v, scale=0.125, mask=self.mask)


class AttentionGradient:
    """Causal attention of a training step, forward and back."""

    params = ([128, 512],)
    param_names = ("tokens",)

    def setup(self, tokens):
        """Make the operands."""
        self.q, self.k, self.v = (tensor(1, 8, tokens, 64, seed=seed) for seed in range(3))
        self.gradient = mx.value_and_grad(
            lambda q, k, v: mx.sum(mx.fast.scaled_dot_product_attention(q, k, v, scale=0.125, mask="causal")),
            argnums=(0, 1, 2),
        )

    def time_value_and_grad(self, tokens):
        self.gradient(self.q, self.k, self.v)

    def peakmem_value_and_grad(self, tokens):
        self.gradient(self.q, self.k, self.v)
