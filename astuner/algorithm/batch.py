"""From judged groups to the samples of a step. Pure: no model, no files."""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from astuner.algorithm.advantage import COMPARES_GROUPS, AdvantageFunction, has_spread
from astuner.algorithm.penalty import overlong_penalty
from astuner.algorithm.step_advantage import RoleSteps, StepAdvantage
from astuner.config.sections.algorithm import AlgorithmSettings
from astuner.trajectory import merge as trajectory
from astuner.trajectory.episode import Contest, Episode, Group
from astuner.trajectory.recorder import Agent, Call
from astuner.trajectory.samples import Advantage, TrainSample, make_samples

Estimator = AdvantageFunction | StepAdvantage
"""Gives one advantage to an episode of a role, or one to each call."""
_Advantages = dict[tuple[str, str], Advantage]
"""Role and episode id -> advantage, of those contests that teach something."""

PenaltyOf = Callable[[Episode, Collection[Agent]], float]
"""What is taken off the reward that agents of an episode, those of one role, are trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The samples of one step."""

    samples: tuple[TrainSample, ...]
    num_flat_groups: int
    """Groups of which no role has anything to learn: two different rewards, or advantages of calls
    that are not 0."""
    num_small_groups: int
    """Groups left out because no role has a reward in two of their episodes."""
    num_dropped_sequences: int
    """Sequences beyond rollout.multi_turn.max_sample_per_task."""


def no_penalty(_episode: Episode, _agents: Collection[Agent]) -> float:
    return 0.0


def length_penalty(algorithm: AlgorithmSettings, *, max_tokens: int) -> PenaltyOf:
    """What the settings take off for coming close to `max_tokens` sampled tokens.

    So many are for each sequence by itself; of those of a role the one with the most counts, or an
    agent that ran out of room.
    """
    buffer = algorithm.overlong_buffer_length
    if buffer is None:
        return no_penalty

    def penalty_of(episode: Episode, agents: Collection[Agent]) -> float:
        return overlong_penalty(
            _most_sampled(episode, agents) if episode.overflowed.isdisjoint(agents) else max_tokens,
            max_tokens=max_tokens,
            buffer=buffer,
            factor=algorithm.overlong_penalty_factor,
        )

    return penalty_of


def divergence_penalty(divergences: Mapping[tuple[str, int], float]) -> PenaltyOf:
    """What the agents' own sequences diverged, by episode id and index of the sequence."""

    def penalty_of(episode: Episode, agents: Collection[Agent]) -> float:
        return sum(
            divergences.get((episode.episode_id, index), 0.0)
            for index, sequence in enumerate(episode.sequences)
            if sequence.agent in agents
        )

    return penalty_of


def _most_sampled(episode: Episode, agents: Collection[Agent]) -> int:
    """Tokens sampled in that sequence of the agents which has the most of them."""
    own = (sequence for sequence in episode.sequences if sequence.agent in agents)
    return max((sequence.num_sampled for sequence in own), default=0)


def is_useful(group: Group, advantage: Estimator | None = None) -> bool:
    """Whether in some role one of its episodes did better than another, as a whole or, where calls
    are compared, in one of them."""
    contests = group.contests()
    if isinstance(advantage, StepAdvantage):
        return any(_of_calls(group, contest, advantage) for contest in contests)
    return any(has_spread(list(contest.rewards.values())) for contest in contests)


def count_missing(groups: Sequence[Group], *, size: int, advantage: Estimator | None = None) -> int:
    """How many of the `size` groups of a batch are still to be replaced by useful ones."""
    return max(0, size - sum(is_useful(group, advantage) for group in groups))


def choose_groups(
    groups: Sequence[Group], *, size: int, advantage: Estimator | None = None
) -> list[Group]:
    """At most `size` of them, useful ones first, else in their order."""
    return sorted(groups, key=lambda group: is_useful(group, advantage), reverse=True)[:size]


def make_batch(
    groups: Sequence[Group],
    *,
    advantage: Estimator,
    max_sequences: int,
    penalty_of: PenaltyOf = no_penalty,
) -> Batch:
    """Give every judged episode its samples, with the advantage of the role of each one's agent.

    A role is compared within its group and with the same role of other groups only. Left out are
    episodes whose role no other episode of the group has a reward in, and contests that teach
    nothing, whole: their rewards are all equal, and so all their advantages are 0. An advantage
    that happens to be 0 beside others counts as they do, in the loss's mean and its divergence.
    Where calls are compared, every trained call of a role that is not left out has an advantage.
    """
    contests = [[_less(c, group, penalty_of) for c in group.contests()] for group in groups]
    taught: _Advantages = {}
    if isinstance(advantage, StepAdvantage):
        for group, of_group in zip(groups, contests, strict=True):
            for contest in of_group:
                taught |= _of_calls(group, contest, advantage)
        num_flat = sum(
            bool(of_group) and not any((c.role, e) in taught for c in of_group for e in c.rewards)
            for of_group in contests
        )
    else:
        taught |= _advantages([c for of_group in contests for c in of_group], advantage)
        num_flat = sum(_is_flat(of_group) for of_group in contests)
    samples: list[TrainSample] = []
    num_dropped = 0
    for group in groups:
        for episode in group.judged:
            made, dropped = make_samples(
                episode,
                advantage_of=partial(_advantage_of, group, episode, taught),
                max_sequences=max_sequences,
            )
            samples += made
            num_dropped += dropped
    return Batch(
        samples=tuple(samples),
        num_flat_groups=num_flat,
        num_small_groups=sum(not of_group for of_group in contests),
        num_dropped_sequences=num_dropped,
    )


def _less(contest: Contest, group: Group, penalty_of: PenaltyOf) -> Contest:
    rewards = {
        e.episode_id: contest.rewards[e.episode_id]
        - penalty_of(e, group.trained_in(e, contest.role))
        for e in group.judged
        if e.episode_id in contest.rewards
    }
    return replace(contest, rewards=rewards)


def _is_flat(contests: Sequence[Contest]) -> bool:
    return bool(contests) and not any(has_spread(list(c.rewards.values())) for c in contests)


def _advantages(
    contests: Sequence[Contest], advantage: AdvantageFunction
) -> dict[tuple[str, str], float]:
    """Role and episode id -> advantage, of those contests that teach something."""
    found: dict[tuple[str, str], float] = {}
    for role in dict.fromkeys(contest.role for contest in contests):
        same = [list(c.rewards.items()) for c in contests if c.role == role]
        rewards = [[reward for _, reward in contest] for contest in same]
        values = advantage(rewards)
        all_rewards = [reward for of_group in rewards for reward in of_group]
        can_all_teach = advantage in COMPARES_GROUPS and has_spread(all_rewards)
        for contest, of_group, given in zip(same, rewards, values, strict=True):
            if can_all_teach or any(given) or has_spread(of_group):
                found |= {(role, e): value for (e, _), value in zip(contest, given, strict=True)}
    return found


def _of_calls(group: Group, contest: Contest, advantage: StepAdvantage) -> _Advantages:
    """Of each call of a contest, by its index; none where all are 0."""
    episodes = [e for e in group.judged if e.episode_id in contest.rewards]
    calls = [_calls_in(group, episode, contest.role) for episode in episodes]
    given = advantage.of_group(
        [
            _steps(episode, own, total=contest.rewards[episode.episode_id])
            for episode, own in zip(episodes, calls, strict=True)
        ]
    )
    if not any(any(values) for values in given):
        return {}
    return {
        (contest.role, episode.episode_id): dict(zip(own, values, strict=True))
        for episode, own, values in zip(episodes, calls, given, strict=True)
    }


def _calls_in(group: Group, episode: Episode, role: str) -> list[int]:
    return [
        index
        for index, call in enumerate(episode.calls)
        if call.is_trained and group.role_in(episode, call.agent) == role
    ]


def _steps(episode: Episode, calls: Sequence[int], *, total: float) -> RoleSteps:
    """`total` is the reward of the role with its calls', and its penalties taken off."""
    verdict = episode.verdict
    assert verdict is not None
    all_rewards = verdict.call_rewards or (0.0,) * len(episode.calls)
    rewards = tuple(all_rewards[index] for index in calls)
    # One number for all agents holds what the calls of them all earned.
    in_total = rewards if verdict.rewards else all_rewards
    return RoleSteps(
        outcome=math.fsum([total, *(-reward for reward in in_total)]),
        rewards=rewards,
        states=tuple(_state(episode.calls[index]) for index in calls),
    )


def _state(call: Call) -> str:
    """As the workflow names it, else what the agent saw since it last spoke, else all it saw."""
    if call.state is not None:
        return f"named {call.state}"
    roles = [message["role"] for message in call.messages]
    behind = len(roles) - roles[::-1].index("assistant") if "assistant" in roles else 0
    seen = call.messages[behind:] or call.messages
    text = json.dumps(seen, sort_keys=True, default=str)
    return f"seen {hashlib.sha256(text.encode()).hexdigest()}"


def _advantage_of(
    group: Group,
    episode: Episode,
    advantages: Mapping[tuple[str, str], Advantage],
    sequence: trajectory.Sequence,
) -> Advantage | None:
    role = group.role_in(episode, sequence.agent)
    return None if role is None else advantages.get((role, episode.episode_id))
