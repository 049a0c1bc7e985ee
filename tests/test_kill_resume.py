"""A run that is killed at any moment and resumed ends as one that was never stopped, bit by bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.run_dir import read_json_lines
from tests.test_local_run import AGENTS, taught_model, write_conf  # noqa: F401

ROOT = Path(__file__).parent.parent
NUM_STEPS = 5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_change_nothing(taught_model, tmp_path):  # noqa: F811
    conf = prepare(tmp_path, taught_model)
    command = [sys.executable, "-m", "tests.kill_runs", str(conf), str(tmp_path / "runs")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == 20
    assert found["while_saving"] > 0
    (reference,) = complete_runs(found["reference"])
    for folder in found["killed"]:
        (run,) = complete_runs(folder)
        assert checkpoint_sums(run) == checkpoint_sums(reference)
        assert metrics(run) == metrics(reference)
        assert episodes(run) == episodes(reference)
        assert not list(run.glob("checkpoints/.*"))


def prepare(folder: Path, model: Path) -> Path:
    """A run with everything that a kill may disturb, saved after each step."""
    (folder / "runs").mkdir()
    write_conf(folder, model)
    conf = folder / "adder.yaml"
    settings = yaml.safe_load(conf.read_text())
    settings["astuner"]["rollout"]["settle_seconds"] = 60
    settings["astuner"]["task_judge"]["judge_protocol"] = f"{AGENTS}/adder.py->judge_sum"
    settings["astuner"]["rollout"]["max_env_worker"] = 6
    settings["astuner"]["trainer_common"] |= {
        "total_training_steps": NUM_STEPS,
        "test_freq": 2,
        "keep_checkpoints": 2,
        "mini_batch_num": 2,
        "use_kl_loss": True,
    }
    conf.write_text(yaml.safe_dump(settings))
    return conf


def complete_runs(folder: str) -> list[Path]:
    """Those that went through; before its first checkpoint, a killed run is begun anew."""
    runs = (path for path in Path(folder, "adder").iterdir() if not path.is_symlink())
    return [run for run in runs if (run / f"checkpoints/step_{NUM_STEPS}").is_dir()]


def checkpoint_sums(run: Path) -> dict[str, dict[str, str]]:
    """The checksums of all tensors of all checkpoints."""
    manifests = sorted(run.glob("checkpoints/step_*/manifest.json"))
    return {
        path.parent.name: {
            name: entry["sha256"]
            for name, entry in json.loads(path.read_text()).items()
            if name.endswith(".safetensors")
        }
        for path in manifests
    }


def metrics(run: Path) -> list[dict]:
    return [without_times(line) for line in read_json_lines(run / "metrics.jsonl")]


def episodes(run: Path) -> dict[str, list]:
    """By file; those of a step in the order of their names, for they end at any time."""
    return {
        path.name: sorted(
            (without_times(line) for line in read_json_lines(path)),
            key=lambda episode: episode["episode_id"],
        )
        for path in run.glob("episodes/*.jsonl")
    }


def without_times(value):
    """A copy without what a clock measured."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not _is_time(k)}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return value


def _is_time(name):
    return name == "time" or name.endswith("seconds")
