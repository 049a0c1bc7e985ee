"""An agent of AgentScope 1.x with its own tracing, whose spans become a file of OTLP in protobuf.

Run by a fresh interpreter, since the provider of spans is set once in a process:

    python agentscope_traces.py FILE [CITY]
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from agentscope import _config
from agentscope.agent import ReActAgent
from agentscope.formatter import OpenAIChatFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg, TextBlock, ToolUseBlock
from agentscope.model import ChatModelBase, ChatResponse
from agentscope.tool import Toolkit, ToolResponse
from agentscope.tracing import trace_llm
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


def weather(city: str) -> ToolResponse:
    """Tells the weather.

    Args:
        city (str): Where.
    """
    return ToolResponse(content=[TextBlock(type="text", text=f"rain in {city}")])


class Scripted(ChatModelBase):
    """Calls the tool, tells what it said, and thanks."""

    def __init__(self, city: str) -> None:
        super().__init__("scripted", stream=False)
        self.replies = [
            [ToolUseBlock(type="tool_use", id="c1", name="weather", input={"city": city})],
            [TextBlock(type="text", text=f"It rains in {city}.")],
            [TextBlock(type="text", text="You are welcome.")],
        ]

    @trace_llm
    async def __call__(self, messages: Any, tools: Any = None, **kwargs: Any) -> ChatResponse:
        return ChatResponse(content=self.replies.pop(0))


async def main(city: str) -> None:
    toolkit = Toolkit()
    toolkit.register_tool_function(weather)
    agent = ReActAgent(
        name="Meteo",
        sys_prompt="Be short.",
        model=Scripted(city),
        formatter=OpenAIChatFormatter(),
        toolkit=toolkit,
        memory=InMemoryMemory(),
    )
    agent.set_console_output_enabled(False)
    await agent(Msg("user", f"Weather in {city}?", "user"))
    await agent(Msg("user", "Thanks!", "user"))


if __name__ == "__main__":
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _config.trace_enabled = True
    asyncio.run(main(*sys.argv[2:] or ["Paris"]))
    Path(sys.argv[1]).write_bytes(encode_spans(exporter.get_finished_spans()).SerializeToString())
