"""Makes tasks of the countdown game: numbers, and a target that they reach.

    python tutorial/example_countdown/make_tasks.py

writes `train.jsonl` and `validation.jsonl`, the same for the same arguments. The numbers of a
validation task are those of no training task, in whatever order and with whatever target.
"""

import argparse
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

OPERATORS = ("+", "-", "*", "/")
_TRIES = 1000
"""In a row that bring no new task, before it gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """What tasks are drawn from."""

    numbers: Sequence[int]
    """How many numbers a task may have."""
    operators: Sequence[str]
    largest: int
    """Of the numbers, which begin at 1."""
    largest_target: int
    """Also of all that stands in between."""

    def __str__(self) -> str:
        counts = " or ".join(map(str, self.numbers))
        return (
            f"{counts} numbers up to {self.largest} by {' '.join(self.operators)} "
            f"with targets up to {self.largest_target}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """Numbers, a target, and one way to reach it."""

    nums: tuple[int, ...]
    """The largest first, so that the order tells nothing of the solution."""
    target: int
    solution: str

    def as_task(self) -> dict[str, Any]:
        """A line for the reader of jsonl files."""
        *others, last = map(str, self.nums)
        return {
            "main_query": f"Make {self.target} from {', '.join(others)} and {last}.",
            "task_id": f"{'_'.join(map(str, self.nums))}={self.target}",
            "metadata": {"nums": self.nums, "target": self.target, "solution": self.solution},
        }


def make_splits(
    difficulty: Difficulty, *, num_training: int, num_validation: int, seed: int
) -> tuple[list[Puzzle], list[Puzzle]]:
    """Puzzles for training and for validation; see the module for how they differ.

    Raises ValueError where the difficulty has too few.
    """
    rng = Random(seed)
    validation = _draw(difficulty, num_validation, rng, held_out=())
    held_out = {puzzle.nums for puzzle in validation}
    return _draw(difficulty, num_training, rng, held_out=held_out), validation


def _draw(
    difficulty: Difficulty, count: int, rng: Random, *, held_out: Collection[tuple[int, ...]]
) -> list[Puzzle]:
    drawn: dict[tuple[tuple[int, ...], int], Puzzle] = {}
    num_vain = 0
    while len(drawn) < count:
        puzzle = draw_puzzle(difficulty, rng)
        if puzzle is None or puzzle.nums in held_out or (puzzle.nums, puzzle.target) in drawn:
            num_vain += 1
            if num_vain == _TRIES:
                raise ValueError(
                    f"cannot draw {count} tasks of {difficulty}: found {len(drawn)} and no other "
                    f"in {_TRIES} tries; ask for fewer tasks, larger numbers or more of them"
                )
            continue
        drawn[puzzle.nums, puzzle.target] = puzzle
        num_vain = 0
    return list(drawn.values())


def draw_puzzle(difficulty: Difficulty, rng: Random) -> Puzzle | None:
    """Numbers at random, joined at random; None where they come to nothing that is allowed: what
    stands in between is a whole number above 0, too.
    """
    count = rng.choice(difficulty.numbers)
    drawn = [rng.randint(1, difficulty.largest) for _ in range(count)]
    nums = tuple(sorted(drawn, reverse=True))
    terms = [(number, str(number)) for number in nums]
    while len(terms) > 1:
        (left, left_text), (right, right_text) = sorted(rng.sample(terms, 2), reverse=True)
        operator = rng.choice(difficulty.operators)
        value = _value(left, operator, right)
        if value is None or value > difficulty.largest_target:
            return None
        terms.remove((left, left_text))
        terms.remove((right, right_text))
        terms.append((value, f"({left_text} {operator} {right_text})"))
    ((target, text),) = terms
    return Puzzle(nums=nums, target=target, solution=text.removeprefix("(").removesuffix(")"))


def _value(left: int, operator: str, right: int) -> int | None:
    """Where it is a whole number above 0; the left one is not the smaller."""
    if operator == "+":
        return left + right
    if operator == "*":
        return left * right
    if operator == "-":
        return left - right if left > right else None
    return left // right if left % right == 0 else None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("data/countdown"))
    parser.add_argument("--numbers", type=int, nargs="+", default=[3, 4], help="how many in a task")
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=OPERATORS)
    parser.add_argument("--largest", type=int, default=99, help="of the numbers")
    parser.add_argument("--largest-target", type=int, default=999)
    parser.add_argument("--training", type=int, default=5000, help="how many tasks")
    parser.add_argument("--validation", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    try:
        training, validation = make_splits(
            Difficulty(
                numbers=given.numbers,
                operators=given.operators,
                largest=given.largest,
                largest_target=given.largest_target,
            ),
            num_training=given.training,
            num_validation=given.validation,
            seed=given.seed,
        )
    except ValueError as error:
        parser.error(str(error))
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, puzzles in (("train", training), ("validation", validation)):
        lines = [json.dumps(puzzle.as_task()) + "\n" for puzzle in puzzles]
        file = given.folder / f"{name}.jsonl"
        file.write_text("".join(lines))
        print(f"{file}: {len(lines)} tasks")


if __name__ == "__main__":
    main()
