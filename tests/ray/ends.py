"""What the backbones on a cluster are put through alike before they end."""

from pathlib import Path

from astuner.run_dir import read_json_lines
from tests.agents.rough_adder import (
    EXITING_JUDGE,
    EXITING_WORKFLOW,
    HANGING_JUDGE,
    LOSING_JUDGE,
)

ROUGH = Path(__file__).parents[1] / "agents" / "rough_adder.py"


def rough_settings() -> list[str]:
    """Of a run with the workflow and the judge of `rough_adder.py`."""
    return [
        f"astuner.rollout.agentscope_workflow='{ROUGH}->RoughWorkflow'",
        f"astuner.task_judge.judge_protocol='{ROUGH}->RoughJudge'",
        "astuner.task_judge.judge_timeout_seconds=15",
    ]


def check_rough_episodes(run_dir: Path) -> None:
    """Each attempt ended as it had to, over two steps that have every task once."""
    records = {
        f"{record['task']['task_id']} {record['attempt']}": record
        for step in (1, 2)
        for record in read_json_lines(run_dir / "episodes" / f"step_{step:06d}.jsonl")
    }
    failed = {name: record["failure"] for name, record in records.items() if record["failure"]}
    assert len(records) == 16
    assert sorted(failed) == sorted([EXITING_WORKFLOW, EXITING_JUDGE, HANGING_JUDGE])
    assert failed[EXITING_WORKFLOW]["kind"] == "WorkflowError"
    assert "called sys.exit('the workflow exits')" in failed[EXITING_WORKFLOW]["message"]
    assert failed[EXITING_JUDGE]["kind"] == "JudgeError"
    assert "called sys.exit('the judge exits')" in failed[EXITING_JUDGE]["message"]
    assert "did not answer in 15 s" in failed[HANGING_JUDGE]["message"]
    assert records[LOSING_JUDGE]["verdict"]["is_success"]


def fill_disk_at(run_dir: Path, *, step: int) -> None:
    """Have the system refuse the episodes of a step to come, for want of space."""
    file = run_dir / "episodes" / f"step_{step:06d}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.symlink_to("/dev/full")
