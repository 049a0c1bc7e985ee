"""What of the runs that are over is to go, and its deletion.

A run that is at work is not touched, nor a checkpoint that another run began from.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from astuner.backbone.record_bound import record_dirs, size_of
from astuner.cleaning.found_run import FoundRun
from astuner.errors import AstunerError
from astuner.models.manifest import (
    RECORD_NAME,
    STATE_NAME,
    drop_training_state,
    is_checkpoint,
    read_object,
)
from astuner.models.whole_folder import remove_folder
from astuner.run_dir import LATEST, RunDir


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneChoice:
    """What the user wants to be rid of."""

    runs: bool
    """Whole runs; the other parts are then of no account."""
    checkpoints: bool
    """All but the newest and the best of each run."""
    states: bool
    episodes: bool
    written_before: float | None
    """Only runs of which nothing was written since, in seconds since 1970."""
    num_newest_kept: int
    """Of each name, untouched; those without a checkpoint, as of debug, count by themselves."""

    @property
    def is_empty(self) -> bool:
        return not (self.runs or self.checkpoints or self.states or self.episodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What goes of one run."""

    run: FoundRun
    what: str
    """In words, for the list that is shown."""
    num_bytes: int
    delete: Callable[[], None]
    """Raises OSError or ValueError where the disk or a damaged file refuses."""


def kept_because(run: FoundRun, runs: Sequence[FoundRun], choice: PruneChoice) -> str | None:
    """Why nothing of a run may go; None where it may. `runs` are all that were found."""
    if run.worker is not None:
        return run.worker
    alike = [one for one in runs if _kind(one) == _kind(run)]
    num_newer = len(alike) - 1 - alike.index(run)
    if num_newer < choice.num_newest_kept:
        return "among the newest"
    if choice.written_before is not None and run.last_written >= choice.written_before:
        return "too new"
    if choice.runs and run.users:
        checkpoint, user = next(iter(run.users.items()))
        return f"{user} began from its {checkpoint}"
    return None


def _kind(run: FoundRun) -> tuple[Path, bool]:
    """A debug run that is newer than all others does not make the model of one superfluous."""
    return run.run_dir.root.parent, run.checkpoints_bytes > 0


def removals(run: FoundRun, choice: PruneChoice) -> Iterator[Removal]:
    """What goes of a run that nothing keeps."""
    run_dir = run.run_dir
    if choice.runs:
        yield Removal(
            run=run,
            what="the whole run",
            num_bytes=run.num_bytes,
            delete=partial(_remove_run, run_dir),
        )
        return
    folders = run_dir.checkpoints()
    going = _superfluous(run) if choice.checkpoints else []
    for step in going:
        folder = folders.pop(step)
        yield _removal(run, folder.name, [folder], partial(remove_folder, folder))
    for folder in folders.values() if choice.states else ():
        if is_checkpoint(folder) and (folder / STATE_NAME).exists():
            yield _removal(
                run,
                f"training state of {folder.name}",
                [folder / STATE_NAME],
                partial(drop_training_state, folder),
            )
    if choice.episodes and run.episodes_bytes:
        records = record_dirs(run_dir)
        yield _removal(run, "episodes", records, partial(_remove_all, records))


def carry_out(run: FoundRun, going: Sequence[Removal]) -> Iterator[str]:
    """Delete, with other starts kept out of the run; gives a line for each that could not be."""
    try:
        with run.run_dir.in_use():
            for removal in going:
                try:
                    removal.delete()
                except (OSError, ValueError, RecursionError) as error:
                    yield f"{run.name}: {removal.what} was not deleted: {error}"
    except AstunerError as error:
        yield f"{run.name}: nothing was deleted: {error}"


def _removal(
    run: FoundRun, what: str, paths: Sequence[Path], delete: Callable[[], None]
) -> Removal:
    return Removal(run=run, what=what, num_bytes=sum(map(size_of, paths)), delete=delete)


def _superfluous(run: FoundRun) -> list[int]:
    """Steps whose checkpoints are neither the newest nor the best, nor another run's beginning."""
    newest_first = run.run_dir.checkpoints()
    best = _best_step(run.run_dir)
    return [
        step
        for step, folder in list(newest_first.items())[1:]
        if step != best and folder.name not in run.users and is_checkpoint(folder)
    ]


def _best_step(run_dir: RunDir) -> int | None:
    """Where the link `best` could not be written, what the newest checkpoint says."""
    if best := run_dir.best_checkpoint():
        return int(best.name.removeprefix("step_"))
    newest = run_dir.latest_checkpoint()
    try:
        record = read_object(newest / RECORD_NAME) if newest else {}
        return int(record["state"]["best"]["step"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def _remove_run(run_dir: RunDir) -> None:
    """With it go the link to it and the folder of its name, where it was the last one."""
    remove_folder(run_dir.root)
    parent, link = run_dir.root.parent, run_dir.root.parent / LATEST
    if link.is_symlink() and not link.exists():
        link.unlink()
    if not any(parent.iterdir()):
        parent.rmdir()


def _remove_all(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
