"""Calls as a model server tells of them, and what its recorder wrote, as plain values."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from astuner.model_server.served_call import ServedCall
from astuner.types import Message


def said(role: str, content: str, **more: Any) -> Message:
    return {"role": role, "content": content, **more}  # pyright: ignore[reportReturnType]


def served_call(**changed: Any) -> ServedCall:
    call = ServedCall(
        call_id="chatcmpl-0123456789abcdef01234567",
        started=1_700_000_000.25,
        path="/v1/chat/completions",
        model="tiny",
        user="somebody",
        session="conversation-1",
        messages=[said("user", "What is 1 + 1?")],
        tools=[],
        reply=said("assistant", "2"),
        finish_reason="stop",
        prompt_ids=[5, 6, 7],
        reply_ids=[8, 9],
        logprobs=[-0.5, -1.25],
        temperature=1.0,
        seconds=0.75,
        seconds_to_first_token=0.25,
        status=200,
        error=None,
        answered_by="tiny",
        weights="step_3 sha256:12",
        key="key-1",
    )
    return replace(call, **changed)


def recorded(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The spans (traces) or log records (feedback) of a folder, their attributes as a mapping."""
    outer, scoped, inner = {
        "traces": ("resourceSpans", "scopeSpans", "spans"),
        "feedback": ("resourceLogs", "scopeLogs", "logRecords"),
    }[kind]
    found = []
    for path in sorted(folder.glob(f"{kind}_*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                [resource] = json.loads(line)[outer]
                [scope] = resource[scoped]
                [record] = scope[inner]
                found.append({**record, "attributes": plain_attributes(record["attributes"])})
    return found


def plain_attributes(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: plain(pair["value"]) for pair in pairs}


def plain(value: dict[str, Any]) -> Any:
    [(kind, inner)] = value.items() or [("none", None)]
    match kind:
        case "arrayValue":
            return [plain(item) for item in inner["values"]]
        case "kvlistValue":
            return plain_attributes(inner["values"])
        case "intValue":
            return int(inner)
    return inner
