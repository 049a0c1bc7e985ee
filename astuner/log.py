"""The one place that installs log handlers, and that quiets what other libraries print.

Everything goes through the standard library's logging, with loguru, which user workflows like,
led into it. Modules only ask for `logging.getLogger(__name__)`.
"""

import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from astuner.log_json import JsonHandler, JsonLines
from astuner.machine.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

_FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_OWN = "astuner"
_NOISY = (
    "anthropic",
    "datasets",
    "filelock",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "hydra",
    "openai",
    "urllib3",
    "uvicorn",
)
"""Third-party loggers of which only warnings are kept: they log every request or file."""
_QUIET_ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
"""Read by those libraries when they are imported; a value that the user set stays."""


_loguru_stderr = 0
"""Number of loguru's own sink; changed by `_restore_loguru_stderr` only."""
_told_in_json = False
"""Changed by `tell_in_json` only."""


@contextmanager
def json_stderr(screen: IO[str] | None = None) -> Iterator[JsonLines]:
    """While this is open, each line on standard error is a JSON object, whoever writes it.

    All but what is written past Python, such as by a C library, or by another process. The lines go
    to `screen`, by default to standard error as it is.
    """
    before, hook = sys.stderr, threading.excepthook
    lines = JsonLines(screen or before)
    sys.stderr = lines
    threading.excepthook = _log_thread_error
    try:
        yield lines
    finally:
        lines.end_line()
        if sys.stderr is lines:
            sys.stderr = before
        threading.excepthook = hook


def tell_in_json(is_json: bool) -> None:
    """Whether `tell` is to write an object, as the log of the command does."""
    global _told_in_json
    _told_in_json = is_json


def tell(message: str, *, error: BaseException | None = None) -> None:
    """Say on standard error how the command ended; with a traceback where an `error` is given."""
    if _told_in_json:
        cause = error and (type(error), error, error.__traceback__)
        record = logging.LogRecord(_OWN, logging.ERROR, __file__, 0, message, None, cause)
        JsonLines(_screen()).write_record(record)
        return
    told = "".join(traceback.format_exception(error)) if error is not None else ""
    _screen().write(f"{visible(told + message)}\n")


def _screen() -> TextIO:
    """Standard error, or the process's own where user code took it away or closed it."""
    streams = (sys.stderr, sys.__stderr__)
    return next((s for s in streams if s and not getattr(s, "closed", False)), io.StringIO())


def _log_thread_error(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread else "?"
    error = arguments.exc_value
    logging.getLogger(_OWN).error("thread ended by an error name=%s", name, exc_info=error)


def install(
    log_file: Path | None,
    console_level: int | str = logging.INFO,
    *,
    console: "Console | None" = None,
    json_lines: JsonLines | None = None,
) -> ExitStack:
    """Start logging; the result undoes it when closed or left as a context manager.

    `log_file` gets everything of astuner from DEBUG on and of others from INFO on. The console
    gets astuner's records from `console_level` on and others' from WARNING on; it is stderr, or
    `console`, which a live display must share so that records appear above it. With `json_lines`
    both are written as JSON, and what goes to the console goes there. An exception that leaves the
    context manager is written to the file.
    """
    undo = _records_led()
    root = logging.getLogger()
    shown = JsonHandler(json_lines) if json_lines else _console_handler(console)
    shown.setLevel(console_level)
    shown.addFilter(_is_for_console)
    _add_handler(root, shown, undo)
    if log_file is not None:
        kept_as = json_lines.formatter if json_lines else _VisibleFormatter(_FILE_FORMAT)
        _add_handler(root, _file_handler(log_file, kept_as), undo)
    undo.push(_log_exception)
    return undo


def install_elsewhere(handler: logging.Handler) -> ExitStack:
    """In a process beside the command, whose log gets all records by `handler`, and what ends a
    thread as one; undone likewise."""
    undo = _records_led()
    _add_handler(logging.getLogger(), handler, undo)
    undo.callback(setattr, threading, "excepthook", threading.excepthook)
    threading.excepthook = _log_thread_error
    return undo


def _records_led() -> ExitStack:
    """Whoever tells something, it comes to the root logger, at the levels that are kept."""
    undo = ExitStack()
    _set_level(logging.getLogger(), logging.INFO, undo)
    _set_level(logging.getLogger(_OWN), logging.DEBUG, undo)
    for name in _NOISY:
        _set_level(logging.getLogger(name), logging.WARNING, undo)
    logging.captureWarnings(True)
    undo.callback(logging.captureWarnings, False)
    _quiet_progress_bars(undo)
    _route_loguru(undo)
    return undo


def _log_exception(
    kind: type[BaseException] | None, error: BaseException | None, _traceback: object
) -> None:
    if kind is not None:
        logging.getLogger(__name__).debug("run ended by %s", kind.__name__, exc_info=error)


def _set_level(logger: logging.Logger, level: int, undo: ExitStack) -> None:
    undo.callback(logger.setLevel, logger.level)
    logger.setLevel(level)


def _add_handler(logger: logging.Logger, handler: logging.Handler, undo: ExitStack) -> None:
    logger.addHandler(handler)
    undo.callback(handler.close)
    undo.callback(logger.removeHandler, handler)


def _console_handler(console: "Console | None") -> logging.Handler:
    is_terminal = console.is_terminal if console else _screen().isatty()
    return _rich_handler(console) if is_terminal else _plain_handler()


def _is_for_console(record: logging.LogRecord) -> bool:
    is_own = record.name == _OWN or record.name.startswith(f"{_OWN}.")
    return is_own or record.levelno >= logging.WARNING


def _rich_handler(console: "Console | None") -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(
        console=console or Console(stderr=True),
        show_path=False,
        markup=False,
        log_time_format="%H:%M:%S",
    )
    handler.setFormatter(_VisibleFormatter("%(message)s"))
    return handler


def _plain_handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(_VisibleFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    return handler


class _VisibleFormatter(logging.Formatter):
    """What an agent or a tool said, such as in the reason of a failure, moves no cursor: not
    on a screen, and not where the file is printed."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _file_handler(path: Path, formatter: logging.Formatter) -> logging.Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(formatter)
    return handler


class _FileHandler(logging.FileHandler):
    """Where the file system refuses, such as on a full disk: says so once and writes no more."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            return super().handleError(record)
        logging.getLogger().removeHandler(self)
        logging.getLogger(__name__).warning(
            "no further log file=%s: %s", self.baseFilename, error.strerror
        )

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _quiet_progress_bars(undo: ExitStack) -> None:
    for name, value in _QUIET_ENVIRONMENT.items():
        if name not in os.environ:
            os.environ[name] = value
            undo.callback(os.environ.pop, name, None)


class _ToLogging(logging.Handler):
    """Hands loguru's records to the logger of the module that wrote them."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def _route_loguru(undo: ExitStack) -> None:
    """Lead loguru into logging. Sinks that the user added stay; its own to stderr comes back."""
    if find_spec("loguru") is None:
        return
    from loguru import logger

    try:
        logger.remove(_loguru_stderr)
    except ValueError:
        pass  # The user removed loguru's own sink.
    else:
        undo.callback(_restore_loguru_stderr)
    sink = logger.add(_ToLogging(), format="{message}", level=0, diagnose=False)
    undo.callback(logger.remove, sink)


def _restore_loguru_stderr() -> None:
    from loguru import logger

    global _loguru_stderr
    _loguru_stderr = logger.add(_screen())
