"""A log that strangers can cause lines in: of each kind one a minute, however often it happens."""

import logging
from collections.abc import Callable

_SECONDS = 60.0


class SeldomLog:
    """Of one server."""

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float]) -> None:
        """`clock` gives seconds."""
        self._logger = logger
        self._clock = clock
        self._told: dict[str, float] = {}
        self._num_untold: dict[str, int] = {}

    def warn(self, kind: str, message: str, *values: object) -> None:
        """`message` is %-style. There may be few kinds only; they are kept."""
        now = self._clock()
        if now - self._told.get(kind, -_SECONDS) < _SECONDS:
            self._num_untold[kind] = self._num_untold.get(kind, 0) + 1
            return
        self._told[kind] = now
        num_untold = self._num_untold.pop(kind, 0)
        if num_untold:
            message, values = f"{message} (and %d times since the last line)", (*values, num_untold)
        self._logger.warning(message, *values)
