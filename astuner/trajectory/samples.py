"""What a backbone trains on: a sequence with its mask, log-probabilities and advantage.

Owns which sequences become samples where there are too many. Knows no rewards and no tensors.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import Sequence
from astuner.trajectory.recorder import Agent

Advantage = float | Mapping[int, float]
"""Of a whole sequence, or of each of its trained calls by index."""
AdvantageOf = Callable[[Sequence], Advantage | None]
"""The advantage of a sequence; None where it is not to be trained."""
AdvantageRun = tuple[int, float]
"""So many trained tokens in a row, and the advantage of each."""


def mean_advantage(runs: Seq[AdvantageRun]) -> float:
    """Over all tokens of the runs, of which there is at least one."""
    values = {value for _, value in runs}
    if len(values) == 1:
        return values.pop()
    num_tokens = sum(n for n, _ in runs)
    # In this order, since a product or sum of what a damaged file holds may be beyond all floats.
    return math.fsum(value * (n / num_tokens) for n, value in runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSample:
    """A trainable sequence of T tokens with the advantage of its agent in its episode.

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
    """Of each trained token; where calls have their own, the mean over the trained tokens."""
    temperature: float
    """At which the trained tokens were sampled; above 0."""
    weight_version: int
    """Oldest version of the weights that sampled a trained token."""
    task_id: str
    episode_id: str
    sequence: int = 0
    """Index among the sequences of the episode."""
    call_advantages: tuple[AdvantageRun, ...] = ()
    """Of its trained tokens, in order, where calls have advantages of their own; else empty."""

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
        if self.call_advantages and sum(n for n, _ in self.call_advantages) != sum(self.mask):
            raise ValueError("the advantages of calls are not one for each trained token")

    @property
    def advantage_runs(self) -> tuple[AdvantageRun, ...]:
        """The same for samples of either kind: never empty, N tokens in all."""
        return self.call_advantages or ((sum(self.mask), self.advantage),)


def make_samples(
    episode: Episode, *, advantage_of: AdvantageOf, max_sequences: int
) -> tuple[list[TrainSample], int]:
    """Turn the sequences of one episode into samples, those without an advantage left out.

    Of more than `max_sequences` the agents keep their own by turns: first of each agent the one
    with the most trained tokens, then of each its second, and so on; the longer ones where the
    places end within a turn, the earlier ones on a tie. Returns the samples in the order of the
    sequences and how many were dropped.

    Agent a has sequences of 9, 7 and 5 trained tokens, agent b one of 2: the turns are 9 and 2,
    then 7, then 5, so that `max_sequences=3` drops the one of 5.
    """
    values = [advantage_of(s) if s.num_trained else None for s in episode.sequences]
    trained = [index for index, value in enumerate(values) if value is not None]
    kept = _kept(episode, trained)[:max_sequences]
    samples = []
    for index in sorted(kept):
        value = values[index]
        assert value is not None
        samples.append(_sample(episode, index, value))
    return samples, len(trained) - len(kept)


def _kept(episode: Episode, indices: Iterable[int]) -> list[int]:
    """The indices of sequences, those to keep first."""
    num_tokens = {index: episode.sequences[index].num_trained for index in indices}
    turns: Counter[Agent] = Counter()
    ranks: dict[int, tuple[int, int]] = {}
    for index in sorted(num_tokens, key=lambda i: (-num_tokens[i], i)):
        agent = episode.sequences[index].agent
        ranks[index] = (turns[agent], -num_tokens[index])
        turns[agent] += 1
    return sorted(ranks, key=lambda index: (ranks[index], index))


def _sample(episode: Episode, index: int, advantage: Advantage) -> TrainSample:
    sequence = episode.sequences[index]
    calls = [episode.calls[span.call] for span in sequence.spans if span.is_trained]
    temperatures = {call.temperature for call in calls}
    if len(temperatures) != 1:
        raise ValueError(
            f"one sequence was sampled at several temperatures: {sorted(temperatures)}"
        )
    runs = _runs(sequence, advantage)
    whole = mean_advantage(runs) if isinstance(advantage, Mapping) else advantage
    return TrainSample(
        ids=sequence.ids,
        mask=sequence.mask,
        logprobs=sequence.logprobs,
        advantage=whole,
        temperature=temperatures.pop(),
        weight_version=min(call.completion.weight_version for call in calls),
        task_id=episode.task.task_id,
        episode_id=episode.episode_id,
        sequence=index,
        call_advantages=runs,
    )


def _runs(sequence: Sequence, advantage: Advantage) -> tuple[AdvantageRun, ...]:
    if not isinstance(advantage, Mapping):
        return ()
    trained = (span for span in sequence.spans if span.is_trained)
    return tuple((len(span.ids), advantage[span.call]) for span in trained)
