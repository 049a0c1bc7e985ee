"""Which actors of a run count as lost: those that died of a fault, and no others."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray", reason="Ray is not installed")

from astuner.backbone.cluster.silence import describe_lost, find_lost  # noqa: E402
from astuner.backbone.cluster.worker_logs import WorkerLogs  # noqa: E402
from tests.ray.local_cluster import local_cluster  # noqa: E402


@pytest.fixture
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


class _Actor:
    def process_id(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        ray.actor.exit_actor()

    def crash(self) -> None:
        os._exit(3)


def of_class(name: str) -> Any:
    return ray.remote(num_cpus=0)(type(name, (_Actor,), {})).remote()


def wait_until_dead(*names: str) -> None:
    from ray._private import state

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        states = {actor["ActorClassName"]: actor["State"] for actor in state.actors().values()}
        if all(states[name] == "DEAD" for name in names):
            return
        time.sleep(0.1)
    raise AssertionError(states)


def test_an_actor_is_lost_that_died_of_a_fault_and_not_one_that_was_to_end(
    cluster: None, tmp_path: Path
) -> None:
    ended, left, dropped = (of_class(name) for name in ("Ended", "Left", "Dropped"))
    ray.get([one.process_id.remote() for one in (ended, left, dropped)], timeout=60)
    ray.kill(ended)
    left.leave.remote()
    del dropped
    names = {"Ended", "Left", "Dropped", "Crashed", "Killed"}
    wait_until_dead("Ended", "Left", "Dropped")
    assert find_lost(names) is None

    crashed = of_class("Crashed")
    ray.get(crashed.process_id.remote(), timeout=60)
    crashed.crash.remote()
    wait_until_dead("Crashed")
    assert (find_lost(names) or "").startswith("Crashed on ")
    assert find_lost(names - {"Crashed"}) is None

    killed = of_class("Killed")
    os.kill(ray.get(killed.process_id.remote(), timeout=60), signal.SIGKILL)
    wait_until_dead("Killed")
    assert (find_lost({"Killed"}) or "").startswith("Killed on ")

    # A connection breaks before Ray takes the machine behind it for lost.
    reset = ray.exceptions.ActorUnavailableError(
        "Connection reset by peer", crashed._ray_actor_id.binary()
    )
    for error in (reset, ray.exceptions.ActorDiedError()):
        lost, _ = describe_lost(str(error), WorkerLogs(tmp_path))
        assert (lost or "").startswith("Crashed on ") == (error is reset)
