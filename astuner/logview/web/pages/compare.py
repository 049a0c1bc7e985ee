"""Two evaluations, runs or steps of one: which tasks were won, which lost, and is it chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.errors import ConfigError, NotFoundError, UnreadableError
from astuner.evaluation.comparison import ModelComparison, compare
from astuner.evaluation.tags import kinds_of_tasks
from astuner.logview.view.compared import difference_rows, how_tested
from astuner.logview.view.differing import PartedText, parted
from astuner.logview.view.excerpt import excerpt
from astuner.logview.view.matched import (
    SELECTIONS,
    MatchedTasks,
    TaskPair,
    chance_sentence,
    matched_tasks,
    telling_attempts,
)
from astuner.logview.view.siblings import siblings
from astuner.logview.view.step_tasks import squares, with_text
from astuner.logview.web.addresses import compare_at
from astuner.logview.web.asked import here_with
from astuner.logview.web.listed import listed
from astuner.logview.web.side_by_side import PlacedRow, read_answer, side_by_side
from astuner.logview.web.sides import ComparedSide, read_side, steps_of
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.evaluation.outcomes import EvaluatedModel
    from astuner.logview.reading.run_reader import RunReader

NUM_SHOWN = 25
"""Tasks on a page, each with its two answers."""
MAX_ANSWER_SIGNS = 240
NUM_OPENED = 8
"""Runs of which every step can be chosen at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedAnswers:
    """What a and b answered in the end, each with the first word that the other has not."""

    a: PartedText
    b: PartedText


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDifference:
    """What two validations, or evaluations, allow to say of their models."""

    comparison: ModelComparison | None
    """None where they cannot be compared."""
    refused: str | None
    """Why not, in words."""
    can_share: bool
    """Whether the tasks that both have can be compared."""
    kinds: Sequence[str]
    """Tags by which tasks may be told apart."""


def routes(site: Site) -> list[BaseRoute]:
    def page(request: Request) -> Response:
        asked = request.query_params
        chooser = _chooser(site, asked.get("a"), asked.get("b"))
        if not asked.get("a") or not asked.get("b"):
            return site.page(request, "compare_choose.html", **chooser)
        a, b = read_side(site.shelf, asked["a"]), read_side(site.shelf, asked["b"])
        matched = matched_tasks(a.groups(), b.groups())
        sides = {"a": a, "b": b, "is_one_run": a.run is b.run, "squares": squares, **chooser}
        if "task" in asked:
            return site.page(request, "compare_task.html", **sides, **_task(request, matched, a, b))
        found = _difference(request, a, b)
        return site.page(
            request,
            "compare.html",
            **sides,
            **_tasks(request, matched, a, b),
            **_figures(request, found),
        )

    return [Route("/compare", page)]


def _difference(request: Request, a: ComparedSide, b: ComparedSide) -> FoundDifference | None:
    """None where a side is a step that was trained on, of which evaluations say nothing."""
    asks_common = request.query_params.get("common") == "1"
    by = request.query_params.get("by") or None
    try:
        own, other = a.evaluated(), b.evaluated()
    except (UnreadableError, NotFoundError) as error:
        return FoundDifference(comparison=None, refused=str(error), can_share=False, kinds=())
    if own is None or other is None:
        return None
    kinds = kinds_of_tasks(own.tasks)
    known_by = by if any(by in task.tags for task in own.tasks) else None
    try:
        found = compare(own, other, by=known_by, common_only=asks_common)
    except ConfigError as error:
        can_share = not asks_common and _can_be_compared(own, other)
        return FoundDifference(
            comparison=None, refused=str(error), can_share=can_share, kinds=kinds
        )
    return FoundDifference(comparison=found, refused=None, can_share=False, kinds=kinds)


def _can_be_compared(a: "EvaluatedModel", b: "EvaluatedModel") -> bool:
    """Where tasks are left out that one of them has alone."""
    try:
        compare(a, b, common_only=True)
    except ConfigError:
        return False
    return True


def _figures(request: Request, found: FoundDifference | None) -> dict[str, Any]:
    comparison = found.comparison if found else None
    by = comparison.by if comparison else None
    return {
        "found": found,
        "comparison": comparison,
        "differences": difference_rows(comparison) if comparison else [],
        "how_tested": how_tested(comparison) if comparison else None,
        "common_address": here_with(request, common="1"),
        "by": by,
        "kinds": [(kind, here_with(request, by=kind)) for kind in found.kinds] if found else [],
        "without_kinds": here_with(request, by=""),
    }


def _tasks(
    request: Request, matched: MatchedTasks, a: ComparedSide, b: ComparedSide
) -> dict[str, Any]:
    asked = request.query_params
    shown = asked.get("show", "")
    shown = shown if shown in SELECTIONS else "all"
    found = with_text(matched.pairs, asked.get("q", ""))
    pairs = listed(request, [p for p in found if SELECTIONS[shown].holds(p)], most=NUM_SHOWN)
    return {
        "matched": matched,
        "counts": matched.counts,
        "chance": chance_sentence(matched),
        "carried": [(k, v) for k, v in asked.multi_items() if k not in ("q", "from")],
        "pairs": pairs,
        "answers": [_answers(pair, a.run, b.run) for pair in pairs.items],
        "shown": shown,
        "q": asked.get("q", ""),
        "selections": [
            (name, selection.says, sum(map(selection.holds, found)), here_with(request, show=name))
            for name, selection in SELECTIONS.items()
        ],
        "task_address": lambda task: here_with(request, task=task),
        "swapped": compare_at(b.address, a.address),
    }


def _task(
    request: Request, matched: MatchedTasks, a: ComparedSide, b: ComparedSide
) -> dict[str, Any]:
    task_id = request.query_params["task"]
    pair = next((pair for pair in matched.pairs if pair.task_id == task_id), None)
    if pair is None:
        raise NotFoundError(
            f"task {task_id!r} cannot be compared: it needs an attempt with a verdict in both "
            f"{a.address} and {b.address}; go back to the list of the tasks that have"
        )
    chosen = telling_attempts(pair)
    places = [
        PlacedRow(run=side.run, row=row, name=name)
        for name, side, episode_id in (("a", a, chosen.a), ("b", b, chosen.b))
        if (row := side.run.index.locate(episode_id)) is not None
    ]
    return {
        "pair": pair,
        "shown_says": chosen.says,
        "compared": side_by_side(places),
        "beside": siblings([pair.task_id for pair in matched.pairs], task_id),
        "excerpt": excerpt,
        "is_whole": False,
        "offers_beside": False,
        "task_address": lambda task: here_with(request, task=task),
        "list_address": compare_at(a.address, b.address),
    }


def _answers(pair: TaskPair, run_a: "RunReader", run_b: "RunReader") -> ComparedAnswers | None:
    """None where one of them cannot be read, or only at length."""
    chosen = telling_attempts(pair)
    a, b = read_answer(run_a, chosen.a), read_answer(run_b, chosen.b)
    if a is None or b is None:
        return None
    a, b = a[:MAX_ANSWER_SIGNS], b[:MAX_ANSWER_SIGNS]
    return ComparedAnswers(a=parted(a, b), b=parted(b, a))


def _chooser(site: Site, a: str | None, b: str | None) -> dict[str, Any]:
    """What can be compared: every run by its newest validation; by each step too those that are on
    the page, and the newest."""
    named = [text.rpartition(":")[0] for text in (a, b) if text]
    runs = site.shelf.runs()
    opened = {run.name for run in runs[:NUM_OPENED]} | {a, b, *named}
    steps: dict[str, Sequence[ComparedSide]] = {
        run.name: steps_of(run) if run.name in opened else () for run in runs
    }
    if not a and not b and runs:
        a, b = next((place.address for place in steps[runs[0].name]), ""), runs[0].name
    return {"runs": runs, "steps": steps, "asked_a": a or "", "asked_b": b or ""}
