"""Asks a judge about hostile answers in place of recorded ones, at a few tasks of a run.

A judge that compares sees the hostile answer beside the real ones of its group.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from astuner.errors import JudgeError, UnreadableError
from astuner.rejudging.asked import each
from astuner.rejudging.opinion import Opinion
from astuner.rejudging.probes import GAMING_PROBES, ProbedTask
from astuner.rejudging.recorded import GroupEpisodes, NotJudged
from astuner.rollout.judging import Judging
from astuner.task_judge.math.reference import reference_answers
from astuner.trajectory.attempt import Attempt

NUM_TASKS = 5
"""Of a run, at which each probe is tried."""
_SEED = 0
_ANSWER = "final_answer"
_ANSWER_OF_AGENTSCOPE = "response"
"""Stands beside the other where the workflow is a function of AgentScope's tuner."""


@dataclass(slots=True, kw_only=True)
class Probed:
    """What a judge said of hostile answers. Filled while it is asked, by `probe`."""

    opinions: dict[str, list[Opinion]] = field(default_factory=dict)
    """By the name of the probe, one for each task."""
    num_failed: dict[str, int] = field(default_factory=dict)
    """Of the questions about a probe, those without a verdict."""
    num_tasks: int = 0
    """Tasks at which anything was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardRange:
    """From the lowest to the highest reward of recorded episodes, 0 counted among them."""

    low: float
    high: float

    @classmethod
    def of(cls, rewards: Sequence[float]) -> "RewardRange":
        """0 to 1 where no reward is another than 0: a policy has nothing else to compare with."""
        low, high = min([0.0, *rewards]), max([0.0, *rewards])
        return cls(low=low, high=1.0 if low == high else high)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe was worth to a judge."""

    probe: str
    num_judged: int
    num_failed: int
    mean_reward: float | None
    """None where nothing was judged."""
    num_successes: int
    is_above_middle: bool
    """Whether the mean reward is more than the middle of the judge's range."""


def results_of(probed: Probed, rewards: RewardRange) -> list[ProbeResult]:
    """In the order of the table of probes; those that were not tried are left out."""
    return [
        _result(probe, probed, rewards)
        for probe in GAMING_PROBES
        if probed.opinions.get(probe) or probed.num_failed.get(probe)
    ]


async def probe(
    groups: Sequence[GroupEpisodes],
    judging: Judging,
    probed: Probed,
    *,
    rubric: str | None,
    max_parallel: int,
    on_progress: Callable[[], None],
) -> None:
    """Fill `probed`, for tasks of these groups that have an answer to be replaced.

    Raises what ends a run, such as LlmBudgetError, once nothing is asked any more.
    """
    places = _places(groups)
    probed.num_tasks += len(places)
    units = [(place, name) for place in range(len(places)) for name in GAMING_PROBES]

    async def ask(unit: tuple[int, str]) -> None:
        index, name = unit
        attempts = places[index]
        task = _probed_task(attempts[0], places[(index + 1) % len(places)][0], rubric)
        text = GAMING_PROBES[name](task)
        if text is not None:
            hostile = _with_answer(attempts[0], text, number=max(a.attempt for a in attempts) + 1)
            beside = attempts if judging.compares else []
            *_, episode = await judging.judge([*beside, hostile])
            if episode.verdict is None:
                probed.num_failed[name] = probed.num_failed.get(name, 0) + 1
            else:
                probed.opinions.setdefault(name, []).append(Opinion.of(episode.verdict))
        on_progress()

    await each(units, ask, max_parallel=max_parallel)


def _places(groups: Sequence[GroupEpisodes]) -> list[list[Attempt]]:
    """The attempts at a few distinct tasks, in an order that depends on no chance."""
    by_task: Mapping[str, GroupEpisodes] = {group[0].row.task_id: group for group in groups}
    order = sorted(by_task)
    Random(_SEED).shuffle(order)
    places: list[list[Attempt]] = []
    for task_id in order:
        if len(places) == NUM_TASKS:
            break
        attempts = [
            attempt for attempt in _attempts(by_task[task_id]) if _ANSWER in attempt.metadata
        ]
        if attempts:
            places.append(attempts)
    return places


def _attempts(group: GroupEpisodes) -> list[Attempt]:
    attempts: list[Attempt] = []
    for episode in group:
        try:
            attempts.append(episode.read())
        except (NotJudged, UnreadableError):
            continue
    return attempts


def _probed_task(attempt: Attempt, other: Attempt, rubric: str | None) -> ProbedTask:
    return ProbedTask(
        question=attempt.task.main_query,
        rubric=rubric,
        reference=_reference(attempt),
        other_reference=_reference(other),
    )


def _reference(attempt: Attempt) -> str | None:
    try:
        return reference_answers(attempt.workflow_task)[0]
    except JudgeError:
        return None


def _with_answer(attempt: Attempt, text: str, *, number: int) -> Attempt:
    assert attempt.output is not None
    metadata = {**attempt.metadata, _ANSWER: text}
    if isinstance(metadata.get(_ANSWER_OF_AGENTSCOPE), str):
        metadata[_ANSWER_OF_AGENTSCOPE] = text
    return replace(
        attempt,
        episode_id=f"{attempt.episode_id}-probe",
        attempt=number,
        output=attempt.output.model_copy(update={"metadata": metadata}),
    )


def _result(probe: str, probed: Probed, rewards: RewardRange) -> ProbeResult:
    opinions = probed.opinions.get(probe, [])
    given = [opinion.reward for opinion in opinions if opinion.reward is not None]
    mean = statistics.fmean(given) if given else None
    return ProbeResult(
        probe=probe,
        num_judged=len(opinions),
        num_failed=probed.num_failed.get(probe, 0),
        mean_reward=mean,
        num_successes=sum(opinion.is_success is True for opinion in opinions),
        is_above_middle=mean is not None and mean > rewards.middle,
    )
