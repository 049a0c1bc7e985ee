"""The model as an AgentScope 2.x chat model, which gets messages unformatted and other arguments.

Owns the translation only, for the models of `agentscope.py`; the class is put on top of them where
AgentScope 2 is in use. Its own context compression never starts, since that would rewrite history
behind the record; the limits of the settings bound the context.
"""

import json
from importlib import import_module
from typing import Any

from astuner.inference.request import ChatReply, ChatRequest
from astuner.inference.shapes.noted import NotedChat, unsettable

_UNBOUNDED_CONTEXT = 2**40


class AgentScope2Calls:
    """What AgentScope 2 asks of a chat model."""

    _chat: NotedChat
    _agent_name: str
    _target_tag: str
    model = "astuner"
    credential = None
    parameters = None
    max_retries = 0
    retry_delay = 0.0
    context_size = _UNBOUNDED_CONTEXT

    @property
    def formatter(self) -> Any:
        from agentscope.formatter import OpenAIChatFormatter

        return OpenAIChatFormatter()

    async def __call__(
        self,
        messages: list[Any],
        tools: list[dict[str, Any]] | None = None,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Answer one call with an `agentscope.model.ChatResponse`.

        Sampling belongs to the configuration, so other arguments are refused with EngineError.
        """
        return await self._call_api(self.model, messages, tools, tool_choice, **kwargs)

    async def _call_api(
        self,
        model_name: str,
        messages: list[Any],
        tools: list[dict[str, Any]] | None = None,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Any:
        if kwargs:
            raise self._chat.refused(unsettable(kwargs))
        allowed = tool_choice.tools if tool_choice else None
        offered = [t for t in tools or () if not allowed or t["function"]["name"] in allowed]
        reply = await self._chat.complete(
            ChatRequest(
                messages=await self.formatter.format(messages),
                tools=offered,
                tool_choice=tool_choice.mode if tool_choice else "auto",
                agent_name=self._agent_name,
                target_tag=self._target_tag,
            )
        )
        return _response(reply)


def _response(reply: ChatReply) -> Any:
    # By name, since type checks see the interface of 1.x.
    message: Any = import_module("agentscope.message")
    model: Any = import_module("agentscope.model")
    content: list[Any] = []
    if reply.reasoning:
        content.append(message.ThinkingBlock(thinking=reply.reasoning))
    if reply.text:
        content.append(message.TextBlock(text=reply.text))
    for call in reply.tool_calls:
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        content.append(message.ToolCallBlock(id=call.id or "", name=call.name, input=arguments))
    usage = model.ChatUsage(
        input_tokens=reply.num_prompt_tokens,
        output_tokens=reply.num_sampled_tokens,
        time=reply.seconds,
    )
    return model.ChatResponse(content=content, is_last=True, usage=usage)
