"""Signals that end a run: what is left of them when it has ended."""

import asyncio
import contextlib
import gc
import io
import os
import signal
import time

import pytest
from rich.console import Console

from astuner.backbone.grace import Grace
from astuner.backbone.interrupt import Interrupted, interrupted_by_signals, quit_by_signals
from astuner.console import RunConsole
from astuner.errors import Quit
from tests.signals import signals_of_a_terminal


def console() -> RunConsole:
    return RunConsole(Console(file=io.StringIO()), is_live=False)


def test_a_signal_during_work_that_does_not_await_leaves_no_cancellation_behind():
    """It would land in whatever the task awaits next, such as the end of the gateway."""

    async def run():
        with interrupted_by_signals(console(), notice="saving") as interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Interrupted):
                interrupt.check()
        await asyncio.sleep(0.05)
        return interrupt.exit_code

    assert asyncio.run(run()) == 143


@pytest.mark.parametrize(
    ("number", "bound"),
    [
        (signal.SIGINT, "; press Ctrl-C again to quit at once"),
        (signal.SIGTERM, ", within 40 s (trainer_common.grace_seconds)"),
        (signal.SIGHUP, ", within 40 s (trainer_common.grace_seconds)"),
    ],
)
def test_a_signal_is_answered_with_what_bounds_the_end(number, bound):
    screen = io.StringIO()
    shown = RunConsole(Console(file=screen, width=200), is_live=False)
    grace = Grace(40.0, describe_saved=lambda: "")

    async def run():
        with (
            signals_of_a_terminal(),
            interrupted_by_signals(shown, notice="saving", grace=grace),
        ):
            os.kill(os.getpid(), number)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(5)

    asyncio.run(run())
    assert f"{number.name}: stopping: saving{bound}\n" in screen.getvalue()


def test_a_second_ctrl_c_quits_at_once_and_a_second_sigterm_does_not():
    async def run():
        with interrupted_by_signals(console(), notice="saving"):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Quit):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)

    asyncio.run(run())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_user_code_forks_ends_by_a_signal_as_ever(number):
    async def run():
        with interrupted_by_signals(console(), notice="saving") as interrupt:
            ready, told = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(told, b"!")
                time.sleep(30)
                os._exit(0)
            os.read(ready, 1)
            os.kill(child, number)
            _, status = os.waitpid(child, 0)
            assert not interrupt.is_requested
            return os.waitstatus_to_exitcode(status)

    assert asyncio.run(run()) == -number


def test_handlers_are_as_before_when_the_run_has_ended():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    async def run():
        before = [signal.getsignal(number) for number in numbers]
        with interrupted_by_signals(console(), notice="saving"):
            pass
        assert [signal.getsignal(number) for number in numbers] == before

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("is_collected", [True, False])
def test_a_signal_during_a_finalizer_is_not_lost(sent, is_collected):
    """Python only writes `Exception ignored in` of what its handler raises there."""

    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), sent)

    with signals_of_a_terminal(), pytest.raises(Quit) as quit_, quit_by_signals():
        doomed = Finalized()
        if is_collected:
            doomed.itself = doomed
        del doomed
        gc.collect()
        time.sleep(10)
    assert quit_.value.signal_number == sent
