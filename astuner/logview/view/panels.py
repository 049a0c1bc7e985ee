"""The small charts that every run has, in their order, and which findings show on which."""

from dataclasses import dataclass

TOKENS_PER_SECOND = "rollout/tokens_per_second"
"""Worked out of two metrics where the run does not write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A small chart that every run has."""

    key: str
    title: str
    names: tuple[str, ...]
    """The first is the one that counts; the others are drawn where they are ever above 0."""
    detectors: tuple[str, ...] = ()
    """Whose findings show on it."""


PANELS = (
    Panel(key="reward", title="reward in training", names=("reward/mean",)),
    Panel(
        key="success",
        title="episodes solved in training",
        names=("reward/success_rate",),
        detectors=("no_spread",),
    ),
    Panel(key="length", title="tokens of an episode", names=("rollout/episode_tokens_mean",)),
    Panel(key="kl", title="distance from the reference, nats", names=("train/kl",)),
    Panel(
        key="entropy",
        title="entropy, nats a token",
        names=("train/entropy",),
        detectors=("entropy",),
    ),
    Panel(key="clipped", title="clipped tokens, share", names=("train/clip_fraction",)),
    Panel(
        key="gap",
        title="sampler against trainer, nats",
        names=("train/logprob_gap_mean",),
        detectors=("logprob_gap",),
    ),
    Panel(
        key="grad_norm",
        title="gradient norm",
        names=("train/grad_norm",),
        detectors=("not_finite", "nothing_trained"),
    ),
    Panel(key="speed", title="sampled tokens a second", names=(TOKENS_PER_SECOND,)),
    Panel(
        key="failed",
        title="failed episodes of a step",
        names=("rollout/failed_episodes",),
        detectors=("all_failed",),
    ),
    Panel(
        key="flat",
        title="groups that taught nothing",
        names=("rollout/flat_groups", "rollout/small_groups"),
        detectors=("no_spread",),
    ),
    Panel(
        key="seconds",
        title="seconds of a step",
        names=("step/seconds", "rollout/seconds", "train/seconds", "validation/seconds"),
    ),
)
WARM_START_PANELS = (
    Panel(
        key="loss",
        title="loss, nats a token",
        names=("warm_start/loss", "warm_start/validation_loss"),
    ),
    Panel(key="grad_norm", title="gradient norm", names=("warm_start/grad_norm",)),
    Panel(key="rate", title="learning rate", names=("warm_start/lr",)),
    Panel(key="speed", title="tokens a second", names=("warm_start/tokens_per_second",)),
)
"""Those of a warm start, over its updates."""
PARTS = {
    "warm_start/loss": "learned",
    "warm_start/validation_loss": "held out",
    "rollout/flat_groups": "equal rewards",
    "rollout/small_groups": "too few rewards",
    "step/seconds": "step",
    "rollout/seconds": "rollout",
    "train/seconds": "training",
    "validation/seconds": "validation",
}
"""How a line is called among others of its chart."""
