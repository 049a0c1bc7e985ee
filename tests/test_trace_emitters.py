"""What real emitters write is read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from astuner.traces.reader import read_traces
from astuner.traces.reading import Unread
from tests.otlp_files import OtlpPaths, texts
from tests.test_collecting import Sending, sent

EMITTER = Path(__file__).parent / "agentscope_traces.py"


@pytest.fixture(scope="module")
def of_agentscope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agentscope") / "spans.pb"
    subprocess.run(
        [sys.executable, "-P", EMITTER, path], check=True, env=dict(os.environ), timeout=100
    )
    return path


def test_what_agentscope_sends_to_the_collector_is_read_like_a_file_of_it(
    of_agentscope: Path, tmp_path: Path
) -> None:
    async def body(it: Sending) -> None:
        posted = await it.post(of_agentscope.read_bytes(), content_type="application/x-protobuf")
        assert posted.status_code == 200
        answered = ExportTraceServiceResponse.FromString(posted.content)
        assert answered.partial_success.rejected_spans == 0

    sent(body, tmp_path)
    [file] = read_traces(OtlpPaths(of_agentscope), Unread())
    [collected] = read_traces(OtlpPaths(*tmp_path.glob("*.jsonl")), Unread())
    assert collected == file


def test_two_requests_to_an_agent_of_agentscope_are_one_conversation(of_agentscope: Path) -> None:
    unread = Unread()
    [trace] = read_traces(OtlpPaths(of_agentscope), unread)
    assert not unread.counts
    assert texts(trace) == [
        ("system", "Be short."),
        ("user", "Weather in Paris?"),
        ("assistant", ""),
        ("tool", "rain in Paris"),
        ("assistant", "It rains in Paris."),
        ("user", "Thanks!"),
        ("assistant", "You are welcome."),
    ]
    called, result, answered = trace.steps[2:5]
    assert [(one.name, one.arguments) for one in called.tool_calls] == [
        ("weather", '{"city": "Paris"}')
    ]
    assert called.tools[0]["function"]["name"] == "weather"
    assert result.name == "weather" and result.seconds is not None and result.error is None
    assert (answered.agent, answered.model, trace.agent) == ("Meteo", "scripted", "Meteo")
    assert trace.session and '"' not in trace.session and len(trace.origin.ids) == 2
