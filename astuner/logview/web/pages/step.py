"""A step: its tasks by what their attempts earned. Where did the attempts at one task differ?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.view.excerpt import excerpt
from astuner.logview.view.siblings import siblings
from astuner.logview.view.step_tasks import sorted_tasks, squares, step_sentence
from astuner.logview.web.addresses import evaluation_at, step_at
from astuner.logview.web.asked import asked_run, asks_validation
from astuner.logview.web.listed_groups import listed_groups
from astuner.logview.web.side_by_side import PlacedRow, SideBySide, side_by_side
from astuner.logview.web.site import Site
from astuner.logview.web.untaught import untaught

if TYPE_CHECKING:
    from astuner.logview.reading.groups import GroupRow
    from astuner.logview.reading.run_reader import RunReader

NUM_PREVIEWED = 3
"""Of the best attempts and of the worst, at the task that tells most."""
PREVIEW_SIGNS = 400
MAX_PREVIEW_BYTES = 2**20
"""Of a record that is read for the preview."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPreview:
    """The group whose attempts differ most, with some of them side by side."""

    group: "GroupRow"
    compared: SideBySide


def routes(site: Site) -> list[BaseRoute]:
    def page(request: Request) -> Response:
        run, step = asked_run(site, request), request.path_params["step"]
        if run.facts is not None:
            return RedirectResponse(evaluation_at(run.name), status_code=303)
        return site.page(
            request,
            "step.html",
            **_tasks(run, step, request, is_validation=asks_validation(request)),
        )

    return [Route("/runs/{experiment}/{start}/steps/{step:int}", page)]


def _tasks(run: "RunReader", step: int, request: Request, *, is_validation: bool) -> dict[str, Any]:
    indexed = run.index.refresh(step=step, is_validation=is_validation)
    steps = _steps(run, is_validation=is_validation)
    if step not in steps:
        raise _not_there(run, step, steps, is_validation=is_validation)
    groups = run.index.groups(step, is_validation)
    has_groups = any(group.num_episodes > 1 for group in groups)
    taught_nothing = untaught(run, groups) if has_groups else frozenset()
    unreadable = EpisodeQuery(step=step, is_validation=is_validation, problem=True)
    return {
        "run": run,
        "step": step,
        "is_validation": is_validation,
        "indexed": indexed,
        "has_other_kind": step in _steps(run, is_validation=not is_validation),
        "beside": siblings(steps, step),
        "sentence": step_sentence(
            groups,
            untaught=taught_nothing,
            seconds=_seconds(run, step, is_validation=is_validation),
        ),
        "success": _success(run, step) if is_validation else None,
        **listed_groups(request, groups, untaught=taught_nothing, selects=is_validation),
        "findings": [found for found in run.findings() if found.step == step],
        "num_unreadable": run.index.count(unreadable),
        "preview": None if is_validation else _preview(run, groups),
        "excerpt": partial(excerpt, most=PREVIEW_SIGNS),
        "is_whole": False,
        "offers_beside": False,
        "step_address": lambda other: step_at(run.name, other, is_validation=is_validation),
    }


def _preview(run: "RunReader", groups: "Sequence[GroupRow]") -> GroupPreview | None:
    """None where no attempt at any task did better than another."""
    group = next(iter(sorted_tasks(groups, "spread")), None)
    if group is None or not group.spread:
        return None
    attempts = squares(group)
    some = [*attempts[:NUM_PREVIEWED], *attempts[NUM_PREVIEWED:][-NUM_PREVIEWED:]]
    rows = [run.index.locate(attempt.episode_id) for attempt in some]
    places = [
        PlacedRow(run=run, row=row, name=f"attempt {row.attempt}")
        for row in rows
        if row is not None and row.length <= MAX_PREVIEW_BYTES
    ]
    return GroupPreview(group=group, compared=side_by_side(places)) if places else None


def _steps(run: "RunReader", *, is_validation: bool) -> list[int]:
    """The steps that the run has episodes of."""
    entries = run.index.steps()
    return sorted({entry.step for entry in entries if entry.is_validation == is_validation})


def _seconds(run: "RunReader", step: int, *, is_validation: bool) -> float | None:
    return _metric(run, step, "validation/seconds" if is_validation else "step/seconds")


def _success(run: "RunReader", step: int) -> dict[str, float | None]:
    """The share that was solved, with its interval."""
    names = {"rate": "success_rate", "low": "success_rate_low", "high": "success_rate_high"}
    return {key: _metric(run, step, f"validation/{name}") for key, name in names.items()}


def _metric(run: "RunReader", step: int, name: str) -> float | None:
    return next((value for at, value in run.metrics().series(name) if at == step), None)


def _not_there(
    run: "RunReader", step: int, steps: Sequence[int], *, is_validation: bool
) -> NotFoundError:
    kind = "validation" if is_validation else "training"
    found = f"it has those of steps {steps[0]} to {steps[-1]}" if steps else "it has none"
    return NotFoundError(
        f"run {run.name} has no episodes of {kind} of step {step}; {found}. A step is here once "
        "its first episode was written"
    )
