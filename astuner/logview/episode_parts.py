"""What pages of one episode read of a run, each in its own way of showing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astuner.logview.reading.lines import own_file
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.view.tokens import Samples, ShownSequence, show_sequences
from astuner.trajectory.episode import Episode

if TYPE_CHECKING:
    from astuner.logview.reading.row import EpisodeRow
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.stored import StoredEpisode
    from astuner.logview.reading.training import TrainedSample


_MOST_ATTEMPTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """The episodes of one task in one step, by attempt."""

    rows: Sequence["EpisodeRow"]

    @property
    def rewards(self) -> list[float]:
        """Those that are known."""
        return [row.reward for row in self.rows if row.reward is not None]

    @property
    def mean(self) -> float | None:
        return sum(self.rewards) / len(self.rewards) if self.rewards else None

    def is_flat(self, episode: Episode) -> bool:
        """Whether all rewards are one; never where roles have rewards of their own."""
        has_roles = episode.verdict is not None and bool(episode.verdict.rewards)
        return not has_roles and len(self.rewards) > 1 and len(set(self.rewards)) == 1


def attempts_with(run: "RunReader", row: "EpisodeRow") -> Attempts:
    """The episode's group; of a record that tells no task the episode alone."""
    if row.problem is not None:
        return Attempts(rows=[row])
    query = EpisodeQuery(step=row.step, is_validation=row.is_validation, task_id=row.task_id)
    return Attempts(rows=run.index.rows(query, limit=_MOST_ATTEMPTS, offset=0).rows)


def read_sequences(run: "RunReader", stored: "StoredEpisode") -> tuple[ShownSequence, ...]:
    """The sequences of an episode with what the trainer wrote of them."""
    is_flat = attempts_with(run, stored.row).is_flat(stored.episode)
    return show_sequences(stored.episode, samples=_samples(run, stored), is_flat=is_flat)


def _samples(run: "RunReader", stored: "StoredEpisode") -> Samples | None:
    """None where the run kept none of the step. A sequence that several updates trained has the
    log-probabilities from before the first."""
    row = stored.row
    if not run.state().trains:
        return {}
    if row.is_validation or own_file(run.root, f"training/step_{row.step:06d}.jsonl") is None:
        return None
    found: dict[int, TrainedSample] = {}
    for sample in run.training(row.step, row.episode_id):
        found.setdefault(sample.sequence, sample)
    return found
