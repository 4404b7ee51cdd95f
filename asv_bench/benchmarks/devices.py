"""How fast is each device that can be had: products, norms, rotary positions and attention, waited for?"""

import mlxr as mx
from mlxr.errors import MlxrError

try:
    from mlxr.bench import cases
    from mlxr.core.device import backend_of
except ImportError:  # asv runs these files on older commits too, which have none of this
    NAMES = ["none"]
else:
    NAMES = [case.name for case in cases("cpu", "float32", 64, 1)]

HIDDEN, TOKENS = 512, 128


class Devices:
    """One call of a language model's size on one device."""

    params = (NAMES, ["cpu", "mlx:cpu", "mlx:gpu", "metal"], ["float32", "bfloat16"])
    param_names = ("case", "device", "dtype")

    def setup(self, name, device, dtype):
        """Make the operands; leaves out devices that are not there, and stand-ins, whose times say nothing."""
        if name == "none":
            raise NotImplementedError("this commit has no mlxr.bench")
        try:
            facts = backend_of(device).info()
        except MlxrError as error:
            raise NotImplementedError(str(error)) from error
        if "stand-in" in facts:
            raise NotImplementedError("a software stand-in")
        self.run = next(case.run for case in cases(device, dtype, HIDDEN, TOKENS) if case.name == name)

    def time_call(self, name, device, dtype):
        mx.eval(self.run())
