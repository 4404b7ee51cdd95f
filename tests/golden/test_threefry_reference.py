"""The NumPy reference against upstream's recorded values: a failure here says that the reference is wrong, not mlxr."""
import json
import pathlib

import numpy as np
import pytest
import threefry_reference as reference

GOLDEN = np.load(pathlib.Path(__file__).parent / "random_golden.npz")
CASES = [(str(number), case) for number, case in enumerate(json.loads(str(GOLDEN["cases"])))]
# Left to the tests of mlxr: truncated_normal needs erf, multivariate_normal an SVD, and the rest array arguments.
COVERED = {
    "bits", "split", "uniform", "randint", "bernoulli", "permutation", "normal", "gumbel", "laplace", "categorical",
}
STEP = {"float32": 2.0**-23, "complex64": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def covered(case):
    arrays = [value for name, value in case["args"].items() if isinstance(value, dict) and name != "logits"]
    return case["function"] in COVERED and not arrays and not ("logits" in case["args"] and "shape" in case["args"])


def arguments(case):
    args = dict(case["args"])
    if "logits" in args:
        args["logits"] = np.array(args["logits"]["array"], args["logits"]["dtype"])
    return {"n" if name == "x" else name: tuple(value) if name == "shape" else value for name, value in args.items()}


@pytest.mark.parametrize("function", sorted(COVERED))
def test_reference_equals_upstream(function):
    checked = 0
    for number, case in CASES:
        if case["function"] != function or not covered(case):
            continue
        key = reference.key(case["seed"])
        draw = getattr(reference, function)
        if "keys" in case:
            result = np.stack([draw(k, **arguments(case)) for k in reference.split(key, case["keys"])])
        else:
            result = draw(key, **arguments(case))
        dtype = case["args"].get("dtype", "float32")
        expected = GOLDEN[number]
        if dtype == "bfloat16":
            expected = (expected.astype(np.uint32) << 16).view(np.float32)
        assert result.shape == expected.shape
        if case["exact"]:
            np.testing.assert_array_equal(result, expected, err_msg=str(case))
        else:
            # A few steps of the format: erfinv and log are each rounded, here and upstream, before further arithmetic.
            step = STEP[dtype]
            np.testing.assert_allclose(result, expected, rtol=6 * step, atol=6 * step, err_msg=str(case))
        checked += 1
    assert checked >= 5
