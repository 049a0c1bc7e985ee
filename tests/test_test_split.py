"""The third split: what every reader has for the test, and that training and validation lack it."""

import json
from pathlib import Path
from typing import Any

import pytest

from astuner.config.load import load_mapping
from astuner.config.reader_choice import section_of
from astuner.errors import ConfigError, TaskReadError
from astuner.task_reader import READERS, make_task_reader
from astuner.task_reader.mixture import MixtureReader
from astuner.task_reader.reader import TaskReader, tasks_of_test
from astuner.types import Task
from tests.old_env_server import old_env_server
from tests.remote_servers import OpenEnvStandIn, OrsStandIn, served
from tests.task_folders import write_task
from tests.test_env_client import section
from tests.test_openenv import SETTINGS as OPENENV
from tests.test_ors import SETTINGS as ORS


def write_questions(path: Path, *numbers: int) -> str:
    lines = ({"main_query": f"q{number}", "question": f"q{number}"} for number in numbers)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def questions_of(reader: TaskReader, split: str) -> list[str]:
    return [task.main_query for task in getattr(reader, f"get_{split}_tasks")()]


def seeds_of(tasks: list[Task]) -> list[int]:
    return [task.metadata["seed"] for task in tasks]


# What is on disk


def test_files_and_folders_have_a_test_of_their_own_or_none(tmp_path: Path) -> None:
    files = {"train": (1, 2), "validation": (3,), "test": (4, 5)}
    paths = {name: write_questions(tmp_path / f"{name}.jsonl", *q) for name, q in files.items()}
    sections = {
        "jsonl_dataset_file": {
            "training": {"file_path": paths["train"]},
            "validation": {"file_path": paths["validation"]},
            "test": {"file_path": paths["test"]},
        },
        "huggingface_dat_repo": {
            "dataset_path": str(tmp_path),
            "training_split": "train",
            "validation_split": "validation",
            "test_split": "test",
            "answer_column": None,
        },
        "data_generation": {"output_dir": str(tmp_path)},
    }
    for name, settings in sections.items():
        reader = make_task_reader(name, settings)
        found = [questions_of(reader, split) for split in ("training", "validation", "test")]
        assert found == [["q1", "q2"], ["q3"], ["q4", "q5"]], name
    (tmp_path / "test.jsonl").unlink()
    without = {**sections["jsonl_dataset_file"], "test": {"file_path": None}}
    assert questions_of(make_task_reader("jsonl_dataset_file", without), "test") == []
    old_set = make_task_reader("data_generation", sections["data_generation"])
    assert questions_of(old_set, "test") == []
    with pytest.raises(TaskReadError, match=r"split 'test' is not in .*splits found: train, val"):
        questions_of(
            make_task_reader("huggingface_dat_repo", sections["huggingface_dat_repo"]), "test"
        )


def test_a_test_file_that_is_not_there_is_named_by_its_setting(tmp_path: Path) -> None:
    training = write_questions(tmp_path / "train.jsonl", 1)
    settings = {"training": {"file_path": training}, "test": {"file_path": "gone.jsonl"}}
    reader = make_task_reader("jsonl_dataset_file", settings)
    assert questions_of(reader, "training") == ["q1"]  # which reads no test
    with pytest.raises(ConfigError, match=r"jsonl_dataset_file\.test\.file_path: no such file"):
        questions_of(reader, "test")


def test_task_folders_have_a_test_path(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_task(tmp_path / name / f"{name}-task")
    settings = {"path": str(tmp_path / "train"), "validation_path": None}
    assert make_task_reader("harbor", settings).get_test_tasks() == []
    reader = make_task_reader("harbor", {**settings, "test_path": str(tmp_path / "test")})
    assert [task.task_id for task in reader.get_test_tasks()] == ["test-task"]


# What servers have


def test_each_server_is_asked_for_the_split_of_the_test() -> None:
    openenv = OpenEnvStandIn(lambda message: None, tasks={"train": 2, "held_out": 1})
    seeds, ors = OpenEnvStandIn(lambda message: None), OrsStandIn()
    with (
        served(openenv.app) as openenv_url,
        served(seeds.app) as seeds_url,
        served(ors.app) as ors_url,
        old_env_server() as env_service,
    ):
        listed = {**OPENENV, "url": openenv_url, "test_split": "held_out"}
        assert [task.task_id for task in asked_of("openenv", listed)] == ["held_out-0"]
        unlisted = {**OPENENV, "url": seeds_url, "test_split": "held_out"}
        with pytest.raises(TaskReadError, match="set it to null, and num_test_tasks to"):
            asked_of("openenv", unlisted)
        assert asked_of("ors", {**ORS, "url": ors_url}) == []
        with pytest.raises(TaskReadError, match=r"no split 'held_out'.*or test_split"):
            asked_of("ors", {**ORS, "url": ors_url, "test_split": "held_out"})
        of_service = {**section(env_service.url), "test_split": "dev"}
        assert [task.task_id for task in asked_of("env_service", of_service)] == ["c_1"]


def asked_of(reader_type: str, settings: dict[str, Any]) -> list[Task]:
    return tasks_of_test(make_task_reader(reader_type, settings))


def test_seeds_of_a_test_stay_the_same_whatever_the_others_number() -> None:
    server = OpenEnvStandIn(lambda message: None)
    with served(server.app) as url:
        few, many = (
            make_task_reader(
                "openenv",
                {
                    **OPENENV,
                    "url": url,
                    "num_tasks": num_tasks,
                    "num_validation_tasks": 2,
                    "num_test_tasks": 2,
                },
            )
            for num_tasks in (3, 30)
        )
        tests = [seeds_of(tasks_of_test(reader)) for reader in (few, many)]
        others = seeds_of(many.get_training_tasks()) + seeds_of(many.get_validation_tasks())
    assert tests[0] == tests[1] and len(tests[0]) == 2
    assert not set(tests[0]) & set(others)


# What is made


def test_dummy_tasks_of_the_test_are_others() -> None:
    reader = make_task_reader("random_dummy", {"num_tasks": 3, "num_test_tasks": 2})
    assert sorted(questions_of(reader, "test")) == ["[dummy task @ 3]", "[dummy task @ 4]"]


# Readers without, and mixtures


class OldReader:
    """As users wrote them before there was a test."""

    def get_training_tasks(self) -> list[Task]:
        return [Task(main_query="a", task_id="1")]

    def get_validation_tasks(self) -> list[Task]:
        return []


def test_a_mixture_has_the_tests_of_those_sources_that_have_one() -> None:
    dummy = {"num_tasks": 1, "num_test_tasks": 2}
    readers = {"a": make_task_reader("random_dummy", dummy), "b": OldReader()}
    mixture = MixtureReader(readers)
    assert sorted(task.task_id for task in tasks_of_test(mixture)) == ["a/1", "a/2"]
    assert tasks_of_test(OldReader()) == tasks_of_test(MixtureReader({"b": OldReader()})) == []


def test_no_reader_has_a_test_unless_it_is_asked_for() -> None:
    content = {"rollout": {"agentscope_workflow": "a->B"}, "model": {"path": "m"}}
    reader = load_mapping({"astuner": content}, name="test").settings.task_reader.model_dump()
    keys = {
        key
        for name in READERS
        for key, value in reader[section_of(name)].items()
        if "test" in key and value in (None, 0, {"file_path": None})
    }
    assert keys == {"test", "test_split", "num_test_tasks", "test_path", "test_fraction"}
