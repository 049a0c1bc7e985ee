"""One message as it is shown: what was said, thought, called and answered.

Takes a message of any shape, since records of other versions and remote servers hold odd ones:
nothing in it raises, and nothing of it is left out. Owns no conversation.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TEXT_TYPES = frozenset({"text", "input_text", "output_text", "refusal"})
_THOUGHT_TYPES = frozenset({"thinking", "reasoning", "reasoning_text", "summary_text"})
_KNOWN_KEYS = frozenset(
    {"role", "content", "reasoning_content", "reasoning", "name", "tool_calls", "tool_call_id"}
)
_OPENS, _CLOSES = "<think>", "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidToolCall:
    """A tool that a message calls."""

    id: str | None
    name: str
    arguments: str
    """As JSON, or as the text that stands there where it is none."""
    parsed: Any
    """The JSON value; None where the text is no JSON."""

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """Each argument with its value, texts as they read, so that code keeps its lines. Empty
        where the arguments are no object."""
        if not isinstance(self.parsed, Mapping):
            return ()
        return tuple((str(name), readable(value)) for name, value in self.parsed.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidMessage:
    """A message of a conversation."""

    index: int
    """Among the messages of its call; the reply comes behind them all."""
    role: str
    """"?" where the message names none."""
    name: str | None
    """Of the tool, or of who speaks."""
    text: str
    """Whole and as it was, line ends and white space too."""
    reasoning: str
    """What was thought before the text; empty where nothing was."""
    is_reasoning_open: bool
    """Whether the thought was never closed: all that was sampled is part of it."""
    tool_calls: tuple[SaidToolCall, ...]
    answers: SaidToolCall | None
    """Of a tool's message: the call that it answers, where it is known."""
    attachments: tuple[str, ...]
    """Images and whatever else is no text, each named, as in "image_url: image/png, 40 characters";
    and parts of the message that are not known."""
    is_reply: bool
    """Whether the model said it in this call."""
    num_repeated_characters: int
    """Of a plain text that goes on from an earlier call: how much of its begin that one said."""
    recorded: Any
    """The message itself."""

    @property
    def new_text(self) -> str:
        """The text without what an earlier call said already."""
        return self.text[self.num_repeated_characters :]

    @property
    def raw(self) -> str:
        """The message as JSON, to be copied whole."""
        return as_json(self.recorded, indent=2)

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.reasoning or self.tool_calls or self.attachments)


@dataclass(frozen=True, slots=True)
class _ContentParts:
    """What the content of a message holds, in order."""

    texts: list[str]
    thoughts: list[str]
    calls: list[SaidToolCall]
    attachments: list[str]
    answered_ids: list[str]


def read_message(
    message: Any,
    *,
    index: int,
    earlier: Sequence[SaidToolCall] = (),
    is_reply: bool = False,
    repeated_text: str = "",
) -> SaidMessage:
    """What the message says. `earlier` are the tool calls before it that no message answers yet,
    and `repeated_text` what its text may begin with that was shown before."""
    recorded = message
    if not isinstance(message, Mapping):
        message = {"content": message}
    parts = _read_content(message.get("content"))
    thought = "\n".join(filter(None, [_text_of(message.get("reasoning_content")), *parts.thoughts]))
    text, is_open = "\n".join(parts.texts), False
    role = message.get("role")
    if role == "assistant" and not thought:
        thought, text, is_open = _split_thought(text)
    return SaidMessage(
        index=index,
        role=role if isinstance(role, str) and role else "?",
        name=_name_of(message.get("name")),
        text=text,
        reasoning=thought,
        is_reasoning_open=is_open,
        tool_calls=(*parts.calls, *_read_calls(message.get("tool_calls"))),
        answers=_answered(message, parts.answered_ids, earlier),
        attachments=(*parts.attachments, *_others(message)),
        is_reply=is_reply,
        num_repeated_characters=len(repeated_text) if text.startswith(repeated_text) else 0,
        recorded=recorded,
    )


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON with all characters as they are; for what JSON cannot hold, how Python writes it."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=repr)
    except (ValueError, TypeError, RecursionError):
        return _written(value)


def readable(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else as_json(value, indent=2)


def _written(value: Any) -> str:
    try:
        return repr(value)
    except RecursionError:
        return f"<{type(value).__name__}, too deep to be shown>"


def _split_thought(text: str) -> tuple[str, str, bool]:
    """Reasoning and answer of a reply that begins with a thought, and whether that stays open."""
    if not text.lstrip().startswith(_OPENS):
        return "", text, False
    thought, closed, answer = text.lstrip().removeprefix(_OPENS).partition(_CLOSES)
    return thought.strip("\n"), answer.lstrip("\n"), not closed


def _read_content(content: Any) -> _ContentParts:
    parts = _ContentParts([], [], [], [], [])
    if content is None:
        return parts
    for block in content if isinstance(content, list | tuple) else [content]:
        _read_block(block, parts)
    return parts


def _read_block(block: Any, parts: _ContentParts) -> None:
    if not isinstance(block, Mapping):
        parts.texts.append(readable(block))
        return
    kind = block.get("type", "text")
    if kind in _TEXT_TYPES and isinstance(block.get(_key(kind)), str):
        parts.texts.append(block[_key(kind)])
    elif kind in _THOUGHT_TYPES:
        parts.thoughts.append(_thought_of(block))
    elif kind == "tool_use":
        parts.calls.append(_made_call(block.get("id"), block.get("name"), block.get("input")))
    elif kind == "tool_result":
        parts.answered_ids.append(str(block.get("tool_use_id")))
        inner = _read_content(block.get("content"))
        parts.texts.extend(inner.texts)
        parts.attachments.extend(inner.attachments)
    elif "type" in block:
        parts.attachments.append(_named(block))
    else:
        parts.texts.append(readable(block))


def _others(message: Mapping[Any, Any]) -> list[str]:
    """Parts that no other field shows, save for those that are empty."""
    others = ((key, value) for key, value in message.items() if key not in _KNOWN_KEYS)
    return [f"{key}: {readable(value)}" for key, value in others if value not in (None, "", [], {})]


def _key(kind: Any) -> str:
    return "refusal" if kind == "refusal" else "text"


def _thought_of(block: Mapping[Any, Any]) -> str:
    for key in ("thinking", "reasoning", "text", "summary"):
        if block.get(key):
            return _text_of(block[key])
    return as_json(block)


def _text_of(value: Any) -> str:
    """Of a text or a list of blocks of text."""
    if value is None:
        return ""
    return "\n".join(_read_content(value).texts) or readable(value)


def _named(block: Mapping[Any, Any]) -> str:
    """What kind of part it is, its media type and its size, as far as they are told."""
    kind = str(block["type"])
    inside = block.get(kind, block.get("source", block.get("data")))
    if isinstance(inside, Mapping):
        kind = f"{kind} {inside['media_type']}" if "media_type" in inside else kind
        inside = next((inside[key] for key in ("url", "data") if key in inside), inside)
    if not isinstance(inside, str):
        return f"{kind}: {as_json(inside)}" if inside is not None else f"{kind}: {as_json(block)}"
    if inside.startswith("data:"):
        media, _, data = inside.removeprefix("data:").partition(",")
        return f"{kind}: {media.partition(';')[0] or 'data'}, {len(data)} characters"
    is_address = "://" in inside[:16]
    return f"{kind}: {inside}" if is_address else f"{kind}: {len(inside)} characters"


def _read_calls(calls: Any) -> list[SaidToolCall]:
    if not calls:
        return []
    found = []
    for call in calls if isinstance(calls, list | tuple) else [calls]:
        function = call.get("function", call) if isinstance(call, Mapping) else call
        if isinstance(call, Mapping) and isinstance(function, Mapping):
            arguments = function.get("arguments", function.get("input"))
            found.append(_made_call(call.get("id"), function.get("name"), arguments))
        else:
            found.append(_made_call(None, None, call))
    return found


def _made_call(id_: Any, name: Any, arguments: Any) -> SaidToolCall:
    written = arguments if isinstance(arguments, str) else as_json(arguments)
    return SaidToolCall(
        id=str(id_) if id_ else None,
        name=name if isinstance(name, str) and name else "?",
        arguments=written,
        parsed=_parsed(arguments),
    )


def _parsed(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return None


def _name_of(name: Any) -> str | None:
    return None if name is None or name == "" else readable(name)


def _answered(
    message: Mapping[Any, Any], ids: Sequence[str], earlier: Sequence[SaidToolCall]
) -> SaidToolCall | None:
    """By its id, the last of these; else, for a tool's message without one, the first open call."""
    wanted = message.get("tool_call_id") or next(iter(ids), None)
    if wanted is not None:
        return next((call for call in reversed(earlier) if call.id == str(wanted)), None)
    if message.get("role") != "tool":
        return None
    name = message.get("name")
    return next((call for call in earlier if name in (None, call.name)), None)
