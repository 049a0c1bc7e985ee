"""Starts a generation and kills it, again and again, until the last start may come to its end.

    python -m tests.task_generation.kill_generation BASE_URL FOLDER --kills 20 --tasks 60

A process of its own: it imports everything once and forks a child for each start, which is what
makes many starts affordable. A child is killed some moments after the ledger has grown by a few
lines, so a slow machine sees the same kills.
"""

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.task_generation.small_sets import SmallSet, make_chunks


def start(small: SmallSet, num_tasks: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    small.make(task_num=num_tasks, num_workers=8)
    os._exit(0)


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def num_lines(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def kill_sometime(pid: int, folder: Path, rng: random.Random) -> None:
    enough = num_lines(folder) + rng.randint(0, 3)
    while num_lines(folder) < enough and not has_ended(pid):
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.03))
    os.kill(pid, signal.SIGKILL)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
        sys.exit("it ended before it was killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    arguments = parser.parse_args()
    rng = random.Random(arguments.kills)
    small = SmallSet(
        folder=arguments.folder, base_url=arguments.base_url, chunks=make_chunks(a=9, b=9, c=9)
    )
    for _ in range(arguments.kills):
        kill_sometime(start(small, arguments.tasks), arguments.folder, rng)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(start(small, arguments.tasks), 0)[1]))


if __name__ == "__main__":
    main()
