"""Under `log.format: json` whatever stands on standard error and in run.log is an object."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from astuner import log
from astuner.cli.main import main
from astuner.console import LoggedConsole
from astuner.log_json import JsonHandler, about

AGENTS = """
import sys, threading, warnings
from astuner import Workflow, WorkflowOutput
print("said while imported", file=sys.stderr)

class Loud(Workflow):
    async def execute(self, workflow_task, model_tuner):
        sys.stderr.write("half a line, ")
        print("then the rest", file=sys.stderr)
        warnings.warn("an old call")
        thread = threading.Thread(target=self.fail)
        thread.start()
        thread.join()
        return WorkflowOutput(reward=1.0)

    def fail(self):
        raise ValueError("in a thread")

class Broken(Workflow):
    async def execute(self, workflow_task, model_tuner):
        raise RuntimeError("the tool server is down")

class Ending(Workflow):
    async def execute(self, workflow_task, model_tuner):
        import asyncio, os, signal
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(30)
"""


def write_project(folder: Path) -> None:
    """A YAML for the debug backbone whose workflow asks no model."""
    (folder / "json_agents.py").write_text(AGENTS)
    settings: dict[str, Any] = {
        "backbone": "debug",
        "log": {"format": "json"},
        "task_reader": {"type": "random_dummy"},
        "rollout": {"agentscope_workflow": "json_agents->Loud", "num_repeat": 1},
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump({"astuner": settings}))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that has ended."""

    folder: Path
    code: int
    lines: list[dict[str, Any]]
    """What stood on standard error."""


@pytest.fixture(scope="module")
def loud_run(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """In a process of its own, where nobody else has touched standard error."""
    folder = tmp_path_factory.mktemp("loud")
    write_project(folder)
    command = [sys.executable, "-m", "astuner", "--conf", "job.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    run = (folder / "launcher_record/job/latest").resolve()
    return Ended(folder=run, code=done.returncode, lines=lines)


def start(*changes: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of the command here, and what stood on standard error."""
    with redirect_stderr(StringIO()) as screen:
        code = main(["--conf", "job.yaml", *changes])
    return code, [json.loads(line) for line in screen.getvalue().splitlines()]


def messages(lines: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines]


def test_every_line_of_a_run_is_an_object_whoever_wrote_it(loud_run: Ended) -> None:
    assert loud_run.code == 0
    told = "\n".join(messages(loud_run.lines))
    for text in ("said while imported", "half a line, then the rest", "UserWarning: an old call"):
        assert text in told
    assert "2 episodes, 0 failed, reward mean 1.000" in messages(loud_run.lines)
    failed = next(line for line in loud_run.lines if line.get("error.type") == "ValueError")
    assert failed["error.message"] == "in a thread"
    assert 'raise ValueError("in a thread")' in failed["error.stack_trace"]


def test_run_log_holds_objects_that_name_run_step_and_episode(loud_run: Ended) -> None:
    text = (loud_run.folder / "run.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["astuner.run"] for line in lines} == {f"job-{loud_run.folder.name}"}
    warned = [line for line in lines if "an old call" in line["message"]]
    assert warned[0]["log.level"] == "warning" and warned[0]["log.logger"] == "py.warnings"
    assert warned[0]["astuner.step"] == 1
    assert warned[0]["astuner.episode"] == "step1-0-0"


def test_a_time_is_in_utc_with_milliseconds(loud_run: Ended) -> None:
    for line in loud_run.lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["@timestamp"])
        assert abs(datetime.fromisoformat(line["@timestamp"]).timestamp() - time.time()) < 600


def test_the_error_that_ends_the_command_is_an_object_too(project: Path) -> None:
    code, lines = start("astuner.rollout.agentscope_workflow=json_agents->Broken")
    assert code == 1
    assert lines[-1]["message"].startswith("astuner: BackboneError: ")
    assert lines[-1]["log.level"] == "error"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("astuner.rollout.num_repeat=none", 2),
        ("astuner.rollout.agentscope_workflow=json_agents->Nowhere", 2),
        ("astuner.no_such_key=1", 2),
    ],
)
def test_so_is_one_of_the_configuration(project: Path, change: str, code: int) -> None:
    ended, lines = start(change)
    assert ended == code
    assert lines[-1]["message"].startswith("astuner: ConfigError: ")


def test_so_is_what_a_signal_is_told_by(project: Path) -> None:
    code, lines = start("astuner.rollout.agentscope_workflow=json_agents->Ending")
    assert code == 128 + signal.SIGTERM
    assert any("SIGTERM" in message for message in messages(lines))


def test_the_format_can_be_asked_for_by_an_override(project: Path) -> None:
    conf = project / "job.yaml"
    conf.write_text(conf.read_text().replace("format: json", "format: text"))
    code, lines = start("astuner.log.format=json", "astuner.rollout.num_repeat=none")
    assert (code, len(lines)) == (2, 1)


def logged(write: Any, *, file: Path | None = None) -> list[dict[str, Any]]:
    """What stands on standard error after `write()`."""
    with (
        redirect_stderr(StringIO()) as screen,
        log.json_stderr() as lines,
        log.install(file, json_lines=lines),
    ):
        write()
    return [json.loads(line) for line in screen.getvalue().splitlines()]


def test_any_text_is_one_line(tmp_path: Path) -> None:
    odd = 'two\nlines "quoted" \u2028 \udc80 ümlaut\r\x00'
    (line,) = logged(lambda: logging.getLogger("astuner").info("%s", odd))
    assert line["message"] == odd


def test_an_error_of_ones_own_has_its_whole_name(tmp_path: Path) -> None:
    def write() -> None:
        try:
            raise subprocess.TimeoutExpired("x", 1)
        except subprocess.SubprocessError:
            logging.getLogger("astuner").exception("no answer")

    (line,) = logged(write)
    assert line["error.type"] == "subprocess.TimeoutExpired"


def test_a_record_that_cannot_be_made_is_no_error_of_the_run() -> None:
    wrong = logging.makeLogRecord({"msg": "%d", "args": ("no number",)})
    with redirect_stderr(StringIO()) as screen, log.json_stderr() as lines:
        JsonHandler(lines).handle(wrong)
    told = [json.loads(line)["message"] for line in screen.getvalue().splitlines()]
    assert "--- Logging error ---" in told


def test_what_has_no_line_end_is_written_at_the_end() -> None:
    assert messages(logged(lambda: sys.stderr.write("no end"))) == ["no end"]


def test_lines_of_threads_do_not_run_into_each_other() -> None:
    def write() -> None:
        def say() -> None:
            for number in range(50):
                logging.getLogger("astuner").info("line %d", number)

        threads = [threading.Thread(target=say) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(logged(write)) == 400


def test_what_a_console_shows_becomes_records() -> None:
    def write() -> None:
        with LoggedConsole() as console:
            console.phase("train")
            console.advance(1, 2)
            console.status("reward 1")
            console.warn("answers hardly vary")
            console.table("before and after", ("validation", "reward"), [("step 0", "0.5")])

    lines = logged(write)
    assert messages(lines) == [
        "answers hardly vary",
        "before and after: validation=step 0 reward=0.5",
    ]
    assert [line["log.level"] for line in lines] == ["warning", "info"]


def test_what_work_is_about_is_known_in_tasks_that_it_starts_and_not_behind_it() -> None:
    def write() -> None:
        with about(step=3):
            with about(episode="step3-0-1"):
                logging.getLogger("astuner").info("inside")
            logging.getLogger("astuner").info("between")
        logging.getLogger("astuner").info("behind")

    inside, between, behind = logged(write)
    assert (inside["astuner.step"], inside["astuner.episode"]) == (3, "step3-0-1")
    assert between["astuner.step"] == 3 and "astuner.episode" not in between
    assert "astuner.step" not in behind


def test_a_screen_that_takes_no_more_text_ends_nothing(tmp_path: Path) -> None:
    class Gone(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with (
        redirect_stderr(Gone()),
        log.json_stderr() as lines,
        log.install(tmp_path / "run.log", json_lines=lines),
    ):
        logging.getLogger("astuner").info("kept")
        sys.stderr.write("lost\n")
    assert "kept" in (tmp_path / "run.log").read_text()


def test_nor_does_it_change_how_the_command_ends(project: Path) -> None:
    reader, output = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "astuner", "--conf", "job.yaml"]
    done = subprocess.run(command, cwd=project, stdout=output, stderr=output, timeout=120)
    os.close(output)
    assert done.returncode == 0
    assert "2 episodes, 0 failed" in (project / "launcher_record/job/latest/run.log").read_text()


def test_everything_is_put_back() -> None:
    before = (sys.stderr, threading.excepthook, warnings.showwarning)
    with redirect_stderr(StringIO()) as screen:
        with log.json_stderr() as lines, log.install(None, json_lines=lines):
            assert sys.stderr is lines
        assert sys.stderr is screen
    assert (sys.stderr, threading.excepthook, warnings.showwarning) == before


def test_a_script_may_have_its_own_standard_error() -> None:
    """Where user code put another stream there, that stays."""
    own = StringIO()
    with redirect_stderr(StringIO()):
        with log.json_stderr():
            sys.stderr = own
        assert sys.stderr is own


def test_text_stays_text(project: Path) -> None:
    changes = ("astuner.rollout.agentscope_workflow=json_agents->Broken", "astuner.log.format=text")
    with redirect_stderr(StringIO()) as screen:
        assert main(["--conf", "job.yaml", *changes]) == 1
    assert "FAILED WorkflowError" in screen.getvalue()
    assert screen.getvalue().splitlines()[-1].startswith("astuner: BackboneError: ")
