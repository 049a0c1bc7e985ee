"""Which roles a chat template takes, and conversations fitted to them.

Some templates have no place for a system message, or insist that user and assistant take turns.
What a template takes is found by showing it small conversations; a conversation that it takes is
left as it is. Owns no tokens and no words of its own.

Messages are joined between two replies only, so what stands before a reply stays the same once more
follows: the fitting is append-only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from astuner.errors import EngineError, RequestError
from astuner.inference.tools.detect import Render
from astuner.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRoles:
    """What a chat template takes; True where nothing is known against it."""

    system: bool = True
    """A system message at the beginning."""
    lone_system: bool = True
    """One at the beginning, behind which the user says nothing before the assistant does."""
    later_system: bool = True
    """One behind other messages."""
    neighbouring_users: bool = True
    """Two messages of the user in a row."""
    leading_assistant: bool = True
    """An assistant's message at the beginning."""
    neighbouring_replies: bool = True
    """Two messages of the assistant in a row."""


def probe_roles(render: Render) -> TemplateRoles:
    """Find out what a template takes. Text that it leaves out without a word is not taken."""

    def refuses(*roles: str) -> bool:
        return _written(render, roles) is None

    def takes(*roles: str) -> bool:
        text = _written(render, roles)
        return text is not None and all(mark in text for mark in _marks(roles))

    if not takes("user", "assistant", "user"):
        # What such a template says to other roles means nothing.
        return TemplateRoles()
    return TemplateRoles(
        system=takes("system", "user"),
        lone_system=takes("system") and takes("system", "assistant", "user"),
        later_system=takes("user", "assistant", "system", "user"),
        neighbouring_users=takes("user", "user"),
        leading_assistant=not refuses("assistant", "user"),
        neighbouring_replies=not refuses("user", "assistant", "assistant", "user"),
    )


def _written(render: Render, roles: Sequence[str]) -> str | None:
    """What the template makes of messages with these roles; None where it refuses them."""
    marked = zip(roles, _marks(roles), strict=True)
    try:
        return render([{"role": role, "content": mark} for role, mark in marked], None)
    except EngineError:
        return None


def _marks(roles: Sequence[str]) -> list[str]:
    return [f"probe-{index}-{role}" for index, role in enumerate(roles)]


def fit_roles(messages: Sequence[Message], roles: TemplateRoles) -> list[Message]:
    """The conversation as the template takes it.

    A system message that it does not take becomes the user's, and the first one then stands at the
    beginning of the first message of the user. Neighbours of one role that it does not take are
    joined by a blank line; replies never are, since they are what was sampled.
    Raises RequestError for a conversation that no joining mends.
    """
    if roles == TemplateRoles():
        return list(messages)
    if not roles.lone_system and not _user_speaks_first(messages):
        roles = replace(roles, system=False)
    fitted: list[Message] = []
    # Whether the last of them is a system message that stood at the beginning.
    is_moved = False
    for index, message in enumerate(messages):
        is_first = index == 0 or is_moved or (len(fitted) == 1 and fitted[0]["role"] == "system")
        is_taken = roles.system if is_first else roles.later_system
        moves = message["role"] == "system" and not is_taken
        turn: Message = {**message, "role": "user"} if moves else message
        last = fitted[-1]["role"] if fitted else None
        if turn["role"] == last and (is_moved or _is_joined(last, roles)):
            fitted[-1] = _joined(fitted[-1], turn)
        else:
            fitted.append(turn)
        is_moved = moves and is_first and not roles.system
    _check_turns(fitted, roles)
    return fitted


def _user_speaks_first(messages: Sequence[Message]) -> bool:
    """Apart from system messages."""
    first = next((m["role"] for m in messages if m["role"] != "system"), None)
    return first == "user"


def _is_joined(role: str | None, roles: TemplateRoles) -> bool:
    if role == "system":
        return not roles.later_system
    return role == "user" and not roles.neighbouring_users


def _joined(one: Message, other: Message) -> Message:
    contents = (one["content"], other["content"])
    joined: Message = {**one, "content": "\n\n".join(filter(None, contents))}
    if one.get("name") != other.get("name"):
        joined.pop("name", None)
    return joined


def _check_turns(messages: Sequence[Message], roles: TemplateRoles) -> None:
    talk = [message for message in messages if message["role"] != "system"]
    if talk and talk[0]["role"] == "assistant" and not roles.leading_assistant:
        raise RequestError(
            "the conversation begins with a message of the assistant, and the model's chat "
            "template wants one of the user first; put one before it",
            param="messages",
        )
    if roles.neighbouring_replies:
        return
    for one, other in pairwise(talk):
        if _is_plain_reply(one) and _is_plain_reply(other):
            raise RequestError(
                "two messages of the assistant stand in a row, and the model's chat template "
                "wants a message of the user between them; put one there, or send both as one",
                param="messages",
            )


def _is_plain_reply(message: Message) -> bool:
    return message["role"] == "assistant" and "tool_calls" not in message
