"""Which tasks Trinity's task set deals, of a mixture or a curriculum, and how it goes on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.trinity, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("trinity", reason="Trinity-RFT is not installed")

from trinity.common.config import StorageConfig  # noqa: E402

from astuner.backbone.assemble import read_tasks  # noqa: E402
from astuner.backbone.cluster.hub_handle import HubHandle  # noqa: E402
from astuner.backbone.cluster.mapping import nested  # noqa: E402
from astuner.backbone.cluster.remote import HUB_VARIABLE, start_hub  # noqa: E402
from astuner.backbone.cluster.stored_curriculum import StoredCurriculum  # noqa: E402
from astuner.backbone.trinity.reader import TaskSet  # noqa: E402
from astuner.backbone.worker_run import WorkerRun  # noqa: E402
from astuner.config.load import load_mapping  # noqa: E402
from astuner.run_dir import RunDir  # noqa: E402
from astuner.task_reader.order import TaskOrder  # noqa: E402
from tests.ray.dealt import bring  # noqa: E402
from tests.ray.local_cluster import local_cluster  # noqa: E402
from tests.runs import make_run  # noqa: E402
from tests.test_hub import make_settings  # noqa: E402

ROOT = Path(__file__).parents[2]
WORKFLOW = "astuner.backbone.trinity.workflow.EpisodeWorkflow"
SHARES = {"large": 3.0, "small": 1.0}
SIZES = {"large": 20, "small": 2}


@pytest.fixture
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


def test_trinity_deals_a_mixture_in_the_order_of_the_other_backbones(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        name: {"type": "random_dummy", "share": SHARES[name], "random_dummy": {"num_tasks": size}}
        for name, size in SIZES.items()
    }
    reader = nested({"task_reader.type": "mixture", "task_reader.mixture.sources": sources})
    settings = make_settings(data__filter_overlong_prompts=False)["astuner"] | reader
    run = make_run(load_mapping({"astuner": settings}, name="test"), RunDir(root=tmp_path))
    training, _ = read_tasks(run)
    hub = start_hub("mixed", WorkerRun.of(run), {"train": training}, namespace="test")
    monkeypatch.setenv(HUB_VARIABLE, "mixed@test")

    config = StorageConfig(
        name="t",
        path="train",
        batch_size=4,
        total_steps=6,
        default_workflow_type=WORKFLOW,
        repeat_times=1,
    )
    order = TaskOrder.of_tasks(
        training, SHARES, batch_size=4, seed=run.settings.trainer_common.seed
    )
    expected = [[training[index].task_id for index in order.next_batch()] for _ in range(6)]

    async def read(task_set: TaskSet, num_batches: int) -> list[list[str]]:
        batches = [await task_set.read() for _ in range(num_batches)]
        return [[task.raw_task["task_id"] for task in batch] for batch in batches]

    first = TaskSet(config)
    assert asyncio.run(read(first, 4)) == expected[:4]
    resumed = TaskSet(config)
    resumed.load_state_dict(first.state_dict())
    assert asyncio.run(read(resumed, 2)) == expected[4:]
    del hub  # with its last handle the actor ends


def test_trinity_s_task_set_asks_for_the_tasks_of_a_curriculum_step_by_step(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(
        data__train_batch_size=4,
        data__filter_overlong_prompts=False,
        task_reader__type="random_dummy",
        task_reader__random_dummy__num_tasks=12,
        trainer_common__curriculum__enabled=True,
        trainer_common__checkpoint_base_dir=str(tmp_path),
    )
    run = make_run(load_mapping(settings, name="test"), RunDir(root=tmp_path))
    training, _ = read_tasks(run)
    config = StorageConfig(
        name="t",
        path="train",
        batch_size=4,
        total_steps=6,
        default_workflow_type=WORKFLOW,
        repeat_times=1,
    )

    def begin(name: str, *, first_step: int) -> HubHandle:
        curriculum = StoredCurriculum.open(run, training, first_step=first_step)
        monkeypatch.setenv(HUB_VARIABLE, f"{name}@test")
        return start_hub(
            name, WorkerRun.of(run), {"train": training}, namespace="test", curriculum=curriculum
        )

    def read(task_set: TaskSet) -> list[str]:
        return [task.raw_task["task_id"] for task in asyncio.run(task_set.read())]

    by_id = {task.task_id: task for task in training}
    hub, dealt, states = begin("first", first_step=0), {}, {}
    task_set = TaskSet(config)
    for step in range(1, 6):
        dealt[step], states[step] = read(task_set), task_set.state_dict()
        bring(hub, step, [by_id[task_id] for task_id in dealt[step]])
    assert len({*dealt[1], *dealt[2]}) == 6  # two of those that it knows come again

    hub, resumed = begin("again", first_step=3), TaskSet(config)
    resumed.load_state_dict(states[3])
    assert read(resumed) == dealt[4]
    del hub  # with its last handle the actor ends
