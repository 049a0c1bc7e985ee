"""Loads the code under test and answers calls to it. Runs inside the sandbox; knows no test.

Whatever the code does to this process, it can only give other values for an answer.
"""

import itertools
import json
import sys
import types
from typing import Any

from astuner.task_judge.code import wire

_MOST_ITEMS = 100_000
_kept: list[Any] = []


def main() -> None:
    with open("link.json") as file:
        link = json.load(file)
    stream = wire.connect(link["port"], link["secret"])
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    while (asked := wire.hear(stream)) is not None:
        wire.say(stream, answer(asked, module))


def answer(asked: dict[str, Any], module: types.ModuleType) -> dict[str, Any]:
    try:
        return {"value": wire.pack(done(asked, module), kept_number), **changed(asked)}
    except BaseException as error:  # noqa: BLE001  # the code under test exits as well as any other
        return {"raised": type(error).__name__, "message": str(error)[:500]}


def done(asked: dict[str, Any], module: types.ModuleType) -> Any:
    if asked["do"] == "load":
        with open("solution.py") as file:
            exec(compile(file.read(), "solution.py", "exec"), module.__dict__)
        return None
    if asked["do"] == "has":
        return hasattr(module, asked["name"])
    if asked["do"] == "get":
        return getattr(module if asked["of"] is None else _kept[asked["of"]], asked["name"])
    if asked["do"] == "items":
        return list(itertools.islice(_kept[asked["of"]], _MOST_ITEMS))
    asked["given"] = [wire.unpack(one, lambda number, _: _kept[number]) for one in asked["args"]]
    named = {k: wire.unpack(v, lambda number, _: _kept[number]) for k, v in asked["named"].items()}
    asked["result"] = _kept[asked["of"]](*asked["given"], **named)
    return asked["result"]


def changed(asked: dict[str, Any]) -> dict[str, Any]:
    """What a function that gives nothing back did to its arguments."""
    if asked["do"] != "call" or asked["result"] is not None:
        return {}
    return {"given": [wire.pack(one, kept_number) for one in asked["given"]]}


def kept_number(value: Any) -> int:
    _kept.append(value)
    return len(_kept) - 1


if __name__ == "__main__":
    main()
