"""Composition with hydra: the user's file and overrides over the default YAML files.

Starts no hydra application: no working directory is changed and no logging configured.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from astuner.config.accepted import ACCEPTED_SECTIONS
from astuner.config.bounded_yaml import check_named_files
from astuner.config.packaged import DEFAULT_FOLDER, register_source, search_entry
from astuner.config.schema import section_keys
from astuner.config.secret import mask_text
from astuner.config.source import RENAMED_DEFAULTS, ConfFile, UserInput
from astuner.errors import ConfigError

OUR_DEFAULTS = ("verl_default", "trinity_default", "astuner_default")
"""Entries that every `defaults` list has, written or not."""

PASS_THROUGH = ("verl", "trinity")
"""Root sections that go to the backbone of that name as they are."""

_PRIMARY = "astuner_primary"


def compose_config(user: UserInput) -> DictConfig:
    """The composed configuration, not yet resolved, without the `hydra` section.

    Raises ConfigError when hydra cannot find a file or apply an override.
    """
    primary = _primary(user.file)
    _check_size(primary)
    with _temporary_folder() as folder:
        try:
            OmegaConf.save(OmegaConf.create(primary), Path(folder) / f"{_PRIMARY}.yaml")
        except OSError as error:
            raise ConfigError(_no_place(error)) from error
        try:
            with _hydra(folder):
                return compose(_PRIMARY, overrides=[o.text for o in user.overrides])
        except (HydraException, OmegaConfBaseException) as error:
            text = str(error).replace(_PRIMARY, str(user.file.path))
            raise ConfigError(f"{user.file.path}: cannot be composed: {mask_text(text)}") from error


def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """Raises ConfigError where there is no place for one."""
    try:
        return tempfile.TemporaryDirectory(prefix="astuner_")
    except OSError as error:
        raise ConfigError(_no_place(error)) from error


def _no_place(error: OSError) -> str:
    return (
        f"there is no folder for temporary files: {error.strerror}; name one that can be written, "
        "and has room, by the environment variable TMPDIR"
    )


@contextmanager
def _hydra(folder: str) -> Iterator[None]:
    """Hydra's global state for the time of one composition; what was there before comes back."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    register_source()
    try:
        with initialize_config_dir(folder, job_name="astuner", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def _primary(file: ConfFile) -> dict[str, Any]:
    """The user's file with the `defaults` and the `hydra.searchpath` that it may leave out."""
    body = _without_empty_sections(file.mapping)
    hydra = dict(body.pop("hydra", None) or {})
    hydra["searchpath"] = _searchpath(file, hydra.get("searchpath"))
    return {"defaults": _defaults(file, body.pop("defaults", None)), "hydra": hydra, **body}


def _check_size(primary: Mapping[str, Any]) -> None:
    """Raise ConfigError for a file of the user's that would fill the memory."""
    places = [e.removeprefix("file://") for e in primary["hydra"]["searchpath"]]
    own = [Path(p) for p in places if "://" not in p]
    check_named_files(primary["defaults"], own)


def _defaults(file: ConfFile, written: Any) -> list[Any]:
    if written is not None and not isinstance(written, list):
        raise ConfigError(f"{file.place('defaults')}: defaults: expected a list, found {written!r}")
    entries = [RENAMED_DEFAULTS.get(e, e) if isinstance(e, str) else e for e in written or ()]
    implied = [name for name in OUR_DEFAULTS if name not in entries]
    return [*implied, *entries, *([] if "_self_" in entries else ["_self_"])]


def _searchpath(file: ConfFile, written: Any) -> list[str]:
    if not isinstance(written, list | None) or not all(isinstance(e, str) for e in written or ()):
        raise ConfigError(
            f"{file.place('hydra.searchpath')}: hydra.searchpath: expected a list of folders, "
            f"found {written!r}"
        )
    entries = [_searchpath_entry(file, index, entry) for index, entry in enumerate(written or ())]
    own = file.path.absolute().parent
    ours = (DEFAULT_FOLDER, DEFAULT_FOLDER / "verl", DEFAULT_FOLDER / "trinity")
    return [search_entry(own), *entries, *map(search_entry, ours)]


def _searchpath_entry(file: ConfFile, index: int, entry: str) -> str:
    scheme, separator, rest = entry.rpartition("://")
    if separator and scheme != "file":
        return entry
    folder = Path.cwd() / rest
    if not folder.is_dir() and Path(rest).parts[:2] == ("astuner", "default_config"):
        folder = DEFAULT_FOLDER.joinpath(*Path(rest).parts[2:])
    if not folder.is_dir():
        place = file.place(f"hydra.searchpath.{index}")
        raise ConfigError(
            f"{place}: hydra.searchpath: {entry!r} is no folder; looked for {folder}; a relative "
            f"folder counts from the current directory"
        )
    return search_entry(folder)


def _without_empty_sections(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A section whose every key is commented out reads as null; it means the defaults."""
    sections = {*section_keys(), *ACCEPTED_SECTIONS, *PASS_THROUGH}

    def clean(value: Any, prefix: str) -> Any:
        if not isinstance(value, dict):
            return value
        keys = {name: f"{prefix}.{name}" if prefix else str(name) for name in value}
        return {
            name: clean(inner, keys[name])
            for name, inner in value.items()
            if inner is not None or keys[name] not in sections
        }

    return clean(mapping, "")
