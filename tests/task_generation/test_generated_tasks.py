"""Runs, readers and jobs whose tasks are made when they are missing."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import astuner
from astuner.backbone.judge_of_answers import answer_kind, judge_of_answers
from astuner.cli.main import main
from astuner.config.load import load_config
from astuner.config.usage import describe_unused
from astuner.errors import BackboneError, ConfigError
from astuner.task_generation import DataGeneratorTaskReader
from astuner.task_reader import make_task_reader
from astuner.types import Task
from tests.llm_server import ScriptedServer, says, serving
from tests.task_generation.writing_model import write_facts, writes_tasks

WORKFLOW = """
from astuner import Workflow, WorkflowOutput


class Echo(Workflow):
    async def execute(self, workflow_task, model_tuner):
        task = workflow_task.task
        right = task.metadata["answer"] in task.metadata.get("evidence", task.metadata["answer"])
        return WorkflowOutput(reward=float(right), metadata={"question": task.main_query})
"""
UPSTREAM = """\
astuner:
  task_reader:
    type: data_generation
    data_generation:
      document_reader:
        document_path:
          - docs/part_0.md
          - docs/part_1.md
        languages:
          - eng
        chunk_size: 5120
        split_by: "sentence"
        cache_enabled: true
      query_reader:
        type: dataset_file
        dataset_file:
          training:
            file_path: seeds.jsonl
      task_num: 6
      llm_model: qwen-long
      llm_response_length: 8192
      num_workers: 32
      sampling_params:
        temperature: 0
      deduplication_filter:
        enabled: true
        params:
          similarity_threshold: 0.8
          db_path: ./.similarity_db
          model: text-embedding-v4
          api_key: null
          base_url: https://dashscope.aliyuncs.com/compatible-mode/v1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    write_facts(tmp_path / "docs", num_documents=4)
    (tmp_path / "echo_agent.py").write_text(WORKFLOW)
    return tmp_path


def generation(**section: Any) -> dict[str, Any]:
    return {"document_reader": {"document_path": ["docs"]}, "task_num": 6, **section}


def write_run(server: ScriptedServer | None, reader: dict[str, Any]) -> None:
    """run.yaml: a run of the backbone debug that needs no model to be tuned."""
    content = {
        "backbone": "debug",
        "debug": {
            "openai_base_url": "http://127.0.0.1:9/v1",
            "openai_model": "none",
            "debug_first_n_tasks": 3,
        },
        "rollout": {"agentscope_workflow": "echo_agent.py->Echo"},
        "task_reader": reader,
        "llm": {"base_url": server.base_url if server else "http://127.0.0.1:9/v1", "model": "m"},
    }
    Path("run.yaml").write_text(yaml.safe_dump({"astuner": content}))


def questions_of_run() -> list[str]:
    files = sorted(Path("launcher_record/run/latest/episodes").glob("*.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [record["task"]["main_query"] for record in records]


def questions(path: str) -> list[str]:
    return [json.loads(line)["main_query"] for line in Path(path).read_text().splitlines()]


def test_a_run_makes_the_tasks_that_it_lacks_and_uses_them_again(folder, capsys):
    with serving(writes_tasks) as server:
        write_run(server, {"type": "data_generation", "data_generation": generation()})
        assert main(["--conf", "run.yaml"]) == 0
        num_requests = len(server.requests)
    made = questions("generated_tasks/run/train.jsonl")
    assert num_requests and set(questions_of_run()) == set(made[:3])
    assert "tasks: m makes 6 in" in capsys.readouterr().err
    assert main(["--conf", "run.yaml"]) == 0, "no server is there any more"
    assert "are used again" in capsys.readouterr().err
    assert set(questions_of_run()) == set(made[:3])


def test_a_run_names_the_documents_that_are_not_read(folder, capsys):
    Path("docs/torn.txt").write_bytes(b"\0torn")
    with serving(writes_tasks) as server:
        write_run(server, {"type": "data_generation", "data_generation": generation()})
        assert main(["--conf", "run.yaml"]) == 0
    told = capsys.readouterr().err
    assert "documents: 4, chunks: 4, seeds: 0" in told
    assert "not read: torn.txt: it is no text but binary data" in told
    assert "  : 0 of" not in told, "progress without a name"


def test_a_run_makes_more_where_there_are_too_few(folder, capsys):
    with serving(writes_tasks) as server:
        write_run(server, {"type": "data_generation", "data_generation": generation(task_num=4)})
        assert main(["generate", "--conf", "run.yaml"]) == 0
        before = questions("generated_tasks/run/train.jsonl")
        override = "astuner.task_reader.data_generation.task_num=8"
        assert main(["--conf", "run.yaml", override]) == 0
    after = questions("generated_tasks/run/train.jsonl")
    assert set(before) < set(after)


def test_a_source_of_a_mixture_is_made_too(folder):
    Path("sums.jsonl").write_text('{"main_query": "2+3?", "answer": "5"}\n' * 1)
    sums = {"training": {"file_path": "sums.jsonl"}}
    sources = {
        "guide": {"type": "data_generation", "data_generation": generation()},
        "sums": {"type": "jsonl_dataset_file", "jsonl_dataset_file": sums},
    }
    with serving(writes_tasks) as server:
        write_run(server, {"type": "mixture", "mixture": {"sources": sources}})
        assert main(["--conf", "run.yaml"]) == 0
    made = questions("generated_tasks/run/guide/train.jsonl")
    asked = set(questions_of_run())
    assert "2+3?" in asked and asked - {"2+3?"} <= set(made)


def test_pass_rates_are_measured_by_the_workflow_of_the_yaml(folder, capsys):
    """Of its two attempts at a task the first one succeeds; at tasks about doors, none does."""
    Path("echo_agent.py").write_text(
        WORKFLOW.replace(
            "float(right)", "float(workflow_task.attempt == 0 and 'door' not in task.main_query)"
        )
    )
    with serving(writes_tasks) as server:
        rates = {"enabled": True, "num_attempts": 2, "base_url": server.base_url, "model": "m"}
        section = generation(pass_rate=rates)
        write_run(server, {"type": "data_generation", "data_generation": section})
        assert main(["generate", "--conf", "run.yaml"]) == 0
    lines = Path("generated_tasks/run/train.jsonl").read_text().splitlines()
    tasks = [json.loads(line) for line in lines]
    assert {task["metadata"]["pass_rate"] for task in tasks} == {0.5}
    assert not [task for task in tasks if "door" in task["main_query"]]
    assert "pass_rate" in capsys.readouterr().out


def test_a_run_whose_model_writes_nothing_says_what_to_do(folder, capsys):
    with serving(lambda _body: says("I'm sorry, no.")) as server:
        write_run(server, {"type": "data_generation", "data_generation": generation(task_num=2)})
        assert main(["--conf", "run.yaml"]) == 1
    assert "none of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "package"), [([], "phonenumbers"), (["generate"], "detect_secrets.plugins")]
)
def test_a_missing_package_is_told_before_anything_is_asked(
    folder, monkeypatch, capsys, command, package
):
    """Also before the seeds are embedded."""
    monkeypatch.setitem(sys.modules, package, None)
    Path("seeds.jsonl").write_text('{"main_query": "What is the limit of it?", "answer": "3"}\n')
    seeds = {"jsonl_dataset_file": {"training": {"file_path": "seeds.jsonl"}}}
    with serving(writes_tasks) as server:
        section = generation(
            query_reader=seeds,
            filter={"params": {"base_url": server.base_url, "api_key": "k"}},
        )
        write_run(server, {"type": "data_generation", "data_generation": section})
        assert main([*command, "--conf", "run.yaml"]) == 2
        assert not server.requests
    assert "pip install 'astuner[generation]'" in capsys.readouterr().err


def test_the_configuration_of_a_run_names_the_folder(folder):
    """A process of a cluster has another current directory."""
    with serving(writes_tasks) as server:
        write_run(server, {"type": "data_generation", "data_generation": generation()})
        assert main(["generate", "--conf", "run.yaml"]) == 0
    Path("echo_agent.py").write_text(
        WORKFLOW.replace(
            '{"question": task.main_query}',
            '{"folder": model_tuner.config.astuner.task_reader.data_generation.output_dir}',
        )
    )
    assert main(["--conf", "run.yaml"]) == 0
    (file,) = Path("launcher_record/run/latest/episodes").glob("*.jsonl")
    record = json.loads(file.read_text().splitlines()[0])
    assert str(folder / "generated_tasks" / "run") in json.dumps(record)


# the settings of other releases


def test_a_file_of_another_release_works_unchanged(folder):
    Path("upstream.yaml").write_text(UPSTREAM)
    Path("seeds.jsonl").write_text('{"main_query": "What is the limit of it?", "answer": "3"}\n')
    with serving(writes_tasks) as server:
        address = f"astuner.llm.base_url={server.base_url}"
        assert main(["generate", "--conf", "upstream.yaml", address]) == 0
    made = questions("generated_tasks/upstream/train.jsonl")
    made += questions("generated_tasks/upstream/validation.jsonl")
    assert len(made) == 6
    asked = [body["messages"][0]["content"] for body in server.requests]
    assert any("What is the limit of it?" in text for text in asked), "seeds are shown"
    assert {body["model"] for body in server.requests} == {"qwen-long"}


def test_seeds_are_read_by_any_reader_with_its_defaults(folder):
    Path("seeds").mkdir()
    Path("seeds/train.jsonl").write_text('{"question": "What is the limit of it?", "answer": "3"}')
    seeds = {"type": "huggingface_dat_repo", "huggingface_dat_repo": {"dataset_path": "seeds"}}
    section = generation(query_reader=seeds)
    with serving(writes_tasks) as server:
        write_run(server, {"type": "data_generation", "data_generation": section})
        loaded = load_config(Path("run.yaml"))
        filled = loaded.settings.task_reader.data_generation.query_reader.huggingface_dat_repo
        assert filled is not None and filled.query_column == "question"
        assert main(["generate", "--conf", "run.yaml"]) == 0
    asked = [body["messages"][0]["content"] for body in server.requests]
    assert any("What is the limit of it?" in text for text in asked)


def test_a_slip_in_the_section_of_seeds_is_named(folder):
    write_run(None, {"data_generation": {"query_reader": {"harbor": {"pth": "x"}}}})
    with pytest.raises(ConfigError, match=r"query_reader\.harbor\.pth"):
        load_config(Path("run.yaml"))


def test_settings_of_a_part_that_is_off_are_named(folder):
    section = generation(pass_rate={"num_attempts": 4})
    write_run(None, {"type": "data_generation", "data_generation": section})
    loaded = load_config(Path("run.yaml"))
    key = "astuner.task_reader.data_generation.pass_rate"
    assert describe_unused(loaded.explicit_keys, loaded.settings) == (
        f"not used while {key}.enabled is false: {key}.num_attempts",
    )


# which answers


@pytest.mark.parametrize(
    ("judge", "kind", "is_asked"),
    [
        ("math_answer_as_judge->MathAnswerAsJudge", "number", True),
        ("exact_match_judge->ExactMatchJudge", "short_text", True),
        ("math_answer_and_llm_as_judge->MathAnswerAndLlmAsJudge", "number", False),
        ("llm_as_judge->LlmAsJudge", "free_text", False),
        (None, "short_text", False),
    ],
)
def test_answers_are_asked_for_as_the_judge_can_judge_by(folder, judge, kind, is_asked):
    write_run(None, {"type": "random_dummy"})
    path = "null" if judge is None else f"'astuner.task_judge.{judge}'"
    loaded = load_config(Path("run.yaml"), [f"astuner.task_judge.judge_protocol={path}"])
    assert answer_kind(loaded.settings, ()) == kind
    asked = judge_of_answers(loaded.settings, loaded.config, ())
    assert (asked is not None) is is_asked
    if asked is not None:
        task = Task(main_query="q", task_id="t", metadata={"answer": "25"})
        assert asyncio.run(asked.is_right(task, "25"))
        assert not asyncio.run(asked.is_right(task, "26"))


# Python


def test_the_reader_says_which_command_makes_the_set(folder):
    with pytest.raises(ConfigError, match=r"no generated set in .*: there is no such folder; make"):
        make_task_reader("data_generation", {"output_dir": "nowhere"}).get_training_tasks()
    with pytest.raises(ConfigError, match="output_dir is not set"):
        make_task_reader("data_generation", {"output_dir": None})


def says_all_is_right(workflow_task, workflow_output):
    return 1.0, True


def test_a_job_makes_tasks_and_tunes_on_them(folder):
    with serving(writes_tasks) as server:
        job = astuner.AstunerJob(backbone="debug").set("debug.openai_model", "none")
        job.set("debug.openai_base_url", "http://127.0.0.1:9/v1")
        job.set_workflow("echo_agent.py->Echo", ensure_reward_in_workflow=True)
        job.set_judge(says_all_is_right)
        made = job.generate("docs", task_num=5, model="m", base_url=server.base_url)
        assert made.folder == folder / "generated_tasks" / "astuner_job"
        assert len(made.training) == 4 and len(made.validation) == 1
        num_requests = len(server.requests)
        assert job.tune().metrics["reward/mean"] == 1.0
        assert len(server.requests) == num_requests


def test_a_job_refuses_to_make_no_task(folder):
    with pytest.raises(ConfigError, match="task_num"):
        astuner.AstunerJob().generate("docs", task_num=0)


def test_the_reader_of_other_releases_makes_the_set_when_it_is_missing(folder):
    with serving(writes_tasks) as server:
        reader = DataGeneratorTaskReader(
            reader_config={"data_generation": generation()},
            llm={"base_url": server.base_url, "model": "m"},
        )
        assert len(reader.get_training_tasks()) == 5
        num_requests = len(server.requests)
        assert len(reader.get_validation_tasks()) == 1
        assert len(server.requests) == num_requests


def test_the_reader_of_other_releases_takes_the_section_of_a_run(folder):
    with serving(writes_tasks) as server:
        write_run(server, {"type": "data_generation", "data_generation": generation()})
        loaded = load_config(Path("run.yaml"))
        reader = DataGeneratorTaskReader(
            reader_config=loaded.config.astuner.task_reader, llm=loaded.config.astuner.llm
        )
        assert len(reader.get_training_tasks()) == 5


def test_a_job_whose_model_refuses_raises_what_came_of_it(folder):
    with (
        serving(lambda _body: says("I'm sorry, no.")) as server,
        pytest.raises(BackboneError, match="none of"),
    ):
        astuner.AstunerJob().generate("docs", task_num=2, model="m", base_url=server.base_url)
