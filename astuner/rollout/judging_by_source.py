"""Which judge an attempt is brought to: that of its task's source, or the one for all others."""

from collections.abc import Mapping, Sequence

from astuner.rollout.judging import Judging
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.episode import Episode


class JudgingBySource:
    """Asked as `Judging` is. Attempts that are compared are of one task, so of one source."""

    def __init__(self, others: Judging, own: Mapping[str, Judging]) -> None:
        """`own` by `Task.source`; `others` judges the tasks of all other sources."""
        self._others, self._own = others, own

    async def prepare(self) -> None:
        for judging in self._all:
            await judging.prepare()

    async def prepare_alone(self) -> None:
        for judging in self._all:
            await judging.prepare_alone()

    async def prepare_comparing(self) -> None:
        for judging in self._all:
            await judging.prepare_comparing()

    async def judge(self, attempts: Sequence[Attempt]) -> list[Episode]:
        return await self._of(attempts[0]).judge(attempts) if attempts else []

    async def judge_alone(self, attempt: Attempt) -> Episode | None:
        return await self._of(attempt).judge_alone(attempt)

    async def compare(self, attempts: Sequence[Attempt]) -> list[Episode]:
        return await self._of(attempts[0]).compare(attempts) if attempts else []

    @property
    def _all(self) -> tuple[Judging, ...]:
        return (self._others, *self._own.values())

    def _of(self, attempt: Attempt) -> Judging:
        return self._own.get(attempt.task.source, self._others)
