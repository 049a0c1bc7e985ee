"""The configurations that the starts of a run wrote, one file each."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from astuner.errors import ConfigError, NotFoundError, UnreadableError
from astuner.logview.reading.lines import own_file
from astuner.machine.regular_file import open_regular

_NAME = re.compile(r"config(?:_(\d{1,9}))?\.yaml")
_MAX_BYTES = 4 * 2**20
_FIRST = 1


def config_files(root: Path) -> list[Path]:
    """The configurations of a run by its starts, the first one first."""
    found = {}
    try:
        names = [path.name for path in root.iterdir()]
    except OSError:
        return []
    for name in names:
        match = _NAME.fullmatch(name)
        if match and (path := own_file(root, name)):
            found[int(match[1] or _FIRST)] = path
    return [found[number] for number in sorted(found)]


def config_file(root: Path, number: int | None) -> Path:
    """The configuration of a start, counted from 1; without a number, of the newest.

    Raises NotFoundError where there is none.
    """
    files = config_files(root)
    if not files:
        raise NotFoundError(
            f"{root}: there is no config.yaml in it, which every run writes at its start; it may "
            "have been deleted"
        )
    if number is not None and not 1 <= number <= len(files):
        raise NotFoundError(
            f"{root}: there is no start {number}; found {len(files)}, so name a number from 1 to "
            f"{len(files)}"
        )
    return files[-1 if number is None else number - 1]


def text_of_config(path: Path) -> str:
    """Raises UnreadableError where it cannot be read."""
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise UnreadableError(f"{path} has more than {_MAX_BYTES:,} bytes; open it in an editor")
    return data.decode(errors="replace")


def flat_config(path: Path) -> dict[str, Any]:
    """The settings of a configuration by their dotted keys. Lists and empty sections are values.

    Raises UnreadableError where it cannot be read, and where it is no YAML of sections.
    """
    # Only here, since hydra takes a moment to import.
    from astuner.config.bounded_yaml import compose_bounded

    text = text_of_config(path)
    try:
        compose_bounded(text, path)
        content = yaml.safe_load(text)
    except (ConfigError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: it cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableError(f"{path}: it holds no sections of settings; was it changed by hand?")
    return _flat(content, "")


def _flat(section: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def backbone_and_model(text: str) -> tuple[str | None, str | None]:
    """What a configuration names as such, by its lines: reading YAML takes far longer."""
    backbone = re.search(r"^  backbone: (.+)$", text, re.MULTILINE)
    model = re.search(r"^  model:\n    path: (.+)$", text, re.MULTILINE)
    return _scalar(backbone), _scalar(model)


def _scalar(found: re.Match[str] | None) -> str | None:
    text = found[1].strip() if found else "null"
    return None if text in ("null", "~") else text.strip("'\" ")
