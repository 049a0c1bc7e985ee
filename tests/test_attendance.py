"""Whose pass is next where several engines sample for the same episodes: without a model."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from astuner.engine.attendance import Attendance
from astuner.engine.session import Session
from astuner.errors import EngineError
from tests.fakes import LoggingStepper, ScriptedStepper, tokens_of

Log = list[tuple[str, ...]]


@contextmanager
def sessions(attendance: Attendance, *steppers: object) -> Iterator[list[Session]]:
    opened = [Session(one, attendance, name=f"engine{i}") for i, one in enumerate(steppers)]
    try:
        yield opened
    finally:
        for session in opened:
            session.close()


def ask(session: Session[str], name: str, caller: str | None = None) -> asyncio.Task:
    return asyncio.create_task(session.answer(name, caller=caller or name))


def dawdling_episodes(dawdle: random.Random) -> Log:
    """Who shared which pass, of nine episodes, three at a time, that ask either engine or both."""
    attendance, log, slots = Attendance(wait_seconds=30), [], asyncio.Semaphore(3)
    unfinished = set(range(9))

    async def run_episode(i: int, policy: Session[str], reference: Session[str]) -> None:
        asked = [policy, reference] if i % 2 else [reference, policy]
        async with slots:
            for turn in range(4):
                await asyncio.sleep(dawdle.choice([0, 0, 0.001, 0.005]))
                # A different length for each episode and turn; the last turn asks both at once.
                names = [f"{i}" + "." * ((i * turn) % 4 + turn + part) for part in range(2)]
                calls = (
                    [(asked[turn % 2], names[0])] if turn < 3 else zip(asked, names, strict=True)
                )
                await asyncio.gather(*(s.answer(name, caller=str(i)) for s, name in calls))
            if dawdle.random() < 0.5:
                await asyncio.to_thread(time.sleep, 0.005)
        unfinished.remove(i)
        attendance.expect(min(3, len(unfinished)))

    async def run() -> None:
        async with asyncio.timeout(60):
            attendance.expect(3)
            await asyncio.gather(*(run_episode(i, *opened) for i in range(9)))

    steppers = (LoggingStepper(name, log) for name in ("policy", "reference"))
    with sessions(attendance, *steppers) as opened:
        asyncio.run(run())
    assert attendance.num_unsettled == 0
    return log


def test_which_calls_share_a_pass_of_either_engine_depends_on_who_called_and_not_on_when() -> None:
    first, *others = (dawdling_episodes(random.Random(seed)) for seed in range(5))
    assert others == [first] * 4
    assert max(map(len, first)) == 4


def test_engines_with_work_pass_in_turn() -> None:
    attendance, log = Attendance(wait_seconds=30), []

    async def run(first: Session[str], second: Session[str]) -> None:
        async with asyncio.timeout(30):
            attendance.expect(2)
            long, short = ask(first, "long", "a"), ask(second, "ab", "b")
            assert await short == tokens_of("ab")
            attendance.expect(1)
            assert await long == tokens_of("long")

    with sessions(attendance, LoggingStepper("1", log), LoggingStepper("2", log)) as opened:
        asyncio.run(run(*opened))
    assert [name for name, *_ in log] == ["1", "2", "1", "2", "1", "1"]


def test_a_caller_who_stays_away_holds_all_engines_up_once_only() -> None:
    attendance = Attendance(wait_seconds=0.5)

    async def run(first: Session[str], second: Session[str]) -> float:
        attendance.expect(3)
        started = time.monotonic()
        async with asyncio.timeout(30):
            await asyncio.gather(ask(first, "a" * 20), ask(second, "b" * 20))
        return time.monotonic() - started

    with sessions(attendance, LoggingStepper("1", []), LoggingStepper("2", [])) as opened:
        assert 0.5 <= asyncio.run(run(*opened)) < 20 * 0.5
    assert attendance.num_unsettled == 40


def test_an_engine_that_waits_for_nobody_passes_beside_another() -> None:
    held, log = ScriptedStepper(), []

    async def run(first: Session[str], second: Session[str]) -> None:
        async with asyncio.timeout(30):
            waiting = ask(first, "held")
            assert await asyncio.to_thread(held.is_in_pass.wait, 30)
            assert await second.answer("free", caller="free") == tokens_of("free")
            held.let_pass("held")
            await waiting

    with sessions(Attendance(wait_seconds=0), held, LoggingStepper("2", log)) as opened:
        asyncio.run(run(*opened))


@pytest.mark.parametrize("how", ["fails", "is closed", "is closed before its turn"])
def test_an_engine_that_ends_leaves_its_turn_to_the_others(how: str) -> None:
    ending, log = ScriptedStepper(), []
    attendance = Attendance(wait_seconds=30)

    async def run(first: Session[str], second: Session[str]) -> None:
        async with asyncio.timeout(30):
            attendance.expect(3 if how == "is closed before its turn" else 2)
            lost, kept = ask(first, "lost"), ask(second, "kept")
            if how == "is closed before its turn":
                await asyncio.sleep(0)
            else:
                assert await asyncio.to_thread(ending.is_in_pass.wait, 30)
            if how == "fails":
                ending.let_fail(RuntimeError("the device is lost"))
            else:
                ending.let_all_pass()
                await asyncio.to_thread(first.close)
            with pytest.raises(EngineError):
                await lost
            attendance.expect(1)
            assert await kept == tokens_of("kept")

    with sessions(attendance, ending, LoggingStepper("2", log)) as opened:
        asyncio.run(run(*opened))
    assert log == [("2", "kept")] * 4


def test_an_engine_that_is_closed_waits_for_no_pass_of_another() -> None:
    held = ScriptedStepper()
    attendance = Attendance(wait_seconds=30)

    async def run(first: Session[str], second: Session[str]) -> None:
        async with asyncio.timeout(30):
            attendance.expect(2)
            passing, lost = ask(first, "passing"), ask(second, "lost")
            assert await asyncio.to_thread(held.is_in_pass.wait, 30)
            await asyncio.to_thread(second.close)
            with pytest.raises(EngineError, match="stopped serving"):
                await lost
            attendance.expect(1)
            held.let_pass("passing")
            assert await passing == tokens_of("passing")

    with sessions(attendance, held, LoggingStepper("2", [])) as opened:
        asyncio.run(run(*opened))


def test_a_call_that_is_cancelled_before_its_turn_leaves_the_turn_to_the_other_engine() -> None:
    attendance, log = Attendance(wait_seconds=30), []

    async def run(first: Session[str], second: Session[str]) -> None:
        async with asyncio.timeout(30):
            attendance.expect(2)
            cancelled = ask(first, "cancelled")
            await asyncio.sleep(0)
            cancelled.cancel()
            attendance.expect(1)
            assert await second.answer("kept", caller="kept") == tokens_of("kept")

    with sessions(attendance, LoggingStepper("1", log), LoggingStepper("2", log)) as opened:
        asyncio.run(run(*opened))
    assert [who for who in log if len(who) > 1] == [("2", "kept")] * 4
