"""Traces, and counts of them, as text for a terminal: what others wrote cannot move its cursor."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from astuner.machine.visible import visible
from astuner.traces.importing import ImportCounts
from astuner.traces.reading import Unread
from astuner.traces.stats import TraceStats
from astuner.traces.trace import Step, Trace, TraceFeedback

_WIDTH = 16
"""Of the words in front."""
_MOST_SHOWN = 8
"""Names of one kind."""


def import_sheet(counts: ImportCounts, masked: Mapping[str, int] | None) -> str:
    """What an import brought; `masked` is in how many traces what was masked, None: nothing."""
    known = f"{counts.num_known:,} known already" if counts.num_known else ""
    old = f"{counts.num_too_old:,} too old" if counts.num_too_old else ""
    rows = [("new", ", ".join(filter(None, (f"{counts.num_new:,} traces", known, old))))]
    if counts.num_late:
        rows.append(("feedback", f"{counts.num_late:,} on traces of earlier imports"))
    if masked is None:
        rows.append(("masked", "nothing (--unmasked)"))
    else:
        rows.append(("masked", _some(masked) or "nothing was found"))
    rows += [*_stats_rows(counts.stats)] if counts.num_new else []
    return _sheet([*rows, *_unread_rows(counts.unread)])


def stats_sheet(stats: TraceStats, unread: Unread) -> str:
    return _sheet([*_stats_rows(stats), *_unread_rows(unread)])


def trace_sheet(trace: Trace) -> str:
    """One conversation, all that was said in it."""
    about = [
        ("session", trace.session),
        ("user", trace.user),
        ("agent", trace.agent),
        ("tags", ", ".join(trace.tags)),
        ("from", f"{trace.origin.source} {trace.origin.address}"),
        ("began", None if trace.started is None else _time(trace.started)),
        ("failed", trace.error),
    ]
    lines = [f"--- trace {trace.trace_id}"]
    lines += [f"{name:9}{value}" for name, value in about if value]
    for step in trace.steps:
        lines += ["", *_step_lines(step)]
    lines += [""] if trace.feedback else []
    lines += [f"feedback {_feedback(one)}" for one in trace.feedback]
    return visible("\n".join(lines)) + "\n"


def _step_lines(step: Step) -> Iterator[str]:
    name = f" {step.name}" if step.name else ""
    model = f" ({step.model})" if step.model else ""
    yield f"[{step.role}{name}{model}]"
    if step.reasoning:
        yield f"(thinks) {step.reasoning}"
    if step.text:
        yield step.text
    for call in step.tool_calls:
        yield f"-> {call.name} {call.arguments}"
    if step.error is not None:
        yield f"failed: {step.error or 'without a message'}"


def _feedback(one: TraceFeedback) -> str:
    by = f"by {one.by}" if one.by else None
    score = None if one.score is None else f"{one.score:g}"
    right = f"right would be: {one.correction}" if one.correction else None
    told = [one.name, score, one.label, by, one.comment, right]
    return ", ".join(part for part in told if part)


def _stats_rows(stats: TraceStats) -> Iterator[tuple[str, str]]:
    about = "about " if stats.sessions.is_estimate or stats.users.is_estimate else ""
    yield (
        "traces",
        f"{stats.num_traces:,}, {stats.num_failed:,} failed, in {about}"
        f"{stats.sessions.number:,} sessions of {about}{stats.users.number:,} known users",
    )
    if stats.median_turns is not None:
        yield "turns", f"{stats.median_turns:g} in the middle, {max(stats.turns):,} at most"
    ids = f", {stats.num_replies_with_ids:,} with token ids" if stats.num_replies_with_ids else ""
    yield "replies", f"{stats.num_replies:,} of {stats.num_steps:,} messages{ids}"
    yield "tokens", f"{stats.input_tokens:,} in, {stats.output_tokens:,} out, as far as told"
    if stats.first is not None and stats.last is not None:
        yield "time", f"{_time(stats.first)} to {_time(stats.last)}"
    for name, counts in (
        ("sources", stats.sources),
        ("agents", stats.agents),
        ("models", stats.models),
        ("tools offered", stats.tools_offered),
        ("tools used", stats.tools_used),
    ):
        if counts.counts:
            yield name, _some(counts.counts)
    for name, one in stats.feedback.items():
        mean = "" if one.mean is None else f", mean score {one.mean:.3g}"
        labels = f", {_some(one.labels.counts)}" if one.labels.counts else ""
        yield "feedback", f"{name}: {one.number:,}{mean}{labels}"
    for message, number in stats.errors.counts.most_common(_MOST_SHOWN):
        yield "error", f"{number:,} times: {message}"
    if stats.num_left_out:
        yield "left out", f"{stats.num_left_out:,} pictures, sounds and files"


def _unread_rows(unread: Unread) -> Iterator[tuple[str, str]]:
    for reason, number in unread.counts.most_common():
        yield "not read", f"{number:,} times: {reason}; first {unread.places[reason]}"


def _some(counts: Mapping[str, int]) -> str:
    """The most frequent, with how often."""
    shown = [f"{name} {number:,}" for name, number in Counter(counts).most_common(_MOST_SHOWN)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s since 1970"


def _sheet(rows: Sequence[tuple[str, str]]) -> str:
    return visible("\n".join(f"{name:{_WIDTH}}{value}" for name, value in rows)) + "\n"
