"""The thread that samples, its end, and calls that come meanwhile: without a model."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from astuner.engine.attendance import Attendance
from astuner.engine.session import Session
from astuner.errors import BackboneError, EngineError
from tests.fakes import LoopThatHoldsAThread, ScriptedStepper, tokens_of

NAME = "sampling"


def open_session(stepper: ScriptedStepper, *, stop_seconds: float = 30.0) -> Session[str]:
    return Session(stepper, Attendance(wait_seconds=0), name=NAME, stop_seconds=stop_seconds)


def ask(session: Session[str], name: str) -> asyncio.Task:
    return asyncio.create_task(session.answer(name, caller=name))


async def until_in_pass(stepper: ScriptedStepper) -> None:
    assert await asyncio.to_thread(stepper.is_in_pass.wait, 30)


def test_each_call_gets_its_own_tokens_in_the_event_loop_that_asked() -> None:
    stepper = ScriptedStepper()
    session = open_session(stepper)

    def ask_in_a_loop_of_its_own(name: str) -> object:
        return asyncio.run(session.answer(name, caller=name))

    with ThreadPoolExecutor() as threads:
        first = threads.submit(ask_in_a_loop_of_its_own, "first")
        assert stepper.is_in_pass.wait(30)
        second = threads.submit(ask_in_a_loop_of_its_own, "second")
        stepper.let_pass("first")
        assert first.result(30) == tokens_of("first")
        stepper.let_pass()
        stepper.let_pass("second")
        assert second.result(30) == tokens_of("second")
    session.close()


def test_a_cancelled_call_is_forgotten_and_the_others_go_on() -> None:
    stepper = ScriptedStepper()
    session = open_session(stepper)

    async def run() -> None:
        kept, cancelled = ask(session, "kept"), ask(session, "cancelled")
        await until_in_pass(stepper)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        stepper.let_pass()
        stepper.let_pass("kept")
        assert await kept == tokens_of("kept")

    asyncio.run(run())
    session.close()
    assert stepper.cancelled == ["cancelled"]


def test_tokens_of_a_call_that_was_cancelled_in_that_pass_go_nowhere() -> None:
    stepper = ScriptedStepper()
    session = open_session(stepper)

    async def run() -> None:
        cancelled = ask(session, "cancelled")
        await until_in_pass(stepper)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        stepper.let_pass("cancelled")
        kept = ask(session, "kept")
        stepper.let_pass("kept")
        assert await kept == tokens_of("kept")

    asyncio.run(run())
    session.close()


def test_what_waits_at_the_end_fails_and_the_stepper_forgets_it() -> None:
    stepper = ScriptedStepper()
    session = open_session(stepper)

    async def run() -> None:
        running = ask(session, "running")
        await until_in_pass(stepper)
        closing = asyncio.create_task(asyncio.to_thread(session.close))
        new = ask(session, "new")
        stepper.let_all_pass()
        for waiting in (running, new):
            with pytest.raises(EngineError, match="stopped serving"):
                await waiting
        await closing
        with pytest.raises(EngineError, match="stopped serving"):
            await session.answer("late", caller="late")

    asyncio.run(run())
    assert not stepper.has_work


def test_a_call_that_comes_while_the_thread_ends_is_refused() -> None:
    stepper = ScriptedStepper()
    session = open_session(stepper)
    loop = LoopThatHoldsAThread(NAME)

    async def ask_and_fail(name: str) -> None:
        async with asyncio.timeout(30):
            with pytest.raises(EngineError, match="stopped serving"):
                await session.answer(name, caller=name)

    with ThreadPoolExecutor() as threads:
        first = threads.submit(loop.run_until_complete, ask_and_fail("first"))
        assert stepper.is_in_pass.wait(30)
        closing = threads.submit(session.close)
        stepper.let_all_pass()
        # The thread has failed the calls that it knows of and is on its last lines.
        assert loop.is_holding.wait(30)
        assert any(thread.name == NAME for thread in threading.enumerate())
        asyncio.run(ask_and_fail("second"))
        loop.go.set()
        first.result(30)
        closing.result(30)
    loop.close()


def test_a_thread_that_does_not_end_is_named_and_nobody_waits_for_it() -> None:
    stepper = ScriptedStepper()
    session = open_session(stepper, stop_seconds=0.01)

    async def run() -> None:
        waiting = ask(session, "waiting")
        await until_in_pass(stepper)
        with pytest.raises(BackboneError, match=f"thread {NAME} did not end in 0.01 s"):
            await asyncio.to_thread(session.close)
        with pytest.raises(EngineError, match="did not end"):
            await waiting
        with pytest.raises(EngineError, match="did not end"):
            await session.answer("late", caller="late")

    asyncio.run(run())
    stepper.let_pass("waiting")
    session.close()


def test_a_pass_that_fails_fails_every_call_with_its_cause() -> None:
    stepper = ScriptedStepper()
    session = open_session(stepper)
    error = SystemExit(3)

    async def run() -> list[BaseException]:
        calls = [ask(session, name) for name in ("first", "second")]
        await until_in_pass(stepper)
        stepper.let_fail(error)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        return [*outcomes, *await asyncio.gather(ask(session, "late"), return_exceptions=True)]

    outcomes = asyncio.run(run())
    session.close()
    assert [type(outcome) for outcome in outcomes] == [EngineError] * 3
    assert all(outcome.__cause__ is error for outcome in outcomes)
    assert all(str(outcome) == "the pass failed with SystemExit(3)" for outcome in outcomes)
    assert len(set(map(id, outcomes))) == 3


@pytest.mark.parametrize("second", [ValueError("no words"), SystemExit(4)])
def test_a_failure_that_cannot_be_explained_fails_every_call_all_the_same(second) -> None:
    stepper = ScriptedStepper()
    stepper.let_explaining_fail(second)
    session = open_session(stepper)
    error = RuntimeError("the device is lost")

    async def run() -> None:
        async with asyncio.timeout(30):
            waiting = ask(session, "waiting")
            await until_in_pass(stepper)
            stepper.let_fail(error)
            for call in (waiting, ask(session, "late")):
                with pytest.raises(EngineError, match="RuntimeError: the device is lost") as told:
                    await call
                assert told.value.__cause__ is error
                assert type(second).__name__ in str(told.value)

    asyncio.run(run())
    session.close()


def test_a_call_whose_event_loop_is_gone_holds_nobody_up() -> None:
    stepper = ScriptedStepper()
    session = open_session(stepper)
    gone = session.answer("gone", caller="gone")

    async def begin() -> None:
        gone.send(None)

    asyncio.run(begin())
    stepper.let_pass("gone")
    stepper.let_pass("other")
    assert asyncio.run(session.answer("other", caller="other")) == tokens_of("other")
    session.close()
    gone.close()
