"""Calls that earn on the way, and a judge that says why, in a run on a cluster at no run of its
own."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from astuner.trajectory.episode import Episode

_JUDGED = Path(__file__).parents[1] / "agents" / "adder_and_checker.py"


def make_calls_earn(conf: Path, *, gamma: float) -> None:
    """Have the run of a YAML give each call an advantage of its own."""
    content = yaml.safe_load(conf.read_text())
    content["astuner"]["rollout"]["gamma"] = gamma
    content["astuner"]["trainer_common"]["algorithm"] = {"adv_estimator": "return_to_go"}
    conf.write_text(yaml.safe_dump(content))


def make_judged(conf: Path) -> None:
    """Have a judge give the outcomes of the adder and the checker."""
    content = yaml.safe_load(conf.read_text())
    content["astuner"]["rollout"]["agentscope_workflow"] = f"{_JUDGED}->JudgedWorkflow"
    content["astuner"]["task_judge"] = {"judge_protocol": f"{_JUDGED}->judge_both"}
    conf.write_text(yaml.safe_dump(content))


def check_earned(episodes: Sequence[Episode], metrics: Mapping[str, Any]) -> None:
    """Of one step: calls earned, and what they did is in the record and the metrics."""
    verdicts = [episode.verdict for episode in episodes if episode.verdict]
    assert any(any(verdict.call_rewards) for verdict in verdicts)
    # What the adder earns early it owes at its end.
    assert metrics["reward/steps_mean"] == pytest.approx(0.0)


def check_judged(episodes: Sequence[Episode], metrics: Mapping[str, Any]) -> None:
    """Of one step: what the judge said is in the record, and its parts in the metrics."""
    verdicts = [episode.verdict for episode in episodes if episode.verdict]
    assert {(verdict.source, verdict.note) for verdict in verdicts} <= {
        ("judge", "The sum is 5."),
        ("judge", "The sum is not 5."),
    }
    for part in ("adder", "checker"):
        mean = sum(verdict.parts[part] for verdict in verdicts) / len(verdicts)
        assert metrics[f"reward/part/{part}"] == pytest.approx(mean)


def expanded(runs: Iterable[Sequence[Any]]) -> list[float]:
    """One advantage for each trained token, of runs of tokens that share one."""
    return [value for num_tokens, value in runs for _ in range(num_tokens)]
