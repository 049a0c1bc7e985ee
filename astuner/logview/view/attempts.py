"""The attempts at one task beside each other: what they share, and where each first parts.

Takes episodes in the order in which they are shown, the best first. Owns no texts of a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from astuner.logview.view.conversation import read_conversation
from astuner.logview.view.differing import PartedText, first_difference, num_shared, parted
from astuner.logview.view.said import SaidMessage, read_message
from astuner.trajectory.episode import Episode

PartKind = Literal["thought", "text", "call", "attachment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenPart:
    """A thought, a text, a tool call or an attachment of a message."""

    kind: PartKind
    name: str
    """Of the tool that is called; empty for other kinds."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenMessage:
    """A message of an episode, given or said. Two are equal if they read the same."""

    role: str
    speaker: str
    """The agent whose conversation it stands in; empty where the episode has only one."""
    is_reply: bool
    """Whether the model said it."""
    parts: tuple[SpokenPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPart:
    """A part of a message beside the same part of another attempt."""

    kind: PartKind
    name: str
    text: PartedText


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownMessage:
    """A message on a page."""

    index: int
    """Among all messages of its episode."""
    role: str
    speaker: str
    is_reply: bool
    parts: tuple[ShownPart, ...]
    is_first_difference: bool
    """Whether the attempt says here, for the first time, something else than the one beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAttempt:
    """What an attempt said that not all attempts did."""

    messages: tuple[ShownMessage, ...]
    """Those behind the messages that all attempts begin with."""
    num_as_beside: int
    """How many of these, from the first, the attempt beside it says too."""
    beside: int | None
    """The attempt that it is compared with, as an index among those given; None if it is alone."""
    is_same: bool
    """Whether it says the same as that one throughout."""
    ends_early: bool
    """Whether the first difference is that it ends where the one beside it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Messages of an attempt that stand together on its card, shown or folded."""

    messages: tuple[ShownMessage, ...]
    is_folded: bool
    is_as_beside: bool
    """Whether they are folded since the attempt beside says them too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Attempts side by side."""

    shared: tuple[ShownMessage, ...]
    """What all begin with."""
    attempts: tuple[ShownAttempt, ...]
    num_different: int
    """How many of the attempts differ from all before them."""


def compare_attempts(episodes: Sequence[Episode], *, first: int = 0) -> Comparison:
    """Each is compared with the one at `first`, and that with the next that has another reward."""
    spoken = [spoken_messages(episode) for episode in episodes]
    shared = _num_shared(spoken)
    opposite = _opposite(first, episodes, spoken)
    others = [opposite if index == first else first for index in range(len(spoken))]
    return Comparison(
        shared=tuple(_shown(messages, i, None) for messages in spoken[:1] for i in range(shared)),
        attempts=tuple(
            _attempt(messages, other, None if other is None else spoken[other], shared)
            for messages, other in zip(spoken, others, strict=True)
        ),
        num_different=len(set(spoken)),
    )


def spoken_messages(episode: Episode) -> tuple[SpokenMessage, ...]:
    """All that was said in an episode, each message once, in the order of the calls."""
    conversation = read_conversation(episode)
    found: list[SpokenMessage] = []
    for call in conversation.calls:
        speaker = call.agent_name if conversation.has_several_agents else ""
        found += [_spoken(message, speaker) for message in (*call.added, call.reply)]
    return tuple(found)


def last_answer(episode: Episode) -> str:
    """What the model said last that was not empty; a tool call where it said nothing else."""
    for call in reversed(episode.calls):
        reply = _spoken(read_message(call.reply, index=0), "")
        if reply.parts:
            said = [part.text for part in reply.parts if part.kind == "text"]
            return "\n".join(said) or "\n".join(map(_written, reply.parts))
    return ""


def blocks(attempt: ShownAttempt, *, is_first: bool) -> list[Block]:
    """The messages of an attempt in the order in which they were said, the less telling folded.

    Shown are the one that differs first, the one behind it and the last; of the one that the others
    are compared with also its beginning.
    """
    num_messages, parting = len(attempt.messages), attempt.num_as_beside
    shown = {parting, parting + 1, num_messages - 1} if not attempt.is_same else set()
    if is_first:
        shown |= {0, 1, num_messages - 1}
    lonely = {i for i in range(parting, num_messages) if {i - 1, i + 1} <= shown}
    found = []
    for (is_shown, is_as_beside), run in groupby(
        range(num_messages),
        key=lambda i: (i in shown | lonely, i < parting and not is_first),
    ):
        messages = tuple(attempt.messages[index] for index in run)
        found.append(Block(messages=messages, is_folded=not is_shown, is_as_beside=is_as_beside))
    return found


def _written(part: SpokenPart) -> str:
    return f"{part.name}({part.text})" if part.kind == "call" else part.text


def _num_shared(spoken: Sequence[tuple[SpokenMessage, ...]]) -> int:
    """Where all say the same throughout, only what stands before the first reply: an attempt shows
    what it said."""
    shared = num_shared(spoken)
    if not spoken or any(shared < len(messages) for messages in spoken):
        return shared
    replies = (index for index, message in enumerate(spoken[0]) if message.is_reply)
    return next(replies, shared)


def _opposite(
    first: int, episodes: Sequence[Episode], spoken: Sequence[tuple[SpokenMessage, ...]]
) -> int | None:
    """What the attempt that all others are compared with is itself compared with."""
    others = [index for index in range(len(episodes)) if index != first]
    rewards = [episode.verdict.reward if episode.verdict else None for episode in episodes]
    unlike = [other for other in others if rewards[other] != rewards[first]]
    differing = [other for other in others if spoken[other] != spoken[first]]
    return next(iter([*unlike, *differing, *others]), None)


def _attempt(
    messages: tuple[SpokenMessage, ...],
    beside: int | None,
    other: tuple[SpokenMessage, ...] | None,
    num_shared: int,
) -> ShownAttempt:
    parting = None if other is None else first_difference(messages, other)
    shown = [
        _shown(messages, index, other if index == parting else None)
        for index in range(num_shared, len(messages))
    ]
    return ShownAttempt(
        messages=tuple(shown),
        num_as_beside=(len(messages) if parting is None else parting) - num_shared,
        beside=beside,
        is_same=other is not None and parting is None,
        ends_early=parting == len(messages),
    )


def _shown(
    messages: Sequence[SpokenMessage], index: int, other: Sequence[SpokenMessage] | None
) -> ShownMessage:
    """`other` is a conversation from which this message is the first to differ."""
    message = messages[index]
    beside = other[index] if other is not None and index < len(other) else None
    return ShownMessage(
        index=index,
        role=message.role,
        speaker=message.speaker,
        is_reply=message.is_reply,
        parts=_parts(message, beside),
        is_first_difference=other is not None,
    )


def _parts(message: SpokenMessage, beside: SpokenMessage | None) -> tuple[ShownPart, ...]:
    parting = None if beside is None else first_difference(message.parts, beside.parts)
    shown = []
    for index, part in enumerate(message.parts):
        text = _whole(part.text)
        if beside is not None and index == parting:
            text = _part_beside(part, beside.parts[index] if index < len(beside.parts) else None)
        shown.append(ShownPart(kind=part.kind, name=part.name, text=text))
    return tuple(shown)


def _part_beside(part: SpokenPart, beside: SpokenPart | None) -> PartedText:
    is_comparable = beside is not None and (part.kind, part.name) == (beside.kind, beside.name)
    return parted(part.text, beside.text if beside is not None and is_comparable else "")


def _whole(text: str) -> PartedText:
    return PartedText(shared=text, differing="", rest="", ends_early=False)


def _spoken(message: SaidMessage, speaker: str) -> SpokenMessage:
    calls = [
        SpokenPart(kind="call", name=call.name, text=call.arguments) for call in message.tool_calls
    ]
    said: list[tuple[PartKind, str]] = [("thought", message.reasoning), ("text", message.text)]
    texts = [SpokenPart(kind=kind, name="", text=text) for kind, text in said if text]
    attached = [SpokenPart(kind="attachment", name="", text=text) for text in message.attachments]
    return SpokenMessage(
        role=message.role,
        speaker=speaker,
        is_reply=message.is_reply,
        parts=(*texts, *calls, *attached),
    )
