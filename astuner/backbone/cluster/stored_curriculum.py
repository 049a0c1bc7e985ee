"""The curriculum of a clustered run: in the hub, with its state beside that of the engine.

Written when a step's episodes are in, so before the engine can save what it trained in the step.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from astuner.backbone.cluster.engine_run import engine_state_dir
from astuner.backbone.curriculum_steps import CurriculumSteps
from astuner.backbone.run import Run
from astuner.errors import BackboneError, ConfigError
from astuner.task_reader.curriculum import CurriculumOrder, make_order
from astuner.task_reader.same_tasks import fingerprint
from astuner.trajectory.episode import Group
from astuner.types import Task

_FOLDER, _NAME = "curriculum", "step_{}.json"
_TASKS = "tasks"
"""Key of their fingerprint: what is known of a task stands by its place."""


class StoredCurriculum:
    """Deals the tasks of steps; plain data that can be pickled until the first of them."""

    def __init__(self, steps: CurriculumSteps, folder: Path, tasks: Sequence[Task]) -> None:
        """`folder` is absolute and seen by the hub's machine."""
        self._steps, self._folder = steps, folder
        self._tasks = fingerprint(tasks)

    @classmethod
    def open(cls, run: Run, tasks: Sequence[Task], *, first_step: int) -> Self | None:
        """That of the run, as it stood after `first_step`; None where tasks come in passes.

        Says what is known of the tasks. Of a step that had no curriculum the tasks' own pass rates
        are. Raises BackboneError for a state that cannot be read, ConfigError for one of other
        tasks.
        """
        folder = engine_state_dir(run).absolute() / _FOLDER
        file = folder / _NAME.format(first_step)
        for other in folder.glob(_NAME.format("*")):
            if other != file:
                other.unlink()
        order = make_order(run.settings, tasks)
        if not isinstance(order, CurriculumOrder):
            if file.exists():
                file.unlink()
                run.console.say("curriculum: turned off; tasks come in passes from here on")
            return None
        if file.exists():
            order.go_on(_state_of(tasks, file))
        steps = CurriculumSteps(order, tasks)
        run.console.say(steps.describe())
        return cls(steps, folder, tasks)

    def deal(self, step: int, num_tasks: int) -> list[int]:
        """See `CurriculumSteps`; so `finish`, which also writes the state."""
        return self._steps.deal(step, num_tasks)

    def finish(self, step: int, groups: Sequence[Group]) -> dict[str, float]:
        metrics = self._steps.finish(step, groups)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / "partial"
        partial.write_text(json.dumps({_TASKS: self._tasks, **self._steps.state()}))
        partial.replace(self._folder / _NAME.format(step))
        return metrics

    def forget_before(self, step: int) -> None:
        """The engine has saved the step: no run goes on from an earlier one any more."""
        for file in self._folder.glob(_NAME.format("*")):
            if int(file.stem.partition("_")[2]) < step:
                file.unlink()


def _state_of(tasks: Sequence[Task], file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"cannot resume the curriculum: {file} cannot be read ({error}); move it away to go on "
            "with the pass rates that the tasks came with"
        ) from error
    if state.get(_TASKS) != fingerprint(tasks):
        raise ConfigError(
            f"cannot resume the curriculum: the training tasks are not those of {file}; resume "
            "with the same data, or move it away to go on with the pass rates that the tasks came "
            "with"
        )
    return state
