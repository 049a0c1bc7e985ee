"""Awaits blocking work that can be told to stop, in a thread of its own."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


async def in_own_thread(work: Callable[[int], Result]) -> Result:
    """Await work that ends soon after its argument, a pipe's end, becomes readable.

    It becomes so when the caller is cancelled, whom the cancellation reaches once the work has
    ended. A thread for each, since those of the loop's executor are few and everybody's.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    stop_fd, tell_fd = os.pipe()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # pyright: ignore[reportArgumentType]  # set where no error is
        else:
            future.set_exception(error)

    def body() -> None:
        result, error = None, None
        try:
            result = work(stop_fd)
        except BaseException as raised:  # noqa: BLE001  # is raised where the work is awaited
            error = raised
        os.close(stop_fd)
        with suppress(RuntimeError):  # of a loop that is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    thread = threading.Thread(target=body, name="sandbox", daemon=True)
    try:
        thread.start()
    except BaseException:
        os.close(stop_fd)
        os.close(tell_fd)
        raise
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        _tell(tell_fd)
        await _end_of(future)
        raise
    finally:
        if not future.done():
            _tell(tell_fd)  # the loop is closed and waits for nothing
        os.close(tell_fd)
        if future.done():
            thread.join()  # which has nothing left to do


def _tell(fd: int) -> None:
    with suppress(BrokenPipeError):  # the work has just ended
        os.write(fd, b"stop")


async def _end_of(future: "asyncio.Future[Result]") -> None:
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()  # so that asyncio does not call it forgotten
