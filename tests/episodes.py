"""One episode, or a pool of them, without a backbone around."""

from dataclasses import dataclass

from astuner.rollout.episode import EpisodeSettings, run_attempt
from astuner.rollout.judging import Judging
from astuner.rollout.pool import PoolSettings, RolloutPool
from astuner.rollout.surroundings import GatewayDoor
from astuner.trajectory.episode import Episode
from astuner.types import WorkflowTask


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How attempts run, and how they are judged."""

    episode: EpisodeSettings
    judging: Judging

    def pool(self, *, max_parallel: int, max_failed_fraction: float) -> RolloutPool:
        limits = PoolSettings(max_parallel=max_parallel, max_failed_fraction=max_failed_fraction)
        return RolloutPool(self.episode, self.judging, limits)


def make_rules(*, judge, judge_timeout_seconds, madness_reward, gateway=None, **episode) -> Rules:
    surroundings = () if gateway is None else (GatewayDoor(gateway),)
    return Rules(
        episode=EpisodeSettings(surroundings=surroundings, **episode),
        judging=Judging(
            judge, timeout_seconds=judge_timeout_seconds, madness_reward=madness_reward
        ),
    )


async def run_episode(workflow_task: WorkflowTask, rules: Rules) -> Episode:
    """An attempt, judged."""
    (episode,) = await rules.judging.judge([await run_attempt(workflow_task, rules.episode)])
    return episode
