"""What an episode holds, whole and as plain data: its texts, its record, its tokens."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.episode_parts import read_sequences
from astuner.logview.reading.lines import own_file
from astuner.logview.view.said import SaidMessage, read_message
from astuner.logview.view.tokens import ShownToken, tokens_of
from astuner.logview.web.addresses import path_name
from astuner.logview.web.asked import asked_number, asked_run
from astuner.logview.web.keep import file_name
from astuner.logview.web.site import Site
from astuner.machine.regular_file import open_regular

if TYPE_CHECKING:
    from astuner.logview.reading.row import EpisodeRow
    from astuner.logview.reading.run_reader import RunReader
    from astuner.trajectory.episode import Episode

_CHUNK = 2**16
_AT = "/runs/{experiment}/{start}/episodes/{episode_id}"
_COLUMNS = (
    "number",
    "sequence",
    "call",
    "id",
    "text",
    "fate",
    "why",
    "logprob",
    "recomputed",
    "ratio",
    "advantage",
    "weight_version",
)


def routes(site: Site) -> Iterator[BaseRoute]:
    """Everything of an episode that a page may show only a part of."""

    def whole(request: Request) -> Response:
        run, row = _asked(site, request)
        return _plain(_pieces(_asked_text(request, run.index.read(row).episode)))

    def record(request: Request) -> Response:
        run, row = _asked(site, request)
        return StreamingResponse(
            _line(run, row),
            media_type="text/plain; charset=utf-8" if row.problem else "application/json",
            headers=_named(f"{row.episode_id}-record", "txt" if row.problem else "json"),
        )

    def tokens_csv(request: Request) -> Response:
        run, row = _asked(site, request)
        lines = _csv_lines(_tokens(run, row))
        return _streamed(
            lines, "text/csv; charset=utf-8", _named(f"{row.episode_id}-tokens", "csv")
        )

    def tokens_json(request: Request) -> Response:
        run, row = _asked(site, request)
        lines = _json_lines(_tokens(run, row))
        return _streamed(lines, "application/json", _named(f"{row.episode_id}-tokens", "json"))

    yield Route(f"{_AT}/whole", whole)
    yield Route(f"{_AT}/record", record)
    yield Route(f"{_AT}/tokens.csv", tokens_csv)
    yield Route(f"{_AT}/tokens.json", tokens_json)


def _asked(site: Site, request: Request) -> tuple["RunReader", "EpisodeRow"]:
    run = asked_run(site, request)
    episode_id = path_name(request, "episode_id")
    row = run.index.locate(episode_id)
    if row is None:
        raise NotFoundError(f"run {run.name} has no episode {episode_id}, or it is not listed yet")
    return run, row


def _asked_text(request: Request, episode: "Episode") -> str:
    """The text that `call`, `message` and `part` name. Raises NotFoundError."""
    part = request.query_params.get("part", "text")
    if part == "question":
        return episode.task.main_query
    if part in ("failure", "traceback") and episode.failure is not None:
        return episode.failure.message if part == "failure" else episode.failure.traceback
    index = asked_number(request, "call", 0) - 1
    place = asked_number(request, "message", 0)
    if 0 <= index < len(episode.calls):
        messages = (*episode.calls[index].messages, episode.calls[index].reply)
        if place < len(messages):
            said = read_message(messages[place], index=place)
            text = _part(part, said, asked_number(request, "tool", 1) - 1)
            if text is not None:
                return text
    raise NotFoundError(
        f"episode {episode.episode_id} has no text there: it has {len(episode.calls)} calls. Open "
        "the episode and follow a link on its page"
    )


def _part(part: str, said: SaidMessage, tool: int) -> str | None:
    if part == "arguments":
        return said.tool_calls[tool].arguments if 0 <= tool < len(said.tool_calls) else None
    read: dict[str, Callable[[], str]] = {
        "text": lambda: said.text,
        "reasoning": lambda: said.reasoning,
        "json": lambda: said.raw,
    }
    return read[part]() if part in read else None


def _pieces(text: str) -> Iterator[bytes]:
    for place in range(0, len(text), _CHUNK):
        yield text[place : place + _CHUNK].encode("utf-8", "backslashreplace")


def _plain(pieces: Iterable[bytes]) -> Response:
    return StreamingResponse(pieces, media_type="text/plain; charset=utf-8")


def _streamed(lines: Iterable[str], media_type: str, headers: dict[str, str]) -> Response:
    return StreamingResponse(_joined(lines), media_type=media_type, headers=headers)


def _joined(lines: Iterable[str]) -> Iterator[bytes]:
    """Many at a time, since each piece that is sent costs a change of threads."""
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _CHUNK:
            yield "".join(held).encode("utf-8", "backslashreplace")
            held, size = [], 0
    yield "".join(held).encode("utf-8", "backslashreplace")


def _named(name: str, ending: str) -> dict[str, str]:
    stem = file_name(name).removesuffix(".html")
    return {"content-disposition": f'attachment; filename="{stem}.{ending}"'}


def _line(run: "RunReader", row: "EpisodeRow") -> Iterator[bytes]:
    """The record's line as it stands, a part at a time."""
    path = own_file(run.root, f"episodes/{row.file}")
    if path is None:
        raise UnreadableError(f"episodes/{row.file} of run {run.name} is gone: load its step again")
    return _parts_of_file(path, row.offset, row.length)


def _parts_of_file(path: Any, offset: int, length: int) -> Iterator[bytes]:
    with open_regular(path) as file:
        file.seek(offset)
        while length > 0 and (data := file.read(min(_CHUNK, length))):
            length -= len(data)
            yield data


def _tokens(run: "RunReader", row: "EpisodeRow") -> Iterator[ShownToken]:
    sequences = read_sequences(run, run.index.read(row))
    vocabulary = run.vocabulary()
    return (token for one in sequences for token in tokens_of(one, vocabulary))


def _values(token: ShownToken) -> dict[str, Any]:
    known = {name: getattr(token, name) for name in _COLUMNS if name != "text"}
    return known | {"fate": str(token.fate), "text": token.piece.text if token.piece else None}


def _csv_lines(tokens: Iterable[ShownToken]) -> Iterator[str]:
    yield ",".join(_COLUMNS) + "\r\n"
    for token in tokens:
        line = io.StringIO()
        values = _values(token)
        csv.writer(line).writerow([values[name] for name in _COLUMNS])
        yield line.getvalue()


def _json_lines(tokens: Iterable[ShownToken]) -> Iterator[str]:
    """A list, one token a line."""
    before = "[\n"
    for token in tokens:
        yield before + json.dumps(_values(token))
        before = ",\n"
    yield "\n]\n" if before != "[\n" else "[]\n"
