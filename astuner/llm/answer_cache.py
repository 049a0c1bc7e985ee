"""Answers on disk, by the content of their question: one file each.

Several processes may use one folder: a file appears whole or not at all, and whoever writes last
wins with an equally good answer. What cannot be read as an entry is no entry.
"""

import asyncio
import hashlib
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from astuner.errors import ConfigError

logger = logging.getLogger(__name__)

_FORMAT = 1


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1]
    key: str
    answer: str


class AnswerCache:
    """The answers in one folder. Nothing is ever deleted; the folder may be at any time."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where there can be no such folder."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"astuner.llm.cache_dir = {str(folder)!r}: the folder cannot be made: "
                f"{error.strerror}; name another one, or null for no cache"
            ) from error
        self._folder = folder
        self._has_warned = False

    async def read(self, key: str) -> str | None:
        """The answer kept under `key`; None where there is none, or a damaged one."""
        return await asyncio.to_thread(_read, self._folder / key, key)

    async def write(self, key: str, answer: str) -> None:
        """Keep an answer. Where the disk refuses, says so once: the answer itself is not lost."""
        try:
            await asyncio.to_thread(_write, self._folder / key, key, answer)
        except OSError as error:
            level = logging.DEBUG if self._has_warned else logging.WARNING
            logger.log(level, "llm answer not cached folder=%s: %s", self._folder, error)
            self._has_warned = True


def cache_key(content: Any) -> str:
    """Equal for equal content, which is to be JSON; the order of its keys does not count."""
    text = json.dumps({"format": _FORMAT, "content": content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, key: str) -> str | None:
    try:
        entry = _Entry.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return entry.answer if entry.key == key else None


def _write(path: Path, key: str, answer: str) -> None:
    text = json.dumps({"format": _FORMAT, "key": key, "answer": answer})
    part = path.with_name(f".{key}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
