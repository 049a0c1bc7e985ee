"""Which folder of weights is meant by what a user types, and what its run tells of it.

Reads no weights and loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.config.same_run import read_saved_settings
from astuner.errors import ConfigError, NotFoundError
from astuner.models.manifest import STATE_NAME, is_checkpoint
from astuner.run_dir import BEST, RunDir

_ADAPTER_CONFIG = "adapter_config.json"
_MERGED = "merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCheckpoint:
    """A folder with weights that is there."""

    folder: Path
    run_dir: RunDir | None
    """Of the run that made it; None for a model from elsewhere."""
    step: int | None
    """After which it was saved; None where its name does not say."""
    is_adapter: bool
    settings: Mapping[str, Any]
    """The `astuner` section of the run, without secrets; empty where nothing tells."""
    choice: str | None
    """Why this one, where the user named more than one; None where there was no choice."""

    @property
    def title(self) -> str:
        """For folders and cards, as in math_agent-step_20."""
        place = self.folder.parent if self.folder.name == _MERGED else self.folder
        return (
            place.name if self.run_dir is None else f"{self.run_dir.root.parent.name}-{place.name}"
        )

    def setting(self, key: str) -> Any:
        """Of the run, by its dotted key without `astuner`; None where it is not known."""
        value: Any = self.settings
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def find_checkpoint(named: str, exp_dir: Path) -> NamedCheckpoint:
    """The checkpoint that `named` means: a folder of weights, or a run for its best or last one.

    A run may be named as `astuner show` names it, below `exp_dir`. Raises NotFoundError where there
    is none, BackboneError for one that is torn.
    """
    path = Path(named).expanduser()
    if path.name == BEST and path.parent.name == "checkpoints":
        # Where there are no symbolic links it is a file that names the folder.
        return _of_run(RunDir(root=path.parent.parent.resolve()), best_only=True)
    if not path.is_dir():
        return _of_run(RunDir(root=_run_named(named, exp_dir)))
    folder = path.resolve()
    run = folder.parent if folder.name == "checkpoints" else folder
    if (run / "checkpoints").is_dir() and not (folder / "config.json").exists():
        return _of_run(RunDir(root=run))
    return _of_folder(folder, choice=None)


def _run_named(named: str, exp_dir: Path) -> Path:
    from astuner.logview.terminal.choose import choose_runs

    try:
        runs = choose_runs(named, exp_dir)
    except NotFoundError as error:
        raise NotFoundError(
            f"export: there is no folder {named}, nor a run of that name: {error}"
        ) from error
    roots = [run.root for run in runs]
    for run in runs:
        run.index.close()
    return roots[0].resolve()


def _of_run(run: RunDir, *, best_only: bool = False) -> NamedCheckpoint:
    best, last = run.best_checkpoint(), run.latest_checkpoint()
    if best is not None:
        why = "the last, too" if last is not None and last.name == best.name else "by validation"
        return _of_folder(best.resolve(), choice=f"{best.name}, the best of the run ({why})")
    if last is None or best_only:
        raise NotFoundError(
            f"export: {run.root} has no {'best ' if best_only else ''}checkpoint; found "
            f"{[path.name for path in run.checkpoints().values()] or 'none at all'}. A run saves "
            "one at its end and each trainer_common.save_freq steps, and knows the best where it "
            "validates"
        )
    return _of_folder(
        last.resolve(), choice=f"{last.name}, the last of the run, which knows no best one"
    )


def _of_folder(folder: Path, *, choice: str | None) -> NamedCheckpoint:
    is_adapter = (folder / _ADAPTER_CONFIG).is_file()
    if not is_adapter and not (folder / "config.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:12]
        raise ConfigError(
            f"export: {folder} holds no model: it has neither config.json nor {_ADAPTER_CONFIG}; "
            f"found {found or 'nothing'}. Name a folder as checkpoints/step_20, a run directory, "
            "or a model folder"
        )
    place = folder.parent if folder.name == _MERGED else folder
    record = _whole_record(place)
    is_of_run = place.parent.name == "checkpoints"
    run = RunDir(root=place.parent.parent) if is_of_run else None
    settings = record.get("settings") or (_saved_settings(run) if run else {})
    number = place.name.removeprefix("step_")
    return NamedCheckpoint(
        folder=folder,
        run_dir=run,
        step=int(number) if is_of_run and number.isdecimal() else None,
        is_adapter=is_adapter,
        settings=settings,
        choice=choice,
    )


def _whole_record(folder: Path) -> Mapping[str, Any]:
    """Of a checkpoint of the backbone local, whose files are seen to be whole; others have none."""
    if not is_checkpoint(folder):
        return {}
    from astuner.models.checkpoint import read_record

    return read_record(folder, unread={STATE_NAME})


def _saved_settings(run: RunDir) -> Mapping[str, Any]:
    """That the newest start of the run wrote."""
    files = sorted(run.root.glob("config*.yaml"), key=lambda path: path.stat().st_mtime)
    return (read_saved_settings(files[-1]) or {}) if files else {}
