"""What a model server keeps of its calls, what it hides in them, and what a kill leaves."""

import json
import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from astuner.errors import ConfigError
from astuner.model_server.call_span import call_span
from astuner.model_server.recording import CallRecorder, RecordingOptions
from astuner.traces.private_text import PrivateMask
from astuner.traces.trace_files import TraceFiles
from tests.full_disk import largest_file
from tests.traces import plain_attributes, recorded, said, served_call

KEY = "sk-proj-a8F3kd92LmQz71xYb0Rt55Wv"
MAIL = "erika.muster@firma-nord.de"


@pytest.fixture(scope="module")
def mask() -> PrivateMask:
    return PrivateMask()


def options(folder: Path, **changed: Any) -> RecordingOptions:
    given = {"folder": folder, "is_masked": False, "max_mb": None, "version": "1", **changed}
    return RecordingOptions(**given)


def attributes_of(mask: PrivateMask | None = None, **changed: Any) -> dict[str, Any]:
    return plain_attributes(call_span(served_call(**changed), mask)["attributes"])


def test_a_call_becomes_a_span_with_the_names_of_the_conventions() -> None:
    call = served_call(
        messages=[
            said("system", "Be short."),
            said("user", "Weather in Paris?", name="erik"),
            said(
                "assistant",
                "",
                tool_calls=[
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}},
                    }
                ],
            ),
            said("tool", "rainy", tool_call_id="call_1"),
        ],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": {"a": [None]}}}],
        reply=said("assistant", "Rain.", reasoning_content="It says rainy."),
        finish_reason="context_overflow",
        is_stream=True,
        top_p=0.5,
        top_k=8,
    )
    span = call_span(call, None)
    told = plain_attributes(span["attributes"])
    assert span["name"] == "chat tiny" and span["kind"] == 3 and span["status"] == {}
    assert (len(span["traceId"]), len(span["spanId"])) == (32, 16)
    assert span["startTimeUnixNano"] == "1700000000250000000"
    assert span["endTimeUnixNano"] == "1700000001000000000"
    assert told["gen_ai.input.messages"] == [
        {"role": "system", "parts": [{"type": "text", "content": "Be short."}]},
        {
            "role": "user",
            "parts": [{"type": "text", "content": "Weather in Paris?"}],
            "name": "erik",
        },
        {
            "role": "assistant",
            "parts": [
                {
                    "type": "tool_call",
                    "id": "call_1",
                    "name": "weather",
                    "arguments": {"city": "Paris", "days": 2},
                }
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "call_1", "response": "rainy"}],
        },
    ]
    assert told["gen_ai.output.messages"] == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "It says rainy."},
                {"type": "text", "content": "Rain."},
            ],
            "finish_reason": "length",
        }
    ]
    assert told["gen_ai.tool.definitions"] == [
        {"type": "function", "name": "weather", "parameters": {"a": [None]}}
    ]
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.id": "chatcmpl-0123456789abcdef01234567",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.conversation.id": "conversation-1",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.top_k": 8,
        "user.id": "somebody",
        "astuner.weights": "step_3 sha256:12",
        "astuner.prompt_ids": "[5,6,7]",
        "astuner.reply_ids": "[8,9]",
        "astuner.reply_logprobs": "[-0.5,-1.25]",
        "astuner.is_masked": False,
    }
    assert {key: told[key] for key in expected} == expected
    assert "error.type" not in told


def test_what_the_system_says_stands_where_the_wire_format_has_it() -> None:
    messages = [said("system", "Be short."), said("user", "Hi")]
    among = attributes_of(messages=messages)
    apart = attributes_of(messages=messages, path="/v1/messages")
    assert "gen_ai.system_instructions" not in among
    assert apart["gen_ai.system_instructions"] == [{"type": "text", "content": "Be short."}]
    assert [message["role"] for message in apart["gen_ai.input.messages"]] == ["user"]
    plain_text = call_span(
        served_call(path="/v1/completions", messages=[said("prompt", "Once")]), None
    )
    assert plain_text["name"] == "text_completion tiny"


def test_a_call_without_an_answer_is_an_error_of_its_span() -> None:
    call = served_call(
        reply=None, finish_reason=None, status=499, error="the client went", reply_ids=[]
    )
    span = call_span(call, None)
    told = plain_attributes(span["attributes"])
    assert span["status"] == {"code": 2, "message": "the client went"}
    assert told["error.type"] == "499" and told["http.response.status_code"] == 499
    assert "gen_ai.output.messages" not in told and "gen_ai.response.finish_reasons" not in told


def test_choices_of_an_answer_are_spans_of_one_trace() -> None:
    first, second = (call_span(served_call(call_id=one), None) for one in ("ab12", "ab12-1"))
    assert first["traceId"] == second["traceId"] and first["spanId"] != second["spanId"]
    for span in (first, second):
        assert plain_attributes(span["attributes"])["gen_ai.response.id"] == "chatcmpl-ab12"
    assert attributes_of(call_id="ab12", path="/v1/messages")["gen_ai.response.id"] == "msg_ab12"


def test_a_refused_call_shows_its_messages_as_they_were_sent() -> None:
    sent: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
    ]
    told = attributes_of(messages=sent, reply=None, status=400, error="no images")
    user, assistant = told["gen_ai.input.messages"]
    assert user["parts"] == [{"type": "text", "content": "a"}, {"type": "image_url"}]
    assert [part["name"] for part in assistant["parts"]] == ["f"]


def test_what_is_private_is_masked_wherever_it_stands_and_token_ids_would_tell_it(
    mask: PrivateMask,
) -> None:
    arguments = {"to": MAIL, "password": "hunter2", "cc": [f"x {MAIL}"], "card": 4929123456781236}
    call = {"id": "c", "type": "function", "function": {"name": "send", "arguments": arguments}}
    told = attributes_of(
        mask,
        user=MAIL,
        messages=[
            said("user", f"My key is {KEY}, mail {MAIL}, call +49 30 901820 or 81.2.69.142."),
            said("assistant", "", tool_calls=[call]),
            said("tool", json.dumps({"api_key": "abc", "note": {MAIL: "a\u0040b: " + MAIL}})),
        ],
        reply=said("assistant", f"DB_PASSWORD=geheim99 was sent to {MAIL}"),
    )
    whole = json.dumps(told)
    for private in (KEY, "erika", "hunter2", "901820", "81.2.69", "geheim99", '"abc', "49291234"):
        assert private not in whole
    user, assistant, tool = told["gen_ai.input.messages"]
    assert user["parts"][0]["content"] == (
        "My key is [secret], mail [email], call [phone] or [ip_address]."
    )
    assert assistant["parts"][0]["arguments"] == {
        "to": "[email]",
        "password": "[secret]",
        "cc": ["x [email]"],
        "card": "[card_number]",
    }
    assert json.loads(tool["parts"][0]["response"])["note"].keys() == {"[email]"}
    assert told["user.id"] == "[email]"
    assert told["astuner.token_ids"] == "masked"
    assert "astuner.prompt_ids" not in told and "astuner.reply_ids" not in told
    assert told["gen_ai.usage.input_tokens"] == 3
    assert told["astuner.masked_kinds"] == ["card_number", "email", "ip_address", "phone", "secret"]


def test_what_is_harmless_stays_as_it_is_with_its_token_ids(mask: PrivateMask) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "login",
            "parameters": {"type": "object", "properties": {"password": {"type": "string"}}},
        },
    }
    harmless = {
        "messages": [
            said("user", 'Mail support@example.com. max_tokens=5; [1, 2] {"a": 1700000000000}')
        ],
        "tools": [tool],
    }
    told = attributes_of(mask, **harmless)
    expected = attributes_of(None, **harmless)
    assert told == {**expected, "astuner.is_masked": True}
    only_user = attributes_of(mask, user=MAIL)
    assert only_user["astuner.prompt_ids"] == "[5,6,7]", "ids tell nothing of who asked"


def test_a_long_text_is_looked_through_to_its_end(mask: PrivateMask) -> None:
    armour = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIB\n" * 1000
    text = ("word " * 800)[:-20] + MAIL + " more" * 3000 + f" {KEY} {armour}"
    masked = mask.mask(text)
    assert masked.kinds == {"email", "secret"}
    for private in ("erika", "firma", KEY, "MIIE"):
        assert private not in masked.value
    assert len(masked.value) > 15_000


def test_a_text_that_was_masked_before_is_masked_again(mask: PrivateMask) -> None:
    first, again = (mask.mask({"a": f"to {MAIL}", "b": [f"{MAIL}", "x"]}) for _ in range(2))
    assert first == again and first.kinds == {"email"}
    assert first.value == {"a": "to [email]", "b": ["[email]", "x"]}


def test_lines_are_those_of_otlp_and_belong_to_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    recorder = CallRecorder(options(folder), today=lambda: "2026-01-31")
    recorder.served(served_call())
    recorder.served(served_call(is_recordable=False, call_id="chatcmpl-out"))
    recorder.served(served_call(messages=[], call_id="chatcmpl-nothing", status=401, error="no"))
    kept = recorder.keep({"eventName": "gen_ai.evaluation.result", "attributes": []}, {"a": 1})
    kept.result(20)
    recorder.close(seconds=20)
    [traces, feedback] = sorted(folder.iterdir(), key=lambda path: path.name, reverse=True)
    assert (traces.name, feedback.name) == (
        "traces_2026-01-31_0001.jsonl",
        "feedback_2026-01-31_0001.jsonl",
    )
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, traces, feedback)] == [
        0o700,
        0o600,
        0o600,
    ]
    [line], [event] = traces.read_text().splitlines(), feedback.read_text().splitlines()
    span = json_format.Parse(line, TracesData()).resource_spans[0].scope_spans[0].spans[0]
    assert span.name == "chat tiny" and span.end_time_unix_nano == 1_700_000_001_000_000_000
    logs = json_format.Parse(event, LogsData()).resource_logs[0].scope_logs[0]
    assert logs.log_records[0].event_name == "gen_ai.evaluation.result"
    assert recorder.num_written == 2 and recorder.dropped.total() == 0


def test_a_day_and_a_size_begin_a_file_and_the_oldest_go(tmp_path: Path) -> None:
    days = ["2026-01-31"]
    lines = [b"x" * 99 + b"\n"]
    files = TraceFiles(tmp_path, "traces", max_bytes=800, today=lambda: days[-1])
    feedback = TraceFiles(tmp_path, "feedback", max_bytes=800, today=lambda: days[-1])
    feedback.append([b"y\n"])  # stays open, however old
    os.utime(tmp_path / "feedback_2026-01-31_0001.jsonl", (1, 1))
    for _ in range(12):
        files.append(lines)
        for index, path in enumerate(sorted(tmp_path.glob("traces_*"))):
            os.utime(path, (100 + index, 100 + index))
    days.append("2026-02-01")
    files.append(lines)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "feedback_2026-01-31_0001.jsonl",
        *(f"traces_2026-01-31_{number:04d}.jsonl" for number in range(6, 13)),
        "traces_2026-02-01_0001.jsonl",
    ]
    files.close()
    feedback.close()
    other = TraceFiles(tmp_path, "traces", max_bytes=None, today=lambda: "2026-02-01")
    other.append(lines)
    other.close()
    assert (tmp_path / "traces_2026-02-01_0002.jsonl").read_bytes() == lines[0]


def test_a_full_disk_costs_records_and_tears_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with largest_file(4_000):
        recorder = CallRecorder(options(tmp_path))
        long = [said("user", "long " * 1_000)]
        first = recorder.keep({"attributes": []}, {"text": "short"})
        first.result(20)
        recorder.served(served_call(messages=long))
        refused = recorder.keep({"attributes": []}, {"text": "long " * 1_000})
        with pytest.raises(OSError, match="File too large"):
            refused.result(20)
        recorder.keep({"attributes": []}, {"text": "short again"}).result(20)
        recorder.close(seconds=20)
    assert len(recorded(tmp_path, "feedback")) == 2 and recorded(tmp_path, "traces") == []
    assert recorder.dropped == {"not_written": 2}
    assert "records left out" in caplog.text and "ulimit -f" in caplog.text


def test_what_cannot_be_made_costs_itself_only(tmp_path: Path) -> None:
    recorder = CallRecorder(options(tmp_path))
    recorder.served(served_call(messages=[said("user", "x")], tools=[{"function": object()}]))
    recorder.served(served_call(call_id="good"))
    recorder.close(seconds=20)
    assert [span["attributes"]["gen_ai.response.id"] for span in recorded(tmp_path, "traces")] == [
        "chatcmpl-good"
    ]
    assert recorder.dropped == {"not_readable": 1}


def test_calls_are_left_out_and_counted_rather_than_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "kept"
    recorder = CallRecorder(options(fifo))
    huge = served_call(messages=[said("user", "x" * 70_000_000)])
    recorder.served(huge)
    recorder.served(served_call())
    recorder.close(seconds=20)
    recorder.served(served_call())
    assert recorder.dropped == {"too_many_waiting": 2}
    assert len(recorded(fifo, "traces")) == 1


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--record .*file/below: nothing can be written there"):
        CallRecorder(options(tmp_path / "file/below"))


def _record_without_end(folder: Path, acknowledged: Any) -> None:
    """In a process of its own: tells the number of each record that was said to be written."""
    recorder = CallRecorder(options(folder))
    number = 0
    while True:
        recorder.keep({"attributes": []}, {"number": number, "text": "x" * 2_000}).result()
        acknowledged.send(number)
        number += 1


def test_a_kill_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    forks = multiprocessing.get_context("forkserver")
    mine, theirs = forks.Pipe(duplex=False)
    child = forks.Process(target=_record_without_end, args=(tmp_path, theirs))
    child.start()
    theirs.close()
    while mine.recv() < 20:
        pass
    child.kill()
    child.join()
    last = 20
    try:
        while True:
            last = mine.recv()
    except EOFError:
        pass
    [path] = tmp_path.glob("feedback_*")
    with path.open("ab") as file:
        file.write(b'{"resourceLogs": [{"torn')
    recorder = CallRecorder(options(tmp_path))
    recorder.keep({"attributes": []}, {"number": -1}).result(20)
    recorder.close(seconds=20)
    numbers = [record["attributes"]["number"] for record in recorded(tmp_path, "feedback")]
    assert numbers[: last + 1] == list(range(last + 1)) and numbers[-1] == -1
    assert len(list(tmp_path.glob("feedback_*"))) == 2
