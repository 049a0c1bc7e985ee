"""Feedback that comes when its conversation was imported already is found as if in time."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from astuner.errors import UnreadableError
from astuner.trace_tasks.masking import TraceMask
from astuner.traces.importing import as_it_is, importing_to, masking
from astuner.traces.late_feedback import feedback_line, from_feedback_line
from astuner.traces.private_text import PrivateMask
from astuner.traces.reader import read_traces
from astuner.traces.reading import Found, FoundFeedback, Unread
from astuner.traces.sources.known import open_source
from astuner.traces.trace import Trace, TraceFeedback
from tests.otlp_files import TRACE, GivenSource, chat, traced

OTHER = "f" * 32
FIRST = [("user", "Where is my parcel?")]
SECOND = [*FIRST, ("assistant", "At depot 3."), ("user", "And the other?")]
ONE_REQUEST = (
    traced("e" * 16, name="request"),
    chat("a" * 16, FIRST, ("assistant", "At depot 3."), parent_id="e" * 16),
    chat("b" * 16, SECOND, ("assistant", "Lost."), at=5.0, parent_id="e" * 16),
)
TWO_REQUESTS = (
    traced("e" * 16, name="request"),
    chat("a" * 16, FIRST, ("assistant", "At depot 3."), parent_id="e" * 16),
    chat("b" * 16, SECOND, ("assistant", "Lost."), at=5.0, trace_id=OTHER),
)


def thought(span_id: str | None, *, trace_id: str = TRACE, score: float = 1.0) -> FoundFeedback:
    feedback = TraceFeedback(name="thumb", score=score, comment="Thanks", span_id=span_id)
    return FoundFeedback(trace_id=trace_id, feedback=feedback)


def imported(
    folder: Path, *imports: Sequence[Found], change: Callable[[Trace], Trace] = as_it_is
) -> int:
    """How many late ones were kept."""
    num_late = 0
    for found in imports:
        with importing_to(folder) as taking:
            taking.take(GivenSource(found), change=change)
        num_late += taking.counts.num_late
    return num_late


def read(folder: Path, unread: Unread | None = None) -> list[Trace]:
    unread = unread or Unread()
    return list(read_traces(open_source(str(folder)), unread))


@pytest.mark.parametrize("spans", [ONE_REQUEST, TWO_REQUESTS], ids=["one request", "two requests"])
@pytest.mark.parametrize(
    "found",
    [
        pytest.param(thought("a" * 16), id="a call"),
        pytest.param(thought("a" * 16, trace_id=""), id="a call without its trace"),
        pytest.param(thought(None), id="a trace"),
        pytest.param(thought("e" * 16), id="the request"),
        pytest.param(thought(None, trace_id=OTHER), id="another trace"),
    ],
)
def test_late_feedback_ends_where_it_would_have_in_time(
    tmp_path: Path, spans: Sequence[Found], found: FoundFeedback
) -> None:
    imported(tmp_path / "at once", [*spans, found])
    assert imported(tmp_path / "late", spans, [found]) == 1
    assert read(tmp_path / "late") == read(tmp_path / "at once")


def test_it_is_masked_as_all_is(tmp_path: Path) -> None:
    def hushed(trace: Trace) -> Trace:
        return replace(trace, feedback=tuple(replace(f, comment="[x]") for f in trace.feedback))

    imported(tmp_path, ONE_REQUEST, [thought(None)], change=hushed)
    assert b"Thanks" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*.jsonl"))
    (trace,) = read(tmp_path)
    assert [one.comment for one in trace.feedback] == ["[x]"]


@pytest.mark.parametrize(
    "said",
    [
        "Erika Muster says: write to erika@firma-nord.de",
        "mailto:Erika.Muster@firma-nord.de",
        '{"mail": "muster@firma-nord.de"}',
        "erika+muster@firma-nord.de, or Muster",
    ],
)
def test_the_mask_of_an_import_takes_out_of_it_what_has_a_form_and_who_gave_it(
    tmp_path: Path, said: str
) -> None:
    pytest.importorskip("detect_secrets")
    pytest.importorskip("phonenumbers")
    mask = TraceMask(PrivateMask(), key=b"k" * 32)
    told = replace(
        thought("a" * 16).feedback,
        comment=said,
        correction=f"Ask: {said}",
        by="Erika Muster",
    )
    late = FoundFeedback(trace_id=TRACE, feedback=told)
    imported(tmp_path, ONE_REQUEST, [late], change=masking(mask.masked))
    (file,) = tmp_path.glob("feedback_*.jsonl")
    assert not any(private in file.read_text().lower() for private in ("erika", "muster", "firma"))
    (trace,) = read(tmp_path)
    assert [one.span_id for one in trace.feedback] == ["a" * 16]


def test_lines_that_a_kill_had_written_twice_count_once(tmp_path: Path) -> None:
    imported(tmp_path, ONE_REQUEST, [thought(None)], [thought(None), thought(None, score=0.0)])
    (trace,) = read(tmp_path)
    assert [one.score for one in trace.feedback] == [1.0, 0.0]


@pytest.mark.parametrize("found", [thought(None, trace_id=OTHER), thought("c" * 16)])
def test_what_is_about_nothing_here_is_counted_by_who_reads(
    tmp_path: Path, found: FoundFeedback
) -> None:
    unread = Unread()
    imported(tmp_path, ONE_REQUEST, [found])
    assert [trace.feedback for trace in read(tmp_path, unread)] == [()]
    assert unread.counts == {"feedback for what is not there": 1}
    assert found.trace_id in unread.places["feedback for what is not there"]


def test_the_first_import_counts_it_since_there_is_nothing_earlier(tmp_path: Path) -> None:
    with importing_to(tmp_path) as taking:
        taking.take(GivenSource([thought(None)]), change=as_it_is)
    assert taking.counts.unread.counts == {"feedback for what is not there": 1}
    assert not list(tmp_path.glob("feedback_*"))


def test_a_line_is_read_as_it_was_written_and_no_other_form() -> None:
    record = json.loads(feedback_line(thought("a" * 16)))
    assert from_feedback_line(record) == thought("a" * 16)
    for wrong in ({"astuner_feedback": 9}, {"feedback": None}, {"feedback": {"score": "?"}}):
        with pytest.raises(UnreadableError):
            from_feedback_line({**record, **wrong})
