"""How fast are reductions and scans?"""

import mlxr as mx

from .common import tensor


class Reduce:
    """One op along one axis (None: all) of few or many elements."""

    params = (
        ["sum", "max", "mean", "var", "argmax", "logsumexp"], ["float32", "bfloat16"], [0, 1, None], [32, 1024],
    )
    param_names = ("op", "dtype", "axis", "side")

    def setup(self, op, dtype, axis, side):
        """Make the operand."""
        self.f = getattr(mx, op)
        self.x = tensor(side, side, dtype=dtype)

    def time_reduce(self, op, dtype, axis, side):
        self.f(self.x, axis=axis)


class Whole:
    """The sum of integers and of booleans, which other code paths compute."""

    params = (["int32", "bool", "float64", "float16"],)
    param_names = ("dtype",)

    def setup(self, dtype):
        """Make the operand."""
        self.x = tensor(1024, 1024).astype(getattr(mx, dtype.replace("bool", "bool_")))

    def time_sum(self, dtype):
        mx.sum(self.x)


class Scan:
    """One scan along one axis."""

    params = (["cumsum", "cummax"], [0, 1])
    param_names = ("op", "axis")

    def setup(self, op, axis):
        """Make the operand."""
        self.f = getattr(mx, op)
        self.x = tensor(1024, 1024)

    def time_scan(self, op, axis):
        self.f(self.x, axis=axis)
