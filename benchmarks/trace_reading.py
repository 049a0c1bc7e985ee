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

_START = 1_700_000_000.0
_REQUESTS_OF_SESSION = 4


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
    parser.add_argument("--spans", type=int, nargs="+", default=[10_000, 100_000])
    print(f"{'spans':>10} {'traces':>9} {'spans/s':>9} {'seconds':>8} {'MB of memory':>13}")
    for num_spans in parser.parse_args().spans:
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(num_spans,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


def measure(num_spans: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.jsonl"
        _write(path, num_spans)
        unread = Unread()
        list(read_traces(_OneFile(Path("/dev/null")), unread))
        before, began = _peak_mb(), time.process_time()
        num_traces = sum(1 for _ in read_traces(_OneFile(path), unread))
        seconds = time.process_time() - began
        assert not unread.counts, unread
    memory = _peak_mb() - before
    speed = num_spans / seconds
    print(f"{num_spans:>10,} {num_traces:>9,} {speed:>9,.0f} {seconds:>8.1f} {memory:>13.0f}")


def _write(path: Path, num_spans: int) -> None:
    with path.open("wb") as file:
        for number in range(num_spans):
            span = _span(number // 3, number % 3)
            file.write(to_json(traces_data(span, resource={"service.name": "shop"}, scope={})))
            file.write(b"\n")


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
    begin = _START + request + part / 10
    return {
        "traceId": f"{request + 1:032x}",
        "spanId": f"{request * 3 + part + 1:016x}",
        "parentSpanId": f"{request * 3 + 1:016x}" if part else "",
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
