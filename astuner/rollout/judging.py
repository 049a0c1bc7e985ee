"""From the attempts at a task to judged episodes: each alone, then those that are compared.

Owns the deadline of a judge and the boundary around it: a judge that fails is a failed episode,
never a reward of 0. Takes attempts and a judge, and knows no engine, gateway or workflow, so that
attempts which were read back from a run directory are judged the same way.
"""

import asyncio
import math
import reprlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from astuner.calling import called, one_call
from astuner.errors import EpisodeError, JudgeError, WorkflowError, boundary
from astuner.rollout.bounded import bounded
from astuner.rollout.step_rewards import call_rewards
from astuner.rollout.verdict import make_verdict, with_call_rewards
from astuner.trajectory.attempt import Attempt, Failure
from astuner.trajectory.episode import Episode
from astuner.types import Judgement, Verdict, WorkflowOutput, WorkflowTask


class Judge(Protocol):
    """What `task_judge.judge_protocol` names, where it judges each attempt by itself."""

    def compute_reward(self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput) -> Any:
        """Return `(reward, is_success)`, or an awaitable of it."""
        ...


class ComparingJudge(Protocol):
    """What `task_judge.judge_protocol` names, where it judges the attempts at a task together."""

    def compute_rewards(
        self, workflow_tasks: Sequence[WorkflowTask], workflow_outputs: Sequence[WorkflowOutput]
    ) -> Any:
        """Return one `(reward, is_success)` for each, in order, or an awaitable of them."""
        ...


class Judging:
    """Judges the attempts of a run. Keeps nothing of them."""

    def __init__(
        self,
        judge: Judge | ComparingJudge | None,
        *,
        timeout_seconds: float,
        madness_reward: float,
    ) -> None:
        """Without a judge every workflow has to return its reward. `timeout_seconds` bounds one
        question to the judge, which for one that compares is about a whole group."""
        compares = hasattr(judge, "compute_rewards")
        self._comparing = cast(ComparingJudge, judge) if compares else None
        self._alone = None if compares else cast(Judge | None, judge)
        self._name = f"judge {type(judge).__name__}"
        self._prepare = getattr(judge, "prepare", None)
        self._timeout_seconds = timeout_seconds
        self._madness_reward = madness_reward

    @property
    def compares(self) -> bool:
        """Whether the judge is asked about groups, not about each attempt alone."""
        return self._comparing is not None

    async def prepare(self) -> None:
        """Have the judge ready for its first question; calling it again does nothing.

        Raises JudgeError where the judge fails, or takes longer than a question may.
        """
        prepare, self._prepare = self._prepare, None
        if prepare is not None:
            await self._ask(prepare)

    async def prepare_alone(self) -> None:
        """The same where it judges each attempt by itself, else nothing."""
        if not self.compares:
            await self.prepare()

    async def prepare_comparing(self) -> None:
        """The same where it compares, else nothing."""
        if self.compares:
            await self.prepare()

    async def judge(self, attempts: Sequence[Attempt]) -> list[Episode]:
        """All attempts at one task, as episodes in the same order."""
        found = dict(enumerate(await asyncio.gather(*map(self.judge_alone, attempts))))
        open_ = [index for index, episode in found.items() if episode is None]
        compared = await self.compare([attempts[index] for index in open_])
        found |= zip(open_, compared, strict=True)
        return [episode for episode in found.values() if episode is not None]

    async def judge_alone(self, attempt: Attempt) -> Episode | None:
        """The episode, as soon as its attempt has ended; None where it is to be compared."""
        if attempt.madness is not None:
            return Episode.of(
                attempt,
                verdict=Verdict(reward=self._madness_reward, is_success=False, source="madness"),
            )
        output = attempt.output
        if output is None:
            return Episode.of(attempt)
        started = time.monotonic()
        try:
            of_calls = call_rewards(attempt)
            if output.reward is None and self._comparing is not None:
                return None
            verdict = await self._verdict(attempt, output, of_calls)
        except EpisodeError as error:
            return _failed(attempt, error, started)
        return Episode.of(attempt, verdict=verdict, judging_seconds=time.monotonic() - started)

    async def compare(self, attempts: Sequence[Attempt]) -> list[Episode]:
        """The attempts of one group that `judge_alone` left open, once all of it have ended."""
        if not attempts:
            return []
        assert self._comparing is not None
        started = time.monotonic()
        try:
            results = await self._ask(
                self._comparing.compute_rewards,
                [attempt.workflow_task for attempt in attempts],
                [attempt.output for attempt in attempts],
            )
            results = self._listed(results, len(attempts))
        except EpisodeError as error:
            return [_failed(attempt, error, started) for attempt in attempts]
        pairs = zip(attempts, results, strict=True)
        return [self._compared(attempt, result, started) for attempt, result in pairs]

    def _compared(self, attempt: Attempt, result: Any, started: float) -> Episode:
        try:
            verdict = self._verdict_of(attempt, result, call_rewards(attempt))
        except EpisodeError as error:
            return _failed(attempt, error, started)
        return Episode.of(attempt, verdict=verdict, judging_seconds=time.monotonic() - started)

    async def _verdict(
        self, attempt: Attempt, output: WorkflowOutput, of_calls: tuple[float, ...]
    ) -> Verdict:
        if output.reward is not None:
            outcome = _workflows(output.reward, output, attempt)
            return with_call_rewards(outcome, of_calls, attempt)
        if self._alone is None and output.step_rewards is not None:
            return replace(_workflows(math.fsum(of_calls), output, attempt), call_rewards=of_calls)
        if self._alone is None:
            raise JudgeError(
                "the workflow returned no reward and no judge is configured: return "
                "WorkflowOutput(reward=...) or step_rewards, or set task_judge.judge_protocol"
            )
        result = await self._ask(self._alone.compute_reward, attempt.workflow_task, output)
        return self._verdict_of(attempt, result, of_calls)

    def _verdict_of(self, attempt: Attempt, result: Any, of_calls: tuple[float, ...]) -> Verdict:
        with boundary(JudgeError, f"what {self._name} returned cannot be read"):
            judgement = self._judgement(result)
            outcome = make_verdict(
                judgement.reward,
                judgement.is_success,
                attempt,
                source="judge",
                refuse=lambda found: JudgeError(f"{self._name}: the reward {found}"),
                note=judgement.note,
                parts=judgement.parts,
            )
        return with_call_rewards(outcome, of_calls, attempt)

    def _judgement(self, result: Any) -> Judgement:
        judgement = Judgement.of(result)
        if judgement is None:
            raise JudgeError(
                f"{self._name} returned {reprlib.repr(result)}; expected (reward, is_success) or a "
                "Judgement"
            )
        return judgement

    def _listed(self, results: Any, num_attempts: int) -> list[Any]:
        found = type(results).__name__
        if isinstance(results, Sequence) and not isinstance(results, str):
            with boundary(JudgeError, f"what {self._name} returned cannot be read"):
                listed = list(results)
            if len(listed) == num_attempts:
                return listed
            found = f"{len(listed)} of them"
        raise JudgeError(
            f"{self._name} was asked about {num_attempts} attempts and returned {found}; expected "
            "a list with one (reward, is_success) for each, in order"
        )

    async def _ask(self, ask: Callable[..., Any], *about: Any) -> Any:
        with boundary(JudgeError, f"{self._name} raised"), one_call() as standstill:
            return await bounded(
                called(ask, *about),
                seconds=self._timeout_seconds,
                stands_still=lambda: standstill.is_on,
                error=JudgeError(
                    f"{self._name} did not answer in {self._timeout_seconds:g} s "
                    "(task_judge.judge_timeout_seconds); raise it, or let the judge do less"
                ),
            )


def _workflows(reward: Any, output: WorkflowOutput, attempt: Attempt) -> Verdict:
    with boundary(WorkflowError, "what the workflow returned cannot be read"):
        return make_verdict(
            reward,
            output.is_success,
            attempt,
            source="workflow",
            refuse=lambda found: WorkflowError(f"the workflow's reward {found}"),
        )


def _failed(attempt: Attempt, error: EpisodeError, started: float) -> Episode:
    seconds = time.monotonic() - started
    return Episode.of(attempt, failure=Failure.of(error), judging_seconds=seconds)
