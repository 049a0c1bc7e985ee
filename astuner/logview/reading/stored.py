"""One record, read from its place and made whole again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astuner.errors import AstunerError, UnreadableError
from astuner.logview.reading.inventory import EPISODES
from astuner.logview.reading.lines import json_object, own_file, shown
from astuner.logview.reading.row import EpisodeRow, newer_format
from astuner.logview.reading.well_formed import misshapen_field
from astuner.machine.regular_file import open_regular
from astuner.trajectory.episode import Episode
from astuner.trajectory.record import RECORD_FORMAT, episode_from_record


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEpisode:
    """An episode as it lies on the disk, and as it was."""

    row: EpisodeRow
    record: dict[str, Any]
    """The object of its line."""
    episode: Episode


def read_stored(root: Path, row: EpisodeRow) -> StoredEpisode:
    """The episode of a row of the run directory `root`.

    Raises UnreadableError, in words, for a record of an unknown format, one that is not whole, and
    one that is no longer where it was.
    """
    where = f"episode {row.episode_id!r} in {root / EPISODES / row.file} at byte {row.offset:,}"
    if row.problem is not None:
        raise UnreadableError(f"{where}: {row.problem}")
    try:
        record = json_object(_read_line(root, row))
    except ValueError as error:
        raise UnreadableError(f"{where}: {error}; {_CHANGED}") from error
    if shown(str(record.get("episode_id"))) != row.episode_id:
        raise UnreadableError(f"{where}: another record stands there now; {_CHANGED}")
    return StoredEpisode(row=row, record=record, episode=_made_whole(record, where))


_NOT_WHOLE = (
    *(AstunerError, ValueError, TypeError, AttributeError, IndexError, OverflowError),
    RecursionError,
)
_CHANGED = "the file was changed after it was listed: load the page again"


def _read_line(root: Path, row: EpisodeRow) -> bytes:
    path = own_file(root, f"{EPISODES}/{row.file}")
    if path is None:
        raise UnreadableError(
            f"episode {row.episode_id!r}: its file {root / EPISODES / row.file} is gone; it was "
            "deleted, moved, or put aside when the run went on from an earlier step"
        )
    try:
        with open_regular(path) as file:
            file.seek(row.offset)
            return file.read(row.length)
    except OSError as error:
        raise UnreadableError(
            f"episode {row.episode_id!r}: {path} cannot be read: {error.strerror}"
        ) from error


def _made_whole(record: Mapping[str, Any], where: str) -> Episode:
    record_format = record.get("format", 1)
    if not isinstance(record_format, int) or record_format > RECORD_FORMAT:
        raise UnreadableError(f"{where}: {newer_format(record_format)}")
    try:
        found = misshapen_field(record)
        if found is None:
            return episode_from_record(record)
    except KeyError as error:
        found = f"{error.args[0]!r} is missing"
    except _NOT_WHOLE as error:
        found = str(error)
    raise UnreadableError(
        f"{where}: the record is not whole: {found}; it was written by another version or changed "
        "by hand"
    )
