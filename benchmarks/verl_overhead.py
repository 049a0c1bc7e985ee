"""What our rollout costs in verl's worker, beside verl's own single-turn agent loop.

    python benchmarks/verl_overhead.py MODEL [--episodes 400] [--tokens 256]

In the environment of verl; needs no GPU and no Ray. Both loops run the same questions against the
same servers' client, which answers at once with `--tokens` tokens, so that what is measured is the
processor time of the loop itself. verl's renders the prompt and builds its row. Ours runs a
workflow with a judge, records the episode and hands it to the hub, which reads it again for the
metrics and the advantages. MODEL is a folder with a tokenizer.
"""

import argparse
import asyncio
import json
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.workers.rollout.replica import TokenOutput

sys.path.insert(0, str(Path(__file__).parent.parent))
from astuner.backbone.cluster.episodes import EpisodeRunner
from astuner.backbone.cluster.hub import Hub
from astuner.backbone.cluster.rows import make_rows
from astuner.backbone.verl.agent_loop import _output
from astuner.backbone.verl.engine import ServerEngine
from astuner.backbone.worker_run import WorkerRun
from astuner.config.load import load_mapping
from astuner.inference.template import ChatTemplate
from astuner.run_dir import RunDir
from astuner.types import Task
from tests.runs import make_run
from tests.test_watch import HubHere

GROUP = 8
WORKFLOW = """
from astuner import WorkflowOutput


async def ask(workflow_task, model_tuner):
    reply = await model_tuner([{"role": "user", "content": workflow_task.task.main_query}])
    return WorkflowOutput(metadata={"final_answer": reply.content[0]["text"]})


async def judge(workflow_task, workflow_output):
    return float(workflow_task.attempt % 2), True
"""


class Client:
    """In place of verl's client: answers at once."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids

    async def generate(self, *_args: Any, **_kwargs: Any) -> TokenOutput:
        extra = {"global_steps": 0, "min_global_steps": 0, "max_global_steps": 0}
        logprobs = [-0.5] * len(self._ids)
        return TokenOutput(token_ids=list(self._ids), log_probs=logprobs, extra_fields=extra)


def question(index: int) -> str:
    return (
        f"Ann has {index} apples and buys {index + 3} more every day for a week. How many has she?"
    )


def verl_loop(config: Any, tokenizer: Any, client: Client) -> Callable[[int], Awaitable[Any]]:
    async def run(index: int) -> Any:
        loop = SingleTurnAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=client,
            tokenizer=tokenizer,
            processor=None,
            dataset_cls=None,
            data_config=DictConfigWrap(config.data),
        )
        messages = [{"role": "user", "content": question(index // GROUP)}]
        return (await loop.run({"temperature": 1.0}, raw_prompt=messages)).as_dict()

    return run


async def our_loop(
    folder: Path, tokenizer: Any, client: Client, num_episodes: int
) -> Callable[[int], Awaitable[Any]]:
    (folder / "single_turn.py").write_text(WORKFLOW)
    settings = {
        "model": {"path": "unused"},
        "data": {"train_batch_size": num_episodes // GROUP},
        "rollout": {
            "agentscope_workflow": f"{folder}/single_turn.py->ask",
            "num_repeat": GROUP,
            "compute_madness_checklist": [],
        },
        "task_judge": {"judge_protocol": f"{folder}/single_turn.py->judge"},
    }
    run = make_run(load_mapping({"astuner": settings}, name="benchmark"), RunDir(root=folder))
    hub = Hub(WorkerRun.of(run), {"train": [], "validation": []})
    template = ChatTemplate(tokenizer)
    runner = EpisodeRunner(run, HubHere(hub), ServerEngine(client), template, num_processes=1)
    await runner.start()
    names: dict[int, str] = {}

    async def one(index: int) -> Any:
        task = Task(main_query=question(index // GROUP), task_id=str(index // GROUP))
        episode = await runner.run(
            task,
            group=names.setdefault(index // GROUP, str(uuid4())),
            step=1,
            attempt=index % GROUP,
            is_validation=False,
        )
        rows = [_output(episode, row).as_dict() for row in make_rows(episode)]
        if index == num_episodes - 1:
            hub.plan(1)
            hub.news()
        return rows

    return one


async def measure(run: Callable[[int], Awaitable[Any]], num_episodes: int) -> float:
    """Milliseconds of processor time an episode, after one that warms up."""
    await run(0)
    started = time.process_time()
    for begin in range(0, num_episodes, 64):
        await asyncio.gather(*(run(i) for i in range(begin, min(begin + 64, num_episodes))))
    return (time.process_time() - started) / num_episodes * 1000


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=256)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    words = tokenizer.encode("So she has one more apple than yesterday, and that is it. " * 64)
    client = Client([*words[: arguments.tokens - 1], tokenizer.eos_token_id])
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer")
    OmegaConf.set_struct(config, False)
    num_episodes = arguments.episodes // GROUP * GROUP
    with tempfile.TemporaryDirectory() as folder:
        ours = await measure(
            await our_loop(Path(folder), tokenizer, client, num_episodes), num_episodes
        )
    theirs = await measure(verl_loop(config, tokenizer, client), num_episodes)
    found = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "tokens_of_a_reply": arguments.tokens,
        "verl_ms_an_episode": round(theirs, 2),
        "ours_ms_an_episode": round(ours, 2),
        "added_ms_an_episode": round(ours - theirs, 2),
        "added_seconds_for_1000_episodes": round(ours - theirs, 2),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
