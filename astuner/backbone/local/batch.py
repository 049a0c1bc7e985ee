"""From judged groups to samples, and what a step's rollout looked like in numbers.

Pure: no model, no files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from astuner.algorithm.advantage import AdvantageFunction, has_spread
from astuner.algorithm.metrics import mean
from astuner.trajectory.episode import Episode, Group
from astuner.trajectory.samples import TrainSample, make_samples

RewardOf = Callable[[Episode], float]
"""The reward that an episode is trained on: the judge's, less penalties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The samples of one step."""

    samples: tuple[TrainSample, ...]
    num_flat_groups: int
    """Groups whose rewards are all equal."""
    num_small_groups: int
    """Groups left out because fewer than two of their episodes have a verdict."""
    num_dropped_sequences: int
    """Sequences beyond rollout.multi_turn.max_sample_per_task."""


def judged_reward(episode: Episode) -> float:
    """Of an episode with a verdict."""
    assert episode.verdict is not None
    return episode.verdict.reward


def is_useful(group: Group) -> bool:
    """Whether some of its episodes did better than others."""
    rewards = [judged_reward(episode) for episode in group.judged]
    return len(rewards) > 1 and has_spread(rewards)


def make_batch(
    groups: Sequence[Group],
    *,
    advantage: AdvantageFunction,
    max_sequences: int,
    reward_of: RewardOf = judged_reward,
) -> Batch:
    """Give every judged episode its advantage and its samples.

    Groups with fewer than two verdicts are left out, and episodes with advantage 0, which teach
    nothing.
    """
    usable = [group for group in groups if len(group.judged) > 1]
    rewards = [[reward_of(episode) for episode in group.judged] for group in usable]
    samples: list[TrainSample] = []
    num_dropped = 0
    for group, advantages in zip(usable, advantage(rewards) if usable else [], strict=True):
        for episode, value in zip(group.judged, advantages, strict=True):
            if value == 0:
                continue
            made, dropped = make_samples(episode, advantage=value, max_sequences=max_sequences)
            samples += made
            num_dropped += dropped
    return Batch(
        samples=tuple(samples),
        num_flat_groups=sum(not has_spread(of_group) for of_group in rewards),
        num_small_groups=len(groups) - len(usable),
        num_dropped_sequences=num_dropped,
    )


def rollout_metrics(groups: Sequence[Group], *, seconds: float) -> dict[str, float | None]:
    """Rewards, counts and lengths of one step's episodes; failed ones count only as failed.

    What is not known, such as the mean reward of no verdict, is None.
    """
    episodes = [episode for group in groups for episode in group.episodes]
    verdicts = [episode.verdict for episode in episodes if episode.verdict]
    breaks = [call.break_reason for e in episodes for call in e.calls if call.break_reason]
    return {
        "reward/mean": _mean([verdict.reward for verdict in verdicts]),
        "reward/success_rate": _mean([float(verdict.is_success) for verdict in verdicts]),
        "rollout/episodes": len(episodes),
        "rollout/failed_episodes": len(episodes) - len(verdicts),
        "rollout/madness_episodes": sum(episode.madness is not None for episode in episodes),
        "rollout/context_overflows": sum(episode.context_overflow for episode in episodes),
        "rollout/calls": sum(len(episode.calls) for episode in episodes),
        "rollout/tokens": sum(episode.num_sampled_tokens for episode in episodes),
        "rollout/episode_tokens_mean": _mean([e.num_sampled_tokens for e in episodes]),
        "rollout/seconds": seconds,
        "trajectory/sequences_per_episode": _mean([len(e.sequences) for e in episodes if e.calls]),
        "trajectory/breaks": len(breaks),
    }


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None
