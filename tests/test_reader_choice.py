"""Which reader is taken where the type is not written, and what is said about it."""

from pathlib import Path

import pytest

from astuner.config.load import load_config
from astuner.config.reader_choice import describe_choice
from astuner.errors import ConfigError

HEAD = "astuner:\n  model: {path: m}\n  rollout: {agentscope_workflow: a.b->C}\n  task_reader:\n"
APPWORLD = "    env_service: {env_type: appworld, env_url: 'http://127.0.0.1:8080'}\n"
JSONL = "    jsonl_dataset_file: {training: {file_path: t.jsonl}}\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(sections: str, *overrides: str):
        Path("conf.yaml").write_text(HEAD + sections)
        return load_config(Path("conf.yaml"), overrides)

    return load


def said(loaded) -> str | None:
    return describe_choice(loaded.settings.task_reader.type, loaded.explicit_keys)


@pytest.mark.parametrize(
    ("section", "reader"),
    [
        (APPWORLD, "env_service"),
        (JSONL, "jsonl_dataset_file"),
        ("    random_dummy: {num_tasks: 3}\n", "random_dummy"),
        ("    feedback_tracing: {base_url: x}\n", "tracing"),
    ],
)
def test_the_one_section_that_is_filled_is_read(load, section, reader):
    loaded = load(section)
    assert loaded.settings.task_reader.type == reader
    assert loaded.config.astuner.task_reader.type == reader
    assert said(loaded) == f"task_reader.type is not set: {reader} is read, whose section is filled"


def test_an_override_fills_a_section_too(load):
    loaded = load("    {}\n", "astuner.task_reader.env_service.env_url=embedded")
    assert loaded.settings.task_reader.type == "env_service"


def test_a_type_that_is_written_stays_and_the_other_section_is_named(load):
    loaded = load("    type: random_dummy\n" + APPWORLD)
    assert loaded.settings.task_reader.type == "random_dummy"
    assert said(loaded) == (
        "task_reader.type is random_dummy, so env_service, which is filled, is not read; to read "
        "it, set task_reader.type"
    )


def test_a_type_with_its_section_needs_no_words(load):
    assert said(load("    type: env_service\n" + APPWORLD)) is None
    assert said(load("    type: env_service\n" + APPWORLD + JSONL)) is None
    assert said(load("    {}\n")) is None


def test_of_several_sections_none_is_guessed(load):
    with pytest.raises(
        ConfigError,
        match=r"conf.yaml: astuner.task_reader.type is not set, and the sections "
        "jsonl_dataset_file and env_service are filled",
    ):
        load(APPWORLD + JSONL)
    loaded = load(APPWORLD + JSONL, "astuner.task_reader.type=env_service")
    assert loaded.settings.task_reader.type == "env_service"


def test_what_makes_tasks_may_stand_beside_what_reads_them(load):
    loaded = load(JSONL + "    data_generation: {task_num: 3}\n")
    assert loaded.settings.task_reader.type == "jsonl_dataset_file"


EARLIER = """\
astuner:
  project_name: appworld_agent
  model: {path: Qwen/Qwen2.5-14B-Instruct}
  rollout:
    agentscope_workflow: a.b->C
    agentscope_disable_toolcalls: true
    max_env_worker: 64
    num_repeat: 6
    multi_turn: {max_sample_per_task: 25, max_steps: 25, expected_steps: 1}
    compute_madness_checklist: [nonsense]
    max_model_len: 18000
  task_reader:
    env_service:
      env_type: appworld
      env_url: http://127.0.0.1:8080
      env_action_preference: code
      training_split: train
      validation_split: dev
  task_judge:
    judge_type: customized_protocol
    judge_protocol: astuner.task_judge.env_service_as_judge->EnvServiceJudge
defaults: [verl_default, trinity_default, astune_default, _self_]
"""
"""For AppWorld, as users of an earlier release have it: its type was the default there."""


def test_a_file_of_an_earlier_release_reads_its_environment(load):
    Path("earlier.yaml").write_text(EARLIER)
    settings = load_config(Path("earlier.yaml")).settings
    assert settings.task_reader.type == "env_service"
    assert settings.task_reader.env_service.env_type == "appworld"
    assert settings.rollout.multi_turn.max_steps == 25
    Path("newer.yaml").write_text(EARLIER.replace("astuner:", "ajet:", 1))
    with pytest.raises(ConfigError, match="ajet: this section is named 'astuner' here"):
        load_config(Path("newer.yaml"))
