"""What somebody said of an episode: the judge of the run, another one, or a person."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from astuner.types import Verdict


class EpisodeName(NamedTuple):
    """Tells an episode from all others, in whichever run."""

    run: str
    """`RunReader.name`."""
    episode_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One of the two is known at least."""

    reward: float | None
    """Where agents have rewards of their own, the mean over those that are trained."""
    is_success: bool | None
    note: str = ""
    """Why; empty where that was not said."""

    @classmethod
    def of(cls, verdict: Verdict) -> "Opinion":
        return cls(reward=verdict.reward, is_success=verdict.is_success, note=verdict.note)


Opinions = Mapping[EpisodeName, Opinion]
"""What one judge, or the labels of people, say of some episodes."""
