"""From files of OTLP in each form to spans, and what torn ones cost."""

import base64
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from astuner.errors import ConfigError, TraceSourceError
from astuner.traces.otlp.files import read_otlp
from astuner.traces.otlp.json_form import WrongForm, json_records
from astuner.traces.otlp.protobuf_form import protobuf_records
from astuner.traces.reading import Unread
from astuner.traces.span import TracedEvent, TracedSpan
from astuner.traces.stored_file import FilePosition
from tests.otlp_files import START, TRACE, chat, json_line, traced

SPANS = [
    chat("00000000000000a1", [("user", "Hi")], ("assistant", "Hello"), at=0.25, parent_id=None),
    traced(
        "00000000000000a2",
        parent_id="00000000000000a1",
        attributes={"a": [1, None, 2.5, {"b": True}], "large": 2**53 + 1, "empty": []},
        error="it broke",
    ),
]
LOG = {
    "timeUnixNano": "1700000000000000000",
    "eventName": "gen_ai.user.message",
    "traceId": TRACE,
    "spanId": "00000000000000a1",
    "body": {"kvlistValue": {"values": [{"key": "content", "value": {"stringValue": "Hi"}}]}},
}
LOGS = {"resourceLogs": [{"scopeLogs": [{"logRecords": [LOG]}]}]}


def as_message(line: bytes) -> TracesData:
    document = json.loads(line)
    for group in document["resourceSpans"]:
        for span in group["scopeSpans"][0]["spans"]:
            for key in ("traceId", "spanId", "parentSpanId"):
                span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    return json_format.ParseDict(document, TracesData())


def read(path: Path, unread: Unread | None = None) -> list[Any]:
    told = Unread()
    found = list(read_otlp(path, unread or told))
    assert unread is not None or not told.counts, told
    return found


def with_length(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


LINES = [json_line(span) for span in SPANS]
MESSAGES = [as_message(line).SerializeToString() for line in LINES]
ONE_DOCUMENT = {"resourceSpans": [json.loads(line)["resourceSpans"][0] for line in LINES]}
FORMS = {
    "lines": b"".join(LINES),
    "lines with gaps": b"\n" + b"\r\n\n".join(LINES),
    "lines behind a mark": b"\xef\xbb\xbf" + b"".join(LINES),
    "document": json.dumps(ONE_DOCUMENT, indent=2).encode(),
    "document on a line": json.dumps(ONE_DOCUMENT).encode(),
    "list of documents": json.dumps(list(map(json.loads, LINES)), indent=1).encode(),
    "message": b"".join(MESSAGES),
    "messages with lengths": b"".join(map(with_length, MESSAGES)),
    "json of protobuf": b"".join(
        json.dumps(json_format.MessageToDict(as_message(line))).encode() + b"\n" for line in LINES
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_every_form_of_a_file_holds_the_same_spans(
    tmp_path: Path, form: str, is_packed: bool
) -> None:
    path = tmp_path / "traces"
    path.write_bytes(gzip.compress(FORMS[form]) if is_packed else FORMS[form])
    first, second = read(path)
    assert (first.trace_id, first.span_id, first.parent_id) == (TRACE, "00000000000000a1", None)
    assert (first.started, first.ended) == (START + 0.25, START + 0.75)
    assert first.attributes == SPANS[0].attributes
    assert (first.scope, first.scope_version) == ("tests", "1")
    assert first.resource == {"service.name": "shop"}
    assert second.parent_id == "00000000000000a1" and second.error == "it broke"
    assert second.attributes == SPANS[1].attributes
    assert first.error is None


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_log_records_name_their_span(tmp_path: Path, form: str) -> None:
    path = tmp_path / "logs"
    path.write_text(json.dumps(LOGS))
    if form == "protobuf":
        told = json.loads(json.dumps(LOGS))
        record = told["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
        for key in ("traceId", "spanId"):
            record[key] = base64.b64encode(bytes.fromhex(record[key])).decode()
        path.write_bytes(json_format.ParseDict(told, LogsData()).SerializeToString())
    [event] = read(path)
    assert event == TracedEvent(
        name="gen_ai.user.message",
        attributes={},
        body={"content": "Hi"},
        time=START,
        trace_id=TRACE,
        span_id="00000000000000a1",
    )


def test_lines_that_do_not_parse_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    wrong = [b"{broken\n", b'{"resourceMetrics": []}\n', b'"text"\n', b'{"resourceSpans": [7]}\n']
    path.write_bytes(b"".join([LINES[0], *wrong, LINES[1], LINES[0][:50]]))
    unread = Unread()
    assert [span.span_id[-1] for span in read(path, unread)] == ["1", "2"]
    assert unread.counts["a line that is no JSON"] == 2
    assert unread.places["a line that is no JSON"] == f"{path}, line 2"
    assert unread.places["a torn last line"] == f"{path}, line 7"
    reasons = sorted(unread.counts)
    assert len(reasons) == 4 and "neither resourceSpans nor resourceLogs" in reasons[-1]
    assert unread.places[reasons[2]] == f"{path}, line 5"


def test_what_stands_before_a_tear_in_protobuf_is_read(tmp_path: Path) -> None:
    path = tmp_path / "traces.pb"
    for form, whole in (("message", b"".join(MESSAGES)), ("messages with lengths", b"")):
        path.write_bytes((whole or FORMS[form])[:-7])
        unread = Unread()
        assert [span.span_id[-1] for span in read(path, unread)] == ["1"]
        assert list(unread.counts) == ["a protobuf message that is cut off"]
        assert str(path) in unread.places["a protobuf message that is cut off"]


def test_a_broken_message_between_two_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "traces.pb"
    path.write_bytes(b"".join(map(with_length, [MESSAGES[0], b"\x0a\x05hello", MESSAGES[1]])))
    unread = Unread()
    assert len(read(path, unread)) == 2
    assert sum(unread.counts.values()) == 1


def test_a_packed_file_that_is_cut_off_gives_what_stands_before(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl.gz"
    whole = gzip.compress(b"".join(json_line(traced(f"{n:016x}")) for n in range(1, 500)))
    path.write_bytes(whole[: len(whole) // 2])
    unread = Unread()
    assert 10 < len(read(path, unread)) < 499
    assert "cut off or changed" in next(iter(unread.counts))


def test_bytes_of_anything_are_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "anything"
    for data in (
        b"",
        b"\0",
        b"\n",
        b"\x0a\xff",
        b"\x0a" + b"\xff" * 20,
        b"\0\0\0\5ab",
        b"PK\3\4xx",
    ):
        path.write_bytes(data)
        assert read(path, Unread()) == []


def test_a_position_leads_on_to_what_was_added_and_to_a_line_that_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_bytes(LINES[0] + LINES[1][:40])
    position = FilePosition()
    assert len(list(read_otlp(path, Unread(), position))) == 1
    assert position.num_bytes == len(LINES[0])
    path.write_bytes(b"".join([*LINES, LINES[0]]))
    assert [one.span_id[-1] for one in read_otlp(path, Unread(), position)] == ["2", "1"]
    assert position.num_bytes == path.stat().st_size
    path.write_bytes(FORMS["messages with lengths"])
    position = FilePosition(num_bytes=len(with_length(MESSAGES[0])))
    assert [one.span_id[-1] for one in read_otlp(path, Unread(), position)] == ["2"]


def test_a_file_that_is_not_there_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(TraceSourceError, match=r"none\.jsonl: cannot be opened"):
        read(tmp_path / "none.jsonl")


def test_an_error_without_words_tells_its_exception() -> None:
    document = json.loads(LINES[0])
    span = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    told = {"exception.type": "ValueError", "exception.message": "no"}
    pairs = [{"key": key, "value": {"stringValue": value}} for key, value in told.items()]
    span["status"] = {"code": "STATUS_CODE_ERROR"}
    span["events"] = [{"name": "exception", "timeUnixNano": 0, "attributes": pairs}]
    [found] = json_records(document)
    assert isinstance(found, TracedSpan) and found.error == "ValueError: no"


def test_bodies_of_requests_are_read_or_refused() -> None:
    assert len(list(protobuf_records(b"".join(MESSAGES)))) == 2
    assert list(protobuf_records(b"")) == []
    for document in ([], {"resourceMetrics": []}, {"resourceSpans": [{"scopeSpans": 3}]}):
        with pytest.raises(WrongForm):
            list(json_records(document))


def test_protobuf_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "traces.pb"
    path.write_bytes(MESSAGES[0])
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.trace.v1.trace_pb2", None)
    with pytest.raises(ConfigError, match=r"pip install 'astuner\[traces\]'"):
        read(path)
