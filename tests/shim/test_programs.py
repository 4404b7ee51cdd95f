"""Programs: the same results as single calls, and nothing handed out when a step fails."""

import ctypes

import numpy as np
import pytest

from mlxr.errors import BoundsError, InvalidValueError, UnsupportedOpError
from mlxr.shim import Program, abi
from mlxr.shim.errors import AbiError, ExtentError, HandleError, IntegerDivisionError

RNG = np.random.default_rng(5)
X = RNG.uniform(0.1, 0.9, (4, 8)).astype(np.float32)
W = RNG.standard_normal((8, 8)).astype(np.float32)
V = RNG.standard_normal(8).astype(np.float32)
Q = RNG.standard_normal((1, 2, 4, 8)).astype(np.float32)
INDEX = np.array([3, -1])
M = RNG.uniform(size=(4, 4)) > 0.3


def rope(lib, x, offset=2, freqs=None):
    return lib.rope(
        x, 8, traditional=False, base=100.0 if freqs is None else None, scale=1.0, offset=offset, freqs=freqs
    )


# inputs; (operation, operands, ints, floats); the same as a single call
STEPS = {
    "unary": ([X], (abi.EXP, (0,), (), ()), lambda lib, x: lib.unary(abi.EXP, x)),
    "binary": ([X, X], (abi.MULTIPLY, (0, 1), (), ()), lambda lib, x, y: lib.binary(abi.MULTIPLY, x, y)),
    "where": ([X > 0.5, X, X], (abi.WHERE, (0, 1, 2), (), ()), lambda lib, c, x, y: lib.select(abi.WHERE, c, x, y)),
    "clip": ([X, X[0]], (abi.CLIP, (0, -1, 1), (), ()), lambda lib, x, y: lib.select(abi.CLIP, x, None, y)),
    "astype": ([X], (abi.ASTYPE, (0,), (abi.INT32,), ()), lambda lib, x: lib.cast(abi.ASTYPE, x, abi.INT32)),
    "sum": ([X], (abi.SUM, (0,), (1, 0, -1), ()), lambda lib, x: lib.reduce(abi.SUM, x, (-1,), keepdims=True)),
    "sum all": ([X], (abi.SUM, (0,), (0, 0), ()), lambda lib, x: lib.reduce(abi.SUM, x)),
    "var": ([X], (abi.VAR, (0,), (0, 1, 0), ()), lambda lib, x: lib.reduce(abi.VAR, x, (0,), parameter=1)),
    "cumsum": ([X], (abi.CUMSUM, (0,), (1, 1, 0), ()),
               lambda lib, x: lib.scan(abi.CUMSUM, x, 1, reverse=True, inclusive=False)),
    "sort": ([X], (abi.SORT, (0,), (0, 0), ()), lambda lib, x: lib.sort(abi.SORT, x, 0)),
    "matmul": ([X, W], (abi.MATMUL, (0, 1), (), ()), lambda lib, x, w: lib.matmul(x, w)),
    "addmm": ([V, X, W], (abi.ADDMM, (0, 1, 2), (), (0.5, 2.0)), lambda lib, v, x, w: lib.addmm(v, x, w, 0.5, 2.0)),
    "reshape": ([X], (abi.RESHAPE, (0,), (2, -1), ()), lambda lib, x: lib.reshape(x, (2, -1))),
    "transpose": ([X], (abi.TRANSPOSE, (0,), (1, 0), ()), lambda lib, x: lib.transpose(x, (1, 0))),
    "reverse": ([Q], (abi.TRANSPOSE, (0,), (), ()), lambda lib, x: lib.transpose(x)),
    "broadcast": ([X], (abi.BROADCAST_TO, (0,), (3, 4, 8), ()), lambda lib, x: lib.broadcast_to(x, (3, 4, 8))),
    "slice": ([X], (abi.SLICE, (0,), (1, 0, 4, 8, 2, 3), ()), lambda lib, x: lib.slice(x, (1, 0), (4, 8), (2, 3))),
    "as_strided": (
        [X],
        (abi.AS_STRIDED, (0,), (2, 3, 8, -1, 7), ()),
        lambda lib, x: lib.as_strided(x, (2, 3), (8, -1), 7),
    ),
    "concatenate": ([X, W], (abi.CONCATENATE, (0, 1, 0), (0,), ()), lambda lib, x, w: lib.concatenate([x, w, x], 0)),
    "contiguous": ([X.T], (abi.CONTIGUOUS, (0,), (), ()), lambda lib, x: lib.contiguous(x)),
    "take": ([X, INDEX], (abi.TAKE, (0, 1), (0,), ()), lambda lib, x, i: lib.take(x, i, 0)),
    "take along": ([X[:2], INDEX[:, None]], (abi.TAKE_ALONG_AXIS, (0, 1), (1,), ()),
                   lambda lib, x, i: lib.take_along_axis(x, i, 1)),
    "softmax": ([X], (abi.SOFTMAX, (0,), (1, -1), ()), lambda lib, x: lib.softmax(x, (-1,), precise=True)),
    "rms_norm": ([X, V], (abi.RMS_NORM, (0, 1), (), (1e-5,)), lambda lib, x, v: lib.rms_norm(x, v, 1e-5)),
    "layer_norm": ([X, V], (abi.LAYER_NORM, (0, -1, 1), (), (1e-5,)),
                   lambda lib, x, v: lib.layer_norm(x, None, v, 1e-5)),
    "rope": ([Q], (abi.ROPE, (0,), (8, 0, 2), (100.0, 1.0)), lambda lib, q: rope(lib, q)),
    "rope by arrays": ([Q, np.array([5], np.int32), np.abs(V[:4]) + 1], (abi.ROPE, (0, 1, 2), (8, 0, 0), (0.0, 1.0)),
                       lambda lib, q, o, f: rope(lib, q, o, f)),
    "sdpa": ([Q, Q, Q], (abi.SDPA, (0, 1, 2), (abi.MASK_CAUSAL,), (0.3,)),
             lambda lib, q, k, v: lib.sdpa(q, k, v, 0.3, causal=True)),
    "sdpa masked": ([Q, Q, Q, M], (abi.SDPA, (0, 1, 2, 3), (abi.MASK_ARRAY,), (0.3,)),
                    lambda lib, q, k, v, m: lib.sdpa(q, k, v, 0.3, mask=m)),
}  # fmt: skip


def run(lib, inputs, *steps, results=None):
    program = Program(len(inputs))
    numbers = [program.step(op, *operands, ints=ints, floats=floats) for op, operands, ints, floats in steps]
    program.result(*(numbers[-1:] if results is None else results))
    return lib.run(program, inputs)


@pytest.mark.parametrize("name", STEPS)
def test_step_is_the_single_call(lib, array, get, name):
    inputs, step, single = STEPS[name]
    arrays = [array(x) for x in inputs]
    (result,) = run(lib, arrays, step)
    expected = get(single(lib, *arrays))
    assert get(result).dtype == expected.dtype
    np.testing.assert_array_equal(get(result), expected)


def test_quantized_matmul(lib, array, get):
    w, x = RNG.standard_normal((32, 64)).astype(np.float32), RNG.standard_normal((2, 64)).astype(np.float32)
    inputs = [array(x), *lib.quantize(array(w), 32, 4)]
    (result,) = run(lib, inputs, (abi.QUANTIZED_MATMUL, (0, 1, 2, 3), (1, 32, 4, abi.AFFINE), ()))
    np.testing.assert_array_equal(get(result), get(lib.quantized_matmul(*inputs, group_size=32, bits=4)))


def test_values_that_are_no_results_make_no_handles(lib, array, get):
    a = array(X)
    live = lib.live_handles()
    program = Program(1)
    value = 0
    for _ in range(100):
        value = program.step(abi.ADD, value, 0)
    program.result(value, 0, value)
    results = lib.run(program, [a])
    assert lib.live_handles() == live + 3
    np.testing.assert_allclose(get(results[0]), 101 * X, rtol=1e-5)
    np.testing.assert_array_equal(get(results[1]), X)
    assert lib.to_numpy(results[2]).ctypes.data == lib.to_numpy(results[0]).ctypes.data
    again = lib.run(program, [a])  # a program is not used up
    np.testing.assert_array_equal(get(again[0]), get(results[0]))


def test_empty_program(lib, array):
    assert lib.run(Program(1), [array(X)]) == []


FAILURES = {
    "shapes": (InvalidValueError, (abi.MATMUL, (0, 0), (), ())),
    "index": (BoundsError, (abi.TAKE, (0, 1), (0,), ())),
    "division": (IntegerDivisionError, (abi.FLOOR_DIVIDE, (1, 2), (), ())),
    "operation": (UnsupportedOpError, (abi.QUANTIZE, (0,), (), ())),
    "no operation": (UnsupportedOpError, (0, (0,), (), ())),
    "later value": (InvalidValueError, (abi.ABS, (3,), (), ())),
    "missing operand": (InvalidValueError, (abi.ADD, (0,), (), ())),
    "missing parameter": (InvalidValueError, (abi.CUMSUM, (0,), (1,), ())),
    "missing number": (InvalidValueError, (abi.RMS_NORM, (0,), (), ())),
    "wide parameter": (ExtentError, (abi.CUMSUM, (0,), (2**40, 0, 0), ())),
    "window of two": (InvalidValueError, (abi.AS_STRIDED, (0,), (2, 1), ())),
    "window outside": (BoundsError, (abi.AS_STRIDED, (0,), (2, 1, 31), ())),
    "slice of two": (InvalidValueError, (abi.SLICE, (0,), (0, 1), ())),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failing_step(lib, array, name):
    error, step = FAILURES[name]
    inputs = [array(X), array(np.array([4, 7])), array(np.array([1, 0]))]
    live = lib.live_handles()
    with pytest.raises(error):
        run(lib, inputs, step, (abi.ABS, (0,), (), ()))
    assert lib.live_handles() == live


def test_bad_results_and_inputs(lib, array):
    with pytest.raises(InvalidValueError):
        run(lib, [array(X)], (abi.ABS, (0,), (), ()), results=(0, 2))
    with pytest.raises(ValueError, match="takes 2 inputs"):
        lib.run(Program(2), [array(X)])
    program = Program(1)
    program.result(0)
    with pytest.raises(HandleError):
        lib.check(lib.functions.mlxr_run(ctypes.byref(program.packed()), (ctypes.c_uint64 * 1)(77), 0, None))


def test_structs_of_another_size(lib, array):
    program = Program(1)
    program.result(program.step(abi.ABS, 0))
    out = (ctypes.c_uint64 * 1)()
    inputs = (ctypes.c_uint64 * 1)(array(X).value)
    packed = program.packed()
    packed.size -= 1
    with pytest.raises(AbiError):
        lib.check(lib.functions.mlxr_run(ctypes.byref(packed), inputs, 0, out))
    for changes in ({"ninputs": -1}, {"ninstrs": -1}, {"instrs": None}, {"results": None}):
        broken = abi.Program.from_buffer_copy(program.packed())
        broken.size = ctypes.sizeof(abi.Program)
        for name, value in changes.items():
            setattr(broken, name, value)
        with pytest.raises(InvalidValueError):
            lib.check(lib.functions.mlxr_run(ctypes.byref(broken), inputs, 0, out))


def test_larger_instructions_of_a_later_version(lib, array, get):
    """The size of an instruction is also the distance to the next, so a caller with more fields is served."""
    wide = ctypes.sizeof(abi.Instr) + 16
    buffer = (ctypes.c_char * (2 * wide))()
    for i, (op, first) in enumerate(((abi.NEGATIVE, 0), (abi.ABS, 1))):
        instr = abi.Instr.from_buffer(buffer, i * wide)
        instr.size, instr.op = wide, op
        getattr(instr, "in")[:] = [first, -1, -1, -1]
    results = (ctypes.c_int32 * 1)(2)
    program = abi.Program(size=ctypes.sizeof(abi.Program), ninputs=1, ninstrs=2, nresults=1)
    program.instrs, program.results = ctypes.addressof(buffer), ctypes.addressof(results)
    a, out = array(X), (ctypes.c_uint64 * 1)()
    lib.check(lib.functions.mlxr_run(ctypes.byref(program), ctypes.byref(ctypes.c_uint64(a.value)), 0, out))
    np.testing.assert_array_equal(get(type(a)(out[0])), X)
