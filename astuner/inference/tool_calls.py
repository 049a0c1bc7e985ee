"""How a model writes tool calls: reading them from a reply, beginning them, writing them.

Owns the formats by name, the folding of tools into plain messages for templates that know no
tools, and the check of a call against the tool's schema. Pure text: no tokens, no templates.
Tools and messages are those of OpenAI's chat format; arguments of calls are objects, not text.
"""

import difflib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from astuner.errors import ConfigError, EngineError, RequestError
from astuner.inference.json_schema import check_schema, first_error

Message = dict[str, Any]
"""A chat message in OpenAI's format."""
Tool = Mapping[str, Any]
"""{"type": "function", "function": {"name": ..., "description": ..., "parameters": JSON schema}}"""
Render = Callable[[list[Message], list[dict[str, Any]] | None], str]
"""A chat template: messages and the tools offered in, the text of the conversation out.

Raises EngineError, or any error of a failing template.
"""

SHOWN_CHARACTERS = 160
"""Longest piece of a reply that a reason quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of one tool, as read from a reply or to be written into one."""

    name: str
    arguments: dict[str, Any]
    """JSON values only."""
    id: str | None = None
    """None where the format writes no ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """A reply taken apart."""

    text: str
    """What stands outside the calls. Malformed fragments stay in it."""
    tool_calls: tuple[ToolCall, ...]
    malformed: tuple[str, ...]
    """'reason: fragment' for each stretch that looks like a call and is none."""


class ToolFormat(Protocol):
    """One way of writing tool calls."""

    @property
    def name(self) -> str:
        """Its key in `FORMATS`."""
        ...

    @property
    def starts(self) -> tuple[str, ...]:
        """Each call begins with one of these; text before the first of them holds no call."""
        ...

    @property
    def call_end(self) -> str | None:
        """What a whole call ends with; None where several calls are one piece of text."""
        ...

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        """Separate the calls of a reply from its text.

        `text` holds the special tokens, except the end token. A reply without calls comes back
        unchanged; otherwise whitespace next to a removed call is removed with it. A leading
        `<think>` block is text, whatever it mentions. No text makes it raise.
        """
        ...

    def opening(self, name: str | None) -> str:
        """The text that begins a call of `name`, or of any tool for None.

        Ends without a space: tokenizers join a space to what follows it.
        """
        ...

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The text of an assistant message that makes these calls; `parse` gives them back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Calls in text[start:end], or with `problem` a fragment that looks like a call."""

    start: int
    end: int
    calls: tuple[ToolCall, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    value: Any
    end: int
    """Index of the first character after the JSON."""


def answer_start(text: str) -> int:
    """Index at which the answer begins: after a leading `<think>` block, else 0.

    A block that is never closed leaves no answer.
    """
    if not text.lstrip().startswith("<think>"):
        return 0
    close = text.find("</think>")
    return len(text) if close < 0 else close + len("</think>")


def _parsed(text: str, found: Iterable[_Found]) -> ParsedReply:
    pieces: list[str] = []
    calls: list[ToolCall] = []
    malformed: list[str] = []
    kept_from = 0
    for stretch in found:
        if stretch.problem is not None:
            fragment = _shown(text[stretch.start : stretch.end])
            malformed.append(f"{stretch.problem}: {fragment!r}")
            continue
        piece = text[kept_from : stretch.start].rstrip()
        pieces.append(piece.lstrip() if calls else piece)
        calls.extend(stretch.calls)
        kept_from = stretch.end
    rest = text[kept_from:]
    pieces.append(rest.lstrip() if calls else rest)
    return ParsedReply(
        text="\n".join(piece for piece in pieces if piece),
        tool_calls=tuple(calls),
        malformed=tuple(malformed),
    )


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _decode(text: str, at: int) -> _Decoded:
    """Read one JSON value. Raises ValueError if there is none that can be written again."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, _after_space(text, at))
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("the JSON holds half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg})") from error
    except ValueError as error:
        raise ValueError(f"the JSON holds a number out of range ({error})") from error
    return _Decoded(value=value, end=end)


def _decode_all(text: str) -> Any:
    decoded = _decode(text, 0)
    if text[decoded.end :].strip():
        raise ValueError("text after the JSON")
    return decoded.value


def _encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_call(value: Any, *argument_keys: str) -> ToolCall:
    """Raises ValueError unless `value` is an object with a name and arguments."""
    if not isinstance(value, dict):
        raise ValueError("the JSON is not an object")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("no 'name'")
    key = next((key for key in argument_keys if key in value), None)
    if key is None:
        raise ValueError(f"no {argument_keys[0]!r}")
    call_id = value.get("id")
    return ToolCall(
        name=name,
        arguments=_as_arguments(value[key]),
        id=call_id if isinstance(call_id, str) else None,
    )


def _as_arguments(value: Any) -> dict[str, Any]:
    """The object itself, or the one that a JSON string holds. Raises ValueError for others."""
    if isinstance(value, str):
        value = _decode_all(value)
    if not isinstance(value, dict):
        raise ValueError("the arguments are not an object")
    return value


def _after_closing(text: str, at: int, tag: str) -> int:
    """Index after `tag`, which may be missing at the end of the text."""
    at = _after_space(text, at)
    if text.startswith(tag, at):
        return at + len(tag)
    if at < len(text):
        raise ValueError(f"text where {tag} should stand")
    return at


_TAG = re.compile(r"</?tool_call>")


def _fragment_end(text: str, start: int) -> int:
    """End of a malformed call: its closing tag, the next opening tag or the end of the text."""
    tag = _TAG.search(text, start + 1)
    if tag is None:
        return len(text)
    return tag.end() if tag[0].startswith("</") else tag.start()


class Hermes:
    """`<tool_call>` around {"name", "arguments"}: Hermes, Qwen2.5, Qwen3, SmolLM."""

    name = "hermes"
    starts = ("<tool_call>",)
    call_end = "</tool_call>"

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return _parsed(text, self._find(text))

    def opening(self, name: str | None) -> str:
        start = '<tool_call>\n{"name": '
        return f'{start}"' if name is None else f'{start}{_encode(name)}, "arguments":'

    def write(self, calls: Sequence[ToolCall]) -> str:
        bodies = (_encode({"name": call.name, "arguments": call.arguments}) for call in calls)
        return "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)

    def _find(self, text: str) -> Iterator[_Found]:
        at = answer_start(text)
        while (start := text.find("<tool_call>", at)) >= 0:
            found = self._read(text, start)
            yield found
            at = found.end

    def _read(self, text: str, start: int) -> _Found:
        try:
            decoded = _decode(text, start + len("<tool_call>"))
            call = _as_call(decoded.value, "arguments")
            end = _after_closing(text, decoded.end, "</tool_call>")
        except ValueError as error:
            return _Found(start=start, end=_fragment_end(text, start), problem=str(error))
        return _Found(start=start, end=end, calls=(call,))


_CODER_START = re.compile(r"<tool_call>|<function=")
_CODER_FUNCTION = re.compile(r"<tool_call>\s*<function=([^<>\n]+)>")
_CODER_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>\n?")
_CODER_VALUE_END = re.compile(r"</parameter>(?=\s*(?:<parameter=|</function>))")
_CODER_END = re.compile(r"\s*</function>")
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_TYPE_NAMES: dict[type, set[str]] = {
    type(None): {"null"},
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    str: {"string"},
    list: {"array"},
    dict: {"object"},
}


class Qwen3Coder:
    """`<tool_call>` around `<function=…>` and `<parameter=…>` elements: Qwen3-Coder.

    The format has no escapes: a value that holds `</parameter>` followed by another of its tags
    does not survive, and a value is text unless the tool's schema says otherwise.
    """

    name = "qwen3_coder"
    starts = ("<tool_call>", "<function=")
    call_end = "</tool_call>"

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return _parsed(text, self._find(text, tools))

    def opening(self, name: str | None) -> str:
        start = "<tool_call>\n<function="
        return start if name is None else f"{start}{name}>\n"

    def write(self, calls: Sequence[ToolCall]) -> str:
        return "\n".join(self._write(call) for call in calls)

    def _write(self, call: ToolCall) -> str:
        lines = [f"<tool_call>\n<function={call.name}>\n"]
        for key, value in call.arguments.items():
            written = value if isinstance(value, str) else _encode(value)
            lines.append(f"<parameter={key}>\n{written}\n</parameter>\n")
        return "".join([*lines, "</function>\n</tool_call>"])

    def _find(self, text: str, tools: Sequence[Tool]) -> Iterator[_Found]:
        at = answer_start(text)
        value_ends = [end.start() for end in _CODER_VALUE_END.finditer(text, at)]
        while (start := _CODER_START.search(text, at)) is not None:
            found = self._read(text, start.start(), value_ends, tools)
            yield found
            at = found.end

    def _read(self, text: str, start: int, value_ends: list[int], tools: Sequence[Tool]) -> _Found:
        try:
            function = _CODER_FUNCTION.match(text, start)
            if function is None:
                raise ValueError("not <tool_call> followed by <function=name>")
            values = _read_parameters(text, function.end(), value_ends)
            end = _after_closing(text, values.end, "</tool_call>")
        except ValueError as error:
            return _Found(start=start, end=_fragment_end(text, start), problem=str(error))
        name = function[1].strip()
        types = _parameter_types(name, tools)
        arguments = {key: _typed(raw, types.get(key, set())) for key, raw in values.value.items()}
        return _Found(start=start, end=end, calls=(ToolCall(name=name, arguments=arguments),))


def _read_parameters(text: str, at: int, value_ends: list[int]) -> _Decoded:
    """Read the parameters of one function as texts, up to its closing tag.

    `value_ends`: ascending indices of the closing tags that can end a value.
    """
    values: dict[str, str] = {}
    while (function_end := _CODER_END.match(text, at)) is None:
        parameter = _CODER_PARAMETER.match(text, at)
        if parameter is None:
            raise ValueError("neither <parameter=name> nor </function>")
        index = bisect_left(value_ends, parameter.end())
        if index == len(value_ends):
            raise ValueError(f"parameter {parameter[1]!r} is not closed")
        if parameter[1] in values:
            raise ValueError(f"parameter {parameter[1]!r} is given twice")
        end = value_ends[index]
        values[parameter[1]] = text[parameter.end() : end].removesuffix("\n")
        at = end + len("</parameter>")
    return _Decoded(value=values, end=function_end.end())


def _parameter_types(name: str, tools: Sequence[Tool]) -> dict[str, set[str]]:
    """JSON types that the tool's schema allows for each parameter, as far as it says."""
    function = _function_named(name, tools) or {}
    root = function.get("parameters") or {}
    properties = root.get("properties") or {}
    return {key: _schema_types(schema, root) for key, schema in properties.items()}


def _schema_types(schema: Any, root: Mapping[str, Any]) -> set[str]:
    if not isinstance(schema, Mapping):
        return set()
    if str(schema.get("$ref", "")).startswith("#/$defs/"):
        name = schema["$ref"].removeprefix("#/$defs/")
        return _schema_types(root.get("$defs", {}).get(name), root)
    own = schema.get("type", [])
    types = {own} if isinstance(own, str) else set(own)
    for key in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(key, []):
            types |= _schema_types(option, root)
    return types


def _typed(raw: str, types: set[str]) -> Any:
    """The value that `raw` stands for if it is of one of the types; else `raw` itself."""
    if types <= {"string"}:
        return raw
    try:
        value = _decode_parameter(raw)
    except ValueError:
        return raw
    return value if _type_names(value) & types else raw


def _decode_parameter(raw: str) -> Any:
    # Chat templates print booleans and null as Python does.
    if raw.strip() in _PYTHON_WORDS:
        return _PYTHON_WORDS[raw.strip()]
    return _decode_all(raw)


def _type_names(value: Any) -> set[str]:
    """The JSON types that a decoded value belongs to."""
    if isinstance(value, float) and value.is_integer():
        return {"number", "integer"}
    return _TYPE_NAMES[type(value)]


_LLAMA_START = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"[^"]*"\s*,\s*'
    r'"(?:parameters|arguments)"\s*:'
)
_PYTHON_TAG = "<|python_tag|>"


class Llama3Json:
    """The whole reply is {"name", "parameters"}, several separated by `;`: Llama 3.

    A reply that is some other JSON is text.
    """

    name = "llama3_json"
    starts = ("{", _PYTHON_TAG)
    call_end = "}"

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return _parsed(text, self._find(text))

    def opening(self, name: str | None) -> str:
        return '{"name": "' if name is None else f'{{"name": {_encode(name)}, "parameters":'

    def write(self, calls: Sequence[ToolCall]) -> str:
        return "; ".join(
            _encode({"name": call.name, "parameters": call.arguments}) for call in calls
        )

    def _find(self, text: str) -> Iterator[_Found]:
        start = at = _after_space(text, answer_start(text))
        if text.startswith(_PYTHON_TAG, at):
            at += len(_PYTHON_TAG)
        elif _LLAMA_START.match(text, at) is None:
            return
        while start < len(text):
            found = self._read(text, start, at)
            yield found
            start = at = found.end

    def _read(self, text: str, start: int, at: int) -> _Found:
        try:
            decoded = _decode(text, at)
            call = _as_call(decoded.value, "parameters", "arguments")
            end = _after_closing(text, decoded.end, ";")
        except ValueError as error:
            return _Found(start=start, end=len(text), problem=str(error))
        return _Found(start=start, end=end, calls=(call,))


_MISTRAL_TAG = "[TOOL_CALLS]"
_MISTRAL_NAME = re.compile(r"\s*([^\s\[\]{}]+)(?:\[CALL_ID\]([^\s\[\]{}]+))?\[ARGS\]")


class Mistral:
    """`[TOOL_CALLS]` before one JSON list of {"name", "arguments"}: older Mistral."""

    name = "mistral"
    starts = (_MISTRAL_TAG,)
    call_end = None

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return _parsed(text, self._find(text))

    def opening(self, name: str | None) -> str:
        start = f'{_MISTRAL_TAG}[{{"name": '
        return f'{start}"' if name is None else f'{start}{_encode(name)}, "arguments":'

    def write(self, calls: Sequence[ToolCall]) -> str:
        return f"{_MISTRAL_TAG}{_encode([self._entry(call) for call in calls])}" if calls else ""

    def _entry(self, call: ToolCall) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": call.name, "arguments": call.arguments}
        return entry if call.id is None else {**entry, "id": call.id}

    def _find(self, text: str) -> Iterator[_Found]:
        start = text.find(_MISTRAL_TAG, answer_start(text))
        if start >= 0:
            yield self._read(text, start)

    def _read(self, text: str, start: int) -> _Found:
        try:
            decoded = _decode(text, start + len(_MISTRAL_TAG))
            if not isinstance(decoded.value, list) or not decoded.value:
                raise ValueError("the JSON is not a list of calls")
            if text[decoded.end :].strip():
                raise ValueError("text after the JSON")
            calls = tuple(_as_call(entry, "arguments") for entry in decoded.value)
        except ValueError as error:
            return _Found(start=start, end=len(text), problem=str(error))
        return _Found(start=start, end=len(text), calls=calls)


class MistralArgs:
    """`[TOOL_CALLS]name[ARGS]{…}` for each call, with or without `[CALL_ID]`: newer Mistral."""

    name = "mistral_args"
    starts = (_MISTRAL_TAG,)
    call_end = "}"

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        return _parsed(text, self._find(text))

    def opening(self, name: str | None) -> str:
        return _MISTRAL_TAG if name is None else f"{_MISTRAL_TAG}{name}[ARGS]"

    def write(self, calls: Sequence[ToolCall]) -> str:
        return "".join(self._write(call) for call in calls)

    def _write(self, call: ToolCall) -> str:
        call_id = "" if call.id is None else f"[CALL_ID]{call.id}"
        return f"{_MISTRAL_TAG}{call.name}{call_id}[ARGS]{_encode(call.arguments)}"

    def _find(self, text: str) -> Iterator[_Found]:
        at = answer_start(text)
        while (start := text.find(_MISTRAL_TAG, at)) >= 0:
            found = self._read(text, start)
            yield found
            at = found.end

    def _read(self, text: str, start: int) -> _Found:
        try:
            name = _MISTRAL_NAME.match(text, start + len(_MISTRAL_TAG))
            if name is None:
                raise ValueError("not a name followed by [ARGS]")
            decoded = _decode(text, name.end())
            call = ToolCall(name=name[1], arguments=_as_arguments(decoded.value), id=name[2])
            end = _after_space(text, decoded.end)
            if end < len(text) and not text.startswith(_MISTRAL_TAG, end):
                raise ValueError("text after the JSON")
        except ValueError as error:
            next_tag = text.find(_MISTRAL_TAG, start + 1)
            end = len(text) if next_tag < 0 else next_tag
            return _Found(start=start, end=end, problem=str(error))
        return _Found(start=start, end=end, calls=(call,))


FORMATS: dict[str, ToolFormat] = {
    tool_format.name: tool_format
    for tool_format in (Hermes(), Qwen3Coder(), Llama3Json(), Mistral(), MistralArgs())
}

FOLDED_FORMAT = FORMATS["hermes"]
"""In which `default_tool_prompt` asks for calls and `fold_tools` writes them."""


_PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe_lookup",
        "description": "Look something up.",
        "parameters": {
            "type": "object",
            "properties": {
                "topic": {"type": "string", "description": "What to look up."},
                "count": {"type": "integer", "description": "How many results."},
            },
            "required": ["topic", "count"],
        },
    },
}
_PROBE_ARGUMENTS = {"topic": "rivers", "count": 3}
_PROBE_CALL: Message = {
    # Mistral's templates insist on ids of nine letters or digits.
    "id": "probe0001",
    "type": "function",
    "function": {"name": "probe_lookup", "arguments": _PROBE_ARGUMENTS},
}
# Shares no first character with a tool call, so that the two renderings part where it begins.
_PROBE_TEXT = "Understood."


def detect_format(render: Render) -> ToolFormat | None:
    """Find the format that a chat template writes, by rendering a probe call.

    None if the template ignores tools or cannot render a call: use `fold_tools` for it.
    Raises ConfigError for a template that writes calls in no known format.
    """
    written = _rendered_probe(render)
    if written is None:
        return None
    for tool_format in FORMATS.values():
        reply = tool_format.parse(written, [_PROBE_TOOL])
        calls = [(call.name, call.arguments) for call in reply.tool_calls]
        if calls == [("probe_lookup", _PROBE_ARGUMENTS)] and not reply.malformed:
            return tool_format
    raise ConfigError(
        "the chat template writes tool calls in an unknown format: it rendered a probe call as "
        f"{_shown(written)!r}. Known formats: {', '.join(FORMATS)}. Use a model with one of "
        "these, or a chat template without tools, for which tools are described in the prompt."
    )


def _rendered_probe(render: Render) -> str | None:
    """What the template writes for the probe call, without what surrounds every reply."""
    from jinja2 import TemplateError

    user: Message = {"role": "user", "content": "Hello."}
    plain_reply: Message = {"role": "assistant", "content": _PROBE_TEXT}
    call_reply: Message = {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}
    tools = [_PROBE_TOOL]
    try:
        if render([user], None) == render([user], tools):
            return None
        plain = render([user, plain_reply], tools)
        called = render([user, call_reply], tools)
    # Templates run as Python: one that was not written for calls fails with any of these.
    except (EngineError, TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return None
    pairs = enumerate(zip(plain, called, strict=False))
    start = next((index for index, (one, other) in pairs if one != other), len(plain))
    end_of_turn = plain.rpartition(_PROBE_TEXT)[2].strip()
    written = called[start:].rstrip().removesuffix(end_of_turn)
    return written if "probe_lookup" in written else None


def default_tool_prompt(tools: Sequence[Tool]) -> str:
    """What a system message says about the tools when the chat template cannot say it."""
    functions = "\n".join(_encode(tool["function"]) for tool in tools)
    example = (
        '<tool_call>\n{"name": "function name", "arguments": {"argument": "value"}}\n</tool_call>'
    )
    return (
        "You can call functions. Each line between the tags describes one as a JSON schema:\n"
        f"<tools>\n{functions}\n</tools>\n"
        "To call a function, write JSON with its name and arguments between these tags:\n"
        f"{example}\n"
        "Its result is given to you in <tool_response></tool_response>."
    )


def fold_tools(messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[Message]:
    """Express tools, calls and results in plain system, user and assistant messages.

    The tools go into the system message, which is added if missing. Every other message is
    folded by itself, so that the folding of a conversation begins with the folding of each of
    its beginnings. For the same reason each result is a user message of its own, although
    the results of parallel calls arrive together. Contents are texts or None.
    """
    folded = [_fold(message) for message in messages]
    if not tools:
        return folded
    prompt = default_tool_prompt(tools)
    if not folded or folded[0]["role"] != "system":
        return [{"role": "system", "content": prompt}, *folded]
    return [{**folded[0], "content": _joined("\n\n", folded[0]["content"], prompt)}, *folded[1:]]


def _fold(message: Message) -> Message:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    if not message.get("tool_calls"):
        return message
    functions = [entry["function"] for entry in message["tool_calls"]]
    calls = [
        ToolCall(name=function["name"], arguments=function.get("arguments") or {})
        for function in functions
    ]
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": _joined("\n", content, FOLDED_FORMAT.write(calls))}


def _joined(separator: str, *parts: str | None) -> str:
    return separator.join(part for part in parts if part)


def check_tools(tools: Sequence[Tool]) -> None:
    """Raises RequestError for a tool whose parameters are no schema."""
    for tool in tools:
        function = tool["function"]
        try:
            check_schema(_parameters(function))
        except ValueError as error:
            raise _unusable(function["name"], error) from error


def check_call(call: ToolCall, tools: Sequence[Tool]) -> str | None:
    """Say why a call is wrong; None if its tool was offered and the arguments fit the schema.

    Raises RequestError if the schema of the tool is itself invalid.
    """
    function = _function_named(call.name, tools)
    if function is None:
        return _not_offered(call.name, tools)
    try:
        error = first_error(_parameters(function), call.arguments)
    except ValueError as problem:
        raise _unusable(call.name, problem) from problem
    return None if error is None else f"call of {call.name!r}: {_shown(_in_words(error))}"


def _parameters(function: Mapping[str, Any]) -> Mapping[str, Any]:
    return function.get("parameters") or {"type": "object"}


def _unusable(name: str, error: ValueError) -> RequestError:
    return RequestError(
        f"tool {name!r}: its parameters are not a valid JSON schema: {_shown(str(error))}. Correct "
        "the tool that the workflow offers.",
        param="tools",
    )


def _function_named(name: str, tools: Sequence[Tool]) -> Mapping[str, Any] | None:
    functions = (tool["function"] for tool in tools)
    return next((function for function in functions if function["name"] == name), None)


def _not_offered(name: str, tools: Sequence[Tool]) -> str:
    offered = [tool["function"]["name"] for tool in tools]
    if not offered:
        return f"call of {_shown(name)!r}, but no tools were offered"
    near = difflib.get_close_matches(name[:SHOWN_CHARACTERS], offered, n=1)
    hint = f"nearest is {near[0]!r}" if near else f"offered are {_shown(', '.join(offered))}"
    return f"call of {_shown(name)!r}, which was not offered; {hint}"


def _in_words(error: Any) -> str:
    """Word one jsonschema ValidationError."""
    where = error.json_path.removeprefix("$").removeprefix(".")
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        inside = f" in {where!r}" if where else ""
        return f"argument {missing[0]!r} is missing{inside}"
    if error.validator == "type":
        expected = error.validator_value
        types = expected if isinstance(expected, str) else " or ".join(expected)
        return f"argument {where!r} is {_shown(_encode(error.instance))}, not of type {types}"
    return f"argument {where!r}: {error.message}" if where else str(error.message)
