"""Log records, and whatever else goes to standard error, as one JSON object a line.

The names of the fields are those of the Elastic Common Schema, which most collectors of logs know:
https://www.elastic.co/guide/en/ecs/current. What it has no name for stands under `astuner.`.
"""

import contextlib
import io
import json
import logging
import re
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import IO, Any

from astuner.clock import iso_utc
from astuner.errors import text_of

_ECS_VERSION = "8.11.0"
_STDERR = "stderr"
"""The logger of what was written past the log."""

_about: ContextVar[Mapping[str, Any]] = ContextVar("astuner_log_about")


@contextlib.contextmanager
def about(**fields: str | int) -> Iterator[None]:
    """Around work on something: its records name it, as `step` and `episode`, those of the tasks
    and threads that are started there with a copy of the context included."""
    token = _about.set({**_about.get({}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def about_now() -> Mapping[str, Any]:
    """The fields that records of this moment get."""
    return _about.get({})


class JsonFormatter(logging.Formatter):
    """A record as one line of ASCII."""

    def __init__(self) -> None:
        super().__init__()
        self.run: str | None = None
        """The run that the process works for; None while there is none."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "@timestamp": iso_utc(record.created),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": _ECS_VERSION,
            "log.logger": record.name,
            "process.pid": record.process,
            "process.thread.name": record.threadName,
        }
        if self.run is not None:
            fields["astuner.run"] = self.run
        fields |= {f"astuner.{name}": value for name, value in about_now().items()}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= _error_fields(record.exc_info[1])
        return json.dumps(fields)


def _error_fields(error: BaseException) -> dict[str, str]:
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return {
        "error.type": f"{module}{kind.__qualname__}",
        "error.message": text_of(error),
        "error.stack_trace": "".join(traceback.format_exception(error)),
    }


class JsonLines(io.TextIOBase):
    """Stands for a stream: each line that is written becomes an object, as a record of `stderr`.

    Records of the log are written by `write_record`. A stream that takes no more text loses what
    comes; the run goes on.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._rest = ""
        self.formatter = JsonFormatter()

    def write_record(self, record: logging.LogRecord) -> None:
        line = self.formatter.format(record)
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._rest = re.split(r"[\r\n]", self._rest + text)
        for line in lines:
            self._write_line(line)
        return len(text)

    def end_line(self) -> None:
        """Write what has no line end yet."""
        with self._lock:
            line, self._rest = self._rest, ""
        self._write_line(line)

    def _write_line(self, line: str) -> None:
        if line.strip():
            fields = {"name": _STDERR, "levelno": logging.INFO, "levelname": "INFO", "msg": line}
            self.write_record(logging.makeLogRecord(fields))

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute of its class in C
        return "utf-8"

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


class JsonHandler(logging.Handler):
    """Hands records to `JsonLines`."""

    def __init__(self, lines: JsonLines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.write_record(record)
        except Exception:  # noqa: BLE001  # as every handler: a record is never an error of the run
            self.handleError(record)
