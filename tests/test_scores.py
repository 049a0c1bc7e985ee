"""How good a model was: figures and their intervals."""

import json
from pathlib import Path

import pytest

from astuner.errors import ConfigError, NotFoundError, UnreadableError
from astuner.evaluation.facts import EVALUATION_FILE
from astuner.evaluation.gate import GateRules, check_tags_are_there
from astuner.evaluation.intervals import Interval, share_interval, t_quantile
from astuner.evaluation.passes import pass_all_k, pass_at_k
from astuner.evaluation.read import read_evaluated
from astuner.evaluation.scores import score
from astuner.logview.terminal.scores import score_sheet
from tests.evaluations import evaluated, outcomes, write_evaluation, write_lines
from tests.viewer_runs import make_run, record


@pytest.mark.parametrize(
    ("num_attempts", "num_successes", "k", "any_succeeds", "all_succeed"),
    [(4, 1, 2, 1 / 2, 0), (4, 2, 2, 5 / 6, 1 / 6), (4, 4, 4, 1, 1), (3, 0, 1, 0, 0)],
)
def test_of_k_attempts_any_or_all_succeed_as_often_as_counting_the_draws_tells(
    num_attempts, num_successes, k, any_succeeds, all_succeed
) -> None:
    assert pass_at_k(num_attempts, num_successes, k) == pytest.approx(any_succeeds)
    assert pass_all_k(num_attempts, num_successes, k) == pytest.approx(all_succeed)


def test_with_one_attempt_a_task_the_interval_of_success_is_wilsons() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263, and 0 of 20."""
    found = share_interval([1.0] * 81 + [0.0] * 182, num_attempts=263)
    assert found is not None
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    found = share_interval([0.0] * 20, num_attempts=20)
    assert found is not None
    assert (round(found.low, 4), round(found.high, 4)) == (0, 0.1611)


def test_attempts_that_always_agree_tell_no_more_than_one_a_task() -> None:
    once = score(evaluated([[1.0]] * 30 + [[0.0]] * 30)).total.success
    alike = score(evaluated([[1.0] * 4] * 30 + [[0.0] * 4] * 30)).total.success
    mixed = score(evaluated([[1.0, 0.0, 1.0, 0.0]] * 60)).total.success
    assert once and alike and mixed and once.interval and alike.interval and mixed.interval
    assert _width(alike.interval) == pytest.approx(_width(once.interval), rel=0.03)
    assert _width(mixed.interval) < 0.6 * _width(once.interval)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (29, 2.0452), (500, 1.9647)]
)
def test_the_quantiles_of_t_are_those_of_the_tables(degrees, quantile) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-4)


def test_failed_episodes_are_counted_apart_and_never_as_zero() -> None:
    total = score(evaluated([[1.0, None], [0.0, 0.5], [None, None]])).total
    assert (total.num_tasks, total.num_episodes, total.num_failed) == (3, 6, 3)
    assert total.num_unsuccessful == 2
    assert total.failures == {"WorkflowError": 3}
    assert total.success and total.success.mean == 0.5 and total.success.num_tasks == 2
    assert total.reward and total.reward.mean == pytest.approx((1.0 + 0.25) / 2)
    assert list(total.pass_at) == [1, 2] and total.pass_at[2].num_tasks == 1


def test_what_a_single_task_or_none_tells_of_others_is_not_known() -> None:
    single = score(evaluated([[1.0, 0.0]])).total
    assert single.success and single.success.interval is None
    failed = score(evaluated([[None], [None]])).total
    assert failed.success is None and failed.reward is None and failed.pass_at == {}
    assert "not known" in score_sheet([score(evaluated([[1.0]]))]).plain


def test_an_evaluation_is_read_from_its_folder_as_far_as_it_was_written(tmp_path: Path) -> None:
    root = write_evaluation(tmp_path, {"a1": [1.0, 0.5], "b1": [None, 0.0]})
    file = root / "episodes" / "validation_000000.jsonl"
    again = record("again", task_id="b1", attempt=0, reward=1.0)
    cut = record("b1-1", task_id="b1", attempt=2, reward=0.0)
    cut["calls"].append({**cut["calls"][0], "extends": 0, "finish_reason": "length"})
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    write_lines(file, [*lines, again, cut])
    file.write_text(file.read_text() + '{"format": 3, "episode_id": "torn')
    read = read_evaluated(root)
    assert [task.task_id for task in read.tasks] == ["a1", "b1"]
    assert read.tasks[0].tags == {"kind": "a"}
    tried_again, _, longest = read.tasks[1].attempts
    assert tried_again.episode_id == "again" and tried_again.reward == 1.0
    assert longest.format_errors == ("cut off",)
    assert (longest.num_calls, longest.num_sampled_tokens) == (2, 2)
    assert longest.num_prompt_tokens == 2 + (2 + 1 + 2)


def test_scores_by_a_tag_name_the_tags_there_are(tmp_path: Path) -> None:
    model = read_evaluated(write_evaluation(tmp_path, {"a1": [1.0], "a2": [1.0], "b1": [0.0]}))
    found = score(model, by="kind")
    assert {value: own.num_tasks for value, own in found.groups.items()} == {"a": 2, "b": 1}
    assert "kind=a" in score_sheet([found]).plain
    with pytest.raises(ConfigError, match="no task has a tag 'level'; there are kind"):
        score(model, by="level")


def test_many_tags_are_counted_and_those_like_what_was_asked_come_first() -> None:
    tags = {f"field_{index:02}": "x" for index in range(20)}
    tasks = [outcomes([1.0], name=f"t{n}", tags={**tags, "level": str(n)}) for n in range(4)]
    shown = "there are level, field_00, field_01, .*, field_10 and 9 more"
    with pytest.raises(ConfigError, match=f"no task has a tag 'levle'; {shown}"):
        score(evaluated(tasks), by="levle")
    rules = GateRules(not_worse_on={"levle": []})
    with pytest.raises(ConfigError, match=r"there are level, field_00.* and 9 more"):
        check_tags_are_there(rules, {name: {"x"} for name in [*tags, "level"]})
    values = {"level": {f"grade {index}" for index in range(20)}}
    with pytest.raises(ConfigError, match=r"there are grade 7, .* and 8 more"):
        check_tags_are_there(GateRules(not_worse_on={"level": ["grade7"]}), values)


def test_a_validation_of_a_training_run_is_an_evaluation_too(tmp_path: Path) -> None:
    root = make_run(tmp_path)
    (root / "config.yaml").write_text("astuner: {model: {path: m}, rollout: {max_model_len: 9}}")
    for step, reward in ((0, 0.0), (20, 1.0)):
        path = root / "episodes" / f"validation_{step:06d}.jsonl"
        write_lines(path, [record("v", reward=reward)])
    first, last = read_evaluated(root, "first"), read_evaluated(root, "last")
    assert (first.tasks[0].num_successes, last.tasks[0].num_successes) == (0, 1)
    assert last.facts.decides == {"rollout.max_model_len": 9}
    assert last.facts.model == "m after step 20" and last.name.endswith("@step_20")
    assert read_evaluated(root, "step_20") == last
    with pytest.raises(NotFoundError, match=r"@step_7; write @first.*@step_0, @step_20"):
        read_evaluated(root, "step_7")
    with pytest.raises(NotFoundError, match=r"is no evaluation.*@last"):
        read_evaluated(root)


def test_an_evaluation_that_cannot_be_read_says_where(tmp_path: Path) -> None:
    root = write_evaluation(tmp_path, {"a1": [1.0]})
    write_lines(root / "episodes" / "validation_000000.jsonl", [{"format": 3, "episode_id": "x"}])
    with pytest.raises(UnreadableError, match=r"validation_000000.jsonl:1: the record"):
        read_evaluated(root)
    (root / EVALUATION_FILE).write_text("{}")
    with pytest.raises(UnreadableError, match="tells of no evaluation"):
        read_evaluated(root)


def test_an_evaluation_that_was_killed_says_what_is_missing() -> None:
    model = evaluated([[1.0, 1.0], outcomes([1.0], name="t9")])
    found = score(model)
    assert found.num_missing == 1
    assert "not finished: 1 episode missing" in score_sheet([found]).plain


def _width(interval: Interval) -> float:
    return interval.high - interval.low
