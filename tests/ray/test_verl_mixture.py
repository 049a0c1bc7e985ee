"""Which tasks verl's own loader deals, of a mixture or a curriculum, and how it goes on."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from astuner.errors import ConfigError
from astuner.pins.install import check_installed

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray", reason="Ray is not installed")
try:
    check_installed("verl")  # Trinity-RFT brings another release
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: E402
from verl.trainer.ppo.utils import create_rl_sampler  # noqa: E402
from verl.utils.dataset.rl_dataset import collate_fn  # noqa: E402

from astuner.backbone.assemble import read_tasks  # noqa: E402
from astuner.backbone.cluster.hub_handle import HubHandle  # noqa: E402
from astuner.backbone.cluster.mapping import nested  # noqa: E402
from astuner.backbone.cluster.remote import HUB_VARIABLE, start_hub  # noqa: E402
from astuner.backbone.cluster.stored_curriculum import StoredCurriculum  # noqa: E402
from astuner.backbone.verl.backbone import VerlRun  # noqa: E402
from astuner.backbone.verl.dataset import TaskDataset  # noqa: E402
from astuner.backbone.worker_run import WorkerRun  # noqa: E402
from astuner.config.load import load_mapping  # noqa: E402
from astuner.run_dir import RunDir  # noqa: E402
from astuner.task_reader.order import TaskOrder  # noqa: E402
from tests.ray.dealt import bring  # noqa: E402
from tests.ray.local_cluster import local_cluster  # noqa: E402
from tests.runs import make_run  # noqa: E402
from tests.test_hub import make_settings  # noqa: E402

ROOT = Path(__file__).parents[2]
SHARES = {"large": 3.0, "small": 1.0}
SIZES = {"large": 20, "small": 2}


@pytest.fixture
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


def make_loader(engine_run: VerlRun) -> Any:
    """As verl's trainer makes it."""
    data = engine_run._config.data
    dataset = TaskDataset(data.train_files, config=data)
    return StatefulDataLoader(
        dataset,
        batch_size=data.gen_batch_size,
        num_workers=0,
        drop_last=True,
        collate_fn=collate_fn,
        sampler=create_rl_sampler(data, dataset),
    )


def ids(batch: dict[str, Any]) -> list[str]:
    return [json.loads(task)["task_id"] for task in batch["task"]]


def test_verl_deals_a_mixture_in_the_order_of_the_other_backbones(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        name: {"type": "random_dummy", "share": SHARES[name], "random_dummy": {"num_tasks": size}}
        for name, size in SIZES.items()
    }
    changed = {
        "backbone": "verl",
        "data.train_batch_size": 4,
        "data.filter_overlong_prompts": False,
        "task_reader.type": "mixture",
        "task_reader.mixture.sources": sources,
        "trainer_common.total_epochs": 3,
        "trainer_common.n_gpus_per_node": 1,
    }
    settings = {"astuner": make_settings()["astuner"] | nested(changed)}
    settings["astuner"]["data"] |= {"train_batch_size": 4}
    run = make_run(load_mapping(settings, name="test"), RunDir(root=tmp_path))
    training, _ = read_tasks(run)
    engine_run = VerlRun(run, {"train": training, "validation": []})
    assert engine_run.num_steps == engine_run._config.trainer.total_training_steps == 15
    hub = start_hub("mixed", WorkerRun.of(run), engine_run.tasks, namespace="test")
    monkeypatch.setenv(HUB_VARIABLE, "mixed@test")

    loader, dealt, states = make_loader(engine_run), [], []
    for batch in loader:
        dealt.append(ids(batch))
        states.append(loader.state_dict())
    order = TaskOrder.of_tasks(
        training, SHARES, batch_size=4, seed=run.settings.trainer_common.seed
    )
    assert dealt == [[training[index].task_id for index in order.next_batch()] for _ in range(15)]
    for batch_ids in dealt:
        assert Counter(task_id.partition("/")[0] for task_id in batch_ids) == {
            "large": 3,
            "small": 1,
        }

    resumed = make_loader(engine_run)
    resumed.load_state_dict(states[6])
    assert [ids(batch) for batch in resumed] == dealt[7:]
    del hub  # with its last handle the actor ends


def test_verl_s_loader_asks_for_the_tasks_of_a_curriculum_step_by_step(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(
        backbone="verl",
        data__train_batch_size=4,
        data__filter_overlong_prompts=False,
        task_reader__type="random_dummy",
        task_reader__random_dummy__num_tasks=12,
        trainer_common__curriculum__enabled=True,
        trainer_common__algorithm__dynamic_sampling_max_batches=1,
        trainer_common__n_gpus_per_node=1,
        trainer_common__total_epochs=3,
        trainer_common__checkpoint_base_dir=str(tmp_path),
    )
    run = make_run(load_mapping(settings, name="test"), RunDir(root=tmp_path))
    training, _ = read_tasks(run)
    fewer = settings | {"verl": {"data": {"train_max_samples": 5}}}
    with pytest.raises(ConfigError, match=r"but verl.data.train_max_samples is 5; leave it out"):
        VerlRun(
            make_run(load_mapping(fewer, name="test"), RunDir(root=tmp_path)),
            {"train": training, "validation": []},
        )
    engine_run = VerlRun(run, {"train": training, "validation": []})
    assert engine_run._config.data.gen_batch_size == 1  # a step asks for each task

    def begin(name: str, *, first_step: int) -> HubHandle:
        curriculum = StoredCurriculum.open(run, training, first_step=first_step)
        monkeypatch.setenv(HUB_VARIABLE, f"{name}@test")
        return start_hub(
            name, WorkerRun.of(run), engine_run.tasks, namespace="test", curriculum=curriculum
        )

    by_id = {task.task_id: task for task in training}
    hub, loader, dealt, states = begin("first", first_step=0), make_loader(engine_run), {}, {}
    batches = iter(loader)
    for step in range(1, 6):
        loader.dataset.step = step
        dealt[step] = [ids(next(batches))[0] for _ in range(4)]
        bring(hub, step, [by_id[task_id] for task_id in dealt[step]])
        states[step] = loader.state_dict()
    assert len({*dealt[1], *dealt[2]}) == 6  # two of those that it knows come again

    hub, resumed = begin("again", first_step=3), make_loader(engine_run)
    resumed.load_state_dict(states[3])
    resumed.dataset.step = 4
    assert [ids(batch)[0] for batch, _ in zip(resumed, range(4), strict=False)] == dealt[4]
    del hub  # with its last handle the actor ends
