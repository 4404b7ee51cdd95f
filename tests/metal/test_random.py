"""Random primitives on the stand-in against the CPU backend: the same bits from the same keys."""

import numpy as np
import pytest
from metal_plans import agree, on

import mlxr as mx
from mlxr.core.dispatch import apply
from mlxr.core.primitive import registry


def sampled(name, key, *params):
    return apply(registry[name], (key,), params)


KEYS = mx.array(np.array([[1, 2], [0, 0], [0xFFFFFFFF, 0x80000000], [7, 0xDEADBEEF]], np.uint32))
SHAPES = ((), (1,), (2,), (3,), (7,), (4, 5), (601,))


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
def test_bits_are_the_cpus(order, device, backend):
    backend.order = order
    (keys,) = on(device, KEYS)
    for width in (1, 2, 4):
        for shape in SHAPES:
            agree(mx.random.bits(shape, width, KEYS[3]), mx.random.bits(shape, width, keys[3]))
    agree(mx.random.split(KEYS[2], 5), mx.random.split(keys[2], 5))


def test_several_keys_fill_equal_shares(device):
    (keys,) = on(device, KEYS)
    for shape in SHAPES:
        for dtype in (mx.uint8, mx.uint16, mx.uint32):
            agree(sampled("random_bits", KEYS, shape, dtype), sampled("random_bits", keys, shape, dtype))
        agree(sampled("random_bernoulli", KEYS, shape, 1.5e9), sampled("random_bernoulli", keys, shape, 1.5e9))
        for dtype in (mx.float32, mx.float16, mx.bfloat16):
            params = (shape, dtype, -1.5, 2.25)
            agree(sampled("random_uniform", KEYS, *params), sampled("random_uniform", keys, *params))
    views = [lambda k: k[::-1], lambda k: k[::2], lambda k: mx.contiguous(k.T).T, lambda k: k[:, ::-1]]
    for view in views:
        agree(sampled("random_bits", view(KEYS), (9,), mx.uint32), sampled("random_bits", view(keys), (9,), mx.uint32))


def test_normal_samples(device):
    (keys,) = on(device, KEYS)
    for dtype, ulps in ((mx.float32, 8), (mx.float16, 2), (mx.bfloat16, 2)):
        params = ((500,), dtype, 0.5, 1.375)
        agree(sampled("random_normal", KEYS, *params), sampled("random_normal", keys, *params), ulps, 1.0)
    params = ((301,), mx.complex64, 0.25, 2.0)
    expected, got = sampled("random_normal", KEYS, *params), sampled("random_normal", keys, *params)
    for part in (mx.real, mx.imag):
        agree(part(expected), part(got), 8, 1.0)


def test_public_functions_on_the_device(device):
    (keys,) = on(device, KEYS)
    for function in (mx.random.uniform, mx.random.normal):
        expected, got = function(shape=(33,), key=KEYS[0]), function(shape=(33,), key=keys[0])
        agree(expected, got, 8, 1.0)
    agree(mx.random.bernoulli(0.3, (70,), key=KEYS[1]), mx.random.bernoulli(0.3, (70,), key=keys[1]))
    agree(mx.random.randint(-5, 9, (50,), key=KEYS[1]), mx.random.randint(-5, 9, (50,), key=keys[1]))


def test_checker_finds_nothing(device, backend):
    backend.checked = True
    (keys,) = on(device, KEYS)
    for dtype in (mx.uint8, mx.uint16, mx.uint32):
        agree(sampled("random_bits", KEYS, (7,), dtype), sampled("random_bits", keys, (7,), dtype))
    agree(sampled("random_uniform", KEYS, (9,), mx.float16, 0.0, 1.0),
          sampled("random_uniform", keys, (9,), mx.float16, 0.0, 1.0))
    agree(sampled("random_bernoulli", KEYS, (5,), 3e9), sampled("random_bernoulli", keys, (5,), 3e9))
    expected = sampled("random_normal", KEYS, (3,), mx.complex64, 0.0, 1.0)
    agree(mx.real(expected), mx.real(sampled("random_normal", keys, (3,), mx.complex64, 0.0, 1.0)), 8, 1.0)
