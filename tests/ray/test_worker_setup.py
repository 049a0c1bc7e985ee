"""What every process of a run does as it starts: variables that hold secrets reach it and no log of
Ray's, and it looks for cycles of objects as seldom as the command."""

import gc
import os
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray", reason="Ray is not installed")

from astuner.backbone.cluster.worker_setup import with_worker_setup  # noqa: E402
from astuner.machine.heap import NEW_OBJECTS  # noqa: E402
from tests.ray.local_cluster import local_cluster  # noqa: E402

TOKEN = "not-for-any-log"


class Seen(NamedTuple):
    variables: list[str | None]
    num_new_objects: int


class Looking:
    def seen(self) -> Seen:
        variables = [os.environ.get(name) for name in ("HF_TOKEN", "HF_HUB_OFFLINE")]
        return Seen(variables, gc.get_threshold()[0])

    def seen_by_own(self) -> Seen:
        """By an actor that this one makes, with variables of its own, as Trinity's runners are."""
        own = {"env_vars": {"MORE": "1"}}
        actor = ray.remote(num_cpus=0)(Looking).options(runtime_env=own).remote()
        return ray.get(actor.seen.remote())


@pytest.fixture(scope="module")
def looked() -> tuple[list[Seen], Path]:
    """What both kinds of processes have, and the folder of their session."""
    variables = {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}
    with local_cluster(with_worker_setup({"env_vars": variables})):
        actor = ray.remote(num_cpus=0)(Looking).remote()
        asked = [actor.seen.remote(), actor.seen_by_own.remote()]
        seen = ray.get(asked, timeout=120)
        return seen, Path(ray._private.worker._global_node.get_session_dir_path())


def test_a_token_reaches_all_processes_and_lies_in_no_file_of_ray(looked) -> None:
    seen, session = looked
    assert [process.variables for process in seen] == [[TOKEN, "1"], [TOKEN, "1"]]
    logs = [path for path in session.joinpath("logs").rglob("*") if path.is_file()]
    assert any(b"HF_HUB_OFFLINE" in path.read_bytes() for path in logs)
    assert [path.name for path in logs if TOKEN.encode() in path.read_bytes()] == []


def test_all_processes_look_for_cycles_as_seldom_as_the_command(looked) -> None:
    seen, _ = looked
    assert [process.num_new_objects for process in seen] == [NEW_OBJECTS, NEW_OBJECTS]


def test_the_hook_of_a_job_that_the_user_submitted_stands(monkeypatch) -> None:
    monkeypatch.setenv("__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR", "users.hook")
    assert with_worker_setup({"env_vars": {"MORE": "1"}}) == {"env_vars": {"MORE": "1"}}
