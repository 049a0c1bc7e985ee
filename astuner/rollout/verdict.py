"""From what a workflow or a judge gave as reward to the verdict of an episode.

Holds rewards to the rule that a missing or unfinite number is never replaced by another. What it is
given may be of any class, whose code may fail: it is asked inside of a `boundary`.
"""

import contextlib
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, SupportsFloat

from pydantic import TypeAdapter, ValidationError

from astuner.errors import EpisodeError
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.episode import role_of
from astuner.trajectory.recorder import Agent
from astuner.types import Verdict, own_value

Refuse = Callable[[str], EpisodeError]
"""The error of whoever gave the reward, from what is wrong with it."""

_METRIC_NAMES = ("mean", "success_rate", "steps_mean")
_METRIC_PREFIX = "part/"
"""Taken under `reward/` in the metrics of a step."""
_MAX_REWARD = 1e30
"""Far from where float32, which a loss is computed in, has no more numbers."""
_TRUTH = TypeAdapter(bool)
"""Knows the words for true and false."""


def make_verdict(
    reward: Any,
    is_success: Any,
    attempt: Attempt,
    *,
    source: Literal["workflow", "judge"],
    refuse: Refuse,
    note: Any = "",
    parts: Mapping[Any, Any] = MappingProxyType({}),
) -> Verdict:
    """The verdict from a number for all agents, or a mapping from tags or names to numbers.

    Where `is_success` is None, a reward above 0 is a success. Raises what `refuse` makes for a
    number that is not finite or beyond all use, a key that is no agent's, a trained agent without a
    reward, and an `is_success` that is neither true nor false.
    """
    rewards: dict[str, float] = {}
    if isinstance(reward, Mapping):
        rewards = {str(key): _finite(v, refuse, f"of {key!r} ") for key, v in reward.items()}
        _check_roles(rewards, attempt, refuse)
        whole = _mean_of_trained(rewards, attempt.agents)
    else:
        whole = _finite(reward, refuse, "")
    success = _truth(is_success, refuse)
    return Verdict(
        reward=whole,
        is_success=whole > 0 if success is None else success,
        source=source,
        rewards=rewards,
        note=str(note),
        parts={str(k): _finite(v, refuse, f"has a part {k!r}, which ") for k, v in parts.items()},
    )


def with_call_rewards(
    verdict: Verdict, call_rewards: tuple[float, ...], attempt: Attempt
) -> Verdict:
    """The verdict on an outcome, with what single calls earned added to its rewards.

    Whether it was a success stays as the outcome has it.
    """
    if not call_rewards:
        return replace(verdict, call_rewards=call_rewards)
    rewards = dict(verdict.rewards)
    for call, reward in zip(attempt.calls, call_rewards, strict=True):
        role = role_of(call.agent, rewards)
        if role is not None:
            rewards[role] += reward
    return replace(
        verdict,
        reward=_mean_of_trained(rewards, attempt.agents)
        if rewards
        else math.fsum([verdict.reward, *call_rewards]),
        rewards=rewards,
        call_rewards=call_rewards,
    )


def _finite(value: Any, refuse: Refuse, whose: str) -> float:
    number = own_value(value)
    if isinstance(number, SupportsFloat):
        with contextlib.suppress(OverflowError, TypeError, ValueError):
            found = float(number)
            if math.isfinite(found) and abs(found) <= _MAX_REWARD:
                return found
    raise refuse(
        f"{whose}is {reprlib.repr(value)}; expected a finite number of at most {_MAX_REWARD:g}"
    )


def _truth(value: Any, refuse: Refuse) -> bool | None:
    """As Python has it, but for words, which say it, and for what is not a number."""
    flag = own_value(value)
    if flag is None or isinstance(flag, bool):
        return flag
    if not isinstance(flag, str) and flag == flag:
        return bool(flag)
    with contextlib.suppress(ValidationError):
        return _TRUTH.validate_python(flag)
    raise refuse(f"has an is_success of {reprlib.repr(value)}; expected True, False or None")


def _check_roles(rewards: Mapping[str, float], attempt: Attempt, refuse: Refuse) -> None:
    agents = attempt.agents
    known = {key for agent in agents for key in agent}
    unknown = sorted(set(rewards) - known)
    if unknown or not rewards:
        raise refuse(
            f"has the keys {sorted(rewards)}, of which {unknown} are no agent's name or target "
            f"tag; the agents of the episode are {_listed(agents)}"
        )
    taken = [key for key in rewards if key in _METRIC_NAMES or key.startswith(_METRIC_PREFIX)]
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
