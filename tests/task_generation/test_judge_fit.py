"""Drafts that the run's judge can judge by, with real judges."""

import asyncio
from typing import Any

import pytest

from astuner.errors import JudgeError
from astuner.task_generation.draft import DraftCandidate, GateRejection
from astuner.task_generation.gates.judge_fit import JudgeFitGate
from astuner.task_generation.made_task import task_of
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.exact_match_judge import ExactMatchJudge
from astuner.task_judge.math_answer_as_judge import MathAnswerAsJudge
from astuner.types import Task, WorkflowOutput, WorkflowTask
from tests.task_generation.asked_model import SEEDS, TURN, candidate


class Asking:
    """Asks a judge about a final answer, as of an episode."""

    def __init__(self, judge: BaseJudge) -> None:
        self._judge = judge

    async def is_right(self, task: Task, answer: str) -> bool | None:
        row = WorkflowTask(task=task, episode_id="e", step=1, attempt=0, is_validation=False)
        output = WorkflowOutput(metadata={"final_answer": answer})
        asked: Any = self._judge.compute_reward(row, output)
        judged = await asked
        return judged[1] if isinstance(judged, tuple) else judged.is_success


class Says:
    """In place of a judge: says one thing of every answer."""

    def __init__(self, verdict: bool | None) -> None:
        self._verdict = verdict

    async def is_right(self, task: Task, answer: str) -> bool | None:
        return self._verdict


MATH = Asking(MathAnswerAsJudge(None))
EXACT = Asking(ExactMatchJudge())


def fit(judge: Any, answer: str) -> str | None:
    """Why not; None: it fits."""
    draft = candidate(answer=answer)
    got = asyncio.run(JudgeFitGate(judge).check(draft))
    if isinstance(got, GateRejection):
        assert got.gate == "judge_fit"
        return got.reason
    assert got == draft
    return None


@pytest.mark.parametrize("answer", ["25 s", "1/2", "yes", "no", "\\frac{3}{4}", "July 4"])
def test_the_math_judge_takes_short_answers(answer: str):
    assert fit(MATH, answer) is None


@pytest.mark.parametrize("answer", ["N/A", ".", "$$"])
def test_an_answer_that_the_math_judge_takes_for_none_is_rejected(answer: str):
    assert "the judge cannot judge by it: " in (fit(MATH, answer) or "")


def test_a_long_text_is_no_answer_for_the_math_judge():
    reason = fit(MATH, "It waits, and then goes on with what it was told before. " * 8)
    assert reason is not None
    assert reason.startswith("the judge takes the draft's own answer for wrong: 'It waits")


@pytest.mark.parametrize("answer", ["25 s", "the relay", "A full queue answers with status 503."])
def test_the_exact_judge_takes_every_text(answer: str):
    assert fit(EXACT, answer) is None


def test_an_answer_that_is_none_is_rejected_for_every_judge():
    assert "takes 'I do not know.' for right" in (fit(EXACT, "i do not know") or "")


def test_a_judge_that_takes_everything_for_right_is_found_out():
    assert fit(Says(True), "25 s") == "the judge takes '' for right, where it is '25 s'"


def test_a_judge_that_cannot_be_asked_lets_every_draft_pass():
    assert fit(Says(None), "anything at all") is None


def test_only_errors_of_judges_are_rejections():
    class Broken(Says):
        async def is_right(self, task: Task, answer: str) -> bool | None:
            raise (JudgeError if answer else KeyError)("broken")

    assert fit(Broken(None), "25 s") == "the judge cannot judge by it: broken"
    with pytest.raises(KeyError):
        fit(Broken(None), "")


def test_a_task_says_where_it_comes_from():
    assert task_of(candidate()) == Task(
        task_id="guide.md/3/17",
        main_query="After how long does the relay close a quiet connection?",
        metadata={
            "answer": "25 s",
            "evidence": "The relay closes a quiet connection after 25 s.",
            "document": "guide.md",
            "chunk": 3,
            "style": "fact",
            "difficulty": "easy",
            "turn": 17,
        },
    )


def test_a_task_from_seeds_names_no_document():
    task = task_of(candidate(chunk=None, examples=SEEDS, evidence=""))
    assert task.task_id == "seeds/17"
    assert {"evidence", "document", "chunk"}.isdisjoint(task.metadata)


def test_notes_of_gates_stand_in_the_metadata_and_replace_nothing():
    notes = {"agreement": 1.0, "answer": "another"}
    task = task_of(DraftCandidate(turn=TURN, draft=candidate().draft, notes=notes))
    assert (task.metadata["agreement"], task.metadata["answer"]) == (1.0, "25 s")
