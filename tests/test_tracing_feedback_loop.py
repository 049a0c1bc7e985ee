"""The shop of the tutorial: its customers, its clerk, and the way from their visits to tasks."""

import asyncio
import io
import itertools
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("agentscope")
pytest.importorskip("detect_secrets")

from astuner.backbone.traced_tasks import WithTracedTasks
from astuner.config.load import load_config
from astuner.run_dir import RunDir
from astuner.types import Task
from tests.episodes import run_episode
from tests.fakes import ScriptedEngine
from tests.llm_server import says, serving
from tests.runs import make_run
from tests.test_collecting import sending
from tests.test_rollout import attempt, settings
from tests.trace_tasks.test_traced_runs import ReadingBackbone
from tutorial.example_tracing_feedback_loop.clerk import SYSTEM_PROMPT, ClerkWorkflow
from tutorial.example_tracing_feedback_loop.loop import table
from tutorial.example_tracing_feedback_loop.shop import (
    NUM_WEEKS,
    PAPERS,
    customers,
    is_right,
    opinion,
)

ROOT = Path(__file__).parents[1]
CONF = ROOT / "tutorial" / "example_tracing_feedback_loop" / "shop_laptop.yaml"
NUM_CUSTOMERS = 6


def coming(week: int, number: int = 200):
    return list(itertools.islice(customers(week), number))


def test_a_week_has_the_same_customers_again_with_every_desk_among_them():
    assert coming(0) == coming(0)
    assert {customer.right[0] for customer in coming(0)} == set(PAPERS)
    assert all(PAPERS[desk] == paper for desk, paper in (c.right for c in coming(0)))


def test_no_week_says_a_trouble_as_another_did():
    said = [{customer.says[0] for customer in coming(week, 400)} for week in range(NUM_WEEKS)]
    assert not any(one & other for one, other in itertools.combinations(said, 2))


@pytest.mark.parametrize(
    ("reply", "right"),
    [("returns", True), (" Returns.", True), ("the returns", False), ("", False)],
)
def test_a_right_reply_is_accepted_and_a_wrong_one_corrected(reply, right):
    assert is_right(reply, "returns") == right
    told = opinion(reply, "returns")
    assert told["gen_ai.evaluation.score.value"] == right
    assert told.get("astuner.evaluation.correction") == (None if right else "returns")


def test_the_clerk_goes_on_with_what_was_said_before():
    task = Task(
        main_query="What do I have to bring?",
        init_messages=[
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": "The lamp is broken."},
            {"role": "assistant", "content": "returns"},
        ],
        task_id="t",
        metadata={"answer": "receipt"},
    )
    rules = settings(ClerkWorkflow, engine=ScriptedEngine(lambda prompt: "receipt"))
    episode = asyncio.run(run_episode(attempt(task=task), rules))
    assert episode.failure is None
    (call,) = episode.calls
    assert [(m["role"], m["content"]) for m in call.messages] == [
        *((m["role"], m["content"]) for m in task.init_messages),
        ("user", "What do I have to bring?"),
    ]


def test_visits_become_tasks_whose_answers_are_what_customers_told(tmp_path, monkeypatch):
    """The clerk always says returns, through its real traces and our real collector."""
    with serving(lambda body: says("returns")) as model:
        counts = asyncio.run(visit(tmp_path / "data" / "shop", model.base_url))
    expected = coming(0, NUM_CUSTOMERS)
    assert counts == {
        "week": 0,
        "customers": NUM_CUSTOMERS,
        "desks": sum(customer.right[0] == "returns" for customer in expected),
        "papers": 0,
    }
    monkeypatch.chdir(tmp_path)
    loaded = load_config(
        CONF, ["astuner.model.path=m", "astuner.data.filter_overlong_prompts=false"]
    )
    reading = ReadingBackbone()
    run = make_run(loaded, RunDir(root=tmp_path / "run"), screen=io.StringIO())
    asyncio.run(WithTracedTasks(reading, file_of=loaded.traced_tasks_file).run(run))
    made = {
        (task.main_query, task.metadata["session"]): (
            task.metadata["answer"],
            task.init_messages[0],
        )
        for task in (*reading.training, *reading.validation)
    }
    system = {"role": "system", "content": SYSTEM_PROMPT, "name": "system"}
    assert made == {
        (says_, customer.name): (right, system)
        for customer in expected
        for says_, right in zip(customer.says, customer.right, strict=True)
    }


async def visit(folder: Path, base_url: str) -> dict[str, int]:
    """In a process of its own, since the provider of spans is set once in a process."""
    async with sending(folder) as collector:
        addresses = ("--base-url", base_url, "--collector", collector.address)
        module = "tutorial.example_tracing_feedback_loop.open_shop"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, "--num-customers", str(NUM_CUSTOMERS), *addresses),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
    return json.loads(said)


def test_the_weeks_stand_beside_each_other_with_intervals():
    week = {"week": 1, "customers": 80, "desks": 60, "papers": 40, "model": "a/checkpoints/best"}
    assert table([week]).splitlines()[-1] == (
        "| 1 | best | 0.75 [0.65, 0.83] | 0.50 [0.39, 0.61] |"
    )
