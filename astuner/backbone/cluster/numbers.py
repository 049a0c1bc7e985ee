"""An engine's metrics as numbers, under our names and under its own."""

from collections.abc import Mapping
from typing import Any


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What is a number, of whatever library."""
    found = {key: _number(value) for key, value in metrics.items()}
    return {key: value for key, value in found.items() if value is not None}


def renamed(
    plain: Mapping[str, float], names: Mapping[str, str]
) -> tuple[dict[str, float | None], dict[str, float]]:
    """Our metrics, and the engine's.

    `names` lead from ours to the engine's; what it does not tell is None. Those that have our names
    already stay ours.
    """
    own = {key: value for key, value in plain.items() if key.startswith("train/")}
    rest = {key: value for key, value in plain.items() if key not in own}
    return {name: plain.get(theirs) for name, theirs in names.items()} | own, rest


def below(section: str, plain: Mapping[str, float]) -> dict[str, float | None]:
    return {f"{section}/{key}": value for key, value in plain.items()}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
