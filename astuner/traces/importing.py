"""Traces out of sources into a folder of ours: masked, without what was imported before.

What is whole stays, however it ends: traces are synced in batches, and a batch counts as known when
it stands in a file.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from astuner.errors import ConfigError
from astuner.run_dir import naming_the_file
from astuner.traces.cursors import CURSORS_FILE, TraceCursors, content_digest
from astuner.traces.folder import used_by_one
from astuner.traces.late_feedback import feedback_line
from astuner.traces.reader import read_traces
from astuner.traces.reading import FoundFeedback, TraceSource, Unread
from astuner.traces.stats import TraceStats
from astuner.traces.trace import Origin, Trace
from astuner.traces.trace_files import TraceFiles, TraceKind
from astuner.traces.trace_json import trace_line

_BATCH = 200
"""Traces that are synced at once."""
_LOCK_NAME = ".import.lock"
TraceChange = Callable[[Trace], Trace]


@dataclass(slots=True, kw_only=True)
class ImportCounts:
    """What became of the traces of an import."""

    num_new: int = 0
    num_known: int = 0
    """That were imported before, or twice now."""
    num_too_old: int = 0
    num_late: int = 0
    """Feedback on what was imported before."""
    stats: TraceStats = field(default_factory=TraceStats)
    """Of the new ones, as they were written."""
    unread: Unread = field(default_factory=Unread)


@contextmanager
def importing_to(folder: Path) -> Iterator["TraceImport"]:
    """Around importing to a folder, which one process at a time may do.

    At its end, also by Ctrl-C, all that was taken stands in files. Raises ConfigError for a folder
    of something else or at work, UnreadableError where its state cannot be told, AstunerError where
    the file system refuses.
    """
    _check_folder(folder)
    taken = (
        f"traces import: another process imports to {folder} just now; wait for its end, or name "
        "another --out"
    )
    with used_by_one(folder / _LOCK_NAME, taken=taken):
        one = TraceImport(folder)
        try:
            yield one
        finally:
            one.close()


class TraceImport:
    """One import; see `importing_to`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cursors = TraceCursors(folder)
        self._files = _files(folder, "traces")
        self._late_files = _files(folder, "feedback")
        self._waiting: list[Trace] = []
        """New ones as they were read. What ends an import may come at any line: one that counts as
        known stands here, until it stands in a file."""
        self._change: TraceChange = as_it_is
        self._is_refused = False
        self.counts = ImportCounts()

    def take(self, source: TraceSource, *, change: TraceChange, since: float | None = None) -> None:
        """Import what is new in a source, as `change` leaves it.

        `since`, in seconds since 1970, leaves out traces that began before; those without a time
        are taken. Raises what the source raises, AstunerError where the file system refuses.
        """
        counts, self._change = self.counts, change
        late: list[FoundFeedback] = []
        cursor = self._cursors.cursor(source)
        keep_late = late.append if self._cursors.know_some else None
        for trace in read_traces(source, counts.unread, cursor, late=keep_late):
            if is_before(trace, since):
                counts.num_too_old += 1
                continue
            digest = content_digest(trace)
            self._waiting.append(trace)
            if not self._cursors.note(digest):
                self._waiting.pop()
                counts.num_known += 1
            elif len(self._waiting) >= _BATCH:
                self._write()
        self._write()
        self._write_late(late)
        self._cursors.move(source)
        self._save()

    def close(self) -> None:
        """Write what waits, unless writing has failed."""
        try:
            if not self._is_refused:
                self._write()
                self._save()
        finally:
            self._files.close()
            self._late_files.close()

    def _write(self) -> None:
        if not self._waiting:
            return
        changed = list(map(self._change, self._waiting))
        self._is_refused = True
        with naming_the_file(self._folder):
            self._files.append(list(map(trace_line, changed)))
        self._is_refused = False
        self._waiting = []
        for trace in changed:
            self.counts.stats.add(trace)
        self.counts.num_new += len(changed)

    def _write_late(self, late: Sequence[FoundFeedback]) -> None:
        if not late:
            return
        lines = [feedback_line(_changed(found, self._change)) for found in late]
        with naming_the_file(self._folder):
            self._late_files.append(lines)
        self.counts.num_late += len(lines)

    def _save(self) -> None:
        with naming_the_file(self._folder / CURSORS_FILE):
            self._cursors.save()


def _changed(found: FoundFeedback, change: TraceChange) -> FoundFeedback:
    """As a trace of that id would have it."""
    origin = Origin(source="", address="", ids=(found.trace_id,))
    trace = change(Trace(trace_id="", steps=(), feedback=(found.feedback,), origin=origin))
    return FoundFeedback(trace_id=trace.origin.ids[0], feedback=trace.feedback[0])


def _files(folder: Path, kind: TraceKind) -> TraceFiles:
    return TraceFiles(folder, kind, max_bytes=None, today=lambda: str(date.today()))


def as_it_is(trace: Trace) -> Trace:
    """A change that is none."""
    return trace


def masking(mask: TraceChange) -> TraceChange:
    """Of a mask that leaves out all token ids: with them where nothing else was taken out."""

    def masked(trace: Trace) -> Trace:
        found = mask(trace)
        pairs = zip(trace.steps, found.steps, strict=True)
        is_same = all(
            replace(
                before, tools=tuple(before.tools), tool_calls=tuple(before.tool_calls), tokens=None
            )
            == replace(after, tokens=None)
            for before, after in pairs
        )
        return replace(found, steps=tuple(trace.steps)) if is_same else found

    return masked


def read_all(
    sources: Sequence[TraceSource], unread: Unread, *, since: float | None = None
) -> Iterator[Trace]:
    """All traces of sources, those that began before `since` left out."""
    for source in sources:
        for trace in read_traces(source, unread):
            if not is_before(trace, since):
                yield trace


def is_before(trace: Trace, since: float | None) -> bool:
    """Whether it is known to have begun before."""
    return since is not None and trace.started is not None and trace.started < since


def _check_folder(folder: Path) -> None:
    """That nothing else lies there, which a reader would take for traces, or the other way."""
    if (folder / CURSORS_FILE).exists() or not folder.exists():
        return
    if not folder.is_dir() or any(folder.glob("*.jsonl")):
        raise ConfigError(
            f"traces import: --out {folder} holds something else than imported traces; name "
            "a folder that is new, empty, or of an earlier import"
        )
