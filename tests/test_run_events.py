"""events.jsonl: what a run says of itself to those who read its directory."""

import json
import os
from pathlib import Path

import pytest
import yaml

import astuner
from astuner.algorithm.health import Finding
from astuner.backbone.run_events import RunEvents
from astuner.cli import main
from astuner.errors import AstunerError, BackboneError, ConfigError, Quit, exit_code_of
from astuner.run_dir import RunDir, read_json_lines
from tests.test_local_run import conf, latest_run, taught_model  # noqa: F401


def events_in(run: Path, *names: str) -> list[dict]:
    events = list(read_json_lines(run / "events.jsonl"))
    return [event for event in events if not names or event["event"] in names]


def change(section: str, **values: object) -> None:
    path = Path("adder.yaml")
    settings = yaml.safe_load(path.read_text())
    settings["astuner"][section] |= values
    path.write_text(yaml.safe_dump(settings))


def write_test_tasks(number: int) -> None:
    tasks = [{"main_query": f"a question of the test, {index}"} for index in range(number)]
    Path("test.jsonl").write_text("".join(f"{json.dumps(task)}\n" for task in tasks))
    path = Path("adder.yaml")
    settings = yaml.safe_load(path.read_text())
    reader = settings["astuner"]["task_reader"]
    reader[reader["type"]]["test"] = {"file_path": "test.jsonl"}
    path.write_text(yaml.safe_dump(settings))


def test_a_start_says_who_runs_what(conf, taught_model):  # noqa: F811
    assert main(["--conf", conf, "--backbone=debug"]) == 0
    started, planned, ended = events_in(latest_run())
    assert {name: started[name] for name in ("backbone", "model", "is_resumed", "pid")} == {
        "backbone": "debug",
        "model": str(taught_model),
        "is_resumed": False,
        "pid": os.getpid(),
    }
    assert (started["conf"], started["config"]) == ("adder.yaml", "config.yaml")
    assert started["version"] in (None, astuner.__version__) and started["host"]
    assert planned["num_steps"] is None and planned["num_tasks"] == 2
    assert (ended["exit_code"], ended["error"]) == (0, None)
    assert started["time"] <= planned["time"] <= ended["time"]


def test_a_run_that_trains_says_what_it_will_do_and_what_it_saved(conf, capsys):  # noqa: F811
    write_test_tasks(3)
    assert main(["--conf", conf]) == 0
    (planned,) = events_in(latest_run(), "planned")
    counts = ("num_steps", "num_tasks", "num_validation_tasks", "num_test_tasks")
    assert [planned[name] for name in counts] == [2, 4, 2, 3]
    assert "4 for training, 2 for validation, 3 for the test; 2 steps" in capsys.readouterr().err
    saved = events_in(latest_run(), "saved")
    assert [event["step"] for event in saved] == [1, 2]
    assert all((latest_run() / event["checkpoint"]).is_dir() for event in saved)


def test_a_wrong_setting_that_shows_late_ends_the_events_with_2(conf, tmp_path):  # noqa: F811
    change("model", path=str(tmp_path / "nothing"))
    assert main(["--conf", conf]) == 2
    ended = events_in(latest_run())[-1]
    assert ended["exit_code"] == 2 and ended["error"]["kind"] == "ConfigError"
    assert "nothing" in ended["error"]["message"]


def test_a_workflow_that_fails_ends_the_events_with_its_reason(conf):  # noqa: F811
    Path("broken.py").write_text(
        "from astuner import Workflow\n"
        "class Broken(Workflow):\n"
        "    async def execute(self, workflow_task, model_tuner):\n"
        "        raise RuntimeError('no key for the shop')\n"
    )
    change("rollout", agentscope_workflow="broken.py->Broken")
    assert main(["--conf", conf]) == 1
    ended = events_in(latest_run())[-1]
    assert ended["exit_code"] == 1 and ended["error"]["kind"] == "BackboneError"
    assert "no key for the shop" in ended["error"]["message"]


@pytest.mark.parametrize(("reaction", "code"), [("stop", 1), ("warn", 0)])
def test_what_a_detector_finds_is_told_with_its_step(conf, reaction, code):  # noqa: F811
    Path("same.py").write_text(
        "from astuner.task_judge.base_judge import BaseJudge\n"
        "class Same(BaseJudge):\n"
        "    def compute_reward(self, workflow_task, workflow_output):\n"
        "        return 0.25, False\n"
    )
    change("task_judge", judge_protocol="same.py->Same")
    change("trainer_common", detectors={"no_spread_steps": 2, "no_spread": reaction})
    assert main(["--conf", conf]) == code
    (finding,) = events_in(latest_run(), "finding")
    assert (finding["step"], finding["detector"]) == (2, "no_spread")
    assert finding["stops"] == (reaction == "stop")
    assert "the reward is always 0.25" in finding["message"]


def test_no_secret_is_told(conf):  # noqa: F811
    """Not even where user code quotes the value of a setting."""
    Path("telling.py").write_text(
        "from astuner.task_judge.base_judge import BaseJudge\n"
        "class Telling(BaseJudge):\n"
        "    def __init__(self, config):\n"
        "        self.key = config.shop.api_key\n"
        "    def compute_reward(self, workflow_task, workflow_output):\n"
        "        raise RuntimeError(f'refused: {self.key}')\n"
    )
    path = Path("adder.yaml")
    settings = yaml.safe_load(path.read_text()) | {"shop": {"api_key": "open sesame 12345"}}
    path.write_text(yaml.safe_dump(settings))
    change("task_judge", judge_protocol="telling.py->Telling")
    assert main(["--conf", conf]) == 1
    ended = events_in(latest_run())[-1]
    assert "refused" in ended["error"]["message"]
    assert "sesame" not in (latest_run() / "events.jsonl").read_text()


def test_events_go_on_behind_those_of_an_earlier_start(tmp_path):
    for _ in range(2):
        RunEvents(RunDir(root=tmp_path)).ended(0)
    assert len(events_in(tmp_path)) == 2


def test_nothing_is_written_where_the_run_directory_is_gone(tmp_path):
    gone = tmp_path / "gone"
    events = RunEvents(RunDir(root=gone))
    with pytest.raises(BackboneError, match="is gone"):
        events.saved(1, gone / "checkpoints/step_1")
    events.ended(0)
    assert not gone.exists()


def test_a_full_disk_is_told_but_for_the_end_which_is_a_warning(tmp_path, caplog):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    run = RunDir(root=tmp_path)
    run.events_file.symlink_to("/dev/full")
    finding = Finding(detector="entropy", message="it fell", stops=False)
    with pytest.raises(AstunerError, match="No space left"):
        RunEvents(run).found(finding, step=1)
    RunEvents(run).ended(1, {"kind": "BackboneError", "message": "the first error"})
    assert "No space left" in caplog.text


def test_exit_codes_are_those_of_the_command():
    assert exit_code_of(ConfigError("")) == 2
    assert exit_code_of(BackboneError("")) == exit_code_of(ZeroDivisionError()) == 1
    assert exit_code_of(KeyboardInterrupt()) == 130 and exit_code_of(Quit(15)) == 143
