"""What real emitters write is read."""

import os
import subprocess
import sys
from pathlib import Path

from astuner.traces.reader import read_traces
from astuner.traces.reading import Unread
from tests.otlp_files import OtlpPaths, texts

EMITTER = Path(__file__).parent / "agentscope_traces.py"


def test_two_requests_to_an_agent_of_agentscope_are_one_conversation(tmp_path: Path) -> None:
    path = tmp_path / "spans.pb"
    subprocess.run(
        [sys.executable, "-P", EMITTER, path], check=True, env=dict(os.environ), timeout=100
    )
    unread = Unread()
    [trace] = read_traces(OtlpPaths(path), unread)
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
