"""Asks each judge in turn about the same episodes, and about hostile answers.

In turn, so that what a judge asked of other models can be told from what the next one does.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from astuner.console import RunConsole
from astuner.llm import LlmUsage, usage_of_process
from astuner.logview.reading.run_reader import RunReader
from astuner.rejudging.asked import JudgedAgain, ask_about
from astuner.rejudging.probes import GAMING_PROBES
from astuner.rejudging.probing import NUM_TASKS, Probed, probe
from astuner.rejudging.recorded import GroupEpisodes
from astuner.rejudging.settings import MadeJudge, NamedJudge


@dataclass(slots=True, kw_only=True)
class JudgeAnswers:
    """What one judge said and what it cost, so far. Filled by `rejudge`."""

    judge: NamedJudge
    asked: JudgedAgain = field(default_factory=JudgedAgain)
    probed: Probed = field(default_factory=Probed)
    usage: LlmUsage = field(default_factory=LlmUsage)
    """Of the models that it asked from this process, probes included."""
    seconds: float = 0.0
    """Wall time, probes included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunGroups:
    """The groups of one run that are judged again, and its judges, ready to be asked."""

    run: RunReader
    groups: Sequence[GroupEpisodes]
    judges: Sequence[MadeJudge]
    """In the order in which they were named."""

    @property
    def num_episodes(self) -> int:
        return sum(map(len, self.groups))


async def rejudge(
    runs: Sequence[RunGroups],
    answers: Sequence[JudgeAnswers],
    *,
    num_times: int,
    with_probes: bool,
    console: RunConsole,
) -> None:
    """Fill the `answers`, one for each judge. They keep what was said, also where this raises."""
    for index, of_judge in enumerate(answers):
        started, before = time.monotonic(), usage_of_process()
        try:
            for of_run in runs:
                await _ask_judge(of_run, index, of_judge, num_times, console)
                if with_probes:
                    await _probe_judge(of_run, index, of_judge, console)
        finally:
            of_judge.seconds = time.monotonic() - started
            of_judge.usage = usage_of_process().since(before)


async def _ask_judge(
    runs: RunGroups, index: int, answers: JudgeAnswers, num_times: int, console: RunConsole
) -> None:
    made, asked = runs.judges[index], answers.asked
    done_before = asked.num_done
    console.phase(f"{answers.judge.name} judges {runs.run.name}")

    def tell() -> None:
        note = f"{len(asked.failures)} failed" if asked.failures else ""
        console.advance(asked.num_done - done_before, runs.num_episodes, note)

    await ask_about(
        runs.groups,
        made.judging,
        asked,
        num_times=num_times,
        max_parallel=made.max_parallel,
        on_progress=tell,
    )


async def _probe_judge(
    runs: RunGroups, index: int, answers: JudgeAnswers, console: RunConsole
) -> None:
    made = runs.judges[index]
    console.phase(f"{answers.judge.name} is shown hostile answers")
    await probe(
        runs.groups,
        made.judging,
        answers.probed,
        rubric=made.rubric,
        max_parallel=made.max_parallel,
        on_progress=_counter(console, NUM_TASKS * len(GAMING_PROBES)),
    )


def _counter(console: RunConsole, total: int) -> Callable[[], None]:
    num_done = 0

    def tell() -> None:
        nonlocal num_done
        num_done += 1
        console.advance(num_done, total)

    return tell
