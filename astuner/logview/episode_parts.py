"""What pages of one episode read of a run, each in its own way of showing it."""

from typing import TYPE_CHECKING

from astuner.logview.reading.lines import own_file
from astuner.logview.view.tokens import Samples, ShownSequence, show_sequences

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.stored import StoredEpisode
    from astuner.logview.reading.training import TrainedSample


def read_sequences(
    run: "RunReader", stored: "StoredEpisode", *, is_flat: bool = False
) -> tuple[ShownSequence, ...]:
    """The sequences of an episode with what the trainer wrote of them."""
    return show_sequences(stored.episode, samples=_samples(run, stored), is_flat=is_flat)


def _samples(run: "RunReader", stored: "StoredEpisode") -> Samples | None:
    """None where the run kept none of the step. A sequence that several updates trained has the
    log-probabilities from before the first."""
    row = stored.row
    if row.is_validation or own_file(run.root, f"training/step_{row.step:06d}.jsonl") is None:
        return None
    found: dict[int, TrainedSample] = {}
    for sample in run.training(row.step, row.episode_id):
        found.setdefault(sample.sequence, sample)
    return found
