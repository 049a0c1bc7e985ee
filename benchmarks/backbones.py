"""What a step costs on a backbone, and whether it learns there: the math agent on small sums.

    python benchmarks/backbones.py local models/smollm2-135m-instruct
    .venv-verl/bin/python benchmarks/backbones.py verl models/smollm2-135m-instruct --steps=40

Each backbone in its own environment; further arguments are settings of the run, for example
`astuner.trainer_common.n_gpus_per_node=2`. Prints a row of a table: seconds from the command to the
first finished step, medians of a step and its phases after the first three (which compile, capture
and fill caches), and the mean reward of the first and the last five steps.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from astuner.run_dir import RunDir, read_json_lines
from astuner.trajectory.record import episode_from_record

CONF = Path(__file__).parents[1] / "tutorial/example_math_agent/math_agent_laptop.yaml"
PHASES = ("step", "rollout", "train", "sync")
EPISODE_COLUMNS = (
    *("rollout", "outside", "longest episode", "median episode"),
    *("generation", "judging", "rest", "longest judging"),
)
WARM_UP = 3
FEW = 5


def tune(command: Sequence[str], base: Path) -> tuple[float, list[dict[str, float]]]:
    """Run it as a user does; returns the seconds to its first step, and the steps' metrics."""
    began = time.monotonic()
    seconds = 0.0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            if not seconds and _steps(base):
                seconds = time.monotonic() - began
            time.sleep(0.2)
    if process.returncode:
        sys.exit(process.returncode)
    return seconds, _steps(base)


def _steps(base: Path) -> list[dict[str, float]]:
    run_dir = RunDir.latest(base, CONF.stem)
    if run_dir is None or not run_dir.metrics_file.exists():
        return []
    return [line for line in read_json_lines(run_dir.metrics_file) if "step/seconds" in line]


def row(name: str, first: float, steps: Sequence[dict[str, float]]) -> str:
    """A phase that the backbone has not got is a dash: local samples from the trained weights."""
    cells = [name, f"{first:.0f}"]
    for phase in PHASES:
        seconds = [step.get(f"{phase}/seconds") for step in steps[WARM_UP:]]
        known = [number for number in seconds if number is not None]
        cells.append(f"{statistics.median(known):.2f}" if known else "-")
    rewards = [step["reward/mean"] for step in steps]
    cells += [f"{statistics.mean(few):.3f}" for few in (rewards[:FEW], rewards[-FEW:])]
    return f"| {' | '.join(cells)} |"


def episode_row(run_dir: RunDir, step: dict[str, float]) -> str:
    """Outside is what the rollout took beyond its longest episode: the backbone's own work."""
    path = run_dir.episodes_file(int(step["step"]), "train")
    episodes = [episode_from_record(record) for record in read_json_lines(path)]
    seconds = [episode.seconds for episode in episodes]
    longest = max(episodes, key=lambda episode: episode.seconds)
    rest = longest.seconds - longest.engine_seconds - longest.judging_seconds
    times = (
        *(step["rollout/seconds"], step["rollout/seconds"] - longest.seconds),
        *(longest.seconds, statistics.median(seconds)),
        *(longest.engine_seconds, longest.judging_seconds, rest),
        max(episode.judging_seconds for episode in episodes),
    )
    return f"| {step['step']:.0f} | {' | '.join(f'{value:.2f}' for value in times)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("backbone", choices=("local", "verl", "trinity"))
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--exp-dir", type=Path, help="keep the run directory here")
    parsed, settings = parser.parse_known_args()
    common = "astuner.trainer_common"
    with TemporaryDirectory() as folder:
        base = parsed.exp_dir or Path(folder)
        command = [
            *(sys.executable, "-m", "astuner", "--conf", str(CONF)),
            *(f"--backbone={parsed.backbone}", "--exp-dir", str(base)),
            f"astuner.model.path={Path(parsed.model).absolute()}",
            f"{common}.total_training_steps={parsed.steps}",
            f"{common}.save_freq={parsed.steps}",
            f"{common}.test_freq={parsed.steps}",
            f"{common}.val_before_train=false",
            *settings,
        ]
        if parsed.backbone != "local":
            command += ["--with-ray", f"{common}.checkpoint_base_dir={base / 'state'}"]
        first, steps = tune(command, base)
        run_dir = RunDir.latest(base, CONF.stem)
        assert run_dir is not None
        episode_rows = [episode_row(run_dir, step) for step in steps]
    print_table("backbone", "to first step", *PHASES, "reward at first", "at last")
    print(row(parsed.backbone, first, steps))
    print("\nseconds of each step's rollout; of its longest episode: generation, judging, the rest")
    print_table("step", *EPISODE_COLUMNS)
    print(*episode_rows, sep="\n")


def print_table(*columns: str) -> None:
    """Its head."""
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")


if __name__ == "__main__":
    main()
