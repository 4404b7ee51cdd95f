"""What does memory cost: the allocator, and copies that need not be?"""

import numpy as np

import mlxr as mx


class Allocator:
    """A block from the cache against a fresh one."""

    params = ([1024, 1 << 20, 1 << 26],)
    param_names = ("nbytes",)

    def setup(self, nbytes):
        """Fill the cache."""
        self.n = nbytes // 4
        mx.zeros((self.n,))

    def time_cached(self, nbytes):
        mx.zeros((self.n,))

    def time_fresh(self, nbytes):
        mx.clear_cache()
        mx.zeros((self.n,))


class Interop:
    """NumPy in and out."""

    def setup(self):
        """Make the operands."""
        self.array = np.ones((1024, 1024), np.float32)
        self.tensor = mx.ones((1024, 1024))

    def time_asarray(self):
        mx.asarray(self.array)

    def time_array(self):
        mx.array(self.array)

    def time_to_numpy(self):
        np.asarray(self.tensor)

    def peakmem_round_trip(self):
        np.asarray(mx.asarray(self.array))
