"""Makes paths of the settings absolute, once, before any code of the user's runs.

A workflow, judge or tool may change the current directory at any later time; whoever reads a path
from the settings must not follow it. Folders that have a relative default stay as they are, since
the settings of a file do not depend on where they are read: they count from `LoadedConfig.home`.
So do task files and modules, which are looked for in several folders that are absolute themselves.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def make_absolute(section: dict[str, Any], folders: Sequence[Path] = ()) -> None:
    """Change the resolved `astuner:` in place; relative paths count from the current directory.

    task_judge.rubrics.file is looked for in `folders` too, in their order. model.path and
    trainer_common.reference are paths where they name a folder, else they are names of models. The
    folder is what its links mean now: a new run moves the link `latest`.
    """
    model, llm = _find(section, "model"), _find(section, "llm")
    path, cache = model.get("path"), llm.get("cache_dir")
    if isinstance(path, str) and not _is_name_on_a_server(section):
        model["path"] = _folder_or_name(path)
    common = _find(section, "trainer_common")
    if isinstance(reference := common.get("reference"), str):
        common["reference"] = _folder_or_name(reference)
    if isinstance(cache, str):
        llm["cache_dir"] = str(Path(cache).expanduser().absolute())
    rubrics = _find(_find(section, "task_judge"), "rubrics")
    if isinstance(file := rubrics.get("file"), str):
        rubrics["file"] = str(_first_there(Path(file).expanduser(), folders))


def _first_there(path: Path, folders: Sequence[Path]) -> Path:
    """Below the current directory where it is nowhere."""
    places = [folder / path for folder in (Path.cwd(), *folders)]
    return next((place for place in places if place.exists()), places[0])


def _folder_or_name(path: str) -> str:
    folder = os.path.expanduser(path)
    return os.path.realpath(folder) if os.path.isdir(folder) else path


def _is_name_on_a_server(section: dict[str, Any]) -> bool:
    """Whether model.path is what the server behind the backbone debug calls its model."""
    has_server = _find(section, "debug").get("openai_base_url") is not None
    return section.get("backbone") == "debug" and has_server


def _find(section: dict[str, Any], name: str) -> dict[str, Any]:
    """The section of that name; an empty one of its own where there is none."""
    found = section.get(name)
    return found if isinstance(found, dict) else {}
