"""The calls of an episode as a conversation: what each one added, and what the model replied.

What an agent sent before is not shown again. Owns no files and no layout; texts are whole and as
recorded, so that they may hold anything, lone surrogates and control characters too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from astuner.logview.view.said import SaidMessage, SaidToolCall, as_json, read_message
from astuner.trajectory.episode import Episode
from astuner.trajectory.recorder import Agent, Call

_FINISHED: Mapping[str, str] = {
    "stop": "ended by itself",
    "length": "cut by the limit on new tokens",
    "context_overflow": "cut, since the context is full",
    "cut": "ended by its caller",
}
_CHECKED: Mapping[str, str] = {
    "validated": "has the format that was demanded",
    "repaired": "has the format that was demanded, after a second try",
    "invalid": "has not the format that was demanded",
}

_TEXT = "prompt"
"""The role of a plain text that stands for a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidCall:
    """One model request: what it added to what its agent had said before, and the reply."""

    index: int
    """Among the calls of the episode."""
    agent_name: str
    target_tag: str
    name: str | None
    """By which the workflow spoke of it; None where it has none."""
    earned: float | None
    """By a step reward; None where the workflow told of none."""
    num_repeated: int
    """Messages at its begin that are not shown again."""
    repeats: int | None
    """The earlier call, of the same agent, that these stand in; None where there are none."""
    added: tuple[SaidMessage, ...]
    """The messages behind these, in order."""
    reply: SaidMessage
    tools: tuple[str, ...]
    """Names of what was offered to the model."""
    num_prompt_tokens: int | None
    """None where a server rendered the prompt and told nothing of its tokens."""
    num_given_tokens: int | None
    """Of these, the ones that no earlier call of its sequence brought."""
    num_sampled_tokens: int | None
    finish_reason: str
    """As recorded: stop, length, context_overflow or cut."""
    started_seconds: float
    """From the episode's start to asking the engine."""
    seconds: float
    """Waiting for the engine, its queue included."""
    weight_version: int
    temperature: float
    extends: int | None
    """The call whose tokens its prompt continues; None where a sequence starts."""
    sequences: tuple[int, ...]
    """Indices of the sequences of the episode that hold its tokens."""
    break_reason: str | None
    """Why a new sequence starts here, though the agent had made calls before."""
    break_kind: str | None
    break_message: int | None
    """Index of the first message that differs; None where no message does."""
    is_joined_by_text: bool
    num_drifted: int
    """Tokens of a prompt joined by text that a fresh encoding would have otherwise."""
    format_check: str | None
    """validated, repaired or invalid; None where no format was demanded."""
    is_trained: bool
    is_taken: bool
    is_of_policy: bool
    """False for an agent that is not trained, which something else than the policy answers."""

    @property
    def finished(self) -> str:
        """The finish reason in words."""
        return _FINISHED.get(self.finish_reason, self.finish_reason)

    @property
    def is_cut(self) -> bool:
        """Whether a limit ended the reply."""
        return self.finish_reason in ("length", "context_overflow")

    @property
    def format_checked(self) -> str | None:
        """What was found of the format, in words behind "the reply"."""
        return self.format_check and _CHECKED.get(self.format_check, self.format_check)

    @property
    def untrained_because(self) -> str | None:
        """Why nothing of the reply is trained; None where it may be."""
        if not self.is_taken:
            return "nobody took the whole answer, so it is not trained"
        if not self.is_of_policy:
            return "this agent is not trained"
        return None if self.is_trained else "this call is not trained"

    @property
    def starts_sequence(self) -> bool:
        return self.extends is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """An agent of the episode."""

    name: str
    target_tag: str
    is_trained: bool
    num_calls: int
    has_overflowed: bool
    """Whether it ran out of room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedShown:
    """A call that came to nothing, and how often it was made."""

    line: str
    times: int
    is_empty_reply: bool
    """Whether it was answered, with nothing, rather than refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """All that was said in an episode."""

    calls: tuple[SaidCall, ...]
    speakers: tuple[Speaker, ...]
    """Also agents that were given a model and made no call."""
    refused: tuple[RefusedShown, ...]
    num_refused: int
    """Of all kinds, of which only the first are kept."""

    @property
    def has_several_agents(self) -> bool:
        return len(self.speakers) > 1

    @property
    def num_refused_unshown(self) -> int:
        return max(0, self.num_refused - sum(refused.times for refused in self.refused))


def read_conversation(episode: Episode) -> Conversation:
    """What was said, in the order in which the calls were made."""
    memory = _Memory()
    sequences = _sequences_by_call(episode)
    return Conversation(
        calls=tuple(
            _read_call(episode, index, memory, tuple(sequences.get(index, ())))
            for index in range(len(episode.calls))
        ),
        speakers=_speakers(episode),
        refused=tuple(
            RefusedShown(line=call.line(), times=times, is_empty_reply=call.is_empty_reply)
            for call, times in episode.refused_calls.items()
        ),
        num_refused=episode.num_refused_calls,
    )


def _read_call(
    episode: Episode, index: int, memory: "_Memory", sequences: tuple[int, ...]
) -> SaidCall:
    call = episode.calls[index]
    earlier = episode.calls[call.extends] if call.extends is not None else None
    known = memory.longest(call, earlier)
    said = _read_messages(call, known.length, earlier)
    memory.add(call, index, known)
    is_known = bool(call.prompt_ids)
    of_calls = episode.verdict.call_rewards if episode.verdict else ()
    return SaidCall(
        index=index,
        agent_name=call.agent_name,
        target_tag=call.target_tag,
        name=call.name,
        earned=of_calls[index] if index < len(of_calls) else None,
        num_repeated=known.length,
        repeats=known.call,
        added=tuple(said[:-1]),
        reply=said[-1],
        tools=tuple(_tool_name(tool) for tool in call.tools),
        num_prompt_tokens=len(call.prompt_ids) if is_known else None,
        num_given_tokens=(
            len(call.prompt_ids) - (earlier.num_ids if earlier else 0) if is_known else None
        ),
        num_sampled_tokens=len(call.completion.ids) if is_known else None,
        finish_reason=call.completion.finish_reason,
        started_seconds=call.started_seconds,
        seconds=call.seconds,
        weight_version=call.completion.weight_version,
        temperature=call.temperature,
        extends=call.extends,
        sequences=sequences,
        break_reason=call.break_reason,
        break_kind=call.break_kind,
        break_message=call.break_message,
        is_joined_by_text=call.is_joined_by_text,
        num_drifted=call.num_drifted,
        format_check=call.format_check,
        is_trained=call.is_trained,
        is_taken=call.is_taken,
        is_of_policy=episode.agents.get(call.agent, call.is_trained),
    )


def _read_messages(call: Call, num_repeated: int, earlier: Call | None) -> list[SaidMessage]:
    """Those behind the first `num_repeated` and the reply.

    Read again are the last reply before them and what follows it: the tools that it calls are
    answered behind it, and a conversation of many calls is not read once for each of them.
    """
    open_calls: list[SaidToolCall] = []
    said = []
    text = _continued_text(call, earlier)
    begin = _last_reply(call.messages, num_repeated)
    for index, message in enumerate((*call.messages, call.reply)[begin:], begin):
        is_reply = index == len(call.messages)
        shown = read_message(
            message,
            index=index,
            earlier=open_calls,
            is_reply=is_reply,
            repeated_text="" if is_reply else text,
        )
        if shown.answers is not None:
            open_calls = [open_ for open_ in open_calls if open_ is not shown.answers]
        open_calls += shown.tool_calls
        if index >= num_repeated:
            said.append(shown)
    return said


def _continued_text(call: Call, earlier: Call | None) -> str:
    """What an earlier call said, where prompts are plain texts; else nothing."""
    if earlier is None or not (_is_plain_text(call) and _is_plain_text(earlier)):
        return ""
    said = (read_message(message, index=0) for message in (*earlier.messages, earlier.reply))
    return "".join(message.text for message in said)


def _is_plain_text(call: Call) -> bool:
    first: Any = call.messages[0] if len(call.messages) == 1 else None
    return isinstance(first, Mapping) and first.get("role") == _TEXT


def _last_reply(messages: Sequence[Any], num_repeated: int) -> int:
    """Index of the last of the first `num_repeated` that an assistant said; 0 where none did."""
    for index in range(num_repeated - 1, -1, -1):
        message = messages[index]
        if isinstance(message, Mapping) and message.get("role") == "assistant":
            return index
    return 0


@dataclass(slots=True)
class _SaidHere:
    """What was said up to here; a tree of the messages of one agent."""

    call: int
    """The last call that went on from here, or ended here."""
    below: dict[str, "_SaidHere"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Repeated:
    length: int
    call: int | None
    place: _SaidHere
    """Where the messages behind them go on."""


@dataclass(slots=True)
class _Memory:
    """What each agent sent or got, so that it is shown once."""

    _roots: dict[Agent, _SaidHere] = field(default_factory=dict)
    _ends: dict[int, _SaidHere] = field(default_factory=dict)
    """Where each call ended, its reply included."""
    _keys: dict[int, str] = field(default_factory=dict)
    """By the identity of a message, since calls that extend each other share theirs."""

    def longest(self, call: Call, earlier: Call | None) -> _Repeated:
        """How many of its messages, from the first, an earlier call of the same agent had too.

        A look at all of the call that it extends in one go spares the walk through a long
        conversation.
        """
        place = self._roots.setdefault(call.agent, _SaidHere(0))
        length, found = 0, None
        said = (*earlier.messages, earlier.reply) if earlier else ()
        if call.extends in self._ends and call.messages[: len(said)] == said:
            place, length = self._ends[call.extends], len(said)
            found = place.call
        for message in call.messages[length:]:
            below = place.below.get(self._key(message))
            if below is None:
                break
            place, length, found = below, length + 1, below.call
        return _Repeated(length, found, place)

    def add(self, call: Call, index: int, known: _Repeated) -> None:
        place = known.place
        place.call = index
        for message in (*call.messages, call.reply)[known.length :]:
            place = place.below.setdefault(self._key(message), _SaidHere(index))
            place.call = index
        self._ends[index] = place

    def _key(self, message: Any) -> str:
        key = self._keys.get(id(message))
        if key is None:
            key = self._keys[id(message)] = _message_key(message)
        return key


def _message_key(message: Any) -> str:
    """Equal for messages that say the same. Ids of tool calls are not compared, nor parts that are
    empty or not there."""
    if not isinstance(message, Mapping):
        return as_json(message)
    said = {str(key): value for key, value in message.items() if value not in (None, "", [])}
    said.pop("tool_call_id", None)
    calls = said.get("tool_calls")
    if isinstance(calls, Sequence) and not isinstance(calls, str):
        said["tool_calls"] = [
            call.get("function", call) if isinstance(call, Mapping) else call for call in calls
        ]
    return as_json(dict(sorted(said.items())))


def _tool_name(tool: Any) -> str:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else "?"


def _sequences_by_call(episode: Episode) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number, sequence in enumerate(episode.sequences):
        for call in sequence.calls:
            found.setdefault(call, []).append(number)
    return found


def _speakers(episode: Episode) -> tuple[Speaker, ...]:
    agents = dict(episode.agents)
    for call in episode.calls:
        agents.setdefault(call.agent, call.is_trained)
    num_calls: dict[Agent, int] = {}
    for call in episode.calls:
        num_calls[call.agent] = num_calls.get(call.agent, 0) + 1
    return tuple(
        Speaker(
            name=agent[0],
            target_tag=agent[1],
            is_trained=is_trained,
            num_calls=num_calls.get(agent, 0),
            has_overflowed=agent in episode.overflowed,
        )
        for agent, is_trained in agents.items()
    )
