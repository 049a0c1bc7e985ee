"""Two models on the same tasks: what is said of the difference, and what is refused."""

import itertools
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from astuner.backbone.run import RunResult
from astuner.cli.main import main
from astuner.errors import AstunerError, ConfigError
from astuner.evaluation.comparison import compare
from astuner.evaluation.gate import GateRules, check_gate, check_tags_are_there
from astuner.evaluation.gate_files import write_gate_json, write_junit
from astuner.evaluation.sign_flips import flip_test
from tests.evaluations import evaluated, outcomes, write_evaluation, write_lines
from tests.full_disk import largest_file
from tests.viewer_runs import make_run, record

CONFIG = """\
astuner:
  model: {path: m}
  rollout: {agentscope_workflow: w->W}
  task_reader: {type: random_dummy}
"""


@pytest.mark.parametrize(
    "changes",
    [(1.0, 1.0, -1.0, 1.0), (0.5, -0.25, 1.0), (1 / 3, -1.0, 2 / 3, 0.0), (0.31, -1.7, 2.2)],
)
def test_the_test_counts_the_ways_to_turn_the_signs(changes) -> None:
    known = [change for change in changes if change]
    flips = list(itertools.product((1, -1), repeat=len(known)))
    sums = [abs(sum(s * c for s, c in zip(signs, known, strict=True))) for signs in flips]
    expected = sum(total >= abs(sum(known)) - 1e-9 for total in sums) / len(flips)
    assert flip_test(changes).p_value == pytest.approx(expected)


def test_many_uncommon_changes_are_tested_by_draws_that_repeat() -> None:
    changes = [0.1234567 * (index % 7) + 0.01 * index for index in range(30)]
    first = flip_test(changes)
    assert "draws" in first.method and first == flip_test(changes)
    assert first.p_value == pytest.approx(1 / 10_001)
    assert flip_test([]).p_value == flip_test([0.0, 0.0]).p_value == 1.0


def test_a_clear_gain_is_better_and_the_same_the_other_way_round_worse() -> None:
    a, b = (
        evaluated([[0.0]] * 40 + [[1.0]] * 20),
        evaluated([[1.0]] * 20 + [[0.0]] * 20 + [[1.0]] * 20),
    )
    found = compare(a, b)
    success = found.total.success
    assert success and success.interval and success.test
    assert success.mean == pytest.approx(1 / 3) and success.interval.low > 0.15
    assert success.test.method.startswith("McNemar") and success.test.p_value == 2 * 0.5**20
    assert found.verdict.startswith("B is better")
    assert compare(b, a).finding == "worse"
    assert (len(found.won), len(found.lost), found.num_unchanged) == (20, 0, 40)
    assert found.won[0].episode_a == found.won[0].episode_b == "t0-0"


def test_without_a_difference_it_is_said_what_could_have_been_shown() -> None:
    a, b = evaluated([[1.0], [0.0]] * 30), evaluated([[0.0], [1.0]] * 30)
    found = compare(a, b)
    assert found.finding == "no difference shown"
    assert "so many tasks could have shown 0.3" in found.verdict
    same = compare(a, a)
    assert same.finding == "no difference shown" and same.won == same.lost == []


def test_what_one_task_or_failed_episodes_tell_is_not_known() -> None:
    single = compare(evaluated([[0.0]]), evaluated([[1.0]]))
    assert single.finding == "not known" and "a single task" in single.verdict
    failed = compare(evaluated([[0.0], [1.0]]), evaluated([[None], [None]]))
    assert failed.finding == "not known" and "no task was judged" in failed.verdict
    half = compare(evaluated([[0.0], [1.0], [1.0]]), evaluated([[1.0], [None], [1.0]]))
    assert half.num_unpaired == 1 and "1 of 3 tasks have only failed" in half.notes[0]


def test_longer_answers_are_told_as_a_share() -> None:
    own = [outcomes([1.0], name=f"t{i}", tokens=10 + i % 3) for i in range(30)]
    other = [outcomes([1.0], name=f"t{i}", tokens=12 + i % 3) for i in range(30)]
    change = compare(evaluated(own), evaluated(other)).total.sampled_tokens
    assert change and change.interval
    assert change.share == pytest.approx(2 / 11)
    assert change.interval.low < 2 / 11 < change.interval.high


def test_other_settings_and_judges_are_refused_by_name() -> None:
    a = evaluated([[1.0]] * 3, decides={"rollout.val_kwargs.temperature": 0.0})
    b = evaluated([[1.0]] * 3, decides={"rollout.val_kwargs.temperature": 0.7, "x (code)": "1"})
    with pytest.raises(ConfigError, match=r"rollout.val_kwargs.temperature: 0.0 and 0.7"):
        compare(a, b)
    b = evaluated([[1.0]] * 3, decides={"task_judge.judge_protocol": "other->Judge"})
    with pytest.raises(ConfigError, match=r"judge_protocol: 'judge->Judge' and 'other->Judge'"):
        compare(a, b, common_only=True)


def test_other_tasks_are_refused_by_name_and_common_ones_can_be_compared() -> None:
    a = evaluated([outcomes([1.0], name=name) for name in ("x", "y", "z")])
    b = evaluated([outcomes([0.0], name=name) for name in ("z", "y", "w")], name="tuned")
    with pytest.raises(ConfigError, match=r"1 only in small: x\n  1 only in tuned: w"):
        compare(a, b)
    assert compare(a, b, common_only=True).total.num_tasks == 2
    with pytest.raises(ConfigError, match="no task in common"):
        compare(a, evaluated([outcomes([0.0], name="w")]), common_only=True)
    cut = evaluated([outcomes([1.0, 1.0], name="x"), outcomes([1.0], name="y")])
    with pytest.raises(ConfigError, match="is not finished: 1 of 4 episodes"):
        compare(cut, cut)


def tagged(rewards, name: str, kind: str):
    return outcomes(rewards, name=name, tags={"kind": kind})


def gated(own: float, other: float, *, num_tasks: int = 100):
    """A gain on every fifth easy task, and `own` to `other` on the hard ones."""
    easy = range(num_tasks)
    a = [tagged([0.0], f"e{i}", "easy") for i in easy] + [
        tagged([own], f"h{i}", "hard") for i in easy
    ]
    b = [tagged([float(i % 5 == 0)], f"e{i}", "easy") for i in easy]
    b += [tagged([other], f"h{i}", "hard") for i in easy]
    return compare(evaluated(a), evaluated(b))


def outcomes_of(found, **rules) -> list[str]:
    return [rule.outcome for rule in check_gate(found, GateRules(**rules)).rules]


def test_a_gate_passes_what_is_proven_fails_what_is_refuted_and_decides_nothing_else() -> None:
    found = gated(1.0, 1.0)
    assert outcomes_of(found, min_gain=0.0) == ["passed"]
    assert outcomes_of(found, min_gain=0.1) == ["undecided"]
    assert outcomes_of(found, min_gain=0.3) == ["failed"]
    assert outcomes_of(found, not_worse_on={"kind": []}) == ["passed", "passed"]
    assert outcomes_of(gated(1.0, 0.0), not_worse_on={"kind": ["hard"]}) == ["failed"]
    assert outcomes_of(found, max_longer=0.1, max_failed=0.0) == ["passed", "passed"]
    few = check_gate(gated(1.0, 1.0, num_tasks=10), GateRules(not_worse_on={"kind": ["hard"]}))
    assert not few.is_passed and few.rules[0].outcome == "undecided"
    assert "tasks would decide it" not in few.rules[0].message or "about" in few.rules[0].message


def test_a_gate_on_nothing_or_on_a_tag_that_no_task_has_is_refused() -> None:
    found = gated(1.0, 1.0)
    with pytest.raises(ConfigError, match="asks for nothing"):
        check_gate(found, GateRules())
    with pytest.raises(ConfigError, match="no task has a tag 'level'; there are kind"):
        check_gate(found, GateRules(not_worse_on={"level": ["1"]}))
    with pytest.raises(
        ConfigError, match="names 'medium', which no task has; there are easy, hard"
    ):
        check_gate(found, GateRules(not_worse_on={"kind": ["medium"]}))
    tags = {"kind": {"easy", "hard"}}
    check_tags_are_there(GateRules(not_worse_on={"kind": []}), tags)
    with pytest.raises(ConfigError, match="names 'medium', which no task has; there are easy"):
        check_tags_are_there(GateRules(not_worse_on={"kind": ["easy", "medium"]}), tags)


def test_a_gate_passes_nothing_by_accident() -> None:
    rules = GateRules(min_gain=0.0, max_longer=1.0, max_failed=0.5, guard="guard.jsonl")
    for tasks in ([[None], [None]], [[1.0]]):
        result = check_gate(compare(evaluated(tasks), evaluated(tasks)), rules)
        assert not result.is_passed
        assert {rule.outcome for rule in result.rules[:2]} == {"undecided"}
    assert "astuner evaluate --split guard.jsonl" in result.rules[2].message
    unseen = compare(evaluated([[1.0]] * 3), evaluated([[1.0]] * 3))
    guarded = check_gate(unseen, GateRules(guard="g", max_drop=0.9), guard=unseen)
    assert guarded.is_passed


def test_the_command_compares_gates_and_writes_what_ci_reads(tmp_path: Path, capsys) -> None:
    base = write_evaluation(tmp_path, {f"{'ab'[i % 2]}{i}": [0.0] for i in range(40)}, name="base")
    tuned = write_evaluation(
        tmp_path, {f"{'ab'[i % 2]}{i}": [float(i < 30), 0.0][:1] for i in range(40)}, name="tuned"
    )
    (tuned / "config.yaml").write_text(CONFIG)
    conf = tmp_path / "gate.yaml"
    conf.write_text("astuner: {evaluation: {gate: {min_gain: 0.5, not_worse_on: {kind: [a]}}}}")
    junit, report = tmp_path / "out" / "gate.xml", tmp_path / "gate.json"
    command = ["compare", "base", "tuned", "--exp-dir", str(tmp_path), "--by", "kind"]
    gate = ["--gate", "--conf", str(conf), "--junit", str(junit), "--gate-json", str(report)]
    assert main([*command, *gate]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("B is better, models/small: +0.750")
    assert f"/runs/tuned/{tuned.name}/episodes/" in shown and "kind=a success" in shown
    suite = ElementTree.parse(junit).getroot()
    assert suite.attrib == {"tests": "2", "failures": "0", "errors": "0"}
    conf.write_text("astuner: {evaluation: {gate: {min_gain: 0.9}}}")
    assert main([*command, *gate, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["finding"] == "better" and found["gate"] == json.loads(report.read_text())
    assert "failed" in ElementTree.parse(junit).getroot()[0][0][0].attrib["message"]
    assert main([*command, "--junit", str(junit)]) == 2
    assert main(["compare", str(base)]) == 2
    assert "single evaluation" in capsys.readouterr().err


def test_a_disk_that_fills_leaves_the_files_of_a_gate_as_they_were(tmp_path: Path) -> None:
    a, b = evaluated([[0.0]] * 8), evaluated([[1.0]] * 8)
    found = compare(a, b)
    result = check_gate(found, GateRules(min_gain=0.0))
    paths = [tmp_path / "gate.xml", tmp_path / "gate.json"]
    for path, write in zip(paths, (write_junit, write_gate_json), strict=True):
        path.write_text("as it was")
        with largest_file(100), pytest.raises(AstunerError, match=f"writing {path}: .*again"):
            write(path, found, result)
        assert path.read_text() == "as it was"
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    write_gate_json(Path(os.devnull), found, result)  # is no file to be replaced


def test_guard_tasks_are_found_beside_what_is_compared(tmp_path: Path) -> None:
    from astuner.evaluation.guard import find_guard
    from astuner.evaluation.read import read_evaluated

    tuned = write_evaluation(tmp_path, {"a1": [1.0], "a2": [1.0]})
    guard = write_evaluation(
        tmp_path, {"g1": [0.0]}, start="2026-01-31_10-00-00", split="far/g.jsonl"
    )
    model = read_evaluated(tuned)
    found = find_guard(model, "g.jsonl")
    assert found is not None and found.run_dir == str(guard)
    assert find_guard(model, "other.jsonl") is None


def test_guard_tasks_are_told_from_others_in_a_file_of_the_same_name(tmp_path: Path) -> None:
    from astuner.evaluation.guard import find_guard
    from astuner.evaluation.read import read_evaluated

    ours, theirs, moved = (tmp_path / name / "g.jsonl" for name in ("ours", "theirs", "moved"))
    for path, question in ((ours, "2 + 3?"), (theirs, "a capital?"), (moved, "2 + 3?")):
        path.parent.mkdir()
        path.write_text(json.dumps({"main_query": question}) + "\n")
    tuned = write_evaluation(tmp_path, {"a1": [1.0]})
    on_ours = write_evaluation(
        tmp_path, {"g1": [0.0]}, start="2026-01-31_10-00-00", split=str(ours), file=ours
    )
    write_evaluation(
        tmp_path, {"h1": [1.0]}, start="2026-01-31_11-00-00", split=str(theirs), file=theirs
    )
    model = read_evaluated(tuned)
    for named in (str(ours), str(moved)):
        found = find_guard(model, named)
        assert found is not None and found.run_dir == str(on_ours)
    found = find_guard(model, "g.jsonl", [ours.parent])
    assert found is not None and found.run_dir == str(on_ours)
    with pytest.raises(ConfigError, match=r"theirs/g\.jsonl, .*ours/g\.jsonl lie beside"):
        find_guard(model, "g.jsonl")
    assert find_guard(model, "mine/g.jsonl") is None


def test_a_run_compares_its_validations_and_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    root = make_run(tmp_path)
    (root / "config.yaml").write_text(CONFIG)
    for step, solved in ((0, 2), (5, 9)):
        lines = [record(f"v{i}", task_id=f"<t{i}>", reward=float(i < solved)) for i in range(9)]
        write_lines(root / "episodes" / f"validation_{step:06d}.jsonl", lines)
    write_lines(
        root / "metrics.jsonl",
        [{"step": step, "validation/success_rate": step / 9} for step in (0, 5)],
    )
    result = RunResult(run_dir=root)
    found = result.compare()
    assert found.finding == "better" and len(found.won) == 7
    shown = found._repr_html_()
    assert "&lt;t2&gt;" in shown and "<t2>" not in shown
    assert "<polyline" in result._repr_html_()
    assert main(["compare", str(root), "--limit", "0"]) == 0
    empty = RunResult(run_dir=tmp_path / "gone")._repr_html_()
    assert "<polyline" not in empty and "gone" in empty
