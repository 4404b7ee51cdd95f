"""How fast are matrix products, by dtype and class of shape?"""

from .common import tensor

SHAPES = {
    "square 64": ((64, 64), (64, 64)),
    "square 512": ((512, 512), (512, 512)),
    "square 1024": ((1024, 1024), (1024, 1024)),
    "tall": ((4096, 64), (64, 64)),
    "wide": ((64, 64), (64, 4096)),
    "deep": ((64, 8192), (8192, 64)),
    "vector": ((1, 2048), (2048, 2048)),
    "batch": ((32, 128, 64), (32, 64, 128)),
}


class Matmul:
    """One class of shape, one dtype."""

    params = (list(SHAPES), ["float32", "float16", "bfloat16", "float64"])
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

    def peakmem_matmul(self, shape, dtype):
        self.a @ self.b
