"""Seconds per step and reward, against TRL's GRPOTrainer on this machine."""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from benchmarks.sums import CoinWorkflow, SumsWorkflow, coin, is_right, make_sums, tune

DESCRIPTION = """\
Tune the same model on the same tasks in the same order with astuner and with TRL, and compare.

    python -m benchmarks.against_trl models/smollm2-135m-instruct

Both get: GRPO with the loss averaged over tokens, no KL, one update a step, AdamW with float32
weights and moments, constant learning rate, gradients clipped at norm 1, computing in --dtype,
sampling at temperature 1. TRL runs without gradient checkpointing, in micro-batches of
--trl-micro-batch samples. Each side is a process of its own; one runs after the other. The first
step, which warms up, is left out of the seconds. Needs trl: pip install trl==1.16.0

--reward sum     1 where the last number of the reply is the answer
--reward coin    a coin toss fixed for each text: spread for weights that know nothing
"""


def make_tasks(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    tasks = make_sums(arguments.tasks * arguments.steps, seed=arguments.seed)
    if arguments.question:
        return [{**task, "main_query": arguments.question} for task in tasks]
    return tasks


def run_astuner(arguments: argparse.Namespace) -> dict[str, Any]:
    tasks = make_tasks(arguments)
    settings = {
        "data.train_batch_size": arguments.tasks,
        "data.max_prompt_length": 128,
        "data.max_response_length": arguments.new_tokens,
        "rollout.num_repeat": arguments.group,
        "rollout.max_env_worker": arguments.tasks * arguments.group,
        "rollout.max_num_seqs": arguments.tasks * arguments.group,
        "rollout.max_response_length_in_one_turn": arguments.new_tokens,
        "rollout.max_model_len": 128 + arguments.new_tokens,
        "rollout.temperature": 1.0,
        "rollout.seed": arguments.seed,
        "rollout.compute_madness_checklist": [],
        "trainer_common.seed": arguments.seed,
        "trainer_common.total_training_steps": arguments.steps,
        "trainer_common.save_freq": arguments.steps + 1,
        "trainer_common.max_token_len_per_gpu": arguments.max_tokens,
        "trainer_common.optim.lr": arguments.lr,
        "trainer_common.optim.weight_decay": 0.0,
        "trainer_common.use_kl_loss": False,
        "model.dtype": arguments.dtype,
    }
    if arguments.engine != "auto":
        settings["rollout.name"] = arguments.engine
    if arguments.lora_rank:
        settings["model.lora.rank"] = arguments.lora_rank
    workflow = SumsWorkflow if arguments.reward == "sum" else CoinWorkflow
    lines = tune(arguments.model, tasks, settings, workflow=workflow)
    steps = [line for line in lines if line["step"] > 0]
    return {
        "seconds": [line["step/seconds"] for line in steps],
        "rewards": [line["reward/mean"] for line in steps],
        "tokens": [line["rollout/tokens"] for line in steps],
        "rollout_seconds": [line["rollout/seconds"] for line in steps],
        "train_seconds": [line["train/seconds"] for line in steps],
        "peak_gib": peak_gib(),
    }


def run_trl(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from astuner.task_reader.order import TaskOrder

    class Clock(TrainerCallback):
        """When each step began and ended."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.started)

    def reward_of(completions: Sequence[Any], answer: Sequence[int], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        if arguments.reward == "coin":
            return [float(coin(text)) for text in texts]
        return [float(is_right(text, a)) for text, a in zip(texts, answer, strict=True)]

    tasks = make_tasks(arguments)
    order = TaskOrder(len(tasks), batch_size=arguments.tasks, seed=arguments.seed)
    ordered = [tasks[index] for _ in range(arguments.steps) for index in order.next_batch()]
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": task["main_query"]}],
                "answer": sum(task["metadata"]["numbers"]),
            }
            for task in ordered
        ]
    )
    num_samples = arguments.tasks * arguments.group
    micro_batch = min(arguments.trl_micro_batch or num_samples, num_samples)
    options: dict[str, Any] = {}
    if arguments.trl_engine == "vllm":
        options = {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": 0.3,
            "vllm_max_model_length": 128 + arguments.new_tokens,
        }
    elif arguments.trl_engine == "paged":
        options = {"use_transformers_continuous_batching": True}
    if arguments.lora_rank:
        from peft import LoraConfig

        lora = LoraConfig(
            r=arguments.lora_rank,
            lora_alpha=2 * arguments.lora_rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    else:
        lora = None
    clock = Clock()
    trainer = GRPOTrainer(
        model=arguments.model,
        reward_funcs=reward_of,
        train_dataset=data,
        peft_config=lora,
        callbacks=[clock],
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(prefix="against_trl_"),
            model_init_kwargs={"dtype": "float32" if lora is None else arguments.dtype},
            bf16=arguments.dtype == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=num_samples // micro_batch,
            num_generations=arguments.group,
            max_completion_length=arguments.new_tokens,
            max_steps=arguments.steps,
            temperature=1.0,
            beta=0.0,
            learning_rate=arguments.lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            loss_type="dapo",
            gradient_checkpointing=False,
            shuffle_dataset=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
            seed=arguments.seed,
            **options,
        ),
    )
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    return {
        "seconds": clock.seconds,
        "rewards": [entry["reward"] for entry in history],
        "tokens": [entry["completions/mean_length"] * num_samples for entry in history],
        "peak_gib": peak_gib(),
    }


def peak_gib() -> float:
    """Of the device's memory on a GPU, of the process's on a CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


SIDES = {"astuner": run_astuner, "trl": run_trl}


def run_in_process(side: str) -> dict[str, Any]:
    """This script again with one side; its last line of output is the result."""
    command = [sys.executable, "-m", "benchmarks.against_trl", *sys.argv[1:], "--side", side]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Medians over the steps after the first, and the rewards at both ends."""
    rewards = result["rewards"]
    part = max(1, len(rewards) // 5)
    seconds = result["seconds"][1:] or result["seconds"]
    found = {
        "seconds_per_step": round(statistics.median(seconds), 3),
        "seconds_min_max": [round(min(seconds), 3), round(max(seconds), 3)],
        "tokens_per_step": round(statistics.median(result["tokens"][1:] or result["tokens"])),
        "reward_first_steps": round(statistics.fmean(rewards[:part]), 3),
        "reward_last_steps": round(statistics.fmean(rewards[-part:]), 3),
        "peak_gib": round(result["peak_gib"], 2),
    }
    for name in ("rollout_seconds", "train_seconds"):
        if name in result:
            found[name] = round(statistics.median(result[name][1:] or result[name]), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--side", choices=[*SIDES, "both"], default="both")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tasks", type=int, default=8, help="tasks of a step")
    parser.add_argument("--group", type=int, default=8, help="completions of a task")
    parser.add_argument("--new-tokens", type=int, default=40, help="most tokens of a completion")
    parser.add_argument("--max-tokens", type=int, default=4096, help="of our micro-batches")
    parser.add_argument("--trl-micro-batch", type=int, help="samples; default: the whole step")
    parser.add_argument("--engine", choices=["auto", "transformers", "vllm"], default="auto")
    parser.add_argument("--trl-engine", choices=["generate", "paged", "vllm"], default="generate")
    parser.add_argument("--reward", choices=["sum", "coin"], default="sum")
    parser.add_argument("--question", help="asked in every task, in place of a sum")
    parser.add_argument("--lora-rank", type=int, default=0, help="0: all weights")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="print every step too")
    arguments = parser.parse_args()
    if arguments.side != "both":
        print(json.dumps(SIDES[arguments.side](arguments)))
        return
    results = {side: run_in_process(side) for side in SIDES}
    report: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        **{side: summary(result) for side, result in results.items()},
    }
    ours, theirs = (report[side]["seconds_per_step"] for side in SIDES)
    report["times_faster"] = round(theirs / ours, 2)
    if arguments.full:
        report["steps"] = results
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
