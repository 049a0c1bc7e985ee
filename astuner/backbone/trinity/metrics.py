"""Trinity's metrics of a step under our names, and all of them beside under its own. Pure."""

from collections.abc import Mapping
from typing import Any

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
    numbers = {key: _number(value) for key, value in metrics.items()}
    plain = {key: value for key, value in numbers.items() if value is not None}
    ours = {name: plain.get(theirs) for name, theirs in _OURS.items()}
    if plain.get("train/tokens") == 0:
        ours |= dict.fromkeys(_MEANS_OVER_TOKENS)
    ours |= {key: plain.pop(key) for key in list(plain) if key.startswith("train/")}
    return ours | theirs(plain)


def theirs(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Under Trinity's names, with its own before them."""
    numbers = {key: _number(value) for key, value in metrics.items()}
    return {f"trinity/{key}": value for key, value in numbers.items() if value is not None}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
