"""How good the policy is on the validation tasks, with the uncertainty of that number."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from astuner.algorithm.metrics import (
    SuccessRate,
    mean,
    named_parts,
    of_source,
    part_means,
    success_rate,
)
from astuner.errors import BackboneError
from astuner.rollout.pool import RolloutPool, commonest_failure
from astuner.rollout.refused import check_answered
from astuner.trajectory.episode import Episode
from astuner.types import Task

_SUCCESS_RATE = "validation/success_rate"
_PART = "validation/part"


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
    by_source: Mapping[str, float] = field(default_factory=dict)
    """Metrics of each source of a mixture, by their names."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Means of what rewards are made of, by the names of their metrics."""

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
            by_source=_source_metrics(episodes),
            parts=named_parts(_PART, part_means(verdicts)),
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """From what `dataclasses.asdict` made of one."""
        return cls(**{**record, "success": SuccessRate(**record["success"])})

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> Self | None:
        """From a line of metrics.jsonl, as far as tables need it; None where it has none."""
        rate, episodes = metrics.get(_SUCCESS_RATE), metrics.get("validation/episodes")
        if rate is None or episodes is None:
            return None
        num_failed = int(metrics.get("validation/failed_episodes") or 0)
        return cls(
            step=int(metrics["step"]),
            num_failed=num_failed,
            success=SuccessRate(
                rate=rate,
                low=metrics["validation/success_rate_low"],
                high=metrics["validation/success_rate_high"],
                num_episodes=int(episodes) - num_failed,
            ),
            reward_mean=metrics["validation/reward_mean"],
            tokens_mean=metrics["validation/tokens_mean"],
            seconds=metrics["validation/seconds"],
        )

    def line(self) -> str:
        """For a person."""
        return (
            f"validation after step {self.step}: success {self.success.rate:.3f} "
            f"[{self.success.low:.3f}, {self.success.high:.3f}]  "
            f"reward {self.reward_mean:.3f}  {self.tokens_mean:.0f} tokens an episode"
            f"{self._rates_of_sources()}"
        )

    def _rates_of_sources(self) -> str:
        prefix = of_source(_SUCCESS_RATE, "")
        rates = {
            name.removeprefix(prefix): rate
            for name, rate in self.by_source.items()
            if name.startswith(prefix)
        }
        return "".join(f"\n  success {rate:.3f}  {source}" for source, rate in rates.items())

    def metrics(self) -> dict[str, float]:
        return {
            _SUCCESS_RATE: self.success.rate,
            "validation/success_rate_low": self.success.low,
            "validation/success_rate_high": self.success.high,
            "validation/reward_mean": self.reward_mean,
            "validation/tokens_mean": self.tokens_mean,
            "validation/episodes": self.success.num_episodes + self.num_failed,
            "validation/failed_episodes": self.num_failed,
            "validation/seconds": self.seconds,
            **self.parts,
            **self.by_source,
        }


def is_validation_due(before: int, version: int, interval: int) -> bool:
    """Whether weights of this version are validated, where those of the version `before` came last.

    Versions may come several at once. Behind the first weights of a start, whose version before is
    negative, nothing is due: there val_before_train decides.
    """
    return before >= 0 and version // interval > before // interval


def _source_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Without the rates of a source whose episodes all failed: they are not known."""
    by_source: defaultdict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        if episode.task.source:
            by_source[episode.task.source].append(episode)
    metrics: dict[str, float] = {}
    for source, own in sorted(by_source.items()):
        verdicts = [episode.verdict for episode in own if episode.verdict]
        metrics[of_source("validation/episodes", source)] = len(own)
        metrics[of_source("validation/failed_episodes", source)] = len(own) - len(verdicts)
        if verdicts:
            rate = mean([float(verdict.is_success) for verdict in verdicts])
            metrics[of_source(_SUCCESS_RATE, source)] = rate
            reward = mean([verdict.reward for verdict in verdicts])
            metrics[of_source("validation/reward_mean", source)] = reward
            for name, value in named_parts(_PART, part_means(verdicts)).items():
                metrics[of_source(name, source)] = value
    return metrics


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
