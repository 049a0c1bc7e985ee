"""Answers model calls with an OpenAI-compatible server: debugging without weights, and agents that
are not trained.

Calls are recorded with their messages but without token ids, so nothing here can be trained on.
`LanguageModel` is for questions and not for this: an agent sends tools, wants the whole reply, asks
the same again to get something else, and brings tries and deadlines of its own. The two share how a
server is opened.
"""

import json
import time
from typing import Any

from astuner.config.secret import mask_text
from astuner.errors import EngineError, RequestError
from astuner.inference.deltas import tell_all
from astuner.inference.messages import assistant_message, copy_tools, normalize_messages
from astuner.inference.request import TOOL_CHOICES, ChatReply, ChatRequest, OnDelta
from astuner.inference.tools.protocol import ToolCall
from astuner.llm.dialect import Dialect
from astuner.llm.server import describe_no_completion
from astuner.trajectory.recorder import Call, Recorder
from astuner.types import Completion, Message, Tool


class RemoteChat:
    """The calls of one episode, sent to `client`, an `openai.AsyncOpenAI`."""

    def __init__(
        self,
        client: Any,
        recorder: Recorder,
        *,
        model_name: str,
        temperature: float,
        max_new_tokens: int,
        offers_tools: bool,
        dialect: Dialect,
        setting: str = "debug.openai_base_url",
        is_trained: bool = True,
        top_p: float = 1.0,
        top_k: int = -1,
    ) -> None:
        """`dialect` is that of the model, for all of its chats; `setting` the one that names the
        server; `is_trained` whether it stands in for the policy. A `top_p` of 1 and a `top_k` of
        -1, which restrict nothing, are not sent."""
        self.recorder = recorder
        self._setting = setting
        self._is_trained = is_trained
        self._client = client
        # Some put a password into the address, and messages go to files.
        self._place = f"{setting} {mask_text(str(client.base_url))}"
        self._model_name = model_name
        self._temperature = temperature
        self._top_p, self._top_k = top_p, top_k
        self._max_new_tokens = max_new_tokens
        self._offers_tools = offers_tools
        self._dialect = dialect
        self._started = time.monotonic()

    async def complete(self, request: ChatRequest, *, on_delta: OnDelta | None = None) -> ChatReply:
        """Answer one call; the whole reply is one delta."""
        reply = await self._complete(request)
        tell_all(reply, on_delta)
        return reply

    async def _complete(self, request: ChatRequest) -> ChatReply:
        self.recorder.check_open()
        messages = normalize_messages(request.messages)
        tools = copy_tools(request.tools) if self._offers_tools else ()
        started = time.monotonic()
        response = await self._request(request, messages, tools)
        seconds = time.monotonic() - started
        if not getattr(response, "choices", None):
            found = describe_no_completion(response)
            raise EngineError(f"{self._place}: {found}")
        choice = response.choices[0]
        calls = tuple(_tool_call(call) for call in choice.message.tool_calls or ())
        text = choice.message.content or ""
        completion = Completion(
            ids=(),
            logprobs=(),
            finish_reason="length" if choice.finish_reason == "length" else "stop",
            weight_version=0,
        )
        usage = response.usage
        counted = (usage.prompt_tokens, usage.completion_tokens) if usage else None
        self.recorder.add(
            Call(
                agent_name=request.agent_name,
                target_tag=request.target_tag,
                messages=tuple(messages),
                tools=tools,
                prompt_ids=(),
                completion=completion,
                reply=assistant_message(text, tool_calls=calls),
                temperature=self._dialect.sampled_temperature(self._temperature),
                extends=None,
                break_reason=None,
                started_seconds=started - self._started,
                seconds=seconds,
                is_trained=self._is_trained,
                counted_tokens=counted,
            )
        )
        return ChatReply(
            text=text,
            reasoning="",
            tool_calls=calls,
            finish_reason=completion.finish_reason,
            num_prompt_tokens=counted[0] if counted else 0,
            num_sampled_tokens=counted[1] if counted else 0,
            seconds=seconds,
        )

    async def _request(
        self, request: ChatRequest, messages: list[Message], tools: tuple[Tool, ...]
    ) -> Any:
        from openai import OpenAIError

        if request.prompt is not None:
            raise RequestError(
                f"a completion of plain text cannot be sent to {self._setting}; send messages",
                param="prompt",
            )
        if request.wants_tokens:
            raise RequestError(
                f"logprobs are not asked of {self._setting}; leave them out", param="logprobs"
            )
        asked = _asked(request)
        if self._top_p != 1.0:
            asked["top_p"] = self._top_p
        if self._top_k != -1:
            asked["extra_body"] = {"top_k": self._top_k, **asked.get("extra_body", {})}
        if tools:
            named = {"type": "function", "function": {"name": request.tool_choice}}
            choice = request.tool_choice if request.tool_choice in TOOL_CHOICES else named
            asked |= {"tools": list(tools), "tool_choice": choice}
            if request.only_one_call:
                asked["parallel_tool_calls"] = False
        asked |= {
            "model": self._model_name,
            "messages": [_wire(message) for message in messages],
            "temperature": self._temperature,
            "max_tokens": min(self._max_new_tokens, request.max_new_tokens or self._max_new_tokens),
        }
        try:
            return await self._dialect.ask(self._client.chat.completions.create, asked)
        except (OpenAIError, ValueError) as error:  # the latter of JSON that is cut off
            raise EngineError(
                f"{self._place}: the server did not answer model {self._model_name!r}: "
                f"{type(error).__name__}: {error}"
            ) from error


def _asked(request: ChatRequest) -> dict[str, Any]:
    """What the request demands beside messages and tools, as the server is told it."""
    asked: dict[str, Any] = {}
    if request.stops:
        asked["stop"] = list(request.stops)
    if request.seed is not None:
        asked["seed"] = request.seed
    if request.chat_template_kwargs:
        # As vLLM and SGLang name it.
        asked["extra_body"] = {"chat_template_kwargs": dict(request.chat_template_kwargs)}
    if request.answer_format is not None:
        schema = request.answer_format.schema
        asked["response_format"] = (
            {"type": "json_object"}
            if schema is None
            else {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        )
    return asked


def _wire(message: Message) -> dict[str, Any]:
    """On the wire, arguments of tool calls are JSON text."""
    if "tool_calls" not in message:
        return dict(message)
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"]),
            },
        }
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _tool_call(call: Any) -> ToolCall:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except json.JSONDecodeError:
        arguments = {}
    return ToolCall(name=call.function.name, arguments=arguments, id=call.id)
