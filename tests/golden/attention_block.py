"""A transformer's attention block, written against MLX's names, so that any library with them can run it.

Normalization, a projection to queries, keys and values, rotary embedding, masked attention with shared key heads, a
projection back, and the residual. Run as a program where upstream is installed, it writes attention_block.npz: the
inputs and upstream's output and gradients. The tests compare every backend with that file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("attention_block.npz")
BATCH, TOKENS, WIDTH, HEADS, KEY_HEADS, HEAD = 2, 7, 24, 4, 2, 8
# Masks: a name of upstream's, or what is added to the scores; the last is of one batch entry that is padded.
MASKS = ("causal", "none", "padding")


def inputs() -> dict[str, np.ndarray]:
    """Return the activations and weights."""
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    return {
        "x": draw(BATCH, TOKENS, WIDTH) * 3,
        "norm": 1 + 0.1 * draw(WIDTH),
        "qkv": draw((HEADS + 2 * KEY_HEADS) * HEAD, WIDTH),
        "out": draw(WIDTH, HEADS * HEAD),
    }


def mask_of(m, name):
    """Return the mask as attention takes it."""
    if name != "padding":
        return name if name == "causal" else None
    lengths = np.array([TOKENS, 4])
    visible = np.arange(TOKENS)[None] < lengths[:, None]
    return m.array(visible[:, None, None, :])


def block(m, arrays, mask, offset=0):
    """Return the block's output for tensors of library `m`."""
    x = arrays["x"]
    batch, tokens, _ = x.shape
    h = m.fast.rms_norm(x, arrays["norm"], 1e-5)
    q, k, v = m.split(h @ arrays["qkv"].T, [HEADS * HEAD, (HEADS + KEY_HEADS) * HEAD], axis=-1)
    q = m.transpose(m.reshape(q, (batch, tokens, HEADS, HEAD)), (0, 2, 1, 3))
    k, v = (m.transpose(m.reshape(t, (batch, tokens, KEY_HEADS, HEAD)), (0, 2, 1, 3)) for t in (k, v))
    q, k = (
        m.fast.rope(t, HEAD, traditional=False, base=10000.0, scale=1.0, offset=offset) for t in (q, k)
    )
    y = m.fast.scaled_dot_product_attention(q, k, v, scale=HEAD**-0.5, mask=mask)
    y = m.reshape(m.transpose(y, (0, 2, 1, 3)), (batch, tokens, HEADS * HEAD))
    return x + y @ arrays["out"].T


def run(m, values, dtype, mask):
    """Return the output, and the gradients of the sum of its squares, in a dtype, as float32 ndarrays."""
    arrays = {name: m.array(a).astype(dtype) for name, a in values.items()}
    names = list(arrays)

    def loss(*tensors):
        return m.sum(m.square(block(m, dict(zip(names, tensors, strict=True)), mask_of(m, mask)).astype(m.float32)))

    out = block(m, arrays, mask_of(m, mask), offset=3)
    gradients = m.grad(loss, argnums=tuple(range(len(names))))(*arrays.values())
    results = {"out": out, **{f"d_{name}": g for name, g in zip(names, gradients, strict=True)}}
    return {name: np.array(r.astype(m.float32)) for name, r in results.items()}


def main() -> None:
    """Write upstream's values."""
    import mlx.core as mx
    import packed

    mx.set_default_device(mx.cpu)
    values = inputs()
    cases = {"inputs": values}
    for mask in MASKS:
        cases[mask] = run(mx, values, mx.float32, mask)
    packed.save(FILE, cases)


if __name__ == "__main__":
    main()
