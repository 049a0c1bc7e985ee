"""One instance: does with the environment what the server asks, and tells what came of it.

Over a socket go texts of JSON, each behind its length in four bytes: {"do": name, …} to here, and
back {"answer": …} or {"error": {"code", "message"}}.
"""

import contextlib
import json
import os
import random
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

from astuner.env_service.action import Action
from astuner.env_service.server.process.checking import Checking, WrongAnswer, own_value
from astuner.env_service.server.process.loading import Unloadable, load

_LENGTH = struct.Struct(">I")
_MAX_WORDS = 2000
"""Characters of an error's message."""


def play(channel: socket.socket, described: dict[str, Any], made: type | None) -> None:
    """Until the server closes the channel, or the environment is closed."""
    _reseed()
    instance = PlayedInstance(described, made)
    process = os.getpid()
    while not instance.is_closed:
        request = _receive(channel)
        if request is None:
            return
        reply = _replied(instance, request)
        if os.getpid() != process:
            os._exit(0)  # a process that the environment has forked came back from its call
        channel.sendall(_LENGTH.pack(len(reply)) + reply)


class PlayedInstance:
    """An environment, from its class to its close."""

    def __init__(self, described: dict[str, Any], made: type | None) -> None:
        self._described = described
        self._made = made
        self._environment: Any = None
        self._checking = Checking(max_characters=described["max_observation_chars"])
        self._reward_sum = 0.0
        self.is_closed = False

    def make(self) -> dict[str, Any]:
        self._environment = self._class()(**self._described["options"])
        return {"action_preference": getattr(self._environment, "action_preference", "text")}

    def task_ids(self, *, split: str) -> list[str]:
        list_ids = getattr(self._class(), "task_ids", None)
        if list_ids is None:
            raise _Told("unknown_split", "its class has no method task_ids, so no split of tasks")
        with _read_as(ValueError, "unknown_split"):
            ids = list_ids(split, **self._described["options"])
        return [str(own_value(task_id)) for task_id in ids]

    def reset(self, *, seed: int | None, options: dict[str, Any]) -> dict[str, Any]:
        with _read_as(LookupError, "unknown_task"):
            result = self._environment.reset(seed=seed, options=options)
        observation, info = self._checking.parts("reset", result, ("observation", "info"))
        return {
            "messages": self._checking.messages("reset", observation),
            "info": self._checking.info("reset", info),
            "tools": self._checking.tools(getattr(self._environment, "tools", ())),
        }

    def step(self, *, text: str, tool_calls: list[dict[str, Any]]) -> dict[str, Any]:
        result = self._environment.step(Action(text, tool_calls=tool_calls))
        names = ("observation", "reward", "terminated", "truncated", "info")
        observation, reward, terminated, truncated, info = self._checking.parts(
            "step", result, names
        )
        reward = self._checking.number("step", "reward", reward)
        self._reward_sum += reward
        return {
            "messages": self._checking.messages("step", observation),
            "reward": reward,
            "terminated": self._checking.truth("step", "terminated", terminated),
            "truncated": self._checking.truth("step", "truncated", truncated),
            "info": self._checking.info("step", info),
        }

    def evaluate(self, *, sparse: bool) -> float:
        evaluate = getattr(self._environment, "evaluate", None)
        value = None if evaluate is None else evaluate(sparse=sparse)
        if value is None:
            return self._checking.number("evaluate", "the sum of its rewards", self._reward_sum)
        return self._checking.number("evaluate", "its value", value)

    def close(self) -> None:
        self.is_closed = True
        close = getattr(self._environment, "close", None)
        if close is not None:
            close()

    def _class(self) -> Any:
        if self._made is None:
            self._made = load(self._described)
        return self._made


class _Told(Exception):
    """What the environment raised, as an error of its own kind."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def _read_as(kind: type[Exception], code: str) -> Any:
    """Of this very class: a KeyError is a LookupError too, and most often a fault."""
    try:
        yield
    except Exception as error:
        if type(error) is kind:
            raise _Told(code, _text_of(error)) from error
        raise


def _replied(instance: PlayedInstance, request: dict[str, Any]) -> bytes:
    name = request.pop("do")
    method: Callable[..., Any] = getattr(instance, name)
    try:
        return json.dumps({"answer": method(**request)}, allow_nan=False).encode()
    except BaseException as error:  # noqa: BLE001  # code of the environment
        if not isinstance(error, _Told | WrongAnswer | Unloadable):
            traceback.print_exc()
        return json.dumps({"error": _described(error, name)}).encode()


def _described(error: BaseException, name: str) -> dict[str, str]:
    if isinstance(error, _Told):
        return {"code": error.code, "message": str(error)[:_MAX_WORDS]}
    if isinstance(error, WrongAnswer):
        return {"code": "invalid_answer", "message": str(error)[:_MAX_WORDS]}
    if isinstance(error, Unloadable):
        return {"code": "environment_unavailable", "message": str(error)[:_MAX_WORDS]}
    what = "__init__" if name == "make" else name
    words = _text_of(error)[:_MAX_WORDS]
    message = f"{what} raised {type(error).__name__}: {words}{_place(error)}"
    code = "out_of_memory" if isinstance(error, MemoryError) else "environment_raised"
    return {"code": code, "message": message}


def _text_of(error: BaseException) -> str:
    try:
        return str(error).encode("utf-8", "replace").decode()
    except BaseException as failure:  # noqa: BLE001  # code of the environment
        return f"(its text cannot be made: {type(failure).__name__})"


def _place(error: BaseException) -> str:
    """The last line of the environment's own that it passed; of its file the name alone."""
    own = os.path.dirname(__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.dirname(frame.filename) != own and not frame.filename.startswith("<")
    ]
    if not frames:
        return ""
    return f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"


def _receive(channel: socket.socket) -> dict[str, Any] | None:
    head = _exactly(channel, _LENGTH.size)
    body = head and _exactly(channel, _LENGTH.unpack(head)[0])
    return json.loads(body) if body else None


def _exactly(channel: socket.socket, num_bytes: int) -> bytes | None:
    """None where the channel ends before."""
    pieces = bytearray()
    while len(pieces) < num_bytes:
        piece = channel.recv(min(1 << 20, num_bytes - len(pieces)))
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)


def _reseed() -> None:
    """Forked instances would all draw the same numbers; Python's own generator sees to itself."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(random.SystemRandom().randrange(1 << 32))
