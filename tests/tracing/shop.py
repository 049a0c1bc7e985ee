"""The shop of the tests: the model that answers there, who asks, and what recorders are to tell."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astuner.traces.trace import Step, Trace
from tests.llm_server import Reply, calls, says
from tests.tracing import shop_agent
from tests.tracing.shop_agent import SYSTEM, TOOL, Endpoint, Order, find_parcel

PROGRAM = Path(shop_agent.__file__)
WHEN = "When will it come?"
MAX_SECONDS = 100
"""Of a process that imports a framework, on a machine that does other things too."""


def where_is(number: int) -> str:
    return f"Where is my parcel {number}?"


def answered(body: Mapping[str, Any]) -> Reply:
    """What the model of the shop says next, by what was said."""
    messages = body["messages"]
    tokens = (10 * len(messages), len(messages))
    last = messages[-1]
    if last["role"] == "tool":
        return says("It is at depot 3.", tokens=tokens)
    if found := re.search(r"parcel (\d+)", last["content"]):
        return calls("find_parcel", number=found[1], tokens=tokens)
    return says("On Friday.", tokens=tokens)


def held(number: int) -> list[tuple[Any, ...]]:
    """The conversation about a parcel; of a reply, what was called, offered, and its tokens."""
    tool = (TOOL["function"]["name"],)
    call = ("find_parcel", {"number": str(number)})
    return [
        ("system", SYSTEM),
        ("user", where_is(number)),
        ("assistant", "", [call], tool, (20, 2)),
        ("tool", find_parcel(str(number))),
        ("assistant", "It is at depot 3.", [], tool, (40, 4)),
        ("user", WHEN),
        ("assistant", "On Friday.", [], tool, (60, 6)),
    ]


def told(trace: Trace) -> list[tuple[Any, ...]]:
    """The same as a trace tells it."""
    return [_reply(step) if step.role == "assistant" else _said(step) for step in trace.steps]


def _said(step: Step) -> tuple[Any, ...]:
    return (step.role, step.text)


def _reply(step: Step) -> tuple[Any, ...]:
    called = [(call.name, json.loads(call.arguments)) for call in step.tool_calls]
    offered = tuple(tool["function"]["name"] for tool in step.tools)
    return (step.role, step.text, called, offered, (step.input_tokens, step.output_tokens))


def hold(
    python: Path | str,
    recorder: str,
    model_url: str,
    *numbers: int,
    endpoints: Sequence[Endpoint],
) -> None:
    """Have somebody ask about each of these parcels, in an interpreter that has the recorder."""
    order: Order = {
        "recorder": recorder,
        "model_url": model_url,
        "conversations": {session_of(number): [where_is(number), WHEN] for number in numbers},
        "endpoints": list(endpoints),
    }
    command = [str(python), "-P", str(PROGRAM), json.dumps(order)]
    subprocess.run(command, check=True, timeout=MAX_SECONDS)


def session_of(number: int) -> str:
    return f"parcel-{number}"
