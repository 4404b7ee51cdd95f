"""Memory: alignment, the word in front of each block, the cache and its limits, and what the counters say."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import InvalidValueError, MlxrError, OutOfMemoryError, ShapeError


@pytest.fixture(autouse=True)
def _fresh_cache():
    gc.collect()
    mx.clear_cache()
    cache, memory = mx.get_cache_limit(), mx.get_memory_limit()
    yield
    mx.set_cache_limit(cache)
    mx.set_memory_limit(memory)


@pytest.mark.parametrize("nbytes", [1, 63, 64, 65, 1000, 4097, 65535])
def test_small_blocks_are_aligned_to_a_cache_line(nbytes) -> None:
    assert all(mx.zeros((nbytes,), mx.uint8).data_ptr % 64 == 0 for _ in range(5))


@pytest.mark.parametrize("nbytes", [65536, 65537, 1 << 20, (1 << 23) + 1])
def test_large_blocks_are_aligned_to_a_page_of_apple_silicon(nbytes) -> None:
    assert mx.zeros((nbytes,), mx.uint8).data_ptr % 16384 == 0


@pytest.mark.parametrize("nbytes", [1, 64, 100, 5000, 70000, 3 << 20])
def test_word_in_front_of_a_block_is_its_capacity(nbytes) -> None:
    x = mx.zeros((nbytes,), mx.uint8)
    capacity = ctypes.c_uint64.from_address(x.data_ptr - 8).value
    assert nbytes <= capacity <= max(64, 2 * nbytes)


def test_counters_follow_allocations() -> None:
    active = mx.get_active_memory()
    mx.reset_peak_memory()
    x = mx.zeros((1000, 1000))
    size = mx.get_active_memory() - active
    assert 4_000_000 <= size <= 4_600_000
    assert mx.get_peak_memory() >= mx.get_active_memory()
    view = x[10:20]
    assert mx.get_active_memory() - active == size
    del x
    assert mx.get_active_memory() - active == size
    del view
    assert mx.get_active_memory() == active
    assert mx.get_cache_memory() >= size
    mx.clear_cache()
    assert mx.get_cache_memory() == 0


def test_freed_block_is_used_again() -> None:
    x = mx.zeros((500, 500))
    address = x.data_ptr
    del x
    assert mx.zeros((500, 500)).data_ptr == address


def test_cache_limit() -> None:
    previous = mx.set_cache_limit(0)
    assert mx.get_cache_limit() == 0
    mx.zeros((1000, 1000))
    assert mx.get_cache_memory() == 0
    assert mx.set_cache_limit(1 << 20) == 0
    kept = [mx.zeros((200, 1000)) for _ in range(4)]
    del kept
    assert 0 < mx.get_cache_memory() <= 1 << 20
    mx.set_cache_limit(previous)


def test_memory_limit_gives_the_cache_back() -> None:
    kept = mx.zeros((1000, 1000))
    del kept
    cached = mx.get_cache_memory()
    assert cached > 0
    mx.set_memory_limit(mx.get_active_memory() + cached)
    x = mx.zeros((1300, 1000))
    assert mx.get_cache_memory() < cached
    assert x.sum().item() == 0


@pytest.mark.parametrize("function", [mx.set_cache_limit, mx.set_memory_limit, mx.set_wired_limit])
def test_limits_refuse_nonsense(function) -> None:
    for value in (-1, 1 << 62):
        with pytest.raises(InvalidValueError):
            function(value)


def test_too_large_an_allocation_is_a_typed_error() -> None:
    with pytest.raises(MlxrError) as caught:
        mx.zeros((1 << 60,), mx.uint8)
    assert isinstance(caught.value, OutOfMemoryError)
    assert isinstance(caught.value, MemoryError)
    assert caught.value.nbytes == 1 << 60
    for shape in ((1 << 40, 1 << 40), (1 << 62, 8)):
        with pytest.raises(ShapeError):
            mx.zeros(shape)
    assert mx.zeros((1 << 40, 0, 1 << 40)).size == 0


def test_every_size_class_holds_what_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    sizes = np.concatenate([np.arange(1, 300), 2 ** np.arange(1, 22), 2 ** np.arange(1, 22) + 1,
                            rng.integers(1, 1 << 22, 200)])
    for size in sizes.tolist():
        x = mx.ones((size,), mx.uint8)
        assert ctypes.c_uint64.from_address(x.data_ptr - 8).value >= size
        assert x[size - 1].item() == 1
