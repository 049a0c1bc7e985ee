"""The end of a run's log, and what it tells of how the run ended."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from astuner.logview.reading.lines import own_file
from astuner.machine.regular_file import open_regular

_NAME = "run.log"
_MAX_BYTES = 64 * 2**10
_HEAD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S* [A-Z]+ [\w.]+ ")
"""Of a record: time, level, logger."""
_ENDED_BY = re.compile(r"\brun ended by (\w+)")
_STARTED = "astuner: backbone "
_DONE = re.compile(r"^(run directory|checkpoint) {2,}\S")
_STEP_OF = re.compile(r"^step \d+/(\d{1,18}) ")
_SIGNALS = ("KeyboardInterrupt", "Quit")


def log_tail(root: Path, num_lines: int) -> list[str]:
    """The last lines of the log as they stand there, whole ones and the one being written."""
    path = own_file(root, _NAME)
    try:
        if path is None:
            return []
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _MAX_BYTES))
            data = file.read(_MAX_BYTES)
    except OSError:
        return []
    if size > _MAX_BYTES:
        data = data.partition(b"\n")[2]
    lines = [line.decode(errors="replace") for line in data.rstrip(b"\n").split(b"\n")]
    return lines[-num_lines:] if num_lines > 0 and data else []


def end_in_log(lines: Sequence[str]) -> Literal["done", "failed", "interrupted"] | None:
    """How the last start ended, by the last lines of its log; None where they do not tell."""
    starts = [i for i, line in enumerate(lines) if said_in(line).startswith(_STARTED)]
    of_start = lines[starts[-1] :] if starts else lines
    causes = [match[1] for line in of_start if (match := _ENDED_BY.search(line))]
    if causes:
        return "interrupted" if causes[-1] in _SIGNALS else "failed"
    return "done" if of_start and _DONE.match(said_in(of_start[-1])) else None


def last_said(lines: Sequence[str]) -> str | None:
    """The last line of a log without time, level and logger; None where there is none."""
    return next((text for line in reversed(lines) if (text := said_in(line).strip())), None)


def planned_in_log(lines: Sequence[str]) -> int | None:
    """How many steps the run was to do, by the last step that its log tells of."""
    matches = (_STEP_OF.match(said_in(line)) for line in reversed(lines))
    return next((int(match[1]) for match in matches if match), None)


def said_in(line: str) -> str:
    """What a line says, in either form of the log."""
    if line.startswith("{"):
        with suppress(ValueError, AttributeError, RecursionError):
            record = json.loads(line)
            return str(record.get("error.message") or record.get("message", line))
    return _HEAD.sub("", line)
