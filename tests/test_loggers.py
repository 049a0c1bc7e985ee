"""Loggers show what they are given, and whatever they do, the run goes on."""

import logging
import threading
import time

import pytest

from astuner.backbone.loggers import (
    LOGGERS,
    LoggedRun,
    check_installed,
    logging_to,
)
from astuner.config.secret import without_secrets
from astuner.config.sections.trainer_common import LOGGER_NAMES
from astuner.errors import ConfigError


@pytest.fixture
def run(tmp_path) -> LoggedRun:
    return LoggedRun(project="p", name="agent-1", folder=tmp_path, config={"model.path": "m"})


class Kept:
    """Remembers; an event can hold it up, an error end it."""

    def __init__(self, *, hold: threading.Event | None = None, error: Exception | None = None):
        self.seen, self.is_closed, self._hold, self._error = [], False, hold, error

    def __call__(self, run):
        return self

    def log(self, metrics, step):
        if self._hold is not None:
            self._hold.wait()
        if self._error is not None:
            raise self._error
        self.seen.append((step, metrics))

    def close(self):
        self.is_closed = True


def test_every_logger_gets_every_step_without_what_is_not_known(run) -> None:
    one, two = Kept(), Kept()
    with logging_to({"one": one, "two": two}, run) as log:
        log({"step": 1, "reward": 0.5, "kl": None})
        log({"step": 2, "reward": 0.6})
    assert one.seen == [(1, {"reward": 0.5}), (2, {"reward": 0.6})]
    assert two.seen == one.seen and one.is_closed and two.is_closed


def test_a_logger_that_raises_is_named_once_and_the_others_go_on(run, caplog) -> None:
    good, bad = Kept(), Kept(error=OSError("no route to host"))
    with caplog.at_level(logging.WARNING), logging_to({"good": good, "bad": bad}, run) as log:
        for step in range(5):
            log({"step": step})
    assert len(good.seen) == 5
    (record,) = caplog.records
    assert "logger bad failed" in record.message and "no route to host" in record.message


def test_a_logger_that_cannot_be_made_does_not_stop_the_run(run, caplog) -> None:
    def make(run):
        raise ImportError("half installed")

    with caplog.at_level(logging.WARNING), logging_to({"bad": make}, run) as log:
        log({"step": 1})
    assert "half installed" in caplog.text


def test_a_logger_that_hangs_neither_slows_the_run_nor_keeps_it_from_ending(run, caplog) -> None:
    hold = threading.Event()
    started = time.monotonic()
    with (
        caplog.at_level(logging.WARNING),
        logging_to({"slow": Kept(hold=hold)}, run, close_seconds=0.2) as log,
    ):
        for step in range(20_000):
            log({"step": step})
    hold.set()
    assert time.monotonic() - started < 60
    assert "logger slow did not finish" in caplog.text or not caplog.text


def test_tensorboard_holds_what_was_logged(run) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with logging_to({"tensorboard": LOGGERS["tensorboard"]}, run) as log:
        log({"step": 3, "reward/mean": 0.5})
        log({"step": 4, "reward/mean": 0.75})
    found = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("reward/mean")] == [(3, 0.5), (4, 0.75)]


def test_secrets_are_masked() -> None:
    config = {"a.api_key": "sk-1", "a.path": "m", "debug.openai_api_key_env": None, "b.token": "t"}
    masked = {"a.api_key": "***", "a.path": "m", "debug.openai_api_key_env": None, "b.token": "***"}
    assert without_secrets(config) == masked


def test_a_library_that_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'astuner\[no_such_logger\]'"):
        check_installed(["no_such_logger"])


def test_the_names_of_the_settings_are_those_of_the_table() -> None:
    assert set(LOGGER_NAMES) == {"console", *LOGGERS}
