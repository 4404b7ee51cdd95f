"""mlxr: MLX's Python API on every machine.

``import mlxr as mx`` gives MLX's names over mlxr's own CPU kernels; ``mlxr.nn``, ``mlxr.optimizers``, ``mlxr.utils``,
``mlxr.fast``, ``mlxr.random`` hold the rest.
"""

import math as _math

from mlxr import (
    errors,
    fast,
    fft,
    linalg,
    metal,
    random,
)
from mlxr._version import __version__
from mlxr.backends import default as _default
from mlxr.backends import registry as _registry
from mlxr.backends.threads import get_num_threads, set_num_threads
from mlxr.core.device import (
    Device,
    DeviceType,
    Stream,
    cpu,
    default_device,
    default_stream,
    gpu,
    is_available,
    new_stream,
    set_default_device,
    set_default_stream,
    stream,
)
from mlxr.core.dispatch import broadcast_shapes
from mlxr.core.dtype import (
    Dtype,
    DtypeCategory,
    bfloat16,
    bool_,
    complex64,
    complexfloating,
    finfo,
    float16,
    float32,
    float64,
    floating,
    generic,
    iinfo,
    inexact,
    int8,
    int16,
    int32,
    int64,
    integer,
    issubdtype,
    number,
    signedinteger,
    uint8,
    uint16,
    uint32,
    uint64,
    unsignedinteger,
)
from mlxr.core.interop import from_dlpack
from mlxr.core.printing import PrintOptions, get_printoptions, printoptions, set_printoptions
from mlxr.core.storage import (
    clear_cache,
    get_active_memory,
    get_cache_limit,
    get_cache_memory,
    get_copied_bytes,
    get_memory_limit,
    get_peak_memory,
    reset_copied_bytes,
    reset_peak_memory,
    set_cache_limit,
    set_memory_limit,
    set_wired_limit,
)
from mlxr.core.tensor import Tensor
from mlxr.io import load, save, save_safetensors, savez, savez_compressed
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
from mlxr.transforms import (
    async_eval,
    checkpoint,
    custom_function,
    depends,
    eval,
    grad,
    jvp,
    stop_gradient,
    synchronize,
    value_and_grad,
    vjp,
)

array = Tensor

# Numbers under MLX's names; None makes a new axis in an index.
e, euler_gamma, inf, nan, newaxis, pi = _math.e, 0.5772156649015329, _math.inf, _math.nan, None, _math.pi

_default.install()
