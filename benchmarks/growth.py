"""How the seconds of a step grow with group size, turns of an episode and length of an answer."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.sums import CoinWorkflow, make_sums, tune

DESCRIPTION = """\
Double one size three times while the others stay, and time the steps.

    python -m benchmarks.growth models/smollm2-135m-instruct

  group    episodes of a task, one turn each
  turns    questions of an episode; each follows the answers before it
  length   most tokens of an answer, to a question that invites a long one

Every point is a run of the local backbone in a process of its own. Its first step, which warms up,
is left out; the others give the medians. Rewards are coin tosses fixed for each text, so that every
group has spread and is trained on. `growth` is seconds over the seconds of the point before:
2 is linear. `per_token` divides by the tokens that were sampled, which double only where no answer
ends early.
"""

_LONG_QUESTION = "Write all numbers from 1 to 1000, separated by commas, and nothing else."


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The sizes of one run."""

    tasks: int
    group: int
    turns: int
    length: int


def points(dimension: str, base: Point) -> list[Point]:
    first = getattr(base, dimension)
    return [replace(base, **{dimension: first * 2**doubling}) for doubling in range(4)]


def run_point(arguments: argparse.Namespace, point: Point) -> dict[str, float]:
    tasks = make_sums(point.tasks * arguments.steps, seed=0, turns=point.turns)
    if arguments.dimension == "length":
        tasks = [{**task, "main_query": _LONG_QUESTION} for task in tasks]
    per_turn = point.length + 48  # tokens: the answer, and the next question with its template
    lines = tune(
        arguments.model,
        tasks,
        {
            "data.train_batch_size": point.tasks,
            "data.max_prompt_length": 128,
            "data.max_response_length": per_turn * point.turns,
            "rollout.num_repeat": point.group,
            "rollout.max_env_worker": point.tasks * point.group,
            "rollout.max_num_seqs": point.tasks * point.group,
            "rollout.max_response_length_in_one_turn": point.length,
            "rollout.max_model_len": 128 + per_turn * point.turns,
            "rollout.temperature": 1.0,
            "rollout.compute_madness_checklist": [],
            "trainer_common.total_training_steps": arguments.steps,
            "trainer_common.save_freq": arguments.steps + 1,
            "trainer_common.max_token_len_per_gpu": arguments.max_tokens,
            "trainer_common.use_kl_loss": False,
        },
        workflow=CoinWorkflow,
    )
    steps = [line for line in lines if line["step"] > 1]
    names = ("step/seconds", "rollout/seconds", "train/seconds", "rollout/tokens")
    names += ("train/sample_tokens", "train/packed_tokens")
    return {name: statistics.median(line[name] for line in steps) for name in names}


def run_in_process(dimension: str, point: Point) -> dict[str, float]:
    sizes = [str(size) for size in (point.tasks, point.group, point.turns, point.length)]
    command = [sys.executable, "-m", "benchmarks.growth", *sys.argv[1:]]
    command += ["--dimension", dimension, "--point", *sizes]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def grow(dimension: str, base: Point) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for point in points(dimension, base):
        found = run_in_process(dimension, point)
        row: dict[str, Any] = {dimension: getattr(point, dimension)}
        row |= {name: round(value, 3) for name, value in found.items()}
        row["per_token_ms"] = round(1000 * found["step/seconds"] / found["rollout/tokens"], 3)
        if rows:
            row["growth"] = round(found["step/seconds"] / rows[-1]["step/seconds"], 2)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--dimension", choices=["group", "turns", "length"], help="default: all")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=4096, help="of a micro-batch")
    parser.add_argument("--point", type=int, nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        tasks, group, turns, length = arguments.point
        point = Point(tasks=tasks, group=group, turns=turns, length=length)
        print(json.dumps(run_point(arguments, point)))
        return
    base = Point(tasks=arguments.tasks, group=arguments.group, turns=1, length=arguments.length)
    dimensions = [arguments.dimension] if arguments.dimension else ["group", "turns", "length"]
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        **{dimension: grow(dimension, base) for dimension in dimensions},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
