"""A file of OTLP, through its real reader, becomes tasks."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from astuner.traces.reader import read_traces
from astuner.traces.reading import Unread
from astuner.traces.trace import Trace
from tests.otlp_files import OtlpPaths, chat, json_line
from tests.trace_tasks.conversations import TracesInMemory, make, order_of, rows_of

pytest.importorskip("detect_secrets")
pytest.importorskip("phonenumbers")


class TracesOfFiles(TracesInMemory):
    def __init__(self, *paths: Path) -> None:
        super().__init__([])
        self._paths = paths

    def read(self, unread: Unread) -> Iterator[Trace]:
        yield from read_traces(OtlpPaths(*self._paths), unread)


def test_calls_of_one_conversation_become_a_task_for_each_of_its_questions(tmp_path):
    first = [("system", "You are a shop."), ("user", "Where is my parcel?")]
    second = [*first, ("assistant", "At depot 3."), ("user", "Write to erika@web.de.")]
    spans = [
        chat("a" * 16, first, ("assistant", "At depot 3.")),
        chat("b" * 16, second, ("assistant", "Done."), at=5.0),
    ]
    file = tmp_path / "spans.jsonl"
    file.write_bytes(b"".join(map(json_line, spans)))
    order = order_of(tmp_path / "made", TracesOfFiles(file))
    asyncio.run(make(order))
    rows = {row["main_query"]: row for row in rows_of(order)}
    assert set(rows) == {"Where is my parcel?", "Write to [email]."}
    assert [one["content"] for one in rows["Write to [email]."]["init_messages"]] == [
        *("You are a shop.", "Where is my parcel?", "At depot 3.")
    ]
    assert rows["Write to [email]."]["metadata"]["recorded_answer"] == "Done."
