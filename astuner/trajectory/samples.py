"""What a backbone trains on: a sequence with its mask, log-probabilities and advantage."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSample:
    """A trainable sequence of T tokens with the advantage of its episode.

    A prompt of two tokens and a reply of two:
    TrainSample(ids=(5, 7, 9, 2), mask=(False, False, True, True), logprobs=(0.0, 0.0, -0.1, -0.3), ...)
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
            raise ValueError(f"lengths differ: {len(self.ids)} {len(self.mask)} {len(self.logprobs)}")
        if not any(self.mask):
            raise ValueError("a sample needs at least one trained token")
        if self.mask[0]:
            raise ValueError("the first token has no prediction and cannot be trained")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}")
