"""Runs one test against code in another process. Runs inside a sandbox of its own.

What it finds is told behind a token that nobody else has, once the test is over.
"""

import ast
import builtins
import inspect
import io
import json
import os
import sys
import traceback
import types
import unittest
from collections.abc import Iterator
from typing import Any, Never

from astuner.task_judge.code import wire

_NO_NAMES = ("__path__", "__spec__", "__file__", "__all__", "__loader__")


class CodeGone(BaseException):
    """The code's process ended; no test can go on, whatever it catches."""


class RaisedByCode(Exception):
    """An error of the code that is none of Python's own."""


class Code:
    """The code under test, in its process."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.is_gone = False

    def ask(self, do: str, **more: Any) -> tuple[Any, list[Any]]:
        try:
            wire.say(self._stream, {"do": do, **more})
            heard = wire.hear(self._stream)
        except (OSError, ValueError, RecursionError, MemoryError):
            raise self._gone("gave no answer that can be read") from None
        if not isinstance(heard, dict):
            raise self._gone("ended in the test")
        if "raised" in heard:
            raise error_of(str(heard["raised"]), str(heard.get("message", "")))
        try:
            value = wire.unpack(heard["value"], self._kept)
            given = [wire.unpack(one, self._kept) for one in heard.get("given", ())]
        except Exception:  # noqa: BLE001  # whatever the code's process sent in place of a value
            raise self._gone("gave no answer that can be read") from None
        return value, given

    def _gone(self, what: str) -> "CodeGone":
        self.is_gone = True
        return CodeGone(f"the code's process {what}")

    def _kept(self, number: int, type_name: str) -> "Thing":
        return Thing(self, number, type_name)

    def named(self, name: str) -> Any:
        return self.ask("get", of=None, name=name)[0]

    def has(self, name: str) -> bool:
        return self.ask("has", name=name)[0] is True


class Thing:
    """A function, class or object that stays in the code's process: to call, and to look into. What
    it equals and whether it is true is not for the code to say."""

    def __init__(self, code: Code, number: int, type_name: str) -> None:
        self.__dict__["_Thing__of"] = (code, number, type_name)

    def __getattr__(self, name: str) -> Any:
        code, number, _ = self.__of
        return code.ask("get", of=number, name=name)[0]

    def __call__(self, *args: Any, **named: Any) -> Any:
        code, number, _ = self.__of
        packed = [pack_argument(one) for one in args]
        value, given = code.ask(
            "call", of=number, args=packed, named={k: pack_argument(v) for k, v in named.items()}
        )
        for before, after in zip(args, given, strict=False):
            change(before, after)
        return value

    def __iter__(self) -> Iterator[Any]:
        code, number, _ = self.__of
        return iter(code.ask("items", of=number)[0])

    def __len__(self) -> int:
        try:
            return int(self.__getattr__("__len__")())
        except AttributeError as error:
            raise TypeError(str(error)) from None  # `list` takes no other answer for "not known"

    def __getitem__(self, key: Any) -> Any:
        return self.__getattr__("__getitem__")(key)

    def __refuse(self, *_: Any) -> Never:
        raise TypeError(f"the code gave an object of its class {self.__of[2]}, not a plain value")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __refuse
    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as Python has it

    def number_for_code(self) -> int:
        return self.__of[1]


def pack_argument(value: Any) -> Any:
    return wire.pack(value, number_of)


def number_of(value: Any) -> int:
    if type(value) is Thing:
        return Thing.number_for_code(value)
    if isinstance(value, BaseException):  # which the code may have raised to have no verdict
        raise TypeError(f"{type(value).__name__} cannot be handed to the code")
    raise wire.NotPlain(f"a value of type {type(value).__name__} cannot be handed to the code")


def change(before: Any, after: Any) -> None:
    """As a function does in place that gives nothing back."""
    if type(before) is not type(after):
        return
    if isinstance(before, list):
        before[:] = after
    elif isinstance(before, dict | set):
        before.clear()
        before.update(after)


def error_of(name: str, message: str) -> Exception:
    kind: Any = getattr(builtins, name, None)
    is_plain = isinstance(kind, type) and issubclass(kind, Exception)
    if not is_plain or issubclass(kind, AssertionError | StopIteration | StopAsyncIteration):
        return RaisedByCode(f"{name}: {message}")
    try:
        return kind(message)
    except TypeError:
        return RaisedByCode(f"{name}: {message}")


def module_of(code: Code) -> types.ModuleType:
    class CodeAsModule(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name in _NO_NAMES or not code.has(name):
                raise AttributeError(name)
            return code.named(name)

    return CodeAsModule("solution")


def names_to_fetch(tree: ast.Module, code: Code) -> tuple[set[str], set[str]]:
    """Those that the test reads and nobody but the code gives it. Never what Python itself has:
    code that defines `abs` or `all` would answer for the test."""
    read, made, dotted, called = set(), set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted.add(node.value.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
    open_names = read - made - set(dir(builtins))
    modules = {n for n in open_names if n in sys.stdlib_module_names and n in dotted - called}
    return modules, {name for name in open_names - modules if code.has(name)}


def parsed(asked: dict[str, Any]) -> tuple[ast.Module, types.CodeType]:
    """The test behind its setup."""
    tree = ast.parse(asked["test"])
    tree.body[:0] = ast.parse(asked["setup"]).body
    return tree, compile(tree, "test", "exec")


def run(asked: dict[str, Any], tree: ast.Module, test: types.CodeType, code: Code) -> None:
    """Raises what the test raises."""
    code.ask("load")
    sys.modules["solution"] = module_of(code)
    names: dict[str, Any] = {"__name__": "test"}
    modules, fetched = names_to_fetch(tree, code)
    names.update({name: __import__(name) for name in modules})
    names.update({name: code.named(name) for name in fetched})
    exec(test, names)
    if asked["entry_point"] and callable(names.get("check")):
        names["check"](code.named(asked["entry_point"]))
    for name, found in list(names.items()):
        if inspect.isfunction(found) and name.startswith("test_"):
            found()
        elif inspect.isclass(found) and issubclass(found, unittest.TestCase):
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(found)
            outcome = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
            bad = [*outcome.failures, *outcome.errors, *outcome.unexpectedSuccesses]
            if bad:
                raise AssertionError(str(bad[0]))


def outcome_of(asked: dict[str, Any]) -> dict[str, str]:
    try:
        tree, test = parsed(asked)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"outcome": "broken", "reason": told(error)}
    code = Code(wire.connect(asked["port"], asked["secret"]))
    try:
        run(asked, tree, test, code)
    except wire.NotPlain as error:
        return {"outcome": "broken", "reason": str(error)}
    except BaseException as error:  # noqa: BLE001  # a test may exit as well as any other code
        return {"outcome": "failed", "reason": f"{told(error)}{place(error)}"}
    if code.is_gone:
        return {"outcome": "failed", "reason": "the code's process ended in the test"}
    return {"outcome": "passed", "reason": ""}


def told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  # it may hold what has no text, such as an integer too long
        return type(error).__name__


def place(error: BaseException) -> str:
    """Where in the test it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "test"]
    return f" (line {lines[-1]} of the test)" if lines else ""


def main() -> None:
    with open("test.json") as file:
        asked = json.load(file)
    sys.stdout = sys.stderr = io.StringIO()
    outcome = outcome_of(asked)
    outcome["reason"] = outcome["reason"][:300]
    os.write(1, f"\n{asked['token']}{json.dumps(outcome)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
