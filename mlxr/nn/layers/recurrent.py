"""Recurrent layers: RNN, GRU, LSTM. They go along the last axis but one."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.nn.layers.activations import tanh
from mlxr.nn.module import Module

__all__ = ["GRU", "LSTM", "RNN"]


class _Recurrent(Module):
    """What the layers share: how parameters start, and the part of a step that needs no state."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    def _uniform(self, *shape: int) -> mx.array:
        limit = 1.0 / math.sqrt(self.hidden_size)
        return mx.random.uniform(-limit, limit, shape)

    @staticmethod
    def _project(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
        """Multiply all positions by the input weight at once: one large GEMM in the place of many small ones."""
        return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


class RNN(_Recurrent):
    r"""The Elman network :math:`h_t = f(W_{xh} x_t + W_{hh} h_{t-1} + b)`.

    Parameters
    ----------
    input_size
        Size of the last axis of the input.
    hidden_size
        Size of the state.
    bias
        Whether ``bias`` is added.
    nonlinearity
        The function `f`; by default `tanh`.

    Raises
    ------
    InvalidValueError
        If `nonlinearity` cannot be called.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: Callable | None = None
    ) -> None:
        super().__init__(hidden_size)
        if nonlinearity is not None and not callable(nonlinearity):
            raise InvalidValueError(f"nonlinearity must be callable, not {nonlinearity!r}", nonlinearity=nonlinearity)
        self.nonlinearity = tanh if nonlinearity is None else nonlinearity
        self.Wxh = self._uniform(hidden_size, input_size)
        self.Whh = self._uniform(hidden_size, hidden_size)
        self.bias = self._uniform(hidden_size) if bias else None

    def _extra_repr(self) -> str:
        return (
            f"input_dims={self.Wxh.shape[1]}, hidden_size={self.hidden_size}, nonlinearity={self.nonlinearity}, "
            f"bias={self.bias is not None}"
        )

    def __call__(self, x: mx.array, hidden: mx.array | None = None) -> mx.array:
        """Return the states of all positions; `hidden` is the state before the first (zeros by default)."""
        projected = self._project(x, self.Wxh, self.bias)
        recurrent = self.Whh.T
        states = []
        for t in range(x.shape[-2]):
            step = projected[..., t, :]
            hidden = self.nonlinearity(step if hidden is None else mx.addmm(step, hidden, recurrent))
            states.append(hidden)
        return mx.stack(states, axis=-2)


class GRU(_Recurrent):
    r"""Gated recurrent units.

    .. math::
        r_t &= \sigma(W_{xr} x_t + W_{hr} h_{t-1} + b_r) \\
        z_t &= \sigma(W_{xz} x_t + W_{hz} h_{t-1} + b_z) \\
        n_t &= \tanh(W_{xn} x_t + b_n + r_t \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}

    Parameters
    ----------
    input_size
        Size of the last axis of the input.
    hidden_size
        Size of the state.
    bias
        Whether ``b`` and ``bhn`` are added.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__(hidden_size)
        self.Wx = self._uniform(3 * hidden_size, input_size)
        self.Wh = self._uniform(3 * hidden_size, hidden_size)
        self.b = self._uniform(3 * hidden_size) if bias else None
        self.bhn = self._uniform(hidden_size) if bias else None

    def _extra_repr(self) -> str:
        return f"input_dims={self.Wx.shape[1]}, hidden_size={self.hidden_size}, bias={self.b is not None}"

    def __call__(self, x: mx.array, hidden: mx.array | None = None) -> mx.array:
        """Return the states of all positions; `hidden` is the state before the first (zeros by default)."""
        projected = self._project(x, self.Wx, self.b)
        recurrent, recurrent_bias = self.Wh.T, self.bhn
        gates = 2 * self.hidden_size
        states = []
        for t in range(x.shape[-2]):
            step = projected[..., t, :]
            opening, candidate, from_state = step[..., :gates], step[..., gates:], recurrent_bias
            if hidden is not None:
                rotated = hidden @ recurrent
                opening = opening + rotated[..., :gates]
                from_state = rotated[..., gates:]
                if recurrent_bias is not None:
                    from_state = from_state + recurrent_bias
            reset, keep = mx.split(mx.sigmoid(opening), 2, axis=-1)
            candidate = mx.tanh(candidate if from_state is None else candidate + reset * from_state)
            new = (1 - keep) * candidate
            hidden = new if hidden is None else new + keep * hidden
            states.append(hidden)
        return mx.stack(states, axis=-2)


class LSTM(_Recurrent):
    r"""Long short-term memory.

    .. math::
        i_t, f_t, o_t &= \sigma(W_x x_t + W_h h_{t-1} + b) \text{ (a third each)} \\
        g_t &= \tanh(W_{xg} x_t + W_{hg} h_{t-1} + b_g) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    The rows of the weights are in the order i, f, g, o.

    Parameters
    ----------
    input_size
        Size of the last axis of the input.
    hidden_size
        Size of the state and of the cell.
    bias
        Whether ``bias`` is added.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__(hidden_size)
        self.Wx = self._uniform(4 * hidden_size, input_size)
        self.Wh = self._uniform(4 * hidden_size, hidden_size)
        self.bias = self._uniform(4 * hidden_size) if bias else None

    def _extra_repr(self) -> str:
        return f"input_dims={self.Wx.shape[1]}, hidden_size={self.hidden_size}, bias={self.bias is not None}"

    def __call__(
        self, x: mx.array, hidden: mx.array | None = None, cell: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Return the states and the cells of all positions; `hidden` and `cell` are those before the first."""
        projected = self._project(x, self.Wx, self.bias)
        recurrent = self.Wh.T
        states, cells = [], []
        for t in range(x.shape[-2]):
            step = projected[..., t, :]
            gates = step if hidden is None else mx.addmm(step, hidden, recurrent)
            write, forget, value, read = mx.split(gates, 4, axis=-1)
            new = mx.sigmoid(write) * mx.tanh(value)
            cell = new if cell is None else mx.sigmoid(forget) * cell + new
            hidden = mx.sigmoid(read) * mx.tanh(cell)
            states.append(hidden)
            cells.append(cell)
        return mx.stack(states, axis=-2), mx.stack(cells, axis=-2)
