"""Every page of the viewer by a name, and its address for a run."""

from collections.abc import Callable, Mapping

from astuner.logview.web import addresses
from tests.browser.written_runs import WrittenRun
from tests.viewer_runs import START
from tests.viewer_sets import DOCUMENT

Place = Callable[[WrittenRun, WrittenRun], str]
"""The address for a run, and another one where two are shown."""

EVALUATED = (f"base/{START}", f"tuned/{START}")
"""Two evaluations on the shelf of these runs."""

PLACES: Mapping[str, Place] = {
    "runs": lambda run, other: addresses.HOME,
    "overview": lambda run, other: addresses.run_at(run.name),
    "overview_of_two": lambda run, other: addresses.run_at(run.name, **{"with": other.name}),
    "config": lambda run, other: addresses.part_of(run.name, "config"),
    "config_of_two": lambda run, other: addresses.part_of(
        run.name, "config", **{"with": other.name}
    ),
    "metric": lambda run, other: addresses.part_of(run.name, "metrics", "reward/mean"),
    "chosen_metric": lambda run, other: addresses.part_of(run.name, "metrics", run.words.metric),
    "step": lambda run, other: addresses.step_at(run.name, 1),
    "validation": lambda run, other: addresses.step_at(run.name, 0, is_validation=True),
    "group": lambda run, other: addresses.group_at(run.name, 1, run.task_id(0)),
    "failed_group": lambda run, other: addresses.group_at(run.name, 1, run.task_id(2)),
    "tasks": lambda run, other: addresses.part_of(run.name, "tasks"),
    "task": lambda run, other: addresses.task_at(run.name, run.task_id(0)),
    "episodes": lambda run, other: addresses.part_of(run.name, "episodes"),
    "episode": lambda run, other: addresses.episode_at(run.name, run.episode_id()),
    "failed_episode": lambda run, other: addresses.episode_at(
        run.name, run.episode_id(task=2, attempt=3)
    ),
    "compared_runs": lambda run, other: addresses.compare_at(run.name, other.name),
    "compared_steps": lambda run, other: addresses.compare_at(
        f"{run.name}:0", f"{run.name}:{run.num_steps}"
    ),
    "evaluation": lambda run, other: addresses.evaluation_at(EVALUATED[0]),
    "compared_evaluations": lambda run, other: addresses.compare_at(*EVALUATED, by="kind"),
    "set": lambda run, other: addresses.set_at(run.set_name),
    "set_tasks": lambda run, other: addresses.set_at(run.set_name, "tasks"),
    "set_task": lambda run, other: addresses.set_at(run.set_name, "tasks", f"{DOCUMENT}/0/0"),
    "rejected_draft": lambda run, other: addresses.set_at(run.set_name, "rejections", "3"),
}
