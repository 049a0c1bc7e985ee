"""What the trainer computed for the sequences of an episode, where the run wrote it."""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.logview.reading.cache import LARGEST_INTEGER
from astuner.logview.reading.lines import json_object, own_file, shown, whole_lines
from astuner.machine.regular_file import open_regular

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSample:
    """One sequence of an episode as it was trained on."""

    step: int
    episode_id: str
    sequence: int
    """Index among the sequences of the episode."""
    advantage: float | None
    weight: float | None
    """Of each of its tokens in the loss."""
    temperature: float | None
    update: int | None
    """Which update of the step; counts from 0."""
    weight_version: int | None
    """The lowest that any of its tokens was sampled with."""
    logprobs: tuple[float | None, ...] | None
    """By the trainer before the update, one for each trained token, in order; None for what was no
    finite number."""
    reference_logprobs: tuple[float | None, ...] | None
    """Likewise by the reference model."""
    call_advantages: tuple[tuple[int, float | None], ...] = ()
    """So many trained tokens in a row and their advantage, where calls have their own."""

    @property
    def runs(self) -> tuple[tuple[int, float], ...]:
        """So many trained tokens in a row and their advantage, those that are known; one token
        stands for all where calls have none of their own."""
        runs = self.call_advantages or ((1, self.advantage),)
        return tuple((num_tokens, value) for num_tokens, value in runs if value is not None)


def trained_samples(
    root: Path, step: int, episode_ids: Collection[str]
) -> dict[str, list[TrainedSample]]:
    """Those of each episode, by sequence and update; of equal ones the line that was written last.

    Lines that cannot be read, or are of an unknown format, are passed over.
    """
    path = own_file(root, f"training/step_{step:06d}.jsonl")
    found: dict[str, dict[tuple[int, int], TrainedSample]] = {name: {} for name in episode_ids}
    if path is None:
        return {name: [] for name in episode_ids}
    needles = [_needle(name) for name in episode_ids]
    try:
        with open_regular(path) as file:
            for line in whole_lines(file):
                data = line.data or b""
                if any(needle in data for needle in needles) and (sample := _sample_in(data)):
                    of_episode = found.get(sample.episode_id, {})
                    of_episode[sample.sequence, sample.update or 0] = sample
    except OSError:
        pass
    return {name: [samples[key] for key in sorted(samples)] for name, samples in found.items()}


def _needle(episode_id: str) -> bytes:
    """What every line of the episode holds; an id that has escapes may be written otherwise."""
    return b"" if "\\" in episode_id else json.dumps(episode_id, ensure_ascii=False).encode()


def _sample_in(data: bytes) -> TrainedSample | None:
    try:
        record = json_object(data)
        if record["format"] != _FORMAT:
            return None
        return TrainedSample(
            step=int(record["step"]),
            episode_id=shown(record["episode_id"]),
            sequence=int(record["sequence"]),
            advantage=_number(record, "advantage"),
            weight=_number(record, "weight"),
            temperature=_number(record, "temperature"),
            update=_whole(record, "update"),
            weight_version=_whole(record, "weight_version"),
            logprobs=_numbers(record, "logprobs"),
            reference_logprobs=_numbers(record, "reference_logprobs"),
            call_advantages=_runs(record.get("call_advantages") or ()),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _runs(found: Iterable[Any]) -> tuple[tuple[int, float | None], ...]:
    """Raises ValueError for a number of tokens that is none."""
    runs = tuple((int(num_tokens), _finite(value)) for num_tokens, value in found)
    if not all(0 < num_tokens <= LARGEST_INTEGER for num_tokens, _ in runs):
        raise ValueError(f"{runs!r} are no tokens in a row")
    return runs


def _whole(record: Mapping[str, Any], key: str) -> int | None:
    value = record.get(key)
    return None if value is None else int(value)


def _number(record: Mapping[str, Any], key: str) -> float | None:
    return _finite(record.get(key))


def _numbers(record: Mapping[str, Any], key: str) -> tuple[float | None, ...] | None:
    values = record.get(key)
    return None if values is None else tuple(_finite(value) for value in values)


def _finite(value: Any) -> float | None:
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None
