"""From an episode to the rows that a clustered engine trains on: one for each trained sequence.

Pure: knows the shape that verl and Trinity-RFT give their data, but neither of them.
"""

from dataclasses import dataclass
from typing import NamedTuple

from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import Sequence


class RowKey(NamedTuple):
    """Where a row stands in its step: how engines and the hub speak of the same one."""

    group: str
    """The name that the worker gave the episodes of its task."""
    attempt: int
    sequence: int
    """Index among the trained sequences of the episode."""

    @property
    def text(self) -> str:
        """As verl names its rows."""
        return f"{self.group}_{self.attempt}_{self.sequence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A trained sequence, cut before its first trained token."""

    prompt_ids: list[int]
    response_ids: list[int]
    """[R] from the first trained token on; what tools and others said stands in it too."""
    response_mask: list[int]
    """[R] 1 exactly on trained tokens."""
    response_logprobs: list[float]
    """[R] natural log at sampling temperature; 0.0 where the mask is 0."""
    min_version: int
    """Oldest version of the weights that sampled a trained token."""
    max_version: int


def make_rows(episode: Episode) -> list[Row]:
    """The rows of an episode in the order of its sequences; none of one that failed."""
    if episode.verdict is None:
        return []
    return [_row(episode, sequence) for sequence in episode.sequences if sequence.num_trained]


def _row(episode: Episode, sequence: Sequence) -> Row:
    mask, ids = sequence.mask, sequence.ids
    first = mask.index(True)
    versions = [
        episode.calls[span.call].completion.weight_version
        for span in sequence.spans
        if span.is_trained
    ]
    return Row(
        prompt_ids=list(ids[:first]),
        response_ids=list(ids[first:]),
        response_mask=[int(is_trained) for is_trained in mask[first:]],
        response_logprobs=list(sequence.logprobs[first:]),
        min_version=min(versions),
        max_version=max(versions),
    )
