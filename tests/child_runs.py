"""Starts the command in processes of their own, within a second: forked from one that has imported
torch and the rest already."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NoReturn

from tests.signals import signals_of_a_terminal

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.imported_once"])


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """`astuner ARGUMENT…` in a process of its own, which is used as one of `subprocess` is."""

    _process: ForkServerProcess

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float = 60) -> int:
        """Its exit code; that of a signal is negative."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self.kill()
            raise AssertionError(f"it has not ended in {seconds} s")
        return code


def start_command(
    arguments: Sequence[str],
    *,
    folder: Path,
    stdout: int,
    stderr: int,
    environment: Mapping[str, str] | None = None,
) -> ChildCommand:
    """Begin it in `folder`, with these open files and an environment like that of a subprocess."""
    streams = (multiprocessing.reduction.DupFd(stdout), multiprocessing.reduction.DupFd(stderr))
    given = dict(os.environ if environment is None else environment)
    process = _FORKS.Process(target=_command, args=(list(arguments), folder, streams, given))
    process.start()
    return ChildCommand(process)


def run_command(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same until it has ended, with what it wrote."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start_command(
            arguments,
            folder=folder,
            stdout=stdout.fileno(),
            stderr=stderr.fileno(),
            environment=environment,
        )
        code = process.wait()
        said = []
        for stream in (stdout, stderr):
            stream.seek(0)
            said.append(stream.read().decode())
    return subprocess.CompletedProcess(list(arguments), code, *said)


def _command(
    arguments: Sequence[str],
    folder: Path,
    streams: Sequence["multiprocessing.reduction.DupFd"],
    environment: Mapping[str, str],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    _run(arguments, folder, *streams)


@dataclass(kw_only=True)
class ChildRun:
    """A run of the local backbone, in the folder of `conf`."""

    process: ForkServerProcess
    folder: Path
    _screen: Path = field(repr=False)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def said(self) -> str:
        return self._screen.read_text()

    @property
    def run_dir(self) -> Path:
        return (self.folder / "launcher_record/adder/latest").resolve()

    @property
    def log(self) -> str:
        return (self.run_dir / "run.log").read_text()

    def checkpoints(self) -> list[str]:
        """What stands in the folder of checkpoints, half ones included."""
        return sorted(path.name for path in self.run_dir.glob("checkpoints/*"))

    def wait_until_said(self, words: str, *, seconds: float = 100) -> None:
        self.wait_until(lambda: words in self.said, f"it said {words!r}", seconds=seconds)

    def wait_until(self, is_so: Callable[[], bool], what: str, *, seconds: float = 100) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            if not self.process.is_alive():
                self._fail(f"it ended before {what}")
            if time.monotonic() > deadline:
                self._fail(f"{seconds} s passed before {what}")
            time.sleep(0.02)

    def code(self, *, seconds: float = 100) -> int:
        """As a shell shows it: 128 and the number of the signal that ended the process."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self._fail(f"it has not ended in {seconds} s")
        return 128 - code if code < 0 else code

    def _fail(self, what: str) -> NoReturn:
        """What is left of it would keep the tests from ending."""
        self.process.kill()
        raise AssertionError(f"{what}:\n{self.said}")


def start_run(
    conf: Path,
    *settings: str,
    resume: bool = False,
    max_file_bytes: int | None = None,
    screen: int | None = None,
) -> ChildRun:
    """`astuner --conf CONF key=value …`; keys are given without `astuner.`

    Both streams go to a file, or to the open file `screen`. A file that gets larger than
    `max_file_bytes` is refused by the system as on a full disk.
    """
    path = conf.parent / "screen.log"
    path.touch()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND) if screen is None else screen
    arguments = ["--conf", conf.name, *(f"astuner.{setting}" for setting in settings)]
    if resume:
        arguments.append("--resume")
    stdout, stderr = (multiprocessing.reduction.DupFd(descriptor) for _ in range(2))
    process = _FORKS.Process(
        target=_run, args=(arguments, conf.parent, stdout, stderr, max_file_bytes)
    )
    process.start()
    if screen is None:
        os.close(descriptor)
    return ChildRun(process=process, folder=conf.parent, _screen=path)


def _run(
    arguments: Sequence[str],
    folder: Path,
    stdout: "multiprocessing.reduction.DupFd",
    stderr: "multiprocessing.reduction.DupFd",
    max_file_bytes: int | None = None,
) -> None:
    from astuner.cli import main

    os.chdir(folder)
    for number, stream in enumerate((stdout, stderr), 1):
        descriptor = stream.detach()
        os.dup2(descriptor, number)
        os.close(descriptor)
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    with signals_of_a_terminal():
        sys.exit(main(arguments))
