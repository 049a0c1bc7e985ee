"""Seconds from the command to the end of the first training step, and what they are spent on."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from astuner.run_dir import RunDir, read_json_lines

DESCRIPTION = """\
Start the tutorial's run for one step, as a user does, and say where the time goes.

    python -m benchmarks.start_up                         the math agent on small sums

  import     until the command's own code runs: the interpreter and the imports of the libraries
  prepare    configuration, workflow, judge, tasks, until the model begins to load
  load       weights and tokenizer, the check of the training pass, the optimizer
  rollout    the first step's episodes: the agent framework's import, the cache, sampling
  train      the first step's update
  end        saving the checkpoint, and the end of the process
"""

CONF = "tutorial/example_math_agent/math_agent_laptop.yaml"
_MARKS = {"astuner: backbone": "import", "loading ": "prepare", "step 1": "step"}


def run_once(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "astuner", "--conf", arguments.conf, "--exp-dir", str(folder)]
    command += ["astuner.trainer_common.total_training_steps=1", *arguments.overrides]
    command += ["astuner.trainer_common.val_before_train=false"]
    command += ["astuner.data.max_validation_tasks=1"]
    started = time.perf_counter()
    marks: dict[str, float] = {}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        for text, name in _MARKS.items():
            if line.startswith(text):
                marks.setdefault(name, time.perf_counter() - started)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    total = time.perf_counter() - started
    run = RunDir.latest(folder, Path(arguments.conf).stem)
    assert run is not None
    (line,) = (line for line in read_json_lines(run.metrics_file) if line["step"] == 1)
    rollout, train = line["rollout/seconds"], line["train/seconds"]
    return {
        "import": marks["import"],
        "prepare": marks["prepare"] - marks["import"],
        "load": marks["step"] - marks["prepare"] - line["step/seconds"],
        "rollout": rollout,
        "train": train,
        "to_first_step": marks["step"],
        "end": total - marks["step"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conf", default=CONF)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [run_once(arguments, Path(folder) / str(run)) for run in range(arguments.runs)]
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "runs": arguments.runs,
        "median_seconds": {
            name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
