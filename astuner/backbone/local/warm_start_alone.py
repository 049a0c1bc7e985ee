"""A warm start and nothing behind it: `astuner sft`."""

import shlex

from astuner.backbone.assemble import read_tasks
from astuner.backbone.local.warm_start import find_warm_start, warm_start
from astuner.backbone.local.warm_start_data import needs_tasks
from astuner.backbone.run import Run, RunResult
from astuner.backbone.run_end import FollowingCommands, from_home
from astuner.backbone.run_events import RunEvents
from astuner.errors import BackboneError
from astuner.task_reader.naming_the_test import has_test_setting

_FROM = "astuner.trainer_common.warm_start.from"


class WarmStartBackbone:
    """Learns the replies that trainer_common.warm_start names."""

    async def run(self, run: Run) -> RunResult:
        """Raises as `warm_start` does."""
        tasks = read_tasks(run)[0] if needs_tasks(run) else []
        RunEvents(run.run_dir).planned(num_steps=None, num_tasks=len(tasks), num_validation_tasks=0)
        ended = await warm_start(run, tasks)
        root = run.run_dir.root
        if ended.exit_code:
            return RunResult(run_dir=root, exit_code=ended.exit_code)
        checkpoint = find_warm_start(run)
        if checkpoint is None:
            raise BackboneError(f"the warm start in {root} ended without its checkpoint")
        _show_following(run, from_home(run, checkpoint))
        return RunResult(run_dir=root, checkpoint=checkpoint)


def _show_following(run: Run, checkpoint: str) -> None:
    say, conf = run.console.say, from_home(run, run.conf_file or run.run_dir.config_file)
    own = (f"{_FROM}=", "astuner.backbone=")
    overrides = [one for one in run.overrides if not one.startswith(own)]
    say(f"checkpoint     {checkpoint}")
    words = ("--conf", conf, *overrides, f"astuner.model.path={checkpoint}", f"{_FROM}=null")
    say(f"to tune on     {shlex.join(('astuner', *words))}")
    commands = FollowingCommands(
        conf_file=conf,
        overrides=overrides,
        weights=checkpoint,
        split="test" if has_test_setting(run.settings.task_reader) else "validation",
    )
    for line in commands.lines():
        say(line)
