"""Detectors: what trips them, in histories and in real runs, and that a good run never does."""

import json
import math
from itertools import pairwise

import pytest
import yaml

pytest.importorskip("agentscope")
pytest.importorskip("torch")

from astuner.algorithm.health import Health, HealthSettings
from astuner.cli import main
from astuner.run_dir import read_json_lines
from astuner.training.optimizer import MasterAdamW
from tests.test_local_run import latest_run, taught_model, write_conf  # noqa: F401

SETTINGS = HealthSettings(
    not_finite="stop",
    logprob_gap="stop",
    no_spread="stop",
    all_failed="stop",
    nothing_trained="stop",
    entropy="warn",
    no_spread_steps=3,
    max_logprob_gap=0.5,
)
GOOD = {
    "reward/mean": 0.3,
    "reward/success_rate": 0.3,
    "rollout/episodes": 64,
    "rollout/failed_episodes": 1,
    "rollout/flat_groups": 2,
    "rollout/small_groups": 0,
    "rollout/calls": 128,
    "train/updates": 1,
    "train/loss": -0.01,
    "train/grad_norm": 1.2,
    "train/weights_norm": 100.0,
    "train/entropy": 0.9,
    "train/logprob_gap_mean": 0.04,
    "train/logprob_gap_max": 0.4,
}
FLAT = {**GOOD, "train/updates": 0, "rollout/flat_groups": 8, "train/entropy": None}
FLAT |= {"train/loss": None, "train/grad_norm": None, "train/logprob_gap_mean": None}


def check(*steps: dict, settings: HealthSettings = SETTINGS) -> list:
    """The findings of all steps, the state carried over as a resumed run does."""
    found, state = [], {}
    for number, metrics in enumerate(steps, start=1):
        health = Health(settings, json.loads(json.dumps(state)))
        found += health.check({"step": number, **metrics})
        state = health.state
    return found


def test_a_run_that_learns_trips_nothing() -> None:
    steps = [
        {**GOOD, "reward/mean": 0.15 + 0.03 * i, "train/entropy": 0.9 - 0.03 * i} for i in range(25)
    ]
    assert check(*steps) == []


@pytest.mark.parametrize("name", ["train/loss", "train/grad_norm", "train/weights_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_stop_and_mark_the_weights_as_broken(name, value) -> None:
    (finding,) = check({**GOOD, name: value})
    assert finding.stops and finding.is_broken
    assert name in finding.message and "learning rate" in finding.message


def test_a_large_gap_stops() -> None:
    (finding,) = check(GOOD, {**GOOD, "train/logprob_gap_mean": 0.7})
    assert finding.stops and finding.is_broken
    assert "step 2: sampler and trainer disagree by 0.7 nats" in finding.message


def test_steps_without_spread_stop_only_in_a_row() -> None:
    assert check(FLAT, FLAT, GOOD, FLAT, FLAT) == []
    (finding,) = check(FLAT, {**FLAT, "reward/mean": 0.5}, FLAT)
    assert finding.stops and not finding.is_broken
    assert "for 3 steps no group had two different rewards:" in finding.message


def test_a_reward_that_never_changes_is_named() -> None:
    (finding,) = check(FLAT, FLAT, FLAT)
    assert "the reward is always 0.3" in finding.message


def test_tasks_that_are_solved_do_not_stop_the_run() -> None:
    solved = {**FLAT, "reward/mean": 1.0, "reward/success_rate": 1.0}
    (finding,) = check(solved, solved, solved, solved)
    assert not finding.stops
    assert "the tasks are solved" in finding.message


def test_steps_in_which_all_episodes_fail_stop() -> None:
    failed = {**FLAT, "rollout/failed_episodes": 64, "rollout/flat_groups": 0, "reward/mean": None}
    (finding,) = check(failed, GOOD, failed, failed)
    assert finding.stops
    assert "all episodes of 2 steps in a row failed" in finding.message


IDLE = {**FLAT, "rollout/flat_groups": 0}


def test_steps_in_which_no_episode_asks_the_model_stop_whatever_the_rewards() -> None:
    for flat_groups in (0, 8):
        silent = {**IDLE, "rollout/calls": 0, "rollout/flat_groups": flat_groups}
        (finding,) = check(silent, GOOD, silent, silent)
        assert finding.stops and not finding.is_broken
        assert "in 2 steps in a row no episode asked the model" in finding.message


def test_steps_that_end_well_and_train_no_token_stop() -> None:
    (finding,) = check(IDLE, IDLE)
    assert finding.stops and "no token was trained although" in finding.message


def test_groups_that_are_too_small_to_compare_stop_once_it_is_no_accident() -> None:
    small = {**IDLE, "rollout/small_groups": 8}
    (finding,) = check(small, small, GOOD, small, small, small)
    assert finding.stops and "in 3 steps in a row no token was trained" in finding.message


def test_collapsed_entropy_warns_once() -> None:
    low = {**GOOD, "train/entropy": 0.01}
    (finding,) = check(GOOD, low, low)
    assert not finding.stops
    assert "fell to 0.0100 nats a token from 0.900" in finding.message


@pytest.mark.parametrize(("reaction", "stops"), [("warn", [False]), ("off", [])])
def test_a_detector_can_be_turned_down(reaction, stops) -> None:
    settings = HealthSettings(
        **dict.fromkeys(
            ("not_finite", "logprob_gap", "no_spread", "all_failed", "nothing_trained"), reaction
        ),
        entropy="off",
        no_spread_steps=1,
        max_logprob_gap=0.5,
    )
    broken = {**GOOD, "train/loss": math.nan}
    assert [finding.stops for finding in check(broken, settings=settings)] == stops


# --- In real runs


@pytest.fixture
def run(taught_model, tmp_path, monkeypatch, capsys):  # noqa: F811
    """Tunes with changed settings; returns exit code, screen and run directory."""

    def start(steps: int = 4, **common: object) -> tuple:
        monkeypatch.chdir(tmp_path)
        write_conf(tmp_path, taught_model)
        conf = tmp_path / "adder.yaml"
        settings = yaml.safe_load(conf.read_text())
        settings["astuner"]["trainer_common"] |= {
            "val_before_train": False,
            "test_freq": 99,
            "total_training_steps": steps,
            "keep_checkpoints": None,
        }
        overrides = settings["astuner"] | {}
        for key, value in common.items():
            section = overrides
            *parents, name = key.split("__")
            for parent in parents:
                section = section.setdefault(parent, {})
            section[name] = value
        conf.write_text(yaml.safe_dump(settings))
        code = main(["--conf", "adder.yaml"])
        return code, " ".join(capsys.readouterr().err.split()), latest_run()

    return start


def test_a_learning_rate_that_breaks_the_policy_is_noticed(run) -> None:
    code, screen, _ = run(
        steps=9,
        trainer_common__optim={"lr": 30.0, "grad_clip": 1e9},
        trainer_common__detectors={"no_spread_steps": 3},
    )
    assert code == 1
    assert "the reward is always 0.0: there is nothing to learn from" in screen


def test_a_weight_that_becomes_nan_is_never_saved(run, monkeypatch) -> None:
    honest, updates = MasterAdamW.update, []

    def poison(self):
        done = honest(self)
        updates.append(done)
        if len(updates) == 2:
            next(iter(self._parameters.values())).data[0] = math.nan
        return done

    monkeypatch.setattr(MasterAdamW, "update", poison)
    code, screen, folder = run(steps=8)
    assert code == 1
    assert "train/weights_norm" in screen and "is not a finite number" in screen
    assert "The last good checkpoint is" in screen
    lines = list(read_json_lines(folder / "metrics.jsonl"))
    saved = sorted(int(path.name[5:]) for path in folder.glob("checkpoints/step_*"))
    assert saved == [line["step"] for line in lines[:-1]]


def test_a_judge_that_always_says_the_same_stops_the_run(run, tmp_path) -> None:
    (tmp_path / "same.py").write_text(
        "from astuner.task_judge.base_judge import BaseJudge\n"
        "class Same(BaseJudge):\n"
        "    def compute_reward(self, workflow_task, workflow_output):\n"
        "        return 0.25, False\n"
    )
    code, screen, _ = run(
        task_judge__judge_protocol="same.py->Same",
        trainer_common__detectors={"no_spread_steps": 2},
    )
    assert code == 1
    assert "for 2 steps no group had two different rewards; the reward is always 0.25" in screen


def test_a_workflow_that_never_asks_the_model_stops_the_run(run, tmp_path) -> None:
    (tmp_path / "silent.py").write_text(
        "from astuner import Workflow, WorkflowOutput\n"
        "class Silent(Workflow):\n"
        "    async def execute(self, workflow_task, model_tuner):\n"
        "        return WorkflowOutput(reward=float(workflow_task.attempt))\n"
    )
    code, screen, _ = run(rollout__agentscope_workflow="silent.py->Silent")
    assert code == 1
    assert "in 2 steps in a row no episode asked the model" in screen


def test_a_workflow_that_always_fails_stops_the_run(run, tmp_path) -> None:
    (tmp_path / "broken.py").write_text(
        "from astuner import Workflow\n"
        "class Broken(Workflow):\n"
        "    async def execute(self, workflow_task, model_tuner):\n"
        "        raise RuntimeError('no key for the shop')\n"
    )
    code, screen, folder = run(
        rollout__agentscope_workflow="broken.py->Broken", rollout__max_failed_fraction=1.0
    )
    assert code == 1
    assert "all episodes of 2 steps in a row failed" in screen
    assert "no key for the shop" in screen
    lines = list(read_json_lines(folder / "metrics.jsonl"))
    assert [line["reward/mean"] for line in lines] == [None, None]
    assert "written as null" not in (folder / "run.log").read_text()


def test_a_sampler_with_stale_weights_is_noticed(run, monkeypatch) -> None:
    """The weights change behind the engine's back, between sampling and training."""
    from astuner.training.trainer import PolicyTrainer

    honest = PolicyTrainer.train_step

    def train_on_other_weights(self, samples, **options):
        for parameter in self.model.parameters():
            parameter.data += 0.5 * parameter.data.std() if parameter.numel() > 1 else 0.0
        return honest(self, samples, **options)

    monkeypatch.setattr(PolicyTrainer, "train_step", train_on_other_weights)
    code, screen, _ = run(steps=6)
    assert code == 1
    assert "sampler and trainer disagree" in screen


def test_the_checksum_changes_with_every_update_and_the_lag_is_zero(run) -> None:
    code, _, folder = run(steps=3)
    assert code == 0
    lines = list(read_json_lines(folder / "metrics.jsonl"))
    changed = [
        a["train/weights_checksum"] != b["train/weights_checksum"] for a, b in pairwise(lines)
    ]
    assert changed == [line["train/updates"] > 0 for line in lines[1:]]
    assert {line["rollout/weight_version_lag"] for line in lines if line["train/updates"]} == {0}
