"""What a step's rollout and its batch look like in numbers, under the names of every backbone.

Pure: no model, no files. What is measured of the training is the trainer's.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

from astuner.algorithm.batch import Batch
from astuner.algorithm.metrics import mean, named_parts, of_source, part_means
from astuner.trajectory.episode import Episode, Group
from astuner.trajectory.recorder import BreakKind
from astuner.types import Verdict


def rollout_metrics(groups: Sequence[Group], *, seconds: float) -> dict[str, float | None]:
    """Rewards, counts and lengths of one step's episodes; failed ones count only as failed.

    What is not known, such as the mean reward of no verdict, is None.
    """
    episodes = [episode for group in groups for episode in group.episodes]
    verdicts = [episode.verdict for episode in episodes if episode.verdict]
    calls = [call for episode in episodes for call in episode.calls if call.is_trained]
    breaks = [call.break_kind for call in calls if call.break_reason]
    drifted = [call.num_drifted for call in calls if call.num_drifted]
    return {
        **_role_rewards(verdicts),
        **_source_metrics(groups),
        **_rewards(episodes),
        "rollout/madness_episodes": sum(episode.madness is not None for episode in episodes),
        "rollout/context_overflows": sum(episode.context_overflow for episode in episodes),
        "rollout/calls": sum(len(episode.calls) for episode in episodes),
        "rollout/untrained_calls": sum(len(e.calls) for e in episodes) - len(calls),
        "rollout/untaken_calls": sum(not call.is_taken for e in episodes for call in e.calls),
        "rollout/refused_calls": sum(episode.num_refused_calls for episode in episodes),
        "rollout/empty_replies": sum(episode.num_empty_replies for episode in episodes),
        "rollout/tokens": sum(episode.num_sampled_tokens for episode in episodes),
        "rollout/episode_tokens_mean": _mean([e.num_sampled_tokens for e in episodes]),
        "rollout/seconds": seconds,
        "trajectory/sequences_per_episode": _mean([len(e.sequences) for e in episodes if e.calls]),
        "trajectory/breaks": len(breaks),
        **{f"trajectory/breaks_{kind}": breaks.count(kind) for kind in BreakKind},
        "trajectory/drifted_calls": len(drifted),
        "trajectory/drifted_tokens": sum(drifted),
    }


def batch_metrics(
    batch: Batch, *, num_refills: int, weight_version: int
) -> dict[str, float | None]:
    """What became of the groups, after `num_refills` times more were rolled out.

    `weight_version` is that of the weights which the batch is trained on.
    """
    lags = [weight_version - sample.weight_version for sample in batch.samples]
    return {
        "rollout/refills": num_refills,
        "rollout/flat_groups": batch.num_flat_groups,
        "rollout/small_groups": batch.num_small_groups,
        "trajectory/dropped_sequences": batch.num_dropped_sequences,
        "rollout/weight_version_lag": max(lags, default=None),
    }


def _role_rewards(verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """Mean reward of each role that has rewards of its own."""
    rewards: defaultdict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        for role, reward in verdict.rewards.items():
            rewards[role].append(reward)
    return {f"reward/{role}": mean(values) for role, values in sorted(rewards.items())}


def _source_metrics(groups: Sequence[Group]) -> dict[str, float | None]:
    """The same of the tasks of each source of a mixture; nothing where tasks are not mixed."""
    by_source: defaultdict[str, list[Episode]] = defaultdict(list)
    for group in groups:
        if group.task.source:
            by_source[group.task.source] += group.episodes
    return {
        of_source(metric, source): value
        for source, episodes in sorted(by_source.items())
        for metric, value in _rewards(episodes).items()
    }


def _rewards(episodes: Sequence[Episode]) -> dict[str, float | None]:
    verdicts = [episode.verdict for episode in episodes if episode.verdict]
    steps = [math.fsum(verdict.call_rewards) for verdict in verdicts if verdict.call_rewards]
    return {
        **({"reward/steps_mean": mean(steps)} if steps else {}),
        "reward/mean": _mean([verdict.reward for verdict in verdicts]),
        "reward/success_rate": _mean([float(verdict.is_success) for verdict in verdicts]),
        **named_parts("reward/part", part_means(verdicts)),
        "rollout/episodes": len(episodes),
        "rollout/failed_episodes": len(episodes) - len(verdicts),
    }


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None
