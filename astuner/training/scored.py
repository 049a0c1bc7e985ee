"""What the pass that trains a sample thinks of its tokens, kept without a pass of its own.

Stays on the device until the step is over, so that one copy brings all of it. Owns no files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from astuner.trajectory.samples import TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSample:
    """A sample as one step trained it."""

    sample: TrainSample
    weight: float
    """Of each of its trained tokens in the loss."""
    update: int
    """Which update of the step it was part of, from 0."""
    logprobs: tuple[float, ...]
    """Natural log at its temperature by the weights before that update, one per trained token."""
    reference_logprobs: tuple[float, ...] | None
    """The same by the reference; None where the loss measures no divergence from it."""


OnScored = Callable[[Sequence[ScoredSample]], None]


class StepScores:
    """Collects the log-probabilities of one step, in the order in which it trains."""

    def __init__(self) -> None:
        self._samples: list[TrainSample] = []
        self._weights: list[float] = []
        self._updates: list[int] = []
        self._index_N: list[Tensor] = []
        """Of the token's sample among all of the step."""
        self._logprob_N: list[Tensor] = []
        self._reference_N: list[Tensor] = []
        self._first = 0

    def begin_update(self, samples: Sequence[TrainSample], weights: Sequence[float]) -> None:
        """The next update trains `samples`, their tokens with `weights`."""
        update = self._updates[-1] + 1 if self._updates else 0
        self._first = len(self._samples)
        self._samples += samples
        self._weights += weights
        self._updates += [update] * len(samples)

    def add(self, sample_N: Tensor, logprob_N: Tensor, reference_N: Tensor | None) -> None:
        """Take what a micro-batch of the update gave; `sample_N` counts the update's samples."""
        self._index_N.append(sample_N + self._first)
        self._logprob_N.append(logprob_N)
        if reference_N is not None:
            self._reference_N.append(reference_N)

    def samples(self) -> list[ScoredSample]:
        """All samples of the step, in the order in which they were given."""
        if not self._samples:
            return []
        kinds = [self._logprob_N, *([self._reference_N] if self._reference_N else [])]
        index_N = torch.cat(self._index_N)
        # A sample's trained tokens stand together and in order, so they stay so.
        order_N = torch.argsort(index_N, stable=True)
        rows = torch.stack([torch.cat(kind).double()[order_N] for kind in kinds]).tolist()
        found, start = [], 0
        for sample, weight, update in zip(self._samples, self._weights, self._updates, strict=True):
            end = start + sum(sample.mask)
            own = [tuple(row[start:end]) for row in rows]
            start = end
            found.append(
                ScoredSample(
                    sample=sample,
                    weight=weight,
                    update=update,
                    logprobs=own[0],
                    reference_logprobs=own[1] if len(own) > 1 else None,
                )
            )
        return found
