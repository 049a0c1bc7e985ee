"""Finds runs below a folder, and says of each what it takes and why it has to stay."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from astuner.backbone.record_bound import records_bytes, size_of
from astuner.config.same_run import read_saved_settings
from astuner.errors import ConfigError
from astuner.models.manifest import STATE_NAME
from astuner.run_dir import RunDir

_DEPTH = 2
"""Levels below a folder of runs: the name of the YAML, the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run directory and what was found in it."""

    run_dir: RunDir
    worker: str | None
    """Who is at work there, in words; None where the run is over."""
    last_written: float
    """Seconds since 1970."""
    checkpoints_bytes: int
    """Without their training states."""
    states_bytes: int
    episodes_bytes: int
    """Of episodes/, training/ and set_aside/."""
    rest_bytes: int
    """Logs, metrics, configurations."""
    users: Mapping[str, str]
    """Name of a checkpoint -> the run that began from it."""

    @property
    def name(self) -> str:
        return f"{self.run_dir.root.parent.name}/{self.run_dir.root.name}"

    @property
    def num_bytes(self) -> int:
        return self.checkpoints_bytes + self.states_bytes + self.episodes_bytes + self.rest_bytes


def find_runs(folder: Path) -> list[FoundRun]:
    """All runs in a folder of runs, in that of one name, or the one whose directory it is.

    By name, the oldest first. Raises ConfigError where there are none.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: there is no such folder; name the folder of the runs, as it was given by "
            "--exp-dir, or start the command where launcher_record lies"
        )
    roots = sorted(_run_folders(folder.resolve(), _DEPTH), key=lambda root: str(root.parent))
    if not roots:
        raise ConfigError(
            f"{folder}: there are no runs in it; name a folder such as launcher_record, "
            "launcher_record/NAME or a run directory"
        )
    users = _checkpoint_users({root.parent.parent for root in roots})
    runs = [_look_at(RunDir(root=root), users.get(_key(root), {})) for root in roots]
    return sorted(runs, key=lambda run: (str(run.run_dir.root.parent), run.run_dir.order))


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
    elif depth:
        for inner in folder.glob("[!.]*"):
            if inner.is_dir() and not inner.is_symlink():
                yield from _run_folders(inner, depth - 1)


def _is_run(folder: Path) -> bool:
    """By what a run wrote, since other projects have files of these names; releases that did not
    number runs wrote no started.json."""
    is_numbered = RunDir(root=folder).number > 0
    return is_numbered or (
        (folder / "run.log").is_file() and read_saved_settings(folder / "config.yaml") is not None
    )


def _look_at(run_dir: RunDir, users: Mapping[str, str]) -> FoundRun:
    states = [folder / STATE_NAME for folder in run_dir.checkpoints().values()]
    states_bytes = sum(map(size_of, states))
    checkpoints_bytes = size_of(run_dir.checkpoints_dir) - states_bytes
    episodes_bytes = records_bytes(run_dir)
    known = states_bytes + checkpoints_bytes + episodes_bytes
    return FoundRun(
        run_dir=run_dir,
        worker=run_dir.worker(),
        last_written=run_dir.last_written(),
        checkpoints_bytes=checkpoints_bytes,
        states_bytes=states_bytes,
        episodes_bytes=episodes_bytes,
        rest_bytes=size_of(run_dir.root) - known,
        users=users,
    )


_MODELS = (("model", "path"), ("trainer_common", "reference"))
"""Section and name of the settings that a model may be read from."""


def _checkpoint_users(bases: set[Path]) -> dict[tuple[str, str], dict[str, str]]:
    """By the last two parts of a run's path, since a project may have been moved: the checkpoints
    of it that other runs, save for those of the backbone debug, had as their model.path or
    trainer_common.reference."""
    users: dict[tuple[str, str], dict[str, str]] = {}
    for base in bases:
        for root in _run_folders(base, _DEPTH):
            for file in root.glob("config*.yaml"):
                settings = read_saved_settings(file) or {}
                if settings.get("backbone") == "debug":
                    continue
                for section, name in _MODELS:
                    of_section = settings.get(section)
                    path = of_section.get(name) if isinstance(of_section, dict) else None
                    if found := _checkpoint_in(path):
                        run, checkpoint = found
                        users.setdefault(run, {})[checkpoint] = "/".join(_key(root))
    return users


def _checkpoint_in(path: object) -> tuple[tuple[str, str], str] | None:
    """The run and the checkpoint that such a path names, also the folder `merged` in it."""
    if not isinstance(path, str):
        return None
    for folder in (Path(path), *Path(path).parents):
        if folder.parent.name == "checkpoints":
            return _key(folder.parent.parent), folder.name
    return None


def _key(root: Path) -> tuple[str, str]:
    return root.parent.name, root.name
