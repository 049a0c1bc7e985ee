"""The same conversations become the same tasks, whoever kept them."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from astuner.traces.otlp.files import read_otlp
from astuner.traces.reading import Unread
from astuner.traces.span import TracedSpan
from astuner.types import Task
from tests.test_collecting import Sending, sent
from tests.trace_stores import new_studio, old_studio
from tests.trace_tasks.test_traced_runs import folder, settings, started
from tests.tracing.places import PhoenixProject, new_experiment, read_when_there
from tests.tracing.shop_agent import Endpoint

__all__ = ["folder"]  # a fixture
pytestmark = [pytest.mark.tracing, pytest.mark.timeout(600)]
EMITTER = Path(__file__).parents[1] / "agentscope_traces.py"
CITIES = ("Paris", "Paris", "Rome")
"""Of three sessions; two of them are about the same."""
NUM_STEPS = 7


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What a real agent of AgentScope 1.x exported of each conversation."""
    made = tmp_path_factory.mktemp("agentscope")
    paths = [made / f"{number}.pb" for number in range(len(CITIES))]
    for path, city in zip(paths, CITIES, strict=True):
        command = [sys.executable, "-P", str(EMITTER), str(path), city]
        subprocess.run(command, check=True, env=dict(os.environ), timeout=100)
    return paths


@pytest.fixture(scope="module")
def places(
    exported: list[Path], phoenix: str, mlflow: str, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, str]:
    """Addresses, as users write them in `base_url`."""
    made = tmp_path_factory.mktemp("places")
    spans = [span for path in exported for span in spans_of(path)]
    project = PhoenixProject(url=phoenix, name="weather")
    experiment = new_experiment(mlflow, "weather")
    for path in exported:
        post(path, project.endpoint)
        post(path, experiment.endpoint)
    for address in (project.address, experiment.address):
        read_when_there(address, NUM_STEPS * len(CITIES))
    collect(exported, made / "collected")
    return {
        "OTLP files": str(exported[0].parent),
        "our collector": str(made / "collected"),
        "Phoenix": project.address,
        "MLflow": experiment.address,
        "an old Studio": str(old_studio(made / "old.sqlite", spans)),
        "a new Studio": str(new_studio(made / "new.sqlite", spans)),
    }


def spans_of(path: Path) -> list[TracedSpan]:
    return [one for one in read_otlp(path, Unread()) if isinstance(one, TracedSpan)]


def post(path: Path, endpoint: Endpoint) -> None:
    headers = {"content-type": "application/x-protobuf", **endpoint["headers"]}
    answer = httpx.post(
        endpoint["url"], content=path.read_bytes(), headers=headers, trust_env=False, timeout=60
    )
    assert answer.is_success, answer.text


def collect(exported: list[Path], folder: Path) -> None:
    async def body(it: Sending) -> None:
        for path in exported:
            endpoint: Endpoint = {"url": f"{it.address}/v1/traces", "headers": {}}
            await asyncio.to_thread(post, path, endpoint)

    sent(body, folder)


def tasks_from(address: str, folder: Path) -> dict[str, Any]:
    """What a run is given by `task_reader.type: tracing`, by id; without where it comes from."""
    folder.mkdir()
    conf = settings(base_url=address, train_output_path=str(folder / "made" / "tasks.jsonl"))
    reading, _ = started(folder, conf, None)
    return {
        f"{side} {task.task_id}": without_origin(task)
        for side in ("training", "validation")
        for task in getattr(reading, side)
    }


def without_origin(task: Task) -> dict[str, Any]:
    fields = task.model_dump()
    own = {"trace_source", "trace_id", "asked"}
    fields["metadata"] = {key: one for key, one in task.metadata.items() if key not in own}
    return fields


@pytest.mark.parametrize(
    "place", ["our collector", "Phoenix", "MLflow", "an old Studio", "a new Studio"]
)
def test_the_same_conversations_become_the_same_tasks(
    place: str, places: Mapping[str, str], folder: Path
) -> None:
    expected = tasks_from(places["OTLP files"], folder / "otlp")
    assert {task["main_query"] for task in expected.values()} == {
        *("Weather in Paris?", "Weather in Rome?", "Thanks!")
    }
    [thanks, *_] = [task for task in expected.values() if task["main_query"] == "Thanks!"]
    assert [one["role"] for one in thanks["init_messages"]] == [
        *("system", "user", "assistant", "tool", "assistant")
    ]
    assert tasks_from(places[place], folder / "other") == expected
