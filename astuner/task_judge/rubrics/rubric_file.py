"""Files of rubrics, YAML or JSON, and rubrics that stand in settings: read, checked, written."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from astuner.config.bounded_yaml import compose_bounded
from astuner.errors import ConfigError
from astuner.run_dir import naming_the_file
from astuner.task_judge.rubrics.rubric import VERSION, RubricSet

_EXAMPLE = "rubrics: [{name: correct, text: The result is right., weight: 2}]"
_TO_DO = "see docs/judges.md for what a file of rubrics holds"

Place = Callable[[Sequence[int | str]], str]
"""Where the field of that path stands, for messages."""


def read_rubrics(path: Path) -> RubricSet:
    """The rubrics of a file. Raises ConfigError that names file, line and field."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        node = None if path.suffix == ".json" else compose_bounded(text, path)
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(
            f"{path}: the rubrics cannot be read: {error.strerror}; name a YAML or JSON file in "
            "astuner.task_judge.rubrics.file"
        ) from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{path}: neither YAML nor JSON in UTF-8: {said}; {_TO_DO}") from error
    for place in _repeated_keys(node, path):
        raise ConfigError(f"{place}; YAML would read the last one only: write it once")
    return _checked(content, lambda field: _place_in(path, node, field))


def rubrics_of_items(items: Sequence[Any], *, key: str) -> RubricSet:
    """Rubrics that stand in the settings as the list `key`. Raises ConfigError that names it."""
    content = {"version": VERSION, "rubrics": items}
    return _checked(content, lambda field: _key_of(key, field[1:]))


def save_rubrics(rubrics: RubricSet, path: Path) -> None:
    """Write the file whole or not at all."""
    text = json.dumps(rubrics.model_dump(), ensure_ascii=False, indent=2)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with naming_the_file(path):
        try:
            part.write_text(f"{text}\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _checked(content: Any, place: Place) -> RubricSet:
    if not isinstance(content, dict):
        raise ConfigError(
            f"{place(())}: found {type(content).__name__}, expected keys such as version: "
            f"{VERSION} and {_EXAMPLE}"
        )
    version = content.get("version")
    if version != VERSION or isinstance(version, bool):
        what = "no version" if version is None else f"version {version!r}"
        raise ConfigError(
            f"{place(('version',))}: version: found {what}; this release reads rubrics of version "
            f"{VERSION}: "
            + (
                "install the release that wrote the file, or write it anew"
                if version is not None
                else f"add version: {VERSION}"
            )
        )
    try:
        return RubricSet.model_validate(content)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_describe(detail, place) for detail in error.errors())
        ) from None


def _describe(detail: Any, place: Place) -> str:
    field = detail["loc"]
    name = ".".join(map(str, field))
    if detail["type"] == "extra_forbidden":
        problem = "unknown key; take it out, or correct its name"
    elif detail["type"] == "value_error":
        problem = str(detail["ctx"]["error"])
    elif detail["type"] == "missing":
        problem = f"is missing; {_TO_DO}"
    elif detail["type"] == "too_short" and name == "rubrics":
        problem = f"there is no rubric; write at least one: {_EXAMPLE}"
    else:
        problem = f"{detail['msg']}; found {detail['input']!r:.60}; correct it"
    return f"{place(field)}: {name}: {problem}"


def _key_of(key: str, field: Sequence[int | str]) -> str:
    return key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in field)


def _place_in(path: Path, node: yaml.Node | None, field: Sequence[int | str]) -> str:
    """The file with the line of the field, or of the nearest one around it."""
    if node is None:
        return str(path)
    line = node.start_mark.line
    for part in field:
        found = dict(_children(node)).get(part) if node is not None else None
        if found is None:
            break
        line, node = found
    return f"{path}:{line + 1}"


def _children(node: yaml.Node | None) -> Iterator[tuple[int | str, tuple[int, yaml.Node]]]:
    """By key or index, each with the line that it begins in."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value, (key.start_mark.line, value)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield index, (value.start_mark.line, value)


def _repeated_keys(node: yaml.Node | None, path: Path) -> Iterator[str]:
    seen: set[int | str] = set()
    for key, (line, child) in _children(node):
        if key in seen:
            yield f"{path}:{line + 1}: the key {key!r} stands here a second time"
        seen.add(key)
        yield from _repeated_keys(child, path)
