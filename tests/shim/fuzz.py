"""Calls the C ABI with random handles and arguments: a crash or a hang is a bug, an error is not.

    python tests/shim/fuzz.py SEED STEPS [LOG]

The tests run it as a process of its own. LOG receives every call before it is made, to find the one that did it.
Arguments that the header makes the caller's own word (how long an array of numbers is, whether a pointer is valid) are
kept; everything else is fair game.
"""

import ctypes
import pathlib
import random
import sys

import numpy as np

from mlxr import shim
from mlxr.shim import abi, binding
from mlxr.shim.native import UPSTREAM_FUNCTIONS

HANDLE, POINTER, INT32 = ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int32
REALS = [0.0, 1.0, -1.0, 1e-5, float("inf"), float("nan"), 1e30]
INTEGERS = [0, 0, 0, 1, 1, 2, 3, 4, -1, -2, 8, 32, 64, 2**31 - 1, -(2**31)]
NUMBERS = [0, 0, 1, 1, 2, 2, 3, 4, 5, 7, -1, 300]
SHAPES = [(), (4,), (3, 4), (2, 3, 4), (0,), (3, 0), (1, 2, 3, 4), (64, 64)]
DTYPES = ["f4", "f2", "i4", "u1", "?", "c8", "i8", "u4"]
LENGTH = 40  # of every array of numbers that is passed: more than any call reads for the counts it is given

CODES = [value for value in vars(abi).values() if isinstance(value, int) and value >= 0x100]
# The operation codes that a function takes as its first argument.
FAMILIES = {
    "mlxr_unary": abi.ABS,
    "mlxr_binary": abi.ADD,
    "mlxr_select": abi.WHERE,
    "mlxr_cast": abi.ASTYPE,
    "mlxr_reduce": abi.SUM,
    "mlxr_scan": abi.CUMSUM,
    "mlxr_sort": abi.SORT,
    "mlxr_slice_update": abi.UPDATE_SET,
    "mlxr_scatter": abi.UPDATE_SET,
    "mlxr_scatter_axis": abi.UPDATE_SET,
    "mlxr_fft": abi.FFT,
}
# Which arrays of numbers are int64_t; all others are int32_t.
WIDE = {
    "mlxr_reshape": {1},
    "mlxr_broadcast_to": {1},
    "mlxr_slice": {1, 2, 3},
    "mlxr_slice_update": {3, 4, 5},
    "mlxr_as_strided": {1, 2},
    "mlxr_pad": {1, 2},
    "mlxr_full": {1},
    "mlxr_random_bits": {1},
    "mlxr_gather": {4},
    "mlxr_fft": {2},
}
# Arguments that are arrays of handles.
LISTS = {"mlxr_concatenate": 0, "mlxr_gather": 1, "mlxr_scatter": 2, "mlxr_eval": 0, "mlxr_async_eval": 0}
# Arguments that are counts of entries, with the largest one that the arrays here serve.
COUNTS = {"mlxr_gather": {3: 2, 5: 8}, "mlxr_scatter": {4: 2}}
OUTPUTS = {"mlxr_divmod": 2, "mlxr_quantize": 3}
SKIPPED = {
    "mlxr_array_share",  # takes memory
    "mlxr_array_copy",  # likewise; arrays are made with it
    "mlxr_array_free",  # done with purpose
    "mlxr_array_free_many",
    "mlxr_conv",  # takes a struct
    "mlxr_run",
    "mlxr_linalg",
    "mlxr_device_info",
    "mlxr_released",
    "mlxr_memory_set",  # changes what follows
    "mlxr_stream_new",
    "mlxr_init",
    "mlxr_synchronize",
    "mlxr_last_error",
    "mlxr_upstream_version_compiled",
    "mlxr_upstream_version_loaded",
}


class Fuzz:
    """One run."""

    def __init__(self, seed, log):
        self.rng = random.Random(seed)
        self.log = log
        self.functions = ctypes.CDLL(str(shim.load().path))  # beside the binding's: handles are plain numbers here
        for name in UPSTREAM_FUNCTIONS:
            result, arguments = abi.PROTOTYPES[name]
            function = getattr(self.functions, name)
            function.restype, function.argtypes = result, arguments
        self.live, self.dead = [], []
        self.made = self.refused = 0
        self.names = [name for name in UPSTREAM_FUNCTIONS if name not in SKIPPED]

    def fresh(self):
        """Make an array from host memory."""
        x = np.ones(self.rng.choice(SHAPES)).astype(self.rng.choice(DTYPES))
        shape = (ctypes.c_int64 * 8)(*x.shape)
        handle = self.functions.mlxr_array_copy(x.ctypes.data, shape, x.ndim, binding._CODES[x.dtype])
        assert handle
        self.live.append(handle)

    def handle(self):
        """A handle: mostly a live one."""
        kind = self.rng.random()
        if kind < 0.80:
            return self.rng.choice(self.live)
        if kind < 0.86:
            return 0
        if kind < 0.93 and self.dead:
            return self.rng.choice(self.dead)
        return self.rng.getrandbits(64)

    def pointer(self, name, i):
        """An array for argument `i`."""
        if name == "mlxr_array_info_get":
            info = abi.ArrayInfo(size=self.rng.choice([0, ctypes.sizeof(abi.ArrayInfo)]))
            return (abi.ArrayInfo * 1)(info)
        if LISTS.get(name) == i:
            return (HANDLE * LENGTH)(*[self.handle() for _ in range(LENGTH)])
        if name in OUTPUTS:
            return (HANDLE * 4)()
        if self.rng.random() < 0.1:
            return None
        kind = ctypes.c_int64 if i in WIDE.get(name, ()) else ctypes.c_int32
        return (kind * LENGTH)(*[self.rng.choice(NUMBERS) for _ in range(LENGTH)])

    def arguments(self, name):
        """Arguments for a function."""
        kinds = abi.PROTOTYPES[name][1]
        values = []
        for i, kind in enumerate(kinds):
            if kind is HANDLE:
                values.append(self.handle())
            elif kind is POINTER:
                values.append(self.pointer(name, i))
            elif kind in (INT32, ctypes.c_int64):
                values.append(self.rng.choice([*INTEGERS, self.rng.choice(CODES)]))
            else:
                values.append(self.rng.choice(REALS))
        if name in FAMILIES and self.rng.random() < 0.9:
            values[0] = self.rng.choice([code for code in CODES if code >> 8 == FAMILIES[name] >> 8])
        if name in abi.MAKERS and self.rng.random() < 0.95:
            values[-1] = 0  # the stream
        if name in OUTPUTS:
            values[-2] = 0
        for i in range(1, len(values)):
            if kinds[i - 1] is POINTER and kinds[i] is INT32 and values[i - 1] is not None:
                values[i] = self.rng.choice([0, 1, 2, 3, 4, -1])
        for i, most in COUNTS.get(name, {}).items():
            values[i] = self.rng.randrange(most + 1)
        return values

    def note(self, text):
        """Write to the log at once."""
        if self.log:
            self.log.write(f"{text}\n")
            self.log.flush()

    def show(self, value):
        """A value for the log."""
        if isinstance(value, int) and value in self.live:
            info = abi.ArrayInfo(size=ctypes.sizeof(abi.ArrayInfo))
            self.functions.mlxr_array_info_get(value, ctypes.byref(info))
            return f"<{info.dtype}: {info.shape[: info.ndim]}>"
        if isinstance(value, ctypes.Array) and value._type_ is not abi.ArrayInfo:
            return [self.show(x) for x in value[:6]]
        return value

    def call(self):
        """Make one random call, and look at what comes back."""
        f = self.functions
        name = self.rng.choice(self.names)
        values = self.arguments(name)
        self.note(f"{name} {[self.show(value) for value in values] if self.log else ''}")
        result = getattr(f, name)(*values)
        if name in abi.MAKERS and result:
            info = abi.ArrayInfo(size=ctypes.sizeof(abi.ArrayInfo))
            assert f.mlxr_array_info_get(result, ctypes.byref(info)) == abi.OK
            self.made += 1
            if info.count < 1 << 16:
                self.live.append(result)
            else:
                assert f.mlxr_array_free(result) == abi.OK
        elif name in abi.MAKERS:
            self.refused += 1
            assert f.mlxr_last_error_code() != abi.OK
            assert f.mlxr_last_error()
        elif name in OUTPUTS and result == abi.OK:
            self.live += [handle for handle in values[-1][: OUTPUTS[name]] if handle]
        elif name == "mlxr_array_retain" and result == abi.OK:
            assert f.mlxr_array_free(values[0]) == abi.OK

    def free(self, handle):
        """Free a handle twice: once rightly."""
        self.live.remove(handle)
        self.dead.append(handle)
        assert self.functions.mlxr_array_free(handle) == abi.OK
        assert self.functions.mlxr_array_free(handle) == abi.E_HANDLE

    def run(self, steps):
        """Make many calls."""
        for _ in range(steps):
            while len(self.live) < 12:
                self.fresh()
            self.call()
            if self.rng.random() < 0.3:
                self.free(self.rng.choice(self.live))
            while len(self.live) > 60:
                self.free(self.live[-1])
            if self.live and self.rng.random() < 0.2:
                handle = self.rng.choice(self.live)
                self.note(f"evaluate {self.show(handle)}")
                self.functions.mlxr_eval((HANDLE * 1)(handle), 1)
        assert self.made > steps // 50
        assert self.refused > steps // 50


if __name__ == "__main__":
    with pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else "/dev/null").open("w") as log:
        Fuzz(int(sys.argv[1]), log if len(sys.argv) > 3 else None).run(int(sys.argv[2]))
    print("survived")
