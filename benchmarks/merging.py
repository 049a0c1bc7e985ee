"""What joining calls saves, and what it costs as episodes get long.

    python benchmarks/merging.py MODEL_DIR

Two episodes are recorded by running real AgentScope agents on a scripted engine: a ReAct agent that
calls a tool nine times and then answers, and nine players who talk for three rounds and vote, with
the formatter that folds a conversation into one message. Each is then turned into training samples
with its calls joined and with every call alone. "read" counts the tokens that a forward pass of
training reads, prompts that samples share once; "prompt tokens read" those of generation, where the
cache of the local engine knows what earlier calls left in it.

The second part places and merges episodes of 10 to 1000 calls of three kinds and gives the time of
a call. What an agent sends for a call is part of the work: a conversation that grows sends more
with each call, so the table names the tokens too. MODEL_DIR is needed for its tokenizer only.
"""

import argparse
import asyncio
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeChatFormatter, DashScopeMultiAgentFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg, TextBlock
from agentscope.pipeline import MsgHub, fanout_pipeline, sequential_pipeline
from agentscope.tool import Toolkit, ToolResponse
from pydantic import BaseModel
from transformers import AutoTokenizer

from astuner.engine.pages import Pages
from astuner.engine.protocol import Engine, Observe, Sampling
from astuner.engine.scheduler import Draft, Scheduler
from astuner.inference.chat import TokenChat
from astuner.inference.limits import TokenLimits
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.training.packing import pack
from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import Sequence as TokenSequence
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import Call, Recorder
from astuner.trajectory.samples import make_samples
from astuner.tuner import ModelTuner, as_chat_model
from astuner.types import Completion, Task, Verdict, WorkflowOutput

PLAYERS = tuple(f"player_{number}" for number in range(1, 10))
Script = Callable[[str], str]
"""The end of a prompt's text to what the model says."""


class ScriptedEngine:
    """Answers as its script says; keeps no weights and takes no time."""

    weight_version = 0

    def __init__(self, template: ChatTemplate, script: Script) -> None:
        self._template, self._script = template, script
        self._end = min(template.stop_ids)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None = None,
    ) -> Completion:
        text = self._script(self._template.decode(prompt_ids[-40:]))
        ids = (*self._template.encode(text), self._end)
        return Completion(
            ids=ids, logprobs=(-0.5,) * len(ids), finish_reason="stop", weight_version=0
        )


def make_chat(template: ChatTemplate, script: Script) -> TokenChat:
    return make_chat_over(ScriptedEngine(template, script), template)


def make_chat_over(engine: Engine, template: ChatTemplate) -> TokenChat:
    return TokenChat(
        engine,
        template,
        Recorder(),
        episode_id="",
        sampling=Sampling(
            temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=1, stop_ids=template.stop_ids
        ),
        limits=TokenLimits(
            max_model_len=10**7,
            max_prompt_length=10**7,
            max_response_length=10**7,
            max_response_length_in_one_turn=10**6,
        ),
        offers_tools=True,
        find_madness=lambda _: None,
        ends_on_madness=False,
    )


async def look_up(topic: str) -> ToolResponse:
    """Find a page.

    Args:
        topic (str): what to look for
    """
    return ToolResponse(content=[TextBlock(type="text", text=f"A page about {topic}. " * 10)])


class Vote(BaseModel):
    vote: Literal["player_1", "player_2"]


async def record_react(template: ChatTemplate, num_turns: int = 10) -> list[Call]:
    turns = iter(range(num_turns))

    def script(_: str) -> str:
        turn = next(turns)
        call = {"name": "look_up", "arguments": {"topic": f"topic {turn}"}}
        text = f"I should know more about topic {turn}."
        tool_call = f"\n<tool_call>\n{json.dumps(call)}\n</tool_call>"
        return text + tool_call if turn < num_turns - 1 else "It is all in the pages."

    chat = make_chat(template, script)
    toolkit = Toolkit()
    toolkit.register_tool_function(look_up)
    agent = _agent("reader", as_chat_model(ModelTuner(chat)), DashScopeChatFormatter(), toolkit)
    await agent.reply(Msg("user", "What is known about it?", role="user"))
    return chat.recorder.calls


async def record_game(template: ChatTemplate, num_rounds: int = 3) -> list[Call]:
    def script(end: str) -> str:
        if end.endswith('"name":'):
            return ' "generate_response", "arguments": {"vote": "player_1"}}\n</tool_call>'
        if end.endswith('"arguments":'):
            return ' {"vote": "player_1"}}\n</tool_call>'
        return "I was at home all night, and I find it odd that nobody heard the door."

    chat = make_chat(template, script)
    tuner = ModelTuner(chat)
    agents = [
        _agent(
            name,
            tuner.as_agentscope_model(name, "player"),
            DashScopeMultiAgentFormatter(),
            Toolkit(),
        )
        for name in PLAYERS
    ]
    start = Msg("host", "Somebody of you is a wolf. Talk, then vote.", role="user")
    async with MsgHub(participants=agents, announcement=start) as hub:
        for _ in range(num_rounds):
            await sequential_pipeline(agents)
        hub.set_auto_broadcast(False)
        ask = Msg("host", "Who is it?", role="user")
        await fanout_pipeline(agents, ask, enable_gather=False, structured_model=Vote)
    return chat.recorder.calls


def _agent(name: str, model: Any, formatter: Any, toolkit: Toolkit) -> ReActAgent:
    agent = ReActAgent(
        name=name,
        sys_prompt=f"You are {name}.",
        model=model,
        formatter=formatter,
        toolkit=toolkit,
        memory=InMemoryMemory(),
        max_iters=20,
    )
    agent.set_console_output_enabled(False)
    return agent


def what_joining_saves(calls: Sequence[Call]) -> dict[str, Any]:
    joined = _trained(calls, merge_calls(calls))
    alone = _trained(calls, [s for call in calls for s in merge_calls([call])])
    return {
        "calls": len(calls),
        "breaks": dict(Counter(str(call.break_kind) for call in calls if call.break_kind)),
        "joined": joined,
        "every call alone": alone,
        "prompt tokens": sum(len(call.prompt_ids) for call in calls),
        "prompt tokens read": _num_prompt_tokens_read(calls),
    }


def _trained(calls: Sequence[Call], sequences: Sequence[TokenSequence]) -> dict[str, int]:
    """Token counts of the samples. Alone, each sequence is of its own call 0."""
    episode = _episode(calls, sequences)
    samples, _ = make_samples(episode, advantage_of=lambda _: 1.0, max_sequences=10**6)
    longest = max(len(sample.ids) for sample in samples)
    packed = pack(samples, max_tokens=max(longest, 10**6), device="cpu")
    return {
        "samples": len(samples),
        "trained": sum(sum(sample.mask) for sample in samples),
        "of samples": sum(len(sample.ids) for sample in samples),
        "read": sum(batch.num_tokens for batch in packed),
    }


def _episode(calls: Sequence[Call], sequences: Sequence[TokenSequence]) -> Episode:
    return Episode(
        episode_id="e",
        task=Task(main_query="", task_id="t"),
        step=1,
        attempt=0,
        is_validation=False,
        calls=tuple(calls),
        sequences=tuple(sequences),
        verdict=Verdict(reward=1.0, is_success=True, source="workflow"),
        failure=None,
        agents={},
        output=WorkflowOutput(),
        overflowed=frozenset(),
        madness=None,
        seconds=0.0,
    )


def _num_prompt_tokens_read(calls: Sequence[Call], page_size: int = 16) -> int:
    """By the local engine's scheduler, one call after another."""
    num_pages = sum(call.num_ids // page_size + 2 for call in calls)
    scheduler = Scheduler(Pages(num_pages, page_size), max_num_seqs=1, max_batch_tokens=512)
    num_read = 0
    for call in calls:
        draft = Draft(
            request=None,
            ids=list(call.prompt_ids),
            num_prompt=len(call.prompt_ids),
            max_tokens=call.num_ids,
            stop_ids=frozenset(),
        )
        scheduler.add(draft)
        sampled = iter(call.completion.ids)
        while scheduler.has_work:
            batch = scheduler.next_batch()
            for chunk in batch:
                num_read += max(0, min(chunk.end, draft.num_prompt) - chunk.start)
                if chunk.predicts:
                    draft.ids.append(next(sampled))
            scheduler.finish_pass(batch)
    return num_read


async def send(chat: TokenChat, kind: str, num_calls: int) -> float:
    """Make so many calls of one kind; returns the seconds that they took."""
    system = {"role": "system", "content": "You play. " * 20}
    messages: list[dict[str, str]] = [system, {"role": "user", "content": "Begin."}]
    started = time.perf_counter()
    for index in range(num_calls):
        if kind == "growing":
            sent, name = messages, "one"
        elif kind == "folded":
            name = PLAYERS[index % len(PLAYERS)]
            lines = "\n".join(f"{name}: I say {i}." for i in range(max(0, index - 40), index))
            sent = [system, {"role": "user", "content": f"<history>\n{lines}\n</history>"}]
        else:
            sent, name = [system, {"role": "user", "content": f"Task {index}."}], "one"
        reply = await chat.complete(ChatRequest(messages=sent, agent_name=name))
        if kind == "growing":
            messages.append({"role": "assistant", "content": reply.text})
            messages.append({"role": "user", "content": f"Turn {index}."})
    return time.perf_counter() - started


def time_calls(template: ChatTemplate, kind: str, num_calls: int) -> dict[str, Any]:
    """The fastest of three."""
    placing, merging, num_tokens = [], [], 0
    for _ in range(3):
        chat = make_chat(template, lambda _: "So be it.")
        placing.append(asyncio.run(send(chat, kind, num_calls)))
        calls = chat.recorder.calls
        started = time.perf_counter()
        sequences = merge_calls([replace(call) for call in calls])
        merging.append(time.perf_counter() - started)
        assert sum(s.num_trained for s in sequences) == sum(len(c.completion.ids) for c in calls)
        num_tokens = sum(call.num_ids for call in calls)
    return {
        "kind": kind,
        "calls": num_calls,
        "tokens of all calls": num_tokens,
        "placing, microseconds a call": round(1e6 * min(placing) / num_calls),
        "merging, microseconds a call": round(1e6 * min(merging) / num_calls, 1),
        "merging, milliseconds": round(1e3 * min(merging), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--calls", type=int, nargs="+", default=[10, 100, 300, 1000])
    arguments = parser.parse_args()
    template = ChatTemplate(AutoTokenizer.from_pretrained(arguments.model))
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "ReAct, 10 turns": what_joining_saves(asyncio.run(record_react(template))),
        "nine players": what_joining_saves(asyncio.run(record_game(template))),
        "time": [
            time_calls(template, kind, num_calls)
            for kind in ("growing", "folded", "apart")
            for num_calls in arguments.calls
        ],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
