"""The folder of a set while it is made: who works in it, what it was made from, and its files.

A file appears whole or not at all. The card comes last and goes first, so that a set with a card is
one.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from astuner.errors import ConfigError, UnreadableError
from astuner.run_dir import RunDir, json_line, naming_the_file
from astuner.task_generation.generated_set import (
    ANSWERS_DIR,
    CARD_FILE,
    CHUNKS_FILE,
    EARLIER_DIR,
    FINGERPRINT_FILE,
    LEDGER_FILE,
    REJECTED_FILE,
    SPLIT_FILE,
    TEST_FILE,
    TRAIN_FILE,
    VALIDATION_FILE,
)
from astuner.task_generation.split import DecidedSides

README_FILE = "README.md"
_OF_ONE_FINGERPRINT = (
    *(CARD_FILE, README_FILE, TRAIN_FILE, VALIDATION_FILE, TEST_FILE, REJECTED_FILE),
    *(CHUNKS_FILE, LEDGER_FILE, FINGERPRINT_FILE),
)
"""The fingerprint last: until then the folder counts as of another one, and is moved further."""


class _SetCard(BaseModel):
    """What is read of a card."""

    model_config = ConfigDict(extra="ignore")

    num_wanted: int
    ended_by: str | None


def is_complete(folder: Path, fingerprint: Mapping[str, Any], task_num: int) -> bool:
    """Whether the set in `folder` is of that fingerprint and has as many tasks, or more."""
    try:
        card = _SetCard.model_validate_json((folder / CARD_FILE).read_bytes())
        written = json.loads((folder / FINGERPRINT_FILE).read_bytes())
        is_same = not describe_changes(written, fingerprint)
    except (OSError, ValueError, RecursionError):
        return False
    has_files = all((folder / name).is_file() for name in (TRAIN_FILE, VALIDATION_FILE))
    return is_same and has_files and card.ended_by is None and card.num_wanted >= task_num


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, a line for each; empty where nothing does."""
    before, now = _flat(old), _flat(json.loads(json.dumps(new)))
    return [
        _described(key, before.get(key, _ABSENT), now.get(key, _ABSENT))
        for key in sorted({*before, *now})
        if before.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]


class SetFolder:
    """The files of one set. At most one process works in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def in_use(self) -> AbstractContextManager[None]:
        """Around all work; see `RunDir.in_use`."""
        with naming_the_file(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        return RunDir(root=self.path).in_use()

    @property
    def ledger_file(self) -> Path:
        return self.path / LEDGER_FILE

    def begin(self, fingerprint: Mapping[str, Any]) -> list[str]:
        """Make it a folder of that fingerprint; what was made from another one moves to earlier/N.

        Returns what changed, in words. Raises ConfigError where the folder holds files of these
        names that no generation wrote.
        """
        self._check_is_ours()
        written = self.path / FINGERPRINT_FILE
        changes: list[str] = []
        if written.exists():
            changes = describe_changes(_read_fingerprint(written), fingerprint)
            if not changes and self._has_lost_its_ledger():
                changes = [f"{LEDGER_FILE} is gone, so its drafts are not known"]
        if changes:
            self._move_away()
        if not written.exists():
            self.write(FINGERPRINT_FILE, _pretty(fingerprint))
        return changes

    def read_sides(self) -> DecidedSides:
        """What was decided before. Raises UnreadableError for a changed file."""
        path = self.path / SPLIT_FILE
        if not path.exists():
            return DecidedSides()
        try:
            return DecidedSides.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            found = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise UnreadableError(
                f"{path}: it does not say which documents are on which side: {found}; restore it, "
                "or delete it to split anew"
            ) from error

    def write_sides(self, sides: DecidedSides) -> None:
        self.write(SPLIT_FILE, _pretty(sides.model_dump()))

    def write_set(
        self,
        *,
        rows: Mapping[str, Iterable[Mapping[str, Any]]],
        readme: str,
        card: Mapping[str, Any],
    ) -> None:
        """Replace the set: `rows` by name of their file."""
        with naming_the_file(self.path / CARD_FILE):
            (self.path / CARD_FILE).unlink(missing_ok=True)
        for name, lines in rows.items():
            self.write(name, b"".join(json_line(line, where=name) for line in lines))
        self.write(README_FILE, readme.encode())
        self.write(CARD_FILE, _pretty(card))

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        part = path.with_name(f".{name}.partial")
        with naming_the_file(path):
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)

    def _check_is_ours(self) -> None:
        if (self.path / FINGERPRINT_FILE).exists():
            return
        foreign = [name for name in _OF_ONE_FINGERPRINT if (self.path / name).exists()]
        if foreign:
            raise ConfigError(
                f"{self.path} holds {', '.join(foreign)}, but no {FINGERPRINT_FILE}: no generation "
                "wrote them, and they would be overwritten; name another folder in "
                "task_reader.data_generation.output_dir, or move them away"
            )

    def _has_lost_its_ledger(self) -> bool:
        return (self.path / CARD_FILE).exists() and not self.ledger_file.exists()

    def _move_away(self) -> None:
        number = 1
        while (self.path / EARLIER_DIR / str(number) / FINGERPRINT_FILE).exists():
            number += 1
        away = self.path / EARLIER_DIR / str(number)
        with naming_the_file(away):
            away.mkdir(parents=True, exist_ok=True)
            for name in _OF_ONE_FINGERPRINT:
                if (self.path / name).exists():
                    (self.path / name).replace(away / name)


_ABSENT = "(nothing)"


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """The values of nested mappings, by their keys joined with slashes."""
    if not isinstance(value, Mapping):
        return {key: value}
    return {
        inner_key: inner
        for name in value
        for inner_key, inner in _flat(value[name], f"{key}/{name}" if key else name).items()
    }


def _described(key: str, before: Any, now: Any) -> str:
    if before == _ABSENT:
        return f"{key} is new"
    if now == _ABSENT:
        return f"{key} is gone"
    texts = [json.dumps(value, ensure_ascii=False) for value in (before, now)]
    is_plain = all(len(text) <= 80 and not _is_digest(text) for text in texts)
    return f"{key}: {texts[0]} became {texts[1]}" if is_plain else f"{key} changed"


def _is_digest(text: str) -> bool:
    return re.fullmatch(r'"[0-9a-f]{16,}"', text) is not None


def _pretty(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode(
        "utf-8", "backslashreplace"
    )


def _read_fingerprint(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(
            f"{path}: it does not say what the set was made from: {error}; the file was changed "
            f"by hand; restore it, or move all but {ANSWERS_DIR}/ away to make the set anew, for "
            "which no answer is paid again"
        ) from error
    return found
