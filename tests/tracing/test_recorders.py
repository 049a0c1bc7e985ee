"""What real instrumentations send to our collector is the conversation that was held."""

import asyncio
import sys
from pathlib import Path

import pytest

from astuner.traces.trace import Trace
from tests.llm_server import serving
from tests.test_collecting import Sending, sent, traces_in
from tests.tracing.shop import answered, held, hold, session_of, told
from tests.tracing.shop_agent import PLAYED

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(300)]
RECORDERS = [name for name in PLAYED if name != "mlflow"]  # it speaks to its own server only


def collected(recorder: str, folder: Path, number: int = 4711) -> list[Trace]:
    """Recorded by it, received and read."""

    async def body(it: Sending) -> None:
        endpoint = {"url": f"{it.address}/v1/traces", "headers": {}}
        with serving(answered) as model:
            await asyncio.to_thread(
                hold, sys.executable, recorder, model.base_url, number, endpoints=[endpoint]
            )

    sent(body, folder)
    return traces_in(folder)


@pytest.mark.parametrize("recorder", RECORDERS)
def test_a_recorder_tells_the_conversation_that_was_held(recorder: str, tmp_path: Path) -> None:
    [trace] = collected(recorder, tmp_path)
    assert told(trace) == held(4711) and trace.session == session_of(4711)
    assert {step.model for step in trace.steps if step.role == "assistant"} == {"m"}


def test_langchain_tells_its_agents_name_and_the_time_of_its_tools(tmp_path: Path) -> None:
    [trace] = collected("langchain", tmp_path)
    assert trace.agent == "shop"
    [result] = [step for step in trace.steps if step.role == "tool"]
    assert result.seconds is not None and result.error is None
