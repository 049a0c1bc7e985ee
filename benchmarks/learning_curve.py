"""Does it learn? Runs a tutorial with several seeds and draws the curves.

    python benchmarks/learning_curve.py                          three runs, one after the other
    python benchmarks/learning_curve.py --runs DIR DIR DIR       draw runs that were made already
    python benchmarks/learning_curve.py --conf tutorial/example_frozenlake/frozenlake_laptop.yaml
                                                                 another tutorial than the sums

Minutes count from the start of training, validations included, loading left out. The picture shows
the success rate on held-out tasks with its 95% interval, and the success rate of training episodes.
Needs matplotlib (`pip install 'astuner[benchmarks]'`).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from astuner.run_dir import RunDir, read_json_lines

matplotlib.use("Agg")

CONF = Path("tutorial/example_math_agent/math_agent_laptop.yaml")
GOAL = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One validation or one step."""

    minutes: float
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One run."""

    name: str
    validations: tuple[Point, ...]
    training: tuple[Point, ...]
    step_seconds: float
    """Mean over the steps."""

    def minutes_to_goal(self) -> float | None:
        """When the validation first reached the goal."""
        return next((p.minutes for p in self.validations if p.rate >= GOAL), None)


def run_seed(conf: Path, seed: int, *, folder: Path, overrides: list[str]) -> Path:
    """Tune with one seed; returns the run directory."""
    seeds = [f"astuner.trainer_common.seed={seed}", f"astuner.rollout.seed={seed}"]
    base = folder / f"seed_{seed}"
    command = [sys.executable, "-m", "astuner", "--conf", str(conf), "--exp-dir", str(base)]
    subprocess.run([*command, *seeds, *overrides], check=True)
    found = RunDir.latest(base, conf.stem)
    assert found is not None
    return found.root


def read_curve(run: Path) -> Curve:
    """Read metrics.jsonl; the time of a validation is that behind it."""
    seconds = 0.0
    validations, training, steps = [], [], []
    for line in read_json_lines(run / "metrics.jsonl"):
        if "step/seconds" in line:
            seconds += line["step/seconds"]
            steps.append(line["step/seconds"])
            rate = line["reward/success_rate"]
            training.append(Point(minutes=seconds / 60, rate=rate, low=rate, high=rate))
        if "validation/success_rate" in line:
            seconds += line["validation/seconds"] if line["step"] else 0.0
            validations.append(
                Point(
                    minutes=seconds / 60,
                    rate=line["validation/success_rate"],
                    low=line["validation/success_rate_low"],
                    high=line["validation/success_rate_high"],
                )
            )
    return Curve(
        name=run.parents[1].name,
        validations=tuple(validations),
        training=tuple(training),
        step_seconds=sum(steps) / len(steps),
    )


def draw(curves: list[Curve], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for index, curve in enumerate(curves):
        color = f"C{index}"
        points = curve.validations
        minutes = [point.minutes for point in points]
        rates = [point.rate for point in points]
        below = [point.rate - point.low for point in points]
        above = [point.high - point.rate for point in points]
        axes.errorbar(
            minutes, rates, (below, above), color=color, marker="o", capsize=3, label=curve.name
        )
        training = curve.training
        axes.plot([p.minutes for p in training], [p.rate for p in training], color=color, alpha=0.3)
    axes.axhline(GOAL, color="grey", linestyle=":")
    axes.set(xlabel="minutes of training", ylabel="success rate", ylim=(0, 1))
    axes.set_title("held-out tasks (points, 95% interval) and training episodes (thin)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def summary(curve: Curve) -> dict[str, object]:
    goal = curve.minutes_to_goal()
    return {
        "run": curve.name,
        "success_before": round(curve.validations[0].rate, 3),
        "success_after": round(curve.validations[-1].rate, 3),
        "interval_after": [
            round(curve.validations[-1].low, 3),
            round(curve.validations[-1].high, 3),
        ],
        f"minutes_to_{GOAL}": None if goal is None else round(goal, 1),
        "minutes": round(curve.validations[-1].minutes, 1),
        "seconds_per_step": round(curve.step_seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conf", type=Path, default=CONF, help="YAML of the tutorial")
    parser.add_argument("overrides", nargs="*", help="settings, such as astuner.model.path=DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, nargs="+", help="run directories instead of new runs")
    parser.add_argument("--folder", type=Path, default=Path("launcher_record/learning_curve"))
    parser.add_argument("--picture", type=Path, default=Path("learning_curve.png"))
    arguments = parser.parse_args()
    folder = arguments.folder / arguments.conf.stem
    runs = arguments.runs or [
        run_seed(arguments.conf, seed, folder=folder, overrides=arguments.overrides)
        for seed in arguments.seeds
    ]
    curves = [read_curve(run) for run in runs]
    draw(curves, arguments.picture)
    print(f"{platform.machine()}, {os.cpu_count()} cores; picture: {arguments.picture}")
    for curve in curves:
        print(json.dumps(summary(curve)))


if __name__ == "__main__":
    main()
