"""What capture costs: 64 multi-turn ReAct episodes at once on an engine that only waits.

    python benchmarks/capture_overhead.py MODEL_DIR

Every episode asks the model TURNS times, with a tool call in between. The engine answers each call
after a fixed delay, so the ideal wall time is TURNS x delay; the rest was spent outside the engine.
The same agents run once on a bare AgentScope model with the same delay and no capture, which
separates AgentScope's own time from ours. MODEL_DIR is needed for its tokenizer only.
"""

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Sequence

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeChatFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg, TextBlock, ToolUseBlock
from agentscope.model import ChatModelBase, ChatResponse
from agentscope.tool import Toolkit, ToolResponse
from transformers import AutoTokenizer

from astuner.engine.protocol import Observe, Sampling
from astuner.inference.chat import TokenChat
from astuner.inference.limits import TokenLimits
from astuner.inference.template import ChatTemplate
from astuner.rollout.madness import find_madness
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.recorder import Recorder
from astuner.tuner import ModelTuner, as_chat_model
from astuner.types import Completion

CALL = '<tool_call>\n{"name": "look_up", "arguments": {"topic": "%d"}}\n</tool_call>'
ANSWER = "The answer is in the pages that were found. " * 4


async def look_up(topic: str) -> ToolResponse:
    """Find a page.

    Args:
        topic (str): what to look for
    """
    return ToolResponse(content=[TextBlock(type="text", text="A page about it. " * 20)])


class WaitingEngine:
    """Answers after a delay; counts turns by the tool results in the prompt."""

    weight_version = 0

    def __init__(self, template: ChatTemplate, delay_seconds: float, turns: int) -> None:
        self._delay_seconds = delay_seconds
        calls = [template.encode(CALL % turn) for turn in range(turns - 1)]
        end = min(template.stop_ids)
        self._answers = [(*ids, end) for ids in [*calls, template.encode(ANSWER)]]
        self._result = template.encode("<tool_response>")

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        caller: str,
        index: int,
        observe: Observe | None = None,
    ) -> Completion:
        await asyncio.sleep(self._delay_seconds)
        ids = self._answers[_count(prompt_ids, self._result)]
        return Completion(
            ids=ids, logprobs=(-0.5,) * len(ids), finish_reason="stop", weight_version=0
        )


def _count(ids: Sequence[int], part: Sequence[int]) -> int:
    first, size = part[0], len(part)
    return sum(ids[i : i + size] == tuple(part) for i, token in enumerate(ids) if token == first)


class BareModel(ChatModelBase):
    """The same answers with the same delay, without tokens."""

    def __init__(self, delay_seconds: float, turns: int) -> None:
        super().__init__("bare", False)
        self._delay_seconds, self._turns, self._turn = delay_seconds, turns, 0

    async def __call__(self, *_arguments: object, **_options: object) -> ChatResponse:
        await asyncio.sleep(self._delay_seconds)
        self._turn += 1
        if self._turn == self._turns:
            return ChatResponse(content=[TextBlock(type="text", text=ANSWER)])
        use = ToolUseBlock(
            type="tool_use", id=str(self._turn), name="look_up", input={"topic": str(self._turn)}
        )
        return ChatResponse(content=[use])


async def run_agent(model: ChatModelBase, turns: int) -> None:
    toolkit = Toolkit()
    toolkit.register_tool_function(look_up)
    agent = ReActAgent(
        name="reader",
        sys_prompt="Look up pages, then answer.",
        model=model,
        formatter=DashScopeChatFormatter(),
        toolkit=toolkit,
        memory=InMemoryMemory(),
        max_iters=turns + 1,
    )
    agent.set_console_output_enabled(False)
    await agent.reply(Msg("user", "What is known about it?", role="user"))


async def captured(template: ChatTemplate, arguments: argparse.Namespace) -> float:
    engine = WaitingEngine(template, arguments.delay, arguments.turns)
    limits = TokenLimits(
        max_model_len=32768,
        max_prompt_length=8192,
        max_response_length=24576,
        max_response_length_in_one_turn=1024,
    )
    sampling = Sampling(
        temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=1, stop_ids=template.stop_ids
    )

    def chat() -> TokenChat:
        return TokenChat(
            engine,
            template,
            Recorder(),
            episode_id="",
            sampling=sampling,
            limits=limits,
            offers_tools=True,
            find_madness=lambda reply: find_madness(
                ("nonsense", "wrong_toolcall"), reply.parsed, reply.tools
            ),
            ends_on_madness=True,
        )

    chats = [chat() for _ in range(arguments.episodes)]
    started = time.perf_counter()
    await asyncio.gather(
        *(run_agent(as_chat_model(ModelTuner(chat)), arguments.turns) for chat in chats)
    )
    sequences = [merge_calls(chat.recorder.calls) for chat in chats]
    seconds = time.perf_counter() - started
    assert all(
        len(found) == 1 and len(c.recorder.calls) == arguments.turns
        for found, c in zip(sequences, chats, strict=True)
    )
    return seconds


async def bare(arguments: argparse.Namespace) -> float:
    started = time.perf_counter()
    models = [BareModel(arguments.delay, arguments.turns) for _ in range(arguments.episodes)]
    await asyncio.gather(*(run_agent(model, arguments.turns) for model in models))
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4, help="model calls per episode")
    parser.add_argument("--delay", type=float, default=2.0, help="seconds of one model call")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    template = ChatTemplate(AutoTokenizer.from_pretrained(arguments.model))
    asyncio.run(captured(template, arguments))
    rows = []
    for _ in range(arguments.rounds):
        rows.append((asyncio.run(captured(template, arguments)), asyncio.run(bare(arguments))))
    ours = min(row[0] for row in rows)
    theirs = min(row[1] for row in rows)
    ideal = arguments.turns * arguments.delay
    num_calls = arguments.episodes * arguments.turns
    print(
        json.dumps(
            {
                "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
                "episodes": arguments.episodes,
                "turns": arguments.turns,
                "engine_seconds": ideal,
                "wall_seconds": round(ours, 3),
                "share_outside_engine": round(1 - ideal / ours, 4),
                "share_outside_engine_agentscope_alone": round(1 - ideal / theirs, 4),
                "capture_milliseconds_per_call": round(1000 * (ours - theirs) / num_calls, 3),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
