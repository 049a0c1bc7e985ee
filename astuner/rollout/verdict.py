"""From what a workflow or a judge gave as reward to the verdict of an episode.

Holds rewards to the rule that a missing or unfinite number is never replaced by another.
"""

import contextlib
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, SupportsFloat

from astuner.errors import EpisodeError
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.episode import role_of
from astuner.trajectory.recorder import Agent
from astuner.types import Verdict

Refuse = Callable[[str], EpisodeError]
"""The error of whoever gave the reward, from what is wrong with it."""

_METRIC_NAMES = ("mean", "success_rate")
"""Taken under `reward/` in the metrics of a step."""


def make_verdict(
    reward: Any,
    is_success: bool | None,
    attempt: Attempt,
    *,
    source: Literal["workflow", "judge"],
    refuse: Refuse,
) -> Verdict:
    """The verdict from a number for all agents, or a mapping from tags or names to numbers.

    Without `is_success`, a reward above 0 is a success. Raises what `refuse` makes for a number
    that is not finite, a key that is no agent's, and a trained agent without a reward.
    """
    rewards: dict[str, float] = {}
    if isinstance(reward, Mapping):
        rewards = {str(key): _finite(v, refuse, f"of {key!r} ") for key, v in reward.items()}
        _check_roles(rewards, attempt, refuse)
        whole = _mean_of_trained(rewards, attempt.agents)
    else:
        whole = _finite(reward, refuse, "")
    return Verdict(
        reward=whole,
        is_success=whole > 0 if is_success is None else is_success,
        source=source,
        rewards=rewards,
    )


def _finite(value: Any, refuse: Refuse, whose: str) -> float:
    # Also of numpy and torch, Fraction and Decimal; what has axes is no number.
    if isinstance(value, SupportsFloat) and not getattr(value, "shape", ()):
        with contextlib.suppress(OverflowError):
            number = float(value)
            if math.isfinite(number):
                return number
    raise refuse(f"{whose}is {reprlib.repr(value)}; expected a finite number")


def _check_roles(rewards: Mapping[str, float], attempt: Attempt, refuse: Refuse) -> None:
    agents = attempt.agents
    known = {key for agent in agents for key in agent}
    unknown = sorted(set(rewards) - known)
    if unknown or not rewards:
        raise refuse(
            f"has the keys {sorted(rewards)}, of which {unknown} are no agent's name or target "
            f"tag; the agents of the episode are {_listed(agents)}"
        )
    taken = [key for key in rewards if key in _METRIC_NAMES]
    if taken:
        raise refuse(f"has the key {taken[0]!r}, which metrics use already; rename that agent")
    asked = {call.agent for call in attempt.calls if call.is_trained}
    missing = [agent for agent in asked if role_of(agent, rewards) is None]
    if missing:
        raise refuse(
            f"has the keys {sorted(rewards)} and none for {_listed(missing)}, which is trained; "
            "give each trained agent a reward by its name or target tag"
        )


def _mean_of_trained(rewards: Mapping[str, float], agents: Mapping[Agent, bool]) -> float:
    """Over the keys of trained agents, so that it does not vanish where opponents' are added."""
    roles = {role_of(agent, rewards) for agent, is_trained in agents.items() if is_trained}
    values = [reward for role, reward in rewards.items() if role in roles]
    values = values or list(rewards.values())
    return sum(values) / len(values)


def _listed(agents: Iterable[Agent]) -> str:
    named = sorted(f"{name} (target tag {tag})" for name, tag in agents)
    return ", ".join(named) or "none that was given a model"
