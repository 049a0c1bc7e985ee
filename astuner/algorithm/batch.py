"""From judged groups to the samples of a step. Pure: no model, no files."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from astuner.algorithm.advantage import COMPARES_GROUPS, AdvantageFunction, has_spread
from astuner.algorithm.penalty import overlong_penalty
from astuner.config.sections.algorithm import AlgorithmSettings
from astuner.trajectory import merge as trajectory
from astuner.trajectory.episode import Contest, Episode, Group
from astuner.trajectory.recorder import Agent
from astuner.trajectory.samples import TrainSample, make_samples

PenaltyOf = Callable[[Episode, Collection[Agent]], float]
"""What is taken off the reward that agents of an episode, those of one role, are trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The samples of one step."""

    samples: tuple[TrainSample, ...]
    num_flat_groups: int
    """Groups in which no role has two different rewards."""
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


def is_useful(group: Group) -> bool:
    """Whether in some role one of its episodes did better than another."""
    return any(has_spread(list(contest.rewards.values())) for contest in group.contests())


def count_missing(groups: Sequence[Group], *, size: int) -> int:
    """How many of the `size` groups of a batch are still to be replaced by useful ones."""
    return max(0, size - sum(map(is_useful, groups)))


def choose_groups(groups: Sequence[Group], *, size: int) -> list[Group]:
    """At most `size` of them, useful ones first, else in their order."""
    return sorted(groups, key=is_useful, reverse=True)[:size]


def make_batch(
    groups: Sequence[Group],
    *,
    advantage: AdvantageFunction,
    max_sequences: int,
    penalty_of: PenaltyOf = no_penalty,
) -> Batch:
    """Give every judged episode its samples, with the advantage of the role of each one's agent.

    A role is compared within its group and with the same role of other groups only. Left out are
    episodes whose role no other episode of the group has a reward in, and contests that teach
    nothing, whole: their rewards are all equal, and so all their advantages are 0. An advantage
    that happens to be 0 beside others counts as they do, in the loss's mean and its divergence.
    """
    contests = [[_less(c, group, penalty_of) for c in group.contests()] for group in groups]
    advantages = _advantages([c for of_group in contests for c in of_group], advantage)
    samples: list[TrainSample] = []
    num_dropped = 0
    for group in groups:
        for episode in group.judged:
            made, dropped = make_samples(
                episode,
                advantage_of=partial(_advantage_of, group, episode, advantages),
                max_sequences=max_sequences,
            )
            samples += made
            num_dropped += dropped
    return Batch(
        samples=tuple(samples),
        num_flat_groups=sum(_is_flat(of_group) for of_group in contests),
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


def _advantage_of(
    group: Group,
    episode: Episode,
    advantages: Mapping[tuple[str, str], float],
    sequence: trajectory.Sequence,
) -> float | None:
    role = group.role_in(episode, sequence.agent)
    return None if role is None else advantages.get((role, episode.episode_id))
