"""Where log records go, and that everything is put back."""

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from rich.console import Console

from astuner import log
from astuner.console import RunConsole


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.delenv(name, raising=False)
    yield


def _log_everywhere() -> None:
    logging.getLogger("astuner.rollout").debug("own detail")
    logging.getLogger("astuner.rollout").info("own event")
    logging.getLogger("some_library").debug("foreign detail")
    logging.getLogger("some_library").info("foreign event")
    logging.getLogger("some_library").warning("foreign warning")
    logging.getLogger("httpx").info("HTTP Request: POST")


def test_the_file_has_all_of_ours_and_the_events_of_others(tmp_path: Path) -> None:
    file = tmp_path / "run" / "run.log"
    with redirect_stderr(io.StringIO()), log.install(file):
        _log_everywhere()
    text = file.read_text()
    assert "DEBUG astuner.rollout own detail" in text
    assert "INFO some_library foreign event" in text
    assert "foreign detail" not in text and "HTTP Request" not in text


def test_the_console_has_our_events_and_the_warnings_of_others() -> None:
    with redirect_stderr(io.StringIO()) as console, log.install(None):
        _log_everywhere()
    lines = [line.split(maxsplit=1)[1] for line in console.getvalue().splitlines()]
    assert lines == ["INFO own event", "WARNING foreign warning"]


def test_the_console_level_can_be_lowered() -> None:
    with redirect_stderr(io.StringIO()) as console, log.install(None, "DEBUG"):
        _log_everywhere()
    assert "own detail" in console.getvalue()
    assert "foreign event" not in console.getvalue()


def test_a_terminal_gets_the_same_records() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with redirect_stderr(Terminal()) as console, log.install(None):
        _log_everywhere()
        logging.getLogger("astuner").info("not [bold]markup")
    text = re.sub(r"\x1b\[[\d;]*m", "", console.getvalue())
    assert "own event" in text and "own detail" not in text and "foreign event" not in text
    assert "not [bold]markup" in text


def test_a_live_display_shares_its_console() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with redirect_stderr(io.StringIO()) as stderr, log.install(None, console=console):
        _log_everywhere()
    assert "own event" in screen.getvalue() and not stderr.getvalue()


def test_python_warnings_are_logged(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    with (
        redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
        log.install(file),
    ):
        warnings.simplefilter("always")
        warnings.warn("an old call", stacklevel=1)
    assert "an old call" in file.read_text()


def test_loguru_goes_to_the_same_places(tmp_path: Path) -> None:
    loguru = pytest.importorskip("loguru")
    file = tmp_path / "run.log"
    with redirect_stderr(io.StringIO()) as console, log.install(file):
        loguru.logger.info("a workflow event")
        loguru.logger.warning("a workflow warning")
        try:
            raise KeyError("lost")
        except KeyError:
            loguru.logger.exception("it broke")
    text = file.read_text()
    assert f"INFO {__name__} a workflow event" in text
    assert text.count("KeyError: 'lost'") == 1
    assert "a workflow event" not in console.getvalue()
    assert console.getvalue().count("a workflow warning") == 1


def test_loguru_prints_nothing_twice_in_a_second_run(tmp_path: Path) -> None:
    loguru = pytest.importorskip("loguru")
    for _ in range(2):
        with redirect_stderr(io.StringIO()) as console, log.install(tmp_path / "run.log"):
            loguru.logger.warning("once")
        assert console.getvalue().count("once") == 1


def test_everything_is_put_back(tmp_path: Path) -> None:
    names = (None, "astuner", "httpx")

    def state() -> list[object]:
        loggers = [logging.getLogger(name) for name in names]
        return [[(list(one.handlers), one.level) for one in loggers], dict(os.environ)]

    before = state()
    with redirect_stderr(io.StringIO()), log.install(tmp_path / "run.log"):
        assert state() != before
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert state() == before


def test_a_progress_bar_setting_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    with redirect_stderr(io.StringIO()), log.install(None):
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "0"
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "0"


def test_a_record_with_a_lone_surrogate_is_written(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    with redirect_stderr(io.StringIO()), log.install(file):
        logging.getLogger("astuner").debug("text=%s", "\udc80")
    assert r"text=\udc80" in file.read_text()


OBEYED = "\x1b[2J\r\x07\u202e\x9b31m"
WRITTEN_OUT = "\\x1b[2J\\r\\x07\\u202e\\x9b31m"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_an_agent_said_moves_no_cursor(tmp_path: Path, is_terminal: bool) -> None:
    screen, file = io.StringIO(), tmp_path / "run.log"
    console = Console(file=screen, force_terminal=is_terminal, color_system=None, width=200)
    with redirect_stderr(screen), log.install(file, console=console):
        logging.getLogger("astuner.rollout").warning("episode failed reason=%s", OBEYED)
        RunConsole(console, is_live=False).warn(f"of a viewer {OBEYED}")
        try:
            raise ValueError(OBEYED)
        except ValueError as error:
            log.tell(f"astuner: unexpected ValueError: {OBEYED}", error=error)
    for text in (screen.getvalue(), file.read_bytes().decode()):
        assert text.count(WRITTEN_OUT) >= 2
        assert not set(OBEYED) & set(text) - set("[2J31m")


def test_a_full_disk_neither_hides_the_error_nor_fills_the_screen(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "run.log").symlink_to("/dev/full")
    with (
        redirect_stderr(io.StringIO()) as console,
        pytest.raises(ValueError, match="the reason"),
        log.install(tmp_path / "run.log"),
    ):
        _log_everywhere()
        raise ValueError("the reason")
    assert console.getvalue().count("run.log: No space left on device") == 1
    assert "Traceback" not in console.getvalue()


def test_an_error_that_ends_the_run_is_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the reason"), log.install(tmp_path / "run.log"):
        raise ValueError("the reason")
    assert "ValueError: the reason" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("is_closed", [False, True])
def test_what_ends_the_command_is_said_where_user_code_took_standard_error_away(
    monkeypatch: pytest.MonkeyPatch, is_json: bool, is_closed: bool
) -> None:
    screen, gone = io.StringIO(), io.StringIO()
    gone.close()
    monkeypatch.setattr("sys.__stderr__", screen)
    monkeypatch.setattr("sys.stderr", gone if is_closed else None)
    monkeypatch.setattr(log, "_told_in_json", is_json)
    with log.install(None):
        pass
    log.tell("astuner: it failed", error=ValueError("because"))
    assert "astuner: it failed" in screen.getvalue() and "because" in screen.getvalue()


def test_an_error_without_a_text_is_logged_as_json(tmp_path: Path) -> None:
    class Untold(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    lines = io.StringIO()
    with log.install(None, json_lines=log.JsonLines(lines)):
        logging.getLogger("astuner.test").error("failed", exc_info=Untold())
    assert "its text cannot be made" in lines.getvalue()
