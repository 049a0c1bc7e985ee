"""The same tasks in two places, two runs or two steps: which became better, and which worse."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astuner.logview.view import words
from astuner.logview.view.paired import (
    HALF,
    PairedCounts,
    chance_in_words,
    p_in_words,
    paired_counts,
)
from astuner.logview.view.step_tasks import judged_attempts, middle, share_solved

if TYPE_CHECKING:
    from astuner.logview.reading.groups import GroupRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPair:
    """The attempts at one task in a and in b, both with at least one verdict."""

    a: "GroupRow"
    b: "GroupRow"
    share_a: float
    """Of the judged attempts those that solved it."""
    share_b: float

    @property
    def task_id(self) -> str:
        return self.b.task_id

    @property
    def title(self) -> str:
        return self.b.title or self.a.title

    @property
    def change(self) -> float:
        """By which share b solved it more often than a."""
        return self.share_b - self.share_a

    @property
    def reward_change(self) -> float:
        """By which the mean reward of b is higher."""
        return (self.b.mean or 0.0) - (self.a.mean or 0.0)

    @property
    def gain(self) -> float:
        """By how much b did better: by the share that solved it, where that is equal by reward."""
        return self.change or self.reward_change


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedTasks:
    """Tasks of a and b, matched by their ids."""

    pairs: Sequence[TaskPair]
    """Largest change first."""
    num_only_a: int
    """Tasks that b did not try at all."""
    num_only_b: int
    num_unjudged: int
    """Tasks in both, of which one side has no verdict: all its attempts failed."""
    counts: PairedCounts

    @property
    def has_several_attempts(self) -> bool:
        return any(max(pair.a.num_episodes, pair.b.num_episodes) > 1 for pair in self.pairs)

    @property
    def has_rewards_of_their_own(self) -> bool:
        """Whether rewards tell more than who solved what."""
        return any(
            (pair.a.mean, pair.b.mean) != (pair.share_a, pair.share_b) for pair in self.pairs
        )

    @property
    def reward_a(self) -> float | None:
        """Mean over the tasks of their mean reward."""
        return _mean([pair.a.mean for pair in self.pairs if pair.a.mean is not None])

    @property
    def reward_b(self) -> float | None:
        return _mean([pair.b.mean for pair in self.pairs if pair.b.mean is not None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Some of the tasks, by how they changed."""

    says: str
    holds: Callable[[TaskPair], bool]


SELECTIONS: Mapping[str, Selection] = {
    "all": Selection(says="all", holds=lambda pair: True),
    "better": Selection(says="became better", holds=lambda pair: pair.gain > 0),
    "worse": Selection(says="became worse", holds=lambda pair: pair.gain < 0),
    "neither": Selection(
        says="solved in neither", holds=lambda pair: max(pair.share_a, pair.share_b) <= HALF
    ),
    "both": Selection(
        says="solved in both", holds=lambda pair: min(pair.share_a, pair.share_b) > HALF
    ),
}
"""By their names in addresses."""


def matched_tasks(a: Iterable["GroupRow"], b: Iterable["GroupRow"]) -> MatchedTasks:
    """The tasks that both tried. Of equal changes the larger change of reward stands first."""
    in_a = {group.task_id: group for group in a}
    in_b = {group.task_id: group for group in b}
    shared = sorted(in_a.keys() & in_b.keys())
    shares = [(share_solved(in_a[task]), share_solved(in_b[task])) for task in shared]
    pairs = [
        TaskPair(a=in_a[task], b=in_b[task], share_a=share_a, share_b=share_b)
        for task, (share_a, share_b) in zip(shared, shares, strict=True)
        if share_a is not None and share_b is not None
    ]
    pairs.sort(key=lambda pair: (-abs(pair.change), -abs(pair.reward_change)))
    return MatchedTasks(
        pairs=pairs,
        num_only_a=len(in_a.keys() - in_b.keys()),
        num_only_b=len(in_b.keys() - in_a.keys()),
        num_unjudged=len(shared) - len(pairs),
        counts=paired_counts(
            [(pair.share_a, pair.share_b) for pair in pairs], [pair.gain for pair in pairs]
        ),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def chance_sentence(matched: MatchedTasks) -> str:
    """Whether the split of what changed can be chance."""
    counts = matched.counts
    if not counts.rose + counts.fell:
        return "No task changed."
    is_by_verdict = (counts.rose, counts.fell) == (counts.only_b, counts.only_a)
    is_mcnemar = is_by_verdict and not matched.has_several_attempts
    test = "exact McNemar test" if is_mcnemar else "sign test over tasks"
    return (
        f"{_of_changed(counts)} If both were equally good, a split at least this uneven would come "
        f"{chance_in_words(counts.p_value)} ({test}, p {p_in_words(counts.p_value)})."
    )


def _of_changed(counts: PairedCounts) -> str:
    num_changed = counts.rose + counts.fell
    tasks = words.count(num_changed, "task")
    return f"Of {tasks} that changed, {counts.rose} became better and {counts.fell} worse."


@dataclass(frozen=True, slots=True, kw_only=True)
class TellingAttempts:
    """One attempt of a and one of b, chosen to show the change between them."""

    a: str
    """Its episode id."""
    b: str
    says: str
    """Which these are."""


def telling_attempts(pair: TaskPair) -> TellingAttempts:
    """Worst and best where b is better, best and worst where a is, else those in the middle."""
    a, b = judged_attempts(pair.a), judged_attempts(pair.b)
    if pair.gain > 0:
        says = "are the worst of a and the best of b"
        return TellingAttempts(a=a[-1].episode_id, b=b[0].episode_id, says=says)
    if pair.gain < 0:
        says = "are the best of a and the worst of b"
        return TellingAttempts(a=a[0].episode_id, b=b[-1].episode_id, says=says)
    says = "are those in the middle by reward"
    return TellingAttempts(a=middle(a).episode_id, b=middle(b).episode_id, says=says)
