"""One task over all steps: how did the answers to it change while the model was tuned?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError
from astuner.logview.view.answers import ShownAnswer, answers_in_order
from astuner.logview.view.siblings import siblings
from astuner.logview.view.step_tasks import (
    Square,
    judged_attempts,
    middle,
    share_solved,
    sorted_tasks,
    squares,
)
from astuner.logview.view.trace import HEIGHT, WIDTH, scale_of, trace
from astuner.logview.view.verdict import read_verdict
from astuner.logview.web.addresses import compare_at, group_at, part_of, path_name
from astuner.logview.web.asked import asked_run
from astuner.logview.web.listed import listed
from astuner.logview.web.side_by_side import read_answer, read_small
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.groups import GroupRow
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.view.verdict import ShownFact

NUM_SHOWN = 40
"""Steps on a page, each with up to two answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAnswers:
    """What was answered to a task in one step."""

    group: "GroupRow"
    squares: Sequence[Square]
    typical: ShownAnswer | None
    """Of the attempt in the middle by reward; None where it cannot be read."""
    typical_id: str
    best: ShownAnswer | None
    """Where the best attempt earned more than that one."""
    best_id: str


def routes(site: Site) -> list[BaseRoute]:
    def page(request: Request) -> Response:
        run, task_id = asked_run(site, request), path_name(request, "task")
        indexed = run.index.refresh()
        groups = run.index.task_steps(task_id)
        if not groups:
            raise _not_there(run, task_id)
        steps = listed(request, groups, most=NUM_SHOWN)
        newest = groups[-1]
        if run.facts is not None:
            at = group_at(run.name, newest.step, task_id, is_validation=newest.is_validation)
            return RedirectResponse(at, status_code=303)
        tasks = sorted_tasks(run.index.groups(newest.step, newest.is_validation), "best")
        context = {
            "run": run,
            "task_id": task_id,
            "title": newest.title,
            "indexed": indexed,
            "groups": groups,
            "steps": steps,
            "answers": _answers(run, steps.items),
            "facts": _facts(run, newest),
            "beside": siblings([group.task_id for group in tasks], task_id),
            "num_attempts": sum(group.num_episodes for group in groups),
            "compared_at": _compared_at(run, task_id, groups),
            **_curves(groups),
        }
        return site.page(request, "task.html", **context)

    return [Route("/runs/{experiment}/{start}/tasks/{task}", page)]


def _compared_at(run: "RunReader", task_id: str, groups: "Sequence[GroupRow]") -> str | None:
    """Its first and its last validation beside each other; None where one has no verdict."""
    validated = [group for group in groups if group.is_validation]
    if len(validated) < 2:
        return None
    first, last = validated[0], validated[-1]
    if share_solved(first) is None or share_solved(last) is None:
        return None
    return compare_at(f"{run.name}:{first.step}", f"{run.name}:{last.step}", task=task_id)


def _curves(groups: "Sequence[GroupRow]") -> dict[str, Any]:
    """The mean reward of training and of validation, on one scale."""
    means = {
        kind: [(group.step, group.mean) for group in groups if group.is_validation is kind]
        for kind in (False, True)
    }
    scale = scale_of([*means[False], *means[True]])
    drawn = {kind: trace(points, scale) if scale else [] for kind, points in means.items()}
    told = drawn[True] if len(drawn[True]) > 1 else drawn[False]
    return {
        "trained": drawn[False],
        "validated": drawn[True],
        "first": told[0] if told else None,
        "last": told[-1] if told else None,
        "scale": scale,
        "width": WIDTH,
        "height": HEIGHT,
    }


def _answers(run: "RunReader", groups: "Sequence[GroupRow]") -> list[StepAnswers]:
    attempts = [judged_attempts(group) for group in groups]
    typical = [middle(judged) for judged in attempts]
    best = [
        judged[0] if _earned_more(judged[0], other) else None
        for judged, other in zip(attempts, typical, strict=True)
    ]
    typical_texts = answers_in_order([read_answer(run, one.episode_id) for one in typical])
    best_texts = answers_in_order([one and read_answer(run, one.episode_id) for one in best])
    return [
        StepAnswers(
            group=group,
            squares=squares(group),
            typical=typical_texts[index],
            typical_id=typical[index].episode_id,
            best=best_texts[index],
            best_id=(best[index] or typical[index]).episode_id,
        )
        for index, group in enumerate(groups)
    ]


def _earned_more(one: Square, other: Square) -> bool:
    return one.reward is not None and other.reward is not None and one.reward > other.reward


def _facts(run: "RunReader", group: "GroupRow") -> "Sequence[ShownFact]":
    """What the task is judged by."""
    episode = read_small(run, group.episode_ids[0])
    return read_verdict(episode).task_metadata if episode else ()


def _not_there(run: "RunReader", task_id: str) -> NotFoundError:
    return NotFoundError(
        f"run {run.name} has no episode of task {task_id!r} so far; see all its tasks under "
        f"{part_of(run.name, 'tasks')}"
    )
