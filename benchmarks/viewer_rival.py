"""Our viewer beside that of beast-logger, which AgentJet writes its episodes with, in one run."""

import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from astuner.logview.web.addresses import episode_at, part_of, run_at
from benchmarks.viewer_pages import RUN, Server, viewer
from benchmarks.viewer_runs import ATTEMPTS, folder_in, write_run

DESCRIPTION = """\
Write runs of several sizes and the same episodes through beast-logger, and time both servers.

    python3.11 -m venv .venv-beast
    .venv-beast/bin/pip install beast-logger==0.1.8
    python -m benchmarks.viewer_rival 1000 10000 --beast .venv-beast/bin/python

beast-logger keeps entries in files of 100 MB. Its server answers with a list of the files, and with
the 15 entries of a page of one: it reads the file, takes its lines apart and compresses those of
the page for each answer; the browser does the rest. It has no index, no search and no curves.
Ours answers with whole pages.

  written   seconds to write it (ours: by copying templates, no figure), and its size
  start     seconds from the command to the first episodes on the page, all that the browser asks
            of the server counted, our index being there
  list      milliseconds of a page of episodes: 15 with all their tokens, and 50 rows
  last      the same of the last page of the oldest file, and of the list
  episode   milliseconds of one episode, which there is no other page for on its side
  memory    peak of the server, in MB

Pages are medians of nine, with the size of the answer.
"""

_REPEATS = 9
_ENTRIES = 15
"""On a page, as its browser side asks."""


@contextmanager
def beast_server(python: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    with subprocess.Popen(
        [python, "-m", "web_display.start_web"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "REACT_APP_FPORT": str(port)},
    ) as process:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            _wait_for(connection)
            yield Server(process=process, started=started, connection=connection)
        finally:
            process.terminate()


def _wait_for(connection: http.client.HTTPConnection) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection.connect()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _median(ask: Callable[[], tuple[float, bytes]]) -> str:
    answers = [ask() for _ in range(_REPEATS)]
    seconds = statistics.median(answer[0] for answer in answers)
    return f"{1000 * seconds:.0f} ms, {len(answers[0][1]) / 1000:.0f} kB"


def measure_beast(logs: Path, python: str) -> dict[str, str]:
    with beast_server(python) as server:
        server.ask("/")
        asked = f"/api/logs/files?{urlencode({'path': str(logs)})}"
        files = json.loads(server.ask(asked)[1])

        def page(path: str, number: int) -> tuple[float, bytes]:
            query = {"path": path, "page": number, "num_entity_each_page": _ENTRIES}
            return server.ask(f"/api/logs/content?{urlencode(query)}")

        newest, oldest = files[0]["path"], files[-1]["path"]
        page(newest, 1)
        start = server.seconds
        last = json.loads(page(oldest, 1)[1])["totalPages"]
        return {
            "start": f"{start:.2f} s",
            "list": _median(lambda: page(oldest, 1)),
            "last": _median(lambda: page(oldest, last)),
            "episode": "",
            "memory": f"{server.memory_mb:.0f} MB",
        }


def measure_ours(runs: Path, cache: Path, num_episodes: int) -> dict[str, str]:
    with viewer(runs, cache) as server:
        while b"records are being read" in server.ask(run_at(RUN))[1]:
            time.sleep(1.0)
    episodes = part_of(RUN, "episodes")
    with viewer(runs, cache) as server:
        server.ask("/")
        server.ask(run_at(RUN))
        server.ask(episodes)
        start = server.seconds
        end = part_of(RUN, "episodes", **{"from": num_episodes - 50})
        return {
            "start": f"{start:.2f} s",
            "list": _median(lambda: server.ask(episodes)),
            "last": _median(lambda: server.ask(end)),
            "episode": _median(lambda: server.ask(episode_at(RUN, f"step1-0-{ATTEMPTS - 1}"))),
            "memory": f"{server.memory_mb:.0f} MB",
        }


def write_beast(run: Path, logs: Path, python: str) -> str:
    """What it took, in words."""
    started = time.monotonic()
    writer = Path(__file__).parent / "rival_viewer.py"
    subprocess.run([python, str(writer), str(run), str(logs)], check=True, capture_output=True)
    return f"{time.monotonic() - started:.0f} s, {_megabytes(logs)}"


def _megabytes(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=[1_000, 10_000])
    parser.add_argument("--beast", required=True, help="a Python that has beast-logger")
    parser.add_argument("--folder", type=Path, help="where all is written for a while")
    parser.add_argument("--keep", action="store_true", help="leave it there")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for size in arguments.sizes:
        with folder_in(arguments.folder, is_kept=arguments.keep) as made:
            run, logs = made / "runs" / RUN, made / "logs"
            write_run(run, size)
            written = write_beast(run, logs, arguments.beast)
            rows = {
                "beast-logger": {"written": written, **measure_beast(logs, arguments.beast)},
                "ours": {
                    "written": _megabytes(run / "episodes"),
                    **measure_ours(made / "runs", made / "cache", size),
                },
            }
        for name, cells in rows.items():
            print(f"| {size:,} | {name} | {' | '.join(cells.values())} |", flush=True)


if __name__ == "__main__":
    main()
