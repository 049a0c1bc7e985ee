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
from itertools import repeat

from astuner.engine.scheduler import Draft

MOST_ROWS = 64
"""Of a pass that checks guesses: a GPU takes no longer for so many than for one."""
_MOST_DRAFTS = 16
"""That are written together while guesses are made; with more, each would get few."""
_MOST_GUESSED = 8
"""Tokens of one guess."""
_MAX_KNOWN = 200_000
"""Tokens of finished completions that are remembered before the older half is replaced; twice as
many take some 60 MB."""
_CONTEXT = 3
"""Tokens after which the next ones are guessed."""

_Context = tuple[int, int, int]
_Place = tuple[Sequence[int], int]
"""Ids, and the index of those that stand behind a context."""


@dataclass(slots=True)
class _Own:
    """Where contexts of one growing completion stand in it."""

    places: dict[_Context, int] = field(default_factory=dict)
    num_known: int = 0
    """Leading ids that were looked at."""


class Speculation:
    """Guesses tokens, and knows whether that pays. One owner, one thread."""

    def __init__(self) -> None:
        self.payoff = Payoff()
        self._finished: dict[_Context, _Place] = {}
        self._older: dict[_Context, _Place] = {}
        self._num_finished = 0
        """Tokens that `_finished` has places of."""
        self._own: dict[Draft, _Own] = {}

    def learn(self, draft: Draft) -> None:
        """Remember a finished completion."""
        self._own.pop(draft, None)
        if self._num_finished > _MAX_KNOWN:
            self._finished, self._older, self._num_finished = {}, self._finished, 0
        ids = tuple(draft.ids[max(0, draft.num_prompt - _CONTEXT) :])
        self._num_finished += len(ids)
        places = zip(repeat(ids), range(_CONTEXT, len(ids)), strict=False)
        self._finished.update(zip(_contexts(ids), places, strict=False))

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
        own = self._places_in(draft).get(context)
        place = (ids, own) if own is not None else self._finished.get(context)
        if place is None:
            place = self._older.get(context, ((), 0))
        text, start = place
        return text[start : start + min(_MOST_GUESSED, MOST_ROWS // num_drafts - 1)]

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

    def note(self, seconds: float, num_drafts: int, num_tokens: int) -> None:
        """A pass in which guesses could be made, and which gave the drafts so many tokens."""
        self._seconds.append(seconds)
        self._tokens.append(num_tokens / num_drafts)
        self._num_left -= 1
        if self._num_left == 0:
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
