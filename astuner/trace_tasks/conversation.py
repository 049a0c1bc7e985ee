"""Steps of a trace as chat messages in OpenAI's form."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from astuner.traces.trace import Step


def chat_messages(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """One message for each step. Calls without an id get one, which OpenAI's form needs, and the
    results behind them name it in their order."""
    messages = []
    unanswered: deque[str] = deque()
    for number, step in enumerate(steps):
        message: dict[str, Any] = {"role": step.role, "content": step.text}
        if step.name:
            message["name"] = step.name
        if step.reasoning:
            message["reasoning_content"] = step.reasoning
        if step.tool_calls:
            message["tool_calls"] = _tool_calls(step, number)
            unanswered = deque(call["id"] for call in message["tool_calls"])
        if step.role == "tool":
            message["tool_call_id"] = _answered(step, unanswered)
        messages.append(message)
    return messages


def _tool_calls(step: Step, number: int) -> list[dict[str, Any]]:
    return [
        {
            "id": call.call_id or f"call_{number}_{place}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for place, call in enumerate(step.tool_calls)
    ]


def _answered(step: Step, unanswered: deque[str]) -> str:
    """The id that a tool's result names; where it names none, that of the first open call."""
    if step.tool_call_id is None:
        return unanswered.popleft() if unanswered else ""
    if step.tool_call_id in unanswered:
        unanswered.remove(step.tool_call_id)
    return step.tool_call_id
