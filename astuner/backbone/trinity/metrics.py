"""Trinity's metrics of a step under our names, and all of them beside under its own. Pure."""

from collections.abc import Mapping
from typing import Any

from astuner.backbone.cluster.numbers import below, numbers, renamed

_OURS: Mapping[str, str] = {
    "train/loss": "actor/pg_loss",
    "train/kl": "actor/kl_loss",
    "train/entropy": "actor/entropy_loss",
    "train/clip_fraction": "actor/pg_clipfrac",
    "train/grad_norm": "actor/grad_norm",
    "train/lr": "actor/lr",
    "train/seconds": "time/train_step",
    "sync/seconds": "time/sync_weight",
}
"""Our name -> Trinity's that says the same."""

_MEANS_OVER_TOKENS = ("train/loss", "train/kl", "train/entropy", "train/clip_fraction")
"""Not known where no token is trained; Trinity says 0."""


def our_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers only; what Trinity does not tell is None. Those that are ours already stay."""
    ours, plain = renamed(numbers(metrics), _OURS)
    if ours.get("train/tokens") == 0:
        ours |= dict.fromkeys(_MEANS_OVER_TOKENS)
    return ours | below("trinity", plain)


def theirs(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Under Trinity's names, with its own before them."""
    return below("trinity", numbers(metrics))
