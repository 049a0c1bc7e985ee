"""Judges that compare by rules: countdown, texts, JSON, length and form."""

import asyncio
import functools
import json
from typing import Any

import pytest

from astuner.backbone.user_code import make_judge
from astuner.config.load import load_mapping
from astuner.errors import ConfigError, JudgeError
from astuner.task_judge.bounded_patterns import MAX_TEXT_CHARS
from astuner.task_judge.json_schema_judge import misfit_of
from astuner.types import Judgement, Task, WorkflowOutput, WorkflowTask

RUN = {
    "backbone": "debug",
    "model": {"path": "unused"},
    "rollout": {"agentscope_workflow": "unused->Unused"},
}


def made(path: str, **settings: Any) -> Any:
    section = {"judge_protocol": f"astuner.task_judge.{path}", **settings}
    loaded = loaded_with(json.dumps(section))
    return make_judge(loaded.settings, loaded.config, ())


@functools.cache
def loaded_with(section: str) -> Any:
    return load_mapping({"astuner": {**RUN, "task_judge": json.loads(section)}}, name="test")


def about(said: Any, /, **metadata: Any) -> tuple[WorkflowTask, WorkflowOutput]:
    task = Task(main_query="?", task_id="7", metadata=metadata)
    asked = WorkflowTask(task=task, episode_id="e", step=0, attempt=0, is_validation=False)
    return asked, WorkflowOutput(metadata={"final_answer": said})


def judged(judge: Any, said: Any, /, **metadata: Any) -> Judgement:
    result = judge.compute_reward(*about(said, **metadata))
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def countdown(answer: str, nums: Any = (1, 2, 3, 4), target: Any = 24) -> Judgement:
    judge = made("countdown_answer_as_judge->CountdownAnswerAsJudge")
    return judged(judge, answer, nums=nums, target=target)


@pytest.mark.parametrize(
    "expression",
    [
        "1*2*3*4",
        "1 \\times 2 \\cdot 3 \N{MULTIPLICATION SIGN} 4",
        "(1 + 2 + 3) * 4 = 24",
        "24 = (1 + 2 + 3) * 4",
        r"\left(1+2+3\right)\times 4",
        r"\frac{4}{1} \cdot (2 \cdot 3)",
        r"\dfrac{4 \cdot 3}{\frac{1}{2}}",
        "4 * 3 * 2 ÷ 1",
        "\N{MINUS SIGN}(\N{MINUS SIGN}4) * 3 * 2 / 1",
        "[1 + 2 + 3] * 4",
        r"$4\,*\,3 * 2 / 1$",
    ],
)
def test_an_expression_that_reaches_the_target_is_a_success(expression: str) -> None:
    found = countdown(rf"So \boxed{{{expression}}}.")
    assert (found.reward, found.is_success) == (1.0, True), found.note


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("24", "exactly once"),
        ("1+2+3+4 = 1*2*3*4", "The value is 10"),
        ("24 = 1+2+3+4 = 1*2*3*4", "The value is 10"),
        ("=", "more than numbers"),
        ("1*2*3*4*1", "exactly once"),
        ("12*3-4*3", "exactly once"),
        ("1+2+3+4", "The value is 10, not 24"),
        ("1/(2-2)", "divides by zero"),
        ("4**3", "no arithmetic"),
        ("4//1", "more than"),
        ("2**9999999999", "more than"),
        ("__import__('os').system('true')", "more than numbers"),
        ("[x for x in (1,)]", "more than numbers"),
        ("1e3", "more than numbers"),
        ("(" * 150 + "1" + ")" * 150, ""),
        ("-" * 300 + "1", ""),
        ("9" * 501, "longer than"),
        ("", "more than numbers"),
        ("1 2 3 4", "no arithmetic"),
        ("(" * 250, "no arithmetic"),
        (r"\frac{1}{2" * 9 + "}" * 9, "more than"),
        ("9" * 400 + ".", "a number that is none"),
    ],
)
def test_whatever_else_is_boxed_gets_a_tenth(expression: str, said: str) -> None:
    found = countdown(rf"\boxed{{{expression}}}")
    assert (found.reward, found.is_success) == (0.1, False)
    if "**" not in expression:
        assert said in found.note


def test_without_a_box_nothing_is_given() -> None:
    assert countdown("1*2*3*4 = 24").reward == 0.0


def test_thirds_are_exact_and_the_tolerance_ends_where_it_says() -> None:
    assert countdown(r"\boxed{8/(3-8/3)}", nums="[3, 3, 8, 8]").reward == 1.0
    assert countdown(r"\boxed{1/3}", nums=[1, 3], target="0.33333").reward == 1.0
    assert countdown(r"\boxed{1/4}", nums=[1, 4], target="0.25001").reward == 0.1
    assert countdown(r"\boxed{1/4}", nums=[1, 4], target="0.2500099").reward == 1.0


@pytest.mark.parametrize("metadata", [{}, {"target": 1}, {"nums": 3, "target": 1}])
def test_a_countdown_without_target_and_numbers_fails_the_judge(metadata: Any) -> None:
    judge = made("countdown_answer_as_judge->CountdownAnswerAsJudge")
    with pytest.raises(JudgeError, match="target"):
        judged(judge, r"\boxed{1}", **metadata)


def exact(answer: Any, accepted: Any, **settings: Any) -> float:
    judge = made("exact_match_judge->ExactMatchJudge", exact_match=settings)
    return judged(judge, answer, answer=accepted).reward


def test_texts_are_equal_after_what_the_settings_leave_out() -> None:
    assert exact("The Eiffel  tower!", "eiffel tower") == 1.0
    assert exact("«Zürich».", ["Bern", "zu\u0308rich"]) == 1.0
    assert exact("The tower", "tower", ignore_articles=False) == 0.0
    assert exact("Tower", "tower", ignore_case=False) == 0.0
    assert exact("a  b", "a b", ignore_whitespace=False, ignore_articles=False) == 0.0
    assert exact("1.5", 15) == 1.0
    assert exact("1.5", 15, ignore_punctuation=False) == 0.0
    assert exact("banana", "bnn") == 0.0


@pytest.mark.parametrize("accepted", ["A", "the", "+", "...", "%"])
def test_nothing_that_is_left_out_is_left_out_where_it_is_all_there_is(accepted: str) -> None:
    assert exact(f" {accepted}", [accepted]) == 1.0
    others = ["", " ", "an", "-", "?!", "The the"]
    assert [exact(other, accepted) for other in others] == [0.0] * len(others)


def test_the_answer_may_be_found_by_a_pattern() -> None:
    assert exact("Answer: no\nAnswer: yes", "yes", pattern=r"Answer: (\w+)") == 1.0
    assert exact("yes", "yes", pattern=r"Answer: (\w+)") == 0.0
    with pytest.raises(ConfigError, match="no regular expression"):
        exact("yes", "yes", pattern="(")
    with pytest.raises(JudgeError, match="accepted answer"):
        exact("yes", [])


def test_a_pattern_that_runs_for_ever_finds_nothing() -> None:
    judge = made("format_judge->FormatJudge", format={"must_not_match": ["(a+)+$"]})
    finds = made("exact_match_judge->ExactMatchJudge", exact_match={"pattern": "(a+)+$"})

    async def both() -> list[Judgement]:
        asked = about("a" * 60 + "b", answer="x")
        while True:
            try:
                return [await one.compute_reward(*asked) for one in (judge, finds)]
            except JudgeError as error:  # of a machine that has no time for the search
                assert "stalled" in str(error)

    form, found = asyncio.run(both())
    assert (form.reward, "took too long" in form.note, found.reward) == (0.0, True, 0.0)


def test_a_reply_too_long_to_be_searched_whole_has_not_the_form() -> None:
    judge = made("format_judge->FormatJudge", format={"must_not_match": ["sorry"]})
    assert judged(judge, "sorry" + " " * MAX_TEXT_CHARS).reward == 0.0
    assert judged(judge, " " * MAX_TEXT_CHARS).reward == 1.0


def test_a_form_is_what_must_and_must_not_be_found() -> None:
    form = {"must_match": [r"^<answer>", r"</answer>$"], "must_not_match": ["(?i)sorry"]}
    judge = made("format_judge->FormatJudge", format=form)
    asyncio.run(judge.prepare())
    assert judged(judge, "<answer>5</answer>").reward == 1.0
    assert judged(judge, "<answer>5").reward == 0.0
    assert judged(judge, "<answer>Sorry</answer>").note == "Something matches '(?i)sorry'."
    with pytest.raises(ConfigError, match="no pattern"):
        made("format_judge->FormatJudge")


def test_a_reward_falls_evenly_with_the_length_behind_its_target() -> None:
    words = {"unit": "words", "target": 2, "max": 6}
    judge = made("length_judge->LengthJudge", length=words)
    texts = ["", "a b", "a b c", "a b c d e", "a " * 6, "a " * 900]
    assert [judged(judge, text).reward for text in texts] == [1.0, 1.0, 0.75, 0.25, 0.0, 0.0]
    with pytest.raises(ConfigError, match="max above target"):
        made("length_judge->LengthJudge", length=words | {"max": 2})


POINT = {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}


def by_schema(said: Any, settings: Any = None, /, **metadata: Any) -> Judgement:
    judge = made("json_schema_judge->JsonSchemaJudge", json_schema=settings or {})
    return judged(judge, said, **metadata)


def test_json_is_held_to_the_schema_of_its_task() -> None:
    assert by_schema('So:\n```json\n{"x": 1}\n```\n', json_schema=POINT).reward == 1.0
    wrong = by_schema('{"x": "1"}', json_schema=POINT)
    assert wrong.reward == 0.0 and wrong.note.startswith("$.x: ")
    assert by_schema('{"x": 1}', {"json_schema": POINT}).is_success
    for text in ("x = 1", "", '{"x": NaN}', "[" * 100_000):
        assert "is no JSON" in by_schema(text, json_schema=POINT).note


def test_json_is_held_to_a_reference_field_by_field() -> None:
    reference = {"a": 1, "b": {"c": [1, 2], "d": True}, "e": None}
    found = by_schema('{"a": 1.0, "b": {"c": [2, 1], "d": 1}, "e": null}', answer=reference)
    assert found.parts == {"fields": 0.5} and not found.is_success
    both = by_schema(
        '{"x": 2}',
        {"schema_weight": 1, "reference_weight": 3},
        json_schema=POINT,
        answer='{"x": 1}',
    )
    assert both.parts == {"schema": 1.0, "fields": 0.0} and both.reward == 0.25


@pytest.mark.parametrize(
    ("said", "schema"),
    [
        ("1e999", {"multipleOf": 0.1}),
        ("1" + "0" * 400, {"multipleOf": 0.1}),
        ("-1e999", {"type": "number", "maximum": 5}),
        ("[" * 900 + "]" * 900, {"items": {"$ref": "#"}}),
    ],
)
def test_an_answer_that_cannot_be_held_to_the_schema_is_wrong(said: str, schema: Any) -> None:
    assert by_schema(said, json_schema=schema).reward == 0.0


def test_an_answer_on_which_the_schema_takes_for_ever_is_wrong() -> None:
    said = misfit_of({"pattern": "^(a+)+$"}, "a" * 60 + "!", seconds=0.6)
    assert "takes too long" in said


def test_a_schema_that_is_none_fails_the_judge() -> None:
    with pytest.raises(JudgeError, match="schema cannot be used"):
        by_schema("{}", json_schema={"type": "nonsense"})
    with pytest.raises(JudgeError, match="schema cannot be used"):
        by_schema("{}", json_schema="{")
    with pytest.raises(ConfigError, match=r"task_judge\.json_schema\.json_schema"):
        by_schema("{}", {"json_schema": {"type": "nonsense"}})
    with pytest.raises(ConfigError, match="both 0"):
        by_schema("{}", {"schema_weight": 0, "reference_weight": 0})
    with pytest.raises(JudgeError, match="neither a schema"):
        by_schema("{}")
