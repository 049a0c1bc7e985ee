"""What was read already: how far each source, and which conversations, whatever source had them.

One small file beside what was made of the traces, so that the next reading brings what is new.
"""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from astuner.errors import UnreadableError
from astuner.models.manifest import sync
from astuner.traces.reading import Cursor, TraceSource
from astuner.traces.trace import Step, Trace

CURSORS_FILE = "cursors.json"
CURSORS_FORMAT = 1
_DIGEST_BYTES = 8
"""Of each conversation: among ten million, two are taken for one with a chance of 1 in 370,000."""


class TraceCursors:
    """The state beside one output. Written by `save` only, whole or not at all.

    In this order nothing is lost by a kill: write the traces, then `save`; what was written and not
    saved is read again then.
    """

    def __init__(self, folder: Path) -> None:
        """As the last one saved it; empty where nothing was. Raises UnreadableError."""
        self._path = folder / CURSORS_FILE
        told = _loaded(self._path)
        self._sources: dict[str, Mapping[str, Any]] = dict(told.get("sources", {}))
        self._known = _digests(told.get("known", ""), self._path)

    @property
    def know_some(self) -> bool:
        """Whether any conversation was read before."""
        return bool(self._known)

    def cursor(self, source: TraceSource) -> Cursor:
        """Where to go on; empty for a source that is new, or that was read as another format."""
        told = self._sources.get(source.address, {})
        return told.get("cursor", {}) if told.get("format") == source.name else {}

    def is_new(self, trace: Trace) -> bool:
        """Whether nobody said exactly this before; from now on it is known."""
        return self.note(content_digest(trace))

    def note(self, digest: int) -> bool:
        """The same, of a `content_digest`."""
        if digest in self._known:
            return False
        self._known.add(digest)
        return True

    def move(self, source: TraceSource) -> None:
        """To behind what was read, once that has ended."""
        self._sources[source.address] = {"format": source.name, "cursor": source.cursor()}

    def save(self) -> None:
        """Raises OSError where the file system refuses; the file is as it was then."""
        known = b"".join(one.to_bytes(_DIGEST_BYTES, "big") for one in sorted(self._known))
        told = {
            "format": CURSORS_FORMAT,
            "sources": self._sources,
            "known": base64.b64encode(known).decode(),
        }
        part = self._path.with_suffix(".part")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(told, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        sync(self._path.parent)


def content_digest(trace: Trace) -> int:
    """Equal for who said and called what, whatever the ids, times and white space at the ends.

    Some recorders leave thoughts out of histories, so that these do not count.
    """
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for step in trace.steps:
        digest.update(json.dumps(_said(step)).encode())
    return int.from_bytes(digest.digest(), "big")


def _said(step: Step) -> list[Any]:
    calls = [[call.name, _plain(call.arguments)] for call in step.tool_calls]
    return [step.role, step.text.strip(), calls]


def _plain(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments.strip()


def _loaded(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(told, Mapping) or told.get("format") != CURSORS_FORMAT:
        found = told.get("format") if isinstance(told, Mapping) else type(told).__name__
        raise _unreadable(path, f"found format {found!r}, known is {CURSORS_FORMAT}")
    return told


def _digests(text: str, path: Path) -> set[int]:
    try:
        known = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise _unreadable(path, str(error)) from error
    places = range(0, len(known), _DIGEST_BYTES)
    return {int.from_bytes(known[start : start + _DIGEST_BYTES], "big") for start in places}


def _unreadable(path: Path, found: str) -> UnreadableError:
    return UnreadableError(
        f"{path}: what was read already cannot be told: {found}; it was changed or written by "
        "another version. Take it away to read everything anew, into another folder"
    )
