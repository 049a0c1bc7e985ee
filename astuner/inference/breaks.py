"""Why a conversation does not continue an earlier one: at which message, and what was done to it.

Compares messages only; owns no tokens and no template.
"""

from collections.abc import Sequence

from astuner.inference.messages import first_difference, message_key
from astuner.trajectory.recorder import Break, BreakKind, Call
from astuner.types import Message


def explain_break(earlier: Call, messages: Sequence[Message], *, num_same: int) -> Break:
    """Say why `messages` do not continue `earlier`, whose first `num_same` messages they share.

    They do not begin with all messages of `earlier` and its reply.
    """
    said = (*earlier.messages, earlier.reply)
    kind = _kind(earlier, said, messages, num_same)
    reason = _reason(kind, said, messages, num_same)
    return Break(kind=kind, message=num_same, reason=reason)


def _kind(
    earlier: Call, said: Sequence[Message], messages: Sequence[Message], place: int
) -> BreakKind:
    if place == len(messages):
        is_again = place == len(earlier.messages)
        return BreakKind.REPEATED if is_again else BreakKind.REMOVED
    was, now = said[place], messages[place]
    if _is_folded(was, now):
        return BreakKind.FOLDED
    if _lost_reasoning(was, now):
        return BreakKind.REASONING_DROPPED
    if _num_removed(said, messages, place):
        return BreakKind.REMOVED
    if _is_unrelated(earlier, said, messages, place):
        return BreakKind.UNRELATED
    return BreakKind.EDITED


def _reason(
    kind: BreakKind, said: Sequence[Message], messages: Sequence[Message], place: int
) -> str:
    if kind is BreakKind.REPEATED:
        return "the same messages were sent again"
    if kind is BreakKind.REMOVED:
        last = place + max(1, _num_removed(said, messages, place)) - 1
        gone = f"message {place} ({said[place]['role']})"
        return f"{gone} is gone" if last == place else f"messages {place} to {last} are gone"
    if kind is BreakKind.FOLDED:
        return f"message {place} (user) holds the conversation as text, and grew"
    found = first_difference(said, messages)
    assert found is not None
    return f"a new conversation: {found}" if kind is BreakKind.UNRELATED else found


def _is_folded(was: Message, now: Message) -> bool:
    """Whether a user message only grew: all its lines but the last, a closing tag, stand still."""
    if was["role"] != "user" or now["role"] != "user":
        return False
    lines, newline, _ = was["content"].rpartition("\n")
    text = now["content"]
    return bool(newline) and len(text) > len(was["content"]) and text.startswith(lines + newline)


def _lost_reasoning(was: Message, now: Message) -> bool:
    if "reasoning_content" not in was or "reasoning_content" in now:
        return False
    return message_key({**now, "reasoning_content": was["reasoning_content"]}) == message_key(was)


def _num_removed(said: Sequence[Message], messages: Sequence[Message], place: int) -> int:
    """How many messages from `place` on were taken out, so that the others close up; else 0."""
    if place == len(messages):
        return len(said) - place
    now = message_key(messages[place])
    for later in range(place + 1, len(said)):
        if message_key(said[later]) == now:
            return later - place
    is_reply_gone = said[place]["role"] == "assistant" and messages[place]["role"] != "assistant"
    return len(said) - place if is_reply_gone else 0


def _is_unrelated(
    earlier: Call, said: Sequence[Message], messages: Sequence[Message], place: int
) -> bool:
    """Whether nothing that the model said before stands in the new messages."""
    if any(message["role"] == "assistant" for message in said[:place]):
        return False
    if said[place]["role"] == "assistant":
        return False
    reply = message_key(earlier.reply)
    return all(message_key(message) != reply for message in messages[place:])
