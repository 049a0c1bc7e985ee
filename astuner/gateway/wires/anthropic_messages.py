"""`POST /v1/messages`: Anthropic's messages, body to call and reply to body."""

from collections.abc import Iterator, Sequence
from typing import Any

from astuner.gateway.refusals import bad_request, unsupported
from astuner.gateway.wires.body import Fields, fields_of
from astuner.gateway.wires.shared import (
    arguments_text,
    error_type,
    function_tool,
    named_by_client,
    named_tool,
    no_messages,
)
from astuner.gateway.wires.wire_format import ANY_MODEL, Ask, Head, WireFormat
from astuner.inference.answer_format import AnswerFormat
from astuner.inference.request import ChatReply, ChatRequest
from astuner.inference.watch import Delta
from astuner.serving.json_text import JSON, data_event
from astuner.serving.refusal import Refusal

_FAILED_TOOL = {"type": "text", "text": "Error:"}
"""Begins the result of a tool that failed: templates have no other place to say so."""
_ERRORS = {
    401: "authentication_error",
    404: "not_found_error",
    405: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def read(body: JSON) -> Ask:
    with fields_of(body) as fields:
        model = fields.text("model", ANY_MODEL)
        request = _request(fields)
        thinking = fields.inside(
            fields.mapping("thinking") or {"type": "disabled"}, path="thinking."
        )
        thinking.only(
            "type", "disabled", "adaptive", why="how long the model thinks is given by its template"
        )
        thinking.close()
        fields.only("service_tier", "auto", "standard_only", why="there is one tier")
        named = named_by_client(fields)
        fields.ignore("cache_control")
        return Ask(
            requests=(request,),
            model=model,
            is_stream=fields.flag("stream"),
            user=named.user,
            session=named.session,
            temperature=fields.number("temperature"),
            top_p=fields.number("top_p"),
            top_k=fields.whole("top_k", low=-1),
        )


def _request(fields: Fields) -> ChatRequest:
    max_tokens = fields.whole("max_tokens", low=1)
    if max_tokens is None:
        fields.refuse(bad_request("max_tokens is missing", param="max_tokens"))
    system = fields.attempt(_system, [])
    messages = [message for turn in fields.each("messages", _turn) for message in turn]
    _check_ends(fields, messages)
    tools = fields.each("tools", _tool)
    known = tools if fields.is_right("tools") else None
    choice = fields.inside(fields.mapping("tool_choice") or {"type": "auto"}, path="tool_choice.")
    request = ChatRequest(
        messages=[*system, *messages],
        tools=tools,
        tool_choice=choice.attempt(lambda choice: _tool_choice(choice, known), "auto"),
        only_one_call=choice.flag("disable_parallel_tool_use"),
        stops=fields.stops("stop_sequences"),
        max_new_tokens=max_tokens,
        answer_format=fields.attempt(_answer_format, None),
        chat_template_kwargs=fields.mapping("chat_template_kwargs") or {},
    )
    choice.close()
    return request


def _answer_format(body: Fields) -> AnswerFormat | None:
    outer = body.inside(body.mapping("output_config") or {}, path="output_config.")
    wanted = outer.mapping("format")
    outer.close()
    if wanted is None:
        return None
    fields = outer.inside(wanted, path="output_config.format.")
    fields.only("type", "json_schema", why="the answer is text, or JSON of a schema")
    schema = fields.mapping("schema")
    fields.close()
    return AnswerFormat(schema=schema or {})


def _tool(fields: Fields) -> JSON:
    fields.only("type", "custom", why="only tools of your own can be offered")
    fields.ignore("cache_control")
    names = {"input_schema": "parameters"}
    function = {names.get(key, key): value for key, value in fields.rest().items()}
    return function_tool(fields, function, path=fields.name(""))


def _tool_choice(choice: Fields, tools: Sequence[dict[str, Any]] | None) -> str:
    """Where the tools are wrong, None, nothing is said of a choice among them."""
    kind = choice.text("type")
    name = choice.text("name") if kind == "tool" else None
    if kind != "tool" and kind not in _TOOL_CHOICES:
        raise unsupported("tool_choice.type", f"{kind!r} is not one of auto, any, tool, none")
    if tools is None:
        return "auto"
    if kind == "tool":
        return named_tool(name, tools)
    if kind == "any" and not tools:
        raise bad_request("tool_choice is any, but no tools are offered", param="tool_choice")
    return _TOOL_CHOICES[kind]


def _system(fields: Fields) -> list[JSON]:
    system = fields.raw("system")
    return [{"role": "system", "content": _text(fields, system, "system")}] if system else []


def _text(outer: Fields, content: object, name: str) -> str | list[JSON]:
    """A text, or text blocks; marks for caching change nothing."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request(f"{name} is neither a text nor a list of blocks", param=name)
    return [_text_block(outer, block, f"{name}[{index}]") for index, block in enumerate(content)]


def _text_block(outer: Fields, block: object, name: str) -> JSON:
    kind = block.get("type") if isinstance(block, dict) else type(block).__name__
    if not isinstance(block, dict) or kind != "text":
        raise unsupported(name, f"a block of type {kind!r} is not supported here; send text")
    fields = outer.inside(block, path=f"{name}.")
    text = fields.text("text")
    fields.ignore("type", "cache_control", "citations")
    fields.close()
    return {"type": "text", "text": text}


def _check_ends(fields: Fields, messages: Sequence[JSON]) -> None:
    if not fields.is_right("messages"):
        return
    if not messages:
        fields.refuse(no_messages())
    elif messages[-1]["role"] == "assistant":
        why = "the last one is the assistant's; a reply cannot be begun"
        fields.refuse(unsupported("messages", why))


def _turn(fields: Fields) -> list[JSON]:
    role, content = fields.text("role"), fields.raw("content", "")
    fields.close()
    name = fields.name("content")
    blocks = _as_blocks(content)
    if not isinstance(blocks, list):
        raise bad_request(f"{name} is neither a text nor a list of blocks", param=name)
    if role == "assistant":
        return [_assistant(fields, blocks, name)]
    if role == "user":
        return list(_user(fields, blocks, name))
    raise bad_request(
        f"{fields.name('role')} is {role!r}; expected user or assistant", param="messages"
    )


def _as_blocks(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _user(outer: Fields, blocks: Sequence[object], name: str) -> Iterator[JSON]:
    """Each tool result is a message of its own; text between them is one."""
    texts: list[JSON] = []
    for index, block in enumerate(blocks):
        place = f"{name}[{index}]"
        if not (isinstance(block, dict) and block.get("type") == "tool_result"):
            texts.append(_text_block(outer, block, place))
            continue
        if texts:
            yield {"role": "user", "content": texts}
            texts = []
        result = outer.inside(block, path=f"{place}.")
        call_id = result.text("tool_use_id")
        content = _text(result, result.raw("content", ""), f"{place}.content")
        if result.flag("is_error"):
            content = [_FAILED_TOOL, *_as_blocks(content)]
        result.ignore("type", "cache_control")
        result.close()
        yield {"role": "tool", "tool_call_id": call_id, "content": content}
    if texts or not blocks:
        yield {"role": "user", "content": texts}


def _assistant(outer: Fields, blocks: Sequence[object], name: str) -> JSON:
    message: JSON = {"role": "assistant"}
    texts: list[JSON] = []
    for index, block in enumerate(blocks):
        place = f"{name}[{index}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "thinking" and isinstance(block, dict):
            thought = outer.inside(block, path=f"{place}.")
            message["reasoning_content"] = thought.text("thinking")
            thought.ignore("type", "signature")
            thought.close()
        elif kind == "tool_use" and isinstance(block, dict):
            message.setdefault("tool_calls", []).append(
                _tool_use(outer.inside(block, path=f"{place}."))
            )
        else:
            texts.append(_text_block(outer, block, place))
    message["content"] = texts
    return message


def _tool_use(fields: Fields) -> JSON:
    call = {
        "id": fields.text("id"),
        "type": "function",
        "function": {"name": fields.text("name"), "arguments": fields.mapping("input") or {}},
    }
    fields.ignore("type", "cache_control", "caller")
    fields.close()
    return call


def anthropic_error(refusal: Refusal) -> JSON:
    kind = error_type(refusal, _ERRORS, own_fault="api_error")
    return {"type": "error", "error": {"type": kind, "message": refusal.message}}


def write(ask: Ask, head: Head, replies: Sequence[ChatReply]) -> JSON:
    reply = replies[0]
    return {
        **_frame(ask, head),
        "content": list(_blocks(reply)),
        "stop_reason": _stop_reason(reply),
        "stop_sequence": reply.stop,
        "usage": _usage(reply),
    }


def _frame(ask: Ask, head: Head) -> JSON:
    return {
        "id": f"msg_{head.id}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _blocks(reply: ChatReply) -> Iterator[JSON]:
    if reply.reasoning:
        yield {"type": "thinking", "thinking": reply.reasoning, "signature": ""}
    if reply.text or not reply.tool_calls:
        yield {"type": "text", "text": reply.text}
    for call in reply.tool_calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}


def _stop_reason(reply: ChatReply) -> str:
    if reply.finish_reason in ("length", "context_overflow"):
        return "max_tokens"
    if reply.stop is not None:
        return "stop_sequence"
    return "tool_use" if reply.tool_calls else "end_turn"


def _usage(reply: ChatReply) -> JSON:
    return {"input_tokens": reply.num_prompt_tokens, "output_tokens": reply.num_sampled_tokens}


class _MessageEvents:
    """message_*, content_block_* events; one block is open at a time."""

    def __init__(self, ask: Ask, head: Head) -> None:
        self._ask = ask
        self._head = head
        self._num_blocks = 0
        self._open: str | None = None
        """Kind of the delta whose block is open."""

    def start(self) -> list[bytes]:
        return [_event("message_start", message=_frame(self._ask, self._head))]

    def delta(self, choice: int, delta: Delta) -> list[bytes]:
        events = self._open_for(delta.kind)
        if delta.kind == "text":
            return [*events, self._piece({"type": "text_delta", "text": delta.text})]
        return [*events, self._piece({"type": "thinking_delta", "thinking": delta.text})]

    def end(self, replies: Sequence[ChatReply]) -> list[bytes]:
        reply = replies[0]
        events = self._open_for("text") if reply.text or not reply.tool_calls else []
        events += self._close()
        for call in reply.tool_calls:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            piece = {"type": "input_json_delta", "partial_json": arguments_text(call.arguments)}
            events += [self._begin(block), self._piece(piece), self._stop()]
        delta = {"stop_reason": _stop_reason(reply), "stop_sequence": reply.stop}
        events.append(_event("message_delta", delta=delta, usage=_usage(reply)))
        events.append(_event("message_stop"))
        return events

    def fail(self, refusal: Refusal) -> list[bytes]:
        return [data_event(anthropic_error(refusal), name="error")]

    def _open_for(self, kind: str) -> list[bytes]:
        if self._open == kind:
            return []
        events = self._close()
        self._open = kind
        empty: JSON = {"type": "text", "text": ""}
        if kind == "reasoning":
            empty = {"type": "thinking", "thinking": "", "signature": ""}
        return [*events, self._begin(empty)]

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        self._open = None
        return [self._stop()]

    def _begin(self, block: JSON) -> bytes:
        return _event("content_block_start", index=self._num_blocks, content_block=block)

    def _piece(self, delta: JSON) -> bytes:
        return _event("content_block_delta", index=self._num_blocks, delta=delta)

    def _stop(self) -> bytes:
        event = _event("content_block_stop", index=self._num_blocks)
        self._num_blocks += 1
        return event


def _event(kind: str, **fields: object) -> bytes:
    return data_event({"type": kind, **fields}, name=kind)


MESSAGES = WireFormat(
    path="/v1/messages", read=read, write=write, events=_MessageEvents, error=anthropic_error
)
