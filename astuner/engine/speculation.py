"""Speculative decoding without a second model: the next tokens are guessed from what was written
before, and one pass checks them all.

A guess is right where the model itself draws the same token, by the number that the request's own
random stream has for that place. So tokens and log-probabilities are those of passes without
guesses, whatever is guessed. A guess is taken with the probability that the model gives it, as by
the rule of Y. Leviathan et al. 2022 (https://arxiv.org/abs/2211.17192, Algorithm 1) for a proposal
that puts everything on one token.

It pays where a pass takes as long for many rows as for few: at the end of a rollout, when most
completions have ended. What is guessed is what stood behind the same three tokens before, in the
completion itself or in a finished one, such as another attempt at the task.
"""

import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import numpy

from astuner.engine.scheduler import Draft

MOST_ROWS = 64
"""Of a pass that checks guesses: a GPU takes no longer for so many than for one."""
_MOST_DRAFTS = 16
"""That are written together while guesses are made; with more, each would get few."""
_MOST_GUESSED = 8
"""Tokens of one guess."""
_MAX_KNOWN = 400_000
"""Tokens of finished completions that are remembered; they take some 25 MB."""
_MAX_SINGLE = 4_000
"""Of those that are looked up one by one before all are sorted anew, which takes up to 0.1 s."""
_CONTEXT = 3
"""Tokens after which the next ones are guessed."""

_NO_TOKEN = -1
_BITS_OF_TOKEN = 21
"""A vocabulary has fewer than two million tokens, and three of them fit into a number."""

_Context = tuple[int, int, int]
_Place = tuple[Sequence[int], int]
"""Ids, and the index of those that stand behind a context."""


@dataclass(slots=True)
class _Own:
    """Where contexts of one growing completion stand in it."""

    places: dict[_Context, int] = field(default_factory=dict)
    num_known: int = 0
    """Leading ids that were looked at."""


class Finished:
    """What stands behind contexts in finished completions; the newest place of each counts.

    Most completions end where nothing is guessed, so that they are put into order only when a
    context is looked for: sorted, all at once.
    """

    def __init__(self) -> None:
        self._texts: deque[Sequence[int]] = deque()
        self._num_tokens = 0
        self._num_new = 0
        """Texts at the end whose contexts are neither in `_single` nor sorted."""
        self._single: dict[_Context, _Place] = {}
        """Of texts that ended since all were sorted."""
        self._ids = numpy.zeros(0, dtype=numpy.int64)
        """Of all texts that are sorted, with a number that is no token behind each."""
        self._contexts = numpy.zeros(0, dtype=numpy.int64)
        """In order; equal ones in that of their places."""
        self._ends = numpy.zeros(0, dtype=numpy.int64)
        """The place in `_ids` behind each context."""

    @property
    def num_tokens(self) -> int:
        """Of the texts that are remembered."""
        return self._num_tokens

    def add(self, ids: Sequence[int]) -> None:
        self._texts.append(ids)
        self._num_new += 1
        self._num_tokens += len(ids)
        while self._num_tokens > _MAX_KNOWN:
            self._num_tokens -= len(self._texts.popleft())
        self._num_new = min(self._num_new, len(self._texts))

    def behind(self, context: _Context, most: int) -> Sequence[int]:
        """The tokens, so many at most, behind the newest place of the context; none where it has
        none."""
        if self._num_new:
            self._put_into_order()
        if context in self._single:
            ids, start = self._single[context]
            return ids[start : start + most]
        at = int(numpy.searchsorted(self._contexts, _joined(*context), side="right")) - 1
        if at < 0 or self._contexts[at] != _joined(*context):
            return ()
        start = self._ends[at]
        ids = self._ids[start : start + most].tolist()
        return ids[: ids.index(_NO_TOKEN)] if _NO_TOKEN in ids else ids

    def _put_into_order(self) -> None:
        new = [self._texts[index] for index in range(-self._num_new, 0)]
        self._num_new = 0
        if len(self._single) + sum(map(len, new)) <= _MAX_SINGLE:
            for ids in new:
                places = zip(repeat(ids), range(_CONTEXT, len(ids)), strict=False)
                self._single.update(zip(_contexts(ids), places, strict=False))
            return
        self._single = {}
        texts = chain.from_iterable((*ids, _NO_TOKEN) for ids in self._texts)
        self._ids = ids = numpy.fromiter(texts, dtype=numpy.int64)
        contexts = _joined(ids[:-3], ids[1:-2], ids[2:-1])
        is_one = (ids[:-3] >= 0) & (ids[1:-2] >= 0) & (ids[2:-1] >= 0) & (ids[3:] >= 0)
        ends = numpy.flatnonzero(is_one) + _CONTEXT
        order = numpy.argsort(contexts[is_one], kind="stable")
        self._contexts, self._ends = contexts[is_one][order], ends[order]


class Speculation:
    """Guesses tokens, and knows whether that pays. One owner, one thread."""

    def __init__(self) -> None:
        self.payoff = Payoff()
        self.finished = Finished()
        self._own: dict[Draft, _Own] = {}

    def learn(self, draft: Draft) -> None:
        """Remember a finished completion."""
        self._own.pop(draft, None)
        self.finished.add(draft.ids[max(0, draft.num_prompt - _CONTEXT) :])

    @staticmethod
    def are_few(num_drafts: int) -> bool:
        """Whether guesses can be made where so many drafts wait or are written."""
        return num_drafts <= _MOST_DRAFTS

    def guess(self, draft: Draft, num_drafts: int) -> Sequence[int]:
        """The tokens that may follow those of the draft, at most its share of a pass for so many
        drafts; none where nothing is known."""
        ids = draft.ids
        if len(ids) < _CONTEXT:
            return ()
        context: _Context = (ids[-3], ids[-2], ids[-1])
        most = min(_MOST_GUESSED, MOST_ROWS // num_drafts - 1)
        own = self._places_in(draft).get(context)
        return self.finished.behind(context, most) if own is None else ids[own : own + most]

    def forget(self, drafts: Iterable[Draft]) -> None:
        """They are not written any more, and nothing is learned from them."""
        for draft in drafts:
            self._own.pop(draft, None)

    def forget_growing(self) -> None:
        """The same of all drafts."""
        self._own.clear()

    def _places_in(self, draft: Draft) -> dict[_Context, int]:
        own = self._own.setdefault(draft, _Own())
        first = max(_CONTEXT, own.num_known)
        contexts = _contexts(draft.ids[first - _CONTEXT :])
        own.places.update(zip(contexts, range(first, len(draft.ids)), strict=False))
        own.num_known = len(draft.ids)
        return own.places


def _contexts(ids: Sequence[int]) -> Iterator[_Context]:
    """All of the ids, in order, the last one, behind which nothing stands, included."""
    return zip(ids, ids[1:], ids[2:], strict=False)


def _joined(first: Any, second: Any, third: Any) -> Any:
    """A context as one number; of arrays, one for each."""
    return (first << 2 * _BITS_OF_TOKEN) | (second << _BITS_OF_TOKEN) | third


class Payoff:
    """Whether more tokens a second are written while guesses are made than while none are.

    Both are measured as they run, in turn, by whole periods: waiting for tokens, so that some can
    be guessed behind them, costs time also in passes that have no guesses then. Periods without get
    longer each time that guesses do not pay, and so do those with where they do.
    """

    SHORTEST = 32
    """Passes of a period."""
    LONGEST_WITH = 512
    LONGEST_WITHOUT = 4096

    def __init__(self) -> None:
        self.is_on = False
        self._with = self._without = self.SHORTEST
        self._rate_without = 0.0
        self._begin(is_on=False)

    def note(
        self, seconds: float, num_drafts: int, num_tokens: int, *, num_passes: int = 1
    ) -> None:
        """Passes in which guesses could be made, and which gave the drafts so many tokens."""
        self._seconds += [seconds / num_passes] * num_passes
        self._tokens += [num_tokens / num_drafts / num_passes] * num_passes
        self._num_left -= num_passes
        if self._num_left <= 0:
            self._end_period(sum(self._tokens) / _steady_sum(self._seconds))

    def _end_period(self, rate: float) -> None:
        if not self.is_on:
            self._rate_without = rate
        elif rate > self._rate_without:
            self._with = min(2 * self._with, self.LONGEST_WITH)
            self._without = self.SHORTEST
        else:
            self._with = self.SHORTEST
            self._without = min(4 * self._without, self.LONGEST_WITHOUT)
        self._begin(is_on=not self.is_on)

    def _begin(self, *, is_on: bool) -> None:
        self.is_on = is_on
        self._num_left = self._with if is_on else self._without
        self._seconds: deque[float] = deque(maxlen=self.LONGEST_WITH)
        self._tokens: deque[float] = deque(maxlen=self.LONGEST_WITH)


def _steady_sum(seconds: Sequence[float]) -> float:
    """Without what single passes took for being recorded, or held up by other threads. Not 0."""
    most = 4 * statistics.median(seconds)
    return sum(min(one, most) for one in seconds) or 1e-9
