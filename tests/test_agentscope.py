"""A real AgentScope ReActAgent on `ModelTuner`, with a scripted engine in the model's place."""

import asyncio
import json
from typing import Literal

import pytest
from pydantic import BaseModel

from astuner.errors import EngineError
from astuner.trajectory.merge import merge_calls
from astuner.tuner import ModelTuner, as_chat_model
from tests.chats import make_chat
from tests.fakes import ByteTokenizer, ScriptedEngine

pytest.importorskip("agentscope")

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeChatFormatter, OpenAIChatFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg, TextBlock
from agentscope.model import ChatModelBase
from agentscope.tool import Toolkit, ToolResponse


def tool_call(name, **arguments):
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


async def add(a: int, b: int) -> ToolResponse:
    """Add two numbers.

    Args:
        a (int): one number
        b (int): another number
    """
    return ToolResponse(content=[TextBlock(type="text", text=str(a + b))])


def make_agent(chat, *, formatter=None, max_iters=4):
    toolkit = Toolkit()
    toolkit.register_tool_function(add)
    agent = ReActAgent(
        name="math",
        sys_prompt="You add.",
        model=as_chat_model(ModelTuner(chat)),
        formatter=formatter or DashScopeChatFormatter(),
        toolkit=toolkit,
        memory=InMemoryMemory(),
        max_iters=max_iters,
    )
    agent.set_console_output_enabled(False)
    return agent


def ask(agent, **options):
    return asyncio.run(agent.reply(Msg("user", "What is 2 + 3?", role="user"), **options))


@pytest.mark.parametrize("formatter", [DashScopeChatFormatter, OpenAIChatFormatter])
def test_a_react_episode_with_a_tool_call_is_one_sequence(formatter):
    engine = ScriptedEngine(["I add. " + tool_call("add", a=2, b=3), "It is 5."])
    chat = make_chat(engine)
    reply = ask(make_agent(chat, formatter=formatter()))
    assert reply.get_text_content() == "It is 5."
    (sequence,) = merge_calls(chat.recorder.calls)
    assert "<tool_response>\n5\n</tool_response>" in ByteTokenizer().decode(sequence.ids)
    assert sequence.ids == engine.seen[1][0] + engine.seen[1][1].ids
    assert sequence.num_trained == sum(len(completion.ids) for _, completion in engine.seen)


def test_the_summary_after_the_last_iteration_starts_a_new_sequence():
    call = tool_call("add", a=2, b=3)
    chat = make_chat([call, call, "Five."])
    assert ask(make_agent(chat, max_iters=2)).get_text_content() == "Five."
    assert len(merge_calls(chat.recorder.calls)) == 2
    assert chat.recorder.calls[2].break_reason == "the offered tools changed"


class Vote(BaseModel):
    vote: Literal["yes", "no"]


def test_a_structured_model_is_filled_by_a_required_tool_call():
    answers = iter(
        ['generate_response", "arguments": {"vote": "yes"}}\n</tool_call>', "I vote yes."]
    )

    def script(prompt):
        answer = next(answers)
        return answer if prompt.endswith("assistant\n") else "".join(_rest(prompt, answer))

    chat = make_chat(script)
    reply = ask(make_agent(chat), structured_model=Vote)
    assert reply.metadata == {"vote": "yes"}


def _rest(prompt, answer):
    """The tool call is begun by the prompt, up to the tool's name or a character before it."""
    return ' "' + answer if prompt.endswith('"name":') else answer


def test_a_structured_model_given_to_the_model_itself_fills_the_metadata():
    chat = make_chat([' {"vote": "no"}}\n</tool_call>'])
    model = as_chat_model(ModelTuner(chat))
    messages = [{"role": "user", "content": "Vote."}]
    response = asyncio.run(model(messages, structured_model=Vote))
    assert response.metadata == {"vote": "no"}


def test_the_tuner_is_a_chat_model_for_agentscope():
    model = as_chat_model(ModelTuner(make_chat([""])))
    assert isinstance(model, ChatModelBase) and isinstance(model, ModelTuner)


def test_all_tuners_are_of_one_class_for_agentscope():
    """A class for each would cost as much as its call, and stay until cycles are collected."""
    first, second = (as_chat_model(ModelTuner(make_chat([""]))) for _ in range(2))
    assert type(first) is type(second) is type(as_chat_model(first))


def test_sampling_cannot_be_changed_per_call():
    model = as_chat_model(ModelTuner(make_chat([""])))
    with pytest.raises(EngineError, match=r"\['temperature'\] cannot be set per call"):
        asyncio.run(model([{"role": "user", "content": "?"}], temperature=0.1))
