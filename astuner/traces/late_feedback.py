"""Feedback that came when its trace was imported already: lines beside it, joined in reading."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from astuner.errors import UnreadableError
from astuner.run_dir import json_line
from astuner.traces.reading import FoundFeedback
from astuner.traces.trace import Trace, TraceFeedback
from astuner.traces.trace_json import feedback_from_json, feedback_to_json

FORMAT = "astuner_feedback"
"""As that of traces; its value is the version."""
FORMAT_VERSION = 1


def feedback_line(found: FoundFeedback) -> bytes:
    """One line, its end included."""
    told = {
        FORMAT: FORMAT_VERSION,
        "trace_id": found.trace_id,
        "feedback": feedback_to_json(found.feedback),
    }
    return json_line(told, where=f"feedback on trace {found.trace_id}")


def from_feedback_line(record: Mapping[str, Any]) -> FoundFeedback:
    """Raises UnreadableError for another version, or what is no such object."""
    version = record.get(FORMAT)
    if version != FORMAT_VERSION:
        raise UnreadableError(
            f"feedback of {FORMAT} {version!r}; this release of astuner reads {FORMAT_VERSION}"
        )
    feedback = feedback_from_json(record.get("feedback"))
    return FoundFeedback(trace_id=str(record.get("trace_id") or ""), feedback=feedback)


class LateFeedback:
    """Waits for the traces that it is about."""

    def __init__(self) -> None:
        self._by_trace: defaultdict[str, list[TraceFeedback]] = defaultdict(list)
        """By the id of the source's trace; empty: of what names a span only."""

    def add(self, found: FoundFeedback) -> None:
        self._by_trace[found.trace_id].append(found.feedback)

    def given_to(self, trace: Trace) -> Trace:
        """The trace with what is about it, which waits no more.

        What names a span that is none of its own may be about another trace of the same request.
        """
        if not self._by_trace:
            return trace
        spans = {step.span_id for step in trace.steps if step.span_id is not None}
        found: list[TraceFeedback] = []
        for trace_id, reply in zip_longest((*trace.origin.ids, ""), trace.origin.replies):
            if waiting := self._by_trace.pop(trace_id, None):
                own = [one for one in waiting if _is_meant(one, trace, spans, trace_id)]
                found += [replace(one, span_id=_place(one, trace, spans, reply)) for one in own]
                if others := [one for one in waiting if one not in own]:
                    self._by_trace[trace_id] = others
        new = [one for one in dict.fromkeys(found) if one not in trace.feedback]
        return replace(trace, feedback=(*trace.feedback, *new)) if new else trace

    def left(self) -> Iterator[FoundFeedback]:
        for trace_id, waiting in self._by_trace.items():
            for feedback in waiting:
                yield FoundFeedback(trace_id=trace_id, feedback=feedback)


def _is_meant(one: TraceFeedback, trace: Trace, spans: set[str], trace_id: str) -> bool:
    if one.span_id is None:
        return trace_id != ""
    return one.span_id in spans or one.span_id in trace.origin.above


def _place(one: TraceFeedback, trace: Trace, spans: set[str], reply: str | None) -> str | None:
    """As where both were read at once: its own step; of several requests, the reply to its own."""
    if one.span_id in spans:
        return one.span_id
    return reply or None if len(trace.origin.ids) > 1 else None
