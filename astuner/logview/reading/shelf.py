"""Finds the runs, and the generated sets, in the folders that a user named."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from astuner.errors import NotFoundError
from astuner.logview.reading.cache import cache_folder
from astuner.logview.reading.lines import shown
from astuner.logview.reading.run_reader import RunReader
from astuner.logview.reading.set_places import folders_named_by, is_set
from astuner.logview.reading.set_reader import SetReader

_DEPTH = 2
"""Levels below a folder of runs: the name of the YAML, the run. Sets are as far below or less."""
_FILES = ("started.json", "config.yaml", "run.log")
_NUM_NAMED = 5


class Shelf:
    """The runs and sets in some folders, found anew each time that they are asked for."""

    def __init__(self, folders: Sequence[Path], *, cache_dir: Path | None = None) -> None:
        """Each folder is a run directory or a generated set, or holds some, or folders of some.

        Raises NotFoundError, in words, for one that is not there, and for one that holds other
        things. One that is empty has no runs yet.
        """
        self.folders = tuple(Path(os.path.realpath(folder)) for folder in folders)
        self._cache_dir = cache_folder() if cache_dir is None else cache_dir
        self._readers: dict[tuple[Path, str], RunReader] = {}
        self._set_readers: dict[tuple[Path, str], SetReader] = {}
        self._named_by_runs: dict[Path, tuple[int, tuple[tuple[Path, ...], ...]]] = {}
        """By the folder of a run: when that last changed, and where its sets may be."""
        self._lock = threading.Lock()
        for given, folder in zip(folders, self.folders, strict=True):
            _check_holds_runs(given, folder)

    def runs(self) -> list[RunReader]:
        """All that are there now, the newest first."""
        roots = dict.fromkeys(root for folder in self.folders for root in _roots(folder, _is_run))
        readers = [self._reader(root, name) for root, name in _named(roots).items()]
        return sorted(readers, key=lambda run: (run.started, run.name), reverse=True)

    def run(self, name: str) -> RunReader:
        """The run of that name, also one that was found earlier and is gone.

        Raises NotFoundError, in words.
        """
        runs = self.runs()
        known = [run for run in list(self._readers.values()) if run.name == name]
        for run in (*runs, *known):
            if run.name == name:
                return run
        found = ", ".join(run.name for run in runs[:_NUM_NAMED]) or "none"
        raise NotFoundError(
            f"there is no run {name!r} in {_listed(self.folders)}; found {len(runs)}: {found}"
            f"{', …' if len(runs) > _NUM_NAMED else ''}. Choose one of them, or open the viewer on "
            "the folder that the run lies in"
        )

    def sets(self) -> list[SetReader]:
        """All generated sets below the folders, and those that the runs there name; by name."""
        below = [root for folder in self.folders for root in _roots(folder, is_set)]
        named = [root for run in self.runs() for root in self._sets_named_by(run)]
        roots = _named(sorted(dict.fromkeys([*below, *named])))
        return sorted(
            (self._set_reader(root, name) for root, name in roots.items()),
            key=lambda found: found.name,
        )

    def set_named(self, name: str) -> SetReader:
        """The set of that name. Raises NotFoundError, in words."""
        sets = self.sets()
        for found in sets:
            if found.name == name:
                return found
        some = ", ".join(found.name for found in sets[:_NUM_NAMED]) or "none"
        raise NotFoundError(
            f"there is no generated set {name!r} in {_listed(self.folders)}; found {len(sets)}: "
            f"{some}{', …' if len(sets) > _NUM_NAMED else ''}. Choose one of them, or open the "
            "viewer on the folder of the set"
        )

    def sets_of(self, run: RunReader) -> list[SetReader]:
        """Those that the run took its tasks from, as far as they are there."""
        named = self._sets_named_by(run)
        return [found for found in self.sets() if found.root in named] if named else []

    def _sets_named_by(self, run: RunReader) -> list[Path]:
        """Its configuration is read again once a file was added, as each start of the run does."""
        try:
            written = os.stat(run.root).st_mtime_ns
        except OSError:
            return []
        known = self._named_by_runs.get(run.root)
        if known is None or known[0] != written:
            known = self._named_by_runs[run.root] = (written, folders_named_by(run))
        found = (next(filter(is_set, folders), None) for folders in known[1])
        return [folder for folder in found if folder is not None]

    def _set_reader(self, root: Path, name: str) -> SetReader:
        key = (root, name)
        with self._lock:
            if key not in self._set_readers:
                self._set_readers[key] = SetReader(root, name=name)
            return self._set_readers[key]

    def _reader(self, root: Path, name: str) -> RunReader:
        key = (root, name)
        with self._lock:
            if key not in self._readers:
                self._readers[key] = RunReader(root, name=name, cache_dir=self._cache_dir)
            return self._readers[key]


def _named(roots: Iterable[Path]) -> dict[Path, str]:
    """Each run with a name of its own: of equal ones the later have a number behind it.

    A folder's name may be no text; its bytes then stand as escapes.
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for root in roots:
        plain = shown(f"{root.parent.name}/{root.name}")
        numbered = (plain if number == 1 else f"{plain}~{number}" for number in itertools.count(1))
        names[root] = next(name for name in numbered if name not in taken)
        taken.add(names[root])
    return names


def _roots(folder: Path, is_wanted: Callable[[Path], bool], depth: int = _DEPTH) -> Iterator[Path]:
    """The runs or the sets in a folder, itself included; links are not followed."""
    if is_wanted(folder):
        yield folder
        return
    if depth == 0 or _is_run(folder) or is_set(folder):
        return
    for inner in _folders_in(folder):
        yield from _roots(inner, is_wanted, depth - 1)


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _is_run(folder: Path) -> bool:
    """By what runs write at their start; releases that did not number runs had no started.json."""
    has = {name: os.path.isfile(folder / name) for name in _FILES}
    return has["started.json"] or (has["config.yaml"] and has["run.log"])


def _check_holds_runs(given: Path, folder: Path) -> None:
    try:
        found = sorted(os.listdir(folder))
    except OSError as error:
        raise NotFoundError(
            f"{given}: the folder cannot be read: {error.strerror}; name the folder of the runs, "
            "such as launcher_record, or start the command where that lies"
        ) from error
    if found and not any(next(_roots(folder, kind), None) for kind in (_is_run, is_set)):
        some = ", ".join(found[:_NUM_NAMED]) + (", …" if len(found) > _NUM_NAMED else "")
        raise NotFoundError(
            f"{given}: it is no run and holds none. A run directory has started.json, config.yaml "
            f"and run.log, a generated set card.json and train.jsonl; found {some}. Name a folder "
            "such as launcher_record, launcher_record/NAME, a run directory or a generated set"
        )


def _listed(folders: Sequence[Path]) -> str:
    return " and ".join(str(folder) for folder in folders)
