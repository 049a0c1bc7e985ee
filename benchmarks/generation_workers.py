"""How many drafts a minute a generation makes with so many workers, and what a task costs by gate.

    python benchmarks/generation_workers.py [--workers 1 4 16 32 64] [--seconds 1]

A server in a thread answers every question after a fixed time, whoever else asks; what it says is
of the tests' scripted writer, a fifth of whose checks are refused. A draft asks two questions, one
behind the other, so `at best` is workers * 60 / (2 * seconds). Each row makes a set of its own,
larger with more workers. Processor time is that of the process, the server's included, and, behind
it, of the thread that generates. Drafts a minute depend on what else runs on the machine, so only
ratios inside one run mean something.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from astuner.task_generation.generation import GenerationOutcome
from tests.task_generation.scripted_server import TaskWriter, Troubles
from tests.task_generation.small_sets import SmallSet, make_chunks

TROUBLES = Troubles(unsupported=0.1, refusal=0.05, repeated=0.1)
"""Of drafts and of checks alike, by their digests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of workers."""

    num_workers: int
    seconds: float
    busy_seconds: float
    """Of the processor, in all threads of the process."""
    own_busy_seconds: float
    """Of those, in the thread that generates; the server has the most of the rest."""
    outcome: GenerationOutcome

    @property
    def drafts_per_minute(self) -> float:
        return self.outcome.num_drafts * 60 / self.seconds


@contextlib.contextmanager
def serving(writer: TaskWriter, seconds: float) -> Iterator[str]:
    """An asyncio server, which waits for many at a time as cheaply as for one."""
    loop = asyncio.new_event_loop()

    async def answer(reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].partition("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                await asyncio.sleep(seconds)
                reply = writer(body)
                out.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(reply.body), reply.body)
                )
                await out.drain()
        out.close()

    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(_end_connections(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _end_connections() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for connection in others:
        connection.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def measure(num_workers: int, *, seconds: float, tasks_per_worker: int, folder: Path) -> Row:
    with serving(TaskWriter(troubles=TROUBLES), seconds) as base_url:
        small = SmallSet(
            folder=folder, base_url=base_url, chunks=make_chunks(a=200, b=200, c=200, d=200)
        )
        started, busy, own_busy = time.perf_counter(), time.process_time(), time.thread_time()
        outcome = small.make(
            task_num=max(8, tasks_per_worker * num_workers), num_workers=num_workers
        )
        return Row(
            num_workers=num_workers,
            seconds=time.perf_counter() - started,
            busy_seconds=time.process_time() - busy,
            own_busy_seconds=time.thread_time() - own_busy,
            outcome=outcome,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--tasks-per-worker", type=int, default=4)
    arguments = parser.parse_args()
    print(
        f"{os.cpu_count()} cores of {platform.machine()} at load {os.getloadavg()[0]:.1f}, "
        f"{arguments.seconds} s an answer"
    )
    print(
        "| workers | drafts a minute | at best | ms of processor a draft | generating "
        "| calls per task | drafts per task |"
    )
    print(f"|{' --- |' * 7}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for num_workers in arguments.workers:
            row = measure(
                num_workers,
                seconds=arguments.seconds,
                tasks_per_worker=arguments.tasks_per_worker,
                folder=Path(folder) / str(num_workers),
            )
            rows.append(row)
            num_tasks = row.outcome.num_training + row.outcome.num_validation
            best = num_workers * 60 / (2 * arguments.seconds)
            print(
                f"| {num_workers} | {row.drafts_per_minute:.0f} | {best:.0f} | "
                f"{1000 * row.busy_seconds / row.outcome.num_drafts:.0f} | "
                f"{1000 * row.own_busy_seconds / row.outcome.num_drafts:.0f} | "
                f"{row.outcome.usage.num_calls / num_tasks:.2f} | "
                f"{row.outcome.num_drafts / num_tasks:.2f} |",
                flush=True,
            )
    last = rows[-1].outcome
    num_tasks = last.num_training + last.num_validation
    print(f"\n{num_tasks} tasks with {rows[-1].num_workers} workers:")
    print("| gate | drafts | rejected | calls per task | tokens per task |")
    print("| --- | --- | --- | --- | --- |")
    for gate in last.by_gate:
        print(
            f"| {gate.gate} | {gate.num_seen} | {gate.num_rejected} | "
            f"{gate.usage.num_calls / num_tasks:.2f} | {gate.usage.num_tokens / num_tasks:.0f} |"
        )


if __name__ == "__main__":
    main()
