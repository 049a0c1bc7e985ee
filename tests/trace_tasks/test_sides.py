"""Nobody stands on both sides, whatever is added later."""

from random import Random

import pytest

from astuner.config.sections.trace_filters import SplitParams
from astuner.trace_tasks.sides import SidedTurn, TraceSides, split_turns

NOTHING = TraceSides(key="00")


def turn(session: str, user: str | None = None, asked: float | None = None) -> SidedTurn:
    return SidedTurn(session=session, user=user, asked=asked)


@pytest.mark.parametrize("seed", range(8))
def test_no_user_and_no_session_stands_on_two_sides_and_none_ever_moves(seed):
    random = Random(seed)
    turns = [
        turn(f"s{random.randrange(60)}", random.choice([None, f"u{random.randrange(30)}"]), n)
        for n in range(120)
    ]
    params = SplitParams(validation_fraction=0.2, test_fraction=0.1, order="random")
    first = split_turns(turns[:50], NOTHING, params)
    both = split_turns(turns, first.sides, params)
    for session, side in first.of_session.items():
        assert both.of_session[session] == side
    if not both.num_torn:
        of_user: dict[str, set[str]] = {}
        for one in turns:
            if one.user is not None:
                of_user.setdefault(one.user, set()).add(both.of_session[one.session])
        assert all(len(sides) == 1 for sides in of_user.values())


def test_the_newest_are_held_out_first():
    turns = [turn(f"s{number}", asked=float(number)) for number in range(10)]
    sides = split_turns(turns, NOTHING, SplitParams(test_fraction=0.1)).of_session
    assert {name for name, side in sides.items() if side == "test"} == {"s9"}
    assert {name for name, side in sides.items() if side == "validation"} == {"s8", "s7"}


@pytest.mark.parametrize("num_groups", [2, 3])
def test_a_few_large_groups_still_leave_something_on_each_side(num_groups):
    turns = [turn(f"s{number % num_groups}", asked=float(number)) for number in range(12)]
    sides = split_turns(turns, NOTHING, SplitParams()).of_session
    assert set(sides.values()) == {"train", "validation"}


def test_one_session_alone_is_trained_on():
    assert split_turns([turn("a"), turn("a")], NOTHING, SplitParams()).of_session == {"a": "train"}


def test_sessions_of_one_user_may_part_where_that_is_asked_for():
    turns = [turn(f"s{number}", "ann", float(number)) for number in range(10)]
    assert set(split_turns(turns, NOTHING, SplitParams()).of_session.values()) == {"train"}
    by_session = split_turns(turns, NOTHING, SplitParams(by="session")).of_session
    assert set(by_session.values()) == {"train", "validation"}
