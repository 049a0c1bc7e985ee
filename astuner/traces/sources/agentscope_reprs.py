"""What AgentScope before 1.0.9 wrote of its objects: the text that Python shows of them."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MAX_CHARACTERS = 4_000_000
"""Of one text that is parsed as Python."""


class WrongRepr(ValueError):
    """A text that is no object of AgentScope as Python shows it."""


def read_repr(value: Any) -> Any:
    """The fields of `Msg(…)`, `ToolResponse(…)` and the like; anything else as it is.

    Raises WrongRepr where it begins so and does not parse.
    """
    if not isinstance(value, str) or not _looks_like_call(value):
        return value
    if len(value) > _MAX_CHARACTERS:
        raise WrongRepr("an object of AgentScope as a text that is too long")
    try:
        call = ast.parse(value.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError(value)
        return {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise WrongRepr("an object of AgentScope as a text that does not parse") from error


def old_attributes(told: Mapping[str, Any]) -> dict[str, Any]:
    """The names of today's conventions for what a span of that time tells, in attributes that were
    nested as Studio nests them. Raises WrongRepr."""
    kind = _at(told, "span.kind") or _OLD_KINDS.get(str(_at(told, "gen_ai.operation.name")), "")
    function = _at(told, "agentscope.function") or {}
    asked = told.get("input", function.get("input"))
    answered = told.get("output", function.get("output"))
    about = told.get("metadata") or {}
    run_id = _at(told, "project.run_id") or _at(told, "gen_ai.conversation.id")
    shared = {"gen_ai.conversation.id": run_id} if run_id else {}
    match str(kind).upper():
        case "LLM":
            model = about.get("model_name") or _at(told, "gen_ai.request.model")
            return {**shared, "gen_ai.request.model": model, **_call(asked, answered)}
        case "AGENT":
            agent = about.get("name") or _at(told, "gen_ai.agent.name")
            return {**shared, "gen_ai.agent.name": agent, **_reply(asked, answered)}
        case "TOOL":
            return {**shared, **_tool(asked, answered)}
    return shared


_OLD_KINDS = {"chat": "LLM", "invoke_agent": "AGENT", "execute_tool": "TOOL"}
"""What Studio made of the kinds when it moved its table."""


def _call(asked: Any, answered: Any) -> dict[str, Any]:
    args, kwargs = _arguments(asked)
    reply = read_repr(answered)
    told: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": kwargs.get("messages", args[0] if args else []),
        "gen_ai.tool.definitions": kwargs.get("tools", args[1] if len(args) > 1 else None) or [],
    }
    if isinstance(reply, Mapping):
        message = {"role": "assistant", "content": reply.get("content") or []}
        told["gen_ai.output.messages"] = [message]
        usage = reply.get("usage")
        if isinstance(usage, Mapping):
            names = ("input_tokens", "output_tokens")
            told |= {f"gen_ai.usage.{name}": usage[name] for name in names if name in usage}
    return told


def _reply(asked: Any, answered: Any) -> dict[str, Any]:
    args, kwargs = _arguments(asked)
    question = kwargs.get("msg", args[0] if args else None)
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.input.messages": list(_messages(question)),
        "gen_ai.output.messages": list(_messages(answered)),
    }


def _messages(value: Any) -> Iterator[Mapping[str, Any]]:
    """Of one message, of a list of some, or of none."""
    for one in value if isinstance(value, list) else [value]:
        message = read_repr(one)
        if isinstance(message, Mapping) and "role" in message:
            role = message["role"]
            name = {} if role == "assistant" else {"name": message.get("name")}
            yield {"role": role, "content": message.get("content"), **name}


def _tool(asked: Any, answered: Any) -> dict[str, Any]:
    call = asked.get("tool_call") if isinstance(asked, Mapping) else None
    named = read_repr(call)
    named = named if isinstance(named, Mapping) else {}
    result = read_repr(answered)
    content = result.get("content") if isinstance(result, Mapping) else result
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": named.get("name"),
        "gen_ai.tool.call.id": named.get("id"),
        "gen_ai.tool.call.result": content,
    }


def _arguments(asked: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if not isinstance(asked, Mapping):
        return (), {}
    args, kwargs = asked.get("args"), asked.get("kwargs")
    return args if isinstance(args, list) else (), kwargs if isinstance(kwargs, Mapping) else {}


def _at(told: Mapping[str, Any], path: str) -> Any:
    place: Any = told
    for name in path.split("."):
        place = place.get(name) if isinstance(place, Mapping) else None
    return place


def _looks_like_call(text: str) -> bool:
    name, bracket, _ = text.lstrip().partition("(")
    return bool(bracket) and name.isidentifier() and name[:1].isupper() and text.rstrip()[-1] == ")"
