"""What does a call cost, apart from the arithmetic?"""

import mlxr as mx

from .common import tensor


class Call:
    """The shortest call of each kind of op, on one element."""

    def setup(self):
        """Make the operands."""
        self.x, self.y = tensor(1), tensor(1, seed=1)
        self.matrix = tensor(4, 4)
        self.rows = mx.array([2, 0, 1])
        self.mask = self.matrix > 0

    def time_add(self):
        mx.add(self.x, self.y)

    def time_add_operator(self):
        self.x + self.y

    def time_add_scalar(self):
        self.x + 1.0

    def time_eval(self):
        mx.eval(self.x)

    def time_exp(self):
        mx.exp(self.x)

    def time_sum(self):
        mx.sum(self.x)

    def time_reshape(self):
        self.matrix.reshape(2, 8)

    def time_transpose(self):
        self.matrix.transpose()

    def time_getitem_int(self):
        self.matrix[1]

    def time_getitem_slice(self):
        self.matrix[1:, ::2]

    def time_getitem_array(self):
        self.matrix[self.rows]

    def time_where(self):
        mx.where(self.mask, self.matrix, self.matrix)

    def time_concatenate(self):
        mx.concatenate([self.matrix, self.matrix], axis=1)

    def time_split(self):
        mx.split(self.matrix, 2)

    def time_matmul(self):
        self.matrix @ self.matrix

    def time_astype(self):
        self.x.astype(mx.float16)

    def time_item(self):
        self.x.item()

    def time_array_of_list(self):
        mx.array([1.0, 2.0, 3.0])
