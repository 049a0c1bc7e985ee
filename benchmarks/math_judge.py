"""Does the math judge take each answer of GSM8K, and no neighbour of it? And how fast is it?

    python -m benchmarks.math_judge data/gsm8k

The folder holds `train.jsonl` and `test.jsonl`, or others of that kind: one object a line, with the
worked answer as `answer`. Each reference is judged as GSM8K writes it, in a box and in a sentence,
which must be right; then one off, with the other sign, ten times as large, with two digits
swapped and with other decimals, each in a box and in a sentence, which must be wrong. Ends with 1
where a single verdict is not as it must be.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from astuner.task_judge.math.text import after_hashes
from astuner.task_judge.math_answer_as_judge import MathAnswerAsJudge
from astuner.types import Task, WorkflowOutput, WorkflowTask

SPEED_ROUNDS = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="with *.jsonl of GSM8K")
    files = sorted(parser.parse_args().folder.glob("*.jsonl"))
    if not files:
        parser.error("the folder has no *.jsonl; see docs/data.md for how to download GSM8K")
    num_wrong = sum([asyncio.run(_check(path)) for path in files])
    asyncio.run(_measure_speed())
    return 1 if num_wrong else 0


async def _check(path: Path) -> int:
    """Print the verdicts on one file; returns how many are not as they must be."""
    judge = MathAnswerAsJudge(None)
    references = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    num_judged = num_wrong = 0
    started = time.perf_counter()
    for reference in references:
        for final_answer, must_be_right in _final_answers(reference):
            _, is_right = await judge.compute_reward(_task(reference), _output(final_answer))
            num_judged += 1
            if is_right != must_be_right:
                num_wrong += 1
                print(f"{path.name}: {final_answer[-60:]!r} is {is_right}, {reference[-20:]!r}")
    seconds = time.perf_counter() - started
    print(
        f"{path.name}: {len(references)} references, {num_judged} verdicts, {num_wrong} wrong, "
        f"accuracy {1 - num_wrong / num_judged:.4%}, {seconds:.1f} s"
    )
    return num_wrong


def _final_answers(reference: str) -> Iterator[tuple[str, bool]]:
    answer = after_hashes(reference) or ""
    number = Decimal(answer.replace(",", ""))
    yield reference, True
    for text in (answer, f"{number:f}", f"{number:,f}"):
        yield from ((found, True) for found in _sentences(text))
    for neighbour in _neighbours(number):
        yield from ((found, False) for found in _sentences(f"{neighbour:f}"))


def _sentences(number: str) -> tuple[str, ...]:
    return rf"So it is \boxed{{{number}}}.", f"In the end that makes ${number} in all."


def _neighbours(number: Decimal) -> set[Decimal]:
    """Others that a careless judge would take for the number."""
    digits = str(abs(int(number)))
    swapped = {
        Decimal(digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :])
        for at in range(len(digits) - 1)
    }
    others = {number + 1, number - 1, -number, number * 10, number / 10}
    others |= {number + Decimal("0.5"), number + Decimal("0.01"), number + Decimal("1e-9")}
    return (others | swapped) - {number}


async def _measure_speed() -> None:
    judge = MathAnswerAsJudge(None)
    task = _task("48+24 = <<48+24=72>>72\n#### 72")
    for name, final_answer in (
        ("right, in a box", r"So it is \boxed{72}."),
        ("wrong, in a box", r"So it is \boxed{73}."),
        ("right, in a sentence", "In the end that makes 72 clips in all."),
    ):
        output = _output(final_answer)
        started = time.perf_counter()
        for _ in range(SPEED_ROUNDS):
            await judge.compute_reward(task, output)
        seconds = time.perf_counter() - started
        print(f"{name}: {SPEED_ROUNDS / seconds:,.0f} verdicts a second on one core")


def _task(answer: str) -> WorkflowTask:
    task = Task(main_query="", task_id="1", metadata={"answer": answer})
    return WorkflowTask(task=task, episode_id="e", step=1, attempt=0, is_validation=False)


def _output(final_answer: str) -> WorkflowOutput:
    return WorkflowOutput(metadata={"final_answer": final_answer})


if __name__ == "__main__":
    sys.exit(main())
