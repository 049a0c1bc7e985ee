"""Each step alone: what it keeps, what it drops and why."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from astuner.config.sections.trace_filters import (
    BalanceParams,
    ChooseParams,
    CutParams,
    LlmEvaluateParams,
    ReferenceParams,
    TraceDeduplicationParams,
)
from astuner.config.trace_steps import PlannedStep
from astuner.errors import LlmBudgetError
from astuner.llm.answer_cache import AnswerCache
from astuner.llm.budget import Budget
from astuner.trace_tasks.candidate import Candidate
from astuner.trace_tasks.known_steps import open_step
from astuner.trace_tasks.known_task import KnownTask
from astuner.trace_tasks.step import Candidates, EachStep, StepCount, TraceStep, TurnDropped
from astuner.trace_tasks.steps.balance import Balance
from astuner.trace_tasks.steps.choose import TraceChoice
from astuner.trace_tasks.steps.cut import cut
from astuner.trace_tasks.steps.llm_evaluate import LlmEvaluation
from astuner.trace_tasks.steps.reference import find_reference
from astuner.trace_tasks.turn_ids import task_id_of
from astuner.traces.trace import Step, Trace, TraceFeedback
from tests.llm_server import Reply, make_model, refuses, says, serving
from tests.trace_tasks.conversations import (
    NOW,
    TracesInMemory,
    liked,
    order_of,
    said,
    shop,
    trace,
)

THREE_TURNS = said("A?", "a.", "B?", "b.", "C?", "c.")


def passed(step: TraceStep, candidates: Sequence[Candidate]) -> tuple[list[Candidate], StepCount]:
    async def given() -> Candidates:
        for candidate in candidates:
            yield candidate

    async def collected() -> list[Candidate]:
        return [candidate async for candidate in step(given(), count)]

    count = StepCount(name="step")
    return asyncio.run(collected()), count


def chosen(traces: Sequence[Trace], **params: Any) -> tuple[list[str], dict[str, int]]:
    choice = EachStep(TraceChoice(ChooseParams.model_validate(params)))
    kept, count = passed(choice, [Candidate(trace=one) for one in traces])
    assert count.num_in == count.num_out + count.num_dropped
    return [one.trace.trace_id for one in kept], dict(count.dropped)


def turns_of(one: Trace, **params: Any) -> list[str]:
    found = cut(Candidate(trace=one), params=CutParams(**params))
    return [found.reason] if isinstance(found, TurnDropped) else [turn.question for turn in found]


def last_turn(steps: Sequence[Step], *feedback: TraceFeedback) -> Candidate:
    one = trace("t", steps, feedback=feedback)
    turn = max(index for index, step in enumerate(steps) if step.role == "user")
    return Candidate(trace=one, turn=turn)


def test_failed_traces_are_left_out_or_all_that_is_kept():
    failed = trace("bad", (*said("A?"), Step(role="tool", text="", error="timeout")))
    both = [shop(1), failed]
    assert chosen(both)[0] == ["t1", "bad"]
    assert chosen(both, errors="out") == (["t1"], {"it failed": 1})
    assert chosen(both, errors="only") == (["bad"], {"it did not fail": 1})


def test_feedback_counts_by_its_mean_and_labels_by_what_they_mean():
    up = TraceFeedback(name="thumbs", label="Thumbs up")
    down = TraceFeedback(name="thumbs", label="thumbs_down")
    traces = [
        shop(1, feedback=[liked(1.0), liked(0.0)]),
        shop(2, feedback=[up]),
        shop(3, feedback=[down]),
        shop(4),
    ]
    assert chosen(traces, feedback_above=0.5)[0] == ["t2"]
    assert chosen(traces, feedback_below=0.5)[0] == ["t3"]
    named, dropped = chosen(traces, feedback_above=0.4, feedback_name="user_feedback")
    assert named == ["t1"] and dropped == {"no score of user_feedback": 3}


def test_times_agents_tags_and_users_choose():
    traces = [
        shop(1, agent="sales", tags=["vip"], user="ann"),
        shop(2, agent="help", user="ann"),
        shop(3, agent="sales", user="bob"),
        trace("timeless", said("When?", "Now."), agent="sales"),
    ]
    assert chosen(traces, agents=["help"])[0] == ["t2"]
    assert chosen(traces, tags=["vip", "new"])[0] == ["t1"]
    assert chosen(traces, max_per_user=1)[0] == ["t1", "t3", "timeless"]
    kept, dropped = chosen(traces, **{"from": NOW - 998, "to": NOW - 997})
    assert kept == ["t2"]
    assert dropped == {"earlier than from": 1, "not before to": 1, "no time is known": 1}
    assert chosen(traces, **{"from": "2020-01-01", "to": "2100-01-01T00:00:00"})[0] == [
        *("t1", "t2", "t3")
    ]


def test_a_cut_takes_each_the_first_the_last_or_the_turn_with_feedback():
    told = trace("t", THREE_TURNS, feedback=[liked(1, span_id="s2")])
    assert turns_of(told) == ["A?", "B?", "C?"]
    assert turns_of(told, turns="first") == ["A?"]
    assert turns_of(told, turns="last") == ["C?"]
    assert turns_of(told, turns="feedback") == ["B?"]
    assert turns_of(trace("t", THREE_TURNS), turns="feedback") == ["no turn has feedback"]


def test_a_bounded_cut_takes_turns_with_feedback_first_and_then_the_last_ones():
    told = trace("t", THREE_TURNS, feedback=[liked(1, span_id="s1")])
    assert turns_of(told, max_per_trace=2) == ["A?", "C?"]


def test_the_models_own_answer_is_no_reference_by_itself():
    assert find_reference(last_turn(THREE_TURNS), ReferenceParams()).reference is None


def test_references_come_in_their_order_and_say_from_whom():
    correction = liked(0, correction=" cc. ")
    accepted = TraceFeedback(name="verdict", label="accepted", by="human")
    steps = (
        *said("C?"),
        Step(role="tool", text="42", name="calculator"),
        Step(role="assistant", text="c."),
    )

    def found(*feedback: TraceFeedback, **params: Any) -> tuple[str | None, str | None]:
        one = find_reference(last_turn(steps, *feedback), ReferenceParams(**params))
        return one.reference, one.reference_from

    assert found(accepted, correction) == ("cc.", "correction")
    assert found(accepted) == ("c.", "accepted")
    assert found(liked(1)) == ("c.", "feedback")
    assert found(liked(1), tools=["calculator"]) == ("42", "tool_result")
    assert found(liked(1), tools=["calculator"], order=["feedback"]) == ("c.", "feedback")
    assert found(liked(0.4)) == (None, None)
    assert found(liked(0.4), feedback_above=0.3) == ("c.", "feedback")


def test_a_word_for_bad_outweighs_scores_and_a_failed_answer_is_never_taken():
    bad = TraceFeedback(name="thumbs", label="incorrect", score=0.9)
    assert find_reference(last_turn(THREE_TURNS, bad), ReferenceParams()).reference is None
    failed = (*said("A?"), Step(role="assistant", text="a.", error="cut off"))
    assert find_reference(last_turn(failed, liked(1)), ReferenceParams()).reference is None


def test_feedback_on_one_turn_backs_no_other_and_that_on_the_whole_backs_the_last():
    one = trace("t", THREE_TURNS, feedback=[liked(1, span_id="s1"), liked(1)])
    answers = [
        find_reference(Candidate(trace=one, turn=turn), ReferenceParams()).reference
        for turn in (0, 2, 4)
    ]
    assert answers == ["a.", None, "c."]


def verdicts(body: dict[str, Any]) -> Reply:
    """Bad for depot 1, none for depot 2, good for all others."""
    asked = body["messages"][0]["content"]
    if "depot 2." in asked:
        return refuses(400, "no")
    return says(json.dumps({"reason": "so", "score": 0.8, "is_good": "depot 1." not in asked}))


def evaluated(server: Any, numbers: Sequence[int], **given: Any) -> tuple[list, StepCount, list]:
    params = LlmEvaluateParams(**given.pop("params", {}))
    shown: list[str] = []

    async def one_run() -> tuple[list[Candidate], StepCount]:
        async def candidates() -> Candidates:
            for number in numbers:
                yield Candidate(trace=shop(number), turn=0)

        count = StepCount(name="llm_evaluate")
        async with make_model(server.base_url, **given) as model:
            step = LlmEvaluation(model, params, shown.append)
            return [one async for one in step(candidates(), count)], count

    kept, count = asyncio.run(one_run())
    return kept, count, shown


def test_a_verdict_keeps_or_drops_a_turn_and_backs_the_models_own_answer():
    with serving(verdicts) as server:
        kept, count, shown = evaluated(
            server, range(5), params={"max_thread": 3, "print_reason": True}
        )
    assert [one.reference for one in kept] == ["At depot 0.", "At depot 3.", "At depot 4."]
    assert {(one.reference_from, one.score) for one in kept} == {("judge", 0.8)}
    assert count.dropped == {
        "the model found the answer bad": 1,
        "the model gave no verdict": 1,
    }
    assert any("left out (0.8): so" in line for line in shown)


def test_rubrics_reach_the_model_and_what_is_judged_stands_between_marks():
    with serving(verdicts) as server:
        evaluated(server, [3], params={"custom_rubrics": ["Names a depot."]})
        asked = server.messages(0)[0]["content"]
    assert "- Names a depot." in asked
    assert "<question " in asked and "Where is my parcel 3?" in asked


def test_verdicts_are_asked_for_together_and_never_twice(tmp_path):
    cache = AnswerCache(tmp_path)
    with serving(verdicts) as server:
        first, _, _ = evaluated(server, [0, 3, 4], cache=cache)
        again, _, _ = evaluated(server, [0, 3, 4], cache=cache)
        assert len(server.requests) == 3
    assert [task_id_of(one) for one in again] == [task_id_of(one) for one in first]


def test_a_used_up_budget_ends_the_making():
    with serving(verdicts) as server, pytest.raises(LlmBudgetError):
        evaluated(server, [0, 3, 4, 5], budget=Budget(max_calls=2))


def test_questions_in_nearly_the_same_words_become_one(tmp_path):
    asked = [
        "How do I send my order back to the shop?",
        "how do I send my order back to the shop",
        "What do you charge for shipping to Norway?",
        "Where is order 17?",
        "Where is order 18?",
    ]
    kept, count = deduplicated(tmp_path, [said(text, "So.") for text in asked])
    assert [one.question for one in kept] == [asked[0], *asked[2:]]
    assert count.dropped == {"nearly the words of another one": 1}


def test_a_short_reply_counts_with_what_led_up_to_it(tmp_path):
    conversations = [
        said("Do you have green tea?", "Shall I order it?", "yes, please", "Done."),
        said("Is my parcel late?", "Shall I look?", "yes, please", "It is."),
    ]
    assert len(deduplicated(tmp_path, conversations)[0]) == 2


def deduplicated(tmp_path, conversations, known=None) -> tuple[list[Candidate], StepCount]:
    planned = PlannedStep(type="deduplication", params=TraceDeduplicationParams())
    material = order_of(tmp_path, TracesInMemory([])).make_material(known or {})
    step = asyncio.run(open_step(planned, material))
    candidates = [
        Candidate(trace=trace(f"t{number}", steps), turn=len(steps) - 2)
        for number, steps in enumerate(conversations)
    ]
    return passed(step, candidates)


def test_what_is_a_task_already_comes_before_all_others(tmp_path):
    text = "How do I send my order back to the shop?"
    later = Candidate(trace=trace("t1", said(text, "So.")), turn=0)
    known = KnownTask(
        task_id=task_id_of(later), side="train", asked=(text,), answer="", intent=None
    )
    kept, _ = deduplicated(tmp_path, [said(text, "So."), said(text, "So.")], {known.task_id: known})
    assert [one.trace.trace_id for one in kept] == ["t1"]


def test_what_everybody_asks_is_bounded_by_words_or_by_a_field():
    asked = ["Where is my parcel now?", "where is my parcel", "Where is my new parcel now?"]
    traces = [trace(f"t{n}", said(text)) for n, text in enumerate([*asked, "Do you sell tea?"])]
    candidates = [Candidate(trace=one, turn=0) for one in traces]
    kept, count = passed(EachStep(Balance(BalanceParams(max_each=2), {})), candidates)
    assert [one.trace.trace_id for one in kept] == ["t0", "t1", "t3"]
    assert count.dropped == {"more than 2 of its intent": 1}

    named = [
        Candidate(trace=trace(f"t{n}", said("?"), metadata={"topic": n % 2}), turn=0)
        for n in range(5)
    ]
    kept, _ = passed(EachStep(Balance(BalanceParams(by="topic", max_each=1), {})), named)
    assert [(one.trace.trace_id, one.intent) for one in kept] == [("t0", "0"), ("t1", "1")]
