"""What several wire formats share: fields that mean the same, and parts of answers that look alike.

Owns no format; the contract of one stands in `wire_format.py`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from astuner.gateway.refusals import bad_request, unsupported
from astuner.gateway.wires.body import Fields
from astuner.inference.answer_format import AnswerFormat
from astuner.inference.request import ChatReply, ChatRequest, SampledToken
from astuner.serving.json_text import JSON
from astuner.serving.refusal import Refusal

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
FINISH_REASONS = {"stop": "stop", "cut": "stop", "length": "length", "context_overflow": "length"}
"""Of OpenAI's formats, by those of a reply."""
_CHANGES_NOTHING = (
    "user",  # labels of the client
    "metadata",
    "safety_identifier",
    "prompt_cache_key",  # caching never changes an answer
    "prompt_cache_retention",
)
_SESSION_NAMES = ("session_id", "conversation_id", "thread_id")
"""In the metadata of a call."""
_MAX_NAME_CHARACTERS = 256
_LEAST_LOGPROB = -9999.0
_OPENAI_ERRORS = {401: "authentication_error", 413: "request_too_large", 503: "server_error"}


def choices(request: ChatRequest, num_choices: int) -> tuple[ChatRequest, ...]:
    """The request so many times, with a seed of its own for each."""
    if request.seed is None:
        return (request,) * num_choices
    seed = request.seed * num_choices
    return tuple(replace(request, seed=seed + index) for index in range(num_choices))


def stream_options(fields: Fields) -> bool:
    """Whether a stream ends with the usage."""
    options = fields.inside(fields.mapping("stream_options") or {}, path="stream_options.")
    options.ignore("include_obfuscation")
    include_usage = options.flag("include_usage")
    options.close()
    return include_usage


def refuse_unsupported(fields: Fields) -> None:
    """What the formats of OpenAI have in common beside the call itself."""
    why = "the model is sampled by temperature, top_p and top_k alone"
    fields.only("frequency_penalty", 0, 0.0, why=why)
    fields.only("presence_penalty", 0, 0.0, why=why)
    fields.only("logit_bias", {}, why=why)
    fields.only("store", False, why="no answer can be fetched later")
    fields.only("service_tier", "auto", "default", why="there is one tier")
    fields.ignore(*_CHANGES_NOTHING)


class Named(NamedTuple):
    """What a client says of a call that changes nothing about its answer."""

    user: str | None
    session: str | None


def named_by_client(fields: Fields) -> Named:
    """Under whichever of the names that clients use; what is no text counts as not said."""
    metadata = fields.raw("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    users = (fields.raw("user"), fields.raw("safety_identifier"), metadata.get("user_id"))
    sessions = [metadata.get(name) for name in _SESSION_NAMES]
    sessions.append(fields.raw("prompt_cache_key"))
    return Named(user=_first_text(users), session=_first_text(sessions))


def _first_text(values: Iterable[object]) -> str | None:
    found = (one[:_MAX_NAME_CHARACTERS] for one in values if isinstance(one, str) and one)
    return next(found, None)


def top_logprobs(fields: Fields, *, wants_tokens: bool) -> int:
    """How many of the most probable tokens are to be told."""
    num_top = fields.whole("top_logprobs", low=0, high=MAX_TOP_LOGPROBS) or 0
    if num_top and not wants_tokens:
        why = "top_logprobs needs logprobs too; ask for both"
        fields.refuse(bad_request(why, param="top_logprobs"))
    return num_top


def no_messages() -> Refusal:
    return bad_request("messages is missing; send at least one message", param="messages")


def function_tool(outer: Fields, function: JSON, *, path: str) -> JSON:
    """A function in the form that chat templates know, its keys in the client's order.

    `strict` is taken and dropped: arguments are as the model writes them, never constrained.
    """
    fields = outer.inside(function, path=path)
    if not fields.text("name"):
        raise bad_request(f"{fields.name('name')} is missing", param=fields.name("name"))
    fields.text("description")
    has_parameters = fields.mapping("parameters") is not None
    fields.flag("strict")
    fields.close()
    kept = {k: v for k, v in function.items() if k != "strict" and v is not None}
    if not has_parameters:
        kept["parameters"] = {"type": "object", "properties": {}}
    return {"type": "function", "function": kept}


def tool_choice(fields: Fields, tools: Sequence[Mapping[str, Any]]) -> str:
    """auto, none, required or a tool's name, from either spelling of OpenAI.

    Where the tools are wrong, nothing is said of a choice among them.
    """
    choice = fields.raw("tool_choice", "auto")
    if not fields.is_right("tools"):
        return "auto"
    return fields.attempt(lambda fields: _chosen(fields, choice, tools), "auto")


def _chosen(fields: Fields, choice: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    if isinstance(choice, dict):
        named = fields.inside(choice, path="tool_choice.")
        named.only("type", "function", why="expected auto, none, required or a function")
        function = named.mapping("function")
        inner = named if function is None else named.inside(function, path="tool_choice.function.")
        name = inner.text("name")
        inner.close()
        named.close()
        return named_tool(name, tools)
    if choice not in ("auto", "none", "required"):
        raise unsupported("tool_choice", "expected auto, none, required or a function")
    if choice == "required" and not tools:
        raise bad_request("tool_choice is required, but no tools are offered", param="tool_choice")
    return choice


def named_tool(name: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    """The name itself, where such a tool is offered."""
    names = [tool["function"]["name"] for tool in tools]
    if name not in names:
        raise bad_request(
            f"tool_choice names {name!r}; the offered tools are {names}", param="tool_choice"
        )
    return name


def plain_format(kind: str, param: str) -> AnswerFormat | None:
    """The formats that need no schema."""
    if kind == "json_object":
        return AnswerFormat(schema=None)
    if kind != "text":
        raise unsupported(param, f"{kind!r} is not one of text, json_object, json_schema")
    return None


def schema_format(fields: Fields) -> AnswerFormat:
    """From the fields name, description, schema and strict."""
    fields.text("name")
    fields.text("description")
    fields.flag("strict")
    schema = fields.mapping("schema")
    fields.close()
    return AnswerFormat(schema=schema or {})


def arguments_text(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def token_logprobs(reply: ChatReply) -> list[JSON]:
    """The engine's own, one entry for each sampled token but the end token."""
    return [
        {**_logprob(token), "top_logprobs": [_logprob(other) for other in token.top]}
        for token in reply.tokens or ()
    ]


def _logprob(token: SampledToken) -> JSON:
    utf8 = None if token.utf8 is None else list(token.utf8)
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": utf8}


def finite(logprob: float) -> float:
    """In place of minus infinity, which JSON does not have, what OpenAI documents for it."""
    return max(logprob, _LEAST_LOGPROB)


def usage(replies: Sequence[ChatReply]) -> JSON:
    """The prompt that all choices share counts once."""
    num_prompt = replies[0].num_prompt_tokens
    num_sampled = sum(reply.num_sampled_tokens for reply in replies)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_sampled,
        "total_tokens": num_prompt + num_sampled,
    }


def openai_error(refusal: Refusal) -> JSON:
    return {
        "error": {
            "message": refusal.message,
            "type": error_type(refusal, _OPENAI_ERRORS, own_fault="server_error"),
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def error_type(refusal: Refusal, types: Mapping[int, str], *, own_fault: str) -> str:
    """The word of a wire format for the status: from `types`, or by whose fault it is."""
    default = "invalid_request_error" if refusal.status < 500 else own_fault
    return types.get(refusal.status, default)
