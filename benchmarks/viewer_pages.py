"""What a reader of the log viewer waits for: the real server, asked page by page."""

import argparse
import http.client
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from astuner.logview.web.addresses import compare_at, episode_at, group_at, part_of, run_at, step_at
from benchmarks.viewer_runs import folder_in, places, write_run

DESCRIPTION = """\
Write runs of several sizes, start `astuner logview` on each as a process, and time its pages.

    python -m benchmarks.viewer_pages 1000 10000 100000 --folder /somewhere/with/room

What the runs hold stands in `viewer_runs.py`. The server is started twice: `new` without a cache,
and `known` with the cache that the first one made.

  start     seconds from the command to the whole page of the run
  indexed   seconds from the command until every episode is known
  memory    peak of the server, in MB: of the first one, and of the second one after all pages

The other rows are pages of the second one in milliseconds: its first answer, the median of nine
that follow, and in brackets what the processor works for one of these. `step` is another step at
each answer. The last two lists are asked for by a filter and in the worst order, and the search is
for a word that no episode says, which is its longest answer. Files were written just before, so
they may lie in the memory of the system. Runs are deleted afterwards, save with --keep.
"""

RUN = "measured/2026-01-31_09-30-00"
_REPEATS = 9
_UNSAID = "nobody says this"
_SECONDS = 600.0


@dataclass(slots=True)
class Server:
    """A server that was started, and how to ask it."""

    process: subprocess.Popen[str]
    started: float
    """By the monotonic clock."""
    connection: http.client.HTTPConnection

    def ask(self, path: str, *, accepted: tuple[int, ...] = (200,)) -> tuple[float, bytes]:
        """Seconds of an answer, and what it says."""
        began = time.monotonic()
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status not in accepted:
            raise RuntimeError(f"{path}: {answer.status}: {body[:300]!r}")
        return time.monotonic() - began, body

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.started

    @property
    def processor_seconds(self) -> float:
        """That it worked so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory_mb(self) -> float:
        """Its peak so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1000


@contextmanager
def viewer(runs: Path, cache: Path) -> Iterator[Server]:
    """`astuner logview` of a folder of runs."""
    command = [sys.executable, "-m", "astuner", "logview", str(runs), "--port", "0"]
    started = time.monotonic()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    ) as process:
        try:
            assert process.stdout is not None
            place = urlsplit(process.stdout.readline().split()[-1])
            connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
            yield Server(process=process, started=started, connection=connection)
        finally:
            process.send_signal(signal.SIGINT)


def pages_of(num_episodes: int) -> Mapping[str, list[str]]:
    """The addresses of each kind of page, to be asked for in turn."""
    found = list(places(num_episodes))
    steps = [place.step for place in found if not place.is_validation]
    validated = [place.step for place in found if place.is_validation]
    middle = steps[len(steps) // 2]
    solved = {"outcome": "solved", "tool": "read", "order": "slowest"}
    return {
        "runs": ["/"],
        "run": [run_at(RUN)],
        "step": [step_at(RUN, step) for step in steps[-_REPEATS - 1 :]],
        "validation of 500 tasks": [step_at(RUN, validated[-1], is_validation=True)],
        "group": [group_at(RUN, middle, f"task {middle * 16 % 500}")],
        "task": [part_of(RUN, "tasks", f"task {middle * 16 % 500}")],
        "tasks": [part_of(RUN, "tasks")],
        "compare": [compare_at(f"{RUN}:{validated[0]}", f"{RUN}:{validated[-1]}")],
        "episode": [episode_at(RUN, f"step{middle}-0-0")],
        "episodes": [part_of(RUN, "episodes")],
        "end of the list": [part_of(RUN, "episodes", **{"from": num_episodes - 50})],
        "filtered list": [part_of(RUN, "episodes", **solved)],
        "end of that": [part_of(RUN, "episodes", **solved, **{"from": num_episodes // 4})],
        "search": [part_of(RUN, "episodes", q=_UNSAID)],
        "live": [part_of(RUN, "live")],
    }


def measure(runs: Path, cache: Path, num_episodes: int) -> Mapping[str, str]:
    """The column of a run, as text by its rows."""
    cells = {}
    with viewer(runs, cache) as server:
        server.ask(run_at(RUN))
        start = server.seconds
        while b"records are being read" in server.ask(run_at(RUN))[1]:
            time.sleep(1.0)
            if server.seconds > _SECONDS:
                raise RuntimeError("the run was not indexed in time")
        cells |= {
            "start, new: s": f"{start:.2f}",
            "indexed, new: s": f"{server.seconds:.1f}",
            "memory, new: MB": f"{server.memory_mb:.0f}",
        }
    with viewer(runs, cache) as server:
        server.ask(run_at(RUN))
        cells["start, known: s"] = f"{server.seconds:.2f}"
        for name, addresses in pages_of(num_episodes).items():
            cells[name] = _times_of(server, addresses)
        cells["memory, known: MB"] = f"{server.memory_mb:.0f}"
    return cells


def _times_of(server: Server, addresses: list[str]) -> str:
    first = server.ask(addresses[0])[0]
    worked = server.processor_seconds
    times = [server.ask(addresses[n % len(addresses)])[0] for n in range(1, _REPEATS + 1)]
    worked = (server.processor_seconds - worked) / _REPEATS
    return f"{1000 * first:.0f}, {1000 * statistics.median(times):.0f} ({1000 * worked:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where the runs are written for a while")
    parser.add_argument("--keep", action="store_true", help="leave them there")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    print("load before each size:", end="", flush=True)
    measured = {}
    for size in arguments.sizes:
        with folder_in(arguments.folder, is_kept=arguments.keep) as made:
            write_run(made / "runs" / RUN, size)
            print(f" {os.getloadavg()[0]:.1f}", end="", flush=True)
            measured[size] = measure(made / "runs", made / "cache", size)
    print(f"\n| episodes | {' | '.join(f'{size:,}' for size in measured)} |")
    for name in next(iter(measured.values())):
        print(f"| {name} | {' | '.join(cells[name] for cells in measured.values())} |")


if __name__ == "__main__":
    main()
