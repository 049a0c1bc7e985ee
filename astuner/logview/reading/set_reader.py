"""One generated set, read as far as somebody asks. Opens its files for reading only."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from astuner.logview.reading.indexed_lines import IndexedContent, IndexedLines
from astuner.logview.reading.lines import json_object, own_file, shown
from astuner.logview.reading.metrics import count_in
from astuner.logview.reading.set_line import (
    LedgerEntry,
    SetChunkLine,
    SetLine,
    chunk_line,
    ledger_entry,
    rejected_line,
    task_line,
)
from astuner.machine.regular_file import open_regular
from astuner.run_dir import RunDir
from astuner.task_generation.generated_set import (
    CARD_FILE,
    CHUNKS_FILE,
    LEDGER_FILE,
    REJECTED_FILE,
    TEST_FILE,
    TRAIN_FILE,
    VALIDATION_FILE,
)

_MAX_CARD_BYTES = 64 * 2**20
_LATER_SECONDS = 2.0
"""A ledger that was written to so much later than the tasks has more than they do."""

SetStage = Literal["made", "going on", "begun"]
"""Its tasks are there; are there, and the ledger has more since; are not there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetContent:
    """What a set holds as of one moment."""

    stage: SetStage
    is_worked_on: bool
    """Whether a process is making it, as far as that can be told from here."""
    tasks: Sequence[SetLine]
    """Of training, then of validation and of the test, in the order of their files; of a set that
    has none yet the drafts that passed the gates which look at them alone."""
    rejected: Sequence[SetLine]
    """By the same gates, of a set that has no tasks yet."""
    tasks_by_key: Mapping[str, SetLine]
    rejected_by_key: Mapping[str, SetLine]
    chunks: Mapping[tuple[str, int], SetChunkLine]
    num_failed: int
    """Drafts of the ledger that got no answer, and are asked for again."""
    card: Mapping[str, Any]
    """Empty where there is none that can be read."""
    problems: Sequence[str]
    """What is wrong with its files, in words."""
    modified: float
    """When it was last written to, in seconds since 1970; 0 where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetGlance:
    stage: SetStage
    is_worked_on: bool
    num_tasks: int | None
    """As the card tells; None where it does not."""
    modified: float
    """Seconds since 1970; 0 where that is not known."""


class SetReader:
    """What a folder of generated tasks holds. May be used by several threads."""

    def __init__(self, root: Path, *, name: str) -> None:
        """Of the folder `root`, which has no links in its own path."""
        self.root = root
        self.name = name
        """The last two parts of its path, unique on its shelf."""
        self._training = _task_lines(root, TRAIN_FILE, "train")
        self._validation = _task_lines(root, VALIDATION_FILE, "validation")
        self._test = _task_lines(root, TEST_FILE, "test")
        self._rejected = IndexedLines(
            root, REJECTED_FILE, entry_of=partial(rejected_line, file=REJECTED_FILE)
        )
        self._chunks = IndexedLines(root, CHUNKS_FILE, entry_of=chunk_line)
        self._ledger = IndexedLines(
            root, LEDGER_FILE, entry_of=partial(ledger_entry, file=LEDGER_FILE)
        )
        self._lock = threading.Lock()
        self._known: tuple[object, SetContent] | None = None

    @property
    def _is_worked_on(self) -> bool:
        return RunDir(root=self.root).worker() is not None

    @property
    def title(self) -> str:
        """The name of its folder."""
        return shown(self.root.name)

    def glance(self) -> SetGlance:
        """What a line of a list tells of it, for which no tasks are read."""
        card, _ = _read_card(self.root)
        written = {name: _written(self.root / name) for name in (TRAIN_FILE, LEDGER_FILE)}
        return SetGlance(
            stage=_stage(written[TRAIN_FILE], written[LEDGER_FILE]),
            is_worked_on=self._is_worked_on,
            num_tasks=_sum_of(
                {"num_test": 0, **card}, "num_training", "num_validation", "num_test"
            ),
            modified=max((time for time in written.values() if time is not None), default=0.0),
        )

    def content(self) -> SetContent:
        """What stands in its files right now."""
        with self._lock:
            training = self._training.read()
            found = _FoundFiles(
                training=training,
                validation=self._validation.read(),
                test=self._test.read(),
                rejected=self._rejected.read(),
                chunks=self._chunks.read(),
                ledger=self._ledger.read() if training.modified is None else None,
                ledger_written=_written(self.root / LEDGER_FILE),
                card=_read_card(self.root),
                is_worked_on=self._is_worked_on,
            )
            if self._known is None or found.signs != self._known[0]:
                self._known = found.signs, _content_of(found)
            return self._known[1]

    def objects(self, lines: Iterable[SetLine]) -> Iterator[tuple[SetLine, dict[str, Any]]]:
        """Each with all that stands in it. Raises UnreadableError where that changed since."""
        of_tasks = (self._training, self._validation, self._test)
        files = {file.name: file for file in (*of_tasks, self._rejected)}
        for name, of_file in groupby(lines, key=lambda line: line.file):
            if name == LEDGER_FILE:
                entries = self._ledger.objects(map(LedgerEntry.of_line, of_file))
                yield from ((entry.line, found) for entry, found in entries if entry.line)
            else:
                yield from files[name].objects(of_file)

    def chunk(self, line: SetChunkLine) -> dict[str, Any]:
        """Raises as `objects` does."""
        return self._chunks.object(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FoundFiles:
    """All files of a set as of one moment."""

    training: IndexedContent[SetLine]
    validation: IndexedContent[SetLine]
    test: IndexedContent[SetLine]
    rejected: IndexedContent[SetLine]
    chunks: IndexedContent[SetChunkLine]
    ledger: IndexedContent[LedgerEntry] | None
    """None where tasks are written: it is long, and they tell what came of it."""
    ledger_written: float | None
    card: tuple[Mapping[str, Any], str | None]
    """With why it could not be read."""
    is_worked_on: bool

    @property
    def finished(self) -> Mapping[str, IndexedContent[Any]]:
        """Those that appear whole; the ledger grows by lines."""
        return {
            TRAIN_FILE: self.training,
            VALIDATION_FILE: self.validation,
            TEST_FILE: self.test,
            REJECTED_FILE: self.rejected,
            CHUNKS_FILE: self.chunks,
        }

    @property
    def of_lines(self) -> Sequence[IndexedContent[Any]]:
        return (*self.finished.values(), *([self.ledger] if self.ledger else []))

    @property
    def signs(self) -> object:
        """Equal where nothing has changed."""
        return (
            [(one.version, one.modified, one.problems) for one in self.of_lines],
            self.ledger_written,
            self.card,
            self.is_worked_on,
        )


def _content_of(found: _FoundFiles) -> SetContent:
    card, card_problem = found.card
    problems = [problem for one in found.of_lines for problem in one.problems]
    torn = [
        f"{name}: its last line has no end and was passed over"
        for name, content in found.finished.items()
        if content.num_torn_bytes
    ]
    drafts = _newest_of_turns(found.ledger.entries if found.ledger else ())
    if found.ledger:
        lines = [draft.line for draft in drafts if draft.line is not None]
        tasks = [line for line in lines if line.gate is None]
        rejected = [line for line in lines if line.gate is not None]
    else:
        tasks = [*found.training.entries, *found.validation.entries, *found.test.entries]
        rejected = list(found.rejected.entries)
    return SetContent(
        stage=_stage(found.training.modified, found.ledger_written),
        is_worked_on=found.is_worked_on,
        tasks=tasks,
        rejected=rejected,
        tasks_by_key=_by_key(tasks),
        rejected_by_key=_by_key(rejected),
        chunks={(line.document, line.number): line for line in found.chunks.entries},
        num_failed=sum(draft.state == "failed" for draft in drafts),
        card=card,
        problems=[*([card_problem] if card_problem else []), *problems, *torn],
        modified=max(found.ledger_written or 0.0, *(one.modified or 0.0 for one in found.of_lines)),
    )


def _newest_of_turns(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """A turn may have several lines, of which the last one counts."""
    by_turn = {entry.turn: entry for entry in entries if entry.state and entry.turn is not None}
    return [by_turn[turn] for turn in sorted(by_turn)]


def _task_lines(root: Path, name: str, side: str) -> IndexedLines[SetLine]:
    return IndexedLines(root, name, entry_of=partial(task_line, file=name, side=side))


def _by_key(lines: Sequence[SetLine]) -> dict[str, SetLine]:
    """Of several with one key the first."""
    return {line.key: line for line in reversed(lines)}


def _stage(tasks: float | None, ledger: float | None) -> SetStage:
    """By when they were last written to; None: they are not there."""
    if tasks is None:
        return "begun"
    return "going on" if ledger is not None and ledger > tasks + _LATER_SECONDS else "made"


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _sum_of(card: Mapping[str, Any], *names: str) -> int | None:
    counts = [count for name in names if (count := count_in(card.get(name))) is not None]
    return sum(counts) if len(counts) == len(names) else None


def _read_card(root: Path) -> tuple[Mapping[str, Any], str | None]:
    """Also why it could not be read; a set that is being made has none yet."""
    path = own_file(root, CARD_FILE)
    if path is None:
        return {}, None
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_CARD_BYTES + 1)
        if len(data) > _MAX_CARD_BYTES:
            return {}, f"{CARD_FILE}: it has more than {_MAX_CARD_BYTES:,} bytes and was not read"
        return json_object(data), None
    except OSError as error:
        return {}, f"{CARD_FILE}: it cannot be read: {error.strerror}"
    except ValueError as error:
        return {}, f"{CARD_FILE}: it cannot be read: {error}"
