"""Where spans wait until all of a source is read, since those of one conversation come anywhere.

A private database of SQLite that has no name in any folder: what does not fit its cache lies in a
file that is gone with the process, even where that is killed. Memory does not grow with it.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from types import TracebackType
from typing import Any, Self

from astuner.errors import TraceSourceError
from astuner.traces.reading import FoundFeedback
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.spooled_histories import (
    HISTORIES_TABLE,
    SpooledHistories,
    packed,
    unpacked,
)
from astuner.traces.trace import TraceFeedback
from astuner.traces.vocabularies.evaluations import EVALUATION, RESPONSE_ID, read_evaluation
from astuner.traces.vocabularies.signs import first_text, signs_of
from astuner.traces.vocabulary import SpanKind

_CACHE_KIB = 32_000
_BATCH = 500
"""Rows that are put at once."""
_BATCH_BYTES = 8_000_000
_MAX_DEPTH = 200
"""Of spans in each other; more is a circle, or nothing that tells who called."""
_KEPT_EVENTS = "gen_ai."
"""What the names of log records begin with that tell of a model call; of others there are many."""
_OTHERS = tuple(one.name for one in fields(TracedSpan) if one.name not in ("attributes", "events"))
_OTHER_FIELDS = attrgetter(*_OTHERS)
Contents = Callable[[Mapping[str, Any]], Mapping[str, Any]]
_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -{cache};
CREATE TABLE spans(
    id INTEGER PRIMARY KEY, trace TEXT, span TEXT, parent TEXT, session TEXT, kind TEXT, agent TEXT,
    user TEXT, error TEXT, answer TEXT, started REAL, is_open INTEGER, data BLOB
);
CREATE TABLE events(id INTEGER PRIMARY KEY, trace TEXT, span TEXT, time REAL, data BLOB);
CREATE TABLE feedback(
    id INTEGER PRIMARY KEY, trace TEXT, span TEXT, answer TEXT, is_taken INTEGER, data BLOB
);
CREATE TABLE told(trace TEXT, span TEXT, PRIMARY KEY (trace, span)) WITHOUT ROWID;
"""
_SETTLED = """
CREATE INDEX span_ids ON spans(trace, span);
DELETE FROM spans WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY trace, span ORDER BY is_open, id) AS place
        FROM spans WHERE span <> ''
    ) WHERE place > 1
);
CREATE INDEX event_spans ON events(trace, span);
CREATE TABLE traces(trace TEXT PRIMARY KEY, session TEXT, shared TEXT) WITHOUT ROWID;
INSERT INTO traces SELECT trace, min(session), coalesce(min(session), trace) FROM spans
    GROUP BY trace;
CREATE TABLE sessions(shared TEXT PRIMARY KEY, started REAL) WITHOUT ROWID;
INSERT INTO sessions SELECT shared, min(started) FROM spans JOIN traces USING (trace)
    GROUP BY shared;
CREATE TABLE ordered(place INTEGER PRIMARY KEY, id INTEGER);
INSERT INTO ordered(id) SELECT spans.id FROM spans JOIN traces USING (trace)
    JOIN sessions USING (shared)
    ORDER BY sessions.started, shared, kind = 'agent', spans.started, spans.id;
"""
"""Of spans twice, the one that has an end, else the first. Agents come last in their session, when
it is known what model calls below them told."""
_FEEDBACK_SETTLED = """
CREATE INDEX span_names ON spans(span);
CREATE INDEX span_answers ON spans(answer) WHERE answer IS NOT NULL;
UPDATE feedback SET
    trace = coalesce((SELECT trace FROM spans WHERE spans.span = feedback.span), '')
    WHERE trace = '' AND span <> '';
UPDATE feedback SET (trace, span) = (
    SELECT trace, span FROM spans WHERE spans.answer = feedback.answer
) WHERE trace = '' AND answer IN (SELECT answer FROM spans WHERE answer IS NOT NULL);
CREATE INDEX feedback_traces ON feedback(trace);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitedSpan:
    """A span in its turn."""

    span: TracedSpan
    session: str | None
    """That spans of its trace name; None: none does."""
    shared: str
    """The same for all spans of one session, or of one trace without any."""
    kind: SpanKind
    """As far as its attributes say without their meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanAbove:
    """A span that another one stands in, with what may hold for that one too."""

    span_id: str
    kind: SpanKind
    agent: str | None
    user: str | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingFeedback:
    """Of one trace, not yet taken."""

    number: int
    feedback: TraceFeedback
    kind: SpanKind | None
    """Of the span that it names; None: it names none that is there."""


class SpanSpool:
    """Filled first, then settled, then read; closed by `with`. Used by one thread.

    Any method raises TraceSourceError where the disk is full.
    """

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.executescript(_TABLES.format(cache=_CACHE_KIB) + HISTORIES_TABLE)
        self._histories = SpooledHistories(self._connection)
        self._connection.execute("BEGIN")
        self._rows: list[tuple[Any, ...]] = []
        self._num_waiting_bytes = 0
        self._has_feedback = False
        self._has_events = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        if isinstance(error, sqlite3.Error):
            raise TraceSourceError(
                f"traces that wait to be put together: {error}; they need about the room of the "
                "source on the disk of temporary files; name a larger one in SQLITE_TMPDIR"
            ) from error

    @property
    def num_bytes(self) -> int:
        """Of the database."""
        pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
        return pages * self._connection.execute("PRAGMA page_size").fetchone()[0]

    def add(self, found: TracedSpan | TracedEvent | FoundFeedback) -> None:
        if isinstance(found, TracedSpan):
            self._add_span(found)
        elif isinstance(found, FoundFeedback):
            self._add_feedback(found.trace_id, found.feedback, None)
        elif found.name == EVALUATION:
            self._add_evaluation(found, found.trace_id, found.span_id)
        elif found.name.startswith(_KEPT_EVENTS):
            self._add_event(found)

    def settle(self) -> None:
        """All is there now; puts it in order."""
        self._put()
        self._connection.execute("COMMIT")
        self._connection.executescript(_SETTLED)
        if self._has_feedback:
            self._connection.executescript(_FEEDBACK_SETTLED)
        self._connection.execute("BEGIN")

    def spans(self) -> Iterator[WaitedSpan]:
        """Session by session in the order of their first time; in one, in order of time, agents
        last."""
        rows = self._connection.execute(
            "SELECT data, named, shared, kind FROM ordered JOIN spans USING (id) JOIN "
            "(SELECT trace, session AS named, shared FROM traces) USING (trace) ORDER BY place"
        )
        for data, session, shared, kind in rows:
            yield WaitedSpan(span=self._span(data), session=session, shared=shared, kind=kind)

    def events(self, span: TracedSpan) -> Sequence[TracedEvent]:
        """The log records that name it, in order of time."""
        if not self._has_events:
            return ()
        rows = self._connection.execute(
            "SELECT data FROM events WHERE trace = ? AND span = ? ORDER BY time, id",
            (span.trace_id, span.span_id),
        )
        return [self._whole(unpacked(data)) for (data,) in rows]

    def above(self, span: TracedSpan) -> Sequence[SpanAbove]:
        """What it stands in, the nearest first, as far as that arrived."""
        found: dict[str, SpanAbove] = {}
        parent = span.parent_id
        while parent and parent not in found and len(found) < _MAX_DEPTH:
            row = self._connection.execute(
                "SELECT parent, kind, agent, user, error FROM spans WHERE trace = ? AND span = ?",
                (span.trace_id, parent),
            ).fetchone()
            if row is None:
                break
            found[parent] = SpanAbove(
                span_id=parent, kind=row[1], agent=row[2], user=row[3], error=row[4]
            )
            parent = row[0]
        return list(found.values())

    def mark_told(self, span: TracedSpan, above: Sequence[SpanAbove]) -> None:
        """That a model call told the conversation of the spans that it stands in."""
        rows = [(span.trace_id, one.span_id) for one in above]
        self._connection.executemany("INSERT OR IGNORE INTO told VALUES (?, ?)", rows)

    def is_told(self, span: TracedSpan) -> bool:
        """Whether a model call below it told its conversation."""
        row = self._connection.execute(
            "SELECT 1 FROM told WHERE trace = ? AND span = ?", (span.trace_id, span.span_id)
        )
        return row.fetchone() is not None

    def feedback(self, trace_id: str) -> Sequence[WaitingFeedback]:
        """Of a trace, what nobody took yet."""
        if not self._has_feedback:
            return ()
        rows = self._connection.execute(
            "SELECT feedback.id, feedback.span, data, (SELECT kind FROM spans "
            "WHERE spans.trace = feedback.trace AND spans.span = feedback.span LIMIT 1) "
            "FROM feedback WHERE trace = ? AND NOT is_taken ORDER BY feedback.id",
            (trace_id,),
        )
        return [
            WaitingFeedback(
                number=number, feedback=replace(unpacked(data), span_id=span or None), kind=kind
            )
            for number, span, data, kind in rows
        ]

    def take_feedback(self, number: int) -> None:
        self._connection.execute("UPDATE feedback SET is_taken = 1 WHERE id = ?", (number,))

    def feedback_left(self) -> Iterator[tuple[FoundFeedback, str | None]]:
        """What nobody took; with the answer, where that is all that it names."""
        rows = self._connection.execute(
            "SELECT trace, span, answer, data FROM feedback WHERE NOT is_taken ORDER BY id"
        )
        for trace, span, answer, data in rows:
            feedback = replace(unpacked(data), span_id=span or None)
            named = None if trace or span else str(answer)
            yield FoundFeedback(trace_id=trace, feedback=feedback), named

    def _add_span(self, span: TracedSpan) -> None:
        evaluations = [event for event in span.events if event.name == EVALUATION]
        for event in evaluations:
            self._add_evaluation(event, span.trace_id, span.span_id)
        signs = signs_of(span.attributes)
        data = self._span_data(span)
        self._rows.append(
            (
                *(span.trace_id, span.span_id, span.parent_id),
                *map(_storable, (signs.session, signs.kind, signs.agent, signs.user, span.error)),
                _storable(first_text(span.attributes, (RESPONSE_ID,))),
                *(span.started, span.ended is None, data),
            )
        )
        self._num_waiting_bytes += len(data)
        if len(self._rows) >= _BATCH or self._num_waiting_bytes > _BATCH_BYTES:
            self._put()

    def _span_data(self, span: TracedSpan) -> bytes:
        """A tuple of its fields: pickle asks a dataclass for each of them by name."""
        told = self._histories.put_all(span.attributes)
        events = [self._short(event) for event in span.events]
        return packed((told, events, *_OTHER_FIELDS(span)))

    def _span(self, data: bytes) -> TracedSpan:
        told, events, *others = unpacked(data)
        return TracedSpan(
            attributes=self._histories.all_read(told),
            events=[self._whole(event) for event in events],
            **dict(zip(_OTHERS, others, strict=True)),
        )

    def _short(self, event: TracedEvent) -> TracedEvent:
        return _with_contents(event, self._histories.put_all)

    def _whole(self, event: TracedEvent) -> TracedEvent:
        return _with_contents(event, self._histories.all_read)

    def _put(self) -> None:
        marks = ", ".join("?" * 12)
        self._connection.executemany(f"INSERT INTO spans VALUES (NULL, {marks})", self._rows)
        self._rows.clear()
        self._num_waiting_bytes = 0

    def _add_event(self, event: TracedEvent) -> None:
        self._has_events = True
        self._connection.execute(
            "INSERT INTO events VALUES (NULL, ?, ?, ?, ?)",
            (event.trace_id, event.span_id, event.time, packed(self._short(event))),
        )

    def _add_evaluation(self, event: TracedEvent, trace_id: str, span_id: str) -> None:
        answer = first_text(event.attributes, (RESPONSE_ID,))
        self._add_feedback(trace_id, read_evaluation(event, span_id), answer)

    def _add_feedback(self, trace_id: str, feedback: TraceFeedback, answer: str | None) -> None:
        self._has_feedback = True
        self._connection.execute(
            "INSERT INTO feedback VALUES (NULL, ?, ?, ?, 0, ?)",
            (trace_id, feedback.span_id or "", _storable(answer), packed(feedback)),
        )


def _with_contents(event: TracedEvent, change: Contents) -> TracedEvent:
    """Changed where long values stand: in attributes, and in the body of a log record."""
    body = change(event.body) if isinstance(event.body, dict) else event.body
    return replace(event, attributes=change(event.attributes), body=body)


def _storable(text: str | None) -> str | None:
    """Without halves of surrogate pairs, which JSON can hold and SQLite cannot."""
    return None if text is None else text.encode(errors="replace").decode()
