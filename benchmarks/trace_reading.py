"""How fast traces are put together out of spans, in how much memory and room on the disk.

    python benchmarks/trace_reading.py --spans 10000 100000
    python benchmarks/trace_reading.py --turns 250 500 1000 --form text

Each size runs in a process of its own: it writes a file of OTLP JSON lines and reads it. `--spans`
are small ones of many sessions, three to a request (an agent, a tool, a model call). `--turns` are
the model calls of one session, each with the whole history before it, so that the file grows with
their square. Seconds are of the processor; memory is what the resident set grew by from before the
reading on; the spool is the database without a name that spans wait in.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from astuner.serving.json_text import to_json
from astuner.traces.otlp.files import read_otlp
from astuner.traces.otlp_json import attributes, nanoseconds, traces_data
from astuner.traces.reader import read_traces
from astuner.traces.reading import Cursor, Found, Unread
from astuner.traces.spool import SpanSpool

_START = 1_700_000_000.0
_REQUESTS_OF_SESSION = 4
_ASKED = (
    "Where is parcel {} that I ordered on Monday, and can it still be sent to my office instead?"
)
_ANSWERED = "Order {} left the warehouse this morning; the carrier brings it to the office by four."


class _OneFile:
    name = "otlp"

    def __init__(self, path: Path) -> None:
        self._path, self.address = path, str(path)

    def read(self, unread: Unread, since: Cursor) -> Iterator[Found]:
        return read_otlp(self._path, unread)

    def cursor(self) -> Cursor:
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spans", type=int, nargs="+", default=[])
    parser.add_argument("--turns", type=int, nargs="+", default=[])
    parser.add_argument("--form", choices=["text", "structure"], default="text")
    asked = parser.parse_args()
    print(
        f"{'spans':>10} {'MB of file':>11} {'traces':>8} {'spans/s':>8} {'seconds':>8} "
        f"{'MB of memory':>13} {'MB of spool':>12}"
    )
    sizes = asked.spans if asked.spans or asked.turns else [10_000, 100_000]
    for num_spans in sizes:
        _in_own_process(_small_spans(num_spans))
    for num_turns in asked.turns:
        _in_own_process(_long_session(num_turns, form=asked.form))


def _in_own_process(spans: Iterator[dict[str, object]]) -> None:
    """So that each has a peak of memory of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.jsonl"
        num_spans = _write(path, spans)
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(path, num_spans)
        )
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


def measure(path: Path, num_spans: int) -> None:
    unread = Unread()
    list(read_traces(_OneFile(Path("/dev/null")), unread))
    before, began = _peak_mb(), time.process_time()
    num_traces = sum(1 for _ in read_traces(_OneFile(path), unread))
    seconds = time.process_time() - began
    assert not unread.counts, unread
    memory, size = _peak_mb() - before, path.stat().st_size / 1e6
    print(
        f"{num_spans:>10,} {size:>11,.0f} {num_traces:>8,} {num_spans / seconds:>8,.0f} "
        f"{seconds:>8.1f} {memory:>13.0f} {_spool_mb(path):>12.0f}"
    )


def _spool_mb(path: Path) -> float:
    """Of the database once all is in it and in order."""
    with SpanSpool() as spool:
        for found in read_otlp(path, Unread()):
            spool.add(found)
        spool.settle()
        return spool.num_bytes / 1e6


def _write(path: Path, spans: Iterator[dict[str, object]]) -> int:
    num_spans = 0
    with path.open("wb") as file:
        for span in spans:
            num_spans += 1
            file.write(to_json(traces_data(span, resource={"service.name": "shop"}, scope={})))
            file.write(b"\n")
    return num_spans


def _small_spans(num_spans: int) -> Iterator[dict[str, object]]:
    return (_span(number // 3, number % 3) for number in range(num_spans))


def _long_session(num_turns: int, *, form: str) -> Iterator[dict[str, object]]:
    history: list[dict[str, object]] = []
    for turn in range(num_turns):
        history.append(_message("user", _ASKED.format(turn)))
        reply = _message("assistant", _ANSWERED.format(turn))
        asked, answered = [*history], [reply]
        told: dict[str, object] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.conversation.id": "session",
            "gen_ai.input.messages": json.dumps(asked) if form == "text" else asked,
            "gen_ai.output.messages": json.dumps(answered) if form == "text" else answered,
        }
        yield _as_otlp(told, trace=turn + 1, span=turn + 1, parent=0, begin=_START + turn)
        history.append(reply)


def _span(request: int, part: int) -> dict[str, object]:
    session, turn = divmod(request, _REQUESTS_OF_SESSION)
    history = [
        message
        for earlier in range(turn + 1)
        for message in (
            _message("user", f"question {session}.{earlier}"),
            _message("assistant", f"answer {session}.{earlier}"),
        )
    ]
    told: dict[str, object] = {
        "gen_ai.operation.name": ("invoke_agent", "execute_tool", "chat")[part],
        "gen_ai.conversation.id": f"session {session}",
    }
    if part == 2:
        told |= {"gen_ai.input.messages": history[:-1], "gen_ai.output.messages": history[-1:]}
    return _as_otlp(
        told,
        trace=request + 1,
        span=request * 3 + part + 1,
        parent=request * 3 + 1 if part else 0,
        begin=_START + request + part / 10,
    )


def _as_otlp(
    told: dict[str, object], *, trace: int, span: int, parent: int, begin: float
) -> dict[str, object]:
    return {
        "traceId": f"{trace:032x}",
        "spanId": f"{span:016x}",
        "parentSpanId": f"{parent:016x}" if parent else "",
        "name": "span",
        "startTimeUnixNano": nanoseconds(begin),
        "endTimeUnixNano": nanoseconds(begin + 0.05),
        "attributes": attributes(told),
    }


def _message(role: str, text: str) -> dict[str, object]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
