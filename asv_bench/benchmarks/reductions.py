"""How fast are reductions and scans?"""

import mlxr as mx

from .common import tensor


class Reduce:
    """One op along one axis (None: all)."""

    params = (["sum", "max", "mean", "var", "argmax", "logsumexp"], ["float32", "bfloat16"], [0, 1, None])
    param_names = ("op", "dtype", "axis")

    def setup(self, op, dtype, axis):
        """Make the operand."""
        self.f = getattr(mx, op)
        self.x = tensor(1024, 1024, dtype=dtype)

    def time_reduce(self, op, dtype, axis):
        self.f(self.x, axis=axis)


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
