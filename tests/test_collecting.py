"""What exporters send is kept, masked, and read as traces; what nobody could read is refused."""

import asyncio
import base64
import contextlib
import gzip
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from astuner.collecting.collector import Collector, CollectorOptions, listen_for_exporters
from astuner.collecting.life import collect
from astuner.collecting.writing import ExportWriter, KeepingOptions
from astuner.errors import ConfigError
from astuner.traces.reader import read_traces
from astuner.traces.reading import Unread
from tests.otlp_files import OtlpPaths, texts

MAIL, KEY = "erika.muster@firma-nord.de", "sk-proj-a8F3kd92LmQz71xYb0Rt55Wv"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MAX_BODY = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A collector that listens, and a client of it."""

    address: str
    folder: Path
    http: httpx.AsyncClient
    signals: "list[asyncio.Future[int]]"
    ended: "asyncio.Task[int]"

    async def post(self, body: Any, path: str = "traces", **headers: str) -> httpx.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"content-type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(f"{self.address}/v1/{path}", content=data, headers=named)

    def kept(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.jsonl")))


@contextlib.asynccontextmanager
async def sending(
    folder: Path, *, is_masked: bool = False, token: str | None = None, max_body: int = MAX_BODY
) -> AsyncIterator[Sending]:
    writer = ExportWriter(
        KeepingOptions(folder=folder, is_masked=is_masked, max_mb=None, max_body_bytes=max_body)
    )
    options = CollectorOptions(host="127.0.0.1", token=token, max_body_bytes=max_body)
    collector = Collector(options, listen_for_exporters("127.0.0.1", 0), writer)
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[str] = loop.create_future()
    signals: list[asyncio.Future[int]] = []

    def next_signal() -> "asyncio.Future[int]":
        signals.append(loop.create_future())
        return signals[-1]

    ended = asyncio.create_task(
        collect(
            collector,
            next_signal=next_signal,
            drain_seconds=20,
            on_ready=ready.set_result,
            say=lambda text: None,
        )
    )
    async with httpx.AsyncClient(timeout=20) as http:
        address = await ready
        yield Sending(address=address, folder=folder, http=http, signals=signals, ended=ended)
        if not signals[0].done():
            signals[0].set_result(2)
        await ended


def sent(body: Callable[[Sending], Awaitable[None]], folder: Path, **options: Any) -> None:
    async def run() -> None:
        async with sending(folder, **options) as it:
            await body(it)

    asyncio.run(run())


def span(text: str = "Hello", **changed: Any) -> dict[str, Any]:
    messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])
    reply = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "Yes."}]}])
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": messages,
        "gen_ai.output.messages": reply,
        **changed.pop("attributes", {}),
    }
    return {
        "traceId": TRACE,
        "spanId": SPAN,
        "name": "chat tiny",
        "startTimeUnixNano": "1700000000250000000",
        "endTimeUnixNano": "1700000001000000000",
        "attributes": [{"key": key, "value": {"stringValue": one}} for key, one in told.items()],
        **changed,
    }


def request(*spans: Any) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}


def traces_in(folder: Path) -> list[Any]:
    unread = Unread()
    found = list(read_traces(OtlpPaths(*sorted(folder.glob("*.jsonl"))), unread))
    assert not unread.counts, unread
    return found


def export_by_sdk(address: str, **options: Any) -> bool:
    """One span of a program that knows nothing of us; whether it was taken."""
    exporter = OTLPSpanExporter(endpoint=f"{address}/v1/traces", **options)
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    with provider.get_tracer("of.the.shop").start_as_current_span("chat tiny") as made:
        for pair in span("What is this?")["attributes"]:
            made.set_attribute(pair["key"], pair["value"]["stringValue"])
    spans_are_out = provider.force_flush()
    result = exporter.export([made])  # pyright: ignore[reportArgumentType]  # the SDK's own span
    provider.shutdown()
    return spans_are_out and result is SpanExportResult.SUCCESS


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_what_the_exporter_of_opentelemetry_sends_is_read_as_a_conversation(
    tmp_path: Path, compression: str
) -> None:
    from opentelemetry.exporter.otlp.proto.http import Compression

    async def body(it: Sending) -> None:
        assert await asyncio.to_thread(
            export_by_sdk, it.address, compression=Compression(compression)
        )

    sent(body, tmp_path)
    [trace] = traces_in(tmp_path)
    assert texts(trace) == [("user", "What is this?"), ("assistant", "Yes.")]
    assert trace.metadata["service.name"] == "shop"
    [path] = tmp_path.glob("traces_*.jsonl")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_logs_are_kept_in_files_of_their_own(tmp_path: Path) -> None:
    record = {
        "timeUnixNano": "1700000002000000000",
        "eventName": "gen_ai.evaluation.result",
        "traceId": TRACE,
        "spanId": SPAN,
        "attributes": [
            {"key": "gen_ai.evaluation.name", "value": {"stringValue": "user_feedback"}},
            {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 0.5}},
        ],
    }
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}

    async def body(it: Sending) -> None:
        assert (await it.post(request(span()))).json() == {}
        assert (await it.post(logs, "logs")).json() == {}

    sent(body, tmp_path)
    assert len(list(tmp_path.glob("logs_*.jsonl"))) == 1
    [trace] = traces_in(tmp_path)
    [feedback] = trace.feedback
    assert (feedback.name, feedback.score) == ("user_feedback", 0.5)


def test_nothing_private_is_written_and_users_are_still_told_apart(tmp_path: Path) -> None:
    async def body(it: Sending) -> None:
        for number, user in enumerate((MAIL, "max@firma-sued.de", MAIL)):
            attributes = {"user.id": user, "astuner.prompt_ids": "[1]", "astuner.reply_ids": "[2]"}
            one = span(
                f"I am {user}, my key is {KEY}",
                attributes=attributes,
                name=f"chat {MAIL}",
                spanId=f"{number + 1:016x}",
                traceId=f"{number + 1:032x}",
                status={"code": 2, "message": f"no answer for {MAIL}"},
                events=[
                    {"name": "log", "attributes": [{"key": "a", "value": {"stringValue": KEY}}]}
                ],
                links=[{"traceId": TRACE, "spanId": SPAN, "traceState": KEY}],
            )
            sent_one = request(one)
            sent_one["resourceSpans"][0]["resource"] = {
                "attributes": [{"key": "owner", "value": {"stringValue": MAIL}}]
            }
            assert (await it.post(sent_one)).status_code == 200
        log = {"body": {"kvlistValue": {"values": [{"key": "k", "value": {"stringValue": MAIL}}]}}}
        logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [log]}]}]}
        assert (await it.post(logs, "logs")).status_code == 200

    sent(body, tmp_path, is_masked=True)
    for path in tmp_path.iterdir():
        for secret in (MAIL, KEY, "firma-sued"):
            assert secret.encode() not in path.read_bytes()
            assert base64.b64encode(secret.encode())[:-4] not in path.read_bytes()
    first, second, third = sorted(traces_in(tmp_path), key=lambda trace: trace.trace_id)
    assert first.user == third.user != second.user
    assert first.steps[0].text == "I am [email], my key is [secret]"
    assert first.steps[-1].tokens is None


def test_records_that_cannot_be_read_are_counted_to_the_sender_and_the_rest_is_kept(
    tmp_path: Path,
) -> None:
    wrong = [
        span(traceId="12"),
        span(attributes={}, links=[{"attributes": [5]}]),
        {"attributes": [{"value": {}}]},
        "text",
    ]

    async def body(it: Sending) -> None:
        answered = (await it.post(request(span(), *wrong))).json()["partialSuccess"]
        assert answered["rejectedSpans"] == "4"
        assert answered["errorMessage"].endswith("and 3 more")

    sent(body, tmp_path, is_masked=True)
    assert len(traces_in(tmp_path)) == 1


@pytest.mark.parametrize(
    ("posted", "headers", "status", "said"),
    [
        (b"{", {}, 400, "no JSON"),
        (b"[]", {}, 400, "a JSON list"),
        (b'{"resourceMetrics": []}', {}, 400, "expected resourceSpans"),
        (b'{"resourceSpans": 5}', {}, 400, "no list of objects"),
        (b'{"resourceSpans": [NaN]}', {}, 400, "NaN"),
        (b"[" * 100_000, {}, 400, "no JSON"),
        (b"{}", {"content_type": "text/plain"}, 415, "http/protobuf"),
        (b"{}", {"content_encoding": "br"}, 415, "gzip"),
        (b"{}", {"content_encoding": "gzip"}, 400, "does not unpack"),
        (gzip.compress(b"{}")[:-9], {"content_encoding": "gzip"}, 400, "cut off"),
        (gzip.compress(bytes(MAX_BODY + 1)), {"content_encoding": "gzip"}, 413, "unpacked"),
        (bytes(MAX_BODY + 1), {}, 413, "longer than"),
    ],
)
def test_a_request_that_is_none_is_refused_with_what_is_wrong(
    tmp_path: Path, posted: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    async def body(it: Sending) -> None:
        answered = await it.post(posted, **headers)
        assert answered.status_code == status
        assert said in answered.json()["message"]

    sent(body, tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_torn_protobuf_is_refused_in_protobuf(tmp_path: Path) -> None:
    async def body(it: Sending) -> None:
        whole = ExportTraceServiceRequest()
        whole.resource_spans.add().scope_spans.add().spans.add().name = "chat"
        torn = whole.SerializeToString()[:-1]
        answered = await it.post(torn, content_type="application/x-protobuf")
        assert answered.status_code == 400
        assert answered.content[:1] == b"\x12" and b"no request of OTLP" in answered.content

    sent(body, tmp_path)


def test_a_hundred_megabytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    async def body(it: Sending) -> None:
        host, port = it.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/traces HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 100000000\r\n\r\n" + b"{" * 10
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        writer.close()

    sent(body, tmp_path)


def test_who_shows_another_token_is_not_let_in(tmp_path: Path) -> None:
    async def body(it: Sending) -> None:
        assert (await it.post(request(span()))).status_code == 401
        assert (await it.post(request(span()), authorization="Bearer other")).status_code == 401
        taken = await it.post(request(span()), authorization="Bearer right")
        assert taken.status_code == 200
        assert (await it.http.get(f"{it.address}/healthz")).json()["status"] == "ok"

    sent(body, tmp_path, token="right")
    assert len(traces_in(tmp_path)) == 1


def test_who_calls_it_by_another_name_is_not_let_in(tmp_path: Path) -> None:
    async def body(it: Sending) -> None:
        assert (await it.post(request(span()), host="evil.example")).status_code == 421

    sent(body, tmp_path)


def test_a_disk_that_refuses_is_told_as_something_to_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(it: Sending) -> None:
        monkeypatch.setattr(os, "fsync", _full)
        answered = await it.post(request(span()))
        assert answered.status_code == 503 and answered.headers["retry-after"] == "30"
        assert "No space left" in answered.json()["message"]
        monkeypatch.undo()
        assert (await it.post(request(span()))).status_code == 200

    sent(body, tmp_path)
    assert len(traces_in(tmp_path)) == 1


def _full(file: int) -> None:
    raise OSError(28, "No space left on device")


def test_it_ends_when_those_under_way_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on, fsync = threading.Event(), threading.Event(), os.fsync

    def slow(file: int) -> None:
        begun.set()
        assert may_go_on.wait(20)
        fsync(file)

    async def body(it: Sending) -> None:
        monkeypatch.setattr(os, "fsync", slow)
        posted = asyncio.create_task(it.post(request(span())))
        assert await asyncio.to_thread(begun.wait, 20)
        it.signals[0].set_result(15)
        while len(it.signals) < 2:
            await asyncio.sleep(0)
        late = await it.post(request(span()))
        assert late.status_code == 503 and late.headers["retry-after"] == "5"
        may_go_on.set()
        assert (await posted).status_code == 200
        assert await it.ended == 15

    sent(body, tmp_path)
    assert len(traces_in(tmp_path)) == 1


def test_too_much_that_waits_is_told_to_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("astuner.collecting.collector._MAX_WAITING_BYTES", 10)
    begun, may_go_on, fsync = threading.Event(), threading.Event(), os.fsync

    def slow(file: int) -> None:
        begun.set()
        assert may_go_on.wait(20)
        fsync(file)

    async def body(it: Sending) -> None:
        monkeypatch.setattr(os, "fsync", slow)
        posted = asyncio.create_task(it.post(request(span())))
        assert await asyncio.to_thread(begun.wait, 20)
        late = await it.post(request(span()))
        assert late.status_code == 429 and late.headers["retry-after"] == "2"
        may_go_on.set()
        assert (await posted).status_code == 200

    sent(body, tmp_path)


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    taken = listen_for_exporters("127.0.0.1", 0)
    with taken, pytest.raises(ConfigError, match=r"cannot listen .*give another --port"):
        listen_for_exporters("127.0.0.1", taken.getsockname()[1])
