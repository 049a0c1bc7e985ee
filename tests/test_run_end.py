"""What a run says once it is over: which checkpoint did best, and what to do with it."""

import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from astuner.algorithm.metrics import success_rate
from astuner.backbone.reporter import Reporter
from astuner.backbone.run import Run, RunResult
from astuner.backbone.run_end import end_run
from astuner.backbone.validation import Validation
from astuner.config.load import LoadedConfig, load_config
from astuner.run_dir import RunDir
from tests.runs import make_run

CONF = """
astuner:
  model: {path: m}
  rollout: {agentscope_workflow: "agents->A"}
  task_reader:
    type: jsonl_dataset_file
    jsonl_dataset_file: {training: {file_path: a.jsonl}, validation: {file_path: b.jsonl}}
"""
WORKFLOW = """
from astuner.workflow import Workflow

class A(Workflow):
    async def execute(self, workflow_task, tuner):
        ...
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my agents")
    (folder / "math.yaml").write_text(CONF)
    (folder / "agents.py").write_text(WORKFLOW)
    return folder


@pytest.fixture(scope="module")
def loaded(home: Path) -> LoadedConfig:
    return replace(load_config(home / "math.yaml"), home=home)


@pytest.fixture
def run_of(loaded: LoadedConfig, home: Path, tmp_path: Path):
    def make(**changes) -> Run:
        screen = io.StringIO()
        run_dir = RunDir.create(home / "launcher_record", tmp_path.name)
        run = make_run(loaded, run_dir, screen=screen)
        screens[run_dir.root] = screen
        return replace(run, conf_file=loaded.conf_file, **changes)

    screens: dict[Path, io.StringIO] = {}
    make.screens = screens
    return make


def ended(
    run_of,
    rates: dict[int, float],
    saved: tuple[int, ...],
    *,
    exit_code: int = 0,
    has_validation: bool = True,
    **changes,
) -> tuple[RunResult, list[str]]:
    """A run with these validations and checkpoints, and the lines that it ended with."""
    run = run_of(**changes)
    reporter = Reporter(run, lambda _metrics: None, num_steps=30)
    reporter.plan(num_tasks=8, num_validation_tasks=8 if has_validation else 0)
    for step, rate in rates.items():
        reporter.take_validation(
            Validation(
                step=step,
                num_failed=0,
                success=success_rate(int(100 * rate), 100),
                reward_mean=rate,
                tokens_mean=7.0,
                seconds=1.0,
            )
        )
        reporter.write({"step": step})
    for step in saved:
        run.run_dir.checkpoint_dir(step).mkdir(parents=True)
    reporter.mark_best()
    result = end_run(run, reporter, exit_code=exit_code)
    said = run_of.screens[run.run_dir.root].getvalue()
    return result, [line.rstrip() for line in said.splitlines()]


def command(lines: list[str], name: str) -> list[str]:
    """The words of a command as a shell reads them."""
    [line] = [line for line in lines if line.startswith(f"to {name}")]
    return shlex.split(line)[2:]


def row(lines: list[str], label: str) -> str:
    return next(line for line in lines if line.strip().startswith(label))


def test_the_best_stands_beside_the_last_and_the_commands_take_it(run_of, home) -> None:
    test = "astuner.task_reader.jsonl_dataset_file.test.file_path=c.jsonl"
    settings = load_config(home / "math.yaml", [test]).settings
    rates = {0: 0.2, 10: 0.6, 20: 0.5, 30: 0.4}
    result, lines = ended(run_of, rates, (10, 20, 30), settings=settings)
    assert result.checkpoint == result.run_dir / "checkpoints" / "step_30"
    assert result.best_checkpoint == result.run_dir / "checkpoints" / "step_10"
    for label, rate in (("before, step 0", 0.2), ("best, step 10", 0.6), ("last, step 30", 0.4)):
        assert f"{rate:.3f}" in row(lines, label)
    assert f"checkpoint     {result.checkpoint} (the last)" in lines
    best = result.run_dir / "checkpoints" / "best"
    assert f"best           {best} (step_10, by validation)" in lines
    named = str(best.relative_to(home))
    evaluate = ["astuner", "evaluate", "--conf", "math.yaml", "--model", named, "--split", "test"]
    assert command(lines, "evaluate") == evaluate
    assert command(lines, "export") == ["astuner", "export", named, "--to", "hf"]
    assert command(lines, "serve") == ["astuner", "serve", named]
    assert "too good; report what the test split gives, which chose nothing" in lines[-1]


def test_without_a_test_it_says_that_the_best_looks_too_good_and_what_to_set(run_of) -> None:
    _, lines = ended(run_of, {10: 0.5, 20: 0.6}, (10, 20))
    assert command(lines, "evaluate")[-2:] == ["--split", "validation"]
    assert "too good" in lines[-1]
    assert lines[-1].endswith("choose nothing in task_reader.jsonl_dataset_file.test.file_path")
    assert row(lines, "first, step 10") and row(lines, "best and last, step 20")


def test_where_best_and_last_are_the_same_it_is_said_once(run_of) -> None:
    result, lines = ended(run_of, {0: 0.1, 30: 0.6}, (30,))
    assert f"checkpoint     {result.checkpoint} (the last, and the best by validation)" in lines
    assert result.best_checkpoint == result.checkpoint
    assert not any(line.startswith("best  ") or "too good" in line for line in lines)


def test_a_better_state_that_was_not_saved_is_named_with_what_would_save_it(run_of) -> None:
    result, lines = ended(run_of, {0: 0.1, 10: 0.7, 20: 0.9, 30: 0.6}, (30,))
    assert f"checkpoint     {result.checkpoint} (the last, and the best that was saved)" in lines
    [said] = [line for line in lines if line.startswith("step 20 did better in validation")]
    assert "success 0.900" in said and "astuner.trainer_common.save_freq=" in said
    _, lines = ended(run_of, {0: 0.95, 20: 0.6, 30: 0.6}, (30,))
    assert not any("was not saved" in line for line in lines)


def test_a_run_that_gained_nothing_says_so(run_of) -> None:
    _, lines = ended(run_of, {0: 0.5, 30: 0.5}, (30,))
    said = "no checkpoint did better in validation than the weights before training: success 0.500"
    assert any(line.startswith(said) for line in lines)


def test_without_validation_there_is_no_best_and_nothing_to_evaluate_on(run_of) -> None:
    result, lines = ended(run_of, {}, (15, 30), has_validation=False)
    assert result.best_checkpoint is None
    assert f"checkpoint     {result.checkpoint} (the last; no checkpoint was validated)" in lines
    assert not any(line.startswith("to evaluate") for line in lines)
    assert command(lines, "serve")[-1].endswith("checkpoints/step_30")
    assert lines[-1].startswith("it cannot be evaluated yet: name tasks for it in task_reader.")


def test_an_interrupted_run_says_what_was_not_validated_and_how_to_go_on(run_of) -> None:
    result, lines = ended(run_of, {0: 0.1, 10: 0.3}, (10, 17), exit_code=130)
    assert f"checkpoint     {result.checkpoint} (the last; not validated)" in lines
    assert "--resume goes on" in next(line for line in lines if line.startswith("it ended after"))
    _, nothing = ended(run_of, {}, (), exit_code=130)
    assert nothing[-1].startswith("run directory")


def test_what_the_command_line_changed_stands_in_the_command_too(run_of) -> None:
    overrides = ("astuner.backbone=local", "astuner.rollout.temperature=0.5", "astuner.a='b c'")
    _, lines = ended(run_of, {30: 0.5}, (30,), overrides=overrides)
    assert command(lines, "evaluate")[-2:] == list(overrides[1:])


def test_overrides_with_secrets_are_not_repeated(home: Path) -> None:
    overrides = ["astuner.rollout.seed=3", "astuner.task_reader.env_service.options={api_key: x1}"]
    assert load_config(home / "math.yaml", overrides).overrides == ("astuner.rollout.seed=3",)


def test_a_run_that_goes_on_knows_the_validations_of_its_earlier_starts(run_of) -> None:
    run = run_of()
    first = Reporter(run, lambda _metrics: None, num_steps=30)
    success = success_rate(3, 4)
    validation = Validation(
        step=10, num_failed=1, success=success, reward_mean=0.5, tokens_mean=7.0, seconds=1.0
    )
    first.take_validation(validation)
    first.write({"step": 10})
    first.write({"step": 11})
    for step in (10, 12):
        run.run_dir.checkpoint_dir(step).mkdir(parents=True)
    run.run_dir.point_best_to(run.run_dir.checkpoint_dir(12))
    run.run_dir.checkpoint_dir(12).rmdir()  # set aside, since it goes on from step 11
    second = Reporter(run, lambda _metrics: None, num_steps=30)
    second.recall_validations()
    assert second.best_of({10, 20}) == validation and second.best_of({20}) is None
    assert run.run_dir.best_checkpoint() == run.run_dir.checkpoint_dir(10)
