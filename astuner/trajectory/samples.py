"""What a backbone trains on: a sequence with its mask, log-probabilities and advantage."""

from dataclasses import dataclass

from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSample:
    """A trainable sequence of T tokens with the advantage of its episode.

    A prompt of two tokens and a reply of two:
    TrainSample(ids=(5, 7, 9, 2), mask=(False, False, True, True),
                logprobs=(0.0, 0.0, -0.1, -0.3), advantage=1.0, ...)
    """

    ids: tuple[int, ...]
    """[T] what the engine saw and sampled, in order."""
    mask: tuple[bool, ...]
    """[T] true exactly on the sampled tokens that this sample trains."""
    logprobs: tuple[float, ...]
    """[T] natural log at sampling temperature; 0.0 where the mask is false."""
    advantage: float
    temperature: float
    """At which the trained tokens were sampled; above 0."""
    weight_version: int
    """Oldest version of the weights that sampled a trained token."""
    task_id: str
    episode_id: str

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.mask) == len(self.logprobs):
            raise ValueError(
                f"lengths differ: {len(self.ids)} {len(self.mask)} {len(self.logprobs)}"
            )
        if not any(self.mask):
            raise ValueError("a sample needs at least one trained token")
        if self.mask[0]:
            raise ValueError("the first token has no prediction and cannot be trained")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}")


def make_samples(
    episode: Episode, *, advantage: float, max_sequences: int
) -> tuple[list[TrainSample], int]:
    """Turn the sequences of one episode into samples, all with the episode's advantage.

    Of more than `max_sequences` the ones with the most trained tokens stay (the earlier one on a
    tie). Returns the samples in the order of the sequences and how many were dropped.
    """
    trainable = [sequence for sequence in episode.sequences if sequence.num_trained]
    kept = sorted(trainable, key=lambda sequence: -sequence.num_trained)[:max_sequences]
    samples = [_sample(episode, s, advantage) for s in trainable if any(s is k for k in kept)]
    return samples, len(trainable) - len(kept)


def _sample(episode: Episode, sequence: Sequence, advantage: float) -> TrainSample:
    calls = [episode.calls[span.call] for span in sequence.spans if span.is_trained]
    temperatures = {call.temperature for call in calls}
    if len(temperatures) != 1:
        raise ValueError(
            f"one sequence was sampled at several temperatures: {sorted(temperatures)}"
        )
    return TrainSample(
        ids=sequence.ids,
        mask=sequence.mask,
        logprobs=sequence.logprobs,
        advantage=advantage,
        temperature=temperatures.pop(),
        weight_version=min(call.completion.weight_version for call in calls),
        task_id=episode.task.task_id,
        episode_id=episode.episode_id,
    )
