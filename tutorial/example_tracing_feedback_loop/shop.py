"""A small shop: who comes with which trouble, what is right, and what is thought of a reply.

Every week its customers say their troubles in words that nobody used before, so that what a clerk
learned from the weeks before does not answer them word by word.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

NUM_WEEKS = 3
PAPERS = {
    "delivery": "tracking number",
    "returns": "receipt",
    "payment": "bank statement",
    "advice": "nothing",
}
"""What each desk wants to see. It stands in no prompt: customers and colleagues tell it."""

_TROUBLES: dict[str, list[list[str]]] = yaml.safe_load(
    Path(__file__).with_name("troubles.yaml").read_text(encoding="utf-8")
)
_GOODS = ("lamp", "kettle", "bicycle", "tent", "radio", "chair", "camera", "blender", "drill")
_OPENINGS = ("Hello.", "Good morning.", "Hi there,", "Excuse me.", "Sorry to bother you.", "Help!")
_SECOND = (
    "What do I have to bring?",
    "Which paper shall I bring?",
    "What do you need from me?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Somebody with a trouble, who asks two things and knows what would be right."""

    name: str
    says: tuple[str, str]
    right: tuple[str, str]


def customers(week: int, *, seed: int = 0) -> Iterator[Customer]:
    """Without end; the same for the same week, 0 to 2, and seed."""
    lots = random.Random(f"{week} {seed}")
    number = 0
    while True:
        desk = lots.choice(tuple(PAPERS))
        trouble = lots.choice(_TROUBLES[desk][week]).replace("GOODS", lots.choice(_GOODS))
        yield Customer(
            name=f"week-{week}-customer-{number}",
            says=(f"{lots.choice(_OPENINGS)} {trouble}", lots.choice(_SECOND)),
            right=(desk, PAPERS[desk]),
        )
        number += 1


def is_right(reply: str, right: str) -> bool:
    """Customers do not mind capital letters and a full stop."""
    return reply.strip().rstrip(".!").casefold() == right


def opinion(reply: str, right: str) -> dict[str, str | float]:
    """As OpenTelemetry writes what was thought of an answer; a wrong one is corrected."""
    told: dict[str, str | float] = {
        "gen_ai.evaluation.name": "customer",
        "gen_ai.evaluation.evaluator.name": "human",
        "gen_ai.evaluation.score.value": float(is_right(reply, right)),
    }
    if is_right(reply, right):
        return told | {"gen_ai.evaluation.score.label": "accepted"}
    wrong = {"gen_ai.evaluation.score.label": "wrong", "astuner.evaluation.correction": right}
    return told | wrong
