"""Databases of AgentScope Studio, and that a conversation is the same wherever it was kept."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from astuner.errors import TraceSourceError
from astuner.traces.cursors import content_digest
from astuner.traces.otlp.files import read_otlp
from astuner.traces.reader import read_traces
from astuner.traces.reading import Unread
from astuner.traces.sources.known import open_source
from astuner.traces.span import TracedSpan
from astuner.traces.trace import Step
from tests.fakes import PhoenixStandIn
from tests.otlp_files import START, chat, json_line, texts, traced
from tests.remote_servers import served
from tests.trace_stores import (
    insert,
    migrated_studio,
    new_studio,
    old_studio,
    phoenix_row,
    read_all,
)

EMITTER = Path(__file__).parent / "agentscope_traces.py"
HI, HELLO = ("user", "Hi"), ("assistant", "Hello")


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a real agent of AgentScope 1.x told of two requests."""
    path = tmp_path_factory.mktemp("emitted") / "spans.pb"
    subprocess.run(
        [sys.executable, "-P", EMITTER, path], check=True, env=dict(os.environ), timeout=100
    )
    return path


def spans_of(path: Path) -> list[TracedSpan]:
    return [one for one in read_otlp(path, Unread()) if isinstance(one, TracedSpan)]


def without_times(steps: Sequence[Step]) -> list[Step]:
    """Stores round them."""
    return [replace(step, started=None, seconds=None) for step in steps]


def test_a_conversation_is_the_same_from_each_store(emitted: Path, tmp_path: Path) -> None:
    spans = spans_of(emitted)
    [[told], _] = read_all(emitted)
    assert texts(told)[-3:] == [
        ("assistant", "It rains in Paris."),
        ("user", "Thanks!"),
        ("assistant", "You are welcome."),
    ]
    lines = tmp_path / "spans.jsonl"
    lines.write_bytes(b"".join(map(json_line, spans)))
    stand_in = PhoenixStandIn([phoenix_row(span, number) for number, span in enumerate(spans, 1)])
    with served(stand_in.app) as url:
        places = {
            "otlp": lines,
            "new studio": new_studio(tmp_path / "new.sqlite", spans),
            "old studio": old_studio(tmp_path / "old.sqlite", spans),
            "migrated studio": migrated_studio(tmp_path / "migrated.sqlite", spans),
            "phoenix": url,
        }
        for place, address in places.items():
            [[trace], _] = read_all(address)
            assert without_times(trace.steps) == without_times(told.steps), place
            assert trace.session == told.session, place
            assert content_digest(trace) == content_digest(told), place
            times = [step.started for step in told.steps if step.role == "assistant"]
            again = [step.started for step in trace.steps if step.role == "assistant"]
            assert again == pytest.approx(times, abs=1e-5), place


def test_an_old_database_without_calls_of_models_tells_what_agents_said(
    emitted: Path, tmp_path: Path
) -> None:
    agents = [
        span
        for span in spans_of(emitted)
        if span.attributes["gen_ai.operation.name"] == "invoke_agent"
    ]
    traces, _ = read_all(old_studio(tmp_path / "old.sqlite", agents))
    assert sorted(texts(trace) for trace in traces) == [
        [("user", "Thanks!"), ("assistant", "You are welcome.")],
        [("user", "Weather in Paris?"), ("assistant", "It rains in Paris.")],
    ]
    assert {trace.agent for trace in traces} == {"Meteo"}


def test_only_rows_that_came_since_are_read_again(tmp_path: Path) -> None:
    path = new_studio(tmp_path / "studio.sqlite", [chat("a1", [HI], HELLO)])
    [[first], cursor] = read_all(path)
    assert read_all(path, since=cursor) == ([], cursor)
    new_studio(path, [chat("a2", [("user", "New")], HELLO, at=1, session="other")])
    [[second], later] = read_all(path, since=cursor)
    assert (texts(first)[0], texts(second)[0]) == (HI, ("user", "New"))
    assert (cursor, later) == ({"is_new": True, "row": 1}, {"is_new": True, "row": 2})


def test_a_table_that_was_made_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = new_studio(tmp_path / "studio.sqlite", [chat("a1", [HI], HELLO)])
    for since in ({"is_new": False, "row": 1}, {"is_new": True, "row": 99}):
        assert len(read_all(path, since=since)[0]) == 1


def test_rows_that_do_not_parse_cost_only_themselves(tmp_path: Path) -> None:
    path = new_studio(tmp_path / "studio.sqlite", [chat("a1", [HI], HELLO), traced("b2")])
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE span_table SET attributes = '{torn' WHERE spanId = 'b2'")
    unread = Unread()
    [[trace], _] = read_all(path, unread)
    assert texts(trace) == [HI, HELLO]
    assert unread.counts == {"a column attributes that is no JSON": 1}
    assert unread.places.popitem()[1].endswith("studio.sqlite, span_table, row 2")


@pytest.mark.parametrize("text", ["Msg(name='it's', content=[)", "Msg(" + "[" * 9000 + ")"])
def test_a_message_as_python_shows_it_that_does_not_parse_is_counted(
    text: str, tmp_path: Path, emitted: Path
) -> None:
    agent = next(span for span in spans_of(emitted) if span.name.startswith("invoke_agent"))
    told = json.dumps({"args": [text], "kwargs": {}})
    broken = replace(agent, attributes={**agent.attributes, "agentscope.function.input": told})
    unread = Unread()
    assert read_all(old_studio(tmp_path / "old.sqlite", [broken]), unread)[0] == []
    assert unread.counts == {"an object of AgentScope as a text that does not parse": 1}


def test_a_database_that_somebody_keeps_locked_is_waited_for_and_told(tmp_path: Path) -> None:
    path = new_studio(tmp_path / "studio.sqlite", [chat("a1", [HI], HELLO)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TraceSourceError, match="somebody writes to this database"):
            read_all(path, wait_seconds=0.01)
        writer.execute("ROLLBACK")
    assert len(read_all(path)[0]) == 1


def test_a_studio_that_writes_in_between_is_not_held_up(tmp_path: Path) -> None:
    path = new_studio(tmp_path / "s.sqlite", [chat(f"a{n}", [HI], HELLO) for n in range(300)])
    unread = Unread()
    found = open_source(str(path)).read(unread, {})
    next(found)
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as writer, writer:
        writer.execute("DELETE FROM span_table WHERE spanId = 'a299'")
    assert len(list(found)) == 298


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("CREATE TABLE span_table (id, traceId, shape)", "found the columns id, shape, traceId"),
        ("CREATE TABLE others (id)", "found others; name the database.sqlite"),
        ("CREATE TABLE span_annotations (id)", "give the URL of its server"),
        ("CREATE TABLE trace_info (id)", "give the URL of its server"),
    ],
)
def test_a_database_of_another_kind_is_told_with_what_was_found(
    made: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(made)
    with pytest.raises(TraceSourceError, match=told):
        read_all(path)


def test_a_database_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = new_studio(tmp_path / "studio.sqlite", [chat(f"a{n}", [HI], HELLO) for n in range(99)])
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(TraceSourceError, match=r"studio\.sqlite: the database cannot be read"):
        read_all(path)


def test_nothing_is_written_beside_the_database(tmp_path: Path) -> None:
    path = new_studio(tmp_path / "studio.sqlite", [chat("a1", [HI], HELLO)])
    before = path.read_bytes()
    path.chmod(0o400)
    read_all(path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_texts_that_studio_took_for_numbers_are_texts_again(tmp_path: Path) -> None:
    span = traced(
        "a1",
        attributes={
            "openinference.span.kind": "LLM",
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "5",
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "25",
        },
    )
    [[trace], _] = read_all(new_studio(tmp_path / "studio.sqlite", [span]))
    assert texts(trace) == [("user", "5"), ("assistant", "25")]


def test_a_session_of_thousands_of_turns_is_read_whole(tmp_path: Path) -> None:
    """Each call tells all of it again, so that only the last one is kept here."""
    said = [("user" if n % 2 == 0 else "assistant", f"turn {n}") for n in range(9_999)]
    last = chat("a1", [*said], ("assistant", "turn 9999"))
    [[trace], _] = read_all(new_studio(tmp_path / "studio.sqlite", [last]))
    assert len(trace.steps) == 10_000 and trace.started == START


def test_a_source_tells_how_far_it_is(tmp_path: Path) -> None:
    path = new_studio(tmp_path / "s.sqlite", [chat(f"a{n}", [HI], HELLO) for n in range(1_100)])
    told: list[int] = []
    source = open_source(str(path), progress=told.append)
    list(source.read(Unread(), {}))
    assert told == [500, 1000, 1100] and source.cursor() == {"is_new": True, "row": 1100}
    assert len(list(read_traces(source, Unread(), source.cursor()))) == 0
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        insert(
            database,
            {
                "id": "x",
                "traceId": "t",
                "spanId": "x",
                "name": "n",
                "kind": 1,
                "startTimeUnixNano": "0",
                "endTimeUnixNano": "0",
                "attributes": "{}",
                "status": "{}",
                "resource": "{}",
                "scope": "{}",
                "latencyNs": 0,
            },
        )
    list(source.read(Unread(), source.cursor()))
    assert told[-1] == 1
