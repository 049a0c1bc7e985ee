"""What a command that serves until somebody ends it does with signals."""

import asyncio
import signal
from contextlib import suppress


def awaited_signal() -> asyncio.Future[int]:
    """In the running loop: its result is the number of the first signal that asks for the end.

    SIGINT, SIGTERM and SIGHUP do, unless the process was started to ignore them.
    """
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[int] = loop.create_future()

    def take(number: int) -> None:
        if not signalled.done():
            signalled.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(RuntimeError, ValueError):  # in a thread no signal can be handled
                loop.add_signal_handler(number, take, number)
    return signalled
