"""Which run `--resume` goes on in, with a name and without one."""

import shutil
from pathlib import Path

import pytest
import yaml

from astuner.backbone.earlier_run import find_named, find_newest
from astuner.cli import main
from astuner.cli.command import load_command
from astuner.config.load import LoadedConfig, load_config, save_resolved
from astuner.config.same_run import compare_settings
from astuner.errors import ConfigError
from astuner.run_dir import RunDir


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A YAML in the current directory."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "model": {"path": "some/model"},
        "rollout": {"agentscope_workflow": "agents->Adder"},
    }
    Path("adder.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return tmp_path


def load(*overrides: str) -> LoadedConfig:
    return load_config(Path("adder.yaml"), [f"astuner.{override}" for override in overrides])


def start(*overrides: str, step: int | None = 3, trains: bool = True) -> RunDir:
    """What a run leaves, with a checkpoint of that step."""
    loaded = load(*overrides)
    run = RunDir.create(loaded.experiment_dir, loaded.experiment_name, is_latest=trains)
    save_resolved(loaded.config, run.new_config_file())
    if step is not None:
        run.checkpoint_dir(step).mkdir(parents=True)
    return run


def test_two_runs_of_one_yaml_with_different_seeds_resume_each() -> None:
    for key in ("rollout.seed", "trainer_common.seed"):
        first, second = start(f"{key}=1"), start(f"{key}=2")
        assert find_newest(load(f"{key}=1")) == first
        assert find_newest(load(f"{key}=2")) == second


def test_the_newest_of_equal_settings_that_has_a_checkpoint_is_taken() -> None:
    start()
    newest = start("trainer_common.total_epochs=7")
    start(step=None)
    assert find_newest(load("rollout.temperature=0.5")) == newest


def test_a_run_of_another_backbone_is_not_taken() -> None:
    ours = start()
    start("backbone=trinity")
    assert find_newest(load()) == ours


def test_where_no_settings_agree_the_runs_are_named_with_what_differs() -> None:
    runs = [start(f"rollout.seed={seed}", "trainer_common.optim.lr=0.5") for seed in range(6)]
    with pytest.raises(ConfigError) as caught:
        find_newest(load("rollout.seed=9"))
    said = str(caught.value)
    assert f"{runs[5].root.name}: rollout.seed: 5 → 9; trainer_common.optim.lr: 0.5 → 1e-06" in said
    assert runs[1].root.name in said and "rollout.seed: 0 →" not in said and "1 older" in said


def test_an_evaluation_is_never_gone_on_in_and_hides_no_run_that_trains() -> None:
    trained = start("rollout.seed=1")
    evaluated = start("rollout.seed=2", step=None, trains=False)
    assert (
        find_newest(load("rollout.seed=1"))
        == trained
        == find_named(load("rollout.seed=1"), "latest")
    )
    with pytest.raises(ConfigError, match="no run of adder has a checkpoint and these settings"):
        find_newest(load("rollout.seed=2"))
    evaluated.checkpoint_dir(3).mkdir(parents=True)
    with pytest.raises(ConfigError, match="is of kind evaluation, which trains nothing"):
        find_named(load("rollout.seed=2"), evaluated.root.name)


def test_a_run_of_a_release_that_had_no_test_is_gone_on_in() -> None:
    run = start()
    saved = yaml.safe_load(run.config_file.read_text())
    for section in saved["astuner"]["task_reader"].values():
        for key in ("test", "test_split", "num_test_tasks", "test_path", "test_fraction"):
            if isinstance(section, dict):
                section.pop(key, None)
    run.config_file.write_text(yaml.safe_dump(saved))
    test = "task_reader.huggingface_dat_repo.test_split=test"
    assert find_newest(load(test)) == run
    changes = compare_settings(saved["astuner"], load(test).settings)
    assert changes.refused == ()
    assert [line.partition(":")[0] for line in changes.told] == [
        "task_reader.huggingface_dat_repo.test_split"
    ]


def test_a_run_that_had_not_come_to_a_checkpoint_begins_anew() -> None:
    start("rollout.seed=1")
    start("rollout.seed=2", step=None)
    assert find_newest(load("rollout.seed=2")) is None


@pytest.mark.parametrize("text", ["", "[]", "null", "a: [", "astuner: 3", "[" * 5000, "\0"])
def test_a_damaged_configuration_is_never_taken_for_the_same(text: str) -> None:
    sound, damaged = start(), start()
    damaged.config_file.write_text(text)
    assert find_newest(load()) == sound
    shutil.rmtree(sound.root)
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read"):
        find_newest(load())
    assert find_named(load(), damaged.root.name) == damaged


def test_a_run_is_named_by_its_start_its_folder_or_a_link() -> None:
    first = start()
    second = start()
    as_time = first.root.name.replace("_", " ", 1)
    day, _, time = as_time.partition(" ")
    names = [first.root.name, str(first.root), f"launcher_record/adder/{first.root.name}"]
    names += [f"{day}T{time.replace('-', ':')}", f"{day} {time.replace('-', ':')}"]
    for name in names:
        assert find_named(load(), name) == first, name
    assert find_named(load(), "latest") == second
    assert find_named(load(), "launcher_record/adder/latest") == second
    link = second.root.with_name("latest")
    link.unlink()
    link.write_text(f"{second.root.name}\n")  # where links are not possible
    assert find_named(load(), "latest") == second
    moved = first.root.rename("kept")
    assert find_named(load(), "kept").root == moved.absolute()


def test_a_name_that_no_run_has_is_told_those_that_there_are() -> None:
    run = start()
    with pytest.raises(ConfigError, match=f"no such run in .*there are {run.root.name}"):
        find_named(load(), "2020-01-01_00-00-00")
    bare = start(step=None)
    with pytest.raises(ConfigError, match="has no checkpoint to go on from"):
        find_named(load(), bare.root.name)


def test_a_named_run_of_other_settings_is_refused_with_what_differs() -> None:
    run = start("rollout.seed=1")
    start("rollout.seed=2")
    with pytest.raises(ConfigError, match=r"cannot resume: .*rollout\.seed: 1 → 2"):
        find_named(load("rollout.seed=2"), run.root.name)


def test_another_discount_over_calls_makes_another_run() -> None:
    by_calls = "trainer_common.algorithm.adv_estimator=return_to_go"
    run = start(by_calls, "rollout.gamma=0.5")
    assert find_newest(load(by_calls, "rollout.gamma=0.5")) == run
    with pytest.raises(ConfigError, match=r"rollout\.gamma: 0\.5 → 1\.0"):
        find_newest(load(by_calls))


def test_a_run_from_before_paths_were_absolute_agrees() -> None:
    Path("model").mkdir()
    run = start("model.path=model")
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace(str(Path("model").absolute()), "model"))
    assert "path: model\n" in run.config_file.read_text()
    assert find_newest(load("model.path=./model")) == run


def test_a_project_that_was_moved_agrees_with_its_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = project / "before"
    (inner / "model").mkdir(parents=True)
    shutil.copy("adder.yaml", inner)
    monkeypatch.chdir(inner)
    name = start("model.path=model").root.name
    inner.rename(project / "after")
    monkeypatch.chdir(project / "after")
    found = find_newest(load("model.path=model"))
    assert found is not None and found.root == project / "after/launcher_record/adder" / name
    Path("other").mkdir()
    with pytest.raises(ConfigError, match=r"model\.path"):
        find_newest(load("model.path=other"))


@pytest.mark.parametrize(
    ("arguments", "resume", "overrides"),
    [
        ([], False, []),
        (["--resume"], True, []),
        (["--resume", "2026-01-31_09-30-00"], "2026-01-31_09-30-00", []),
        (["--resume=runs/a=b"], "runs/a=b", []),
        (["--resume", "./a=b"], "./a=b", []),
        (["a.x=2", "--resume", "a.x=1", "+a.y=1"], True, ["a.x=2", "a.x=1", "+a.y=1"]),
        (["--resume", "++a.x=1", "--with-ray"], True, ["++a.x=1"]),
        (["--resume", "~a.x"], True, ["~a.x"]),
        (["--resume", "~/runs/a"], "~/runs/a", []),
        (["--resume", "--with-ray", "a.x=1"], True, ["a.x=1"]),
        (["--resume", "monday", "a.x=1"], "monday", ["a.x=1"]),
        (["--resume", ""], True, []),
    ],
)
def test_an_override_behind_the_flag_is_no_name(
    arguments: list[str], resume: bool | str, overrides: list[str]
) -> None:
    parser = load_command("tune").make_parser()
    parsed = parser.parse_intermixed_args(["--conf", "adder.yaml", *arguments])
    assert (parsed.resume, parsed.overrides) == (resume, overrides)


def test_a_wrong_name_is_bad_usage_and_begins_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("agents.py").write_text(
        "from astuner import Workflow\n"
        "class Adder(Workflow):\n"
        "    async def execute(self, workflow_task, model_tuner): ...\n"
    )
    run = start()
    assert main(["--conf", "adder.yaml", "--resume", "monday"]) == 2
    assert "--resume monday: no such run" in capsys.readouterr().err
    folders = [p for p in run.root.parent.glob("[!.]*") if not p.is_symlink()]
    assert folders == [run.root]


def test_a_clock_that_went_back_does_not_hide_the_newest_run() -> None:
    ahead = start()
    ahead.root.rename(ahead.root.with_name("2099-01-01_00-00-00"))
    after_it_went_back = start()
    assert find_newest(load()) == after_it_went_back
