"""Short answers that say the same, as far as a rule can tell."""

import pytest

from astuner.task_generation.gates.same_answer import same_answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the Gateway", "gateway."),
        ("`timeout_seconds`", "timeout_seconds"),
        ("“25  s”", "25 s"),
        ("25 s", "25 seconds"),
        ("25 s", "25"),
        ("1,000", "1000"),
        ("two", "2"),
        ("1/2", "0.5"),
        ("50%", "0.5"),
        ("(B)", "B"),
        ("Yes, since it is full", "yes"),
        ("True", "yes"),
        ("是的", "是。"),
        ("Nein.", "no"),
    ],
)
def test_answers_in_other_words_or_signs_are_equal(one: str, other: str):
    assert same_answer(one, other) is True
    assert same_answer(other, one) is True


@pytest.mark.parametrize(
    ("one", "other"),
    [("25 s", "26 s"), ("-5", "5"), ("5%", "6%"), ("yes", "No, since"), ("不是", "是"), ("", "")],
)
def test_other_values_other_verdicts_and_no_answer_differ(one: str, other: str):
    assert same_answer(one, other) is False
    assert same_answer(other, one) is False


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("25 s", "25 min"),
        ("60 s", "1 min"),
        ("25 apples", "25 pears"),
        ("the relay", "a relay server"),
        ("x + 1", "1 + x"),
        ("Yes, it is full", "Yes, it is empty"),
        ("No errors", "no"),
        ("v1.2", "1.2"),
        ("9^(9^(9^9))", "9^(9^(9^8))"),
        ("(" * 100_000, "7" * 100_000),
    ],
)
def test_what_a_rule_cannot_tell_stays_open(one: str, other: str):
    assert same_answer(one, other) is None
    assert same_answer(other, one) is None
