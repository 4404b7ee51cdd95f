"""The layers, one family a file."""

from mlxr.nn.layers.activations import *
from mlxr.nn.layers.base import *
from mlxr.nn.layers.containers import *
from mlxr.nn.layers.convolution import *
from mlxr.nn.layers.convolution_transpose import *
from mlxr.nn.layers.dropout import *
from mlxr.nn.layers.embedding import *
from mlxr.nn.layers.linear import *
from mlxr.nn.layers.normalization import *
from mlxr.nn.layers.pooling import *
from mlxr.nn.layers.positional_encoding import *
from mlxr.nn.layers.quantized import *
from mlxr.nn.layers.recurrent import *
from mlxr.nn.layers.transformer import *
from mlxr.nn.layers.upsample import Upsample as Upsample
