"""Runs cases on a library in a process of its own, which may crash, exit or hang: that is an answer too.

Knows the worker's protocol and nothing of what the cases mean.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlxr
from mlxr.conformance import worker
from mlxr.conformance.cases import Case
from mlxr.errors import BackendUnavailableError

__all__ = ["PATIENCE", "Answer", "Target", "Worker", "answers"]

# ("values", [...]), ("error", class names, message), or ("absent" | "crash" | "exit" | "hang", text).
Answer = tuple[Any, ...]
PATIENCE = 20.0  # seconds without an answer after which a call hangs
TICK = 0.25
BATCH = 64


@dataclass(frozen=True)
class Target:
    """A library to run cases on.

    Attributes
    ----------
    name : str
        As reports call it.
    command : tuple of str
        Arguments of ``worker.py``.
    program : str
        The worker's path.
    """

    name: str
    command: tuple[str, ...]
    program: str = worker.__file__


class _Inbox:
    """The messages that arrive on a pipe, with a limit to how long they are waited for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._data = bytearray()

    def _fill(self, size: int, patience: float) -> None:
        """Have at least `size` bytes.

        Time is counted in short waits, of which a process that is stopped in between notices one at most: a machine
        that sleeps makes nothing hang.
        """
        waits = 0
        while len(self._data) < size:
            if not select.select([self._descriptor], [], [], TICK)[0]:
                waits += 1
                if waits * TICK >= patience:
                    raise TimeoutError
                continue
            received = os.read(self._descriptor, 1 << 20)
            if not received:
                raise EOFError
            self._data += received

    def receive(self, patience: float) -> Answer:
        head = worker.LENGTH.size
        self._fill(head, patience)
        (size,) = worker.LENGTH.unpack_from(self._data)
        self._fill(head + size, patience)
        message = marshal.loads(memoryview(self._data)[head:head + size])
        del self._data[:head + size]
        return tuple(message)


class Worker:
    """A process that answers cases, started again whenever a case ends it.

    Parameters
    ----------
    target : Target
        What it runs.
    patience : float
        Seconds without an answer after which a call hangs.

    Raises
    ------
    BackendUnavailableError
        If the library is not installed, or the device not available (fact ``reason``).
    """

    def __init__(self, target: Target, patience: float = PATIENCE) -> None:
        self.target = target
        self.patience = patience
        self.starts = 0
        self._start()

    def _start(self) -> None:
        self.starts += 1
        paths = [str(Path(mlxr.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, self.target.program, *self.target.command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self._process.stdout is not None
        self._inbox = _Inbox(self._process.stdout.fileno())
        try:
            first = self._inbox.receive(max(self.patience, 60.0))  # imports take their time
        except (EOFError, TimeoutError) as error:
            first = ("unavailable", self._ended(error)[1])
        if first[0] != "ready":
            self.close()
            raise BackendUnavailableError(
                f"{self.target.name} cannot be used: {first[1]}", device=self.target.name, reason=first[1]
            )
        self.facts: dict[str, str] = first[1]

    def _ended(self, error: Exception) -> Answer:
        """Return what it means that the process answers no more, and leave it dead."""
        if isinstance(error, TimeoutError):
            self.close()
            return ("hang", f"no answer in {self.patience:g} s")
        status = self._process.wait()
        self.close()
        if status < 0:
            return ("crash", f"killed by {signal.Signals(-status).name}")
        return ("exit", f"the process ended with status {status}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        self._process.wait()

    def _attempt(self, batch: Sequence[Case]) -> Iterator[Answer]:
        """Yield the answers up to, and with, the first that ends the process."""
        try:
            assert self._process.stdin is not None
            worker.send(self._process.stdin, [(c.op, c.args, c.kwargs) for c in batch])
            for _ in batch:
                yield self._inbox.receive(self.patience)
        except (BrokenPipeError, EOFError, TimeoutError) as error:
            yield self._ended(error)

    def run(self, batch: Sequence[Case]) -> list[Answer]:
        """Return the answers to some cases, in their order.

        A case that ends the process is tried once more in a fresh one, where no other can have been the cause.
        """
        done: list[Answer] = []
        while len(done) < len(batch):
            for answer in self._attempt(batch[len(done):]):
                if answer[0] in ("crash", "exit", "hang"):
                    self._start()
                    (answer,) = self._attempt(batch[len(done):len(done) + 1])
                    if answer[0] in ("crash", "exit", "hang"):
                        self._start()
                done.append(answer)
        return done


def _feed(made: Any, batches: Iterable[Sequence[Case]], answered: queue.Queue[Any], stop: threading.Event) -> None:
    """Run batches on one worker; what goes wrong with the worker itself is passed on."""
    try:
        for batch in batches:
            if stop.is_set():
                return
            answered.put(made.run(batch))
    except Exception as error:
        answered.put(error)


def answers(workers: Sequence[Any], run: Sequence[Case]) -> Iterator[tuple[Case, tuple[Answer, ...]]]:
    """Yield each case with the answers of all workers, which work at the same time."""
    batches = [run[i:i + BATCH] for i in range(0, len(run), BATCH)]
    stop = threading.Event()
    queues: list[queue.Queue[Any]] = [queue.Queue(maxsize=8) for _ in workers]
    threads = [
        threading.Thread(target=_feed, args=(w, batches, q, stop), daemon=True)
        for w, q in zip(workers, queues, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        for batch in batches:
            columns = [q.get() for q in queues]
            for column in columns:
                if isinstance(column, Exception):
                    raise column
            yield from zip(batch, zip(*columns, strict=True), strict=True)
    finally:
        stop.set()
        for q in queues:  # a thread that waits for room goes on, and sees that it is to stop
            with contextlib.suppress(queue.Empty):
                while True:
                    q.get_nowait()
        for thread in threads:
            thread.join()
