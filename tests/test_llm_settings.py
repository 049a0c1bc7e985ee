"""Which language model is asked where, from the user's settings and environment."""

from pathlib import Path

import pytest

from astuner.config import LoadedConfig, describe_unused, load_config
from astuner.config.llm_models import MODEL_KEYS
from astuner.config.schema import setting_keys

AGENT = "astuner: {model: {path: m}, rollout: {agentscope_workflow: a.b->C}}\n"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(*overrides: str) -> LoadedConfig:
    Path("conf.yaml").write_text(AGENT)
    return load_config(Path("conf.yaml"), overrides)


# Which model


def test_a_use_without_settings_asks_its_own_model() -> None:
    settings = load().settings
    assert settings.task_judge.alien_llm_model == "qwen3-235b-a22b-instruct-2507"
    assert settings.task_reader.data_generation.llm_model == "qwen-long"


def test_a_model_for_all_uses_stands_wherever_a_use_is_read() -> None:
    loaded = load("astuner.llm.model=mine")
    settings = loaded.settings
    assert settings.task_judge.alien_llm_model == "mine"
    assert settings.task_reader.data_generation.llm_model == "mine"
    assert settings.task_reader.feedback_tracing.alien_llm_model == "mine"
    assert loaded.config.astuner.task_judge.alien_llm_model == "mine"


def test_the_model_that_a_use_was_given_wins_over_the_one_for_all() -> None:
    settings = load("astuner.llm.model=mine", "astuner.task_judge.alien_llm_model=judge").settings
    assert settings.task_judge.alien_llm_model == "judge"
    assert settings.task_reader.data_generation.llm_model == "mine"


def test_it_also_wins_where_it_was_given_the_value_that_it_has_anyway() -> None:
    default = "astuner.task_judge.alien_llm_model=qwen3-235b-a22b-instruct-2507"
    settings = load("astuner.llm.model=mine", default).settings
    assert settings.task_judge.alien_llm_model == "qwen3-235b-a22b-instruct-2507"


def test_a_model_of_a_base_file_counts_as_given() -> None:
    Path("base.yaml").write_text("astuner: {task_judge: {alien_llm_model: judge}}\n")
    Path("conf.yaml").write_text("defaults: [base]\n" + AGENT)
    settings = load_config(Path("conf.yaml"), ["astuner.llm.model=mine"]).settings
    assert settings.task_judge.alien_llm_model == "judge"


def test_the_models_that_were_filled_in_do_not_count_as_set_by_the_user() -> None:
    loaded = load("astuner.llm.model=mine")
    assert not loaded.explicit_keys & set(MODEL_KEYS)
    assert describe_unused(loaded.explicit_keys, loaded.settings) == ()


def test_every_key_that_is_filled_in_is_a_setting() -> None:
    assert set(MODEL_KEYS) <= set(setting_keys())
