"""The hub as an actor of Ray: how it starts, and how many may ask it at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray", reason="Ray is not installed")

from astuner.backbone.cluster.hub_handle import HubHandle  # noqa: E402
from astuner.backbone.cluster.remote import start_hub  # noqa: E402
from astuner.backbone.worker_run import WorkerRun  # noqa: E402
from astuner.config.load import load_mapping  # noqa: E402
from astuner.errors import BackboneError, JudgeError  # noqa: E402
from astuner.run_dir import RunDir  # noqa: E402
from tests.ray.local_cluster import local_cluster  # noqa: E402
from tests.runs import make_run  # noqa: E402
from tests.test_hub import make_settings, unjudged  # noqa: E402

ROOT = Path(__file__).parents[2]
JUDGE = """
from astuner.task_judge.base_judge import GroupJudge

class Ranking(GroupJudge):
    def prepare(self):
        if self.config.astuner.project_name == "unready":
            raise OSError("no dictionary")

    def compute_rewards(self, workflow_tasks, workflow_outputs):
        return [(float(task.attempt), True) for task in workflow_tasks]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


def worker_run(folder: Path, **changed: Any) -> WorkerRun:
    (folder / "judge.py").write_text(JUDGE)
    judge = f"{folder}/judge.py->Ranking"
    settings = make_settings(task_judge__judge_protocol=judge, **changed)
    return WorkerRun.of(make_run(load_mapping(settings, name="test"), RunDir(root=folder)))


def start(worker_run: WorkerRun) -> HubHandle:
    name = worker_run.run_dir.name
    return start_hub(name, worker_run, {"train": [], "validation": []}, namespace="test")


def test_a_judge_that_cannot_be_made_ready_ends_the_start_of_the_hub(
    cluster: None, tmp_path: Path
) -> None:
    with pytest.raises(JudgeError, match="judge Ranking raised: OSError: no dictionary"):
        start(worker_run(tmp_path, project_name="unready"))


def test_a_hub_that_dies_at_its_start_is_told_with_its_reason(
    cluster: None, tmp_path: Path
) -> None:
    missing = worker_run(tmp_path)
    (tmp_path / "judge.py").unlink()
    with pytest.raises(BackboneError, match=r"(?s)starting the hub, .*ConfigError: .*judge\.py"):
        start(missing)


def test_a_hub_that_does_not_come_up_is_given_up_at_the_deadline(
    cluster: None, tmp_path: Path
) -> None:
    hurried = worker_run(tmp_path, trainer_common__phase_timeout_seconds=0.01)
    with pytest.raises(BackboneError, match=r"within 0\.01 s \(trainer_common.phase_timeout"):
        start(hurried)


def test_more_attempts_may_wait_to_be_compared_than_ray_takes_calls_by_itself(
    cluster: None, tmp_path: Path
) -> None:
    hub = start(worker_run(tmp_path, data__train_batch_size=600))

    def bring(attempt: int) -> list:
        return [
            hub.compare.remote(unjudged(name, attempt, "said"), group=name)
            for name in map(str, range(600))
        ]

    waiting = bring(0) + bring(1)
    assert ray.get(hub.news.remote(), timeout=60).episodes == []
    answers = ray.get(waiting + bring(2), timeout=60)
    assert [json.loads(line)["attempt"] for line in answers] == [0] * 600 + [1] * 600 + [2] * 600
