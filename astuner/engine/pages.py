"""Pages of the key-value cache: who holds which, and which hold a prefix that others can use.

Pure bookkeeping: no tensors, no model. A page holds `page_size` consecutive tokens of a sequence.
Whole pages are known by their tokens and all tokens before them, so that a prompt finds what
earlier prompts and completions left behind: the common prompt of a group, the earlier turns of an
episode. Pages that nobody holds stay known until their room is needed, the longest unused first.

A sequence of 40 tokens in pages of 16, which got the pages 7, 2 and 9 of the cache:

    tokens        0 … 15      16 … 31     32 … 39
    page          7           2           9, with room for 8 more
    cache slots   112 … 127   32 … 47     144 … 151
    name          1           2           none: it is not whole yet

Another sequence that begins with the same 32 tokens finds page 7 under its first 16 tokens behind
NOTHING, and page 2 under the next 16 behind the name 1; it holds both too, and goes on in a page of
its own.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

NOTHING = 0
"""The name of an empty beginning: what stands before a sequence's first page."""


@dataclass(slots=True)
class _Known:
    """A page whose content others can use."""

    key: tuple[int, tuple[int, ...]]
    """The name of all tokens before it, and its own tokens."""
    name: int
    """Of its tokens together with all before them; given once, in the order of publishing."""


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
        """The known page that holds these tokens behind those that are named `before`.

        It is not held by that: `hold` it before anything else is taken.
        """
        return self._by_key.get((before, tuple(ids)))

    def name_of(self, page: int) -> int:
        """The name of a known page's tokens together with all tokens before them."""
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
        """Make a full page known by its tokens, behind those that are named `before`.

        Returns the name of both together. Where another page is known for the same tokens, that one
        stays known, and its name is returned.
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
