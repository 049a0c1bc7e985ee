"""Which model a person means who names a folder, a run, one of its checkpoints, a hub name or the
address of a server."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from astuner.backbone.evaluation_run import NamedServer
from astuner.config.secret import mask_text
from astuner.errors import BackboneError, ConfigError
from astuner.evaluating.weights import weights_digest
from astuner.llm.server import LlmServer
from astuner.models.manifest import STATE_NAME, is_checkpoint
from astuner.run_dir import LATEST, RunDir
from astuner.task_reader.local_path import find_path

BEST, LAST = "best", "last"
_STEP = re.compile(r"step_\d+")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CHECKPOINTS = "checkpoints"
_STARTED = "started.json"
"""Stands in every run directory."""
_NUM_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model to evaluate, found."""

    name: str
    """For tables and facts; holds no secret."""
    path: str
    """What model.path is while it is evaluated: a folder, a hub name, or its name on the server."""
    server: NamedServer | None = None
    weights: str | None = None
    """As in EvaluationFacts."""
    chosen_by: RunDir | None = None
    """The run of which it is the best checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlaces:
    """Where the models that are named may lie."""

    experiment_dir: Path
    """Folder of the folders of runs."""
    experiment_name: str
    search_dirs: Sequence[Path]
    api_key_env: str
    say: Callable[[str], None]

    @property
    def runs(self) -> list[RunDir]:
        """Of this configuration, the newest first."""
        return RunDir.all(self.experiment_dir, self.experiment_name)[::-1]


def find_named_model(asked: str, places: ModelPlaces) -> NamedModel:
    """Raises ConfigError for what is no model, saying what there is. Asks no server."""
    if asked.startswith(("http://", "https://")):
        return _served(asked, places)
    if (checkpoint := _checkpoint(asked, places)) is not None:
        return _of_folder(checkpoint)
    folder = find_path(asked, places.search_dirs)
    if folder is not None:
        return _of_folder(folder.resolve())
    return _of_hub(asked, places)


def _served(asked: str, places: ModelPlaces) -> NamedModel:
    """`http://host:8000/v1#model`; without the name it is still to be asked."""
    base_url, _, model_name = asked.partition("#")
    parts = _address_parts(base_url)
    if parts is None:
        raise ConfigError(
            f"--model {mask_text(asked)}: no address of a server; write it as "
            "http://127.0.0.1:8000/v1#model-name"
        )
    if parts.username is not None:
        raise ConfigError(
            f"--model for {parts.hostname} holds a user name or password; take it out, and put the "
            "key into the variable that --api-key-env names"
        )
    server = LlmServer.read(base_url.rstrip("/"), places.api_key_env)
    return served_model(server, model_name)


def _address_parts(base_url: str) -> SplitResult | None:
    try:
        parts = urlsplit(base_url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:  # no number of a port, or half an IPv6 address
        return None


def served_model(server: LlmServer, model_name: str) -> NamedModel:
    return NamedModel(
        name=f"{model_name} at {mask_text(server.base_url)}",
        path=model_name,
        server=NamedServer(server=server, model_name=model_name),
    )


def _checkpoint(asked: str, places: ModelPlaces) -> Path | None:
    """Where `asked` is best, last, a run, or RUN/best, RUN/last, RUN/step_20; else None."""
    if asked in (BEST, LAST):
        return _of_newest_run(asked, places)
    head, _, which = asked.rpartition("/")
    if head and (which in (BEST, LAST) or _STEP.fullmatch(which)):
        run = _run_of(head.removesuffix(f"/{_CHECKPOINTS}"), places)
        return None if run is None else _checkpoint_of(run, which, asked)
    run = _run_of(asked.rstrip("/").removesuffix(f"/{_CHECKPOINTS}"), places)
    if run is None:
        return None
    which = BEST if run.best_checkpoint() is not None else LAST
    found = _checkpoint_of(run, which, asked)
    places.say(f"--model {asked} is a run; evaluated is its {which} checkpoint, {found}")
    return found


def _of_newest_run(which: str, places: ModelPlaces) -> Path:
    run = next((run for run in places.runs if run.checkpoints()), None)
    if run is None:
        raise ConfigError(
            f"--model {which}: no run of {places.experiment_name} in {places.experiment_dir} has a "
            "checkpoint; tune first, or name a folder"
        )
    found = _checkpoint_of(run, which, which)
    places.say(f"--model {which} is {found}")
    return found


def _checkpoint_of(run: RunDir, which: str, asked: str) -> Path:
    found = run.checkpoints_dir / which
    if which == LAST:
        found = run.latest_checkpoint()
    elif which == BEST:
        found = run.best_checkpoint()
    if found is not None and found.is_dir():
        return found
    names = [path.name for path in run.checkpoints().values()]
    hint = " (a best one is chosen by validations)" if which == BEST and names else ""
    raise ConfigError(
        f"--model {asked}: {run.root} has no checkpoint {which}{hint}; there are "
        f"{', '.join(names[:_NUM_SHOWN]) or 'none'}"
    )


def _run_of(name: str, places: ModelPlaces) -> RunDir | None:
    """The run in that folder, or of that start time; None where there is none."""
    own = places.experiment_dir / places.experiment_name
    for path in (Path(name).expanduser(), own / name, places.experiment_dir / name):
        if (path / _CHECKPOINTS).is_dir():
            return RunDir(root=path.resolve())
        if (path / _STARTED).is_file():
            raise ConfigError(f"--model {name}: the run {path} has no checkpoint; name another one")
    newest = next((run for run in places.runs if run.checkpoints()), None)
    return newest if name == LATEST else None


def _of_folder(folder: Path) -> NamedModel:
    run = _run_around(folder)
    is_best = run is not None and run.best_checkpoint() == folder
    return NamedModel(
        name=str(folder),
        path=str(folder),
        weights=weights_digest(folder),
        chosen_by=run if is_best else None,
    )


def _run_around(folder: Path) -> RunDir | None:
    is_checkpoint = _STEP.fullmatch(folder.name) and folder.parent.name == _CHECKPOINTS
    return RunDir(root=folder.parent.parent) if is_checkpoint else None


def _of_hub(asked: str, places: ModelPlaces) -> NamedModel:
    if asked.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(asked):
        raise ConfigError(
            f"--model {asked}: no such folder; looked in "
            f"{', '.join(map(str, places.search_dirs))}. {_there_are(asked, places)}"
        )
    return NamedModel(name=asked, path=asked)


def _there_are(asked: str, places: ModelPlaces) -> str:
    starts = [run.root.name for run in places.runs if run.checkpoints()]
    near = difflib.get_close_matches(asked, starts, n=1, cutoff=0.7) or starts[:_NUM_SHOWN]
    runs = f"runs with checkpoints are {', '.join(near)}" if near else "no run has a checkpoint"
    return (
        f"Give a model folder, a hub name, best, last, a run ({runs}), or the address of a server"
    )


def check_whole(model: NamedModel) -> None:
    """Raises BackboneError for a checkpoint of ours of which a file is missing or was changed: its
    weights may load all the same."""
    folder = Path(model.path)
    if model.server is None and is_checkpoint(folder):
        from astuner.models.checkpoint import read_record

        read_record(folder, unread={STATE_NAME})


def check_loadable(model: NamedModel) -> None:
    """Raises ConfigError for a folder that is no model, or a hub name that gives none: what can be
    told before any weights are loaded."""
    if model.server is not None:
        return
    from astuner.models.source import load_config

    try:
        found = load_config(model.path)
    except BackboneError as error:
        raise ConfigError(f"--model {model.name}: {error}") from error
    if found is None:
        raise ConfigError(
            f"--model {model.name}: its config.json cannot be read, or there is no such model on "
            "the hub that this machine reaches; correct the name, or give a folder"
        )
