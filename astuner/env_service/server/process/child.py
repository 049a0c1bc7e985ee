"""The process that an environment's instances are forked from: it imports the class, once.

Run as `python -P child.py FD`, never imported. FD is a socket of packets to the server. The first
one to come is the description of the environment; then each {"fork": id}, with one end of a socket
that the instance is to listen at, and {"end": id}. Back go {"loaded": the folder that instances
write to} or {"failed": why}, and for each instance {"ended": id, "status": that of wait()}. All are
JSON.

No process outlives the server, however it ended, nor one that was forked here its instance.
"""

import array
import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_PACKAGE = "astuner.env_service.server.process"
_MAX_PACKET = 1 << 20
_FRESH = "fresh"
"""Second argument of a process whose instances import the class themselves."""

_SET_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36
_SWEEP_SECONDS = 2.0


def _known_as(name: str, file: Path) -> Any:
    """Execute a file of ours under its full name, by which the others import it, whether astuner
    is installed here or not."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_known_as("astuner.env_service.action", _HERE.parent.parent / "action.py")
_known_as(f"{_PACKAGE}.checking", _HERE / "checking.py")
loading = _known_as(f"{_PACKAGE}.loading", _HERE / "loading.py")
playing = _known_as(f"{_PACKAGE}.playing", _HERE / "playing.py")


def _control_process(option: int, value: int) -> None:
    """prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with(parent: int) -> None:
    """Be killed when the parent ends; it may have ended before this was said."""
    _control_process(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Nursery:
    """Forks instances, ends and reaps them. Runs no code of the environment but its import."""

    def __init__(
        self, control: socket.socket, described: dict[str, Any], made: type | None
    ) -> None:
        self._control = control
        self._described = described
        self._made = made
        """None: instances import it."""
        self._ids: dict[int, str] = {}
        """Of instances that live, by process."""
        self._guests = frozenset(_children())
        """Processes that the import of the class has started."""
        self.scratch = Path(tempfile.mkdtemp(prefix="env-"))
        """Has a folder for what each instance writes, which goes with it, however it ends."""
        self._woken, self._waking = socket.socketpair()
        for end in (self._woken, self._waking):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the server closes its end, or ends."""
        while True:
            # The time is for a class whose import takes SIGCHLD for itself.
            ready, _, _ = select.select([self._control, self._woken], [], [], 1.0)
            if self._woken in ready:
                self._woken.recv(4096)
            self._reap()
            if not ready:  # what was just leaving its parent when that ended may have been missed
                self._sweep()
            if self._control in ready and not self._obey():
                break
        self._end_all()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _obey(self) -> bool:
        """Do what one packet says; False where there is no server any more."""
        packet, fds = _receive(self._control)
        if not packet:
            return False
        asked = json.loads(packet)
        if "fork" in asked:
            self._fork(asked["fork"], fds)
        for process, name in self._ids.items():
            if name == asked.get("end"):
                os.kill(process, signal.SIGKILL)
        return True

    def _fork(self, name: str, fds: list[int]) -> None:
        parent = os.getpid()
        try:
            process = _forked()
        except OSError as error:
            self._tell({"ended": name, "status": None, "why": f"it could not be forked: {error}"})
        else:
            if process == 0:
                self._be_instance(name, parent, *fds)
            self._ids[process] = name
        for fd in fds:
            os.close(fd)

    def _be_instance(self, name: str, parent: int, fd: int) -> None:
        """In the process of an instance; does not return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _die_with(parent)
            _control_process(_SET_CHILD_SUBREAPER, 1)
            for end in (self._control, self._woken, self._waking):
                end.close()
            _limit_memory(self._described["memory_mb"])
            _write_to(self.scratch / name)
            playing.play(socket.socket(fileno=fd), self._described, self._made)
            status = 0
        except BaseException:  # noqa: BLE001  # it would go on as another of us
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            name = self._ids.pop(process, None)
            if name is not None:
                self._sweep()
                shutil.rmtree(self.scratch / name, ignore_errors=True)
                self._tell({"ended": name, "status": os.waitstatus_to_exitcode(status)})

    def _sweep(self) -> int:
        """Kill what instances that have ended left behind, and say how many that were.

        What a living instance leaves behind becomes its own child; so a child of ours that is
        neither an instance nor there from the beginning was left by one that has ended.
        """
        left = [p for p in _children() if p not in self._ids and p not in self._guests]
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return len(left)

    def _end_all(self) -> None:
        deadline = time.monotonic() + _SWEEP_SECONDS
        self._guests = frozenset()
        self._ids.clear()
        while self._sweep() and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.002)

    def _tell(self, said: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # no server: the next read says so
            self._control.send(json.dumps(said).encode())


def _forked() -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads that the import has started; whoever minds them sets
        # is_fork_safe.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [p for p in _processes() if _parent(p) == os.getpid()]
    return [int(word) for word in text.split()]


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(process: int) -> int | None:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


def _write_to(folder: Path) -> None:
    """Have temporary files of this process, and of those that it starts, made there."""
    folder.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def _limit_memory(memory_mb: int | None) -> None:
    """Of what the process writes, so that libraries may map as many files as they like."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb is not None:
        num_bytes = memory_mb << 20
        resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """A packet, and the files that came with it; no program that is started inherits them."""
    room = socket.CMSG_SPACE(array.array("i").itemsize)
    packet, ancillary, _, _ = control.recvmsg(_MAX_PACKET, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _level, _type, data in ancillary:
        fds.frombytes(data)
    return packet, fds.tolist()


def _start_again_fresh(fd: int) -> None:
    """With nothing imported; whoever forks from it then has nothing to fear."""
    os.set_inheritable(fd, True)
    os.execv(sys.executable, [sys.executable, "-P", __file__, str(fd), _FRESH])


def main(fd: int, *, is_fresh: bool) -> int:
    os.set_inheritable(fd, False)
    control = socket.socket(fileno=fd)
    described = json.loads(control.recv(_MAX_PACKET, socket.MSG_PEEK))
    _die_with(described["server_process"])
    _control_process(_SET_CHILD_SUBREAPER, 1)
    os.dup2(2, 1)  # what environments print is no part of any protocol
    made = None
    if not is_fresh:
        try:
            made = loading.load(described)
        except loading.Unloadable as error:
            control.recv(_MAX_PACKET)  # an end with something unread would lose what is said
            control.send(json.dumps({"failed": str(error)}).encode())
            return 1
        if not getattr(made, "is_fork_safe", True):
            _start_again_fresh(fd)
    control.recv(_MAX_PACKET)
    nursery = Nursery(control, described, made)
    gc.collect()
    gc.freeze()  # a collection in an instance would write to, and so copy, what all share
    # From here on this process always reads; the end of the server is the end of what it reads,
    # and leaves time to end what instances have started.
    _control_process(_SET_DEATH_SIGNAL, 0)
    control.send(json.dumps({"loaded": str(nursery.scratch)}).encode())
    nursery.serve()
    return 0


if __name__ == "__main__":
    code = main(int(sys.argv[1]), is_fresh=sys.argv[2:] == [_FRESH])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not waiting for threads that the import has started
