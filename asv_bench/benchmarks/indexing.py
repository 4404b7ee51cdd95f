"""How fast are gather, scatter and joins?"""

import numpy as np

import mlxr as mx

from .common import tensor


class Indexing:
    """Rows of a table, elements, and joins."""

    def setup(self):
        """Make the operands."""
        rng = np.random.default_rng(0)
        self.table = tensor(8192, 256)
        self.rows = mx.array(rng.integers(0, 8192, 1024).astype(np.int32))
        self.order = mx.array(rng.permuted(np.tile(np.arange(256, dtype=np.int32), (512, 1)), axis=1))
        self.x = tensor(512, 256)

    def time_embedding(self):
        self.table[self.rows]

    def time_take_along_axis(self):
        mx.take_along_axis(self.x, self.order, axis=1)

    def time_scatter_add(self):
        self.table.at[self.rows].add(1.0)

    def time_concatenate(self):
        mx.concatenate([self.x, self.x], axis=1)

    def time_assign_slice(self):
        self.x[::2] = 0.0


class Sort:
    """Sorting of rows."""

    params = ([1000, 1_000_000],)
    param_names = ("n",)

    def setup(self, n):
        """Make the operand."""
        self.x = tensor(n)

    def time_sort(self, n):
        mx.sort(self.x)

    def time_argsort(self, n):
        mx.argsort(self.x)
