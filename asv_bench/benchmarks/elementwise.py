"""How fast are elementwise ops?"""

import mlxr as mx
from mlxr.ops import elementwise

from .common import tensor

FLOATS = ["float32", "float16", "bfloat16", "float64"]


class Unary:
    """One op, one dtype, one size."""

    params = (
        ["exp", "log", "tanh", "sigmoid", "sin", "erf", "sqrt", "abs", "gelu", "silu"], FLOATS, [1000, 1_000_000],
    )
    param_names = ("op", "dtype", "n")

    def setup(self, op, dtype, n):
        """Make the operand."""
        self.f = getattr(elementwise, op)
        self.x = tensor(n, dtype=dtype, positive=True)

    def time_unary(self, op, dtype, n):
        self.f(self.x)


class Binary:
    """One op, one dtype, one size."""

    params = (["add", "multiply", "divide", "maximum", "power", "less"], [*FLOATS, "int32"], [1000, 1_000_000])
    param_names = ("op", "dtype", "n")

    def setup(self, op, dtype, n):
        """Make the operands."""
        self.f = getattr(mx, op)
        self.x, self.y = tensor(n, dtype=dtype, positive=True), tensor(n, dtype=dtype, seed=1, positive=True)
        if op == "divide" and dtype == "int32":
            raise NotImplementedError("int32 is divided as float32: measured there")

    def time_binary(self, op, dtype, n):
        self.f(self.x, self.y)


class Layouts:
    """What do strides and broadcasting cost?"""

    def setup(self):
        """Make the operands."""
        self.x, self.row, self.column = tensor(2048, 2048), tensor(2048), tensor(2048, 1)
        self.mask = self.x > 0

    def time_add_row(self):
        self.x + self.row

    def time_add_column(self):
        self.x + self.column

    def time_add_transposed(self):
        self.x + self.x.T

    def time_where(self):
        mx.where(self.mask, self.x, 0.0)

    def time_transpose_copy(self):
        mx.contiguous(self.x.T)

    def time_cast(self):
        self.x.astype(mx.bfloat16)
