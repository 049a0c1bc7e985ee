"""The same tasks tried twice: counts and chances against ones that were worked out by hand."""

import math

import pytest

from astuner.logview.view.paired import chance_in_words, p_in_words, paired_counts, sign_test


@pytest.mark.parametrize(
    ("num_up", "num_down", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (3, 3, 1.0),
        (3, 0, 0.25),  # 2 * 1/8
        (0, 5, 0.0625),  # 2 * 1/32
        (6, 1, 0.125),  # 2 * (1 + 7) / 128
        (8, 2, 0.109375),  # 2 * (1 + 10 + 45) / 1024
        (2, 8, 0.109375),
    ],
)
def test_the_chance_of_a_split_is_that_of_tossed_coins(num_up, num_down, expected):
    assert sign_test(num_up, num_down) == expected


def test_the_chance_of_a_split_of_thousands_is_a_number():
    assert 0.0 < sign_test(1100, 900) < 1e-4
    assert sign_test(5000, 0) == pytest.approx(2.0**-4999, abs=5e-324)
    normal = math.erfc((1100 - 900 - 1) / math.sqrt(2 * 2000))
    assert sign_test(1100, 900) == pytest.approx(normal, rel=0.05)


def test_tasks_are_counted_by_where_most_of_their_attempts_solved_them():
    counts = paired_counts([(1.0, 1.0), (0.0, 1.0), (0.0, 0.75), (1.0, 0.5), (0.5, 0.5), (0, 0)])
    found = (counts.in_both, counts.only_a, counts.only_b, counts.in_neither)
    assert found == (1, 1, 2, 2)
    assert (counts.rose, counts.fell, counts.num_tasks) == (2, 1, 6)
    assert counts.mean_a == pytest.approx(2.5 / 6) and counts.mean_b == pytest.approx(3.75 / 6)
    assert counts.p_value == 1.0  # 2 * (1 + 3) / 8


def test_no_tasks_have_no_mean():
    counts = paired_counts([])
    assert counts.mean_a is None and counts.p_value == 1.0


@pytest.mark.parametrize(
    ("p_value", "chance", "number"),
    [
        (1.0, "more often than not", "= 1"),
        (0.25, "about 1 in 4 times", "= 0.25"),
        (0.0625, "about 1 in 16 times", "= 0.062"),
        (0.00031, "about 1 in 3\u202f200 times", "= 0.00031"),
        (1e-9, "less than once in a million times", "< 0.000001"),
    ],
)
def test_a_chance_is_said_in_words(p_value, chance, number):
    assert chance_in_words(p_value) == chance
    assert p_in_words(p_value) == number
