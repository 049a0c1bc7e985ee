"""A trace survives its JSON line, and a file of them what happens to files."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from astuner.errors import TraceSourceError, UnreadableError
from astuner.run_dir import json_line
from astuner.traces.reading import Unread
from astuner.traces.trace import (
    Origin,
    Step,
    Trace,
    TracedTokens,
    TracedToolCall,
    TraceFeedback,
)
from astuner.traces.trace_json import append_traces, from_json, read_trace_lines, to_json

WORD = st.text(max_size=6)
MAYBE = st.none() | WORD
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.none() | st.integers(min_value=0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | WORD,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORD, inner, max_size=2),
    max_leaves=4,
)
OBJECT = st.dictionaries(WORD, JSON, max_size=2)


def several(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=2).map(tuple)


IDS = st.none() | several(st.integers(min_value=0))
TOKENS = st.builds(
    TracedTokens, prompt_ids=IDS, reply_ids=IDS, logprobs=st.none() | several(st.none() | NUMBER)
)
CALL = st.builds(TracedToolCall, call_id=MAYBE, name=WORD, arguments=WORD)
STEP = st.builds(
    Step,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    text=WORD,
    reasoning=WORD,
    name=MAYBE,
    tool_calls=several(CALL),
    tool_call_id=MAYBE,
    num_left_out=st.integers(min_value=0),
    span_id=MAYBE,
    agent=MAYBE,
    model=MAYBE,
    tools=several(OBJECT),
    input_tokens=COUNT,
    output_tokens=COUNT,
    started=st.none() | NUMBER,
    seconds=st.none() | NUMBER,
    error=MAYBE,
    tokens=st.none() | TOKENS,
)
FEEDBACK = st.builds(
    TraceFeedback,
    name=WORD,
    score=st.none() | NUMBER,
    label=MAYBE,
    comment=MAYBE,
    by=MAYBE,
    span_id=MAYBE,
    correction=MAYBE,
    told=st.none() | NUMBER,
)
TRACE = st.builds(
    Trace,
    trace_id=WORD,
    steps=several(STEP),
    session=MAYBE,
    user=MAYBE,
    agent=MAYBE,
    tags=several(WORD),
    metadata=OBJECT,
    feedback=several(FEEDBACK),
    error=MAYBE,
    origin=st.builds(Origin, source=WORD, address=WORD, ids=several(WORD)),
)
HELLO = Trace(
    trace_id="t1",
    steps=(Step(role="user", text="Grüße\u2028!"), Step(role="assistant", text="Hello.")),
    origin=Origin(source="otlp", address="a.jsonl"),
)


@given(trace=TRACE)
def test_a_trace_is_read_back_from_its_line_as_it_was(trace: Trace) -> None:
    assert from_json(json.loads(json_line(to_json(trace), where="here"))) == trace


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


def test_a_file_is_its_owners_and_appending_cuts_off_what_a_kill_tore(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "traces.jsonl"
    append_traces(path, [HELLO])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("ab") as file:
        file.write(b'{"astuner_tra')
    unread = Unread()
    assert [trace for trace, _ in read_trace_lines(path, unread)] == [HELLO]
    assert unread.counts == {"a torn last line": 1}
    append_traces(path, [HELLO, HELLO])
    unread = Unread()
    assert [trace for trace, _ in read_trace_lines(path, unread)] == [HELLO] * 3
    assert not unread.counts


def test_lines_that_are_no_traces_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    for line in (b"nonsense\n", b"[1]\n", b'{"astuner_trace": 9}\n'):
        with path.open("ab") as file:
            file.write(line)
        append_traces(path, [HELLO])
    unread = Unread()
    found = list(read_trace_lines(path, unread))
    assert [trace for trace, _ in found] == [HELLO] * 3
    assert sum(unread.counts.values()) == 3
    assert any("astuner_trace 9" in reason for reason in unread.counts)


def test_reading_goes_on_behind_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    append_traces(path, [HELLO])
    [(_, end)] = read_trace_lines(path, Unread())
    append_traces(path, [HELLO])
    assert len(list(read_trace_lines(path, Unread(), begin=end))) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceSourceError, match=r"gone\.jsonl: cannot be opened"):
        list(read_trace_lines(tmp_path / "gone.jsonl", Unread()))
