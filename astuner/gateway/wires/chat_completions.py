"""`POST /v1/chat/completions`: OpenAI's chat completions, body to call and reply to body.

Reasoning stands in `reasoning_content`, as other open servers write it.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from astuner.gateway.refusals import bad_request
from astuner.gateway.wires.body import Fields, fields_of
from astuner.gateway.wires.shared import (
    FINISH_REASONS,
    MAX_CHOICES,
    arguments_text,
    choices,
    function_tool,
    named_by_client,
    no_messages,
    openai_error,
    plain_format,
    refuse_unsupported,
    schema_format,
    stream_options,
    token_logprobs,
    tool_choice,
    top_logprobs,
    usage,
)
from astuner.gateway.wires.wire_format import ANY_MODEL, Ask, Head, WireFormat
from astuner.inference.answer_format import AnswerFormat
from astuner.inference.request import ChatReply, ChatRequest
from astuner.inference.tools.protocol import ToolCall
from astuner.inference.watch import Delta
from astuner.serving.json_text import JSON, data_event, to_json
from astuner.serving.refusal import Refusal

_NOTED_BY_CLIENTS = ("annotations", "provider_specific_fields")
"""About an answer that is sent back: OpenAI's SDK and LiteLLM keep them in its message."""
_MARK = "text of a delta"
"""Stands in a chunk where its text will; nothing behind it in a chunk is a client's."""
_MESSAGE_KEYS = ("role", "content", "name", "tool_call_id", "reasoning_content")
"""Read further in `astuner.inference.messages`."""


def read(body: JSON) -> Ask:
    with fields_of(body) as fields:
        model = fields.text("model", ANY_MODEL)
        request = _request(fields)
        num_choices = fields.whole("n", low=1, high=MAX_CHOICES) or 1
        named = named_by_client(fields)
        refuse_unsupported(fields)
        return Ask(
            requests=choices(request, num_choices),
            model=model,
            is_stream=fields.flag("stream"),
            user=named.user,
            session=named.session,
            temperature=fields.number("temperature"),
            top_p=fields.number("top_p"),
            top_k=fields.whole("top_k", low=-1),
            options={"include_usage": stream_options(fields)},
        )


def _request(fields: Fields) -> ChatRequest:
    messages = fields.each("messages", _message)
    if not messages and fields.is_right("messages"):
        fields.refuse(no_messages())
    tools = fields.each("tools", _tool)
    wants_tokens = fields.flag("logprobs")
    fields.only("modalities", ["text"], why="the model writes text")
    asked = fields.whole("max_completion_tokens", low=1), fields.whole("max_tokens", low=1)
    return ChatRequest(
        messages=messages,
        tools=tools,
        tool_choice=tool_choice(fields, tools),
        only_one_call=not fields.flag("parallel_tool_calls", default=True),
        stops=fields.stops("stop"),
        max_new_tokens=min((limit for limit in asked if limit is not None), default=None),
        seed=fields.whole("seed", low=0, high=2**63),
        wants_tokens=wants_tokens,
        num_top_logprobs=top_logprobs(fields, wants_tokens=wants_tokens),
        answer_format=fields.attempt(_answer_format, None),
        chat_template_kwargs=fields.mapping("chat_template_kwargs") or {},
    )


def _message(fields: Fields) -> JSON:
    kept = {key: fields.raw(key) for key in _MESSAGE_KEYS if fields.has(key)}
    fields.ignore(*_NOTED_BY_CLIENTS)
    calls = fields.objects("tool_calls")
    fields.close()
    for place, call in enumerate(calls):
        _check_call(fields.inside(call, path=fields.name(f"tool_calls[{place}].")))
    return {**kept, "tool_calls": calls} if calls else kept


def _check_call(fields: Fields) -> None:
    """Refuse what the template would not get of a call that an assistant made."""
    fields.only("type", "function", why="only calls of functions are known")
    function = fields.inside(fields.mapping("function") or {}, path=fields.name("function."))
    fields.ignore("id", "index")
    function.ignore("name", "arguments")
    fields.close()
    function.close()


def _tool(outer: Fields) -> dict[str, Any]:
    outer.only("type", "function", why="only function tools can be offered")
    function, name = outer.mapping("function"), outer.name("function")
    if function is None:
        raise bad_request(f"{name} is missing", param=name)
    outer.close()
    return function_tool(outer, function, path=f"{name}.")


def _answer_format(fields: Fields) -> AnswerFormat | None:
    wanted = fields.mapping("response_format") or {"type": "text"}
    outer = fields.inside(wanted, path="response_format.")
    kind = outer.text("type")
    if kind == "json_schema":
        schema = outer.mapping("json_schema") or {}
        outer.close()
        return schema_format(outer.inside(schema, path="response_format.json_schema."))
    outer.close()
    return plain_format(kind, "response_format.type")


def write(ask: Ask, head: Head, replies: Sequence[ChatReply]) -> JSON:
    return {
        "id": f"chatcmpl-{head.id}",
        "object": "chat.completion",
        "created": head.created,
        "model": ask.model,
        "choices": [_choice(index, reply) for index, reply in enumerate(replies)],
        "usage": usage(replies),
    }


def _choice(index: int, reply: ChatReply) -> JSON:
    message: JSON = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if not reply.tool_calls:
        message["content"] = reply.text
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in reply.tool_calls]
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(reply),
        "finish_reason": finish_reason(reply),
    }


def finish_reason(reply: ChatReply) -> str:
    reason = FINISH_REASONS[reply.finish_reason]
    return "tool_calls" if reply.tool_calls and reason == "stop" else reason


def _tool_call(call: ToolCall) -> JSON:
    function = {"name": call.name, "arguments": arguments_text(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _logprobs(reply: ChatReply) -> JSON | None:
    if reply.tokens is None:
        return None
    return {"content": token_logprobs(reply), "refusal": None}


class _ChatCompletionEvents:
    """chat.completion.chunk events."""

    def __init__(self, ask: Ask, head: Head) -> None:
        self._ask = ask
        self._frame = {
            "id": f"chatcmpl-{head.id}",
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": ask.model,
        }
        # All chunks of a kind are alike but for their text, and a reply has hundreds of them.
        self._around = cache(self._make_around)

    def start(self) -> list[bytes]:
        first = {"role": "assistant", "content": ""}
        return [self._chunk(index, first) for index in range(len(self._ask.requests))]

    def delta(self, choice: int, delta: Delta) -> list[bytes]:
        before, behind = self._around(choice, delta.kind)
        return [b"".join((before, to_json(delta.text), behind))]

    def end(self, replies: Sequence[ChatReply]) -> list[bytes]:
        events = []
        for index, reply in enumerate(replies):
            events += [
                self._chunk(index, {"tool_calls": [{"index": number, **_tool_call(call)}]})
                for number, call in enumerate(reply.tool_calls)
            ]
            events.append(
                self._chunk(
                    index,
                    {},
                    logprobs=_logprobs(reply),
                    finish_reason=finish_reason(reply),
                )
            )
        if self._ask.options["include_usage"]:
            events.append(data_event({**self._frame, "choices": [], "usage": usage(replies)}))
        return [*events, b"data: [DONE]\n\n"]

    def fail(self, refusal: Refusal) -> list[bytes]:
        return [data_event(openai_error(refusal))]

    def _make_around(self, choice: int, kind: str) -> tuple[bytes, bytes]:
        """What stands before and behind the text of a chunk."""
        key = "content" if kind == "text" else "reasoning_content"
        before, _, behind = self._chunk(choice, {key: _MARK}).rpartition(to_json(_MARK))
        return before, behind

    def _chunk(
        self,
        index: int,
        delta: JSON,
        *,
        logprobs: JSON | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        chunk = {**self._frame, "choices": [choice]}
        if self._ask.options["include_usage"]:
            chunk["usage"] = None
        return data_event(chunk)


CHAT_COMPLETIONS = WireFormat(
    path="/v1/chat/completions",
    read=read,
    write=write,
    events=_ChatCompletionEvents,
    error=openai_error,
)
