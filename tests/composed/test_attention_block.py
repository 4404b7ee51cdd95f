"""The attention block on every backend, against the values that upstream recorded.

QKV projection, rotary embedding, masked attention, output projection, residual and normalization, with gradients: the
pieces have tests of their own; this is about their composition.
"""

import attention_block
import numpy as np
import packed
import pytest

import mlxr as mx

GOLDEN = packed.load(attention_block.FILE)
DEVICES = ("cpu", "mlx:cpu", "metal")


def on(device):
    if not mx.is_available(device):
        pytest.skip(f"device {device} is not available: its library is not built")
    return mx.default_device(device)


@pytest.mark.parametrize("mask", attention_block.MASKS)
@pytest.mark.parametrize("device", DEVICES)
def test_output_and_gradients_are_upstreams(device, mask):
    with on(device):
        got = attention_block.run(mx, GOLDEN["inputs"], mx.float32, mask)
    assert got.keys() == GOLDEN[mask].keys()
    for name, wanted in GOLDEN[mask].items():
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(got[name] / scale, wanted / scale, rtol=0, atol=3e-6, err_msg=name)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 4e-3), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("device", DEVICES)
def test_narrow_dtypes_are_close(device, dtype, tolerance):
    with on(device):
        got = attention_block.run(mx, GOLDEN["inputs"], getattr(mx, dtype), "causal")
    for name, wanted in GOLDEN["causal"].items():
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(got[name] / scale, wanted / scale, rtol=0, atol=tolerance, err_msg=name)


def test_the_recorded_inputs_are_the_blocks():
    for name, array in attention_block.inputs().items():
        np.testing.assert_array_equal(GOLDEN["inputs"][name], array)


def test_a_hidden_token_has_no_influence():
    x = dict(GOLDEN["inputs"])
    changed = {**x, "x": x["x"].copy()}
    changed["x"][:, -1] += 1
    a, b = (attention_block.run(mx, v, mx.float32, "causal")["out"] for v in (x, changed))
    np.testing.assert_array_equal(a[:, :-1], b[:, :-1])
    assert np.abs(a[:, -1] - b[:, -1]).max() > 0.1


def test_upstream_still_computes_what_was_recorded():
    upstream = pytest.importorskip("mlx.core", reason="upstream MLX is not installed")
    with upstream.stream(upstream.cpu):
        for mask in attention_block.MASKS:
            for name, wanted in attention_block.run(upstream, GOLDEN["inputs"], upstream.float32, mask).items():
                scale = np.abs(wanted).max()
                np.testing.assert_allclose(wanted / scale, GOLDEN[mask][name] / scale, rtol=0, atol=3e-6, err_msg=name)
