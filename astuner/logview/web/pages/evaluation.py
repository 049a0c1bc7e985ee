"""One evaluation: how good the model was, on what, and what came of each task."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.config.load import packaged_values
from astuner.errors import ConfigError, NotFoundError, UnreadableError
from astuner.evaluation.scores import ModelScores, score
from astuner.evaluation.tags import kinds_of_tasks
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.view.evaluated import (
    deciding_lines,
    fact_lines,
    headline,
    interval_in_words,
    pass_rows,
    score_rows,
)
from astuner.logview.view.failures import failure_causes
from astuner.logview.web.addresses import compare_at, run_at
from astuner.logview.web.asked import asked_run, here_with
from astuner.logview.web.listed_groups import listed_groups
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader

_STEP = 0
"""Under which an evaluation is recorded."""
_MOST_FAILURES = 2000
_MOST_BESIDE = 12
"""Evaluations of the same tasks that the page leads to."""
_SOURCE = "source"
_ENDED_BADLY = ("failed", "killed", "interrupted", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationBeside:
    """Another evaluation of the same tasks."""

    run: "RunReader"
    model: str
    compared_at: str


def routes(site: Site) -> list[BaseRoute]:
    def page(request: Request) -> Response:
        run = asked_run(site, request)
        if (facts := run.facts) is None:
            raise NotFoundError(
                f"run {run.name} is no evaluation; its page is {run_at(run.name)}, and "
                "`astuner evaluate --conf FILE --model CHECKPOINT` makes one"
            )
        indexed = run.index.refresh(step=_STEP, is_validation=True)
        failed = run.index.rows(
            EpisodeQuery(outcome="failed", order="newest"), limit=_MOST_FAILURES
        )
        state = run.state()
        return site.page(
            request,
            "evaluation.html",
            run=run,
            state=state,
            facts=facts,
            fact_lines=fact_lines(facts),
            deciding=deciding_lines(facts.decides, packaged_values()),
            indexed=indexed,
            causes=failure_causes(failed.rows),
            num_unreadable=run.index.count(EpisodeQuery(problem=True)),
            beside=_beside(site, run),
            log=run.log_tail() if state.status in _ENDED_BADLY else [],
            step=_STEP,
            is_validation=True,
            **_scores(site, run, request),
            **listed_groups(request, run.index.groups(_STEP, True), selects=True, place="#tasks"),
        )

    return [Route("/runs/{experiment}/{start}/evaluation", page)]


def _scores(site: Site, run: "RunReader", request: Request) -> dict[str, Any]:
    """Of the run, and of the other evaluations that the address names."""
    asked = list(dict.fromkeys(request.query_params.getlist("with")))
    others = [site.shelf.run(name) for name in asked if name != run.name]
    by, kinds, problems = request.query_params.get("by"), [], []
    found: dict[str, ModelScores] = {}
    for one in (run, *(other for other in others if other.facts is not None)):
        try:
            model = one.evaluation.evaluated()
            kinds = kinds or kinds_of_tasks(model.tasks)
            is_known = any(by in task.tags for task in model.tasks)
            found[one.name] = score(model, by if is_known else None)
        except (UnreadableError, NotFoundError, ConfigError) as error:
            problems.append(str(error))
    own = found.get(run.name)
    return {
        "scores": own,
        "headline": headline(own.model.facts, own.total) if own else "",
        "interval": interval_in_words(own.total.success) if own else "",
        "rows": score_rows(found),
        "passes": pass_rows(own.total) if own else [],
        "by": own.by if own else None,
        "kinds": [(kind, here_with(request, by=kind) + "#scores") for kind in kinds],
        "without_kinds": here_with(request, by="") + "#scores",
        "problems": problems,
    }


def _beside(site: Site, run: "RunReader") -> list[EvaluationBeside]:
    """The newest ones of the same tasks, which may be compared; the earlier of two is a."""
    own = run.facts
    found: list[EvaluationBeside] = []
    for other in site.shelf.runs():
        facts = other.facts
        is_same = facts and own and facts.tasks_digest == own.tasks_digest
        if facts and is_same and other.name != run.name and len(found) < _MOST_BESIDE:
            a, b = sorted((run, other), key=lambda one: (one.started, one.name))
            found.append(
                EvaluationBeside(
                    run=other, model=facts.model, compared_at=compare_at(a.name, b.name)
                )
            )
    return found
