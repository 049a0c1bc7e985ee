"""The files of episodes that a run has right now, from a look at its folder."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"(step|validation)_(\d{1,18})\.jsonl")
EPISODES = "episodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """One file of episodes, as the file system tells of it."""

    name: str
    step: int
    is_validation: bool
    inode: int
    size: int
    mtime_ns: int


def episode_files(root: Path) -> dict[str, FoundFile]:
    """By name, of the run directory `root`, which has no links in its own path.

    Links that lead out of it are passed over, and so are files of other names.
    """
    folder = root / EPISODES
    try:
        if not _is_inside(folder, root):
            return {}
        with os.scandir(folder) as entries:
            found = [_look_at(entry, root) for entry in entries]
    except OSError:
        return {}
    return {file.name: file for file in found if file is not None}


def _look_at(entry: os.DirEntry[str], root: Path) -> FoundFile | None:
    match = _NAME.fullmatch(entry.name)
    if match is None or (entry.is_symlink() and not _is_inside(Path(entry.path), root)):
        return None
    try:
        stat = entry.stat()
        is_file = entry.is_file()
    except OSError:  # deleted since
        return None
    if not is_file:
        return None
    return FoundFile(
        name=entry.name,
        step=int(match[2]),
        is_validation=match[1] == "validation",
        inode=stat.st_ino,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False
