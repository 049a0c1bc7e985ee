"""A file of labels: what people said of episodes, as JSON lines or as a table with commas."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from astuner.errors import ConfigError
from astuner.rejudging.opinion import Opinion
from astuner.types import finite_number

_ID = "episode_id"
_SCORES = ("score", "reward")
_FLAGS = ("is_success", "label")
_NUM_NAMED = 5
_TRUTH = TypeAdapter(bool)
"""Knows true and false, yes and no, 1 and 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a file says."""

    opinions: Mapping[str, Opinion]
    """By the ids of episodes."""
    num_open: int
    """Rows of episodes to which nobody gave a label yet."""


def read_labels(path: Path) -> Labels:
    """Rows with `episode_id`, and `score` or `reward`, `is_success` or `label`, or both.

    A file that ends with .csv has the names in its first line; any other has a JSON object on each.
    Raises ConfigError that names the lines which cannot be understood, and an episode with two
    labels: whoever leaves some out would report another agreement.
    """
    opinions: dict[str, Opinion] = {}
    problems: list[str] = []
    num_open = 0
    for number, row in _rows(path):
        try:
            episode_id, opinion = _label(row)
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        if opinion is None:
            num_open += 1
        elif opinions.setdefault(episode_id, opinion) != opinion:
            problems.append(f"{path}:{number}: {episode_id} has another label further up; keep one")
    if problems:
        more = f"\n  … and {len(problems) - _NUM_NAMED} more" if problems[_NUM_NAMED:] else ""
        lines = "".join(f"\n  {problem}" for problem in problems[:_NUM_NAMED])
        what = "1 row is no label" if len(problems) == 1 else f"{len(problems)} rows are no labels"
        raise ConfigError(f"judge: --labels: {what}:{lines}{more}")
    if not opinions:
        raise ConfigError(
            f"judge: --labels {path}: there is no label in it; found {num_open} rows without one; "
            f"write a row for each episode, with {_ID} and {' or '.join(_SCORES + _FLAGS)}"
        )
    return Labels(opinions=opinions, num_open=num_open)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Each with its line, counted from 1; what is no JSON comes as ValueError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"judge: --labels {path}: the file cannot be read: {error}; name a file of JSON lines "
            "or of values with commas, in UTF-8"
        ) from error
    if path.suffix.lower() == ".csv":
        table = csv.DictReader(io.StringIO(text, newline=""))
        try:
            yield from ((table.line_num, row) for row in table)
        except csv.Error as error:
            raise ConfigError(
                f"judge: --labels {path}:{table.line_num}: {error}; save the table anew as CSV"
            ) from error
        return
    # Not by splitlines, which also ends lines at separators that stand inside of JSON's texts.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return error


def _label(row: Any) -> tuple[str, Opinion | None]:
    """Raises ValueError, in words."""
    if isinstance(row, Exception):
        raise ValueError(f"it is no JSON: {row}")
    if not isinstance(row, Mapping):
        raise ValueError(f"found {type(row).__name__}, expected an object with {_ID}")
    episode_id = row.get(_ID)
    if not isinstance(episode_id, str) or not episode_id.strip():
        raise ValueError(f"{_ID} is missing; found {sorted(map(str, row))}")
    score, flag = _one_of(row, _SCORES), _one_of(row, _FLAGS)
    if score is None and flag is None:
        return episode_id.strip(), None
    return episode_id.strip(), Opinion(
        reward=None if score is None else _number(score),
        is_success=None if flag is None else _truth(flag),
    )


def _one_of(row: Mapping[Any, Any], names: tuple[str, str]) -> Any:
    """The value of the first name that has one. Raises ValueError where both have."""
    given = {name: row[name] for name in names if row.get(name) not in (None, "")}
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are two names of one thing; keep one")
    return next(iter(given.values()), None)


def _number(value: Any) -> float:
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    number = None if isinstance(value, bool) else finite_number(value)
    if number is None:
        raise ValueError(f"the score {value!r} is no finite number")
    return number


def _truth(value: Any) -> bool:
    try:
        return _TRUTH.validate_python(value.strip() if isinstance(value, str) else value)
    except ValidationError as error:
        raise ValueError(
            f"{value!r} is neither true nor false; write a number as {_SCORES[0]}"
        ) from error
