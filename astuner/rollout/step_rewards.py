"""From the step rewards of a workflow to one number for each call of its episode.

What it is given may be of any class, whose code may fail: it is asked inside of a `boundary`.
"""

import math
from collections.abc import Mapping, Sequence

from astuner.errors import WorkflowError
from astuner.trajectory.attempt import Attempt

_MAX_REWARD = 1e30
"""As of an outcome."""


def call_rewards(attempt: Attempt) -> tuple[float, ...]:
    """One for each call of the attempt, 0.0 where it has none; empty without step rewards.

    Raises WorkflowError for numbers that do not fit the calls, or are not finite.
    """
    given = None if attempt.output is None else attempt.output.step_rewards
    if given is None:
        return ()
    found: dict[int, float] = {}
    for calls, rewards, of in _assigned(attempt, given):
        for call, reward in zip(calls, rewards, strict=True):
            if call in found:
                raise _refused(f"give call {call + 1} a second number, {of}; give each call one")
            found[call] = _finite(reward, of)
    return tuple(found.get(index, 0.0) for index in range(len(attempt.calls)))


_Assigned = tuple[Sequence[int], Sequence[float], str]
"""Indices of calls, as many numbers, and the words for where they stand."""


def _assigned(
    attempt: Attempt, given: Sequence[float] | Mapping[str, float | list[float]]
) -> list[_Assigned]:
    trained = [index for index, call in enumerate(attempt.calls) if call.is_trained]
    if not isinstance(given, Mapping):
        return [_one_each(trained, given, "in the list", "the trained agents")]
    return [_of_key(attempt, trained, key, value) for key, value in given.items()]


def _one_each(calls: list[int], rewards: Sequence[float], of: str, whose: str) -> _Assigned:
    if len(calls) != len(rewards):
        raise _refused(
            f"are {len(rewards)} {of}, and {whose} made {len(calls)} calls whose answers were "
            "taken; give one number for each, in order"
        )
    return calls, rewards, of


def _of_key(
    attempt: Attempt, trained: list[int], key: str, value: float | list[float]
) -> _Assigned:
    named = [index for index in trained if attempt.calls[index].name == key]
    is_agent = any(key in agent for agent, is_trained in attempt.agents.items() if is_trained)
    if named and is_agent:
        raise _refused(
            f"have the key {key!r}, which names calls and an agent; rename the calls in name_calls"
        )
    if is_agent and isinstance(value, list):
        own = [index for index in trained if key in attempt.calls[index].agent]
        return _one_each(own, value, f"of {key!r}", f"the agent {key!r}")
    if named and not isinstance(value, list):
        return [named[-1]], [value], f"of {key!r}"
    if named or is_agent:
        wanted = "one number" if named else "a list with one number for each call"
        what = "the name of calls" if named else "an agent"
        raise _refused(f"have {value!r} for {key!r}, which is {what}; give {wanted}")
    names = sorted({call.name for call in attempt.calls if call.is_trained and call.name})
    agents = sorted(
        {n for agent, is_trained in attempt.agents.items() if is_trained for n in agent}
    )
    raise _refused(
        f"names {key!r}, and the calls of this episode are named {names} and its trained "
        f"agents {agents}; name calls with name_calls before they are made"
    )


def _finite(reward: float, of: str) -> float:
    if math.isfinite(reward) and abs(reward) <= _MAX_REWARD:
        return reward
    raise _refused(f"have {reward} {of}; expected finite numbers of at most {_MAX_REWARD:g}")


def _refused(found: str) -> WorkflowError:
    return WorkflowError(f"the workflow's step_rewards: {found}")
