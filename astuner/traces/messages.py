"""Messages in the forms that recorders write them, as steps: one place for all vocabularies.

Read are the parts of OpenTelemetry's conventions, the messages of OpenAI, Anthropic and Gemini, and
what LangChain makes of them, mixed or as JSON in a text. What is no text becomes a placeholder.
"""

import json
import marshal
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from astuner.traces.json_lists import list_elements
from astuner.traces.last_histories import LastHistories, is_long
from astuner.traces.trace import Role, Step, TracedToolCall

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompt": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "aimessagechunk": "assistant",
    "tool": "tool",
    "function": "tool",
}
_FAILED = "the tool failed"
"""Where a recorder says no more."""
_TEXTS = {"text", "input_text", "output_text", "refusal", "summary_text"}
_REASONING = {"reasoning", "thinking"}
_CALLS = {"tool_call", "tool_use", "function_call", "server_tool_call", "server_tool_use"}
_RESULTS = {
    "tool_call_response",
    "tool_result",
    "function_call_output",
    "function_response",
    "server_tool_call_response",
}
_MEDIA = ("image", "audio", "video", "document", "file")
_MAX_RECALLED, _MAX_RECALLED_BYTES = 16_384, 1_000
"""Messages that are not read again; about 50 MB of memory at most."""
_MARSHAL = 2
"""The last version without references, so that equal values are equal bytes; it tells 1 from true,
and takes a twentieth of the time of JSON."""
_MESSAGE_KEYS = {"role", "parts", "content", "contents", "tool_calls"}
"""An object without any of these is no message."""
_LEFT_OUT = {
    *_MEDIA,
    *("blob", "uri", "image_url", "input_image", "input_audio", "input_file", "media"),
    *("inline_data", "file_data"),
}
"""Parts that are no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMessages:
    """A conversation, or a piece of one."""

    steps: Sequence[Step]
    num_unreadable: int = 0
    """Messages that did not parse."""


def read_messages(value: Any, *, role: Role | None = None) -> ReadMessages:
    """Messages as a list, as one message, or as JSON of these; a plain text is one of `role`.

    `role` is also that of messages that name none; without it, they do not parse.
    """
    if isinstance(value, str) and is_long(value):
        try:
            return _read_history(value, role)
        except (ValueError, RecursionError):
            pass  # no list of JSON, or one of numbers, of which the last may have gone on
    messages = parsed(value)
    if isinstance(messages, Mapping):
        messages = messages.get("messages", messages)
    if messages is None:
        return ReadMessages(steps=())
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        messages = [messages]
    return _read_history(messages, role)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Behind:
    """What was read up to the end of one message."""

    place: int
    """In characters of a text, in messages of a list."""
    num_steps: int
    num_unreadable: int


@dataclass(slots=True, kw_only=True)
class _ReadHistory:
    """A conversation as it is read, message by message, or from another's beginning on."""

    steps: list[Step] = field(default_factory=list)
    behind: list[_Behind] = field(default_factory=list)

    @property
    def last(self) -> _Behind:
        return self.behind[-1] if self.behind else _Behind(place=0, num_steps=0, num_unreadable=0)

    def beginning(self, length: int) -> "_ReadHistory":
        """Its messages within so many characters or messages."""
        behind = self.behind[: bisect_right(self.behind, length, key=lambda one: one.place)]
        num_steps = behind[-1].num_steps if behind else 0
        return _ReadHistory(steps=self.steps[:num_steps], behind=behind)

    def add(self, message: Any, role: Role | None, *, place: int) -> None:
        # AgentScope 2.x has one without parts for the reply that it waits for
        is_empty = isinstance(message, Mapping) and message.get("parts") == []
        found = () if is_empty else _recalled(message, role)
        self.steps += found
        num_unreadable = self.last.num_unreadable + (not found and not is_empty)
        self.behind.append(
            _Behind(place=place, num_steps=len(self.steps), num_unreadable=num_unreadable)
        )


def _is_same(first: Any, second: Any) -> bool:
    """Equal to the last type: 1 is true to Python, but does not say the same."""
    if first is second or first != second:
        return first is second
    try:
        return marshal.dumps(first, _MARSHAL) == marshal.dumps(second, _MARSHAL)
    except ValueError:
        return False


_LAST_READ: dict[Role | None, LastHistories[_ReadHistory]] = {
    role: LastHistories(is_same=_is_same) for role in (None, *_ROLES.values())
}


def _read_history(history: str | Sequence[Any], role: Role | None) -> ReadMessages:
    """A list of messages, or JSON of one; only what the last ones did not have is read.

    Raises ValueError or RecursionError for a text that is no JSON of a list.
    """
    known, num_shared = _LAST_READ[role].nearest(history) if is_long(history) else (None, 0)
    read = known.beginning(num_shared) if known else _ReadHistory()
    if isinstance(history, str):
        for message, place in list_elements(history, read.last.place):
            read.add(message, role, place=place)
    else:
        for place in range(read.last.place, len(history)):
            read.add(history[place], role, place=place + 1)
    if is_long(history):
        _LAST_READ[role].keep(history, read, instead_of=known)
    return ReadMessages(steps=read.steps, num_unreadable=read.last.num_unreadable)


def read_text(value: Any) -> str:
    """What a text says, a list of parts, or any other value, as JSON."""
    content = _ReadParts()
    content.add_all(parsed(value) if _is_parts(value) else value)
    return content.text


def read_tools(value: Any) -> list[Mapping[str, Any]]:
    """Definitions of tools in OpenAI's form, whether they came so, flat, or as JSON of either."""
    tools = parsed(value)
    if isinstance(tools, Mapping):
        tools = [tools]
    if isinstance(tools, str) or not isinstance(tools, Sequence):
        return []
    return [_tool(one) for tool in tools if isinstance(one := parsed(tool), Mapping)]


def parsed(value: Any) -> Any:
    """What JSON in a text says, where it is an object or a list; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def as_json(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@dataclass(slots=True, kw_only=True)
class _ReadParts:
    """What the parts of one message hold, as they are gone through."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[TracedToolCall] = field(default_factory=list)
    results: list[Step] = field(default_factory=list)
    num_left_out: int = 0

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def add_all(self, content: Any) -> None:
        if content is None:
            return
        if isinstance(content, str):
            self.texts.append(content)
        elif isinstance(content, Mapping):
            self._add(content)
        elif isinstance(content, Sequence):
            for part in content:
                self.add_all(part)
        else:
            self.texts.append(as_json(content))

    def _add(self, part: Mapping[str, Any]) -> None:
        kind = _kind_of(part)
        if kind in _TEXTS:
            self.texts.append(as_json(_first(part, "content", "text", "refusal") or ""))
        elif kind in _REASONING:
            self.reasoning.append(
                as_json(_first(part, "content", "thinking", "reasoning", "text") or "")
            )
        elif kind in _CALLS:
            self.calls.append(_tool_call(_object(part.get("function_call")) or part))
        elif kind in _RESULTS:
            self.results.append(_result(_object(part.get("function_response")) or part))
        elif kind in _LEFT_OUT:
            self.texts.append(f"[{_medium(part, kind)}]")
            self.num_left_out += 1
        else:
            self.texts.append(as_json(part))


def _kind_of(part: Mapping[str, Any]) -> str:
    """Empty for an object that is no part at all."""
    kind = part.get("type")
    if isinstance(kind, str):
        return kind
    if isinstance(part.get("text"), str):
        return "text"
    known = ("function_call", "function_response", *sorted(_LEFT_OUT))
    return next((key for key in known if part.get(key)), "")


def _medium(part: Mapping[str, Any], kind: str) -> str:
    """The word of the placeholder."""
    told = f"{part.get('modality', '')} {kind} {part.get('media_type') or part.get('mime_type')}"
    return next((medium for medium in _MEDIA if medium in told.lower()), kind)


def _recalled(message: Any, default: Role | None) -> Sequence[Step]:
    """As `_of_message`; a conversation comes again with each call."""
    try:
        data = marshal.dumps(message, _MARSHAL)
    except ValueError:  # an object that no source of JSON gives
        return _of_message(message, default)
    if len(data) > _MAX_RECALLED_BYTES:
        return _of_message(message, default)
    return _of_marshalled(data, default)


@lru_cache(maxsize=_MAX_RECALLED)
def _of_marshalled(data: bytes, default: Role | None) -> Sequence[Step]:
    return tuple(_of_message(marshal.loads(data), default))


def _of_message(message: Any, default: Role | None) -> list[Step]:
    """Its steps; none for what is no message. A message with results of tools is one for each."""
    told = message if isinstance(message, dict) else parsed(message)
    inner = _unwrapped(told) if isinstance(told, Mapping) else {}
    if inner.keys().isdisjoint(_MESSAGE_KEYS):
        if default is None or message in (None, ""):
            return []
        return [Step(role=default, text=as_json(message))]
    role = _role_of(inner) or default
    if role is None:
        return []
    said = _first(inner, "parts", "content", "contents", "text", "response")
    said = parsed(said) if _is_parts(said) else said
    pieces = _pieces(said) if role != "tool" else [said]
    bare = {key: inner.get(key) for key in ("role", "name")}
    first = [step for piece in pieces[:-1] for step in _steps(bare, role, _read_parts(piece))]
    return [*first, *_steps(inner, role, _read_parts(pieces[-1]))]


def _pieces(content: Any) -> list[Any]:
    """Results apart from what stands before and behind them: some write a whole turn, calls and
    their results and the answer, as one message."""
    pieces: list[Any] = []
    was_result = None
    for part in _items(content):
        is_result = isinstance(part, Mapping) and _kind_of(part) in _RESULTS
        if is_result != was_result:
            pieces.append([])
        pieces[-1].append(part)
        was_result = is_result
    return pieces or [content]


def _read_parts(content: Any) -> "_ReadParts":
    parts = _ReadParts()
    parts.add_all(content)
    return parts


def _steps(message: Mapping[str, Any], role: Role, content: _ReadParts) -> list[Step]:
    calls = message.get("tool_calls")
    if isinstance(message.get("function_call"), Mapping):
        calls = [message["function_call"]]
    content.calls += [_tool_call(call) for call in _items(calls) if isinstance(call, Mapping)]
    if thought := _first(message, "reasoning_content", "reasoning", "thinking"):
        content.reasoning.append(as_json(thought))
    is_empty = not content.texts and not content.calls and not content.reasoning
    if content.results and is_empty:
        return _named(content.results, message)
    text = content.text if role != "tool" else _result_text(content)
    has_failed = role == "tool" and message.get("status") == "error"  # of LangChain
    step = Step(
        role=role,
        text=text,
        reasoning="\n".join(content.reasoning),
        name=_word(message.get("name")),
        tool_calls=tuple(content.calls),
        tool_call_id=_call_id(message) if role == "tool" else None,
        num_left_out=content.num_left_out,
        error=(text or _FAILED) if has_failed else None,
    )
    return [*content.results, step]


def _named(results: Sequence[Step], message: Mapping[str, Any]) -> list[Step]:
    name = _word(message.get("name")) if _role_of(message) == "tool" else None
    return [replace(one, name=one.name or name) for one in results]


def _role_of(message: Mapping[str, Any]) -> Role | None:
    for key in ("role", "type"):
        told = str(message.get(key) or "").lower().removesuffix("message")
        if told in _ROLES:
            return _ROLES[told]
    return None


def _unwrapped(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Out of the objects that LangChain and a choice of OpenAI put a message in."""
    for key in ("message", "kwargs", "data"):
        if isinstance(inner := message.get(key), Mapping):
            named = {"type": _class_of(message), **inner}
            return {**named, "role": inner.get("role") or message.get("role")}
    return message


def _class_of(message: Mapping[str, Any]) -> Any:
    path = message.get("id")
    return path[-1] if isinstance(path, list) and path else message.get("type")


def _tool_call(call: Mapping[str, Any]) -> TracedToolCall:
    function = call.get("function")
    told = function if isinstance(function, Mapping) else call
    arguments = _first(told, "arguments", "args", "input", "parameters")
    return TracedToolCall(
        call_id=_word(_first(call, "id", "call_id", "tool_call_id")),
        name=str(told.get("name") or ""),
        arguments="{}" if arguments is None else as_json(arguments),
    )


def _result(part: Mapping[str, Any]) -> Step:
    inner = _ReadParts()
    told = _first(part, "response", "result", "content", "output")
    inner.add_all(parsed(told) if _is_parts(told) else told)
    text = _result_text(inner)
    return Step(
        role="tool",
        text=text,
        name=_word(part.get("name")),
        tool_call_id=_call_id(part),
        num_left_out=inner.num_left_out,
        error=(text or _FAILED) if part.get("is_error") is True else None,
    )


def _result_text(content: _ReadParts) -> str:
    """Of parts, what they say; those of results that stand inside of one, too."""
    return "\n".join([*content.texts, *(step.text for step in content.results)])


def _is_parts(value: Any) -> bool:
    """Whether a value, or JSON in a text, is a list of parts that name their type."""
    parts = parsed(value)
    return (
        isinstance(parts, Sequence)
        and not isinstance(parts, str)
        and bool(parts)
        and all(isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in parts)
        and all(_kind_of(part) in _TEXTS | _LEFT_OUT | _RESULTS | _REASONING for part in parts)
    )


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(tool.get("function"), Mapping):
        return {"type": "function", **tool}
    function = {key: value for key, value in tool.items() if key != "type"}
    if "input_schema" in function:  # Anthropic's name
        function["parameters"] = function.pop("input_schema")
    return {"type": "function", "function": function}


def _call_id(told: Mapping[str, Any]) -> str | None:
    """Of what a result answers."""
    return _word(_first(told, "tool_call_id", "tool_use_id", "call_id", "id"))


def _word(value: Any) -> str | None:
    """A name or an id as a text; None for none."""
    is_one = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) if is_one and value != "" else None


def _object(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _first(mapping: Mapping[str, Any], *keys: str) -> Any:
    """The first of these that is there and not None."""
    return next((mapping[key] for key in keys if mapping.get(key) is not None), None)


def leading_system(steps: Sequence[Step]) -> Iterator[Step]:
    """What the system says before anybody else."""
    for step in steps:
        if step.role != "system":
            return
        yield step
