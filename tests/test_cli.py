"""The command: exit codes, messages, and runs that user code cannot keep from ending."""

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from astuner.backbone.run import RunResult
from astuner.cli import main
from astuner.cli.command import command_names, load_command
from astuner.launch import run_to_end
from tests.child_runs import run_command, start_command
from tests.signals import signals_of_a_terminal

pytest.importorskip("openai")

WORKFLOWS = """\
import asyncio
import logging
import os
import signal
import sys
from astuner import Workflow, WorkflowOutput
from astuner.task_judge.base_judge import BaseJudge

class Rewarding(Workflow):
    async def execute(self, workflow_task, model_tuner):
        return WorkflowOutput(reward=float(workflow_task.attempt))

class Broken(Workflow):
    async def execute(self, workflow_task, model_tuner):
        raise RuntimeError("the tool server is down")

class Cancelling(Workflow):
    async def execute(self, workflow_task, model_tuner):
        raise asyncio.CancelledError

class Unfinished(Workflow):
    pass

class ExitingInATool(Workflow):
    async def execute(self, workflow_task, model_tuner):
        if workflow_task.attempt:
            await asyncio.gather(self.use(), asyncio.sleep(0), return_exceptions=True)
        return WorkflowOutput(reward=1.0)

    async def use(self):
        exit()

class ExitingTheLoop(Workflow):
    async def execute(self, workflow_task, model_tuner):
        asyncio.get_running_loop().call_soon(exit)
        await asyncio.sleep(30)

class InterruptingTheLoop(Workflow):
    async def execute(self, workflow_task, model_tuner):
        asyncio.get_running_loop().call_soon(self.interrupt)
        await asyncio.sleep(30)

    def interrupt(self):
        raise KeyboardInterrupt

class StoppingTheLoop(Workflow):
    async def execute(self, workflow_task, model_tuner):
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return WorkflowOutput(reward=1.0)

class CancellingAll(Workflow):
    async def execute(self, workflow_task, model_tuner):
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(30)

class Forking(Workflow):
    async def execute(self, workflow_task, model_tuner):
        child = os.fork()
        if child == 0:
            await self.end_of_child()
            return WorkflowOutput(reward=0.0)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        return WorkflowOutput(reward=float(os.waitstatus_to_exitcode(status)))

    async def end_of_child(self):
        match os.environ["CHILD"]:
            case "exits":
                exit(3)
            case "raises":
                raise ValueError("no such program")
            case "waits":
                await asyncio.sleep(3600)
            case "starts a task":
                await asyncio.create_task(asyncio.sleep(0))

class ExitsWhenLogged(logging.Handler):
    def emit(self, record):
        sys.exit(0)

class ExitingInTheLog(Workflow):
    async def execute(self, workflow_task, model_tuner):
        logging.getLogger("astuner").addHandler(ExitsWhenLogged())
        return WorkflowOutput(reward=1.0)

class Printing(Workflow):
    async def execute(self, workflow_task, model_tuner):
        print("said by the agent", flush=True)
        return WorkflowOutput(reward=1.0)

class Signalled(Workflow):
    async def execute(self, workflow_task, model_tuner):
        for sent in os.environ["SENT"].split():
            os.kill(os.getpid(), signal.Signals[sent])
            await asyncio.sleep(0)
        await asyncio.sleep(30)

class Exiting(BaseJudge):
    def __init__(self, config): ...
    def compute_reward(self, workflow_task, workflow_output):
        exit()

class Unready(BaseJudge):
    def __init__(self, config):
        raise ValueError("no key for the judge's model")
    def compute_reward(self, workflow_task, workflow_output): ...

class UnfinishedJudge(BaseJudge):
    pass
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A YAML for the debug backbone whose workflow asks no model, in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("agents.py").write_text(WORKFLOWS)
    settings = {
        "backbone": "debug",
        "task_reader": {"type": "random_dummy"},
        "rollout": {"agentscope_workflow": "agents->Rewarding", "num_repeat": 2},
        "debug": {"openai_base_url": "http://127.0.0.1:9/v1", "openai_model": "none"},
    }
    Path("job.yaml").write_text(yaml.safe_dump({"astuner": settings}))
    return tmp_path


def run_log() -> str:
    return Path("launcher_record/job/latest/run.log").read_text()


def test_a_run_without_weights_ends_with_0(project, capfd):
    assert main(["--conf", "job.yaml"]) == 0
    assert "4 episodes, 0 failed, reward mean 0.500" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["my runs (1)", "5", "a,b=c", "it's", "a ${x} b", r"a\${x}"])
def test_the_folder_of_runs_may_have_any_name(project, name):
    assert main(["--conf", "job.yaml", "--exp-dir", name]) == 0
    assert Path(name, "job/latest/config.yaml").is_file()


def test_a_folder_of_runs_that_cannot_be_made_is_bad_usage(project, capfd):
    assert main(["--conf", "job.yaml", "--exp-dir", "agents.py"]) == 2
    shown = capfd.readouterr().err
    assert "agents.py/job" in shown and "--exp-dir" in shown and "Traceback" not in shown


def test_an_override_that_lacks_astuner_is_told_its_name(project, capfd):
    for key in ("rollout.num_repeat", "+rollout.num_repeat", "rollout.user_workflow"):
        assert main(["--conf", "job.yaml", f"{key}=3"]) == 2
        name = key.strip("+").replace("user_workflow", "agentscope_workflow")
        assert f"its name here is astuner.{name}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("rollout.agentscope_workflow='agents->Unfinished'", "lacks execute"),
        ("task_judge.judge_protocol='agents->UnfinishedJudge'", "lacks compute_reward"),
        ("task_judge.judge_protocol='agents->Unready'", "ValueError: no key for the judge's model"),
    ],
)
def test_a_class_that_cannot_be_used_is_bad_usage(project, capfd, setting, said):
    assert main(["--conf", "job.yaml", f"astuner.{setting}"]) == 2
    shown = capfd.readouterr().err
    assert said in shown and "agents" in shown and "Traceback" not in shown
    assert not Path("launcher_record").exists()


def test_the_log_of_a_failed_run_says_why(project, capfd):
    assert main(["--conf", "job.yaml", "astuner.rollout.agentscope_workflow=agents->Broken"]) == 1
    shown = capfd.readouterr().err
    assert "astuner: BackboneError: " in shown
    assert "BackboneError" in run_log() and "the tool server is down" in run_log()


def test_a_workflow_that_cancels_itself_is_no_interruption(project, capfd):
    path = "astuner.rollout.agentscope_workflow=agents->Cancelling"
    assert main(["--conf", "job.yaml", path]) == 1
    shown = capfd.readouterr().err
    assert "user code raised asyncio.CancelledError" in shown
    assert "raise asyncio.CancelledError" in shown  # the line, in the episode's traceback


def test_user_code_that_exits_fails_its_own_episode_only(project, capfd):
    settings = (
        "astuner.rollout.agentscope_workflow=agents->ExitingInATool",
        "astuner.rollout.max_failed_fraction=0.5",
    )
    assert main(["--conf", "job.yaml", *settings]) == 0
    shown = capfd.readouterr().err
    assert "called sys.exit(None)" in shown and "4 episodes, 2 failed" in shown


def test_user_code_that_ends_the_event_loop_ends_the_run_by_name(project, capfd):
    path = "astuner.rollout.agentscope_workflow=agents->ExitingTheLoop"
    assert main(["--conf", "job.yaml", path]) == 1
    assert "user code ended the run by sys.exit(None)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("child", "code"),
    [("returns", 0), ("exits", 3), ("raises", 1), ("waits", 1), ("starts a task", 1)],
)
def test_a_process_that_user_code_forks_never_goes_on_in_the_run(project, child, code):
    path = "astuner.rollout.agentscope_workflow=agents->Forking"
    environment = os.environ | {"CHILD": child}
    done = run_command(["--conf", "job.yaml", path], folder=project, environment=environment)
    assert f"4 episodes, 0 failed, reward mean {code}.000" in done.stderr
    assert done.stderr.count(" episodes, ") == 1 and done.returncode == 0


def test_a_log_handler_that_exits_never_ends_the_command_without_a_word(project, capfd):
    handlers = list(logging.getLogger("astuner").handlers)
    try:
        path = "astuner.rollout.agentscope_workflow=agents->ExitingInTheLog"
        assert main(["--conf", "job.yaml", path]) == 1
    finally:
        logging.getLogger("astuner").handlers[:] = handlers
    assert "user code ended the command by sys.exit(0)" in capfd.readouterr().err


def test_an_interrupt_that_no_key_sent_is_user_code_that_ends_the_run(project, capfd):
    path = "astuner.rollout.agentscope_workflow=agents->InterruptingTheLoop"
    assert main(["--conf", "job.yaml", path]) == 1
    shown = capfd.readouterr().err
    assert "user code ended the run by KeyboardInterrupt" in shown and "SIGINT" not in shown


def test_a_loop_that_user_code_stops_runs_on(project, capfd):
    path = "astuner.rollout.agentscope_workflow=agents->StoppingTheLoop"
    assert main(["--conf", "job.yaml", path]) == 0
    assert "4 episodes, 0 failed" in capfd.readouterr().err


def test_user_code_that_cancels_the_run_ends_it_by_name(project, capfd):
    path = "astuner.rollout.agentscope_workflow=agents->CancellingAll"
    assert main(["--conf", "job.yaml", path]) == 1
    assert "the run was cancelled, and no signal asked for it" in capfd.readouterr().err


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_the_run_in_order_with_its_own_code(project, capfd, monkeypatch, sent, code):
    monkeypatch.setenv("SENT", sent)
    path = "astuner.rollout.agentscope_workflow=agents->Signalled"
    with signals_of_a_terminal():
        assert main(["--conf", "job.yaml", path]) == code
    shown = capfd.readouterr().err
    assert f"{sent}: stopping" in shown and "run directory" in shown


def test_a_signal_before_there_is_anything_to_save_has_the_same_code(project, capfd, monkeypatch):
    def load(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr("astuner.config.load.load_config", load)
    assert main(["--conf", "job.yaml"]) == 143
    assert "ended by SIGTERM" in capfd.readouterr().err


def test_a_hangup_is_ignored_under_nohup(project, capfd, monkeypatch):
    monkeypatch.setenv("SENT", "SIGHUP SIGTERM")
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        settings = ("astuner.rollout.agentscope_workflow=agents->Signalled",)
        assert main(["--conf", "job.yaml", *settings]) == 143
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("screen", ["/dev/full", "a pipe whose reader ended"])
def test_a_screen_that_takes_no_text_does_not_end_the_run(project, screen):
    if screen == "/dev/full":
        output = os.open(screen, os.O_WRONLY)
    else:
        reader, output = os.pipe()
        os.close(reader)
    path = "astuner.rollout.agentscope_workflow=agents->Printing"
    arguments = ["--conf", "job.yaml", path]
    process = start_command(arguments, folder=project, stdout=output, stderr=output)
    assert process.wait() == 0
    os.close(output)
    assert "4 episodes, 0 failed" in run_log()


def test_debug_shows_each_traceback_once_and_only_what_belongs_to_it(project, capfd):
    everything = "astuner.rollout.max_failed_fraction=1.0"
    path = "astuner.rollout.agentscope_workflow=agents->Broken"
    assert main(["--conf", "job.yaml", path, everything]) == 0
    shown = capfd.readouterr().err
    assert shown.count("FAILED WorkflowError") == 4
    assert shown.count('raise RuntimeError("the tool server is down")') == 1
    assert "no running event loop" not in shown
    assert "4 episodes, 4 failed, no reward" in shown


def test_an_unexpected_error_is_shown_once_and_ends_with_1(project, capfd):
    assert main(["--conf", "a\0b"]) == 1
    shown = capfd.readouterr().err
    assert shown.count("Traceback") == 1 and "unexpected ValueError" in shown.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_an_ended_run_exits_shows_no_traceback(project, number):
    program = f"""
import atexit, os, signal, sys, time
from astuner.cli import main

@atexit.register
def leave():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)

(open("ends.py", "w")).write("import os\\nos.kill(os.getpid(), {int(number)})")
sys.argv = ["astuner", "--conf", "job.yaml", "astuner.rollout.agentscope_workflow=ends.py->run"]
sys.exit(main())
"""
    with signals_of_a_terminal():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 128 + number
    assert f"ended by {number.name}" in done.stderr and "Traceback" not in done.stderr


# --- Commands


def test_help_names_every_command_with_a_line_and_an_example(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert command_names()[0] == "tune" and "setup" in command_names()
    for name in command_names()[1:]:
        command = load_command(name)
        assert command.SUMMARY in shown and command.EXAMPLE in shown
    assert "--conf FILE" in shown


@pytest.mark.parametrize("name", command_names())
def test_every_command_teaches_and_its_example_is_one(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0 and "examples:" in capsys.readouterr().out
    command = load_command(name)
    words = shlex.split(command.EXAMPLE)
    assert words[0] == "astuner" and words[1] in (name, "--conf")
    command.make_parser().parse_intermixed_args(words[1:] if name == "tune" else words[2:])


def test_a_command_may_be_named_where_none_needs_to_be(project):
    assert main(["tune", "--conf", "job.yaml"]) == 0


def test_a_mistyped_command_is_told_its_name(capsys):
    assert main(["setpu", "verl"]) == 2
    shown = capsys.readouterr().err
    assert "there is no command 'setpu'" in shown and "did you mean setup?" in shown


@pytest.mark.parametrize("name", ["Setup", "SETUP", "set-up", "set_up", "setup2"])
def test_a_command_in_other_letters_is_told_its_name(name, capsys):
    assert main([name, "verl"]) == 2
    assert "did you mean setup? The commands are tune, " in capsys.readouterr().err


def test_a_word_that_is_like_no_command_is_told_all_of_them(capsys):
    assert main(["x"]) == 2
    assert "there is no command 'x'; the commands are tune, " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["setup", "--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whoever_reads_help_may_leave_early(words, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "astuner", *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_overrides_may_stand_before_the_flags(project):
    assert main(["astuner.rollout.num_repeat=1", "--conf", "job.yaml"]) == 0


def test_bad_usage_of_a_command_shows_how_it_is_used(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["setup", "verk"])
    assert ended.value.code == 2
    assert "usage: astuner setup" in capsys.readouterr().err


# --- Runs end


class Leaving:
    """A backbone that leaves something behind."""

    def __init__(self, leave):
        self._leave = leave

    async def run(self, run):
        await self._leave()
        return RunResult(run_dir=Path("here"))


async def leave_a_task_that_ignores_its_cancellation():
    async def stubborn():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.2)

    Leaving.task = asyncio.ensure_future(stubborn())
    await asyncio.sleep(0)


async def leave_blocked_threads():
    """More than asyncio's own pool has."""
    for _ in range((os.cpu_count() or 1) + 5):
        Leaving.task = asyncio.ensure_future(asyncio.to_thread(time.sleep, 3600))
    await asyncio.wait_for(asyncio.to_thread(time.sleep, 0), timeout=10)


@pytest.mark.parametrize(
    "leave", ["leave_a_task_that_ignores_its_cancellation", "leave_blocked_threads"]
)
def test_user_code_that_never_ends_cannot_keep_the_process_alive(leave):
    script = (
        f"from tests.test_cli import Leaving, {leave}\n"
        "from astuner.launch import run_to_end\n"
        f"print(run_to_end(Leaving({leave}), None, leave_seconds=0.5).run_dir)\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "here\n" and done.returncode == 0, done.stderr


async def leave_a_generator(end):
    async def numbers():
        try:
            yield 1
        finally:
            await end()

    Leaving.generator = numbers()
    await anext(Leaving.generator)


async def _exit():
    sys.exit(3)


async def _interrupt():
    raise KeyboardInterrupt


async def _stop():
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)


async def _never():
    await asyncio.sleep(3600)


@pytest.mark.parametrize("end", [_exit, _interrupt, _stop, _never])
def test_a_generator_that_was_left_in_the_middle_ends_no_run_that_is_done(end):
    work = Leaving(partial(leave_a_generator, end))
    assert run_to_end(work, None, leave_seconds=0.1).run_dir == Path("here")


def test_where_a_loop_runs_already_the_run_gets_a_thread_of_its_own():
    threads = []

    async def note():
        threads.append(threading.current_thread())

    async def notebook():
        return run_to_end(Leaving(note), None)

    assert asyncio.run(notebook()).run_dir == Path("here")
    assert threads[0] is not threading.main_thread()


def test_ctrl_c_in_a_notebook_ends_the_run():
    ended = threading.Event()

    async def wait():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async def notebook():
        run_to_end(Leaving(wait), None)

    # A shell ignores it in what it starts in the background, and so does every child of that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    loop = asyncio.new_event_loop()
    try:
        with contextlib.closing(loop), pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(notebook())
    finally:
        signal.signal(signal.SIGINT, previous)
    assert ended.is_set()


def test_a_thread_has_let_go_of_what_it_was_called_with_when_the_run_has_ended():
    """Later the interpreter may be ending, under a thread that frees an engine."""
    freed = threading.Event()

    class Engine:
        def stop(self):
            return None

        def __del__(self):
            time.sleep(0.2)
            freed.set()

    async def stop_serving():
        await asyncio.to_thread(Engine().stop)

    run_to_end(Leaving(stop_serving), None)
    assert freed.is_set()


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == "astuner.cli.main":
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Interrupter())
signal.signal(signal.SIGINT, signal.{handler})
sys.argv = ["astuner", "--version"]
runpy.run_module("astuner", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("number", "handler", "code", "said"),
    [
        (signal.SIGINT, "default_int_handler", 130, "astuner: ended by SIGINT\n"),
        (signal.SIGTERM, "default_int_handler", 143, "astuner: ended by SIGTERM\n"),
        (signal.SIGINT, "SIG_IGN", 0, ""),
    ],
)
def test_a_signal_while_the_command_imports_ends_it_with_a_line(number, handler, code, said):
    script = INTERRUPTED_IMPORT.format(number=int(number), handler=handler)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (code, said)


def test_importing_the_package_leaves_signals_to_python():
    seen = "[signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]"
    script = f"import signal; old = {seen}; from astuner import *; assert old == {seen}, {seen}"
    subprocess.run([sys.executable, "-c", script], check=True)
