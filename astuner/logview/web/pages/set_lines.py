"""The tasks of a generated set, and the drafts that became none: which of them are so, or say
that?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.logview.view.set_draft import ShownDraft, read_draft
from astuner.logview.web.addresses import set_at
from astuner.logview.web.asked import asked_number, asked_set
from astuner.logview.web.asked_lines import AskedLines, FoundLine, lines_page
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.set_line import SetLine

_NUM_SHOWN = 50
_MOST_NAMES = 200
"""Documents that can be chosen from; others are typed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFilter:
    """A filter of one value."""

    name: str
    says: str
    value: Any
    """Empty where it asks for nothing."""
    options: Sequence[str]
    """Values of the lines; none where it is a number."""
    is_typed: bool = False
    """There are too many to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDraft:
    """A line of the list."""

    line: "SetLine"
    draft: ShownDraft
    address: str


def routes(site: Site) -> Iterator[BaseRoute]:
    """The list of tasks and that of rejections, which differ in what they can be asked for."""

    def page(request: Request, part: str) -> Response:
        reader = asked_set(site, request)
        content = reader.content()
        lines = content.tasks if part == "tasks" else content.rejected
        asked = AskedLines.of(request.query_params)
        among = asked.among(lines)
        start = asked_number(request, "from")
        found = lines_page(reader, among, asked.text, start=start, most=_NUM_SHOWN)

        def address(**changes: Any) -> str:
            return set_at(reader.name, part, **(asked.address | changes))

        def listed(one: FoundLine) -> ListedDraft:
            return ListedDraft(
                line=one.line,
                draft=read_draft(one.content),
                address=set_at(reader.name, part, one.line.key, **asked.address),
            )

        return site.page(
            request,
            "set_lines.html",
            reader=reader,
            content=content,
            part=part,
            noun="task" if part == "tasks" else "rejected draft",
            text=asked.text,
            found=[listed(one) for one in found.found],
            page=found,
            num_all=len(lines),
            is_filtered=bool(asked.address),
            nothing_asked=set_at(reader.name, part),
            filters=_filters(lines, asked, part),
            before=address(**{"from": max(0, found.start - _NUM_SHOWN)})
            if found.start and not asked.text
            else None,
            behind=address(**{"from": found.end}) if found.end < found.total else None,
        )

    def tasks(request: Request) -> Response:
        return page(request, "tasks")

    def rejections(request: Request) -> Response:
        return page(request, "rejections")

    yield Route("/sets/{place}/{folder}/tasks", tasks)
    yield Route("/sets/{place}/{folder}/rejections", rejections)


def _filters(lines: "Sequence[SetLine]", asked: AskedLines, part: str) -> list[LineFilter]:
    """Those by which the lines can be told apart, and those that are used."""
    names = ("gate",) if part == "rejections" else ("side",)
    filters = []
    for name in (*names, "style", "difficulty", "document"):
        value = getattr(asked.query, name)
        options = sorted({getattr(line, name) for line in lines} - {"", None})
        if len(options) > 1 or value is not None:
            is_typed = len(options) > _MOST_NAMES
            filters.append(
                LineFilter(
                    name=name,
                    says=name,
                    value=value or "",
                    options=options[:_MOST_NAMES],
                    is_typed=is_typed,
                )
            )
    rates = [("min_rate", "pass rate from"), ("max_rate", "to")]
    if any(line.pass_rate is not None for line in lines):
        filters += [
            LineFilter(name=name, says=says, value=_said(getattr(asked.query, name)), options=())
            for name, says in rates
        ]
    return filters


def _said(value: float | None) -> str:
    return "" if value is None else repr(value)
