"""What the log viewer's reading takes, by the number of episodes of a run."""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from astuner.logview.reading.index import EpisodeIndex
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.shelf import Shelf
from astuner.run_dir import json_line
from astuner.trajectory.episode import Episode
from astuner.trajectory.merge import merge_calls
from astuner.trajectory.record import episode_to_record
from astuner.trajectory.recorder import Call
from astuner.types import Completion, FunctionCall, Message, Task, Verdict, WorkflowOutput

DESCRIPTION = """\
Write runs of several sizes, and time what the pages of the log viewer ask of them.

    python -m benchmarks.viewer_reading 1000 10000 100000 --folder /somewhere/with/room

An episode is a conversation with tools of 2 to 11 calls, 50 KB on average, written by the code that
writes records; there are 64 of them in a step, and every tenth step is a validation. Beside the
episodes a run has a line of metrics for each step.

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

_GROUP, _TASKS = 8, 8
_WORDS = (
    "the",
    "agent",
    "reads",
    "a",
    "file",
    "then",
    "calls",
    "its",
    "tool",
    "again",
    "and",
    "waits",
)
_UNSAID = "nobody says this"
_REPEATS = 9


def write_run(root: Path, num_episodes: int) -> None:
    """A run directory with that many episodes, which is not at work."""
    (root / "episodes").mkdir(parents=True)
    (root / "started.json").write_text('{"number": 1, "started": "2026-01-31T09:30:00+00:00"}\n')
    (root / "config.yaml").write_text("astuner:\n  backbone: local\n  model:\n    path: model\n")
    (root / "run.log").write_text("")
    templates = [_template(random.Random(seed)) for seed in range(40)]
    drawn = random.Random(0)
    left, step = num_episodes, 0
    with (root / "metrics.jsonl").open("wb") as metrics:
        while left > 0:
            step += 1
            kind = "validation" if step % 10 == 0 else "step"
            count = min(left, _GROUP * _TASKS)
            with (root / "episodes" / f"{kind}_{step:06d}.jsonl").open("wb") as file:
                for index in range(count):
                    file.write(_placed(drawn.choice(templates), drawn, kind, step, index))
            metrics.write(json_line({"step": step, "reward/mean": drawn.random()}, where="metrics"))
            left -= count


def _placed(template: bytes, drawn: random.Random, kind: str, step: int, index: int) -> bytes:
    """The episode at its place: every eighth of them is an attempt at the same task."""
    task, attempt = divmod(index, _GROUP)
    reward = drawn.choice((0, 1))
    return (
        template.replace(b"@ID@", f"{kind}{step}-{task}-{attempt}".encode())
        .replace(b"@TASK@", f"task {(step * _TASKS + task) % 1000}".encode())
        .replace(b'"attempt": 0', f'"attempt": {attempt}'.encode())
        .replace(b'"step": 1', f'"step": {step}'.encode())
        .replace(b'"reward": 1.0, "is_success": true', _VERDICTS[reward])
    )


_VERDICTS = (b'"reward": 0.0, "is_success": false', b'"reward": 1.0, "is_success": true')


def _template(drawn: random.Random) -> bytes:
    calls = list(_conversation(drawn, drawn.randint(2, 11)))
    episode = Episode(
        episode_id="@ID@",
        task=Task(main_query=f"@TASK@: {_text(drawn, 60)}", task_id="@TASK@"),
        step=1,
        attempt=0,
        is_validation=False,
        calls=tuple(calls),
        sequences=tuple(merge_calls(calls)),
        agents={("agent", "default"): True},
        output=WorkflowOutput(metadata={"final_answer": _text(drawn, 5)}),
        failure=None,
        overflowed=frozenset(),
        madness=None,
        seconds=drawn.random() * 60,
        verdict=Verdict(reward=1.0, is_success=True, source="judge"),
    )
    return json_line(episode_to_record(episode), where="the template")


def _conversation(drawn: random.Random, num_calls: int) -> Iterator[Call]:
    """Calls that extend each other; all but the last ask for a tool."""
    messages: tuple[Message, ...] = (
        Message(role="system", content=_text(drawn, 200)),
        Message(role="user", content=_text(drawn, 60)),
    )
    ids = _ids(drawn, 400)
    for index in range(num_calls):
        num_sampled = drawn.randint(60, 300)
        reply = Message(role="assistant", content=_text(drawn, num_sampled))
        if index < num_calls - 1:
            function = FunctionCall(name=drawn.choice(("read", "run")), arguments={"path": "a.py"})
            reply["tool_calls"] = [{"id": f"c{index}", "type": "function", "function": function}]
        sampled = _ids(drawn, num_sampled)
        yield Call(
            agent_name="agent",
            target_tag="default",
            messages=messages,
            tools=(),
            prompt_ids=ids,
            completion=Completion(
                ids=sampled,
                logprobs=tuple(-drawn.random() * 3 for _ in sampled),
                finish_reason="stop",
                weight_version=0,
            ),
            reply=reply,
            temperature=1.0,
            extends=index - 1 if index else None,
            break_reason=None,
            started_seconds=float(index),
            seconds=0.9,
        )
        result = Message(role="tool", content=_text(drawn, 300), tool_call_id=f"c{index}")
        messages = (*messages, reply, result)
        ids = (*ids, *sampled, *_ids(drawn, 310))


def _text(drawn: random.Random, num_words: int) -> str:
    return " ".join(drawn.choice(_WORDS) for _ in range(num_words))


def _ids(drawn: random.Random, count: int) -> tuple[int, ...]:
    return tuple(drawn.randrange(50_000) for _ in range(count))


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


def measure(num_episodes: int, base: Path, *, is_kept: bool) -> None:
    with _folder_in(base, is_kept=is_kept) as made:
        folder, cache = Path(made) / "runs", Path(made) / "cache"
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


@contextmanager
def _folder_in(base: Path, *, is_kept: bool) -> Iterator[str]:
    folder = tempfile.mkdtemp(dir=base)
    try:
        yield folder
    finally:
        if not is_kept:
            shutil.rmtree(folder)


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
        measure(size, arguments.folder or Path(tempfile.gettempdir()), is_kept=arguments.keep)


if __name__ == "__main__":
    main()
