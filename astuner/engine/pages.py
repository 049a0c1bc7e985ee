"""Pages of the key-value cache: who holds which, and which hold a prefix that others can use.

Pure bookkeeping: no tensors, no model. A page holds `page_size` consecutive tokens of a sequence.
Whole pages are known by their tokens and all tokens before them, so that a prompt finds what
earlier prompts and completions left behind: the common prompt of a group, the earlier turns of an
episode. Pages that nobody holds stay known until their room is needed, the longest unused first.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

NOTHING = 0
"""Names the content of no tokens."""


@dataclass(slots=True)
class _Known:
    """A page whose content others can use."""

    key: tuple[int, tuple[int, ...]]
    """What names the tokens before it, and its own tokens."""
    name: int
    """Names this content; never used again."""


class Pages:
    """Gives pages to sequences. One owner, one thread."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self._empty = list(range(num_pages - 1, -1, -1))
        self._unused: OrderedDict[int, None] = OrderedDict()
        """Known pages that nobody holds, the longest unused first."""
        self._num_holders = [0] * num_pages
        self._known: dict[int, _Known] = {}
        self._by_key: dict[tuple[int, tuple[int, ...]], int] = {}
        self._num_names = NOTHING

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._unused)

    def find(self, ids: Sequence[int], *, before: int) -> int | None:
        """The known page that holds these tokens behind the content named `before`.

        It is not taken yet.
        """
        return self._by_key.get((before, tuple(ids)))

    def name_of(self, page: int) -> int:
        """Names the content of a known page together with all that is before it."""
        return self._known[page].name

    def hold(self, page: int) -> None:
        """Take a known page, beside others that hold it."""
        self._unused.pop(page, None)
        self._num_holders[page] += 1

    def take(self) -> int:
        """A page for new content; one of `num_free`, which must not be 0."""
        if self._empty:
            page = self._empty.pop()
        else:
            page, _ = self._unused.popitem(last=False)
            self._forget(page)
        self._num_holders[page] = 1
        return page

    def release(self, pages: Sequence[int]) -> None:
        """Give pages back, the first tokens' last, so that these stay known longest."""
        for page in reversed(pages):
            self._num_holders[page] -= 1
            if self._num_holders[page]:
                continue
            if page in self._known:
                self._unused[page] = None
            else:
                self._empty.append(page)

    def publish(self, page: int, ids: Sequence[int], *, before: int) -> int:
        """Make a full page known by its tokens, behind the content named `before`.

        Returns the name of the content. Where another page holds the same, that one stays known.
        """
        key = (before, tuple(ids))
        same = self._by_key.get(key)
        if same is not None:
            return self._known[same].name
        self._num_names += 1
        self._known[page] = _Known(key, self._num_names)
        self._by_key[key] = page
        return self._num_names

    def _forget(self, page: int) -> None:
        del self._by_key[self._known.pop(page).key]
