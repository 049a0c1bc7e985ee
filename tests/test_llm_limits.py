"""How many calls run at once, and when a failed one is made again."""

import asyncio
import email.utils
import itertools
import time
from random import Random

import pytest

from astuner.llm.limiter import CallLimiter
from astuner.llm.retries import Backoff, read_retry_after, status_setback


def round_of(limiter: CallLimiter, *, refused: bool) -> None:
    """As many calls at once as may run; each refused for load, or each answered."""

    async def run():
        began = []
        size = limiter.bound
        running = asyncio.Barrier(size)

        async def call():
            async with limiter.slot() as began_at:
                began.append(began_at)
                await running.wait()
            if refused:
                limiter.reduce(began_at)
            else:
                limiter.grow()

        await asyncio.gather(*(call() for _ in range(size)))

    asyncio.run(run())


def test_a_round_of_refused_calls_halves_the_bound_once():
    limiter = CallLimiter(16)
    for bound in (8, 4, 2, 1, 1):
        round_of(limiter, refused=True)
        assert limiter.bound == bound


def test_a_round_of_answered_calls_adds_about_one_until_the_bound_is_whole_again():
    limiter = CallLimiter(6)
    round_of(limiter, refused=True)
    round_of(limiter, refused=True)
    bounds = [limiter.bound]
    while limiter.bound < 6:
        round_of(limiter, refused=False)
        bounds.append(limiter.bound)
    assert all(0 <= after - before <= 1 for before, after in itertools.pairwise(bounds))
    assert len(bounds) <= 9
    round_of(limiter, refused=False)
    assert limiter.bound == 6


def test_a_refusal_of_a_call_from_before_the_last_one_does_not_count():
    limiter = CallLimiter(16)

    async def run():
        async with limiter.slot() as early:
            limiter.reduce(early)
            assert limiter.bound == 8
            limiter.reduce(early)
            assert limiter.bound == 8
        async with limiter.slot() as late:
            limiter.reduce(late)
        assert limiter.bound == 4

    asyncio.run(run())


def test_slots_are_given_in_the_order_they_were_asked_for():
    async def run():
        limiter, order = CallLimiter(1), []

        async def call(name):
            async with limiter.slot():
                order.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(*(call(name) for name in range(5)))
        return order

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]


def test_calls_beyond_a_lowered_bound_are_finished_and_no_other_begins_before():
    async def run():
        limiter, go = CallLimiter(4), asyncio.Event()
        num_running = 0

        async def call():
            nonlocal num_running
            async with limiter.slot():
                num_running += 1
                try:
                    await go.wait()
                finally:
                    num_running -= 1

        first = [asyncio.create_task(call()) for _ in range(4)]
        await asyncio.sleep(0.01)
        limiter.reduce(0)
        later = [asyncio.create_task(call()) for _ in range(4)]
        await asyncio.sleep(0.01)
        assert num_running == 4
        for task in first[:2]:
            task.cancel()
        await asyncio.sleep(0.01)
        assert num_running == 2
        go.set()
        await asyncio.gather(*first[2:], *later)

    asyncio.run(run())


@pytest.mark.parametrize("num_turns", range(4))
def test_a_caller_that_is_cancelled_at_any_moment_takes_no_slot_with_it(num_turns):
    async def run():
        limiter = CallLimiter(1)

        async def call():
            async with limiter.slot():
                await asyncio.sleep(0)

        async with limiter.slot():
            waiting = [asyncio.create_task(call()) for _ in range(3)]
            await asyncio.sleep(0)
        for _ in range(num_turns):
            await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[1].cancel()
        await asyncio.wait(waiting)
        async with asyncio.timeout(60), limiter.slot():
            pass

    asyncio.run(run())


# Waiting


def test_waits_double_up_to_a_bound_and_are_drawn_from_the_whole_of_it():
    backoff = Backoff(random=Random(0), first_seconds=1.0, max_seconds=8.0)
    longest = [
        max(backoff.wait_seconds(num_tries, None) for _ in range(2000)) for num_tries in range(1, 7)
    ]
    assert longest == pytest.approx([1, 2, 4, 8, 8, 8], rel=0.02)
    draws = [backoff.wait_seconds(3, None) for _ in range(2000)]
    assert min(draws) < 0.1 and sum(draws) / len(draws) == pytest.approx(2.0, rel=0.1)


def test_the_same_seed_waits_the_same():
    first, second = (Backoff(random=Random(7)) for _ in range(2))
    assert [first.wait_seconds(n, None) for n in range(1, 5)] == [
        second.wait_seconds(n, None) for n in range(1, 5)
    ]


def test_what_the_server_asks_for_is_the_least():
    backoff = Backoff(random=Random(0))
    waits = [backoff.wait_seconds(1, 20.0) for _ in range(100)]
    assert 20 <= min(waits) < max(waits) <= 21


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "3"}, 3.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_a_server_says_in_several_ways_how_long_to_wait(headers, seconds):
    assert read_retry_after(headers) == seconds


def test_a_date_to_come_back_at_is_counted_from_now():
    date = email.utils.formatdate(time.time() + 3600, usegmt=True)
    seconds = read_retry_after({"retry-after": date})
    assert seconds is not None and 3000 < seconds <= 3600


@pytest.mark.parametrize(
    ("status", "passes", "is_overload"),
    [
        (400, False, None),
        (404, False, None),
        (408, True, False),
        (409, True, False),
        (429, True, True),
        (500, True, False),
        (503, True, True),
    ],
)
def test_a_status_says_whether_to_come_back(status, passes, is_overload):
    setback = status_setback(status, {}, "found")
    assert (setback is not None) == passes
    if setback is not None:
        assert setback.is_overload == is_overload and setback.reason == str(status)
