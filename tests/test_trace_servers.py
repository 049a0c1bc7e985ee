"""Servers with traces: paging, logins, troubles, and only what is new the next time."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from astuner.errors import TraceSourceError
from astuner.traces.cursors import TraceCursors
from astuner.traces.reading import Unread
from astuner.traces.sources.address import SourceAddress
from astuner.traces.sources.known import open_source
from astuner.traces.sources.web import ServerLogin, TraceServer
from astuner.traces.span import TracedSpan
from astuner.traces.trace import TraceFeedback
from tests.fakes import LangfuseStandIn, MlflowStandIn, PhoenixStandIn
from tests.otlp_files import START, TRACE, chat, json_line, texts, traced
from tests.remote_servers import CLOSED_PORT_URL, served
from tests.trace_stores import phoenix_row, read_all

HI, HELLO = ("user", "Hi"), ("assistant", "Hello")
MORE, DONE = ("user", "More"), ("assistant", "Ok")
TIME = "2023-11-14T22:13:20Z"
"""START."""
NO_LOGIN = ServerLogin(advice="set SOME_KEY")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("PHOENIX_API_KEY", "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
    for name in (*names, "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.delenv(name, raising=False)


def phoenix_of(*spans: TracedSpan, **options: Any) -> PhoenixStandIn:
    rows = [phoenix_row(span, number) for number, span in enumerate(spans, 1)]
    return PhoenixStandIn(rows, **options)


def test_phoenix_is_read_page_by_page_and_later_only_what_is_new() -> None:
    asked = [("user", f"q{n}") for n in range(5)]
    spans = [chat(f"a{n}", [asked[n]], HELLO, session=f"s{n}", trace_id=f"{n}") for n in range(5)]
    stand_in = phoenix_of(*spans)
    with served(stand_in.app) as url:
        traces, cursor = read_all(url)
        assert sorted(trace.session or "" for trace in traces) == ["s0", "s1", "s2", "s3", "s4"]
        assert read_all(url, since=cursor) == ([], cursor)
        stand_in.spans.append(phoenix_row(chat("a9", [HI], HELLO), 9))
        [[new], later] = read_all(url, since=cursor)
        assert texts(new) == [HI, HELLO] and later == {"newest": {"UHJvamVjdDox": 9}}
        assert read_all(f"{url}/projects/UHJvamVjdDox/spans")[1] == later


def test_a_project_that_is_not_there_is_told() -> None:
    with served(phoenix_of(chat("a1", [HI], HELLO)).app) as url:
        assert len(read_all(url, project="default")[0]) == 1
        with pytest.raises(TraceSourceError, match="refused with 404: Project with identifier"):
            read_all(url, project="shops")


def test_annotations_of_phoenix_are_feedback() -> None:
    said = {
        "name": "liked",
        "annotator_kind": "HUMAN",
        "result": {"label": "good", "score": 1, "explanation": "why"},
        "created_at": TIME,
    }
    stand_in = phoenix_of(
        chat("a1", [HI], HELLO),
        span_annotations=[{**said, "span_id": "a1"}],
        trace_annotations=[{"trace_id": TRACE, "name": "ok", "annotator_kind": "CODE"}],
    )
    with served(stand_in.app) as url:
        [[trace], _] = read_all(url)
    given = TraceFeedback(
        name="liked",
        score=1.0,
        label="good",
        comment="why",
        by="human",
        span_id="a1",
        told=START,
    )
    assert trace.feedback == (given, TraceFeedback(name="ok", by="code"))


def test_what_phoenix_takes_apart_and_translates_is_put_together() -> None:
    told = {
        "openinference.span.kind": "LLM",
        "metadata": {"k": {"a": 1}},
        "llm.input_messages": [{"message.role": "user", "message.content": "half"}],
    }
    stand_in = phoenix_of(chat("a1", [HI], HELLO, attributes=told))
    with served(stand_in.app) as url:
        [[trace], _] = read_all(url)
    assert texts(trace) == [HI, HELLO]


def test_a_login_that_is_missing_is_told_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(phoenix_of(chat("a1", [HI], HELLO), key="k1").app) as url:
        with pytest.raises(TraceSourceError, match=r"wants a login \(401\); set .*PHOENIX_API_KEY"):
            read_all(url)
        monkeypatch.setenv("PHOENIX_API_KEY", "k1")
        assert len(read_all(url)[0]) == 1


def test_bad_spans_of_a_server_are_counted_with_their_place() -> None:
    stand_in = phoenix_of(chat("a1", [HI], HELLO), chat("a2", [HI, HELLO, MORE], DONE, at=1))
    stand_in.spans[1]["context"] = {}
    unread = Unread()
    with served(stand_in.app) as url:
        [[trace], _] = read_all(url, unread)
        place = f"{url}, span {stand_in.spans[1]['id']}"
    assert texts(trace) == [HI, HELLO]
    assert (unread.counts, unread.places) == (
        {"a span without ids": 1},
        {"a span without ids": place},
    )


def protobuf_span(span: TracedSpan) -> dict[str, Any]:
    """As MLflow's server tells it: names in snake case, ids in base64, numbers as numbers."""
    [group] = json.loads(json_line(span))["resourceSpans"]
    told = _snake(group["scopeSpans"][0]["spans"][0])
    for name in ("trace_id", "span_id", "parent_span_id"):
        told[name] = base64.b64encode(bytes.fromhex(told[name])).decode()
    return told


def _snake(value: Any) -> Any:
    if isinstance(value, list):
        return [_snake(one) for one in value]
    if not isinstance(value, dict):
        return value
    named = {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in key): one
        for key, one in value.items()
    }
    return {key: _snake(one) for key, one in named.items()}


def mlflow_info(trace_id: str, seconds: int, **more: Any) -> dict[str, Any]:
    time = f"2023-11-14T22:13:{seconds:02d}Z"
    return {"trace_id": f"tr-{trace_id}", "request_time": time, "state": "OK", **more}


def mlflow_of(*numbers: int) -> MlflowStandIn:
    names = {number: f"{number:032x}" for number in numbers}
    infos = [mlflow_info(name, number) for number, name in names.items()]
    spans = {
        f"tr-{name}": [
            protobuf_span(chat(f"{number:016x}", [HI], HELLO, trace_id=name, session=name))
        ]
        for number, name in names.items()
    }
    return MlflowStandIn(infos, spans)


def test_mlflow_is_read_page_by_page_and_later_from_the_last_time_on() -> None:
    stand_in = mlflow_of(1, 2, 3)
    stand_in.infos[0]["assessments"] = [{"assessment_name": "liked", "feedback": {"value": 0.5}}]
    with served(stand_in.app) as url:
        traces, cursor = read_all(url)
        assert [texts(trace) for trace in traces] == [[HI, HELLO]] * 3
        assert traces[0].feedback == (TraceFeedback(name="liked", score=0.5),)
        last = {"milliseconds": 1_699_999_983_000, "ids": [f"tr-{3:032x}"]}
        assert cursor == {"experiments": {"7": last}}
        stand_in.infos[:2] = []
        assert read_all(url, since=cursor) == ([], cursor)
    assert stand_in.asked[-1]["filter"] == "trace.timestamp_ms >= 1699999983000"


def test_a_trace_of_mlflow_that_goes_on_is_read_when_it_has_ended() -> None:
    stand_in = mlflow_of(1, 2, 3)
    stand_in.infos[1]["state"] = "IN_PROGRESS"
    with served(stand_in.app) as url:
        traces, cursor = read_all(url)
        assert len(traces) == 2
        stand_in.infos[1]["state"] = "OK"
        del stand_in.infos[0]
        again, _ = read_all(url, since=cursor)
    assert f"{2:032x}" in [trace.session for trace in again]


def test_spans_that_mlflow_keeps_in_files_are_asked_for_one_by_one() -> None:
    stand_in = mlflow_of(1)
    stand_in.spans, stand_in.in_files = {}, dict(stand_in.spans)
    with served(stand_in.app) as url:
        assert len(read_all(url)[0]) == 1
        stand_in.in_files = {}
        unread = Unread()
        assert read_all(url, unread)[0] == [] and unread.counts == {"a trace without spans": 1}


@pytest.mark.parametrize("page", ["#/experiments/7/traces?o=1", "#/experiments/7"])
def test_a_page_of_mlflow_names_the_experiment(page: str) -> None:
    with served(mlflow_of(1).app) as url:
        [[trace], _] = read_all(f"{url}/{page}")
        assert trace.origin.address == url
        with pytest.raises(TraceSourceError, match="no experiment '8'"):
            read_all(f"{url}/{page.replace('7', '8')}")
        assert len(read_all(f"{url}/#/models")[0]) == 1


def test_an_experiment_that_is_not_there_is_told_with_those_that_are() -> None:
    with served(mlflow_of(1).app) as url:
        assert len(read_all(url, project="shop")[0]) == len(read_all(url, project="7")[0]) == 1
        with pytest.raises(TraceSourceError, match="no experiment 'shops'; there are 'shop'"):
            read_all(url, project="shops")


@pytest.fixture
def langfuse_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-2")


def observation(name: str, asked: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "traceId": f"t-{name}",
        "type": "GENERATION",
        "startTime": TIME,
        "sessionId": f"s-{name}",
        "input": json.dumps([{"role": "user", "content": asked}]),
        "output": json.dumps({"role": "assistant", "content": "Hello"}),
        **more,
    }


def scores(**where: Any) -> list[dict[str, Any]]:
    shared = {"name": "tone", "source": "EVAL", "timestamp": TIME, "comment": "c", **where}
    return [
        {**shared, "id": "x1", "dataType": "NUMERIC", "value": 0.5},
        {**shared, "id": "x2", "dataType": "CATEGORICAL", "value": "kind"},
    ]


@pytest.mark.usefixtures("langfuse_keys")
@pytest.mark.parametrize(
    ("has_cursor", "where"),
    [
        (True, {"subject": {"kind": "observation", "id": "o1", "traceId": "t-o1"}}),
        (False, {"traceId": "t-o1", "observationId": "o1"}),
    ],
)
def test_langfuse_is_read_page_by_page_with_its_scores(
    has_cursor: bool, where: dict[str, Any]
) -> None:
    stand_in = LangfuseStandIn(
        observations=[observation("o1", "Hi"), observation("o2", "More")],
        scores=scores(**where),
        has_scores_by_cursor=has_cursor,
    )
    with served(stand_in.app) as url:
        traces, cursor = read_all(url)
        assert [texts(trace) for trace in traces] == [[HI, HELLO], [MORE, HELLO]]
        shared = {"name": "tone", "comment": "c", "by": "model", "span_id": "o1", "told": START}
        assert traces[0].feedback == (
            TraceFeedback(**shared, score=0.5),
            TraceFeedback(**shared, label="kind"),
        )
        assert cursor == {"observation": START, "score": START}
        read_all(url, since=cursor)
    later = [one for one in stand_in.asked if "fromStartTime" in one]
    assert {one["fromStartTime"] for one in later} == {"2023-11-14T21:13:20.000Z"}


@pytest.mark.usefixtures("langfuse_keys")
def test_an_older_langfuse_is_read_trace_by_trace() -> None:
    whole = {"id": "t1", "timestamp": TIME, "sessionId": "s1", "tags": ["v1"]}
    call = {**observation("o1", "Hi"), "traceId": None, "sessionId": None}
    traces = [{**whole, "observations": [call], "scores": scores(observationId=None)}]
    with served(LangfuseStandIn(traces=traces).app) as url:
        [[trace], cursor] = read_all(url)
    assert texts(trace) == [HI, HELLO] and (trace.session, trace.tags) == ("s1", ("v1",))
    assert [one.score for one in trace.feedback] == [0.5, None] and cursor == {"trace": START}


def test_keys_of_langfuse_that_are_missing_are_told() -> None:
    with (
        served(LangfuseStandIn(observations=[]).app) as url,
        pytest.raises(TraceSourceError, match="LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"),
    ):
        read_all(url)


def test_a_password_in_an_address_is_used_and_never_shown() -> None:
    with served(LangfuseStandIn(observations=[observation("o1", "Hi")]).app) as url:
        address = url.replace("http://", "http://pk-lf-1:sk-lf-2@")
        [[trace], _] = read_all(address)
        assert trace.origin.address == url
        with pytest.raises(TraceSourceError) as told:
            read_all(address.replace("sk-lf-2", "sk-wrong"))
    assert "sk-wrong" not in str(told.value)


def answering(*answers: Response) -> Starlette:
    """In turn, the last one again and again."""
    following: Iterator[Response] = iter(answers)
    last = answers[-1]

    async def answer(request: Request) -> Response:
        return next(following, last)

    return Starlette(routes=[Route("/{path:path}", answer)])


def test_passing_troubles_are_waited_out_as_long_as_the_server_says() -> None:
    slept: list[float] = []
    app = answering(
        Response(status_code=429, headers={"retry-after": "7"}),
        Response("down", status_code=502),
        JSONResponse({"data": 1}),
    )
    with served(app) as url, TraceServer(url, NO_LOGIN, sleep=slept.append) as server:
        assert server.get("/v1/spans") == {"data": 1}
    assert len(slept) == 2 and slept[0] >= 7


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Response("down\nfor now", status_code=503), "no answer after 6 tries, .* down for now"),
        (Response(status_code=404), r"refused with 404"),
        (Response(status_code=429, headers={"retry-after": "9999"}), "no answer after 1 tries"),
        (Response("no", status_code=403), r"wants a login \(403\); set SOME_KEY"),
        (RedirectResponse("https://login.example/x"), "leads on to 'https://login.example/x'"),
        (HTMLResponse("<title>Shop</title>"), "<title>Shop</title>', which is no JSON"),
    ],
)
def test_an_answer_that_is_none_is_told(answer: Response, told: str) -> None:
    with (
        served(answering(answer)) as url,
        TraceServer(url, NO_LOGIN, sleep=lambda seconds: None) as server,
        pytest.raises(TraceSourceError, match=told),
    ):
        server.get("/v1/spans")


def test_nobody_at_an_address_is_told() -> None:
    with pytest.raises(TraceSourceError, match="nobody answers there"):
        open_source(CLOSED_PORT_URL)
    with (
        TraceServer(CLOSED_PORT_URL, NO_LOGIN, sleep=lambda seconds: None) as server,
        pytest.raises(TraceSourceError, match=r"no answer after 6 tries, .* ConnectError"),
    ):
        server.get("/v1/spans")


def test_a_server_of_something_else_is_told() -> None:
    with (
        served(answering(HTMLResponse("<title>Shop</title>"))) as url,
        pytest.raises(TraceSourceError, match="neither Phoenix nor Langfuse nor MLflow"),
    ):
        open_source(url)


def test_the_same_conversation_from_two_sources_is_new_once(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    path.write_bytes(json_line(chat("a1", [HI], HELLO)))
    with served(phoenix_of(chat("b2", [HI], ("assistant", " Hello\n")), traced("c3")).app) as url:
        cursors = TraceCursors(tmp_path / "out")
        found = [trace for place in (path, url) for trace in read_all(place)[0]]
        assert [cursors.is_new(trace) for trace in found] == [True, False]
        sources = [open_source(str(place)) for place in (path, url)]
    for source in sources:
        cursors.move(source)
    cursors.save()
    again = TraceCursors(SourceAddress(text=str(tmp_path / "out")).path)
    assert not again.is_new(found[0])
