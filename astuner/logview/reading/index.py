"""The episodes of a run, found by what they are: an index of byte offsets, kept in a cache."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from astuner.logview.reading.cache import IndexCache
from astuner.logview.reading.groups import (
    GroupRow,
    TaskChange,
    changed_tasks,
    groups_of_step,
    groups_of_task,
)
from astuner.logview.reading.indexing import Indexed, Indexer
from astuner.logview.reading.lines import MAX_LINE_BYTES
from astuner.logview.reading.query import SELECT_ROWS, EpisodeQuery, filter_of, keys_of, rows_from
from astuner.logview.reading.row import EpisodeRow
from astuner.logview.reading.search import SEARCH_SECONDS, SearchPage, search_episodes
from astuner.logview.reading.stored import StoredEpisode, read_stored

_ID = re.compile(r"(step|validation)(\d{1,18})-")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEntry:
    """One file of episodes."""

    step: int
    is_validation: bool
    num_bytes: int
    num_episodes: int
    """That are in the index."""
    is_indexed: bool
    """Whether these are all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsPage:
    """A part of the episodes that a query asks for."""

    rows: list[EpisodeRow]
    total: int
    """How many there are, of those in the index."""
    indexed: Indexed
    """As of the last refresh."""


class Neighbours(NamedTuple):
    """The episodes before and behind one; None where it is the first or the last."""

    previous_id: str | None
    next_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeCounts:
    """What came of the episodes that are in the index."""

    num_episodes: int
    num_solved: int
    num_failed: int


class EpisodeIndex:
    """What is known of a run's episodes; made as far as somebody asks for it.

    Nothing is read before the first `refresh`. All methods may be called from several threads.
    """

    def __init__(
        self, root: Path, cache_dir: Path, *, max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        """Of the run directory `root`, which has no links in its own path."""
        self._root = root
        self._cache = IndexCache(root, cache_dir)
        self._indexer = Indexer(root, self._cache, max_line_bytes=max_line_bytes)
        self._indexed = Indexed(done_bytes=0, total_bytes=0, is_whole=False)

    def refresh(
        self,
        *,
        step: int | None = None,
        is_validation: bool | None = None,
        seconds: float | None = 0.5,
    ) -> Indexed:
        """Read what is new, the files of `step` first, for about that time; None is endless."""
        self._indexed = self._indexer.refresh(
            step=step, is_validation=is_validation, seconds=seconds
        )
        return self._indexed

    def steps(self) -> list[StepEntry]:
        """The files that were found, by step."""
        found = self._cache.read(
            "SELECT step, is_validation, size, num_episodes, is_finished FROM files "
            "ORDER BY step, is_validation"
        )
        return [
            StepEntry(
                step=step,
                is_validation=bool(is_validation),
                num_bytes=size,
                num_episodes=num_episodes,
                is_indexed=bool(is_finished),
            )
            for step, is_validation, size, num_episodes, is_finished in found
        ]

    def rows(self, query: EpisodeQuery, *, limit: int, offset: int = 0) -> RowsPage:
        """The episodes from the `offset`th on, at most `limit`."""
        wanted = filter_of(query)
        order = ", ".join(keys_of(query.order))
        # Only the rows of the page are put together: all of them would go through the sorting.
        of_page = f"SELECT e.rowid FROM episodes e WHERE {wanted.sql} ORDER BY {order}"
        found = self._cache.read(
            f"{SELECT_ROWS} WHERE e.rowid IN ({of_page} LIMIT ? OFFSET ?) ORDER BY {order}",
            (*wanted.values, limit, offset),
        )
        return RowsPage(rows=rows_from(found), total=self.count(query), indexed=self._indexed)

    def count(self, query: EpisodeQuery) -> int:
        """How many episodes of the index the query asks for."""
        wanted = filter_of(query)
        sql = f"SELECT count(*) FROM episodes e WHERE {wanted.sql}"
        return next(iter(self._cache.read(sql, wanted.values)), (0,))[0]

    def outcomes(self) -> OutcomeCounts:
        return OutcomeCounts(
            num_episodes=self.count(EpisodeQuery()),
            num_solved=self.count(EpisodeQuery(outcome="solved")),
            num_failed=self.count(EpisodeQuery(outcome="failed")),
        )

    def groups(self, step: int, is_validation: bool) -> list[GroupRow]:
        """Every group of a step, by task id."""
        return groups_of_step(self._cache, step, is_validation)

    def task_steps(self, task_id: str) -> list[GroupRow]:
        """The group of a task in each step that tried it, the earliest first."""
        return groups_of_task(self._cache, task_id)

    def task_changes(self, *, limit: int, least: int = 0) -> list[TaskChange]:
        """The tasks whose mean reward changed most, and least; see `changed_tasks`."""
        return changed_tasks(self._cache, limit=limit, least=least)

    def locate(self, episode_id: str) -> EpisodeRow | None:
        """The episode of that id, looked for where its id says it is if it is not known yet."""
        row = self._known(episode_id)
        match = _ID.match(episode_id)
        if row is None and match is not None:
            self.refresh(step=int(match[2]), is_validation=match[1] == "validation")
            row = self._known(episode_id)
        return row

    def neighbours(self, episode_id: str, query: EpisodeQuery) -> Neighbours:
        """Those before and behind an episode, of those that the query asks for, in its order."""
        keys = keys_of(query.order)
        place = self._cache.read(
            f"SELECT {', '.join(keys)} FROM episodes e WHERE e.episode_id = ? "
            "ORDER BY e.file_id DESC, e.offset DESC LIMIT 1",
            (episode_id,),
        )
        if not place:
            return Neighbours(previous_id=None, next_id=None)
        return Neighbours(
            previous_id=self._beside(query, place[0], is_before=True),
            next_id=self._beside(query, place[0], is_before=False),
        )

    def read(self, row: EpisodeRow) -> StoredEpisode:
        """The whole episode of a row. Raises UnreadableError, in words."""
        return read_stored(self._root, row)

    def search(
        self,
        text: str,
        query: EpisodeQuery,
        *,
        limit: int = 20,
        after: str | None = None,
        seconds: float = SEARCH_SECONDS,
    ) -> SearchPage:
        """The episodes that say `text`; see `search_episodes`."""
        return search_episodes(
            self._cache, self._root, text, query, limit=limit, after=after, seconds=seconds
        )

    def close(self) -> None:
        """Let go of the file in the cache; it is opened again when it is asked for something."""
        self._cache.close()

    def _known(self, episode_id: str) -> EpisodeRow | None:
        sql = f"{SELECT_ROWS} WHERE e.episode_id = ? ORDER BY e.file_id DESC, e.offset DESC LIMIT 1"
        return next(iter(rows_from(self._cache.read(sql, (episode_id,)))), None)

    def _beside(
        self, query: EpisodeQuery, place: tuple[object, ...], *, is_before: bool
    ) -> str | None:
        keys = keys_of(query.order)
        wanted = filter_of(query).behind(keys, place, is_before=is_before)
        order = ", ".join(f"{key} DESC" if is_before else key for key in keys)
        found = self._cache.read(
            f"SELECT e.episode_id FROM episodes e WHERE {wanted.sql} ORDER BY {order} LIMIT 1",
            wanted.values,
        )
        return found[0][0] if found else None
