"""Seconds per step and reward, against TRL's GRPOTrainer on this machine."""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.sums import CoinWorkflow, SumsWorkflow, make_sums, most_behind_prompt, tune

DESCRIPTION = """\
Tune the same model on the same tasks in the same order with astuner and with TRL, and compare.

    python -m benchmarks.against_trl models/smollm2-135m-instruct

All rows get: GRPO with the loss averaged over tokens, no KL, one update a step, AdamW with float32
weights and moments, constant learning rate, gradients clipped at norm 1, computing in --dtype,
sampling at temperature 1. TRL runs without gradient checkpointing. Each row is a process of its
own; one runs after the other. The first step, which warms up, is left out of the seconds.
Needs trl: pip install trl==1.16.0

{rows}

Rows with "corrected" in their name compare with each other: for importance correction TRL computes
the log-probabilities of the step once more, and ours takes them from the update.

--reward sum     1 where the last number of the reply is the answer
--reward coin    a coin toss fixed for each text: spread for weights that know nothing

With --turns 5 an agent takes five turns, each a call with all that was said before, and is asked
for a sum in all but the first. In TRL that is a rollout_func which lets all attempts take a turn
together, as TRL's own loop of tool calls does.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to run the steps."""

    side: str
    """"astuner" or "trl"."""
    words: str
    """What was set, for readers of the figures."""
    is_tuned: bool = False
    """For TRL; ours has nothing to tune beside the size of a micro-batch."""
    is_corrected: bool | None = None
    """Whether importance is corrected; None: as the side comes."""


ROWS = {
    "astuner": Row(
        side="astuner",
        words="defaults: no importance correction",
    ),
    "astuner-corrected": Row(
        side="astuner",
        words="defaults, and importance correction: rollout_importance_weight: truncated (at 2)",
        is_corrected=True,
    ),
    "trl": Row(
        side="trl",
        words="as it comes, in micro-batches of --trl-micro-batch samples; with vLLM, its default "
        "is importance correction (sequence_mask at 3)",
    ),
    "trl-tuned": Row(
        side="trl",
        words="Liger's layers, micro-batches of --tuned-micro-batch samples; with vLLM no "
        "detokenizing, flat_logprobs, 32768 batched tokens, no importance correction",
        is_tuned=True,
        is_corrected=False,
    ),
    "trl-tuned-corrected": Row(
        side="trl",
        words="trl-tuned, with vLLM and importance correction (token_truncate at 2)",
        is_tuned=True,
        is_corrected=True,
    ),
}
PAIRS = (
    ("trl", "astuner"),
    ("trl-tuned", "astuner"),
    ("trl-tuned-corrected", "astuner-corrected"),
)
"""Of which the second's seconds are compared with the first's."""


def make_tasks(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    count = arguments.tasks * arguments.steps
    tasks = make_sums(count, seed=arguments.seed, turns=arguments.turns)
    if arguments.question:
        return [{**task, "main_query": arguments.question} for task in tasks]
    return tasks


def run_astuner(arguments: argparse.Namespace, row: Row) -> dict[str, Any]:
    tasks = make_tasks(arguments)
    num_behind_prompt = most_behind_prompt(arguments.turns, arguments.new_tokens)
    settings = {
        "data.train_batch_size": arguments.tasks,
        "data.max_prompt_length": 128,
        "data.max_response_length": num_behind_prompt,
        "rollout.num_repeat": arguments.group,
        "rollout.max_env_worker": arguments.tasks * arguments.group,
        "rollout.max_num_seqs": arguments.tasks * arguments.group,
        "rollout.num_workers": arguments.num_workers,
        "rollout.max_response_length_in_one_turn": arguments.new_tokens,
        "rollout.max_model_len": 128 + num_behind_prompt,
        "rollout.temperature": 1.0,
        "rollout.seed": arguments.seed,
        "rollout.compute_madness_checklist": [],
        "trainer_common.seed": arguments.seed,
        "trainer_common.total_training_steps": arguments.steps,
        "trainer_common.save_freq": arguments.steps + 1,
        "trainer_common.save_optimizer": "never",
        "trainer_common.max_token_len_per_gpu": arguments.max_tokens or None,
        "trainer_common.optim.lr": arguments.lr,
        "trainer_common.optim.weight_decay": 0.0,
        "trainer_common.use_kl_loss": False,
        "model.dtype": arguments.dtype,
    }
    if arguments.engine != "auto":
        settings["rollout.name"] = arguments.engine
    if arguments.lora_rank:
        settings["model.lora.rank"] = arguments.lora_rank
    if row.is_corrected:
        settings["trainer_common.algorithm.rollout_importance_weight"] = "truncated"
    workflow = SumsWorkflow if arguments.reward == "sum" else CoinWorkflow
    lines = tune(arguments.model, tasks, settings, workflow=workflow)
    steps = [line for line in lines if line["step"] > 0]
    return {
        "seconds": [line["step/seconds"] for line in steps],
        "rewards": [line["reward/mean"] for line in steps],
        "tokens": [line["rollout/tokens"] for line in steps],
        "rollout_seconds": [line["rollout/seconds"] for line in steps],
        "train_seconds": [line["train/seconds"] for line in steps],
        "logprob_gap_mean": [line["train/logprob_gap_mean"] for line in steps],
    }


def run_trl(arguments: argparse.Namespace, row: Row) -> dict[str, Any]:
    from astuner.task_reader.order import TaskOrder
    from benchmarks import trl_side

    tasks = make_tasks(arguments)
    order = TaskOrder(len(tasks), batch_size=arguments.tasks, seed=arguments.seed)
    ordered = [tasks[index] for _ in range(arguments.steps) for index in order.next_batch()]
    with_vllm = arguments.trl_engine == "vllm"
    micro_batch = arguments.trl_micro_batch or arguments.tasks * arguments.group
    options: dict[str, Any] = {}
    if row.is_tuned:
        micro_batch = arguments.tuned_micro_batch or micro_batch
        options |= trl_side.tuned_options(with_vllm=with_vllm)
        if with_vllm:
            trl_side.raise_batched_tokens()
    if with_vllm and row.is_corrected is not None:
        options |= trl_side.correction_options(is_on=row.is_corrected)
    return trl_side.measure_trl(arguments, ordered, micro_batch=micro_batch, options=options)


def memory() -> dict[str, Any]:
    """The peak of the device's allocator on a GPU, of the process on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    free, total = torch.cuda.mem_get_info()
    return {
        "peak_gib": torch.cuda.max_memory_reserved() / 2**30,
        "device_gib": (total - free) / 2**30,
        "device": torch.cuda.get_device_name(),
    }


SIDES = {"astuner": run_astuner, "trl": run_trl}


def run_in_process(name: str) -> dict[str, Any]:
    """This script again with one row; its last line of output is the result."""
    command = [sys.executable, "-m", "benchmarks.against_trl", *sys.argv[1:], "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return {"failed": done.returncode}
    return json.loads(done.stdout.splitlines()[-1])


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Medians over the steps after the first, and the rewards at both ends."""
    if "failed" in result:
        return result
    rewards = result["rewards"]
    part = max(1, len(rewards) // 5)
    seconds = result["seconds"][1:] or result["seconds"]
    found = {
        "seconds_per_step": round(statistics.median(seconds), 3),
        "seconds_min_max": [round(min(seconds), 3), round(max(seconds), 3)],
        "tokens_per_step": round(statistics.median(result["tokens"][1:] or result["tokens"])),
        "reward_first_steps": round(statistics.fmean(rewards[:part]), 3),
        "reward_last_steps": round(statistics.fmean(rewards[-part:]), 3),
    }
    for name in ("rollout_seconds", "train_seconds", "logprob_gap_mean"):
        if name in result:
            found[name] = round(statistics.median(result[name][1:] or result[name]), 4)
    for name in ("peak_gib", "device_gib"):
        if name in result:
            found[name] = round(result[name], 2)
    return found


def versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "peft", "liger-kernel", "trl", "vllm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def run_rows(names: list[str], *, is_full: bool) -> dict[str, Any]:
    """One after the other; each is told of on stderr as soon as it is done."""
    report: dict[str, Any] = {}
    for name in names:
        result = run_in_process(name)
        report[name] = {"is": ROWS[name].words, **summary(result)}
        if is_full:
            report[name]["steps"] = result
        print(json.dumps({name: report[name]}), file=sys.stderr, flush=True)
    return report


def times_faster(report: dict[str, Any]) -> dict[str, float]:
    found = {}
    for slow, fast in PAIRS:
        pair = [report.get(name, {}).get("seconds_per_step") for name in (slow, fast)]
        if None not in pair:
            found[f"{fast} than {slow}"] = round(pair[0] / pair[1], 2)
    return found


def main() -> None:
    rows = "\n".join(f"{name:<20} {row.words}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        description=DESCRIPTION.format(rows=rows),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        help="default: all with --trl-engine vllm, else astuner and trl",
    )
    parser.add_argument("--only", choices=ROWS, help="this row, here, and every step of it")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tasks", type=int, default=8, help="tasks of a step")
    parser.add_argument("--group", type=int, default=8, help="completions of a task")
    parser.add_argument("--turns", type=int, default=1, help="of an agent")
    parser.add_argument("--num-workers", type=int, default=0, help="processes of our agents")
    parser.add_argument("--new-tokens", type=int, default=40, help="most tokens of a turn")
    parser.add_argument(
        "--max-tokens", type=int, default=4096, help="of our micro-batches; 0: as a run chooses"
    )
    parser.add_argument("--trl-micro-batch", type=int, help="samples; default: the whole step")
    parser.add_argument("--tuned-micro-batch", type=int, help="default: --trl-micro-batch")
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
    if arguments.turns > 1 and (arguments.trl_engine, arguments.reward) != ("vllm", "coin"):
        parser.error("--turns is for --trl-engine vllm and --reward coin")
    if arguments.only:
        row = ROWS[arguments.only]
        print(json.dumps({**SIDES[row.side](arguments, row), **memory()}))
        return
    default = list(ROWS) if arguments.trl_engine == "vllm" else ["astuner", "trl"]
    report = run_rows(arguments.rows or default, is_full=arguments.full)
    machine = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
    }
    print(json.dumps({**machine, **report, "times_faster": times_faster(report)}, indent=2))


if __name__ == "__main__":
    main()
