"""What was trained of an attempt: the advantage of each of its agents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astuner.trajectory.episode import Episode

if TYPE_CHECKING:
    from astuner.logview.reading.training import TrainedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """An advantage that sequences of one agent were trained with."""

    agent: str
    """Empty where every agent that the policy sampled for was trained with the same one."""
    advantage: float


def credits_of(samples: Sequence["TrainedSample"], episode: Episode) -> list[Credit]:
    """In the order of the sequences, each once; none where nothing of it was trained."""
    found = [
        Credit(agent=_agent(episode, sample.sequence), advantage=sample.advantage)
        for sample in sorted(samples, key=lambda sample: sample.sequence)
        if sample.advantage is not None
    ]
    unnamed = {one.agent_name for one in episode.sequences if one.num_trained}
    if len({credit.advantage for credit in found}) == 1 and unnamed <= {one.agent for one in found}:
        return [Credit(agent="", advantage=found[0].advantage)]
    return list(dict.fromkeys(found))


def _agent(episode: Episode, sequence: int) -> str:
    """The record may have been made anew since, with fewer sequences."""
    if not 0 <= sequence < len(episode.sequences):
        return f"sequence {sequence}"
    return episode.sequences[sequence].agent_name
