"""What each token of a stream costs the event loop of `astuner serve`, and the thread that samples.

    python benchmarks/stream_cost.py MODEL [--clients 1 16 64] [--calls 64] [--max-tokens 128]
    python benchmarks/stream_cost.py MODEL --profile 25

A server is started over the model, best a tiny one, so that the model is not what is measured; this
process plays the clients over plain sockets and reads nothing but counts. `loop` and `engine` are
microseconds of processor time for a token, of the thread with the event loop and of all others, as
Linux counts them (/proc/PID/task/*/schedstat): other work on the machine changes them little.
`events` are the server-sent events for a token, `writes` what a client read at a time.

--profile N runs the server under cProfile, which makes it slower, and shows for each number of
clients the N functions that the event loop spends most time in.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pstats
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_ADDRESS = "/v1 answers"
HEADING = (
    f"{'clients':>7} {'tokens':>7} {'tokens/s':>9} {'loop us':>8} {'engine us':>9} "
    f"{'events':>7} {'writes':>7}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers."""

    host: str
    port: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What clients got."""

    num_tokens: int
    num_events: int
    num_reads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadTimes:
    """Processor seconds since the process began."""

    loop: float
    others: float


@contextlib.contextmanager
def running(model: str, profile: Path | None) -> Iterator[Running]:
    profiled = ("-m", "cProfile", "-o", str(profile)) if profile else ()
    command = [sys.executable, *profiled, "-m", "astuner", "serve", model, "--port", "0"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        try:
            line = next((line for line in process.stdout if _ADDRESS in line), None)
            if line is None:
                raise SystemExit("the server did not answer; it says why above")
            address = urlsplit(next(word for word in line.split() if word.startswith("http")))
            assert address.hostname is not None
            assert address.port is not None
            yield Running(host=address.hostname, port=address.port, pid=process.pid)
        finally:
            process.send_signal(signal.SIGINT)  # how it is meant to end, with its profile written
            process.wait(60)


def request(number: int, max_tokens: int) -> bytes:
    question = f"Write a long story, number {number}, about bridges in the north."
    body = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": number,
    }
    text = json.dumps({"model": "astuner", **body}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
    )
    return head.encode() + text


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> Received:
    writer.write(body)
    await writer.drain()
    pieces: list[bytes] = []
    while not (pieces and pieces[-1].endswith(b"0\r\n\r\n")):
        piece = await reader.read(1 << 16)
        if not piece:
            raise SystemExit(f"the server hung up behind {b''.join(pieces)[-500:]!r}")
        pieces.append(piece)
    said = b"".join(pieces)
    _, is_there, usage = said.rpartition(b'"completion_tokens":')
    if not is_there:
        raise SystemExit(f"no answer to the end: {said[-500:]!r}")
    return Received(
        num_tokens=int(usage.partition(b",")[0]),
        num_events=said.count(b"data: "),
        num_reads=len(pieces),
    )


async def ask_all(
    server: Running, *, num_clients: int, num_calls: int, max_tokens: int
) -> list[Received]:
    numbers, received = iter(range(num_calls)), list[Received]()

    async def one_client() -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        for number in numbers:
            received.append(await ask(reader, writer, request(number, max_tokens)))
        writer.close()

    await asyncio.gather(*(one_client() for _ in range(num_clients)))
    return received


def thread_times(pid: int) -> ThreadTimes:
    """The event loop runs in the first thread."""
    seconds = {
        int(task.name): int(task.joinpath("schedstat").read_text().split()[0]) / 1e9
        for task in Path(f"/proc/{pid}/task").iterdir()
    }
    loop = seconds.pop(pid)
    return ThreadTimes(loop=loop, others=sum(seconds.values()))


def measure(server: Running, *, num_clients: int, num_calls: int, max_tokens: int) -> None:
    sizes = {"num_clients": num_clients, "max_tokens": max_tokens}
    asyncio.run(ask_all(server, **sizes, num_calls=num_clients))  # warm
    before, began = thread_times(server.pid), time.perf_counter()
    received = asyncio.run(ask_all(server, **sizes, num_calls=max(num_clients, num_calls)))
    after, seconds = thread_times(server.pid), time.perf_counter() - began
    num_tokens = sum(one.num_tokens for one in received)
    microseconds = 1e6 / num_tokens
    print(
        f"{num_clients:7} {num_tokens:7} {num_tokens / seconds:9.0f} "
        f"{(after.loop - before.loop) * microseconds:8.1f} "
        f"{(after.others - before.others) * microseconds:9.1f} "
        f"{sum(one.num_events for one in received) / num_tokens:7.2f} "
        f"{sum(one.num_reads for one in received) / num_tokens:7.2f}",
        flush=True,
    )


def show_profile(path: Path, num_lines: int) -> None:
    pstats.Stats(str(path)).strip_dirs().sort_stats("tottime").print_stats(num_lines)


def measure_all(arguments: argparse.Namespace) -> None:
    sizes = {"num_calls": arguments.calls, "max_tokens": arguments.max_tokens}
    if not arguments.profile:
        print(HEADING)
        with running(arguments.model, None) as server:
            for num_clients in arguments.clients:
                measure(server, num_clients=num_clients, **sizes)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile"
        for num_clients in arguments.clients:
            print(HEADING)
            with running(arguments.model, path) as server:
                measure(server, num_clients=num_clients, **sizes)
            show_profile(path, arguments.profile)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a folder that transformers can load")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--calls", type=int, default=64, help="of each row, at least")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--profile", type=int, metavar="N", help="show the N dearest functions")
    measure_all(parser.parse_args(words))


if __name__ == "__main__":
    main()
