"""The viewer beside a run: it answers while the run works, costs it nothing, and ends with it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytest.importorskip("uplot")
pytest.importorskip("openai")

from astuner import AstunerJob
from astuner.cli import main
from astuner.logview import beside
from astuner.logview.beside import viewer_beside
from astuner.run_dir import RunDir, append_json_line

WORKFLOWS = """\
import asyncio
from pathlib import Path
from astuner import Workflow, WorkflowOutput

class Waiting(Workflow):
    async def execute(self, workflow_task, model_tuner):
        async with asyncio.timeout(60):
            while not Path("go").exists():
                await asyncio.sleep(0.01)
        return WorkflowOutput(reward=1.0)

class ExitingTheLoop(Waiting):
    async def execute(self, workflow_task, model_tuner):
        await super().execute(workflow_task, model_tuner)
        asyncio.get_running_loop().call_soon(exit)
        await asyncio.sleep(20)
"""
HOLDER = """\
import os, sys, time
from pathlib import Path
from astuner.logview import beside
from astuner.logview.beside import viewer_beside
from astuner.run_dir import RunDir

run_dir = RunDir(root=Path(sys.argv[1]))
say = lambda text: print(text, flush=True)
with run_dir.in_use(), viewer_beside(run_dir.root, home=Path.cwd(), say=say, warn=say):
    if os.fork() == 0:
        say(f"forked {os.getpid()}")
    time.sleep(60)
    os._exit(0)
"""
"""A run that forks and does nothing else."""


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    # None that trains, so that `latest` leads to the runs of the tests, which train nothing.
    return RunDir.create(tmp_path / "launcher_record", "job", is_latest=False)


@pytest.fixture
def project(run_dir: RunDir) -> Path:
    """A YAML for the debug backbone whose workflow asks no model, in the current folder."""
    Path("agents.py").write_text(WORKFLOWS)
    settings = {
        "backbone": "debug",
        "task_reader": {"type": "random_dummy"},
        "rollout": {"agentscope_workflow": "agents->Waiting", "num_repeat": 1},
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
    }
    Path("job.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return Path("job.yaml")


def port_in(said: str) -> int:
    """Of the link."""
    (port,) = re.findall(r"viewer  http://127\.0\.0\.1:(\d+)/runs/job/", said)
    return int(port)


def ask(port: int, path: str = "/static/style.css") -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.status


def is_open(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Callable[[], object], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it does not come to be so"
        time.sleep(0.01)


def fill(pipe: Path) -> None:
    """Write into it as much as it takes."""
    file = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(file, b"said before\n")
    os.close(file)


def viewers_of(process_id: int) -> list[int]:
    """The processes of viewers that another process has started."""
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return [int(child) for child in children if b"beside_child" in command_of(child)]


def command_of(process_id: str) -> bytes:
    """Nothing where it ends meanwhile."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except OSError:
        return b""


def open_files(process_id: int) -> list[str]:
    """Those that are not closed while this looks: the viewer opens and closes files at any time."""
    files = []
    for file in Path(f"/proc/{process_id}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            files.append(os.readlink(file))
    return files


def viewer_of(process_id: int) -> int:
    (viewer,) = viewers_of(process_id)
    return viewer


# by itself


def test_it_answers_as_long_as_it_is_open_and_its_link_is_told_first(run_dir: RunDir) -> None:
    said: list[str] = []
    warned: list[str] = []
    with viewer_beside(run_dir.root, home=Path.cwd(), say=said.append, warn=warned.append):
        port = port_in(said[0])
        assert said[0].endswith(f"/runs/job/{run_dir.root.name}")
        assert ask(port) == 200
    assert not is_open(port)
    assert warned == []


def test_it_holds_nothing_of_the_run_and_no_terminal_reaches_it(run_dir: RunDir) -> None:
    said: list[str] = []
    with (
        run_dir.in_use(),
        (run_dir.root / "open").open("w"),
        viewer_beside(run_dir.root, home=Path.cwd(), say=said.append, warn=said.append),
    ):
        ask(port_in(said[0]))
        viewer = viewer_of(os.getpid())
        assert [file for file in open_files(viewer) if str(run_dir.root) in file] == []
        assert os.getsid(viewer) == viewer != os.getsid(0)
        assert os.getpriority(os.PRIO_PROCESS, viewer) > os.getpriority(os.PRIO_PROCESS, 0)
        assert int(Path(f"/proc/{viewer}/oom_score_adj").read_text()) >= 500


def test_it_outlives_the_run_not_even_with_a_process_that_the_run_forked(run_dir: RunDir) -> None:
    command = [sys.executable, "-c", HOLDER, str(run_dir.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        lines = iter(holder.stdout.readline, "")
        said = next(lines)
        forked = next(line for line in lines if line.startswith("forked ")).split()[1]
        try:
            assert ask(port_in(said)) == 200
            holder.kill()
            wait_until(lambda: not is_open(port_in(said)))
        finally:
            os.kill(int(forked), signal.SIGKILL)


def test_it_answers_though_the_run_is_stopped_and_nobody_reads_what_it_logs(
    run_dir: RunDir, tmp_path: Path
) -> None:
    (tmp_path / "cache").touch()  # no folder, which is worth a warning
    append_json_line(run_dir.episodes_file(1, "train"), {})
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run_dir.root)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        lines = iter(holder.stdout.readline, "")
        port = port_in(next(lines))
        forked = next(line for line in lines if line.startswith("forked ")).split()[1]
        try:
            holder.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
            fill(Path(f"/proc/{viewer_of(holder.pid)}/fd/2"))
            assert ask(port, f"/runs/job/{run_dir.root.name}") == 200
        finally:
            holder.kill()
            os.kill(int(forked), signal.SIGKILL)


def test_one_that_dies_costs_the_run_a_line(run_dir: RunDir) -> None:
    said: list[str] = []
    warned: list[str] = []
    with viewer_beside(run_dir.root, home=Path.cwd(), say=said.append, warn=warned.append):
        ask(port_in(said[0]))
        os.kill(viewer_of(os.getpid()), signal.SIGKILL)
        wait_until(lambda: warned)
    (line,) = warned
    path = f"launcher_record/job/{run_dir.root.name}"
    assert line.startswith("the viewer has ended (code -9); the run goes on")
    assert line.endswith(f"`astuner logview {path}`")


def test_a_file_that_took_the_number_of_its_pipe_stays_open(run_dir: RunDir) -> None:
    warned: list[str] = []
    with viewer_beside(run_dir.root, home=Path.cwd(), say=warned.append, warn=warned.append):
        (lifeline,) = beside._lifelines
        os.close(lifeline)  # as user code does that closes whatever is open
        with Path("other").open("wb") as other:
            os.dup2(other.fileno(), lifeline)
        wait_until(lambda: "the viewer has ended" in warned[-1])
    os.write(lifeline, b"still here")
    os.close(lifeline)


def test_one_that_cannot_be_listened_to_costs_the_run_a_line(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    warned: list[str] = []
    with viewer_beside(run_dir.root, home=Path.cwd(), say=warned.append, warn=warned.append):
        assert viewers_of(os.getpid()) == []
    (line,) = warned
    assert "can't start new thread" in line and "the run goes on" in line


def test_one_that_cannot_start_costs_the_run_a_line(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uplot", None)  # as where it is not installed
    said: list[str] = []
    warned: list[str] = []
    with viewer_beside(run_dir.root, home=Path.cwd(), say=said.append, warn=warned.append):
        assert said == []
    (line,) = warned
    assert "pip install 'astuner[logview]'" in line and "the run goes on" in line


# beside a real run


@pytest.mark.parametrize(("workflow", "code"), [("Waiting", 0), ("ExitingTheLoop", 1)])
def test_a_run_shows_itself_while_it_works_and_no_longer(
    workflow: str, code: int, project: Path, capfd: pytest.CaptureFixture
) -> None:
    answers: list[int] = []
    log = Path("launcher_record/job/latest/run.log")

    def look() -> None:
        try:
            wait_until(lambda: log.exists() and "/runs/job/" in log.read_text())
            answers.append(ask(port_in(log.read_text())))
        finally:
            Path("go").touch()

    looking = threading.Thread(target=look)
    looking.start()
    setting = f"astuner.rollout.agentscope_workflow=agents->{workflow}"
    assert main(["--conf", str(project), "--with-logview", setting]) == code
    looking.join()
    assert answers == [200]
    text = capfd.readouterr().err
    assert not is_open(port_in(text))
    latest = Path("launcher_record/job/latest").resolve()
    again = f"to look at it  astuner logview launcher_record/job/{latest.name}\n"
    assert (again in text) == (code == 0)  # the other one has recorded no episode


def test_a_run_that_is_killed_takes_its_viewer_along_and_leaves_its_directory_free(
    project: Path,
) -> None:
    command = [sys.executable, "-m", "astuner", "--conf", str(project), "--with-logview"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        said = next(line for line in iter(run.stderr.readline, "") if line.startswith("viewer  "))
        assert ask(port_in(said)) == 200
        run.kill()
        wait_until(lambda: not is_open(port_in(said)))
    killed = RunDir(root=Path("launcher_record/job/latest").resolve())
    assert killed.worker() is None
    with killed.in_use():
        pass


def test_a_job_in_python_shows_itself_too(project: Path, capfd: pytest.CaptureFixture) -> None:
    Path("go").touch()
    AstunerJob().build_job_from_yaml(project).tune(with_logview=True)
    assert port_in(capfd.readouterr().err.replace("/runs/astuner_job/", "/runs/job/"))


def test_without_the_flag_a_run_starts_no_viewer_and_names_the_command(
    project: Path, capfd: pytest.CaptureFixture
) -> None:
    Path("go").touch()
    assert main(["--conf", str(project)]) == 0
    said = capfd.readouterr().err
    assert "viewer  " not in said and "to look at it  astuner logview launcher_record/job/" in said


@pytest.mark.parametrize("closed", [">&- 2>&-", "<&- >&- 2>&-"])
def test_a_run_without_standard_streams_works_and_shows_itself(closed: str, project: Path) -> None:
    Path("go").touch()
    command = [sys.executable, "-m", "astuner", "--conf", str(project), "--with-logview"]
    ended = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], timeout=60)
    assert ended.returncode == 0
    told = Path("launcher_record/job/latest/run.log").read_text()
    assert "viewer  http://127.0.0.1:" in told and "viewer has ended" not in told
