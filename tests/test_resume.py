"""Going on from checkpoints: which one is taken, which are refused, what is kept."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.backbone.local.run_state import from_record
from astuner.cli import main
from astuner.errors import BackboneError, ConfigError
from astuner.models.checkpoint import read_record
from astuner.models.whole_folder import check_room
from astuner.run_dir import RunDir, read_json_lines
from tests.test_local_run import taught_model, write_conf  # noqa: F401


@pytest.fixture(scope="module")
def finished(taught_model, tmp_path_factory):  # noqa: F811
    """A folder with a YAML and its run of four steps, the last two saved."""
    folder = tmp_path_factory.mktemp("finished")
    write_conf(folder, taught_model)
    change(folder, total_training_steps=4, test_freq=4, keep_checkpoints=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["--conf", "adder.yaml"]) == 0
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A copy of it, which is the current folder."""
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def change(folder: Path, **common: object) -> None:
    conf = folder / "adder.yaml"
    settings = yaml.safe_load(conf.read_text())
    settings["astuner"]["trainer_common"] |= common
    conf.write_text(yaml.safe_dump(settings))


def run_dir(folder: Path) -> RunDir:
    (run,) = (p for p in (folder / "launcher_record/adder").iterdir() if not p.is_symlink())
    return RunDir(root=run)


def resume(capsys, *overrides: str) -> tuple[int, str]:
    """Exit code and what stood on the screen, in one line."""
    code = main(["--conf", "adder.yaml", "--resume", *overrides])
    return code, " ".join(capsys.readouterr().err.split())


def test_the_newest_and_the_best_checkpoint_stay(folder, capsys):
    run = run_dir(folder)
    assert list(run.checkpoints()) == [4, 3]
    assert (run.checkpoints_dir / "best").resolve() == run.checkpoint_dir(4).resolve()
    code, _ = resume(capsys, "astuner.trainer_common.total_training_steps=7")
    assert code == 0
    rates = {
        line["step"]: line["validation/success_rate"]
        for line in read_json_lines(run.metrics_file)
        if line["step"] and "validation/success_rate" in line
    }
    best = max(rates, key=lambda step: (rates[step], -step))
    assert set(run.checkpoints()) == {7, 6, best}
    assert (run.checkpoints_dir / "best").resolve() == run.checkpoint_dir(best).resolve()


def test_a_finished_run_has_nothing_left_to_do_and_changes_nothing(folder, capsys):
    run = run_dir(folder)
    before = run.metrics_file.read_text()
    code, screen = resume(capsys)
    assert code == 0
    assert "resuming from" in screen and "step_4" in screen
    assert run.metrics_file.read_text() == before
    assert (run.root / "config_2.yaml").is_file()


def test_what_a_kill_kept_from_being_dropped_is_dropped_by_the_next_start(folder, capsys):
    run = run_dir(folder)
    shutil.copytree(run.checkpoint_dir(3), run.checkpoint_dir(2))
    (run.checkpoints_dir / "best").unlink()
    assert resume(capsys)[0] == 0
    assert list(run.checkpoints()) == [4, 3]
    assert (run.checkpoints_dir / "best").resolve() == run.checkpoint_dir(4).resolve()


@pytest.mark.parametrize("harm", ["cut", "changed", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(folder, capsys, harm):
    run = run_dir(folder)
    weights = run.checkpoint_dir(4) / "model.safetensors"
    content = weights.read_bytes()
    if harm == "no manifest":
        (run.checkpoint_dir(4) / "manifest.json").unlink()
    elif harm == "missing":
        weights.unlink()
    else:
        weights.write_bytes(
            content[:-5] if harm == "cut" else content[:-1] + bytes([content[-1] ^ 1])
        )
    code, screen = resume(capsys)
    assert code == 0
    assert "not resumed from step_4" in screen and "resuming from" in screen and "step_3" in screen
    assert read_record(run.checkpoint_dir(4))["step"] == 4
    assert len(list(run.root.glob("set_aside/*/checkpoints/step_4"))) == 1
    assert [line["step"] for line in read_json_lines(run.metrics_file)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("file", ["manifest.json", "astuner.json"])
@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", "[" * 100_000, '{"a":' * 100_000, "\0"])
def test_a_checkpoint_whose_list_or_record_is_not_one_is_damaged(folder, file, text):
    checkpoint = run_dir(folder).checkpoint_dir(4)
    (checkpoint / file).write_text(text)
    with pytest.raises(BackboneError, match="step_4 is damaged"):
        read_record(checkpoint)
    if file == "astuner.json":
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        digest = hashlib.sha256(text.encode()).hexdigest()
        manifest[file] = {"bytes": len(text), "sha256": digest}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(BackboneError):
            from_record(read_record(checkpoint))


def test_a_list_that_leaves_out_what_resuming_needs_is_damaged(folder):
    checkpoint = run_dir(folder).checkpoint_dir(4)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["training_state.safetensors"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BackboneError, match=r"does not list training_state\.safetensors"):
        read_record(checkpoint)


def test_the_folder_of_another_step_is_passed_over_with_the_reason(folder, capsys):
    run = run_dir(folder)
    shutil.copytree(run.checkpoint_dir(3), run.checkpoint_dir(9))
    code, screen = resume(capsys)
    assert code == 0
    assert "not resumed from step_9: it holds step 3" in screen
    assert "resuming from" in screen and "step_4" in screen


def test_a_run_that_was_given_its_name_is_gone_on_in(folder, capsys):
    run = run_dir(folder)
    code, screen = resume(capsys, run.root.name, "astuner.trainer_common.total_training_steps=5")
    assert code == 0 and "resuming from" in screen
    assert max(run.checkpoints()) == 5


def test_two_runs_of_one_yaml_go_on_each_with_its_seed(folder, capsys):
    first, seed, steps = run_dir(folder), "astuner.trainer_common.seed=2", "total_training_steps="
    assert main(["--conf", "adder.yaml", seed, f"astuner.trainer_common.{steps}1"]) == 0
    second = RunDir.latest(folder / "launcher_record", "adder")
    assert resume(capsys, f"astuner.trainer_common.{steps}5")[0] == 0
    assert resume(capsys, seed, f"astuner.trainer_common.{steps}2")[0] == 0
    assert second is not None and max(first.checkpoints()) == 5 and max(second.checkpoints()) == 2
    code, screen = resume(capsys, "astuner.trainer_common.seed=3")
    assert code == 2 and f"{second.root.name}: trainer_common.seed: 2 → 3" in screen


def test_without_a_whole_checkpoint_nothing_is_touched(folder, capsys):
    run = run_dir(folder)
    for checkpoint in run.checkpoints().values():
        (checkpoint / "config.json").write_text("{}")
    code, screen = resume(capsys)
    assert code == 1
    assert "no checkpoint in" in screen and "config.json is not as it was written" in screen
    assert not (run.root / "set_aside").exists()


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("astuner.trainer_common.optim.lr=0.5", "trainer_common.optim.lr: 0.0001 → 0.5"),
        ("astuner.rollout.num_repeat=3", "rollout.num_repeat: 4 → 3"),
    ],
)
def test_settings_that_make_another_run_are_refused(folder, capsys, override, found):
    code, screen = resume(capsys, override)
    assert code == 2
    assert found in screen and "without --resume" in screen


def test_other_settings_may_differ_and_are_told(folder, capsys):
    code, screen = resume(capsys, "astuner.rollout.temperature=0.5")
    assert code == 0
    assert "resumed with another setting: rollout.temperature: 1.0 → 0.5" in screen


def test_a_run_that_is_resumed_with_another_key_writes_and_prints_neither(
    taught_model,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROJECT", "private-project")
    write_conf(tmp_path, taught_model)
    change(tmp_path, total_training_steps=1, val_before_train=False)
    key = "astuner.task_reader.data_generation.filter.params.api_key"
    own = ["+my.HF_TOKEN=private-3", "+my.url='http://me:private-4@h'"]
    own.append("astuner.project_name='${oc.env:PROJECT}'")
    assert main(["--conf", "adder.yaml", f"{key}=private-1", *own]) == 0
    more = "astuner.trainer_common.total_training_steps=2"
    code, screen = resume(capsys, f"{key}=private-2", *own, more)
    assert code == 0 and "resuming from" in screen and "private-" not in screen
    files = [path for path in (tmp_path / "launcher_record").rglob("*") if path.is_file()]
    assert [path.name for path in files if path.name == "config_2.yaml"]
    assert [path for path in files if b"private-" in path.read_bytes()] == []


def test_other_tasks_are_refused(folder, capsys):
    tasks = folder / "tasks.jsonl"
    tasks.write_text(tasks.read_text().replace('"answer": "5"', '"answer": "6"'))
    code, screen = resume(capsys)
    assert code == 2
    assert "the training tasks are not those of the checkpoint" in screen


def test_without_an_earlier_run_it_begins(taught_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, taught_model)
    change(tmp_path, total_training_steps=1, val_before_train=False)
    code, screen = resume(capsys)
    assert code == 0
    assert "nothing to resume" in screen
    assert list(run_dir(tmp_path).checkpoints()) == [1]


def test_a_run_directory_serves_one_process_at_a_time(tmp_path):
    run = RunDir.create(tmp_path, "agent")
    with run.in_use(), pytest.raises(ConfigError, match="another process works"), run.in_use():
        pass
    with run.in_use():
        pass


def test_a_disk_without_room_for_a_checkpoint_is_told_before_training(tmp_path):
    check_room(tmp_path / "checkpoints", 1000)
    with pytest.raises(BackboneError, match=r"it needs about 1,000,000,000,000\.0 MB"):
        check_room(tmp_path / "checkpoints", 10**18)


def test_a_checkpoint_says_where_the_run_stood(folder):
    record = json.loads((run_dir(folder).checkpoint_dir(4) / "astuner.json").read_text())
    assert record["step"] == record["state"]["weight_version"] == 4
    assert record["base_model"]
