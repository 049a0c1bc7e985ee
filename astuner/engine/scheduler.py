"""Which completions get tokens in the next forward pass.

Pure bookkeeping over `pages.py`: admits drafts while there is room, reads prompts in pieces, lets
every running draft grow, and takes pages from the latest ones when they run out. What it does
depends on the order of `add`, on the tokens, and on whether it `reads_beside`, never on time.

Where it may, it reads short prompts in the passes in which completions grow: an agent's next turn
is mostly a tool's few tokens behind what the cache has.

A pass may be planned while the one before is under way, whose tokens nobody knows yet, and several
passes in a row, in which the same drafts grow, can be begun at once. A draft that turns out to have
ended is then computed too often; those tokens are dropped, and what they wrote to the pages stands
behind the draft's last token, where nobody reads. Pages may change hands meanwhile, since passes
write in the order in which they begin.
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from astuner.engine.pages import NOTHING, Pages
from astuner.types import TopLogprobs

NO_COLUMN = -1
"""Of a draft that gets no token of the pass under way."""

MOST_READ_BESIDE = 256
"""Tokens of prompts in a pass in which completions grow, for each pass that is begun with it."""
_MOST_KEYS_BESIDE = 2**19
"""That those tokens attend to, together, since there each reads its keys by itself."""
_PASSES_FOR_READING = 2
"""So many passes in which completions grow take as long as one that only reads; measured for small
models, whose kernels take less time than launching them."""


_PASSES_TO_CATCH_UP = 4
"""In which prompts are to be read if for that many tokens are read in each: where passes can be
begun together once nothing is left unread, many tokens in a pass cost less than many passes."""


@dataclass(slots=True, eq=False)
class Draft:
    """A prompt and the completion that is being written behind it. Owned by the scheduler."""

    request: Any
    """Who asked; the scheduler does not look at it."""
    ids: list[int]
    """Prompt and sampled tokens."""
    num_prompt: int
    """Leading tokens of `ids` that were given."""
    max_tokens: int
    """Most tokens of `ids`, prompt and completion together."""
    stop_ids: frozenset[int]
    logprobs: list[float] = field(default_factory=list)
    """Of the sampled tokens."""
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    """One per sampled token; an empty tuple where none are asked for."""
    pages: list[int] = field(default_factory=list)
    """Of the cache, in the order of its tokens: token i lies in pages[i // page_size]."""
    num_cached: int = 0
    """Leading tokens whose keys and values are in the pages."""
    num_published: int = 0
    """Leading pages that others can use."""
    published: int = NOTHING
    """What `Pages` calls the tokens of those pages."""
    under_way: int = NO_COLUMN
    """The column of the passes under way in which its next tokens will stand; NO_COLUMN: it gets
    none from them, and `ids` is all that is sampled."""
    num_tokens: int = field(init=False)
    """Of `ids`, and those under way."""
    is_cut: bool = False
    """Whether the one who asked wants no more tokens."""
    is_over: bool = False
    """Whether it was finished or removed: what a pass still makes of it counts for nothing."""

    def __post_init__(self) -> None:
        self.num_tokens = len(self.ids)

    @property
    def num_unread(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 while it only grows."""
        return self.num_tokens - self.num_cached

    @property
    def is_finished(self) -> bool:
        """To be asked once a token was sampled."""
        ids = self.ids
        return ids[-1] in self.stop_ids or self.is_cut or len(ids) >= self.max_tokens


class Chunk(NamedTuple):
    """Tokens of one draft in a forward pass: draft.ids[start:end].

    A prompt of 40 tokens with two to sample, and at most 24 tokens in a pass, goes through as

        start  end
            0   24   read
           24   40   read to its end, so that the pass samples token 40
           40   41   token 40 is read, and the pass samples token 41

    and is finished: the last sampled token is never read.
    """

    draft: Draft
    start: int
    end: int

    @property
    def predicts(self) -> bool:
        """Whether the pass gives the draft its next token. To be asked before it begins."""
        return self.end == self.draft.num_tokens


@dataclass(slots=True)
class PassBatch:
    """The tokens of the next pass, and of those that are begun with it. What it tells holds until
    it begins."""

    growing: list[Draft]
    """Each goes on behind its last token, which is the only one to be computed."""
    pieces: list[Chunk]
    """Of prompts."""
    at_once: int = 1
    """Passes that may be begun together."""
    getting: list[Draft] = field(init=False)
    """Those that get a token of the pass: the growing ones, then those whose prompt is read to its
    end."""
    num_passes: list[int] = field(init=False)
    """In how many passes each of `getting` is: behind the first they grow, while nothing else
    changes."""

    def __post_init__(self) -> None:
        self.getting = self.growing + [chunk.draft for chunk in self.pieces if chunk.predicts]
        self.begin_alone()

    def begin_alone(self) -> None:
        """Let no pass be begun together with this one."""
        self.num_passes = [1] * len(self.getting)

    def __len__(self) -> int:
        return len(self.growing) + len(self.pieces)

    def __iter__(self) -> Iterator[Chunk]:
        for draft in self.growing:
            yield Chunk(draft, draft.num_tokens - 1, draft.num_tokens)
        yield from self.pieces

    @property
    def goes_beside(self) -> bool:
        """Whether pieces of prompts are few enough to be computed as growing drafts are."""
        pieces = [(end - start, end) for _, start, end in self.pieces]
        if sum(size for size, _ in pieces) > MOST_READ_BESIDE * self.at_once:
            return False
        return sum(size * end for size, end in pieces) <= _MOST_KEYS_BESIDE * self.at_once


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy an engine is at a moment, for whoever watches it."""

    num_running: int
    """Sequences that are written."""
    num_waiting: int
    """Those that wait for their turn."""
    cache_share: float
    """Of the pages for keys and values, those that running sequences hold, from 0 to 1."""


class Scheduler:
    """Owns the drafts that wait and those that run."""

    def __init__(self, pages: Pages, *, max_num_seqs: int, max_batch_tokens: int) -> None:
        self._pages = pages
        self._max_num_seqs = max_num_seqs
        self._max_batch_tokens = max_batch_tokens
        self._waiting: deque[Draft] = deque()
        self._running: list[Draft] = []
        self._num_put_off = 0
        """How often a prompt had to wait for the next pass, since none last had to or growing was
        stopped for it."""

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def running(self) -> Sequence[Draft]:
        return self._running

    @property
    def num_drafts(self) -> int:
        """That wait or run."""
        return len(self._waiting) + len(self._running)

    @property
    def load(self) -> EngineLoad:
        """May be read from any thread."""
        return EngineLoad(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            cache_share=1 - self._pages.num_free / self._pages.num_pages,
        )

    def add(self, draft: Draft) -> None:
        self._waiting.append(draft)

    def next_batch(self, *, reads_beside: bool = False, at_once: int = 1) -> PassBatch:
        """The tokens of the next pass, with pages for their keys and values.

        Pieces of prompts while there are unread ones, else one token of each running draft. Empty
        only without work.
        With `reads_beside`, drafts grow while prompts are read, a few tokens in each pass, until
        what waits for that outweighs stopping them once. Up to `at_once` passes can be begun
        together, unless a prompt is left unread, which the next one is to read.
        """
        if self._waiting:
            self._admit()
        growing, pieces = self._grow(), []
        if growing:
            self._num_put_off = 0
        elif reads_beside:
            growing, pieces = self._grow_and_read(at_once)
        if not growing and not pieces:
            # Reading can end with the last prompts displaced and nothing read; others then grow.
            pieces = self._read()
            growing = [] if pieces else self._grow()
        batch = PassBatch(growing, pieces, at_once)
        if at_once > 1 and self._leaves_nothing_unread(batch):
            batch.num_passes = [1 + self.room_behind(one, at_once - 1) for one in batch.getting]
        return batch

    def _leaves_nothing_unread(self, batch: PassBatch) -> bool:
        num_ending = sum([draft.num_tokens == draft.max_tokens for draft in self._running])
        return len(batch.getting) + num_ending == len(self._running)

    def begin_pass(self, batch: PassBatch) -> None:
        """Take note that the batch is on its way: later passes read what it writes."""
        page_size = self._pages.page_size
        for draft, _, end in batch.pieces:
            draft.num_cached = end
            if (draft.num_published + 1) * page_size <= end:
                self._publish(draft)
        for draft, num in zip(batch.getting, batch.num_passes, strict=True):
            draft.num_tokens = num_tokens = draft.num_tokens + num
            draft.num_cached = num_tokens - 1
            if (draft.num_published + 1) * page_size < num_tokens:
                self._publish(draft)

    def finish_pass(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Take note that the tokens which a pass sampled for these drafts are appended.

        Returns the drafts that are finished; they hold nothing any more.
        """
        page_size, finished = self._pages.page_size, []
        for draft in drafts:
            if (draft.num_published + 1) * page_size <= draft.num_cached:
                self._publish(draft)
            if draft.is_finished:
                finished.append(draft)
        if finished:
            self.remove(finished)
        return finished

    def room_behind(self, draft: Draft, num_tokens: int) -> int:
        """How many of so many tokens behind the next one the draft has pages for, or gets while
        there are free ones. Never more than it may still get."""
        end = min(draft.num_tokens + num_tokens, draft.max_tokens - 1)
        while end > len(draft.pages) * self._pages.page_size:
            if self._pages.num_free <= len(self._running):  # which the others may need next
                break
            draft.pages.append(self._pages.take())
        return max(0, min(end, len(draft.pages) * self._pages.page_size) - draft.num_tokens)

    def keep_guessed(self, draft: Draft, num_tokens: int) -> None:
        """Take note that the pass computed so many guessed tokens that turned out right, and that
        they are appended, as is the one behind them."""
        draft.num_cached += num_tokens
        draft.num_tokens = len(draft.ids)

    def remove(self, drafts: Sequence[Draft]) -> None:
        """Forget drafts, wherever they stand."""
        for draft in drafts:
            draft.is_over = True
            self._release(draft)
        self._running = [draft for draft in self._running if not draft.is_over]
        if any(draft.is_over for draft in self._waiting):
            self._waiting = deque(draft for draft in self._waiting if not draft.is_over)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._max_num_seqs:
            draft = self._waiting[0]
            if draft.under_way != NO_COLUMN:  # it was displaced, and can be read once that is known
                return
            self._use_known_pages(draft)
            missing = self._num_pages(len(draft.ids) + 1) - len(draft.pages)
            # A page for each that runs stays free, so that it is not displaced at once.
            if self._running and missing + len(self._running) > self._pages.num_free:
                self._release(draft)
                return
            self._running.append(self._waiting.popleft())

    def _grow_and_read(self, at_once: int) -> tuple[list[Draft], list[Chunk]]:
        """Every draft that goes on, and pieces of unread prompts; none where it is better to read
        only."""
        num_unread = [num for draft in self._running if (num := draft.num_unread) > 1]
        num_growing = len(self._running) - len(num_unread)
        has_waited = self._num_put_off > _PASSES_FOR_READING * num_growing
        if has_waited or (not num_growing and sum(num_unread) > MOST_READ_BESIDE):
            self._num_put_off = 0
            return [], []
        if sum(num_unread) > _PASSES_TO_CATCH_UP * MOST_READ_BESIDE * at_once:
            at_once = 1  # passes follow each other singly for long, or growing is stopped
        growing, pieces = self._grow(passes_over_unread=True), self._read(beside=at_once)
        num_late = len(num_unread) - sum(end == len(draft.ids) for draft, _, end in pieces)
        self._num_put_off = self._num_put_off + num_late if num_late else 0
        return growing, pieces

    def _read(self, *, beside: int = 0) -> list[Chunk]:
        """Pieces of unread prompts. What several begin with is read by one; the others wait.

        `beside` drafts that grow in so many passes, few tokens are read, up to whole pages, which
        others can use, and none is displaced.
        """
        room = self._max_batch_tokens
        if beside:
            room = min(room, MOST_READ_BESIDE * beside)
        num_keys = _MOST_KEYS_BESIDE * beside if beside else sys.maxsize
        batch: list[Chunk] = []
        begun: set[tuple[int, tuple[int, ...]]] = set()
        for draft in self._running:  # room is made by displacing the last ones meanwhile
            if room == 0:
                break
            if draft.num_unread == 1:
                continue
            self._use_known_pages(draft)
            shared = self._next_page(draft)
            if shared is not None and (draft.published, shared) in begun:
                continue
            start, num_ids = draft.num_cached, len(draft.ids)
            end = min(num_ids, start + min(room, num_keys // num_ids))
            if beside:
                if end < num_ids:
                    end -= end % self._pages.page_size
                if end <= start or not self._has_room(draft, end):
                    continue
            if self._make_room(draft, end):
                batch.append(Chunk(draft, start, end))
                room -= end - start
                num_keys -= (end - start) * num_ids
                if shared is not None:
                    begun.add((draft.published, shared))
        return batch

    def _grow(self, *, passes_over_unread: bool = False) -> list[Draft]:
        """Every draft that goes on; none where one has more than its last token unread, unless such
        drafts are passed over."""
        page_size = self._pages.page_size
        growing = []
        for draft in self._running:  # room is made by displacing the last ones meanwhile
            end = draft.num_tokens
            if end - draft.num_cached > 1:
                if passes_over_unread:
                    continue
                return []
            if end == draft.max_tokens:  # its last token is under way
                continue
            if end <= len(draft.pages) * page_size or self._make_room(draft, end):
                growing.append(draft)
        return growing

    def _use_known_pages(self, draft: Draft) -> None:
        """Take what others have computed of the unread tokens, but for the last one."""
        while (ids := self._next_page(draft)) is not None:
            page = self._pages.find(ids, before=draft.published)
            if page is None:
                return
            self._pages.hold(page)
            draft.pages.append(page)
            draft.num_cached += self._pages.page_size
            draft.num_published += 1
            draft.published = self._pages.name_of(page)

    def _next_page(self, draft: Draft) -> tuple[int, ...] | None:
        """The tokens of the next page, where another draft may have it: whole, and not begun."""
        size, start = self._pages.page_size, draft.num_cached
        if start + size >= len(draft.ids) or len(draft.pages) > draft.num_published:
            return None
        return tuple(draft.ids[start : start + size])

    def _publish(self, draft: Draft) -> None:
        """Make known the pages that are full of tokens which are known."""
        size = self._pages.page_size
        known = min(draft.num_cached, len(draft.ids))
        while (draft.num_published + 1) * size <= known:
            start = draft.num_published * size
            draft.published = self._pages.publish(
                draft.pages[draft.num_published],
                draft.ids[start : start + size],
                before=draft.published,
            )
            draft.num_published += 1

    def _has_room(self, draft: Draft, num_tokens: int) -> bool:
        """Whether the draft can have pages for so many tokens and each that runs one more."""
        missing = self._num_pages(num_tokens) - len(draft.pages)
        return missing <= 0 or missing + len(self._running) <= self._pages.num_free

    def _make_room(self, draft: Draft, num_tokens: int) -> bool:
        """Give the draft pages for so many tokens; False when it lost its own instead."""
        missing = self._num_pages(num_tokens) - len(draft.pages)
        while missing > self._pages.num_free:
            latest = self._running.pop()
            self._release(latest)
            self._waiting.appendleft(latest)
            if latest is draft:
                return False
        draft.pages += [self._pages.take() for _ in range(missing)]
        return True

    def _release(self, draft: Draft) -> None:
        self._pages.release(draft.pages)
        draft.pages = []
        draft.num_cached = draft.num_published = 0
        draft.published = NOTHING

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._pages.page_size)
