"""The model as an AgentScope 1.x chat model: its arguments in, its ChatResponse out.

Owns the translation only: every call goes through `Chat.complete`, and where an agent brings an
AgentScope model of its own, what was said enters the record. AgentScope is imported when the first
call is made.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from pydantic import ValidationError

from astuner.errors import EngineError
from astuner.inference.messages import assistant_message, copy_tools, normalize_messages
from astuner.inference.request import ChatReply, ChatRequest
from astuner.inference.shapes.noted import NotedChat, unsettable
from astuner.inference.tools.protocol import ToolCall
from astuner.trajectory.recorder import Agent, Call, Recorder
from astuner.types import Completion, Message

_STRUCTURED_TOOL = "generate_structured_output"


class AgentScopeModel:
    """Callable as AgentScope calls its chat models; `stream` is always False."""

    model_name = "astuner"
    stream = False

    def __init__(self, chat: NotedChat, *, agent_name: str, target_tag: str) -> None:
        self._chat = chat
        self._agent_name = agent_name
        self._target_tag = target_tag

    async def __call__(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | None = None,
        structured_model: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer one call with an `agentscope.model.ChatResponse`.

        With `structured_model`, a pydantic class, the reply's `metadata` holds its validated
        fields, or None when the model did not produce them. `chat_template_kwargs` are values that
        the chat template reads in this call. Sampling belongs to the configuration, so other
        keyword arguments are refused with EngineError.
        """
        if kwargs:
            raise self._chat.refused(unsettable(kwargs))
        given = chat_template_kwargs or {}
        if structured_model is not None:
            return await self._complete_structured(messages, structured_model, given)
        reply = await self._complete(messages, tools or [], tool_choice or "auto", given)
        return _response(reply)

    async def _complete(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        tool_choice: str,
        chat_template_kwargs: Mapping[str, Any],
    ) -> ChatReply:
        return await self._chat.complete(
            ChatRequest(
                messages=messages,
                tools=tools,
                tool_choice="required" if tool_choice == "any" else tool_choice,
                agent_name=self._agent_name,
                target_tag=self._target_tag,
                chat_template_kwargs=chat_template_kwargs,
            )
        )

    async def _complete_structured(
        self,
        messages: list[dict[str, Any]],
        model: Any,
        chat_template_kwargs: Mapping[str, Any],
    ) -> Any:
        function = {
            "name": _STRUCTURED_TOOL,
            "description": "Give the answer in the required structure.",
            "parameters": model.model_json_schema(),
        }
        tools = [{"type": "function", "function": function}]
        reply = await self._complete(messages, tools, _STRUCTURED_TOOL, chat_template_kwargs)
        return _response(reply, metadata=_validated(reply, model))


class RecordedModel:
    """Another AgentScope model, for an agent that is not trained; its calls enter the record.

    What was said is recorded, without token ids, which that model does not give.
    """

    def __init__(self, model: Any, recorder: Recorder, *, agent: Agent) -> None:
        self._model = model
        self._recorder = recorder
        self._agent = agent
        self._started = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def stream(self) -> bool:
        return self._model.stream

    @stream.setter
    def stream(self, value: bool) -> None:
        """Passed on, since AgentScope turns streaming off for some calls."""
        self._model.stream = value

    async def __call__(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        self._recorder.check_open()
        started = time.monotonic()
        if tools is not None:
            kwargs["tools"] = tools
        response = await self._model(messages, *args, **kwargs)
        if isinstance(response, AsyncGenerator):
            return self._recorded_stream(response, messages, tools, started)
        self._record(response, messages, tools, started)
        return response

    async def _recorded_stream(
        self, stream: AsyncGenerator[Any, None], messages: Any, tools: Any, started: float
    ) -> AsyncGenerator[Any, None]:
        """Each chunk holds all that was said so far."""
        chunk = None
        async for chunk in stream:
            yield chunk
        self._record(chunk, messages, tools, started)

    def _record(self, response: Any, messages: Any, tools: Any, started: float) -> None:
        name, target_tag = self._agent
        self._recorder.add(
            Call(
                agent_name=name,
                target_tag=target_tag,
                messages=tuple(_readable(messages)),
                tools=copy_tools(tools or ()),
                prompt_ids=(),
                completion=Completion(ids=(), logprobs=(), finish_reason="stop", weight_version=0),
                reply=_said(response),
                temperature=0.0,
                extends=None,
                break_reason=None,
                started_seconds=started - self._started,
                seconds=time.monotonic() - started,
                is_trained=False,
            )
        )


def _readable(messages: list[dict[str, Any]]) -> list[Message]:
    """In canonical form; content that only other models read, such as images, becomes text."""
    try:
        return normalize_messages(messages)
    except EngineError:
        return [{"role": str(m.get("role")), "content": str(m.get("content"))} for m in messages]


def _said(response: Any) -> Message:
    blocks = list(getattr(response, "content", None) or ())
    text = "\n".join(block["text"] for block in blocks if block["type"] == "text")
    calls = [
        ToolCall(name=block["name"], arguments=block["input"], id=block["id"])
        for block in blocks
        if block["type"] == "tool_use"
    ]
    return assistant_message(text, tool_calls=calls)


def _validated(reply: ChatReply, model: Any) -> dict[str, Any] | None:
    """The fields of the first tool call that `model` accepts."""
    for call in reply.tool_calls:
        try:
            return model.model_validate(call.arguments).model_dump()
        except ValidationError:
            continue
    return None


def _response(reply: ChatReply, *, metadata: dict[str, Any] | None = None) -> Any:
    from agentscope.message import TextBlock, ThinkingBlock, ToolUseBlock
    from agentscope.model import ChatResponse
    from agentscope.model._model_usage import ChatUsage

    content: list[Any] = []
    if reply.reasoning:
        content.append(ThinkingBlock(type="thinking", thinking=reply.reasoning))
    if reply.text:
        content.append(TextBlock(type="text", text=reply.text))
    for call in reply.tool_calls:
        content.append(
            ToolUseBlock(type="tool_use", id=call.id or "", name=call.name, input=call.arguments)
        )
    usage = ChatUsage(
        input_tokens=reply.num_prompt_tokens,
        output_tokens=reply.num_sampled_tokens,
        time=reply.seconds,
    )
    return ChatResponse(content=content, usage=usage, metadata=metadata)
