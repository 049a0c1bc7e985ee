"""The files of tasks that were made from traces, and who may work on them.

Beside the training tasks, `tasks.jsonl`, lie

    tasks.validation.jsonl tasks.test.jsonl    the other sides
    tasks.manifest.json     what they were made from, and what became of everything
    tasks.steps.md          the counts of all steps, for people
    tasks.sides.json        which sessions and users stand on which side
    tasks.answers/          what a model said of the turns, so that it is not asked twice
    tasks.earlier/N/        tasks of other settings

A file appears whole or not at all, and only its owner may read it. The manifest comes last and goes
first, so that tasks with a manifest are whole.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from astuner.errors import ConfigError
from astuner.run_dir import naming_the_file, read_json_lines
from astuner.task_generation.draft import SIDES, Side
from astuner.task_reader.tracing import file_beside
from astuner.traces.folder import used_by_one


class TracedManifest(BaseModel):
    """What later makings read of a manifest; more stands in it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int
    settings: dict[str, Any]
    places: list[dict[str, Any]]
    """What was read: a digest of the address, its state, and how far it was read."""
    is_whole: bool
    """False where a model gave no verdict on some turn."""


class TracedFiles:
    """Those around one file of training tasks."""

    def __init__(self, training_file: Path) -> None:
        """Absolute."""
        self.training_file = training_file
        self._stem = training_file.name.removesuffix(".jsonl")

    def of_side(self, side: Side) -> Path:
        return self.training_file if side == "train" else file_beside(self.training_file, side)

    @property
    def manifest_file(self) -> Path:
        return file_beside(self.training_file, "manifest")

    @property
    def sheet_file(self) -> Path:
        return self._beside("steps.md")

    @property
    def sides_file(self) -> Path:
        return self._beside("sides.json")

    @property
    def rows_file(self) -> Path:
        """Of a making under way."""
        return self.training_file.with_name(f".{self._stem}.rows.partial")

    def new_answers_dir(self) -> Path:
        folder = self._beside("answers")
        with naming_the_file(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def read_manifest(self) -> TracedManifest | None:
        """None where there is none, or one that a later release wrote."""
        try:
            return TracedManifest.model_validate_json(self.manifest_file.read_bytes())
        except (OSError, ValidationError):
            return None

    def rows(self) -> Iterator[tuple[Side, dict[str, Any]]]:
        for side in SIDES:
            if self.of_side(side).is_file():
                for row in read_json_lines(self.of_side(side)):
                    yield side, row

    def check_are_ours(self) -> None:
        """Raises ConfigError where the training file is there and nobody says how it was made."""
        if self.training_file.exists() and not self.manifest_file.exists():
            raise ConfigError(
                f"{self.training_file} is there, but no {self.manifest_file.name} beside it: it "
                "was not made from traces by this command, and would be overwritten; move it "
                "away, name another file in task_reader.feedback_tracing.train_output_path, or "
                "set base_url to null to train on it as it is"
            )

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Around all work. Raises ConfigError where another process makes them."""
        lock = self.training_file.with_name(f".{self._stem}.lock")
        taken = f"another process makes {self.training_file}; wait for it or end it"
        with used_by_one(lock, taken=taken):
            try:
                yield
            finally:
                self.rows_file.unlink(missing_ok=True)

    def move_away(self) -> Path:
        """What other settings made, to the next folder of `earlier/`."""
        number = 1
        while (folder := self._beside("earlier") / str(number)).exists():
            number += 1
        with naming_the_file(folder):
            folder.mkdir(mode=0o700, parents=True)
            paths = (self.manifest_file, self.sheet_file, *map(self.of_side, SIDES))
            for path in paths:
                if path.exists():
                    path.replace(folder / path.name)
        return folder

    def write(
        self,
        *,
        lines: Iterable[tuple[Side, bytes]],
        sides: str,
        sheet: str,
        manifest: Mapping[str, Any],
    ) -> None:
        """Replace them all. Lines may come from the files that are replaced."""
        parts = self._written_sides(lines)
        with naming_the_file(self.manifest_file):
            self.manifest_file.unlink(missing_ok=True)
        self._replace(self.sides_file, sides)
        for path, part in parts.items():
            with naming_the_file(path):
                part.replace(path)
        self._replace(self.sheet_file, sheet)
        self._replace(self.manifest_file, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")

    def _written_sides(self, lines: Iterable[tuple[Side, bytes]]) -> dict[Path, Path]:
        """The part of each file, whole and on disk."""
        paths = [self.of_side(side) for side in SIDES]
        parts = {path: path.with_name(f".{path.name}.partial") for path in paths}
        with naming_the_file(self.training_file), ExitStack() as stack:
            files = {
                side: stack.enter_context(open_private(parts[self.of_side(side)])) for side in SIDES
            }
            for side, line in lines:
                files[side].write(line)
            for file in files.values():
                _sync(file)
        return parts

    def _beside(self, name: str) -> Path:
        return self.training_file.with_name(f"{self._stem}.{name}")

    def _replace(self, path: Path, text: str) -> None:
        part = path.with_name(f".{path.name}.partial")
        with naming_the_file(path):
            with open_private(part) as file:
                file.write(text.encode("utf-8", "backslashreplace"))
                _sync(file)
            part.replace(path)


def open_private(path: Path) -> BinaryIO:
    """An empty file that only its owner may read, for writing."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
