"""Is the run still learning? Looks at the metrics of each step and says when it is not.

Pure: numbers in, sentences out; no model, no files. What a finding leads to is the loop's business.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Reaction = Literal["stop", "warn", "off"]
Metrics = Mapping[str, float | None]

_ENTROPY_SHARE = 0.05
_LOWEST_ENTROPY = 0.02
"""Nats a token, and of the entropy at the start: below both, the policy hardly varies any more."""
_NUM_FAILED_STEPS = 2
_NUM_IDLE_STEPS = 2
"""In a row: one may be an accident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """What each detector does when it finds something, and when it does."""

    not_finite: Reaction
    logprob_gap: Reaction
    no_spread: Reaction
    all_failed: Reaction
    nothing_trained: Reaction
    entropy: Reaction
    no_spread_steps: int
    """Steps in a row in which no group had spread, or none had two verdicts."""
    max_logprob_gap: float
    """Mean over the trained tokens, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong."""

    detector: str
    """The name of its setting in trainer_common.detectors."""
    message: str
    """What, since when, likely why, and what to do."""
    stops: bool
    is_broken: bool = False
    """Whether the weights are to blame, so that they are not worth saving."""


@dataclass(slots=True)
class Health:
    """Owns what must be remembered between steps; `state` is JSON."""

    settings: HealthSettings
    state: dict[str, Any] = field(default_factory=dict)

    def check(self, metrics: Metrics) -> list[Finding]:
        """What is wrong after this step, stopping reasons first."""
        found = [
            *self._not_finite(metrics),
            *self._gap(metrics),
            *self._spread(metrics),
            *self._failures(metrics),
            *self._idleness(metrics),
            *self._entropy(metrics),
        ]
        return sorted(found, key=lambda finding: not finding.stops)

    def _finding(
        self,
        detector: str,
        message: str,
        *,
        reaction: Reaction | None = None,
        is_broken: bool = False,
    ) -> list[Finding]:
        """The `reaction` is by default that of the detector's setting."""
        reaction = reaction or getattr(self.settings, detector)
        if reaction == "off":
            return []
        stops = reaction == "stop"
        return [Finding(detector=detector, message=message, stops=stops, is_broken=is_broken)]

    def _not_finite(self, metrics: Metrics) -> list[Finding]:
        names = ("train/loss", "train/grad_norm", "train/weights_norm", "train/entropy")
        bad = [name for name in names if _is_not_finite(metrics.get(name))]
        if not bad:
            return []
        message = (
            f"step {metrics['step']}: {', '.join(bad)} is not a finite number, so the weights are "
            "lost. Likely the learning rate is too high; lower trainer_common.optim.lr, or train "
            "with model.dtype: float32"
        )
        return self._finding("not_finite", message, is_broken=True)

    def _gap(self, metrics: Metrics) -> list[Finding]:
        gap = metrics.get("train/logprob_gap_mean")
        if gap is None or not gap > self.settings.max_logprob_gap:
            return []
        message = (
            f"step {metrics['step']}: sampler and trainer disagree by {gap:.3g} nats a token, more "
            f"than {self.settings.max_logprob_gap} (trainer_common.detectors.max_logprob_gap): "
            "what is trained is not what was sampled. Either the engine samples with other "
            "weights, or these have grown so far that rounding decides; lower the learning rate, "
            "or set rollout.name: transformers"
        )
        return self._finding("logprob_gap", message, is_broken=True)

    def _spread(self, metrics: Metrics) -> list[Finding]:
        if metrics.get("train/updates") or not metrics.get("rollout/flat_groups"):
            self.state["flat"] = []
            return []
        rewards = [*self.state.get("flat", []), metrics.get("reward/mean")]
        self.state["flat"] = rewards
        if len(rewards) != self.settings.no_spread_steps:
            return []
        since = f"for {len(rewards)} steps no group had two different rewards"
        if metrics.get("reward/success_rate") == 1.0:
            message = f"{since}, and all episodes succeed: the tasks are solved; give harder ones"
            is_off = self.settings.no_spread == "off"
            return self._finding("no_spread", message, reaction="off" if is_off else "warn")
        if len(set(rewards)) == 1:
            since += f"; the reward is always {rewards[0]}"
        message = (
            f"{since}: there is nothing to learn from. See in episodes/*.jsonl whether the judge "
            "can tell a good answer from a bad one, whether the tasks are too hard or too easy, "
            "and whether rollout.temperature lets answers differ"
        )
        return self._finding("no_spread", message)

    def _failures(self, metrics: Metrics) -> list[Finding]:
        episodes = metrics.get("rollout/episodes")
        has_failed = bool(episodes) and metrics.get("rollout/failed_episodes") == episodes
        num_failed = self.state.get("failed", 0) + 1 if has_failed else 0
        self.state["failed"] = num_failed
        if num_failed != _NUM_FAILED_STEPS:
            return []
        message = (
            f"all episodes of {num_failed} steps in a row failed; the commonest reason is in the "
            "lines above and in episodes/*.jsonl"
        )
        return self._finding("all_failed", message)

    def _idleness(self, metrics: Metrics) -> list[Finding]:
        """Steps that end well and train nothing, other than for want of spread."""
        has_verdicts = metrics.get("rollout/failed_episodes") != metrics.get("rollout/episodes")
        is_flat = bool(metrics.get("rollout/flat_groups")) and metrics.get("rollout/calls") != 0
        if metrics.get("train/updates") or not has_verdicts or is_flat:
            self.state["idle"] = 0
            return []
        num_steps = self.state["idle"] = self.state.get("idle", 0) + 1
        most, why = self._why_idle(metrics)
        if num_steps != most:
            return []
        message = f"in {num_steps} steps in a row {why}"
        return self._finding("nothing_trained", message)

    def _why_idle(self, metrics: Metrics) -> tuple[int, str]:
        """For how many steps in a row it may be an accident, and what it comes of."""
        if metrics.get("rollout/calls") == 0:
            return _NUM_IDLE_STEPS, (
                "no episode asked the model, so there is no token to train. See that the "
                "workflow calls the model_tuner that execute is given, or the address in it, and "
                "no model of its own"
            )
        if metrics.get("rollout/small_groups"):
            return self.settings.no_spread_steps, (
                "no token was trained: so many episodes failed that no group kept two to "
                "compare. See the failures in episodes/*.jsonl, or raise rollout.num_repeat"
            )
        return _NUM_IDLE_STEPS, (
            "no token was trained although episodes ended well. See in episodes/*.jsonl whether "
            "the calls are those of agents that are trained (rollout.trainable_targets) and "
            "whether their answers were taken"
        )

    def _entropy(self, metrics: Metrics) -> list[Finding]:
        entropy = metrics.get("train/entropy")
        if entropy is None or not metrics.get("train/updates"):
            return []
        first = self.state.setdefault("first_entropy", entropy)
        if entropy >= min(_LOWEST_ENTROPY, _ENTROPY_SHARE * first) or self.state.get("collapsed"):
            return []
        self.state["collapsed"] = True
        message = (
            f"step {metrics['step']}: the entropy fell to {entropy:.4f} nats a token from "
            f"{first:.3f}: answers hardly vary any more, so that there will be little to learn. "
            "Lower the learning rate, or raise algorithm.clip_ratio_high or kl_loss_coef"
        )
        reaction = "warn" if self.settings.entropy == "stop" else self.settings.entropy
        return self._finding("entropy", message, reaction=reaction)


def _is_not_finite(value: float | None) -> bool:
    return value is not None and not math.isfinite(value)
