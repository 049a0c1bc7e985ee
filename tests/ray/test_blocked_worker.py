"""An actor of Ray whose user code blocks it, as the workers of verl and Trinity are ones.

Its event loop is not in the main thread, so that no signal reaches what runs there.
"""

import asyncio
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray", reason="Ray is not installed")

from astuner.rollout.held_lock import lock_supervised  # noqa: E402
from astuner.rollout.watchdog import loop_watchdog  # noqa: E402
from tests.ray.local_cluster import local_cluster  # noqa: E402

ROOT = Path(__file__).parents[2]


class Worker:
    async def watch(self, folder: Path) -> bool:
        """Whether its loop is in the main thread."""
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT), 2)
        self.told: list[str] = []
        self.lasting = ExitStack()
        told = loop_watchdog(1.0, on_stuck=lambda error: self.told.append(str(error)))
        self.lasting.enter_context(told)
        self.lasting.enter_context(lock_supervised(3.0, advice="", limit_name="the limit"))
        return threading.current_thread() is threading.main_thread()

    async def spin(self) -> str:
        try:
            while True:
                time.sleep(0.01)
        except TimeoutError as error:
            return str(error)

    async def sleep(self) -> list[str]:
        try:
            while not self.told:
                threading.Event().wait(10)
        except BaseException:  # whatever interrupts it
            return self.told
        return self.told

    async def backtrack(self) -> Any:
        return await asyncio.to_thread(re.match, r"(a+)+$", "a" * 40 + "b")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_cluster():
        yield


@pytest.fixture
def worker(cluster: None, tmp_path: Path) -> Iterator[Any]:
    worker = ray.remote(Worker).remote()
    assert not ray.get(worker.watch.remote(tmp_path))
    yield worker
    ray.kill(worker)


def test_code_that_blocks_an_actor_is_interrupted_or_told_of_by_its_line(worker: Any) -> None:
    place = f"{__file__}:"
    assert place in ray.get(worker.spin.remote(), timeout=120)
    (told, *_) = ray.get(worker.sleep.remote(), timeout=120)
    assert place in told and "could not be interrupted there" in told


def test_an_actor_whose_lock_is_held_ends_and_names_the_line(worker: Any, tmp_path: Path) -> None:
    with pytest.raises(ray.exceptions.RayError):
        ray.get(worker.backtrack.remote(), timeout=120)
    said = (tmp_path / "stderr").read_text()
    assert "(match) holds the interpreter lock" in said and "for 3 s (the limit)" in said
