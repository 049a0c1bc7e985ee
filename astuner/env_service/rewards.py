"""Rewards that servers give step by step, and what an episode is worth by them. Pure."""

from typing import Any

from astuner.errors import EnvServiceError
from astuner.types import finite_number


def reward_of(value: Any, *, where: str) -> float | None:
    """None where the server gives none. Raises EnvServiceError for what is no finite number."""
    if value is None:
        return None
    reward = finite_number(value)
    if reward is None:
        raise EnvServiceError(
            f"{where} gave the reward {value!r:.80}; a reward is a finite number, or null where "
            "there is none: mend the environment"
        )
    return reward


class RewardSum:
    """What the steps of one episode have earned together.

    A step without a reward has earned nothing: servers give none until the end, and an agent that
    never gets there must not count as one that was not judged.
    """

    def __init__(self) -> None:
        self._total = 0.0

    def add(self, reward: float | None) -> None:
        self._total += reward or 0.0

    def worth(self, *, sparse: bool) -> float:
        """The sum; `sparse`: 1 where that is at least 1, the full marks by convention, else 0."""
        return float(self._total >= 1.0) if sparse else self._total


def joined(rewards: list[float | None]) -> float | None:
    """Of several actions that were one step; None where none of them had one."""
    given = [reward for reward in rewards if reward is not None]
    return sum(given) if given else None
