"""One task of a generated set, or one draft that became none, beside the text it was made from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.view.folding import shown_text
from astuner.logview.view.marked_chunk import MarkedChunk, marked_chunk
from astuner.logview.view.set_draft import ShownDraft, read_draft, turn_in
from astuner.logview.web.addresses import path_name, set_at
from astuner.logview.web.asked import asked_set
from astuner.logview.web.asked_lines import AskedLines, next_key
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.set_line import SetLine
    from astuner.logview.reading.set_reader import SetContent, SetReader

_DUPLICATES = "duplicate"
"""What is in the name of a gate that compares drafts with each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceText:
    """The chunk that a draft was made from."""

    headings: Sequence[str]
    text: MarkedChunk | None
    """None where it cannot be shown."""
    problem: str
    """Why not; empty where it is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedDraft:
    """What a duplicate repeats: a task, or a draft that a later gate rejected."""

    key: str
    question: str
    address: str


def routes(site: Site) -> Iterator[BaseRoute]:
    def page(request: Request, part: str) -> Response:
        reader = asked_set(site, request)
        content = reader.content()
        lines, by_key = (
            (content.tasks, content.tasks_by_key)
            if part == "tasks"
            else (content.rejected, content.rejected_by_key)
        )
        key = path_name(request, "key")
        line = by_key.get(key)
        if line is None:
            raise _not_there(reader, key, part)
        asked = AskedLines.of(request.query_params)
        draft = _read(reader, line)
        among = asked.among(lines)
        place = among.index(line) if line in among else None
        before = () if place is None else reversed(among[:place])
        behind = () if place is None else among[place + 1 :]

        def beside(key: str | None) -> str | None:
            return None if key is None else set_at(reader.name, part, key, **asked.address)

        return site.page(
            request,
            "set_draft.html",
            reader=reader,
            part=part,
            line=line,
            draft=draft,
            source=_source(reader, content, line, draft),
            repeated=_repeated(reader, content, line, draft),
            shown=shown_text,
            back=set_at(reader.name, part, **asked.address),
            is_searched=bool(asked.address),
            previous=beside(next_key(reader, before, asked.text)),
            next=beside(next_key(reader, behind, asked.text)),
        )

    def task(request: Request) -> Response:
        return page(request, "tasks")

    def rejection(request: Request) -> Response:
        return page(request, "rejections")

    yield Route("/sets/{place}/{folder}/tasks/{key}", task)
    yield Route("/sets/{place}/{folder}/rejections/{key}", rejection)


def _read(reader: "SetReader", line: "SetLine") -> ShownDraft:
    _, found = next(iter(reader.objects([line])))
    return read_draft(found)


def _source(
    reader: "SetReader", content: "SetContent", line: "SetLine", draft: ShownDraft
) -> SourceText | None:
    """None of a draft that was made from examples alone."""
    if line.chunk is None:
        return None
    place = content.chunks.get((line.document, line.chunk))
    if place is None:
        return _unshown("its text is not among the set's chunks")
    try:
        chunk = reader.chunk(place)
    except UnreadableError as error:
        return _unshown(str(error))
    headings = chunk.get("headings")
    return SourceText(
        headings=[str(one) for one in headings] if isinstance(headings, list) else [],
        text=marked_chunk(chunk["text"], draft.evidence, span=draft.span),
        problem="",
    )


def _unshown(why: str) -> SourceText:
    return SourceText(headings=(), text=None, problem=why)


def _repeated(
    reader: "SetReader", content: "SetContent", line: "SetLine", draft: ShownDraft
) -> RepeatedDraft | None:
    """None where the reason names no draft of the set, such as a seed."""
    turn = turn_in(draft.reason) if _DUPLICATES in (line.gate or "") else None
    if turn is None:
        return None
    same = (one for one in (*content.tasks, *content.rejected) if one.turn == turn)
    found = next(same, None)
    if found is None or found == line:
        return None
    part = "tasks" if found.gate is None else "rejections"
    return RepeatedDraft(
        key=found.key,
        question=_read(reader, found).question,
        address=set_at(reader.name, part, found.key),
    )


def _not_there(reader: "SetReader", key: str, part: str) -> NotFoundError:
    what = "task" if part == "tasks" else "rejected draft"
    return NotFoundError(
        f"the set {reader.name} has no {what} {key!r}; it may have been made anew since. Look for "
        f"it under {set_at(reader.name, part)}"
    )
