"""Requests to an environment service: which are sent again, and what a lost answer means.

A request that never reached the server is sent again. One whose answer was lost is so only where
the caller says that it is repeatable: a step that is made twice would be another episode than the
one that is recorded.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from astuner.env_service.answers import Unreadable, read_data
from astuner.env_service.service_address import VERSION_HEADER, EnvServiceAddress
from astuner.errors import EnvServiceError
from astuner.serving.seldom_log import SeldomLog

logger = logging.getLogger(__name__)
_full_log = SeldomLog(logger, clock=time.monotonic)

MAX_ANSWER_BYTES = 8 << 20
"""No model reads as much, and a record would hold it."""
_MAX_TRIES = 4
_FIRST_PAUSE_SECONDS = 0.5
"""Before the second try; doubled for each further one."""
_LEAST_WAIT_SECONDS, _DEFAULT_WAIT_SECONDS, _MAX_WAIT_SECONDS = 0.05, 1.0, 30.0
"""Until a full server is asked again; the default where it does not say."""
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_FULL = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class _Received:
    """An answer, whole."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class EnvServiceExchange:
    """The requests about one task, on connections of their own. `close` ends them."""

    def __init__(self, address: EnvServiceAddress, *, task_id: str) -> None:
        self._address, self._task_id = address, task_id
        self._client = httpx.AsyncClient(**address.http_options())

    async def close(self) -> None:
        await self._client.aclose()

    async def version(self) -> int:
        """Of the protocol: 1 where a step has no number of its own."""
        what = "the environment service cannot be asked"
        received = await self._exchanged("GET", "healthz", None, what=what, is_repeatable=True)
        written = received.headers.get(VERSION_HEADER.lower(), "1")
        return int(written) if written.isdecimal() else 1

    async def ask(
        self, route: str, body: Mapping[str, Any], *, what: str, is_repeatable: bool
    ) -> Any:
        """The `data` of the answer. `what` begins the message of an error.

        A server that is full is asked again, for as long as the caller waits. Raises
        EnvServiceError, and nothing else.
        """
        while True:
            received = await self._exchanged(
                "POST", route, body, what=what, is_repeatable=is_repeatable
            )
            if received.status != _FULL or not is_repeatable:
                return self._data(received, what)
            seconds = _seconds_to_wait(received)
            _full_log.warn(
                self._address.url,
                "environment full server=%s: episodes wait for a free instance; more are allowed "
                "by --capacity there",
                self._address.url,
            )
            await asyncio.sleep(seconds)

    async def tell(self, route: str, body: Mapping[str, Any], *, what: str) -> None:
        """The same for what may be said twice, and where any answer will do."""
        await self._exchanged("POST", route, body, what=what, is_repeatable=True)

    def error(self, what: str, found: str, advice: str, **named: Any) -> EnvServiceError:
        return self._address.error(what, found, advice, task_id=self._task_id, **named)

    async def _exchanged(
        self,
        method: str,
        route: str,
        body: Mapping[str, Any] | None,
        *,
        what: str,
        is_repeatable: bool,
    ) -> _Received:
        pause = _FIRST_PAUSE_SECONDS
        for num_tries_left in reversed(range(_MAX_TRIES)):
            try:
                return await self._received(method, route, body, what=what)
            except (httpx.RequestError, TimeoutError) as error:
                is_lost = not isinstance(error, _NEVER_SENT)
                if num_tries_left == 0 or (is_lost and not is_repeatable):
                    raise self._no_answer(what, error, is_lost=is_lost) from error
                logger.debug("environment asked again route=%s after=%r", route, error)
            await asyncio.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    async def _received(
        self, method: str, route: str, body: Mapping[str, Any] | None, *, what: str
    ) -> _Received:
        # In ASCII: what a model wrote may hold half characters.
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        url = f"{self._address.url}/{route}"
        read = bytearray()
        async with (
            asyncio.timeout(self._address.timeout_seconds),
            self._client.stream(method, url, content=content, headers=headers) as answer,
        ):
            async for piece in answer.aiter_bytes():
                read += piece
                if len(read) > MAX_ANSWER_BYTES:
                    raise self.error(
                        what,
                        f"its answer is longer than {MAX_ANSWER_BYTES >> 20} MiB",
                        "have the environment say less: no model reads that much",
                    )
        return _Received(status=answer.status_code, headers=answer.headers, content=bytes(read))

    def _data(self, received: _Received, what: str) -> Any:
        try:
            return read_data(received.status, received.content)
        except Unreadable as error:
            raise self.unreadable(what, error, status=received.status) from None

    def unreadable(
        self, what: str, error: Unreadable, *, status: int | None = None
    ) -> EnvServiceError:
        """The error for an answer that came and does not say what it should."""
        return self.error(
            what,
            str(error),
            self._address.advice(status, error.code),
            code=error.code,
            is_retriable=error.is_retriable,
        )

    def _no_answer(self, what: str, error: Exception, *, is_lost: bool) -> EnvServiceError:
        seconds = self._address.timeout_seconds
        if isinstance(error, httpx.TimeoutException | TimeoutError):
            return self.error(
                what,
                f"no answer within {seconds:g} s (task_reader.env_service.timeout_seconds)",
                "see whether the environment hangs, or raise the limit",
            )
        reason = str(error) or type(error).__name__
        if is_lost:
            return self.error(
                what,
                f"the connection broke before the answer came ({reason})",
                "see whether the server still runs",
            )
        return self.error(what, f"nobody answers there ({reason})", self._address.start_advice)


def _seconds_to_wait(received: _Received) -> float:
    written = received.headers.get("retry-after", "")
    try:
        seconds = float(written)
    except ValueError:  # a date, or nothing
        return _DEFAULT_WAIT_SECONDS
    return min(max(seconds, _LEAST_WAIT_SECONDS), _MAX_WAIT_SECONDS)
