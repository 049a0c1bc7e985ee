"""What every source of traces does, and how what it cannot read is told."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.trace import Trace, TraceFeedback

Cursor = Mapping[str, Any]
"""How far a source has been read, in its own terms, as a JSON object; empty: nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFeedback:
    """Feedback that a source keeps apart from what it is about."""

    trace_id: str
    """Of the source, as in `TracedSpan.trace_id`; empty where it names the span only."""
    feedback: TraceFeedback


LateSink = Callable[[FoundFeedback], None]
"""Takes feedback on what was read another time."""
Found = TracedSpan | TracedEvent | FoundFeedback | Trace
"""What sources yield: spans and what belongs to them, or whole traces."""


@dataclass(slots=True, kw_only=True)
class Unread:
    """What a source could not read: how many, by reason, with the first place of each."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, str] = field(default_factory=dict)
    """By reason, such as `traces.jsonl, line 12`."""

    def add(self, reason: str, place: str) -> None:
        self.counts[reason] += 1
        self.places.setdefault(reason, place)


class TraceSource(Protocol):
    """One place with traces. Memory does not grow with what it holds."""

    @property
    def name(self) -> str:
        """Of its format, a key of `sources.known.SOURCES`."""
        ...

    @property
    def address(self) -> str:
        """File, folder or URL, without what it is opened with, such as a password."""
        ...

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        """All that is new since the cursor. Rows that do not parse go to `unread`.

        Raises TraceSourceError where the whole cannot be read: no such file, an unknown version of
        a database, an address that wants a login.
        """
        ...

    def cursor(self) -> Cursor:
        """Behind what `read` has yielded; asked for once that has ended."""
        ...
