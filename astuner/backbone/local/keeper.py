"""Which checkpoints of a run exist: writes them, drops old ones, finds the one to go on from."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from astuner.backbone.local.run_state import RunState, check_can_go_on, from_record, to_record
from astuner.backbone.local.warm_start import find_warm_start
from astuner.backbone.run import Run
from astuner.backbone.run_events import RunEvents
from astuner.errors import BackboneError
from astuner.models.checkpoint import read_masters, read_record, read_tensors, save_checkpoint
from astuner.models.load import LoadedModel
from astuner.models.manifest import drop_training_state, has_training_state, is_checkpoint
from astuner.models.whole_folder import remove_folder, remove_leftovers
from astuner.training.trainer import PolicyTrainer
from astuner.types import Task

logger = logging.getLogger(__name__)

_WITHOUT_STATE = (
    "warning: {checkpoint} holds weights only (trainer_common.save_optimizer), so the optimizer "
    "begins anew from them as they were rounded: the run goes on, but not as if never interrupted"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that was found whole."""

    folder: Path
    state: RunState


def find_saved(run: Run, tasks: Sequence[Task]) -> Saved | None:
    """The newest whole checkpoint of the run directory, if this start may go on from it.

    None where there is none but that of the warm start: then the first step is still to be done.
    Says which one it is, and why newer ones are passed over. Raises BackboneError when none is
    whole, ConfigError when its settings or tasks make it another run.
    """
    say = run.console.say
    if not run.run_dir.checkpoints() and find_warm_start(run) is not None:
        away = run.run_dir.set_aside(after_step=0, is_logged=False)
        behind = f"; what was done since lies in {away}" if away else ""
        say(f"resuming from the warm start{behind}")
        return None
    for step, folder in run.run_dir.checkpoints().items():
        try:
            record = read_record(folder)
            state = from_record(record)
            if state.step != step:
                raise BackboneError(f"it holds step {state.step}; give it that name again")
        except BackboneError as error:
            say(f"not resumed from {folder.name}: {error}")
            continue
        for line in check_can_go_on(record, run.settings, tasks, run.shown_as):
            say(f"resumed with another setting: {line}")
        say(f"resuming from {folder}")
        return Saved(folder=folder, state=state)
    raise BackboneError(
        f"cannot resume: no checkpoint in {run.run_dir.checkpoints_dir} is whole; the lines above "
        "say why. Start a new run without --resume"
    )


def go_on_from(saved: Saved, run: Run, trainer: PolicyTrainer) -> None:
    """Give the trainer its state, and put aside what the run directory holds of later steps.

    Says so where the checkpoint has none, and the optimizer begins anew.
    """
    if has_training_state(saved.folder):
        tensors = read_tensors(saved.folder)
    else:
        tensors = read_masters(saved.folder, trainer.model)
        run.console.say(_WITHOUT_STATE.format(checkpoint=saved.folder.name))
    trainer.load_tensors(tensors, num_updates=saved.state.num_updates)
    remove_leftovers(run.run_dir.checkpoints_dir)
    state = saved.state
    away = run.run_dir.set_aside(after_step=state.step, is_logged=state.is_logged)
    if away is not None:
        run.console.say(f"what was done after step {state.step} is done again; it lies in {away}")


class CheckpointKeeper:
    """Writes the checkpoints of one run and keeps the newest ones and the best."""

    def __init__(
        self, run: Run, policy: LoadedModel, trainer: PolicyTrainer, tasks: Sequence[Task]
    ) -> None:
        self.latest: Path | None = None
        self._run, self._policy, self._trainer, self._tasks = run, policy, trainer, tasks
        self._num_kept = run.settings.trainer_common.keep_checkpoints
        self._optimizer_in = run.settings.trainer_common.save_optimizer

    def take_over(self, saved: Saved) -> None:
        """Keep on from here; the start that wrote may have been killed before it dropped others."""
        self.latest = saved.folder
        self._drop_old_ones(saved.state)

    def save(self, state: RunState) -> RunState:
        """Write checkpoints/step_N unless it is there already, or nothing was trained yet.

        Returns the state with the best checkpoint, which may be the new one. Raises BackboneError
        where it cannot be written, also where the run directory is gone, and for weights that are
        not those of the step.
        """
        self._run.run_dir.check_is_there()
        folder = self._run.run_dir.checkpoint_dir(state.step)
        if state.step == 0 or folder.exists():
            return state
        if self._trainer.num_updates != state.num_updates:
            raise BackboneError(
                f"not saved: step {state.step + 1} was half done; the last checkpoint is "
                f"{self.latest or 'none'}"
            )
        state = replace(state, best=_better(state.best, state))
        self._run.console.phase(f"saving {folder}")
        save_checkpoint(
            folder,
            self._policy.model,
            self._policy.tokenizer,
            record=to_record(state, self._run.settings, self._tasks, self._run.shown_as),
            tensors=None if self._optimizer_in == "never" else self._trainer.tensors(),
            is_merged_too=self._run.settings.trainer_common.save_merged,
        )
        self.latest = folder
        RunEvents(self._run.run_dir).saved(state.step, folder)
        self._drop_old_ones(state)
        return state

    def _drop_old_ones(self, state: RunState) -> None:
        best = None if state.best is None else int(state.best["step"])
        saved = self._run.run_dir.checkpoints()
        if best in saved:
            self._run.run_dir.point_best_to(saved[best])
        if self._num_kept is not None:
            for step in list(saved)[self._num_kept :]:
                if step != best and is_checkpoint(saved[step]):
                    remove_folder(saved.pop(step))
        if self._optimizer_in != "all":
            for step in list(saved)[1:]:
                self._drop_state(saved[step])

    def _drop_state(self, folder: Path) -> None:
        """Of one that is damaged, or cannot be written any more, the state stays."""
        if is_checkpoint(folder):
            try:
                drop_training_state(folder)
            except (OSError, ValueError, RecursionError) as error:
                logger.warning("training state not dropped checkpoint=%s: %s", folder, error)


def _better(best: dict[str, float] | None, state: RunState) -> dict[str, float] | None:
    """The better one of the best so far and this state, if it was validated; a tie goes to the
    earlier one."""
    rate = state.metrics.get("validation/success_rate")
    if rate is None or (best is not None and best["success_rate"] >= rate):
        return best
    return {"step": state.step, "success_rate": rate}
