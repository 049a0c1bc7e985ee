"""Signals as a terminal has them, however the tests were started."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals_of_a_terminal() -> Iterator[None]:
    """Inside, and in all that is started there: a shell ignores both of these in what it starts in
    the background or under nohup."""
    handlers = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
