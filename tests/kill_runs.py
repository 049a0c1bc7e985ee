"""Starts runs and kills them at random moments, each time resuming, until enough were killed.

    python -m tests.kill_runs CONF FOLDER --kills 20

Run as a process of its own: it imports everything once and forks a child for each start, which is
what makes dozens of starts affordable. Every third kill waits for a checkpoint to be in the making.
Prints a JSON object: the reference run, the runs that were killed, the number of kills.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import agentscope.agent  # noqa: F401  # for the children
import torch
import transformers.models.qwen2.modeling_qwen2  # noqa: F401

import astuner.backbone.local.backbone
import astuner.config.load
from astuner.cli import main as astuner


def start(conf: str, folder: Path, *, resume: bool) -> int:
    """A child that runs the command; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    arguments = ["--conf", conf, "--exp-dir", str(folder)]
    os._exit(astuner([*arguments, "--resume"] if resume else arguments))


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_sometime(
    pid: int, folder: Path, rng: random.Random, *, seconds: float, aimed: bool
) -> bool:
    """Kill it within `seconds`, or while it saves; False when it ended before."""
    deadline = time.monotonic() + (60 if aimed else rng.uniform(0.0, seconds))
    while time.monotonic() < deadline and not has_ended(pid):
        if aimed and any(folder.glob("*/*/checkpoints/.step_*.partial")):
            time.sleep(rng.uniform(0.0, 0.02))
            break
        time.sleep(0.001)
    if has_ended(pid):
        return False
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("conf")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    torch.set_num_threads(1)
    reference = arguments.folder / "reference"
    started = time.monotonic()
    if wait(start(arguments.conf, reference, resume=False)) != 0:
        sys.exit(f"the reference run failed: {reference.with_suffix('.log').read_text()[-3000:]}")
    seconds = time.monotonic() - started
    killed: list[Path] = []
    num_kills = num_while_saving = 0
    while num_kills < arguments.kills:
        folder = arguments.folder / f"killed_{len(killed)}"
        killed.append(folder)
        while True:
            pid = start(arguments.conf, folder, resume=True)
            aimed = num_kills % 3 == 2
            is_enough = num_kills >= arguments.kills
            if not is_enough and kill_sometime(pid, folder, rng, seconds=seconds, aimed=aimed):
                num_kills += 1
                num_while_saving += any(folder.glob("*/*/checkpoints/.step_*.partial"))
                continue
            if wait(pid) != 0:
                sys.exit(f"a resumed run failed: {folder.with_suffix('.log').read_text()[-3000:]}")
            break
    found = {"reference": str(reference), "killed": [str(folder) for folder in killed]}
    sys.stdout.write(
        json.dumps({**found, "kills": num_kills, "while_saving": num_while_saving}) + "\n"
    )


if __name__ == "__main__":
    main()
