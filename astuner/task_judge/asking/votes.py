"""Several answers of one model to one question, and the verdict that they come to."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from astuner.errors import EpisodeError

VoteRule = Literal["mean", "majority"]

_MANY_TEMPERATURE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One answer."""

    score: float
    is_success: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What votes come to."""

    score: float
    is_success: bool
    reason: str
    """That of the first vote whose score is nearest to this one."""
    agreement: float
    """Share of the votes that say the same about success; 1 for a single vote."""


def vote_temperature(temperature: float | None, num_votes: int) -> float:
    """What to sample at where nothing was chosen: 0 for a single vote, which is then repeatable;
    above 0 for several, which at 0 would be one answer several times."""
    if temperature is not None:
        return temperature
    return 0.0 if num_votes == 1 else _MANY_TEMPERATURE


async def gather_votes(ask: Callable[[int], Awaitable[Vote]], num_votes: int) -> tuple[Vote, ...]:
    """The answers to `ask(0)`, `ask(1)` …, asked together.

    A vote that fails is left out while more than half of them are there; else the first failure is
    raised. What is no EpisodeError, such as a used-up budget, is raised at once.
    """
    asked = [asyncio.ensure_future(_vote_or_failure(ask(index))) for index in range(num_votes)]
    try:
        outcomes = await asyncio.gather(*asked)
    finally:
        for vote in asked:
            vote.cancel()
    votes = tuple(outcome for outcome in outcomes if isinstance(outcome, Vote))
    if 2 * len(votes) > num_votes:
        return votes
    raise next(outcome for outcome in outcomes if isinstance(outcome, EpisodeError))


def decide(votes: Sequence[Vote], rule: VoteRule, *, success_threshold: float | None) -> Decision:
    """What at least one vote comes to.

    By mean the score is theirs, and a success from the threshold on. By majority it is the score
    that most of them gave, and a success where more than half say so: of scores that are equally
    frequent the lowest, and an even split is no success. Without a threshold, more than half decide
    about success by either rule.
    """
    most_succeed = 2 * sum(vote.is_success for vote in votes) > len(votes)
    if rule == "mean":
        score = fmean(vote.score for vote in votes)
        is_success = most_succeed if success_threshold is None else score >= success_threshold
    else:
        score, is_success = _commonest(vote.score for vote in votes), most_succeed
    nearest = min(votes, key=lambda vote: abs(vote.score - score))
    return Decision(
        score=score,
        is_success=is_success,
        reason=nearest.reason,
        agreement=fmean(vote.is_success == is_success for vote in votes),
    )


async def _vote_or_failure(vote: Awaitable[Vote]) -> Vote | EpisodeError:
    try:
        return await vote
    except EpisodeError as error:
        return error


def _commonest(scores: Iterable[float]) -> float:
    counts = Counter(scores)
    return min(counts, key=lambda score: (-counts[score], score))
