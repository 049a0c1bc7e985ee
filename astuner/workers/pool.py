"""A few worker processes that compute what may take for ever: each answer has a deadline, and a
process that misses it is killed.

Tells apart what was asked (`Unanswerable`) from what the machine did (`WorkerFailure`). Owns the
processes and no computation.
"""

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_TIMEOUT_SECONDS = 60.0
NUM_WORKERS = max(2, min(8, (os.cpu_count() or 1) // 2))
"""One hostile request holds one worker until its deadline; the others go on."""

_STALLED_SHARE = 0.1
"""Of its deadline: a worker that got less of a processor was not busy with what it was asked."""
_CHILD_FILE = Path(__file__).with_name("child.py")


class Unanswerable(Exception):
    """The process computed until its deadline, or ended, over what it was asked."""


class WorkerFailure(Exception):
    """No answer, and not because of what was asked."""


class _WorkerGone(Exception):
    """The process ended without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """What worker processes are for."""

    process: str
    """In messages, for example "the process that compares expressions"."""
    file: Path
    """As `child.py` wants it."""
    module: str
    """What it imports."""
    package: str
    """That brings the module."""


class _Worker:
    """One child process. Used by one thread at a time; owned by its pool."""

    def __init__(self, computation: Computation, interpreter: str) -> None:
        self._computation = computation
        self._interpreter = interpreter
        command = [interpreter, "-P", str(_CHILD_FILE), str(computation.file)]
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise WorkerFailure(
                f"cannot start {computation.process} ({' '.join(command)}): {error}; free memory "
                "or processes on this machine"
            ) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._questions.fileno(), False)
        self._wait_until_ready()

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """By whoever kills processes, not over what it computed. Known once it has ended."""
        return self._process.returncode in (-signal.SIGKILL, -signal.SIGTERM)

    def cpu_seconds(self) -> float:
        """What it has computed so far; infinite where the system does not tell."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return math.inf
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ask(self, request: object, *, timeout_seconds: float) -> dict[str, Any]:
        """Raises TimeoutError after the deadline, _WorkerGone if the process is gone."""
        deadline = time.monotonic() + timeout_seconds
        asked = {"request": request, "seconds": timeout_seconds}
        self._write(json.dumps(asked).encode() + b"\n", deadline)
        return self._read(deadline)

    def end(self) -> None:
        """Kill the process, unless it has ended, and reap it. Twice is harmless."""
        if self._process.poll() is None:
            self._process.kill()
        with self._process:
            pass

    def _wait_until_ready(self) -> None:
        asked = self._computation
        try:
            greeting = self._read(time.monotonic() + START_TIMEOUT_SECONDS)
        except (_WorkerGone, TimeoutError) as error:
            self.end()
            raise WorkerFailure(
                f"{asked.process} did not start: {type(error).__name__} {error}, exit code "
                f"{self._process.returncode}; try "
                f"`{self._interpreter} -c 'import {asked.module}'`"
            ) from error
        if "error" in greeting:
            self.end()
            raise WorkerFailure(
                f"{asked.process} did not start: {greeting['error']}; install it with "
                f"`pip install '{asked.package}'`"
            )

    def _write(self, line: bytes, deadline: float) -> None:
        left = memoryview(line)
        while left:
            _wait(self._questions, selectors.EVENT_WRITE, deadline)
            try:
                left = left[self._questions.write(left) or 0 :]
            except BrokenPipeError as error:
                raise _WorkerGone from error

    def _read(self, deadline: float) -> dict[str, Any]:
        _wait(self._answers, selectors.EVENT_READ, deadline)
        line = self._answers.readline()
        if not line:
            raise _WorkerGone
        return json.loads(line)


def _wait(pipe: Any, event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, event)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError("no answer in time")


class WorkerPool:
    """The processes of one computation, each started when it is first needed.

    Close it when done. Safe from several threads and event loops.
    """

    def __init__(
        self,
        computation: Computation,
        *,
        num_workers: int = NUM_WORKERS,
        interpreter: str = sys.executable,
    ) -> None:
        self.threads = ThreadPoolExecutor(num_workers, thread_name_prefix=computation.module)
        """Those from which `ask` may be called: a worker for each."""
        self._computation = computation
        self._interpreter = interpreter
        self._idle: deque[_Worker] = deque()

    def ask(self, request: object, *, timeout_seconds: float) -> dict[str, Any]:
        """Blocks, at most for the deadline and the start of a process.

        Raises Unanswerable where the process computes until the deadline, or dies, over the
        request. Raises WorkerFailure where that is not known: no worker can be started, it was
        killed, or the machine gave it no time.
        """
        # An idle worker may have been killed from outside, which is not this request's fault:
        # one more try tells the two apart.
        for _ in range(2):
            worker = self._take_worker()
            started = worker.cpu_seconds()
            try:
                answer = worker.ask(request, timeout_seconds=timeout_seconds)
            except TimeoutError:
                spent = worker.cpu_seconds() - started
                worker.end()
                raise self._late(spent, timeout_seconds) from None
            except _WorkerGone:
                worker.end()
                continue
            except BaseException:
                worker.end()
                raise
            self._idle.append(worker)
            return answer
        if worker.was_killed:
            raise WorkerFailure(
                f"{self._computation.process} was killed twice by something else, such as the "
                "system for want of memory; free memory on this machine"
            )
        raise Unanswerable("it ended its process twice")

    @property
    def idle_process_ids(self) -> list[int]:
        """Of the workers that wait to be asked."""
        return [worker.process_id for worker in list(self._idle)]

    def close(self) -> None:
        """End all workers; waits for what is being computed, at most its deadline."""
        self.threads.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().end()

    def _late(self, spent: float, timeout_seconds: float) -> Exception:
        if spent < timeout_seconds * _STALLED_SHARE:
            return WorkerFailure(
                f"{self._computation.process} stalled: it got {spent:.1f} s of a processor in "
                f"{timeout_seconds:g} s; this machine has too little time or memory for it"
            )
        return Unanswerable(f"it took more than {timeout_seconds:g} s")

    def _take_worker(self) -> _Worker:
        """An idle one, else a new one. A start that fails is tried once more."""
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        try:
            return _Worker(self._computation, self._interpreter)
        except WorkerFailure:
            return _Worker(self._computation, self._interpreter)
