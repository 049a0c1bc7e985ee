"""One process with one environment, seen from the server: asks it, and knows why it ended."""

import asyncio
import contextlib
import json
import signal
import struct
from typing import Any

from astuner.env_service.server.zygote import Zygote
from astuner.errors import ConfigError
from astuner.serving.refusal import Refusal

_LENGTH = struct.Struct(">I")
_MAX_ANSWER_BYTES = 256 << 20
_DEATH_SECONDS = 10.0
"""For the system to end a process that was killed, and to say so."""
_CLOSE_SECONDS = 10.0
"""For an environment to let go of what it holds."""

_STATUS = {"unknown_task": 404, "unknown_split": 404}


class _Garbled(Exception):
    """What came is no answer."""


class EnvironmentWorker:
    """Asked one thing at a time. Whatever goes wrong in it ends it."""

    def __init__(self, zygote: Zygote, *, name: str) -> None:
        """`name` is that of the environment."""
        self._zygote = zygote
        self._name = name
        self._id = ""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ended: asyncio.Future[tuple[int | None, str]] = (
            asyncio.get_running_loop().create_future()
        )

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    @property
    def is_orphaned(self) -> bool:
        """Whether it ended with the process that it came from, not for a reason of its own."""
        return self._ended.done() and self._ended.result()[0] is None

    async def start(self) -> None:
        """Raises Refusal where no process can be had."""
        try:
            self._id, channel = await self._zygote.fork(self._end_with)
        except (ConfigError, OSError) as error:
            raise Refusal(500, str(error), code="environment_unavailable") from error
        self._reader, self._writer = await asyncio.open_unix_connection(sock=channel)
        if self.has_ended:
            self._writer.transport.abort()

    async def ask(self, do: str, *, timeout_seconds: float, doing: str, **fields: Any) -> Any:
        """What the environment answers. `doing` is said of it in errors, as "step 3".

        Raises Refusal for whatever went wrong; the process has ended then, or is about to.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                reply = await self._exchange({"do": do, **fields})
        except TimeoutError:
            self.kill()
            raise self._failure(
                "environment_hung", f"{doing} had not returned after {timeout_seconds:g} s"
            ) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise self._failure("environment_died", await self._how_it_ended(doing)) from None
        except _Garbled:
            self.kill()
            raise self._failure(
                "environment_died",
                f"something else than an answer came during {doing}; it wrote to a socket that it "
                "had not opened",
            ) from None
        except BaseException:  # who asked has gone, and the answer would be that to the next one
            self.kill()
            raise
        if "error" in reply:
            code, message = reply["error"]["code"], reply["error"]["message"]
            self.kill()
            raise self._failure(code, message)
        return reply["answer"]

    async def close(self) -> None:
        """Let the environment close, and end the process. Waits until it has ended."""
        if not self.has_ended and self._writer is not None:
            with contextlib.suppress(Refusal):
                await self.ask("close", timeout_seconds=_CLOSE_SECONDS, doing="close")
        await self.end()

    async def end(self) -> None:
        """End the process, and wait until it has."""
        self.kill()
        if self._id:
            await asyncio.wait({self._ended}, timeout=_DEATH_SECONDS)
        if self._writer is not None:
            self._writer.transport.abort()

    def kill(self) -> None:
        if self._id:
            self._zygote.end(self._id)

    async def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._reader is not None and self._writer is not None
        body = json.dumps(request).encode()
        self._writer.write(_LENGTH.pack(len(body)) + body)
        await self._writer.drain()
        (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
        if length > _MAX_ANSWER_BYTES:
            raise _Garbled
        reply = await self._reader.readexactly(length)
        try:
            return json.loads(reply)
        except ValueError as error:
            raise _Garbled from error

    def _end_with(self, status: int | None, why: str) -> None:
        if not self._ended.done():
            self._ended.set_result((status, why))
        if self._writer is not None:
            self._writer.transport.abort()  # a process that it left may hold the other end open

    def _failure(self, code: str, what: str) -> Refusal:
        message = f"environment {self._name}: {what}"
        return Refusal(_STATUS.get(code, 500), message, code=code)

    async def _how_it_ended(self, doing: str) -> str:
        await asyncio.wait({self._ended}, timeout=_DEATH_SECONDS)
        self.kill()
        unknown = None, "it closed the socket that it is asked by"
        status, why = self._ended.result() if self._ended.done() else unknown
        if status is None:
            return f"its process was lost during {doing}: {why}"
        if status >= 0:
            return f"it ended its process with exit code {status} during {doing}"
        number = -status
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        cause = ""
        if number == signal.SIGKILL:
            cause = ", perhaps by the system for want of memory"
        return f"its process was killed by {name} during {doing}{cause}"
