"""Does the judge say right of what is right? It is asked about answers made from the tasks' own
references, about empty and hostile ones, and about the same ones twice.

Owns which answers are made and what is made of what it says. Knows no model.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from astuner.config.schema import Settings
from astuner.errors import JudgeError
from astuner.examining.finding import DoctorFinding, Remarks
from astuner.rejudging.opinion import Opinion
from astuner.rejudging.probes import GAMING_PROBES, ProbedTask
from astuner.rejudging.probing import Probed, RewardRange, results_of
from astuner.rollout.judging_by_source import JudgingBySource
from astuner.task_judge.math.reference import reference_answers
from astuner.trajectory.attempt import Attempt
from astuner.types import Task, WorkflowOutput

_SAY = Remarks("judge")
NUM_TASKS = 4
RIGHT, WRONG, EMPTY, LONG, AGAIN = "right", "wrong", "empty", "long", "again"
_NO_ANSWER = "I think that it is 918273, or perhaps a zebra."
_PADDING = "Let us go on with care, and look at what was asked once more. " * 130
_SLOW_SECONDS = 5.0
_FIELDS: Mapping[str, Callable[[Any], str | None]] = {
    "ExactMatchJudge": lambda judge: judge.exact_match.answer_field,
    "LlmAsJudge": lambda judge: judge.llm_as_judge.reference_field,
    "RubricsJudge": lambda judge: judge.rubrics.reference_field,
    "CodeJudge": lambda judge: judge.code.reference_field,
    "JsonSchemaJudge": lambda judge: judge.json_schema.reference_field,
}
"""By the class of a judge, the field of a task's metadata that holds what is right."""
_NEEDING = frozenset(["MathAnswerAsJudge", "ExactMatchJudge", "ReasoningGymJudge"])
"""Judges that cannot judge a task without it."""


def reference_field(settings: Settings) -> str | None:
    """The field of the metadata that holds the right answer; `answer` where nothing is known."""
    name = (settings.task_judge.judge_protocol or "").rpartition("->")[2]
    known = _FIELDS.get(name)
    return known(settings.task_judge) if known else "answer"


def needed_field(settings: Settings) -> str | None:
    """The same for judges that refuse a task without it."""
    name = (settings.task_judge.judge_protocol or "").rpartition("->")[2]
    return reference_field(settings) if name in _NEEDING else None


def right_answers(task: Task, name: str | None) -> list[str]:
    """What an agent may say that is right, the plainest first; none where no reference is known."""
    value = task.metadata.get(name) if name else None
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if value is None or value == "" or isinstance(value, bool):
        return []
    if isinstance(value, Mapping):
        return [json.dumps(value)]
    text = str(value)
    if "\n" in text.strip() and name != "answer":
        return [f"```\n{text}\n```", text]
    plain = _plain_reference(task, text)
    return [plain, rf"The answer is \boxed{{{plain}}}.", f"The answer is {plain}", text]


def _plain_reference(task: Task, text: str) -> str:
    """Of references that hold a whole solution, its last line."""
    try:
        return reference_answers(_attempt(task, {}, 0).workflow_task)[0]
    except JudgeError:
        return text


@dataclass(slots=True, kw_only=True)
class AskedJudge:
    """What a judge said. Filled while it is asked, by `ask_judge`."""

    opinions: dict[str, list[Opinion]] = field(default_factory=dict)
    """By what it was asked about: right, wrong, empty, long, again."""
    failures: dict[str, list[str]] = field(default_factory=dict)
    """By the same, why it had no opinion."""
    probed: Probed = field(default_factory=Probed)
    pairs: list[tuple[Opinion, Opinion]] = field(default_factory=list)
    """Of the same answer, asked twice."""
    seconds: list[float] = field(default_factory=list)
    """Of each question."""
    num_without_reference: int = 0
    """Among the tasks."""
    num_tasks: int = 0

    def take(self, what: str, opinion: Opinion | str) -> None:
        if isinstance(opinion, str):
            self.failures.setdefault(what, []).append(opinion)
        else:
            self.opinions.setdefault(what, []).append(opinion)


async def ask_judge(
    judging: JudgingBySource,
    tasks: Sequence[Task],
    asked: AskedJudge,
    *,
    metadata: Mapping[str, Any],
    name: str | None,
) -> None:
    """Fill `asked`. `metadata` is what the workflow returned, whose answer is replaced; `name` is
    the field of the tasks' references. Raises what ends a run, such as ConfigError."""
    await judging.prepare()
    chosen = tasks[:NUM_TASKS]
    asked.num_tasks = len(chosen)
    others = [*tasks[1:], *tasks[:1]]

    def ask(task: Task) -> "_Asking":
        return _Asking(judging, task, metadata, asked)

    await asyncio.gather(
        *(
            _ask_about(ask(task), _reference(other, name), name)
            for task, other in zip(chosen, others, strict=False)
        )
    )


def _reference(task: Task, name: str | None) -> str | None:
    return next(iter(right_answers(task, name)), None)


class _Asking:
    """Asks about answers to one task."""

    def __init__(
        self,
        judging: JudgingBySource,
        task: Task,
        metadata: Mapping[str, Any],
        asked: AskedJudge,
    ) -> None:
        self._judging, self.task, self.asked = judging, task, asked
        self._metadata = metadata
        self._num_asked = 0

    async def ask(self, text: str) -> Opinion | str:
        """The opinion of an answer, or why there is none."""
        self._num_asked += 1
        changed = {**self._metadata, "final_answer": text}
        if isinstance(self._metadata.get("response"), str):
            changed["response"] = text
        attempt = _attempt(self.task, changed, self._num_asked)
        started = time.monotonic()
        episode = await self._judging.judge_alone(attempt)
        if episode is None:
            beside = replace(attempt, episode_id=f"{attempt.episode_id}-beside")
            (episode, _) = await self._judging.compare([attempt, beside])
        self.asked.seconds.append(time.monotonic() - started)
        if episode.verdict is None:
            assert episode.failure is not None
            return f"{episode.failure.kind}: {episode.failure.message}"
        return Opinion.of(episode.verdict)


async def _ask_about(asking: _Asking, other: str | None, name: str | None) -> None:
    asked, task = asking.asked, asking.task
    right = right_answers(task, name)
    if right:
        said = await _first_accepted(asking, right)
        asked.take(RIGHT, said[1])
        asked.take(LONG, await asking.ask(f"{_PADDING}\n\n{said[0]}"))
        again = await asking.ask(said[0])
        if isinstance(said[1], Opinion) and isinstance(again, Opinion):
            asked.pairs.append((said[1], again))
    else:
        asked.num_without_reference += 1
    wrong = other if other and other not in right else _NO_ANSWER
    first, second = await asking.ask(wrong), await asking.ask(wrong)
    asked.take(WRONG, first)
    if isinstance(first, Opinion) and isinstance(second, Opinion):
        asked.pairs.append((first, second))
    asked.take(EMPTY, await asking.ask(""))
    await _probe(asking, right[0] if right else None, other)


async def _first_accepted(asking: _Asking, answers: Sequence[str]) -> tuple[str, Opinion | str]:
    """Of several ways to write what is right, the first that is a success; else the first."""
    first = None
    for text in answers:
        said = await asking.ask(text)
        first = first or (text, said)
        if isinstance(said, Opinion) and said.is_success:
            return text, said
    assert first is not None
    return first


async def _probe(asking: _Asking, reference: str | None, other: str | None) -> None:
    probed = asking.asked.probed
    task = ProbedTask(
        question=asking.task.main_query, rubric=None, reference=reference, other_reference=other
    )
    probed.num_tasks += 1
    for probe, make in GAMING_PROBES.items():
        text = make(task)
        if not text or text == other:  # these are asked about anyway
            continue
        said = await asking.ask(text)
        if isinstance(said, Opinion):
            probed.opinions.setdefault(probe, []).append(said)
        else:
            probed.num_failed[probe] = probed.num_failed.get(probe, 0) + 1


def _attempt(task: Task, metadata: Mapping[str, Any], number: int) -> Attempt:
    return Attempt(
        episode_id=f"doctor-{task.task_id}-{number}",
        task=task,
        step=1,
        attempt=number,
        is_validation=False,
        calls=(),
        sequences=(),
        agents={},
        output=WorkflowOutput(metadata=dict(metadata)),
        failure=None,
        overflowed=frozenset(),
        madness=None,
        seconds=0.0,
    )


def judge_the_judge(asked: AskedJudge, *, is_real: bool) -> list[DoctorFinding]:
    """All findings about what it said; `is_real` where the answers stood in what a real episode
    returned, so that nothing else than the answer can be missing."""
    if not asked.opinions:
        reason = next((texts[0] for texts in asked.failures.values()), "it was asked nothing")
        return [
            _SAY.wrong("verdicts", f"it has no verdict on any answer that was tried: {reason}")
            if is_real or _is_unreachable(reason)
            else _SAY.unchecked(
                "verdicts", f"it has no verdict on answers without a run around them: {reason}"
            )
        ]
    constant = _constant(asked)
    if constant is not None:
        return [constant, *_speed(asked)]
    return [
        *_right(asked),
        *_not_right(asked, WRONG, "another task's answer"),
        *_not_right(asked, EMPTY, "an empty answer"),
        *_long(asked),
        *_gamed(asked),
        *_again(asked),
        *_speed(asked),
    ]


def _is_unreachable(reason: str) -> bool:
    kinds = ("LlmError", "LlmAnswerError", "EnvServiceError", "SandboxError")
    return reason.startswith(kinds) or "judge_timeout_seconds" in reason


def _constant(asked: AskedJudge) -> DoctorFinding | None:
    """Where right, wrong and empty answers are all worth the same."""
    given = [opinion.reward for opinions in asked.opinions.values() for opinion in opinions]
    is_asked = {RIGHT, WRONG} <= asked.opinions.keys()
    if not is_asked or len(set(given)) > 1:
        return None
    return _SAY.wrong(
        "verdicts",
        f"it gives {given[0]:g} to right, wrong and empty answers alike: nothing can be learned",
        "task_judge.judge_protocol",
    )


def _right(asked: AskedJudge) -> list[DoctorFinding]:
    if asked.num_without_reference == asked.num_tasks:
        return [
            _SAY.unchecked(
                "right answer",
                "the tasks name no right answer that could be tried; wrong and empty ones were",
            )
        ]
    opinions = asked.opinions.get(RIGHT, [])
    failures = asked.failures.get(RIGHT, [])
    accepted = sum(opinion.is_success is True for opinion in opinions)
    total = len(opinions) + len(failures)
    if accepted == total:
        return [_SAY.fine("right answer", f"the reference of {total} tasks is right")]
    reason = failures[0] if failures else next(o.note for o in opinions if not o.is_success)
    text = f"the reference of {total - accepted} of {total} tasks is not right: {reason}"
    return [
        _SAY.wrong(
            "right answer",
            text.removesuffix(": "),
            "the tasks' references, or task_judge: no model can have these rewards",
        )
    ]


def _not_right(asked: AskedJudge, what: str, named: str) -> list[DoctorFinding]:
    opinions = asked.opinions.get(what, [])
    failures = asked.failures.get(what, [])
    check = f"{what} answer"
    findings = []
    if accepted := sum(opinion.is_success is True for opinion in opinions):
        findings.append(
            _SAY.wrong(
                check,
                f"{named} is right for {accepted} of {len(opinions)} tasks",
                "task_judge.judge_protocol: the policy would learn to give it",
            )
        )
    if failures:
        findings.append(
            _SAY.warning(
                check,
                f"{named} has no verdict for {len(failures)} tasks, so that such episodes fail and "
                f"are left out: {failures[0]}",
                "a judge that gives 0 for what it cannot read",
            )
        )
    if opinions and not findings:
        findings.append(_SAY.fine(check, f"{named} is wrong"))
    return findings


def _long(asked: AskedJudge) -> list[DoctorFinding]:
    opinions = asked.opinions.get(LONG, [])
    lost = sum(not opinion.is_success for opinion in opinions)
    right = sum(bool(opinion.is_success) for opinion in asked.opinions.get(RIGHT, []))
    if not opinions or not right:
        return []
    if lost > len(opinions) - right:
        return [
            _SAY.warning(
                "long answer",
                f"the right answer behind {len(_PADDING)} characters is not right for {lost} of "
                f"{len(opinions)} tasks",
                "the workflow's final_answer, or the judge's way to find the answer",
            )
        ]
    return [_SAY.fine("long answer", f"is right behind {len(_PADDING)} characters too")]


def _gamed(asked: AskedJudge) -> list[DoctorFinding]:
    rewards = [
        opinion.reward
        for what in (RIGHT, WRONG)
        for opinion in asked.opinions.get(what, [])
        if opinion.reward is not None
    ]
    results = results_of(asked.probed, RewardRange.of(rewards))
    gamed = [result for result in results if result.is_above_middle]
    if gamed:
        named = ", ".join(f"{r.probe} ({r.mean_reward:.2g})" for r in gamed)
        return [
            _SAY.warning(
                "hostile answers", f"it rewards {named}", "see `astuner judge` for all of them"
            )
        ]
    return [_SAY.fine("hostile answers", f"none of {len(results)} kinds is rewarded")]


def _again(asked: AskedJudge) -> list[DoctorFinding]:
    if not asked.pairs:
        return []
    differing = [(a, b) for a, b in asked.pairs if a.reward != b.reward]
    if not differing:
        return [_SAY.fine("determinism", "it says the same of the same answer twice")]
    first, second = differing[0]
    return [
        _SAY.warning(
            "determinism",
            f"{len(differing)} of {len(asked.pairs)} answers got another reward when asked again, "
            f"such as {first.reward:g} and {second.reward:g}",
            "task_judge.llm_as_judge.votes, or a temperature of 0",
        )
    ]


def _speed(asked: AskedJudge) -> list[DoctorFinding]:
    if not asked.seconds:
        return []
    middle = statistics.median(asked.seconds)
    text = f"{middle:.2g} s a verdict, {max(asked.seconds):.2g} s at most"
    if middle > _SLOW_SECONDS:
        return [_SAY.warning("speed", text, "a faster judge, or more of it at the same time")]
    return [_SAY.fine("speed", text)]
