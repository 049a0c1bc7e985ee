"""Which earlier run a start with --resume goes on in."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from astuner.config.load import LoadedConfig
from astuner.config.same_run import compare_settings, read_saved_settings
from astuner.errors import ConfigError
from astuner.run_dir import LATEST, RunDir

_NUM_SHOWN = 5
"""Runs, and settings of each, that a message lists."""


def find_newest(loaded: LoadedConfig) -> RunDir | None:
    """The newest run of this name that has a checkpoint and was started with these settings.

    None where this is to be the first checkpoint of such a run. Raises ConfigError when only runs
    with other settings are there; it says which.
    """
    runs = _trainings(loaded)
    agreeing = [run for run in runs if _refused(run, loaded) == ()]
    if found := next((run for run in agreeing if run.can_be_resumed), None):
        return found
    others = [run for run in runs if run.can_be_resumed]
    if agreeing or not others:
        return None
    raise ConfigError(
        f"--resume: no run of {loaded.experiment_name} has a checkpoint and these settings. There "
        f"are{_list(others, loaded)}\nResume with the settings of one, or start a new run "
        "without --resume"
    )


def find_named(loaded: LoadedConfig, name: str) -> RunDir:
    """The run of that start time among those of this name, or in the folder `name`.

    Raises ConfigError when there is none, it has no checkpoint, or it has other settings.
    """
    run = _named(loaded, name)
    if run.is_no_training:
        raise ConfigError(
            f"--resume {name}: {run.root} is of kind {run.kind}, which trains nothing; name a run "
            "that trains, or --resume alone for the newest with these settings"
        )
    if not run.can_be_resumed:
        raise ConfigError(
            f"--resume {name}: {run.root} has no checkpoint to go on from; name another run, or "
            "start a new one without --resume"
        )
    if refused := _refused(run, loaded):
        raise ConfigError(
            f"--resume {name}: cannot resume: {run.root} was started with other settings: "
            f"{'; '.join(refused)}. Resume with those, or start a new run without --resume"
        )
    return run


def _trainings(loaded: LoadedConfig) -> list[RunDir]:
    """Runs of this name that may be gone on in, the newest first."""
    runs = RunDir.all(loaded.experiment_dir, loaded.experiment_name)[::-1]
    return [run for run in runs if not run.is_no_training]


def _named(loaded: LoadedConfig, name: str) -> RunDir:
    folder = loaded.experiment_dir / loaded.experiment_name
    if name == LATEST and (latest := RunDir.latest(loaded.experiment_dir, loaded.experiment_name)):
        return latest
    as_in_folders = name.replace("T", "_").replace(" ", "_").replace(":", "-")
    for path in (folder / as_in_folders, folder / name, Path(name).expanduser()):
        if path.is_dir():
            # A link such as launcher_record/x/latest leads elsewhere once the next run begins.
            return RunDir(root=path.resolve())
    names = [run.root.name for run in _trainings(loaded) if run.can_be_resumed]
    near = difflib.get_close_matches(name, names, n=_NUM_SHOWN, cutoff=0.8) or names[:_NUM_SHOWN]
    there = f"with a checkpoint there are {', '.join(near)}" if near else "no run has a checkpoint"
    raise ConfigError(
        f"--resume {name}: no such run in {folder}, and no such folder; {there}. Give the name of "
        "a run, or --resume alone for the newest with these settings"
    )


def _refused(run: RunDir, loaded: LoadedConfig) -> tuple[str, ...] | None:
    """The settings that make it another run; None where those that it began with are not known."""
    before = read_saved_settings(run.config_file)
    return (
        None
        if before is None
        else compare_settings(before, loaded.settings, shown_as=loaded.shown_as).refused
    )


def _list(runs: Sequence[RunDir], loaded: LoadedConfig) -> str:
    lines = ""
    for run in runs[:_NUM_SHOWN]:
        refused = _refused(run, loaded)
        said = "its config.yaml cannot be read; --resume takes it by name"
        if refused is not None:
            left_out = len(refused) - _NUM_SHOWN
            said = "; ".join(refused[:_NUM_SHOWN]) + (f" …{left_out} more" if left_out > 0 else "")
        lines += f"\n  {run.root.name}: {said}"
    more = len(runs) - _NUM_SHOWN
    return f":{lines}" + (f"\n  and {more} older" if more > 0 else "")
