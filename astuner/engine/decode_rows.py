"""Which row of the recorded passes each growing completion has, and the pages of each row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from astuner.engine.scheduler import NO_COLUMN, Draft
from astuner.engine.transfer import upload

_View = tuple[list[int], int]
"""The pages of a draft, which are another list once it lost them, and how many they are: while
equal, the same pages."""


@dataclass(slots=True)
class PassRows:
    """What the rows of a recorded pass compute: a token each, and in passes behind it the next."""

    drafts: list[Draft] = field(default_factory=list)
    """Whose token; a draft whose prompt is read, or whose guessed tokens are checked, has several,
    one after the other."""
    columns: list[int] = field(default_factory=list)
    """Where the token stands in what the last pass chose; NO_COLUMN: it is known."""
    ids: list[int] = field(default_factory=list)
    """The token, where it is known."""
    positions: list[int] = field(default_factory=list)
    inverse_temperatures: list[float] = field(default_factory=list)
    draws: list[Sequence[float]] = field(default_factory=list)
    """One for each pass that the row is part of: behind the first go on those which have more,
    each with the token that it got."""

    def add(
        self, draft: Draft, ids: Sequence[int], start: int, draws: Sequence[float] | None = None
    ) -> None:
        """Known tokens of a draft, from position `start` on, each with a draw or with none."""
        num_rows = len(ids)
        self.drafts += [draft] * num_rows
        self.columns += [NO_COLUMN] * num_rows
        self.ids += ids
        self.positions += range(start, start + num_rows)
        self.inverse_temperatures += [draft.request.inverse_temperature] * num_rows
        self.draws += [(draw,) for draw in draws] if draws else [()] * num_rows


class Replayed(NamedTuple):
    """Recorded passes that the GPU has been given."""

    rows: list[int]
    """Of each token, in the order of `PassRows`."""
    chosen: Tensor
    """(passes, 2, rows) float32: ids and log-probabilities, which the next passes overwrite."""
    logits: Tensor | None
    """(at least as many rows, V) in the mode "logits", which the next such pass overwrites."""


class DecodeRows:
    """A draft keeps its row while it grows, so that from pass to pass only new pages are uploaded.

    Rows that nobody uses show the spare page, which no completion has.
    """

    def __init__(
        self, num_rows: int, num_pages: int, *, spare_page: int, device: torch.device
    ) -> None:
        """For so many drafts at once, of so many pages at most."""
        self.spare_page = spare_page
        self._device = device
        self._array = numpy.full((num_rows, num_pages), self.spare_page, dtype=numpy.int32)
        self.tables = upload(self._array.copy(), self._device)
        """(num_rows, num_pages) int32."""
        self._drafts: list[Draft] = []
        self._places: list[int] = []
        self._size = 0
        self._last_views: list[_View] = []
        """Of `_drafts`, in that order."""
        self._views: dict[int, _View] = {}
        """The same by row, of those that are in use."""

    def place(self, drafts: list[Draft], size: int) -> list[int]:
        """A row for each, below `size`, with the draft's pages in `tables`."""
        if drafts != self._drafts or size != self._size:
            self._places = self._choose_rows(drafts, size)
            self._drafts, self._size, self._last_views = drafts, size, []
        pages = [draft.pages for draft in drafts]
        views = list(zip(pages, map(len, pages), strict=True))
        if views != self._last_views:
            self._upload_changes(dict(zip(self._places, views, strict=True)))
            self._last_views = views
        return self._places

    def _choose_rows(self, drafts: list[Draft], size: int) -> list[int]:
        # Of several rows that a draft had, it goes on in the first.
        known = dict(zip(reversed(self._drafts), reversed(self._places), strict=True))
        kept = [known.pop(draft, size) for draft in drafts]
        taken = set(kept)
        free = iter(row for row in range(size) if row not in taken)
        return [row if row < size else next(free) for row in kept]

    def _upload_changes(self, views: dict[int, _View]) -> None:
        changed = [row for row, view in views.items() if view != self._views.get(row)]
        gone = [*(self._views.keys() - views.keys())]
        if not changed and not gone:
            return
        for _, of_one in groupby(changed, key=lambda row: id(views[row][0])):
            alike = [*of_one]
            pages, num_pages = views[alike[0]]
            before, num_known = self._views.get(alike[0], (None, 0))
            first = num_known if before is pages and len(alike) == 1 else 0
            self._array[alike, first:num_pages] = pages[first:]
            if first == 0:
                self._array[alike, num_pages:] = self.spare_page
        self._array[gone] = self.spare_page
        rows = numpy.array(changed + gone)
        self.tables.index_copy_(
            0, upload(rows, self._device), upload(self._array[rows], self._device)
        )
        self._views = views

    def forget(self) -> None:
        """The completions are others from here on."""
        self._drafts, self._places, self._last_views = [], [], []
        self._upload_changes({})
