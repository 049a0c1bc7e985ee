"""Makes cases: a toy patient's complaint, what it could tell, and a talk that has begun.

    python -m tutorial.example_learn2ask.make_cases

writes `train.jsonl` and `validation.jsonl`, the same for the same arguments. No patient of the
validation, which is a complaint with all its answers, is one of the training, and no talk either.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tutorial.example_learn2ask.complaints import COMPLAINTS, TOPICS

_SHARE_OF_ENDS = 1 / 3
"""Of the talks in which all has been told, so that the doctor should stop."""
_TRIES = 1000
"""In a row that bring no new case, before it gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A patient, and how far the doctor got."""

    complaint: str
    facts: tuple[tuple[str, str], ...]
    """Topic and answer, in the order of the talk."""
    num_told: int
    """How many of them were asked about so far."""
    talk: tuple[str, ...]
    """What was said, by patient and doctor in turn; the patient begins and is last."""

    @property
    def patient(self) -> tuple[Any, ...]:
        """Equal for talks with the same one, however far they got."""
        return self.complaint, tuple(sorted(self.facts))

    def as_task(self) -> dict[str, Any]:
        """A line for the reader of jsonl files."""
        *before, last = self.talk
        roles = ("user", "assistant")
        return {
            "main_query": last,
            "init_messages": [
                {"role": roles[index % 2], "content": said} for index, said in enumerate(before)
            ],
            "metadata": {
                "told": dict(self.facts[: self.num_told]),
                "hidden": dict(self.facts[self.num_told :]),
            },
        }


def make_splits(
    *, num_training: int, num_validation: int, seed: int
) -> tuple[list[Case], list[Case]]:
    """Cases for training and for validation. Raises ValueError where there are too few."""
    rng = Random(seed)
    validation = _draw(num_validation, rng, held_out=set())
    held_out = {part for case in validation for part in (case.patient, case.talk)}
    return _draw(num_training, rng, held_out=held_out), validation


def _draw(count: int, rng: Random, *, held_out: set[Any]) -> list[Case]:
    drawn: dict[tuple[str, ...], Case] = {}
    num_vain = 0
    while len(drawn) < count:
        case = draw_case(rng)
        if case.talk in drawn or held_out & {case.patient, case.talk}:
            num_vain += 1
            if num_vain == _TRIES:
                raise ValueError(
                    f"cannot draw {count} cases: found {len(drawn)} and no other in {_TRIES} "
                    "tries; ask for fewer, or add to complaints.py"
                )
            continue
        drawn[case.talk] = case
        num_vain = 0
    return list(drawn.values())


def draw_case(rng: Random) -> Case:
    """A patient with answers at random, asked in a random order up to a random point."""
    name = rng.choice(list(COMPLAINTS))
    complaint = COMPLAINTS[name]
    topics = rng.sample(list(complaint.answers), len(complaint.answers))
    facts = tuple((topic, rng.choice(complaint.answers[topic])) for topic in topics)
    is_end = rng.random() < _SHARE_OF_ENDS
    num_told = len(facts) if is_end else rng.randrange(len(facts))
    talk = [rng.choice(complaint.openings)]
    for topic, answer in facts[:num_told]:
        talk += [rng.choice(TOPICS[topic].questions), answer]
    return Case(complaint=name, facts=facts, num_told=num_told, talk=tuple(talk))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("data/learn2ask"))
    parser.add_argument("--training", type=int, default=200, help="how many cases")
    parser.add_argument("--validation", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    try:
        training, validation = make_splits(
            num_training=given.training, num_validation=given.validation, seed=given.seed
        )
    except ValueError as error:
        parser.error(str(error))
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, cases in (("train", training), ("validation", validation)):
        file = given.folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(case.as_task()) + "\n" for case in cases))
        print(f"{file}: {len(cases)} cases")


if __name__ == "__main__":
    main()
