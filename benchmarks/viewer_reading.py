"""What the log viewer's reading takes, by the number of episodes of a run."""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from astuner.logview.reading.index import EpisodeIndex
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.shelf import Shelf
from benchmarks.viewer_runs import folder_in, write_run

DESCRIPTION = """\
Write runs of several sizes, and time what the pages of the log viewer ask of them.

    python -m benchmarks.viewer_reading 1000 10000 100000 --folder /somewhere/with/room

What the runs hold stands in `viewer_runs.py`: conversations with tools, 50 KB on average.

  first     seconds in which the index of a run is made, all of it
  second    seconds to open the run in a new process, the index being there: its status, metrics
            and a look at every file
  rows      a page of 50 episodes of a filter, in the worst order, with their number
  last      the same at the end of the list
  group     all groups of a step
  changes   the tasks that changed most
  beside    the episodes before and behind one
  episode   one episode, located, read and made whole
  search    the first answer to a search for a word that no episode says
  whole     seconds of all answers to it, until every episode was looked through
  memory    peak of the process that made the index, and of the one that opened it

Times of pages are medians of nine, in milliseconds. Files were written just before, so they may lie
in the memory of the system. Runs are deleted afterwards, save with --keep.
"""

_UNSAID = "nobody says this"
_REPEATS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One visit to a run, by a process of its own."""

    seconds: float
    """Until everything was known."""
    pages: dict[str, float]
    """Milliseconds of each kind of page."""
    search_seconds: float
    memory_mb: float


def visit(folder: Path, cache: Path) -> Timed:
    """Open the only run in a folder and ask for every kind of page."""
    started = time.monotonic()
    (run,) = Shelf([folder], cache_dir=cache).runs()
    run.state()
    run.index.refresh(seconds=None)
    seconds = time.monotonic() - started
    pages = {name: _median_ms(page) for name, page in _pages(run.index).items()}
    started = time.monotonic()
    after = run.index.search(_UNSAID, EpisodeQuery()).after
    while after is not None:
        after = run.index.search(_UNSAID, EpisodeQuery(), after=after).after
    search_seconds = time.monotonic() - started
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return Timed(seconds=seconds, pages=pages, search_seconds=search_seconds, memory_mb=memory_mb)


def _pages(index: EpisodeIndex) -> dict[str, Callable[[], object]]:
    query = EpisodeQuery(outcome="solved", tool="read", order="slowest")
    last = index.count(query) - 50
    middle = index.steps()[len(index.steps()) // 2]
    episode_id = index.groups(middle.step, middle.is_validation)[0].episode_ids[0]

    def episode() -> None:
        row = index.locate(episode_id)
        assert row is not None
        index.read(row)

    return {
        "rows": lambda: index.rows(query, limit=50, offset=0),
        "last": lambda: index.rows(query, limit=50, offset=last),
        "group": lambda: index.groups(middle.step, middle.is_validation),
        "changes": lambda: index.task_changes(limit=50),
        "beside": lambda: index.neighbours(episode_id, query),
        "episode": episode,
        "search": lambda: index.search(_UNSAID, EpisodeQuery()),
    }


def _median_ms(page: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        started = time.monotonic()
        page()
        times.append(time.monotonic() - started)
    return 1000 * statistics.median(times)


def _visit_apart(folder: Path, cache: Path) -> Timed:
    command = [sys.executable, "-m", "benchmarks.viewer_reading", "--visit", str(folder)]
    printed = subprocess.run([*command, str(cache)], check=True, capture_output=True, text=True)
    return Timed(**json.loads(printed.stdout))


def measure(num_episodes: int, base: Path | None, *, is_kept: bool) -> None:
    with folder_in(base, is_kept=is_kept) as made:
        folder, cache = made / "runs", made / "cache"
        root = folder / "measured" / "2026-01-31_09-30-00"
        write_run(root, num_episodes)
        size = sum(path.stat().st_size for path in (root / "episodes").iterdir())
        first, second = _visit_apart(folder, cache), _visit_apart(folder, cache)
        pages = "  ".join(f"{name} {ms:6.1f}" for name, ms in second.pages.items())
        print(
            f"{num_episodes:>7,} episodes  {size / 1e9:5.2f} GB  first {first.seconds:7.2f} s  "
            f"second {second.seconds:5.2f} s  ms: {pages}  whole {second.search_seconds:5.1f} s  "
            f"memory {first.memory_mb:4.0f} and {second.memory_mb:4.0f} MB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where the runs are written for a while")
    parser.add_argument("--keep", action="store_true", help="leave them there")
    parser.add_argument("--visit", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.visit:
        timed = visit(*arguments.visit)
        print(json.dumps({name: getattr(timed, name) for name in Timed.__slots__}))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for size in arguments.sizes:
        measure(size, arguments.folder, is_kept=arguments.keep)


if __name__ == "__main__":
    main()
