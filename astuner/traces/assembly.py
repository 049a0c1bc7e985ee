"""From the spans of one session to its conversations.

A model call whose messages go on from what an earlier call asked and answered is the next step of
that trace; any other begins one. What agents say of themselves is used where no model call below
them tells it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from astuner.traces.growing_traces import GrowingTrace, GrowingTraces
from astuner.traces.reading import FoundFeedback, LateSink, Unread
from astuner.traces.spool import SpanAbove, SpanSpool, WaitedSpan
from astuner.traces.trace import Origin, Step, Trace
from astuner.traces.vocabularies.known import read_span
from astuner.traces.vocabularies.replies import replies
from astuner.traces.vocabulary import SpanReading

_MAX_RESULTS = 20_000
"""Of tools that are remembered, of one session, until a model is told of them."""
_OF_RESOURCE = (
    "service.name",
    "service.version",
    "deployment.environment",
    "deployment.environment.name",
)


def assembled(
    spool: SpanSpool, unread: Unread, origin: Origin, late: LateSink | None = None
) -> Iterator[Trace]:
    """The traces of a spool that is settled; of `origin`, the ids are put in.

    Feedback that says of which trace or span it is, and that of none here, goes to `late`.
    """
    assembly = _Assembly(spool, unread, origin, late)
    for waited in spool.spans():
        yield from assembly.take(waited)
    yield from assembly.end()


class _Assembly:
    """Goes through the spans in the order of the spool."""

    def __init__(
        self, spool: SpanSpool, unread: Unread, origin: Origin, late: LateSink | None
    ) -> None:
        self._spool = spool
        self._unread = unread
        self._origin = origin
        self._late = late
        self._shared = ""
        self._open = self._without_session = GrowingTraces()
        """Of the session at hand. A client that names no session may open a trace for each call, so
        that all of these are looked through together."""
        self._results: OrderedDict[tuple[str, ...], Step] = OrderedDict()
        """Of tools, by the id of the call, or by name and text."""

    def take(self, waited: WaitedSpan) -> Iterator[Trace]:
        if waited.shared != self._shared:
            if self._open is not self._without_session:
                yield from map(self._trace, self._open.close_all())
            has_session = waited.session is not None
            self._open = GrowingTraces() if has_session else self._without_session
            self._shared = waited.shared
            self._results.clear()
        if waited.kind == "agent" and self._spool.is_told(waited.span):
            return
        reading = read_span(waited.span, self._spool.events(waited.span))
        place = f"span {waited.span.span_id} of trace {waited.span.trace_id}"
        for _ in range(reading.num_unreadable):
            self._unread.add("a message of a form that is not known", place)
        match reading.kind:
            case "tool":
                self._remember(reading)
            case "chat":
                self._take_call(waited, reading, place)
            case "agent":
                self._take_agent(waited, reading)
        yield from map(self._trace, self._open.close_excess())

    def end(self) -> Iterator[Trace]:
        for left in (self._open, self._without_session):
            yield from map(self._trace, left.close_all())
        for found, answer in self._spool.feedback_left():
            if self._late is not None and answer is None:
                self._late(found)
            else:
                self._unread.add("feedback for what is not there", _named(found, answer))

    def _remember(self, reading: SpanReading) -> None:
        for step in reading.output:
            for key in _keys(step):
                self._results[key] = step
        while len(self._results) > _MAX_RESULTS:
            self._results.popitem(last=False)

    def _take_call(self, waited: WaitedSpan, reading: SpanReading, place: str) -> None:
        if not _tells(reading.input):
            self._unread.add("a model call whose messages were not recorded", place)
            return
        if not reading.output:
            self._unread.add("a model call without a reply", place)
            return
        above = self._spool.above(waited.span)
        self._spool.mark_told(waited.span, above)
        self._add(waited, reading, reading.output, above)

    def _take_agent(self, waited: WaitedSpan, reading: SpanReading) -> None:
        """Agents inside of each other may tell the same; the outer one is first."""
        if not _tells(reading.input) or not _tells(reading.output):
            return
        output = [
            step if step.span_id else replies(waited.span, [step])[0]
            for step in reading.output[-1:]
        ]
        if not self._open.holds(waited.span.trace_id, [*reading.input, *output]):
            self._add(waited, reading, output, self._spool.above(waited.span))

    def _add(
        self,
        waited: WaitedSpan,
        reading: SpanReading,
        output: Sequence[Step],
        above: Sequence[SpanAbove],
    ) -> None:
        """One reply goes on with the conversation, any other one begins another."""
        agent = _first([reading.agent, *(one.agent for one in above)])
        user = _first([reading.user, *(one.user for one in above)])
        for choice, reply in enumerate(output):
            reply = replace(reply, agent=reply.agent or agent)
            conversation = self._open.extend(
                *(reading.input, reply, waited.span),
                choice=choice,
                user=user,
                completed=self._with_result,
            )
            conversation.agent = conversation.agent or agent
            _describe(conversation, waited, reading, above)

    def _with_result(self, step: Step) -> Step:
        """A tool's result with what the span of the tool tells of it."""
        if step.role != "tool":
            return step
        known = next((self._results[key] for key in _keys(step) if key in self._results), None)
        if known is None:
            return step
        return replace(
            step,
            name=step.name or known.name,
            span_id=known.span_id,
            started=known.started,
            seconds=known.seconds,
            error=step.error or known.error,
        )

    def _trace(self, conversation: GrowingTrace) -> Trace:
        feedback = [*conversation.feedback]
        for trace_id in conversation.trace_ids:
            for waiting in self._spool.feedback(trace_id):
                span_id = waiting.feedback.span_id
                if conversation.is_meant(span_id, waiting.kind):
                    self._spool.take_feedback(waiting.number)
                    place = conversation.place_of(span_id, trace_id)
                    feedback.append(replace(waiting.feedback, span_id=place))
        for _ in range(conversation.num_without_ids):
            self._unread.add(
                "ids of a prompt in a conversation that has too many",
                f"trace {conversation.trace_id}",
            )
        return conversation.trace(self._origin, feedback)


def _describe(
    conversation: GrowingTrace,
    waited: WaitedSpan,
    reading: SpanReading,
    above: Sequence[SpanAbove],
) -> None:
    resource = waited.span.resource
    told = {key: resource[key] for key in _OF_RESOURCE if key in resource}
    conversation.session = conversation.session or waited.session
    conversation.tags |= dict.fromkeys(reading.tags)
    conversation.metadata = {**told, **reading.metadata, **conversation.metadata}
    conversation.above |= dict.fromkeys(one.span_id for one in above)
    conversation.feedback += reading.feedback
    # a failure that the agent got over ended nothing; the last call knows
    conversation.error = next((one.error for one in above if one.error is not None), None)


def _named(found: FoundFeedback, answer: str | None) -> str:
    if answer is not None:
        return f"answer {answer}"
    return f"trace {found.trace_id}" if found.trace_id else f"span {found.feedback.span_id}"


def _first(values: Sequence[str | None]) -> str | None:
    return next((value for value in values if value), None)


def _tells(steps: Sequence[Step]) -> bool:
    """Whether somebody says something: some recorders write messages without contents."""
    return any(step.text or step.tool_calls or step.error is not None for step in steps)


def _keys(step: Step) -> list[tuple[str, ...]]:
    by_id = [(step.tool_call_id,)] if step.tool_call_id else []
    by_text = [(step.name, step.text.strip())] if step.name and step.text else []
    return [*by_id, *by_text]
