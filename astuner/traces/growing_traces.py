"""Conversations as they grow, call by call, and which of them a call goes on with."""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from astuner.traces.last_histories import LastHistories, is_long
from astuner.traces.messages import leading_system
from astuner.traces.span import TracedSpan
from astuner.traces.trace import Origin, Step, Trace, TraceFeedback

_MAX_OPEN = 5_000
_MAX_CHARACTERS = 32_000_000
"""Of all steps of conversations that wait for a next call; those that waited longest are ended."""
_MAX_PROMPT_IDS = 2_000_000
"""Of one conversation: each call tells all of the prompt again."""
_CHARACTERS_OF_STEP, _CHARACTERS_OF_ID = 500, 30
"""What they take in memory beside texts."""
_EMPTY = b""


@dataclass(slots=True, kw_only=True)
class GrowingTrace:
    """One trace on its way."""

    trace_id: str
    steps: list[Step]
    mark: bytes = _EMPTY
    """Of all that was said but for the system's words at the beginning; see `_mark`."""
    is_unanswered: bool = False
    """Whether the last step is a call that failed without a word; the next try replaces it."""
    num_characters: int = 0
    num_prompt_ids: int = 0
    trace_ids: dict[str, str]
    """Of the source's traces, the span of the last reply from each."""
    span_ids: set[str]
    """Of replies and results of tools."""
    above: dict[str, None] = field(default_factory=dict)
    """Spans that the calls stand in."""
    session: str | None = None
    user: str | None = None
    agent: str | None = None
    tags: dict[str, None] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    feedback: list[TraceFeedback] = field(default_factory=list)
    error: str | None = None

    num_without_ids: int = 0
    """Replies whose prompt's ids are left out since they are too many."""

    @property
    def system(self) -> str:
        return _system(self.steps)

    def is_meant(self, span_id: str | None, kind: str | None) -> bool:
        """Whether feedback on a span of one of its traces is for it, and not for another."""
        return span_id in self.span_ids or span_id in self.above or kind not in ("chat", "agent")

    def place_of(self, span_id: str | None, trace_id: str) -> str | None:
        """The step that feedback is about: its own; where it is about one of several requests, the
        last reply to that; None for the whole."""
        if span_id in self.span_ids:
            return span_id
        return self.trace_ids[trace_id] if len(self.trace_ids) > 1 else None

    def trace(self, origin: Origin, feedback: Sequence[TraceFeedback]) -> Trace:
        """`origin` is of the source."""
        return Trace(
            trace_id=self.trace_id,
            steps=tuple(self.steps),
            session=self.session,
            user=self.user,
            agent=self.agent,
            tags=tuple(self.tags),
            metadata=self.metadata,
            feedback=tuple(feedback),
            error=self.error,
            origin=replace(
                origin,
                ids=tuple(self.trace_ids),
                replies=tuple(self.trace_ids.values()),
                above=tuple(self.above),
            ),
        )


class GrowingTraces:
    """Those of one session that a next call may go on with."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, GrowingTrace] = OrderedDict()
        """By their id, the one that waited longest first."""
        self._by_mark: dict[bytes, list[GrowingTrace]] = {}
        self._num_characters = 0
        self._last_marks: LastHistories[list[bytes]] = LastHistories()

    def extend(
        self,
        asked: Sequence[Step],
        reply: Step,
        span: TracedSpan,
        *,
        choice: int,
        user: str | None,
        completed: Callable[[Step], Step],
    ) -> GrowingTrace:
        """The conversation that the reply to these messages belongs to, which may be a new one.

        `choice` numbers the replies of one call from 0 on; `user` asked, where that is known.
        `completed` adds to a message that is new what is known of it beside who said what.
        """
        system = list(leading_system(asked))
        said = list(asked[len(system) :])
        marks = self._marks(said)
        conversation, num_known = self._earlier(_system(system), marks, user)
        if conversation is None:
            suffix = f"-{choice}" if choice else ""
            conversation = GrowingTrace(
                trace_id=f"{span.trace_id}-{span.span_id}{suffix}",
                steps=[],
                trace_ids={},
                span_ids=set(),
            )
        else:
            self._drop(conversation)
        if system and not conversation.system:
            conversation.steps[:0] = system
            conversation.num_characters += sum(map(_size, system))
        _grow(conversation, list(map(completed, said[num_known:])), reply, marks[-1])
        conversation.trace_ids[span.trace_id] = span.span_id
        conversation.user = conversation.user or user
        self._keep(conversation)
        return conversation

    def holds(self, trace_id: str, steps: Sequence[Step]) -> bool:
        """Whether one is exactly this, out of a trace of the source."""
        mark = self._marks(list(steps[len(list(leading_system(steps))) :]))[-1]
        return any(trace_id in one.trace_ids for one in self._by_mark.get(mark, ()))

    def close_excess(self) -> Iterator[GrowingTrace]:
        """Ends those that waited longest where memory would grow."""
        while len(self._open) > _MAX_OPEN or (
            self._num_characters > _MAX_CHARACTERS and len(self._open) > 1
        ):
            oldest = next(iter(self._open.values()))
            self._drop(oldest)
            yield oldest

    def close_all(self) -> Iterator[GrowingTrace]:
        """In the order in which the last call of each came."""
        while self._open:
            oldest = next(iter(self._open.values()))
            self._drop(oldest)
            yield oldest

    def _marks(self, said: list[Step]) -> list[bytes]:
        """Of the first 0, 1, 2 … steps: equal for equal beginnings."""
        known, num_known = self._last_marks.nearest(said)
        marks = known[: num_known + 1] if known else [_EMPTY]
        for step in said[num_known:]:
            marks.append(_mark(marks[-1], step))
        if is_long(said):
            self._last_marks.keep(said, marks, instead_of=known)
        return marks

    def _earlier(
        self, system: str, marks: Sequence[bytes], user: str | None
    ) -> tuple[GrowingTrace | None, int]:
        """The one that holds the longest beginning of a call, and how many messages that is."""
        for num_known in range(len(marks) - 1, 0, -1):
            for conversation in self._by_mark.get(marks[num_known], ()):
                is_same_user = None in (user, conversation.user) or user == conversation.user
                if is_same_user and (not system or conversation.system in ("", system)):
                    return conversation, num_known
        return None, 0

    def _keep(self, conversation: GrowingTrace) -> None:
        name = conversation.trace_id
        while name in self._open:  # spans without ids
            name += "+"
        conversation.trace_id = name
        self._open[name] = conversation
        self._by_mark.setdefault(conversation.mark, []).append(conversation)
        self._num_characters += conversation.num_characters

    def _drop(self, conversation: GrowingTrace) -> None:
        del self._open[conversation.trace_id]
        alike = self._by_mark[conversation.mark]
        alike[:] = [one for one in alike if one is not conversation]
        if not alike:
            del self._by_mark[conversation.mark]
        self._num_characters -= conversation.num_characters


def _grow(conversation: GrowingTrace, new: Sequence[Step], reply: Step, asked: bytes) -> None:
    if conversation.is_unanswered:
        conversation.steps.pop()
    if conversation.steps and conversation.steps[-1].tools == reply.tools:
        reply = replace(reply, tools=conversation.steps[-1].tools)  # one copy in memory
    reply = _bounded(conversation, reply)
    steps = [*_named(conversation.steps[-1:], new), reply]
    conversation.steps += steps
    conversation.num_characters += sum(map(_size, steps))
    conversation.span_ids |= {step.span_id for step in steps if step.span_id}
    conversation.is_unanswered = reply.error is not None and not (reply.text or reply.tool_calls)
    conversation.mark = asked if conversation.is_unanswered else _mark(asked, reply)


def _bounded(conversation: GrowingTrace, reply: Step) -> Step:
    """Without the ids of its prompt where the conversation has too many of those."""
    if reply.tokens is None or reply.tokens.prompt_ids is None:
        return reply
    if conversation.num_prompt_ids + len(reply.tokens.prompt_ids) > _MAX_PROMPT_IDS:
        conversation.num_without_ids += 1
        return replace(reply, tokens=replace(reply.tokens, prompt_ids=None))
    conversation.num_prompt_ids += len(reply.tokens.prompt_ids)
    return reply


def _named(before: Sequence[Step], new: Sequence[Step]) -> Iterator[Step]:
    """Results with the name of the tool, which most recorders leave to the call."""
    names: dict[str | None, str] = {}
    for step in [*before, *new]:
        names |= {call.call_id: call.name for call in step.tool_calls}
    for step in new:
        is_nameless = step.role == "tool" and not step.name
        yield replace(step, name=names.get(step.tool_call_id)) if is_nameless else step


def _system(steps: Sequence[Step]) -> str:
    return "\n".join(step.text.strip() for step in leading_system(steps))


def _mark(before: bytes, step: Step) -> bytes:
    """Who said what: neither white space at the ends nor ids nor thoughts count, which some
    recorders drop from histories."""
    calls = [(call.name, _plain_arguments(call.arguments)) for call in step.tool_calls]
    told = f"{step.role}\n{json.dumps(calls) if calls else ''}\n{step.text.strip()}"
    return blake2b(before + told.encode(errors="surrogatepass"), digest_size=16).digest()


def _plain_arguments(arguments: str) -> Any:
    """Whatever the order and the space between them."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments.strip()


def _size(step: Step) -> int:
    tokens = step.tokens
    ids = [tokens.prompt_ids, tokens.reply_ids, tokens.logprobs] if tokens else []
    num_ids = sum(len(one) for one in ids if one is not None)
    calls = sum(len(call.arguments) for call in step.tool_calls)
    texts = len(step.text) + len(step.reasoning) + calls
    return texts + _CHARACTERS_OF_STEP + num_ids * _CHARACTERS_OF_ID
