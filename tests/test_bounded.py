"""How long user code is waited for."""

import asyncio
import os
import signal
import time

import pytest

from astuner.errors import WorkflowError
from astuner.rollout.bounded import TimeLeft, bounded

LATE = WorkflowError("late")


async def work(seconds: float) -> str:
    await asyncio.sleep(seconds / 2)
    await asyncio.sleep(seconds / 2)
    return "done"


@pytest.mark.parametrize("seconds", [0.05, 0.3, 2.5])
def test_what_takes_longer_than_allowed_is_ended_then(seconds):
    started = time.monotonic()
    with pytest.raises(WorkflowError, match="late"):
        asyncio.run(bounded(work(600), seconds=seconds, error=LATE))
    assert seconds <= time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("late_seconds", "ends_after"),
    [
        ((), 3.0),
        ((0.5, 0.5), 3.0),
        ((0.9, 0.9), 3.8),
        ((60.0,), 63.0),  # the process was stopped
        ((60.0, 0.9), 63.0),
    ],
)
def test_a_late_slice_counts_as_it_took_and_a_stop_does_not(late_seconds, ends_after):
    now, late = 0.0, list(late_seconds)
    left = TimeLeft(3.0, clock=lambda: now)
    while left.seconds > 0:
        now += left.begin_slice() + (late.pop(0) if late else 0.0)
        left.end_slice()
    assert now == pytest.approx(ends_after)


def test_no_time_at_all_is_none():
    with pytest.raises(WorkflowError, match="late"):
        asyncio.run(bounded(work(0.1), seconds=0.0, error=LATE))


def test_the_time_in_which_the_process_was_stopped_does_not_count():
    pid = os.fork()
    if pid == 0:
        try:
            said = asyncio.run(bounded(work(1.0), seconds=2.0, error=LATE))
        except WorkflowError as error:
            said = str(error)
        os._exit(0 if said == "done" else 1)
    time.sleep(0.2)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(3.0)
    os.kill(pid, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
