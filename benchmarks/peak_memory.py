"""Peak memory of a whole step against the tokens of a micro-batch, ours and TRL's."""

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

DESCRIPTION = """\
Double the micro-batch of the training pass three times and read the peak memory of the process (of
the device's allocator on a GPU), with astuner, with TRL, and with TRL and Liger's layers.

    python -m benchmarks.peak_memory models/smollm2-135m-instruct

Every point is a run of benchmarks.against_trl in a process of its own: two steps of --tasks tasks
with --group completions each, to a question that invites long answers. TRL counts a micro-batch in
samples: as many as hold the same tokens when all are as long as they may be. With --at-once, so
many points are measured at the same time. Liger's layers need a GPU. Needs trl.
"""

ROWS = ("astuner", "trl", "trl-tuned")
"""Of benchmarks.against_trl, where TRL generates with transformers."""
_QUESTION = "Write all numbers from 1 to 1000, separated by commas, and nothing else."
_PROMPT_TOKENS = 64
"""About what the question and the chat template take."""


def run_point(row: str, arguments: argparse.Namespace, max_tokens: int) -> dict[str, Any]:
    num_samples = max(1, max_tokens // (_PROMPT_TOKENS + arguments.new_tokens))
    command = [sys.executable, "-m", "benchmarks.against_trl", arguments.model, "--only", row]
    options = {
        "--steps": 2,
        "--tasks": arguments.tasks,
        "--group": arguments.group,
        "--new-tokens": arguments.new_tokens,
        "--max-tokens": max_tokens,
        "--trl-micro-batch": num_samples,
        "--reward": "coin",
        "--question": _QUESTION,
    }
    command += [str(part) for option in options.items() for part in option]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return {"tokens": max_tokens, "failed": done.returncode}
    found = json.loads(done.stdout.splitlines()[-1])
    return {"tokens": max_tokens, "peak_gib": round(found["peak_gib"], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=192)
    parser.add_argument("--first", type=int, default=1024, help="tokens of the smallest")
    parser.add_argument("--at-once", type=int, default=1)
    arguments = parser.parse_args()
    sizes = [arguments.first * 2**doubling for doubling in range(4)]
    report: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    }
    with ThreadPoolExecutor(arguments.at_once) as pool:
        points = {
            row: [pool.submit(run_point, row, arguments, size) for size in sizes] for row in ROWS
        }
        for row, runs in points.items():
            report[row] = [run.result() for run in runs]
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
