"""`POST /v1/responses`: OpenAI's responses, body to call and reply to body.

Nothing is kept between calls: the whole conversation stands in `input`. Items that one turn of the
model gave, its reasoning, its text and its calls, are read back as one message.
"""

from collections.abc import Iterator, Sequence

from astuner.gateway.refusals import bad_request, unsupported
from astuner.gateway.wires.body import Fields, fields_of
from astuner.gateway.wires.shared import (
    arguments_text,
    function_tool,
    named_by_client,
    openai_error,
    plain_format,
    refuse_unsupported,
    schema_format,
    token_logprobs,
    tool_choice,
    top_logprobs,
)
from astuner.gateway.wires.wire_format import ANY_MODEL, Ask, Head, WireFormat
from astuner.inference.answer_format import AnswerFormat
from astuner.inference.request import ChatReply, ChatRequest
from astuner.inference.watch import Delta
from astuner.serving.json_text import JSON, data_event
from astuner.serving.refusal import Refusal

_LOGPROBS = "message.output_text.logprobs"
_TEXT_PARTS = ("input_text", "output_text", "text")
_ECHOED = ("instructions", "max_output_tokens", "metadata", "tools", "tool_choice", "text")
"""Fields of the body that stand in the answer too."""
_WHEN_NOT_SAID: JSON = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "tools": [],
    "tool_choice": "auto",
    "text": {"format": {"type": "text"}},
    "parallel_tool_calls": True,
}


def read(body: JSON) -> Ask:
    with fields_of(body) as fields:
        model = fields.text("model", ANY_MODEL)
        request = _request(fields)
        echoed = {key: body[key] for key in _ECHOED if body.get(key) is not None}
        named = named_by_client(fields)
        _refuse_state(fields)
        refuse_unsupported(fields)
        return Ask(
            requests=(request,),
            model=model,
            is_stream=fields.flag("stream"),
            user=named.user,
            session=named.session,
            temperature=fields.number("temperature"),
            top_p=fields.number("top_p"),
            options={**_WHEN_NOT_SAID, **echoed, "parallel_tool_calls": not request.only_one_call},
        )


def _refuse_state(fields: Fields) -> None:
    fields.only("background", False, why="a response is answered at once")
    fields.only("truncation", "disabled", why="the conversation is never shortened")
    reasoning = fields.inside(fields.mapping("reasoning") or {}, path="reasoning.")
    for key in ("effort", "summary", "generate_summary"):
        reasoning.only(key, why="how the model thinks is said by chat_template_kwargs")
    reasoning.close()
    for key in ("previous_response_id", "conversation", "prompt"):
        fields.only(key, why="nothing is kept between calls; send the whole conversation in input")
    stream_options = fields.inside(fields.mapping("stream_options") or {}, path="stream_options.")
    stream_options.ignore("include_obfuscation")
    stream_options.close()


def _request(fields: Fields) -> ChatRequest:
    tools = fields.each("tools", _tool)
    wants_tokens = _wants_logprobs(fields)
    return ChatRequest(
        messages=_messages(fields),
        tools=tools,
        tool_choice=tool_choice(fields, tools),
        only_one_call=not fields.flag("parallel_tool_calls", default=True),
        max_new_tokens=fields.whole("max_output_tokens", low=1),
        wants_tokens=wants_tokens,
        num_top_logprobs=top_logprobs(fields, wants_tokens=wants_tokens),
        answer_format=fields.attempt(_answer_format, None),
        chat_template_kwargs=fields.mapping("chat_template_kwargs") or {},
    )


def _tool(fields: Fields) -> JSON:
    fields.only("type", "function", why="only function tools can be offered")
    return function_tool(fields, fields.rest(), path=fields.name(""))


def _wants_logprobs(fields: Fields) -> bool:
    include = fields.items("include")
    # There is no encrypted reasoning: what the model thinks is given back openly.
    unknown = [one for one in include if one not in (_LOGPROBS, "reasoning.encrypted_content")]
    if unknown:
        what = f"{unknown[0]!r} is not supported; leave it out"
        fields.refuse(unsupported("include", what))
    return _LOGPROBS in include


def _answer_format(fields: Fields) -> AnswerFormat | None:
    text = fields.inside(fields.mapping("text") or {}, path="text.")
    wanted = text.inside(text.mapping("format") or {"type": "text"}, path="text.format.")
    text.only("verbosity", "medium", why="the model writes as it does")
    text.close()
    kind = wanted.text("type")
    if kind == "json_schema":
        return schema_format(wanted)
    wanted.close()
    return plain_format(kind, "text.format.type")


def _messages(fields: Fields) -> list[JSON]:
    instructions = fields.text("instructions")
    given = fields.raw("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        fields.refuse(fields.wrong("input", given, "a text or a list of items, not empty"))
        return []
    turns = _Turns()
    if instructions:
        turns.add({"role": "system", "content": instructions})
    for index, item in enumerate(items):
        if isinstance(item, dict):
            fields.inside(item, path=f"input[{index}].").attempt(turns.read, None)
        else:
            fields.refuse(fields.wrong(f"input[{index}]", item, "an object"))
    return turns.messages


class _Turns:
    """Items become messages; those of one turn of the model become one."""

    def __init__(self) -> None:
        self.messages: list[JSON] = []
        self._turn: JSON | None = None
        """The assistant message that further items may belong to."""

    def add(self, message: JSON) -> None:
        self.messages.append(message)
        self._turn = None

    def read(self, fields: Fields) -> None:
        kind = fields.text("type", "message")
        readers = {
            "message": self._message,
            "function_call": self._call,
            "function_call_output": self._call_output,
            "reasoning": self._reasoning,
        }
        if kind not in readers:
            name = fields.name("type")
            raise unsupported(name, f"{kind!r} is not one of {', '.join(readers)}")
        fields.ignore("id", "status", "phase")
        readers[kind](fields)
        fields.close()

    def _message(self, fields: Fields) -> None:
        role = fields.text("role")
        content = _content(fields, "content")
        if role != "assistant":
            self.add({"role": role, "content": content})
            return
        turn = self._assistant(ends_before="content")
        turn["content"] = content

    def _call(self, fields: Fields) -> None:
        call = {
            "id": fields.text("call_id"),
            "type": "function",
            "function": {"name": fields.text("name"), "arguments": fields.text("arguments")},
        }
        fields.ignore("namespace")
        self._assistant(ends_before=None).setdefault("tool_calls", []).append(call)

    def _call_output(self, fields: Fields) -> None:
        call_id = fields.text("call_id")
        self.add({"role": "tool", "tool_call_id": call_id, "content": _content(fields, "output")})

    def _reasoning(self, fields: Fields) -> None:
        parts = fields.objects("content") or fields.objects("summary")
        fields.ignore("summary", "encrypted_content")
        thought = "\n".join(str(part.get("text", "")) for part in parts)
        turn = self._assistant(ends_before="reasoning_content")
        if thought:
            turn["reasoning_content"] = thought

    def _assistant(self, *, ends_before: str | None) -> JSON:
        """The turn that this item belongs to: reasoning, then text, then calls."""
        order = ("reasoning_content", "content", "tool_calls")
        later = order[order.index(ends_before) :] if ends_before else ()
        turn = self._turn
        if turn is None or any(key in turn for key in later):
            turn = {"role": "assistant"}
            self.messages.append(turn)
            self._turn = turn
        return turn


def _content(fields: Fields, key: str) -> str | list[JSON]:
    value = fields.raw(key)
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise fields.wrong(key, value, "a text or a list of parts")
    return [_part(fields, part, f"{fields.name(key)}[{index}]") for index, part in enumerate(value)]


def _part(outer: Fields, part: object, name: str) -> JSON:
    if not isinstance(part, dict):
        raise bad_request(f"{name} is no object", param=name)
    fields = outer.inside(part, path=f"{name}.")
    kind = fields.raw("type")
    if kind != "refusal" and kind not in _TEXT_PARTS:
        raise unsupported(name, f"a part of type {kind!r} is not supported; send text")
    text = fields.text("refusal" if kind == "refusal" else "text")
    fields.ignore("annotations", "logprobs")
    fields.close()
    return {"type": "text", "text": text}


def write(ask: Ask, head: Head, replies: Sequence[ChatReply]) -> JSON:
    reply = replies[0]
    status = _status(reply)
    return {
        **_frame(ask, head),
        "status": status,
        "incomplete_details": ({"reason": "max_output_tokens"} if status == "incomplete" else None),
        "output": list(_output(head, reply)),
        "usage": _usage(reply),
    }


def _status(reply: ChatReply) -> str:
    """Of the response, and of the text that it ends with."""
    is_cut = reply.finish_reason in ("length", "context_overflow")
    return "incomplete" if is_cut else "completed"


def _frame(ask: Ask, head: Head) -> JSON:
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": ask.model,
        "output": [],
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": ask.temperature,
        "top_p": ask.top_p,
        "truncation": "disabled",
        "usage": None,
        **ask.options,
    }


def _usage(reply: ChatReply) -> JSON:
    num_prompt, num_sampled = reply.num_prompt_tokens, reply.num_sampled_tokens
    return {
        "input_tokens": num_prompt,
        # The SDK demands both details; neither is counted here.
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": num_sampled,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_prompt + num_sampled,
    }


def _output(head: Head, reply: ChatReply) -> Iterator[JSON]:
    if reply.reasoning:
        yield _reasoning_item(head, reply.reasoning)
    if reply.text or not reply.tool_calls:
        yield _message_item(head, _text_part(reply.text, token_logprobs(reply)), _status(reply))
    yield from _call_items(head, reply)


def _reasoning_item(head: Head, text: str) -> JSON:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": f"rs_{head.id}", "type": "reasoning", "summary": [], "content": content}


def _message_item(head: Head, part: JSON | None, status: str) -> JSON:
    return {
        "id": f"msg_{head.id}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part] if part else [],
    }


def _text_part(text: str, logprobs: list[JSON]) -> JSON:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _call_items(head: Head, reply: ChatReply) -> Iterator[JSON]:
    for index, call in enumerate(reply.tool_calls):
        yield {
            "id": f"fc_{head.id}_{index}",
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": arguments_text(call.arguments),
            "status": "completed",
        }


class _ResponseEvents:
    """response.* events, numbered; one item is open at a time."""

    def __init__(self, ask: Ask, head: Head) -> None:
        self._ask = ask
        self._head = head
        self._number = 0
        self._num_items = 0
        self._open: str | None = None
        """Kind of the delta whose item is open."""
        self._said = ""

    def start(self) -> list[bytes]:
        frame = _frame(self._ask, self._head)
        return [
            self._event("response.created", response=frame),
            self._event("response.in_progress", response=frame),
        ]

    def delta(self, choice: int, delta: Delta) -> list[bytes]:
        events = []
        if self._open != delta.kind:
            events = [*self._close([]), *self._begin(delta.kind)]
        self._said += delta.text
        if delta.kind == "text":
            return [*events, self._at("response.output_text.delta", delta=delta.text, logprobs=[])]
        return [*events, self._at("response.reasoning_text.delta", delta=delta.text)]

    def end(self, replies: Sequence[ChatReply]) -> list[bytes]:
        reply = replies[0]
        events = []
        if self._open != "text" and (reply.text or not reply.tool_calls):
            events = [*self._close([]), *self._begin("text")]
        events += self._close(token_logprobs(reply), status=_status(reply))
        for item in _call_items(self._head, reply):
            events += self._call(item)
        response = write(self._ask, self._head, replies)
        events.append(self._event(f"response.{response['status']}", response=response))
        return events

    def fail(self, refusal: Refusal) -> list[bytes]:
        error = {"code": refusal.code, "message": refusal.message}
        response = {**_frame(self._ask, self._head), "status": "failed", "error": error}
        return [self._event("response.failed", response=response)]

    def _begin(self, kind: str) -> list[bytes]:
        self._open, self._said = kind, ""
        if kind == "reasoning":
            item = _reasoning_item(self._head, "")
            part: JSON = {"type": "reasoning_text", "text": ""}
        else:
            item = _message_item(self._head, None, "in_progress")
            part = _text_part("", [])
        return [
            self._event("response.output_item.added", output_index=self._num_items, item=item),
            self._at("response.content_part.added", part=part),
        ]

    def _close(self, logprobs: list[JSON], *, status: str = "completed") -> list[bytes]:
        kind, text = self._open, self._said
        if kind is None:
            return []
        if kind == "reasoning":
            item = _reasoning_item(self._head, text)
            part: JSON = {"type": "reasoning_text", "text": text}
            done = self._at("response.reasoning_text.done", text=text)
        else:
            part = _text_part(text, logprobs)
            item = _message_item(self._head, part, status)
            done = self._at("response.output_text.done", text=text, logprobs=logprobs)
        events = [done, self._at("response.content_part.done", part=part), self._done(item)]
        self._open = None
        return events

    def _call(self, item: JSON) -> list[bytes]:
        started = {**item, "arguments": "", "status": "in_progress"}
        place = {"item_id": item["id"], "output_index": self._num_items}
        kind = "response.function_call_arguments"
        text, name = item["arguments"], item["name"]
        return [
            self._event("response.output_item.added", output_index=self._num_items, item=started),
            self._event(f"{kind}.delta", **place, delta=text),
            self._event(f"{kind}.done", **place, arguments=text, name=name),
            self._done(item),
        ]

    def _done(self, item: JSON) -> bytes:
        event = self._event("response.output_item.done", output_index=self._num_items, item=item)
        self._num_items += 1
        return event

    def _at(self, kind: str, **fields: object) -> bytes:
        """An event of the open item."""
        prefix = "rs" if self._open == "reasoning" else "msg"
        return self._event(
            kind,
            item_id=f"{prefix}_{self._head.id}",
            output_index=self._num_items,
            content_index=0,
            **fields,
        )

    def _event(self, kind: str, **fields: object) -> bytes:
        event = data_event({"type": kind, "sequence_number": self._number, **fields}, name=kind)
        self._number += 1
        return event


RESPONSES = WireFormat(
    path="/v1/responses", read=read, write=write, events=_ResponseEvents, error=openai_error
)
