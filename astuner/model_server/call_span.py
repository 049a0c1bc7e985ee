"""A served call as a span of OpenTelemetry's conventions for generative AI.

Source: open-telemetry/semantic-conventions-genai, docs/gen-ai/client-inference.md, behind v1.41.0:
messages, system instructions and tools in the structured form. What the conventions have no name
for stands under `astuner.`: the ids of the tokens, the log-probabilities of the sampled ones, and
which weights sampled them, so that training can use them again.
"""

from collections.abc import Mapping
from typing import Any

from astuner.model_server.answer_ids import response_id, span_id, trace_id
from astuner.model_server.served_call import ServedCall
from astuner.traces.genai_messages import (
    genai_definition,
    genai_message,
    message_parts,
    numbers_text,
    short_logprob,
)
from astuner.traces.otlp_json import JSON, attributes, nanoseconds
from astuner.traces.private_text import PrivateMask
from astuner.types import Message

CALL_ID = "gen_ai.response.id"
KEY = "astuner.key"
_CLIENT = 3
"""SPAN_KIND_CLIENT, which the conventions want for calls over HTTP, whoever records them."""
_ERROR = 2
_SYSTEM_APART = ("/v1/messages", "/v1/responses")
"""Wire formats with a field for what the system says; the others have it among the messages."""
_COMPLETIONS = "/v1/completions"
_FINISH_REASONS = {"stop": "stop", "cut": "stop", "length": "length", "context_overflow": "length"}
_PROMPT_KINDS = ("input", "tools", "output")
"""Parts of a call that its token ids would reveal."""


def call_span(call: ServedCall, mask: PrivateMask | None) -> JSON:
    """The span of a call; where something is masked in it, without token ids."""
    told = _told(call)
    kinds: set[str] = set()
    hides_ids = False
    if mask is not None:
        masked = {name: mask.mask(value) for name, value in told.items()}
        told = {name: one.value for name, one in masked.items()}
        kinds = {kind for one in masked.values() for kind in one.kinds}
        hides_ids = any(masked[name].kinds for name in _PROMPT_KINDS)
    return {
        "traceId": trace_id(call.call_id),
        "spanId": span_id(call.call_id),
        "name": f"{_operation(call)} {told['model']}",
        "kind": _CLIENT,
        "startTimeUnixNano": nanoseconds(call.started),
        "endTimeUnixNano": nanoseconds(call.started + call.seconds),
        "attributes": attributes(
            {
                **_numbers(call),
                **_texts(call, told),
                "astuner.is_masked": mask is not None,
                "astuner.masked_kinds": sorted(kinds),
                **({"astuner.token_ids": "masked"} if hides_ids else _tokens(call)),
            }
        ),
        "status": _status(call, told["error"]),
    }


def _told(call: ServedCall) -> dict[str, Any]:
    """All in it that clients and the model wrote."""
    return {
        "input": call.messages,
        "tools": call.tools,
        "output": call.reply,
        "model": call.model,
        "user": call.user,
        "session": call.session,
        "error": call.error,
    }


def _operation(call: ServedCall) -> str:
    return "text_completion" if call.path == _COMPLETIONS else "chat"


def _numbers(call: ServedCall) -> dict[str, Any]:
    """What holds nothing that anybody wrote. The id and the key come first, where they are looked
    for in files of gigabytes."""
    known = {
        CALL_ID: response_id(call.path, call.call_id),
        KEY: call.key,
        "gen_ai.operation.name": _operation(call),
        "gen_ai.provider.name": "astuner",
        "gen_ai.response.model": call.answered_by,
        "gen_ai.response.finish_reasons": _finish_reasons(call),
        "gen_ai.request.temperature": call.temperature,
        "gen_ai.request.top_p": call.top_p,
        "gen_ai.request.top_k": call.top_k if call.top_k > 0 else None,
        "gen_ai.request.stream": call.is_stream,
        "gen_ai.response.time_to_first_chunk": call.seconds_to_first_token,
        "gen_ai.usage.input_tokens": len(call.prompt_ids) or None,
        "gen_ai.usage.output_tokens": len(call.reply_ids) if call.prompt_ids else None,
        "url.path": call.path,
        "http.response.status_code": call.status,
        "error.type": None if call.is_answered else str(call.status),
        "astuner.weights": call.weights,
    }
    return {key: value for key, value in known.items() if value is not None}


def _texts(call: ServedCall, told: Mapping[str, Any]) -> dict[str, Any]:
    messages, system = told["input"], []
    if call.path in _SYSTEM_APART and messages and messages[0]["role"] == "system":
        system, messages = message_parts(messages[0]), messages[1:]
    known = {
        "gen_ai.request.model": told["model"],
        "gen_ai.conversation.id": told["session"],
        "user.id": told["user"],
        "gen_ai.system_instructions": system or None,
        "gen_ai.input.messages": [genai_message(message) for message in messages],
        "gen_ai.output.messages": [_output(call, told["output"])] if told["output"] else None,
        "gen_ai.tool.definitions": [genai_definition(tool) for tool in told["tools"]] or None,
    }
    return {key: value for key, value in known.items() if value is not None}


def _tokens(call: ServedCall) -> dict[str, str]:
    """As JSON in texts: an AnyValue for each number takes four times the room."""
    if not call.prompt_ids:
        return {}
    return {
        "astuner.prompt_ids": numbers_text(call.prompt_ids),
        "astuner.reply_ids": numbers_text(call.reply_ids),
        "astuner.reply_logprobs": numbers_text([short_logprob(value) for value in call.logprobs]),
    }


def _status(call: ServedCall, error: str | None) -> JSON:
    if call.is_answered:
        return {}
    return {"code": _ERROR, "message": error or "the client went before the end of its answer"}


def _finish_reasons(call: ServedCall) -> list[str] | None:
    if call.reply is None or call.finish_reason is None:
        return None
    if call.reply.get("tool_calls"):
        return ["tool_call"]
    return [_FINISH_REASONS.get(call.finish_reason, call.finish_reason)]


def _output(call: ServedCall, reply: Message) -> JSON:
    """With the reason to end, though the newest conventions have it elsewhere: the published schema
    of messages demands it."""
    reasons = _finish_reasons(call) or ["error"]
    return {**genai_message(reply), "finish_reason": reasons[0]}
