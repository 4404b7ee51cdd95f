"""How fast are convolutions, by the axes they slide over and by what they are used for?"""

import mlxr as mx

from .common import tensor

# name -> (input, weight, options): channels last, weights as (out, kernel..., in / groups)
CASES = {
    "1d audio": ((4, 3000, 80), (128, 3, 80), {"padding": 1}),
    "2d 3x3": ((4, 32, 32, 64), (64, 3, 3, 64), {"padding": 1}),
    "2d stride 2": ((4, 64, 64, 32), (64, 3, 3, 32), {"padding": 1, "stride": 2}),
    "2d patches": ((2, 224, 224, 3), (192, 16, 16, 3), {"stride": 16}),
    "2d depthwise": ((4, 32, 32, 128), (128, 3, 3, 1), {"padding": 1, "groups": 128}),
    "3d 3x3x3": ((1, 8, 24, 24, 16), (32, 3, 3, 3, 16), {"padding": 1}),
}
FUNCTIONS = {1: mx.conv1d, 2: mx.conv2d, 3: mx.conv3d}


class Conv:
    """One use, one dtype."""

    params = (list(CASES), ["float32", "bfloat16"])
    param_names = ("case", "dtype")

    def setup(self, case, dtype):
        """Make the operands."""
        x, weight, self.options = CASES[case]
        self.f = FUNCTIONS[len(x) - 2]
        self.x, self.weight = tensor(*x, dtype=dtype), tensor(*weight, dtype=dtype, seed=1)

    def time_conv(self, case, dtype):
        self.f(self.x, self.weight, **self.options)

    def peakmem_conv(self, case, dtype):
        self.f(self.x, self.weight, **self.options)


class Gradient:
    """A 3x3 convolution and its gradients."""

    def setup(self):
        """Make the operands."""
        self.x, self.weight = tensor(4, 32, 32, 64), tensor(64, 3, 3, 64, seed=1)
        self.f = mx.value_and_grad(lambda x, weight: mx.sum(mx.conv2d(x, weight, padding=1)), argnums=(0, 1))

    def time_value_and_grad(self):
        self.f(self.x, self.weight)
