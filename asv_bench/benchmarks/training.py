"""How long does one training step take?"""

import mlxr as mx
from mlxr import nn, optimizers

from .common import tensor


class Mlp:
    """Value, gradient and update of a three-layer perceptron."""

    def setup(self):
        """Make the model and the batch."""
        mx.random.seed(0)
        self.model = nn.Sequential(nn.Linear(64, 256), nn.relu, nn.Linear(256, 256), nn.relu, nn.Linear(256, 10))
        self.optimizer = optimizers.AdamW(learning_rate=1e-3)
        self.x, self.y = tensor(128, 64), mx.arange(128) % 10
        self.step = nn.value_and_grad(
            self.model, lambda model, x, y: nn.losses.cross_entropy(model(x), y, reduction="mean")
        )

    def time_value_and_grad(self):
        self.step(self.model, self.x, self.y)

    def time_step(self):
        _, gradients = self.step(self.model, self.x, self.y)
        self.optimizer.update(self.model, gradients)

    def peakmem_step(self):
        _, gradients = self.step(self.model, self.x, self.y)
        self.optimizer.update(self.model, gradients)
