"""The AdamW step against mlxr.optimizers.AdamW on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from metal_launches import MODES, agree, run, tensor

import mlxr as mx
from mlxr import optimizers
from mlxr.backends.metal.optimizer import adamw_step


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("bias_correction", [False, True])
def test_adamw(dtype, bias_correction):
    rng = np.random.default_rng(0)
    facts = {"betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1, "bias_correction": bias_correction}
    for shape in ((), (5,), (3, 200), (2, 3, 4)):
        for view in (lambda x: x, lambda x: x.T, lambda x: x[..., ::-2] if x.ndim else x):
            operands = [view(tensor(rng, shape, dtype)) for _ in range(3)]
            operands.append(view(tensor(rng, shape, dtype, 0.1, 1.0)))
            optimizer = optimizers.AdamW(0.05, **facts)
            optimizer.state["step"] = mx.array(3, dtype=mx.uint64)
            state = {"m": operands[2], "v": operands[3]}
            expected = optimizer.apply_single(operands[1], operands[0], state)
            for order, checked in MODES:
                outs = tuple(mx.zeros(x.shape, dtype=dtype) for x in (operands[0], *operands[2:]))
                run(adamw_step(*operands, mx.array(0.05), outs, step=3, **facts), order, checked)
                for wanted, got in zip((expected, state["m"], state["v"]), outs, strict=True):
                    agree(wanted, got, 8, 1.0, "adamw")


def test_results_may_take_the_memory_of_operands():
    rng = np.random.default_rng(0)
    w, g, m, v = (tensor(rng, (40,), low=0.1) for _ in range(4))
    fresh = tuple(mx.zeros((40,)) for _ in range(3))
    run(adamw_step(w, g, m, v, mx.array(0.1), fresh))
    run(adamw_step(w, g, m, v, mx.array(0.1), (w, m, v)))
    for a, b in zip(fresh, (w, m, v), strict=True):
        agree(a, b, 0, None, "in place")
