"""What is in a lot of traces, counted in one pass, in memory that does not grow with them."""

import heapq
import statistics
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from astuner.traces.reading import Unread
from astuner.traces.trace import Step, Trace

_MAX_NAMES = 1_000
"""Of one kind; all further ones are counted together."""
_MAX_DIGESTS = 20_000
_MAX_MESSAGE_CHARACTERS = 100
_DIGEST_RANGE = 2**64
OTHERS = "others"


@dataclass(slots=True)
class DistinctCount:
    """How many different texts there were: exact up to a bound, estimated within 1 % beyond.

    Source: Bar-Yossef et al. 2002, "Counting distinct elements in a data stream", by the smallest
    digests.
    """

    _smallest: list[int] = field(default_factory=list)
    """Negative, the largest digest first: a heap."""
    _known: set[int] = field(default_factory=set)

    def add(self, text: str) -> None:
        data = text.encode(errors="replace")
        digest = int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
        if digest in self._known or (self.is_estimate and digest > -self._smallest[0]):
            return
        self._known.add(digest)
        heapq.heappush(self._smallest, -digest)
        if len(self._smallest) > _MAX_DIGESTS:
            self._known.remove(-heapq.heappop(self._smallest))

    @property
    def is_estimate(self) -> bool:
        return len(self._smallest) == _MAX_DIGESTS

    @property
    def number(self) -> int:
        if not self.is_estimate:
            return len(self._smallest)
        return round((_MAX_DIGESTS - 1) * _DIGEST_RANGE / -self._smallest[0])


@dataclass(slots=True)
class NameCounts:
    """How often each of some names came; those beyond a bound stand under OTHERS."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, name: str | None, number: int = 1) -> None:
        if not name:
            return
        is_kept = name in self.counts or len(self.counts) < _MAX_NAMES
        self.counts[name if is_kept else OTHERS] += number


@dataclass(slots=True)
class FeedbackCount:
    """What was said under one name."""

    number: int = 0
    num_scores: int = 0
    sum_of_scores: float = 0.0
    labels: NameCounts = field(default_factory=NameCounts)

    @property
    def mean(self) -> float | None:
        return self.sum_of_scores / self.num_scores if self.num_scores else None


@dataclass(slots=True)
class TraceStats:
    """Grows by `add`; to be shown when all is in."""

    num_traces: int = 0
    num_failed: int = 0
    num_steps: int = 0
    num_left_out: int = 0
    """Pictures, sounds and files."""
    sources: NameCounts = field(default_factory=NameCounts)
    sessions: DistinctCount = field(default_factory=DistinctCount)
    users: DistinctCount = field(default_factory=DistinctCount)
    agents: NameCounts = field(default_factory=NameCounts)
    models: NameCounts = field(default_factory=NameCounts)
    """By replies."""
    tools_offered: NameCounts = field(default_factory=NameCounts)
    """By traces."""
    tools_used: NameCounts = field(default_factory=NameCounts)
    """By calls."""
    errors: NameCounts = field(default_factory=NameCounts)
    """By the first line of the message."""
    feedback: dict[str, FeedbackCount] = field(default_factory=dict)
    turns: Counter[int] = field(default_factory=Counter)
    """Messages of users in a trace -> traces."""
    num_replies: int = 0
    num_replies_with_ids: int = 0
    """Whose token ids are known."""
    input_tokens: int = 0
    output_tokens: int = 0
    first: float | None = None
    """Seconds since 1970; the next one too."""
    last: float | None = None

    def add(self, trace: Trace) -> None:
        self.num_traces += 1
        self.num_failed += trace.is_failed
        self.num_steps += len(trace.steps)
        self.sources.add(trace.origin.source)
        self.sessions.add(trace.session or trace.trace_id)
        if trace.user:
            self.users.add(trace.user)
        self.agents.add(trace.agent)
        self.turns[sum(step.role == "user" for step in trace.steps)] += 1
        self.errors.add(_first_line(trace.error))
        for name in {_tool_name(tool) for step in trace.steps for tool in step.tools}:
            self.tools_offered.add(name)
        for step in trace.steps:
            self._add_step(step)
        for one in trace.feedback:
            self._add_feedback(one.name, one.score, one.label)

    @property
    def median_turns(self) -> float | None:
        """None where there are no traces."""
        if not self.turns:
            return None
        low, high = (self._turns_at((self.num_traces - odd) // 2) for odd in (1, 0))
        return statistics.mean((low, high))

    def _turns_at(self, rank: int) -> int:
        """Of the trace of this rank, the one with the fewest turns being the 0th."""
        for number in sorted(self.turns):
            rank -= self.turns[number]
            if rank < 0:
                return number
        raise AssertionError("a rank beyond all traces")

    def _add_step(self, step: Step) -> None:
        self.num_left_out += step.num_left_out
        self.errors.add(_first_line(step.error))
        self.input_tokens += step.input_tokens or 0
        self.output_tokens += step.output_tokens or 0
        for call in step.tool_calls:
            self.tools_used.add(call.name)
        if step.role == "assistant":
            self.num_replies += 1
            self.num_replies_with_ids += bool(step.tokens and step.tokens.reply_ids)
            self.models.add(step.model)
        if step.started is not None:
            self.first = step.started if self.first is None else min(self.first, step.started)
            self.last = step.started if self.last is None else max(self.last, step.started)

    def _add_feedback(self, name: str, score: float | None, label: str | None) -> None:
        is_kept = name in self.feedback or len(self.feedback) < _MAX_NAMES
        count = self.feedback.setdefault(name if is_kept else OTHERS, FeedbackCount())
        count.number += 1
        count.labels.add(label)
        if score is not None:
            count.num_scores += 1
            count.sum_of_scores += score


def stats_as_json(stats: TraceStats, unread: Unread) -> dict[str, Any]:
    """All counts as JSON values."""
    return {
        "traces": stats.num_traces,
        "failed": stats.num_failed,
        "sessions": stats.sessions.number,
        "users": stats.users.number,
        "is_estimate": stats.sessions.is_estimate or stats.users.is_estimate,
        "steps": stats.num_steps,
        "turns": {"median": stats.median_turns, "most": max(stats.turns, default=None)},
        "replies": stats.num_replies,
        "replies_with_ids": stats.num_replies_with_ids,
        "tokens": {"input": stats.input_tokens, "output": stats.output_tokens},
        "first": stats.first,
        "last": stats.last,
        "sources": dict(stats.sources.counts),
        "agents": dict(stats.agents.counts),
        "models": dict(stats.models.counts),
        "tools_offered": dict(stats.tools_offered.counts),
        "tools_used": dict(stats.tools_used.counts),
        "errors": dict(stats.errors.counts),
        "feedback": {
            name: {"number": one.number, "mean": one.mean, "labels": dict(one.labels.counts)}
            for name, one in stats.feedback.items()
        },
        "left_out": stats.num_left_out,
        "unread": {
            reason: {"number": number, "first": unread.places[reason]}
            for reason, number in unread.counts.items()
        },
    }


def _tool_name(tool: Any) -> str:
    function = tool.get("function") or {}
    return str(function.get("name") or "")


def _first_line(message: str | None) -> str | None:
    """Empty messages of errors have a word too."""
    if message is None:
        return None
    line = message.strip().partition("\n")[0][:_MAX_MESSAGE_CHARACTERS]
    return line or "without a message"
