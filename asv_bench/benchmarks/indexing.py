"""How fast are gather, scatter and joins?"""

import numpy as np

import mlxr as mx

from .common import tensor


class Indexing:
    """Rows of a table, elements, and joins."""

    params = (["float32", "bfloat16"],)
    param_names = ("dtype",)

    def setup(self, dtype):
        """Make the operands."""
        rng = np.random.default_rng(0)
        self.table = tensor(8192, 256, dtype=dtype)
        self.rows = mx.array(rng.integers(0, 8192, 1024).astype(np.int32))
        self.order = mx.array(rng.permuted(np.tile(np.arange(256, dtype=np.int32), (512, 1)), axis=1))
        self.x = tensor(512, 256, dtype=dtype)

    def time_embedding(self, dtype):
        self.table[self.rows]

    def time_take_along_axis(self, dtype):
        mx.take_along_axis(self.x, self.order, axis=1)

    def time_scatter_add(self, dtype):
        self.table.at[self.rows].add(1.0)

    def time_concatenate(self, dtype):
        mx.concatenate([self.x, self.x], axis=1)

    def time_assign_slice(self, dtype):
        self.x[::2] = 0.0

    def time_assign_rows(self, dtype):
        self.x[self.rows[:64] % 512] = 0.0


class Sort:
    """Sorting one row, and the largest of it."""

    params = (["float32", "bfloat16", "int32"], [1000, 1_000_000])
    param_names = ("dtype", "n")

    def setup(self, dtype, n):
        """Make the operand."""
        self.x = (tensor(n) * 1000).astype(getattr(mx, dtype))

    def time_sort(self, dtype, n):
        mx.sort(self.x)

    def time_argsort(self, dtype, n):
        mx.argsort(self.x)

    def time_topk(self, dtype, n):
        mx.topk(self.x, 50)
