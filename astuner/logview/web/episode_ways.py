"""Where an episode leads: to its neighbours in what was asked for, to its siblings, and up."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from starlette.requests import Request

from astuner.logview.episode_parts import Attempts
from astuner.logview.web.addresses import episode_at, group_at, part_of, step_at, task_at
from astuner.logview.web.asked_episodes import AskedEpisodes

if TYPE_CHECKING:
    from astuner.logview.reading.row import EpisodeRow
    from astuner.logview.reading.run_reader import RunReader

_KEPT_CHOICES = ("raw", "colour")
"""How a reader looks at episodes, which holds for the next one too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """Addresses; None where there is nothing that way."""

    previous: str | None
    next: str | None
    left: str | None
    right: str | None
    siblings: tuple[str, ...]
    """Of all attempts, in their order."""
    search: str
    is_searched: bool
    """Whether the reader came from a search or a filter, to which previous and next belong."""
    step: str
    group: str
    task: str


def ways_from(request: Request, run: "RunReader", row: "EpisodeRow", attempts: Attempts) -> Ways:
    """The ways from the page of an episode, which keep what was asked for."""
    asked = AskedEpisodes.of(request.query_params)
    own_step = replace(asked.query, step=row.step, is_validation=row.is_validation)
    beside = run.index.neighbours(row.episode_id, asked.query if asked.asks_for_some else own_step)
    params = request.query_params
    carried = asked.address | {name: params[name] for name in _KEPT_CHOICES if name in params}

    def neighbour(to: str, episode_id: str | None) -> str | None:
        """With a text to be found, whether the neighbour says it is looked up when it is asked."""
        if episode_id is None or not asked.text:
            return episode_id and episode_at(run.name, episode_id, **carried)
        return part_of(run.name, "episodes", row.episode_id, "beside", to=to, **carried)

    siblings = [episode_at(run.name, one.episode_id, **carried) for one in attempts.rows]
    ids = [one.episode_id for one in attempts.rows]
    place = ids.index(row.episode_id) if row.episode_id in ids else 0
    return Ways(
        previous=neighbour("previous", beside.previous_id),
        next=neighbour("next", beside.next_id),
        left=siblings[place - 1] if place else None,
        right=siblings[place + 1] if place + 1 < len(siblings) else None,
        siblings=tuple(siblings),
        search=part_of(run.name, "episodes", **asked.address) + "#search",
        is_searched=asked.asks_for_some,
        step=step_at(run.name, row.step, is_validation=row.is_validation),
        group=group_at(run.name, row.step, row.task_id, is_validation=row.is_validation),
        task=task_at(run.name, row.task_id),
    )
