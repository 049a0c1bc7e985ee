"""Replies that are written in channels, as gpt-oss does: several messages, each with a header.

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…` is a thought
and an answer; a message with a recipient (`to=functions.add`) is a tool call. Pure text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CHANNEL, MESSAGE, START = "<|channel|>", "<|message|>", "<|start|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
"""`END` ends a message and not the turn; the turn ends with one of the others."""

_MARKS = (CHANNEL, MESSAGE, START, END, CALL, RETURN)
_BOUNDARY = re.compile(r"<\|(?:end|call|return)\|>|(?=<\|start\|>)")
_HEADER = re.compile(
    r"(?:<\|start\|>(?:assistant)?)?"
    r"\s*(?:to=(?P<early>[^\s<]+))?\s*"
    r"(?:<\|channel\|>\s*(?P<channel>\w+)\s*(?:to=(?P<late>[^\s<]+))?[^<]*)?"
    r"(?:<\|constrain\|>[^<]*)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMessage:
    """One message of a reply. Where it has no proper header, channel and recipient are None."""

    channel: str | None
    recipient: str | None
    """Whom it calls, such as `functions.add`; None where it calls nobody."""
    content: str
    """As it is written, to the last space: a template writes it back so."""

    @property
    def is_thought(self) -> bool:
        return self.channel == "analysis" and self.recipient is None

    @property
    def is_answer(self) -> bool:
        return self.channel == "final" and self.recipient is None


def split_channels(text: str) -> tuple[str, str]:
    """Split a reply into what was thought and the rest.

    The rest holds the texts for the user, whatever channel they stand in, and calls as `call_text`
    writes them, each in a line of its own. What is no message of the assistant stays as it is, and
    so does a thought behind the answer, where none belongs.
    """
    if MESSAGE not in text:
        return "", text
    thoughts, rest = [], []
    for message in _messages(text):
        if message.recipient is not None:
            rest.append(call_text(message.recipient, message.content))
        elif message.is_thought:
            thoughts.append(message.content)
        else:
            rest.append(message.content)
    return _lines(thoughts), _lines(rest)


def call_text(recipient: str, content: str) -> str:
    """A call in the one spelling that `split_channels` leaves of several."""
    return f"{CHANNEL}commentary to={recipient}{MESSAGE}{content}"


def is_unsettled(text: str) -> bool:
    """Whether more of a growing reply must be seen before it can be told, thoughts before texts.

    It may end inside of a mark or a header, and behind a text that is not the answer may come
    another thought.
    """
    if MESSAGE not in _parts(text)[-1] or _may_end_in_mark(text):
        return True
    messages = list(_messages(text))
    return not any(message.is_answer for message in messages) and not all(
        message.is_thought for message in messages
    )


def _messages(text: str) -> Iterator[ChannelMessage]:
    parts = _parts(text)
    is_answered = False
    for index, part in enumerate(parts):
        head, mark, content = part.partition(MESSAGE)
        header = _HEADER.fullmatch(head)
        if header is None or (not mark and index < len(parts) - 1):
            yield ChannelMessage(channel=None, recipient=None, content=part)
            continue
        if not mark:
            # The reply was cut inside of a header, and says nothing in this message.
            return
        message = ChannelMessage(
            channel=header["channel"],
            recipient=header["early"] or header["late"],
            content=content,
        )
        if is_answered and message.is_thought:
            message = ChannelMessage(channel=None, recipient=None, content=part)
        is_answered = is_answered or message.is_answer
        yield message


def _parts(text: str) -> list[str]:
    """The text of each message, the last one, which may be empty, included."""
    parts = _BOUNDARY.split(text)
    return [part for part in parts[:-1] if part] + parts[-1:]


def _may_end_in_mark(text: str) -> bool:
    start = text.rfind("<")
    return start >= 0 and any(
        mark.startswith(text[start:]) and mark != text[start:] for mark in _MARKS
    )


def _lines(texts: Sequence[str]) -> str:
    return "\n".join(text for text in texts if text)
