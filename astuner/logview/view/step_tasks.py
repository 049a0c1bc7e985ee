"""The tasks of one step by what their attempts earned, and the step in one sentence."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from astuner.logview.view import words

if TYPE_CHECKING:
    from astuner.logview.reading.groups import GroupRow

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """One attempt, as a square of its reward."""

    episode_id: str
    reward: float | None
    """None for an attempt that failed."""
    is_success: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """A way to sort tasks."""

    says: str
    key: Callable[["GroupRow"], float]


def _low(value: float | None) -> float:
    return -math.inf if value is None else value


ORDERS: Mapping[str, Sorting] = {
    "best": Sorting(says="best first", key=lambda group: -_low(group.mean)),
    "worst": Sorting(says="worst first", key=lambda group: _low(group.mean)),
    "spread": Sorting(says="largest spread first", key=lambda group: -_low(group.spread)),
    "failed": Sorting(says="most failed first", key=lambda group: -group.num_failed),
    "longest": Sorting(says="longest first", key=lambda group: -group.tokens_mean),
}
"""By their names in addresses. Tasks that are equal stay as they stood."""


def sorted_tasks(groups: Iterable["GroupRow"], order: str) -> list["GroupRow"]:
    return sorted(groups, key=ORDERS[order].key)


class ListedTask(Protocol):
    """Whatever is listed by the question of a task."""

    @property
    def title(self) -> str: ...

    @property
    def task_id(self) -> str: ...


AnyListed = TypeVar("AnyListed", bound=ListedTask)


def with_text(tasks: Iterable[AnyListed], text: str) -> list[AnyListed]:
    """Those whose question or id holds the text, whatever its case."""
    wanted = text.casefold()
    return [task for task in tasks if wanted in f"{task.title}\n{task.task_id}".casefold()]


def squares(group: "GroupRow") -> list[Square]:
    """The attempts of a group, best first, the failed ones last."""
    attempts = zip(group.episode_ids, group.rewards, group.successes, strict=True)
    found = [Square(episode_id=name, reward=r, is_success=is_s) for name, r, is_s in attempts]
    return sorted(found, key=lambda square: -_low(square.reward))


def judged_attempts(group: "GroupRow") -> list[Square]:
    """Those with a reward, best first; all of them where every attempt failed."""
    attempts = squares(group)
    return [attempt for attempt in attempts if attempt.reward is not None] or attempts


def middle(attempts: Sequence[Square]) -> Square:
    """The typical one of attempts that are sorted by reward; of two in the middle the better."""
    return attempts[(len(attempts) - 1) // 2]


def is_flat(group: "GroupRow") -> bool:
    """Whether no attempt did better than another."""
    return len({reward for reward in group.rewards if reward is not None}) < 2


def share_solved(group: "GroupRow") -> float | None:
    """Of the attempts with a verdict; None where there is none."""
    judged = [success for success in group.successes if success is not None]
    return sum(judged) / len(judged) if judged else None


def step_sentence(
    groups: Sequence["GroupRow"], *, untaught: Collection[str], seconds: float | None = None
) -> str:
    """Tasks, attempts, reward, spread, failures and time, as the top of a page says them.

    Nothing was learned from the groups of the tasks `untaught`.
    """
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    num_failed = sum(group.num_failed for group in groups)
    said = [_num_tasks(groups)]
    if rewards:
        said.append(f"reward {words.share(math.fsum(rewards) / len(rewards))}")
    if any(group.num_episodes > 1 for group in groups):
        said.append(
            _num_certain(groups) if groups[0].is_validation else _num_flat(groups, len(untaught))
        )
    if num_failed:
        said.append(f"{words.count(num_failed, 'attempt')} failed")
    if seconds is not None:
        said.append(words.duration(seconds))
    return " · ".join(said)


def _num_tasks(groups: Sequence["GroupRow"]) -> str:
    sizes = sorted({group.num_episodes for group in groups})
    tasks = words.count(len(groups), "task")
    if len(sizes) > 1:
        num_attempts = sum(group.num_episodes for group in groups)
        return f"{tasks} · {words.number(num_attempts)} attempts, {sizes[0]} to {sizes[-1]} at each"
    return tasks if sizes in ([], [1]) else f"{tasks} {TIMES} {words.number(sizes[0])} attempts"


def _num_certain(groups: Sequence["GroupRow"]) -> str:
    """Of a validation, from which nothing is learned."""
    shares = [share_solved(group) for group in groups]
    always, never = shares.count(1.0), shares.count(0.0)
    return f"{words.number(always)} solved in every attempt, {words.number(never)} in none"


def _num_flat(groups: Sequence["GroupRow"], num_flat: int) -> str:
    if not num_flat:
        return "no group without spread"
    return f"{words.number(num_flat)} of {words.count(len(groups), 'group')} without spread"
