"""A worker whose library crashes, exits, hangs and prints where it is told to. Started by its path, like worker.py."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import SimpleNamespace

sys.path.pop(0)

from mlxr.conformance import worker


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def leave():
    os._exit(0)


def hang():
    time.sleep(60)


def speak():
    print("this must not get among the answers", flush=True)
    return 1


def fail():
    raise IndexError("as planned")


# Crashes only in a process in which `prepare` was called before.
STATE = []


def prepare():
    STATE.append(1)
    return 2


def crash_if_prepared():
    return crash() if STATE else 3


OPS = {f.__name__: f for f in (crash, leave, hang, speak, fail, prepare, crash_if_prepared)}


def library(device):
    if device == "absent":
        raise ImportError("no such library")
    module = SimpleNamespace(eval=lambda results: None, synchronize=lambda: None)
    return worker.Library(module, module, {"library": "planted", "version": "0", "device": device}, OPS)


if __name__ == "__main__":
    sys.path.insert(0, "")  # what main() takes off again
    worker.LIBRARIES["planted"] = library
    worker.main()
