"""A trained sample as one JSON line of training/step_N.jsonl. Knows no trainer.

The tokens are in the record of the episode; here stands what training made of them.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from astuner.trajectory.samples import TrainSample

TRAINED_FORMAT = 1
"""Stands in each line."""
_DECIMALS = 6


def trained_line(
    sample: TrainSample,
    *,
    step: int,
    weight: float | None,
    update: int | None,
    logprobs: Sequence[float] | None,
    reference_logprobs: Sequence[float] | None = None,
) -> bytes:
    """One line of UTF-8, its end included; None is what is not known.

    `weight` is that of a trained token in the loss, `update` which one of the step it was part of,
    from 0. Of each trained token in order there are the `logprobs` by the weights before that
    update, and where there is a reference, those by it.
    """
    record: dict[str, Any] = {
        "format": TRAINED_FORMAT,
        "step": step,
        "episode_id": sample.episode_id,
        "sequence": sample.sequence,
        "advantage": _finite(sample.advantage),
        **_calls(sample),
        "weight": None if weight is None else float(f"{weight:.{_DECIMALS}g}"),
        "temperature": sample.temperature,
        "update": update,
        "weight_version": sample.weight_version,
    }
    text = f'{json.dumps(record, allow_nan=False)[:-1]}, "logprobs": {_numbers(logprobs)}'
    if reference_logprobs is not None:
        text += f', "reference_logprobs": {_numbers(reference_logprobs)}'
    return f"{text}}}\n".encode()


def _numbers(values: Sequence[float] | None) -> str:
    """As JSON. Written here: the library takes four times as long for numbers that are rounded, and
    a large step has millions."""
    if values is None:
        return "null"
    texts = [f"{value:.{_DECIMALS}f}" for value in values]
    if not math.isfinite(sum(values)):  # nor is one of them, which JSON does not know
        texts = [
            text if math.isfinite(value) else "null"
            for text, value in zip(texts, values, strict=True)
        ]
    return f"[{', '.join(texts)}]"


def _calls(sample: TrainSample) -> dict[str, Any]:
    """Runs of trained tokens with their advantage, where calls have their own."""
    runs = sample.call_advantages
    return {"call_advantages": [[n, _finite(value)] for n, value in runs]} if runs else {}


def _finite(value: float) -> float | None:
    """JSON knows no others; the metrics of the step tell of them."""
    return round(value, _DECIMALS) if math.isfinite(value) else None
