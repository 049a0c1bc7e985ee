"""verl's metrics of a step under our names, and all of them beside under its own."""

from collections.abc import Mapping
from typing import Any

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
    numbers = {key: _number(value) for key, value in metrics.items()}
    plain = {key: value for key, value in numbers.items() if value is not None}
    ours = {name: plain.get(theirs) for name, theirs in _OURS.items()}
    ours |= {key: plain.pop(key) for key in list(plain) if key.startswith("train/")}
    ours["train/seconds"] = sum(plain.get(f"timing_s/{name}", 0.0) for name in _TRAINING_TIMES)
    return ours | {f"verl/{key}": value for key, value in plain.items()}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number
