"""Several real AgentScope agents on one `ModelTuner`: hubs, pipelines, structured answers."""

import asyncio
import json
from typing import Literal

import pytest
from pydantic import BaseModel

from astuner.trajectory.recorder import BreakKind
from astuner.types import WorkflowOutput
from astuner.workflow import Workflow
from tests.episodes import run_episode
from tests.fakes import ByteTokenizer, ScriptedEngine
from tests.test_multi_agent import attempt, settings

pytest.importorskip("agentscope")

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeMultiAgentFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg, TextBlock, ToolUseBlock
from agentscope.model import ChatModelBase, ChatResponse
from agentscope.pipeline import MsgHub, fanout_pipeline, sequential_pipeline
from agentscope.tool import Toolkit


def make_agent(name, model):
    agent = ReActAgent(
        name=name,
        sys_prompt=f"You are {name}.",
        model=model,
        formatter=DashScopeMultiAgentFormatter(),
        toolkit=Toolkit(),
        memory=InMemoryMemory(),
        max_iters=3,
    )
    agent.set_console_output_enabled(False)
    return agent


def workflow_of(body, **fields):
    class Game(Workflow):
        name: str = "game"
        trainable_targets: list[str] | None = fields.get("targets")

        async def execute(self, workflow_task, model_tuner):
            return await body(model_tuner)

    return Game


def play(body, script, *, targets=None, **options):
    engine = ScriptedEngine(script)
    workflow = workflow_of(body, targets=targets)
    episode = asyncio.run(run_episode(attempt(), settings(workflow, policy=engine, **options)))
    assert episode.failure is None, episode.failure
    return episode, engine


def speaker(prompt):
    return prompt.split("You are ")[1].split(".")[0]


def speak(prompt):
    """What the agent says, by how much it has heard."""
    return f"{speaker(prompt)} heard {prompt.count(' heard ')}."


def announce(text):
    return Msg("host", text, role="user")


async def hub_game(tuner, *, num_rounds=3, names=("ann", "bob", "cyd")):
    agents = [make_agent(name, tuner.as_agentscope_model(name, "player")) for name in names]
    async with MsgHub(participants=agents, announcement=announce("Talk.")):
        for _ in range(num_rounds):
            await sequential_pipeline(agents)
    return WorkflowOutput(reward={"ann": 1.0, "player": 0.0})


def test_the_calls_of_a_hub_go_to_their_agents_and_are_all_trained():
    episode, engine = play(hub_game, speak)
    assert [call.agent_name for call in episode.calls] == ["ann", "bob", "cyd"] * 3
    for call, (prompt_ids, completion) in zip(episode.calls, engine.seen, strict=True):
        assert (call.prompt_ids, call.completion) == (prompt_ids, completion)
        assert f"You are {call.agent_name}." in ByteTokenizer().decode(call.prompt_ids)
    trained = sum(sequence.num_trained for sequence in episode.sequences)
    assert trained == sum(len(completion.ids) for _, completion in engine.seen)


def test_a_folded_history_cannot_continue_and_is_counted_as_such():
    episode, _ = play(hub_game, speak)
    kinds = [call.break_kind for call in episode.calls]
    assert kinds == [None] * 3 + [BreakKind.FOLDED] * 6
    assert episode.calls[3].break_message == 1
    assert len(episode.sequences) == len(episode.calls)


def test_folded_prompts_of_an_agent_begin_with_what_its_last_prompt_held():
    """All but the closing tag, so that an engine's cache knows it already."""
    episode, _ = play(hub_game, speak)
    closing = len(b"\n</history><|im_end|>\n<|im_start|>assistant\n")
    for earlier, later in zip(episode.calls, episode.calls[3:], strict=False):
        known = earlier.prompt_ids[: len(earlier.prompt_ids) - closing]
        assert later.prompt_ids[: len(known)] == known


def test_a_fan_out_asks_the_model_for_all_agents_at_once():
    async def body(tuner):
        names = ("ann", "bob", "cyd")
        agents = [make_agent(name, tuner.as_agentscope_model(name, name)) for name in names]
        answers = await fanout_pipeline(agents, announce("Vote."), enable_gather=True)
        assert [answer.name for answer in answers] == list(names)
        return WorkflowOutput(reward={name: float(i) for i, name in enumerate(names)})

    episode, _ = play(body, speak)
    assert sorted(call.agent_name for call in episode.calls) == ["ann", "bob", "cyd"]
    assert episode.verdict.rewards == {"ann": 0.0, "bob": 1.0, "cyd": 2.0}
    assert [sequence.num_trained > 0 for sequence in episode.sequences] == [True] * 3


class Vote(BaseModel):
    vote: Literal["ann", "bob"]


def decide(prompt):
    """Fill the tool call that is begun for the model, then say so."""
    if prompt.endswith("assistant\n"):
        return "I vote."
    arguments = json.dumps({"vote": "ann"})
    return f' "generate_response", "arguments": {arguments}}}\n</tool_call>'[
        0 if prompt.endswith('"name":') else len(' "generate_response", "arguments":') :
    ]


def test_a_structured_decision_within_a_hub_is_one_agents_calls_joined():
    async def body(tuner):
        agents = [make_agent(n, tuner.as_agentscope_model(n, "player")) for n in ("ann", "bob")]
        async with MsgHub(participants=agents, announcement=announce("Vote.")) as hub:
            hub.set_auto_broadcast(False)
            votes = await fanout_pipeline(
                agents, announce("Who?"), enable_gather=False, structured_model=Vote
            )
            await hub.broadcast(votes)
        assert [vote.metadata for vote in votes] == [{"vote": "ann"}] * 2
        return WorkflowOutput(reward=1.0)

    episode, _ = play(body, decide)
    by_agent = {name: [c for c in episode.calls if c.agent_name == name] for name in ("ann", "bob")}
    assert all(len(calls) == 2 for calls in by_agent.values())
    for sequence in episode.sequences:
        assert {episode.calls[index].agent_name for index in sequence.calls} == {
            sequence.agent_name
        }


class FixedModel(ChatModelBase):
    """Another provider's model."""

    def __init__(self, stream):
        super().__init__("fixed", stream)

    async def __call__(self, messages, tools=None, tool_choice=None, **kwargs):
        whole = ChatResponse(content=[TextBlock(type="text", text="I am fixed.")])
        if not self.stream:
            return whole

        async def chunks():
            yield ChatResponse(content=[TextBlock(type="text", text="I am")])
            yield whole

        return chunks()


@pytest.mark.parametrize("stream", [False, True])
def test_an_untrained_agents_own_model_answers_and_is_seen_in_the_record(stream):
    async def body(tuner):
        opponent = tuner.as_agentscope_model("bob", "other", debug_model=FixedModel(stream))
        assert isinstance(opponent, ChatModelBase) and opponent.model_name == "fixed"
        agents = [
            make_agent("ann", tuner.as_agentscope_model("ann", "player")),
            make_agent("bob", opponent),
        ]
        async with MsgHub(participants=agents, announcement=announce("Talk.")):
            await sequential_pipeline(agents)
        return WorkflowOutput(reward={"player": 1.0})

    episode, engine = play(body, speak, targets=["player"])
    assert len(engine.seen) == 1
    of_bob = episode.calls[1]
    assert (of_bob.agent_name, of_bob.is_trained, of_bob.prompt_ids) == ("bob", False, ())
    assert of_bob.reply == {"role": "assistant", "content": "I am fixed."}
    assert "ann heard 0." in of_bob.messages[1]["content"]
    assert [sequence.agent_name for sequence in episode.sequences] == ["ann"]


def test_the_tool_calls_of_an_untrained_model_are_in_the_record():
    class Calling(FixedModel):
        async def __call__(self, messages, tools=None, tool_choice=None, **kwargs):
            call = ToolUseBlock(type="tool_use", id="1", name="pick", input={"n": 3})
            return ChatResponse(content=[call])

    async def body(tuner):
        model = tuner.as_agentscope_model("bob", "other", debug_model=Calling(False))
        await model([{"role": "user", "content": "?"}], tools=[{"type": "function"}])
        mine = tuner.as_agentscope_model("ann", "player")
        await mine([{"role": "user", "content": "You are ann."}])
        return WorkflowOutput(reward=1.0)

    episode, _ = play(body, speak, targets=["player"])
    (call,) = episode.calls[0].reply["tool_calls"]
    assert call["function"] == {"name": "pick", "arguments": {"n": 3}}
