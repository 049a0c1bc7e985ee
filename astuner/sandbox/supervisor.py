"""A program of its own, run by path: starts one command under Landlock and ends all that it left.

It stays outside of what it confines. It is the reaper of all processes below it, so none gets away
by giving up its parent, and its input ends with the process that started it, so it ends then too.

Arguments: the number of a file with what landlock.py plans, and that of a pipe to write to why the
command could not be begun. A start waits for the imports here, so there are few: json, contextlib
and typing would double it.
"""
# ruff: noqa: SIM105

import ctypes
import marshal
import os
import resource
import select
import signal
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_BENEATH, _PORT = 1, 2
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _SET_SUBREAPER, _SET_DEATH_SIGNAL = 38, 22, 36, 1
_SET_KEEP_CAPABILITIES, _AMBIENT, _RAISE = 8, 47, 2
_SECCOMP_FILTER = 2
_ROUND_SECONDS = 0.001
_CAPABILITIES_VERSION = 0x20080522
_FOR_FILES = 0b1100_0000_0000_0111
"""Rights of Landlock that a file may have: execute, write, read, truncate, ioctl of a device."""

_libc = ctypes.CDLL(None, use_errno=True)


def supervise(plan: "dict[str, Any]", report_fd: int) -> int:
    _call(_libc.prctl, _SET_SUBREAPER, 1, 0, 0, 0)
    ruleset_fd = _make_ruleset(plan) if plan["landlock"] else None
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            _become(plan, ruleset_fd)
        except Exception as error:  # noqa: BLE001  # this is another process, which must not go on
            os.write(report_fd, f"{type(error).__name__}: {error}".encode())
        os._exit(126)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    return _await_end(child, plan["scratch"])


def _await_end(child: int, scratch: str) -> int:
    ended_fd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended_fd, select.POLLIN)
    poll.register(0, select.POLLIN)
    status = None
    if any(fd == ended_fd for fd, _ in poll.poll()):
        status = os.waitpid(child, 0)[1]
    _end_all(child)
    if status is None:
        if not os.read(0, 1):
            # Who started this is gone, and cannot remove it.
            os.execl("/bin/sh", "sh", "-c", 'chmod -R u+rwx "$0"; exec rm -rf "$0"', scratch)
        return 0
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end_all(group: int) -> None:
    """Kill until none is left: what forks meanwhile is found in the next round."""
    while True:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass
        for pid in _below(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        select.select([], [], [], _ROUND_SECONDS)


def _below(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        pid = waiting.pop()
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    waiting += [int(child) for child in file.read().split()]
        except OSError:
            pass
        found.append(pid)
    return found[1:]


def _become(plan: "dict[str, Any]", ruleset_fd: int | None) -> None:
    os.chdir(plan["folder"])
    _die_first()
    if plan["uid"] is not None:
        _call(_libc.prctl, _SET_KEEP_CAPABILITIES, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(*[plan["uid"]] * 3)
        os.setresuid(*[plan["uid"]] * 3)
        _keep_capability(plan["capability"])
    _set_limits(plan["limits"])
    _call(_libc.prctl, _SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    _call(_libc.prctl, _SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if ruleset_fd is not None:
        _call(_libc.syscall, _RESTRICT_SELF, ruleset_fd, 0)
    if plan["seccomp"]:
        _filter(bytes.fromhex(plan["seccomp"]))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and so would the command
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvpe(plan["argv"][0], plan["argv"], plan["environment"])
    except OSError as error:
        os.write(2, f"{plan['argv'][0]}: {error.strerror}\n".encode())
        os._exit(126 if isinstance(error, PermissionError) else 127)


def _set_limits(limits: "dict[str, tuple[int, int]]") -> None:
    for name, (soft, hard) in limits.items():
        number = getattr(resource, name)
        if name == "RLIMIT_NPROC":
            # The kernel counts all that this user has, not only what is below this process.
            others, most = _count_processes(os.geteuid()), resource.getrlimit(number)[1]
            soft, hard = soft + others, hard + others
            if most != resource.RLIM_INFINITY:
                soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(number, (soft, hard))


def _die_first() -> None:
    """See `limits.die_first`, whose import would slow a start."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def _count_processes(uid: int) -> int:
    count = 0
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                count += len(os.listdir(f"/proc/{entry}/task"))
        except OSError:
            pass
    return count


def _make_ruleset(plan: "dict[str, Any]") -> int:
    """A ruleset that handles all that this kernel can, with the plan's exceptions."""
    abi = plan["landlock"]
    num_rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)
    handled = (1 << num_rights) - 1
    attributes = struct.pack("Q", handled)
    if abi >= 4:
        attributes += struct.pack("Q", 0b11)  # bind and connect of TCP
    if abi >= 6:
        attributes += struct.pack("Q", 0b11)  # abstract Unix sockets and signals
    ruleset_fd = _call(_libc.syscall, _CREATE_RULESET, attributes, len(attributes), 0)
    for path, rights in plan["paths"].items():
        try:
            path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        allowed = rights & handled
        if not os.path.isdir(path):
            allowed &= _FOR_FILES
        rule = struct.pack("=Qi", allowed, path_fd)
        _call(_libc.syscall, _ADD_RULE, ruleset_fd, _BENEATH, rule, 0)
        os.close(path_fd)
    if abi >= 4 and plan["port"] is not None:
        rule = struct.pack("QQ", 0b10, plan["port"])
        _call(_libc.syscall, _ADD_RULE, ruleset_fd, _PORT, rule, 0)
    return ruleset_fd


def _keep_capability(capability: int | None) -> None:
    """Drop all but this one of the first 32, which the command then has."""
    bits = 0 if capability is None else 1 << capability
    header = struct.pack("Ii", _CAPABILITIES_VERSION, 0)
    _call(_libc.capset, header, struct.pack("6I", bits, bits, bits, 0, 0, 0))
    if capability is not None:
        _call(_libc.prctl, _AMBIENT, _RAISE, capability, 0, 0)


def _filter(program: bytes) -> None:
    steps = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps))
    _call(_libc.prctl, _SET_SECCOMP, _SECCOMP_FILTER, header, 0, 0)


def _call(function: "Any", *arguments: "Any") -> int:
    """Call the C library. Numbers go as long ones, which all of these take."""
    result = function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)} in {function.__name__}{arguments[:1]}")
    return result


if __name__ == "__main__":
    with open(int(sys.argv[1]), "rb") as file:
        asked = marshal.load(file)
    report = int(sys.argv[2])
    os.set_inheritable(report, False)
    try:
        code = supervise(asked, report)
    except OSError as failure:
        os.write(report, str(failure).encode())
        code = 126
    os._exit(code)  # which is faster than to take Python down in order
