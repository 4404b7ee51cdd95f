"""Saving is atomic: whatever happens on the way, the old file or the new one is there, whole."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import stat
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import mlxr as mx
from mlxr.errors import FileAccessError
from mlxr.io import api, atomic

SAVERS = {
    "x.npy": lambda tensor: mx.save("x", tensor),
    "x.npz": lambda tensor: mx.savez("x", tensor),
    "x.safetensors": lambda tensor: mx.save_safetensors("x", {"arr_0": tensor}),
}


# Children run in other folders, and must find the package that this process found.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(mx.__file__).parents[1])}


def content(name):
    """Return the elements of a saved file as a list."""
    loaded = mx.load(name)
    return np.asarray(loaded["arr_0"] if isinstance(loaded, dict) else loaded).tolist()


@pytest.fixture
def umask():
    """Set the umask for a test, and put the old one back."""
    old = os.umask(0o027)
    yield
    os.umask(old)


@pytest.mark.parametrize("name", SAVERS)
def test_permission_bits(folder, umask, name):
    tensor = mx.array(np.zeros(3, np.float32))
    SAVERS[name](tensor)
    assert stat.S_IMODE(os.stat(name).st_mode) == 0o640
    os.chmod(name, 0o604)
    SAVERS[name](tensor)
    assert stat.S_IMODE(os.stat(name).st_mode) == 0o604
    assert os.listdir() == [name]


@pytest.mark.parametrize("name", SAVERS)
def test_a_symbolic_link_is_followed(folder, name):
    os.mkdir("store")
    os.symlink("store/real", name)
    for value in (1, 2):  # the first makes the file that the link points at
        SAVERS[name](mx.array(np.full(2, value, np.float32)))
        assert os.path.islink(name)
        assert content(name) == [value, value]
    assert os.listdir("store") == ["real"]


@pytest.mark.parametrize("name", SAVERS)
def test_only_a_regular_file_is_replaced(folder, name):
    os.mkfifo(name)
    with pytest.raises(FileAccessError, match="not a regular file"):
        SAVERS[name](mx.array(np.zeros(3, np.float32)))
    assert stat.S_ISFIFO(os.stat(name).st_mode)
    assert os.listdir() == [name]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(errno.ENOSPC, "no space"), MemoryError])
@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
@pytest.mark.parametrize("name", SAVERS)
def test_an_exception_leaves_the_old_file(folder, monkeypatch, name, place, failure):
    SAVERS[name](mx.array(np.arange(3, dtype=np.float32)))

    def fail(*args, **kwargs):
        raise failure

    if place == "write":
        monkeypatch.setattr(np.lib.format, "write_array", fail)
        monkeypatch.setattr(api.safetensors, "serialize_file", fail)
    else:
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (pathlib.Path, "replace")}[place], fail)
    with pytest.raises((FileAccessError, KeyboardInterrupt, MemoryError)) as caught:
        SAVERS[name](mx.array(np.zeros(3, np.float32)))
    if isinstance(failure, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.file == "x"
    monkeypatch.undo()
    os.chdir(folder)
    assert content(name) == [0, 1, 2]
    assert os.listdir() == [name]


def test_half_written_content_never_takes_the_place(folder):
    path = folder / "x"
    path.write_bytes(b"old")

    def fail_halfway():
        with atomic.replacing(str(path)) as temporary:
            pathlib.Path(temporary).write_bytes(b"half of the n")
            assert path.read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert path.read_bytes() == b"old"
    with atomic.replacing(str(path)) as temporary:
        pathlib.Path(temporary).write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(folder) == ["x"]


def test_the_disk_is_full(folder):
    """A limit on the size of files stands in for a full disk; the child reports what each way of saving raised."""
    program = """
        import resource, signal, numpy as np, mlxr as mx
        from mlxr.errors import FileAccessError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        small, large = mx.array(np.arange(3, dtype=np.float32)), mx.array(np.zeros(1 << 16, np.float32))
        mx.save("x", small); mx.savez("x", small); mx.save_safetensors("x", {"arr_0": small})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        for save in (lambda: mx.save("x", large), lambda: mx.savez("x", large),
                     lambda: mx.save_safetensors("x", {"arr_0": large})):
            try:
                save()
            except FileAccessError as error:
                print(error.file, error.reason)
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=60, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    lines = child.stdout.splitlines()
    assert len(lines) == 3, child
    assert all(line.startswith("x ") for line in lines)
    assert sorted(os.listdir()) == sorted(SAVERS)
    assert all(content(name) == [0, 1, 2] for name in SAVERS)


def test_a_killed_process_leaves_a_whole_file(folder):
    """Kill children that save without end, at many moments, and look at what they leave."""
    program = """
        import sys, numpy as np, mlxr as mx
        count = 200_000
        value = 0
        while True:
            tensor = mx.array(np.full(count, value, np.float32))
            mx.save("x", tensor); mx.savez("x", tensor); mx.save_safetensors("x", {"arr_0": tensor})
            value += 1
            print(value, flush=True)
    """
    rng = np.random.default_rng(3)
    halfway = 0
    for children in range(200):
        if children >= 8 and halfway:  # on a quiet machine a save is quick: go on until a kill has met one
            break
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, env=ENVIRONMENT
        )
        assert int(child.stdout.readline()) == 1  # all three files exist
        try:
            child.wait(timeout=float(rng.uniform(0, 0.05)))
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        for name in SAVERS:
            values = set(content(name))
            assert len(values) == 1
            assert len(content(name)) == 200_000
        left = [name for name in os.listdir() if name not in SAVERS]
        assert all(name.startswith((".mlxr-", ".tmp")) for name in left)
        halfway += bool(left)
        for name in left:
            os.unlink(name)
    assert halfway > 0  # at least one child was really killed in the middle of a save
