"""What is drawn and said of metrics, whatever a run has written."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from astuner.logview.reading.events import FoundThing
from astuner.logview.reading.metrics import Metrics
from astuner.logview.reading.run_status import ValidationPoint
from astuner.logview.view import curves
from astuner.logview.view.curves import RunCurves, short_labels
from astuner.logview.view.failures import failure_causes
from astuner.logview.view.learning import answer, worth_a_look
from astuner.logview.view.meanings import MEANINGS, meaning_of
from astuner.logview.view.settings import setting_differences
from astuner.logview.view.spark import spark_points
from astuner.logview.view.words import ago, duration, model_name


def metrics(**series: list[Any]) -> Metrics:
    """`train__loss=[1, 2]` are the values of train/loss at steps 1 and 2; `...` leaves one out."""
    num_steps = max(len(values) for values in series.values())
    rows: list[dict[str, Any]] = [{"step": step + 1} for step in range(num_steps)]
    for name, values in series.items():
        for row, value in zip(rows, values, strict=False):
            if value is not ...:
                row[name.replace("__", "/")] = value
    return Metrics(rows=rows, problems=[])


def drawn(found: Metrics, **changes: Any) -> RunCurves:
    return RunCurves(label="run", metrics=found, **changes)


def validated(step: int, rate: float, low: float, high: float) -> ValidationPoint:
    return ValidationPoint(step=step, rate=rate, low=low, high=high, num_episodes=88)


def test_a_value_that_is_no_finite_number_leaves_a_gap():
    found = metrics(train__loss=[1.0, None, math.nan, math.inf, "odd", ..., 2])
    assert curves.points_of(found, "train/loss") == (
        (1, 1.0), (2, None), (3, None), (4, None), (5, None), (7, 2.0),
    )  # fmt: skip


def test_a_chart_of_which_nothing_is_known_is_left_out():
    shown = curves.panels([drawn(metrics(reward__mean=[0.5], train__kl=[None]))])
    assert [curve.key for curve in shown] == ["reward"]


def test_the_sources_of_a_mixture_stand_beside_all_of_them_and_are_no_roles():
    names = ("reward__mean", "reward__success_rate", "validation__success_rate")
    series = {f"{name}{end}": [0.5] for name in names for end in ("", "__source__a", "__source__b")}
    run = drawn(metrics(**series))
    reward, success = curves.panels([run])
    assert [line.label for line in reward.lines] == ["mean", "a", "b"]
    assert [line.label for line in success.lines] == ["all", "a", "b"]
    assert [line.label for line in curves.validation([run]).lines] == ["all", "a", "b"]
    assert len(curves.validation([run, run]).lines) == 2


def test_tokens_a_second_are_worked_out_of_tokens_and_seconds():
    found = metrics(rollout__tokens=[100, 100, None], rollout__seconds=[4.0, 0.0, 1.0])
    assert "rollout/tokens_per_second" in curves.known_names(found)
    points = curves.points_of(found, "rollout/tokens_per_second")
    assert points == ((1, 25.0), (2, None), (3, None))


def test_tokens_a_second_that_a_run_wrote_itself_are_taken():
    found = metrics(rollout__tokens_per_second=[7.0], rollout__tokens=[1], rollout__seconds=[1])
    assert curves.points_of(found, "rollout/tokens_per_second") == ((1, 7.0),)


def test_a_metric_with_two_ends_has_an_interval():
    name = "validation/success_rate"
    found = metrics(
        validation__success_rate=[0.5, ...],
        validation__success_rate_low=[0.4, ...],
        validation__success_rate_high=[0.6, ...],
    )
    (line,) = curves.curve_of(name, [drawn(found)]).lines
    assert line.interval == ((0.4, 0.6),)


def test_the_phases_of_a_step_are_lines_of_one_chart():
    found = metrics(step__seconds=[9.0], rollout__seconds=[6.0], train__seconds=[0.0])
    (curve,) = [one for one in curves.panels([drawn(found)]) if one.key == "seconds"]
    assert [line.label for line in curve.lines] == ["step", "rollout"]


def test_agents_with_rewards_of_their_own_are_lines_of_the_reward():
    found = metrics(reward__mean=[0.5], reward__solver=[0.6], reward__critic=[0.4])
    (curve,) = curves.panels([drawn(found)])
    assert [line.label for line in curve.lines] == ["mean", "critic", "solver"]


def test_failed_episodes_are_lines_by_cause():
    found = metrics(rollout__failed_episodes=[3, 1])
    run = drawn(found, failures={"Judge": {1: 2}, "Workflow": {1: 1, 2: 1}})
    (curve,) = curves.panels([run])
    assert [(line.label, line.points) for line in curve.lines] == [
        ("all", ((1, 3.0), (2, 1.0))),
        ("Judge", ((1, 2), (2, 0))),
        ("Workflow", ((1, 1), (2, 1))),
    ]


def test_a_finding_stands_on_the_curve_on_which_it_shows():
    found = metrics(train__entropy=[1.0], reward__mean=[0.0], validation__success_rate=[0.1])
    finding = FoundThing(step=1, detector="entropy", message="low", stops=False)
    new = FoundThing(step=1, detector="of_a_later_release", message="odd", stops=True)
    run = drawn(found, findings=[finding, new])
    marks = {one.key: [mark.message for mark in one.marks] for one in curves.panels([run])}
    assert marks["entropy"] == ["low"]
    assert marks["reward"] == []
    assert [mark.message for mark in curves.validation([run]).marks] == ["odd"]
    assert [m.message for m in curves.curve_of("train/entropy", [run]).marks] == ["low"]


def test_runs_over_each_other_are_named_at_their_ends():
    found = metrics(step__seconds=[9.0], rollout__seconds=[6.0])
    runs = [RunCurves(label="a", metrics=found), RunCurves(label="b", metrics=found)]
    (curve,) = [one for one in curves.panels(runs) if one.key == "seconds"]
    assert [(line.label, line.run) for line in curve.lines] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a/2026-01-31_09-30-00"], ["a"]),
        (["a/2026-01-31_09-30-00", "b/2026-01-31_09-30-00"], ["a", "b"]),
        (["a/2026-01-31_09-30-00", "a/2026-01-31_10-00-00"], ["09:30:00", "10:00:00"]),
        (["a/2026-01-30_09-00-00", "a/2026-01-31_09-00-00"],
         ["2026-01-30_09-00-00", "2026-01-31_09-00-00"]),
        (["a/2026-01-31_09-30-00", "a/2026-01-31_10-00-00", "b/x"], ["09:30:00", "10:00:00", "b"]),
        (["a/x", "a/x~2"], ["x", "x~2"]),
    ],
)  # fmt: skip
def test_runs_are_told_apart_by_as_little_as_possible(names, labels):
    assert short_labels(names) == labels


def test_every_metric_of_the_documentation_has_a_meaning_and_others_stand_for_themselves():
    assert meaning_of("train/entropy") is MEANINGS["train/entropy"]
    assert meaning_of("trajectory/breaks_reasoning_dropped").words == (
        "new sequences, reasoning dropped"
    )
    assert meaning_of("reward/solver").words == "reward of solver"
    assert meaning_of("my/<new>").words == "my/<new>"


# is it learning


def test_intervals_that_do_not_overlap_are_an_answer():
    said = answer(
        validated(0, 0.16, 0.10, 0.25), validated(25, 0.86, 0.78, 0.92), [],
        is_one_episode_a_task=True,
    )  # fmt: skip
    assert (said.before, said.now) == ("0.16", "0.86")
    assert said.of == "of 88 validation tasks solved"
    assert said.interval == "95% interval 0.78 to 0.92"
    assert said.verdict == "Better than at step 0: the intervals do not overlap."


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        (validated(5, 0.30, 0.20, 0.40), "Not to be told from step 0"),
        (validated(5, 0.01, 0.00, 0.05), "Worse than at step 0"),
    ],
)
def test_what_is_not_better_is_not_called_so(last, verdict):
    said = answer(validated(0, 0.16, 0.10, 0.25), last, [], is_one_episode_a_task=True)
    assert said.verdict.startswith(verdict)


def test_a_single_validation_is_compared_with_nothing():
    only = validated(0, 0.16, 0.10, 0.25)
    said = answer(only, only, [], is_one_episode_a_task=False)
    assert (said.before, said.verdict) == (None, "")
    assert said.of == "of 88 validation episodes solved at step 0"


def test_without_validation_the_reward_answers_and_says_how_little_that_is():
    rewards = [(step, step / 10) for step in range(1, 11)]
    said = answer(None, None, rewards, is_one_episode_a_task=True)
    assert (said.before, said.now) == ("0.1", "1")
    assert said.verdict.startswith("Mean of the first 2 steps 0.15, of the last 0.95.")


def test_a_run_without_a_step_says_that():
    said = answer(None, None, [(1, None)], is_one_episode_a_task=True)
    assert (said.now, said.of) == (None, "No step has ended yet.")


def remarks(found: Metrics, **options: Any) -> list[str]:
    return [remark.text for remark in worth_a_look(found, **({"num_groups": 8} | options))]


def test_groups_that_taught_nothing_are_said_from_the_step_on():
    found = metrics(
        rollout__flat_groups=[6, 1, 5, 6, 7], reward__success_rate=[0.1, 0.5, 0.9, 0.9, 0.9]
    )
    (said,) = remarks(found)
    assert said.startswith("From step 3 on 5 or more of 8 groups have equal rewards: most tasks")
    assert "Harder tasks" in said
    assert remarks(found, num_groups=None) == []


def test_failures_and_cut_replies_are_counted_and_their_absence_said_last():
    bad = metrics(
        rollout__episodes=[10, 10], rollout__failed_episodes=[1, 3],
        rollout__context_overflows=[2, 0],
    )  # fmt: skip
    good = metrics(
        rollout__episodes=[10], rollout__failed_episodes=[0], rollout__context_overflows=[0]
    )
    failed, cut = remarks(bad)
    assert failed == "4 of 20 episodes failed, 20%, most at step 2 (3)."
    assert cut.startswith("2 episodes ran out of room, 0 of them at step 2")
    assert remarks(good) == ["No episode of 10 failed.", "No episode ran out of room."]
    assert all(remark.is_good for remark in worth_a_look(good, num_groups=8))


def test_values_that_are_no_numbers_are_said_and_null_is_no_sign():
    assert remarks(metrics(train__kl=[None, None])) == []
    found = metrics(train__loss=[1.0, math.nan], train__grad_norm=[1.0, 1.0, math.inf])
    (said,) = remarks(found)
    assert said == "train/loss is not a finite number at step 2, and 1 other metric later."


def test_a_run_that_fell_behind_its_best_validation_says_so():
    found = metrics(
        validation__success_rate=[0.2, 0.9, 0.5],
        validation__success_rate_low=[0.1, 0.8, 0.4],
        validation__success_rate_high=[0.3, 1.0, 0.6],
    )
    (said,) = remarks(found)
    assert said.startswith("The best validation was 0.90 at step 2; at step 3 it is 0.50")


def test_entropy_and_gap_are_said_once_they_moved_far():
    found = metrics(
        train__entropy=[2.0, 2.0, 2.0, 0.1, 0.1, 0.1],
        train__logprob_gap_mean=[0.01, 0.01, 0.01, 0.2, 0.2, 0.2],
        train__updates=[1, 1, 1, 0, 1, 1],
    )
    gap, entropy, idle = remarks(found)
    assert gap.startswith("Sampler and trainer drift apart: 0.01 nats")
    assert entropy.startswith("Entropy fell from 2 to 0.1 nats")
    assert idle == "1 step of 6 trained nothing, the latest of them step 4."


# what stands beside the curves


@dataclass
class FailedAt:
    """A row of the index, as far as causes ask."""

    step: int
    failure: str | None
    is_validation: bool = False
    episode_id: str = field(default="e")


def test_failed_episodes_are_grouped_by_what_they_said():
    rows = [
        FailedAt(3, "JudgeError: no answer", episode_id="late"),
        FailedAt(1, "JudgeError: no answer"),
        FailedAt(0, "JudgeError: no answer", is_validation=True),
        FailedAt(2, "WorkflowError: boom"),
    ]
    judge, workflow = failure_causes(rows)
    assert (judge.kind, judge.num_episodes, judge.example_id) == ("JudgeError", 3, "late")
    assert (judge.first_step, judge.last_step, judge.by_step) == (0, 3, ((1, 1), (3, 1)))
    assert workflow.message == "WorkflowError: boom"


def test_only_settings_that_differ_are_told_with_both_values():
    before = {"a.lr": 1e-5, "a.path": None, "a.on": True, "b.gone": "x", "same": [1, 2]}
    after = {"a.lr": 2e-5, "a.path": "data", "a.on": True, "c.new": 1, "same": [1, 2]}
    told = [(one.key, one.before, one.after) for one in setting_differences(before, after)]
    assert told == [
        ("a.lr", "1e-05", "2e-05"),
        ("a.path", "null", "data"),
        ("b.gone", "x", None),
        ("c.new", None, "1"),
    ]


def test_a_small_line_has_points_within_its_bounds_however_long_the_run():
    assert spark_points([0.5, None]) == ""
    assert spark_points([0.0, None, 1.0]) == "2.0,26.0 118.0,2.0"
    assert spark_points([3.0, 3.0]) == "2.0,26.0 118.0,26.0"
    assert 60 <= len(spark_points([float(i) for i in range(10_000)]).split()) <= 120


def test_what_happened_a_moment_ago_and_models_in_folders_are_said_briefly():
    assert (ago(10.0, now=10.2), ago(10.0, now=22.0)) == ("just now", "12 s ago")
    assert (duration(0.0097), duration(0.004)) == ("0.0097 s", "4 ms")
    assert (ago(0.0, now=1399.0), ago(0.0, now=8000.0)) == ("23 min ago", "2 h ago")
    assert model_name("/models/tiny/") == "tiny"
    assert model_name("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"
