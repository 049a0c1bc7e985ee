"""Which side of a set each task stands on: nobody's conversations on two of them.

A group is a session, or a user with all sessions, also where only some of these tell the user. What
was decided once stays.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from astuner.config.sections.trace_filters import SplitParams
from astuner.errors import UnreadableError
from astuner.task_generation.draft import SIDES, Side
from astuner.task_generation.split import num_wanted


class TraceSides(BaseModel):
    """As it stands on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    """Hexadecimal digits; the key of the digests of users."""
    sessions: dict[str, Side] = {}
    """By digest."""
    users: dict[str, Side] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SidedTurn:
    """What decides the side of a task."""

    session: str
    """Its digest."""
    user: str | None
    asked: float | None
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTurns:
    """Where everything stands."""

    of_session: Mapping[str, Side]
    sides: TraceSides
    """With all that was decided before."""
    num_torn: int
    """Groups that turned out to be one after their parts had been put on different sides."""


def read_sides(path: Path, *, new_key: Callable[[], str]) -> TraceSides:
    """Raises UnreadableError for a changed file; without one, nothing has been decided."""
    if not path.exists():
        return TraceSides(key=new_key())
    try:
        return TraceSides.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UnreadableError(
            f"{path}: it does not say which sessions are on which side: "
            f"{type(error).__name__}; restore it, or delete it to split anew"
        ) from error


def split_turns(turns: Sequence[SidedTurn], decided: TraceSides, params: SplitParams) -> SplitTurns:
    """A side for the session of each turn. Fractions are of the tasks, as near as groups allow; as
    soon as there are two groups, a side that is to have any has one."""
    groups = _groups(turns, by_user=params.by == "user")
    found: dict[int, Side] = {}
    num_torn = 0
    for number, group in enumerate(groups):
        sides = Counter(side for turn in group if (side := _decided(turn, decided)) is not None)
        if sides:
            num_torn += len(sides) > 1
            found[number] = max(SIDES, key=lambda side: sides[side])
    _fill(groups, found, params)
    of_session: dict[str, Side] = {
        turn.session: decided.sessions.get(turn.session, found[number])
        for number, group in enumerate(groups)
        for turn in group
    }
    users: dict[str, Side] = {
        turn.user: found[number]
        for number, group in enumerate(groups)
        for turn in group
        if turn.user is not None and params.by == "user"
    }
    return SplitTurns(
        of_session=of_session,
        sides=TraceSides(
            key=decided.key,
            sessions={**decided.sessions, **of_session},
            users={**users, **decided.users},
        ),
        num_torn=num_torn,
    )


def _decided(turn: SidedTurn, decided: TraceSides) -> Side | None:
    of_user = None if turn.user is None else decided.users.get(turn.user)
    return decided.sessions.get(turn.session) or of_user


def _fill(
    groups: Sequence[Sequence[SidedTurn]], found: dict[int, Side], params: SplitParams
) -> None:
    """Put the groups that have no side on one: the held-out sides get theirs first."""
    wanted = num_wanted(
        sum(map(len, groups)),
        validation_fraction=params.validation_fraction,
        test_fraction=params.test_fraction,
    )
    sizes: Counter[Side] = Counter()
    for number, side in found.items():
        sizes[side] += len(groups[number])
    free = [number for number in _in_order(groups, params) if number not in found]
    for side in ("test", "validation"):
        for number in list(free):
            if sizes[side] + len(groups[number]) <= wanted[side]:
                found[number] = side
                sizes[side] += len(groups[number])
                free.remove(number)
    for side in ("validation", "test"):
        has_other = len(free) > 1 or (free and sizes["train"])
        if wanted[side] and not sizes[side] and has_other:
            smallest = min(free, key=lambda number: len(groups[number]))
            found[smallest] = side
            sizes[side] += len(groups[smallest])
            free.remove(smallest)
    found.update(dict.fromkeys(free, "train"))
    if groups and "train" not in found.values():
        _give_back(groups, found)


def _give_back(groups: Sequence[Sequence[SidedTurn]], found: dict[int, Side]) -> None:
    """The largest group: a run needs something to train on."""
    found[max(found, key=lambda number: len(groups[number]))] = "train"


def _in_order(groups: Sequence[Sequence[SidedTurn]], params: SplitParams) -> list[int]:
    """Those to be held out first come first: the newest, by their first turn; or any."""

    def digest(number: int) -> str:
        session = min(turn.session for turn in groups[number])
        return hashlib.sha256(session.encode()).hexdigest()

    def begun(number: int) -> float:
        times = [turn.asked for turn in groups[number] if turn.asked is not None]
        return min(times, default=0.0)

    by_digest = sorted(range(len(groups)), key=digest)
    if params.order == "random":
        return by_digest
    return sorted(by_digest, key=begun, reverse=True)


def _groups(turns: Sequence[SidedTurn], *, by_user: bool) -> list[list[SidedTurn]]:
    """Turns that share a session or a user, also over others."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        parents.setdefault(name, name)
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    for turn in turns:
        own = root(f"session {turn.session}")
        if by_user and turn.user is not None:
            parents[own] = root(f"user {turn.user}")
    groups: dict[str, list[SidedTurn]] = {}
    for turn in turns:
        groups.setdefault(root(f"session {turn.session}"), []).append(turn)
    return list(groups.values())
