"""A real agent of AgentScope 2.x on `ModelTuner`; runs in an environment that has that release."""

import asyncio
import json
from typing import Literal

import pytest
from pydantic import BaseModel

from astuner.errors import WorkflowError
from astuner.inference.shapes.agentscope2 import AgentScope2Calls
from astuner.inference.shapes.routed import RoutedChat
from astuner.traces.reader import read_traces
from astuner.traces.reading import Unread
from astuner.trajectory.merge import merge_calls
from astuner.tuner import ModelTuner, as_chat_model
from tests.chats import make_chat
from tests.fakes import ByteTokenizer, ScriptedEngine
from tests.otlp_files import OtlpPaths

pytestmark = pytest.mark.agentscope2


def tool_call(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def add(a: int, b: int) -> str:
    """Add two numbers.

    Args:
        a (int): one number
        b (int): another number
    """
    return str(a + b)


def make_agent(chat, *middlewares):
    from agentscope.agent import Agent
    from agentscope.permission import PermissionContext, PermissionMode
    from agentscope.state import AgentState
    from agentscope.tool import FunctionTool, Toolkit

    # Nobody is there to be asked whether a tool may run.
    permission = PermissionContext(mode=PermissionMode.BYPASS)
    return Agent(
        name="math",
        system_prompt="You add.",
        model=as_chat_model(ModelTuner(chat)),
        toolkit=Toolkit(tools=[FunctionTool(add)]),
        state=AgentState(permission_context=permission),
        middlewares=list(middlewares),
    )


def ask(agent):
    from agentscope.message import UserMsg

    return asyncio.run(agent.reply(UserMsg("user", "What is 2 + 3?")))


def test_an_agent_answers_with_what_the_model_sampled():
    engine = ScriptedEngine(["It is 5."])
    chat = make_chat(engine)
    assert ask(make_agent(chat)).get_text_content() == "It is 5."
    assert isinstance(make_agent(chat).model, AgentScope2Calls)


def test_an_episode_with_a_tool_call_is_one_sequence():
    engine = ScriptedEngine(["I add. " + tool_call("add", a=2, b=3), "It is 5."])
    chat = make_chat(engine)
    reply = ask(make_agent(chat))
    assert reply.get_text_content() == "It is 5."
    (sequence,) = merge_calls(chat.recorder.calls)
    assert "<tool_response>\n5\n</tool_response>" in ByteTokenizer().decode(sequence.ids)
    assert sequence.num_trained == sum(len(completion.ids) for _, completion in engine.seen)


def test_a_structured_answer_is_a_required_tool_call():
    from agentscope.message import UserMsg

    class Vote(BaseModel):
        vote: Literal["yes", "no"]

    chat = make_chat(lambda prompt: ' {"vote": "no"}}\n</tool_call>')
    model = as_chat_model(ModelTuner(chat))
    answer = asyncio.run(model.generate_structured_output([UserMsg("user", "Vote.")], Vote))
    assert answer.content == {"vote": "no"}


def test_an_untrained_agent_cannot_bring_a_model_of_its_own():
    tuner = ModelTuner(RoutedChat(make_chat([]), trainable_targets=["player"]))
    with pytest.raises(WorkflowError, match="AgentScope 2"):
        tuner.as_agentscope_model("bob", "other", debug_model=ModelTuner)


def test_its_own_traces_are_read_as_the_conversation_that_was_held(tmp_path):
    from agentscope.middleware import TracingMiddleware
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    engine = ScriptedEngine(["I add. " + tool_call("add", a=2, b=3), "It is 5."])
    ask(make_agent(make_chat(engine), TracingMiddleware()))
    path = tmp_path / "spans.pb"
    path.write_bytes(encode_spans(exporter.get_finished_spans()).SerializeToString())
    unread = Unread()
    [trace_read] = read_traces(OtlpPaths(path), unread)
    assert not unread.counts
    assert [(step.role, step.text.strip()) for step in trace_read.steps] == [
        ("system", "You add."),
        ("user", "What is 2 + 3?"),
        ("assistant", "I add."),
        ("tool", "5"),
        ("assistant", "It is 5."),
    ]
    called = trace_read.steps[2]
    assert called.tool_calls[0].name == "add" and called.tools[0]["function"]["name"] == "add"
    assert trace_read.steps[3].seconds is not None and trace_read.agent == "math"
