"""What ReAct agents cost in Python, and what processes of their own save of it: whole rollouts.

    python -m benchmarks.agent_processes --workers 0 2

A tiny model is taught to call a tool in every turn but the last, so that each episode is the same
work for an AgentScope ReActAgent. Each number of processes is a run of the local backbone; its
first step is left out, and the others give the medians. `loop_ms_a_call` is the processor time of
the command's thread for a model call, its agent and its judge: what a fast GPU waits for, on
whatever machine it is measured. `calls_per_second` tells more on a GPU than on a CPU, where even
this model takes longer than its agents.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from agentscope.agent import ReActAgent
from agentscope.formatter import DashScopeChatFormatter
from agentscope.memory import InMemoryMemory
from agentscope.message import Msg

from astuner import ModelTuner, Workflow, WorkflowOutput, WorkflowTask
from benchmarks.sums import coin, tune
from tests.agents.adder import SYSTEM_PROMPT, make_toolkit
from tests.taught_model import make_taught_model

_QUESTION = "What is 2 plus 3?"


class AddingWorkflow(Workflow):
    """A ReAct agent with one tool, which acts as often as the model was taught."""

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        agent = ReActAgent(
            name="adder",
            sys_prompt=SYSTEM_PROMPT,
            model=model_tuner,
            formatter=DashScopeChatFormatter(),
            toolkit=make_toolkit(),
            memory=InMemoryMemory(),
            max_iters=workflow_task.task.metadata["turns"],
        )
        agent.set_console_output_enabled(False)
        await agent.reply(Msg("user", workflow_task.task.main_query, role="user"))
        return WorkflowOutput(reward=float(coin(workflow_task.episode_id)))


def teach(folder: Path, *, turns: int) -> None:
    call = {
        "id": "",
        "type": "function",
        "function": {"name": "add", "arguments": {"a": 2, "b": 3}},
    }
    acting = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "5"},
    ]
    begin = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": _QUESTION},
        *acting * (turns - 1),
    ]
    answers = [[*begin, {"role": "assistant", "content": text}] for text in ("5", "6")]
    folder.mkdir()
    make_taught_model(folder, answers, make_toolkit().get_json_schemas())


def run(arguments: argparse.Namespace, num_workers: int) -> dict[str, Any]:
    num_episodes = arguments.tasks * arguments.group
    tasks = [
        {
            "main_query": _QUESTION,
            "task_id": str(index),
            "metadata": {"turns": arguments.turns},
        }
        for index in range(arguments.tasks * arguments.steps)
    ]
    lines = tune(
        arguments.model,
        tasks,
        {
            "data.train_batch_size": arguments.tasks,
            "data.max_prompt_length": 1000,
            "data.max_response_length": 1000,
            "rollout.num_repeat": arguments.group,
            "rollout.max_env_worker": num_episodes,
            "rollout.max_num_seqs": num_episodes,
            "rollout.max_response_length_in_one_turn": 80,
            "rollout.max_model_len": 2000,
            "rollout.num_workers": num_workers,
            "rollout.settle_seconds": 0,
            "rollout.temperature": 0.2,
            "rollout.compute_madness_checklist": [],
            "trainer_common.total_training_steps": arguments.steps,
            "trainer_common.save_freq": arguments.steps + 1,
            "trainer_common.use_kl_loss": False,
            "trainer_common.optim.lr": 1e-12,  # so that it goes on as it was taught
            "model.dtype": "float32",
        },
        workflow=AddingWorkflow,
    )
    steps = [line for line in lines if line["step"] > 1]
    seconds = [line["rollout/seconds"] for line in steps]
    calls = statistics.median(line["rollout/calls"] for line in steps)
    loop_ms = statistics.median(
        1000 * line["rollout/loop_seconds"] / line["rollout/calls"] for line in steps
    )
    return {
        "workers": num_workers,
        "calls_of_an_episode": round(calls / num_episodes, 2),
        "rollout_seconds": round(statistics.median(seconds), 2),
        "min_max": [round(min(seconds), 2), round(max(seconds), 2)],
        "calls_per_second": round(calls / statistics.median(seconds)),
        "loop_ms_a_call": round(loop_ms, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--turns", type=int, default=5, help="model calls of an episode")
    parser.add_argument("--tasks", type=int, default=16, help="tasks of a step")
    parser.add_argument("--group", type=int, default=8, help="episodes of a task")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", help="that was taught already; for one run of --workers only")
    arguments = parser.parse_args()
    if arguments.model is not None:
        sys.stdout.write(json.dumps(run(arguments, arguments.workers[0])) + "\n")
        return
    sys.stdout.write(f"{platform.processor()} {os.cpu_count()} processors\n")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        teach(model, turns=arguments.turns)
        for num_workers in arguments.workers:
            command = [sys.executable, "-m", "benchmarks.agent_processes", *sys.argv[1:]]
            command += ["--model", str(model), "--workers", str(num_workers)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            sys.stdout.write(done.stdout.splitlines()[-1] + "\n")


if __name__ == "__main__":
    main()
