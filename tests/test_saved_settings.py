"""The configuration that a run saved, used once more with other settings over it."""

from pathlib import Path

import pytest
import yaml

from astuner.config.load import load_config, load_saved, save_resolved
from astuner.config.same_run import compare_settings
from astuner.config.saved import laid_over, what_was_set
from astuner.errors import ConfigError

OWN = {
    "model": {"path": "tiny"},
    "rollout": {"agentscope_workflow": "a.b->C", "temperature": 0.25},
    "task_reader": {"type": "random_dummy"},
}


@pytest.fixture
def save(tmp_path, monkeypatch):
    """The file that a run of these settings writes, and how it was loaded."""
    monkeypatch.chdir(tmp_path)

    def saved(more=(), **settings):
        conf = tmp_path / "conf.yaml"
        conf.write_text(yaml.safe_dump({"astuner": OWN | settings, **dict(more)}))
        loaded = load_config(conf)
        save_resolved(loaded.config, tmp_path / "saved.yaml", shown_as=loaded.shown_as)
        return tmp_path / "saved.yaml", loaded

    return saved


def test_what_a_run_saved_gives_the_same_settings_again(save):
    file, loaded = save({"mine": {"v1.5": "\\${not} of ours", "list": [1, {"a": 2}]}})
    again = load_saved(file)
    assert again.settings == loaded.settings
    assert again.config.mine == loaded.config.mine


def test_overrides_stand_over_a_file_and_that_over_what_was_saved(save, tmp_path):
    file, _ = save()
    over = tmp_path / "over.yaml"
    over.write_text("astuner:\n  rollout:\n    temperature: 0.5\n    seed: 7\n")
    loaded = load_saved(file, ["astuner.rollout.seed=8"], conf_file=over)
    rollout = loaded.settings.rollout
    assert (rollout.temperature, rollout.seed) == (0.5, 8)
    assert rollout.agentscope_workflow == "a.b->C"


def test_a_model_given_anew_is_asked_by_each_use_that_named_none(save):
    file, _ = save(llm={"model": "old"})
    judge = load_saved(file, ["astuner.llm.model=new"]).settings.task_judge
    assert judge.alien_llm_model == "new"
    file, _ = save(llm={"model": "old"}, task_judge={"alien_llm_model": "own"})
    assert load_saved(file, ["astuner.llm.model=new"]).settings.task_judge.alien_llm_model == "own"


def test_what_the_environment_gave_is_read_from_it_again(save, monkeypatch):
    monkeypatch.setenv("MY_SERVER", "http://one/v1")
    file, _ = save(llm={"base_url": "${oc.env:MY_SERVER}"})
    monkeypatch.setenv("MY_SERVER", "http://two/v1")
    assert load_saved(file).settings.llm.base_url == "http://two/v1"


def test_the_reader_of_the_run_stays_the_one_that_it_was(save):
    file, loaded = save(
        task_reader={
            "type": "random_dummy",
            "jsonl_dataset_file": {"training": {"file_path": "tasks.jsonl"}},
        }
    )
    assert load_saved(file).settings.task_reader.type == loaded.settings.task_reader.type


def test_a_wrong_value_is_told_by_who_gave_it(save, tmp_path):
    file, _ = save()
    over = tmp_path / "over.yaml"
    over.write_text("astuner:\n  rollout:\n    temperature: hot\n")
    with pytest.raises(ConfigError, match=r"over\.yaml:3: astuner\.rollout\.temperature"):
        load_saved(file, conf_file=over)
    with pytest.raises(ConfigError, match=r"override .*temperature=hot"):
        load_saved(file, ["astuner.rollout.temperature=hot"])


def test_a_file_that_is_torn_is_told(tmp_path):
    (tmp_path / "saved.yaml").write_text("astuner: {rollout: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_saved(Path(tmp_path / "saved.yaml"))


def test_only_what_differs_from_the_defaults_was_set():
    defaults = {"astuner": {"a": 1, "b": {"c": 2, "d": []}}}
    saved = {"astuner": {"a": 1, "b": {"c": 3, "d": []}, "e": {}}, "mine": {"f": None}}
    assert what_was_set(saved, defaults) == {
        "astuner": {"b": {"c": 3}, "e": {}},
        "mine": {"f": None},
    }


def test_what_is_laid_over_changes_neither_side():
    below, above = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": {"e": 4}}
    assert laid_over(below, above) == {"a": {"b": 9, "c": 2}, "d": {"e": 4}}
    assert (below, above) == ({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": {"e": 4}})


def test_a_run_of_a_release_without_a_setting_did_what_its_default_does(save):
    file, loaded = save()
    before = yaml.safe_load(file.read_text())["astuner"]
    del before["trainer_common"]["algorithm"]["step_advantage_weight"], before["rollout"]["gamma"]
    del before["task_judge"]["llm_as_judge"]
    changes = compare_settings(before, loaded.settings, shown_as=loaded.shown_as)
    assert (changes.refused, changes.told) == ((), ())
    algorithm = {"adv_estimator": "gigpo", "step_advantage_weight": 0.5}
    _, now = save(rollout=OWN["rollout"] | {"gamma": 0.5}, trainer_common={"algorithm": algorithm})
    changes = compare_settings(before, now.settings, shown_as=now.shown_as)
    assert [line.partition(":")[0] for line in changes.refused] == [
        "rollout.gamma",
        "trainer_common.algorithm.adv_estimator",
        "trainer_common.algorithm.step_advantage_weight",
    ]
