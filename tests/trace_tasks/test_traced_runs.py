"""Runs whose tasks are made from traces before they start, and the settings that ask for it."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from astuner.backbone.assemble import read_tasks
from astuner.backbone.run import Run, RunResult
from astuner.backbone.traced_tasks import WithTracedTasks
from astuner.config.load import load_config
from astuner.config.trace_steps import planned_steps
from astuner.errors import ConfigError
from astuner.run_dir import RunDir
from astuner.task_reader.naming_the_test import has_test_setting, setting_of_test
from astuner.trace_tasks.found import found_address
from astuner.types import Task
from tests.llm_server import says, serving
from tests.runs import make_run
from tests.trace_tasks.conversations import TracesInMemory, shop

pytest.importorskip("detect_secrets")
pytest.importorskip("phonenumbers")

WORKFLOW = """
from astuner import Workflow, WorkflowOutput


class Quiet(Workflow):
    async def execute(self, workflow_task, model_tuner):
        return WorkflowOutput(reward=1.0)
"""
UPSTREAM = """\
astuner:
  task_reader:
    type: tracing
    feedback_tracing:
      base_url: ./database.sqlite
      train_output_path: data/tasks.jsonl
      alien_llm_model: qwen3-235b-a22b-instruct-2507
      alien_llm_response_length: 512
      filters:
        - type: llm_evaluate
          enabled: true
          params:
            custom_rubrics: |
              1. The answer names a depot.
              2. The answer is friendly.
            temperature: 0.5
            print_reason: false
            max_thread: 16
        - type: deduplication
          enabled: true
          params:
            similarity_threshold: 0.8
            db_path: ./.similarity_db
            model: text-embedding-v4
            api_key: null
            base_url: https://dashscope.aliyuncs.com/compatible-mode/v1
"""


class ReadingBackbone:
    """Reads the tasks of the run and does nothing else."""

    def __init__(self) -> None:
        self.training: list[Task] = []
        self.validation: list[Task] = []
        self.file = ""

    async def run(self, run: Run) -> RunResult:
        self.training, self.validation = read_tasks(run)
        self.file = run.config.astuner.task_reader.feedback_tracing.train_output_path
        return RunResult(run_dir=run.run_dir.root)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    (tmp_path / "quiet.py").write_text(WORKFLOW)
    (tmp_path / "database.sqlite").touch()
    return tmp_path


def started(folder: Path, text: str, place: TracesInMemory | None, *overrides: str) -> Any:
    """The backbone behind a start, and what was said; without a place, the settings name it."""
    opened = {} if place is None else {"open_place": lambda *_, **__: place}
    conf, screen, reading = folder / "shop.yaml", io.StringIO(), ReadingBackbone()
    conf.write_text(text)
    always = (
        "astuner.backbone=debug",
        "astuner.model.path=m",
        "astuner.rollout.agentscope_workflow=quiet->Quiet",
        "astuner.data.filter_overlong_prompts=false",
    )
    loaded = load_config(conf, [*always, *overrides])
    run = make_run(loaded, RunDir(root=folder / "run"), screen=screen)
    backbone = WithTracedTasks(reading, file_of=loaded.traced_tasks_file, **opened)
    asyncio.run(backbone.run(run))
    return reading, screen.getvalue()


def settings(**section: Any) -> str:
    reader = {"type": "tracing", "feedback_tracing": {"base_url": "database.sqlite", **section}}
    return yaml.safe_dump({"astuner": {"task_reader": reader}})


def test_a_run_makes_its_tasks_and_the_next_one_uses_them_again(folder):
    place = TracesInMemory([shop(number) for number in range(5)])
    reading, said = started(folder, settings(), place)
    assert (len(reading.training), len(reading.validation)) == (4, 1)
    assert reading.file == str(folder / "traced_tasks" / "shop" / "tasks.jsonl")
    assert "5 tasks have no reference answer" in said
    again, said = started(folder, settings(), place)
    assert "are used again" in said and place.num_reads == 1
    assert again.training == reading.training


def test_new_traces_are_added_before_the_next_run(folder):
    place = TracesInMemory([shop(number) for number in range(5)])
    first, _ = started(folder, settings(), place)
    place.traces.append(shop(7))
    second, said = started(folder, settings(), place)
    assert "1 of them new" in said
    assert {task.task_id for task in first.training} < {task.task_id for task in second.training}


def test_the_yaml_of_upstreams_users_works_as_they_wrote_it(folder):
    verdict = json.dumps({"reason": "so", "score": 0.9, "is_good": True})
    with serving(lambda body: says(verdict)) as server:
        reading, said = started(
            folder,
            UPSTREAM,
            TracesInMemory([shop(number) for number in range(4)]),
            f"astuner.llm.base_url={server.base_url}",
        )
        asked = server.messages(0)[0]["content"]
    tasks = [*reading.training, *reading.validation]
    assert [task.metadata["answer"] for task in tasks].count("At depot 1.") == 1
    assert {task.metadata["reference_from"] for task in tasks} == {"judge"}
    assert all(task.metadata["reference_is_models_own"] for task in tasks)
    assert "The answer is friendly." in asked
    assert (folder / "data" / "tasks.jsonl").is_file()
    assert "compared by their words only" in said


def test_without_a_place_the_tasks_that_are_there_are_used(folder):
    (folder / "mine.jsonl").write_text('{"main_query": "Mine?", "task_id": "1"}\n')
    text = settings(base_url=None, train_output_path="mine.jsonl")
    reading, _ = started(folder, text, TracesInMemory([]))
    assert [task.main_query for task in reading.training] == ["Mine?"]


def test_tasks_of_traces_may_be_one_source_of_a_mixture(folder):
    tracing = {"type": "tracing", "feedback_tracing": {"base_url": "database.sqlite"}}
    sources = {"logs": tracing, "other": {"type": "random_dummy", "random_dummy": {"num_tasks": 2}}}
    reader = {"type": "mixture", "mixture": {"sources": sources}}
    text = yaml.safe_dump({"astuner": {"task_reader": reader}})
    reading, _ = started(folder, text, TracesInMemory([shop(number) for number in range(5)]))
    assert {task.source for task in reading.training} == {"logs", "other"}


@pytest.mark.parametrize(
    ("filters", "problem"),
    [
        (
            [{"type": "deduplicate"}],
            r"filters\[0\]\.type: 'deduplicate' is no step; did you",
        ),
        ([{"type": "cut", "param": {}}], "unknown key 'param'"),
        ([{"type": "cut", "enabled": "no"}], "enabled: found 'no'; write true or false"),
        ([{"type": "cut", "params": {"turn": "last"}}], "params.turn: .*cut knows turns, max_"),
        ([{"type": "choose", "params": {"from": "today"}}], "write a date or a time"),
        ([{"type": "cut"}, {"type": "cut"}], "cut stands there more than once"),
        ([{"type": "balance"}, {"type": "cut"}], "balance stands before cut"),
        (
            [{"type": "split", "params": {"validation_fraction": 0.6, "test_fraction": 0.4}}],
            "leave",
        ),
    ],
)
def test_a_wrong_filter_is_named_before_anything_is_read(folder, filters, problem):
    with pytest.raises(ConfigError, match=problem):
        started(folder, settings(filters=filters), TracesInMemory([]))


def test_no_place_at_all_is_named(folder):
    with pytest.raises(ConfigError, match="there are no traces to make tasks of"):
        started(folder, settings(base_url=None), TracesInMemory([]))


def test_a_place_that_is_not_there_is_named_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file or folder; looked for .*/no\.db"):
        found_address("no.db", [tmp_path], key="base_url")
    (tmp_path / "a.db").touch()
    for written in ("a.db", f"sqlite:///{tmp_path}/a.db", str(tmp_path / "a.db")):
        assert found_address(written, [tmp_path], key="k") == str(tmp_path / "a.db")
    assert found_address("http://localhost:6006", [tmp_path], key="k") == "http://localhost:6006"


def test_steps_that_no_list_goes_without_are_there():
    def kinds(*filters: dict[str, Any]) -> list[str]:
        return [step.type for step in planned_steps(filters).steps]

    assert kinds() == ["cut", "reference", "deduplication"]
    assert kinds({"type": "llm_evaluate"}) == ["cut", "reference", "llm_evaluate"]
    assert kinds({"type": "choose"}, {"type": "cut"}, {"type": "balance"}) == [
        *("choose", "cut", "reference", "balance")
    ]
    assert kinds({"type": "reference", "enabled": False}) == ["cut"]
    assert planned_steps([]).is_masked
    assert not planned_steps([{"type": "mask", "enabled": False}]).is_masked
    assert planned_steps([{"type": "split", "enabled": False}]).split.validation_fraction == 0


def test_a_test_is_named_by_the_split_of_the_filters(folder):
    split = {"type": "split", "params": {"test_fraction": 0.2}}
    (folder / "shop.yaml").write_text(settings(filters=[split]))
    always = ["astuner.model.path=m", "astuner.rollout.agentscope_workflow=quiet->Quiet"]
    reader = load_config(folder / "shop.yaml", always).settings.task_reader
    assert has_test_setting(reader)
    assert setting_of_test(reader) == "task_reader.feedback_tracing.filters"


def test_a_key_in_the_settings_is_in_no_file_of_the_set(folder):
    key = "sk-proj-" + "a8Kd02mVbQ7xTn4LrZpW9sYh"
    params = {"api_key": key, "base_url": "http://127.0.0.1:9/v1"}
    filters = [{"type": "mask"}, {"type": "deduplication", "enabled": False, "params": params}]
    started(folder, settings(filters=filters), TracesInMemory([shop(1), shop(2)]))
    written = "".join(
        path.read_text() for path in (folder / "traced_tasks").rglob("*") if path.is_file()
    )
    assert key not in written
