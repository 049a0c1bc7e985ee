"""Runs a command under Landlock and limits: for systems that forbid namespaces.

The command sees the host's paths and may read the system's, write to its scratch folder, and open
no socket. `not_held` says what this cannot hold. Without Landlock it is the kind `none`, which has
only the limits, a scratch folder and an end.
"""

import ctypes
import marshal
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any

from astuner.config.sections.sandbox import SandboxKind
from astuner.errors import SandboxError
from astuner.sandbox import supervisor
from astuner.sandbox.following import Followed, follow
from astuner.sandbox.order import Order, is_within
from astuner.sandbox.scratch import UID_UNDER_ROOT, give_to, is_root, remove, write_files
from astuner.sandbox.seccomp import program_without_namespaces
from astuner.sandbox.system_view import (
    FROM_ETC,
    SYSTEM,
    interpreter_folders,
    plain_environment,
)

_CREATE_RULESET = 444
_ASK_VERSION = 1
_READ = 0b1101
"""Landlock's rights to execute, to read files and to read folders."""
_WRITE = 0xFFFF & ~(1 << 6 | 1 << 11)
"""All rights but making devices."""
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_LENGTH_RULES_SINCE = 3
_TCP_RULES_SINCE = 4
_SIGNAL_RULES_SINCE = 6
_END_SECONDS = 20.0
_SUPERVISOR = supervisor.__file__


def landlock_version() -> int:
    """Version of the kernel's interface. Raises SandboxError where it has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_long(0), _ASK_VERSION)
    if version < 1:
        why = os.strerror(ctypes.get_errno())
        raise SandboxError(f"the kernel refuses Landlock ({why}); it has it from Linux 5.13 on")
    return version


class Landlock:
    """The weaker kind."""

    kind: SandboxKind = "landlock"

    def __init__(self) -> None:
        self._version = landlock_version()
        self._uid = UID_UNDER_ROOT if is_root() else None
        is_readable = all(_is_open_to_all(folder) for folder in interpreter_folders())
        self._capability = None if self._uid is None or is_readable else _find_capability()
        self.not_held = "; ".join(self._find_not_held())

    def _find_not_held(self) -> Iterator[str]:
        yield "what its files take together, each alone is bounded"
        yield "names and sizes of files and processes"
        if self._uid is None:
            yield "modes and times of files of this user"
            if self._version < _LENGTH_RULES_SINCE:
                yield "lengths of files of this user, which may be made empty"
            if self._version < _SIGNAL_RULES_SINCE:
                yield "signals to this user's processes, also to that which ends what it left"
        if program_without_namespaces("none") is None:
            yield "sockets and other system calls, whose numbers on this machine are not known"

    def run(self, order: Order, listener: socket | None, stop_fd: int) -> Followed:
        _check_places(order)
        if order.gateway is not None and self._version < _TCP_RULES_SINCE:
            raise SandboxError(
                f"sandbox: gateway: Landlock {self._version} of this kernel has no rule for ports; "
                f"it takes version {_TCP_RULES_SINCE} (Linux 6.7), or bubblewrap"
            )
        program = program_without_namespaces("none" if order.gateway is None else "tcp")
        paths = dict.fromkeys((*SYSTEM, *FROM_ETC, *map(str, interpreter_folders())), _READ)
        paths |= dict.fromkeys(_DEVICES, 0b110 | 1 << 14 | 1 << 15)
        confinement = {
            "landlock": self._version,
            "paths": paths,
            "port": None if order.gateway is None else order.gateway.port,
            "seccomp": None if program is None else program.hex(),
            "uid": self._uid,
            "capability": self._capability,
        }
        return _run_supervised(order, confinement, stop_fd)


class Unconfined:
    """No sandbox: a process of this user, with limits."""

    kind: SandboxKind = "none"
    not_held = "anything but memory, time and output: it may do all that this user may"

    def run(self, order: Order, listener: socket | None, stop_fd: int) -> Followed:
        _check_places(order)
        confinement = {"landlock": 0, "paths": {}, "port": None, "seccomp": None, "uid": None}
        return _run_supervised(order, confinement, stop_fd)


def _check_places(order: Order) -> None:
    mounts = {**order.mounts, **order.read_only}
    moved = [place for place, folder in mounts.items() if place != str(folder)]
    if moved:
        raise SandboxError(
            f"sandbox: mount at {moved[0]}: without bubblewrap a folder stands inside where it "
            f"stands outside, at {mounts[moved[0]]}; install bubblewrap, or mount it there"
        )
    if order.folder is not None and not any(is_within(order.folder, place) for place in mounts):
        raise SandboxError(
            f"sandbox: folder: {order.folder} is in no mount, and cannot be made without "
            "bubblewrap; install that, or leave the folder out"
        )


def _run_supervised(order: Order, confinement: dict[str, Any], stop_fd: int) -> Followed:
    uid = confinement["uid"]
    with _scratch_folder() as scratch:
        write_files(*(order.mount_of_folder() or (scratch, "")), order.files)
        for folder in (scratch, *order.mounts.values()):
            if uid is not None:
                give_to(folder, uid, uid)
        paths = confinement["paths"]
        paths |= {str(folder): _READ for folder in order.read_only.values()}
        paths |= {str(folder): _WRITE for folder in (scratch, *order.mounts.values())}
        environment = plain_environment(home=str(scratch), temporary=str(scratch))
        plan = {
            **confinement,
            "argv": order.argv,
            "environment": {**environment, **order.environment},
            "folder": order.folder or str(scratch),
            "scratch": str(scratch),
            "limits": order.limits.of_one_process(),
        }
        return _follow_supervised(plan, order, stop_fd)


def _follow_supervised(plan: dict[str, Any], order: Order, stop_fd: int) -> Followed:
    report_fd, report_end = os.pipe()
    try:
        with open(os.memfd_create("plan"), "wb", buffering=0) as file:
            file.write(marshal.dumps(plan))
            file.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", _SUPERVISOR, str(file.fileno()), str(report_end)],
                pass_fds=(file.fileno(), report_end),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
    except BaseException:
        os.close(report_fd)
        raise
    finally:
        os.close(report_end)
    with process, open(report_fd, "rb", buffering=0) as report:
        followed = follow(SupervisedRun(process), order.limits, stop_fd)
        os.set_blocking(report_fd, False)
        if found := report.read():
            raise SandboxError(
                "sandbox: the command could not be begun: " + found.decode(errors="replace")
            )
        return followed


class SupervisedRun:
    """A run that `supervisor.py` has started."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.top_pid = process.pid

    def end(self) -> None:
        """Write to the supervisor, at which it ends all that is below it, and wait for it."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            # A fork of this process may hold the pipe open, so closing it would say nothing.
            self.process.stdin.write(b"end")
        self.process.stdin.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            self.process.wait()
            raise SandboxError(
                f"sandbox: the end of a killed run took more than {_END_SECONDS} seconds; is the "
                "system busy?"
            ) from error


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="astuner-sandbox-")).resolve()
    try:
        yield folder
    finally:
        remove(folder)


def _find_capability() -> int | None:
    """What lets another user into root's home, where the interpreter is. What it may read and write
    besides is Landlock's to say."""
    status = Path("/proc/self/status").read_text()
    held = next(int(line.split()[1], 16) for line in status.splitlines() if "CapEff" in line)
    return next((bit for bit in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE) if held >> bit & 1), None)


def _is_open_to_all(folder: Path) -> bool:
    with suppress(OSError):
        return all(place.stat().st_mode & stat.S_IXOTH for place in (folder, *folder.parents))
    return False
