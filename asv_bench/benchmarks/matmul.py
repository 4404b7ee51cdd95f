"""How fast are matrix products, by dtype and class of shape?"""

import mlxr as mx

from .common import tensor

SHAPES = {
    "square 64": ((64, 64), (64, 64)),
    "square 512": ((512, 512), (512, 512)),
    "square 1024": ((1024, 1024), (1024, 1024)),
    "tall": ((4096, 64), (64, 64)),
    "wide": ((64, 64), (64, 4096)),
    "deep": ((64, 8192), (8192, 64)),
    "skinny": ((8, 2048), (2048, 2048)),
    "vector": ((1, 2048), (2048, 2048)),
    "batch": ((32, 128, 64), (32, 64, 128)),
}


class Matmul:
    """One class of shape, one dtype."""

    params = (list(SHAPES), ["float32", "float16", "bfloat16", "float64", "complex64"])
    param_names = ("shape", "dtype")

    def setup(self, shape, dtype):
        """Make the operands."""
        a, b = SHAPES[shape]
        self.a, self.b = tensor(*a, dtype=dtype), tensor(*b, dtype=dtype, seed=1)
        self.bt = tensor(*b[:-2], b[-1], b[-2], dtype=dtype, seed=1).swapaxes(-1, -2)

    def time_matmul(self, shape, dtype):
        self.a @ self.b

    def time_matmul_transposed(self, shape, dtype):
        self.a @ self.bt


class MatmulMemory:
    """Is there a copy in another dtype or order?"""

    params = (["float32", "bfloat16"],)
    param_names = ("dtype",)

    def setup(self, dtype):
        """Make the operands."""
        self.a, self.bt = tensor(1024, 1024, dtype=dtype), tensor(1024, 1024, dtype=dtype, seed=1).T

    def peakmem_matmul_transposed(self, dtype):
        self.a @ self.bt


class Addmm:
    """Is the sum fused into the product?"""

    def setup(self):
        """Make the operands."""
        self.bias, self.a, self.b = tensor(1024), tensor(256, 512), tensor(512, 1024, seed=1)

    def time_addmm(self):
        mx.addmm(self.bias, self.a, self.b)

    def time_matmul(self):
        self.a @ self.b


class Quantized:
    """Products with quantized weights: one token, and a prompt."""

    params = ([4, 8], ["float32", "bfloat16"], [1, 64])
    param_names = ("bits", "dtype", "rows")

    def setup(self, bits, dtype, rows):
        """Make the operands."""
        self.bits = bits
        self.x = tensor(rows, 2048, dtype=dtype)
        self.weights = mx.quantize(tensor(2048, 2048, dtype=dtype, seed=1), group_size=64, bits=bits)

    def time_quantized_matmul(self, bits, dtype, rows):
        mx.quantized_matmul(self.x, *self.weights, transpose=True, group_size=64, bits=self.bits)
