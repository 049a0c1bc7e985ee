"""`astuner evaluate`: real rollouts of a real agent, on a tiny model and on a scripted server."""

import asyncio
import json
import os
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")

from astuner import AstunerJob
from astuner.cli import main
from astuner.errors import ConfigError
from astuner.evaluating.named_model import ModelPlaces, find_named_model, served_model
from astuner.evaluating.server_check import checked_server
from astuner.evaluating.sole_start import sole_start
from astuner.evaluation.facts import EvaluationFacts
from astuner.evaluation.read import read_evaluated
from astuner.llm.server import LlmServer
from astuner.models.manifest import RECORD_NAME, write_manifest
from astuner.run_dir import RunDir, append_json_line, read_json_lines
from tests.child_runs import start_command
from tests.full_disk import largest_file
from tests.llm_server import KEY, answers_as_gpt5, refuses, says, serving
from tests.tiny_model import make_tiny_model

AGENT = """
from astuner import Workflow, WorkflowOutput

class Asking(Workflow):
    name: str = "asking"

    async def execute(self, workflow_task, model_tuner):
        client = model_tuner.as_raw_openai_sdk_client()
        asked = [{"role": "user", "content": workflow_task.task.main_query}]
        reply = await client.chat.completions.create(model="m", messages=asked)
        if workflow_task.task.metadata.get("breaks"):
            raise ValueError("broken by its task")
        text = reply.choices[0].message.content
        return WorkflowOutput(reward=float(len(text)), is_success="5" in text)
"""
COMPARING = """
from astuner import WorkflowOutput
from astuner.task_judge.base_judge import GroupJudge
from asking_agent import Asking

class Unjudged(Asking):
    async def execute(self, workflow_task, model_tuner):
        output = await super().execute(workflow_task, model_tuner)
        return WorkflowOutput(metadata={"length": output.reward})

class Longest(GroupJudge):
    def compute_rewards(self, workflow_tasks, workflow_outputs):
        lengths = [output.metadata["length"] for output in workflow_outputs]
        return [(length, length == max(lengths)) for length in lengths]
"""
NUM_TASKS = 3
NO_ADDRESSES = ["http://#m", "http://127.0.0.1:99999/v1#m", "http://[::1/v1#m"]
GATED = ["--model", "TINY", "--model", "TINY"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder)
    return folder


@pytest.fixture
def conf(tiny, tmp_path, monkeypatch):
    """The name of a YAML in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_conf(tmp_path, tiny)
    return "asking.yaml"


def write_conf(folder, model, **changed):
    write_tasks(folder / "tasks.jsonl")
    (folder / "asking_agent.py").write_text(AGENT)
    files = {"file_path": "tasks.jsonl"}
    settings = {
        "model": {"path": model and str(model), "dtype": "float32"},
        "task_reader": {
            "type": "jsonl_dataset_file",
            "jsonl_dataset_file": {"training": files, "validation": files},
        },
        "data": {"max_prompt_length": 200, "max_response_length": 200},
        "rollout": {
            "agentscope_workflow": "asking_agent.py->Asking",
            "max_model_len": 512,
            "max_response_length_in_one_turn": 8,
            "compute_madness_checklist": [],
            "val_kwargs": {"do_sample": True, "temperature": 1.0},
        },
        **changed,
    }
    (folder / "asking.yaml").write_text(yaml.safe_dump({"astuner": settings}))


def write_tasks(path, *, broken=(), num_tasks=NUM_TASKS):
    tasks = [
        {
            "main_query": f"What is {i} plus 3?",
            "task_id": f"sum-{i}",
            "metadata": {
                "kind": "even" if i % 2 == 0 else "odd",
                "breaks": i in broken,
                "parts": [i, 3],
            },
        }
        for i in range(num_tasks)
    ]
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))


def evaluations():
    """The run directories, the oldest first."""
    runs = RunDir.all(Path("launcher_record"), "asking")
    return [run for run in runs if (run.root / "evaluation.json").exists()]


def recorded(run):
    return list(read_json_lines(run.episodes_file(0, "validation")))


def said_in(run):
    """What the model said in each episode, whatever the order in which they ended."""
    return {
        record["episode_id"]: [call["completion_ids"] for call in record["calls"]]
        for record in recorded(run)
    }


def test_an_evaluation_has_a_run_directory_beside_the_latest_and_goes_on_when_cut(conf, capsys):
    training = RunDir.create(Path("launcher_record"), "asking")
    arguments = ["evaluate", "--conf", conf, "--repeat", "2"]
    assert main(arguments) == 0
    (run,) = evaluations()
    latest = RunDir.latest(Path("launcher_record"), "asking")
    assert latest is not None and latest.root == training.root.resolve()
    facts = EvaluationFacts.read(run.root)
    assert (facts.split, facts.num_tasks, facts.num_repeat) == ("validation", NUM_TASKS, 2)
    assert facts.decides["rollout.val_kwargs.temperature"] == 1.0
    evaluated = read_evaluated(run.root)
    assert [len(task.attempts) for task in evaluated.tasks] == [2] * NUM_TASKS
    assert all(a.num_sampled_tokens for task in evaluated.tasks for a in task.attempts)
    assert main(["show", str(run.root), "--step", "0", "--validation"]) == 0
    assert "sum-2" in capsys.readouterr().out

    said = said_in(run)
    path = run.episodes_file(0, "validation")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # as a kill leaves it
    with run.in_use():
        assert main(arguments) == 2
    assert "under way" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "3 of 6 episodes are there already" in capsys.readouterr().err
    assert evaluations() == [run] and said_in(run) == said and len(recorded(run)) == 6
    assert main(arguments) == 0
    assert "nothing is done again" in capsys.readouterr().err


def test_other_tasks_settings_or_code_are_another_evaluation(conf):
    def num_after(*arguments):
        assert main(["evaluate", "--conf", conf, *arguments]) == 0
        return len(evaluations())

    assert num_after("--max-tasks", "2") == 1
    assert num_after("--max-tasks", "2", "astuner.rollout.val_kwargs.temperature=0.5") == 2
    Path("asking_agent.py").write_text(AGENT.replace('"5" in text', '"7" in text'))
    os.utime("asking_agent.py", (1, 1))
    assert num_after("--max-tasks", "2", "astuner.rollout.max_env_worker=3") == 3
    assert num_after("--max-tasks", "2", "--again") == 4


def test_failed_episodes_are_counted_apart_and_done_again_only_when_asked(conf, capsys):
    write_tasks(Path("tasks.jsonl"), broken=(1,))
    assert main(["evaluate", "--conf", conf, "--json"]) == 0
    (run,) = evaluations()
    (scores,) = json.loads(capsys.readouterr().out)["models"]
    assert scores["scores"]["num_failed"] == 1 and scores["scores"]["num_episodes"] == NUM_TASKS
    before = run.episodes_file(0, "validation").stat().st_mtime_ns
    assert main(["evaluate", "--conf", conf]) == 0
    assert run.episodes_file(0, "validation").stat().st_mtime_ns == before
    Path("asking_agent.py").write_text(AGENT)
    assert main(["evaluate", "--conf", conf, "--retry-failed"]) == 0
    assert len(recorded(run)) == NUM_TASKS
    (aside,) = run.set_aside_dir.glob("*/episodes/*.jsonl")
    assert [record["task"]["task_id"] for record in read_json_lines(aside)] == ["sum-1"]


def test_a_server_is_evaluated_with_its_own_count_of_tokens_and_compared(
    conf, tiny, capsys, monkeypatch
):
    monkeypatch.setenv("SOME_KEY", KEY)

    def answer(body):
        if body["model"] != "good":
            return refuses(404, "no such model")
        return says("5", tokens=(40, 6))

    with serving(answer) as server:
        address = f"{server.base_url}#good"
        arguments = ["evaluate", "--conf", conf, "--api-key-env", "SOME_KEY", "--model", address]
        assert main(arguments) == 0
        assert {body["temperature"] for body in server.requests} == {1.0}
        assert set(server.keys) == {KEY} and len(server.requests) == 1 + NUM_TASKS
        (run,) = evaluations()
        attempts = [task.attempts[0] for task in read_evaluated(run.root).tasks]
        assert {(a.num_prompt_tokens, a.num_sampled_tokens) for a in attempts} == {(40, 6)}
        assert all(attempt.is_success for attempt in attempts)
        files = [path.read_text() for path in run.root.rglob("*") if path.is_file()]
        assert not any(KEY in text for text in files)
        assert main(["evaluate", "--conf", conf, "--model", f"{server.base_url}#bad"]) == 2
        assert "404" in capsys.readouterr().err
        gated = [*arguments[:-2], "--model", str(tiny), *arguments[-2:], "--json"]
        gated += ["astuner.evaluation.gate.min_gain=0.9", "astuner.evaluation.gate.max_failed=0"]
        assert main(gated) == 3  # the interval of three tasks reaches far below
        found = json.loads(capsys.readouterr().out)
        (compared,) = found["comparisons"]
        rules = compared["gate"]["rules"]
        assert [rule["outcome"] for rule in rules] == ["undecided", "passed"]
        assert [model["is_whole"] for model in found["models"]] == [True, True]


def test_a_server_that_wants_another_limit_and_temperature_is_evaluated(conf, caplog):
    cooler = "astuner.rollout.val_kwargs.temperature=0.5"
    with serving(answers_as_gpt5) as server:
        model = ["--model", f"{server.base_url}#gpt-5"]
        assert main(["evaluate", "--conf", conf, *model, cooler]) == 0
    (run,) = evaluations()
    tasks = read_evaluated(run.root).tasks
    assert len(tasks) == NUM_TASKS and all(task.attempts[0].is_success for task in tasks)
    assert len([r for r in caplog.records if r.name == "astuner.llm.dialect"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "http://127.0.0.1:9/v1#m"], "nobody answers there"),
        (["--by", "parts"], "there are breaks, kind"),
        ([*GATED, "astuner.evaluation.gate.not_worse_on={colour: []}"], "no task has such a tag"),
        ([*GATED, "astuner.evaluation.gate.guard=lost.jsonl"], "gate.guard lost.jsonl: it is"),
        (["--split", "tests"], "neither test nor validation"),
        (["--split", "test"], "no test tasks"),
        (["--split", "empty.jsonl"], "holds no task"),
    ],
)
def test_what_cannot_be_meant_is_said_before_a_run_directory_is_made(
    conf, tiny, capsys, arguments, words
):
    Path("empty.jsonl").write_text("")
    models = [str(tiny) if argument == "TINY" else argument for argument in arguments]
    assert main(["evaluate", "--conf", conf, *models]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert evaluations() == []


def test_a_refused_key_is_told_with_the_variable_that_it_is_read_from(conf, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(lambda _: refuses(401, "no key")) as server:
        assert main(["evaluate", "--conf", conf, "--model", f"{server.base_url}#m"]) == 2
    assert "OPENAI_API_KEY, and it is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('"Welcome"', "none but 'Welcome'"),
        ("<html>Welcome</html>", "cannot be read"),
        ("null", "none but 'None'"),
        ('{"data": [', "cannot be read"),
        ('{"data": [{"id": null}, 5]}', "lists no model"),
        ('{"data": [{"id": "a"}, {"id": "b"}]}', "NAME is one of a, b"),
    ],
)
def test_a_server_that_does_not_tell_its_one_model_is_asked_nothing(answer, words):
    with serving(lambda _: says("5"), listed=answer.encode()) as server:
        named = served_model(LlmServer.read(server.base_url, "NO_KEY", {}), "")
        with pytest.raises(ConfigError, match=re.escape(words)):
            asyncio.run(checked_server(named, temperature=0.0))
        assert server.requests == []


def test_a_model_that_does_not_load_leaves_the_others_their_turn(conf, tiny, tmp_path, capsys):
    broken = tmp_path / "broken"
    make_tiny_model(broken)
    (broken / "model.safetensors").write_bytes(b"torn")
    changed = tmp_path / "checkpoints" / "step_1"
    make_tiny_model(changed)
    (changed / RECORD_NAME).write_text("{}")
    write_manifest(changed)
    with (changed / "model.safetensors").open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"!")  # it loads all the same
    write_conf(tmp_path, None, backbone="verl")
    models = ["--model", str(broken), "--model", str(changed), "--model", str(tiny)]
    assert main(["evaluate", "--conf", conf, *models, "--json"]) == 1
    captured = capsys.readouterr()
    first, second, third = json.loads(captured.out)["models"]
    assert first["error"] and first["scores"]["num_episodes"] == 0
    assert second["run_dir"] is None and f"{changed} is not evaluated" in captured.err
    assert "model.safetensors is not as it was written" in captured.err
    assert third["error"] is None and third["scores"]["num_episodes"] == NUM_TASKS
    assert "BackboneError" in captured.err and "the YAML's backbone is verl" in captured.err


def test_the_best_checkpoint_is_called_too_good_on_the_tasks_that_chose_it(conf, capsys):
    run = make_checkpoints()
    assert main(["evaluate", "--conf", conf, "--model", "best", "--model", run.root.name]) == 0
    said = capsys.readouterr().err
    assert "its best checkpoint" in said and "too good" in said
    (found,) = evaluations()  # the same model under two names is evaluated once
    facts = EvaluationFacts.read(found.root)
    assert facts.model.endswith("checkpoints/step_1") and facts.best_of == str(run.root.resolve())
    other = {"task": {"main_query": "another question"}}
    append_json_line(run.episodes_file(1, "validation"), other)
    assert main(["evaluate", "--conf", conf, "--model", "best"]) == 0
    assert "too good" not in capsys.readouterr().err


def make_checkpoints():
    """A run with two, of which the first is the best."""
    run = RunDir.create(Path("launcher_record"), "asking")
    for step in (1, 2):
        make_tiny_model(run.checkpoint_dir(step))
    run.point_best_to(run.checkpoint_dir(1))
    return run


def test_a_checkpoint_may_be_named_in_the_ways_that_people_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_checkpoints()
    other = RunDir.create(Path("launcher_record"), "asking", is_latest=False)  # no checkpoints
    said = []
    places = ModelPlaces(
        experiment_dir=tmp_path / "launcher_record",
        experiment_name="asking",
        search_dirs=[tmp_path],
        api_key_env="NO_KEY",
        say=said.append,
    )
    one, two = (run.checkpoint_dir(step).resolve() for step in (1, 2))
    start, folder = run.root.name, run.root
    for asked, meant in {
        "best": one,
        "last": two,
        start: one,
        "latest": one,
        f"asking/{start}/last": two,
        f"{start}/step_2": two,
        str(folder): one,
        f"{folder}/": one,
        f"{folder}/checkpoints": one,
        f"{folder}/checkpoints/best": one,
        f"{folder}/checkpoints/step_2": two,
    }.items():
        assert find_named_model(asked, places).path == str(meant), asked
    assert len(said) == 7  # wherever it was not named itself
    for asked in (f"{start}/step_3", other.root.name, "./nothing", *NO_ADDRESSES):
        with pytest.raises(ConfigError, match=re.escape(f"--model {asked}")):
            find_named_model(asked, places)
    with pytest.raises(ConfigError, match="user name or password") as refused:
        find_named_model("http://me:pw@127.0.0.1:9/v1#m", places)
    assert "pw" not in str(refused.value).replace("password", "")


@pytest.mark.slow
def test_a_killed_evaluation_keeps_its_episodes(conf, tmp_path):
    write_tasks(Path("tasks.jsonl"), num_tasks=12)
    arguments = ["evaluate", "--conf", conf, "astuner.rollout.max_env_worker=1"]
    with (tmp_path / "screen").open("wb") as screen:
        child = start_command(
            arguments, folder=tmp_path, stdout=screen.fileno(), stderr=screen.fileno()
        )
        wait_for_episode(child)
        child.kill()
        child.wait()
    (run,) = evaluations()
    done = {record["episode_id"] for record in recorded(run)}
    assert 0 < len(done) < 12
    assert main(arguments) == 0
    assert len(recorded(run)) == 12 and len(evaluations()) == 1


def wait_for_episode(child):
    while not any(run.episodes_file(0, "validation").exists() for run in evaluations()):
        assert not re.search("Error", Path("screen").read_text())
        os.sched_yield()


def test_evaluations_in_one_folder_start_one_after_the_other(tmp_path):
    with sole_start(tmp_path), pytest.raises(ConfigError, match="another evaluation in"):
        sole_start(tmp_path, max_seconds=0).__enter__()
    with sole_start(tmp_path, max_seconds=0):
        pass


def test_a_disk_that_is_full_from_the_start_leaves_no_run_directory(conf, capsys):
    with largest_file(4000):  # room for the start, and not for what is evaluated
        assert main(["evaluate", "--conf", conf]) == 1
    assert "then give the same command again" in capsys.readouterr().err
    assert list(Path("launcher_record/asking").glob("2*")) == []


def test_a_job_evaluates_from_python(conf, tiny):
    job = AstunerJob().build_job_from_yaml(conf).set("project_name", "asking")
    found = job.evaluate(models=[str(tiny)], split="validation", repeat=2)
    (model,) = found.models
    assert model.is_whole and model.scores.total.num_episodes == 2 * NUM_TASKS
    assert "success" in found.text


@pytest.mark.slow
def test_a_compared_group_that_was_cut_is_done_again_whole(conf):
    Path("comparing.py").write_text(COMPARING)
    arguments = ["evaluate", "--conf", conf, "--repeat", "2", "--max-tasks", "2"]
    arguments += ["astuner.task_judge.judge_protocol=comparing.py->Longest"]
    arguments += ["astuner.rollout.agentscope_workflow=comparing.py->Unjudged"]
    assert main(arguments) == 0
    (run,) = evaluations()
    said, path = said_in(run), run.episodes_file(0, "validation")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    assert main(arguments) == 0
    assert said_in(run) == said and len(recorded(run)) == 4
    (aside,) = run.set_aside_dir.glob("*/episodes/*.jsonl")
    assert aside.read_bytes() == lines[0]
