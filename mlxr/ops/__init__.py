"""The operations: one declaration each, grouped by family, and the table that gives Tensor its methods.

Importing this package declares every op and installs the functions behind the operators and methods of
``mlxr.core.tensor.Tensor``. Gradients refer to ops of other families through this package.
"""

from mlxr.core import convert as _convert
from mlxr.core import interop as _interop
from mlxr.core import printing as _printing
from mlxr.core.tensor import get_bindings as _get_bindings
from mlxr.ops import elementwise as _elementwise
from mlxr.ops import fft as _fft  # its names are mlxr.fft's
from mlxr.ops import linalg as _linalg  # its names are mlxr.linalg's
from mlxr.ops import random as _random  # its names are mlxr.random's
from mlxr.ops.compare import *
from mlxr.ops.conv import *
from mlxr.ops.creation import *
from mlxr.ops.einsum import *
from mlxr.ops.elementwise import *
from mlxr.ops.fused import *
from mlxr.ops.indexing import *
from mlxr.ops.layout import *
from mlxr.ops.matmul import *
from mlxr.ops.matrix import *
from mlxr.ops.quantized import *
from mlxr.ops.reduce import *
from mlxr.ops.sort import *
from mlxr.ops.types import *
from mlxr.ops.windows import *


def _install() -> None:
    """Give Tensor its operators and methods."""
    here = globals()
    table = _get_bindings()
    for name in (
        "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power", "matmul", "negative", "abs",
        "bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift",
        "bitwise_invert", "logical_not", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
    ):
        setattr(table, name, here[name])
    table.construct = _interop.construct
    table.getitem = here["getitem"]
    table.setitem = here["setitem"]
    table.at = here["ArrayAt"]
    table.to_numpy = _interop.to_numpy
    table.to_dlpack = _interop.to_dlpack
    table.to_string = _printing.to_string
    table.to_list = _convert.to_list
    table.to_format = _printing.format_tensor
    methods = table.methods
    for name in (
        "abs", "all", "any", "argmax", "argmin", "astype", "conjugate", "cos", "cummax", "cummin", "cumprod",
        "cumsum", "diag", "diagonal", "exp", "flatten", "imag", "log", "log10", "log1p", "log2", "logcumsumexp",
        "logsumexp", "matrix_transpose", "max", "mean", "min", "moveaxis", "prod", "real", "reciprocal", "reshape",
        "round", "rsqrt", "sin", "split", "sqrt", "square", "squeeze", "stack", "std", "sum", "swapaxes", "transpose",
        "var", "view",
    ):
        methods[name] = here[name]
    for name in ("array_interface", "dlpack_device", "reduce_for_pickle", "row_major_bytes", "to_device", "wait"):
        methods[name] = getattr(_interop, name)
    methods["scalar"] = _convert.scalar
    methods["copy"] = _elementwise.copy


_install()
