"""Runs a command by bubblewrap: namespaces of its own, a read-only system, no capabilities.

Where this process is root, the command runs as a user of no account. That user is one of a
namespace which `_let_in` fills, since bubblewrap itself maps one user only and must be root to bind
an interpreter from root's home.
"""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath

from astuner.config.sections.sandbox import SandboxKind
from astuner.errors import SandboxError
from astuner.sandbox.following import Followed, follow, wait_readable
from astuner.sandbox.limits import die_first
from astuner.sandbox.listen import LISTEN
from astuner.sandbox.order import Order, is_within
from astuner.sandbox.relay import GatewayPlace
from astuner.sandbox.scratch import UID_UNDER_ROOT, give_to, is_root, write_files
from astuner.sandbox.seccomp import program_in_namespaces
from astuner.sandbox.system_view import (
    FROM_ETC,
    SYSTEM,
    interpreter_folders,
    plain_environment,
)

HOME = "/home/sandbox"
"""The scratch folder."""
_TEMPORARY = "/tmp"
_SHARED = "/dev/shm"
_UID = 1000
"""Of the command, where this process is not root."""
_READABLE = stat.S_IROTH | stat.S_IXOTH
_START_SECONDS = 20.0
_END_SECONDS = 20.0


class Bubblewrap:
    """The strong kind."""

    kind: SandboxKind = "bubblewrap"

    def __init__(self) -> None:
        self._is_root = is_root()
        self._uid = UID_UNDER_ROOT if self._is_root else _UID
        self._program = _found("bwrap", "install the package bubblewrap")
        self._prlimit = _found("prlimit", "install the package util-linux")
        self._setpriv = _found("setpriv", "install the package util-linux")
        self._env = _found("env", "install the package coreutils")
        self._seccomp = program_in_namespaces()
        self.not_held = (
            "" if self._seccomp else "system calls, whose numbers on this machine are not known"
        )

    def run(self, order: Order, listener: socket.socket | None, stop_fd: int) -> Followed:
        run = self._start(order, None if listener is None else listener.fileno())
        with run.process:
            followed = follow(run, order.limits, stop_fd)
        if followed.ended_by is None and not run.has_begun:
            found = followed.stderr.decode(errors="replace").strip()
            raise SandboxError(f"sandbox: bwrap could not begin the command: {found}")
        return followed

    def _start(self, order: Order, listener_fd: int | None) -> "BubblewrapRun":
        """Where the order has a gateway, the socket that listens at its port is sent out by
        listener_fd."""
        self._prepare_mounts(order)
        with ExitStack() as stack:
            fds = _Descriptors(stack)
            status_fd, status_end = fds.pipe()
            options = ["--json-status-fd", str(status_end)]
            let_in_end, let_in_fd = fds.pipe()
            fds.passed.append(status_end)
            if self._is_root:
                # It insists on --info-fd with that, which says nothing that the status does not.
                options += ["--userns-block-fd", str(let_in_end), "--info-fd", fds.file(b"")]
                fds.passed.append(let_in_end)
            options += self._options(order, fds)
            arguments = fds.file(b"".join(os.fsencode(option) + b"\0" for option in options))
            if listener_fd is not None:
                fds.passed.append(listener_fd)
            process = subprocess.Popen(
                [self._program, "--args", arguments, "--", *self._chain(order, listener_fd)],
                pass_fds=fds.passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={},
            )
            try:
                os.close(fds.give_up(status_end))
                top_pid = _read_top_pid(process, status_fd)
                top_fd = os.pidfd_open(top_pid)
                die_first(top_pid)
            except BaseException:
                with process:
                    process.kill()
                raise
            run = BubblewrapRun(process, top_pid, top_fd, fds.give_up(status_fd))
            try:
                if self._is_root:
                    _let_in(top_pid)
                    os.write(let_in_fd, b"\0")
            except BaseException:
                with process:
                    run.end()
                raise
            return run

    def _prepare_mounts(self, order: Order) -> None:
        for place, folder in {**order.mounts, **order.read_only}.items():
            if not folder.is_dir():
                raise SandboxError(
                    f"sandbox: mount at {place}: {folder} is no folder; make it before the run"
                )
        for place in order.mounts:
            if os.path.exists(place) and any(is_within(place, system) for system in SYSTEM):
                # Its code would then begin the next command, with rights that this has dropped.
                raise SandboxError(
                    f"sandbox: mount at {place}: it would hide programs of the system from what "
                    "starts the command; mount it elsewhere"
                )
        for place, folder in order.read_only.items():
            if self._is_root and folder.stat().st_mode & _READABLE != _READABLE:
                raise SandboxError(
                    f"sandbox: mount at {place}: {folder} is not readable for the user that code "
                    "of root runs as; let all read it: chmod -R o+rX"
                )
        if (found := order.mount_of_folder()) is not None:
            write_files(*found, order.files)
        if self._is_root:
            for folder in order.mounts.values():
                give_to(folder.resolve(), self._uid, self._uid)

    def _options(self, order: Order, fds: "_Descriptors") -> list[str]:
        disk = str(order.limits.disk_bytes)
        folder = order.folder or HOME
        options = [*("--unshare-user", "--unshare-all", "--die-with-parent", "--new-session")]
        options += ["--clearenv", "--hostname", "sandbox"]
        if self._is_root:
            options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            options += ["--uid", str(_UID), "--gid", str(_UID), "--disable-userns"]
        if self._seccomp is not None:
            options += ["--seccomp", fds.file(self._seccomp)]
        options += _parents([HOME, "/var/tmp"])
        options += ["--proc", "/proc", "--dev", "/dev"]
        for place in (_SHARED, _TEMPORARY, HOME):
            options += ["--perms", "0777", "--size", disk, "--tmpfs", place]
        options += ["--symlink", _TEMPORARY, "/var/tmp"]
        # Behind the temporary folders, since an interpreter or a mount may stand in one.
        places = [*FROM_ETC, folder, *order.mounts, *order.read_only]
        options += _parents([*places, *map(str, interpreter_folders())])
        options += self._system(order.gateway, fds)
        if any(is_within(folder, place) for place in (_TEMPORARY, HOME)):
            options += ["--perms", "0777", "--dir", folder]
        elif not any(is_within(folder, place) for place in (*order.mounts, *order.read_only)):
            options += ["--perms", "0777", "--size", disk, "--tmpfs", folder]
        for place, source in order.read_only.items():
            options += ["--ro-bind", str(source.resolve()), place]
        for place, source in order.mounts.items():
            options += ["--bind", str(source.resolve()), place]
        if order.mount_of_folder() is None:
            options += _files(folder, order.files, fds)
        options += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", folder]
        environment = plain_environment(home=HOME, temporary=_TEMPORARY)
        for name, value in {**environment, **order.environment}.items():
            if not _is_of_the_loader(name):
                options += ["--setenv", name, value]
        return options

    def _system(self, gateway: GatewayPlace | None, fds: "_Descriptors") -> list[str]:
        options = []
        for place in SYSTEM:
            if os.path.islink(place):
                options += ["--symlink", os.readlink(place), place]
            elif os.path.isdir(place):
                options += ["--ro-bind", place, place]
        for place in FROM_ETC:
            options += ["--ro-bind-try", place, place]
        for folder in interpreter_folders():
            if not any(is_within(str(folder), place) for place in SYSTEM):
                options += ["--ro-bind", str(folder), str(folder)]
        accounts = f"sandbox:x:{self._uid}:{self._uid}::{HOME}:/bin/sh\n".encode()
        groups = f"sandbox:x:{self._uid}:\n".encode()
        for name, content in (
            ("passwd", accounts),
            ("group", groups),
            ("hosts", f"127.0.0.1 localhost {'' if gateway is None else gateway.host}\n".encode()),
        ):
            options += ["--file", fds.file(content), f"/etc/{name}"]
        return options

    def _chain(self, order: Order, listener_fd: int | None) -> list[str]:
        """The command behind what prepares it from inside, each of which becomes the next."""
        chain = []
        if self._is_root:
            user = str(self._uid)
            chain += [self._setpriv, "--reuid", user, "--regid", user, "--clear-groups", "--"]
        if listener_fd is not None and order.gateway is not None:
            chain += [sys.executable, "-I", "-S", "-c", LISTEN]
            chain += [str(order.gateway.port), str(listener_fd)]
        limits = order.limits.of_one_process().items()
        chain += [self._prlimit, *(_limit_option(*limit) for limit in limits), "--"]
        loader = [f"{n}={v}" for n, v in order.environment.items() if _is_of_the_loader(n)]
        if loader:
            chain += [self._env, *loader]
        return [*chain, *order.argv]


class BubblewrapRun:
    """A run that bubblewrap has started."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", top_pid: int, top_fd: int, status_fd: int
    ) -> None:
        self.process = process
        self.top_pid = top_pid
        self._top_fd = top_fd
        self._status_fd = status_fd
        self._is_over = False
        self.has_begun = False
        """Whether the command itself ran, known at the end."""

    def end(self) -> None:
        """Kill the namespace's first process, with which the kernel kills all others, and wait."""
        if self._is_over:
            return
        self._is_over = True
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._top_fd, signal.SIGKILL)
        wait_readable(self._top_fd, _END_SECONDS, "the end of a killed run")
        self.process.kill()
        self.process.wait()
        os.close(self._top_fd)
        with open(self._status_fd, "rb", buffering=0) as status:
            # Without waiting for its end: a fork of this process may hold the pipe open.
            os.set_blocking(self._status_fd, False)
            self.has_begun = b'"exit-code"' in (status.read() or b"")


class _Descriptors:
    """Open files of one start, closed with it, and which of them bubblewrap gets."""

    def __init__(self, stack: ExitStack) -> None:
        self.passed: list[int] = []
        self._open: set[int] = set()
        stack.callback(self._close)

    def pipe(self) -> tuple[int, int]:
        """An end to read from and one to write to, neither passed."""
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def file(self, content: bytes) -> str:
        fd = os.memfd_create("sandbox")
        self._open.add(fd)
        self.passed.append(fd)
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
        return str(fd)

    def give_up(self, fd: int) -> int:
        self._open.remove(fd)
        return fd

    def _close(self) -> None:
        for fd in self._open:
            os.close(fd)


def _limit_option(name: str, limits: tuple[int, int]) -> str:
    soft, hard = limits
    return f"--{name.removeprefix('RLIMIT_').lower()}={soft}:{hard}"


def _is_of_the_loader(name: str) -> bool:
    """Whether a variable may bring code into any program, so also into setpriv, which still may
    become any user; such are set behind it."""
    return name.startswith("LD_") or name in {"GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH"}


def _parents(places: Sequence[str]) -> list[str]:
    """Folders above the places, which bubblewrap would make for its own user only."""
    parents = {str(parent) for place in places for parent in PurePosixPath(place).parents}
    own = sorted(p for p in parents - {"/"} if not any(is_within(p, system) for system in SYSTEM))
    return [text for parent in own for text in ("--perms", "0755", "--dir", parent)]


def _files(folder: str, files: Mapping[str, bytes], fds: _Descriptors) -> list[str]:
    options = []
    made = set()
    for name, content in files.items():
        parents = name.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = "/".join((folder, *parents[:depth]))
            if parent not in made:
                made.add(parent)
                options += ["--perms", "0777", "--dir", parent]
        options += ["--perms", "0666", "--file", fds.file(content), f"{folder}/{name}"]
    return options


def _let_in(pid: int) -> None:
    """Let a new namespace have the users that this process sees, under the same numbers."""
    for kind in ("uid", "gid"):
        ranges = [line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
        text = "".join(f"{inside} {inside} {count}\n" for inside, _, count in ranges)
        try:
            Path(f"/proc/{pid}/{kind}_map").write_text(text)
        except OSError as error:
            raise SandboxError(
                f"sandbox: a namespace for users cannot be filled: {error}; does root have "
                "CAP_SETUID and CAP_SETGID here?"
            ) from error


def _read_top_pid(process: "subprocess.Popen[bytes]", status_fd: int) -> int:
    status = b""
    while not status.endswith(b"\n"):
        wait_readable(status_fd, _START_SECONDS, "the start of bwrap")
        data = os.read(status_fd, 4096)
        if not data:
            assert process.stderr is not None
            raise SandboxError(
                "sandbox: bwrap did not start: "
                + process.stderr.read(4096).decode(errors="replace").strip()
            )
        status += data
    try:
        return int(json.loads(status.splitlines()[0])["child-pid"])
    except (ValueError, LookupError, TypeError) as error:
        raise SandboxError(f"sandbox: bwrap did not start: it said {status!r:.200}") from error


def _found(program: str, advice: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise SandboxError(f"{program} is not installed; {advice}")
    return path
