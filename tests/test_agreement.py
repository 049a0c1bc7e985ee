"""How far two judges agree: against numbers worked out by hand, and against the definitions."""

import itertools
import math
import random

import pytest

from astuner.rejudging.agreement import agree, confusion_of, kappa_of
from astuner.rejudging.opinion import EpisodeName, Opinion
from astuner.rejudging.ranks import PairOrder, kendall_tau_b, order_in_groups, spearman

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

REWARDS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 1.0, -3.5]), st.integers(0, 3)), max_size=9
)


def flags(both, first, second, neither):
    return (
        [(True, True)] * both
        + [(True, False)] * first
        + [(False, True)] * second
        + [(False, False)] * neither
    )


def names(number):
    return [EpisodeName("run", f"step1-{index}-0") for index in range(number)]


def opinions(rewards, successes=None):
    successes = [r > 0 for r in rewards] if successes is None else successes
    return {
        name: Opinion(reward=reward, is_success=success)
        for name, reward, success in zip(names(len(rewards)), rewards, successes, strict=True)
    }


# --- Kappa


def test_kappa_is_that_of_the_textbook_table():
    # 50 grant proposals: 35 alike, where chance alone makes half of them alike.
    assert kappa_of(confusion_of(flags(20, 5, 10, 15))) == pytest.approx(0.4)


def test_kappa_is_one_where_all_agree_and_minus_one_where_none_does():
    assert kappa_of(confusion_of(flags(3, 0, 0, 4))) == 1
    assert kappa_of(confusion_of(flags(0, 3, 3, 0))) == -1


def test_kappa_is_nought_where_one_says_the_same_of_all():
    assert kappa_of(confusion_of(flags(7, 3, 0, 0))) == 0


@pytest.mark.parametrize("table", [(5, 0, 0, 0), (0, 0, 0, 5), (0, 0, 0, 0)])
def test_kappa_is_not_known_where_both_say_the_same_of_all(table):
    assert kappa_of(confusion_of(flags(*table))) is None


# --- Ranks


def test_rank_correlations_are_those_worked_out_by_hand():
    xs, ys = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]
    assert spearman(xs, ys) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert kendall_tau_b(xs, ys) == pytest.approx((5 - 1) / 6)


def test_ties_share_their_mean_rank_and_leave_pairs_out_of_tau():
    xs, ys = [0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0]
    # Ranks 1.5 1.5 3.5 3.5 and 1 2.5 2.5 4: products 1.5 + 0 + 0 + 1.5 over sqrt(4 * 4.5).
    assert spearman(xs, ys) == pytest.approx(3 / math.sqrt(4 * 4.5))
    # Of 6 pairs 4 differ in x, 5 in y; 3 are alike, none is opposite.
    assert kendall_tau_b(xs, ys) == pytest.approx(3 / math.sqrt(4 * 5))


@pytest.mark.parametrize(
    ("xs", "ys"), [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0])]
)
def test_there_is_no_rank_correlation_with_what_has_no_order(xs, ys):
    assert spearman(xs, ys) is None
    assert kendall_tau_b(xs, ys) is None


def brute(pairs):
    """The counts, pair by pair."""
    order = {"num_alike": 0, "num_opposite": 0, "num_one_sided": 0}
    for (x1, y1), (x2, y2) in itertools.combinations(pairs, 2):
        product = (x1 - x2) * (y1 - y2)
        if product:
            order["num_alike" if product > 0 else "num_opposite"] += 1
        elif x1 != x2 or y1 != y2:
            order["num_one_sided"] += 1
    return PairOrder(**order)


@given(REWARDS)
def test_pairs_are_counted_as_one_would_pair_by_pair(pairs):
    assert order_in_groups([pairs]) == brute(pairs)


@given(REWARDS)
def test_tau_is_that_of_its_definition(pairs):
    counted = brute(pairs)
    apart_x, apart_y = (
        sum(a[side] != b[side] for a, b in itertools.combinations(pairs, 2)) for side in (0, 1)
    )
    expected = (
        (counted.num_alike - counted.num_opposite) / math.sqrt(apart_x * apart_y)
        if apart_x and apart_y
        else None
    )
    assert kendall_tau_b([x for x, _ in pairs], [y for _, y in pairs]) == pytest.approx(expected)


def test_only_episodes_of_one_group_are_put_in_order():
    first, second = [(0.0, 0.0), (1.0, 1.0)], [(5.0, 9.0), (6.0, 8.0)]
    order = order_in_groups([first, second])
    assert (order.num_alike, order.num_opposite, order.share) == (1, 1, 0.5)
    assert order_in_groups([[(1.0, 1.0)], [(2.0, 0.0)]]).share is None


def test_many_episodes_are_put_in_order_within_a_second():
    generator = random.Random(1)
    xs = [float(generator.randrange(5)) for _ in range(20_000)]
    tau = kendall_tau_b(xs, [x + generator.random() for x in xs])
    assert tau is not None and 0.85 < tau < 0.95


# --- Two opinions


def test_only_what_both_judged_is_compared():
    first, second = opinions([0.0, 1.0, 1.0]), opinions([0.0, 1.0, 1.0])
    del second[names(3)[2]]
    found = agree(first, second, dict.fromkeys(names(3), "group"))
    assert found.num_episodes == 2
    assert found.successes.agreement.num_episodes == 2
    assert found.rewards.in_groups.num_alike == 1


def test_who_gives_no_reward_is_compared_by_success_alone():
    labels = {name: Opinion(reward=None, is_success=True) for name in names(2)}
    found = agree(labels, opinions([0.0, 1.0]), dict.fromkeys(names(2), "group"))
    assert found.rewards is None
    assert found.successes.agreement.rate == 0.5


def test_who_says_nothing_of_success_is_compared_by_rewards_alone():
    labels = {name: Opinion(reward=0.5, is_success=None) for name in names(2)}
    found = agree(labels, opinions([0.0, 1.0]), dict.fromkeys(names(2), "group"))
    assert found.successes is None
    assert (found.rewards.constant_first, found.rewards.constant_second) == (0.5, None)
    assert found.rewards.spearman is None


@given(REWARDS.filter(bool), st.randoms(use_true_random=False))
def test_the_order_of_the_episodes_changes_nothing(pairs, generator):
    first, second = opinions([x for x, _ in pairs]), opinions([float(y) for _, y in pairs])
    groups = {name: index % 3 for index, name in enumerate(first)}
    order = list(first)
    generator.shuffle(order)
    assert agree({name: first[name] for name in order}, second, groups) == agree(
        first, second, groups
    )


@given(REWARDS.filter(bool))
def test_who_is_named_first_changes_no_correlation(pairs):
    first, second = opinions([x for x, _ in pairs]), opinions([float(y) for _, y in pairs])
    groups = {name: index % 3 for index, name in enumerate(first)}
    there, back = agree(first, second, groups), agree(second, first, groups)
    assert there.successes.kappa == back.successes.kappa
    assert there.rewards.spearman == back.rewards.spearman
    assert there.rewards.kendall_tau_b == back.rewards.kendall_tau_b
    assert there.rewards.in_groups == back.rewards.in_groups
