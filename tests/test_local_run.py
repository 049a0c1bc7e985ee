"""Whole runs of the local and debug backbones: a real agent, a real tool, a real tiny model."""

import functools
import importlib.metadata
import json
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("agentscope")
pytest.importorskip("torch")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from astuner import AstunerJob
from astuner.cli import main
from astuner.run_dir import read_json_lines
from astuner.trajectory.record import episode_from_record
from tests.agents.adder import SYSTEM_PROMPT, AdderWorkflow, make_toolkit
from tests.taught_model import make_taught_model

ROOT = Path(__file__).parent.parent
AGENTS = ROOT / "tests" / "agents"
QUESTION = "What is 2 plus 3?"
SWALLOWING = """
import openai
from astuner import Workflow, WorkflowOutput

class Swallowing(Workflow):
    name: str = "swallowing"

    async def execute(self, workflow_task, model_tuner):
        client = model_tuner.as_raw_openai_sdk_client()
        messages = [{"role": "user", "content": "hi"}]
        try:
            await client.chat.completions.create(model="m", messages=messages, logit_bias={"5": 1})
        except openai.APIError:
            pass
        return WorkflowOutput(reward=float(workflow_task.attempt), is_success=True)
"""


@pytest.fixture(scope="session")
def taught_model(tmp_path_factory):
    """Calls add(2, 3), then answers 5 or 6."""
    return _make_adder(tmp_path_factory.getbasetemp() / "taught")


@functools.cache  # a fixture that several modules import is made for each of them
def _make_adder(folder: Path) -> Path:
    folder.mkdir()
    call = {
        "id": "",
        "type": "function",
        "function": {"name": "add", "arguments": {"a": 2, "b": 3}},
    }
    start = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "5"},
    ]
    answers = [[*start, {"role": "assistant", "content": text}] for text in ("5", "6")]
    make_taught_model(folder, answers, make_toolkit().get_json_schemas())
    return folder


def write_conf(folder, model):
    """A YAML beside four tasks."""
    tasks = [
        {"main_query": QUESTION, "task_id": str(i), "metadata": {"answer": "5"}} for i in range(4)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    files = {"file_path": "tasks.jsonl"}
    settings = {
        "model": {"path": str(model), "dtype": "float32"},
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": files, "validation": files},
        },
        "data": {
            "train_batch_size": 2,
            "max_prompt_length": 700,
            "max_response_length": 700,
            "max_validation_tasks": 2,
        },
        "rollout": {
            "agentscope_workflow": f"{AGENTS}/adder.py->AdderWorkflow",
            "num_repeat": 4,
            "temperature": 1.0,
            "max_model_len": 1024,
            "max_response_length_in_one_turn": 80,
            "compute_madness_checklist": [],
        },
        "task_judge": {
            "judge_protocol": "astuner.task_judge.math_answer_as_judge->MathAnswerAsJudge"
        },
        "trainer_common": {
            "total_training_steps": 2,
            "val_before_train": True,
            "test_freq": 1,
            "save_freq": 1,
            "optim": {"lr": 1e-4},
        },
    }
    (folder / "adder.yaml").write_text(yaml.safe_dump({"astuner": settings}))


@pytest.fixture
def conf(taught_model, tmp_path, monkeypatch):
    """The YAML's name; its folder is the current one."""
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, taught_model)
    return "adder.yaml"


@pytest.fixture(scope="session")
def finished_run(taught_model, tmp_path_factory):
    """The run directory of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    write_conf(folder, taught_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["--conf", "adder.yaml"]) == 0
        return latest_run()


def latest_run(stem="adder"):
    return (Path("launcher_record") / stem / "latest").resolve()


def lines(path):
    return list(read_json_lines(path))


def test_a_react_agent_with_a_tool_is_trained_for_two_steps(finished_run):
    before, first, second = lines(finished_run / "metrics.jsonl")
    assert before["step"] == 0 and before["validation/episodes"] == 2
    assert first["rollout/episodes"] == 8 and first["rollout/failed_episodes"] == 0
    assert second["train/updates"] == 1 and second["train/grad_norm"] > 0
    assert 0 <= second["train/logprob_gap_max"] < 1e-3
    assert second["validation/success_rate"] <= 1


def explained_metrics():
    """Patterns of the names in the table, where `…_max` is the name before it with another end."""
    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    table = page.partition("## Metrics")[2].partition("## Episodes")[0]
    for cell in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE):
        first, *others = re.findall("`([^`]+)`", cell)
        yield re.sub("<.*>", r"\\w+", first)
        yield from (other.replace("…", first.rpartition("_")[0]) for other in others)


def test_every_metric_of_a_run_is_explained(finished_run):
    written = {name for line in lines(finished_run / "metrics.jsonl") for name in line} - {"step"}
    patterns = "|".join(explained_metrics())
    assert [name for name in sorted(written) if not re.fullmatch(patterns, name)] == []


def test_the_records_prove_that_each_episode_was_one_sequence_with_a_tool_result(finished_run):
    records = lines(finished_run / "episodes/step_000001.jsonl")
    episodes = [episode_from_record(record) for record in records]
    assert len(episodes) == 8
    with_tool = [episode for episode in episodes if len(episode.calls) == 2]
    assert with_tool
    for episode in with_tool:
        (sequence,) = episode.sequences
        assert sequence.ids == episode.calls[1].ids
        assert [span.is_trained for span in sequence.spans] == [False, True, False, True]


def test_the_checkpoint_loads_and_differs_from_the_start(finished_run, taught_model):
    folder = finished_run / "checkpoints/step_2"
    tuned = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(taught_model)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    pairs = zip(tuned.parameters(), base.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)
    assert (finished_run / "checkpoints/step_1").is_dir()


def test_a_finished_run_is_judged_again_from_its_records_alone(
    finished_run, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    math = "astuner.task_judge.math_answer_as_judge->MathAnswerAsJudge"
    judges = ["--judge", math, "--judge", f"{AGENTS}/adder.py->judge_alike"]
    assert main(["judge", str(finished_run), *judges, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    num_validated, num_trained = 3 * 2, 2 * 2 * 4
    assert [judge["num_judged"] for judge in found["judges"]] == [num_validated + num_trained] * 2
    same, with_all, _ = (pair["agreement"] for pair in found["pairs"])
    assert same["successes"]["agreement"]["rate"] == 1
    assert with_all["rewards"]["constant_second"] == 1 and with_all["rewards"]["spearman"] is None
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


def test_the_same_seed_gives_the_same_run(conf, finished_run):
    main(["--conf", conf])
    runs = [lines(run / "metrics.jsonl")[1:] for run in (finished_run, latest_run())]
    for key in ("reward/mean", "rollout/tokens", "train/tokens"):
        assert [line[key] for line in runs[0]] == [line[key] for line in runs[1]]


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_saves_the_weights_and_has_its_own_code(conf, capfd, monkeypatch, sent, code):
    monkeypatch.setenv("SENT", sent)
    path = f"{AGENTS}/adder.py->InterruptingWorkflow"
    assert main(["--conf", conf, f"astuner.rollout.agentscope_workflow='{path}'"]) == code
    assert (latest_run() / "checkpoints/step_1/astuner.json").is_file()
    assert "stopping" in capfd.readouterr().err


def test_debug_prints_conversations_and_verdicts_and_trains_nothing(conf, capfd):
    assert main(["--conf", conf, "--backbone=debug"]) == 0
    shown = capfd.readouterr().err
    assert QUESTION in shown and "reward" in shown and "by judge" in shown
    assert not (latest_run() / "checkpoints").exists()


def test_a_run_whose_episodes_all_fail_stops_with_the_reason(conf, capfd):
    path = f"{AGENTS}/adder.py->BrokenWorkflow"
    assert main(["--conf", conf, f"astuner.rollout.agentscope_workflow='{path}'"]) == 1
    assert "the tool server is down" in capfd.readouterr().err


def test_a_run_whose_calls_are_all_refused_stops_with_the_refusal(conf, capfd):
    Path("swallowing.py").write_text(SWALLOWING)
    workflow = "astuner.rollout.agentscope_workflow=swallowing->Swallowing"
    no_validation = "astuner.trainer_common.val_before_train=false"
    assert main(["--conf", conf, workflow, no_validation]) == 1
    shown = capfd.readouterr().err
    assert "step 1: no model call of 8 episodes was answered" in shown
    assert "/v1/chat/completions 400 logit_bias" in shown
    assert shown.count("call refused path=") == 1


def test_a_path_that_is_no_workflow_says_what_its_module_defines(conf, capfd):
    path = f"{AGENTS}/adder.py->NOT_A_WORKFLOW"
    assert main(["--conf", conf, f"astuner.rollout.agentscope_workflow='{path}'"]) == 2
    shown = capfd.readouterr().err
    assert "of type int, not a subclass of astuner.workflow.Workflow" in shown
    assert "AdderWorkflow" in shown


@pytest.mark.parametrize("backbone", ["verl", "trinity"])
def test_a_backbone_without_its_environment_names_the_command_that_makes_it(
    conf, capfd, monkeypatch, backbone
):
    monkeypatch.setattr("importlib.metadata.version", _not_installed)
    assert main(["--conf", conf, f"--backbone={backbone}"]) == 2
    assert f"`astuner setup {backbone}`" in capfd.readouterr().err


def _not_installed(name):
    raise importlib.metadata.PackageNotFoundError(name)


def test_flags_of_a_cluster_are_no_error_where_none_is_needed(conf, capfd):
    steps = "astuner.trainer_common.total_training_steps=1"
    assert main(["--conf", conf, "--backbone=debug", "--with-ray", steps]) == 0
    assert "the backbone debug runs without Ray" in capfd.readouterr().err


def test_a_job_from_python_makes_the_same_run(conf, taught_model):
    job = AstunerJob(model=str(taught_model)).build_job_from_yaml(conf).set_workflow(AdderWorkflow)
    result = job.set("trainer_common.total_training_steps", 1).tune()
    assert result.checkpoint.name == "step_1" and result.run_dir.is_dir()
    assert result.metrics["rollout/episodes"] == 8


def test_agents_over_http_are_tuned_token_by_token(conf):
    workflow = f"astuner.rollout.agentscope_workflow={AGENTS}/http_adder.py->HttpAdderWorkflow"
    assert main(["--conf", conf, workflow, "astuner.gateway.client_sampling=replace"]) == 0
    run = latest_run()
    metrics = lines(run / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [0, 1, 2] and metrics[-1]["train/updates"] > 0
    assert 0 <= metrics[-1]["train/logprob_gap_max"] < 1e-3
    records = lines(run / "episodes/step_000001.jsonl")
    episodes = [episode_from_record(record) for record in records]
    with_tool = [episode for episode in episodes if len(episode.calls) == 2]
    assert len(episodes) == 8 and with_tool
    for episode in with_tool:
        assert {call.agent_name for call in episode.calls} == {"adder"}
        assert {call.temperature for call in episode.calls} == {1.0}
        (sequence,) = episode.sequences
        assert sequence.ids == episode.calls[1].ids
        assert [span.is_trained for span in sequence.spans] == [False, True, False, True]


def test_calls_are_trained_with_advantages_of_their_own(conf):
    workflow = f"{AGENTS}/adder_and_checker.py->AdderAndCheckerWorkflow"
    settings = {
        "rollout.agentscope_workflow": workflow,
        "rollout.gamma": 0.5,
        "trainer_common.algorithm.adv_estimator": "return_to_go",
        "trainer_common.record_training": True,
        "trainer_common.val_before_train": False,
    }
    arguments = [f"astuner.{key}={value}" for key, value in settings.items()]
    assert main(["--conf", conf, *arguments]) == 0
    run = latest_run()
    assert lines(run / "metrics.jsonl")[-1]["train/updates"] == 1
    trained = [line for step in (1, 2) for line in lines(run / f"training/step_{step:06d}.jsonl")]
    of_several = [line["call_advantages"] for line in trained if len(line["call_advantages"]) > 1]
    assert any(len({value for _, value in runs}) > 1 for runs in of_several)
