"""verl's metrics of a step under our names, and all of them beside under its own."""

from collections.abc import Mapping
from typing import Any

from astuner.backbone.cluster.numbers import below, numbers, renamed

_OURS: Mapping[str, str] = {
    "train/loss": "actor/pg_loss",
    "train/kl": "actor/kl_loss",
    "train/entropy": "actor/entropy",
    "train/clip_fraction": "actor/pg_clipfrac",
    "train/grad_norm": "actor/grad_norm",
    "train/lr": "actor/lr",
    "rollout/seconds": "timing_s/gen",
    "sync/seconds": "timing_s/update_weights",
    "step/seconds": "timing_s/step",
}
"""Our name -> verl's that says the same."""

_TRAINING_TIMES = ("old_log_prob", "ref", "adv", "update_actor")


def our_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers only; what verl does not tell is None. Those that are ours already stay."""
    ours, plain = renamed(numbers(metrics), _OURS)
    ours["train/seconds"] = sum(plain.get(f"timing_s/{name}", 0.0) for name in _TRAINING_TIMES)
    return ours | below("verl", plain)
