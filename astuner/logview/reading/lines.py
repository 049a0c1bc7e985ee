"""Whole lines of files that others write, wherever these begin and however long they are.

Owns the bound of one line and which files count as the run's own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_LINE_BYTES = 256 * 2**20
"""Of one line that is read into memory; longer ones are passed over, and said."""

_PASSED_OVER_BYTES = 2**20
_HEAD_BYTES = 1024
"""Enough for what names an episode: its id, step, attempt and question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeLine:
    """One line that has its end."""

    offset: int
    """Of its first byte in the file."""
    length: int
    """In bytes, its end included."""
    head: bytes
    """Its beginning, by which it is recognised."""
    data: bytes | None
    """All of it, its end included; None where it is longer than the bound."""


def whole_lines(
    file: BinaryIO, offset: int = 0, *, max_bytes: int = MAX_LINE_BYTES
) -> Iterator[WholeLine]:
    """The lines from `offset` on, which is where one begins. A torn last line is left for later."""
    file.seek(offset)
    while data := file.readline(max_bytes + 1):
        length = len(data)
        is_whole = data.endswith(b"\n")
        is_long = length > max_bytes
        while not is_whole and is_long and (more := file.readline(_PASSED_OVER_BYTES)):
            length += len(more)
            is_whole = more.endswith(b"\n")
        if not is_whole:
            return
        yield WholeLine(
            offset=offset,
            length=length,
            head=data[:_HEAD_BYTES],
            data=None if is_long else data,
        )
        offset += length


def json_object(data: bytes) -> dict[str, Any]:
    """The object that a line holds. Raises ValueError, in words, for anything else."""
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("its values stand in each other too deep to be read") from error
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"it is no JSON object but {type(value).__name__}")
    return value


def own_file(root: Path, name: str) -> Path | None:
    """The file of that name in the run directory `root`, which has no links in its own path.

    None where there is none, and where symbolic links lead out of the directory.
    """
    path = root / name
    try:
        is_own = path.resolve(strict=True).is_relative_to(root) and path.is_file()
    except (OSError, RuntimeError):  # RuntimeError: links that lead to each other
        return None
    return path if is_own else None


def shown(text: str) -> str:
    """The text with an escape for each lone surrogate, so that UTF-8 and addresses can hold it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
