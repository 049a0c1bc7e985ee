"""Bounds how long code may hold the interpreter lock: no other bound of a run works meanwhile.

A pathological regular expression, `9**9**9` or a library in C keeps every thread of the process
from running, and every signal handler. A thread beats as long as it gets the lock;
`lock_supervisor.py`, a process beside this one, misses the beats.
"""

import contextlib
import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from astuner.rollout.lock_supervisor import FAREWELL
from astuner.rollout.watchdog import LIBRARIES, TICK_SIGNAL

logger = logging.getLogger(__name__)

_BEAT_SECONDS = 0.5
_LEAVE_SECONDS = 5.0
_DUMP_SIGNAL = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2
_SUPERVISOR_FILE = Path(__file__).with_name("lock_supervisor.py")
_pipes: list[int] = []
"""To the supervisors of this process; changed by `_beating` only."""


@contextmanager
def lock_supervised(
    limit_seconds: float,
    *,
    advice: str,
    limit_name: str,
    log_file: Path | None = None,
    is_json: bool = False,
    tells_of_end: bool = True,
) -> Iterator[None]:
    """Inside, this process is killed once nothing of it but C code ran for `limit_seconds`.

    The message names the user's line, the limit by `limit_name`, and says the `advice`. It and the
    stacks of all threads go to standard error, where a `log_file` is given the stacks there; with
    `is_json` as JSON objects. So does a line where the process ends inside without a word, as by
    os._exit, unless somebody else tells of that.
    """
    stacks, writing = os.pipe()
    faulthandler.register(_DUMP_SIGNAL, file=writing, all_threads=True)
    plan = {
        "parent": os.getpid(),
        "limit_seconds": limit_seconds,
        "tick_signal": int(TICK_SIGNAL),
        "dump_signal": int(_DUMP_SIGNAL),
        "stacks": stacks,
        "libraries": LIBRARIES,
        "limit_name": limit_name,
        "advice": advice,
        "log_file": None if log_file is None else str(log_file),
        "is_json": is_json,
        "tells_of_end": tells_of_end,
    }
    try:
        with _beating(plan, stacks):
            yield
    finally:
        faulthandler.unregister(_DUMP_SIGNAL)
        os.close(writing)
        os.close(stacks)


@contextmanager
def _beating(plan: dict[str, object], stacks: int) -> Iterator[None]:
    command = [sys.executable, "-I", "-S", str(_SUPERVISOR_FILE), json.dumps(plan)]
    try:
        supervisor = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(stacks,)
        )
    except OSError as error:
        logger.warning("code that holds the interpreter lock is not bounded: %s", error)
        yield
        return
    assert supervisor.stdin is not None
    os.set_blocking(supervisor.stdin.fileno(), False)
    left = threading.Event()
    beats = threading.Thread(
        target=_beat, args=(supervisor.stdin.fileno(), left), name="lock-beat", daemon=True
    )
    beats.start()
    _pipes.append(supervisor.stdin.fileno())
    try:
        yield
    finally:
        left.set()
        beats.join()
        _write(_pipes.pop(), FAREWELL)
        supervisor.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            supervisor.wait(_LEAVE_SECONDS)
        supervisor.kill()
        supervisor.wait()


def take_leave() -> None:
    """The process ends now, by os._exit, and has said why."""
    for pipe in _pipes:
        _write(pipe, FAREWELL)


def _beat(pipe: int, left: threading.Event) -> None:
    while not left.wait(_BEAT_SECONDS):
        if not _write(pipe, b"."):
            logger.warning("code that holds the interpreter lock is no longer bounded")
            return


def _write(pipe: int, sign: bytes) -> bool:
    """Whether somebody is there to read it."""
    with contextlib.suppress(BlockingIOError):  # full, as of a supervisor that is stopped
        try:
            os.write(pipe, sign)
        except BrokenPipeError:
            return False
    return True
