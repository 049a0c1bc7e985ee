"""Which files an agent finds where, and a folder of the host that holds them for one episode."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from astuner.env_service.harbor.dockerfile import CopiedFiles, ImageRecipe, MadeFolder
from astuner.env_service.harbor.needs import NeedsMore
from astuner.errors import TaskReadError

_OF_THE_SYSTEM = {
    *("", "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "nix", "proc", "run", "sbin"),
    *("sys", "tmp", "usr", "var"),
}
_OF_THE_FORMAT = {"logs", "solution", "tests"}
_PAGE = 4096
_HOMES = "home"
"""The sandbox has one of its own there, so a folder below it is mounted, not the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFiles:
    """What an agent may write to, and what is in there at the beginning."""

    mounts: tuple[str, ...]
    """Folders inside, none within another, that all the rest is in."""
    entries: tuple[tuple[Path | None, str], ...]
    """In order: a file or folder of the host and its path inside; None: a folder that is made."""


def files_of(recipe: ImageRecipe, environment: Path) -> AgentFiles:
    """Where everything goes. Raises NeedsMore for a place that is the system's, TaskReadError for
    a file that environment/ has not."""
    entries: list[tuple[Path | None, str]] = []
    folders: set[str] = set()
    for step in recipe.steps:
        for source, path in _entries(step, environment, folders):
            entries.append((source, path))
            is_file = source is not None and source.is_file()
            folders.update(_parents(path) if is_file else (path, *_parents(path)))
    tops = {_top(path, source is not None and source.is_file()) for source, path in entries}
    return AgentFiles(mounts=tuple(sorted(tops)), entries=tuple(entries))


def lay_out(files: AgentFiles, room: Path) -> dict[str, Path]:
    """Make the files in an empty folder of the host; returns what to mount where."""
    for source, path in files.entries:
        place = room / path.lstrip("/")
        if source is None:
            place.mkdir(parents=True, exist_ok=True)
        elif source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)
    return {top: room / top.lstrip("/") for top in files.mounts}


def check_tree(folder: Path) -> None:
    """Raise TaskReadError for a link that leads out of the folder and for what is neither file nor
    folder, NeedsMore for a link to a folder: so no copy of it holds a link."""
    root = folder.resolve()
    for parent, folders, files in os.walk(root):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if not path.is_symlink():
                if not (path.is_file() or path.is_dir()):
                    raise TaskReadError(f"{path} is neither a file nor a folder; remove it")
            elif not path.resolve().is_relative_to(root) or not path.exists():
                raise TaskReadError(
                    f"{path} is a link to {os.readlink(path)}, which is not in {root}; put the "
                    "file there in its place"
                )
            elif path.is_dir():
                raise NeedsMore(f"an image: {path.relative_to(root)} is a link to a folder")


def takes_more(folder: Path, max_bytes: int) -> bool:
    """Whether all in it, with a page for each entry, is more than that; no link is followed.

    Folders so deep that their path is too long for the system count as more. One that its owner
    closed is opened while it is looked into.
    """
    total, folders, closed = 0, [os.fspath(folder)], []
    try:
        while folders and total <= max_bytes:
            path = folders.pop()
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(path, mode | stat.S_IRWXU)
                closed.append((path, mode))
            with os.scandir(path) as entries:
                for entry in entries:
                    total += _PAGE + entry.stat(follow_symlinks=False).st_size
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return True
    finally:
        for path, mode in reversed(closed):
            os.chmod(path, mode)
    return total > max_bytes


def _entries(
    step: MadeFolder | CopiedFiles, environment: Path, folders: set[str]
) -> Iterator[tuple[Path | None, str]]:
    if isinstance(step, MadeFolder):
        yield None, step.path
        return
    target = step.target.rstrip("/")
    for source in _sources(step, environment):
        is_into = step.target.endswith("/") or target in folders
        yield source, f"{target}/{source.name}" if source.is_file() and is_into else target


def _sources(step: CopiedFiles, environment: Path) -> Iterator[Path]:
    for name in step.sources:
        is_pattern = any(character in name for character in "*?[")
        found = sorted(environment.glob(name)) if is_pattern else [environment / name]
        if not found or not found[0].exists():
            raise TaskReadError(
                f"{environment}/Dockerfile: COPY {name}: there is no such file beside it; add it"
            )
        yield from found


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(2, len(parts))]


def _top(path: str, is_file: bool) -> str:
    """The folder that is mounted for what stands at the path."""
    parts = path.split("/")[1:] or [""]
    depth = 2 if parts[0] == _HOMES else 1
    if (
        parts[0] in _OF_THE_SYSTEM | _OF_THE_FORMAT
        or len(parts) < depth + is_file
        or parts[:2] == [_HOMES, "sandbox"]
    ):
        raise NeedsMore(f"an image: it has a file or folder at {path or '/'}")
    return "/" + "/".join(parts[:depth])
