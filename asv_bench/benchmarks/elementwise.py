"""How fast are elementwise ops?"""

import mlxr as mx
from mlxr.ops import elementwise

from .common import tensor

FLOATS = ["float32", "float16", "bfloat16", "float64"]


class Unary:
    """One op, one dtype, one size."""

    params = (
        ["exp", "log", "tanh", "sigmoid", "sin", "erf", "sqrt", "rsqrt", "abs", "gelu", "silu"], FLOATS,
        [1000, 1_000_000],
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

    def time_binary(self, op, dtype, n):
        self.f(self.x, self.y)


class Layouts:
    """What do strides and broadcasting cost, against `time_add`?"""

    params = (["float32", "bfloat16"],)
    param_names = ("dtype",)

    def setup(self, dtype):
        """Make the operands."""
        self.x, self.row, self.column = (tensor(*s, dtype=dtype) for s in ((1024, 1024), (1024,), (1024, 1)))
        self.mask = self.x > 0

    def time_add(self, dtype):
        self.x + self.x

    def time_add_row(self, dtype):
        self.x + self.row

    def time_add_column(self, dtype):
        self.x + self.column

    def time_add_transposed(self, dtype):
        self.x + self.x.T

    def time_add_every_other(self, dtype):
        self.x[:, ::2] + self.x[:, 1::2]

    def time_where(self, dtype):
        mx.where(self.mask, self.x, 0.0)

    def time_transpose_copy(self, dtype):
        mx.contiguous(self.x.T)


class Cast:
    """From one dtype to another."""

    params = ([
        "float32 to float16", "float32 to bfloat16", "float32 to int32", "float16 to float32", "bfloat16 to float32",
        "bfloat16 to float16", "int32 to float32", "int32 to int8",
    ],)
    param_names = ("dtypes",)

    def setup(self, dtypes):
        """Make the operand."""
        source, target = dtypes.split(" to ")
        self.x, self.target = tensor(1_000_000, dtype=source), getattr(mx, target)

    def time_astype(self, dtypes):
        self.x.astype(self.target)
