"""What Trinity's monitor tells the hub, without a cluster."""

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [pytest.mark.trinity, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("trinity.utils.monitor", reason="Trinity-RFT is not installed")

from trinity.utils.log import get_logger  # noqa: E402

from astuner.backbone.trinity import monitor  # noqa: E402


class RecordingHub:
    """Stands in for the handle of the hub's actor: notes which method is called with what."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *given: self.calls.append((name, given)))

    def saved_steps(self) -> list[int]:
        return [given[0].step for name, given in self.calls if name == "saved"]


def test_a_saved_state_is_told_once_the_trainer_is_past_it_since_the_last_is_written_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = RecordingHub()
    monkeypatch.setattr(monitor, "find_hub", lambda: hub)
    config = SimpleNamespace(trainer=SimpleNamespace(name="trainer"), checkpoint_job_dir="/state")
    of_trainer = monitor.HubMonitor("project", "group", "run", "trainer", config)
    told = []
    for step in range(1, 5):
        saves = {"time/save_checkpoint": 1.0} if step in (2, 4) else {}
        of_trainer.log({"time/train_step": 1.0, **saves}, step)
        told.append(hub.saved_steps())
    assert told == [[], [], [2], [2]]


@pytest.fixture
def explorer_log() -> Iterator[logging.Logger]:
    log = get_logger()
    before = list(log.handlers)
    yield log
    log.handlers[:] = before


def test_the_explorer_dies_of_the_error_that_ends_it_and_of_no_other(
    monkeypatch: pytest.MonkeyPatch, explorer_log: logging.Logger
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(monitor.os, "_exit", codes.append)
    monkeypatch.setattr(monitor, "find_hub", RecordingHub)
    config = SimpleNamespace(trainer=SimpleNamespace(name="trainer"))
    monitor.HubMonitor("project", "group", "run", "trainer", config)
    explorer_log.error("Error in Explorer: of another process")
    monitor.HubMonitor("project", "group", "run", "explorer", config)
    explorer_log.error("Trainer sync watcher task error: it goes on")
    explorer_log.info("Error in Explorer: quoted")
    assert codes == []
    explorer_log.error("Error in Explorer: Traceback ...")
    assert codes == [1]
