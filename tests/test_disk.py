"""What a run keeps on its disk: whether it fits, what is dropped, what the rest is good for."""

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.backbone.episode_writer import EpisodeWriter
from astuner.backbone.local.disk import DiskFacts, DiskPlan, check_fit, estimate_disk
from astuner.backbone.record_bound import NUM_STEPS_KEPT, RecordBound, records_bytes
from astuner.cli import main
from astuner.errors import BackboneError
from astuner.models.checkpoint import read_record
from astuner.models.manifest import drop_training_state, has_training_state
from astuner.run_dir import RunDir, append_json_line, read_json_lines
from tests.test_local_run import taught_model, write_conf  # noqa: F401
from tests.test_resume import change, finished, folder, resume, run_dir  # noqa: F401
from tests.test_roles import make_episode

STATE = "training_state.safetensors"
PLAN = DiskPlan(
    keep_checkpoints=3,
    save_optimizer="all",
    max_records_bytes=None,
    has_best=True,
    num_saves=10,
    num_steps=100,
)
FACTS = DiskFacts(
    weights_bytes=200_000_000,
    state_bytes=1_600_000_000,
    num_checkpoints=0,
    num_states=0,
    records_bytes=0,
    step_bytes=1_000_000,
    is_measured=False,
    free_bytes=10_000_000_000,
)


@pytest.mark.parametrize(
    ("changes", "num_checkpoints", "num_states"),
    [
        ({}, 5, 5),  # three, the best, and the one in the making
        ({"has_best": False}, 4, 4),
        ({"num_saves": 2}, 2, 2),
        ({"num_saves": 0}, 0, 0),
        ({"keep_checkpoints": None}, 10, 10),
        ({"save_optimizer": "latest"}, 5, 2),
        ({"save_optimizer": "latest", "num_saves": 1}, 1, 1),
        ({"save_optimizer": "never"}, 5, 0),
    ],
)
def test_the_estimate_counts_what_is_kept_at_the_worst_moment(changes, num_checkpoints, num_states):
    need = estimate_disk(replace(PLAN, **changes), FACTS)
    assert need.num_checkpoints == num_checkpoints
    sizes = num_checkpoints * FACTS.weights_bytes + num_states * FACTS.state_bytes
    assert need.checkpoints_bytes == sizes
    assert need.records_bytes == 100_000_000


@pytest.mark.parametrize(
    ("there", "num_saves", "more"), [(4, 5, 1), (4, 0, 0), (1, 2, 2), (9, 3, 1)]
)
def test_checkpoints_that_are_there_already_need_no_room(there, num_saves, more):
    facts = replace(FACTS, num_checkpoints=there, num_states=there)
    need = estimate_disk(replace(PLAN, num_saves=num_saves), facts)
    assert need.checkpoints_bytes == more * (FACTS.weights_bytes + FACTS.state_bytes)


def test_bounded_records_need_no_more_than_their_bound():
    plan = replace(PLAN, max_records_bytes=30_000_000)
    assert estimate_disk(plan, FACTS).records_bytes == 30_000_000
    facts = replace(FACTS, records_bytes=20_000_000)
    assert estimate_disk(plan, facts).records_bytes == 10_000_000


def test_a_run_that_cannot_fit_is_told_what_would():
    facts = replace(FACTS, free_bytes=5_000_000_000)
    with pytest.raises(BackboneError) as caught:
        check_fit(PLAN, facts, folder=Path("runs/a"))
    said = str(caught.value)
    assert "will not fit into runs/a" in said and "5 checkpoints of" in said
    assert "9.10 GB" in said and "5.00 GB are free" in said
    assert "It fits with astuner.trainer_common.save_optimizer=latest" in said
    with pytest.raises(BackboneError, match=r"that disk\. Free some space, or give another folder"):
        check_fit(PLAN, replace(FACTS, free_bytes=100_000_000), folder=Path("runs/a"))


def test_only_records_that_were_measured_keep_a_run_from_starting():
    facts = replace(FACTS, step_bytes=1_000_000_000)
    first, warning = check_fit(PLAN, facts, folder=Path("runs/a"))
    assert first.startswith("disk: at most 109.00 GB") and "max_records_mb" in warning
    with pytest.raises(BackboneError, match="records as so far"):
        check_fit(PLAN, replace(facts, is_measured=True), folder=Path("runs/a"))
    bounded = replace(PLAN, max_records_bytes=500_000_000)
    assert len(check_fit(bounded, replace(facts, is_measured=True), folder=Path("runs/a"))) == 1


def test_a_run_says_what_it_needs_before_its_first_step(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, taught_model)
    change(tmp_path, total_training_steps=1, val_before_train=False)
    assert main(["--conf", "adder.yaml"]) == 0
    screen = capsys.readouterr().err
    assert re.search(r"disk: at most .* \(1 checkpoints? of", screen)
    assert "(1 checkpoint of" in screen
    assert screen.index("disk: at most") < screen.index("step 1/1")
    estimated = re.search(r"checkpoints? of ([\d.]+) MB and ([\d.]+) MB of training state", screen)
    assert estimated is not None
    found = sum(p.stat().st_size for p in run_dir(tmp_path).checkpoint_dir(1).iterdir())
    assert found / 1e6 == pytest.approx(float(estimated[1]) + float(estimated[2]), rel=0.2)


def test_only_the_newest_checkpoint_has_its_training_state(folder, capsys):  # noqa: F811
    run = run_dir(folder)
    change(folder, save_optimizer="latest", total_training_steps=6)
    assert resume(capsys)[0] == 0
    checkpoints = run.checkpoints()
    assert {step: (path / STATE).exists() for step, path in checkpoints.items()} == {
        step: step == 6 for step in checkpoints
    }
    assert len(checkpoints) >= 2
    assert [read_record(path)["step"] for path in checkpoints.values()] == list(checkpoints)
    code, screen = resume(capsys, "astuner.trainer_common.total_training_steps=7")
    assert code == 0 and "begins anew" not in screen


def test_what_a_run_learns_does_not_depend_on_which_training_states_are_kept(folder, capsys):  # noqa: F811
    copy = folder.parent / "other"
    shutil.copytree(folder, copy, symlinks=True)
    for place, kept in ((folder, "all"), (copy, "latest")):
        change(place, save_optimizer=kept)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            assert resume(capsys, "astuner.trainer_common.total_training_steps=6")[0] == 0
    one, other = (run_dir(place).checkpoint_dir(6) for place in (folder, copy))
    for name in ("model.safetensors", STATE):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_without_a_training_state_the_optimizer_begins_anew_and_says_so(folder, capsys):  # noqa: F811
    run = run_dir(folder)
    change(folder, save_optimizer="never", total_training_steps=5)
    assert resume(capsys)[0] == 0
    assert [path.name for path in run.checkpoints_dir.rglob(STATE)] == []
    code, screen = resume(capsys, "astuner.trainer_common.total_training_steps=6")
    assert code == 0
    assert "warning: step_5 holds weights only (trainer_common.save_optimizer)" in screen
    assert "not as if never interrupted" in screen
    line = list(read_json_lines(run.metrics_file))[-1]
    assert line["step"] == 6 and line["train/updates"] == 1
    record = json.loads((run.checkpoint_dir(6) / "astuner.json").read_text())
    assert record["state"]["num_updates"] == 6


def test_an_adapter_goes_on_from_its_weights_alone(taught_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, taught_model)
    change(tmp_path, total_training_steps=2, save_optimizer="never", optim={"lr": 1e-3})
    lora = "astuner.model.lora.rank=2"
    assert main(["--conf", "adder.yaml", lora]) == 0
    run = run_dir(tmp_path)
    before = load_file(run.checkpoint_dir(2) / "adapter_model.safetensors")
    assert any(weight.any() for name, weight in before.items() if "lora_B" in name)
    code, screen = resume(capsys, lora, "astuner.trainer_common.total_training_steps=3")
    assert code == 0 and "step_2 holds weights only" in screen
    after = load_file(run.checkpoint_dir(3) / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    # One update of this rate moves no weight by more than about that.
    assert all((after[name] - before[name]).abs().max() < 5e-3 for name in before)


def test_a_kill_while_a_training_state_is_dropped_leaves_a_whole_checkpoint(folder):  # noqa: F811
    checkpoint = run_dir(folder).checkpoint_dir(4)
    content = (checkpoint / STATE).read_bytes()
    drop_training_state(checkpoint)
    assert not (checkpoint / STATE).exists() and not has_training_state(checkpoint)
    (checkpoint / STATE).write_bytes(content)  # as it is where the kill came before the deletion
    assert read_record(checkpoint)["step"] == 4 and not has_training_state(checkpoint)
    drop_training_state(checkpoint)
    assert not (checkpoint / STATE).exists()


def write_records(run: RunDir, *, steps: int) -> None:
    for step in range(1, steps + 1):
        append_json_line(run.episodes_file(step, "train"), {"text": "x" * 99_000})
    append_json_line(run.episodes_file(1, "validation"), {"text": "x" * 99_000})


def test_the_oldest_records_of_training_are_deleted_beyond_the_bound(tmp_path, caplog):
    run = RunDir(root=tmp_path)
    write_records(run, steps=20)
    bound = RecordBound(run, 1_000_000)
    with caplog.at_level(logging.INFO):
        bound.apply()
        bound.apply()
    assert 900_000 < records_bytes(run) <= 1_000_000
    assert run.step_files()[0].name == "step_000012.jsonl"
    assert run.episodes_file(1, "validation").is_file()
    assert caplog.text.count("max_records_mb=1") == 1
    assert "first=episodes/step_000001.jsonl" in caplog.text


def test_the_newest_steps_and_validations_stay_whatever_they_take(tmp_path):
    run = RunDir(root=tmp_path)
    write_records(run, steps=20)
    RecordBound(run, 1).apply()
    assert len(run.step_files()) == NUM_STEPS_KEPT
    assert run.episodes_file(1, "validation").is_file()


def test_what_was_trained_goes_with_the_episodes_of_its_step(tmp_path):
    run = RunDir(root=tmp_path)
    write_records(run, steps=12)
    for step in range(1, 13):
        append_json_line(run.training_file(step), {"text": "x" * 99_000})
    RecordBound(run, 1).apply()
    kept = [path.name for path in run.step_files()]
    assert len(kept) == NUM_STEPS_KEPT
    assert [path.name for path in run.training_files()] == kept


def test_what_was_put_aside_goes_before_the_records_of_the_run(tmp_path):
    run = RunDir(root=tmp_path)
    write_records(run, steps=12)
    append_json_line(run.metrics_file, {"step": 1})
    append_json_line(run.metrics_file, {"step": 12})
    (run.checkpoint_dir(12)).mkdir(parents=True)
    (run.checkpoint_dir(12) / "model.safetensors").write_bytes(b"x" * 500_000)
    append_json_line(run.episodes_file(12, "validation"), {})
    away = run.set_aside(after_step=11, is_logged=True)
    assert away is not None
    RecordBound(run, 1_250_000).apply()
    left = sorted(p.relative_to(away).as_posix() for p in away.rglob("*") if p.is_file())
    assert left == ["episodes/validation_000012.jsonl", "metrics.jsonl"]
    assert len(run.step_files()) == 11


def test_the_bound_holds_while_a_run_writes(tmp_path):
    run = RunDir(root=tmp_path)
    write_records(run, steps=20)
    with EpisodeWriter(run, max_records_mb=1) as writer:
        writer.write(replace(make_episode(0, 1.0), step=21))
        writer.write(replace(make_episode(1, 1.0), step=21))
    assert records_bytes(run) <= 1_000_000 + run.episodes_file(21, "train").stat().st_size
    assert len(list(read_json_lines(run.episodes_file(21, "train")))) == 2
