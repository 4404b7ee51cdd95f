"""Launch plan of the AdamW step.

No primitive: optimizers are written on public ops and run on any backend. The plan is for whoever holds a parameter and
its state on Metal and wants one pass over memory. Mirrors metal/kernels/optimizer.metal. Sees layouts, never storages.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from mlxr.backends.metal.launch import SIMD, Argument, Launch, ceil_div
from mlxr.backends.metal.operands import bind, dtype_constants, joined, pack_lead, pack_steps, require
from mlxr.core.tensor import Tensor

WIDTH, HEIGHT = 4 * SIMD, 2  # of a threadgroup
DTYPE = 0


def adamw_step(
    parameter: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    rate: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor],
    *,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    bias_correction: bool = False,
    step: int = 1,
) -> list[Launch]:
    """Return the launch that makes one step of :class:`mlxr.optimizers.AdamW`.

    Parameters
    ----------
    parameter, gradient, m, v : Tensor
        Of one shape, with any strides: the parameter, its gradient, the running means.
    rate : Tensor
        The learning rate, one element: it may be the result of a schedule that has not run yet.
    outputs : tuple of Tensor
        Row-major; the new parameter, m and v, of the dtypes of the old ones.
    betas, eps, weight_decay, bias_correction
        As of the optimizer.
    step : int
        Number of this step, from 1; matters to the bias correction.

    Returns
    -------
    list of Launch
        Empty if the parameter has no elements.
    """
    op = "adamw_step"
    operands = (parameter, gradient, m, v)
    require(op, (*operands, rate, *outputs))
    if not parameter.size:
        return []
    shape, strides = joined(op, parameter.shape, [x.strides for x in operands])
    lead, n = shape[:-1], shape[-1]
    bound: list[Argument] = []
    packed = [pack_lead(lead)]
    for x, steps in zip(operands, strides, strict=True):
        argument, start = bind(op, x, lead, n, steps[:-1], steps[-1])
        bound.append(argument)
        packed.append(pack_steps(start, steps[:-1], steps[-1]))
    b1, b2 = betas
    corrections = (1 / (1 - b1**step), 1 / math.sqrt(1 - b2**step)) if bias_correction else (1.0, 1.0)
    rows = math.prod(lead)
    packed.append(struct.pack("<2I6f", rows, n, b1, b2, eps, weight_decay, *corrections))
    constants = dtype_constants(DTYPE, (*operands, rate))
    return [Launch("optimizer", "adamw_step", constants, (*bound, rate, *outputs, b"".join(packed)),
                   (ceil_div(n, WIDTH), ceil_div(rows, HEIGHT), 1), (WIDTH, HEIGHT, 1))]
