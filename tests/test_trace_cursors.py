"""What was read already, remembered beside what was made of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from astuner.errors import UnreadableError
from astuner.traces.cursors import CURSORS_FILE, TraceCursors, content_digest
from astuner.traces.reading import Cursor, Found, Unread
from astuner.traces.trace import Origin, Step, Trace, TracedToolCall

ORIGIN = Origin(source="otlp", address="given")


class ReadSource:
    """Was read up to a place."""

    def __init__(self, name: str, address: str, at: int) -> None:
        self.name, self.address, self._at = name, address, at

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        return iter(())

    def cursor(self) -> Cursor:
        return {"row": self._at}


def trace_of(*said: tuple[str, str]) -> Trace:
    steps = [Step(role=role, text=text) for role, text in said]  # pyright: ignore[reportArgumentType]
    return Trace(trace_id="t", steps=steps, origin=ORIGIN)


TOLD = trace_of(("user", "Hi"), ("assistant", "Hello"))


def test_each_source_goes_on_where_it_was(tmp_path: Path) -> None:
    first, second = ReadSource("otlp", "a", 1), ReadSource("studio", "b", 2)
    cursors = TraceCursors(tmp_path / "out")
    assert cursors.cursor(first) == {}
    for source in (first, second):
        cursors.move(source)
    assert TraceCursors(tmp_path / "out").cursor(first) == {}
    cursors.save()
    again = TraceCursors(tmp_path / "out")
    assert (again.cursor(first), again.cursor(second)) == ({"row": 1}, {"row": 2})
    assert again.cursor(ReadSource("phoenix", "a", 0)) == {}
    assert [path.name for path in (tmp_path / "out").iterdir()] == [CURSORS_FILE]
    assert (tmp_path / "out" / CURSORS_FILE).stat().st_mode & 0o777 == 0o600


def test_a_conversation_is_new_once(tmp_path: Path) -> None:
    cursors = TraceCursors(tmp_path)
    assert cursors.is_new(TOLD) and not cursors.is_new(replace(TOLD, trace_id="other"))
    cursors.save()
    again = TraceCursors(tmp_path)
    assert not again.is_new(TOLD)
    assert again.is_new(trace_of(("user", "Hi"), ("assistant", "Hello!")))


def test_what_recorders_change_is_no_other_content() -> None:
    def called(arguments: str, text: str, **more: str) -> Trace:
        call = TracedToolCall(call_id=more.get("call_id"), name="look", arguments=arguments)
        step = Step(role="assistant", text=text, tool_calls=[call], reasoning=more.get("why", ""))
        return Trace(trace_id="t", steps=[step], origin=ORIGIN)

    told = content_digest(called('{"a": 1, "b": 2}', "Hello"))
    assert told == content_digest(called('{"b":2,"a":1}', " Hello\n", call_id="c1", why="hm"))
    assert told != content_digest(called('{"a": 1, "b": 3}', "Hello"))
    assert content_digest(TOLD) != content_digest(trace_of(("assistant", "Hi"), ("user", "Hello")))


@pytest.mark.parametrize("content", ["{torn", "[]", '{"format": 9}', '{"format": 1, "known": "?"}'])
def test_a_state_that_cannot_be_read_is_told_and_left(content: str, tmp_path: Path) -> None:
    (tmp_path / CURSORS_FILE).write_text(content)
    with pytest.raises(UnreadableError, match=r"cursors\.json: what was read already"):
        TraceCursors(tmp_path)
    assert (tmp_path / CURSORS_FILE).read_text() == content
