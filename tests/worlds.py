"""Environments that the tests serve, each doing what its task or action says.

Plain classes: the base class brings all of astuner into each process, which takes half a second.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from astuner.env_service.action import Action


class EchoWorld:
    """Says what it was told, ends after "end", and counts how often it acted."""

    tools = (
        {
            "type": "function",
            "function": {"name": "say", "parameters": {"type": "object", "properties": {}}},
        },
    )

    def __init__(self, *, greeting="hello") -> None:
        self.greeting = greeting
        self.num_acts = 0

    @classmethod
    def task_ids(cls, split, **options):
        if split != "train":
            raise ValueError(f"there is no split {split!r}; there is train")
        return ["a", "b"]

    def reset(self, *, seed=None, options=None):
        if options["task_id"] == "missing":
            raise LookupError("there is no task missing")
        return self.greeting, {"seed": seed, "options": dict(options)}

    def step(self, action: Action):
        self.num_acts += 1
        if action.startswith("sleep "):
            time.sleep(float(action.split()[1]))
        calls = "".join(f" {call['name']}({call['arguments']})" for call in action.tool_calls)
        said = f"{self.num_acts}: {action}{calls}"
        return said, 0.5, action == "end", action == "limit", {"length": len(action)}

    def evaluate(self, *, sparse=False):
        return None if self.greeting == "no value" else float(self.num_acts)


class VastWorld(EchoWorld):
    """Two of its rewards are more than a float holds."""

    def step(self, action):
        return "more", 1e308, False, False, {}

    def evaluate(self, *, sparse=False):
        return None


class TroubleWorld(EchoWorld):
    """Does what the name of its task says in `reset`, and what its action says in `step`."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.path = options.get("path", os.devnull)

    def reset(self, *, seed=None, options=None):
        return _TROUBLES.get(options["task_id"], self._fine)(), {}

    def step(self, action):
        if action in _RESULTS:
            return _RESULTS[action]
        return _TROUBLES.get(action, self._fine)(), 1.0, False, False, {}

    def evaluate(self, *, sparse=False):
        return float("nan")

    def _fine(self):
        return "fine"


def _raise():
    raise ValueError("a fault of the world")


def _raise_of_a_key():
    return {}["absent"]


def _hang():
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _crash():
    ctypes.string_at(0)


def _fork():
    os.fork()
    return "both come back"


def _leave_a_process():
    """In a session of its own, holding whatever is open here."""
    left = subprocess.Popen(["sleep", "1000"], start_new_session=True, close_fds=False)
    return f"left {left.pid}"


def _garble():
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), b"\x00\x00\x00\x02{]")
    return "wrote"


def _print():
    print("x" * 100_000)  # noqa: T201
    os.write(1, b"\x00\x00\x00\x05nonsense\n")
    return "printed"


def _take_memory():
    held = bytearray(2 << 30)
    return f"took {len(held)}"


_TROUBLES = {
    "raise": _raise,
    "key": _raise_of_a_key,
    "hang": _hang,
    "die": _die,
    "crash": _crash,
    "exit": lambda: sys.exit(3),
    "exit at once": lambda: os._exit(4),
    "fork": _fork,
    "leave a process": _leave_a_process,
    "garble": _garble,
    "print": _print,
    "memory": _take_memory,
    "long": lambda: "y" * 10_000_000,
    "bytes": lambda: b"\xff",
    "no utf-8": lambda: b"a\xff".decode("utf-8", "surrogateescape"),
    "number": lambda: 7,
}
_RESULTS = {
    "nothing": None,
    "four": ("text", 1.0, False, False),
    "nan": ("text", float("nan"), False, False, {}),
    "huge": ("text", 10**400, False, False, {}),
    "no reward": ("text", None, False, False, {}),
    "no truth": ("text", 1.0, "yes", False, {}),
    "no info": ("text", 1.0, False, False, None),
    "odd info": ("text", 1, False, False, {"path": Path("a"), "nan": float("nan"), 3: {4}}),
}


class UnmadeWorld(EchoWorld):
    """Is made once, and then no more."""

    def __init__(self, *, path) -> None:
        super().__init__()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            raise RuntimeError("it was made already") from None


class FreshWorld(EchoWorld):
    """Says in which process its module was imported."""

    is_fork_safe = False
    imported_in = os.getpid()

    def reset(self, *, seed=None, options=None):
        return f"{self.imported_in == os.getpid()}", {}


class SlowlyMadeWorld(EchoWorld):
    """Is made in half a second."""

    def __init__(self) -> None:
        super().__init__()
        time.sleep(0.5)
