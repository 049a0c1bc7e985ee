"""The child process that ends a run in which nothing runs any more; a script, never imported.

While C code holds the interpreter lock, no Python code of the process runs, and no signal handler
either, so somebody else has to notice. The process beats on this one's standard input. Without a
beat for as long as the plan allows, it has faulthandler, which needs no lock, write all stacks,
says which code it is, and kills. Ends with its parent.

Silence is counted in rounds of this loop in which the parent could run: a process that is stopped,
or a machine that was suspended, is as silent and blames nobody. A round in which the parent got
next to no processor, as on a machine that is out of memory, counts a fifth.

A process that ends without its farewell, by os._exit or a crash in C, can say nothing of it any
more; this one does.
"""

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

FAREWELL = b"!"
"""The sign of a process that leaves in order; its thread may beat on behind it."""
ROUND_SECONDS = 0.5
_STARVED_WEIGHT = 0.2
_BUSY_SHARE = 0.1
"""Of a round, from which on the parent computes."""
_LOOK_SECONDS = 0.3
_STACKS_SECONDS = 5.0
_QUIET_SECONDS = 0.5
"""The stacks are whole when nothing came for so long."""

_LOGGER = "astuner.rollout.held_lock"
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')


class Plan(NamedTuple):
    """What the parent tells at the start, as JSON."""

    parent: int
    limit_seconds: float
    tick_signal: int
    """Interrupts a call in the main thread that holds the lock and looks for signals."""
    dump_signal: int
    """Makes the parent write its stacks to `stacks`."""
    stacks: int
    """The reading end of a pipe."""
    libraries: list[str]
    """How the files of code begin that is not the user's."""
    limit_name: str
    advice: str
    log_file: str | None
    is_json: bool
    tells_of_end: bool
    """Whether records are JSON objects."""


class Frame(NamedTuple):
    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function})"


def main(plan: Plan) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the parent, whose end is ours
    silent_seconds = 0.0
    has_left = False
    used = _cpu_seconds(plan.parent)
    while os.getppid() == plan.parent:
        if select.select([0], [], [], ROUND_SECONDS)[0]:
            if not (signs := os.read(0, 65536)):
                break
            has_left = has_left or FAREWELL in signs
            silent_seconds = 0.0
            continue
        _send(plan.parent, None, plan.tick_signal)
        before, used = used, _cpu_seconds(plan.parent)
        if not _is_stopped(plan.parent):
            is_starved = used - before < ROUND_SECONDS * _BUSY_SHARE
            silent_seconds += ROUND_SECONDS * (_STARVED_WEIGHT if is_starved else 1.0)
        if silent_seconds >= plan.limit_seconds:
            if _end(plan):
                return 0
            silent_seconds = 0.0
    # The parent has gone, or is another program now.
    if plan.tells_of_end and not has_left and FAREWELL not in _unread():
        _tell(
            plan,
            f"process {plan.parent} ended within the run and said nothing: code called os._exit or "
            "os.exec, a library crashed, or the system killed it, as for want of memory. Whatever "
            "its exit code is, the run is not done; go on from the last whole checkpoint with "
            "--resume",
        )
    return 0


def _unread() -> bytes:
    """The signs that came while nobody looked."""
    parts = []
    while select.select([0], [], [], 0)[0] and (part := os.read(0, 65536)):
        parts.append(part)
    return b"".join(parts)


def _end(plan: Plan) -> bool:
    """Say whose code it is and kill the parent, unless it goes on in the last moment."""
    hottest = _hottest_thread(plan.parent)
    _send(plan.parent, hottest, plan.dump_signal)
    stacks = _read_stacks(plan.stacks)
    if select.select([0], [], [], 0)[0] or os.getppid() != plan.parent:
        return False
    told = stacks if hottest is None else _current_thread(stacks)
    message = (
        f"{describe_holder(told, plan.libraries)} holds the interpreter lock: nothing else of "
        f"process {plan.parent} could run for {plan.limit_seconds:g} s ({plan.limit_name}), no "
        f"other time limit and no signal either, so it was killed. {plan.advice}"
    )
    _tell(plan, message, stacks)
    _send(plan.parent, None, signal.SIGKILL)
    return True


def _tell(plan: Plan, message: str, stacks: str = "") -> None:
    """On standard error and in the log, which has the stacks where there is one."""
    record = (_as_json if plan.is_json else _as_text)(message, stacks)
    if plan.log_file is not None:
        with contextlib.suppress(OSError), open(plan.log_file, "a", encoding="utf-8") as log:
            log.write(record)
    shown = f"\nastuner: BackboneError: {message}\n"
    if plan.is_json:
        shown = record
    elif plan.log_file is None:
        shown = f"\n{stacks}{shown}"
    with contextlib.suppress(OSError):
        os.write(2, shown.encode(errors="backslashreplace"))


def _as_text(message: str, stacks: str) -> str:
    """As `log.py` writes a record."""
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"{when},000 ERROR {_LOGGER} {message}\n{stacks}"


def _as_json(message: str, stacks: str) -> str:
    """As `log_json.py` writes one."""
    when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    fields = {"@timestamp": when, "log.level": "error", "message": message, "log.logger": _LOGGER}
    if stacks:
        fields["error.stack_trace"] = stacks
    return json.dumps(fields) + "\n"


def describe_holder(stacks: str, libraries: list[str]) -> str:
    """The first of the user's lines in faulthandler's text, else the first line, with file and
    function."""
    parts = re.split(r"^(?=Thread |Current thread )", stacks, flags=re.MULTILINE)
    threads = [frames for part in parts if (frames := _frames(part))]
    foreign = tuple(libraries)
    own = (one for frames in threads for one in frames if not one.file.startswith(foreign))
    innermost = (frames[0] for frames in threads)
    return str(next(own, None) or next(innermost, "code that cannot be named"))


def _current_thread(stacks: str) -> str:
    """That got the signal."""
    return stacks.partition("Current thread ")[2].partition("\n\n")[0] or stacks


def _frames(text: str) -> list[Frame]:
    """Innermost first."""
    found = (_FRAME.match(line) for line in text.splitlines())
    return [Frame(m["file"], int(m["line"]), m["function"]) for m in found if m]


def _hottest_thread(process: int) -> int | None:
    """The thread that computes; None where none does, or the system does not tell."""
    before = _thread_ticks(process)
    time.sleep(_LOOK_SECONDS)
    after = _thread_ticks(process)
    spent = {thread: ticks - before.get(thread, 0) for thread, ticks in after.items()}
    hottest = max(spent, key=lambda one: spent[one], default=None)
    return hottest if hottest is not None and spent[hottest] > 0 else None


def _thread_ticks(process: int) -> dict[int, int]:
    ticks = {}
    with contextlib.suppress(OSError):
        for folder in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                ticks[int(folder.name)] = sum(map(int, _stat(folder)[11:13]))
    return ticks


def _cpu_seconds(process: int) -> float:
    """What it has computed so far; the time of day where the system does not tell."""
    try:
        ticks = _stat(Path(f"/proc/{process}"))[11:13]
    except OSError:
        return time.monotonic()
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _is_stopped(process: int) -> bool:
    """By a signal or a debugger."""
    try:
        return _stat(Path(f"/proc/{process}"))[0] in "Tt"
    except OSError:
        return False


def _stat(folder: Path) -> list[str]:
    """The fields of proc(5) behind the name: the state first."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def _send(process: int, thread: int | None, number: int) -> None:
    """To the one thread where there is one and the system can, since it marks itself."""
    if thread is not None:
        with contextlib.suppress(AttributeError, OSError):
            if ctypes.CDLL(None).tgkill(process, thread, number) == 0:
                return
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _read_stacks(pipe: int) -> str:
    parts = []
    wait = _STACKS_SECONDS
    while select.select([pipe], [], [], wait)[0] and (part := os.read(pipe, 65536)):
        parts.append(part)
        wait = _QUIET_SECONDS
    return b"".join(parts).decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main(Plan(**json.loads(sys.argv[1]))))
