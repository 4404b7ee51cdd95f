"""Processes that answer, crash, exit, hang, print, or never start."""

from pathlib import Path

import pytest
from made_cases import Side, case

from mlxr.conformance.engine import Target, Worker, answers
from mlxr.errors import BackendUnavailableError

PLANTED = str(Path(__file__).with_name("planted.py"))


@pytest.fixture
def worker():
    made = Worker(Target("planted", ("planted", "here"), PLANTED), patience=1.0)
    yield made
    made.close()


def calls(*names):
    return [case(name, args=(), label=str(k)) for k, name in enumerate(names)]


def test_every_end_of_a_process_is_an_answer_and_the_rest_goes_on(worker):
    got = worker.run(calls("speak", "crash", "fail", "leave", "speak", "hang", "nothing", "speak"))
    spoken = ("values", [("v", 1)])
    assert got[0] == got[4] == got[7] == spoken
    assert got[1] == ("crash", "killed by SIGSEGV")
    assert got[2][0] == "error"
    assert got[2][1][:2] == ["IndexError", "LookupError"]
    assert got[2][2] == "as planned"
    assert got[3] == ("exit", "the process ended with status 0")
    assert got[5] == ("hang", "no answer in 1 s")
    assert got[6][0] == "absent"
    assert worker.starts == 7  # twice for each of the three: once for the retry, once to go on


def test_a_crash_that_another_case_caused_is_not_blamed_on_the_next(worker):
    got = worker.run(calls("prepare", "crash_if_prepared", "speak"))
    assert got[1] == ("values", [("v", 3)])
    assert got[2] == ("values", [("v", 1)])


def test_a_library_that_is_not_there_is_an_error_with_the_reason():
    with pytest.raises(BackendUnavailableError, match="no such library") as caught:
        Worker(Target("planted", ("planted", "absent"), PLANTED))
    assert "ImportError" in caught.value.reason


def test_a_worker_that_dies_at_once_is_an_error(tmp_path):
    program = tmp_path / "dies.py"
    program.write_text("raise SystemExit(3)\n")
    with pytest.raises(BackendUnavailableError, match="status 3"):
        Worker(Target("dies", (), str(program)))


def test_answers_of_all_sides_come_in_order(worker):
    run = calls(*["speak", "fail"] * 100)
    pairs = list(answers([worker, Side(lambda c: ("values", [("v", c.label)]))], run))
    assert [c for c, _ in pairs] == run
    assert [theirs[1][0][1] for _, (_, theirs) in pairs] == [c.label for c in run]
    assert [mine[0] for _, (mine, _) in pairs] == ["values", "error"] * 100


def test_what_goes_wrong_with_a_side_is_raised_here():
    def broken(_):
        raise BackendUnavailableError("gone", device="made", reason="gone")

    with pytest.raises(BackendUnavailableError, match="gone"):
        list(answers([Side(broken), Side(("values", []))], calls(*["speak"] * 200)))


def test_stopping_early_leaves_no_thread_behind():
    import threading

    before = threading.active_count()
    stream = answers([Side(("values", [])), Side(("values", []))], calls(*["speak"] * 5000))
    next(stream)
    stream.close()
    assert threading.active_count() == before
