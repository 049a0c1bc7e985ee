"""The attempts at one task in one step side by side. What did the better one do differently?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.addresses import group_at, path_name
from astuner.logview.asked import asked_run, asks_validation
from astuner.logview.listed import listed
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.site import Site
from astuner.logview.view.attempts import compare_attempts
from astuner.logview.view.credit import Credit, credits_of
from astuner.logview.view.siblings import siblings
from astuner.logview.view.step_tasks import is_flat, sorted_tasks, squares

if TYPE_CHECKING:
    from astuner.logview.reading.groups import GroupRow
    from astuner.logview.reading.row import EpisodeRow
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.stored import StoredEpisode

NUM_SHOWN = 12
"""Attempts on a page."""
MAX_BYTES = 64 * 2**20
"""Of the records on a page together, so that a group of huge ones is shown in parts."""


def routes(site: Site) -> list[BaseRoute]:
    def page(request: Request) -> Response:
        run, step = asked_run(site, request), request.path_params["step"]
        task_id, is_validation = path_name(request, "task"), asks_validation(request)
        return site.page(
            request,
            "group.html",
            **_group(run, step, task_id, request, is_validation=is_validation),
        )

    return [Route("/runs/{experiment}/{start}/steps/{step:int}/tasks/{task}", page)]
