"""How is each source of a mixture learned? Runs the reasoning-gym tutorial and draws the curves.

    python benchmarks/source_curves.py                       a run of each of three seeds
    python benchmarks/source_curves.py --runs DIR DIR        draw runs that were made already

Minutes count from the start of training, validations included, loading left out. Needs matplotlib
(`pip install 'astuner[benchmarks]'`).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from astuner.run_dir import RunDir, read_json_lines

matplotlib.use("Agg")

CONF = Path("tutorial/example_reasoning_gym/reasoning_gym_laptop.yaml")
_RATE = "validation/success_rate/source/"

Curve = Sequence[tuple[float, float]]
"""Minutes and success rate of each validation."""


def run_seed(seed: int, folder: Path, overrides: Sequence[str]) -> Path:
    """Tune with one seed; returns the run directory."""
    seeds = [f"astuner.trainer_common.seed={seed}", f"astuner.rollout.seed={seed}"]
    base = folder / f"seed_{seed}"
    command = [sys.executable, "-m", "astuner", "--conf", str(CONF), "--exp-dir", str(base)]
    subprocess.run([*command, *seeds, *overrides], check=True)
    found = RunDir.latest(base, CONF.stem)
    assert found is not None
    return found.root


def read_curves(run: Path) -> dict[str, Curve]:
    """By source; the time of a validation is that behind it."""
    seconds, curves = 0.0, defaultdict(list)
    for line in read_json_lines(run / "metrics.jsonl"):
        seconds += line.get("step/seconds") or 0.0
        seconds += (line.get("validation/seconds") or 0.0) if line["step"] else 0.0
        for name, rate in line.items():
            if name.startswith(_RATE):
                curves[name.removeprefix(_RATE)].append((seconds / 60, rate))
    return dict(curves)


def draw(runs: Sequence[Mapping[str, Curve]], path: Path) -> None:
    """A colour for each source, a line for each run."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for run_number, curves in enumerate(runs):
        for number, (source, curve) in enumerate(sorted(curves.items())):
            minutes, rates = zip(*curve, strict=True)
            label = source if run_number == 0 else None
            axes.plot(minutes, rates, color=f"C{number}", marker="o", label=label)
    axes.set(xlabel="minutes of training", ylabel="success rate", ylim=(0, 1))
    axes.set_title("held-out questions of each source, a line for each seed")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, nargs="+", help="run directories instead of new runs")
    parser.add_argument("--folder", type=Path, default=Path("launcher_record/source_curves"))
    parser.add_argument("--picture", type=Path, default=Path("learning_curve.png"))
    parser.add_argument("overrides", nargs="*", help="settings, as the command takes them")
    arguments = parser.parse_args()
    runs = arguments.runs or [
        run_seed(seed, arguments.folder, arguments.overrides) for seed in arguments.seeds
    ]
    curves = [read_curves(run) for run in runs]
    draw(curves, arguments.picture)
    print(f"{platform.machine()}, {os.cpu_count()} cores; picture: {arguments.picture}")
    for run, own in zip(runs, curves, strict=True):
        for source, curve in sorted(own.items()):
            (_, before), (minutes, after) = curve[0], curve[-1]
            values = {"before": before, "after": after, "minutes": minutes}
            rounded = {name: round(value, 3) for name, value in values.items()}
            print(json.dumps({"run": str(run), "source": source, **rounded}))


if __name__ == "__main__":
    main()
