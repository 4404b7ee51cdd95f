"""How long does one training step take?"""

import mlxr as mx
from mlxr import nn, optimizers

from .common import tensor


class Mlp:
    """Value, gradient and update of a three-layer perceptron."""

    params = ([8, 128],)
    param_names = ("batch",)

    def setup(self, batch):
        """Make the model and the batch."""
        mx.random.seed(0)
        self.model = nn.Sequential(nn.Linear(64, 256), nn.relu, nn.Linear(256, 256), nn.relu, nn.Linear(256, 10))
        self.optimizer = optimizers.AdamW(learning_rate=1e-3)
        self.x, self.y = tensor(batch, 64), mx.arange(batch) % 10
        self.step = nn.value_and_grad(
            self.model, lambda model, x, y: nn.losses.cross_entropy(model(x), y, reduction="mean")
        )

    def time_value_and_grad(self, batch):
        self.step(self.model, self.x, self.y)

    def time_step(self, batch):
        _, gradients = self.step(self.model, self.x, self.y)
        self.optimizer.update(self.model, gradients)

    def peakmem_step(self, batch):
        _, gradients = self.step(self.model, self.x, self.y)
        self.optimizer.update(self.model, gradients)


class Transformer:
    """Value and gradient of two encoder layers."""

    def setup(self):
        """Make the model and the batch."""
        mx.random.seed(0)
        self.model = nn.TransformerEncoder(num_layers=2, dims=128, num_heads=4, mlp_dims=512)
        self.x = tensor(4, 64, 128)
        self.step = nn.value_and_grad(self.model, lambda model, x: mx.mean(mx.square(model(x, None))))

    def time_value_and_grad(self):
        self.step(self.model, self.x)

    def peakmem_value_and_grad(self):
        self.step(self.model, self.x)
