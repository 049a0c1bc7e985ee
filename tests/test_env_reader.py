"""Tasks that an environment service has, and what is said where it gives none."""

import socket

import pytest

from astuner.errors import TaskReadError
from astuner.task_reader.env_service import EnvServiceReader
from tests.old_env_server import always, data, old_env_server, refused
from tests.test_env_client import HTML, section


@pytest.fixture
def server():
    with old_env_server() as server:
        yield server


def reader(url, **changes):
    return EnvServiceReader.from_settings(section(url, **changes))


def test_a_task_is_an_id_and_the_rest_is_the_environments(server):
    tasks = reader(server.url).get_training_tasks()
    assert [task.task_id for task in tasks] == ["a_1", "a_2", "b_1"]
    assert {(task.env_type, task.main_query) for task in tasks} == {("counting", "")}


def test_each_split_is_asked_for(server):
    of = reader(server.url, validation_split="dev")
    assert [task.task_id for task in of.get_validation_tasks()] == ["c_1"]
    assert [task.task_id for task in of.get_training_tasks()] == ["a_1", "a_2", "b_1"]
    assert [body["params"] for _, body in server.asked] == [{"split": "dev"}, {"split": "train"}]


def test_without_a_validation_split_nobody_is_asked(server):
    assert reader(server.url).get_validation_tasks() == []
    assert server.asked == []


def test_tasks_may_be_numbered(server):
    server.faults["get_env_profile"].append(always(data([0, 1])))
    assert [task.task_id for task in reader(server.url).get_training_tasks()] == ["0", "1"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refused("unknown env_type counting"), "answered 200: unknown env_type counting"),
        (HTML, "answered 502 with '<html>"),
        (data([]), "training_split 'train' of environment counting at .* is empty"),
        (data(None), "its data is None, expected a list of task ids"),
        (data([["a"]]), "expected a list of task ids"),
        (data(["a", "b", "a"]), "1 of its tasks are listed more than once, such as 'a'"),
    ],
)
def test_a_list_of_tasks_that_is_none_is_said(server, fault, message):
    server.faults["get_env_profile"].append(always(fault))
    with pytest.raises(TaskReadError, match=message):
        reader(server.url).get_training_tasks()


def test_an_unknown_split_is_told_by_its_name(server):
    with pytest.raises(TaskReadError, match=r"split 'exam' cannot be read: .* KeyError: 'exam'"):
        reader(server.url, training_split="exam").get_training_tasks()


@pytest.mark.parametrize(
    ("env_type", "advice"),
    [
        ("counting", "start one with `astuner env serve counting`"),
        ("my_world.py->My", "start one with `astuner env serve 'my_world.py->My'`"),
        ("appworld", "`astuner env serve appworld`, or one with the run by --with-appworld"),
    ],
)
def test_a_server_that_does_not_run_is_told_how_to_start(env_type, advice):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(TaskReadError, match="nobody answers there") as raised:
            reader(url, env_type=env_type).get_training_tasks()
    assert advice in str(raised.value)
    assert "task_reader.env_service: the tasks of the split 'train'" in str(raised.value)
