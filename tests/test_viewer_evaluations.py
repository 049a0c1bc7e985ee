"""Evaluations in the viewer and in `astuner show`: scores, tasks, comparisons, refusals."""

import json

import pytest

pytest.importorskip("starlette")

from astuner.cli.main import main
from astuner.evaluating.comparison_sheet import comparison_link
from astuner.evaluation.comparison import compare
from astuner.evaluation.facts import EVALUATION_FILE
from astuner.evaluation.read import read_evaluated
from astuner.evaluation.scores import score
from astuner.logview.view.compared import difference_rows, how_tested
from astuner.logview.view.evaluated import deciding_lines, headline, pass_rows, score_rows
from astuner.logview.web.addresses import (
    compare_at,
    episode_at,
    evaluation_at,
    group_at,
    part_of,
    run_at,
    step_at,
    task_at,
)
from astuner.run_dir import append_json_lines
from tests.evaluations import evaluated, outcomes, write_evaluation
from tests.test_viewer_groups import Viewer, validated
from tests.viewer_runs import START, make_run

BASE, TUNED = f"base/{START}", f"tuned/{START}"
TASKS = {"a1": [0.0, 1.0], "a2": [0.0, 0.0], "b1": [1.0, 1.0], "b2": [0.0, None]}
WON = {"a1": [1.0, 1.0], "a2": [1.0, 1.0], "b1": [0.0, 0.0], "b2": [0.0, 0.0]}


@pytest.fixture
def viewer(tmp_path):
    write_evaluation(tmp_path / "runs", TASKS, name="base")
    write_evaluation(tmp_path / "runs", WON, name="tuned")
    return Viewer(tmp_path / "runs", tmp_path / "cache")


def rewrite_facts(root, **changes):
    path = root / EVALUATION_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_scores_stand_in_rows_with_parts_of_the_tasks_below_their_model() -> None:
    tasks = [
        outcomes([1.0, 0.0], name="t0", tags={"kind": "easy"}),
        outcomes([0.0, None], name="t1", tags={"kind": "hard"}),
    ]
    found = score(evaluated(tasks), "kind")
    rows = score_rows({"eval/1": found})
    assert [(row.name, row.address_of) for row in rows] == [
        ("models/small", "eval/1"),
        ("kind=easy", None),
        ("kind=hard", None),
    ]
    assert headline(found.model.facts, found.total) == (
        "solved of 2 tasks of test: 3 judged episodes, 1 failed"
    )
    (one, two) = pass_rows(found.total)
    assert (one.k, one.any_of_k.mean, two.k, two.all_of_k.mean) == (1, 0.25, 2, 0.0)
    assert pass_rows(score(evaluated([[1.0]])).total) == []


def test_what_decides_is_told_from_what_is_as_nobody_set_it() -> None:
    decides = {"a.x": 1, "a.y": None, "a.z": "z" * 200, "w (code)": "abc"}
    lines = deciding_lines(decides, {"a.x": 2, "a.y": None})
    assert [line.name for line in lines.own] == ["a.x", "a.z", "w (code)"]
    assert [(line.name, line.text) for line in lines.usual] == [("a.y", "not set")]
    assert max(len(line.text) for line in lines.own) < 130


def test_differences_are_those_of_the_comparison_and_dashes_where_none_is_known() -> None:
    found = compare(evaluated([[0.0]] * 4), evaluated([[1.0]] * 4))
    success, reward, tokens, seconds = difference_rows(found)
    assert (success.mean_a, success.mean_b, success.difference) == ("0.00", "1.00", "+1.000")
    assert success.p_value == "0.12" and "McNemar" in (how_tested(found) or "")
    assert (reward.name, tokens.finding, seconds.difference) == ("reward", None, "+0.0%")
    unknown = difference_rows(compare(evaluated([[None]]), evaluated([[None]])))[0]
    assert (unknown.difference, unknown.finding) == ("-", None)


def test_the_list_tells_evaluations_from_runs_that_train(viewer, tmp_path) -> None:
    root = tmp_path / "runs" / BASE
    line = {"step": 0, "validation/success_rate": 0.5, "validation/reward_mean": 0.4}
    ends = {"validation/success_rate_low": 0.1, "validation/success_rate_high": 0.9}
    append_json_lines(root / "metrics.jsonl", [line | ends])
    viewer.get(evaluation_at(TUNED))  # which counts its episodes
    page = viewer.get("/")
    other, scored = page.inside("tr")[1:3]
    assert "evaluation · models/small" in other and "8 of 8 episodes test, not scored" in other
    assert "0.50 95% interval 0.10 to 0.90 4 tasks of test 0.40" in scored
    assert "none yet" not in page.text and "not validated" not in page.text
    assert "2 of 2 runs" in viewer.get("/?q=evaluation+test").text
    leads = viewer.answer(f"/chosen?run={TUNED}&run={BASE}&do=curves").headers["location"]
    assert leads == run_at(TUNED, **{"with": [BASE]})
    beside = viewer.get(evaluation_at(TUNED, **{"with": [BASE]})).inside("table")[0]
    assert beside.count("models/small") == 2


def test_an_evaluation_shows_scores_tasks_and_facts_and_nothing_of_training(viewer) -> None:
    at = viewer.answer(run_at(BASE)).headers["location"]
    assert at == evaluation_at(BASE)
    page = viewer.get(at)
    scores, passes = page.inside("table")[:2]
    assert "models/small 4 8 1 0.38" in scores and "0.375" in scores
    assert passes.count(" to ") == 4
    assert "solved in every attempt 1 in some 1 in none 2 with a failed attempt 1" in " ".join(
        page.inside("p")
    )
    assert "task_judge.judge_protocoljudge->Judge" in page.text
    assert not {"Steps", "How it went", "step 0"} & {*page.inside("h2"), *page.text.split(" · ")}
    assert compare_at(BASE, TUNED) in page.links()
    assert episode_at(BASE, "a1-0") in page.links()
    failed = viewer.get(f"{at}?show=failed")
    assert [link for link in failed.links() if "/steps/0/tasks/" in link] == [
        group_at(BASE, 0, "b2", is_validation=True)
    ]
    by = viewer.get(f"{at}?by=kind").inside("table")[0]
    assert "kind=a 2 4 0 0.25" in by and "kind=b" in by


def test_no_page_of_an_evaluation_speaks_of_steps(viewer) -> None:
    for address, leads_to in (
        (step_at(BASE, 0, is_validation=True), evaluation_at(BASE)),
        (part_of(BASE, "tasks"), f"{evaluation_at(BASE)}#tasks"),
        (task_at(BASE, "a1"), group_at(BASE, 0, "a1", is_validation=True)),
    ):
        assert viewer.answer(address).headers["location"] == leads_to
    for address in (group_at(BASE, 0, "a1", is_validation=True), episode_at(BASE, "a1-0")):
        page = viewer.get(address)
        assert page.status == 200
        assert "after step" not in page.text and "over all steps" not in page.text


def test_what_is_missing_failed_or_chosen_by_these_tasks_is_said(viewer, tmp_path) -> None:
    root = tmp_path / "runs" / BASE
    rewrite_facts(root, num_tasks=5, best_of="runs/other")
    text = viewer.get(evaluation_at(BASE)).text
    assert "Not finished: 2 episodes of 10 are missing" in text
    assert "chosen as the best of its run by these very tasks" in text
    refused = viewer.get(compare_at(BASE, TUNED))
    assert "is not finished: 2 of 10 episodes are missing" in refused.text


@pytest.mark.parametrize("changes", [{"num_tasks": "5"}, {"format": 9}, {"decides": []}])
def test_facts_that_cannot_be_read_are_said_on_the_page_of_the_run(viewer, tmp_path, changes):
    rewrite_facts(tmp_path / "runs" / BASE, **changes)
    page = viewer.get(run_at(BASE))
    assert page.status == 200 and "tells of no evaluation" in page.text


def test_records_that_cannot_be_read_are_said_and_the_facts_shown(viewer, tmp_path) -> None:
    path = tmp_path / "runs" / BASE / "episodes" / "validation_000000.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    record = json.loads(first)
    record["verdict"]["reward"] = "much"
    path.write_text("".join([f"{json.dumps(record)}\n", *rest]))
    page = viewer.get(evaluation_at(BASE))
    assert page.status == 200 and "the record of an episode is not whole" in page.text
    assert "What was evaluated" in page.text


def test_two_evaluations_are_compared_by_the_figures_of_the_command(viewer, tmp_path) -> None:
    page = viewer.get(compare_at(BASE, TUNED, by="kind"))
    a, b = (read_evaluated(tmp_path / "runs" / name) for name in (BASE, TUNED))
    found = compare(a, b)
    assert found.verdict in page.text
    differences = page.inside("table")[0]
    assert all(row.interval in differences for row in difference_rows(found)[:3])
    assert "kind=a success" in differences
    assert comparison_link(found).endswith(compare_at(BASE, TUNED))


def test_evaluations_under_other_settings_are_refused_and_their_tasks_still_shown(
    viewer, tmp_path
) -> None:
    rewrite_facts(tmp_path / "runs" / TUNED, decides={"task_judge.judge_protocol": "strict"})
    page = viewer.get(compare_at(BASE, TUNED))
    assert "were not evaluated in the same way" in page.text
    assert "task_judge.judge_protocol: 'judge->Judge' and 'strict'" in page.text
    assert "p = " not in page.text and "tasks solved" not in page.text
    assert any("task=a1" in link for link in page.links())
    assert not any("common=1" in link for link in page.links())


def test_the_best_checkpoint_is_marked_on_the_page_of_its_run(viewer, tmp_path, capsys) -> None:
    root = make_run(tmp_path / "runs", "trained")
    for step, rate in ((0, 0.25), (2, 0.75), (4, 0.5)):
        line = {"step": step, "validation/success_rate": rate, "reward/mean": rate}
        append_json_lines(root / "metrics.jsonl", [line])
        validated(root, step, {"a": [rate]})
        (root / f"checkpoints/step_{step}").mkdir(parents=True)
    (root / "checkpoints/best").symlink_to("step_2")
    page = viewer.get(run_at(f"trained/{START}"))
    assert "best checkpoint: step 2, 0.75 solved in validation" in page.text
    assert "validation 2 best" in page.text and page.text.count("best checkpoint") == 1


def test_show_says_of_an_evaluation_what_its_page_does(viewer, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = ["--exp-dir", str(tmp_path / "runs")]
    assert main(["show", *folder]) == 0
    assert (
        "evaluation of models/small on 4 tasks of test, 2 attempts each" in capsys.readouterr().out
    )
    assert main(["show", *folder, BASE]) == 0
    said = capsys.readouterr().out
    assert "0.38" in said and "pass@2" in said and "WorkflowError 1" in said
    assert "no step has ended yet" not in said
