"""Reads what a client asks for: the body of a request, field by field.

Whatever is missing or of another kind is refused by its name. Unknown fields are let through: the
services that these clients know take any.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from astuner.env_service.server.instance import Creation
from astuner.serving.json_text import JSON
from astuner.serving.refusal import Refusal

_MAX_NAME = 200
_MAX_HEARTBEAT = 10_000
_PREFERENCES = ("code", "box", "text")
_MAX_SEED = 2**63


class AskedBody:
    """The body {env_type, task_id, instance_id, messages, params} of a request."""

    def __init__(self, body: JSON) -> None:
        self._body = body
        self._params = self._mapping(body, "params") or {}

    @classmethod
    def parsed(cls, body: bytes) -> "AskedBody":
        """Raises Refusal for bytes that are no JSON object."""
        try:
            value = json.loads(body.decode(), parse_constant=_no_number)
        except RecursionError as error:
            raise _malformed("its lists and objects are too deep in each other") from error
        except ValueError as error:
            raise _malformed(f"{error}") from error
        if not isinstance(value, dict):
            raise _malformed(f"it is {type(value).__name__}, and an object is expected")
        return cls(value)

    @property
    def env_type(self) -> str:
        return self._name("env_type")

    @property
    def instance_id(self) -> str:
        return self._name("instance_id")

    @property
    def split(self) -> str:
        return self._param("split", str, "text") or "train"

    @property
    def is_sparse(self) -> bool:
        return bool(self._param("sparse", bool, "true or false"))

    @property
    def step_index(self) -> int | None:
        index = self._param("step_index", int, "a number counted from 0")
        if index is not None and index < 0:
            raise _invalid("params.step_index", index, "a number counted from 0")
        return index

    @property
    def action(self) -> Mapping[str, Any]:
        """The message that is the action; the last one where there is a list of them."""
        messages = self._body.get("messages")
        if isinstance(messages, list) and messages:
            messages = messages[-1]
        if not messages:
            raise _missing("messages")
        if not isinstance(messages, dict):
            raise _invalid("messages", messages, 'a message, {"role": "assistant", "content": "…"}')
        return messages

    @property
    def instance_ids(self) -> list[str]:
        ids = self._body.get("instance_ids")
        if ids is None:
            raise _missing("instance_ids")
        if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            raise _invalid("instance_ids", ids, "a list of texts")
        if len(ids) > _MAX_HEARTBEAT:
            raise _invalid("instance_ids", f"{len(ids)} ids", f"at most {_MAX_HEARTBEAT}")
        return ids

    def own_instance_id(self) -> str | None:
        """None where the server is to make one."""
        return self._name("instance_id") if self._body.get("instance_id") else None

    def creation(self, *, max_ttl_seconds: float) -> Creation:
        seed = self._param("seed", int, "a whole number")
        if seed is not None and not 0 <= seed < _MAX_SEED:
            raise _invalid("params.seed", seed, "a whole number from 0 to 2**63 - 1")
        preference = self._param("action_preference", str, "code, box or text")
        if preference not in (None, *_PREFERENCES):
            raise _invalid("params.action_preference", preference, "code, box or text")
        ttl_seconds = self._param("ttl_seconds", int | float, "a number of seconds")
        if ttl_seconds is not None and not 0 < ttl_seconds < math.inf:
            raise _invalid("params.ttl_seconds", ttl_seconds, "more than 0")
        return Creation(
            env_type=self.env_type,
            task_id=self._name("task_id"),
            seed=seed,
            action_preference=preference,
            options=self._mapping(self._params, "options") or {},
            ttl_seconds=min(ttl_seconds or max_ttl_seconds, max_ttl_seconds),
        )

    def _name(self, field: str) -> str:
        value = self._body.get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # tasks that are numbered
        if value is None or value == "":
            raise _missing(field)
        if not isinstance(value, str) or len(value) > _MAX_NAME or not value.isprintable():
            raise _invalid(field, value, f"a text of at most {_MAX_NAME} printable characters")
        return value

    def _param(self, name: str, kind: Any, expected: str) -> Any:
        value = self._params.get(name)
        is_truth = isinstance(value, bool) and kind is not bool  # True is an int in Python
        if value is not None and (is_truth or not isinstance(value, kind)):
            raise _invalid(f"params.{name}", value, expected)
        return value

    def _mapping(self, of: Mapping[str, Any], name: str) -> JSON | None:
        value = of.get(name)
        if value is not None and not isinstance(value, dict):
            raise _invalid(name, value, "an object")
        return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _malformed(what: str) -> Refusal:
    return Refusal(400, f"the body is no JSON object: {what}", code="malformed_body")


def _missing(field: str) -> Refusal:
    return Refusal(
        400,
        f"{field}: the field is missing; the body is "
        "{env_type, task_id, instance_id, messages, params}, see docs/env_service.md",
        code="missing_field",
        param=field,
    )


def _invalid(field: str, found: object, expected: str) -> Refusal:
    return Refusal(
        400,
        f"{field}: it is {str(found)[:100]!r}; send {expected}",
        code="invalid_field",
        param=field,
    )
