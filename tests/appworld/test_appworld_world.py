"""AppWorld itself, in a small world, behind the real server: what an agent sees, does and gets."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from astuner.env_service.client import EnvServiceEnvironments, EnvServiceInstance
from astuner.errors import EnvServiceError
from astuner.task_reader.env_service import EnvServiceReader
from astuner.types import Task
from tests.appworld.conftest import ROOT, Served, has_open_world, wait_until_no_world_is_open

pytestmark = pytest.mark.appworld

SEVEN, COUNTING, WRITING = "aaaaaa1_1", "bbbbbb2_1", "cccccc3_1"
LOG_IN = """\
[account] = apis.supervisor.show_account_passwords()
token = apis.simple_note.login(
    username="ada.ito@example.com", password=account["password"]
)["access_token"]
"""
WRITE_TEA = LOG_IN + (
    'apis.simple_note.create_note(title="Tea", content="Green, 80 degrees", access_token=token)'
)
DONE = "apis.supervisor.complete_task()"


def section(url: str, **changes: object) -> dict[str, object]:
    return {
        "env_type": "appworld",
        "env_url": url,
        "env_action_preference": "code",
        "token_env": "ENV_SERVICE_TOKEN",
        "training_split": "train",
        "validation_split": "dev",
        "options": {},
        "timeout_seconds": 60.0,
        **changes,
    }


def play(
    served: Served, task_id: str, body: Callable[[EnvServiceInstance], Awaitable[object]]
) -> Any:
    """What `body` makes of an instance of the task."""

    async def played() -> Any:
        environments = EnvServiceEnvironments.from_settings(section(served.url))
        task = Task(main_query="", task_id=task_id, env_type="appworld")
        instance = await environments.create(task, episode_id="e", seed=1)
        try:
            return await body(instance)
        finally:
            await instance.release()

    return asyncio.run(played())


async def run(instance: EnvServiceInstance, code: str):
    """The step of a reply with this code, and what it printed."""
    content = f"I will do this.\n```python\n{code}\n```\nThen I look."
    step = await instance.step({"role": "assistant", "content": content})
    [message] = step.messages
    return step, message["content"]


def test_an_agent_is_told_its_errand_and_how_to_act_and_no_solution(served):
    async def body(instance):
        return instance.messages

    system, user = play(served, WRITING, body)
    assert (system["role"], user["role"]) == ("system", "user")
    assert "```python" in system["content"] and "complete_task" in system["content"]
    assert 'Write a note "Tea"' in user["content"] and "Ada Ito" in user["content"]
    assert "14 March 2031" in user["content"]
    everything = system["content"] + user["content"]
    for hidden in ("The note is there.", "evaluat", "create_note", "kettle-drum"):
        assert hidden not in everything


def test_code_is_run_and_its_variables_stay(served):
    async def body(instance):
        await run(instance, "seen = 40")
        return await run(instance, "print(seen + 2)")

    step, printed = play(served, SEVEN, body)
    assert printed == "42\n"
    assert (step.reward, step.terminated, step.truncated) == (0.0, False, False)


def test_the_apis_are_there_to_be_found(served):
    async def body(instance):
        _, apps = await run(instance, "print(apis.api_docs.show_app_descriptions())")
        asked = 'print(apis.api_docs.show_api_doc(app_name="supervisor", api_name="complete_task"))'
        return apps, (await run(instance, asked))[1]

    apps, doc = play(served, SEVEN, body)
    assert "simple_note" in apps and "spotify" in apps
    assert "answer" in doc


@pytest.mark.parametrize(
    ("answer", "worth", "is_success"), [("7", 1.0, 1.0), ("8", 0.5, 0.0), ("'seven'", 0.5, 0.0)]
)
def test_an_episode_is_worth_the_share_of_its_tests_that_pass(served, answer, worth, is_success):
    async def body(instance):
        before = await instance.evaluate(), await instance.evaluate(sparse=True)
        step, _ = await run(instance, f"apis.supervisor.complete_task(answer={answer})")
        return before, step, await instance.evaluate(), await instance.evaluate(sparse=True)

    before, step, after, sparse = play(served, SEVEN, body)
    assert before == (0.0, 0.0)
    assert (step.reward, step.terminated) == (worth, True)
    assert (after, sparse) == (worth, is_success)


def test_a_world_that_was_evaluated_goes_on(served):
    async def body(instance):
        found = [await instance.evaluate()]
        await run(instance, WRITE_TEA)
        found.append(await instance.evaluate())
        await run(instance, DONE)
        return [*found, await instance.evaluate(), await instance.evaluate(sparse=True)]

    assert play(served, WRITING, body) == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0, 1.0]


def test_worlds_of_the_same_task_know_nothing_of_each_other(served):
    async def both():
        environments = EnvServiceEnvironments.from_settings(section(served.url))
        task = Task(main_query="", task_id=WRITING, env_type="appworld")
        made = [await environments.create(task, episode_id="e", seed=1) for _ in range(2)]
        try:
            await asyncio.gather(run(made[0], WRITE_TEA), run(made[1], LOG_IN))
            listed = "print(apis.simple_note.search_notes(access_token=token))"
            return [(await run(one, listed))[1] for one in made]
        finally:
            for one in made:
                await one.release()

    first, second = asyncio.run(both())
    assert "Tea" in first and "Soup" in first
    assert "Tea" not in second and "Soup" in second


def test_the_same_task_and_seed_give_the_same_episode(served):
    async def body(instance):
        return instance.messages, (await run(instance, LOG_IN + "print(token)"))[1]

    assert play(served, WRITING, body) == play(served, WRITING, body)


@pytest.mark.parametrize("content", ["", "```python\n\n```"])
def test_a_reply_without_code_is_told_so(served, content):
    async def body(instance):
        step = await instance.step({"role": "assistant", "content": content})
        return step, await run(instance, "print('on')")

    step, (_, printed) = play(served, SEVEN, body)
    assert "no code" in step.messages[0]["content"].lower()
    assert not step.terminated and printed == "on\n"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "invalid syntax"),
        ("I am done.", "invalid syntax"),
        ("!ls", "invalid syntax"),
        ("apis.spotify.no_such_api()", "no_such_api"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise SystemExit", "Exception"),
        ("import sys; sys.exit()", "not allowed"),
        ("open('/etc/hostname').read()", "not allowed"),
        ("import os; os.listdir('/')", "not allowed"),
        ("import pathlib; print(pathlib.Path('/etc/hostname').read_text())", "not allowed"),
        ("from appworld.task import Task", "not allowed"),
        ("import socket", "not allowed"),
        ("import subprocess", "not allowed"),
        ("input('Which one?')", "not allowed"),
        ("while True: pass", "timed out"),
        ("def f(): f()\nf()", "RecursionError"),
        ("print('\\ud800')", ""),
    ],
)
def test_code_that_fails_is_told_why_and_the_world_goes_on(served, code, told):
    async def body(instance):
        step, printed = await run(instance, code)
        await run(instance, WRITE_TEA)
        await run(instance, DONE)
        return step, printed, await instance.evaluate()

    step, printed, worth = play(served, WRITING, body)
    assert told in printed and not step.terminated
    assert worth == 1.0


def test_of_a_long_output_its_beginning_and_its_end_are_shown(served):
    async def body(instance):
        return (await run(instance, "print('first', 'x' * 100_000, 'last')"))[1]

    printed = play(served, SEVEN, body)
    assert len(printed) < 2200
    assert printed.startswith("first x") and printed.endswith("x last\n")
    assert "98,012 characters are left out here" in printed


def test_the_clock_of_a_world_stands_still_and_that_of_its_server_does_not(served):
    async def body(instance):
        began = time.monotonic()
        _, printed = await run(instance, "print(DateTime.now().year)")
        await run(instance, "while True: pass")
        return printed, time.monotonic() - began

    printed, seconds = play(served, SEVEN, body)
    assert printed == "2031\n"
    assert seconds >= 2


@pytest.mark.parametrize("task_id", ["zzzzzz9_1", "../tasks/aaaaaa1_1", "."])
def test_a_task_that_is_not_there_is_refused(served, task_id):
    async def body(instance):
        raise AssertionError("there is an instance")

    with pytest.raises(EnvServiceError, match="AppWorld has no task") as found:
        play(served, task_id, body)
    assert found.value.code == "unknown_task"


def test_what_is_left_of_worlds_is_nothing(served):
    before = files_of(served.root)

    async def body(instance):
        await run(instance, WRITE_TEA)
        assert has_open_world(served)

    play(served, WRITING, body)
    wait_until_no_world_is_open(served)
    assert files_of(served.root) == before


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_reader_has_the_tasks_of_both_splits(served):
    reader = EnvServiceReader.from_settings(section(served.url))
    assert [task.task_id for task in reader.get_training_tasks()] == [
        "aaaaaa1_1",
        "aaaaaa1_2",
        "bbbbbb2_1",
        "cccccc3_1",
    ]
    assert [task.task_id for task in reader.get_validation_tasks()] == ["aaaaaa1_3", "bbbbbb2_2"]


# Servers that cannot be


def refused(*arguments: str, **variables: str) -> str:
    command = [sys.executable, "-m", "astuner", "env", "serve", "appworld", "--port", "0"]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, **variables},
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_without_its_data_a_server_does_not_start_and_says_how_to_get_it(appworld_python, tmp_path):
    said = refused("--python", str(appworld_python), "--option", f"root={tmp_path}")
    assert f"AppWorld has no data in {tmp_path}" in said
    assert f"download data --root {tmp_path}" in said


def test_under_an_interpreter_without_appworld_it_says_how_to_install_it(tiny_world):
    said = refused("--python", sys.executable, APPWORLD_ROOT=str(tiny_world))
    assert "the package appworld is not installed" in said and "astuner setup appworld" in said


def test_where_its_apps_are_not_unpacked_it_says_how_to_do_that(tiny_world, tmp_path):
    apps = tmp_path / "appworld" / "apps"
    apps.mkdir(parents=True)
    for folder in (apps.parent, apps):
        (folder / "__init__.py").write_text("")
    variables = {"APPWORLD_ROOT": str(tiny_world), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    said = refused("--python", sys.executable, **variables)
    assert "the apps of AppWorld are not unpacked" in said and "appworld install" in said


def test_a_split_that_is_not_there_is_refused_with_those_that_are(served):
    settings = section(served.url, training_split="test_normal")
    reader = EnvServiceReader.from_settings(settings)
    with pytest.raises(Exception, match=r"'test_normal'.*dev, train"):
        reader.get_training_tasks()
