"""Whether a checkpoint, as it was loaded, is the policy that the run sampled and judged.

The validation behind a step recorded what the policy of that step gave each token that it sampled.
An adapter on another base of the same shape, or weights that were changed, give them otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from astuner.errors import AstunerError
from astuner.exporting.checkpoint_named import NamedCheckpoint
from astuner.exporting.format import ExportRefused
from astuner.run_dir import read_json_lines
from astuner.trajectory.record import attempt_from_record
from astuner.trajectory.recorder import Call

_MAX_CALLS = 16
_MAX_TOKENS = 2000
"""Of prompt and reply, so that a pass stays short."""
_LARGEST_GAP = {"float32": 0.05, "bfloat16": 0.3}
"""Nats a token in the mean. Engines on GPUs, and in bfloat16, are up to 0.04 from a plain pass; the
weights of another model are more than a nat away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedGap:
    """Between what was recorded and what the loaded checkpoint gives the same tokens."""

    num_tokens: int
    mean: float
    """Nats a token."""


def check_recorded(checkpoint: NamedCheckpoint, model: Any, *, dtype: str) -> RecordedGap | None:
    """None where no sampled validation of the checkpoint's step is recorded.

    Raises ExportRefused where the checkpoint gives other log-probabilities than the policy had.
    """
    from astuner.backbone.cluster.export import logprobs_from

    gaps: list[float] = []
    for call in _calls(checkpoint):
        found = logprobs_from(
            model,
            [*call.prompt_ids, *call.completion.ids],
            first=len(call.prompt_ids),
            temperature=call.temperature,
        ).tolist()
        gaps += [abs(a - b) for a, b in zip(found, call.completion.logprobs, strict=True)]
    if not gaps:
        return None
    gap = RecordedGap(num_tokens=len(gaps), mean=sum(gaps) / len(gaps))
    if not gap.mean <= _LARGEST_GAP[dtype]:
        raise ExportRefused(
            f"the export is refused: {checkpoint.folder}, as it was loaded, is not the policy of "
            f"its run: it gives the {gap.num_tokens} tokens that were sampled in the validation "
            f"behind step {checkpoint.step} log-probabilities that are {gap.mean:.3g} nats a token "
            f"from those recorded then, at most {_LARGEST_GAP[dtype]} is rounding. Of an adapter, "
            "its base is another than it was: name the right one by --base"
        )
    return gap


def _calls(checkpoint: NamedCheckpoint) -> Iterator[Call]:
    """Some of those that the policy answered and whose prompts are known."""
    if checkpoint.run_dir is None or checkpoint.step is None:
        return
    path = checkpoint.run_dir.episodes_file(checkpoint.step, "validation")
    if not path.is_file():
        return
    num_found = 0
    for record in read_json_lines(path):
        try:
            calls = attempt_from_record(record).calls
        except (AstunerError, KeyError, ValueError, TypeError):  # of another release
            continue
        for call in calls:
            if num_found < _MAX_CALLS and _is_usable(call):
                num_found += 1
                yield call


def _is_usable(call: Call) -> bool:
    num_tokens = len(call.prompt_ids) + len(call.completion.ids)
    is_known = bool(call.prompt_ids) and bool(call.completion.ids)
    return call.is_trained and call.temperature > 0 and is_known and num_tokens <= _MAX_TOKENS
