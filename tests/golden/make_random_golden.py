"""Write random_golden.npz: upstream MLX's random numbers for many keys, shapes, dtypes and distributions.

    pip install "mlx[cpu]" numpy        (and g++: raw bits are reached through upstream_bits.cpp)
    python tests/golden/make_random_golden.py

The file holds one array per case, named by its number, and `cases`: a JSON list with one entry per case:

    function   name in mlx.core.random, or "bits" (width and shape), or "sequence" (seed the global generator, draw
               `draws` uniforms of `shape`, stacked)
    seed       the key is key(seed)
    keys       if present: the function is vmapped over split(key(seed), keys), keys in front
    args       keyword arguments; dtype by name; {"array": nested list, "dtype": name} is an array
    exact      whether the result must be equal; otherwise it agrees to the rounding of log, erf and erfinv

bfloat16 results are stored as their uint16 bits. Figures come from mlx 0.32.4 on x86-64.
"""
from __future__ import annotations

import ctypes
import importlib.util
import json
import pathlib
import subprocess
import tempfile

import mlx.core as mx
import numpy as np

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 42, 2**32 + 5, 2**64 - 1)
SIZES = (1, 2, 3, 7, 16, 33)


def cases():
    for seed in SEEDS:
        for width in (4, 2, 1):
            for n in (*SIZES, 1030):
                if n < 1000 or seed == 42:
                    yield {"function": "bits", "seed": seed, "args": {"shape": [n], "width": width}, "exact": True}
            for keys in (2, 3):
                for n in (1, 3, 8):
                    yield {"function": "bits", "seed": seed, "keys": keys,
                           "args": {"shape": [n], "width": width}, "exact": True}
        for num in (1, 2, 5):
            yield {"function": "split", "seed": seed, "args": {"num": num}, "exact": True}
        for dtype in ("float32", "float16", "bfloat16"):
            for shape in ([], [5], [4, 3]):
                for bounds in ({}, {"low": -1, "high": 3}, {"low": 0.1, "high": 0.7}):
                    yield {"function": "uniform", "seed": seed,
                           "args": {"shape": shape, "dtype": dtype, **bounds}, "exact": True}
        for keys in (2, 3):
            yield {"function": "uniform", "seed": seed, "keys": keys, "args": {"shape": [5]}, "exact": True}
        for dtype in ("int32", "uint8", "int64", "uint64"):
            yield {"function": "randint", "seed": seed,
                   "args": {"low": 3, "high": 100, "shape": [9], "dtype": dtype}, "exact": True}
        yield {"function": "randint", "seed": seed, "args": {"low": -50, "high": 50, "shape": [3, 5]}, "exact": True}
        for low, high in ((0, 2**31 - 1), (10, 0), (7, 8)):
            yield {"function": "randint", "seed": seed, "args": {"low": low, "high": high, "shape": [6]}, "exact": True}
        yield {"function": "randint", "seed": seed, "exact": True,
               "args": {"low": {"array": [0, 10], "dtype": "int32"}, "high": {"array": [5, 20], "dtype": "int32"},
                        "shape": [4, 2]}}
        for p in (0.0, 0.1, 0.5, 1.0):
            yield {"function": "bernoulli", "seed": seed, "args": {"p": p, "shape": [40]}, "exact": True}
        yield {"function": "bernoulli", "seed": seed, "exact": True,
               "args": {"p": {"array": [0.2, 0.9], "dtype": "float32"}}}
        for n in (1, 2, 10, 65):
            yield {"function": "permutation", "seed": seed, "args": {"x": n}, "exact": True}
        matrix = {"array": np.arange(12).reshape(3, 4).tolist(), "dtype": "int32"}
        for axis in (0, 1, -1):
            yield {"function": "permutation", "seed": seed, "args": {"x": matrix, "axis": axis}, "exact": True}
        for dtype in ("float32", "float16", "bfloat16"):
            for extra in ({}, {"loc": 2.0, "scale": 3.0}, {"loc": -1.0}, {"scale": 0.5}):
                yield {"function": "normal", "seed": seed,
                       "args": {"shape": [3, 5], "dtype": dtype, **extra}, "exact": False}
            yield {"function": "truncated_normal", "seed": seed,
                   "args": {"lower": -1, "upper": 2, "shape": [9], "dtype": dtype}, "exact": False}
            yield {"function": "gumbel", "seed": seed, "args": {"shape": [9], "dtype": dtype}, "exact": False}
            for extra in ({}, {"loc": 1.0, "scale": 2.0}):
                yield {"function": "laplace", "seed": seed,
                       "args": {"shape": [9], "dtype": dtype, **extra}, "exact": False}
        for extra in ({}, {"loc": 2.0, "scale": 3.0}):
            yield {"function": "normal", "seed": seed,
                   "args": {"shape": [5], "dtype": "complex64", **extra}, "exact": False}
        yield {"function": "normal", "seed": seed, "exact": False,
               "args": {"shape": [3, 2], "loc": {"array": [1.0, -2.0], "dtype": "float32"},
                        "scale": {"array": [0.5, 4.0], "dtype": "float32"}}}
        logits = {"array": np.linspace(-2, 2, 24).reshape(2, 3, 4).tolist(), "dtype": "float32"}
        for extra in ({}, {"axis": 1}, {"num_samples": 5}, {"axis": 0, "num_samples": 5},
                      {"axis": 1, "shape": [5, 2, 4]}):
            yield {"function": "categorical", "seed": seed, "args": {"logits": logits, **extra}, "exact": True}
        mean = {"array": [1.0, -1.0], "dtype": "float32"}
        cov = {"array": [[2.0, 0.6], [0.6, 1.0]], "dtype": "float32"}
        for shape in ([], [4], [2, 3]):
            yield {"function": "multivariate_normal", "seed": seed,
                   "args": {"mean": mean, "cov": cov, "shape": shape}, "exact": False}
        yield {"function": "sequence", "seed": seed, "args": {"draws": 4, "shape": [3]}, "exact": True}


def build_bits(folder):
    """Compile upstream_bits.cpp against the installed wheel."""
    root = pathlib.Path(importlib.util.find_spec("mlx").submodule_search_locations[0])
    library = pathlib.Path(folder) / "upstream_bits.so"
    subprocess.run(
        ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", f"-isystem{root}/include", HERE / "upstream_bits.cpp",
         "-o", library, f"-L{root}/lib", "-lmlx", f"-Wl,-rpath,{root}/lib", f"-Wl,-rpath-link,{root}/../mlx_cpu.libs"],
        check=True)
    entry = ctypes.CDLL(str(library)).upstream_bits
    entry.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    return entry


def run_bits(entry, keys, shape, width):
    keys = np.ascontiguousarray(keys, np.uint32).reshape(-1, 2)
    out = np.zeros((len(keys), *shape), {4: np.uint32, 2: np.uint16, 1: np.uint8}[width])
    if entry(keys.ctypes.data, len(keys), shape[0], width, out.ctypes.data):
        raise RuntimeError("upstream_bits failed")
    return out if len(keys) > 1 else out[0]


def run(case, entry):
    seed, keys = case["seed"], case.get("keys")
    key = mx.random.key(seed)
    if case["function"] == "bits":
        return run_bits(entry, np.array(mx.random.split(key, keys) if keys else key), **case["args"])
    if case["function"] == "sequence":
        mx.random.seed(seed)
        shape, draws = case["args"]["shape"], case["args"]["draws"]
        return np.stack([np.array(mx.random.uniform(shape=shape)) for _ in range(draws)])
    args = {}
    for name, value in case["args"].items():
        if isinstance(value, dict):
            value = mx.array(value["array"], dtype=getattr(mx, value["dtype"]))
        args[name] = getattr(mx, value) if name == "dtype" else value
    if case["function"] == "multivariate_normal":
        args["stream"] = mx.cpu
    function = getattr(mx.random, case["function"])
    if keys:
        result = mx.vmap(lambda k: function(key=k, **args))(mx.random.split(key, keys))
    else:
        result = function(key=key, **args)
    return np.array(result.view(mx.uint16) if result.dtype == mx.bfloat16 else result)


def main():
    table = list(cases())
    with tempfile.TemporaryDirectory() as folder:
        entry = build_bits(folder)
        arrays = {str(number): run(case, entry) for number, case in enumerate(table)}
    np.savez_compressed(HERE / "random_golden.npz", cases=np.array(json.dumps(table)), **arrays)


if __name__ == "__main__":
    main()
