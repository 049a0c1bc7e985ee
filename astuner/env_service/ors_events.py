"""Server-sent events, read from the bytes of a response."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from astuner.env_service.remote_server import MAX_ANSWER_BYTES
from astuner.errors import EnvServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One event of the stream."""

    name: str
    data: str


async def server_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[ServerEvent]:
    """The events in order, until the stream ends; one that is cut off is left out.

    Raises EnvServiceError where the stream is longer than MAX_ANSWER_BYTES.
    """
    name, data = "", []
    async for line in _lines(chunks):
        if not line:
            if name or data:
                yield ServerEvent(name=name or "message", data="\n".join(data))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")  # one only: a piece of a text may begin with another
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Without their ends. Not `splitlines`, for which a text has more ends than a stream."""
    rest, num_bytes = b"", 0
    async for chunk in chunks:
        num_bytes += len(chunk)
        if num_bytes > MAX_ANSWER_BYTES:
            raise EnvServiceError(
                f"an answer is longer than {MAX_ANSWER_BYTES} bytes; make the observations of the "
                "environment shorter"
            )
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
