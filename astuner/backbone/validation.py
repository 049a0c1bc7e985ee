"""How good the policy is on the validation tasks, with the uncertainty of that number."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from astuner.algorithm.metrics import SuccessRate, mean, success_rate
from astuner.errors import BackboneError
from astuner.rollout.pool import RolloutPool, commonest_failure
from astuner.rollout.refused import check_answered
from astuner.trajectory.episode import Episode
from astuner.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """One pass over the validation tasks; failed episodes are counted but not judged."""

    step: int
    num_failed: int
    success: SuccessRate
    reward_mean: float
    tokens_mean: float
    """Sampled tokens per episode."""
    seconds: float

    @classmethod
    def of(cls, episodes: Sequence[Episode], *, step: int, seconds: float) -> Self:
        """Raises BackboneError when none of them has a verdict, or all their calls were refused."""
        check_answered(episodes, where=f"validation after step {step}")
        verdicts = [episode.verdict for episode in episodes if episode.verdict]
        if not verdicts:
            raise BackboneError(
                f"validation after step {step}: all {len(episodes)} episodes failed; "
                f"{commonest_failure(episodes)}"
            )
        return cls(
            step=step,
            num_failed=len(episodes) - len(verdicts),
            success=success_rate(sum(verdict.is_success for verdict in verdicts), len(verdicts)),
            reward_mean=mean([verdict.reward for verdict in verdicts]),
            tokens_mean=mean([episode.num_sampled_tokens for episode in episodes]),
            seconds=seconds,
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """From what `dataclasses.asdict` made of one."""
        return cls(**{**record, "success": SuccessRate(**record["success"])})

    def line(self) -> str:
        """For a person."""
        return (
            f"validation after step {self.step}: success {self.success.rate:.3f} "
            f"[{self.success.low:.3f}, {self.success.high:.3f}]  "
            f"reward {self.reward_mean:.3f}  {self.tokens_mean:.0f} tokens an episode"
        )

    def metrics(self) -> dict[str, float]:
        return {
            "validation/success_rate": self.success.rate,
            "validation/success_rate_low": self.success.low,
            "validation/success_rate_high": self.success.high,
            "validation/reward_mean": self.reward_mean,
            "validation/tokens_mean": self.tokens_mean,
            "validation/episodes": self.success.num_episodes + self.num_failed,
            "validation/failed_episodes": self.num_failed,
            "validation/seconds": self.seconds,
        }


async def validate(
    pool: RolloutPool,
    tasks: Sequence[Task],
    *,
    num_repeat: int,
    step: int,
    on_episode: Callable[[Episode], None],
) -> Validation:
    """Roll out every task `num_repeat` times with the sampling of rollout.val_kwargs."""
    started = time.monotonic()
    groups = await pool.run(
        tasks, num_repeat=num_repeat, step=step, is_validation=True, on_episode=on_episode
    )
    episodes = [episode for group in groups for episode in group.episodes]
    return Validation.of(episodes, step=step, seconds=time.monotonic() - started)
