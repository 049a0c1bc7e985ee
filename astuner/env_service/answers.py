"""What stands in the answers of an environment service. Pure functions of what came over the wire.

Raise `Unreadable` with what was found; the caller knows what failed and where. Servers differ:
older ones answer 200 with `success: false`, put a traceback into `detail`, or leave out fields.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.env_service.instance import EnvironmentStep
from astuner.types import finite_number

_MAX_SHOWN = 300


class Unreadable(Exception):
    """An answer that says it failed, or that is not what it should be."""

    def __init__(self, found: str, *, code: str | None = None, is_retriable: bool = False) -> None:
        super().__init__(found)
        self.code, self.is_retriable = code, is_retriable


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """What came of /create."""

    instance_id: str | None
    """None where the server names none: it then goes by the one that it was given."""
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any]
    info: Mapping[str, Any]
    ttl_seconds: float | None
    """How long the server keeps an instance that it hears nothing of; None where it does not say.
    """


def read_data(status: int, content: bytes) -> Any:
    """The `data` of an answer. Raises Unreadable for an error in whatever form."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        raise Unreadable(f"answered {status} with {_start(content)}, which is not JSON") from None
    if not isinstance(answer, dict):
        raise Unreadable(f"answered {status} with {type(answer).__name__}, not with an object")
    if not 200 <= status < 300 or answer.get("success") is False:
        raise _failure(status, answer)
    missing = [name for name in ("success", "data") if name not in answer]
    if missing or answer["success"] is not True:
        raise Unreadable(
            f"answered with the fields {sorted(map(str, answer))}, expected success: true and data"
        )
    return answer["data"]


def read_created(data: Any) -> Created:
    fields = _object(data)
    info = fields.get("info") or {}
    if not isinstance(info, dict):
        raise Unreadable(f"its info is {_shown(info)}, expected an object")
    instance_id, tools = info.get("instance_id"), info.get("tools")
    ttl_seconds = finite_number(info.get("ttl_seconds"))
    return Created(
        instance_id=str(instance_id) if instance_id else None,
        messages=read_messages(fields),
        tools=tools if isinstance(tools, list) else (),
        info=info,
        ttl_seconds=ttl_seconds if ttl_seconds and ttl_seconds > 0 else None,
    )


def read_step(data: Any) -> EnvironmentStep:
    fields = _object(data)
    if not isinstance(fields.get("is_terminated"), bool):
        raise Unreadable(
            f"its is_terminated is {_shown(fields.get('is_terminated'))}, expected true or false"
        )
    reward, info = fields.get("reward"), fields.get("info") or {}
    return EnvironmentStep(
        messages=read_messages(fields),
        reward=None if reward is None else read_number(reward, "reward"),
        terminated=fields["is_terminated"],
        truncated=fields.get("truncated") is True,
        info=info if isinstance(info, dict) else {"info": info},
    )


def read_number(value: Any, name: str = "data") -> float:
    """Raises Unreadable for what is no finite number: none is ever made up in its place."""
    number = finite_number(value)
    if number is None:
        raise Unreadable(f"its {name} is {_shown(value)}, expected a finite number")
    return number


def read_ids(data: Any) -> list[str]:
    if not isinstance(data, list) or not all(isinstance(i, str | int) for i in data):
        raise Unreadable(f"its data is {_shown(data)}, expected a list of task ids")
    return [str(task_id) for task_id in data]


def read_messages(fields: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The `state`, which is a list of messages, one message, or text."""
    if "state" not in fields:
        raise Unreadable(f"it has the fields {sorted(map(str, fields))}, and no state")
    state = fields["state"]
    parts = state if isinstance(state, list) else [state]
    return [_message(part) for part in parts]


def _message(part: Any) -> Mapping[str, Any]:
    if isinstance(part, str):
        return {"role": "user", "content": part}
    if not isinstance(part, dict) or not isinstance(part.get("content"), str | list | None):
        raise Unreadable(
            f"a message of its state is {_shown(part)}, expected an object with role and content"
        )
    return {**part, "role": str(part.get("role") or "user"), "content": part.get("content") or ""}


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise Unreadable(f"its data is {_shown(data)}, expected an object")
    return data


def _failure(status: int, answer: Mapping[str, Any]) -> Unreadable:
    error = answer.get("error")
    named = error if isinstance(error, dict) else {}
    told = (named.get("message"), answer.get("detail"), error, answer.get("message"))
    said = next((text for text in (*told, answer.get("data")) if text), "no reason")
    code = named.get("code")
    return Unreadable(
        f"answered {status}: {_last_line(said)}",
        code=code if isinstance(code, str) else None,
        is_retriable=named.get("retriable") is True,
    )


def _last_line(said: Any) -> str:
    """Of a traceback, the error alone."""
    lines = [line for line in str(said).splitlines() if line.strip()]
    return lines[-1].strip()[:_MAX_SHOWN] if lines else "no reason"


def _start(content: bytes) -> str:
    return repr(" ".join(content[:_MAX_SHOWN].decode(errors="replace").split())[:100])


def _shown(value: Any) -> str:
    return f"{value!r:.80}"
