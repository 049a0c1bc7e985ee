"""An episode as data: an attempt with what it was worth, or why it failed; and groups of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Self

from astuner.trajectory.attempt import Attempt, Failure
from astuner.trajectory.recorder import Agent
from astuner.types import Task, Verdict

EVERYONE = ""
"""The role of all agents where one number is the reward of them all."""


def role_of(agent: Agent, roles: Collection[str]) -> str | None:
    """The role, among the keys of a mapping of rewards, that the agent's reward stands under.

    Its own name goes before its target tag. None when neither is there.
    """
    return next((key for key in agent if key in roles), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode(Attempt):
    """An attempt with its verdict, or with the failure that left it without one; never both."""

    verdict: Verdict | None
    judging_seconds: float = 0.0
    """The part of `seconds` in which its judge was asked; 0 too in records that do not tell."""

    def __post_init__(self) -> None:
        if (self.verdict is None) == (self.failure is None):
            raise ValueError("an episode has either a verdict or a failure")

    @classmethod
    def of(
        cls,
        attempt: Attempt,
        *,
        verdict: Verdict | None = None,
        failure: Failure | None = None,
        judging_seconds: float = 0.0,
    ) -> Self:
        """The attempt, judged. One that failed before it could be judged keeps its failure."""
        known = {field.name: getattr(attempt, field.name) for field in fields(Attempt)}
        known["seconds"] += judging_seconds
        known["failure"] = failure or (attempt.failure if verdict is None else None)
        return cls(**known, verdict=verdict, judging_seconds=judging_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The rewards of one role over a group: what its episodes are compared by."""

    role: str
    rewards: Mapping[str, float]
    """Episode id -> reward; at least two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The episodes of one task in one step."""

    task: Task
    episodes: tuple[Episode, ...]

    @property
    def judged(self) -> tuple[Episode, ...]:
        """Episodes with a verdict; the failed ones are left out."""
        return tuple(episode for episode in self.episodes if episode.verdict is not None)

    @property
    def roles(self) -> tuple[str, ...]:
        """Whatever agents are rewarded by, in the order in which it is first met."""
        keys = (key for e in self.judged if e.verdict for key in e.verdict.rewards)
        return tuple(dict.fromkeys(keys)) or (EVERYONE,)

    def role_in(self, episode: Episode, agent: Agent) -> str | None:
        """The role that the agent has in an episode of this group; None when it has no reward."""
        if self.roles == (EVERYONE,):
            return EVERYONE
        own = episode.verdict.rewards if episode.verdict else {}
        return role_of(agent, own or self.roles)

    def contests(self) -> tuple[Contest, ...]:
        """One for each trained role that at least two episodes have a reward in."""
        contests = (Contest(role=role, rewards=self._rewards(role)) for role in self._trained())
        return tuple(contest for contest in contests if len(contest.rewards) > 1)

    def trained_in(self, episode: Episode, role: str) -> frozenset[Agent]:
        """The agents that the role trains in an episode."""
        trained = (sequence.agent for sequence in episode.sequences if sequence.num_trained)
        return frozenset(agent for agent in trained if self.role_in(episode, agent) == role)

    def _trained(self) -> tuple[str, ...]:
        """Opponents may be rewarded too, but nothing of them is trained."""
        return tuple(
            role
            for role in self.roles
            if role == EVERYONE or any(self.trained_in(episode, role) for episode in self.judged)
        )

    def _rewards(self, role: str) -> dict[str, float]:
        rewards = {e.episode_id: self._reward(e, role) for e in self.judged}
        return {name: reward for name, reward in rewards.items() if reward is not None}

    def _reward(self, episode: Episode, role: str) -> float | None:
        """One number for all counts in each role that an agent of the episode has."""
        verdict = episode.verdict
        assert verdict is not None
        if verdict.rewards:
            return verdict.rewards.get(role)
        is_there = role == EVERYONE or any(
            self.role_in(episode, sequence.agent) == role for sequence in episode.sequences
        )
        return verdict.reward if is_there else None
