"""What was trained of an attempt: the advantage of each of its agents."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from astuner.logview.view.words import signed
from astuner.trajectory.episode import Episode
from astuner.trajectory.samples import AdvantageRun, mean_advantage

if TYPE_CHECKING:
    from astuner.logview.reading.training import TrainedSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """The advantage that sequences of one agent were trained with."""

    agent: str
    """Empty where every agent that the policy sampled for was trained with the same one."""
    advantage: float
    """The mean over the trained tokens."""
    least: float
    """Of a call, as is `most`; both are the mean where calls have none of their own."""
    most: float

    @property
    def says(self) -> str:
        """As in "+0.30 (+0.10 to +0.80 by call)"; the mean alone where calls do not differ."""
        least, most = signed(self.least), signed(self.most)
        return signed(self.advantage) + (f" ({least} to {most} by call)" if least != most else "")


def credits_of(samples: Sequence["TrainedSample"], episode: Episode) -> list[Credit]:
    """One for each agent, in the order of the sequences; none where nothing of it was trained."""
    runs: dict[str, list[AdvantageRun]] = {}
    for sample in sorted(samples, key=lambda sample: sample.sequence):
        if sample.runs:
            runs.setdefault(_agent(episode, sample.sequence), []).extend(sample.runs)
    found = [_credit(agent, of_agent) for agent, of_agent in runs.items()]
    unnamed = {one.agent_name for one in episode.sequences if one.num_trained}
    if len({replace(one, agent="") for one in found}) == 1 and unnamed <= runs.keys():
        return [replace(found[0], agent="")]
    return found


def credit_of(sample: "TrainedSample | None") -> Credit | None:
    """That of one sequence alone; None where it is not known."""
    return _credit("", sample.runs) if sample and sample.runs else None


def _credit(agent: str, runs: Sequence[AdvantageRun]) -> Credit:
    values = [value for _, value in runs]
    return Credit(agent=agent, advantage=mean_advantage(runs), least=min(values), most=max(values))


def _agent(episode: Episode, sequence: int) -> str:
    """The record may have been made anew since, with fewer sequences."""
    if not 0 <= sequence < len(episode.sequences):
        return f"sequence {sequence}"
    return episode.sequences[sequence].agent_name
