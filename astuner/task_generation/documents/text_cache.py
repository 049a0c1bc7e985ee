"""Texts of files on disk, by the content of the file and by what reads it: one file each.

A file appears whole or not at all; a damaged one counts as none. Nothing is ever deleted.
"""

import hashlib
import logging
import os
import uuid
from pathlib import Path

from astuner.task_generation.documents.extracted import ExtractedText, from_json, to_json

logger = logging.getLogger(__name__)

VERSION = 1
"""Of our readers: grows where one of them reads a file otherwise than before."""


class TextCache:
    """Keeps nothing where it has no folder, or where the disk refuses, which is said once."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._has_warned = False

    def read(self, key: str) -> ExtractedText | None:
        if self._folder is None:
            return None
        try:
            return from_json((self._folder / key).read_bytes())
        except (OSError, ValueError):
            return None

    def read_of_any_version(self, key: str) -> ExtractedText | None:
        """The one that was written last, of those that any version of the package has read; `key`
        is without a version."""
        if self._folder is None:
            return None
        found = sorted(self._folder.glob(f"{key}-*"), key=_written_at, reverse=True)
        return next((text for file in found if (text := self.read(file.name))), None)

    def write(self, key: str, text: ExtractedText) -> None:
        if self._folder is None:
            return
        try:
            _write(self._folder / key, to_json(text))
        except OSError as error:
            level = logging.DEBUG if self._has_warned else logging.WARNING
            logger.log(level, "text of document not cached folder=%s: %s", self._folder, error)
            self._has_warned = True


def cache_key(data: bytes, *, format_name: str, package_version: str | None) -> str:
    """Another one for another content, format or version of what reads it, which is its end."""
    content = hashlib.sha256(data).hexdigest()
    key = hashlib.sha256(f"{content} {VERSION} {format_name}".encode()).hexdigest()
    return key if package_version is None else f"{key}-{package_version}"


def _written_at(path: Path) -> float:
    return path.stat().st_mtime


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
