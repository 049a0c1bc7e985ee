"""judge_type rubrics_auto_grader: rubrics drafted over a real server, saved, found and applied."""

import asyncio
import io
import json
from pathlib import Path
from random import Random

import pytest

from astuner.backbone.drafted_rubrics import with_rubrics
from astuner.backbone.worker_run import WorkerRun
from astuner.config import describe_unused
from astuner.errors import BackboneError, ConfigError, LlmBudgetError
from astuner.run_dir import RunDir, read_json_lines
from astuner.task_judge.ranking_judge import RankingJudge
from astuner.task_judge.rubrics.checking import Checker, share_in_order
from astuner.task_judge.rubrics.drafting import Drafter, DraftingLimits, most_unlike
from astuner.task_judge.rubrics.examples import (
    ExampleForm,
    ScoredExample,
    examples_digest,
    read_examples,
)
from astuner.task_judge.rubrics.proposals import Proposer
from astuner.task_judge.rubrics.rubric import Rubric
from astuner.task_judge.rubrics.rubric_file import read_rubrics
from tests.llm_server import make_model, refuses, says, serving
from tests.rubric_models import answers_in, load_with, prompt_of, proposed, run_dir_of, scored
from tests.runs import make_run

pytest.importorskip("openai")

EXAMPLES = [
    {"main_query": f"Question {number}?", "metadata": {"answer": answer, "score": score}}
    for number, (answer, score) in enumerate([("good", 1), ("bad", 0), ("good too", 1)])
]
RANKED = [
    {
        "main_query": "Question?",
        "candidates": [{"answer": "bad", "rank": 2}, {"answer": "good", "rank": 1}],
    }
]
TEXTS = {
    "precise": "It says that it is good.",
    "vague": "Somehow it is nice to read.",
    "half": "Roughly what was asked for stands there.",
}
WORKFLOW = """
from astuner import Workflow, WorkflowOutput

class Answering(Workflow):
    async def execute(self, workflow_task, model_tuner):
        answer = "good" if workflow_task.attempt else "bad"
        return WorkflowOutput(metadata={"final_answer": answer})
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("agents.py").write_text(WORKFLOW)


def rubric(name):
    return {"name": name, "text": TEXTS[name]}


def score_by(name, answer):
    if name == "precise":
        return 4 if "good" in answer else 0
    if name == "half":
        return 3 if "good" in answer else 1
    return 2


class DraftingModel:
    """Proposes and revises by lists of names, and grades by what a name stands for."""

    def __init__(self, *, proposals=(), revisions=(), merged=()):
        self.proposals, self.revisions = list(proposals), list(revisions)
        self.merged = merged
        self.kinds = []
        self.temperatures = []

    def __call__(self, body):
        prompt = prompt_of(body)
        if prompt.startswith("Below are"):
            self.kinds.append("propose")
            self.temperatures.append(body["temperature"])
            return proposed(rubric(self.proposals.pop(0)))
        if prompt.startswith("Some answers"):
            self.kinds.append("revise")
            return proposed(*map(rubric, self.revisions.pop(0)))
        if prompt.startswith("Merge"):
            self.kinds.append("merge")
            return proposed(*map(rubric, self.merged))
        self.kinds.append("grade")
        names = [name for name in TEXTS if f". {name} (0 to 4)" in prompt]
        names.sort(key=lambda name: prompt.index(f". {name} ("))
        if prompt.startswith("You compare"):
            return scored([score_by(names[0], answer) for answer in answers_in(prompt)])
        (answer,) = answers_in(prompt)
        return scored([score_by(name, answer) for name in names])


def write_examples(rows=EXAMPLES):
    Path("examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


FORM = ExampleForm(
    is_ranked=False,
    query_field="main_query",
    reference_field="reference",
    min_score=0,
    max_score=1,
)


def draft(model, *, max_retries=0, **limits):
    """What a model drafts from the examples one after the other, and the lines that were said."""
    said = []
    examples = [
        ScoredExample(question="q", reference=None, answer=answer, score=score)
        for answer, score in (("good", 1), ("bad", 0), ("good too", 1), ("bad too", 0))
    ]
    default = {
        "query_specific_generate_number": 1,
        "max_epochs": 3,
        "batch_size": 1,
        "mcr_batch_size": 10,
        "min_increment_threshold": 0.002,
        "patience": 2,
        "max_iterations": 5,
        "max_total_rubrics": 10,
        "num_themes": None,
    }

    async def run(base_url):
        async with make_model(base_url) as asked:
            drafter = Drafter(
                Proposer(asked, language="en", max_retries=max_retries),
                Checker(model=asked, min_score=0, max_score=1, instructions=None, min_new_tokens=0),
                DraftingLimits(**{**default, **limits}),
                language="en",
                random=Random(1),
                say=said.append,
            )
            return await drafter.draft(examples)

    with serving(model) as server:
        return asyncio.run(run(server.base_url)), said


def names_of(found):
    return [each.name for each in found.rubrics]


# Drafting


def test_rubrics_that_grade_wrongly_are_revised_by_what_they_graded_wrongly():
    model = DraftingModel(proposals=["vague"], revisions=[["precise"]])
    found, said = draft(model)
    assert (names_of(found), found.agreement) == (["precise"], 1.0)
    assert said == ["rubrics: iteration 1: 1 in all, agreement with the labels 1.000, kept"]
    assert model.kinds == ["propose", "grade", "revise", "grade", *["grade"] * 4]


def test_a_revision_that_helps_nothing_is_not_taken_and_ends_the_revising():
    model = DraftingModel(proposals=["half"] * 9, revisions=[["vague"]])
    found, _ = draft(model, max_iterations=1)
    assert (names_of(found), found.agreement) == (["half"], 0.75)


def test_what_lowers_the_agreement_is_not_kept_and_patience_ends_the_drafting():
    model = DraftingModel(proposals=["half", "vague", "vague"], revisions=[["vague"]] * 9)
    found, said = draft(model)
    assert (names_of(found), found.agreement) == (["half"], 0.75)
    assert [line.partition("labels ")[2] for line in said] == [
        "0.750, kept",
        "0.625, not kept",
        "0.625, not kept",
    ]
    assert model.temperatures == [0.0, 0.0, 0.7]  # what was not kept would be proposed again


def test_nothing_is_proposed_twice_and_the_total_is_bounded():
    model = DraftingModel(proposals=["vague", "vague", "precise"], revisions=[["vague"]] * 9)
    found, said = draft(model, patience=9, max_total_rubrics=2)
    assert names_of(found) == ["vague", "precise"]
    assert said[1] == "rubrics: iteration 2: nothing new was proposed"


def test_rubrics_are_merged_by_themes_where_that_is_asked_for():
    model = DraftingModel(
        proposals=["half", "precise", *["half"] * 4], merged=["precise"], revisions=[]
    )
    found, said = draft(model, batch_size=2, num_themes=1)
    assert (names_of(found), found.agreement) == (["precise"], 1.0)
    assert said[-1] == ("rubrics: 2 were merged into 1 themes, agreement 0.875 → 1.000")


def test_a_question_without_a_usable_answer_is_asked_again_as_another_draw():
    model = DraftingModel(proposals=["precise"])
    asked = []

    def nonsense_first(body):
        asked.append(body)
        return says("nonsense") if len(asked) <= 2 else model(body)

    found, _ = draft(nonsense_first, max_retries=1)
    assert names_of(found) == ["precise"]
    assert [body["temperature"] for body in asked[:3]] == [0.0, 0.0, 0.7]


def test_a_model_that_answers_nothing_is_named_with_its_last_error():
    with pytest.raises(BackboneError, match=r"none of 1 questions was answered.*400"):
        draft(lambda body: refuses(400))


def test_a_model_that_proposes_well_and_grades_nothing_is_named():
    model = DraftingModel(proposals=["precise"])

    def cannot_grade(body):
        return says("?") if prompt_of(body).startswith("You grade") else model(body)

    with pytest.raises(BackboneError, match="only 0 of 1 examples were graded"):
        draft(cannot_grade)


def test_of_many_proposals_those_most_unlike_the_others_are_taken():
    proposals = [
        Rubric(name="a", text="The result is right and well explained."),
        Rubric(name="b", text="The result is right and is well explained."),
        Rubric(name="c", text="No insults."),
        Rubric(name="A", text="Quite another thing."),
    ]
    taken = most_unlike(proposals, (), max_rubrics=4)
    assert [each.name for each in taken] == ["a", "c"]


def test_agreement_of_ranks_is_the_share_of_pairs_in_order():
    assert share_in_order((1, 2, 3), (0.9, 0.5, 0.1)) == 1.0
    assert share_in_order((1, 2, 3), (0.1, 0.5, 0.9)) == 0.0
    assert share_in_order((1, 2, 2), (0.5, 0.5, 0.1)) == 0.75


# Examples


def test_examples_that_cannot_be_read_are_counted_and_named_and_the_others_are_taken(tmp_path):
    bad = [
        {"main_query": "q", "metadata": {"answer": "a", "score": 7}},
        {"main_query": "q", "metadata": {"answer": "a", "score": True, "extra": 1}},
        {"metadata": {"answer": "a", "score": 1}},
        {"main_query": "q", "metadata": {"score": 1}},
        ["no object"],
    ]
    write_examples([*EXAMPLES, *bad])
    with Path("examples.jsonl").open("a") as file:
        file.write("{half\n\n")
    warned = []
    examples = read_examples(Path("examples.jsonl"), FORM, warned.append)
    assert len(examples) == 4  # True is 1, as everywhere
    (warning,) = warned
    assert warning.startswith("5 of 9 labelled examples cannot be read and are left out: line 4: ")
    for said in ("score is 7, not a number from 0 to 1", "main_query is None", "answer is None"):
        assert said in warning
    assert "line 8: not a JSON object; line 9: " in warning


def test_examples_without_any_difference_teach_nothing():
    write_examples([EXAMPLES[0], EXAMPLES[2]])
    with pytest.raises(ConfigError, match="all 2 examples have the score 1"):
        read_examples(Path("examples.jsonl"), FORM, lambda text: None)


def test_a_file_without_examples_of_the_mode_is_refused():
    write_examples(RANKED)
    with pytest.raises(ConfigError, match=r"no labelled example for grader_mode pointwise.*line 1"):
        read_examples(Path("examples.jsonl"), FORM, lambda text: None)


def test_the_digest_is_that_of_the_examples_in_any_order():
    write_examples()
    examples = read_examples(Path("examples.jsonl"), FORM, lambda text: None)
    assert examples_digest(examples, FORM) == examples_digest(examples[::-1], FORM)
    assert examples_digest(examples, FORM) != examples_digest(examples[1:], FORM)


# Runs


def auto(**grader):
    file = {"training": {"file_path": "examples.jsonl"}}
    section = {"jsonl_dataset_file": file, **grader}
    return {"judge_type": "rubrics_auto_grader", "rubrics_auto_grader": section}


def rewards_of(run_dir):
    (file,) = run_dir.step_files()
    rows = list(read_json_lines(file))
    return {row["metadata"]["final_answer"]: row["verdict"] for row in rows}


def test_a_run_drafts_before_its_first_episode_saves_the_rubrics_and_grades_by_them(capfd):
    write_examples()
    model = DraftingModel(proposals=["precise"] * 3)
    with serving(model) as server:
        run_dir = run_dir_of(load_with(server, auto()))
    verdicts = rewards_of(run_dir)
    assert {answer: verdict["reward"] for answer, verdict in verdicts.items()} == {
        "good": 1.0,
        "bad": 0.0,
    }
    assert verdicts["good"]["parts"] == {"precise": 1.0}
    assert verdicts["good"]["is_success"] and not verdicts["bad"]["is_success"]
    saved = read_rubrics(run_dir.root / "auto_grader.json")
    assert (saved.made.by, saved.made.model, saved.made.num_examples) == ("model", "m", 3)
    assert (saved.name, saved.language, saved.made.agreement) == ("auto_grader", "en", 1.0)
    assert "rubrics: iteration 1: 1 in all, agreement" in capfd.readouterr().err


def test_listwise_the_groups_are_compared_by_the_rubrics(capfd):
    write_examples(RANKED)
    model = DraftingModel(proposals=["precise"])
    with serving(model) as server:
        run_dir = run_dir_of(load_with(server, auto(grader_mode="listwise")))
    verdicts = rewards_of(run_dir)
    assert verdicts["good"]["reward"] == 0.4 and verdicts["bad"]["reward"] == 0.0
    assert verdicts["good"]["parts"] == {"consistency": 1.0}


def prepared(loaded, folder):
    screen = io.StringIO()
    run = make_run(loaded, RunDir(root=folder), screen=screen)
    return asyncio.run(with_rubrics(run)), screen.getvalue()


def test_a_resumed_run_takes_the_rubrics_that_it_drafted_and_asks_for_none(tmp_path):
    write_examples()
    model = DraftingModel(proposals=["precise"] * 3)
    with serving(model) as server:
        loaded = load_with(server, auto())
        prepared(loaded, tmp_path)
        num_asked = len(server.requests)
        run, said = prepared(loaded, tmp_path)
        assert len(server.requests) == num_asked
    assert "are used again" in said
    assert run.config.astuner.task_judge.rubrics.inline[0].name == "precise"


def test_other_examples_are_drafted_anew_beside_the_old_rubrics_with_a_warning(tmp_path):
    write_examples()
    model = DraftingModel(proposals=["precise"] * 3 + ["half"] * 9, revisions=[["half"]] * 9)
    with serving(model) as server:
        prepared(load_with(server, auto()), tmp_path)
        write_examples(EXAMPLES[:2])
        _, said = prepared(load_with(server, auto()), tmp_path)
    assert "warning: the rubrics in auto_grader.json were drafted by another model" in said
    assert read_rubrics(tmp_path / "auto_grader.json").rubrics[0].name == "precise"
    assert read_rubrics(tmp_path / "auto_grader_2.json").rubrics[0].name == "half"


def test_workers_get_the_rubrics_with_the_run_and_draft_none(tmp_path):
    write_examples()
    model = DraftingModel(proposals=["precise"] * 3)
    with serving(model) as server:
        run, _ = prepared(load_with(server, auto()), tmp_path)
        num_asked = len(server.requests)
        sent = WorkerRun.of(run)
        Path("examples.jsonl").unlink()
        worker = sent.open()
        assert len(server.requests) == num_asked
    assert worker.config.astuner.task_judge.rubrics.inline[0].name == "precise"
    assert type(worker.judge).__name__ == "RubricsJudge"


def test_workers_get_the_content_of_a_file_of_rubrics(tmp_path):
    Path("by_hand.yaml").write_text(
        "version: 1\nlanguage: zh\nrubrics: [{name: precise, text: It is good.}]\n"
    )
    protocol = "astuner.task_judge.ranking_judge->RankingJudge"
    with serving([]) as server:
        section = {"judge_protocol": protocol, "rubrics": {"file": "by_hand.yaml"}}
        run, _ = prepared(load_with(server, section), tmp_path)
        sent = WorkerRun.of(run)
        Path("by_hand.yaml").unlink()
        worker = sent.open()
    rubrics = worker.config.astuner.task_judge.rubrics
    assert (rubrics.file, rubrics.language, rubrics.inline[0].name) == (None, "zh", "precise")
    assert isinstance(worker.judge, RankingJudge)


def test_rubrics_drafted_before_are_taken_where_the_settings_name_them(tmp_path):
    Path("earlier.json").write_text(
        json.dumps({"version": 1, "rubrics": [{"name": "precise", "text": TEXTS["precise"]}]})
    )
    with serving(DraftingModel()) as server:
        section = {**auto(), "rubrics": {"file": "earlier.json"}}
        run, said = prepared(load_with(server, section), tmp_path)
    assert server.requests == [] and "rubrics" not in said
    assert run.config.astuner.task_judge.rubrics.inline[0].name == "precise"


def test_drafting_that_is_cancelled_leaves_no_file(tmp_path):
    write_examples()

    async def cancelled(loaded):
        run = make_run(loaded, RunDir(root=tmp_path / "run"))
        task = asyncio.ensure_future(with_rubrics(run))
        loop = asyncio.get_running_loop()
        cancel.append(lambda: loop.call_soon_threadsafe(task.cancel))
        with pytest.raises(asyncio.CancelledError):
            await task

    cancel = []
    model = DraftingModel(proposals=["precise"] * 3)

    def interrupted(body):
        if prompt_of(body).startswith("You grade"):
            cancel[0]()
        return model(body)

    with serving(interrupted) as server:
        loaded = load_with(server, auto())
        (tmp_path / "run").mkdir()
        asyncio.run(cancelled(loaded))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_budget_that_is_used_up_while_drafting_ends_the_run_and_leaves_no_file(tmp_path):
    write_examples()
    with serving(DraftingModel(proposals=["precise"] * 3)) as server:
        loaded = load_with(server, auto(), llm={"base_url": server.base_url, "max_calls": 4})
        with pytest.raises(LlmBudgetError, match=r"max_calls = 4 is used up"):
            prepared(loaded, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_own_instructions_may_be_given_by_language(tmp_path):
    write_examples()
    prompts = {"en": "Grade {answer} as a friend would.", "zh": "?"}
    model = DraftingModel(proposals=["precise"] * 3)

    def graded(body):
        is_own = prompt_of(body).startswith("Grade <answer")
        return (
            scored([4 if "good" in answers_in(prompt_of(body))[0] else 0])
            if is_own
            else model(body)
        )

    with serving(graded) as server:
        prepared(load_with(server, auto(custom_evaluation_prompt=prompts)), tmp_path)
        with pytest.raises(ConfigError, match="custom_evaluation_prompt: found 3; expected a text"):
            load = load_with(server, auto(custom_evaluation_prompt=3))
            make_run(load, RunDir(root=tmp_path))
    assert "grade" not in model.kinds


def test_examples_that_are_not_there_are_bad_usage(tmp_path):
    with serving([]) as server, pytest.raises(ConfigError, match="no such file; looked for"):
        prepared(load_with(server, auto()), tmp_path)


def test_a_judge_of_the_settings_is_told_to_have_no_effect_beside_drafted_rubrics():
    section = {**auto(), "judge_protocol": "a.b->C"}
    with serving([]) as server:
        loaded = load_with(server, section)
    (line,) = (x for x in describe_unused(loaded.explicit_keys, loaded.settings) if "judge" in x)
    assert "judge_type rubrics_auto_grader: " in line
    assert line.endswith("astuner.task_judge.judge_protocol")
