"""The hub as an actor of Ray: how many may ask it at once."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray", reason="Ray is not installed")

from astuner.backbone.cluster.remote import start_hub  # noqa: E402
from astuner.backbone.cluster.worker_run import WorkerRun  # noqa: E402
from astuner.config.load import load_mapping  # noqa: E402
from astuner.run_dir import RunDir  # noqa: E402
from tests.runs import make_run  # noqa: E402
from tests.test_hub import make_settings, unjudged  # noqa: E402

ROOT = Path(__file__).parents[2]
JUDGE = """
from astuner.task_judge.base_judge import GroupJudge

class Ranking(GroupJudge):
    def compute_rewards(self, workflow_tasks, workflow_outputs):
        return [(float(task.attempt), True) for task in workflow_tasks]
"""


@pytest.fixture
def cluster() -> Iterator[None]:
    variables = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, runtime_env={"env_vars": variables}
    )
    yield
    ray.shutdown()


def test_more_attempts_may_wait_to_be_compared_than_ray_takes_calls_by_itself(
    cluster: None, tmp_path: Path
) -> None:
    (tmp_path / "judge.py").write_text(JUDGE)
    settings = make_settings(
        data__train_batch_size=600,
        task_judge__judge_protocol=f"{tmp_path}/judge.py->Ranking",
    )
    run = make_run(load_mapping(settings, name="test"), RunDir(root=tmp_path))
    hub = start_hub("hub", WorkerRun.of(run), {"train": [], "validation": []}, namespace="test")

    def bring(attempt: int) -> list:
        return [
            hub.compare.remote(unjudged(name, attempt, "said"), group=name)
            for name in map(str, range(600))
        ]

    waiting = bring(0) + bring(1)
    assert ray.get(hub.news.remote(), timeout=60).episodes == []
    answers = ray.get(waiting + bring(2), timeout=60)
    assert [json.loads(line)["attempt"] for line in answers] == [0] * 600 + [1] * 600 + [2] * 600
