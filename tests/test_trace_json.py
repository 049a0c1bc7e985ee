"""A trace survives its JSON line, and files of them are read as far as they are whole."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings

from astuner.errors import UnreadableError
from astuner.traces.reader import read_traces
from astuner.traces.reading import Unread
from astuner.traces.sources.known import open_source
from astuner.traces.trace import Origin, Step, Trace, TracedTokens
from astuner.traces.trace_json import from_json, to_json, trace_line
from tests.made_traces import TRACE

HELLO = Trace(
    trace_id="t1",
    steps=(Step(role="user", text="Grüße\u2028!"), Step(role="assistant", text="Hello.")),
    origin=Origin(source="otlp", address="a.jsonl"),
)


@settings(max_examples=40)
@given(trace=TRACE)
def test_a_trace_is_read_back_from_its_line_as_it_was(trace: Trace) -> None:
    assert from_json(json.loads(trace_line(trace))) == trace


def test_what_is_not_told_takes_no_room() -> None:
    assert to_json(HELLO)["steps"][1] == {"role": "assistant", "text": "Hello."}
    assert set(to_json(HELLO)) == {"astuner_trace", "trace_id", "steps", "origin"}


def test_no_ids_are_told_apart_from_ids_that_are_not_known() -> None:
    tokens = TracedTokens(prompt_ids=(), reply_ids=None)
    trace = Trace(
        trace_id="t", steps=(Step(role="assistant", text="", tokens=tokens),), origin=HELLO.origin
    )
    assert from_json(to_json(trace)).steps[0].tokens == tokens


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"astuner_trace": 2}, r"astuner_trace 2; this release of astuner reads astuner_trace 1"),
        ({"astuner_trace": None}, "without the key astuner_trace"),
        ({"steps": [{"role": "robot", "text": ""}]}, r"whose steps.0.role is wrong"),
        ({"origin": None}, "whose origin is wrong"),
    ],
)
def test_an_object_that_is_no_trace_of_this_version_is_refused_by_name(
    changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnreadableError, match=said):
        from_json({**to_json(HELLO), **changed})


def append(path: Path, *traces: Trace) -> None:
    with path.open("ab") as file:
        file.writelines(map(trace_line, traces))


def read(path: Path) -> tuple[list[Trace], dict[str, int]]:
    unread = Unread()
    found = list(read_traces(open_source(str(path)), unread))
    return found, dict(unread.counts)


def test_lines_that_are_no_traces_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    append(path, HELLO)
    for line in (b"nonsense\n", b'{"astuner_trace": 9}\n'):
        with path.open("ab") as file:
            file.write(line)
        append(path, HELLO)
    with path.open("ab") as file:
        file.write(trace_line(HELLO)[:-20])
    found, counts = read(path)
    assert found == [HELLO] * 3
    assert sum(counts.values()) == 3 and counts["a torn last line"] == 1
    assert any("astuner_trace 9" in reason for reason in counts)


def test_reading_goes_on_behind_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    append(path, HELLO)
    source = open_source(str(tmp_path))
    assert list(source.read(Unread(), {})) == [HELLO]
    cursor = source.cursor()
    append(path, HELLO)
    assert len(list(open_source(str(tmp_path)).read(Unread(), cursor))) == 1
