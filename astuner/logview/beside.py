"""The viewer beside a run: a process of its own that the run starts and does not wait for.

Whatever becomes of it costs the run one line of warning. It ends when the run does, however that
ends: it holds one end of a pipe, and the run the other one.
"""

import logging
import os
import shlex
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from astuner.errors import AstunerError
from astuner.logview.web.entrance import Entrance, open_entrance, ssh_line
from astuner.logview.web.serve import check_installed

logger = logging.getLogger(__name__)

_MODULE = "astuner.logview.beside_child"
_END_SECONDS = 3.0
"""It takes milliseconds, unless the process was stopped."""

_lifelines: dict[int, int] = {}
"""The run's ends of the pipes with their inodes; changed by `_Beside` only."""


def _close_in_fork() -> None:
    """A process that user code forks would keep the viewer alive when the run is gone."""
    for lifeline in list(_lifelines):
        _close(lifeline)


def _close(lifeline: int) -> None:
    """User code may have closed whatever is open; its number may be that of another file then."""
    inode = _lifelines.pop(lifeline, None)
    with suppress(OSError):
        if os.fstat(lifeline).st_ino == inode:
            os.close(lifeline)


os.register_at_fork(after_in_child=_close_in_fork)


@contextmanager
def viewer_beside(
    run_dir: Path, *, home: Path, say: Callable[[str], None], warn: Callable[[str], None]
) -> Iterator[None]:
    """Serve this run, and those beside it, to this machine for as long as this is open.

    The link is told by `say`, before anybody answers there; why there is no viewer, or none any
    more, by `warn`, from whatever thread.
    """
    again = f"the run goes on; look at it with `{viewing_command(run_dir, home=home)}`"
    try:
        check_installed()
        entrance = open_entrance()
        with closing(entrance.listening):  # the process has one of its own
            told = list(_told(entrance, run_dir))
            viewer = _Beside(run_dir, entrance, warn=lambda why: warn(f"{why}; {again}"))
    except (AstunerError, OSError) as error:
        warn(f"the viewer cannot be started: {error}; {again}")
        yield
        return
    try:
        for line in told:
            say(line)
        yield
    finally:
        viewer.end()


def viewing_command(run_dir: Path, *, home: Path) -> str:
    """What to type in the folder `home` to look at a run."""
    path = run_dir.relative_to(home) if run_dir.is_relative_to(home) else run_dir
    return f"astuner logview {shlex.quote(str(path))}"


def _told(entrance: Entrance, run_dir: Path) -> Iterator[str]:
    from astuner.logview.web.addresses import run_at

    yield f"viewer  {entrance.link(run_at(f'{run_dir.parent.name}/{run_dir.name}'))}"
    if line := ssh_line(entrance):
        yield f"        from your own machine, first: {line}"


class _Beside:
    """The process, from start to end. Owned by `viewer_beside`."""

    def __init__(self, run_dir: Path, entrance: Entrance, *, warn: Callable[[str], None]) -> None:
        """Raises OSError where the system starts no process."""
        self._owner = os.getpid()
        self._warn = warn
        self._is_ending = False
        held, self._lifeline = os.pipe()
        _lifelines[self._lifeline] = os.fstat(self._lifeline).st_ino
        given = (entrance.listening.fileno(), held)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, *map(str, given), str(run_dir.parent)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=given,
                start_new_session=True,  # a Ctrl-C of the terminal is for the run
                text=True,
                errors="replace",
            )
        except BaseException:
            _close(self._lifeline)
            raise
        finally:
            os.close(held)
        assert self._process.stdout is not None
        self._listener = threading.Thread(
            target=self._listen, args=(self._process.stdout,), name="viewer", daemon=True
        )
        try:
            self._listener.start()
        except RuntimeError as error:  # no more threads
            _close(self._lifeline)
            self._process.kill()
            self._process.communicate()
            raise OSError(str(error)) from error

    def end(self) -> None:
        """Let it end; soon, or it is killed. Harmless in a process that user code has forked."""
        if os.getpid() != self._owner:
            return
        self._is_ending = True
        _close(self._lifeline)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(_END_SECONDS)

    def _listen(self, said: IO[str]) -> None:
        """Keep what it says for run.log, and tell when it has ended before the run."""
        last: deque[str] = deque(maxlen=1)
        with said:
            for line in said:
                logger.debug("viewer: %s", line.rstrip())
                last.append(line.strip())
        code = self._process.wait()
        if not self._is_ending:
            why = f": {last[0]}" if last else ""
            self._warn(f"the viewer has ended (code {code}){why}")
