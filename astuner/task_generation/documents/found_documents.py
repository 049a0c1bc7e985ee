"""Which files the paths of a setting mean, and how each is called in a set."""

import glob
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.errors import ConfigError
from astuner.machine.visible import visible
from astuner.task_generation.generated_set import FINGERPRINT_FILE, LEDGER_FILE
from astuner.task_reader.local_path import find_path, places

SETTING = "task_reader.data_generation.document_reader.document_path"

_VERSION_FOLDERS = {"CVS", "_darcs"}
"""Of version control, beside those that are hidden."""
_WRITTEN_FOLDERS = ((FINGERPRINT_FILE, LEDGER_FILE), ("started.json", "config.yaml"))
"""The files by which generated sets and run directories are known. They change with each start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDocument:
    """A file, or a folder that cannot be opened."""

    name: str
    """Unique among those that were found."""
    path: Path
    trouble: str | None = None
    """Why nothing can be read there, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileBelow:
    path: Path
    root: Path
    """The folder that was named."""
    trouble: str | None = None


def find_documents(
    paths: Sequence[str], search_dirs: Sequence[Path], *, set_folder: Path | None = None
) -> list[FoundDocument]:
    """All files that the paths mean, by name: files, folders with all below, and patterns.

    Hidden files and folders, and those of version control, are left out, unless a path names one.
    So are generated sets and runs below a folder, also `set_folder`, which the tasks go to. A name
    is the path below the named folder; of several files with the same one, the first keeps it, and
    the others get the names of folders above it in front. Raises ConfigError for a path that means
    no file, and where `set_folder` itself is read.
    """
    own = os.path.realpath(set_folder) if set_folder else None
    found: dict[str, FoundDocument] = {}
    seen: set[str] = set()
    for path in paths:
        is_empty = True
        for entry in _entries(path, search_dirs, own):
            is_empty = False
            real = os.path.realpath(entry.path)
            if os.path.dirname(real) == own:
                raise ConfigError(
                    f"{SETTING}: {path!r}: the tasks would be written among the documents in "
                    f"{own}, and be read with them by the next start; name another output_dir"
                )
            if real not in seen:
                seen.add(real)
                name = next(name for name in _names(entry) if name not in found)
                found[name] = FoundDocument(name=name, path=entry.path, trouble=entry.trouble)
        if is_empty:
            raise ConfigError(_describe_nothing(path, search_dirs))
    return sorted(found.values(), key=lambda document: document.name)


def _names(entry: _FileBelow) -> Iterator[str]:
    """The path below the named folder, then longer and longer ones."""
    whole = Path(os.path.abspath(entry.path))
    below = len(entry.path.relative_to(entry.root).parts)
    for number in range(max(1, below), len(whole.parts) + 1):
        yield visible(Path(*whole.parts[-number:]).as_posix())
    # Two names may look the same where one holds an escape of what the other holds.
    yield from (f"{visible(whole.as_posix())} ({number})" for number in itertools.count(2))


def _entries(path: str, search_dirs: Sequence[Path], own: str | None) -> Iterator[_FileBelow]:
    place = find_path(path, search_dirs) if path.strip() else None
    if place is not None:
        yield from _entries_at(place, root=place if place.is_dir() else place.parent, own=own)
    elif glob.has_magic(path):
        yield from _matching(path, search_dirs, own)


def _matching(pattern: str, search_dirs: Sequence[Path], own: str | None) -> Iterator[_FileBelow]:
    """What the pattern matches in the first folder where it matches anything."""
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)
    below = Path(*fixed)
    for place, root in zip(
        places(pattern, search_dirs), places(str(below), search_dirs), strict=True
    ):
        matches = sorted(glob.glob(str(place), recursive=True))
        entries = (_entries_at(Path(match), root=root, own=own) for match in matches)
        found = list(itertools.chain.from_iterable(entries))
        if found:
            yield from found
            return


def _entries_at(place: Path, *, root: Path, own: str | None) -> Iterator[_FileBelow]:
    if not place.is_dir():
        yield _FileBelow(path=place, root=root)
        return
    troubles: list[_FileBelow] = []

    def note(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        trouble = f"the folder cannot be opened: {error.strerror}"
        troubles.append(_FileBelow(path=path, root=root, trouble=trouble))

    for folder, names in _walk(place, note, own):
        yield from (_FileBelow(path=folder / name, root=root) for name in names)
    yield from troubles


def _walk(
    place: Path, note: Callable[[OSError], None], own: str | None
) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with its files, both in order; one that links lead to twice is entered once."""
    entered = {os.path.realpath(place)}
    for folder, folders, names in os.walk(place, onerror=note, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(folder, name))
            if real != own and real not in entered and _is_material(name, real):
                entered.add(real)
                kept.append(name)
        folders[:] = kept
        yield Path(folder), sorted(filter(_is_shown, names))


def _is_material(name: str, folder: str) -> bool:
    if not _is_shown(name) or name in _VERSION_FOLDERS:
        return False
    return not any(
        all(os.path.exists(os.path.join(folder, file)) for file in files)
        for files in _WRITTEN_FOLDERS
    )


def _is_shown(name: str) -> bool:
    return not name.startswith(".")


def _describe_nothing(path: str, search_dirs: Sequence[Path]) -> str:
    if not path.strip():
        return f"{SETTING}: {path!r} is no path; name a file, a folder or a pattern"
    place = find_path(path, search_dirs)
    if place is not None:
        return (
            f"{SETTING}: {path!r}: the folder {place} holds no file, but for hidden ones, which "
            "are left out; put documents there, or name another folder"
        )
    looked = ", ".join(map(str, places(path, search_dirs)))
    what = "nothing matches the pattern" if glob.has_magic(path) else "no such file or folder"
    return (
        f"{SETTING}: {path!r}: {what}; looked for {looked}; relative paths start at the current "
        "directory or at the folder of the YAML"
    )
