"""What an engine trains in each step, as it is to be recorded once the step is done.

Owned by the hub. The weight of a token in the loss is the engine's business, and so is which of
several updates a row is part of: neither is known here.
"""

from collections.abc import Mapping, Sequence

from astuner.backbone.cluster.messages import PlannedSample
from astuner.backbone.trained_record import trained_line
from astuner.config.sections.trainer_common import TrainerSettings
from astuner.trajectory.samples import TrainSample


class TrainedSteps:
    """The steps that are planned and not finished."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._is_recorded = settings.record_training
        self._update = 0 if settings.mini_batch_num == 1 else None
        self._samples: dict[int, dict[str, TrainSample]] = {}
        """By step and the text of the row's key."""
        self._logprobs: dict[int, Mapping[str, Sequence[float]]] = {}

    def plan(
        self, step: int, planned: Sequence[PlannedSample], samples: Sequence[TrainSample]
    ) -> None:
        """The step is to train `samples`, of which `planned` says where they stand."""
        if self._is_recorded:
            keys = (one.key.text for one in planned)
            self._samples[step] = dict(zip(keys, samples, strict=True))

    def add_logprobs(self, step: int, logprobs: Mapping[str, Sequence[float]]) -> None:
        """What the weights before the step think of the trained tokens of each row."""
        self._logprobs[step] = logprobs

    def finish(self, step: int) -> tuple[bytes, ...]:
        """The records of a step that is trained, none where they are not wanted."""
        samples, logprobs = self._samples.pop(step, {}), self._logprobs.pop(step, {})
        return tuple(
            trained_line(
                sample,
                step=step,
                weight=None,
                update=self._update,
                logprobs=_of_all_tokens(logprobs.get(key), sample),
            )
            for key, sample in samples.items()
        )


def _of_all_tokens(logprobs: Sequence[float] | None, sample: TrainSample) -> Sequence[float] | None:
    """None where an engine cut the row, so that it is not known whose they are."""
    is_whole = logprobs is not None and len(logprobs) == sum(sample.mask)
    return logprobs if is_whole else None
