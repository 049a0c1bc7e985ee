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


def check_rough_episodes(run_dir: Path, *, steps: tuple[int, int]) -> None:
    """Each attempt ended as it had to, over two steps that have every task once."""
    records = {
        f"{record['task']['task_id']} {record['attempt']}": record
        for step in steps
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


def check_end(
    run_dir: Path, code: int, *, error: str | None = None, kind: str = "BackboneError"
) -> None:
    """The events say that the newest start ended so, and each has one end; a signal is no error."""
    events = list(read_json_lines(run_dir / "events.jsonl"))
    names = [event["event"] for event in events]
    assert names.count("ended") == names.count("started")
    assert (names[-1], events[-1]["exit_code"]) == ("ended", code)
    if error is None:
        assert events[-1]["error"] is None
    else:
        assert events[-1]["error"]["kind"] == kind
        assert error in events[-1]["error"]["message"]


def leave_behind(run_dir: Path, *, step: int) -> None:
    """What a kill leaves of a step that was trained, and not saved."""
    run_dir.joinpath("training", f"step_{step:06d}.jsonl").write_text('{"step": "of the killed"}\n')


def check_set_aside(run_dir: Path, *, step: int) -> None:
    """It lies apart from what the step has trained since, once more."""
    file = f"training/step_{step:06d}.jsonl"
    (old,) = run_dir.glob(f"set_aside/*/{file}")
    assert [line["step"] for line in read_json_lines(old)] == ["of the killed"]
    new = list(read_json_lines(run_dir / file))
    assert {(line["step"], line["weight_version"]) for line in new} == {(step, step - 1)}


def fill_disk_at(run_dir: Path, *, step: int) -> None:
    """Have the system refuse the episodes of a step to come, for want of space."""
    file = run_dir / "episodes" / f"step_{step:06d}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.symlink_to("/dev/full")
