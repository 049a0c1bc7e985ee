"""All episodes of a run: which of them are so, or say that?"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from astuner.errors import UnreadableError
from astuner.logview.reading.query import ORDERS, EpisodeQuery
from astuner.logview.reading.said import texts_of
from astuner.logview.web.addresses import episode_at, part_of, path_name
from astuner.logview.web.asked import asked_number, asked_run
from astuner.logview.web.asked_episodes import AskedEpisodes
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.row import EpisodeRow
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.search import SearchPage

_NUM_SHOWN = 50
_NUM_HITS = 20
_SEARCH_SECONDS = 0.6
_WALK_SECONDS = 2.0
_OUTCOMES = (("solved", "solved"), ("unsolved", "not solved"), ("failed", "failed"))
_KINDS = (("train", "training"), ("validation", "validation"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A filter of one value."""

    name: str
    says: str
    value: Any
    """None where it asks for nothing."""
    options: tuple[tuple[str, str], ...] = ()
    """Value and words of each choice; none where it is typed."""
    kind: str = "text"
    is_seldom: bool = False


def routes(site: Site) -> Iterator[BaseRoute]:
    """The list of episodes, and the way from one hit of a search to the next."""

    def page(request: Request) -> Response:
        run = asked_run(site, request)
        asked = AskedEpisodes.of(request.query_params)
        query, text = asked.query, asked.text
        indexed = run.index.refresh(step=query.step)
        found = _search(request, run, text, query) if text else None
        start = asked_number(request, "from")
        rows = None if found else run.index.rows(query, limit=_NUM_SHOWN, offset=start)
        if rows is not None and not rows.rows and rows.total:
            start = 0
            rows = run.index.rows(query, limit=_NUM_SHOWN, offset=0)

        listed = [hit.row for hit in found.hits] if found else rows.rows if rows else []

        def address(**changes: Any) -> str:
            return part_of(run.name, "episodes", **(asked.address | changes))

        return site.page(
            request,
            "episodes.html",
            run=run,
            indexed=indexed,
            text=text,
            found=found,
            rows=rows,
            start=start,
            fields=_fields(query),
            known=_known_names(listed),
            is_filtered=asked.asks_for_some,
            nothing_asked=part_of(run.name, "episodes"),
            address=address,
            going_on=address(after=found.after) if found and found.after else None,
            before=address(**{"from": max(0, start - _NUM_SHOWN)}) if start else None,
            behind=_behind(rows, start, address),
            episode=lambda row: episode_at(run.name, row.episode_id, **asked.address),
            hit=lambda hit: (
                episode_at(run.name, hit.row.episode_id, **asked.address, calls=hit.call + 1)
                + f"#c{hit.call + 1}m{hit.message}"
            ),
        )

    def beside(request: Request) -> Response:
        run = asked_run(site, request)
        return RedirectResponse(_next_hit(request, run), status_code=303)

    yield Route("/runs/{experiment}/{start}/episodes", page)
    yield Route("/runs/{experiment}/{start}/episodes/{episode_id}/beside", beside)


def _search(request: Request, run: "RunReader", text: str, query: EpisodeQuery) -> "SearchPage":
    return run.index.search(
        text,
        query,
        limit=_NUM_HITS,
        after=request.query_params.get("after"),
        seconds=_SEARCH_SECONDS,
    )


def _known_names(rows: Sequence["EpisodeRow"]) -> dict[str, list[str]]:
    """What a reader may mean by an agent or a tool: those of the episodes on the page."""
    return {
        "agent": sorted({name for row in rows for name in row.agents}),
        "tool": sorted({name for row in rows for name in row.tools}),
    }


def _behind(rows: Any, start: int, address: Any) -> str | None:
    if rows is None or start + len(rows.rows) >= rows.total:
        return None
    return address(**{"from": start + len(rows.rows)})


def _next_hit(request: Request, run: "RunReader") -> str:
    """The next episode of the query that says the text; the list where none is found in time."""
    asked = AskedEpisodes.of(request.query_params)
    is_back = request.query_params.get("to") == "previous"
    current: str | None = path_name(request, "episode_id")
    deadline = time.monotonic() + _WALK_SECONDS
    while current is not None and time.monotonic() < deadline:
        around = run.index.neighbours(current, asked.query)
        current = around.previous_id if is_back else around.next_id
        if current is not None and _says(run, current, asked.text.lower()):
            return episode_at(run.name, current, **asked.address)
    return part_of(run.name, "episodes", **asked.address)


def _says(run: "RunReader", episode_id: str, text: str) -> bool:
    row = run.index.locate(episode_id)
    if row is None:
        return False
    try:
        record = run.index.read(row).record
    except UnreadableError:
        return False
    return any(text in said.text.lower() for said in texts_of(record))


def _fields(query: EpisodeQuery) -> list[Field]:
    kind = None if query.is_validation is None else _KINDS[query.is_validation][0]
    orders = tuple((name, name.replace("_", " ")) for name in ORDERS)
    yes_no = (("yes", "yes"), ("no", "no"))
    return [
        Field(name="outcome", says="outcome", value=query.outcome, options=_OUTCOMES),
        Field(name="kind", says="kind", value=kind, options=_KINDS),
        Field(name="step", says="step", value=query.step, kind="number"),
        Field(name="order", says="order by", value=query.order, options=orders),
        Field(
            name="min_reward",
            says="reward from",
            value=query.min_reward,
            kind="decimal",
            is_seldom=True,
        ),
        Field(name="max_reward", says="to", value=query.max_reward, kind="decimal", is_seldom=True),
        Field(
            name="min_tokens",
            says="tokens from",
            value=query.min_tokens,
            kind="number",
            is_seldom=True,
        ),
        Field(name="max_tokens", says="to", value=query.max_tokens, kind="number", is_seldom=True),
        Field(name="agent", says="agent", value=query.agent, is_seldom=True),
        Field(name="tool", says="tool called", value=query.tool, is_seldom=True),
        Field(name="task_id", says="task", value=query.task_id, is_seldom=True),
        Field(
            name="madness",
            says="madness",
            value=_yes(query.madness),
            options=yes_no,
            is_seldom=True,
        ),
        Field(
            name="problem",
            says="unreadable",
            value=_yes(query.problem),
            options=yes_no,
            is_seldom=True,
        ),
    ]


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"
