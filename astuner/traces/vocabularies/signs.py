"""What a span says of itself under names that every set of conventions has its own word for.

Cheap to read: no message is parsed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.traces.messages import parsed
from astuner.traces.vocabulary import SpanKind

_KIND_KEYS = (
    "gen_ai.operation.name",
    "openinference.span.kind",
    "mlflow.spanType",
    "langfuse.observation.type",
    "traceloop.span.kind",
    "llm.request.type",
)
_KINDS: dict[str, SpanKind] = {
    **dict.fromkeys(("chat", "generate_content", "text_completion", "completion"), "chat"),
    **dict.fromkeys(("llm", "chat_model", "generation"), "chat"),
    **dict.fromkeys(("invoke_agent", "invoke_workflow", "agent", "workflow", "chain"), "agent"),
    **dict.fromkeys(("execute_tool", "tool"), "tool"),
}
SESSION_KEYS = (
    "gen_ai.conversation.id",
    "session.id",
    "langfuse.session.id",
    "mlflow.trace.session",
    "traceloop.association.properties.session_id",
)
USER_KEYS = (
    "user.id",
    "enduser.id",
    "langfuse.user.id",
    "mlflow.trace.user",
    "traceloop.association.properties.user_id",
)
_AGENT_KEYS = ("gen_ai.agent.name", "agent.name", "agent_name", "gen_ai.agent.id")
_MODEL_KEYS = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name")
_TAG_KEYS = ("tag.tags", "langfuse.trace.tags")
_NO_SESSION = {"[no_session_id]", "null", "None", "unknown"}
"""What AgentScope 2.x and others write where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSigns:
    """None is not told."""

    kind: SpanKind
    session: str | None
    user: str | None
    agent: str | None
    model: str | None


def signs_of(attributes: Mapping[str, Any]) -> SpanSigns:
    """The first of the names that is there counts."""
    kind = (first_text(attributes, _KIND_KEYS) or "").lower()
    session = first_text(attributes, SESSION_KEYS)
    return SpanSigns(
        kind=_KINDS.get(kind, "other"),
        session=None if session in _NO_SESSION else session,
        user=first_text(attributes, USER_KEYS),
        agent=first_text(attributes, _AGENT_KEYS),
        model=first_text(attributes, _MODEL_KEYS),
    )


def tags_of(attributes: Mapping[str, Any]) -> Sequence[str]:
    """Of the trace, as a list, as JSON of one, or as one text."""
    told = next((attributes[key] for key in _TAG_KEYS if attributes.get(key)), None)
    tags = parsed(told)
    if isinstance(tags, str):
        return [tags]
    return [str(tag) for tag in tags] if isinstance(tags, Sequence) else []


def first_text(attributes: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """Of the first key with a value; AgentScope 1.x and MLflow write texts as JSON."""
    for key in keys:
        value = attributes.get(key)
        if value is None or value == "":
            continue
        text = str(value)
        return json.loads(text) if _is_quoted(text) else text
    return None


def _is_quoted(text: str) -> bool:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return False
    try:
        return isinstance(json.loads(text), str)
    except ValueError:
        return False


def whole_number(attributes: Mapping[str, Any], *keys: str) -> int | None:
    """Of the first of these that holds one."""
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float) and math.isfinite(value):
            return int(value)
        if isinstance(value, str) and value.strip().isdecimal():
            return int(value)
    return None
