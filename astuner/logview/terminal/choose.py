"""Which runs and which episode a person means who types a part of their names."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from astuner.errors import NotFoundError
from astuner.logview.reading.index import EpisodeIndex
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.reading.row import EpisodeRow
from astuner.logview.reading.run_reader import RunReader
from astuner.logview.reading.shelf import Shelf
from astuner.machine.visible import visible

_LATEST = "latest"
_NUM_NAMED = 5
_NUM_COMPARED = 10_000
"""Ids among which the nearest is looked for."""
_ALL = -1
"""A limit of SQLite that is none."""


def choose_runs(asked: str | None, folder: Path) -> list[RunReader]:
    """The runs that are meant, the newest first; all in the folder where none is named.

    `asked` is a folder, the name of a run as it is listed or an end or a beginning of it that no
    other has, the name of a YAML for all its runs, `latest`, or `NAME/latest`. Raises
    NotFoundError, in words.
    """
    if asked is None:
        return _some(Shelf([folder]).runs(), folder)
    is_folder = Path(asked).is_dir()
    runs = [] if is_folder and not folder.is_dir() else Shelf([folder]).runs()
    if named := _named_so(runs, asked):
        return named
    # Behind the names: the folder of an agent is often called like its YAML.
    if is_folder:
        return _some(Shelf([Path(asked)]).runs(), Path(asked))
    begun = [run for run in runs if run.name.startswith(asked) or run.start.startswith(asked)]
    if begun:
        return begun
    raise NotFoundError(
        f"there is no run {asked!r} in {folder}; {_nearest(asked, _names(runs))}; "
        "`astuner show` lists them, and --exp-dir names another folder"
    )


def _named_so(runs: list[RunReader], asked: str) -> list[RunReader]:
    experiment, _, start = asked.rpartition("/")
    if start == _LATEST:
        return [run for run in runs if experiment in ("", run.experiment)][:1]
    of_name = [run for run in runs if asked in (run.name, run.start)]
    return of_name or [run for run in runs if asked == run.experiment]


def choose_episode(run: RunReader, asked: str) -> EpisodeRow:
    """The episode of that id, or the only one whose id begins so. Raises NotFoundError."""
    row = run.index.locate(asked)
    if row is not None:
        return row
    read_index(run.index, step=None, is_validation=None)
    ids = run.index.rows(EpisodeQuery(), limit=_ALL).rows
    found = [row for row in ids if row.episode_id.startswith(asked)]
    if len({row.episode_id for row in found}) == 1:
        return found[-1]
    if found:
        raise NotFoundError(
            f"{len(found)} episodes of {run.name} begin with {asked!r}: "
            f"{_listed([row.episode_id for row in found])}; write more of the id"
        )
    names = [row.episode_id for row in ids[:_NUM_COMPARED]]
    raise NotFoundError(
        f"there is no episode {asked!r} in {run.name}, which has {len(ids)}; "
        f"{_nearest(asked, names)}; --step lists those of a step"
    )


def episodes_of(run: RunReader, query: EpisodeQuery) -> list[EpisodeRow]:
    """All episodes that are asked for. Raises NotFoundError where there are none, though not for
    those that failed among some that did not."""
    read_index(run.index, step=query.step, is_validation=query.is_validation)
    rows = run.index.rows(query, limit=_ALL).rows
    if rows or (query.outcome == "failed" and run.index.count(replace(query, outcome=None))):
        return rows
    kept = sorted(
        entry.step
        for entry in run.index.steps()
        if entry.num_bytes and query.is_validation in (None, entry.is_validation)
    )
    known = f"steps {kept[0]} to {kept[-1]}" if kept else "none"
    kinds = {True: "validations", False: "training", None: "training and validations"}
    kind = kinds[query.is_validation]
    raise NotFoundError(
        f"no episode of {run.name} is like that; recorded of {kind}: {known}. Ask for "
        "another step, or less of it"
    )


def read_index(index: EpisodeIndex, *, step: int | None, is_validation: bool | None) -> None:
    """Until the files of that step are in the index, or all where there is none."""
    while not index.refresh(step=step, is_validation=is_validation).is_whole:
        entries = [
            entry
            for entry in index.steps()
            if entry.step == step and is_validation in (None, entry.is_validation)
        ]
        if step is not None and all(entry.is_indexed for entry in entries):
            return


def _some(runs: list[RunReader], folder: Path) -> list[RunReader]:
    if not runs:
        raise NotFoundError(
            f"{folder} holds no runs yet; `astuner --conf FILE` begins one, and --exp-dir "
            "names another folder"
        )
    return runs


def _names(runs: Sequence[RunReader]) -> list[str]:
    """All that a run may be called by."""
    names = [name for run in runs for name in (run.name, run.experiment, run.start)]
    return list(dict.fromkeys([*names, _LATEST]))


def _nearest(asked: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(asked, names, n=1, cutoff=0.5)
    return f"did you mean {visible(near[0])}?" if near else f"there are {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = ", …" if len(names) > _NUM_NAMED else ""
    return visible(", ".join(names[:_NUM_NAMED])) + more
