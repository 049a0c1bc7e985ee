"""What an episode was worth, or why it has no reward, and what is known beside: its facts."""

from collections.abc import Mapping
from dataclasses import dataclass

from astuner.logview.view.said import readable
from astuner.logview.view.words import count, number
from astuner.trajectory.episode import Episode
from astuner.trajectory.plain import plain

_BY: Mapping[str, str] = {
    "workflow": "the workflow",
    "judge": "the judge",
    "madness": "the check of replies",
}
_REFERENCES = ("answer", "reference", "reference_answer", "ground_truth", "solution")
_ANSWERS = ("final_answer", "answer")
_NOTES = ("note", "judge_note", "reason", "explanation")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFact:
    """A named value, as the workflow or the task gave it."""

    name: str
    text: str
    """A text as it is, anything else as JSON; whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownFailure:
    """Why there is no reward."""

    kind: str
    message: str
    traceback: str

    @property
    def first_line(self) -> str:
        return self.message.strip().partition("\n")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownVerdict:
    """A reward with who gave it, or a failure; and what the episode left behind."""

    reward: float | None
    """None where the episode failed."""
    is_success: bool | None
    """None where the episode failed."""
    source: str | None
    """Who gave the reward, as recorded: workflow, judge or madness."""
    rewards: tuple[tuple[str, float], ...]
    """Of each role, where agents have rewards of their own."""
    parts: tuple[tuple[str, float], ...]
    """What the judge made the reward of, by name."""
    madness: str | None
    failure: ShownFailure | None
    overflowed: tuple[str, ...]
    """Names of the agents that ran out of room."""
    answer: ShownFact | None
    """What the workflow named its answer."""
    reference: ShownFact | None
    """What the task has to hold it against."""
    note: ShownFact | None
    """What the judge said about it; where it said nothing, what the workflow did."""
    environment: str | None
    """What the environment found, and how the acting in it ended, in words; None without one."""
    metadata: tuple[ShownFact, ...]
    """All that the workflow left, these too."""
    task_metadata: tuple[ShownFact, ...]
    """All that came with the task."""

    @property
    def given_by(self) -> str | None:
        """Who gave the reward, in words."""
        return self.source and _BY.get(self.source, self.source)

    @property
    def outcome(self) -> str:
        """In a word: solved, not solved or failed."""
        if self.failure is not None:
            return "failed"
        return "solved" if self.is_success else "not solved"


def read_verdict(episode: Episode) -> ShownVerdict:
    verdict, failure = episode.verdict, episode.failure
    metadata, task = _facts(episode.metadata), _facts(episode.task.metadata)
    return ShownVerdict(
        reward=verdict.reward if verdict else None,
        is_success=verdict.is_success if verdict else None,
        source=verdict.source if verdict else None,
        rewards=tuple(verdict.rewards.items()) if verdict else (),
        parts=tuple(verdict.parts.items()) if verdict else (),
        madness=episode.madness,
        failure=failure
        and ShownFailure(
            kind=failure.kind, message=failure.message, traceback=failure.traceback.rstrip()
        ),
        overflowed=tuple(sorted(name for name, _ in episode.overflowed)),
        answer=_named(metadata, _ANSWERS),
        reference=_named(task, _REFERENCES),
        note=ShownFact(name="note", text=verdict.note)
        if verdict and verdict.note
        else _named(metadata, _NOTES),
        environment=_environment(episode.metadata.get("environment")),
        metadata=metadata,
        task_metadata=task,
    )


def _facts(values: Mapping[str, object]) -> tuple[ShownFact, ...]:
    shown = plain(values)
    return tuple(ShownFact(name=name, text=readable(value)) for name, value in shown.items())


def _environment(left: object) -> str | None:
    """As in "1 after 7 steps, ended by itself". A workflow may use the name for anything."""
    if not isinstance(left, Mapping) or not isinstance(steps := left.get("num_steps"), int):
        return None
    worth = left.get("evaluation")
    found = f"{number(worth)} after " if isinstance(worth, int | float) else ""
    end = (
        "ended by itself"
        if left.get("terminated")
        else "ended by a limit"
        if left.get("truncated")
        else "not ended"
    )
    return f"{found}{count(steps, 'step')}, {end}"


def _named(facts: tuple[ShownFact, ...], names: tuple[str, ...]) -> ShownFact | None:
    """The first of these names that is there."""
    by_name = {fact.name: fact for fact in facts}
    return next((by_name[name] for name in names if name in by_name), None)
