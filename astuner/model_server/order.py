"""What is to be served, from what the command was given: bases, adapters and their names.

Reads small files only; nothing is loaded.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError
from astuner.models.manifest import RECORD_NAME, is_checkpoint, read_object

_ADAPTER_CONFIG = "adapter_config.json"
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOrder:
    """An adapter to put on a base."""

    name: str
    folder: Path


@dataclass(slots=True, kw_only=True)
class BaseOrder:
    """A model to load, once."""

    source: str
    """Absolute path of a folder, or a name of the hub."""
    name: str
    adapters: list[AdapterOrder] = field(default_factory=list)


def read_orders(
    sources: Sequence[str], *, names: Sequence[str], adapters: Sequence[tuple[str, str]]
) -> list[BaseOrder]:
    """`names` are for the first of the sources, in their order; `adapters` are names and folders.

    An adapter among the sources brings its base. Raises ConfigError for what does not go together.
    """
    if len(names) > len(sources):
        raise ConfigError(
            f"serve: --model-name is given {len(names)} times for {len(sources)} models; give each "
            "model one at most, in their order, and adapters theirs by --adapter NAME=FOLDER"
        )
    bases: dict[str, BaseOrder] = {}
    for index, source in enumerate(sources):
        named = names[index] if index < len(names) else None
        folder = _folder(source)
        if folder is None or not (folder / _ADAPTER_CONFIG).is_file():
            place = str(folder or source)
            bases.setdefault(place, BaseOrder(source=place, name="")).name = named or short_name(
                place
            )
        else:
            base = _base_of(folder)
            _add(bases, base, AdapterOrder(name=named or short_name(str(folder)), folder=folder))
    for name, path in adapters:
        _add_to_known(bases, name, path)
    orders = list(bases.values())
    _check_names(name for one in orders for name in (one.name, *(a.name for a in one.adapters)))
    return orders


def _add(bases: dict[str, BaseOrder], source: str, adapter: AdapterOrder) -> None:
    base = bases.setdefault(source, BaseOrder(source=source, name=short_name(source)))
    base.adapters.append(adapter)


def _add_to_known(bases: dict[str, BaseOrder], name: str, path: str) -> None:
    folder = _folder(path)
    if folder is None:
        raise ConfigError(f"serve: --adapter {name}={path}: there is no such folder")
    base = _base_of(folder)
    if base in bases:
        bases[base].adapters.append(AdapterOrder(name=name, folder=folder))
        return
    same = [one for one in bases.values() if _last_part(one.source) == _last_part(base)]
    if len(same) != 1:
        raise ConfigError(
            f"serve: --adapter {name}={path}: it was trained on {base}, which is none of "
            f"{', '.join(bases)}; serve it with its base. Where one of them is a copy of it, write "
            f"that folder as base_model_name_or_path into {folder / _ADAPTER_CONFIG}"
        )
    same[0].adapters.append(AdapterOrder(name=name, folder=folder))


def _folder(source: str) -> Path | None:
    """Raises ConfigError for a run directory, which holds several."""
    path = Path(source).expanduser()
    if not path.is_dir():
        return None
    path = path.resolve()
    if (path / _CHECKPOINTS).is_dir() and not (path / "config.json").is_file():
        found = sorted(one.name for one in (path / _CHECKPOINTS).glob("[!.]*"))
        raise ConfigError(
            f"serve: {source} is a run directory; name one of its checkpoints, "
            f"{path / _CHECKPOINTS}/{{{','.join(found) or 'none was saved'}}}"
        )
    return path


def _base_of(folder: Path) -> str:
    from astuner.models.adapter_set import read_adapter_config

    named = str(read_adapter_config(folder)["base_model_name_or_path"])
    base = Path(named).expanduser()
    if base.is_dir():
        return str(base.resolve())
    if base.is_absolute() or named.startswith("."):
        raise ConfigError(
            f"serve: {folder} is an adapter, and its base, {named}, is not there; put it there, or "
            f"write its place as base_model_name_or_path into {folder / _ADAPTER_CONFIG}"
        )
    return named


def short_name(source: str) -> str:
    """By which clients ask for a model where none is given: of a checkpoint, YAML and step."""
    path = Path(source)
    if path.is_absolute() and path.parent.name == _CHECKPOINTS and len(path.parts) > 4:
        return f"{path.parts[-4]}-{path.name}"
    return path.name if path.is_absolute() else source


def _last_part(source: str) -> str:
    return Path(source).name.lower()


def _check_names(names: Iterable[str]) -> None:
    counted = Counter(names)
    doubled = sorted(name for name, number in counted.items() if number > 1)
    if doubled:
        raise ConfigError(
            f"serve: {doubled[0]} would be the name of {counted[doubled[0]]} models; give them "
            "names by --model-name and --adapter NAME=FOLDER"
        )
    wrong = next((name for name in counted if not re.fullmatch(r"[\w./:@+-]{1,200}", name)), None)
    if wrong is not None:
        raise ConfigError(
            f"serve: {wrong!r} is no name for a model; take letters, digits and any of . / : @ + -"
        )


def training_of(folder: Path) -> dict[str, Any]:
    """`rollout` of the run that wrote a checkpoint; empty for any other folder."""
    if not is_checkpoint(folder):
        return {}
    try:
        found = read_object(folder / RECORD_NAME)["settings"]["rollout"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
