"""Asks a judge about recorded episodes, many at the same time, and keeps what it said.

What was said so far stays, whatever ends the asking.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from astuner.errors import UnreadableError
from astuner.rejudging.opinion import EpisodeName, Opinion
from astuner.rejudging.recorded import (
    GroupEpisodes,
    NotJudged,
    RecordedEpisode,
    beginning_of_answer,
)
from astuner.rollout.judging import Judging
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.episode import Episode

_MAX_ANSWER = 300
"""Characters of an answer that are kept to be shown."""

Unit = TypeVar("Unit")


@dataclass(slots=True, kw_only=True)
class JudgedAgain:
    """What one judge said. Filled while it is asked, by `ask_about`."""

    opinions: dict[EpisodeName, list[Opinion]] = field(default_factory=dict)
    """One for each time that it answered."""
    failures: dict[EpisodeName, str] = field(default_factory=dict)
    """Why it has no opinion of an episode, after all tries."""
    not_judged: dict[EpisodeName, str] = field(default_factory=dict)
    """Why it was not asked."""
    answers: dict[EpisodeName, str] = field(default_factory=dict)
    """The beginning of what it judged."""

    @property
    def first_opinions(self) -> dict[EpisodeName, Opinion]:
        return {name: given[0] for name, given in self.opinions.items()}

    @property
    def num_done(self) -> int:
        return len(self.opinions) + len(self.failures) + len(self.not_judged)

    def take(self, name: EpisodeName, outcomes: Sequence[Episode]) -> None:
        """All outcomes of asking about one episode."""
        verdicts = [episode.verdict for episode in outcomes if episode.verdict is not None]
        if verdicts:
            self.opinions[name] = [Opinion.of(verdict) for verdict in verdicts]
            return
        failure = next(e.failure for e in outcomes if e.failure is not None)
        self.failures[name] = f"{failure.kind}: {failure.message}"


async def ask_about(
    groups: Sequence[GroupEpisodes],
    judging: Judging,
    asked: JudgedAgain,
    *,
    num_times: int,
    max_parallel: int,
    on_progress: Callable[[], None],
) -> None:
    """Fill `asked`; a judge that compares is asked about each group, others about each episode.

    Several times are asked one behind the other: equal questions at the same time would be one.
    Raises what ends a run, such as LlmBudgetError, once nothing is asked any more.
    """
    units = groups if judging.compares else [[episode] for group in groups for episode in group]

    async def ask(unit: GroupEpisodes) -> None:
        attempts = await asyncio.to_thread(_read, unit, asked)
        rounds = [await judging.judge(list(attempts.values())) for _ in range(num_times)]
        for name, outcomes in zip(attempts, zip(*rounds, strict=True), strict=True):
            asked.take(name, outcomes)
        on_progress()

    await judging.prepare()
    await each(units, ask, max_parallel=max_parallel)


async def each(
    units: Sequence[Unit], work: Callable[[Unit], Awaitable[None]], *, max_parallel: int
) -> None:
    """Do the work for each, so many at the same time; the first error ends all of it."""
    todo: Iterator[Unit] = iter(units)

    async def do() -> None:
        for unit in todo:
            await work(unit)

    tasks = [asyncio.create_task(do()) for _ in range(min(max_parallel, len(units)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _read(unit: GroupEpisodes, asked: JudgedAgain) -> dict[EpisodeName, Attempt]:
    """Those that can be judged; of the others it is kept why they are not."""
    read = {episode.name: _read_one(episode, asked) for episode in unit}
    return {name: attempt for name, attempt in read.items() if attempt is not None}


def _read_one(episode: RecordedEpisode, asked: JudgedAgain) -> Attempt | None:
    try:
        attempt = episode.read()
    except NotJudged as reason:
        asked.not_judged[episode.name] = str(reason)
        return None
    except UnreadableError:
        asked.not_judged[episode.name] = "the record cannot be read"
        return None
    asked.answers[episode.name] = beginning_of_answer(attempt)[:_MAX_ANSWER]
    return attempt
