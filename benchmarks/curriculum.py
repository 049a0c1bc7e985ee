"""How many groups of a run teach something, with a curriculum and without, for the same tasks.

    python benchmarks/curriculum.py                       simulated, seconds
    python benchmarks/curriculum.py --model DIR [--steps 20]   two real runs over sums, minutes

A group teaches where its episodes were not all solved and not all failed. Simulated: tasks whose
pass rates are spread as those of a mixed bag often are, half of them nearly never or nearly always
solved; they stay so, or rise with each group that taught. Real: sums of one to four digits, the
local backbone, the same seed.
"""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.task_reader.curriculum import CurriculumOrder, DifficultyRules
from astuner.task_reader.order import TaskOrder
from benchmarks.sums import tune

RULES = DifficultyRules(
    easy_above=0.8,
    hard_below=0.2,
    weights={"unknown": 1.0, "easy": 0.2, "medium": 1.0, "hard": 0.5},
    memory=0.7,
)
"""The defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    num_tasks: int
    batch_size: int
    num_repeat: int
    steps: int
    seed: int


@dataclass(slots=True, kw_only=True)
class SimulatedPolicy:
    """Solves a task with logistic(skill - difficulty); each group that taught adds to the skill."""

    difficulties: Sequence[float]
    gain: float
    skill: float = 0.0

    def rate(self, index: int) -> float:
        return 1 / (1 + math.exp(self.difficulties[index] - self.skill))


def simulate(setup: Setup, *, has_curriculum: bool, gain: float) -> tuple[float, float]:
    """Share of groups that taught, and the mean pass rate of all tasks at the end."""
    rng = random.Random(setup.seed)
    policy = SimulatedPolicy(
        difficulties=[rng.gauss(0.5, 3.5) for _ in range(setup.num_tasks)], gain=gain
    )
    curriculum = CurriculumOrder(
        [None] * setup.num_tasks, rules=RULES, batch_size=setup.batch_size, seed=setup.seed
    )
    passes = TaskOrder(setup.num_tasks, batch_size=setup.batch_size, seed=setup.seed)
    num_taught = 0
    for _ in range(setup.steps):
        batch = (curriculum if has_curriculum else passes).next_batch()
        taught = 0
        for index in batch:
            solved = sum(rng.random() < policy.rate(index) for _ in range(setup.num_repeat))
            taught += 0 < solved < setup.num_repeat
            if has_curriculum:
                curriculum.tell(index, num_solved=solved, num_judged=setup.num_repeat)
        policy.skill += policy.gain * taught
        num_taught += taught
    rates = [policy.rate(index) for index in range(setup.num_tasks)]
    return num_taught / (setup.steps * setup.batch_size), sum(rates) / len(rates)


def make_hard_sums(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Of one to four digits, as tasks of the jsonl reader."""
    rng = random.Random(seed)
    tasks = []
    for index in range(count):
        most = 10 ** rng.randint(1, 4)
        numbers = [rng.randrange(most // 10, most) for _ in range(2)]
        tasks.append(
            {
                "main_query": f"What is {numbers[0]} + {numbers[1]}?",
                "task_id": str(index),
                "metadata": {"numbers": numbers},
            }
        )
    return tasks


def run_real(model: str, setup: Setup, *, has_curriculum: bool) -> tuple[float, float]:
    """The same of a run of the local backbone; the rate is that of its last quarter's episodes."""
    settings = {
        "data.train_batch_size": setup.batch_size,
        "data.max_prompt_length": 100,
        "data.max_response_length": 32,
        "rollout.num_repeat": setup.num_repeat,
        "rollout.max_response_length_in_one_turn": 24,
        "rollout.max_model_len": 160,
        "rollout.compute_madness_checklist": [],
        "trainer_common.total_training_steps": setup.steps,
        "trainer_common.total_epochs": setup.steps,
        "trainer_common.val_before_train": False,
        "trainer_common.save_freq": 10_000,
        "trainer_common.test_freq": 10_000,
        "trainer_common.optim.lr": 2e-6,
        "trainer_common.seed": setup.seed,
        "trainer_common.curriculum.enabled": has_curriculum,
    }
    lines = tune(model, make_hard_sums(setup.num_tasks, seed=setup.seed), settings)
    steps = [line for line in lines if "rollout/flat_groups" in line]
    lost = sum(line["rollout/flat_groups"] + line["rollout/small_groups"] for line in steps)
    last = [line["reward/success_rate"] for line in steps[-max(1, len(steps) // 4) :]]
    return 1 - lost / (len(steps) * setup.batch_size), sum(last) / len(last)


def compare(name: str, measure: Callable[[bool], tuple[float, float]]) -> None:
    (without, rate_without), (with_it, rate_with) = measure(False), measure(True)
    print(
        f"{name:30}  {without:7.1%}  {with_it:7.1%}  {with_it / without:5.2f}  "
        f"{rate_without:7.1%}  {rate_with:7.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="folder of a model; without it a simulation")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(
        f"{'groups that teach':30}  {'passes':>7}  {'curric.':>7}  ratio  rate at the end of both"
    )
    if arguments.model:
        setup = Setup(
            num_tasks=48,
            batch_size=8,
            num_repeat=6,
            steps=arguments.steps or 20,
            seed=arguments.seed,
        )
        compare("real", lambda on: run_real(arguments.model, setup, has_curriculum=on))
        return
    for num_tasks, num_repeat in ((200, 8), (2000, 8), (2000, 16)):
        setup = Setup(
            num_tasks=num_tasks,
            batch_size=32,
            num_repeat=num_repeat,
            steps=arguments.steps or 200,
            seed=arguments.seed,
        )
        for gain, kind in ((0.0, "fixed"), (0.0008, "learning")):
            compare(
                f"{num_tasks} tasks x {num_repeat}, {kind}",
                lambda on, s=setup, g=gain: simulate(s, has_curriculum=on, gain=g),
            )


if __name__ == "__main__":
    main()
