"""Plain calls in a coroutine wait for asynchronous work while the event loop goes on."""

import asyncio
import contextvars
import gc
import warnings
from contextlib import suppress

import pytest

from astuner.bridge import await_now, bridged, bridging, is_on_bridge


async def later(value, seconds=0.0):
    await asyncio.sleep(seconds)
    return value


async def fails(error):
    await asyncio.sleep(0)
    raise error


def play(work):
    """Run a coroutine function as a task on the bridge, its own tasks too."""

    async def main():
        with bridging():
            asyncio.get_running_loop().set_task_factory(
                lambda loop, coroutine, **options: asyncio.Task(
                    bridged(coroutine), loop=loop, **options
                )
            )
            task = asyncio.create_task(work())
        async with asyncio.timeout(60):
            return await task

    return asyncio.run(main())


def test_a_plain_call_gives_what_the_coroutine_returns():
    async def work():
        first = await_now(later("a"))
        return first + await later("b") + await_now(later("c"))

    assert play(work) == "abc"


def test_a_plain_call_may_stand_deep_in_others():
    def generator():
        for i in range(3):
            yield await_now(later(i))

    async def agenerator():
        for i in range(3):
            yield await_now(later(i)) + await later(10)

    async def work():
        async def nested():
            return await_now(later(await_now_nested()))

        def await_now_nested():
            return sum(sorted(generator(), key=lambda i: await_now(later(-i))))

        return await nested(), [i async for i in agenerator()]

    assert play(work) == (3, [10, 11, 12])


def test_work_that_is_waited_for_may_wait_in_plain_calls_itself():
    async def inner():
        return await_now(later(await_now(later(1)) + 1))

    async def work():
        return await_now(inner())

    assert play(work) == 2


def test_two_tasks_interleave():
    diary = []

    async def one(name, seconds):
        for i in range(3):
            await_now(later(None, seconds))
            diary.append(f"{name}{i}")

    async def work():
        await asyncio.gather(one("slow", 0.05), one("fast", 0.01))

    play(work)
    assert diary.index("fast2") < diary.index("slow0")
    assert sorted(diary) == ["fast0", "fast1", "fast2", "slow0", "slow1", "slow2"]


def test_the_loop_turns_meanwhile():
    async def work():
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await_now(later(None, 0.02))
        counting.cancel()
        return turns

    assert play(work) > 10


def test_an_error_of_the_work_comes_out_of_the_plain_call():
    async def work():
        with pytest.raises(KeyError, match="gone"):
            await_now(fails(KeyError("gone")))
        return await_now(later("went on"))

    assert play(work) == "went on"


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), StopAsyncIteration()])
def test_an_error_of_the_coroutine_ends_its_task(error):
    async def work():
        await_now(later(None))
        raise error

    with pytest.raises(type(error)) as raised:
        play(work)
    assert raised.value is error


def test_a_stop_iteration_of_the_work_does_not_end_the_task():
    async def work():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await_now(fails(StopIteration()))
        return "went on"

    assert play(work) == "went on"


def test_a_cancellation_goes_through_the_plain_call_into_the_work():
    seen = []

    async def endless():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("work")
            raise

    def plain():
        try:
            await_now(endless())
        finally:
            seen.append("plain call")

    async def work():
        inner = asyncio.create_task(in_task())
        await asyncio.sleep(0.01)
        inner.cancel()
        with suppress(asyncio.CancelledError):
            await inner
        return inner.cancelled()

    async def in_task():
        plain()

    assert play(work) is True
    assert seen == ["work", "plain call"]


def test_a_timeout_around_a_plain_call_ends_it():
    async def work():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await_now(later(None, 60))
        return await_now(later("went on"))

    assert play(work) == "went on"


def test_a_task_that_is_cancelled_before_it_begins_does_not_begin():
    begun = []

    async def inner():
        begun.append(True)

    async def work():
        task = asyncio.create_task(inner())
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert play(work) is True and begun == []


def test_context_variables_are_those_of_the_task():
    variable = contextvars.ContextVar("variable", default="unset")

    async def reads():
        return variable.get()

    async def one(value):
        variable.set(value)
        seen = [variable.get(), await_now(reads()), await reads()]
        await_now(later(None))
        return [*seen, variable.get()]

    async def work():
        variable.set("outer")
        assert await_now(reads()) == "outer"
        return await asyncio.gather(one("a"), one("b")), variable.get()

    assert play(work) == ([["a"] * 4, ["b"] * 4], "outer")


def test_a_plain_call_in_a_context_of_its_own_comes_back_to_it():
    variable = contextvars.ContextVar("variable", default="unset")

    async def work():
        context = contextvars.copy_context()
        context.run(variable.set, "inside")

        def inside():
            await_now(later(None))
            return variable.get()

        return context.run(inside), variable.get()

    assert play(work) == ("inside", "unset")


def test_the_current_task_is_the_one_that_waits():
    async def current():
        return asyncio.current_task()

    async def work():
        return await_now(current()) is asyncio.current_task()

    assert play(work) is True


def test_nobody_is_on_a_bridge_outside_of_it():
    async def asks():
        return is_on_bridge()

    async def main():
        with bridging():
            on = await asyncio.create_task(bridged(asks()))
        off = await asyncio.create_task(bridged(asks()))
        return on, off, is_on_bridge()

    assert asyncio.run(main()) == (True, False, False)
    assert not is_on_bridge()


def test_nobody_is_on_a_bridge_in_a_thread():
    async def work():
        return await asyncio.to_thread(is_on_bridge)

    assert play(work) is False


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_coroutine_that_is_closed_runs_its_finally(is_begun):
    left = []

    async def plain():
        try:
            await_now(later(None, 60))
        finally:
            left.append("plain call")

    with bridging():
        coroutine = bridged(plain())
    if is_begun:
        loop = asyncio.new_event_loop()
        asyncio.events._set_running_loop(loop)
        try:
            coroutine.send(None)
            coroutine.close()
        finally:
            asyncio.events._set_running_loop(None)
            loop.close()
    coroutine.close()
    assert left == (["plain call"] if is_begun else [])


def test_one_that_is_forgotten_in_a_plain_call_leaves_no_warning():
    left = []

    async def plain():
        try:
            await_now(forever())
        finally:
            left.append("plain call")

    class Never:
        def __await__(self):
            yield None

    async def forever():
        await Never()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with bridging():
            coroutine = bridged(plain())
        coroutine.send(None)
        del coroutine
        gc.collect()
    assert left == ["plain call"]
