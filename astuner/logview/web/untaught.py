"""Which groups nothing was learned from, since no attempt did better than another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from astuner.logview.view.step_tasks import is_flat

if TYPE_CHECKING:
    from astuner.logview.reading.groups import GroupRow
    from astuner.logview.reading.run_reader import RunReader

_BY_TOTALS = (None, "grpo", "dr_grpo", "rloo", "reinforce_plus_plus_baseline")
"""Estimators that learn nothing of a role from a group in which it always earned the same; None
where the estimator is not known."""


def untaught(run: "RunReader", groups: "Sequence[GroupRow]") -> frozenset[str]:
    """The tasks of these groups, all of one step of training; none of a validation.

    Agents with rewards of their own may be told apart where the means of their episodes are equal,
    as in a game that one wins and the other loses, and so may calls, and groups by each other. What
    was trained decides there.
    """
    flat = [group for group in groups if is_flat(group) and not group.is_validation]
    if not flat:
        return frozenset()
    is_by_totals = run.estimator in _BY_TOTALS
    open_ = [group for group in flat if not is_by_totals or _has_several_agents(run, group)]
    ids = [episode_id for group in open_ for episode_id in group.episode_ids]
    trained = run.trainings(open_[0].step, ids) if open_ else {}
    taught = {group.task_id for group in open_ if any(trained[name] for name in group.episode_ids)}
    return frozenset(group.task_id for group in flat) - taught


def _has_several_agents(run: "RunReader", group: "GroupRow") -> bool:
    row = run.index.locate(group.episode_ids[0])
    return row is not None and len(row.agents) > 1
