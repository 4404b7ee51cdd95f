"""What counts as the same, and what a difference says."""

import numpy as np
import pytest
from made_cases import X, case, error, values

from mlxr.conformance.compare import compare
from mlxr.conformance.exceptions import EXCEPTIONS, Explained, explain, same_partition, same_spectrum
from mlxr.conformance.measure import difference, unit_in_last_place
from mlxr.core import dtype as dtypes
from mlxr.ops.declare import REGISTRY


def off_by(ulps, x=X):
    return x + ulps * unit_in_last_place(x, dtypes.float32)


def test_values_agree_within_twice_the_tolerance():
    allowed = 2 * REGISTRY["sin"].ulps
    assert compare(case(), values(X), values(X)) is None
    assert compare(case(), values(X), values(off_by(allowed))) is None
    found = compare(case(), values(X), values(off_by(allowed + 1)))
    assert found.kind == "value"
    assert found.ulps == pytest.approx(allowed + 1, abs=0.5)


def test_ops_without_tolerance_agree_exactly():
    assert REGISTRY["floor"].ulps == 0
    assert compare(case("floor"), values(X), values(off_by(1))).kind == "value"
    assert compare(case("floor", "int32"), values([1, 2], dtype="int32"), values([1, 3], dtype="int32")).ulps == 1


def test_cancelling_sums_are_measured_by_what_was_added():
    big = np.array([1e6, -1e6, 1.0])
    near, far = values(np.float64(1.0)), values(np.float64(1.25))
    assert compare(case("sum", args=(big,)), near, far) is None
    assert compare(case("sum", args=(X,)), near, far).kind == "value"


def test_nan_and_infinity():
    special = np.array([np.nan, np.inf, -np.inf])
    assert compare(case(), values(special), values(special.copy())) is None
    for other in ([1.0, np.inf, -np.inf], [np.nan, 1.0, -np.inf], [np.nan, np.inf, np.inf]):
        assert compare(case(), values(special), values(np.array(other))).ulps == np.inf


def test_signs_of_zero_count_at_edges():
    zero, minus = values(np.zeros(2)), values(-np.zeros(2))
    assert compare(case(), zero, minus) is None
    assert compare(case(kind="edge"), zero, minus).kind == "sign"


def test_complex_numbers_are_measured_by_their_modulus():
    x = np.array([1 + 1e-9j], np.complex64)
    assert difference(x, x + np.complex64(1e-8j), dtypes.complex64)[0] < 1
    assert difference(x, x + np.complex64(1e-5j), dtypes.complex64)[0] > 50


@pytest.mark.parametrize(("mine", "other", "kind"), [
    (values(X), values(X, X), "count"),
    (values(X), values(X, dtype="float16"), "dtype"),
    (values(X), values(X.reshape(1, 3)), "shape"),
    (values(X), error("ValueError"), "accepts"),
    (error("ShapeError", "MlxrError", "ValueError"), values(X), "refuses"),
    (error("ShapeError", "MlxrError", "ValueError"), error("RuntimeError"), "error"),
    (values(X), ("crash", "killed by SIGFPE"), "crash"),
    (error("ShapeError", "MlxrError", "ValueError"), ("exit", "status 0"), "exit"),
    (values(X), ("hang", ""), "hang"),
    (values(X), ("absent", ""), "absent"),
    (values(X), ("unrecorded", ""), "unrecorded"),
    (values(X), error("UnsupportedOpError", "MlxrError"), "unsupported"),
    (("crash", "killed by SIGSEGV"), values(X), "broken"),
    (("hang", ""), ("hang", ""), "broken"),
])
def test_kinds_of_differences(mine, other, kind):
    assert compare(case(), mine, other).kind == kind


def test_an_error_agrees_with_one_of_a_base_class():
    mine = error("ShapeError", "MlxrError", "ValueError")
    assert compare(case(), mine, error("ValueError")) is None


def test_accuracy_is_asked_where_results_differ():
    right = np.sin(X)
    assert compare(case(), values(right), values(right + 0.1)).accurate()
    assert not compare(case(), values(right + 0.1), values(right)).accurate()
    half = right + np.array([0.0, 0.0, 0.1])
    assert compare(case(), values(right), values(half)).accurate()
    both = right + np.array([0.1, 0.0, 0.0])  # both are off at the first, where they agree
    assert compare(case(), values(both), values(both + np.array([0.0, 0.0, 0.1]))).accurate()


def test_exceptions_cover_what_they_say_and_no_more():
    known = Explained("x", ("s*",), ("value",), "why", dtypes=("float32",), cases=("sample",),
                      where=lambda found: found.ulps > 100)
    right = np.sin(X)
    found = compare(case(), values(right), values(right + 1))
    assert explain(found, (known,)) is known
    assert explain(compare(case(), values(right), values(off_by(20, right))), (known,)) is None
    for other in (case("cos"), case(kind="edge"), case(dtype="float16")):
        assert explain(compare(other, values(right), values(right + 1)), (known,)) is None
    assert explain(compare(case(), values(right), ("crash", "")), (known,)) is None


def test_exceptions_have_names_and_reasons_of_their_own():
    assert len({e.name for e in EXCEPTIONS}) == len(EXCEPTIONS)
    assert all(len(e.reason) > 20 for e in EXCEPTIONS)


def test_partitions_may_differ_in_order_only():
    a = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    mine = values(np.array([1.0, 2.0, 3.0, 5.0, 4.0]))
    c = case("partition", args=(a, 2))
    assert same_partition(compare(c, mine, values(np.array([2.0, 1.0, 3.0, 4.0, 5.0]))))
    assert not same_partition(compare(c, mine, values(np.array([2.0, 3.0, 1.0, 4.0, 5.0]))))
    assert not same_partition(compare(c, mine, values(np.array([2.0, 1.0, 3.0, 4.0, 6.0]))))


def test_eigenvectors_may_differ_in_order_and_phase_only():
    matrix = np.diag([1.0, 2.0])
    w, v = np.array([1.0, 2.0]), np.eye(2)
    c = case("linalg.eigh", args=(matrix,))
    mine = values(w, v)
    assert same_spectrum(compare(c, mine, values(w[::-1], -v[:, ::-1])))
    assert not same_spectrum(compare(c, mine, values(w, v[:, ::-1])))
    assert not same_spectrum(compare(c, mine, values(np.array([1.0, 2.1]), v)))
