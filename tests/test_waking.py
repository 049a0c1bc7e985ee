"""What a thread that samples has for event loops: in order, once for each pass, never lost."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from astuner.waking import run_in, waking_once


class _CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often another thread wakes it."""

    num_woken = 0

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        self.num_woken += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


def test_a_pass_wakes_a_loop_once_and_in_order() -> None:
    loop, told = _CountingLoop(), list[int]()
    with waking_once():
        for number in range(5):
            run_in(loop, partial(told.append, number))
        assert loop.num_woken == 0
    assert loop.num_woken == 1
    run_in(loop, partial(told.append, 5))
    run_in(loop, loop.stop)
    loop.run_forever()
    loop.close()
    assert told == [0, 1, 2, 3, 4, 5]


def test_a_pass_that_fails_tells_what_it_had() -> None:
    loop, told = asyncio.new_event_loop(), list[str]()
    with pytest.raises(RuntimeError), waking_once():
        run_in(loop, partial(told.append, "a token"))
        run_in(loop, loop.stop)
        raise RuntimeError("the pass failed")
    loop.run_forever()
    loop.close()
    assert told == ["a token"]


def test_a_loop_that_is_gone_is_passed_over() -> None:
    gone, loop, told = asyncio.new_event_loop(), asyncio.new_event_loop(), list[str]()
    gone.close()
    with waking_once():
        run_in(gone, partial(told.append, "lost"))
        run_in(loop, partial(told.append, "kept"))
        run_in(loop, loop.stop)
    loop.run_forever()
    loop.close()
    assert told == ["kept"]
