"""All runs: what became of each, and which to lay over each other; and the generated sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from astuner.logview.view.curves import points_of
from astuner.logview.view.spark import spark_points
from astuner.logview.web import addresses
from astuner.logview.web.listed import listed
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.set_reader import SetReader

_MOST = 100
"""On a page: each is found anew, by its files."""
_TOGETHER = {
    "curves": lambda first, others: addresses.run_at(first, **{"with": others}),
    "settings": lambda first, others: addresses.part_of(first, "config", **{"with": others[0]}),
    "tasks": lambda first, others: addresses.compare_at(others[0], first),
}
"""What can be done with several runs, which stand newest first; the last two look at two, of which
the older one is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """A line of the list."""

    name: str
    experiment: str
    start: str
    state: Any
    """RunState."""
    spark: str
    """Of the reward."""
    facts: Any
    """EvaluationFacts; None of a run that is no evaluation."""
    num_episodes: int | None
    """Of an evaluation that is not whole, those that are known to be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSet:
    """A line of the list of generated sets."""

    name: str
    title: str
    folder: str
    glance: Any
    """SetGlance."""

    @classmethod
    def of(cls, found: "SetReader") -> Self:
        return cls(
            name=found.name,
            title=found.title,
            folder=str(found.root.parent),
            glance=found.glance(),
        )


def routes(site: Site) -> Iterator[BaseRoute]:
    """The list, and the way from several runs that were chosen in it to what shows them."""

    def runs(request: Request) -> Response:
        found = site.shelf.runs()
        num_runs = len(found)
        asked = request.query_params.get("q", "").strip()
        if asked:
            found = [run for run in found if _says(run, asked)]
        part = listed(request, found, most=_MOST)
        return site.page(
            request,
            "runs.html",
            runs=[_line_of(run) for run in part.items],
            sets=[ListedSet.of(found) for found in site.shelf.sets()],
            part=part,
            num_runs=num_runs,
            asked=asked,
            folders=[str(folder) for folder in site.shelf.folders],
            said=request.query_params.get("said"),
        )

    def chosen(request: Request) -> Response:
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        do = request.query_params.get("do", "curves")
        if len(names) < 2 or do not in _TOGETHER:
            return RedirectResponse(f"{addresses.HOME}?said=two", status_code=303)
        return RedirectResponse(_TOGETHER[do](names[0], names[1:]), status_code=303)

    yield Route("/", runs)
    yield Route("/chosen", chosen)


def _line_of(run: "RunReader") -> ListedRun:
    rewards = [value for _, value in points_of(run.metrics(), "reward/mean")]
    state, facts = run.state(), run.facts
    is_cut = facts is not None and state.validation_last is None
    return ListedRun(
        name=run.name,
        experiment=run.experiment,
        start=run.start,
        state=state,
        spark=spark_points(rewards),
        facts=facts,
        num_episodes=run.index.outcomes().num_episodes if is_cut else None,
    )


def _says(run: "RunReader", asked: str) -> bool:
    """Whether every word that is asked for stands in the run's line."""
    state = run.state()
    split = run.facts and run.facts.split
    shown = (
        run.name,
        state.status,
        state.kind,
        state.backbone,
        state.model,
        split,
        state.last_line,
    )
    line = " ".join(part for part in shown if part).casefold()
    return all(word in line for word in asked.casefold().split())
